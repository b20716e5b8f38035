//! `station.toml` parsed into [`Config`]: a bad key is named, a bad value explained with the line it stands on.
//!
//! Paths in the file are relative to the file. Secrets are never in it: it says where they lie
//! (`file:PATH` or `env:NAME`); only a simulated line may spell them out.

mod desired;
mod dps;
mod enroll;
mod place;
mod product;
mod secret;
mod stock;
mod value;

pub use dps::{CredentialSource, DpsConfig, ProxyConfig};
pub use product::ProductConfig;
pub use secret::Secret;

use place::{Places, Wrong};

use crate::link::LinkOptions;
use crate::provision::bytes::{Blob, Digest};
use crate::provision::device::Attestation;
use crate::provision::endorsement::VendorRoots;
use crate::provision::fault::harmless;
use crate::provision::health::LinkLimits;
use crate::provision::loopback::Limits;
use crate::provision::product::{DpsTarget, Product, SigningCa};
use secrecy::SecretString;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The longest that is said of what is wrong in the file, in characters: all keys of a table have room.
const WRONG_MAX: usize = 600;

/// All of `station.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The station itself.
    pub station: StationConfig,
    /// The shift.
    #[serde(default)]
    pub shift: ShiftConfig,
    /// What is demanded of a port in a loopback test.
    #[serde(default)]
    pub loopback: Limits,
    /// The bays.
    #[serde(default, rename = "bay")]
    pub bays: Vec<BayConfig>,
    /// The products.
    #[serde(default, rename = "product")]
    pub products: Vec<ProductConfig>,
    /// The CAs.
    #[serde(default, rename = "ca")]
    pub cas: Vec<CaConfig>,
    /// The DPS instances.
    #[serde(default, rename = "dps")]
    pub dps: Vec<DpsConfig>,
    /// The folder of the file; what its paths are relative to.
    #[serde(skip)]
    pub folder: PathBuf,
    /// The file itself, and where its keys stand.
    #[serde(skip)]
    file: PathBuf,
    #[serde(skip)]
    places: Places,
}

/// `[station]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StationConfig {
    /// The station's name, in every record.
    #[serde(deserialize_with = "value::name")]
    pub id: String,
    /// Whether this line is simulated; it is marked everywhere.
    #[serde(default)]
    pub simulated: bool,
    /// The ledger's file.
    pub ledger: PathBuf,
    /// From where on a bay's link is shown as weak; counted over its last ten attempts.
    #[serde(default)]
    pub link_amber: LinkLimits,
    /// The largest that the ledger may become, in pages of 4096 bytes; unlimited when absent.
    #[serde(default, deserialize_with = "value::pages")]
    pub ledger_pages_max: Option<u32>,
}

/// `[shift]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShiftConfig {
    /// Whether `run` opens a shift by itself when none is open.
    #[serde(default)]
    pub auto: bool,
}

/// `[[bay]]`: one place for one device.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BayConfig {
    /// Its name, as the operator calls it.
    pub name: String,
    /// The path of its port: `/dev/serial/by-path/…`, or any path that stays the same.
    pub port: PathBuf,
    /// Whether the port comes and goes with the device, as with USB; else it must always be there.
    #[serde(default)]
    pub hotplug: bool,
    /// How its link is driven.
    #[serde(default)]
    pub link: LinkOptions,
}

/// `[[ca]]`: a CA whose key is in an HSM.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaConfig {
    /// Its name.
    pub name: String,
    /// The PKCS#11 module.
    pub module: PathBuf,
    /// Label of the token.
    pub token: String,
    /// Label of the issuing key; the root's is this with `-root`.
    pub label: String,
    /// Where the user PIN lies.
    pub pin: Secret,
    /// PEM file of the issuing CA's certificate.
    #[serde(default = "default_issuing")]
    pub issuing: PathBuf,
    /// PEM file of the root's certificate.
    #[serde(default = "default_root")]
    pub root: PathBuf,
    /// Organization in the CA's subject.
    #[serde(default = "default_organization")]
    pub organization: String,
    /// Environment that the module reads, such as `SOFTHSM2_CONF`; set before anything else runs.
    #[serde(default, deserialize_with = "value::environment")]
    pub environment: BTreeMap<String, String>,
}

/// What is wrong with a configuration; the sentence names the file, the line, the thing and the next step.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path} cannot be read ({reason}): give the right path with --config")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// A value or key is wrong.
    #[error("{path}, line {line}: {what}: correct it and start again")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// Something that the configuration names is not there.
    #[error("{what}: {next}")]
    Missing {
        /// What is missing.
        what: String,
        /// What to do.
        next: String,
    },
}

impl Config {
    /// Reads and checks a `station.toml`; every name in it is resolved, no file that it names is opened.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let bytes = fs::read(path).map_err(|reason| ConfigError::Unreadable {
            path: path.to_owned(),
            reason,
        })?;
        let text = std::str::from_utf8(&bytes).map_err(|error| ConfigError::Wrong {
            path: path.to_owned(),
            line: bytes[..error.valid_up_to()].split(|&b| b == b'\n').count(),
            what: "it is not UTF-8".to_owned(),
        })?;
        let folder = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        Self::parse(text, path, folder)
    }

    fn parse(text: &str, path: &Path, folder: &Path) -> Result<Self, ConfigError> {
        let wrong = |(line, what): (usize, String)| ConfigError::Wrong {
            path: path.to_owned(),
            line,
            what: harmless(&what, WRONG_MAX),
        };
        let said = |error: &toml::de::Error| error.message().replace('\n', " ");
        let place = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
        let places = Places::of(text)
            .map_err(|error| wrong((place::line_in(text, place(&error)), said(&error))))?;
        let mut config: Self = toml::from_str(text)
            .map_err(|error| wrong(places.told_at(place(&error), &said(&error))))?;
        config.folder = folder.to_owned();
        config.file = path.to_owned();
        config.places = places;
        config.check().map_err(|error| config.wrong(error))?;
        Ok(config)
    }

    /// Where the port of the bay with this number, from 0, stands in the file.
    pub fn place_of_port(&self, bay: usize) -> String {
        let port = Wrong::at(&[&"bay", &bay, &"port"], String::new());
        let (line, key) = self.places.told(port);
        let key = key.trim_end_matches(": ");
        format!("{}, line {line}: {key}", self.file.display())
    }

    /// What is wrong in the file, as a sentence.
    fn wrong(&self, wrong: Wrong) -> ConfigError {
        let (line, what) = self.places.told(wrong);
        ConfigError::Wrong {
            path: self.file.clone(),
            line,
            what: harmless(&what, WRONG_MAX),
        }
    }

    /// A path of the file, as seen from where the program runs.
    pub fn path(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    /// The CA of that name.
    pub fn ca(&self, name: &str) -> Option<&CaConfig> {
        self.cas.iter().find(|ca| ca.name == name)
    }

    /// The DPS instance of that name.
    pub fn dps(&self, name: &str) -> Option<&DpsConfig> {
        self.dps.iter().find(|dps| dps.name == name)
    }

    /// The DPS instances in which something is enrolled.
    pub fn enrolling(&self) -> impl Iterator<Item = &DpsConfig> {
        self.dps.iter().filter(|dps| dps.service().is_some())
    }

    /// Resolves a product: reads its CA's certificates and fixes its digest. `roots` are those of its `vendor_roots`.
    pub fn resolve(
        &self,
        product: &ProductConfig,
        roots: Arc<VendorRoots>,
    ) -> Result<Product, ConfigError> {
        let ca = match product.ca.as_ref().and_then(|name| self.ca(name)) {
            Some(ca) if product.attestation == Some(Attestation::X509) => Some(SigningCa {
                name: ca.name.clone(),
                issuing: read_certificate(&self.path(&ca.issuing))?,
                root: read_certificate(&self.path(&ca.root))?,
            }),
            _ => None,
        };
        let dps = self.dps(&product.dps).ok_or_else(|| missing_dps(product))?;
        let mut resolved = Product {
            name: product.name.clone(),
            model: product.model.clone(),
            firmware: product.firmware.clone(),
            usb: product.usb.clone(),
            naming: product.device_id.clone(),
            attestation: product.attestation,
            endpoint_readback: product.inject.endpoint_readback,
            value_limit: product.inject.value_limit,
            ca,
            profile: product.certificate.clone(),
            dps: DpsTarget {
                name: dps.name.clone(),
                id_scope: dps.id_scope.clone(),
                global_endpoint: dps.global_endpoint.clone(),
            },
            initial_desired: product.initial_desired.clone(),
            initial_tags: product.enroll.initial_tags.clone(),
            content: product.enroll.content(),
            line: self.station.id.clone(),
            endorsement: product.endorsement.clone(),
            empty_handle: product.empty_handle,
            vendor_roots: roots,
            digest: None,
        };
        let text = serde_json::to_vec(&(&resolved, &product.inject))
            .expect("a product is made of strings, numbers and lists");
        resolved.digest = Some(Digest::of(&text));
        Ok(resolved)
    }

    /// Reads a secret. Its text is never in an error.
    pub fn secret(&self, secret: &Secret, what: &str) -> Result<SecretString, ConfigError> {
        let missing = |place: String| ConfigError::Missing {
            what: format!("{what} is not in {place}"),
            next: "put it there, readable by this user only".to_owned(),
        };
        // What is empty is refused here: a token would count it as a wrong PIN.
        let filled = |text: Option<String>, place: String| match text {
            Some(text) if !text.is_empty() => Ok(SecretString::from(text)),
            _ => Err(missing(place)),
        };
        match secret {
            Secret::Plain(text) => Ok(text.clone()),
            Secret::Environment(name) => {
                let text = std::env::var(name).ok();
                filled(text, format!("the environment variable {name}"))
            }
            Secret::File(path) => {
                let path = self.path(path);
                filled(secret::first_line(&path), path.display().to_string())
            }
        }
    }

    fn check(&self) -> Result<(), Wrong> {
        unique("bay", self.bays.iter().map(|b| &b.name))?;
        unique("product", self.products.iter().map(|p| &p.name))?;
        unique("ca", self.cas.iter().map(|c| &c.name))?;
        unique("dps", self.dps.iter().map(|d| &d.name))?;
        let mut ports = std::collections::BTreeSet::new();
        for (number, bay) in self.bays.iter().enumerate() {
            if !ports.insert(self.path(&bay.port)) {
                let what = format!("two bays have the port {}", bay.port.display());
                return Err(Wrong::at(&[&"bay", &number, &"port"], what));
            }
        }
        for (number, dps) in self.dps.iter().enumerate() {
            let within = |wrong: Wrong| wrong.under(&[&"dps", &number]);
            dps.check().map_err(within)?;
        }
        for (number, product) in self.products.iter().enumerate() {
            let within = |wrong: Wrong| wrong.under(&[&"product", &number]);
            product.check(self).map_err(within)?;
        }
        told_apart(&self.products)?;
        stock::keys_differ(&self.products)?;
        if let Some(limit) = self.loopback.passes_anything() {
            let what = "with it, a port that gives back nothing of the pattern would pass";
            return Err(Wrong::at(&[&"loopback", &limit], what.to_owned()));
        }
        self.no_plain_secret()
    }

    /// Only a simulated line may spell out its secrets.
    fn no_plain_secret(&self) -> Result<(), Wrong> {
        let pins = self.cas.iter().enumerate();
        let pins = pins.map(|(number, ca)| ("ca", number, "pin", &ca.name, &ca.pin));
        let keys = self.dps.iter().enumerate().flat_map(|(number, dps)| {
            let secrets = dps.secrets();
            secrets.map(move |(key, secret)| ("dps", number, key, &dps.name, secret))
        });
        for (table, number, key, name, secret) in pins.chain(keys) {
            if matches!(secret, Secret::Plain(_)) && !self.station.simulated {
                let what =
                    format!("{name} has a secret in plain text: write file:PATH or env:NAME");
                return Err(Wrong::at(&[&table, &number, &key], what));
            }
        }
        Ok(())
    }
}

fn unique<'a>(table: &str, names: impl Iterator<Item = &'a String>) -> Result<(), Wrong> {
    let mut seen = std::collections::BTreeSet::new();
    for (number, name) in names.enumerate() {
        let what = if name.is_empty() {
            format!("a {table} has an empty name")
        } else if harmless(name, usize::MAX) != *name {
            format!("the name of a {table} has characters that cannot be shown")
        } else if !seen.insert(name) {
            format!("two {table} entries are named {name:?}")
        } else {
            continue;
        };
        return Err(Wrong::at(&[&table, &number, &"name"], what));
    }
    Ok(())
}

/// Devices of two products are told apart by their model, by whether their firmware is stock firmware, and by the USB
/// device that they are behind; the first product in the file that fits a device gets it.
fn told_apart(products: &[ProductConfig]) -> Result<(), Wrong> {
    let same = |one: &ProductConfig, other: &ProductConfig| {
        one.model == other.model && one.attestation.is_none() == other.attestation.is_none()
    };
    for (number, later) in products.iter().enumerate() {
        for earlier in products[..number]
            .iter()
            .filter(|earlier| same(earlier, later))
        {
            let behind_one = earlier.usb.iter().any(|id| later.usb.contains(id));
            if earlier.usb.is_empty() || behind_one {
                let what = format!(
                    "products {} and {} both take devices of model {:?}, and the second would get none: give them models that differ, or usb IDs of their own",
                    earlier.name, later.name, later.model
                );
                return Err(Wrong::at(&[&"product", &number, &"model"], what));
            }
        }
    }
    Ok(())
}

fn missing_dps(product: &ProductConfig) -> ConfigError {
    ConfigError::Missing {
        what: format!("product {} names no known dps", product.name),
        next: "add the [[dps]] entry".to_owned(),
    }
}

/// Reads the first certificate of a PEM file.
pub fn read_certificate(path: &Path) -> Result<Blob, ConfigError> {
    let missing = |why: String| ConfigError::Missing {
        what: format!("the CA certificate {} {why}", path.display()),
        next: "make the CA with `station ca init`".to_owned(),
    };
    let text = fs::read(path).map_err(|error| missing(format!("cannot be read ({error})")))?;
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(&text).map_err(|_| missing("is not PEM".to_owned()))?;
    Ok(Blob(pem.contents))
}

/// Whether a hub's twin takes these tags; else why not, with the key.
///
/// # Errors
/// What it does not take.
pub fn twin_takes_tags(values: &serde_json::Value) -> Result<(), String> {
    desired::check(values, desired::Collection::Tags).map_err(|wrong| wrong.told())
}

fn default_issuing() -> PathBuf {
    PathBuf::from("ca/issuing.pem")
}

fn default_root() -> PathBuf {
    PathBuf::from("ca/root.pem")
}

fn default_organization() -> String {
    "Factory".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("station.toml"), Path::new("/line"))
            .map_err(|e| e.to_string())
    }

    const LINE: &str = r#"
[station]
id = "line-1"
ledger = "ledger.sqlite"
[[bay]]
name = "1"
port = "/dev/serial/by-path/a"
[[dps]]
name = "main"
id_scope = "0ne00AAAAAA"
global_endpoint = "global.azure-devices-provisioning.net"
service_url = "https://x.azure-devices-provisioning.net"
credential = "env:DPS"
[[ca]]
name = "factory"
module = "/usr/lib/softhsm/libsofthsm2.so"
token = "factory"
label = "issuing"
pin = "file:pin"
[[product]]
name = "gw"
model = "GW-100"
attestation = "x509"
ca = "factory"
dps = "main"
"#;

    #[test]
    fn a_line_parses_and_its_paths_follow_the_file() {
        let config = parse(LINE).expect("parses");
        assert_eq!(
            config.path(&config.station.ledger),
            Path::new("/line/ledger.sqlite")
        );
        assert!(!config.station.simulated);
        assert_eq!(config.dps("main").expect("there").share, 100);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let cases = [
            (
                LINE.replace("port =", "prot ="),
                "station.toml, line 7: ",
                "prot",
            ),
            (
                LINE.replace("[station]\nid = \"line-1\"\n", "[station]\n"),
                "line 2: ",
                "missing field `id`",
            ),
            (
                format!("{LINE}inject = {{ value_limit = 32 }}\n"),
                "line 26: product.inject: ",
                "has 37 bytes, and the device gives back no more than 32",
            ),
            (
                LINE.replace("id = \"line-1\"", "id = \"\""),
                "line 3: ",
                "1 to 64 printable",
            ),
            (
                LINE.replace("name = \"1\"", "name = \"1\\u001b[2J\""),
                "line 6: ",
                "cannot be shown",
            ),
            (
                LINE.replace("0ne00AAAAAA", "0ne00 AAAAAA"),
                "line 10: ",
                "ID scope",
            ),
            (
                LINE.replace("\"global.azure", "\"https://global.azure"),
                "line 11: ",
                "host name",
            ),
            (
                LINE.replace("credential =", "share = 0\ncredential ="),
                "line 13: dps.share: ",
                "from 1 to 1000",
            ),
            (
                LINE.replace("dps = \"main\"", "dps = \"other\""),
                "line 25: ",
                "names dps \"other\"",
            ),
            (
                LINE.replace("ca = \"factory\"\n", ""),
                "line 23: ",
                "names no ca",
            ),
            (
                LINE.replace("pin = \"file:pin\"", "pin = \"1234\""),
                "line 19: ca.pin: ",
                "plain text",
            ),
            (
                format!("{LINE}[[bay]]\nname = \"1\"\nport = \"/b\"\n"),
                "line 27: ",
                "two bay entries",
            ),
            (
                format!("{LINE}[[bay]]\nname = \"2\"\nport = \"/dev/serial/by-path/a\"\n"),
                "line 28: ",
                "two bays",
            ),
            (
                LINE.replace("attestation = \"x509\"", "attestation = \"rsa\""),
                "line 23: ",
                "rsa",
            ),
            (
                format!("{LINE}usb = [\"2fe3\"]\n"),
                "line 26: ",
                "no USB ID",
            ),
            (
                format!("{LINE}[product.device_id]\nsource = \"allocated\"\n"),
                "line 26: ",
                "need a format",
            ),
            (
                format!("{LINE}[product.device_id]\nformat = \"-##\"\n"),
                "line 27: ",
                "device IDs",
            ),
        ];
        for (text, line, what) in cases {
            let error = parse(&text).expect_err(what);
            assert!(
                error.contains(line) && error.contains(what),
                "{what}: {error}"
            );
            assert!(!error.contains("1234"), "{error}");
        }
    }

    #[test]
    fn an_injection_only_product_is_said_to_be_one() {
        let stock = LINE.replace(
            "attestation = \"x509\"\nca = \"factory\"\n",
            "attestation = \"none\"\n",
        );
        let with = |inject: &str| parse(&format!("{stock}[product.inject]\n{inject}\n"));
        let by_prefix =
            "id_key = \"factory/serial\"\nvalue_limit = 32\nendpoint_readback = \"prefix\"";
        let config = with(by_prefix).expect("parses");
        assert_eq!(config.products[0].attestation, None);
        let one_more = stock[stock.find("[[product]]").expect("there")..]
            .replace("name = \"gw\"", "name = \"gw-2\"")
            .replace("GW-100", "GW-101");
        let twice = format!("{by_prefix}\n{one_more}[product.inject]\nid_key = \"factory/serial\"");
        for (result, what) in [
            (with(""), "needs inject.id_key"),
            (
                with("id_key = \"factory/serial\"\nvalue_limit = 32"),
                "has 37 bytes, and the device gives back no more than 32",
            ),
            (
                parse(&format!("{LINE}[product.inject]\n{by_prefix}")),
                "is no injection-only product",
            ),
            (
                parse(&stock.replace("attestation = \"none\"\n", "")),
                "missing field `attestation`",
            ),
            (
                parse(&format!(
                    "{stock}firmware = [\"1\"]\ninject = {{ id_key = \"a/b\" }}"
                )),
                "names firmware versions",
            ),
            (with(&twice), "two products have the id_key"),
        ] {
            let error = result.expect_err(what);
            assert!(error.contains(what), "{what}: {error}");
        }
    }

    #[test]
    fn a_simulated_line_may_spell_out_its_secrets() {
        let text = LINE
            .replace("[station]", "[station]\nsimulated = true")
            .replace("file:pin", "1234");
        assert!(parse(&text).is_ok());
    }

    #[test]
    fn the_template_parses_and_is_of_a_real_line() {
        let text = include_str!("../station.toml");
        let config = parse(text).expect("parses");
        assert!(!config.station.simulated && !config.shift.auto);
        assert_eq!((config.bays.len(), config.products.len()), (2, 1));
        assert!(config.bays[1].hotplug && config.bays[1].link.dtr == Some(true));
        let simulated = text.replace("# simulated = false ", "simulated = true ");
        assert!(parse(&simulated).expect("parses").station.simulated);
        for secret in [
            "file:/etc/station/hsm-pin",
            "file:/etc/station/dps-connection-string",
        ] {
            let plain = text.replace(secret, "0815");
            let error = parse(&plain).expect_err("a secret in plain text");
            assert!(
                error.contains("plain text") && !error.contains("0815"),
                "{error}"
            );
        }
    }
}
