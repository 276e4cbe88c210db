//! How long a thread was ready to run and had no processor: `/proc/self/task/TID/schedstat`. Off the handler: 4 us.

use super::Text;

/// Nanoseconds for which thread `tid` of this process has waited for a processor since its birth; `None` where it is gone
/// or the kernel does not count it.
pub fn ready_time(tid: u32) -> Option<u64> {
    let mut path = Text::<48>::new();
    path.text(b"/proc/self/task/").number(tid).text(b"/schedstat\0");
    let mut line = [0; 96];
    let line = super::read_file(path.bytes(), &mut line)?;
    // Time on the processor, time waiting for one, number of turns (`Documentation/scheduler/sched-stats`).
    let word = line.split(|byte| *byte == b' ').nth(1)?;
    core::str::from_utf8(word).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_thread_has_a_time_and_no_thread_has_none() {
        assert_eq!(ready_time(u32::MAX), None);
        if !std::path::Path::new("/proc/self/task").exists() {
            return;
        }
        let before = ready_time(super::super::gettid());
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert!(ready_time(super::super::gettid()) >= before);
    }
}
