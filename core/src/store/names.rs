//! The names of files and folders in a profile directory: made here, and recognised here.
//!
//! Recognition is strict, because what it recognises may be deleted: a name that could not have been made
//! here is not ours.

use crate::encode::{Format, Set};

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

/// A file name that this module could have made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OwnName<'a> {
    /// What all files of the set begin with.
    pub(super) stem: &'a str,
    /// Start of the period, to the millisecond.
    pub(super) time_nanos: i64,
    /// Whether the file is still being written, or never was to the end.
    pub(super) temporary: bool,
}

/// Recognises a file of ours.
pub(super) fn own(name: &str) -> Option<OwnName<'_>> {
    let unfinished = name.strip_prefix('.').and_then(|name| name.strip_suffix(TEMPORARY));
    let complete = unfinished.unwrap_or(name);
    let stem = match profile_stem(complete) {
        Some((stem, _)) => stem,
        None => complete.strip_suffix(".json")?,
    };
    let (time, rest) = stem.split_at_checked(TIME.len())?;
    let (owner, sequence) = rest.strip_prefix('-')?.rsplit_once('-')?;
    let (host, instance) = owner.split_once('-')?;
    let is_part = |part: &str| !part.is_empty() && part.chars().all(fit);
    let is_number = !sequence.is_empty() && sequence.bytes().all(|digit| digit.is_ascii_digit());
    let ours = is_part(host) && is_part(instance) && is_number;
    ours.then_some(OwnName { stem, time_nanos: Utc::parse(time)?.nanos(), temporary: unfinished.is_some() })
}

/// The name of a file while it is being written.
pub(super) fn temporary(name: &str) -> String {
    format!(".{name}{TEMPORARY}")
}

/// Stem and kind of a profile's file name, whoever made it: `a.b.cpu.pb.gz` is of kind `cpu`.
pub(super) fn pprof_kind(name: &str) -> Option<(&str, &str)> {
    kind(name.strip_suffix(Format::Pprof.extension())?.strip_suffix('.')?)
}

/// Stem and kind of a profile's file name in any of our formats.
fn profile_stem(name: &str) -> Option<(&str, &str)> {
    let strip = |format: Format| name.strip_suffix(format.extension())?.strip_suffix('.');
    kind(Format::ALL.into_iter().find_map(strip)?)
}

fn kind(stem_and_kind: &str) -> Option<(&str, &str)> {
    let (stem, kind) = stem_and_kind.rsplit_once('.')?;
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    (!stem.is_empty() && !kind.is_empty() && kind.chars().all(letters)).then_some((stem, kind))
}

/// Whether a folder's name is that of a day.
pub(super) fn is_day(name: &str) -> bool {
    name.len() == 10 && name.chars().zip("dddd-dd-dd".chars()).all(shape)
}

/// Whether a folder's name can be that of a service.
pub(super) fn is_service(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_PART && !name.starts_with('.') && name.chars().all(fit)
}

const TEMPORARY: &str = ".tmp";

/// The shape of a time in a file name: `d` is a digit.
const TIME: &str = "ddddddddTdddddd.dddZ";

fn shape((c, expected): (char, char)) -> bool {
    if expected == 'd' { c.is_ascii_digit() } else { c == expected }
}

fn fit(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// `text` with everything but `A-Z a-z 0-9 . _ -` replaced, never starting with a dot.
fn part(text: &str, otherwise: &str) -> String {
    let replace = |c: char| if fit(c) { c } else { '_' };
    let mut name: String = text.chars().map(replace).take(MAX_PART).collect();
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

    /// Reads a time of the shape [`TIME`]; `None` where the calendar has no such time.
    fn parse(text: &str) -> Option<Self> {
        if text.len() != TIME.len() || !text.chars().zip(TIME.chars()).all(shape) {
            return None;
        }
        let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
        let utc = Self {
            year: number(0, 4)?,
            month: number(4, 6)?,
            day: number(6, 8)?,
            hour: number(9, 11)?,
            minute: number(11, 13)?,
            second: number(13, 15)?,
            millisecond: number(16, 19)?,
        };
        // What is written again as it was read exists in the calendar. Years that nanoseconds cannot count do
        // not.
        (utc.year < 2262 && Utc::of(utc.nanos()) == utc).then_some(utc)
    }

    fn nanos(&self) -> i64 {
        let seconds = days(self.year, self.month, self.day) * DAY_SECONDS
            + self.hour * 3600
            + self.minute * 60
            + self.second;
        (seconds * 1000 + self.millisecond) * 1_000_000
    }
}

/// The day of a date, in days since 1970: the reverse of [`civil`].
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Year, month and day of a number of days since 1970, by Howard Hinnant's method: years begin in March, so
/// that the leap day is the last one.
pub(crate) fn civil(days: i64) -> (i64, i64, i64) {
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
        assert!(is_service(&service_folder("..")) && is_day(&day_folder(set.time_nanos)));
    }

    #[test]
    fn names_made_here_are_recognised() {
        let mut set = Set { time_nanos: 1_709_210_096_789_654_321, sequence: 12, ..Set::default() };
        set.tags.insert("host".into(), "web-1.example".into());
        let stem = set_stem(&set, "0d5e-77");
        for name in ["cpu.pb.gz", "json", "wall.speedscope.json", "cpu.collapsed.txt"] {
            let name = format!("{stem}.{name}");
            let expected = OwnName { stem: &stem, time_nanos: 1_709_210_096_789_000_000, temporary: false };
            assert_eq!(own(&name), Some(expected), "{name}");
            assert_eq!(own(&temporary(&name)), Some(OwnName { temporary: true, ..expected }), "{name}");
        }
        assert_eq!(pprof_kind(&format!("{stem}.cpu.pb.gz")), Some((stem.as_str(), "cpu")));
        assert_eq!(pprof_kind("taken-by-hand.heap.pb.gz"), Some(("taken-by-hand", "heap")));
    }

    #[test]
    fn names_of_others_are_not() {
        for name in [
            "notes.json",
            "profile.pb.gz",
            "taken-by-hand.cpu.pb.gz",
            "20240229T123456.789Z-host-1-7",
            "20240229T123456.789Z-host-1-7.cpu.pb",
            "20240229T123456.789Z-host-1-x.json",
            "20240229T123456.789Z-host-7.json",
            "20240229T123456.789Z--1-7.json",
            "20240230T123456.789Z-host-1-7.json",
            "20240229T246456.789Z-host-1-7.json",
            "20240229t123456.789Z-host-1-7.json",
            "99990101T000000.000Z-host-1-7.json",
            "20240229T123456.789Z-ho st-1-7.json",
            ".20240229T123456.789Z-host-1-7.json",
            "20240229T123456.789Z-host-1-7.json.tmp",
            "20240229T123456.789Z-host-1-7.CPU.pb.gz",
            "2024022üT123456.789Z-host-1-7.json",
        ] {
            assert_eq!(own(name), None, "{name}");
        }
        assert!(!is_day("2024-1-01") && !is_day("latest") && !is_service(".git") && !is_service("a b"));
    }
}
