//! Many more tasks than there is room for: some stand for the others, long waits as well as short ones.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{finish, labels, runtime, start};

/// What the tasks of one kind have awaited, and since when those await that do now.
#[derive(Default)]
struct Awaited {
    nanos: AtomicU64,
    now: Mutex<HashMap<u64, Instant>>,
}

impl Awaited {
    fn seconds(&self) -> f64 {
        let now: f64 = self.now.lock().unwrap().values().map(|begin| begin.elapsed().as_secs_f64()).sum();
        self.nanos.load(Ordering::SeqCst) as f64 / 1e9 + now
    }
}

pub(super) fn crowd() {
    // So many tasks, that sleep for so many milliseconds each time, or up to twice as many.
    const KINDS: [(&str, u64, u64); 3] =
        [("/short", 2_000, 150), ("/middle", 8_000, 2_000), ("/long", 10_000, 8_000)];
    let (profiler, dir) = start("crowd");
    let stop = Arc::new(AtomicBool::new(false));
    let rests = runtime(4);
    let kinds: Vec<Arc<Awaited>> = KINDS
        .iter()
        .map(|(name, tasks, millis)| {
            let (awaited, labels) = (Arc::new(Awaited::default()), labels(name));
            for number in 0..*tasks {
                let (kept, stop, millis) = (awaited.clone(), stop.clone(), *millis);
                rests.spawn(labels.wrap(async move {
                    let mut chance = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                    while !stop.load(Ordering::Relaxed) {
                        chance ^= chance << 13;
                        chance ^= chance >> 7;
                        chance ^= chance << 17;
                        let begin = Instant::now();
                        kept.now.lock().unwrap().insert(number, begin);
                        tokio::time::sleep(Duration::from_millis(millis + chance % millis)).await;
                        kept.now.lock().unwrap().remove(&number);
                        kept.nanos.fetch_add(begin.elapsed().as_nanos() as u64, Ordering::SeqCst);
                    }
                }));
            }
            awaited
        })
        .collect();
    std::thread::sleep(Duration::from_secs(12));
    // What is told goes up to the last profile, which a crowded machine writes late.
    let truth = || kinds.iter().map(|kind| kind.seconds()).collect::<Vec<f64>>();
    let (before, stats) = (truth(), profiler.stats());
    let told = finish(profiler, &dir);
    let after = truth();
    stop.store(true, Ordering::Relaxed);
    rests.shutdown_background();
    assert_eq!(stats.awaits_lost, 0, "{stats:?}");
    for (((name, tasks, millis), before), after) in KINDS.iter().zip(before).zip(after) {
        let told = told.seconds(&[("endpoint", name), ("wait", "timer")], "crowd");
        // Some 700 of all are held at once at the least, and each wait is drawn anew.
        let at_once = 700.0 * *tasks as f64 / 20_000.0;
        let sigma = 1.0 / (at_once * (12_000.0 / (1.5 * *millis as f64)).max(1.0)).sqrt();
        println!("{name}: {told:.0} of {before:.0} to {after:.0} s, sigma {sigma:.3}");
        let tolerance = 4.0 * sigma + 0.1;
        assert!(told > before * (1.0 - tolerance) && told < after * (1.0 + tolerance), "{name}: {told} s");
    }
}
