//! The names of files and folders in a profile directory: made here, and recognised here.
//!
//! Recognition is strict, because what it recognises may be deleted: a name that could not have been made here is not ours.

use crate::encode::Set;

/// How much of a tag goes into a name, in bytes.
const MAX_PART: usize = 64;

/// The folder of a service: its name, made fit for a file name.
pub(super) fn service_folder(service: &str) -> String {
    part(service, "unknown")
}

/// The folder of a day, in UTC, such as `2026-11-22`.
pub(super) fn day_folder(time_nanos: i64) -> String {
    let utc = Utc::of(time_nanos);
    format!("{:04}-{:02}-{:02}", utc.year, utc.month, utc.day)
}

/// The name that all files of a set begin with: time in UTC, host, instance, and the set's number.
pub(super) fn set_stem(set: &Set, instance: &str) -> String {
    let utc = Utc::of(set.time_nanos);
    let (host, instance) = (part(set.tag("host"), "localhost"), part(instance, "0"));
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}.{:03}Z-{host}-{instance}-{}",
        utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second, utc.millisecond, set.sequence
    )
}

/// `text` with everything but `A-Z a-z 0-9 . _ -` replaced, never starting with a dot.
fn part(text: &str, otherwise: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let mut name: String = text.chars().map(fit).take(MAX_PART).collect();
    if name.starts_with('.') {
        name.replace_range(..1, "_");
    }
    if name.is_empty() { otherwise.to_owned() } else { name }
}

/// A point in time as the calendar has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Utc {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    millisecond: i64,
}

const DAY_SECONDS: i64 = 86_400;

impl Utc {
    fn of(time_nanos: i64) -> Self {
        // Before 1970 is a clock that was never set; a name with a negative year would not be read back.
        let time_nanos = time_nanos.max(0);
        let seconds = time_nanos / 1_000_000_000;
        let (year, month, day) = civil(seconds / DAY_SECONDS);
        let second = seconds % DAY_SECONDS;
        Self {
            year,
            month,
            day,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
            millisecond: time_nanos / 1_000_000 % 1000,
        }
    }
}

/// Year, month and day of a number of days since 1970, by Howard Hinnant's method: years begin in March, so that the
/// leap day is the last one.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_utc_and_fit_for_any_file_system() {
        let mut set = Set { time_nanos: 1_709_210_096_789_000_000, sequence: 7, ..Set::default() };
        set.tags.insert("host".into(), "../web 1".into());
        assert_eq!(set_stem(&set, "a1b2"), "20240229T123456.789Z-_._web_1-a1b2-7");
        assert_eq!(day_folder(set.time_nanos), "2024-02-29");
        assert_eq!(service_folder(""), "unknown");
        assert_eq!(service_folder("..").as_str(), "_.");
        assert_eq!(service_folder(&"ü".repeat(100)).len(), MAX_PART);
    }
}
