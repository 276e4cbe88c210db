//! The layer table of ARCHITECTURE.md, kept by a test: who imports whom, where `unsafe` and platform conditions may
//! stand, and how long a file may get.
//!
//! The sources are read as text (see `layers/source.rs`), with comments, literals and unit tests taken out, so that a
//! violation is found without compiling anything and on every platform at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "layers/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use source::{Source, imports, reexports};

/// The columns of one crate, left to right, and what is special about it.
struct Layers {
    crate_name: &'static str,
    /// A file imports from columns to its left, and from its own column where that makes no circle.
    columns: &'static [&'static [&'static str]],
    /// Columns whose modules never import each other.
    strangers: &'static [usize],
    /// Pairs (importer, imported) that are refused although the columns would allow them.
    refused: &'static [(&'static str, &'static str)],
    /// The modules that may import `everprof_probe`.
    probe_users: &'static [&'static str],
    /// The modules where `unsafe` may stand.
    unsafe_in: &'static [&'static str],
    /// The modules where `cfg(target_os)`, `cfg(target_arch)` and their kin may stand.
    platforms_in: &'static [&'static str],
}

const PROBE: Layers = Layers {
    crate_name: "everprof-probe",
    columns: &[
        &["os", "regs", "sample"],
        &["memory", "stacks", "ring", "poisson", "own", "loss", "bell", "cost", "record"],
        &["chain", "thread", "thread_block", "unwind", "here", "heap", "got", "scratch", "sampling", "perf"],
        &["sigprof", "timer", "waiting", "awaiting", "alloc", "malloc", "lock"],
    ],
    strangers: &[3],
    refused: &[],
    probe_users: &[],
    unsafe_in: &[
        "os",
        "regs",
        "memory",
        "stacks",
        "ring",
        "chain",
        "thread",
        "thread_block",
        "unwind",
        "own",
        "here",
        "heap",
        "got",
        "scratch",
        "sampling",
        "sigprof",
        "timer",
        "waiting",
        "awaiting",
        "alloc",
        "malloc",
        "lock",
    ],
    platforms_in: &["os", "regs"],
};

const CORE: Layers = Layers {
    crate_name: "everprof",
    columns: &[
        &["error", "pairs", "labels", "report", "descriptor"],
        &["profile", "tracing"],
        &["options", "tags", "stats"],
        &["symbolize", "aggregate", "recorder", "thread_names", "encode"],
        &["store"],
        &["export"],
        &["drain"],
        &["pull"],
        &["serve"],
        &["profiler", "recording"],
    ],
    strangers: &[],
    // An exporter moves bytes: it sees what was encoded, not the profile.
    refused: &[("export", "profile")],
    // `aggregate` decodes the words of a sample; `symbolize` maps files through probe's safe wrapper; `export` has its sockets
    // from there, which the standard library's cannot be.
    probe_users: &[
        "labels",
        "descriptor",
        "aggregate",
        "symbolize",
        "export",
        "drain",
        "pull",
        "serve",
        "profiler",
    ],
    unsafe_in: &[],
    platforms_in: &[],
};

const LONGEST_FILE: usize = 600;

#[test]
fn every_file_imports_only_from_its_left() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut violations = check(&PROBE, &read(&root.join("probe/src")));
    violations.extend(check(&CORE, &read(&root.join("src"))));
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn no_file_is_longer_than_600_lines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut long = Vec::new();
    for top in ["core", "bindings-python", "examples", "benches", ".ci"] {
        for path in walk(&root.join(top), &["rs", "js", "mjs", "css", "html", "py", "sh"]) {
            let lines = std::fs::read_to_string(&path).unwrap().lines().count();
            if lines > LONGEST_FILE {
                long.push(format!("{}: {lines} lines", path.display()));
            }
        }
    }
    assert!(long.is_empty(), "longer than {LONGEST_FILE} lines:\n{}", long.join("\n"));
}

/// The picture of the table in ARCHITECTURE.md names the modules that there are; `BLESS=1` writes it anew.
#[test]
fn the_architecture_page_shows_the_layers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = root.parent().unwrap().join("ARCHITECTURE.md");
    let shown = show(&PROBE, &root.join("probe/src")) + &show(&CORE, &root.join("src"));
    let text = std::fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once("<!-- layers:begin -->\n").unwrap();
    let (found, after) = rest.split_once("<!-- layers:end -->").unwrap();
    if std::env::var_os("BLESS").is_some() {
        let text = format!("{before}<!-- layers:begin -->\n{shown}<!-- layers:end -->{after}");
        std::fs::write(&page, text).unwrap();
    } else {
        assert_eq!(found, shown, "run `make bless`");
    }
}

/// The modules of one crate as a table row each column.
fn show(layers: &Layers, src: &Path) -> String {
    let files = read(src);
    let mut text = format!("\n| `{}` | |\n|---|---|\n", layers.crate_name);
    for (place, column) in layers.columns.iter().enumerate() {
        let there = column.iter().filter(|module| files.iter().any(|file| file.module() == **module));
        let names: Vec<String> = there.map(|module| format!("`{module}`")).collect();
        let remark = if layers.strangers.contains(&place) { " (never each other)" } else { "" };
        text += &format!("| {} | {}{remark} |\n", place + 1, names.join(" "));
    }
    text + "\n"
}

/// Every violation in the files of one crate, each as one line that names the file.
fn check(layers: &Layers, files: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let exported = files.iter().find(|file| file.module() == "lib").map(reexports).unwrap_or_default();
    let column = |module: &str| layers.columns.iter().position(|column| column.contains(&module));
    for file in files {
        let module = file.module();
        let mut say = |what: String| {
            violations.push(format!("{} {}: {what}", layers.crate_name, file.path.display()));
        };
        if file.has_word("unsafe") && !layers.unsafe_in.contains(&module) {
            say("`unsafe` is not allowed here".into());
        }
        if file.has_platform_condition() && !layers.platforms_in.contains(&module) {
            say("a platform difference is a file under `os` or `regs`, not a cfg here".into());
        }
        if file.has_word("everprof_probe") && !layers.probe_users.contains(&module) && module != "lib" {
            say(format!("only {} may import everprof_probe", layers.probe_users.join(", ")));
        }
        if module == "lib" {
            continue;
        }
        let Some(own) = column(module) else {
            say(format!("module `{module}` stands in no column of the layer table"));
            continue;
        };
        for name in imports(file) {
            let Some(target) = exported.get(&name).map_or(Some(name.as_str()), |module| Some(module)) else {
                continue;
            };
            if target == module {
                continue;
            }
            match column(target) {
                None => say(format!("imports `{name}` from the crate's root: name the module it lives in")),
                Some(other) if other > own => say(format!("imports `{target}`, which stands to its right")),
                Some(other) if other == own && layers.strangers.contains(&own) => {
                    say(format!("imports its neighbour `{target}`"));
                }
                Some(_) if layers.refused.contains(&(module, target)) => {
                    say(format!("`{module}` must not see `{target}`"));
                }
                Some(other) if other == own => {
                    let target = layers.columns[other].iter().find(|name| **name == target).unwrap();
                    edges
                        .entry(layers.columns[own].iter().find(|name| **name == module).unwrap())
                        .or_default()
                        .insert(target);
                }
                Some(_) => {}
            }
        }
    }
    for from in edges.keys() {
        if reaches(&edges, from, from) {
            violations.push(format!("{}: `{from}` imports itself through its neighbours", layers.crate_name));
        }
    }
    violations
}

/// Whether `to` can be reached from `from` over one edge or more.
fn reaches(edges: &BTreeMap<&str, BTreeSet<&str>>, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut open: Vec<&str> = edges.get(from).into_iter().flatten().copied().collect();
    while let Some(module) = open.pop() {
        if module == to {
            return true;
        }
        if seen.insert(module) {
            open.extend(edges.get(module).into_iter().flatten().copied());
        }
    }
    false
}

fn read(src: &Path) -> Vec<Source> {
    let files = walk(src, &["rs"]);
    assert!(!files.is_empty(), "no sources under {}", src.display());
    files
        .iter()
        .map(|path| Source::new(path.strip_prefix(src).unwrap(), &std::fs::read_to_string(path).unwrap()))
        .collect()
}

/// The files under `folder` with one of `extensions`, in order; build output and installed packages left out.
fn walk(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !["target", "node_modules", "__pycache__", ".venv"].contains(&name.as_str()) {
                found.extend(walk(&path, extensions));
            }
        } else if path.extension().is_some_and(|found| extensions.iter().any(|wanted| found == *wanted)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

mod made_up {
    //! The checks on sources made up to violate them: a check that cannot fail would be worth nothing.
    use super::*;

    fn violations(layers: &Layers, files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<Source> =
            files.iter().map(|(path, text)| Source::new(Path::new(path), text)).collect();
        check(layers, &files)
    }

    #[track_caller]
    fn refused(layers: &Layers, files: &[(&str, &str)], what: &str) {
        let found = violations(layers, files);
        assert!(found.len() == 1 && found[0].contains(what), "wanted one `{what}`, found {found:?}");
    }

    #[test]
    fn an_import_from_the_right_is_refused_in_every_spelling() {
        for text in [
            "use crate::sigprof::start;",
            "use crate::{regs, sigprof::start};",
            "use crate::{\n    memory::{Stack, read},\n    sigprof,\n};",
            "fn f() { crate::sigprof::start() }",
            "use super::sigprof::start;",
        ] {
            refused(&PROBE, &[("memory.rs", text)], "imports `sigprof`, which stands to its right");
        }
        refused(
            &PROBE,
            &[("os/linux/pages.rs", "use super::super::super::thread::Slot;")],
            "imports `thread`",
        );
        let files =
            [("lib.rs", "pub use profiler::{Guard, Profiler as P};"), ("encode/mod.rs", "use crate::P;")];
        refused(&CORE, &files, "imports `profiler`");
    }

    #[test]
    fn an_import_from_the_left_is_fine() {
        let files = [
            ("lib.rs", "pub use error::{Error, Result};"),
            ("profile/mod.rs", "mod kind; use kind::Kind; use crate::Error; use super::error::Result;"),
            (
                "encode/pprof.rs",
                "use super::Encoded; use crate::profile::Profile; use crate::{Error, Result};",
            ),
        ];
        assert_eq!(violations(&CORE, &files), [""; 0]);
    }

    #[test]
    fn neighbours_may_meet_unless_they_are_strangers_or_walk_in_a_circle() {
        assert_eq!(violations(&CORE, &[("options.rs", "use crate::error::Error;")]), [""; 0]);
        refused(&PROBE, &[("timer.rs", "use crate::sigprof::SIGNAL;")], "imports its neighbour `sigprof`");
        let circle = [("options.rs", "use crate::tags::Tags;"), ("tags.rs", "use crate::options::Options;")];
        let found = violations(&CORE, &circle);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("imports itself through its neighbours"), "{found:?}");
    }

    #[test]
    fn the_special_rules_are_kept() {
        refused(&CORE, &[("export/file.rs", "use crate::profile::Profile;")], "must not see `profile`");
        refused(&CORE, &[("encode/pprof.rs", "use everprof_probe::sample;")], "may import everprof_probe");
        refused(&CORE, &[("drain.rs", "fn f() { unsafe { g() } }")], "`unsafe` is not allowed here");
        refused(&PROBE, &[("sample.rs", "unsafe impl Send for A {}")], "`unsafe` is not allowed here");
        refused(
            &PROBE,
            &[("ring.rs", "#[cfg(target_arch = \"aarch64\")] fn f() {}")],
            "a platform difference",
        );
        refused(&CORE, &[("helpers.rs", "")], "stands in no column");
        refused(&CORE, &[("drain.rs", "use crate::VERSION;")], "name the module it lives in");
    }

    #[test]
    fn comments_literals_and_unit_tests_do_not_count() {
        let text = r##"
            //! `crate::sigprof` is only spoken of here, and `unsafe` too.
            /* crate::sigprof /* nested */ unsafe */
            const A: &str = "crate::sigprof unsafe \" crate::timer";
            const B: &str = r#"crate::sigprof "unsafe" "#;
            const C: char = '"'; const D: char = '\''; fn f<'a>(_: &'a str) {}
            #[cfg(test)]
            mod tests { use crate::sigprof::start; fn g() { unsafe { h() } } }
        "##;
        assert_eq!(violations(&PROBE, &[("sample.rs", text)]), [""; 0]);
        refused(
            &PROBE,
            &[("sample.rs", &format!("{text} fn i() {{ crate::sigprof::j() }}"))],
            "imports `sigprof`",
        );
    }
}
