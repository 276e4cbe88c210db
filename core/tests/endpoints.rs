//! Requests that ended, by endpoint: with the profiles of the period in which they did, once; and a fork's child has its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use everprof::encode::Set;
use everprof::export::Exporter;
use everprof::{Profiler, count_endpoint};

use common::{burn, directory, flush, stop};

/// Writes what each set counts into a file of its process.
struct Counts(PathBuf);

impl Exporter for Counts {
    fn name(&self) -> String {
        "counts".to_string()
    }

    fn export(&mut self, set: &Set) -> everprof::Result<()> {
        let path = self.0.join(std::process::id().to_string());
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{}", serde_json::to_string(&set.endpoint_counts).unwrap()).unwrap();
        Ok(())
    }
}

fn counts(dir: &Path, process: u32) -> Vec<BTreeMap<String, u64>> {
    let text = std::fs::read_to_string(dir.join(process.to_string())).unwrap_or_default();
    let counts = text.lines().map(|line| serde_json::from_str(line).unwrap());
    // A flush that takes long is tried again, and ends another period then.
    counts.filter(|counts: &BTreeMap<String, u64>| !counts.is_empty()).collect()
}

/// One test, since there is one profiler in a process.
#[test]
fn each_period_has_its_own_and_a_child_has_none_of_its_parents() {
    let dir = directory("endpoints");
    std::fs::create_dir_all(&dir).unwrap();
    let to = dir.clone();
    count_endpoint("GET /before");
    let builder =
        Profiler::builder().set("period_s", "3600").set("symbolize", "off").set("cpu_budget_percent", "100");
    let profiler = builder.exporters(move || vec![Box::new(Counts(to.clone()))]).start().unwrap();
    let period = |count: u64| {
        // Known before threads come for it at once.
        (0..2).for_each(|_| count_endpoint("GET /cart/{id}"));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (1..count).for_each(|_| count_endpoint("GET /cart/{id}")));
            }
        });
        (0..count).for_each(|_| count_endpoint("POST /cart"));
        burn(Duration::from_millis(100));
        flush(&profiler);
    };
    period(1000);
    period(1);
    count_endpoint("GET /parent");
    (0..9).for_each(|_| count_endpoint("GET /cart/{id}"));
    // SAFETY: the child allocates and starts threads, which the C library allows after a fork, and leaves by _exit.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork failed");
    if child == 0 {
        // Until it profiles itself, and a while of that.
        for _ in 0..40 {
            burn(Duration::from_millis(10));
            count_endpoint("GET /child");
        }
        flush(&profiler);
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: waits for a child of ours and writes one int that lives here.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    burn(Duration::from_millis(100));
    stop(profiler);
    count_endpoint("GET /after");
    let expected = |counts: &[(&str, u64)]| {
        counts.iter().map(|(endpoint, count)| ((*endpoint).to_string(), *count)).collect::<BTreeMap<_, _>>()
    };
    let own = counts(&dir, std::process::id());
    assert_eq!(
        own,
        [
            expected(&[("GET /cart/{id}", 2000), ("POST /cart", 1000)]),
            expected(&[("GET /cart/{id}", 2), ("POST /cart", 1)]),
            expected(&[("GET /cart/{id}", 9), ("GET /parent", 1)]),
        ]
    );
    let of_child = counts(&dir, child.unsigned_abs());
    let [of_child] = &of_child[..] else { panic!("{of_child:?}") };
    assert_eq!(of_child.keys().collect::<Vec<_>>(), ["GET /child"]);
    assert!((1..=40).contains(&of_child["GET /child"]), "{of_child:?}");
    std::fs::remove_dir_all(&dir).unwrap();
}
