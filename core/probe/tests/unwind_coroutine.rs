//! Stacks that are no thread's: a walk on one that is registered goes on through all those below it, and ends on one
//! that nobody told of.
#![allow(clippy::unwrap_used, clippy::panic)]

mod unwinding;

use std::ffi::c_void;
use std::sync::Mutex;

use everprof_probe::memory::StackMemory;
use everprof_probe::regs::Regs;
use everprof_probe::stacks::StackRange;
use everprof_probe::unwind::End;
use unwinding::{assert_same_callers, natives, oracle, refresh, stack_memory, walk};

// Calls a function on another stack, as libraries that grow stacks do: the caller's frame pointer leads back.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".globl everprof_test_on_stack",
    "everprof_test_on_stack:",
    ".cfi_startproc",
    "push rbp",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset rbp, -16",
    "mov rbp, rsp",
    ".cfi_def_cfa_register rbp",
    "mov rsp, rdi",
    "mov rdi, rdx",
    "call rsi",
    "mov rsp, rbp",
    "pop rbp",
    ".cfi_def_cfa rsp, 8",
    "ret",
    ".cfi_endproc",
);
#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".globl everprof_test_on_stack",
    "everprof_test_on_stack:",
    ".cfi_startproc",
    "stp x29, x30, [sp, #-16]!",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset x29, -16",
    ".cfi_offset x30, -8",
    "mov x29, sp",
    ".cfi_def_cfa_register x29",
    "mov sp, x0",
    "mov x0, x2",
    "blr x1",
    "mov sp, x29",
    ".cfi_def_cfa_register sp",
    "ldp x29, x30, [sp], #16",
    ".cfi_def_cfa_offset 0",
    "ret",
    ".cfi_endproc",
);

unsafe extern "C" {
    fn everprof_test_on_stack(top: usize, function: extern "C" fn(*mut c_void), data: *mut c_void);
}

/// One test at a time: the map of stacks is the process's.
static ONE: Mutex<()> = Mutex::new(());

/// Memory for a stack, between two pages that nobody can read.
struct Stack {
    start: usize,
    registered: Option<StackRange>,
}

const SIZE: usize = 256 << 10;
const GUARD: usize = 64 << 10;

impl Stack {
    fn new(register: bool) -> Self {
        let (private, none) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, libc::PROT_NONE);
        // SAFETY: a mapping of the kernel's choice touches nothing.
        let all = unsafe { libc::mmap(std::ptr::null_mut(), SIZE + 2 * GUARD, none, private, -1, 0) };
        assert_ne!(all, libc::MAP_FAILED);
        let start = all as usize + GUARD;
        let writable = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the pages are those just mapped.
        assert_eq!(unsafe { libc::mprotect(start as *mut c_void, SIZE, writable) }, 0);
        // SAFETY: the memory is unmapped after the registration has ended.
        let registered = register.then(|| unsafe { StackRange::register(start..start + SIZE) }.unwrap());
        Self { start, registered }
    }

    fn run(&self, mut function: impl FnMut()) {
        extern "C" fn call<F: FnMut()>(function: *mut c_void) {
            // SAFETY: the data is the function below, which waits for this call.
            unsafe { (*function.cast::<F>())() }
        }
        fn entry<F: FnMut()>(_: &F) -> extern "C" fn(*mut c_void) {
            call::<F>
        }
        let entry = entry(&function);
        let top = self.start + SIZE;
        // SAFETY: the stack is mapped, aligned, and nobody else runs on it.
        unsafe { everprof_test_on_stack(top, entry, (&raw mut function).cast()) };
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.registered = None;
        // SAFETY: the mapping is this value's, and nobody runs on it.
        unsafe { libc::munmap((self.start - GUARD) as *mut c_void, SIZE + 2 * GUARD) };
    }
}

#[test]
fn registered_stacks_are_walked_to_the_root_of_the_thread() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    refresh();
    let stacks: Vec<Stack> = (0..4).map(|_| Stack::new(true)).collect();
    // Up and down in memory, so that a caller's frame may lie below its callee's.
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
        let [first, second, third, fourth] = order.map(|index| &stacks[index]);
        let mut looked = false;
        first.run(|| {
            second.run(|| {
                third.run(|| {
                    fourth.run(|| {
                        let (ours, end) = walk(&Regs::here(), &stack_memory(0..0));
                        assert_eq!(end, End::Root);
                        assert_same_callers(&ours, &oracle());
                        looked = true;
                    });
                });
            });
        });
        assert!(looked);
    }
}

#[test]
fn a_walk_ends_before_a_stack_that_nobody_told_of() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    refresh();
    let (known, unknown) = (Stack::new(true), Stack::new(false));
    let mut frames = 0;
    known.run(|| {
        let (ours, end) = walk(&Regs::here(), &stack_memory(0..0));
        assert_eq!(end, End::Root);
        frames = natives(&ours).len();
    });
    unknown.run(|| {
        let (ours, end) = walk(&Regs::here(), &stack_memory(0..0));
        assert_eq!((natives(&ours).len(), end), (1, End::Lost));
        // Its owner's frames are not reached from a stack above it either.
        known.run(|| {
            let (ours, end) = walk(&Regs::here(), &stack_memory(0..0));
            assert_eq!(end, End::Lost);
            assert!(natives(&ours).len() < frames);
        });
    });
    known.run(|| {
        // A walk that may read registered stacks alone ends where the thread's own begins.
        let (ours, end) = walk(&Regs::here(), &StackMemory::new());
        assert!(natives(&ours).len() >= 2 && end == End::Lost, "{ours:?}");
    });
}
