#![allow(clippy::print_stdout, clippy::indexing_slicing)]

use super::*;

const MS: u64 = 1_000_000;

fn second(own_millis: u64, at: u64) -> Usage {
    Usage { threads: own_millis * MS, process: 0, wall: at * 1_000 * MS, ..Usage::default() }
}

fn asked(budget: f64, interval: u64, threshold: u64) -> Asked {
    Asked { budget, period: 10_000_000, interval, threshold, looks: 100_000_000 }
}

fn of_rate(budget: f64) -> Governor {
    Governor::new(asked(budget, 0, 0))
}

/// The period where it has changed.
fn judged(governor: &mut Governor, now: Usage) -> Option<u32> {
    let changed = governor.judge(now);
    assert!(changed.iter().all(|part| *part == Part::Rate), "{changed:?}");
    (!changed.is_empty()).then(|| governor.period())
}

#[test]
fn the_rate_falls_above_the_budget_to_where_it_fits_and_comes_back() {
    let mut governor = of_rate(0.01);
    assert_eq!(judged(&mut governor, second(5, 1)), None, "0.5 % is within 1 %");
    assert_eq!(judged(&mut governor, second(25, 2)), Some(25_000_000), "2 % is not: 0.8 % would be");
    assert!(governor.is_throttled());
    assert_eq!(judged(&mut governor, second(33, 3)), None, "that is what it was to come to");
    assert_eq!(judged(&mut governor, second(38, 4)), Some(17_857_142), "0.5 % leaves room to 0.7 %");
    assert_eq!(judged(&mut governor, second(39, 5)), Some(10_000_000));
    assert!(!governor.is_throttled());
    assert_eq!(judged(&mut governor, second(40, 6)), None, "never above what was asked for");
    let asked = Usage { requests: 500 * MS, ..second(540, 7) };
    assert_eq!(judged(&mut governor, asked), None, "what was asked for is not the rate's doing");
}

#[test]
fn a_moment_is_not_judged() {
    let mut governor = of_rate(0.01);
    let moment = |own: u64| Usage { threads: own, wall: own, ..Usage::default() };
    assert_eq!(judged(&mut governor, moment(500 * MS)), None);
    let since = judged(&mut governor, moment(1_000 * MS));
    assert_eq!(since, Some(40_000_000), "since the last judgement, and no longer a step than that");
}

#[test]
fn the_rate_has_a_floor() {
    let mut process = Process::new(0.01, [6.4, 0.0, 0.0, 0.0], 0.0);
    (0..30).for_each(|_| _ = process.step(1.0));
    assert_eq!(process.governor.period(), 640_000_000);
}

#[test]
fn what_costs_the_most_gives_way_until_the_others_cost_as_much() {
    let mut governor = Governor::new(asked(0.01, 64 << 10, 100_000));
    let at = |at: u64, threads: u64, heap: u64, locks: u64, accounts: [u64; 2]| Usage {
        heap: heap * MS,
        locks: locks * MS,
        accounts: accounts.map(|millis| millis * MS),
        ..second(threads, at)
    };
    // Of 14 ms, 8 are to be left: one for CPU time, as it is, and seven for the two others.
    assert_eq!(governor.judge(at(1, 1, 7, 6, [0, 0])), [Part::Heap, Part::Locks]);
    assert_eq!((governor.interval(), governor.threshold()), (2 * (64 << 10), 171_429));
    // Our own thread's time is that of those whose samples it counts.
    assert_eq!(governor.judge(at(2, 16, 8, 7, [14, 0])), [Part::Heap]);
    assert_eq!(governor.interval(), 327_680);
    assert!(governor.is_throttled() && !governor.holds(Part::Rate));
    // All come back together.
    assert_eq!(governor.judge(at(3, 17, 8, 8, [14, 0])), [Part::Heap, Part::Locks]);
    assert_eq!((governor.interval(), governor.threshold()), (163_840, 100_000));
    for second in 4..6 {
        assert_eq!(governor.judge(at(second, 17, 8, 8, [14, 0])), [Part::Heap]);
    }
    assert!(!governor.is_throttled());
}

/// A kind that has duties begins each of them as it ended the one before.
#[test]
fn what_rests_is_taken_as_often_as_before_when_it_comes_back() {
    let mut governor = Governor::new(asked(0.01, 64 << 10, 0));
    let at = |at: u64, heap: u64, rests: bool| Usage {
        heap: heap * MS,
        rests: [false, rests, false, false],
        ..second(at, at)
    };
    assert_eq!(governor.judge(at(1, 20, false)), [Part::Heap]);
    let held = governor.interval();
    for second in 2..10 {
        assert_eq!(governor.judge(at(second, 20, true)), []);
    }
    assert_eq!(governor.interval(), held);
    for second in 10..12 {
        assert_eq!(governor.judge(at(second, 20, false)), [Part::Heap]);
    }
    assert!(!governor.is_throttled());
}

#[test]
fn looks_give_way_as_well_and_what_would_make_no_difference_comes_as_often_as_it_did() {
    let mut governor = Governor::new(asked(0.01, 512 << 10, 100_000));
    // Looks at threads that wait on a machine short of processors, beside thousands of samples of allocations.
    let looks = |at: u64, looks: u64| Usage {
        looks: looks * MS,
        accounts: [at * MS, 0],
        heap: at * MS / 2,
        ..second(2 * at + looks, at)
    };
    assert_eq!(governor.judge(looks(1, 29)), [Part::Looks]);
    assert_eq!(governor.looks(), 400_000_000, "a step has its bounds");
    assert_eq!(governor.judge(looks(2, 29 + 7)), []);
    assert_eq!(governor.interval(), 512 << 10);
    assert_eq!(governor.judge(looks(3, 36 + 3)), [Part::Looks], "and come back");
    // Where samples of allocations cost a part that matters, they are what gives way.
    let allocations = Usage { heap: 40 * MS, ..looks(4, 40) };
    assert_eq!(governor.judge(allocations), [Part::Heap]);
}

#[test]
fn what_is_off_stays_off_and_what_is_new_begins_as_it_was_asked_for() {
    let mut governor = of_rate(0.01);
    let heavy = Usage { heap: 100 * MS, ..second(10, 1) };
    assert_eq!(governor.judge(heavy), [Part::Rate], "there is nothing else to slow down");
    assert_eq!((governor.interval(), governor.threshold()), (0, 0));
    let held = governor.period();
    governor.want(asked(0.01, 1 << 20, 0));
    assert_eq!((governor.period(), governor.interval()), (held, 1 << 20), "the rate is held down as it was");
    assert_eq!(governor.asked().period, 10_000_000);
}

#[test]
fn small_steps_are_told_once() {
    let mut governor = of_rate(0.01);
    assert!(!governor.is_news(Part::Rate));
    judged(&mut governor, second(11, 1));
    assert!(governor.is_news(Part::Rate) && !governor.is_news(Part::Rate), "it is held from now on");
    judged(&mut governor, second(22, 2));
    assert!(!governor.is_news(Part::Rate), "a little more");
    judged(&mut governor, second(42, 3));
    assert!(governor.is_news(Part::Rate));
    for at in 4..6 {
        judged(&mut governor, second(39 + at, at));
        assert!(governor.is_news(Part::Rate));
    }
    judged(&mut governor, second(45, 6));
    assert!(governor.is_news(Part::Rate) && !governor.is_throttled(), "as it was asked for");
}

/// A process whose costs are what the distances make of them.
struct Process {
    governor: Governor,
    /// Of one processor, at the distances that were asked for: by part, and what does not go by any.
    costs: [f64; 4],
    fixed: f64,
    sum: [f64; 5],
    at: u64,
}

impl Process {
    fn new(budget: f64, costs: [f64; 4], fixed: f64) -> Self {
        Self { governor: Governor::new(asked(budget, 1 << 19, 10_000)), costs, fixed, sum: [0.0; 5], at: 0 }
    }

    /// The share that two seconds cost, in which there is so much work.
    fn step(&mut self, work: f64) -> f64 {
        self.at += 2;
        let part = |part: usize| {
            let Dial { wanted, now, .. } = self.governor.dials[part];
            self.costs[part] * work * wanted as f64 / now as f64
        };
        let [rate, heap, locks, looks] = [0, 1, 2, 3].map(part);
        let shares = [self.fixed, rate, heap, locks, looks];
        for (sum, share) in self.sum.iter_mut().zip(shares) {
            *sum += share * 2e9;
        }
        let [fixed, rate, heap, locks, looks] = self.sum.map(|nanos| nanos as u64);
        self.governor.judge(Usage {
            threads: fixed + looks,
            looks,
            handler: rate,
            heap,
            locks,
            wall: self.at * 1_000 * MS,
            ..Usage::default()
        });
        shares.into_iter().sum()
    }
}

#[test]
fn from_ten_times_the_budget_it_takes_four_seconds_and_not_much_is_left_unused() {
    for (name, costs, fixed) in [
        ("one part", [0.1, 0.0, 0.0, 0.0], 0.0),
        ("all alike", [0.025; 4], 0.0),
        ("one above the others", [0.09, 0.005, 0.003, 0.002], 0.0),
        ("a part of it fixed", [0.048, 0.048, 0.0, 0.0], 0.004),
    ] {
        let mut process = Process::new(0.01, costs, fixed);
        let shares: Vec<f64> = (0..30).map(|_| process.step(1.0)).collect();
        let within = shares.iter().position(|share| *share <= 0.01).unwrap_or(shares.len());
        let least = shares.iter().copied().fold(f64::MAX, f64::min);
        println!(
            "{name}: within after {} s, never below {:.2} of it: {:.4?}",
            2 * within,
            least / 0.01,
            &shares[..6]
        );
        assert!(within <= 3 && shares[within..].iter().all(|share| *share <= 0.01), "{name}: {shares:.4?}");
        assert!(least >= 0.0069, "{name}: {shares:.4?}");
        assert_eq!(shares[10..20], shares[20..], "{name}: and there it stays");
    }
}

/// Our thread has work that no distance makes less, more than all of the budget.
#[test]
fn what_has_no_more_to_give_keeps_its_samples() {
    let mut process = Process::new(0.01, [0.01, 0.03, 0.0, 0.02], 0.03);
    let held = |process: &Process| process.governor.dials.map(|dial| dial.now as f64 / dial.wanted as f64);
    let (mut shares, mut most) = (Vec::new(), 0.0f64);
    let mut steps_far = 0;
    for step in 0..300 {
        shares.push(process.step(1.0));
        most = most.max(held(&process)[0]);
        steps_far += u32::from(step > 20 && held(&process)[0] > 8.0);
    }
    println!(
        "{:.4?} at the end, {most:.1} at the most, {steps_far} steps far off; {:.4?}",
        held(&process),
        &shares[..10]
    );
    assert!(shares[10..].iter().all(|share| *share < 0.0375), "all that can be saved is: {shares:.4?}");
    assert!(steps_far < 20, "in most steps there are samples of CPU time");
    // The work of our own ends, and everything comes back to where it fits.
    process.fixed = 0.0;
    let shares: Vec<f64> = (0..30).map(|_| process.step(1.0)).collect();
    println!("{:.2?}; {shares:.4?}", held(&process));
    assert!(shares.iter().all(|share| *share <= 0.01) && held(&process)[0] < 4.1);
}

/// What comes and goes by the hour and by the second does not make it hunt.
#[test]
fn it_follows_the_work_and_does_not_hunt() {
    let mut process = Process::new(0.01, [0.02, 0.02, 0.01, 0.01], 0.001);
    // Work that varies by a fifth to both sides, and costs six times the budget.
    let noise = |step: usize| 1.0 + 0.2 * ((step * 7919 % 101) as f64 / 50.0 - 1.0);
    let shares: Vec<f64> = (0..300).map(|step| process.step(noise(step))).collect();
    let above = shares[3..].iter().filter(|share| **share > 0.01).count();
    let mean = shares[3..].iter().sum::<f64>() / 297.0;
    println!("above it in {above} of 297 steps; {:.2} of it by the mean", mean / 0.01);
    assert!(above <= 15 && (0.6..0.9).contains(&(mean / 0.01)));
    // The work ends: everything comes back. It begins again: within three steps all is well.
    let back = (0..60).position(|_| {
        process.step(0.0);
        !process.governor.is_throttled()
    });
    println!("back after {:?} steps", back);
    assert!(back.is_some_and(|steps| (2..=6).contains(&steps)), "{back:?}");
    let shares: Vec<f64> = (0..10).map(|_| process.step(1.0)).collect();
    assert!(shares[3..].iter().all(|share| *share <= 0.01), "{shares:?}");
}
