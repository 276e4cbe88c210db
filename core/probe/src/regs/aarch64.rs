//! aarch64.

pub(crate) mod hook;

use core::arch::{asm, global_asm};
use core::ops::Range;

use super::{CallBefore, CallRegisters, EINTR, Interrupted};

/// DWARF's numbers of the registers that a walk carries from frame to frame.
pub(crate) const DWARF_SP: u8 = 31;
pub(crate) const DWARF_FP: u8 = 29;
/// The relocations of words that hold a function's address: `R_AARCH64_ABS64` in data, and in slots for calls
/// `R_AARCH64_GLOB_DAT` and `R_AARCH64_JUMP_SLOT`.
pub(crate) const RELOCATION_ABSOLUTE: u32 = 257;
pub(crate) const RELOCATION_GLOB_DAT: u32 = 1025;
pub(crate) const RELOCATION_JUMP_SLOT: u32 = 1026;

/// x19: LLVM's base pointer.
pub(crate) const DWARF_BASE: u8 = 19;
pub(crate) const DWARF_RA: u64 = 30;

/// A call leaves the return address in a register: nothing of it is on the stack when a function is entered.
pub(crate) const WORD_STACK_CALL: bool = false;

/// The code that a signal handler returns to: `mov x8, #139; svc #0`.
pub(crate) const SIGRETURN: &[u8] = &[0x68, 0x11, 0x80, 0xd2, 0x01, 0, 0, 0xd4];

/// How far its second instruction is from the first.
pub(crate) const SIGRETURN_SECOND: u64 = 4;

/// Where the registers lie in a signal frame, from the stack pointer of [`SIGRETURN`]: behind the `siginfo_t` of 128
/// bytes, and the flags, link, stack, mask and fault address of the `ucontext_t`.
const SIGNAL_FRAME_REGISTERS: u64 = 128 + 176 + 8;

/// Where call-frame information puts the interrupted program counter: it names the link register instead, so every frame
/// that is marked as a signal's is taken for the kernel's.
pub(crate) const SIGNAL_FRAME_PC: Option<i64> = None;

/// User addresses have 48 bits; what is above them in a return address is its signature (pointer authentication).
const ADDRESS: u64 = (1 << 48) - 1;

/// The registers of one moment: those that a stack walk needs, by name, and the rest as DWARF numbers them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Regs {
    /// The next instruction; for a caller, its return address.
    pub pc: u64,
    /// The stack pointer.
    pub sp: u64,
    /// The frame pointer, x29.
    pub fp: u64,
    /// The base pointer, x19.
    pub base: u64,
    /// The link register, x30. Callers keep the value of the interrupted frame here: it means nothing to them.
    pub lr: u64,
    all: [u64; 31],
}

impl Regs {
    /// The registers that a signal interrupted. Async-signal-safe.
    ///
    /// # Safety
    ///
    /// `context` must be the third argument of a handler installed with `SA_SIGINFO`.
    #[inline]
    pub unsafe fn from_ucontext(context: *const libc::c_void) -> Self {
        let context = context.cast::<libc::ucontext_t>();
        // SAFETY: by the caller's promise this is a live `ucontext_t`.
        let machine = unsafe { &(*context).uc_mcontext };
        Self::new(machine.pc, machine.sp, machine.regs)
    }

    /// Those of a thread that waits, of which no others are known: nothing lies at address 0.
    pub(crate) fn waiting(pc: u64, sp: u64) -> Self {
        Self { pc, sp, ..Self::default() }
    }

    /// Turns into the registers saved in the signal frame whose return code has the stack pointer that these have, read
    /// word by word with `read`. In place, since a handler has little stack. Async-signal-safe.
    pub(crate) fn resume(&mut self, read: impl Fn(u64) -> Option<u64>) -> Option<()> {
        let frame = self.sp.wrapping_add(SIGNAL_FRAME_REGISTERS);
        for (value, index) in self.all.iter_mut().zip(0..) {
            *value = read(frame.wrapping_add(index * 8))?;
        }
        self.sp = read(frame.wrapping_add(31 * 8))?;
        self.pc = read(frame.wrapping_add(32 * 8))?;
        [.., self.base, _, _, _, _, _, _, _, _, _, self.fp, self.lr] = self.all;
        Some(())
    }

    /// Whether a signal frame lies at `sp`, told by the mark of the floating-point registers that every one holds: the
    /// return code may be in a page that belongs to no module. Async-signal-safe.
    pub(crate) fn is_signal_frame(sp: u64, read: impl Fn(u64) -> Option<u64>) -> bool {
        const MARK: u64 = 0x210_4650_8001;
        read(sp.wrapping_add(128 + 464)) == Some(MARK)
    }

    /// The registers of the function that this is written in, for a walk outside of signals. That function must not
    /// return before the walk is over.
    ///
    /// ```
    /// let here = everprof_probe::regs::Regs::here();
    /// assert!(here.sp != 0 && here.pc != 0);
    /// ```
    #[inline(always)]
    pub fn here() -> Self {
        let mut all = [0_u64; 31];
        let pc: u64;
        let sp: u64;
        // SAFETY: the instructions store registers into `all` and change nothing else.
        unsafe {
            asm!(
                "stp x18, x19, [{all}, #144]",
                "stp x20, x21, [{all}, #160]",
                "stp x22, x23, [{all}, #176]",
                "stp x24, x25, [{all}, #192]",
                "stp x26, x27, [{all}, #208]",
                "stp x28, x29, [{all}, #224]",
                "str x30, [{all}, #240]",
                "mov {sp}, sp",
                "adr {pc}, .",
                all = in(reg) all.as_mut_ptr(),
                sp = out(reg) sp,
                pc = lateout(reg) pc,
                options(nostack, preserves_flags)
            )
        };
        Self::new(pc, sp, all)
    }

    /// The register that DWARF numbers `number`, as it was in the interrupted frame: only those in public fields are
    /// carried on to callers.
    #[inline]
    pub(crate) fn get(&self, number: u8) -> Option<u64> {
        match number {
            DWARF_SP => Some(self.sp),
            DWARF_FP => Some(self.fp),
            DWARF_BASE => Some(self.base),
            _ => self.all.get(usize::from(number)).copied(),
        }
    }

    #[inline]
    fn new(pc: u64, sp: u64, all: [u64; 31]) -> Self {
        let [.., base, _, _, _, _, _, _, _, _, _, fp, lr] = all;
        Self { pc, sp, fp, base, lr, all }
    }
}

/// The instruction of a system call: `svc #0`.
const SVC: [u8; 4] = [0x01, 0, 0, 0xd4];

/// What a system call leaves in the registers that a signal interrupted: x8, x0 and x1. Async-signal-safe.
///
/// # Safety
///
/// `context` must be the third argument of a handler installed with `SA_SIGINFO`.
pub(crate) unsafe fn call_registers(context: *const libc::c_void) -> CallRegisters {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: by the caller's promise this is a live `ucontext_t`.
    let registers = unsafe { &(*context).uc_mcontext.regs };
    let [first, second, _, _, _, _, _, _, number, ..] = *registers;
    [number, first, second]
}

/// The system call that was interrupted where the code is `before` and `after` the program counter; `None` where there
/// is none. Its number stays in x8; where it failed, the result has taken the place of the first argument.
pub(crate) fn call_at(registers: CallRegisters, before: [u8; 8], after: [u8; 8]) -> Option<Interrupted> {
    let [number, first, second] = registers;
    let first = if after.starts_with(&SVC) {
        first
    } else if before.ends_with(&SVC) && first == EINTR {
        u64::MAX
    } else {
        return None;
    };
    Some(Interrupted { call: Some(number as u32), first, second })
}

/// The number of the system call that the code `before` the program counter makes, where it names one:
/// `mov x8, #number; svc #0`.
pub(crate) fn call_number(before: [u8; 8]) -> Option<u32> {
    let [one, two, three, four, last @ ..] = before;
    let mov = u32::from_le_bytes([one, two, three, four]);
    (last == SVC && mov & 0xffe0_001f == 0xd280_0008).then_some(mov >> 5 & 0xffff)
}

/// The alternate signal stack in force when the signal came; empty where there is none. Async-signal-safe.
///
/// # Safety
///
/// `context` must be the third argument of a handler installed with `SA_SIGINFO`.
pub unsafe fn altstack(context: *const libc::c_void) -> Range<u64> {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: by the caller's promise this is a live `ucontext_t`.
    let stack = unsafe { &(*context).uc_stack };
    if stack.ss_flags & libc::SS_DISABLE != 0 {
        return 0..0;
    }
    let start = stack.ss_sp as u64;
    start..start.saturating_add(stack.ss_size as u64)
}

/// A clock that costs no call: the virtual counter, at a rate of its own. Async-signal-safe.
#[inline]
pub fn ticks() -> u64 {
    let ticks: u64;
    // SAFETY: the instruction reads a counter that user space may read, and nothing else.
    unsafe {
        core::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack, preserves_flags))
    };
    ticks
}

/// A word that is unique to the calling thread for as long as it lives: its thread-control block's address.
/// Async-signal-safe.
#[inline]
pub fn thread_pointer() -> u64 {
    let pointer: u64;
    // SAFETY: reading the register has no effect.
    unsafe { asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, preserves_flags, nomem, pure)) };
    pointer
}

// The calling thread's own block: see [`super::OWN_BLOCK`]. Its name has the version in it, so that two versions of this
// crate can be linked into one program.
global_asm!(
    ".pushsection .tbss.everprof, \"awT\", @nobits",
    ".p2align 6",
    concat!(".globl ", own_block_symbol!()),
    concat!(".hidden ", own_block_symbol!()),
    concat!(".type ", own_block_symbol!(), ", @object"),
    concat!(".size ", own_block_symbol!(), ", 64"),
    concat!(own_block_symbol!(), ":"),
    ".zero 64",
    ".popsection",
);

/// The calling thread's own block of [`super::OWN_BLOCK`] bytes, zeroed when the thread began and there until it is gone.
/// Async-signal-safe. Not to be kept by code that may go on on another thread, such as a coroutine.
#[inline(always)]
pub fn own_block() -> *mut u8 {
    let block: *mut u8;
    // SAFETY: reads the block's distance from the thread pointer, which the loader has written before any code of this
    // object runs, and the thread pointer. Not `pure`: a coroutine may have changed the thread since.
    unsafe {
        asm!(
            concat!("adrp {distance}, :gottprel:", own_block_symbol!()),
            concat!("ldr {distance}, [{distance}, :gottprel_lo12:", own_block_symbol!(), "]"),
            "mrs {block}, tpidr_el0",
            "add {block}, {block}, {distance}",
            distance = out(reg) _,
            block = out(reg) block,
            options(nostack, preserves_flags, readonly)
        )
    };
    block
}

// The word by which OpenTelemetry's thread context is found (OTEP 4947). Weak, so that another one of the program's takes its
// place; to be seen from outside it has to be in the table of dynamic symbols, which is a matter of how the program is linked.
global_asm!(
    ".pushsection .tbss.otel_thread_ctx_v1, \"awT\", @nobits",
    ".p2align 3",
    ".weak otel_thread_ctx_v1",
    ".type otel_thread_ctx_v1, @object",
    ".size otel_thread_ctx_v1, 8",
    "otel_thread_ctx_v1:",
    ".zero 8",
    ".popsection",
);

/// The calling thread's pointer to its context, null when the thread began. Kept like [`own_block`].
#[inline(always)]
pub(super) fn thread_context() -> *mut u8 {
    let word: *mut u8;
    // SAFETY: as in `own_block`.
    unsafe {
        asm!(
            "adrp {distance}, :gottprel:otel_thread_ctx_v1",
            "ldr {distance}, [{distance}, :gottprel_lo12:otel_thread_ctx_v1]",
            "mrs {word}, tpidr_el0",
            "add {word}, {word}, {distance}",
            distance = out(reg) _,
            word = out(reg) word,
            options(nostack, preserves_flags, readonly)
        )
    };
    word
}

/// What a return address found on a stack means: its address without the signature.
#[inline]
pub(crate) fn return_address(word: u64) -> u64 {
    word & ADDRESS
}

/// See [`CallBefore::of`].
pub(crate) fn call_before(pc: u64, before: u64) -> CallBefore {
    let instruction = (before >> 32) as u32;
    if instruction >> 26 == 0b10_0101 {
        // The low 26 bits say how many instructions away.
        let distance = i64::from((instruction << 6) as i32 >> 6) * 4;
        return CallBefore::To((pc - 4).wrapping_add_signed(distance));
    }
    // blr, and its forms that check a signature.
    let indirect = instruction & 0xffff_fc1f == 0xd63f_0000 || instruction & 0xfeff_f800 == 0xd63f_0800;
    if indirect { CallBefore::Indirect } else { CallBefore::None }
}

/// The step of a function's entry that sets its frame pointer. Nothing is known of it here: a thread that waits is seen as far as
/// rules by the stack pointer lead.
pub(crate) const SET_FRAME: &[u8] = &[0; 4];

/// See the other processor.
pub(crate) fn frame_distance(_code: &[u8]) -> Option<u64> {
    None
}

/// See the other processor.
pub(crate) fn frame_room(_code: &[u8]) -> u64 {
    0
}

/// See the other processor.
pub(crate) fn called_slot(_pc: u64, _before: u64) -> Option<u64> {
    None
}

/// See the other processor.
pub(crate) fn jumped_slot(_at: u64, _code: u64) -> Option<u64> {
    None
}

/// How long an entry of a procedure linkage table is.
pub(crate) const PLT: usize = 16;

/// Of an entry of a linkage table that linkers write without information: from which bytes on its stack holds how many
/// words above the stack pointer. `None` for other code.
pub(crate) fn plt_entry(code: &[u8; PLT]) -> Option<[(u8, u8); 2]> {
    let (instructions, _) = code.as_chunks::<4>();
    let [first, second, third, fourth] = instructions else { return None };
    let [first, second, third, fourth] = [first, second, third, fourth].map(|word| u32::from_le_bytes(*word));
    // adrp x16; ldr x17, [x16, …]; add x16, x16, …; br x17
    let jumps = first & 0x9f00_001f == 0x9000_0010
        && second & 0xffc0_03ff == 0xf940_0211
        && third & 0xffc0_03ff == 0x9100_0210
        && fourth == 0xd61f_0220;
    jumps.then_some([(0, 0), (4, 0)])
}

/// One load of memory that Rust knows nothing about: another frame's variables, aligned or not.
///
/// # Safety
///
/// The eight bytes at `address` must be readable.
#[inline]
pub(crate) unsafe fn load(address: u64) -> u64 {
    let value: u64;
    // SAFETY: the caller promises that the eight bytes are readable; the processor does not mind alignment.
    unsafe {
        asm!("ldr {}, [{}]", out(reg) value, in(reg) address, options(nostack, preserves_flags, readonly))
    };
    value
}

/// Asks the kernel for a change of the signal mask that there is none of, by the set at `address`: says what it answers, which is
/// that it cannot read the set, or that it does not know the change. Not by the C library, which would change `errno`.
#[inline]
pub(crate) fn impossible_mask(address: u64) -> i64 {
    let answer: i64;
    // SAFETY: the call changes nothing, and the kernel checks the address by itself.
    unsafe {
        asm!(
            "svc 0",
            in("x8") libc::SYS_rt_sigprocmask,
            inlateout("x0") -1_i64 => answer,
            in("x1") address,
            in("x2") 0,
            in("x3") 8,
            options(nostack)
        )
    };
    answer
}

/// Asks for the cache line at `address`. A hint: it cannot fault, whatever the address.
#[inline]
pub(crate) fn prefetch(address: u64) {
    // SAFETY: touches no register and no memory that the program could notice.
    unsafe { asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly)) };
}
