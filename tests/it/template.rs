//! `station.toml`, the template: it explains every key that the station reads, and no other.

use dps_station::config::Config;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use toml::{Table, Value};

const TEMPLATE: &str = include_str!("../../station.toml");
/// What the comment of a key says that is absent when it is left out.
const NO_DEFAULT: &str = "none unless given";
/// Tables whose keys are the user's.
const FREE: [&str; 3] = [
    "ca.environment",
    "product.enroll.initial_tags",
    "product.initial_desired",
];
const UNKNOWN: &str = "no_such_key";

/// The key or header behind the mark of a comment, if there is one.
fn behind(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("# ")?;
    let (key, _) = rest.split_once(" = ").unwrap_or(("", ""));
    let is_key = !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    (is_key || (rest.starts_with('[') && rest.ends_with(']'))).then_some(rest)
}

/// The template with all its keys.
fn everything() -> Table {
    let lines = TEMPLATE.lines().map(|line| behind(line).unwrap_or(line));
    toml::from_str(&lines.collect::<Vec<_>>().join("\n")).unwrap()
}

fn read(table: &Table) -> Result<Config, String> {
    let config = Config::deserialize(Value::Table(table.clone()));
    config.map_err(|error| error.message().to_owned())
}

/// The way to a table or value: keys, and numbers of list entries.
type Way = Vec<String>;

fn at<'a>(value: &'a mut Value, way: &[String]) -> &'a mut Value {
    way.iter().fold(value, |value, step| match value {
        Value::Array(list) => &mut list[step.parse::<usize>().unwrap()],
        Value::Table(table) => &mut table[step],
        other => panic!("{other} has no {step}"),
    })
}

/// The ways to everything in the value.
fn ways(value: &Value, way: &Way) -> Vec<Way> {
    let inner: Vec<(String, &Value)> = match value {
        Value::Table(table) => table
            .iter()
            .map(|(key, value)| (key.clone(), value))
            .collect(),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .map(|(i, value)| (i.to_string(), value))
            .collect(),
        _ => Vec::new(),
    };
    let inner = inner
        .into_iter()
        .flat_map(|(step, value)| ways(value, &[&way[..], &[step]].concat()));
    std::iter::once(way.clone()).chain(inner).collect()
}

fn name(way: &Way) -> String {
    let is_key = |step: &&String| step.parse::<usize>().is_err();
    way.iter()
        .filter(is_key)
        .cloned()
        .collect::<Vec<_>>()
        .join(".")
}

/// What the station says of the template with `change` made at a place.
fn said(way: &Way, change: impl FnOnce(&mut Value)) -> String {
    let mut all = Value::Table(everything());
    change(at(&mut all, way));
    read(all.as_table().unwrap()).err().unwrap_or_default()
}

#[test]
fn each_key_that_is_read_is_in_the_template_and_no_other() {
    let all = Value::Table(everything());
    read(all.as_table().unwrap()).expect("every key is known");
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut there = known.clone();
    let mut free = BTreeSet::new();
    for way in ways(&all, &Way::new()) {
        let Value::Table(table) = at(&mut all.clone(), &way).clone() else {
            continue;
        };
        let insert = |value: &mut Value| {
            let table = value.as_table_mut().unwrap();
            table.insert(UNKNOWN.to_owned(), Value::String("text".to_owned()));
        };
        let said = said(&way, insert);
        let Some((_, list)) = said.split_once(&format!("unknown field `{UNKNOWN}`, expected "))
        else {
            assert_eq!(said, "", "{way:?}");
            free.insert(name(&way));
            continue;
        };
        let fields = list.split('`').skip(1).step_by(2).map(str::to_owned);
        known.entry(name(&way)).or_default().extend(fields);
        there
            .entry(name(&way))
            .or_default()
            .extend(table.keys().cloned());
    }
    assert_eq!(known, there);
    assert!(
        known.len() > 12 && known["bay.link"].len() > 13,
        "{known:?}"
    );
    assert_eq!(Vec::from_iter(free), FREE);
}

#[test]
fn a_key_behind_a_mark_shows_its_default() {
    let parse = |text: &str| format!("{:?}", toml::from_str::<Config>(text).unwrap());
    let as_it_stands = parse(TEMPLATE);
    let mut in_sample = false;
    let mut defaults = 0;
    for (number, line) in TEMPLATE.lines().enumerate() {
        in_sample = (in_sample || line.starts_with("# [[")) && !line.is_empty();
        let Some(key) = behind(line).filter(|_| !in_sample) else {
            continue;
        };
        let lines = TEMPLATE.lines().enumerate();
        let text: Vec<_> = lines
            .map(|(at, line)| if at == number { key } else { line })
            .collect();
        let same = parse(&text.join("\n")) == as_it_stands;
        assert_eq!(same, !key.contains(NO_DEFAULT), "{key}");
        defaults += usize::from(same);
    }
    assert!(defaults > 20, "{defaults}");
}

#[test]
fn the_limits_of_each_number_stand_beside_it() {
    let mut numbers = 0;
    for way in ways(&Value::Table(everything()), &Way::new()) {
        let said = said(&way, |value| {
            if value.is_integer() {
                *value = Value::Integer(-1);
            }
        });
        let Some((_, limits)) = said.split_once("expected a whole number from ") else {
            continue;
        };
        let (low, high) = limits.split_once(" to ").unwrap();
        let (low, high) = (grouped(low), grouped(high));
        let limits = match &*low {
            "0" => format!("up to {high}"),
            _ => format!("{low} to {high}"),
        };
        let key = way.last().unwrap();
        let told = |line: &str| {
            behind(line)
                .unwrap_or(line)
                .starts_with(&format!("{key} = "))
                && line.contains(&limits)
        };
        assert!(TEMPLATE.lines().any(told), "{}: {limits}", name(&way));
        numbers += 1;
    }
    assert!(numbers > 15, "{numbers}");
}

/// A number as it is read best: 4,096.
fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
