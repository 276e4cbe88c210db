//! Random distances between samples: those of a Poisson process, so that each byte, or each nanosecond, has the same
//! chance to be the one that is sampled, whatever comes before it and however regular the program is.
//!
//! Plain arithmetic, for code on the application's threads: no system call, no table, no state but the caller's.

/// The next state of a random sequence (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[inline]
pub const fn next(state: u64) -> u64 {
    state.wrapping_add(0x9e37_79b9_7f4a_7c15)
}

/// The number that belongs to a state: 64 random bits.
#[inline]
pub const fn bits(state: u64) -> u64 {
    let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// The distance that `random` bits stand for, of a mean of `mean`: exponentially distributed, rounded down. With that, `n`
/// steps pass the end of it with the probability `1 - exp(-n / mean)`, exactly.
///
/// ```
/// use everprof_probe::poisson::{bits, distance, next};
/// let (mut state, mut sum) = (7, 0);
/// for _ in 0..100_000 {
///     state = next(state);
///     sum += distance(bits(state), 512 << 10);
/// }
/// let mean = sum as f64 / 100_000.0 / (512 << 10) as f64;
/// assert!((mean - 1.0).abs() < 0.01, "{mean}");
/// ```
pub fn distance(random: u64, mean: u64) -> u64 {
    // 53 bits, from 1 to 2^53, as a part of one: never 0, whose logarithm there is not.
    let part = ((random >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    // The cast of a float to an integer saturates.
    (-logarithm(part) * mean as f64) as u64
}

/// The natural logarithm of a normal number above 0, to some twelve digits.
///
/// `core` has none. With x = m 2^e, m near 1, and z = (m - 1) / (m + 1): ln x = e ln 2 + 2 (z + z^3/3 + z^5/5 + ...).
fn logarithm(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut m = f64::from_bits(bits & MANTISSA | 1023 << 52);
    if m > core::f64::consts::SQRT_2 {
        m /= 2.0;
        exponent += 1;
    }
    let z = (m - 1.0) / (m + 1.0);
    let square = z * z;
    // |z| <= 0.172, so that what is left out is below 1e-13.
    let series = [15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0];
    let sum = series.into_iter().fold(0.0, |sum, odd| sum * square + 1.0 / odd);
    exponent as f64 * core::f64::consts::LN_2 + 2.0 * z * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_that_of_std() {
        let mut x = f64::MIN_POSITIVE;
        while x < 1e300 {
            assert!((logarithm(x) - x.ln()).abs() <= 1e-12 * x.ln().abs().max(1.0), "{x}");
            x *= 1.37;
        }
        assert_eq!(logarithm(1.0), 0.0);
    }

    #[test]
    fn the_ends_of_the_range_are_numbers() {
        assert_eq!(distance(u64::MAX, 1 << 19), 0);
        // -ln 2^-53 = 36.7
        assert_eq!(distance(0, 1000), 36_736);
        assert!(distance(0, u64::MAX) > 1 << 63);
    }

    #[test]
    fn distances_are_distributed_exponentially() {
        const COUNT: usize = 200_000;
        let mut state = 42;
        let mut below = [0_u32; 3];
        for _ in 0..COUNT {
            state = next(state);
            let at = distance(bits(state), 1000);
            for (count, limit) in below.iter_mut().zip([10, 1000, 3000]) {
                *count += u32::from(at < limit);
            }
        }
        for (count, limit) in below.into_iter().zip([10.0, 1000.0, 3000.0_f64]) {
            let p = 1.0 - (-limit / 1000.0).exp();
            let sigma = (COUNT as f64 * p * (1.0 - p)).sqrt();
            assert!((f64::from(count) - COUNT as f64 * p).abs() < 4.0 * sigma, "{limit}: {count}");
        }
    }
}
