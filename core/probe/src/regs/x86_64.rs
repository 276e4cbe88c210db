//! x86_64.

pub(crate) mod hook;

use core::arch::{asm, global_asm};
use core::ops::Range;

use super::{CallBefore, CallRegisters, EINTR, Interrupted};

/// DWARF's numbers of the registers that a walk carries from frame to frame.
pub(crate) const DWARF_SP: u8 = 7;
pub(crate) const DWARF_FP: u8 = 6;
/// rbx: LLVM's base pointer, and the register that the loader's lazy binding keeps its frame in.
pub(crate) const DWARF_BASE: u8 = 3;
pub(crate) const DWARF_RA: u64 = 16;

/// The relocations of words that hold a function's address: `R_X86_64_64` in data, and in slots for calls
/// `R_X86_64_GLOB_DAT` and `R_X86_64_JUMP_SLOT`.
pub(crate) const RELOCATION_ABSOLUTE: u32 = 1;
pub(crate) const RELOCATION_GLOB_DAT: u32 = 6;
pub(crate) const RELOCATION_JUMP_SLOT: u32 = 7;

/// A call pushes the return address: it lies at the stack pointer when a function is entered.
pub(crate) const WORD_STACK_CALL: bool = true;

/// The code that a signal handler returns to: `mov $15, %rax; syscall`.
pub(crate) const SIGRETURN: &[u8] = &[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];

/// How far its second instruction is from the first.
pub(crate) const SIGRETURN_SECOND: u64 = 7;

/// Where the registers lie in a signal frame, from the stack pointer of [`SIGRETURN`]: behind flags, link and stack of
/// the `ucontext_t`.
const SIGNAL_FRAME_REGISTERS: u64 = 40;

/// Where call-frame information puts the interrupted program counter, from that stack pointer: how a signal frame of the
/// kernel's making is told from other frames that are marked so.
pub(crate) const SIGNAL_FRAME_PC: Option<i64> = Some(SIGNAL_FRAME_REGISTERS as i64 + 16 * 8);

/// The registers of one moment: those that a stack walk needs, by name, and the rest as DWARF numbers them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Regs {
    /// The next instruction; for a caller, its return address.
    pub pc: u64,
    /// The stack pointer, rsp.
    pub sp: u64,
    /// The frame pointer, rbp.
    pub fp: u64,
    /// The base pointer, rbx.
    pub base: u64,
    all: [u64; 16],
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
        let registers = unsafe { &(*context).uc_mcontext.gregs };
        let [r8, r9, r10, r11, r12, r13, r14, r15, di, si, bp, bx, dx, ax, cx, sp, ip, ..] = *registers;
        Self::new(
            ip as u64,
            [ax, dx, cx, bx, si, di, bp, sp, r8, r9, r10, r11, r12, r13, r14, r15].map(|word| word as u64),
        )
    }

    /// Those of a thread that waits, of which no others are known: nothing lies at address 0.
    pub(crate) fn waiting(pc: u64, sp: u64) -> Self {
        Self { pc, sp, ..Self::default() }
    }

    /// Turns into the registers saved in the signal frame whose return code has the stack pointer that these have, read
    /// word by word with `read`. In place, since a handler has little stack. Async-signal-safe.
    pub(crate) fn resume(&mut self, read: impl Fn(u64) -> Option<u64>) -> Option<()> {
        let frame = self.sp.wrapping_add(SIGNAL_FRAME_REGISTERS);
        // The order of `gregs`, by DWARF number.
        const ORDER: [u8; 16] = [13, 12, 14, 11, 9, 8, 10, 15, 0, 1, 2, 3, 4, 5, 6, 7];
        for (value, index) in self.all.iter_mut().zip(ORDER) {
            *value = read(frame.wrapping_add(u64::from(index) * 8))?;
        }
        self.pc = read(frame.wrapping_add(16 * 8))?;
        [_, _, _, self.base, _, _, self.fp, self.sp, ..] = self.all;
        Some(())
    }

    /// Whether a signal frame lies at `sp`, though nothing is known of its return code: never, since that is the C
    /// library's here.
    pub(crate) fn is_signal_frame(_sp: u64, _read: impl Fn(u64) -> Option<u64>) -> bool {
        false
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
        let mut all = [0_u64; 16];
        let pc: u64;
        // SAFETY: the instructions store registers into `all` and change nothing else.
        unsafe {
            asm!(
                "mov [{all} + 24], rbx",
                "mov [{all} + 48], rbp",
                "mov [{all} + 56], rsp",
                "mov [{all} + 96], r12",
                "mov [{all} + 104], r13",
                "mov [{all} + 112], r14",
                "mov [{all} + 120], r15",
                "lea {pc}, [rip]",
                all = in(reg) all.as_mut_ptr(),
                pc = lateout(reg) pc,
                options(nostack, preserves_flags)
            )
        };
        Self::new(pc, all)
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
    fn new(pc: u64, all: [u64; 16]) -> Self {
        let [_, _, _, base, _, _, fp, sp, ..] = all;
        Self { pc, sp, fp, base, all }
    }
}

/// The instruction of a system call.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// The first byte of `mov $number, %eax`, which mostly stands before it.
const MOV_EAX: u8 = 0xb8;

/// What a system call leaves in the registers that a signal interrupted: rax, rdi and rsi. Async-signal-safe.
///
/// # Safety
///
/// `context` must be the third argument of a handler installed with `SA_SIGINFO`.
pub(crate) unsafe fn call_registers(context: *const libc::c_void) -> CallRegisters {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: by the caller's promise this is a live `ucontext_t`.
    let registers = unsafe { &(*context).uc_mcontext.gregs };
    let [.., di, si, _, _, _, ax, _, _, _, _, _, _, _, _, _] = *registers;
    [ax, di, si].map(|word| word as u64)
}

/// The system call that was interrupted where the code is `before` and `after` the program counter; `None` where there
/// is none. One that the kernel begins again stands before the counter's instruction, with its number back in rax; of
/// one that failed, the result is in its place, and the code before it mostly names the number.
pub(crate) fn call_at(registers: CallRegisters, before: [u8; 8], after: [u8; 8]) -> Option<Interrupted> {
    let [ax, first, second] = registers;
    let call = if after.starts_with(&SYSCALL) {
        Some(ax as u32)
    } else if before.ends_with(&SYSCALL) && ax == EINTR {
        call_number(before)
    } else {
        return None;
    };
    Some(Interrupted { call, first, second })
}

/// The number of the system call that the code `before` the program counter makes, where it names one.
pub(crate) fn call_number(before: [u8; 8]) -> Option<u32> {
    let [_, mov, one, two, three, four, last @ ..] = before;
    (last == SYSCALL && mov == MOV_EAX).then_some(u32::from_le_bytes([one, two, three, four]))
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

/// A clock that costs no call: the time-stamp counter, at a rate of its own. Async-signal-safe.
#[inline]
pub fn ticks() -> u64 {
    // SAFETY: the instruction reads a counter and nothing else.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// A word that is unique to the calling thread for as long as it lives: its thread-control block's address.
/// Async-signal-safe.
#[inline]
pub fn thread_pointer() -> u64 {
    let pointer: u64;
    // SAFETY: on Linux the word at fs:0 is the thread-control block's own address, for every thread.
    unsafe { asm!("mov {}, fs:[0]", out(reg) pointer, options(nostack, preserves_flags, readonly, pure)) };
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
    // SAFETY: two loads, of the block's distance from the thread pointer, which the loader has written before any code of
    // this object runs, and of the thread pointer, as above. Not `pure`: a coroutine may have changed the thread since.
    unsafe {
        asm!(
            concat!("mov {0}, qword ptr [rip + ", own_block_symbol!(), "@GOTTPOFF]"),
            "add {0}, qword ptr fs:[0]",
            out(reg) block,
            options(nostack, readonly)
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
            "mov {0}, qword ptr [rip + otel_thread_ctx_v1@GOTTPOFF]",
            "add {0}, qword ptr fs:[0]",
            out(reg) word,
            options(nostack, readonly)
        )
    };
    word
}

/// What a return address found on a stack means: itself.
#[inline]
pub(crate) fn return_address(word: u64) -> u64 {
    word
}

/// See [`CallBefore::of`].
pub(crate) fn call_before(pc: u64, before: u64) -> CallBefore {
    let bytes = before.to_le_bytes();
    if let [_, _, _, 0xe8, distance @ ..] = bytes {
        return CallBefore::To(pc.wrapping_add_signed(i64::from(i32::from_le_bytes(distance))));
    }
    // The second opcode of group five, in all its lengths: by mode, and whether an index or a bare displacement follows.
    let calls = |opcode: u8, form: u8, mode: u8, is: fn(u8) -> bool| {
        opcode == 0xff && form >> 3 & 7 == 2 && form >> 6 == mode && is(form & 7)
    };
    let [_, a, b, c, d, e, f, g] = bytes;
    let indirect = calls(f, g, 3, |_| true)
        || calls(f, g, 0, |base| base != 4 && base != 5)
        || calls(e, f, 1, |base| base != 4)
        || calls(e, f, 0, |base| base == 4)
        || calls(d, e, 1, |base| base == 4)
        || calls(b, c, 2, |base| base != 4)
        || calls(b, c, 0, |base| base == 5)
        || calls(a, b, 2, |base| base == 4);
    if indirect { CallBefore::Indirect } else { CallBefore::None }
}

/// The step of a function's entry that sets its frame pointer: `mov %rsp, %rbp`, after `push %rbp`.
pub(crate) const SET_FRAME: &[u8] = &[0x48, 0x89, 0xe5];

/// From the stack pointer up to the frame pointer of a function while it calls others, from the code after [`SET_FRAME`]: the
/// registers that it saves, and the room that it makes. `None` where it aligns its stack, so that code does not tell.
pub(crate) fn frame_distance(mut code: &[u8]) -> Option<u64> {
    let mut distance = 0;
    loop {
        (distance, code) = match code {
            [0x50..=0x57, rest @ ..] | [0x41, 0x50..=0x57, rest @ ..] => (distance + 8, rest),
            [0x48, 0x83, 0xec, size, ..] => return Some(distance + u64::from(*size)),
            [0x48, 0x81, 0xec, a, b, c, d, ..] => {
                return Some(distance + u64::from(u32::from_le_bytes([*a, *b, *c, *d])));
            }
            [0x48, 0x83 | 0x81, 0xe4, ..] => return None,
            _ => return Some(distance),
        };
    }
}

/// The room that a function makes for its variables, from the code after [`SET_FRAME`], in which other work may lie between
/// the steps; 0 where none is seen. Bytes of that work may look like it: what comes of it has to be checked.
pub(crate) fn frame_room(code: &[u8]) -> u64 {
    let mut rest = code;
    loop {
        match rest {
            [0x48, 0x83, 0xec, size, ..] if *size < 0x80 => return (*size).into(),
            [0x48, 0x81, 0xec, a, b, c, 0, ..] => return u32::from_le_bytes([*a, *b, *c, 0]).into(),
            [_, after @ ..] => rest = after,
            [] => return 0,
        }
    }
}

/// Of a call that ends at `pc`, through a word that the code names, where that word is.
pub(crate) fn called_slot(pc: u64, before: u64) -> Option<u64> {
    match before.to_le_bytes() {
        [_, _, 0xff, 0x15, distance @ ..] => {
            Some(pc.wrapping_add_signed(i32::from_le_bytes(distance).into()))
        }
        _ => None,
    }
}

/// Of a stub at `at` that begins with `code` and jumps through a word, where that word is.
pub(crate) fn jumped_slot(at: u64, code: u64) -> Option<u64> {
    match code.to_le_bytes() {
        [0xff, 0x25, a, b, c, d, ..] => {
            Some(at.wrapping_add(6).wrapping_add_signed(i32::from_le_bytes([a, b, c, d]).into()))
        }
        _ => None,
    }
}

/// How long an entry of a procedure linkage table is.
pub(crate) const PLT: usize = 16;

/// Of an entry of a linkage table that linkers write without information: from which bytes on its stack holds how many
/// words above the stack pointer, the return address's included. `None` for other code.
pub(crate) fn plt_entry(code: &[u8; PLT]) -> Option<[(u8, u8); 2]> {
    let (body, at) = match code {
        // endbr64, and bnd before the jump, as processors with control-flow protection want it.
        [0xf3, 0x0f, 0x1e, 0xfa, 0xf2, body @ ..] => (&body[..], 5),
        [0xf3, 0x0f, 0x1e, 0xfa, body @ ..] => (&body[..], 4),
        [0xf2, body @ ..] => (&body[..], 1),
        body => (&body[..], 0),
    };
    match body {
        // jmp *slot(%rip); push $number; jmp to the first entry
        [0xff, 0x25, _, _, _, _, 0x68, _, _, _, _, 0xe9, ..] => Some([(0, 1), (at + 11, 2)]),
        // jmp *slot(%rip), and something that is never reached
        [0xff, 0x25, _, _, _, _, 0xcc | 0x66 | 0x0f | 0x90, ..] => Some([(0, 1), (at + 6, 1)]),
        // mov $number, %r11d; jmp *slot(%rip)
        [0x41, 0xbb, _, _, _, _, 0xff, 0x25, ..] => Some([(0, 1), (1, 1)]),
        // push $number; jmp to the first entry
        [0x68, _, _, _, _, 0xe9, ..] | [0x68, _, _, _, _, 0xf2, 0xe9, ..] => Some([(0, 1), (at + 5, 2)]),
        // The first: push what identifies the module; jmp *to the binder
        [0xff, 0x35, _, _, _, _, 0xff, 0x25, ..] => Some([(0, 2), (at + 6, 3)]),
        [0xff, 0x35, _, _, _, _, 0xf2, 0xff, 0x25, ..] => Some([(0, 2), (at + 6, 3)]),
        _ => None,
    }
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
        asm!("mov {}, [{}]", out(reg) value, in(reg) address, options(nostack, preserves_flags, readonly))
    };
    value
}

/// Asks the kernel for a change of the signal mask that there is none of, by the set at `address`: says what it answers, which is
/// that it cannot read the set, or that it does not know the change. Not by the C library, which would change `errno`.
#[inline]
pub(crate) fn impossible_mask(address: u64) -> i64 {
    let answer: i64;
    // SAFETY: the call changes nothing, and the kernel checks the address by itself; the registers that it overwrites are named.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") libc::SYS_rt_sigprocmask => answer,
            in("rdi") -1_i64,
            in("rsi") address,
            in("rdx") 0,
            in("r10") 8,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        )
    };
    answer
}

/// Asks for the cache line at `address`. A hint: it cannot fault, whatever the address.
#[inline]
pub(crate) fn prefetch(address: u64) {
    // SAFETY: touches no register and no memory that the program could notice.
    unsafe { asm!("prefetcht0 [{}]", in(reg) address, options(nostack, preserves_flags, readonly)) };
}
