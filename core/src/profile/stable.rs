//! Names that are the same in every build, so that functions merge and two versions compare: what a page shows and what
//! the tables of the store tell apart must not differ.

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

/// What code without a name is called: its module's file, in brackets. Addresses differ from process to process.
pub(crate) fn nameless(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file).trim_matches(['[', ']']);
    if name.is_empty() { "[unknown]".into() } else { format!("[{name}]") }
}

#[cfg(test)]
mod tests {
    use super::{nameless, stable_name};

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
