//! Debug information that is elsewhere: in `.dwo` files and `.dwp` packages, by g++ and by rustc, and in files that
//! several libraries share, by dwz.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, unreachable_pub, dead_code)]

#[path = "symbolize/fixture.rs"]
mod fixture;

use std::path::{Path, PathBuf};
use std::process::Command;

use everprof::symbolize::{Options, Reason, Symbolizer, Symbols};
use fixture::{Loaded, all_of, around, assert_complete, compile, folder, run, shapes, tools};

fn dwo_files(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "dwo")).collect()
}

fn failures(symbolizer: &Symbolizer) -> [u64; 5] {
    Reason::ALL.map(|reason| symbolizer.stats().failures(reason))
}

#[test]
fn dwo_files_where_they_were_made_and_where_they_were_moved() {
    if !tools("dwo_files_where_they_were_made_and_where_they_were_moved") {
        return;
    }
    for version in ["-gdwarf-4", "-gdwarf-5"] {
        for packing in ["-gz=none", "-gz=zlib"] {
            let what = format!("{version} {packing}");
            let (made, moved) =
                (folder(&format!("dwo{version}{packing}")), folder(&format!("mv{version}{packing}")));
            let library = compile(&made, "split.so", &[version, packing, "-gsplit-dwarf"]);
            let dwo = dwo_files(&made);
            assert_eq!(dwo.len(), 1, "{what}");
            {
                let loaded = Loaded::open(&library);
                let mut symbolizer = Symbolizer::new(Options::default());
                assert_complete(&around(&mut symbolizer, &loaded, loaded.function("shapes_total")), &what);
                assert_eq!(failures(&symbolizer), [0; 5], "{what}");
            }
            let copy = moved.join("moved.so");
            std::fs::copy(&library, &copy).unwrap();
            let beside = moved.join(dwo[0].file_name().unwrap());
            std::fs::rename(&dwo[0], &beside).unwrap();
            let loaded = Loaded::open(&copy);
            let address = loaded.function("shapes_total");
            let mut symbolizer = Symbolizer::new(Options::default());
            assert_complete(&around(&mut symbolizer, &loaded, address), &what);
            // Another build's file is none, and neither is one that is not there: then there is a line at least.
            compile(&made, "split.so", &[version, packing, "-gsplit-dwarf", "-O2"]);
            std::fs::rename(&dwo_files(&made)[0], &beside).unwrap();
            for reason in [Reason::Replaced, Reason::Missing] {
                let mut symbolizer = Symbolizer::new(Options::default());
                let symbols = around(&mut symbolizer, &loaded, address);
                assert_eq!(shapes(&symbols)[0][0].0, "shapes_total", "{what} {reason:?}");
                assert!(symbols[0][0].line > 0, "{what} {reason:?}: {symbols:?}");
                assert_eq!(symbolizer.stats().failures(reason), 1, "{what}");
                let _ = std::fs::remove_file(&beside);
            }
        }
    }
}

#[test]
fn packages_beside_the_program_and_by_build_id() {
    if !tools("packages_beside_the_program_and_by_build_id") {
        return;
    }
    let mut done = 0;
    // Packages of version 5 are those of rustc below: the tools that distributions have today do not make them of g++'s.
    for (version, tool) in [("-gdwarf-4", "dwp"), ("-gdwarf-4", "llvm-dwp")] {
        if !all_of(&[tool], "packages_beside_the_program_and_by_build_id") {
            continue;
        }
        let folder = folder(&format!("dwp{version}-{tool}"));
        let library = compile(&folder, "split.so", &[version, "-gsplit-dwarf", "-Wl,--build-id=sha1"]);
        let package = folder.join("split.so.dwp");
        let dwo = dwo_files(&folder);
        run(Command::new(tool).arg("-o").arg(&package).args(&dwo).current_dir(&folder));
        std::fs::remove_file(&dwo[0]).unwrap();
        let loaded = Loaded::open(&library);
        let address = loaded.function("shapes_total");
        let root = folder.join("root");
        let options = || Options { debug_directories: vec![root.clone()], ..Options::default() };
        let mut symbolizer = Symbolizer::new(options());
        assert_complete(&around(&mut symbolizer, &loaded, address), &format!("{version} {tool}"));
        assert_eq!(failures(&symbolizer), [0; 5], "{version} {tool}");
        let build_id = loaded.module(address).build_id;
        let central = root.join(".build-id").join(&build_id[..2]);
        std::fs::create_dir_all(&central).unwrap();
        std::fs::rename(&package, central.join(format!("{}.dwp", &build_id[2..]))).unwrap();
        let mut symbolizer = Symbolizer::new(options());
        assert_complete(&around(&mut symbolizer, &loaded, address), &format!("{version} {tool} by build ID"));
        done += 1;
    }
    assert!(done > 0, "no tool that makes packages");
}

#[test]
fn files_that_share_debug_information() {
    const TEST: &str = "files_that_share_debug_information";
    // core/tests/symbolize/tools.sh puts it there.
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("dwz/usr/bin/dwz");
    let dwz = if own.exists() { own } else { PathBuf::from("dwz") };
    if !tools(TEST) || !all_of(&[dwz.to_str().unwrap()], TEST) {
        return;
    }
    for (version, standard) in [("-gdwarf-4", false), ("-gdwarf-5", false), ("-gdwarf-5", true)] {
        let what = format!("{version} {standard}");
        let folder = folder(&format!("dwz{version}-{standard}"));
        let files = ["a.so", "b.so"]
            .map(|name| compile(&folder, name, &[version, &format!("-DNAME={name}"), "-Wl,--build-id=sha1"]));
        let mut command = Command::new(&dwz);
        command.args(["-m", "shared.debug", "-M", "shared.debug"]).args(standard.then_some("--dwarf-5"));
        run(command.args(&files).current_dir(&folder));
        let link = if standard { ".debug_sup" } else { ".gnu_debugaltlink" };
        let image = std::fs::read(&files[0]).unwrap();
        let has_link = image.windows(link.len()).any(|window| window == link.as_bytes());
        assert!(has_link, "{what}: nothing was shared, nothing is tested");
        let loaded = Loaded::open(&files[0]);
        let address = loaded.function("shapes_total");
        let mut symbolizer = Symbolizer::new(Options::default());
        assert_complete(&around(&mut symbolizer, &loaded, address), &what);
        assert_eq!(failures(&symbolizer), [0; 5], "{what}");
        std::fs::remove_file(folder.join("shared.debug")).unwrap();
        let mut symbolizer = Symbolizer::new(Options::default());
        let symbols = around(&mut symbolizer, &loaded, address);
        let outermost = symbols[0].last().unwrap();
        assert!(&*outermost.name == "shapes_total" && outermost.line > 0, "{what}: {outermost:?}");
        assert!(symbolizer.stats().failures(Reason::Missing) > 0, "{what}");
    }
}

const RUST: &str = r#"
mod deep {
    #[inline(always)]
    pub fn mix(value: u64) -> u64 {
        std::hint::black_box(value ^ value << 13)
    }
}
pub struct Square<T>(pub T);
impl Square<u64> {
    #[inline(always)]
    pub fn area(&self) -> u64 {
        deep::mix(self.0.wrapping_mul(self.0))
    }
}
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn rust_total(side: u64) -> u64 {
    let twice = |square: &Square<u64>| square.area() * 2;
    twice(&Square(side)) + 1
}
"#;

fn rust(folder: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let (source, target) = (folder.join("code.rs"), folder.join(name));
    std::fs::write(&source, RUST).unwrap();
    let base = ["--edition=2024", "--crate-type=cdylib", "-Copt-level=2", "-Ccodegen-units=1", "-o"];
    run(Command::new("rustc").args(base).arg(&target).args(flags).arg(&source).current_dir(folder));
    target
}

/// Name, file, line, first line and whether it was inlined.
type Told = (String, String, u32, u32, bool);

/// What is known about each address, with the bare names of files.
fn told(symbols: &[Symbols]) -> Vec<Vec<Told>> {
    let frame = |frame: &everprof::symbolize::SymbolFrame| {
        let file = frame.file.rsplit('/').next().unwrap().to_owned();
        (frame.name.to_string(), file, frame.line, frame.start_line, frame.inlined)
    };
    symbols.iter().map(|symbols| symbols.iter().map(frame).collect()).collect()
}

#[test]
fn rust_packed_and_unpacked_says_the_same_as_all_in_one_file() {
    if !all_of(&["rustc"], "rust_packed_and_unpacked_says_the_same_as_all_in_one_file") {
        return;
    }
    for level in ["full", "limited", "line-tables-only"] {
        // Without anything but lines there is no path to what was inlined: neither a linker's name nor a namespace.
        let mix = if level == "line-tables-only" { "mix" } else { "::deep::mix" };
        for version in ["4", "5"] {
            let mut seen = Vec::new();
            for way in ["off", "unpacked", "packed"] {
                let folder = folder(&format!("rust-{level}-{version}-{way}"));
                let debug = [format!("-Cdebuginfo={level}"), format!("-Csplit-debuginfo={way}")];
                let flags = [&debug[0], &debug[1], &format!("-Cdwarf-version={version}")];
                let library = rust(&folder, "librust_shapes.so", &flags.map(String::as_str));
                let loaded = Loaded::open(&library);
                let mut symbolizer = Symbolizer::new(Options::default());
                let symbols = around(&mut symbolizer, &loaded, loaded.function("rust_total"));
                let functions = || symbols.iter().flat_map(|symbols| symbols.iter());
                let inner = functions().find(|frame| frame.name.ends_with(mix) && frame.inlined);
                assert!(inner.is_some(), "{level} {version} {way}: {symbols:#?}");
                assert!(functions().any(|frame| frame.name.contains("area") && frame.inlined), "{way}");
                assert_eq!(failures(&symbolizer), [0; 5], "{level} {version} {way}");
                seen.push(told(&symbols).into_iter().take(48).collect::<Vec<_>>());
            }
            let code: Vec<_> = seen.iter().map(|seen| seen.iter().find(|c| c.len() > 2).cloned()).collect();
            assert!(
                code[0].is_some() && code[0] == code[1] && code[0] == code[2],
                "{level} {version}: {code:#?}"
            );
        }
    }
}
