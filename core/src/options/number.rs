//! Numbers with a range and a unit.

use std::time::Duration;

use super::value::{Setting, Shape};
use crate::error::{Error, ErrorKind};

macro_rules! whole_numbers {
    ($($(#[doc = $doc:literal])+ $name:ident($range:expr, default $default:literal);)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(u32);

        impl $name {
            /// Least and greatest value.
            pub const RANGE: std::ops::RangeInclusive<u32> = $range;
            pub(super) const DEFAULT: Self = Self($default);

            /// The value, or an error of kind [`ErrorKind::InvalidOption`] where it is out of range.
            pub fn new(value: u32) -> crate::Result<Self> {
                <Self as Setting>::parse(&value.to_string()).map_err(|right| {
                    Error::new(ErrorKind::InvalidOption, format!("{value} is out of range: {right}"))
                })
            }

            /// The number.
            pub const fn get(self) -> u32 {
                self.0
            }
        }

        impl Setting for $name {
            const SHAPE: Shape = Shape::Whole;

            fn accepts() -> String {
                format!("whole number, {} to {}", Self::RANGE.start(), Self::RANGE.end())
            }

            fn parse(text: &str) -> Result<Self, String> {
                match text.parse() {
                    Ok(value) if Self::RANGE.contains(&value) => Ok(Self(value)),
                    _ => Err(format!("give a whole number from {} to {}", Self::RANGE.start(), Self::RANGE.end())),
                }
            }

            fn text(&self) -> String {
                self.0.to_string()
            }
        }
    )+};
}

whole_numbers! {
    /// Samples per second of CPU time.
    Rate(1..=10_000, default 99);
    /// Looks per second at threads that wait.
    WallRate(1..=1_000, default 10);
    /// Length of a profile in seconds.
    Period(1..=3_600, default 60);
    /// Length of a window of a fleet's rotation in seconds.
    FleetWindow(5..=86_400, default 600);
    /// An age in days.
    Days(1..=3_650, default 30);
    /// A number of stack frames.
    Frames(16..=4_096, default 1_024);
}

impl Rate {
    /// Samples per second.
    pub const fn hz(self) -> u32 {
        self.0
    }

    /// CPU time between two samples, rounded down to a nanosecond.
    pub const fn period(self) -> Duration {
        Duration::from_nanos(1_000_000_000 / self.0 as u64)
    }
}

impl WallRate {
    /// Time between two looks, rounded down to a nanosecond.
    pub const fn period(self) -> Duration {
        Duration::from_nanos(1_000_000_000 / self.0 as u64)
    }
}

impl Period {
    /// The length.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }
}

impl FleetWindow {
    /// The length.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }
}

impl Days {
    pub(super) const WEEK: Self = Self(7);

    /// The age.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0 as u64 * 86_400)
    }
}

/// A number of bytes, at least 64 KiB: `4096000`, `512MiB`, `1GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(u64);

const LEAST_BYTES: u64 = 64 << 10;
const MOST_BYTES: u64 = 1 << 50;
/// Longest first among those with the same end, so that `KiB` is not read as `B`.
const BYTE_UNITS: [(&str, u64); 9] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("b", 1),
];

impl Bytes {
    /// The value, or an error of kind [`ErrorKind::InvalidOption`] below 64 KiB or above 1 PiB.
    pub fn new(bytes: u64) -> crate::Result<Self> {
        <Self as Setting>::parse(&bytes.to_string())
            .map_err(|right| Error::new(ErrorKind::InvalidOption, format!("{bytes} bytes: {right}")))
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    pub(super) const fn of(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl Setting for Bytes {
    const SHAPE: Shape = Shape::NumberOrText;

    fn accepts() -> String {
        "bytes, or a number with KiB, MiB, GiB, TiB, kB, MB, GB or TB; 64KiB to 1024TiB".to_string()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let (digits, unit) = BYTE_UNITS
            .iter()
            .find_map(|&(suffix, unit)| lower.strip_suffix(suffix).map(|digits| (digits.trim_end(), unit)))
            .unwrap_or((&lower, 1));
        let bytes = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
        match bytes {
            Some(bytes) if (LEAST_BYTES..=MOST_BYTES).contains(&bytes) => Ok(Self(bytes)),
            _ => Err("give 64KiB to 1024TiB, as bytes or such as 512MiB or 1GB".to_string()),
        }
    }

    fn text(&self) -> String {
        let units = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match units.iter().find(|(_, unit)| self.0.is_multiple_of(*unit)) {
            Some((suffix, unit)) => format!("{}{suffix}", self.0 / unit),
            None => self.0.to_string(),
        }
    }
}

/// A mean distance of samples in bytes, or none at all: `512KiB`, `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval(u64);

impl Interval {
    /// The value, where 0 means off, or an error of kind [`ErrorKind::InvalidOption`] below 64 KiB or above 1 PiB.
    pub fn new(bytes: u64) -> crate::Result<Self> {
        <Self as Setting>::parse(&bytes.to_string())
            .map_err(|right| Error::new(ErrorKind::InvalidOption, format!("{bytes} bytes: {right}")))
    }

    /// The number of bytes; 0 where it is off.
    pub const fn get(self) -> u64 {
        self.0
    }

    pub(super) const fn of(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl Setting for Interval {
    const SHAPE: Shape = Shape::NumberOrText;

    fn accepts() -> String {
        format!("off, {}", Bytes::accepts())
    }

    fn parse(text: &str) -> Result<Self, String> {
        if is_off(text) {
            return Ok(Self(0));
        }
        Bytes::parse(text).map(|bytes| Self(bytes.get())).map_err(|right| format!("{right}; or off"))
    }

    fn text(&self) -> String {
        if self.0 == 0 { OFF.to_string() } else { Bytes(self.0).text() }
    }
}

/// A time in nanoseconds, up to a second, or none at all: `100000`, `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Threshold(u32);

impl Threshold {
    /// The greatest value.
    pub const MOST: u32 = 1_000_000_000;
    pub(super) const DEFAULT: Self = Self(100_000);

    /// The value, where 0 means off, or an error of kind [`ErrorKind::InvalidOption`] above a second.
    pub fn new(nanos: u32) -> crate::Result<Self> {
        <Self as Setting>::parse(&nanos.to_string()).map_err(|right| {
            Error::new(ErrorKind::InvalidOption, format!("{nanos} is out of range: {right}"))
        })
    }

    /// The nanoseconds; 0 where it is off.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Setting for Threshold {
    const SHAPE: Shape = Shape::NumberOrText;

    fn accepts() -> String {
        format!("off, or whole number, 1 to {}", Self::MOST)
    }

    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if is_off(text) => Ok(Self(0)),
            Ok(value) if (1..=Self::MOST).contains(&value) => Ok(Self(value)),
            _ => Err(format!("give a whole number from 1 to {}, or off", Self::MOST)),
        }
    }

    fn text(&self) -> String {
        if self.0 == 0 { OFF.to_string() } else { self.0.to_string() }
    }
}

/// A number of spans, up to a million, or none at all: `16384`, `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spans(u32);

impl Spans {
    /// The greatest value.
    pub const MOST: u32 = 1_000_000;
    pub(super) const DEFAULT: Self = Self(16 << 10);

    /// The value, where 0 means off, or an error of kind [`ErrorKind::InvalidOption`] above a million.
    pub fn new(spans: u32) -> crate::Result<Self> {
        <Self as Setting>::parse(&spans.to_string()).map_err(|right| {
            Error::new(ErrorKind::InvalidOption, format!("{spans} is out of range: {right}"))
        })
    }

    /// The number; 0 where it is off.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Setting for Spans {
    const SHAPE: Shape = Shape::NumberOrText;

    fn accepts() -> String {
        format!("off, or whole number, 1 to {}", Self::MOST)
    }

    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if is_off(text) => Ok(Self(0)),
            Ok(value) if (1..=Self::MOST).contains(&value) => Ok(Self(value)),
            _ => Err(format!("give a whole number from 1 to {}, or off", Self::MOST)),
        }
    }

    fn text(&self) -> String {
        if self.0 == 0 { OFF.to_string() } else { self.0.to_string() }
    }
}

const OFF: &str = "off";

fn is_off(text: &str) -> bool {
    text == "0" || text.eq_ignore_ascii_case(OFF)
}

/// A percentage, from 0.01 to 100.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    pub(super) const DEFAULT: Self = Self(1.0);

    /// The value, or an error of kind [`ErrorKind::InvalidOption`] where it is out of range.
    pub fn new(percent: f64) -> crate::Result<Self> {
        <Self as Setting>::parse(&percent.to_string())
            .map_err(|right| Error::new(ErrorKind::InvalidOption, format!("{percent} percent: {right}")))
    }

    /// The percentage, such as 1.0.
    pub const fn get(self) -> f64 {
        self.0
    }

    /// The same as a fraction, such as 0.01.
    pub fn fraction(self) -> f64 {
        self.0 / 100.0
    }
}

impl Setting for Percent {
    const SHAPE: Shape = Shape::Number;

    fn accepts() -> String {
        "number, 0.01 to 100".to_string()
    }

    fn parse(text: &str) -> Result<Self, String> {
        match text.strip_suffix('%').unwrap_or(text).trim_end().parse() {
            Ok(percent) if (0.01..=100.0).contains(&percent) => Ok(Self(percent)),
            _ => Err("give a number from 0.01 to 100".to_string()),
        }
    }

    fn text(&self) -> String {
        self.0.to_string()
    }
}
