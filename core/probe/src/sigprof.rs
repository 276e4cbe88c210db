//! The handler: takes one sample of the thread it interrupted. Installed, chained, and put to rest.
//!
//! The way of a sample: whose timer was it (the slot's address in the signal) -> a scratch buffer -> the walk -> the
//! ring. The handler makes no call into the C library, so it cannot change `errno`. A signal that is not ours goes to
//! the handler that was there before.
//!
//! After [`stop`] the handler stays installed where there was none before it: a signal that was already on its way
//! would kill the process under the default action, and ignoring it instead would be inherited by every program the
//! process starts. Installed and inactive it costs nothing, and `execve` resets it.

use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use crate::loss::{self, Loss};
use crate::memory::StackMemory;
use crate::os::{self, Action, Cause, Disposition};
use crate::regs::{self, Regs};
use crate::ring::Ring;
use crate::sample::{CALL_WORDS, Header, Source};
use crate::thread::{self, Slot};
use crate::{chain, cost, here, perf, scratch, stacks, thread_block, unwind};

/// What a signal to a newly discovered thread carries instead of a slot: a sign that it is ours. See [`discover`].
pub const DISCOVERY: usize = 0x6576_6572;
/// What a signal to a thread that waits carries. See [`ask`].
pub const QUESTION: usize = 0x6576_6577;
/// The unit of the CPU time in such a signal, in nanoseconds.
const DISCOVERY_UNIT: u32 = 1_000;

const SHARDS: usize = 8;

/// A walk is made only where an alternate signal stack has as much room left. Rust's are 8 KiB, of which the kernel's
/// frame takes 3.3 KiB on processors with wide registers: where a handler of the host runs on one and ours on top of
/// it, there is not enough for both, and the leaf has to do.
const ROOM_OF_WALK: u64 = 3 * 1024;

/// How often [`stop`] looks for handlers at work: for a second or so.
const LONGEST_WAIT: u32 = 1000;

static ACTIVE: AtomicBool = AtomicBool::new(false);
static SIGNAL: AtomicI32 = AtomicI32::new(0);
static MAX_WORDS: AtomicUsize = AtomicUsize::new(1024);
static RINGS: [AtomicPtr<Ring>; SHARDS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; SHARDS];

static HANDLED: AtomicU64 = AtomicU64::new(0);
static TICKS: AtomicU64 = AtomicU64::new(0);

/// How the handler goes about its work.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The signal to take.
    pub signal: i32,
    /// The longest stack kept, in words of the sample format.
    pub max_words: usize,
}

/// Installs the handler and opens it to samples, which go to `rings`: a few, so that threads seldom meet at one.
/// Off the handler. False where the signal cannot be taken.
pub fn start(config: Config, rings: &'static [Ring]) -> bool {
    for (index, shard) in RINGS.iter().enumerate() {
        let ring = rings.get(index % rings.len().max(1)).map_or(core::ptr::null(), core::ptr::from_ref);
        shard.store(ring.cast_mut(), Ordering::Release);
    }
    MAX_WORDS.store(config.max_words, Ordering::Relaxed);
    if !scratch::prepare() || !install(config.signal) {
        return false;
    }
    ACTIVE.store(true, Ordering::SeqCst);
    true
}

/// Takes another signal from now on: somebody else has taken ours. Timers must be made anew by the caller.
pub fn install(signal: i32) -> bool {
    let Some(before) = Disposition::of(signal) else { return false };
    if !is_ours(&before) {
        chain::remember(signal, &before);
        if os::install(signal, on_signal).is_none() {
            return false;
        }
    }
    SIGNAL.store(signal, Ordering::Release);
    spare_fault_handlers();
    true
}

/// Keeps our signal out of the host's handlers of faults that run on alternate stacks. Rust's own, which tells of a
/// stack's overflow, has 8 KiB there, and on processors with wide registers the kernel's frame for one signal takes 3.3
/// KiB: with ours on top the stack overflows again, and the process dies without the message. What it takes is our
/// signal in the handler's mask; the handler and its flags stay as they are. Off the handler; again from time to time,
/// since the host may set handlers at any time.
pub fn spare_fault_handlers() {
    let ours = SIGNAL.load(Ordering::Acquire);
    for fault in [libc::SIGSEGV, libc::SIGBUS] {
        os::hold_back_in(fault, ours);
    }
}

/// Closes the handler to samples, without waiting for those at work.
pub fn close() {
    ACTIVE.store(false, Ordering::SeqCst);
}

/// Closes the handler to samples and waits until none is at work; but not for ever, since a thread of low priority may
/// be kept from the processor. Nothing is freed here, so one that comes late does no harm: its sample is the next run's.
pub fn stop() {
    close();
    for _ in 0..LONGEST_WAIT {
        if scratch::idle() {
            return;
        }
        os::pause();
    }
}

/// Whether the handler of our signal is still ours: another library may have replaced it.
pub fn is_installed() -> bool {
    Disposition::of(SIGNAL.load(Ordering::Acquire)).is_some_and(|now| is_ours(&now))
}

/// Whether `disposition` is our handler.
pub fn is_ours(disposition: &Disposition) -> bool {
    disposition.action() == Action::Handler(on_signal as *const () as usize)
}

/// The signal in use.
pub fn signal() -> i32 {
    SIGNAL.load(Ordering::Acquire)
}

/// Asks a thread that was just discovered for a sample of what it is doing, which is to stand for the CPU time it used
/// so far. Only for a thread that runs or is ready to: a sleeping one would wake for it, and its call might fail with
/// EINTR. Off the handler. False where the thread is gone.
pub fn discover(tid: u32, nanos: u64) -> bool {
    let micros = (nanos / u64::from(DISCOVERY_UNIT)).clamp(1, i32::MAX as u64);
    os::send(tid, signal(), DISCOVERY, (micros - 1) as u32)
}

/// Asks a thread that waits for its stack, and to be told in which call it waits. It wakes for it: calls that cannot be
/// begun again fail with EINTR. The answer is a sample of [`Source::Wall`] whose weight is `number`, not 0. Off the
/// handler. False where the thread is gone.
pub fn ask(tid: u32, number: u32) -> bool {
    os::send(tid, signal(), QUESTION, number)
}

/// Signals handled since the process began, and the ticks of [`regs::ticks`] spent in the handler.
pub fn cost() -> (u64, u64) {
    (HANDLED.load(Ordering::Relaxed), TICKS.load(Ordering::Relaxed))
}

/// Why a signal of ours came.
enum Reason {
    /// The timer of a thread, so often beyond the first time.
    Timer(&'static Slot, u32),
    /// It has just been met, and has used so many microseconds.
    Discovery(u64),
    /// It waits, and was asked where, by this number.
    Question(u32),
}

extern "C" fn on_signal(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let begin = regs::ticks();
    // SAFETY: the handler is installed with SA_SIGINFO, so the kernel passes a valid siginfo.
    let ours = match unsafe { os::cause(info) } {
        Cause::Timer { value: DISCOVERY, overrun } => Some(Reason::Discovery(1 + u64::from(overrun))),
        Cause::Timer { value: QUESTION, overrun } => Some(Reason::Question(overrun)),
        Cause::Timer { value, overrun } => {
            fetch_ahead(value);
            thread::at_address(value).map(|slot| Reason::Timer(slot, overrun))
        }
        Cause::Descriptor(fd) => perf::slot_of(fd).map(|slot| Reason::Timer(slot, 0)),
        Cause::Other => None,
    };
    let Some(reason) = ours else {
        // SAFETY: the arguments are the kernel's.
        return unsafe { chain::pass_on(signal, info, context) };
    };
    if ACTIVE.load(Ordering::Relaxed) {
        match reason {
            Reason::Timer(slot, overrun) => of_thread(slot, overrun, context),
            Reason::Discovery(micros) => of_discovered(micros, context),
            Reason::Question(number) => of_waiting(number, context),
        }
    }
    HANDLED.fetch_add(1, Ordering::Relaxed);
    TICKS.fetch_add(cost::since(begin), Ordering::Relaxed);
}

/// Asks for all that a sample of the slot at `address` will need, before any of it is needed: a thread that has worked
/// since its last sample has driven it out of the caches, and to wait for one thing after the other is most of what a
/// sample costs. None of it changes what the sample is.
#[inline]
fn fetch_ahead(address: usize) {
    thread::prefetch(address);
    let hint = address / size_of::<Slot>();
    scratch::prefetch(hint);
    unwind::prefetch();
    if let Some(ring) = ring(hint) {
        ring.prefetch();
    }
}

/// A thread's own timer expired: the sample stands for every expiry since the last signal.
fn of_thread(slot: &Slot, overrun: u32, context: *const libc::c_void) {
    let period = slot.period();
    let unclaimed = slot.take_unclaimed();
    if unclaimed != 0 {
        // The first expiry was none of a period's.
        let periods = u64::from(overrun) * u64::from(period);
        slot.credit(periods);
        return of_discovered(u64::from(unclaimed) + periods / u64::from(DISCOVERY_UNIT), context);
    }
    let weight = 1 + u64::from(overrun);
    slot.credit(weight * u64::from(period));
    let header = Header {
        source: Source::Cpu as u8,
        weight,
        period,
        tid: slot.tid(),
        labels: unwind::labels_here(slot.labels()),
        generation: 0,
        trace: slot.trace(),
    };
    take(header, &[], slot.address() / size_of::<Slot>(), context);
}

/// Our thread has discovered this one, which has used that many microseconds by now. What such a sample is worth in the
/// end is settled by our thread, which knows how much CPU time no timer has accounted for.
fn of_discovered(micros: u64, context: *const libc::c_void) {
    let Some(header) = here::header(Source::Unclaimed, micros, DISCOVERY_UNIT) else { return };
    take(header, &[], header.tid as usize, context);
}

/// Our thread asks where this one waits.
fn of_waiting(number: u32, context: *const libc::c_void) {
    let Some(header) = here::header(Source::Wall, u64::from(number), 1) else { return };
    // SAFETY: the context is the one the kernel gave to the handler that called us.
    let call: [u64; CALL_WORDS] = unsafe { regs::call_registers(context) };
    take(header, &call, header.tid as usize, context);
}

/// Which of the rings is the one of a thread whose number, of whatever kind, is `hint`.
#[inline]
fn ring(hint: usize) -> Option<&'static Ring> {
    let ring = RINGS.get(hint % SHARDS)?.load(Ordering::Acquire);
    // SAFETY: null or a ring that lives as long as the process.
    unsafe { ring.as_ref() }
}

/// `hint` spreads threads over buffers and rings; `before` are words to stand before the stack.
fn take(mut header: Header, before: &[u64], hint: usize, context: *const libc::c_void) {
    // SAFETY: the context is the one the kernel gave to the handler that called us.
    let regs = unsafe { Regs::from_ucontext(context) };
    // What the sample of a discovery stands for is not known here, and told even where the sample is lost.
    let (periods, nanos) = match header.source {
        source if source == Source::Unclaimed as u8 => (1, 0),
        // It stands for no time; who asked will ask again.
        source if source == Source::Wall as u8 => (0, 0),
        _ => (header.weight, header.weight * u64::from(header.period)),
    };
    let Some(mut scratch) = scratch::claim(hint) else {
        return loss::count(Loss::NoScratch, periods, nanos);
    };
    // Once more, now that the claim can be seen: whoever closed the handler meanwhile has stopped waiting for it.
    if !ACTIVE.load(Ordering::SeqCst) {
        return;
    }
    header.generation = unwind::generation();
    // SAFETY: the context is the one the kernel gave to the handler that called us.
    let alternate = unsafe { regs::altstack(context) };
    let here = (&raw const header) as u64;
    let cramped = alternate.contains(&here) && here - alternate.start < ROOM_OF_WALK;
    let (mut trail, words) = scratch.parts();
    let Some((first, rest)) = words.split_at_mut_checked(before.len()) else { return };
    first.copy_from_slice(before);
    let room = MAX_WORDS.load(Ordering::Relaxed).min(rest.len());
    let mut frames = unwind::Frames::new(rest.get_mut(..room).unwrap_or_default());
    if cramped {
        frames.push_native(regs.pc);
        frames.push_missing(0);
    } else {
        let own = thread_block::stack();
        // Held until the walk is over: its owner cannot take it away meanwhile.
        let other = if alternate.contains(&regs.sp) || own.contains(&regs.sp) {
            None
        } else {
            // Where a call pushes nothing, the pointer of a stack that is still empty is the end of it.
            let held = stacks::hold(regs.sp).or_else(|| stacks::hold(regs.sp.wrapping_sub(1)));
            if held.is_none() {
                stacks::count_unknown();
            }
            held
        };
        let stack = stack_of(&regs, alternate, own, other.as_ref());
        header.generation = unwind::walk_along(&mut trail, &regs, &stack, &mut frames).generation;
    }
    let len = before.len() + frames.finish().len();
    let sample = words.get(..len).unwrap_or_default();
    let pushed = ring(hint).is_some_and(|ring| ring.push(&header, sample));
    if !pushed {
        loss::count(Loss::RingFull, periods, nanos);
    }
}

/// The memory that frames of the interrupted thread may lie in: its own stack and its alternate signal stack, each from
/// the stack pointer upwards where that lies within, and the red zone below it, where a function that has just popped
/// its registers still has them. Where the thread runs on a registered stack, that one, held by `other`.
fn stack_of(
    regs: &Regs,
    alternate: Range<u64>,
    own: Range<u64>,
    other: Option<&stacks::Held>,
) -> StackMemory {
    const RED_ZONE: u64 = 128;
    let low = regs.sp.saturating_sub(RED_ZONE);
    let mut stack = StackMemory::default();
    if alternate.contains(&regs.sp) {
        // SAFETY: the thread runs on this stack now, so it is mapped.
        unsafe { stack.add(low.max(alternate.start)..alternate.end) };
        // What was interrupted lies on the thread's own stack, from a stack pointer on that the walk finds in the
        // signal's frame.
        // SAFETY: the stack is mapped from its guard on; the main thread's at least from any stack pointer it had.
        unsafe { stack.add(own) };
    } else if own.contains(&regs.sp) {
        // SAFETY: the thread runs on this stack now, so it is mapped from the stack pointer to its end, and below it
        // as far as the guard, or for the main thread as far as the kernel grows it for a signal's frame.
        unsafe { stack.add(low.max(own.start)..own.end) };
    } else if let Some(other) = other {
        let range = other.range();
        // SAFETY: the range is held until the walk is over.
        unsafe { stack.add(low.max(range.start)..range.end) };
        // Where coroutines say who resumed them, the walk goes on there.
        // SAFETY: as in the first case.
        unsafe { stack.add(own) };
    }
    stack
}
