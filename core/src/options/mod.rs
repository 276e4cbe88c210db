//! The options: one table that code, documentation, stubs and tests read, and every way of setting them.
//!
//! Read and written by whoever starts the profiler, on that thread, before or between profiles; never by a handler.
//!
//! **One spelling.** An option has one name, in snake_case: in [`Options::set`], in an agent string
//! (`name=value,name=value`, [`Options::parse`]), in a file (`name = value`, [`Options::from_file`]) and in the
//! environment (`EVERPROF_<NAME>`, [`Options::from_env`]).
//!
//! **Precedence.** What the program says in code wins over the environment, the environment over a file, and a file
//! over the defaults, as in OpenTelemetry. One exception for operators: `EVERPROF_ENABLED=false` wins over everything,
//! see [`Options::is_enabled`].
//!
//! The watched file of the option `config` is another thing than [`Options::from_file`]: an operator's hand on the running
//! process. What it says wins over code and environment for as long as it says it.
//!
//! **Parse, don't validate.** Every value becomes a type that cannot hold a wrong one; a wrong one is an error that
//! names the option, the value and what would be right, and leaves the old value. Nothing here reads the environment or
//! a file unless its name says so, and no secret appears in `Debug` output or in an error.

mod environment;
mod file;
mod fleet;
mod list;
mod number;
mod overlay;
mod preload;
mod proxy;
mod push;
mod serve;
mod spell;
mod table;
mod text;
mod url;
mod value;
mod word;

pub use fleet::{Duties, Duty, Share};
pub use list::{Kinds, UserTags};
pub use number::{
    Bytes, Days, FleetWindow, Frames, Interval, Percent, Period, Rate, Spans, Threshold, WallRate,
};
pub(crate) use overlay::{O_NONBLOCK, Overlay, State};
pub use preload::Preload;
pub use proxy::Proxy;
pub(crate) use proxy::{Choice as ProxyChoice, url as proxy_url};
pub use push::{Headers, Project, Push, Tenant};
pub(crate) use push::{Protocol, Target};
pub use serve::{Secret, Serve};
pub use table::{OptionSpec, Options};
pub(crate) use url::Url;
pub use value::{Shape, TagValue};
pub use word::{AsyncTasks, CpuClock, Guarantee, LogLevel, Malloc, SignalChoice, Symbolize, WallSignal};

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

impl Options {
    /// The whole table, in the order of the documentation.
    ///
    /// ```
    /// use everprof::Options;
    /// let rate = Options::table().iter().find(|spec| spec.name == "rate_hz").unwrap();
    /// assert_eq!((rate.unit, rate.environment().as_str()), ("Hz", "EVERPROF_RATE_HZ"));
    /// ```
    pub fn table() -> &'static [OptionSpec] {
        table::TABLE
    }

    /// Sets one option from its text. A wrong name or value is an error, and nothing changes.
    ///
    /// ```
    /// use everprof::Options;
    /// let mut options = Options::default();
    /// options.set("max_bytes", "512MiB").unwrap();
    /// assert_eq!(options.max_bytes.get(), 512 << 20);
    /// let error = options.set("rate", "99").unwrap_err();
    /// assert_eq!(error.to_string(), "there is no option `rate`: did you mean `rate_hz`?");
    /// ```
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        self.set_from(name, value, "")
    }

    /// The value of an option as canonical text, which [`Options::set`] takes back; none for an unknown name. Also that of a
    /// secret.
    ///
    /// ```
    /// let options = everprof::Options::default();
    /// assert_eq!(options.get("max_bytes").as_deref(), Some("1GiB"));
    /// assert_eq!(options.get("colour"), None);
    /// ```
    pub fn get(&self, name: &str) -> Option<String> {
        table::find(name).map(|spec| (spec.get)(self))
    }

    /// Every option with its value as canonical text, in the order of the table; in the place of a secret, `[hidden]`, or
    /// what is not secret about it.
    pub fn iter(&self) -> impl Iterator<Item = (&'static OptionSpec, String)> + '_ {
        Self::table().iter().map(|spec| (spec, (spec.shown)(self)))
    }

    /// The options whose values here differ from those of `other`, in the order of the table.
    ///
    /// ```
    /// use everprof::Options;
    /// let (before, mut now) = (Options::default(), Options::default());
    /// now.set("rate_hz", "19").unwrap();
    /// assert_eq!(now.differing(&before).map(|spec| spec.name).collect::<Vec<_>>(), ["rate_hz"]);
    /// ```
    pub fn differing<'a>(&'a self, other: &'a Options) -> impl Iterator<Item = &'static OptionSpec> + 'a {
        Self::table().iter().filter(move |spec| (spec.get)(self) != (spec.get)(other))
    }

    /// Whether to profile at all: the option `enabled`, unless the environment that these options were read from said
    /// `EVERPROF_ENABLED=false`, which no later call can overrule.
    pub fn is_enabled(&self) -> bool {
        self.enabled && !self.vetoed
    }

    /// Sets one option; `place` says in errors where the value stood, such as `EVERPROF_RATE_HZ` or `a.conf line 3`.
    fn set_from(&mut self, name: &str, value: &str, place: &str) -> Result<()> {
        let before = if place.is_empty() { String::new() } else { format!("{place}: ") };
        let Some(spec) = table::find(name) else {
            return Err(invalid(format!("{before}{}", spell::unknown(name))));
        };
        (spec.set)(self, value.trim()).map_err(|right| {
            let shown = spell::shown(value.trim(), spec.secret);
            // Sizes name their own units.
            let unit =
                if matches!(spec.unit, "" | "bytes") { String::new() } else { format!(" {}", spec.unit) };
            invalid(format!("{before}{} is {shown}: {right}{unit}", spec.name))
        })
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Options");
        for (spec, text) in self.iter() {
            out.field(spec.name, &format_args!("{}", spell::shown(&text, false)));
        }
        out.finish()
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOption, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_taken_back_as_it_is_shown() {
        let mut options = Options::default();
        for (spec, text) in Options::default().iter() {
            options.set(spec.name, &text).unwrap();
            assert_eq!(options.get(spec.name), Some(text), "{}", spec.name);
        }
        assert_eq!(options, Options::default());
    }

    #[test]
    fn a_bad_value_leaves_the_old_one() {
        let mut options = Options::default();
        options.set("rate_hz", "250").unwrap();
        assert!(options.set("rate_hz", "0").is_err());
        assert_eq!(options.rate_hz.hz(), 250);
    }

    #[test]
    fn a_secret_is_in_no_output_and_no_error() {
        let mut options = Options::default();
        options.set("serve_token", "open-sesame").unwrap();
        let listed: Vec<_> = options.iter().map(|(spec, text)| format!("{} {text}", spec.name)).collect();
        assert!(!format!("{options:?} {listed:?}").contains("sesame"), "{options:?}");
        assert_eq!(options.get("serve_token").as_deref(), Some("open-sesame"));
        let error = options.set("serve_token", "open sesame").unwrap_err();
        assert_eq!(error.to_string(), "serve_token is [hidden]: give 8 to 1024 visible ASCII characters");
    }

    #[test]
    fn credentials_in_a_value_do_not_reach_debug_output_or_errors() {
        let mut options = Options::default();
        options.set("dir", "/tmp/http://ann:secret@host/x").unwrap();
        assert!(!format!("{options:?}").contains("secret"), "{options:?}");
        let error = options.set("log", "http://ann:secret@host").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
    }
}
