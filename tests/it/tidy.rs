//! The house stays one that a newcomer walks through: direction of imports, size of files and functions, first lines.

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
        let room = room_of(&source.path);
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == room) else {
            assert!(
                ["main", "lib", "commands"].contains(&room.as_str()),
                "{room} has no arrows"
            );
            continue;
        };
        for used in crate_paths(&source.text) {
            let target = used.split("::").next().unwrap_or_default();
            let fine =
                target == room || allowed.contains(&target) || allowed.contains(&used.as_str());
            let codec_only =
                room != "fixtures" || target != "link" || used.starts_with("link::smp");
            let facts_only = room != "fixtures"
                || target != "provision"
                || ["provision::device", "provision::bytes"]
                    .iter()
                    .any(|p| used.starts_with(p));
            if !(fine && codec_only && facts_only) {
                wrong.push(format!("{} uses {used}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn room_of(path: &Path) -> String {
    let mut parts = path.components().map(|c| c.as_os_str().to_string_lossy());
    match parts.next().as_deref() {
        Some("fixtures") => "fixtures".to_owned(),
        _ => parts
            .next()
            .unwrap_or_default()
            .trim_end_matches(".rs")
            .to_owned(),
    }
}

/// Every `crate::a::b` in a text, two segments deep.
fn crate_paths(text: &str) -> Vec<String> {
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let mut found = Vec::new();
    for line in code {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            let path: String = rest
                .chars()
                .take_while(|c| c.is_alphanumeric() || "_:".contains(*c))
                .collect();
            found.push(path.split("::").take(2).collect::<Vec<_>>().join("::"));
        }
    }
    found
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
