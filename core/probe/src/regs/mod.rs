//! The processor: its registers as a signal frame or a call shows them, and what the unwinder must know about it.
//!
//! One file a processor, with the same item names in each; this and [`crate::os`] are the only places of the crate with a
//! `cfg(target_*)`. Everything here is async-signal-safe.

/// A name for the linker with the version in it, so that two versions of this crate can be linked into one program.
macro_rules! versioned {
    ($name:literal) => {
        concat!(
            "everprof_",
            $name,
            "_",
            env!("CARGO_PKG_VERSION_MAJOR"),
            "_",
            env!("CARGO_PKG_VERSION_MINOR"),
            "_",
            env!("CARGO_PKG_VERSION_PATCH")
        )
    };
}

/// The name of the block of [`own_block`].
macro_rules! own_block_symbol {
    () => {
        versioned!("own_block")
    };
}

use core::sync::atomic::AtomicUsize;

pub(crate) mod hook;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
compile_error!("everprof works on x86_64 and aarch64: depend on it under a cfg of target_arch");

#[cfg(target_arch = "aarch64")]
use aarch64 as cpu;
#[cfg(target_arch = "x86_64")]
use x86_64 as cpu;

pub(crate) use cpu::{
    DWARF_BASE, DWARF_FP, DWARF_RA, DWARF_SP, WORD_STACK_CALL, impossible_mask, load, prefetch,
    return_address,
};
pub(crate) use cpu::{PLT, plt_entry};
pub(crate) use cpu::{RELOCATION_ABSOLUTE, RELOCATION_GLOB_DAT, RELOCATION_JUMP_SLOT};
pub use cpu::{Regs, altstack, own_block, thread_pointer, ticks};
pub(crate) use cpu::{SET_FRAME, called_slot, frame_distance, frame_room, jumped_slot};
pub(crate) use cpu::{SIGNAL_FRAME_PC, SIGRETURN, SIGRETURN_SECOND};
pub(crate) use cpu::{call_at, call_number, call_registers};

/// The calling thread's pointer to its context in OpenTelemetry's layout, null when the thread began.
#[inline(always)]
pub(crate) fn thread_context<'a>() -> &'a AtomicUsize {
    let word: *const AtomicUsize = cpu::thread_context().cast();
    // SAFETY: the word lies in the thread's own block, aligned, and is there as long as the thread; only the thread uses it.
    unsafe { &*word }
}

/// Bytes that each thread has for us, found without a call: a `thread_local!` of a library that was loaded at run time
/// gets its memory from the allocator at the first use, which is where ours is used. So the block is of the initial-exec
/// model, for which the loader sets room aside at once (64 bytes of the 512 and more that it has to spare).
pub const OWN_BLOCK: usize = 64;

/// A system call that a signal has interrupted, as far as registers and code tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interrupted {
    /// Its number, where the code names it or the register has it still.
    pub(crate) call: Option<u32>,
    /// Its first argument; a number that no descriptor has where it is lost.
    pub(crate) first: u64,
    /// Its second argument.
    pub(crate) second: u64,
}

/// The registers that tell of a system call: number or result, and what stands for the first two arguments.
pub(crate) type CallRegisters = [u64; 3];

/// A call's result where a signal has ended it: `-EINTR`.
const EINTR: u64 = -4_i64 as u64;

/// What the code before a return address does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallBefore {
    /// It calls this address.
    To(u64),
    /// It calls what a register or a word in memory says.
    Indirect,
    /// It does not call.
    None,
}

impl CallBefore {
    /// The call that ends at `pc`, of which the eight bytes before it are given.
    pub(crate) fn of(pc: u64, before: u64) -> Self {
        cpu::call_before(pc, before)
    }
}
