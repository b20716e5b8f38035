//! `station ca`: make the CA's keys and certificates in the HSM, and show everything that was ever signed.
//!
//! Every signature, a root's and a self-test's too, has its reservation on record before the HSM is asked.

use super::parts::Actor;
use super::{Context, Exit, Failure, parts};
use crate::config::{CaConfig, Config};
use crate::ledger::{Ledger, ReservationRow, ReservationState};
use crate::provision::bytes::pem;
use crate::provision::certificate::{CaProfile, Issuer, draft_issuing, draft_root};
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

/// Makes a root and an issuing CA, unless they are there; what an earlier, interrupted run left half done is finished.
pub(super) async fn init(config: &Config, ca: &CaConfig, ledger: &Ledger) -> Result<(), Failure> {
    let name = &ca.name;
    abandon_open(ledger, name).await?;
    let hsm = parts::hsm(config, ca).await?;
    let root_label = format!("{}-root", ca.label);
    let root_key = hsm.find_or_make_key(&root_label).await?;
    let issuing_key = hsm.find_or_make_key(&ca.label).await?;
    let signer = SigningKey {
        hsm: &hsm,
        label: &root_label,
        public_key: &root_key,
    };
    let marked = |what: &str| match config.station.simulated {
        true => format!("SIMULATED {} {what}", ca.organization),
        false => format!("{} {what}", ca.organization),
    };
    let profile = |what: &str, validity_days| CaProfile {
        common_name: marked(what),
        organization: Some(ca.organization.clone()),
        validity_days,
    };

    let root = match known(
        ledger,
        name,
        Purpose::Root,
        &root_key,
        &config.path(&ca.root),
    )
    .await?
    {
        Some(root) => root,
        None => {
            let root = profile("Root CA", ROOT_DAYS);
            let draft = draft_root(name, &root_key, &root, random_serial(), parts::clock())?;
            signer.certificate(draft, ledger).await?
        }
    };
    write_pem(&config.path(&ca.root), &root)?;
    let root = Issuer::parse(name, &root)?;

    let path = config.path(&ca.issuing);
    let issuing = match known(ledger, name, Purpose::Issuing, &issuing_key, &path).await? {
        Some(issuing) => issuing,
        None => {
            let issuing = profile("Issuing CA", ISSUING_DAYS);
            let draft = draft_issuing(
                &root,
                &issuing_key,
                &issuing,
                random_serial(),
                parts::clock(),
            )?;
            signer.certificate(draft, ledger).await?
        }
    };
    write_pem(&path, &issuing)
}

/// A certificate for this key that is already there: signed and on record, or in its file.
async fn known(
    ledger: &Ledger,
    ca: &str,
    purpose: Purpose,
    key: &[u8],
    path: &Path,
) -> Result<Option<Vec<u8>>, Failure> {
    let fits = |der: &[u8]| Issuer::parse(ca, der).is_ok_and(|issuer| issuer.spki() == key);
    let signed = |row: &ReservationRow| {
        row.ca == ca && row.purpose == purpose && row.state == ReservationState::Signed
    };
    let rows = ledger.reservations().await?;
    let serials: Vec<_> = rows
        .into_iter()
        .filter(signed)
        .map(|row| row.serial)
        .collect();
    let mut from = 1;
    while !serials.is_empty() {
        let page = ledger.all_events(from, PAGE).await?;
        let Some(last) = page.last() else { break };
        from = last.seq + 1;
        for recorded in page {
            match recorded.event {
                Event::Signed { serial, result }
                    if serials.contains(&serial) && fits(&result.0) =>
                {
                    return Ok(Some(result.0));
                }
                _ => {}
            }
        }
    }
    let file = crate::config::read_certificate(path).ok();
    Ok(file.map(|der| der.0).filter(|der| fits(der)))
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
