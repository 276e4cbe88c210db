//! How often something may be done: so many times at once, and so many a second over time.

use std::time::Instant;

/// What is allowed, and what is left of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    burst: u32,
    per_second: u32,
    left: f64,
    counted: Option<Instant>,
}

impl Allowance {
    pub(crate) const fn new(burst: u32, per_second: u32) -> Allowance {
        Allowance { burst, per_second, left: burst as f64, counted: None }
    }

    /// Takes one, where one is left.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed = self.counted.map_or(0.0, |counted| now.saturating_duration_since(counted).as_secs_f64());
        self.counted = Some(now);
        self.left = (self.left + passed * f64::from(self.per_second)).min(f64::from(self.burst));
        let is_left = self.left >= 1.0;
        if is_left {
            self.left -= 1.0;
        }
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_was_used_up_comes_back_with_time() {
        let (mut allowance, start) = (Allowance::new(3, 2), Instant::now());
        let mut at = |millis| allowance.take(start + Duration::from_millis(millis));
        assert_eq!([at(0), at(0), at(0), at(0)], [true, true, true, false]);
        assert_eq!([at(400), at(500), at(501)], [false, true, false]);
        assert_eq!([at(99_000), at(99_000), at(99_000), at(99_000)], [true, true, true, false]);
    }
}
