//! Shared objects compiled by the system's compilers, and modules as if they were mapped.

use std::ffi::{CString, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;

use everprof::symbolize::{Module, Symbolizer, Symbols, maps};

/// A folder of the test's own, empty.
pub fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("symbolize-{name}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Whether the tools are there; says so loudly where they are not, and fails in CI.
pub fn tools(test: &str) -> bool {
    all_of(&["g++", "objcopy", "strip"], test)
}

/// The same for these tools.
pub fn all_of(tools: &[&str], test: &str) -> bool {
    let missing: Vec<_> = tools
        .iter()
        .filter(|tool| {
            !Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success())
        })
        .collect();
    if missing.is_empty() {
        return true;
    }
    eprintln!("SKIPPED {test}: no {missing:?}");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} must run in CI: install {missing:?}");
    false
}

/// Compiles shapes.cc with `flags` into a shared object.
pub fn compile(folder: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let target = folder.join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/symbolize/shapes.cc");
    let mut command = Command::new("g++");
    command.args(["-O1", "-fPIC", "-shared", "-o"]).arg(&target).arg(source).args(flags).current_dir(folder);
    run(&mut command);
    target
}

pub fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The number of the line in shapes.cc that ends in a marker.
pub fn line_of(marker: &str) -> u32 {
    let text = include_str!("shapes.cc");
    text.lines().position(|line| line.ends_with(&format!("// {marker}"))).unwrap() as u32 + 1
}

/// A shared object in this process, until the end of the process.
pub struct Loaded(*mut c_void);

impl Loaded {
    pub fn open(path: &Path) -> Self {
        let path = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the object's constructors do nothing.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!handle.is_null());
        Self(handle)
    }

    /// The address of an exported function.
    pub fn function(&self, name: &str) -> u64 {
        let name = CString::new(name).unwrap();
        // SAFETY: the handle is open.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!address.is_null());
        address as u64
    }

    /// The module that has an address, as the process' map says now.
    pub fn module(&self, address: u64) -> Module {
        maps::own().unwrap().into_iter().find(|module| module.contains(address)).unwrap()
    }
}

/// All that is known about the bytes from `address` on.
pub fn around(symbolizer: &mut Symbolizer, loaded: &Loaded, address: u64) -> Vec<Symbols> {
    let addresses: Vec<u64> = (address..address + 160).collect();
    symbolizer.resolve(&loaded.module(address), &addresses)
}

pub fn shapes(symbols: &[Symbols]) -> Vec<Vec<(&str, u32, bool)>> {
    symbols
        .iter()
        .map(|symbols| {
            symbols
                .iter()
                .map(|frame| (frame.name.split('(').next().unwrap(), frame.line, frame.inlined))
                .collect()
        })
        .collect()
}

/// The chain that every complete file must show somewhere in `shapes_total`.
pub fn assert_complete(symbols: &[Symbols], what: &str) {
    let seen = shapes(symbols);
    let wanted = [
        ("shapes::mix", line_of("mix"), true),
        ("shapes::Square<int>::area", line_of("area"), true),
        ("shapes_total", line_of("total"), false),
    ];
    let found = seen.iter().any(|chain| {
        chain.iter().map(|frame| (frame.1, frame.2)).eq(wanted.map(|frame| (frame.1, frame.2)))
            && chain
                .iter()
                .zip(wanted)
                .all(|(frame, wanted)| frame.0 == wanted.0 || wanted.0.ends_with(&format!("::{}", frame.0)))
    });
    assert!(found, "{what}: {seen:#?}");
    let outermost = symbols.iter().find_map(|symbols| symbols.last()).unwrap();
    assert!(outermost.file.ends_with("tests/symbolize/shapes.cc"), "{what}: {outermost:?}");
    assert!(outermost.start_line > 0, "{what}: {outermost:?}");
}
