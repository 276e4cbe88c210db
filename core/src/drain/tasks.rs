//! `/proc/self/task`: which threads there are, what they are called, and whether they run. Our thread.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use everprof_probe::os::{self, Clock, State, getpid};

const TASKS: &str = "/proc/self/task";

/// Whether the `/proc` that is mounted here counts threads as this process does. In a PID namespace with the outer
/// namespace's `/proc` it does not: ids that it names are those of other threads, or of none. True where nobody can say.
pub(super) fn are_ours() -> bool {
    let link = fs::read_link("/proc/self").ok();
    let id = link.and_then(|link| link.to_str()?.parse::<u32>().ok());
    id.is_none_or(|id| id == getpid())
}

/// Every thread's id; `None` where the directory cannot be read.
pub(super) fn ids() -> Option<impl Iterator<Item = u32>> {
    let tasks = fs::read_dir(TASKS).ok()?;
    Some(tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok()))
}

/// A number that changes with that of the threads, for the price of one system call.
pub(super) fn links() -> u64 {
    fs::metadata(TASKS).map_or(0, |tasks| tasks.nlink())
}

/// How many threads live where that is the number: the kernel adds them to the two links of any directory
/// (`fs/proc/base.c`, `proc_task_getattr`).
pub(super) fn count(links: u64) -> Option<usize> {
    usize::try_from(links.checked_sub(2)?).ok()
}

/// Whether a thread of that id lives. Its clock knows, also where the process has another root by now, or no room for one
/// more open file.
pub(super) fn lives(tid: u32) -> bool {
    Clock::Thread(tid).now().is_some()
}

/// Whether a thread runs or is ready to.
pub(super) fn is_running(tid: u32) -> bool {
    os::standing(tid).is_some_and(|standing| standing.state == State::Running)
}

/// A thread's name, which programs may change; empty where there is no such thread.
pub(super) fn name(tid: u32) -> Arc<str> {
    let name = fs::read(format!("{TASKS}/{tid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end_matches('\n').into()
}
