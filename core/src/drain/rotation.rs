//! Whose turn it is to profile: the rotation of a fleet without a coordinator.
//!
//! Pure: no clock, no thread. Each instance computes the same that anybody else would, from the service, its own name and
//! the time alone; docs/fleet.md has the rule in words and numbers, and every language and version keeps to it.
//!
//! The usual rule is `hash(service, instance, window) < share`, for each window anew. Ours is the same for a single window,
//! but the windows of one instance are drawn together: of the `turns` windows that the share is one of, one hash chooses
//! the one in which the instance is active. So nobody waits for ever, and each instance is active as often as any other
//! within a few windows, and not only in the long run. Names that end in numbers (`web-17`) are spread evenly as well: each
//! next number is a step further by an irrational part of the range, as in a Kronecker sequence, so that in every window nearly
//! the same number of them is active. What no rule can have is that of names that know nothing of each other: they decide
//! independently, so that number is binomial, whatever the rule.

use std::time::Duration;

use crate::options::{FleetWindow, Share};

/// The whole range of a hash.
const RANGE: u128 = 1 << 64;

/// When one instance is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rotation {
    share: u32,
    /// Of so many windows at most one is chosen, by a part of the range of that width.
    turns: u64,
    width: u64,
    window: u64,
    /// By so many nanoseconds windows begin earlier than those of the clock.
    offset: u64,
    /// The hash of everything but the turn and the number.
    seed: u64,
    /// What the number at the end of the name adds to the hash.
    step: u64,
}

/// What a moment is for an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) is_active: bool,
    /// The number of the window.
    pub(super) window: u64,
    /// Until it ends.
    pub(super) left: Duration,
}

impl Rotation {
    /// Of an instance of a service.
    pub(super) fn new(service: &str, instance: &str, share: Share, window: FleetWindow) -> Self {
        let window = window.duration().as_nanos() as u64;
        let (name, number) = numbered(instance);
        let seed =
            [service, name].into_iter().fold(FNV_BASIS, |hash, text| fnv(fnv(hash, text.as_bytes()), &[0]));
        let place = mix(fnv(seed, b"offset")).wrapping_add(number.wrapping_mul(STEP_OF_OFFSET));
        let offset = (u128::from(place) * u128::from(window / 1_000_000) / RANGE) as u64 * 1_000_000;
        let step = number.wrapping_mul(STEP_OF_TURN);
        let share = share.millionths();
        let chosen = u64::from(share.min(Share::ALL - share).max(1));
        let turns = u64::from(Share::ALL) / chosen;
        let width = (u128::from(chosen) * RANGE / u128::from(Share::ALL)) as u64;
        Self { share, turns, width, window, offset, seed, step }
    }

    /// Whether everybody is active at any time.
    pub(super) fn is_all(&self) -> bool {
        self.share == Share::ALL
    }

    /// Whether nobody is active at any time.
    pub(super) fn is_none(&self) -> bool {
        self.share == 0
    }

    /// What that moment is, in nanoseconds since the Unix epoch.
    pub(super) fn at(&self, now: i64) -> Turn {
        let shifted = now.max(0).unsigned_abs() + self.offset;
        let window = shifted / self.window;
        let left = Duration::from_nanos(self.window - shifted % self.window);
        Turn { is_active: self.is_active(window), window, left }
    }

    /// Whether it is active in that window.
    fn is_active(&self, window: u64) -> bool {
        match self.share {
            0 => false,
            Share::ALL => true,
            share => self.is_chosen(window) == (share <= Share::ALL / 2),
        }
    }

    /// Whether that window is the one of `turns` that is chosen. Of a share of more than half it is the rest that takes turns.
    fn is_chosen(&self, window: u64) -> bool {
        let (stretch, turn) = (window / self.turns, window % self.turns);
        let hash = mix(fnv(fnv(self.seed, b"turn"), &stretch.to_le_bytes()));
        // No overflow: all turns together are no wider than the range.
        hash.wrapping_add(self.step).wrapping_sub(turn * self.width) < self.width
    }
}

/// The number of decimal digits at the end of a name, up to 18 of them, and what stands before it.
fn numbered(instance: &str) -> (&str, u64) {
    let digits = instance.bytes().rev().take(18).take_while(u8::is_ascii_digit).count();
    // Digits are ASCII, so what is before them ends where a character does.
    let (name, number) = instance.split_at(instance.len() - digits);
    (name, number.parse().unwrap_or_default())
}

/// Parts of the range by which neighbours lie apart in their turns and in the beginnings of their windows: 1/g and 1/g^2, where
/// g^3 = g + 1. That pair spreads evenly in both at once (M. Roberts, "The unreasonable effectiveness of quasirandom
/// sequences", 2018), so that also at a moment, which is in one window for some and in the next for others, the share is even.
const STEP_OF_TURN: u64 = 0xc13f_a9a9_02a6_328f;
const STEP_OF_OFFSET: u64 = 0x91e1_0da5_c79e_7b1d;

const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a: four lines in any language, and no two texts of a fleet that differ in one place have the same.
pub(super) fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

/// The end of MurmurHash3, which spreads what FNV leaves in the lower bits over all of them.
pub(super) fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stdout)]
mod tests {
    use super::*;

    const FLEET: usize = 10_000;
    const WINDOWS: u64 = 600;

    /// As Kubernetes names the pods of a deployment: by chance.
    fn rotation(instance: usize, millionths: u32) -> Rotation {
        let chance = mix(fnv(FNV_BASIS, &instance.to_le_bytes()));
        let name: String = (0..5)
            .map(|at| char::from(b"bcdfghjklmnpqrstvwxz2456789"[(chance >> (8 * at)) as usize % 27]))
            .collect();
        named(&format!("checkout-7d4b9c-{name}"), millionths)
    }

    fn named(instance: &str, millionths: u32) -> Rotation {
        Rotation::new("checkout", instance, Share::new(millionths).unwrap(), FleetWindow::new(600).unwrap())
    }

    fn fleet(millionths: u32) -> Vec<Rotation> {
        (0..FLEET).map(|instance| rotation(instance, millionths)).collect()
    }

    /// The number that is active in each window, and how often each instance is.
    fn simulate(
        fleet: &[Rotation],
        windows: u64,
        active: impl Fn(&Rotation, u64) -> bool,
    ) -> (Vec<u32>, Vec<u32>) {
        let (mut by_window, mut by_instance) = (vec![0; windows as usize], vec![0; fleet.len()]);
        // Windows of this decade, not those of 1970.
        for window in 0..windows {
            for (instance, rotation) in fleet.iter().enumerate() {
                let is_active = u32::from(active(rotation, 2_950_000 + window));
                by_window[window as usize] += is_active;
                by_instance[instance] += is_active;
            }
        }
        (by_window, by_instance)
    }

    #[test]
    fn ten_thousand_instances_share_as_they_were_told_without_a_coordinator() {
        for millionths in [10_000, 50_000, 100_000, 123_457, 150_000, 333_333, 500_000, 850_000] {
            let p = f64::from(millionths) / 1e6;
            let (by_window, by_instance) = simulate(&fleet(millionths), WINDOWS, Rotation::is_active);
            let sigma = (p * (1.0 - p) / FLEET as f64).sqrt();
            let off = |active: &u32| (f64::from(*active) / FLEET as f64 - p).abs();
            let worst = by_window.iter().map(off).fold(0.0, f64::max);
            let within = by_window.iter().filter(|active| off(active) <= 0.01).count();
            let expected = WINDOWS as f64 * p;
            let binomial = (WINDOWS as f64 * p * (1.0 - p)).sqrt();
            // What chance has in a window is made up for by the next ones.
            let turns = rotation(0, millionths).turns;
            let mut by_stretch = std::collections::BTreeMap::<u64, (u32, u32)>::new();
            for (window, active) in (2_950_000..).zip(&by_window) {
                let sum = by_stretch.entry(window / turns).or_default();
                *sum = (sum.0 + active, sum.1 + 1);
            }
            let whole = by_stretch.values().filter(|(_, windows)| u64::from(*windows) == turns);
            let worst_stretch = whole
                .map(|(active, _)| (f64::from(*active) / FLEET as f64 / turns as f64 - p).abs())
                .fold(0.0, f64::max);
            let furthest =
                by_instance.iter().map(|times| (f64::from(*times) - expected).abs()).fold(0.0, f64::max);
            let all = by_window.iter().map(|active| f64::from(*active)).sum::<f64>();
            let mean = all / FLEET as f64 / WINDOWS as f64;
            println!(
                "p {:7.4} %: in {turns} windows together off by {:.3} points; worst window off by {:.3} points ({:.2} sigma), {:.2} % of windows within 1 point; mean {:.5} %; \
                 instances active {expected:.1} times, furthest {furthest:.1} off ({:.2} binomial sigma)",
                p * 100.0,
                worst_stretch * 100.0,
                worst * 100.0,
                worst / sigma,
                within as f64 / WINDOWS as f64 * 100.0,
                mean * 100.0,
                furthest / binomial,
            );
            // One point of ten thousand is beyond 4.5 sigma up to 5 %; between, chance has what it has.
            assert!(worst <= f64::max(4.5 * sigma, 0.0001), "{worst}");
            assert!(4.5 * sigma > 0.01 || within == by_window.len());
            assert!(worst_stretch <= 0.01, "{worst_stretch}");
            // Its standard deviation is 0.00005 at most.
            assert!((mean - p).abs() < 0.0002, "{mean}");
            assert!(furthest <= 3.0 * binomial, "an instance is {furthest} off {expected}");
        }
    }

    #[test]
    fn numbered_instances_share_evenly_in_every_window_and_at_every_moment() {
        for millionths in [10_000, 50_000, 100_000, 123_457, 150_000, 333_333, 500_000, 850_000] {
            let p = f64::from(millionths) / 1e6;
            let fleet: Vec<_> =
                (0..FLEET).map(|number| named(&format!("checkout-{number}"), millionths)).collect();
            let (by_window, by_instance) = simulate(&fleet, WINDOWS / 4, Rotation::is_active);
            let off = |active: u32| (f64::from(active) / FLEET as f64 - p).abs() * 100.0;
            let worst = by_window.iter().map(|active| off(*active)).fold(0.0, f64::max);
            // Every seven minutes and something, so that windows are met at each of their parts.
            let moments =
                (0..WINDOWS as i64 / 4).map(|moment| 1_800_000_000_000_000_000 + moment * 437_111_222_333);
            let active = |now| fleet.iter().filter(|rotation| rotation.at(now).is_active).count() as u32;
            let worst_moment = moments.map(|now| off(active(now))).fold(0.0, f64::max);
            let expected = (WINDOWS / 4) as f64 * p;
            let furthest =
                by_instance.iter().map(|times| (f64::from(*times) - expected).abs()).fold(0.0, f64::max);
            let binomial = (expected * (1.0 - p)).sqrt();
            println!(
                "p {:7.4} %, numbered: a window is off by {worst:.3} points at most, a moment by {worst_moment:.3}; \
                 instances active {expected:.1} times, furthest {furthest:.1} off ({:.2} binomial sigma)",
                p * 100.0,
                furthest / binomial,
            );
            assert!(worst <= 0.05 && worst_moment <= 0.15, "{worst} {worst_moment}");
            assert!(furthest <= 3.0 * binomial, "an instance is {furthest} off {expected}");
        }
    }

    #[test]
    fn numbers_are_what_ends_a_name() {
        let cases = [
            ("web-17", ("web-", 17)),
            ("web-017", ("web-", 17)),
            ("", ("", 0)),
            ("7", ("", 7)),
            ("ü", ("ü", 0)),
            ("ü5", ("ü", 5)),
            ("web-17a", ("web-17a", 0)),
            ("id-1234567890123456789", ("id-1", 234_567_890_123_456_789)),
        ];
        for (name, expected) in cases {
            assert_eq!(numbered(name), expected, "{name}");
        }
    }

    #[test]
    fn a_hash_for_each_window_leaves_instances_out_which_turns_do_not() {
        let plain = |rotation: &Rotation, window: u64| {
            mix(fnv(fnv(rotation.seed, b"plain"), &window.to_le_bytes())) < (u64::MAX / 20)
        };
        let fleet = fleet(50_000);
        let longest = |active: &dyn Fn(&Rotation, u64) -> bool| {
            let (mut longest, mut beyond) = (0, 0);
            for rotation in &fleet {
                let mut since = 0;
                let mut times = 0;
                for window in 0..WINDOWS {
                    let is_active = active(rotation, window);
                    (since, times) = if is_active { (0, times + 1) } else { (since + 1, times) };
                    longest = longest.max(since);
                }
                // Three sigma of 30 times.
                beyond += u32::from((f64::from(times) - 30.0_f64).abs() > 16.0);
            }
            (longest, beyond)
        };
        let (ours, theirs) = (longest(&Rotation::is_active), longest(&plain));
        println!(
            "5 %, longest wait in windows and instances beyond 3 sigma: turns {ours:?}, a hash each {theirs:?}"
        );
        assert!(ours.0 <= 2 * 20 - 2 && ours.1 == 0);
        assert!(theirs.0 > 100 && theirs.1 > 0, "the plain rule: {theirs:?}");
    }

    #[test]
    fn windows_begin_at_other_moments_for_each_instance() {
        let minute = 60_000_000_000;
        let mut begins = [0; 10];
        for rotation in fleet(500_000) {
            let turn = rotation.at(1_800_000_000 * 1_000_000_000);
            let left = turn.left.as_nanos() as u64;
            begins[((left - 1) / minute) as usize] += 1;
            // Up to the last nanosecond it is the same window, and then the next one.
            let end = 1_800_000_000 * 1_000_000_000 + left as i64;
            assert_eq!(
                (rotation.at(end - 1).window, rotation.at(end).window),
                (turn.window, turn.window + 1)
            );
        }
        println!("windows that begin in each minute of ten: {begins:?}");
        assert!(begins.iter().all(|begins| (850..1_150).contains(begins)));
    }

    #[test]
    fn the_rule_is_the_one_that_is_written_down() {
        // docs/fleet.md has these numbers.
        assert_eq!(fnv(FNV_BASIS, b"foobar"), 0x8594_4171_f739_67e8, "as published");
        assert_eq!(mix(1), 0xb456_bcfc_34c2_cb2c, "as published");
        let of = |share, window| {
            Rotation::new("checkout", "pod-1", Share::new(share).unwrap(), FleetWindow::new(window).unwrap())
        };
        let rotation = of(150_000, 600);
        let first: Vec<u64> = (3_000_000..3_000_030).filter(|window| rotation.is_active(*window)).collect();
        assert_eq!((rotation.seed, rotation.offset), (0x84de_22c9_e36d_dcef, 75_667_000_000));
        assert_eq!(first, [3_000_003, 3_000_009, 3_000_017, 3_000_019, 3_000_024]);
        // What is left of that is the turn of who shares the other way.
        let rest = of(850_000, 600);
        assert!((3_000_000..3_000_030).all(|window| rest.is_active(window) != rotation.is_active(window)));
    }

    #[test]
    fn none_all_and_a_clock_before_its_time() {
        let now = 1_800_000_000 * 1_000_000_000;
        assert!((0..100).all(|instance| !rotation(instance, 0).at(now).is_active));
        assert!((0..100).all(|instance| rotation(instance, 1_000_000).at(now).is_active));
        assert_eq!(rotation(1, 500_000).at(i64::MIN), rotation(1, 500_000).at(0));
        let last = rotation(1, 1).at(i64::MAX);
        assert!(last.left > Duration::ZERO);
    }
}
