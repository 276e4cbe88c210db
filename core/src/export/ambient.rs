//! What the environment says about where and how to send: variables that other programs read as well.
//!
//! Read once, when the exporters are made from the options.

/// Looks a variable up; tests put in their own.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A variable of this process that is set to something.
pub(super) fn var(name: &str) -> Option<String> {
    let value = std::env::var(name).ok()?;
    let value = value.trim();
    (!value.is_empty()).then(|| value.to_string())
}
