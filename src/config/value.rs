//! Values of `station.toml` that are of the right type and still cannot be meant.
//!
//! What is injected is checked here: a wrong endpoint would only be noticed weeks later, in every device at once.

use crate::provision::bounds::within;
use crate::provision::fault::harmless;
use serde::de::{Deserialize, Deserializer, Error};
use std::collections::BTreeMap;

/// The longest name, in characters.
const NAME_MAX: usize = 64;

/// A name that can be shown.
pub fn name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    checked(from, "a name has 1 to 64 printable characters", |text| {
        !text.trim().is_empty() && harmless(text, NAME_MAX) == text
    })
}

/// An ID scope, as the portal shows it.
pub fn id_scope<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    checked(
        from,
        "an ID scope has letters and digits only, such as 0ne00AAAAAA",
        |text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric()),
    )
}

/// A host name, with a port where it is not 443.
pub fn endpoint<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    checked(
        from,
        "a global endpoint is a host name, with a port where it is not 443: no scheme and no path",
        |text| {
            let (host, port) = text.split_once(':').unwrap_or((text, "443"));
            let part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
            !host.is_empty()
                && host.bytes().all(part)
                && port.parse::<u16>().is_ok_and(|port| port != 0)
        },
    )
}

/// How many pages the ledger may have: what SQLite takes.
pub fn pages<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    within::<_, u32, 1, 4_294_967_294>(from).map(Some)
}

/// A program and its arguments, as the system takes them.
pub fn command<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    let command = Vec::<String>::deserialize(from)?;
    let runs = command.first().is_some_and(|program| !program.is_empty());
    match runs && command.iter().all(|part| !part.contains('\0')) {
        true => Ok(Some(command)),
        false => Err(D::Error::custom(
            "a command is a list of texts: the program, then its arguments",
        )),
    }
}

/// Variables that a process can be given: one that it cannot be would be looked for for ever.
pub fn environment<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let variables = BTreeMap::<String, String>::deserialize(from)?;
    let whole = |(name, value): (&String, &String)| {
        !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
    };
    match variables.iter().all(whole) {
        true => Ok(variables),
        false => Err(D::Error::custom(
            "the name of a variable is not empty and has no =, and nothing has a NUL",
        )),
    }
}

fn checked<'de, D: Deserializer<'de>>(
    from: D,
    rule: &str,
    holds: impl FnOnce(&str) -> bool,
) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    match holds(&text) {
        true => Ok(text),
        false => Err(D::Error::custom(rule)),
    }
}
