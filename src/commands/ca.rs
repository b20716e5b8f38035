//! `station ca`: make the CA's keys and certificates in the HSM, and show everything that was ever signed.
//!
//! Every signature, a root's and a self-test's too, has its reservation on record before the HSM is asked.

use super::parts::Actor;
use super::{Context, Exit, Failure, parts};
use crate::config::{CaConfig, Config};
use crate::hsm::{Hsm, HsmError};
use crate::ledger::{Ledger, ReservationRow, ReservationState};
use crate::provision::bytes::pem;
use crate::provision::certificate::{
    CaProfile, Issuer, draft_issuing, draft_root, read, validate_authority,
};
use crate::provision::event::{Event, Purpose};
use crate::signing::{SigningKey, abandon_open, random_serial};
use clap::Subcommand;
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::Path;

/// How long a root is valid, in days.
const ROOT_DAYS: u32 = 30 * 365;
/// How long an issuing CA is valid, in days.
const ISSUING_DAYS: u32 = 15 * 365;

/// Events read at a time.
const PAGE: u32 = 500;

/// What `station ca` can do.
#[derive(Subcommand)]
pub enum CaCommand {
    /// Make a root and an issuing CA in the HSM, or adopt those that are there.
    Init {
        /// Name of the CA; all of them when absent.
        #[arg(long, value_name = "NAME")]
        ca: Option<String>,
        #[command(flatten)]
        actor: Actor,
    },
    /// One line for each signature that was ever reserved.
    Show,
}

/// Runs `station ca …`.
pub(super) async fn run(context: &Context, command: CaCommand) -> Result<Exit, Failure> {
    let config = context.config()?;
    let ledger = match &command {
        CaCommand::Init { actor, .. } => parts::ledger_of(&config, actor).await?,
        CaCommand::Show => parts::ledger(&config).await?,
    };
    match command {
        CaCommand::Init { ca, .. } => {
            let wanted = |c: &&CaConfig| ca.as_ref().is_none_or(|name| *name == c.name);
            let chosen: Vec<_> = config.cas.iter().filter(wanted).collect();
            if chosen.is_empty() {
                return Err(Failure::usage(
                    "station.toml has no such [[ca]]: add it, or name another",
                ));
            }
            for ca in chosen {
                init(&config, ca, &ledger).await?;
                let name = &ca.name;
                let issuing = config.path(&ca.issuing);
                context.print(
                    &json!({"ca": name, "issuing": issuing, "root": config.path(&ca.root)}),
                    &format!("CA {name}: {}", issuing.display()),
                )?;
            }
        }
        CaCommand::Show => show(context, &ledger).await?,
    }
    ledger.close().await?;
    Ok(Exit::Done)
}

/// Makes a root and an issuing CA, unless they are there; what an earlier, interrupted run left half done is finished. What
/// was not made here is never replaced: an issuing certificate from a customer's root is taken as it is, or refused.
pub(super) async fn init(config: &Config, ca: &CaConfig, ledger: &Ledger) -> Result<(), Failure> {
    let name = &ca.name;
    let (root_path, path) = (config.path(&ca.root), config.path(&ca.issuing));
    let roots = made_here(ledger, name, Purpose::Root).await?;
    let issuings = made_here(ledger, name, Purpose::Issuing).await?;
    let root_file = in_file(&root_path)?;
    let issuing_file = in_file(&path)?;
    abandon_open(ledger, name).await?;
    let hsm = parts::hsm(config, ca).await?;
    if let Some(issuing) = issuing_file.as_ref().filter(|der| !issuings.contains(der)) {
        return adopt(ca, &hsm, (&path, issuing), (&root_path, root_file.as_ref())).await;
    }
    let root_label = format!("{}-root", ca.label);
    let profile = |what: &str, validity_days| ca_profile(config, ca, what, validity_days);
    // No key is made where a root is there already.
    let root_key = match hsm.public_key(&root_label).await {
        Err(HsmError::KeyMissing { .. }) if root_file.is_none() => {
            refuse_second_root(name, &roots, &profile("Root CA", ROOT_DAYS).common_name)?;
            hsm.find_or_make_key(&root_label).await?
        }
        Err(HsmError::KeyMissing { .. }) => Vec::new(),
        found => found?,
    };
    let signer = SigningKey {
        hsm: &hsm,
        label: &root_label,
        public_key: &root_key,
    };
    let root = match root_file.or_else(|| of_key(name, &roots, &root_key)) {
        Some(root) => root,
        None => {
            let root = profile("Root CA", ROOT_DAYS);
            let draft = draft_root(name, &root_key, &root, random_serial(), parts::clock())?;
            refuse_second_root(name, &roots, &root.common_name)?;
            signer.certificate(draft, ledger).await?
        }
    };
    let root = Issuer::parse(name, &root)?;
    if root.spki() != root_key {
        return Err(Failure::usage(format!(
            "{} is not the root of key {root_label} in token {}: put the issuing certificate that it signed into {}, or correct root, label or token of CA {name} in station.toml",
            root_path.display(),
            ca.token,
            path.display()
        )));
    }
    write_pem(&root_path, root.der())?;
    let issuing_key = hsm.find_or_make_key(&ca.label).await?;
    let issuing = match of_key(name, &issuings, &issuing_key) {
        Some(issuing) => issuing,
        None => {
            let issuing = profile("Issuing CA", ISSUING_DAYS);
            let serial = random_serial();
            let draft = draft_issuing(&root, &issuing_key, &issuing, serial, parts::clock())?;
            signer.certificate(draft, ledger).await?
        }
    };
    validate_authority(name, &issuing, &[root.der()], parts::clock())?;
    write_pem(&path, &issuing)
}

/// Takes an issuing certificate that was not made here, if it is one for the key in the HSM and leads to its root. Nothing
/// is made, signed or written.
async fn adopt(
    ca: &CaConfig,
    hsm: &Hsm,
    (path, issuing): (&Path, &Vec<u8>),
    (root_path, root): (&Path, Option<&Vec<u8>>),
) -> Result<(), Failure> {
    let issuer = Issuer::parse(&ca.name, issuing)?;
    let Some(root) = root else {
        return Err(Failure::usage(format!(
            "{} was not made here, and its root {} is missing: put the root's certificate there",
            path.display(),
            root_path.display()
        )));
    };
    if hsm.public_key(&ca.label).await? != issuer.spki() {
        return Err(Failure::usage(format!(
            "{} is for another key than {} in token {}: have a certificate made for that key, or correct label or issuing of CA {} in station.toml",
            path.display(),
            ca.label,
            ca.token,
            ca.name
        )));
    }
    Ok(validate_authority(
        &ca.name,
        issuing,
        &[root],
        parts::clock(),
    )?)
}

fn ca_profile(config: &Config, ca: &CaConfig, what: &str, validity_days: u32) -> CaProfile {
    let mark = if config.station.simulated {
        "SIMULATED "
    } else {
        ""
    };
    CaProfile {
        common_name: format!("{mark}{} {what}", ca.organization),
        organization: Some(ca.organization.clone()),
        validity_days,
    }
}

/// Two roots of one name could not be told apart by whoever has to trust one of them.
fn refuse_second_root(ca: &str, roots: &[Vec<u8>], common_name: &str) -> Result<(), Failure> {
    let has_name = |der: &Vec<u8>| read(der).is_ok_and(|root| root.common_name == common_name);
    match roots.iter().any(has_name) {
        false => Ok(()),
        true => Err(Failure::usage(format!(
            "a root named {common_name:?} was made for CA {ca} before, for another key: correct label, or give the CA another organization in station.toml"
        ))),
    }
}

/// The certificate in a file; none where there is no file. What is there and is no certificate is not written over.
fn in_file(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    if !path.exists() {
        return Ok(None);
    }
    let read = crate::config::read_certificate(path);
    read.map(|der| Some(der.0)).map_err(|_| {
        Failure::usage(format!(
            "{} is there and cannot be read as a certificate: move it away, or name another file in station.toml",
            path.display()
        ))
    })
}

/// The first of these certificates that is for this key.
fn of_key(ca: &str, certificates: &[Vec<u8>], key: &[u8]) -> Option<Vec<u8>> {
    let fits = |der: &&Vec<u8>| Issuer::parse(ca, der).is_ok_and(|issuer| issuer.spki() == key);
    certificates.iter().find(fits).cloned()
}

/// Every certificate of this purpose that was signed here for the CA, oldest first.
async fn made_here(ledger: &Ledger, ca: &str, purpose: Purpose) -> Result<Vec<Vec<u8>>, Failure> {
    let signed = |row: &ReservationRow| {
        row.ca == ca && row.purpose == purpose && row.state == ReservationState::Signed
    };
    let rows = ledger.reservations().await?;
    let rows = rows.into_iter().filter(signed);
    let serials: Vec<_> = rows.map(|row| row.serial).collect();
    let mut made = Vec::new();
    let mut from = 1;
    while made.len() < serials.len() {
        let page = ledger.all_events(from, PAGE).await?;
        let Some(last) = page.last() else { break };
        from = last.seq + 1;
        for recorded in page {
            match recorded.event {
                Event::Signed { serial, result } if serials.contains(&serial) => {
                    made.push(result.0);
                }
                _ => {}
            }
        }
    }
    Ok(made)
}

/// Writes a certificate so that the file is there whole or not at all.
fn write_pem(path: &Path, der: &[u8]) -> Result<(), Failure> {
    let text = pem("CERTIFICATE", der);
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let write = || {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let fresh = path.with_extension("new");
        let mut file = fs::File::create(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    write().map_err(|error: std::io::Error| {
        Failure::station(format!(
            "{} cannot be written ({error}): make room or give the right",
            path.display()
        ))
    })
}

async fn show(context: &Context, ledger: &Ledger) -> Result<(), Failure> {
    for row in ledger.reservations().await? {
        let object = json!({
            "purpose": row.purpose,
            "serial": row.serial,
            "ca": row.ca,
            "tbs_sha256": row.tbs_sha256,
            "state": row.state,
            "device_id": row.device,
        });
        let device = row.device.map(|id| id.to_string()).unwrap_or_default();
        context.print(
            &object,
            &format!("{} {:?} {:?} {device}", row.serial, row.purpose, row.state),
        )?;
    }
    Ok(())
}
