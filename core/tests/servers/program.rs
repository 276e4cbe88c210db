//! A program that profiles itself: this one again, at work in a process of its own.

use std::collections::HashMap;
use std::hint::black_box;
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use everprof::Profiler;
use everprof::profile::{Kind, Profile};
use everprof::store::{self, Query};

use crate::{Running, start_as};

const PUSH: &str = "EVERPROF_SERVERS_TEST_PUSH";
const SECONDS: &str = "EVERPROF_SERVERS_TEST_SECONDS";

pub(crate) struct Program(Running);

impl Program {
    /// Starts it with that for `push`; it works for so long, closes its profiles and waits for its end.
    pub(crate) fn start(push: &str, seconds: u64) -> Program {
        Program(start_as("program", |dir| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "program::at_work", "--nocapture"]);
            command
                .env(PUSH, push)
                .env(SECONDS, seconds.to_string())
                .env("EVERPROF_DIR", dir.join("profiles"));
            command
        }))
    }

    /// What stands behind `word` in what it says, once it does.
    fn said(&self, word: &str) -> String {
        let mut log = String::new();
        for _ in 0..600 {
            log = std::fs::read_to_string(self.0.dir.join("log")).unwrap();
            let found = log.lines().find_map(|line| line.split_once(word)).map(|(_, rest)| rest.to_string());
            if let Some(found) = found.filter(|_| log.ends_with('\n')) {
                return found;
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("it did not say {word:?} within a minute: {log}");
    }

    /// The port that it serves profiles on.
    pub(crate) fn port(&self) -> u16 {
        self.said("serves 127.0.0.1:").parse().unwrap()
    }

    /// The profiles that it left in its directory, of these kinds.
    pub(crate) fn recorded(&self, kinds: &[Kind]) -> Vec<(Kind, Profile)> {
        self.said("is done");
        let dir = self.0.dir.join("profiles");
        let files = |kind: &Kind| store::list(&dir, &Query::default().kind(kind.name())).unwrap_or_default();
        let of_kind = |kind: &Kind| {
            for _ in 0..300 {
                if let [entry] = &files(kind)[..] {
                    return (*kind, store::read(&entry.path).unwrap());
                }
                thread::sleep(Duration::from_millis(100));
            }
            panic!("{} files of {kind:?}", files(kind).len())
        };
        kinds.iter().map(of_kind).collect()
    }
}

/// The program itself; as a test among others it does nothing.
#[test]
fn at_work() {
    let Ok(push) = std::env::var(PUSH) else { return };
    let seconds = std::env::var(SECONDS).unwrap().parse().unwrap();
    let profiler = Profiler::builder()
        .service("shop")
        .version("1.0")
        .rate_hz(199)
        .set("kinds", "cpu,wall,heap,mutex")
        .set("interval_bytes", "64KiB")
        .set("lock_threshold_ns", "1000")
        .set("cpu_budget_percent", "100")
        .set("period_s", "3600")
        .set("serve", ":0")
        .set("push", push)
        .start()
        .unwrap();
    println!("serves {}", profiler.stats().serve_address.unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let works = [sell, restock].map(|work| {
        thread::spawn(move || {
            while Instant::now() < end {
                work();
            }
        })
    });
    works.into_iter().for_each(|work| work.join().unwrap());
    // It goes on in the background where it takes longer than a program waits at its end.
    let _ = profiler.flush();
    println!("is done");
    thread::sleep(Duration::from_secs(600));
}

static STOCK: Mutex<Option<HashMap<u64, Vec<u8>>>> = Mutex::new(None);

#[inline(never)]
fn sell() {
    let mut price = 0u64;
    for item in 0..300_000u64 {
        price = black_box(price ^ item.wrapping_mul(31));
    }
    let mut stock = STOCK.lock().unwrap();
    stock.get_or_insert_default().remove(&(price % 1000));
    thread::sleep(Duration::from_millis(2));
}

#[inline(never)]
fn restock() {
    let mut stock = STOCK.lock().unwrap();
    let all = stock.get_or_insert_default();
    for item in 0..200u64 {
        all.insert(black_box(item * 7 % 1000), vec![item as u8; 3000]);
    }
    drop(stock);
    thread::sleep(Duration::from_millis(3));
}
