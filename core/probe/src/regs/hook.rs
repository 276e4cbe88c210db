//! Functions that stand in for others in the slots of those who call them (`got`).
//!
//! Each looks at its switch first, one word, and goes on in the other function where that is 0: as if it had been called, with
//! whatever arguments. Where the switch is on, it may attempt something cheaper, or find by one word of the object that there
//! is nothing to do, and else asks `before`: to go on like that, or to call the other function and `after` behind it. Both run before and after that call, never around it: no frame
//! of Rust is on the stack meanwhile, so a thread may be cancelled in it or jump out of it, and exceptions pass, in a
//! program whose panics abort too. Registers that are the caller's stay as they are.

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use super::cpu;

pub(crate) use super::cpu::hook::{Call, is_lazy};

/// How many functions can stand in for others.
pub(crate) const HOOKS: usize = 32;

/// What is known of one function, where the code that stands in for it looks: the order and the sizes are part of that.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Entry {
    original: AtomicUsize,
    switch: AtomicPtr<AtomicU32>,
    attempt: AtomicUsize,
    busy: AtomicU32,
    object: AtomicU32,
    before: AtomicUsize,
    after: AtomicUsize,
    quiet: AtomicU32,
    _pad: [u32; 3],
}

/// Asked before a call.
pub(crate) type Before = extern "C" fn(&mut Call) -> Next;
/// Told after it.
pub(crate) type After = extern "C" fn(&mut Call);

/// What to do, as `before` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Next {
    /// Go on in the function itself; `after` is not told.
    Pass = 0,
    /// Call it and tell `after`.
    Call = 1,
}

/// How one function is stood in for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// The function.
    pub(crate) original: usize,
    /// While it is 0, nothing is done.
    pub(crate) switch: &'static AtomicU32,
    /// What is called first, with up to three of the arguments, or 0; its result is returned unless it is `busy`.
    pub(crate) attempt: usize,
    pub(crate) busy: u32,
    /// Where there is no attempt: up to which value of the first 32 bits of what the first argument points to there is nothing
    /// to do; 0 where that is not known, and `before` always asked.
    pub(crate) quiet: u32,
    /// A number for `before` and `after` to know.
    pub(crate) object: u32,
    pub(crate) before: Before,
    pub(crate) after: After,
}

impl Entry {
    /// The function.
    pub(crate) fn original(&self) -> usize {
        self.original.load(Ordering::Relaxed)
    }

    /// See [`Plan::object`].
    pub(crate) fn object(&self) -> u32 {
        self.object.load(Ordering::Relaxed)
    }
}

/// The entry of a number below [`HOOKS`].
pub(crate) fn entry(number: usize) -> Option<&'static Entry> {
    // SAFETY: the table is a static one of this many entries, zeroed, all of whose parts are atomic or unused.
    let entries: &'static [Entry; HOOKS] = unsafe { &*cpu::hook::entries() };
    entries.get(number)
}

/// Lays down how a function is stood in for, once, and returns the one that does.
pub(crate) fn prepare(number: usize, plan: Plan) -> Option<usize> {
    let entry = entry(number)?;
    if entry.original() == 0 {
        entry.switch.store(core::ptr::from_ref(plan.switch).cast_mut(), Ordering::Relaxed);
        entry.attempt.store(plan.attempt, Ordering::Relaxed);
        entry.busy.store(plan.busy, Ordering::Relaxed);
        entry.object.store(plan.object, Ordering::Relaxed);
        entry.quiet.store(plan.quiet, Ordering::Relaxed);
        entry.before.store(plan.before as usize, Ordering::Relaxed);
        entry.after.store(plan.after as usize, Ordering::Relaxed);
        // Before any slot is filled: whoever comes by one finds all of it.
        entry.original.store(plan.original, Ordering::Release);
    }
    Some(function(number))
}

/// The function that stands in, of a number below [`HOOKS`].
pub(crate) fn function(number: usize) -> usize {
    cpu::hook::first() + number * 32
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    static SWITCH: AtomicU32 = AtomicU32::new(0);

    type Sum = extern "C" fn(usize, usize, usize, usize, usize, usize, usize) -> usize;

    extern "C" fn sum(a: usize, b: usize, c: usize, d: usize, e: usize, f: usize, g: usize) -> usize {
        a + 10 * b + 100 * c + 1_000 * d + 10_000 * e + 100_000 * f + 1_000_000 * g
    }

    extern "C" fn of_three(a: usize, b: usize, c: usize) -> usize {
        sum(a, b, c, 3, 4, 6, 8)
    }

    extern "C" fn before(call: &mut Call) -> Next {
        match call.argument(0) {
            1 => Next::Pass,
            _ => {
                call.kept = [1, 2, 3, 4, 5, call.argument(2) as u64];
                Next::Call
            }
        }
    }

    extern "C" fn after(call: &mut Call) {
        assert_eq!((call.kept, call.argument(1)), ([1, 2, 3, 4, 5, 2], 1));
        // An attempt leaves three arguments as they are.
        assert!(call.entry().object() != 5 || call.argument(5) == 6);
        call.result += 1;
    }

    extern "C" fn attempt(a: usize) -> usize {
        if a == 9 { 99 } else { 16 }
    }

    #[test]
    fn arguments_and_results_pass_by_each_way() {
        let plan = Plan {
            original: sum as *const () as usize,
            switch: &SWITCH,
            attempt: 0,
            busy: 16,
            quiet: 0,
            object: 5,
            before,
            after,
        };
        let plain = prepare(HOOKS - 1, plan).unwrap();
        let (original, attempt) = (of_three as *const () as usize, attempt as *const () as usize);
        let trying = prepare(HOOKS - 2, Plan { original, attempt, object: 6, ..plan }).unwrap();
        for (function, ninth) in [(plain, 8_643_220), (trying, 99)] {
            // SAFETY: it stands in for `sum`, or for a function that needs no more than the first three.
            let function: Sum = unsafe { core::mem::transmute(function) };
            let call = |a| function(a, 1, 2, 3, 4, 6, 8);
            SWITCH.store(0, Ordering::Relaxed);
            assert_eq!(call(9), 8_643_219);
            SWITCH.store(1, Ordering::Relaxed);
            assert_eq!([call(1), call(2)], [8_643_211, 8_643_213]);
            assert_eq!(call(9), ninth);
        }
        assert_eq!(entry(HOOKS - 1).unwrap().object(), 5);
    }

    extern "C" fn first(word: &u32, more: usize) -> usize {
        *word as usize + more
    }

    extern "C" fn count(call: &mut Call) -> Next {
        call.kept = [7; 6];
        Next::Call
    }

    extern "C" fn add(call: &mut Call) {
        call.result += 1_000;
    }

    #[test]
    fn an_object_that_is_quiet_is_left_alone() {
        static ON: AtomicU32 = AtomicU32::new(1);
        let plan = Plan {
            original: first as *const () as usize,
            switch: &ON,
            attempt: 0,
            busy: 0,
            quiet: 1,
            object: 0,
            before: count,
            after: add,
        };
        let quiet = prepare(HOOKS - 3, plan).unwrap();
        // SAFETY: it stands in for `first`.
        let quiet: extern "C" fn(&u32, usize) -> usize = unsafe { core::mem::transmute(quiet) };
        assert_eq!([0, 1, 2, u32::MAX].map(|word| quiet(&word, 5)), [5, 6, 1_007, u32::MAX as usize + 1_005]);
        ON.store(0, Ordering::Relaxed);
        assert_eq!(quiet(&2, 5), 7);
    }
}
