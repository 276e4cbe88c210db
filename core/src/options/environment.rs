//! Options from `EVERPROF_<NAME>` variables.
//!
//! An empty variable counts as not set, as OpenTelemetry has it. A wrong value is an error that names the variable. A
//! variable that is no option is only a warning: Kubernetes puts `EVERPROF_SERVICE_HOST` and its like into every pod
//! beside a service called `everprof`.

use std::ffi::OsString;

use super::{Options, invalid, spell, table};
use crate::error::Result;

const PREFIX: &str = "EVERPROF_";
const ENABLED: &str = "EVERPROF_ENABLED";

impl Options {
    /// Options from this process's environment, over the defaults. Reads the environment once, now.
    ///
    /// Values that the program then sets win, except that `EVERPROF_ENABLED=false` stays in force: with it the other
    /// variables are not even looked at, so that switching off always works.
    pub fn from_env() -> Result<Options> {
        let mut options = Options::default();
        options.apply_vars(std::env::vars_os())?;
        Ok(options)
    }

    /// Sets what the variables among `vars` say and leaves the other options. On an error nothing changes.
    ///
    /// ```
    /// let mut options = everprof::Options::default();
    /// options.apply_vars([("EVERPROF_RATE_HZ", "250"), ("HOME", "/")]).unwrap();
    /// assert_eq!(options.rate_hz.hz(), 250);
    /// ```
    pub fn apply_vars<K, V>(&mut self, vars: impl IntoIterator<Item = (K, V)>) -> Result<()>
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let vars = ours(vars)?;
        let mut changed = self.clone();
        if let Some((_, value)) = vars.iter().find(|(name, _)| name == ENABLED) {
            changed.set_from("enabled", value, ENABLED)?;
            if !changed.enabled {
                self.enabled = false;
                self.vetoed = true;
                return Ok(());
            }
        }
        for (variable, value) in &vars {
            let name = variable[PREFIX.len()..].to_ascii_lowercase();
            if table::find(&name).is_some() {
                changed.set_from(&name, value, variable)?;
            } else if !is_service_link(&name) {
                log::warn!(target: "everprof", "{variable} is ignored: {}", spell::unknown(&name));
            }
        }
        *self = changed;
        Ok(())
    }
}

/// Our variables that are set to something, in the order of their names.
fn ours<K: Into<OsString>, V: Into<OsString>>(
    vars: impl IntoIterator<Item = (K, V)>,
) -> Result<Vec<(String, String)>> {
    let mut ours = Vec::new();
    for (name, value) in vars {
        let (Ok(name), value) = (name.into().into_string(), value.into()) else { continue };
        if !name.starts_with(PREFIX) {
            continue;
        }
        let Ok(value) = value.into_string() else {
            return Err(invalid(format!("{name} is not UTF-8: give it as UTF-8 text")));
        };
        if !value.trim().is_empty() {
            ours.push((name, value));
        }
    }
    ours.sort();
    Ok(ours)
}

/// Whether Kubernetes wrote the variable for a service called `everprof` or `everprof-<something>`.
fn is_service_link(name: &str) -> bool {
    name.ends_with("service_host")
        || name.ends_with("service_port")
        || name.contains("service_port_")
        || name == "port"
        || name.ends_with("_port")
        || name.contains("port_") && (name.contains("_tcp") || name.contains("_udp"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn switching_off_wins_over_code_and_over_broken_neighbours() {
        let mut options = Options::default();
        options.apply_vars([("EVERPROF_RATE_HZ", "many"), ("EVERPROF_ENABLED", "false")]).unwrap();
        options.set("enabled", "true").unwrap();
        assert!(!options.is_enabled());
    }

    #[test]
    fn code_switches_off_where_the_environment_says_on() {
        let mut options = Options::default();
        options.apply_vars([("EVERPROF_ENABLED", "true")]).unwrap();
        options.set("enabled", "false").unwrap();
        assert!(!options.is_enabled());
    }

    #[test]
    fn empty_foreign_and_service_link_variables_say_nothing() {
        let mut options = Options::default();
        let vars = [("EVERPROF_RATE_HZ", ""), ("RATE_HZ", "7"), ("EVERPROF_PORT_80_TCP_ADDR", "10.0.0.1")];
        options.apply_vars(vars).unwrap();
        assert_eq!(options, Options::default());
        for link in ["service_host", "service_port_http", "port", "port_80_tcp", "ui_service_port"] {
            assert!(is_service_link(link), "{link}");
        }
    }
}
