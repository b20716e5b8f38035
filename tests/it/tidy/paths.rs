//! The paths that a source names: `crate::`, `super::` and `self::`, with what stands in braces, as paths of the crate.

use super::Source;
use std::path::Path;

/// A path of the crate, part by part.
pub type Module = Vec<String>;

/// The module that a file is.
pub fn module_of(path: &Path) -> Module {
    let name = path.with_extension("");
    let parts = name.iter().map(|part| part.to_string_lossy().into_owned());
    let skipped = usize::from(path.starts_with("src"));
    parts.skip(skipped).filter(|part| part != "mod").collect()
}

/// Every path that a source names from the crate, its own module, or a module above it.
pub fn paths(source: &Source) -> Vec<Module> {
    let code: Vec<_> = source
        .text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let code = code.join("\n");
    let own = module_of(&source.path);
    let mut found = Vec::new();
    let mut after = ' ';
    for (at, letter) in code.char_indices() {
        let begins = !(after.is_alphanumeric() || "_:$".contains(after));
        after = letter;
        let roots = ["crate::", "super::", "self::"];
        if begins && roots.iter().any(|root| code[at..].starts_with(root)) {
            let mut named = Vec::new();
            tree(&code[at..], &[], &mut named);
            found.extend(named.iter().map(|path| resolved(path, &own)));
        }
    }
    found
}

/// Reads `a::b` or `a::{b, c::d}` from the beginning of a text; says how many bytes of it that is.
fn tree(text: &str, before: &[String], found: &mut Vec<Module>) -> usize {
    let mut path = before.to_vec();
    let mut at = 0;
    loop {
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let length = text[at..].find(|c| !is_name(c)).unwrap_or(text.len() - at);
        if length > 0 {
            path.push(text[at..at + length].to_owned());
        }
        at += length;
        match text[at..].strip_prefix("::") {
            Some(rest) if rest.starts_with('{') => {
                at += "::{".len();
                break;
            }
            Some(_) => at += "::".len(),
            None => {
                found.push(path);
                return at;
            }
        }
        if !text[at..].starts_with(is_name) {
            found.push(path);
            return at;
        }
    }
    while at < text.len() && !text[at..].starts_with('}') {
        let is_name = text[at..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
        at += match is_name {
            true => tree(&text[at..], &path, found),
            false => text[at..].chars().next().map_or(1, char::len_utf8),
        };
    }
    at + 1
}

fn resolved(path: &[String], own: &[String]) -> Module {
    let mut base = match path.first().map(String::as_str) {
        Some("crate") => Vec::new(),
        _ => own.to_vec(),
    };
    for part in path {
        match part.as_str() {
            "crate" | "self" => {}
            "super" => drop(base.pop()),
            part => base.push(part.to_owned()),
        }
    }
    base
}

#[test]
fn paths_are_read_wherever_they_stand() {
    let source = Source {
        path: "src/bay/traced.rs".into(),
        text: "use crate::{a::{b, c::*}, d};\n// crate::no\nfn f() { super::super::e::g(self::h) }"
            .to_owned(),
    };
    let found: Vec<_> = paths(&source).iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["a::b", "a::c", "d", "e::g", "bay::traced::h"]);
}
