//! One source file as text: which module it belongs to, and which names it takes from the crate's root.
//!
//! No parser, on purpose: paths that begin with `crate` or `super` are all that counts, and a small scanner that knows
//! comments, literals and braces finds them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A file's code without comments, the content of literals, and unit tests.
pub(crate) struct Source {
    /// Relative to the crate's `src`.
    pub(crate) path: PathBuf,
    code: String,
}

impl Source {
    pub(crate) fn new(path: &Path, text: &str) -> Self {
        Self { path: path.to_owned(), code: without_tests(&without_comments(text)) }
    }

    /// The top-level module that the file belongs to; `lib` for the crate's root.
    pub(crate) fn module(&self) -> &str {
        let first = self.path.iter().next().and_then(|part| part.to_str()).unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// How many modules deep the file is: 1 for `drain.rs` and `unwind/mod.rs`, 2 for `unwind/table.rs`.
    fn depth(&self) -> usize {
        self.path.components().count() - usize::from(self.path.ends_with("mod.rs"))
    }

    pub(crate) fn has_word(&self, word: &str) -> bool {
        words(&self.code).any(|(_, found)| found == word)
    }

    pub(crate) fn has_platform_condition(&self) -> bool {
        words(&self.code).any(|(_, word)| {
            matches!(word, "target_os" | "target_arch" | "target_env" | "target_family" | "target_vendor")
        })
    }
}

/// The first names after `crate::`, or after as many `super::` as lead there.
pub(crate) fn imports(file: &Source) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut supers = 0;
    for (end, word) in words(&file.code) {
        let Some(rest) = file.code[end..].trim_start().strip_prefix("::") else {
            supers = 0;
            continue;
        };
        supers = if word == "super" { supers + 1 } else { 0 };
        if word == "crate" || supers == file.depth() {
            found.extend(heads(rest));
            supers = 0;
        }
    }
    found
}

/// What `lib.rs` exports under its root: the public name, and the module it comes from.
pub(crate) fn reexports(lib: &Source) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for statement in lib.code.split(';') {
        let Some((_, path)) = statement.rsplit_once("pub use ") else { continue };
        let path = path.trim().trim_start_matches("crate::").trim_start_matches("self::");
        let Some((module, names)) = path.split_once("::") else { continue };
        for name in names.trim_matches(['{', '}']).split(',') {
            let public = name.rsplit([' ', ':']).next().unwrap_or_default().trim();
            found.insert(public.to_owned(), module.trim().to_owned());
        }
    }
    found
}

/// The first name of each path in what follows a `::`, which is one name or a list in braces.
fn heads(rest: &str) -> Vec<String> {
    let rest = rest.trim_start();
    let Some(list) = rest.strip_prefix('{') else {
        return words(rest).next().map(|(_, word)| word.to_owned()).into_iter().collect();
    };
    let (mut heads, mut depth, mut start) = (Vec::new(), 0usize, 0usize);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                heads.extend(words(&list[start..at]).next().map(|(_, word)| word.to_owned()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads
}

/// The words of a text, each with the offset just behind it.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).map(|word| {
        let start = word.as_ptr() as usize - text.as_ptr() as usize;
        (start + word.len(), word)
    })
}

/// `text` with comments removed, and with string and character literals emptied.
fn without_comments(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    let looking_at =
        |at: usize, what: &str| what.chars().enumerate().all(|(i, c)| bytes.get(at + i) == Some(&c));
    while let Some(&c) = bytes.get(at) {
        if looking_at(at, "//") {
            while bytes.get(at).is_some_and(|c| *c != '\n') {
                at += 1;
            }
        } else if looking_at(at, "/*") {
            let mut depth = 0;
            loop {
                if looking_at(at, "/*") {
                    depth += 1;
                    at += 2;
                } else if looking_at(at, "*/") {
                    depth -= 1;
                    at += 2;
                } else {
                    at += 1;
                }
                if depth == 0 || at >= bytes.len() {
                    break;
                }
            }
        } else if c == 'r' && (looking_at(at, "r\"") || looking_at(at, "r#")) && !inside_word(&code) {
            let hashes = bytes[at + 1..].iter().take_while(|c| **c == '#').count();
            if bytes.get(at + 1 + hashes) == Some(&'"') {
                let end = format!("\"{}", "#".repeat(hashes));
                at += hashes + 2;
                while at < bytes.len() && !looking_at(at, &end) {
                    at += 1;
                }
                at += end.len();
                code.push_str("\"\"");
            } else {
                code.push(c);
                at += 1;
            }
        } else if c == '"' {
            at += 1;
            while bytes.get(at).is_some_and(|c| *c != '"') {
                at += if bytes[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
            code.push_str("\"\"");
        } else if c == '\'' && (bytes.get(at + 1) == Some(&'\\') || bytes.get(at + 2) == Some(&'\'')) {
            at += if bytes[at + 1] == '\\' { 3 } else { 2 };
            while bytes.get(at).is_some_and(|c| *c != '\'') {
                at += 1;
            }
            at += 1;
            code.push_str("' '");
        } else {
            code.push(c);
            at += 1;
        }
    }
    code
}

fn inside_word(code: &str) -> bool {
    code.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_')
}

/// `code` without the items under `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = ["#[cfg(test)]", "#[cfg(all(test"].iter().filter_map(|mark| rest.find(mark)).min() {
        kept.push_str(&rest[..at]);
        rest = &rest[at..];
        let mut depth = 0usize;
        let mut end = rest.len();
        for (offset, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth <= 1 => {
                    end = offset + 1;
                    break;
                }
                '}' => depth -= 1,
                ';' if depth == 0 => {
                    end = offset + 1;
                    break;
                }
                _ => {}
            }
        }
        rest = &rest[end..];
    }
    kept.push_str(rest);
    kept
}
