//! What the environment says about where and how to send: variables that other programs read as well.
//!
//! Read once, when the options become exporters, on the thread that starts the profiler: the C library's environment may be
//! changed by the host while another thread reads it, and a fork's child is to have the parent's.

/// Looks a variable up; tests put in their own.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A variable of this process that is set to something.
pub(super) fn var(name: &str) -> Option<String> {
    let value = std::env::var(name).ok()?;
    let value = value.trim();
    (!value.is_empty()).then(|| value.to_string())
}

/// Some variables as they were, for a thread that must not read the environment.
#[derive(Clone)]
pub(super) struct Kept(Vec<(&'static str, String)>);

impl Kept {
    pub(super) fn new(names: &[&'static str], var: Lookup<'_>) -> Self {
        Self(names.iter().filter_map(|name| Some((*name, var(name)?))).collect())
    }

    pub(super) fn var(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
    }
}
