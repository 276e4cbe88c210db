//! The functions that stand in for others: see [`super::super::hook`]. In assembly, so that nothing of Rust is on the stack
//! while the other function runs.

use core::arch::{asm, global_asm};

use crate::regs::Regs;
use crate::regs::hook::{Entry, HOOKS};

/// What a stand-in keeps on the stack while it calls others.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Call {
    arguments: [usize; 6],
    /// What is known before the call and needed after it.
    pub(crate) kept: [u64; 6],
    /// What the function has returned.
    pub(crate) result: usize,
    entry: &'static Entry,
    base: u64,
    _pad: u64,
    fp: u64,
    pc: u64,
}

const _: () = assert!(size_of::<Call>() == 144 && size_of::<Entry>() == 64 && HOOKS == 32);

impl Call {
    /// One of the first six arguments.
    pub(crate) fn argument(&self, number: usize) -> usize {
        self.arguments.get(number).copied().unwrap_or_default()
    }

    /// The function's entry.
    pub(crate) fn entry(&self) -> &'static Entry {
        self.entry
    }

    /// The registers of the caller, at its call.
    pub(crate) fn caller(&self) -> Regs {
        let sp = core::ptr::from_ref(self).addr() + size_of::<Self>();
        Regs { pc: self.pc.wrapping_sub(1), sp: sp as u64, fp: self.fp, base: self.base, ..Regs::default() }
    }
}

// The table of entries, and for each the function that stands in, 32 bytes apart. Their names have the version in them, as
// that of the thread's own block. A stand-in loads its entry's address and looks at the switch; where that is off it goes on
// in the function itself, as if it had been called. Numbered labels, since all assembly of a program may become one text.
global_asm!(
    ".pushsection .bss.everprof_hooks, \"aw\", @nobits",
    ".p2align 6",
    concat!(".globl ", versioned!("hook_entries")),
    concat!(".hidden ", versioned!("hook_entries")),
    concat!(".type ", versioned!("hook_entries"), ", @object"),
    concat!(".size ", versioned!("hook_entries"), ", 2048"),
    concat!(versioned!("hook_entries"), ":"),
    ".zero 2048",
    ".popsection",
    ".pushsection .text.everprof_hooks, \"ax\", @progbits",
    ".p2align 5",
    concat!(".globl ", versioned!("hooks")),
    concat!(".hidden ", versioned!("hooks")),
    concat!(".type ", versioned!("hooks"), ", @function"),
    concat!(versioned!("hooks"), ":"),
    ".cfi_startproc",
    ".set .Leverprof_hook, 0",
    ".rept 32",
    ".p2align 5",
    "endbr64",
    concat!("leaq ", versioned!("hook_entries"), "+.Leverprof_hook(%rip), %r11"),
    "movq 8(%r11), %r10",
    "cmpl $0, (%r10)",
    "jne 22f",
    "jmpq *(%r11)",
    ".set .Leverprof_hook, .Leverprof_hook+64",
    ".endr",
    ".p2align 4",
    // Something to do: where there is an attempt, and it succeeds, nothing else.
    "22:",
    "movq 16(%r11), %rax",
    "testq %rax, %rax",
    "jz 55f",
    "pushq %rdi",
    ".cfi_adjust_cfa_offset 8",
    "pushq %rsi",
    ".cfi_adjust_cfa_offset 8",
    "pushq %rdx",
    ".cfi_adjust_cfa_offset 8",
    "pushq %r11",
    ".cfi_adjust_cfa_offset 8",
    "subq $8, %rsp",
    ".cfi_adjust_cfa_offset 8",
    "callq *%rax",
    "addq $8, %rsp",
    ".cfi_adjust_cfa_offset -8",
    "popq %r11",
    ".cfi_adjust_cfa_offset -8",
    "popq %rdx",
    ".cfi_adjust_cfa_offset -8",
    "popq %rsi",
    ".cfi_adjust_cfa_offset -8",
    "popq %rdi",
    ".cfi_adjust_cfa_offset -8",
    "cmpl 24(%r11), %eax",
    "je 33f",
    "retq",
    // No attempt: perhaps the object's first word says that there is nothing to do.
    "55:",
    "movl 48(%r11), %eax",
    "testl %eax, %eax",
    "jz 33f",
    "cmpl %eax, (%rdi)",
    "ja 33f",
    "jmpq *(%r11)",
    // The whole way, with a `Call` on the stack.
    "33:",
    "pushq %rbp",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset %rbp, -16",
    "movq %rsp, %rbp",
    ".cfi_def_cfa_register %rbp",
    "subq $128, %rsp",
    "movq %rdi, (%rsp)",
    "movq %rsi, 8(%rsp)",
    "movq %rdx, 16(%rsp)",
    "movq %rcx, 24(%rsp)",
    "movq %r8, 32(%rsp)",
    "movq %r9, 40(%rsp)",
    "movq %r11, 104(%rsp)",
    "movq %rbx, 112(%rsp)",
    "movq %rsp, %rdi",
    "callq *32(%r11)",
    "movq 104(%rsp), %r11",
    "movq (%rsp), %rdi",
    "movq 8(%rsp), %rsi",
    "movq 16(%rsp), %rdx",
    "movq 24(%rsp), %rcx",
    "movq 32(%rsp), %r8",
    "movq 40(%rsp), %r9",
    "cmpl $1, %eax",
    // Behind a number of arguments that varies, as of a system call, none is in a vector register.
    "movl $0, %eax",
    "jb 66f",
    // A seventh argument, of a system call, lies on the stack; where there is none, the word is whatever it is.
    "subq $8, %rsp",
    "pushq 16(%rbp)",
    "callq *(%r11)",
    "addq $16, %rsp",
    "movq %rax, 96(%rsp)",
    "movq 104(%rsp), %r11",
    "movq %rsp, %rdi",
    "callq *40(%r11)",
    "movq 96(%rsp), %rax",
    "leave",
    ".cfi_remember_state",
    ".cfi_def_cfa %rsp, 8",
    "retq",
    "66:",
    ".cfi_restore_state",
    "leave",
    ".cfi_def_cfa %rsp, 8",
    "jmpq *(%r11)",
    ".cfi_endproc",
    concat!(".size ", versioned!("hooks"), ", . - ", versioned!("hooks")),
    ".popsection",
    options(att_syntax)
);

/// The table.
pub(crate) fn entries() -> *const [Entry; HOOKS] {
    let entries: *const [Entry; HOOKS];
    // SAFETY: computes an address of this object.
    unsafe {
        asm!(
            concat!("lea {}, [rip + ", versioned!("hook_entries"), "]"),
            out(reg) entries,
            options(nostack, nomem, preserves_flags, pure)
        )
    };
    entries
}

/// The first of the functions that stand in.
pub(crate) fn first() -> usize {
    let first: usize;
    // SAFETY: as above.
    unsafe {
        asm!(
            concat!("lea {}, [rip + ", versioned!("hooks"), "]"),
            out(reg) first,
            options(nostack, nomem, preserves_flags, pure)
        )
    };
    first
}

/// Whether the code at a slot's target, of which the first bytes are given, is the stub that has the loader fill the slot of
/// this number in the table of such: `push $number`, after an `endbr64` where there is one.
pub(crate) fn is_lazy(code: [u8; 12], number: u32) -> bool {
    let code = code.as_slice();
    let push = code.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(code);
    matches!(push, [0x68, a, b, c, d, ..] if u32::from_le_bytes([*a, *b, *c, *d]) == number)
}
