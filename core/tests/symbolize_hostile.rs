//! Files that nobody made for us: names that are too long or no text, units of gigabytes, code without a file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, unreachable_pub, dead_code)]

#[path = "symbolize/fixture.rs"]
mod fixture;

use std::os::fd::{AsRawFd, FromRawFd};
use std::path::Path;
use std::process::Command;

use everprof::symbolize::{Mode, Options, Reason, Symbolizer, Symbols, maps};
use fixture::{Loaded, around, assert_complete, compile, folder, run, tools};

/// The address of a function of the test binary, and what it is called.
#[inline(never)]
fn probe_me() -> u64 {
    std::hint::black_box(probe_me as *const () as u64)
}

fn names_of(symbols: &[Symbols]) -> Vec<&str> {
    symbols.iter().flat_map(|symbols| symbols.iter()).map(|frame| &*frame.name).collect()
}

#[test]
fn names_of_megabytes_are_cut_and_other_bytes_are_replaced() {
    if !tools("names_of_megabytes_are_cut_and_other_bytes_are_replaced") {
        return;
    }
    let folder = folder("names");
    let path = compile(&folder, "names.so", &[]);
    let list = folder.join("list");
    for (new, length) in
        [(vec![b'n'; 3 << 20], 8 * 1024), (b"caf\xe9\xff".to_vec(), "caf\u{fffd}\u{fffd}".len())]
    {
        std::fs::write(&list, [&b"_ZL6hiddeni "[..], &new, b"\n"].concat()).unwrap();
        let renamed = folder.join("renamed.so");
        let argument = format!("--redefine-syms={}", list.display());
        run(Command::new("objcopy").arg(argument).arg(&path).arg(&renamed));
        let image = std::fs::read(&renamed).unwrap();
        let offsets: Vec<u64> = (0x1000..0x1400).collect();
        let mut symbolizer = Symbolizer::new(Options::default());
        let symbols = symbolizer.resolve_image(image, &offsets);
        let names = names_of(&symbols);
        assert!(names.contains(&"shapes_total"), "{names:?}");
        let start = String::from_utf8_lossy(&new[..3]).into_owned();
        let name = names.iter().find(|name| name.starts_with(&start)).expect("the renamed function");
        assert_eq!(name.len(), length);
    }
}

#[test]
fn a_unit_of_gigabytes_is_over_the_budget_and_its_functions_have_names() {
    if !tools("a_unit_of_gigabytes_is_over_the_budget_and_its_functions_have_names") {
        return;
    }
    let path = compile(&folder("huge"), "huge.so", &["-gdwarf-4", "-Wl,--build-id=sha1"]);
    let mut image = std::fs::read(&path).unwrap();
    let long = |image: &[u8], at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap()) as usize;
    let name = |image: &[u8], header: usize| {
        let names = long(image, 40) + 64 * usize::from(u16::from_le_bytes([image[62], image[63]]));
        let start =
            long(image, names + 24) + u32::from_le_bytes(*image[header..].first_chunk().unwrap()) as usize;
        image[start..].split(|&byte| byte == 0).next().unwrap().to_vec()
    };
    let headers =
        (0..usize::from(u16::from_le_bytes([image[60], image[61]]))).map(|at| long(&image, 40) + 64 * at);
    let header = headers.into_iter().find(|&header| name(&image, header) == b".debug_info").unwrap();
    // The unit goes on behind the end of what is written: the rest of the file is a hole.
    const SIZE: u64 = 3 << 29;
    let content = image[long(&image, header + 24)..][..long(&image, header + 32)].to_vec();
    let place = image.len();
    image[header + 24..header + 32].copy_from_slice(&(place as u64).to_le_bytes());
    image[header + 32..header + 40].copy_from_slice(&SIZE.to_le_bytes());
    image.extend((SIZE as u32 - 4).to_le_bytes());
    image.extend(&content[4..]);
    std::fs::write(&path, &image).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(place as u64 + SIZE).unwrap();
    let loaded = Loaded::open(&path);
    let mut symbolizer = Symbolizer::new(Options::default());
    let symbols = around(&mut symbolizer, &loaded, loaded.function("shapes_total"));
    assert_eq!(&*symbols[0][0].name, "shapes_total");
    assert!(symbols[0][0].line > 0, "lines are not in the unit: {:?}", symbols[0]);
    assert_eq!(symbolizer.stats().failures(Reason::OverBudget), 1);
    assert!(symbolizer.stats().peak_bytes < 25 << 20);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn code_in_a_file_without_a_name() {
    if !tools("code_in_a_file_without_a_name") {
        return;
    }
    let image = std::fs::read(compile(&folder("memfd"), "code.so", &["-g", "-Wl,--build-id=sha1"])).unwrap();
    // SAFETY: the name is a string.
    let descriptor = unsafe { libc::memfd_create(c"code".as_ptr(), 0) };
    assert!(descriptor >= 0);
    // SAFETY: the descriptor is new, and nobody else's.
    let file = unsafe { std::fs::File::from_raw_fd(descriptor) };
    std::io::Write::write_all(&mut &file, &image).unwrap();
    let loaded = Loaded::open(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())));
    let address = loaded.function("shapes_total");
    let module = loaded.module(address);
    assert!(module.deleted && module.path.starts_with("/memfd:code"), "{module:?}");
    let mut symbolizer = Symbolizer::new(Options::default());
    let symbols = around(&mut symbolizer, &loaded, address);
    if symbolizer.stats().failures(Reason::Missing) == 0 {
        assert_complete(&symbols, "memfd");
    } else {
        // The kernel gives the file to a privileged process only.
        assert!(names_of(&symbols).is_empty(), "{symbols:?}");
    }
}

/// Names itself as a process whose file is gone, or another one by now: a deploy replaces binaries that run.
#[test]
fn the_running_program_has_names_when_its_file_is_deleted_or_replaced() {
    const CHILD: &str = "EVERPROF_TEST_CHILD";
    const NAME: &str = "the_running_program_has_names_when_its_file_is_deleted_or_replaced";
    if let Some(way) = std::env::var_os(CHILD) {
        let path = std::env::current_exe().unwrap();
        std::fs::remove_file(&path).unwrap();
        if way == "replace" {
            std::fs::copy("/bin/true", &path).unwrap();
        }
        let address = probe_me();
        let modules = maps::own().unwrap();
        assert!(modules[0].deleted && modules[0].contains(address), "{:?}", modules[0]);
        for mode in [Mode::Names, Mode::Lines] {
            let mut symbolizer = Symbolizer::new(Options { mode, ..Options::default() });
            let symbols = symbolizer.resolve(&modules[0], &[address]);
            assert!(symbols[0].last().unwrap().name.ends_with("::probe_me"), "{symbols:?}");
            assert_eq!(Reason::ALL.map(|reason| symbolizer.stats().failures(reason)), [0; 5]);
        }
        return;
    }
    for way in ["delete", "replace"] {
        let copy = folder(&format!("running-{way}")).join("program");
        std::fs::copy("/proc/self/exe", &copy).unwrap();
        let child = Command::new(&copy).args(["--exact", NAME]).env(CHILD, way).output().unwrap();
        assert!(child.status.success(), "{way}: {}", String::from_utf8_lossy(&child.stdout));
    }
}

/// Assembles `source` into a shared object.
fn assemble(folder: &Path, name: &str, source: &str) -> std::path::PathBuf {
    let (path, text) = (folder.join(name), folder.join("source.s"));
    std::fs::write(&text, source).unwrap();
    run(Command::new("g++")
        .args(["-shared", "-nostdlib", "-Wl,--build-id=sha1", "-o"])
        .arg(&path)
        .arg(&text));
    path
}

/// Bytes of a line in this process' status.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_list_that_names_the_same_code_again_and_again_takes_no_memory() {
    const NAME: &str = "a_list_that_names_the_same_code_again_and_again_takes_no_memory";
    if !tools(NAME) {
        return;
    }
    // The peak of memory is that of a process: this test has one of its own.
    if std::env::var_os("EVERPROF_TEST_CHILD").is_none() {
        return run(Command::new("/proc/self/exe").args(["--exact", NAME]).env("EVERPROF_TEST_CHILD", "1"));
    }
    let source = "
        .text
        .globl repeated
        .type repeated, %function
    repeated: .fill 4096, 1, 0
        .size repeated, 4096
        .section .debug_abbrev
        .byte 1, 0x11, 1, 0x11, 1, 0x55, 0x17, 0, 0   # unit: low_pc, ranges
        .byte 2, 0x2e, 0, 0x03, 0x08, 0x55, 0x17, 0, 0   # subprogram: name, ranges
        .byte 0
        .section .debug_info
        .long end - begin
    begin: .short 4
        .long 0
        .byte 8
        .byte 1
        .quad 0
        .long 0
        .byte 2
        .asciz \"repeated\"
        .long 0
        .byte 0
    end:
        .section .debug_ranges
        .rept 100000
        .quad repeated, repeated + 4096
        .endr
        .quad 0, 0
    ";
    let loaded = Loaded::open(&assemble(&folder("repeated"), "repeated.so", source));
    let address = loaded.function("repeated");
    let addresses: Vec<u64> = (address..address + 4096).collect();
    let before = status("VmHWM");
    let symbols = Symbolizer::new(Options::default()).resolve(&loaded.module(address), &addresses);
    assert!(symbols.iter().all(|symbols| &*symbols[0].name == "repeated"));
    let grown = status("VmHWM") - before;
    assert!(grown < 64 << 20, "{grown} bytes more");
}

#[test]
fn a_symbol_without_a_size_does_not_reach_over_one_that_has_one() {
    if !tools("a_symbol_without_a_size_does_not_reach_over_one_that_has_one") {
        return;
    }
    let source = "
        .text
        .globl open
    open: .fill 16, 1, 0x90
        .globl sized
        .type sized, %function
    sized: .fill 16, 1, 0x90
        .size sized, 16
        .fill 16, 1, 0x90
        .globl behind
    behind: .fill 16, 1, 0x90
    ";
    let loaded = Loaded::open(&assemble(&folder("unsized"), "unsized.so", source));
    let address = loaded.function("open");
    let addresses: Vec<u64> = (address..address + 64).step_by(8).collect();
    let symbols = Symbolizer::new(Options::default()).resolve(&loaded.module(address), &addresses);
    let names: Vec<&str> =
        symbols.iter().map(|symbols| symbols.first().map_or("", |frame| &*frame.name)).collect();
    assert_eq!([names[0], names[1], names[2], names[3]], ["open", "open", "sized", "sized"]);
    assert!(names[4..6].iter().all(|name| !["open", "sized", "behind"].contains(name)), "{names:?}");
    assert_eq!(names[6..], ["behind", "behind"]);
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_not_waited_for() {
    let path = folder("pipe").join("library.so");
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the name is a string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let line = format!("10000-20000 r-xp 00000000 00:00 1 {}\n", path.display());
    let module = maps::parse(line.as_bytes(), None).remove(0);
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let symbols = Symbolizer::new(Options::default()).resolve(&module, &[0x11000]);
        let _ = done.send(symbols[0].is_empty());
    });
    let limit = std::time::Duration::from_secs(30);
    assert_eq!(wait.recv_timeout(limit), Ok(true), "nobody writes into the pipe");
}
