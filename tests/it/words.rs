//! Each fault in all its forms: what a ledger keeps of it does not change unseen, and a person can read each one.

use dps_station::provision::device::DeviceId;
use dps_station::provision::fault::Fault;
use dps_station::words::{self, Words};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use strum::VariantNames;

/// One line for each form in which a fault is kept by events of the ledger's version 2. No line changes once it is on
/// `main`: another form is another version of the events that hold faults, and another file.
const FAULTS: &str = "fixtures/ledgers/faults-2.json";

fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn stored() -> Vec<Value> {
    let text = std::fs::read_to_string(home().join(FAULTS)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn faults() -> Vec<Fault> {
    let parse = |value: Value| {
        let fault = serde_json::from_value::<Fault>(value.clone());
        let fault = fault.unwrap_or_else(|error| panic!("{value}: {error}"));
        assert!(!matches!(fault, Fault::Told(_)), "{value}");
        fault
    };
    stored().into_iter().map(parse).collect()
}

#[test]
fn each_fault_is_kept_in_the_form_in_which_it_was_first_kept() {
    for (value, fault) in stored().iter().zip(faults()) {
        let now = serde_json::to_value(&fault).unwrap();
        assert_eq!(&now, value, "another form needs another version");
    }
    let known: BTreeSet<_> = faults().iter().map(|f| f.code().to_owned()).collect();
    let all = Fault::VARIANTS.iter().filter(|code| **code != "told");
    let all: BTreeSet<_> = all.map(|code| (*code).to_owned()).collect();
    assert_eq!(known, all, "{FAULTS}");
}

#[test]
fn each_fault_is_told_in_words_of_its_own() {
    let mut told = BTreeMap::new();
    let mut wrong = Vec::new();
    for fault in faults() {
        let form = serde_json::to_string(&fault).unwrap();
        let Words { what, next, .. } = words::of(&fault);
        for text in [&what, &next] {
            let trouble = trouble(text);
            if let Some(trouble) = trouble {
                wrong.push(format!("{form}: {trouble}: {text}"));
            }
        }
        if what == fault.code().replace('_', " ") {
            wrong.push(format!("{form} has no row"));
        }
        if let Some(other) = told.insert(format!("{what}: {next}"), form.clone()) {
            wrong.push(format!(
                "{other} and {form} are both told as: {what}: {next}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a native reader would stumble over.
fn trouble(text: &str) -> Option<&'static str> {
    let leftovers = [
        ("Some(", "a debug form"),
        ("None", "a debug form"),
        ("{", "a debug form"),
        ("public_key", "a code"),
        ("endorsement_key", "a code"),
        ("see the log", "there is no log"),
        ("  ", "two spaces"),
        (": :", "an empty part"),
        (" ()", "an empty part"),
        ("retire", "no command does that"),
        ("renew", "no command does that"),
        (
            "restart the station",
            "one word for one thing: start it again",
        ),
    ];
    let twice = [
        "then try again",
        "put the unit in again",
        "call the process engineer",
    ];
    let found = leftovers.iter().find(|(part, _)| text.contains(part));
    match found {
        _ if text.is_empty() => Some("it says nothing"),
        _ if text.ends_with(['.', ':', ' ', ',']) => Some("it does not end as a clause"),
        _ if twice.iter().any(|part| text.matches(part).count() > 1) => Some("it repeats itself"),
        found => found.map(|(_, why)| *why),
    }
}

#[test]
fn every_command_that_is_named_exists() {
    let mut named = BTreeSet::new();
    for fault in faults() {
        commands(&words::sentence(&fault), &mut named);
    }
    assert!(named.len() > 3, "{named:?}");
    commands(&text(&home().join("README.md")), &mut named);
    let mut sources = Vec::new();
    collect(&home().join("src"), &mut sources);
    for source in sources {
        let code = text(&source);
        let lines = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        commands(&lines.collect::<Vec<_>>().join("\n"), &mut named);
    }
    let wrong: Vec<_> = named.iter().filter_map(|line| unknown(line)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Adds each `station …` between backticks.
fn commands(text: &str, found: &mut BTreeSet<String>) {
    for (at, _) in text.match_indices("`station ") {
        let rest = &text[at + 1..];
        if let Some(end) = rest.find('`').filter(|end| !rest[..*end].contains('\n')) {
            found.insert(rest[..end].to_owned());
        }
    }
}

/// Says what of a command line this program does not know.
fn unknown(line: &str) -> Option<String> {
    let is_name = |word: &&str| {
        let mut letters = word.chars();
        !word.is_empty() && letters.all(|c| c.is_ascii_lowercase() || c == '-')
    };
    let words: Vec<_> = line.split_whitespace().skip(1).collect();
    let path: Vec<_> = words
        .iter()
        .copied()
        .take_while(|word| is_name(word) && !word.starts_with('-'))
        .collect();
    // The longest beginning that is a command; what follows are its values.
    let help = (1..=path.len())
        .rev()
        .find_map(|length| help(&path[..length]));
    let Some(help) = help else {
        return Some(format!("`{line}`: no such command"));
    };
    let options = words.iter().filter(|word| word.starts_with("--"));
    let unknown = options.map(|word| {
        word.split('=')
            .next()
            .unwrap_or_default()
            .trim_matches(['[', ']'])
    });
    unknown
        .into_iter()
        .find(|option| !help.contains(option))
        .map(|option| format!("`{line}`: no option {option}"))
}

fn help(path: &[&str]) -> Option<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
    let output = command.arg("help").args(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    output.status.success().then_some(text)
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn collect(folder: &Path, sources: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, sources);
        } else {
            sources.push(path);
        }
    }
}

#[test]
fn a_unit_is_never_where_it_was_itself() {
    let unit = |id: &str| DeviceId::parse(id).unwrap();
    let swapped = |found: &str, before: &str| {
        let (found, before) = (unit(found), Some(unit(before)));
        words::of(&Fault::Swapped { found, before }).what
    };
    let other = swapped("GW-0002", "GW-0001");
    assert_eq!(other, "GW-0002 is in the bay where GW-0001 was");
    let namesake = swapped("GW-0001", "GW-0001");
    let wanted = "another unit that calls itself GW-0001 too is in the bay now";
    assert_eq!(namesake, wanted);
}
