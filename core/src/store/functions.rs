//! What each function of a profile costs, by itself and with what it calls.
//!
//! A function is its name and source file, never its address: the tables compare processes, machines and
//! versions.

use std::collections::HashMap;

use crate::profile::{Location, Profile, ValueType, nameless, title};

/// A function as the tables tell them apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) file: String,
}

/// What a function costs, in units of the sample type.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    pub(super) own: i64,
    pub(super) total: i64,
}

/// The costs of all functions in one sample type.
pub(super) struct Costs {
    pub(super) by_function: HashMap<Identity, Cost>,
    pub(super) total: i64,
    /// How many signals are behind all of it, as far as the profile tells.
    pub(super) signals: f64,
}

impl Costs {
    /// Adds up `profile` in its `sample_type`th type. Names that hold within one build only are left out for a comparison
    /// with another one, `across_builds`.
    pub(super) fn of(profile: &Profile, sample_type: usize, across_builds: bool) -> Self {
        let names = Names::of(profile, across_builds);
        let mut costs = vec![Cost::default(); names.identities.len()];
        // The sample that a function was last seen in, so that recursion counts once.
        let mut seen = vec![0usize; costs.len()];
        let (mut total, mut count) = (0i64, 0.0);
        let count_type = count_of(&profile.sample_types, sample_type);
        for (ordinal, sample) in (1..).zip(profile.samples()) {
            let value = sample.values[sample_type];
            total = total.saturating_add(value);
            count += count_type.map_or(1.0, |place| sample.values[place] as f64);
            let stack = profile.get_stack(sample.stack);
            let mut functions =
                stack.iter().flat_map(|location| &names.of_location[location.index()]).peekable();
            if let Some(&&leaf) = functions.peek() {
                costs[leaf].own = costs[leaf].own.saturating_add(value);
            }
            for &function in functions {
                if seen[function] != ordinal {
                    seen[function] = ordinal;
                    costs[function].total = costs[function].total.saturating_add(value);
                }
            }
        }
        let by_function = names.identities.into_iter().zip(costs).collect();
        Self { by_function, total, signals: count / profile.periods_per_signal() }
    }
}

/// Which type counts what is behind the values of a type: of bytes their objects, else the first that counts.
fn count_of(types: &[ValueType], of: usize) -> Option<usize> {
    let place = |wanted: &dyn Fn(&ValueType) -> bool| {
        types.iter().position(|known| known.unit == "count" && wanted(known))
    };
    let objects = types[of].name.strip_suffix("_space").map(|family| format!("{family}_objects"));
    let own = if types[of].unit == "count" { Some(of) } else { None };
    own.or_else(|| objects.and_then(|objects| place(&|known| known.name == objects)))
        .or_else(|| place(&|_| true))
}

/// The functions of every location, innermost first.
struct Names {
    identities: Vec<Identity>,
    of_location: Vec<Vec<usize>>,
}

impl Names {
    fn of(profile: &Profile, across_builds: bool) -> Self {
        let mut index: HashMap<Identity, usize> = HashMap::new();
        let mut identities = Vec::new();
        let mut number = |identity: Identity| {
            *index.entry(identity).or_insert_with_key(|identity| {
                identities.push(identity.clone());
                identities.len() - 1
            })
        };
        let of_function: Vec<usize> = profile
            .functions()
            .iter()
            .map(|function| {
                let [name, system_name] =
                    [function.name, function.system_name].map(|text| profile.text(text));
                let name = title(name, system_name, across_builds).into_owned();
                let file = normal_file(profile.text(function.filename));
                number(Identity { name, file })
            })
            .collect();
        let of_location = profile
            .locations()
            .iter()
            .map(|location| match location.lines.as_slice() {
                [] => vec![number(Identity { name: of_module(profile, location), file: String::new() })],
                lines => lines.iter().map(|line| of_function[line.function.index()]).collect(),
            })
            .collect();
        Self { identities, of_location }
    }
}

fn of_module(profile: &Profile, location: &Location) -> String {
    nameless(location.mapping.map_or("", |mapping| profile.text(profile.get_mapping(mapping).filename)))
}

/// How the files of Rust's standard library begin, after [`normal_file`].
pub(super) const STANDARD_LIBRARY: &str = "library/";

/// A source file without what differs from machine to machine and release to release: where crates are
/// unpacked, the version of a crate, the commit of the standard library.
fn normal_file(file: &str) -> String {
    for marker in ["/registry/src/", "/rustc/"] {
        if let Some((_, rest)) = file.split_once(marker)
            && let Some((_, inside)) = rest.split_once('/')
        {
            return match inside.split_once('/') {
                Some((package, path)) if marker == "/registry/src/" => {
                    format!("{}/{path}", without_version(package))
                }
                _ => inside.to_owned(),
            };
        }
    }
    file.to_owned()
}

/// `serde-1.0.228` is `serde`.
fn without_version(package: &str) -> &str {
    match package.rsplit_once('-') {
        Some((name, version)) if version.starts_with(|c: char| c.is_ascii_digit()) => name,
        _ => package,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_the_same_in_every_build() {
        let file = "/home/me/.cargo/registry/src/index.crates.io-6f17d22bba15001f/serde_json-1.0.1/src/de.rs";
        assert_eq!(normal_file(file), "serde_json/src/de.rs");
        assert_eq!(normal_file("/rustc/0123abcd/library/core/src/str.rs"), "library/core/src/str.rs");
        assert_eq!(normal_file("src/main.rs"), "src/main.rs");
    }
}
