//! How many signals are behind the values of a profile.
//!
//! A signal stands for several periods where the kernel's tick is coarser than the period asked for, and where it came
//! late. The values are right all the same, but chance has fewer draws: a comparison has to know how many. The tag
//! `effective_rate_hz` tells it: signals per second of CPU time, in the period that the profile is of.

use super::Profile;

/// The tag, in Hz.
pub(crate) const EFFECTIVE_RATE: &str = "effective_rate_hz";

impl Profile {
    /// Sets the tag from the number of signals that the samples came with. Without CPU time there is none.
    pub(crate) fn tell_signals(&mut self, signals: u64) {
        let seconds = self.cpu_seconds();
        if seconds > 0.0 {
            self.set_rate(signals as f64 / seconds);
        }
    }

    /// How many periods a signal stands for on average, at least 1; 1 where the profile does not tell. Of allocations, and of
    /// waits for locks: how many of them a sample stands for.
    pub(crate) fn periods_per_signal(&self) -> f64 {
        let totals = self.totals();
        if matches!(self.period_type.name.as_str(), "space" | "contentions") {
            return self.weight_of_samples(&totals);
        }
        let samples = self.sample_types.iter().position(|known| known.unit == "count");
        let (Some(rate), Some(samples)) = (self.rate(), samples) else { return 1.0 };
        let signals = rate * self.cpu_seconds();
        // A file of others may name any rate; the result has to stay a number.
        if signals > 0.0 { (totals[samples] as f64 / signals).clamp(1.0, 1e9) } else { 1.0 }
    }

    /// A sample stands for one in so many bytes, and for waits of so many nanoseconds together, or for one larger one.
    fn weight_of_samples(&self, totals: &[i64]) -> f64 {
        let of_type = |wanted: &str| {
            let place = self.sample_types.iter().position(|known| known.name == wanted)?;
            totals.get(place).map(|total| total.unsigned_abs() as f64)
        };
        let shown = self.default_sample_type.as_str();
        let counted = match shown.strip_suffix("_space") {
            Some(family) => of_type(&format!("{family}_objects")),
            None => of_type("contentions"),
        };
        let (Some(counted), Some(all)) = (counted, of_type(shown)) else { return 1.0 };
        let samples = all / self.period.max(1) as f64;
        if samples > 0.0 { (counted / samples).clamp(1.0, 1e9) } else { 1.0 }
    }

    /// The rate of this profile and `other` together, before they are summed. One that is not known leaves none. `totals` are
    /// those of the other.
    pub(super) fn rate_with(&self, other: &Profile, totals: impl Fn() -> Vec<i64>) -> Option<f64> {
        let (own, more) = (self.rate()?, other.rate()?);
        let (own_seconds, more_seconds) = (self.cpu_seconds(), other.seconds_of(&totals()));
        let seconds = own_seconds + more_seconds;
        (seconds > 0.0).then(|| (own * own_seconds + more * more_seconds) / seconds)
    }

    pub(super) fn set_rate(&mut self, rate: f64) {
        self.tags.insert(EFFECTIVE_RATE.to_owned(), format!("{rate:.2}"));
    }

    fn rate(&self) -> Option<f64> {
        let rate: f64 = self.tags.get(EFFECTIVE_RATE)?.parse().ok()?;
        (rate.is_finite() && rate > 0.0).then_some(rate)
    }

    fn cpu_seconds(&self) -> f64 {
        self.seconds_of(&self.totals())
    }

    fn seconds_of(&self, totals: &[i64]) -> f64 {
        let place = self.sample_types.iter().position(|known| known.unit == "nanoseconds");
        place.and_then(|place| totals.get(place)).map_or(0.0, |nanos| *nanos as f64 / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, Profile};

    fn profile(periods: i64, signals: u64) -> Profile {
        let mut profile = Profile::new(Kind::Cpu);
        let (stack, labels) = (profile.stack(&[]), profile.labels(&[]));
        profile.add(stack, labels, &[periods, periods * 1_000_000]);
        profile.tell_signals(signals);
        profile
    }

    #[test]
    fn the_rate_is_that_of_signals_and_survives_a_merge() {
        let mut sum = profile(4000, 1000);
        assert_eq!(sum.tags["effective_rate_hz"], "250.00");
        assert_eq!(sum.periods_per_signal(), 4.0);
        let merged = sum.merge(&profile(2000, 2000));
        assert!(merged.is_ok());
        assert_eq!(sum.tags["effective_rate_hz"], "500.00", "3,000 signals in 6 s");
        assert_eq!(sum.periods_per_signal(), 2.0);
    }

    #[test]
    fn what_is_not_known_is_taken_for_one() {
        assert_eq!(Profile::new(Kind::Cpu).periods_per_signal(), 1.0);
        for rate in ["", "none", "0", "-5", "NaN", "inf", "1e300"] {
            let mut odd = profile(100, 100);
            odd.tags.insert("effective_rate_hz".into(), rate.into());
            assert_eq!(odd.periods_per_signal(), 1.0, "{rate}");
        }
        let mut sum = profile(100, 50);
        let mut silent = profile(100, 50);
        silent.tags.clear();
        assert!(sum.merge(&silent).is_ok());
        assert_eq!(sum.periods_per_signal(), 1.0, "of half of it nothing is known");
    }
}
