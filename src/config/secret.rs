//! Where a secret of `station.toml` lies; its text is never shown.

use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use std::path::PathBuf;

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

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match text.split_once(':') {
            Some(("file", path)) => Self::File(PathBuf::from(path)),
            Some(("env", name)) => Self::Environment(name.to_owned()),
            _ => Self::Plain(SecretString::from(text)),
        })
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Environment(name) => write!(f, "env:{name}"),
            Self::Plain(_) => f.write_str("plain"),
        }
    }
}
