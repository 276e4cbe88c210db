//! Names as the programmer wrote them: Rust (v0 and legacy, without the hash), C++ (Itanium), others as they are.
//!
//! Bounded in time and size, because names come from files that anybody may have written.

use std::fmt::{self, Write};

/// Names longer than this are not demangled.
const INPUT_LIMIT: usize = 4 * 1024;
/// Demangled names longer than this are cut.
const OUTPUT_LIMIT: usize = 8 * 1024;
const RECURSION_LIMIT: u32 = 64;

/// What a stub of the linker is called.
const STUB: &str = "@plt";

/// Demangles `name`; one that is not mangled, or too long or too deep, comes back as it is.
pub(crate) fn demangle(name: &str) -> String {
    match name.strip_suffix(STUB) {
        Some(function) => demangle_function(function) + STUB,
        None => demangle_function(name),
    }
}

fn demangle_function(name: &str) -> String {
    // What the linker and the compiler add: the version of the symbol.
    let bare = name.split_once('@').map_or(name, |(bare, _)| bare);
    if bare.len() > INPUT_LIMIT {
        return cut(bare);
    }
    let mut text = Bounded(String::with_capacity(bare.len()));
    if let Ok(rust) = rustc_demangle::try_demangle(bare) {
        // The alternate form leaves the hash out. What did not fit is cut.
        let _ = write!(text, "{rust:#}");
        return text.0;
    }
    if bare.starts_with("_Z") || bare.starts_with("__Z") || bare.starts_with("_GLOBAL_") {
        let options = cpp_demangle::ParseOptions::default().recursion_limit(RECURSION_LIMIT);
        let show = cpp_demangle::DemangleOptions::default().recursion_limit(RECURSION_LIMIT);
        let symbol = cpp_demangle::BorrowedSymbol::new_with_options(bare.as_bytes(), &options);
        if let Ok(symbol) = symbol
            && symbol.structured_demangle(&mut text, &show).is_ok()
        {
            return text.0;
        }
    }
    cut(bare)
}

fn cut(name: &str) -> String {
    name[..name.floor_char_boundary(OUTPUT_LIMIT)].to_owned()
}

/// Text that refuses to grow past the limit.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = OUTPUT_LIMIT - self.0.len();
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        if text.len() > room { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::demangle;

    #[test]
    fn names_are_as_the_programmer_wrote_them() {
        for (mangled, name) in [
            ("_ZN4core3fmt5write17h0123456789abcdefE", "core::fmt::write"),
            ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
            ("_RNvC6_123foo3bar", "123foo::bar"),
            (
                "_ZNSt6vectorIiSaIiEE9push_backERKi",
                "std::vector<int, std::allocator<int> >::push_back(int const&)",
            ),
            ("malloc", "malloc"),
            ("memcpy@@GLIBC_2.14", "memcpy"),
            ("memcpy@plt", "memcpy@plt"),
            ("_RNvCs1234_7mycrate3foo@plt", "mycrate::foo@plt"),
            ("_Zqqq", "_Zqqq"),
            ("_start", "_start"),
            ("", ""),
        ] {
            assert_eq!(demangle(mangled), name);
        }
    }

    #[test]
    fn hostile_names_stay_small() {
        let deep = format!("_Z{}i", "P".repeat(3000));
        assert!(demangle(&deep).len() < 10_000);
        let doubling = format!("_Z1f{}", (0..400).map(|n| format!("N{}S{}_E", "1a", n)).collect::<String>());
        assert!(demangle(&doubling).len() < 10_000);
        let long = format!("_ZN{}E", "1a".repeat(100_000));
        assert!(demangle(&long).len() <= 8 * 1024);
        let back = format!("_RNvC1a1b{}", "B_".repeat(1000));
        assert!(demangle(&back).len() < 10_000);
    }
}
