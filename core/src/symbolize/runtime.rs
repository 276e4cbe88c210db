//! Names of frames that a runtime added to a stack: the door for bindings.
//!
//! A frame source in the handler can record only two words for a frame. [`FrameNames`] turns them into a name later,
//! on everprof's own thread, at the end of the period: by then the code may be gone, so a runtime that moves or frees
//! what its words point to must remember names by itself.

use std::sync::{Arc, PoisonError, RwLock};

use everprof_probe::sample::{Frame, frames};

use crate::{Error, ErrorKind, Result};

/// The name of a runtime's frame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RuntimeFrame {
    /// Function, as the runtime's users write it.
    pub name: String,
    /// Source file; empty where there is none.
    pub file: String,
    /// Line in it; 0 where unknown.
    pub line: u32,
    /// First line of the function; 0 where unknown.
    pub start_line: u32,
}

/// Names the frames of one runtime.
///
/// Called on everprof's own thread only, possibly long after the sample was taken.
pub trait FrameNames: Send + Sync {
    /// The frame behind the two words that the runtime's frame source recorded: 56 bits, then 64 bits.
    ///
    /// None where the runtime does not know it (any more): the frame is then shown with the runtime's number.
    fn name(&self, payload: u64, word: u64) -> Option<RuntimeFrame>;

    /// The label behind two words that stand for no frame, but for something that the source has to say of the whole sample, such as
    /// whether the thread held the runtime's lock. It goes with samples of time (`cpu`, `wall`) only.
    fn label(&self, payload: u64, word: u64) -> Option<RuntimeLabel> {
        let _ = (payload, word);
        None
    }

    /// The label of samples in which a thread waits for a condition of C's (`pthread_cond_wait` and its kin), by the native addresses in
    /// the stack from the caller of that function on: where that is the runtime's own code, the wait may be for the runtime itself.
    /// Asked of runtimes that have said something in the stack, be it a frame or a word for [`FrameNames::label`].
    fn label_of_wait(&self, callers: &[u64]) -> Option<RuntimeLabel> {
        let _ = callers;
        None
    }

    /// The label of a wait for the condition or the mutex of C's at this address, where that is a part of the one lock by which the
    /// runtime's threads take turns. Asked for each sample of a wait: a look at an address is what it may cost.
    fn label_of_turn(&self, address: u64) -> Option<RuntimeLabel> {
        let _ = address;
        None
    }

    /// What a thread waited for by a semaphore of C's (`sem_wait` and its kin), of which many a runtime makes its own locks: by the stack
    /// from the caller of that function on, with the runtime's own frames. Asked of runtimes that have frames in it; None where
    /// the semaphore is not the runtime's.
    fn wait(&self, stack: &[StackFrame]) -> Option<RuntimeWait> {
        let _ = stack;
        None
    }
}

/// A frame of a stack as it was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StackFrame {
    /// An address in native code.
    Native(u64),
    /// The two words of a frame of the runtime's: 56 bits, then 64 bits.
    Runtime(u64, u64),
}

/// What a runtime's thread waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RuntimeWait {
    /// A lock that another thread held: contention, as that of C's mutexes.
    Lock,
    /// An initialisation that another thread had begun: contention as well.
    Once,
    /// To be told something.
    Condition,
    /// Something to do, or room for it.
    Channel,
    /// One of several places.
    Semaphore,
    /// Other threads, to go on together.
    Barrier,
    /// The end of a thread.
    Join,
}

/// A label's key and value.
pub type RuntimeLabel = (&'static str, &'static str);

/// Numbers of runtimes: 1 to 127.
const KINDS: usize = 128;
static RUNTIMES: RwLock<[Option<Arc<dyn FrameNames>>; KINDS]> = RwLock::new([const { None }; KINDS]);

/// Makes `names` the one to ask for frames of the runtime with number `kind`, instead of the one before.
///
/// # Errors
///
/// [`ErrorKind::InvalidOption`] where `kind` is not between 1 and 127.
///
/// ```
/// use everprof::symbolize::runtime::{FrameNames, RuntimeFrame, register, resolve};
/// struct Numbered;
/// impl FrameNames for Numbered {
///     fn name(&self, payload: u64, word: u64) -> Option<RuntimeFrame> {
///         Some(RuntimeFrame { name: format!("op {payload}:{word}"), ..RuntimeFrame::default() })
///     }
/// }
/// register(90, std::sync::Arc::new(Numbered)).unwrap();
/// assert_eq!(resolve(90, 1, 2).unwrap().name, "op 1:2");
/// assert!(register(0, std::sync::Arc::new(Numbered)).is_err());
/// ```
pub fn register(kind: u8, names: Arc<dyn FrameNames>) -> Result<()> {
    let mut runtimes = RUNTIMES.write().unwrap_or_else(PoisonError::into_inner);
    match runtimes.get_mut(usize::from(kind)) {
        Some(place) if kind != 0 => {
            *place = Some(names);
            Ok(())
        }
        _ => Err(Error::new(ErrorKind::InvalidOption, format!("runtime number {kind}: give 1 to 127"))),
    }
}

/// Asks the runtime with number `kind` for the label that stands in the place of a frame.
pub(crate) fn label(kind: u8, payload: u64, word: u64) -> Option<RuntimeLabel> {
    of_kind(kind)?.label(payload, word)
}

/// Asks the runtimes that have said something in a stack of these words for the label of a wait for a condition.
pub(crate) fn label_of_wait(words: &[u64], callers: &[u64]) -> Option<RuntimeLabel> {
    in_stack(words, |_, names| names.label_of_wait(callers))
}

/// Asks all runtimes for the label of a wait for the object of C's at this address.
pub(crate) fn label_of_turn(address: u64) -> Option<RuntimeLabel> {
    let runtimes = RUNTIMES.read().unwrap_or_else(PoisonError::into_inner);
    runtimes.iter().flatten().find_map(|names| names.label_of_turn(address))
}

/// Asks the runtimes that are in a stack what a wait for a semaphore was for, in a stack that begins with its caller.
pub(crate) fn wait(words: &[u64]) -> Option<RuntimeWait> {
    in_stack(words, |kind, names| {
        let stack = frames(words).filter_map(|frame| match frame {
            Frame::Native(address) => Some(StackFrame::Native(address)),
            Frame::Runtime(its, payload, word) => (its == kind).then_some(StackFrame::Runtime(payload, word)),
            Frame::Missing(_) => None,
        });
        names.wait(&stack.collect::<Vec<_>>())
    })
}

fn in_stack<T>(words: &[u64], ask: impl Fn(u8, &dyn FrameNames) -> Option<T>) -> Option<T> {
    let mut asked = Vec::new();
    frames(words).find_map(|frame| match frame {
        Frame::Runtime(kind, ..) if !asked.contains(&kind) => {
            asked.push(kind);
            ask(kind, &*of_kind(kind)?)
        }
        _ => None,
    })
}

fn of_kind(kind: u8) -> Option<Arc<dyn FrameNames>> {
    RUNTIMES.read().unwrap_or_else(PoisonError::into_inner).get(usize::from(kind))?.clone()
}

/// Asks the runtime with number `kind` for the name of a frame.
pub fn resolve(kind: u8, payload: u64, word: u64) -> Option<RuntimeFrame> {
    // The lock is free again: a runtime may take its own locks, or register from within.
    of_kind(kind)?.name(payload, word)
}
