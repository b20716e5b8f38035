//! The parts of a station, opened from its configuration; every command that needs one opens it here.

use super::Failure;
use crate::bay::{CaKey, Line, LineProduct, StationFault};
use crate::config::{CaConfig, Config, CredentialSource, DpsConfig, ProductConfig, ProxyConfig};
use crate::dps::{API_VERSION, Credential, Dps, DpsOptions, ProxyChoice, configuration_fault};
use crate::hsm::{Hsm, HsmError, HsmOptions};
use crate::ledger::{Ledger, LedgerError, Options};
use crate::link;
use crate::provision::certificate::{Issuer, check_ca};
use crate::provision::endorsement::VendorRoots;
use crate::provision::fault::Fault;
use crate::provision::person::{Person, PersonError};
use crate::signing::SigningKey;
use crate::tpm;
use crate::trace::TraceError;
use crate::words;
use clap::Args;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
pub(super) fn clock() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// Opens the ledger; refuses one that another station began. How long that takes with an old one is said on stderr.
pub(super) async fn ledger(config: &Config) -> Result<Ledger, Failure> {
    let opened = Ledger::open(Options {
        path: config.path(&config.station.ledger),
        station: config.station.id.clone(),
        clock,
        progress: |progress| eprintln!("station: {progress}"),
        max_pages: config.station.ledger_pages_max,
    });
    opened.map_err(|error| match error {
        LedgerError::OtherStation { .. } => Failure::usage(words::sentence(&error.fault())),
        error => error.into(),
    })
}

/// The person who runs a command, where a command takes one.
#[derive(Args)]
pub(super) struct Actor {
    /// Who does this, as it goes on record.
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Why, as it goes on record.
    #[arg(long, value_name = "TEXT", requires = "by")]
    reason: Option<String>,
}

/// Opens the ledger for what only a person may decide: where nobody is named, it goes on record under the name that the
/// system has for who runs the command.
pub(super) async fn ledger_of_someone(config: &Config, actor: &Actor) -> Result<Ledger, Failure> {
    let named = Actor {
        by: actor.by.clone().or_else(|| Some(user())),
        reason: actor.reason.clone(),
    };
    ledger_of(config, &named).await
}

/// The user who runs the command, by name, or by number where the system gives none.
fn user() -> String {
    let name = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    let fit = name.ok().filter(|name| Person::new(name, None).is_ok());
    fit.unwrap_or_else(|| format!("user {}", rustix::process::getuid().as_raw()))
}

/// Opens the ledger for what this person does: all that is written through the handle has their name and reason.
pub(super) async fn ledger_of(config: &Config, actor: &Actor) -> Result<Ledger, Failure> {
    let reason = actor.reason.as_deref();
    let person = actor.by.as_deref().map(|name| Person::new(name, reason));
    let person = person.transpose().map_err(|error| {
        let option = match error {
            PersonError::Name => "--by",
            PersonError::Reason => "--reason",
        };
        Failure::usage(format!("{error}: correct {option}"))
    })?;
    let ledger = ledger(config).await?;
    Ok(match person {
        Some(person) => ledger.by(&person),
        None => ledger,
    })
}

/// Opens the HSM of a CA: module, token, PIN.
pub(super) async fn hsm(config: &Config, ca: &CaConfig) -> Result<Hsm, Failure> {
    let pin = config.secret(&ca.pin, &format!("the PIN of token {}", ca.token))?;
    let module = config.path(&ca.module);
    Ok(Hsm::open(HsmOptions {
        module,
        token: ca.token.clone(),
        pin,
    })
    .await?)
}

/// A client of a DPS instance in which something is enrolled.
pub(super) fn dps(config: &Config, dps: &DpsConfig) -> Result<Dps, Failure> {
    let name = dps.name.clone();
    let Some((service_url, credential)) = dps.service() else {
        return Err(Failure::usage(format!(
            "nothing can be enrolled in dps {name}: give it a service_url and a credential in station.toml"
        )));
    };
    let credential = match credential {
        CredentialSource::ConnectionString(secret) => Credential::ConnectionString(
            config.secret(secret, &format!("the credential of dps {name}"))?,
        ),
        CredentialSource::Command(command) => Credential::Command(command.to_vec()),
    };
    let options = DpsOptions {
        name: name.clone(),
        service_url: service_url.to_owned(),
        credential,
        ca_file: dps.ca_file.as_ref().map(|path| config.path(path)),
        api_version: API_VERSION.to_owned(),
        proxy: proxy(config, dps)?,
    };
    Dps::new(options, clock)
        .map_err(|error| Failure::usage(words::sentence(&configuration_fault(&name, &error))))
}

fn proxy(config: &Config, dps: &DpsConfig) -> Result<ProxyChoice, Failure> {
    Ok(match &dps.proxy {
        ProxyConfig::System => ProxyChoice::System,
        ProxyConfig::Never => ProxyChoice::Never,
        ProxyConfig::At(url) => {
            let what = format!("the proxy_credential of dps {}", dps.name);
            let secret = dps.proxy_credential.as_ref();
            let secret = secret.map(|secret| config.secret(secret, &what));
            ProxyChoice::At {
                url: url.clone(),
                credential: secret.transpose()?,
            }
        }
    })
}

/// Opens all that the bays share: the HSMs, checked against the CA certificates, and the products.
pub(super) async fn line(config: &Config, ledger: Ledger) -> Result<Line, Failure> {
    let mut signers = BTreeMap::new();
    for ca in &config.cas {
        signers.insert(ca.name.clone(), signer(config, ca, &ledger).await?);
    }
    let mut products = Vec::new();
    for product in &config.products {
        let signer = product
            .ca
            .as_ref()
            .and_then(|name| signers.get(name).cloned());
        let resolved = config.resolve(product, roots(config, product)?)?;
        if let (Some(CaKey { issuer, .. }), Some(ca)) = (&signer, &resolved.ca) {
            check_ca(issuer, &ca.root.0, &resolved.profile, clock())?;
        }
        products.push(LineProduct {
            product: Arc::new(resolved),
            driver: link::of_product(product.inject.clone(), &product.model),
            signer,
            step_deadline: Duration::from_millis(product.step_deadline_ms),
        });
    }
    Ok(Line {
        ledger,
        products,
        present: Mutex::new(BTreeMap::new()),
        loopback: config.loopback.clone(),
        clock,
    })
}

/// The TPM makers that a product trusts; none for a product that names none. A set that trusts nobody is a mistake.
pub(super) fn roots(config: &Config, product: &ProductConfig) -> Result<Arc<VendorRoots>, Failure> {
    let Some(path) = &product.vendor_roots else {
        return Ok(Arc::new(VendorRoots::read(&[])));
    };
    let path = config.path(path);
    let wrong = |what: String| {
        let product = &product.name;
        Failure::usage(format!("{what}: correct vendor_roots of product {product}"))
    };
    let roots = tpm::roots::load(&path).map_err(|error| wrong(error.to_string()))?;
    if roots.anchors() == 0 {
        let refused = roots.refused().len();
        return Err(wrong(format!(
            "vendor roots: {} has no trust anchor ({refused} entries were refused)",
            path.display()
        )));
    }
    Ok(Arc::new(roots))
}

/// The signer of a CA, after its start-up self-test: the key in the HSM is the one in the certificate.
async fn signer(config: &Config, ca: &CaConfig, ledger: &Ledger) -> Result<CaKey, Failure> {
    let name = &ca.name;
    let certificate = crate::config::read_certificate(&config.path(&ca.issuing))?;
    let issuer = Issuer::parse(name, &certificate.0)?;
    let hsm = hsm(config, ca).await?;
    self_test(&hsm, ca, &issuer, ledger).await?;
    Ok(CaKey {
        hsm,
        label: ca.label.clone(),
        issuer: Arc::new(issuer),
    })
}

/// Has the CA's key sign, and finds out whether it is the one in the CA's certificate.
pub(super) async fn self_test(
    hsm: &Hsm,
    ca: &CaConfig,
    issuer: &Issuer,
    ledger: &Ledger,
) -> Result<(), Fault> {
    let key = SigningKey {
        hsm,
        label: &ca.label,
        public_key: issuer.spki(),
    };
    key.self_test(issuer.name(), ledger).await
}

impl From<TraceError> for Failure {
    fn from(error: TraceError) -> Self {
        match error {
            TraceError::NotATrace(_) => Self::usage(error.to_string()),
            error => Self::station(error.to_string()),
        }
    }
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        Self::from(error.fault())
    }
}

impl From<HsmError> for Failure {
    fn from(error: HsmError) -> Self {
        Self::from(Fault::Hsm(error))
    }
}

impl From<StationFault> for Failure {
    fn from(error: StationFault) -> Self {
        Self::from(error.0)
    }
}
