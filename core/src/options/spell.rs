//! How names and values are shown in errors: the nearest known name, and no credentials.

use super::table::TABLE;

/// A value longer than this is cut in an error.
const SHOWN_CHARS: usize = 80;

/// What stands in the place of a secret.
pub(super) const HIDDEN: &str = "[hidden]";

/// Names that other profilers use, and ours.
const ALIASES: [(&str, &str); 21] = [
    ("app_name", "service"),
    ("application_name", "service"),
    ("environment", "env"),
    ("frequency", "rate_hz"),
    ("hz", "rate_hz"),
    ("interval", "period_s"),
    ("labels", "tags"),
    ("listen", "serve"),
    ("log_level", "log"),
    ("listen_address", "serve"),
    ("max_depth", "max_frames"),
    ("endpoint", "push"),
    ("output", "dir"),
    ("path", "dir"),
    ("server", "push"),
    ("server_address", "push"),
    ("tenant_id", "push_tenant"),
    ("url", "push"),
    ("sample_rate", "rate_hz"),
    ("service_name", "service"),
    ("service_version", "version"),
];

/// The sentence for a name that is no option.
pub(super) fn unknown(name: &str) -> String {
    let name = cut(name);
    match nearest(&name) {
        Some(known) => format!("there is no option `{name}`: did you mean `{known}`?"),
        None => {
            let names: Vec<_> = TABLE.iter().map(|spec| spec.name).collect();
            format!("there is no option `{name}`: give one of {}", names.join(", "))
        }
    }
}

/// The option whose name is meant by `name`, where one is near enough to say so.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let name = snake_case(name);
    if let Some((_, known)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
        return Some(known);
    }
    let with_unit = TABLE.iter().map(|spec| spec.name).find(|known| {
        name.len() >= 3 && (known.starts_with(&format!("{name}_")) || name.starts_with(&format!("{known}_")))
    });
    let tolerated = (name.chars().count() / 3).clamp(1, 3);
    TABLE
        .iter()
        .map(|spec| (distance(&name, spec.name), spec.name))
        .min()
        .filter(|(far, _)| *far <= tolerated)
        .map(|(_, known)| known)
        .or(with_unit)
}

/// A value as errors and `Debug` show it: in quotes, cut, with control characters escaped, and without credentials.
pub(super) fn shown(value: &str, secret: bool) -> String {
    if secret && !value.is_empty() {
        return HIDDEN.to_string();
    }
    format!("{:?}", cut(&without_userinfo(value)))
}

/// Replaces `user:password@` after a `://` by `***@`.
fn without_userinfo(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let authority = after.find(['/', '?', '#', ',', ' ']).unwrap_or(after.len());
        rest = match after[..authority].rfind('@') {
            Some(at) => {
                out.push_str("***");
                &after[at..]
            }
            None => after,
        };
    }
    out + rest
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

/// `rateHz` and `rate-hz` as `rate_hz`.
fn snake_case(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for (place, letter) in name.chars().enumerate() {
        match letter {
            '-' | ' ' | '.' => out.push('_'),
            upper if upper.is_ascii_uppercase() => {
                if place > 0
                    && !out.ends_with('_')
                    && name.contains(|letter: char| letter.is_ascii_lowercase())
                {
                    out.push('_');
                }
                out.push(upper.to_ascii_lowercase());
            }
            other => out.push(other),
        }
    }
    out
}

/// Levenshtein's distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_through_typing_errors_units_cases_and_other_tools_names() {
        for (name, known) in [
            ("rate", "rate_hz"),
            ("rate_hs", "rate_hz"),
            ("rateHz", "rate_hz"),
            ("rate-hz", "rate_hz"),
            ("RATE_HZ", "rate_hz"),
            ("period", "period_s"),
            ("frequency", "rate_hz"),
            ("servise", "service"),
            ("retention", "retention_days"),
            ("tag", "tags"),
        ] {
            assert_eq!(nearest(name), Some(known), "{name}");
        }
        assert_eq!(nearest("colour_of_the_sky"), None);
        assert_eq!(nearest(""), None);
    }

    #[test]
    fn credentials_are_hidden_and_long_values_cut() {
        assert_eq!(shown("https://ann:pw@host/a@b", false), r#""https://***@host/a@b""#);
        assert_eq!(shown("x://a@b,y://c:d@e", false), r#""x://***@b,y://***@e""#);
        assert_eq!(shown("pw", true), "[hidden]");
        assert_eq!(shown("a\nb", false), r#""a\nb""#);
        assert!(shown(&"é".repeat(1_000), false).chars().count() < 100);
    }
}
