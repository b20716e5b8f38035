//! The house stays one that a newcomer walks through: direction of imports, size of files and functions, first lines.

mod paths;

use paths::{Module, module_of, paths};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// Who may import whom, top down: a room may use itself, what stands behind it here (a room, or one name of it), and
/// nothing else.
/// `commands` and `main` may use everything.
const ARROWS: &[(&str, &[&str])] = &[
    ("provision", &[]),
    ("words", &["provision"]),
    ("config", &["provision", "words", "link"]),
    ("link", &["provision"]),
    ("tpm", &["provision"]),
    ("hsm", &["provision", "ledger::Reserved"]),
    ("ledger", &["provision"]),
    ("dps", &["provision"]),
    ("signing", &["provision", "ledger", "hsm"]),
    ("bay", &["provision", "link", "tpm", "hsm", "ledger"]),
    ("enroller", &["provision", "ledger", "dps"]),
    (
        "station",
        &[
            "provision",
            "bay",
            "enroller",
            "link",
            "tpm",
            "hsm",
            "ledger",
            "dps",
        ],
    ),
    // Nobody but `commands` may use it: the others speak through the macros of `tracing`.
    ("trace", &["provision"]),
    ("ui", &["provision", "words"]),
    ("fixtures", &["provision", "link"]),
];

struct Source {
    path: PathBuf,
    /// Its text without the tests at its end.
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let mut waiting: Vec<_> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut found = Vec::new();
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the project") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let all = fs::read_to_string(&path).expect("a source is text");
                let text = all
                    .split("\n#[cfg(test)]\n")
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                found.push(Source {
                    path: path.strip_prefix(root()).expect("inside").to_owned(),
                    text,
                });
            }
        }
    }
    assert!(found.len() > 20, "the sources are where this test looks");
    found
}

#[test]
fn every_file_says_in_its_first_line_what_lives_there() {
    for source in sources(&["src", "fixtures", "tests"]) {
        let first = source.text.lines().next().unwrap_or_default();
        assert!(
            first.starts_with("//! ") && first.len() > 20,
            "{}: {first:?}",
            source.path.display()
        );
        let pure = source.path.starts_with("src/provision/");
        let invariant = source
            .text
            .lines()
            .take(12)
            .any(|l| l.starts_with("//! Invariant"));
        assert!(
            !pure || invariant,
            "{} states no invariant",
            source.path.display()
        );
    }
}

#[test]
fn files_and_functions_stay_small() {
    let mut large = Vec::new();
    for source in sources(&["src", "fixtures"]) {
        let lines: Vec<_> = source.text.lines().collect();
        if lines.len() > FILE_LINES_MAX {
            large.push(format!("{}: {} lines", source.path.display(), lines.len()));
        }
        for (start, length) in functions(&lines) {
            if length > FUNCTION_LINES_MAX {
                large.push(format!(
                    "{}:{}: a function of {length} lines",
                    source.path.display(),
                    start + 1
                ));
            }
        }
    }
    assert!(large.is_empty(), "{}", large.join("\n"));
}

/// First line and length of each function: from its `fn` to the closing brace at the same depth.
fn functions(lines: &[&str]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let depth = line.len() - code.len();
        let head = code.split('(').next().unwrap_or_default();
        let mut words = head
            .split_whitespace()
            .skip_while(|word| *word != "fn")
            .skip(1);
        if words.next().is_none() || code.starts_with("//") {
            continue;
        }
        let close = format!("{}}}", " ".repeat(depth));
        if let Some(length) = lines[start..].iter().position(|l| *l == close) {
            found.push((start, length + 1));
        }
    }
    found
}

#[test]
fn imports_point_one_way() {
    let mut wrong = Vec::new();
    for source in sources(&["src", "fixtures"]) {
        let room = module_of(&source.path).remove(0);
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == room) else {
            assert!(
                ["main", "lib", "commands"].contains(&room.as_str()),
                "{room} has no arrows"
            );
            continue;
        };
        for path in paths(&source) {
            let target = path.first().map_or("", String::as_str);
            let used = path.iter().take(2).cloned().collect::<Vec<_>>().join("::");
            let fine =
                target == room || allowed.contains(&target) || allowed.contains(&used.as_str());
            let codec_only =
                room != "fixtures" || target != "link" || used.starts_with("link::smp");
            let facts_only = room != "fixtures"
                || target != "provision"
                || ["provision::device", "provision::bytes"].contains(&used.as_str());
            if !(fine && codec_only && facts_only) {
                wrong.push(format!("{} uses {used}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_files_need_one_another_in_a_circle() {
    let sources = sources(&["src", "fixtures"]);
    let files: Vec<_> = sources
        .iter()
        .map(|source| module_of(&source.path))
        .collect();
    let needs = |source: &Source| {
        let own = module_of(&source.path);
        let file = |path: Module| {
            let beginnings = (1..=path.len()).rev().map(|length| path[..length].to_vec());
            let mut known = beginnings.filter(|beginning| files.contains(beginning));
            known.next().filter(|file| *file != own)
        };
        let needed: Vec<_> = paths(source).into_iter().filter_map(file).collect();
        (own.clone(), needed)
    };
    let mut waiting: BTreeMap<Module, Vec<Module>> = sources.iter().map(needs).collect();
    // Who needs nobody that is still here goes, and so does whom nobody here needs; circles stay, and what joins them.
    loop {
        let here: Vec<_> = waiting.keys().cloned().collect();
        let needed: Vec<_> = waiting.values().flatten().cloned().collect();
        waiting.retain(|file, needs| {
            needed.contains(file) && needs.iter().any(|file| here.contains(file))
        });
        if waiting.len() == here.len() {
            break;
        }
    }
    let names: Vec<_> = waiting.keys().map(|file| file.join("::")).collect();
    assert!(names.is_empty(), "in a circle, or between two: {names:?}");
}

#[test]
fn no_function_or_constant_is_public_that_no_other_file_names() {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let sources = sources(&["src", "fixtures", "tests"]);
    let names: Vec<BTreeSet<&str>> = sources
        .iter()
        .map(|source| source.text.split(|c| !is_name(c)).collect())
        .collect();
    let mut wrong = Vec::new();
    for (number, source) in sources.iter().enumerate() {
        if !source.path.starts_with("src") {
            continue;
        }
        for line in source.text.lines() {
            let Some(rest) = line.trim_start().strip_prefix("pub ") else {
                continue;
            };
            let rest = rest.trim_start_matches("async ");
            let after = ["const fn ", "fn ", "const ", "static "]
                .iter()
                .find_map(|word| rest.strip_prefix(word));
            let name = after.and_then(|rest| rest.split(|c| !is_name(c)).next());
            let others = names
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != number);
            if let Some(name) = name
                && !others
                    .map(|(_, names)| names)
                    .any(|names| names.contains(name))
            {
                wrong.push(format!("{}: {name}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The field's words: each may name one type in all of the sources, or none.
const ONE_THING: &[&str] = &[
    "Bay",
    "DeviceId",
    "Driver",
    "Enrollment",
    "Event",
    "Fault",
    "Identity",
    "KeyKind",
    "Ledger",
    "Link",
    "Outcome",
    "Person",
    "Product",
    "Refusal",
    "Reserved",
    "Signer",
    "Station",
    "Verdict",
];

#[test]
fn one_word_names_one_thing() {
    let mut wrong = Vec::new();
    let sources = sources(&["src"]);
    for word in ONE_THING {
        let declared = |source: &&Source| {
            source.text.lines().any(|line| {
                let mut words = line.trim_start().split(|c: char| !c.is_alphanumeric());
                let is_type = |word: &str| ["struct", "enum", "trait", "type"].contains(&word);
                words
                    .find(|part| !part.is_empty() && !["pub", "super", "crate"].contains(part))
                    .is_some_and(is_type)
                    && words.next() == Some(*word)
            })
        };
        let places: Vec<_> = sources.iter().filter(declared).map(|s| &s.path).collect();
        if places.len() > 1 {
            wrong.push(format!("{word}: {places:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a room that thinks may not name: a clock, randomness, files, sockets, other processes, the terminal.
const WORLD: &[&str] = &[
    "Instant::",
    "SystemTime",
    "now_utc",
    "now_local",
    "Ulid::new",
    "Uuid::new",
    "rand::",
    "OsRng",
    "getrandom",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::env",
    "std::process",
    "std::thread",
    "File::",
    "TcpStream",
    "UdpSocket",
    "UnixStream",
    "tokio",
    "serialport",
    "rusqlite",
    "reqwest",
    "tracing",
    "print!(",
    "println!(",
];

#[test]
fn the_room_that_thinks_touches_nothing() {
    let mut wrong = Vec::new();
    for source in sources(&["src/provision", "src/words"]) {
        let code = source
            .text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            if WORLD.iter().any(|name| line.contains(name)) {
                wrong.push(format!("{}: {}", source.path.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_top_level_is_what_it_should_be() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "fixtures",
        "station.toml",
        "scripts",
        "tests",
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "LICENSE",
        "rust-toolchain.toml",
        ".ci",
        ".git",
        ".gitignore",
        "target",
    ];
    for entry in fs::read_dir(root()).expect("the project") {
        let name = entry
            .expect("readable")
            .file_name()
            .to_string_lossy()
            .into_owned();
        assert!(
            allowed.contains(&name.as_str()),
            "{name} does not belong at the top level"
        );
    }
}
