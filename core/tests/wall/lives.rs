//! Lives shorter than the time between two looks, and longer ones: what is told of all is what all have lived.
//!
//! With births at any time, a life of `l` is met with the chance `l / r` and told as `r`, the time between two moments at
//! which all threads are known, which has the variance `r * l - l * l`; a life longer than `r` is told as it was but for its end,
//! which has the variance `r * r / 6`, of two moments of a round. How long `r` is depends on what it costs to look for threads
//! here. Of lives that are short for any `r` the profile tells it: each that is met is told twice, by the look that met it and
//! at its end. For longer ones, `r` is a quarter of a second at most: looking for some twenty threads takes a tenth of a
//! millisecond, and a two-thousandth of our time.
//!
//! A thread that is listed and has ended by the time that it is looked at is not told, or not by its name: of each life
//! that takes a millisecond, where others use the machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use everprof::profile::LabelValue;

use crate::common::{flush, stop};
use crate::{Clocks, largest, start};

/// For lives of so many milliseconds, of which so many go on at a time.
const LIVES: &[(u64, u64)] = &[(2, 3), (5, 6), (30, 12), (120, 12), (400, 12)];

pub(crate) fn lives() {
    for (millis, at_once) in LIVES {
        told(*millis, *at_once);
    }
}

fn told(millis: u64, at_once: u64) {
    const SECONDS: u64 = 4;
    let (profiler, dir) = start(&format!("lives{millis}"), "offcpu");
    thread::sleep(Duration::from_millis(300));
    let (waited, count, living) =
        (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU32::new(0)));
    let mut chance = 1_u64;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(SECONDS) {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Births at any time: the gaps are exponential.
        let even = ((chance >> 33) as f64 + 0.5) / (1_u64 << 31) as f64;
        let gap = -even.ln() * millis as f64 / at_once as f64;
        thread::sleep(Duration::from_secs_f64(gap.min(1_000.0) / 1e3));
        let (waited, count, living) = (waited.clone(), count.clone(), living.clone());
        living.fetch_add(1, Ordering::Relaxed);
        let work = move || {
            let clocks = Clocks::now();
            thread::sleep(Duration::from_millis(millis));
            waited.fetch_add((clocks.waited() * 1e9) as u64, Ordering::Relaxed);
            count.fetch_add(1, Ordering::Relaxed);
            living.fetch_sub(1, Ordering::Relaxed);
        };
        thread::Builder::new().name("life".into()).spawn(work).unwrap();
    }
    while living.load(Ordering::Relaxed) > 0 {
        thread::sleep(Duration::from_millis(1));
    }
    // The last ends are noticed when threads are looked for again.
    thread::sleep(Duration::from_secs(1));
    flush(&profiler);
    stop(profiler);
    let profile = largest(&dir, "offcpu");
    let lives = profile.samples().filter(|sample| {
        let labels = profile.get_labels(sample.labels);
        labels.iter().any(|label| matches!(&label.value, LabelValue::Text(name) if name == "life"))
    });
    let (told, times) = lives.fold((0, 0), |(told, times), sample| {
        let is_waiting = profile.get_labels(sample.labels).iter().any(|label| {
            label.key == "state" && matches!(&label.value, LabelValue::Text(state) if state == "off_cpu")
        });
        if is_waiting { (told + sample.values[1], times + sample.values[0]) } else { (told, times) }
    });
    let (told, life) = (told as f64 / 1e9, millis as f64 / 1e3);
    let truth = waited.load(Ordering::Relaxed) as f64 / 1e9;
    let count = count.load(Ordering::Relaxed) as f64;
    let round = if millis < 10 { 2.0 * told / times as f64 } else { 0.25 };
    let variance = if life < round { round * life - life * life } else { round * round / 6.0 };
    let sigma = (count * variance).sqrt();
    println!(
        "{millis} ms: {told:.3} of {truth:.3} s, {count} lives, rounds of {round:.3} s, sigma {sigma:.3}"
    );
    let missed = count * 0.001;
    let range = truth - missed - 3.0 * sigma..truth + 0.02 * truth + 3.0 * sigma;
    assert!(range.contains(&told), "{millis} ms: {told} is not in {range:?}");
}
