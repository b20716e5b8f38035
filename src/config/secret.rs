//! Where a secret of `station.toml` lies; its text is never shown.

use secrecy::SecretString;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Where a secret lies.
#[derive(Clone)]
pub enum Secret {
    /// The first line of this file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// Here, in plain sight: only on a simulated line.
    Plain(SecretString),
}

/// The longest file that a secret is read from, in bytes.
const FILE_MAX: u64 = 64 * 1024;

/// The first line of a file; none where it cannot be read, is too long, or is no file: a pipe would keep whoever reads it.
pub(super) fn first_line(path: &Path) -> Option<String> {
    let known = fs::metadata(path).ok()?;
    if !known.is_file() || known.len() > FILE_MAX {
        return None;
    }
    let text = fs::read_to_string(path).ok()?;
    text.lines().next().map(str::to_owned)
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Place)
    }
}

/// Takes a text, and refuses a number without saying it: it may be a PIN.
struct Place;

impl Visitor<'_> for Place {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, file:PATH or env:NAME")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
        match text.split_once(':') {
            Some(("file" | "env", "")) => {
                Err(E::custom("after file: a path, and after env: a name"))
            }
            Some(("file", path)) => Ok(Secret::File(PathBuf::from(path))),
            Some(("env", name)) => Ok(Secret::Environment(name.to_owned())),
            _ if text.is_empty() => Err(E::custom("it is empty: write file:PATH or env:NAME")),
            _ => Ok(Secret::Plain(SecretString::from(text))),
        }
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Secret, E> {
        Err(E::custom(
            "a secret is no number: write file:PATH or env:NAME in quotation marks",
        ))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Secret, E> {
        self.visit_i64(0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Environment(name) => write!(f, "env:{name}"),
            Self::Plain(_) => f.write_str("plain"),
        }
    }
}
