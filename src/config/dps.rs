//! The `[[dps]]` entries of `station.toml`.

use super::place::Wrong;
use super::{Secret, value};
use crate::provision::bounds::within;
use serde::Deserialize;
use std::path::PathBuf;

/// `[[dps]]`: a DPS instance.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DpsConfig {
    /// Its name.
    pub name: String,
    /// Its ID scope; injected.
    #[serde(deserialize_with = "value::id_scope")]
    pub id_scope: String,
    /// The global endpoint; injected. A host name, with a port where it is not 443.
    #[serde(deserialize_with = "value::endpoint")]
    pub global_endpoint: String,
    /// URL of the service API. Absent together with what opens it where nothing is enrolled: on a line whose products
    /// are injection-only.
    #[serde(default)]
    pub service_url: Option<String>,
    /// Where the connection string lies.
    #[serde(default)]
    pub credential: Option<Secret>,
    /// A program that prints a bearer token, and its arguments; in place of the connection string.
    #[serde(default, deserialize_with = "value::command")]
    pub token_command: Option<Vec<String>>,
    /// The proxy that calls go through; as the system's variables say when absent.
    #[serde(default)]
    pub proxy: ProxyConfig,
    /// Where `USER:PASSWORD` for that proxy lie.
    #[serde(default)]
    pub proxy_credential: Option<Secret>,
    /// PEM file that replaces the public roots, for an emulator or a proxy.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// This station's share of the service's quota, in operations a minute: at most all that one instance takes.
    #[serde(
        default = "default_share",
        deserialize_with = "within::<_, _, 1, 1_000>"
    )]
    pub share: u32,
}

/// `proxy` of a `[[dps]]`.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum ProxyConfig {
    /// As the system's variables say.
    #[default]
    System,
    /// `none`: never.
    Never,
    /// This one: `http://HOST:PORT` or `https://HOST:PORT`.
    At(String),
}

/// What opens the service API.
#[derive(Clone, Copy)]
pub enum CredentialSource<'a> {
    /// Where a connection string lies.
    ConnectionString(&'a Secret),
    /// A program that prints a bearer token, and its arguments.
    Command(&'a [String]),
}

impl DpsConfig {
    /// URL and credential of its service; none where it is only injected.
    pub fn service(&self) -> Option<(&str, CredentialSource<'_>)> {
        let command = self.token_command.as_deref();
        let string = self.credential.as_ref();
        let credential = command
            .map(CredentialSource::Command)
            .or(string.map(CredentialSource::ConnectionString));
        Some((self.service_url.as_deref()?, credential?))
    }

    /// Where its secrets lie, each with its key.
    pub fn secrets(&self) -> impl Iterator<Item = (&'static str, &Secret)> {
        let credential = self.credential.iter().map(|secret| ("credential", secret));
        let proxy = self.proxy_credential.iter();
        credential.chain(proxy.map(|secret| ("proxy_credential", secret)))
    }

    /// What is wrong with it.
    pub(super) fn check(&self) -> Result<(), Wrong> {
        let name = &self.name;
        let wrong = |key: &str, what: String| Err(Wrong::at(&[&key], what));
        if self.credential.is_some() && self.token_command.is_some() {
            let what = format!("dps {name} has a credential and a token_command: give one of them");
            return wrong("token_command", what);
        }
        let opens = match &self.token_command {
            Some(_) => "token_command",
            None => "credential",
        };
        match (
            &self.service_url,
            self.credential.is_some() || self.token_command.is_some(),
        ) {
            (Some(_), false) => wrong(
                "service_url",
                format!(
                    "dps {name} has a service_url and no credential or token_command: both are needed to enroll, and neither to inject only"
                ),
            ),
            (None, true) => wrong(
                opens,
                format!(
                    "dps {name} has a {opens} and no service_url: both are needed to enroll, and neither to inject only"
                ),
            ),
            _ if self.proxy_credential.is_some() && !matches!(self.proxy, ProxyConfig::At(_)) => {
                wrong(
                    "proxy_credential",
                    format!(
                        "dps {name} has a proxy_credential and no proxy that it is for: name that, as http://HOST:PORT"
                    ),
                )
            }
            _ => Ok(()),
        }
    }
}

impl TryFrom<String> for ProxyConfig {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "none" {
            return Ok(Self::Never);
        }
        let rest = text
            .strip_prefix("http://")
            .or(text.strip_prefix("https://"));
        match rest {
            // Not shown: it may be a password.
            Some(rest) if rest.contains('@') => {
                Err("user and password do not belong here: give them with proxy_credential")
            }
            Some(host) if is_host_and_port(host.trim_end_matches('/')) => Ok(Self::At(text)),
            _ => Err("a proxy is http://HOST:PORT, https://HOST:PORT, or \"none\""),
        }
    }
}

fn is_host_and_port(text: &str) -> bool {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, "80"));
    let part = |b: u8| b.is_ascii_alphanumeric() || b"-._[]:".contains(&b);
    !host.is_empty() && host.bytes().all(part) && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// A tenth of the 1,000 operations a minute of one instance (`includes/iot-dps-limits.md`), so that ten stations may
/// close their shifts together.
fn default_share() -> u32 {
    100
}
