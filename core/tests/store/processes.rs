//! Several processes in one directory, and processes that are killed.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use everprof::store::{Directory, Query, Retention, list, prune, read};

use crate::support::{Folder, bytes, files, set};

const DIR: &str = "EVERPROF_TEST_STORE_DIR";
const SETS: &str = "EVERPROF_TEST_STORE_SETS";
const BYTES: &str = "EVERPROF_TEST_STORE_BYTES";

/// Not a test of its own: the process that the tests below start. Writes so many sets as fast as it can.
#[test]
fn writer_process() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let number = |name: &str| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let retention = Retention { age: Duration::MAX, bytes: number(BYTES) };
    let mut directory = Directory::new(Path::new(&dir), retention);
    for sequence in 0..number(SETS) {
        directory.write(&set(sequence, 0)).unwrap();
    }
}

fn writer(dir: &Path, sets: u64, bytes: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::writer_process", "--nocapture"])
        .env(DIR, dir)
        .env(SETS, sets.to_string())
        .env(BYTES, bytes.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Whatever has a final name is whole.
fn assert_all_readable(dir: &Path) -> usize {
    let entries = list(dir, &Query::default()).unwrap();
    for entry in &entries {
        let profile = read(&entry.path).unwrap();
        assert_eq!(profile.samples().len(), 4, "{}", entry.path.display());
    }
    entries.len()
}

#[test]
fn writers_that_are_killed_leave_nothing_half() {
    let dir = Folder::new("killed");
    for round in 0..15u64 {
        let mut child = writer(&dir, u64::MAX, 1 << 30);
        std::thread::sleep(Duration::from_millis(20 + round * 7 % 60));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert_all_readable(&dir);
    }
    assert!(assert_all_readable(&dir) > 15, "they wrote something before they died");
    let earlier = SystemTime::now() - Duration::from_secs(120);
    let unfinished = |path: &Path| path.extension().is_some_and(|end| end == "tmp");
    let left: Vec<_> = files(&dir).into_iter().filter(|path| unfinished(path)).collect();
    for path in &left {
        std::fs::File::open(dir.join(path)).unwrap().set_modified(earlier).unwrap();
    }
    let pruned = prune(&dir, Retention::default()).unwrap();
    assert_eq!((pruned.unfinished as usize, pruned.sets), (left.len(), 0));
    assert!(!files(&dir).iter().any(|path| unfinished(path)));
    eprintln!("15 writers killed: {} profiles, {} unfinished files", assert_all_readable(&dir), left.len());
}

#[test]
fn four_processes_write_and_prune_at_once() {
    let dir = Folder::new("four");
    let limit = 100_000;
    let children: Vec<Child> = (0..4).map(|_| writer(&dir, 150, limit)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success(), "no writer may fail because another one prunes");
    }
    let left = assert_all_readable(&dir);
    assert!(bytes(&dir) <= limit, "{} bytes", bytes(&dir));
    assert!(left > 20, "only {left} profiles left: more was dropped than had to be");
    assert!(files(&dir).iter().all(|path| path.extension().is_none_or(|end| end != "tmp")));
}
