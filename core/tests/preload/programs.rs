//! What profiles say of programs that count themselves.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use everprof::profile::{Kind, Profile};

use super::{common, has, profiles, run, shell, sum, under};

/// The part of a program's own count by which what is told may be off, with samples of 64 KiB of more than 30 MB: four sigma
/// of some 500 samples.
const ROOM: f64 = 0.18;

fn is_about(told: i64, truth: f64, room: f64, what: &str) {
    println!("{what}: {told} of {truth}");
    assert!((told as f64 / truth - 1.0).abs() < room, "{what}: {told} of {truth}");
}

/// The number behind a text.
fn number_after(output: &str, text: &str) -> f64 {
    let rest = output.split(text).nth(1).unwrap_or_else(|| panic!("no {text:?} in {output}"));
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// A table in memory, and how much of it lives when the program waits.
pub(super) fn sqlite() {
    if !has("sqlite3") {
        return;
    }
    let dir = common::directory("preload-sqlite");
    let script = "exec sqlite3 :memory: <<'SQL'
        create table t(n integer primary key, text);
        with recursive r(n) as (select 1 union all select n + 1 from r where n < 40000)
            insert into t select n, hex(randomblob(500)) from r;
        select count(*), sum(length(text)) from t;
.stats on
select 1;
.stats off
.shell sleep 8
SQL";
    let options = [("kinds", "alloc,heap,cpu"), ("interval_bytes", "64KiB"), ("period_s", "2")];
    let output = run(shell(&dir, script, &options));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty() && text.starts_with("40000|40000000"),
        "{text}"
    );
    let used = number_after(&text, "Memory Used:");
    let heaps = profiles(&dir, "sqlite3", Kind::Heap);
    // The period in which it slept has what it holds then.
    let live = |heap: &Profile| heap.totals()[3];
    let most = heaps.iter().max_by_key(|heap| live(heap)).unwrap();
    is_about(live(most), used, ROOM, "sqlite3's live bytes");
    assert!(sum(most, "sqlite3_step", 3) as f64 > 0.8 * used, "{}", sum(most, "sqlite3_step", 3));
    let last = live(heaps.last().unwrap());
    assert!(last * 20 < live(most), "at its end it has freed all: {last}");
    common::remove(&dir);
}

pub(super) fn python() {
    if !has("python3") {
        return;
    }
    let dir = common::directory("preload-python");
    let script = r#"exec python3 -c '
import sys, time
kept = []
for n in range(10000):
    block = bytearray(100000)
    if n % 20 == 0:
        kept.append(block)
        time.sleep(0.001)
del block
print(sum(map(len, kept)))
time.sleep(5)
sys.exit(7)
'"#;
    let options = [("kinds", "alloc,heap"), ("interval_bytes", "256KiB"), ("period_s", "2")];
    let output = run(shell(&dir, script, &options));
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "50000000\n");
    assert!(output.stderr.is_empty());
    let name = name_of(&dir, "python");
    let of = |kind| profiles(&dir, &name, kind);
    let allocated: i64 = of(Kind::Alloc).iter().map(|profile| sum(profile, "PyByteArray_Resize", 1)).sum();
    let all: i64 = of(Kind::Alloc).iter().map(|profile| profile.totals()[1]).sum();
    // Of each block one in three is a sample: sigma is 1.5 %. The interpreter itself takes some megabytes more.
    is_about(all, 1e9, 0.08, "python's bytes");
    assert!(allocated > 900_000_000, "{allocated}");
    let live = of(Kind::Heap).iter().map(|profile| profile.totals()[3]).max().unwrap();
    // 160 samples of the 500 blocks.
    is_about(live, 50e6, 0.35, "python's live bytes");
    common::remove(&dir);
}

/// The name of the program's executable: the interpreter's has its version in it, the server's is that of another tool.
fn name_of(dir: &Path, begin: &str) -> String {
    let found = super::programs(dir);
    found.iter().find(|name| name.starts_with(begin)).unwrap_or_else(|| panic!("{found:?}")).clone()
}

/// A server on an allocator of its own, asked how much it has.
pub(super) fn redis() {
    if !has("redis-server") || !has("redis-cli") {
        return;
    }
    let dir = common::directory("preload-redis");
    std::fs::create_dir_all(&dir).unwrap();
    let socket = dir.join("socket");
    let mut command = Command::new("redis-server");
    command
        .args(["--port", "0", "--save", "", "--enable-debug-command", "yes", "--unixsocket"])
        .arg(&socket)
        .arg("--dir")
        .arg(&dir);
    let options = [("kinds", "alloc,heap,cpu,wall,lock"), ("interval_bytes", "64KiB"), ("period_s", "2")];
    under(&mut command, &dir, &options);
    let server = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let client = |arguments: &[&str]| {
        let output = Command::new("redis-cli").arg("-s").arg(&socket).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!((0..600).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        client(&["ping"]).starts_with("PONG")
    }));
    let before = number_after(&client(&["info", "memory"]), "used_memory:");
    assert!(client(&["debug", "populate", "40000", "key", "1000"]).starts_with("OK"));
    let used = number_after(&client(&["info", "memory"]), "used_memory:") - before;
    std::thread::sleep(Duration::from_secs(5));
    client(&["shutdown", "nosave"]);
    let output = server.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let heaps = profiles(&dir, &name_of(&dir, "redis"), Kind::Heap);
    let name = "debugCommand";
    let most = heaps.iter().map(|heap| sum(heap, name, 3)).max().unwrap();
    let all = heaps.iter().map(|heap| heap.totals()[3]).max().unwrap();
    // Its count is of what the allocator hands out, which is up to a fifth more than is asked for; without symbols all is told.
    let told = if most == 0 { all } else { most };
    println!("redis: {most} by {name}, {all} in all of {used} more than {before}");
    assert!((0.65..1.2).contains(&(told as f64 / used)), "{told} of {used}");
    // From its first command on, stacks are whole.
    assert!(most == 0 || most as f64 > 0.9 * all as f64, "{most} of {all} by {name}");
    common::remove(&dir);
}

/// Threads that take locks from each other: of CPU time, waiting and contention of somebody else's program.
pub(super) fn threads() {
    if !has("python3") {
        return;
    }
    let dir = common::directory("preload-threads");
    let script = r#"exec python3 -c '
import threading, time, hashlib
def work():
    until = time.time() + 2
    while time.time() < until:
        hashlib.sha256(b"x" * 1000000).digest()
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
print("done")
'"#;
    let output = run(shell(&dir, script, &[("kinds", "cpu,wall,lock,block"), ("period_s", "60")]));
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"done\n"[..]));
    let name = name_of(&dir, "python");
    let cpu: i64 = profiles(&dir, &name, Kind::Cpu).iter().map(|profile| profile.totals()[1]).sum();
    // Two processors at least, unless the machine has other work.
    assert!(cpu > 500_000_000, "{cpu}");
    // The interpreter's own lock, which its threads wait for by a condition or a semaphore.
    let blocked: i64 = profiles(&dir, &name, Kind::Block).iter().map(|profile| profile.totals()[1]).sum();
    assert!(blocked > 500_000_000, "{blocked}");
    common::remove(&dir);
}

/// A process that becomes a daemon, as ever: two forks, a session of its own, and no standard files.
pub(super) fn daemon() {
    if !has("python3") {
        return;
    }
    let dir = common::directory("preload-daemon");
    std::fs::create_dir_all(&dir).unwrap();
    let mark = dir.join("done");
    let script = format!(
        r#"exec python3 -c '
import os, sys, time
if os.fork(): sys.exit(0)
os.setsid()
if os.fork(): os._exit(0)
for number in range(3): os.close(number)
data = os.open("{0}.data", os.O_CREAT | os.O_RDWR)
time.sleep(0.5)
kept = [bytearray(100000) for n in range(1000)]
time.sleep(1)
open("{0}", "w").close()
'"#,
        mark.display()
    );
    let options = [("kinds", "alloc,heap"), ("interval_bytes", "64KiB"), ("log", "debug"), ("rate_hz", "99")];
    assert!(run(shell(&dir, &script, &options)).status.success());
    assert!((0..600).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        mark.exists()
    }));
    let name = name_of(&dir, "python");
    // It ends a little after that, and its last profile comes with that.
    let told =
        || profiles(&dir, &name, Kind::Alloc).iter().map(|profile| profile.totals()[1]).max().unwrap_or(0);
    assert!(
        (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            told() > 80_000_000
        }),
        "{}",
        told()
    );
    // Descriptor 0 was its first file: nothing of ours is in there, nor in one that took the place of stderr.
    assert_eq!(std::fs::metadata(format!("{}.data", mark.display())).unwrap().len(), 0);
    common::remove(&dir);
}
