//! Which labels are in force on a thread, by the interpreter's own account: the value of the ContextVar of `_labels.py` in the
//! thread's current context.
//!
//! A context is an object that the thread's state refers to, and its variables are in a map that never changes (a hash array mapped
//! trie, CPython's `hamt.c`): a change makes a new map, which takes the place of the old one with one store. So the way from the
//! state to the value is whole in every moment, and each object on it is referred to by the one before. It is walked in the handler
//! as it is, and of another thread by copies that the kernel makes. Objects of these types are alike from 3.9 to 3.15; that they are so
//! here, and where in the state the context is, is found out with maps of known content ([`Place::find`]) before anybody relies
//! on it.

use everprof_probe::memory;
use pyo3::types::{PyAnyMethods, PyCFunction, PyModule};
use pyo3::{Bound, PyAny, PyResult, Python};

use super::layout::{self, Layout, TYPE};
use super::raw::Piece;
use super::symbols::Symbols;
use crate::labels;

/// Of a context: the map of its variables. Of the map: its root.
const VARIABLES: u64 = 24;
const ROOT: u64 = 16;
/// Of a node by bits: how many words it has, which of its 32 children there are, and their keys and values.
const SIZE: u64 = 16;
const BITS: u64 = 24;
const PAIRS: u64 = 32;
/// Of a node with all children: these.
const CHILDREN: u64 = 16;
/// Bits of the hash that choose a child.
const BITS_A_LEVEL: u32 = 5;

/// Where the labels of a thread are found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The interpreter whose variable it is: others have variables of their own.
    interpreter: u64,
    /// In the thread's state.
    context: u64,
    /// The variable, and what maps sort it by.
    variable: u64,
    hash: u32,
    types: Types,
    /// In a value: the number of the set.
    id: u64,
}

/// The addresses of types.
#[derive(Clone, Copy, Debug, Default)]
struct Types {
    context: u64,
    map: u64,
    node_of_bits: u64,
    /// 0 until there was one.
    node_of_all: u64,
    value: u64,
}

/// Memory of the interpreter.
trait Memory {
    /// The word at `offset` in an object that is referred to; `None` where the reference is null or none.
    fn word(&self, object: u64, offset: u64) -> Option<u64>;
}

/// That of the calling thread, where what is referred to is there.
struct Here;

impl Memory for Here {
    #[inline]
    fn word(&self, object: u64, offset: u64) -> Option<u64> {
        if object == 0 || object & 7 != 0 {
            return None;
        }
        // SAFETY: the word lies in an object that the thread's state refers to, by way of others, as long as it is interrupted.
        Some(unsafe { Piece::new(object, offset + 8) }.word(offset))
    }
}

/// That of a thread that may go on.
struct Elsewhere;

impl Memory for Elsewhere {
    fn word(&self, object: u64, offset: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        let is_read =
            object != 0 && object & 7 == 0 && memory::copy(object.wrapping_add(offset), &mut bytes) == 8;
        is_read.then(|| u64::from_ne_bytes(bytes))
    }
}

impl Place {
    /// The label set in force on the calling thread, whose state this is; 0 where there is none, and `None` where that cannot be
    /// told. Async-signal-safe.
    #[inline]
    pub(super) fn labels_here(&self, state: Piece) -> Option<u32> {
        self.labels(state, &Here)
    }

    /// The same of another thread, of whose state this is a copy.
    pub(super) fn labels_elsewhere(&self, state: Piece) -> Option<u32> {
        self.labels(state, &Elsewhere)
    }

    #[inline]
    fn labels(&self, state: Piece, memory: &impl Memory) -> Option<u32> {
        if state.word(layout::INTERPRETER) != self.interpreter {
            return None;
        }
        let context = state.word(self.context);
        if context == 0 {
            // Threads have none until they set a variable.
            return Some(0);
        }
        let root = self.types.root(context, memory)?;
        let value = self.value(root, memory)?;
        if value == 0 {
            return Some(0);
        }
        if memory.word(value, TYPE)? != self.types.value {
            return None;
        }
        let word = memory.word(value, self.id & !7)?;
        Some((word >> ((self.id & 4) * 8)) as u32)
    }

    /// The variable's value in the map with this root; 0 where it has none.
    #[inline]
    fn value(&self, root: u64, memory: &impl Memory) -> Option<u64> {
        let mut node = root;
        let mut hash = self.hash;
        // As many levels as the hash has bits for; behind them are only values whose hashes are the same, which are not looked at.
        for _ in 0..=u32::BITS / BITS_A_LEVEL {
            let kind = memory.word(node, TYPE)?;
            let child = u64::from(hash & 31);
            if kind == self.types.node_of_bits {
                let bits = memory.word(node, BITS)? as u32;
                let before = u64::from((bits & ((1 << child) - 1)).count_ones());
                if bits & 1 << child == 0 {
                    return Some(0);
                }
                if before * 2 + 1 >= memory.word(node, SIZE)? {
                    return None;
                }
                let pair = PAIRS + before * 16;
                let (key, value) = (memory.word(node, pair)?, memory.word(node, pair + 8)?);
                if key != 0 {
                    return Some(if key == self.variable { value } else { 0 });
                }
                node = value;
            } else if kind == self.types.node_of_all && kind != 0 {
                node = memory.word(node, CHILDREN + child * 8)?;
                if node == 0 {
                    return Some(0);
                }
            } else {
                return None;
            }
            hash >>= BITS_A_LEVEL;
        }
        None
    }
}

impl Types {
    /// The root of a context's map.
    #[inline]
    fn root(&self, context: u64, memory: &impl Memory) -> Option<u64> {
        if memory.word(context, TYPE)? != self.context {
            return None;
        }
        let map = memory.word(context, VARIABLES)?;
        if memory.word(map, TYPE)? != self.map {
            return None;
        }
        memory.word(map, ROOT)
    }
}

impl Place {
    /// Finds it out. Called with the interpreter's lock held.
    ///
    /// # Errors
    ///
    /// What is not as it should be.
    pub(super) fn find(py: Python<'_>, layout: &Layout, symbols: &Symbols) -> Result<Self, String> {
        let found = Self::find_by_contexts(py, layout, symbols);
        found.map_err(|error| format!("labels are not found in contexts: {error}"))?
    }

    fn find_by_contexts(
        py: Python<'_>,
        layout: &Layout,
        symbols: &Symbols,
    ) -> PyResult<Result<Self, String>> {
        const ID: u32 = 0x5eed_1d01;
        let variable = PyModule::import(py, "everprof._labels")?.getattr("_IN_FORCE")?;
        let contexts = PyModule::import(py, "contextvars")?;
        let (value, id) = labels::with_id(py, ID)?;
        let address = |object: &Bound<'_, PyAny>| object.as_ptr().expose_provenance() as u64;

        // Two contexts, one within the other: what both are referred to by is where the current one is.
        let (outer, inner) = (contexts.getattr("Context")?.call0()?, contexts.getattr("Context")?.call0()?);
        let (outer_at, inner_at) = (address(&outer), address(&inner));
        let (state_size, thread_state) = (layout.state_size, symbols.thread_state);
        let state = move || {
            let state = thread_state.read();
            // SAFETY: the state of the calling thread, which has the interpreter's lock.
            (state != 0).then(|| unsafe { Piece::new(state, state_size) })
        };
        let places = move |of: u64| -> Vec<u64> {
            let Some(state) = state() else { return Vec::new() };
            (0..state_size).step_by(8).filter(|at| state.word(*at) == of).collect()
        };
        let in_outer = in_context(py, &outer, move || places(outer_at))?;
        let in_inner = in_context(py, &inner, move || places(inner_at))?;
        let both: Vec<u64> = in_outer.into_iter().filter(|at| in_inner.contains(at)).collect();
        let [context] = *both.as_slice() else {
            return Ok(Err(format!("{} places in the thread's state refer to the context", both.len())));
        };

        let of_variable = variable.hash()? as u64;
        let hash = match (of_variable ^ of_variable >> 32) as u32 {
            u32::MAX => u32::MAX - 1,
            hash => hash,
        };
        // SAFETY: the caller has the interpreter's lock.
        let interpreter = unsafe { pyo3::ffi::PyInterpreterState_Get() }.expose_provenance() as u64;
        if state().map(|state| state.word(layout::INTERPRETER)) != Some(interpreter) {
            return Ok(Err("the thread's state does not refer to its interpreter where it should".into()));
        }
        let mut place =
            Self { interpreter, context, variable: address(&variable), hash, types: Types::default(), id };
        let type_of = |at: u64| Here.word(at, TYPE).unwrap_or(0);
        place.types.context = type_of(inner_at);
        place.types.map = type_of(Here.word(inner_at, VARIABLES).unwrap_or(inner_at));
        place.types.value = type_of(value.as_ptr().expose_provenance() as u64);

        // A map of one variable is a node of bits, and one of many a node of all, with others below it.
        let read =
            |place: Self| in_context(py, &inner, move || state().and_then(|state| place.labels_here(state)));
        if read(place)? == Some(ID) {
            return Ok(Err("there is a value where none was set".into()));
        }
        inner.call_method1("run", (variable.getattr("set")?, &value))?;
        let root = |types: &Types| types.root(inner_at, &Here).map_or(0, type_of);
        place.types.node_of_bits = root(&place.types);
        if read(place)? != Some(ID) {
            return Ok(Err("the value in a context of one variable is not where it should be".into()));
        }
        for round in 0..16 {
            for number in 0..32 {
                let other = contexts.getattr("ContextVar")?.call1((format!("everprof.{round}.{number}"),))?;
                inner.call_method1("run", (other.getattr("set")?, number))?;
            }
            let kind = root(&place.types);
            if kind != place.types.node_of_bits {
                place.types.node_of_all = kind;
            }
            if read(place)? != Some(ID) {
                return Ok(Err("the value in a context of many variables is not where it should be".into()));
            }
        }
        Ok(if place.types.node_of_all == 0 {
            Err("contexts of many variables are as those of few".into())
        } else {
            Ok(place)
        })
    }
}

/// What `work` finds while that context is the current one.
fn in_context<T: Default + Send + Sync + 'static>(
    py: Python<'_>,
    context: &Bound<'_, PyAny>,
    work: impl Fn() -> T + Send + Sync + 'static,
) -> PyResult<T> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let call = PyCFunction::new_closure(py, None, None, move |_, _| {
        let _ = sender.send(work());
    })?;
    context.call_method1("run", (call,))?;
    Ok(receiver.try_recv().unwrap_or_default())
}
