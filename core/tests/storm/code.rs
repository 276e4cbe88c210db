//! The handler's machine code: what it can reach, read from this test's own binary.
//!
//! An argument about source code would leave out what the compiler adds: checks that end in a panic, calls into the C
//! library. So every call and jump from `on_signal` on is followed, through the tables of the loader too.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// What may be reached beside the probe's own code, each with its reason.
const ALLOWED: &[&str] = &[
    // Copies of plain memory: they take no lock and touch nothing else.
    "memcpy",
    "memmove",
    "memset",
    // The way out if a runtime's `FrameSource` unwound, which its contract forbids: the process aborts.
    "panic_cannot_unwind",
    "_Unwind_Resume",
];

pub(crate) fn reaches_nothing_else() {
    if cfg!(debug_assertions) {
        // Overflow checks are in every addition there.
        return crate::skip_here("the handler's machine code", "this is a debug build: make test-storm");
    }
    if !cfg!(target_arch = "x86_64") {
        return crate::skip_here("the handler's machine code", "its reader knows x86_64 only");
    }
    let Some((code, tables)) = disassemble() else {
        return crate::skip("the handler's machine code", "there is no objdump (binutils)");
    };
    let program = Program::read(&code, &tables);
    let start = program.functions.keys().find(|name| name.contains("sigprof::on_signal")).unwrap();
    let (reached, foreign) = program.reach(start);
    println!("{} functions reached, {} of them foreign: {foreign:?}", reached.len(), foreign.len());
    assert!(reached.len() > 10, "the walk, the ring and the rest are among them: {reached:?}");
    assert!(reached.iter().any(|name| name.contains("Ring::push")));
    assert!(reached.iter().any(|name| name.contains("walk::walk")));
    let bad: Vec<_> =
        foreign.iter().filter(|name| !ALLOWED.iter().any(|allowed| name.contains(allowed))).collect();
    assert!(bad.is_empty(), "the handler can reach {bad:?}");
}

fn disassemble() -> Option<(String, String)> {
    let program = std::env::current_exe().unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new("objdump").args(arguments).arg(&program).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    Some((run(&["-d", "-C", "--no-show-raw-insn"])?, run(&["-R"])?))
}

struct Program<'t> {
    functions: BTreeMap<&'t str, Vec<&'t str>>,
    by_address: BTreeMap<u64, &'t str>,
    /// What the loader writes where: a function of another library by name, or an address of this program.
    relocated: BTreeMap<u64, &'t str>,
}

impl<'t> Program<'t> {
    fn read(code: &'t str, tables: &'t str) -> Self {
        let (mut functions, mut by_address) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::new());
        let mut current = "";
        for line in code.lines() {
            if let Some((address, name)) = line.strip_suffix(">:").and_then(|line| line.split_once(" <")) {
                current = name;
                by_address.insert(u64::from_str_radix(address, 16).unwrap(), name);
            } else if line.starts_with(' ') {
                functions.entry(current).or_default().push(line);
            }
        }
        let relocated = tables.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            Some((address, words.nth(1)?))
        });
        Self { functions, by_address, relocated: relocated.collect() }
    }

    /// Everything that code from `start` on calls, jumps to, or takes the address of through the loader's tables; and
    /// what of it is not the probe's. Foreign code is not followed.
    fn reach(&self, start: &'t str) -> (BTreeSet<&'t str>, BTreeSet<&'t str>) {
        let (mut reached, mut foreign) = (BTreeSet::new(), BTreeSet::new());
        let mut next = vec![start];
        while let Some(name) = next.pop() {
            if !reached.insert(name) {
                continue;
            }
            if !name.contains("everprof_probe") {
                foreign.insert(name);
                continue;
            }
            let lines = self.functions.get(name).into_iter().flatten();
            next.extend(lines.filter_map(|line| self.target(line)).filter(|target| *target != name));
        }
        (reached, foreign)
    }

    fn target(&self, line: &'t str) -> Option<&'t str> {
        let (_, instruction) = line.split_once(":\t")?;
        // Through a table: `call *0x123(%rip)  # 1d0f30 <…>`, or first into a register.
        if let Some((before, after)) = instruction.split_once("# ") {
            let address = u64::from_str_radix(after.split(' ').next()?, 16).ok()?;
            let name = self.relocated.get(&address)?;
            return match name.strip_prefix("*ABS*+0x") {
                Some(local) => self.by_address.get(&u64::from_str_radix(local, 16).ok()?).copied(),
                // Data of a table is no code, unless it is called.
                None if before.starts_with("call")
                    || before.starts_with("jmp")
                    || before.starts_with("mov") =>
                {
                    Some(name)
                }
                None => None,
            };
        }
        let is_branch = instruction.starts_with("call") || instruction.starts_with('j');
        let (_, target) = instruction.split_once('<').filter(|_| is_branch)?;
        let target = target.strip_suffix('>')?;
        Some(target.rsplit_once("+0x").map_or(target, |(name, _)| name))
    }
}
