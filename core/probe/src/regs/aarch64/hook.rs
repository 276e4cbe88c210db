//! The functions that stand in for others: see [`super::super::hook`]. In assembly, so that nothing of Rust is on the stack
//! while the other function runs.

use core::arch::{asm, global_asm};

use crate::regs::Regs;
use crate::regs::hook::{Entry, HOOKS};

/// What a stand-in keeps on the stack while it calls others.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Call {
    fp: u64,
    pc: u64,
    arguments: [usize; 8],
    /// What is known before the call and needed after it.
    pub(crate) kept: [u64; 6],
    /// What the function has returned.
    pub(crate) result: usize,
    entry: &'static Entry,
    base: u64,
    _pad: u64,
}

const _: () = assert!(size_of::<Call>() == 160 && size_of::<Entry>() == 64 && HOOKS == 32);

impl Call {
    /// One of the first eight arguments.
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
        let pc = super::return_address(self.pc).wrapping_sub(1);
        Regs { pc, sp: sp as u64, fp: self.fp, base: self.base, ..Regs::default() }
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
    // bti c
    "hint #34",
    concat!("adrp x16, ", versioned!("hook_entries"), "+.Leverprof_hook"),
    concat!("add x16, x16, :lo12:", versioned!("hook_entries"), "+.Leverprof_hook"),
    "ldr x17, [x16, #8]",
    "ldr w17, [x17]",
    "cbnz w17, 22f",
    "ldr x17, [x16]",
    "br x17",
    ".set .Leverprof_hook, .Leverprof_hook+64",
    ".endr",
    // Something to do: where there is an attempt, and it succeeds, nothing else.
    "22:",
    "ldr x17, [x16, #16]",
    "cbz x17, 55f",
    "stp x29, x30, [sp, #-48]!",
    ".cfi_def_cfa_offset 48",
    ".cfi_offset x29, -48",
    ".cfi_offset x30, -40",
    "mov x29, sp",
    "stp x0, x1, [sp, #16]",
    "stp x2, x16, [sp, #32]",
    "blr x17",
    "ldp x2, x16, [sp, #32]",
    "ldr x1, [sp, #24]",
    "ldr w17, [x16, #24]",
    "cmp w0, w17",
    "b.ne 44f",
    "ldr x0, [sp, #16]",
    "ldp x29, x30, [sp], #48",
    ".cfi_remember_state",
    ".cfi_restore x29",
    ".cfi_restore x30",
    ".cfi_def_cfa_offset 0",
    "b 33f",
    "44:",
    ".cfi_restore_state",
    "ldp x29, x30, [sp], #48",
    ".cfi_restore x29",
    ".cfi_restore x30",
    ".cfi_def_cfa_offset 0",
    "ret",
    // No attempt: perhaps the object's first word says that there is nothing to do.
    "55:",
    "ldr w17, [x16, #48]",
    "cbz w17, 33f",
    "ldr w9, [x0]",
    "cmp w9, w17",
    "b.hi 33f",
    "ldr x17, [x16]",
    "br x17",
    // The whole way, with a `Call` on the stack.
    "33:",
    "stp x29, x30, [sp, #-160]!",
    ".cfi_def_cfa_offset 160",
    ".cfi_offset x29, -160",
    ".cfi_offset x30, -152",
    "mov x29, sp",
    "stp x0, x1, [sp, #16]",
    "stp x2, x3, [sp, #32]",
    "stp x4, x5, [sp, #48]",
    "stp x6, x7, [sp, #64]",
    "str x16, [sp, #136]",
    "str x19, [sp, #144]",
    "mov x0, sp",
    "ldr x17, [x16, #32]",
    "blr x17",
    "mov w17, w0",
    "ldp x0, x1, [sp, #16]",
    "ldp x2, x3, [sp, #32]",
    "ldp x4, x5, [sp, #48]",
    "ldp x6, x7, [sp, #64]",
    "ldr x16, [sp, #136]",
    "cmp w17, #1",
    "b.lo 66f",
    "ldr x17, [x16]",
    "blr x17",
    "str x0, [sp, #128]",
    "ldr x16, [sp, #136]",
    "mov x0, sp",
    "ldr x17, [x16, #40]",
    "blr x17",
    "ldr x0, [sp, #128]",
    "ldp x29, x30, [sp], #160",
    ".cfi_remember_state",
    ".cfi_restore x29",
    ".cfi_restore x30",
    ".cfi_def_cfa_offset 0",
    "ret",
    "66:",
    ".cfi_restore_state",
    "ldp x29, x30, [sp], #160",
    ".cfi_restore x29",
    ".cfi_restore x30",
    ".cfi_def_cfa_offset 0",
    "ldr x17, [x16]",
    "br x17",
    ".cfi_endproc",
    concat!(".size ", versioned!("hooks"), ", . - ", versioned!("hooks")),
    ".popsection",
);

/// The table.
pub(crate) fn entries() -> *const [Entry; HOOKS] {
    let entries: *const [Entry; HOOKS];
    // SAFETY: computes an address of this object.
    unsafe {
        asm!(
            concat!("adrp {entries}, ", versioned!("hook_entries")),
            concat!("add {entries}, {entries}, :lo12:", versioned!("hook_entries")),
            entries = out(reg) entries,
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
            concat!("adrp {first}, ", versioned!("hooks")),
            concat!("add {first}, {first}, :lo12:", versioned!("hooks")),
            first = out(reg) first,
            options(nostack, nomem, preserves_flags, pure)
        )
    };
    first
}

/// Whether the code at a slot's target, of which the first bytes are given, is the stub that has the loader fill slots: one
/// for all of them, `stp x16, x30, [sp, #-16]!`, after a `bti c` where there is one.
pub(crate) fn is_lazy(code: [u8; 12], _number: u32) -> bool {
    let [first, second, _] = core::array::from_fn(|word| {
        let at = 4 * word;
        let bytes = code.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        u32::from_le_bytes(bytes.unwrap_or_default())
    });
    const STORE: u32 = 0xa9bf_7bf0;
    first == STORE || first == 0xd503_245f && second == STORE
}
