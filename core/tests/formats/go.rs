//! `go tool pprof`, the reference reader, on the files that we write; and our reader on a file that Go wrote.

use std::path::{Path, PathBuf};
use std::process::Command;

use everprof::encode::{Dialect, pprof};
use everprof::profile::{Function, Kind, Line, Location, Profile};

use crate::go_tool::{go_pprof, is_here};
use crate::profiles::{content, large, small};

/// A folder of the test's own under the target directory.
fn folder(name: &str) -> PathBuf {
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("formats-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn go_tool_pprof_reads_our_files() {
    if !is_here("go_tool_pprof_reads_our_files") {
        return;
    }
    let folder = folder("go");
    let before = folder.join("before.cpu.pb.gz");
    let before = before.to_str().unwrap();
    let profile = small();
    std::fs::write(before, pprof::encode(&profile)).unwrap();

    let top = go_pprof(&["-top", before]);
    assert!(top.contains("Type: cpu") && top.contains("Duration: 60s"), "{top}");
    assert!(top.contains("80.81ms") && top.contains("memcpy"), "{top}");
    let top = go_pprof(&["-top", "-sample_index=samples", before]);
    assert!(top.contains("Type: samples") && top.contains("shop::serve"), "{top}");

    let raw = go_pprof(&["-raw", before]);
    assert!(raw.contains("PeriodType: cpu nanoseconds\nPeriod: 10101010"), "{raw}");
    assert!(raw.contains("samples/count cpu/nanoseconds[dflt]"), "{raw}");
    assert!(
        raw.contains(
            "1: 0x500000000000/0x500000100000/0x1000 /usr/bin/shop 0123456789abcdef [FN][FL][LN][IN]"
        )
    );
    assert!(raw.contains("priority:[0 count]"), "a number label of 0 is kept: {raw}");

    let traces = go_pprof(&["-traces", before]);
    assert!(traces.contains("thread_name:") && traces.contains("worker-1"), "{traces}");
    let tags = go_pprof(&["-tags", before]);
    assert!(tags.contains("tenant: Total") && tags.contains("α"), "{tags}");
    let comments = go_pprof(&["-comments", before]);
    assert!(comments.contains("service=shop\n") && comments.contains("version=1.0\n"), "{comments}");

    // After: one function takes twice as much.
    let mut after_profile = small();
    let (stack, labels, values) = {
        let sample = profile.samples().nth(1).unwrap();
        (sample.stack, sample.labels, sample.values.to_vec())
    };
    after_profile.add(stack, labels, &values);
    let after = folder.join("after.cpu.pb.gz");
    let after = after.to_str().unwrap();
    std::fs::write(after, pprof::encode(&after_profile)).unwrap();
    let diff = go_pprof(&["-top", "-diff_base", before, after]);
    assert!(diff.contains("10.10ms") && diff.contains("shop::hash"), "{diff}");

    // Go writes it again, in its own order and with its own ids; nothing is lost on the way there and back.
    let rewritten = folder.join("rewritten.pb.gz");
    go_pprof(&["-proto", "-symbolize=none", "-output", rewritten.to_str().unwrap(), before]);
    let read = pprof::decode(&std::fs::read(rewritten).unwrap()).unwrap();
    let sorted = |text: String| {
        let mut samples: Vec<String> = text.lines().map(str::to_owned).collect();
        samples.sort();
        samples
    };
    assert_eq!(sorted(content(&read)), sorted(content(&profile)));
    std::fs::remove_dir_all(folder).unwrap();
}

/// Those of Parca begin with tables that were compressed once for all of them.
#[test]
fn go_tool_pprof_reads_what_is_sent_in_every_dialect() {
    if !is_here("go_tool_pprof_reads_what_is_sent_in_every_dialect") {
        return;
    }
    let folder = folder("dialects");
    let made = [(Kind::Cpu, large(320, 12))];
    for (dialect, parts, samples) in
        [(Dialect::Pyroscope, 1, 320), (Dialect::Parca, 16, 20), (Dialect::Datadog, 1, 320)]
    {
        let sent = dialect.encode(&made);
        assert_eq!(sent.len(), parts, "{dialect:?}");
        for one in sent.iter().take(2) {
            let (file, again) = (folder.join("sent.pb.gz"), folder.join("again.pb.gz"));
            std::fs::write(&file, &one.bytes).unwrap();
            let file = file.to_str().unwrap();
            let top = go_pprof(&["-top", "-sample_index=0", file]);
            assert!(top.contains(&format!("of {samples} total")), "{dialect:?}: {top}");
            go_pprof(&["-proto", "-symbolize=none", "-output", again.to_str().unwrap(), file]);
            let [ours, gos] = [one.bytes.clone(), std::fs::read(&again).unwrap()].map(|bytes| {
                let mut said: Vec<String> =
                    content(&pprof::decode(&bytes).unwrap()).lines().map(str::to_owned).collect();
                said.sort();
                said
            });
            assert_eq!(gos, ours, "{dialect:?}");
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// Go's tool shows each kind by the sample type that is meant to be seen first.
#[test]
fn go_tool_pprof_shows_the_time_of_each_kind() {
    if !is_here("go_tool_pprof_shows_the_time_of_each_kind") {
        return;
    }
    let folder = folder("go-kinds");
    for (kind, shown) in [(Kind::Cpu, "cpu"), (Kind::Wall, "wall"), (Kind::OffCpu, "off_cpu")] {
        let mut profile = Profile::new(kind);
        let name = profile.string("wait_for_reply");
        let function = profile.function(Function { name, ..Function::default() });
        let lines = vec![Line { function, line: 1, column: 0 }];
        let location = profile.location(Location { lines, ..Location::default() });
        let (stack, labels) = (profile.stack(&[location]), profile.labels(&[]));
        profile.add(stack, labels, &[3, 250_000_000]);
        let file = folder.join(format!("one.{}.pb.gz", kind.name()));
        std::fs::write(&file, pprof::encode(&profile)).unwrap();
        let top = go_pprof(&["-top", file.to_str().unwrap()]);
        assert!(top.contains(&format!("Type: {shown}\n")) && top.contains("250ms"), "{top}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// Short ones: a recording of each kind, an empty one, one over several periods, and a snapshot of the threads.
#[test]
fn go_tool_pprof_reads_recordings_and_snapshots() {
    if !is_here("go_tool_pprof_reads_recordings_and_snapshots") {
        return;
    }
    let folder = folder("recordings");
    let profiler = everprof::Profiler::builder().dir(folder.join("periods")).rate_hz(500).start().unwrap();
    let at_once = everprof::record(Kind::Cpu).and_then(everprof::Recording::finish).unwrap();
    let kinds = [Kind::Cpu, Kind::Wall, Kind::OffCpu];
    let recordings = kinds.map(|kind| everprof::record(kind).unwrap());
    let until = std::time::Instant::now() + std::time::Duration::from_millis(300);
    while std::time::Instant::now() < until {
        std::hint::spin_loop();
    }
    // A period ends in them, where the machine has the time for it.
    let _ = profiler.flush();
    std::thread::sleep(std::time::Duration::from_millis(100));
    let mut files = vec![("at_once", Kind::Cpu, at_once)];
    for (kind, recording) in kinds.into_iter().zip(recordings) {
        files.push(("recorded", kind, recording.finish().unwrap()));
    }
    files.push(("snapshot", Kind::Threads, everprof::threads().unwrap()));
    let _ = profiler.stop();
    for (name, kind, profile) in files {
        let path = folder.join(format!("{name}.{}.pb.gz", kind.name()));
        std::fs::write(&path, pprof::encode(&profile)).unwrap();
        let path = path.to_str().unwrap();
        let shown = kind.default_sample_type();
        let top = go_pprof(&["-top", path]);
        assert!(top.contains(&format!("Type: {shown}")), "{name}: {top}");
        let raw = go_pprof(&["-raw", path]);
        let types: Vec<_> =
            kind.sample_types().iter().map(|known| format!("{}/{}", known.name, known.unit)).collect();
        assert!(types.iter().all(|known| raw.contains(known)), "{name}: {raw}");
        let comments = go_pprof(&["-comments", path]);
        assert!(comments.contains("service="), "{name}: {comments}");
        if kind == Kind::Threads {
            let tags = go_pprof(&["-tags", path]);
            assert!(
                ["thread_name: Total", "state: Total", "thread_id: Total"]
                    .iter()
                    .all(|key| tags.contains(key))
            );
            assert!(top.contains("100%"), "{top}");
        }
        if name == "recorded" {
            assert!(!profile.totals().contains(&0), "{name} {kind:?}: {:?}", profile.totals());
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_file_that_go_wrote_is_read() {
    if !is_here("a_file_that_go_wrote_is_read") {
        return;
    }
    let folder = folder("go-wrote");
    let program = folder.join("main.go");
    std::fs::write(&program, GO_PROGRAM).unwrap();
    let output = Command::new("go")
        .arg("run")
        .arg(&program)
        .arg(&folder)
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "-mod=mod")
        .env("GO111MODULE", "off")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let heap = pprof::decode(&std::fs::read(folder.join("heap.pb.gz")).unwrap()).unwrap();
    let types: Vec<&str> = heap.sample_types.iter().map(|value_type| value_type.name.as_str()).collect();
    assert_eq!(types, ["alloc_objects", "alloc_space", "inuse_objects", "inuse_space"]);
    assert!(heap.strings().any(|text| text == "main.keep"), "functions have their names");
    let cpu = pprof::decode(&std::fs::read(folder.join("cpu.pb.gz")).unwrap()).unwrap();
    assert_eq!(cpu.period, 10_000_000);
    assert!(cpu.duration_nanos > 0);
    let again = pprof::decode(&pprof::encode(&cpu)).unwrap();
    assert_eq!(content(&again), content(&cpu));
    std::fs::remove_dir_all(folder).unwrap();
}

const GO_PROGRAM: &str = r#"package main

import (
	"os"
	"runtime"
	"runtime/pprof"
	"time"
)

var kept [][]byte

//go:noinline
func keep() {
	for i := 0; i < 64; i++ {
		kept = append(kept, make([]byte, 1<<20))
	}
}

func main() {
	runtime.MemProfileRate = 4096
	cpu, err := os.Create(os.Args[1] + "/cpu.pb.gz")
	if err != nil {
		panic(err)
	}
	pprof.StartCPUProfile(cpu)
	keep()
	for start := time.Now(); time.Since(start) < 300*time.Millisecond; {
	}
	pprof.StopCPUProfile()
	heap, err := os.Create(os.Args[1] + "/heap.pb.gz")
	if err != nil {
		panic(err)
	}
	runtime.GC()
	pprof.WriteHeapProfile(heap)
	heap.Close()
}
"#;
