//! Names that are the same in every build, so that functions merge and two versions compare: what a page shows and what
//! the tables of the store tell apart must not differ.

use std::borrow::Cow;

/// A name without what differs from build to build: the hash of old Rust symbols, the number of an LLVM clone.
pub(crate) fn stable_name(name: &str) -> &str {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let name = match name.rsplit_once(".llvm.") {
        Some((front, number)) if digits(number) => front,
        _ => name,
    };
    match name.rsplit_once("::h") {
        Some((front, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => front,
        _ => name,
    }
}

/// Whether a name is only a place in a module, as the symbolizer calls code without a symbol: `libssl.so.3+0x2010`.
pub(crate) fn is_place(name: &str) -> bool {
    let digits = name.rsplit_once("+0x").map(|(_, digits)| digits).or_else(|| name.strip_prefix("0x"));
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// What a function is shown as. A place that is a function's begin has no name for the linker, and is as good as a name
/// within one build (`across_builds` is false); any other place goes by its module.
pub(crate) fn title<'n>(name: &'n str, system_name: &'n str, across_builds: bool) -> Cow<'n, str> {
    let name = if name.is_empty() { system_name } else { name };
    match name.rsplit_once("+0x").map(|(module, _)| module) {
        _ if name.is_empty() => nameless("").into(),
        _ if !is_place(name) => stable_name(name).into(),
        Some(_) if system_name.is_empty() && !across_builds => name.into(),
        module => nameless(module.unwrap_or_default()).into(),
    }
}

/// What code without a name is called: its module's file, in brackets. Addresses differ from process to process.
pub(crate) fn nameless(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file).trim_matches(['[', ']']);
    if name.is_empty() { "[unknown]".into() } else { format!("[{name}]") }
}

#[cfg(test)]
mod tests {
    use super::{is_place, nameless, stable_name, title};

    #[test]
    fn places_are_told_from_names() {
        for name in ["libssl.so.3+0x2010", "0xdead", "[vdso]+0x9"] {
            assert!(is_place(name), "{name}");
        }
        for name in ["operator+0xyz", "libssl.so.3+0x", "main", "", "0x"] {
            assert!(!is_place(name), "{name}");
        }
    }

    #[test]
    fn a_place_is_a_name_where_a_function_begins_and_within_one_build() {
        for (name, system_name, within, across) in [
            ("shop+0x10", "", "shop+0x10", "[shop]"),
            ("shop+0x18", "shop+0x18", "[shop]", "[shop]"),
            ("0x18", "0x18", "[unknown]", "[unknown]"),
            ("", "", "[unknown]", "[unknown]"),
            ("", "main", "main", "main"),
            ("a::h0123456789abcdef", "_ZN", "a", "a"),
        ] {
            assert_eq!([title(name, system_name, false), title(name, system_name, true)], [within, across]);
        }
    }

    #[test]
    fn what_a_build_adds_is_left_out() {
        assert_eq!(stable_name("a::b::h0123456789abcdef"), "a::b");
        assert_eq!(stable_name("a::b::hash"), "a::b::hash");
        assert_eq!(stable_name("f.llvm.1234"), "f");
        assert_eq!(stable_name("f.llvm."), "f.llvm.");
        assert_eq!(stable_name(""), "");
        assert_eq!(nameless("/lib/libssl.so.3"), "[libssl.so.3]");
        assert_eq!(nameless("[vdso]"), "[vdso]");
        assert_eq!(nameless(""), "[unknown]");
    }
}
