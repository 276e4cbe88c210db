//! Which programs the library profiles that is loaded into them all.

use super::value::{Setting, Shape};

/// Which programs the preloaded library profiles.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Preload {
    /// Every one that inherits the environment.
    All,
    /// The first that is started with it, and what that becomes by `exec`.
    First,
    /// Those whose executables have one of these file names.
    Named(Vec<String>),
}

impl Setting for Preload {
    const SHAPE: Shape = Shape::List;

    fn accepts() -> String {
        "first, all, or names of executables without their folders".to_string()
    }

    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "all" => return Ok(Self::All),
            "first" => return Ok(Self::First),
            _ => {}
        }
        let names: Vec<String> =
            text.split([',', ';']).map(str::trim).filter(|name| !name.is_empty()).map(String::from).collect();
        let is_right = !names.is_empty() && names.iter().all(|name| !name.contains('/'));
        is_right.then_some(Self::Named(names)).ok_or_else(|| format!("give {}", Self::accepts()))
    }

    fn text(&self) -> String {
        match self {
            Self::All => "all".to_string(),
            Self::First => "first".to_string(),
            Self::Named(names) => names.join(","),
        }
    }
}
