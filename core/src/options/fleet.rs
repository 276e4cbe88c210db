//! What a fleet shares out: the part of its instances that profile, and the part of the time that a kind of profile is taken.

use std::collections::BTreeMap;
use std::time::Duration;

use super::list::list;
use super::value::{Setting, Shape};
use crate::error::{Error, ErrorKind};
use crate::profile::Kind;

/// A share of a fleet's instances, from none to all, in steps of a millionth: `15`, `0.5`, `100`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// All of them, in millionths.
    pub const ALL: u32 = 1_000_000;
    pub(super) const DEFAULT: Self = Self(Self::ALL);

    /// The share, or an error of kind [`ErrorKind::InvalidOption`] above [`Share::ALL`].
    pub fn new(millionths: u32) -> crate::Result<Self> {
        if millionths > Self::ALL {
            let message = format!("{millionths} millionths are more than all: give at most {}", Self::ALL);
            return Err(Error::new(ErrorKind::InvalidOption, message));
        }
        Ok(Self(millionths))
    }

    /// The share in millionths, such as 150,000.
    pub const fn millionths(self) -> u32 {
        self.0
    }
}

impl Setting for Share {
    const SHAPE: Shape = Shape::Number;

    fn accepts() -> String {
        "number, 0 to 100, at most four digits behind the point".to_string()
    }

    fn parse(text: &str) -> Result<Self, String> {
        // In whole numbers: who computes the same elsewhere must not depend on how fractions are rounded.
        let text = text.strip_suffix('%').unwrap_or(text).trim_end();
        let (whole, behind) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |part: &str, most| {
            !part.is_empty() && part.len() <= most && part.bytes().all(|digit| digit.is_ascii_digit())
        };
        let millionths = |text: &str| text.parse::<u32>().unwrap_or(u32::MAX);
        if is_number(whole, 4) && is_number(behind, 4) {
            let share = millionths(whole).saturating_mul(10_000) + millionths(&format!("{behind:0<4}"));
            if share <= Self::ALL {
                return Ok(Self(share));
            }
        }
        Err("give a number from 0 to 100 with at most four digits behind the point".to_string())
    }

    fn text(&self) -> String {
        let (whole, behind) = (self.0 / 10_000, self.0 % 10_000);
        if behind == 0 {
            return whole.to_string();
        }
        format!("{whole}.{behind:04}").trim_end_matches('0').to_string()
    }
}

/// How long of how long a kind of profile is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duty {
    on: u32,
    cycle: u32,
}

impl Duty {
    const LEAST_MS: u32 = 1_000;
    const MOST_MS: u32 = 86_400_000;
    /// That of a share in percent.
    const USUAL_CYCLE_MS: u32 = 60_000;

    /// How long it is on.
    pub const fn on(self) -> Duration {
        Duration::from_millis(self.on as u64)
    }

    /// From one beginning to the next.
    pub const fn cycle(self) -> Duration {
        Duration::from_millis(self.cycle as u64)
    }

    fn parse(text: &str) -> Option<Self> {
        let (on, cycle) = match (text.split_once('/'), text.strip_suffix('%')) {
            (Some((on, cycle)), _) => (millis(on.trim())?, millis(cycle.trim())?),
            (None, Some(percent)) => {
                let percent: f64 = percent.trim_end().parse().ok()?;
                ((f64::from(Self::USUAL_CYCLE_MS) * percent / 100.0).round() as u32, Self::USUAL_CYCLE_MS)
            }
            (None, None) => return None,
        };
        (on >= Self::LEAST_MS && on <= cycle && cycle <= Self::MOST_MS).then_some(Self { on, cycle })
    }

    fn text(self) -> String {
        format!("{}/{}", shown(self.on), shown(self.cycle))
    }
}

/// `500ms`, `10s`, `2m`, `1h`; a bare number is of seconds.
fn millis(text: &str) -> Option<u32> {
    const UNITS: [(&str, u32); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("", 1_000)];
    let (number, unit) =
        UNITS.iter().find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|number| (number, *unit)))?;
    number.trim_end().parse::<u32>().ok()?.checked_mul(unit)
}

fn shown(millis: u32) -> String {
    if millis.is_multiple_of(1_000) { format!("{}s", millis / 1_000) } else { format!("{millis}ms") }
}

/// The kinds of profile that are taken for a part of the time only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Duties(BTreeMap<Kind, Duty>);

impl Duties {
    /// Those that can be: the others follow blocks for as long as these live, or are of a moment.
    const CAN: [Kind; 9] = [
        Kind::Cpu,
        Kind::Wall,
        Kind::OffCpu,
        Kind::Alloc,
        Kind::Lock,
        Kind::Mutex,
        Kind::Block,
        Kind::Gil,
        Kind::Gc,
    ];

    /// Whether all kinds are taken all the time.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The kinds with their duties.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Kind, Duty)> + '_ {
        self.0.iter().map(|(kind, duty)| (*kind, *duty))
    }

    /// The canonical text, such as `alloc:10s/60s`.
    pub(crate) fn told(&self) -> String {
        self.text()
    }
}

impl Setting for Duties {
    const SHAPE: Shape = Shape::List;

    fn accepts() -> String {
        "kind:on/cycle or kind:percent, such as alloc:10s/60s,lock:50%; ms, s, m, h; at least 1s on, a cycle of a day at most"
            .to_string()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut duties = Self::default();
        for entry in list(text) {
            let right = || format!("give {}", Self::accepts());
            let (name, duty) = entry.split_once(':').ok_or_else(right)?;
            let kind = Kind::from_name(&name.trim().to_ascii_lowercase());
            let Some(kind) = kind.filter(|kind| Self::CAN.contains(kind)) else {
                let can = Self::CAN.map(Kind::name).join(", ");
                return Err(format!("give one of {can}: others follow what lives, or are of a moment"));
            };
            let duty = Duty::parse(duty.trim()).ok_or_else(right)?;
            if duties.0.insert(kind, duty).is_some() {
                return Err(format!("give {} once", kind.name()));
            }
        }
        duties.0.retain(|_, duty| duty.on < duty.cycle);
        Ok(duties)
    }

    fn text(&self) -> String {
        let entry = |(kind, duty): (&Kind, &Duty)| format!("{}:{}", kind.name(), duty.text());
        self.0.iter().map(entry).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_whole_number_of_millionths() {
        for (text, millionths, canonical) in [
            ("0", 0, "0"),
            ("15", 150_000, "15"),
            ("15 %", 150_000, "15"),
            ("0.5", 5_000, "0.5"),
            ("12.3456%", 123_456, "12.3456"),
            ("100.0000", 1_000_000, "100"),
        ] {
            let share = Share::parse(text).unwrap();
            assert_eq!((share.millionths(), share.text().as_str()), (millionths, canonical), "{text}");
        }
        for wrong in ["", "-1", "100.0001", "101", "1e1", "0.12345", ".5", "NaN", "99999999999"] {
            assert!(Share::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn duties_are_read_and_told() {
        for (text, canonical) in [
            ("alloc:10s/60s,lock:50%", "alloc:10s/60s,lock:30s/60s"),
            (" Lock : 1500ms / 1m ; cpu:10/3600", "cpu:10s/3600s,lock:1500ms/60s"),
            ("wall:1h/24h", "wall:3600s/86400s"),
            ("cpu:100%,alloc:10s/10s", ""),
            ("", ""),
        ] {
            assert_eq!(Duties::parse(text).unwrap().text(), canonical, "{text}");
        }
        let wrong =
            ["cpu", "cpu:10s", "cpu:10s/5s", "cpu:0%", "cpu:500ms/60s", "heap:10s/60s", "threads:50%"];
        for wrong in
            wrong.into_iter().chain(["cpu:10s/2000h", "cpu:1s/9s,cpu:2s/9s", "cpu:NaN%", "cpu:99999h/1s"])
        {
            assert!(Duties::parse(wrong).is_err(), "{wrong}");
        }
    }
}
