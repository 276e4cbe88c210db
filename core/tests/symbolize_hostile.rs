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
