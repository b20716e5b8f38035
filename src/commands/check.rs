//! `station check`: everything that can be found wrong before the first unit.

mod ports;
mod vendor_roots;

use super::{Context, Exit, Failure, parts, print_line};
use crate::config::{Config, DpsConfig, Secret};
use crate::enroller;
use crate::link::port;
use crate::provision::certificate::{Issuer, check_ca};
use crate::provision::fault::Fault;
use clap::Args;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;

/// Free space below which a shift should not begin, in bytes: a million events.
const FREE_MIN: u64 = 1 << 30;

/// Options of `station check`.
#[derive(Args)]
pub struct CheckArgs {
    /// List the ports of this machine, and suggest bays for them.
    #[arg(long)]
    pub ports: bool,
}

/// One thing that was looked at: what it is, what is wrong with it, and what else there is to say.
struct Finding {
    what: String,
    wrong: Option<Failure>,
    /// What is said where nothing is wrong.
    said: String,
    /// What a person should know, a line each.
    notes: Vec<String>,
    /// The same for programs: an object, or null.
    details: Value,
}

impl Finding {
    fn new(what: String, wrong: Option<Failure>) -> Self {
        Self {
            what,
            wrong,
            said: "ok".to_owned(),
            notes: Vec::new(),
            details: Value::Null,
        }
    }

    fn print(&self, context: &Context) -> Result<(), Failure> {
        let said = match &self.wrong {
            None => self.said.clone(),
            Some(failure) => failure.to_string(),
        };
        let mut object = json!({"check": self.what, "ok": self.wrong.is_none(), "said": said});
        if let (Some(object), Value::Object(details)) = (object.as_object_mut(), &self.details) {
            object.extend(details.clone());
        }
        let notes = self.notes.iter().map(|note| format!("\n  {note}"));
        let text = format!("{}: {said}{}", self.what, notes.collect::<String>());
        context.print(&object, &text)
    }
}

/// Checks configuration, ports, ledger, disk, HSM, clock and DPS; prints one line each. The exit code is that of the
/// worst: a fault of the station before one of the configuration.
pub(super) async fn run(context: &Context, args: CheckArgs) -> Result<Exit, Failure> {
    if args.ports {
        return list_ports(context);
    }
    let config = context.config()?;
    let what = format!("configuration {}", context.config.display());
    let mut findings = vec![Finding::new(what, None)];
    findings.extend(ports::check(&config).await);
    findings.push(disk(&config));
    findings.extend(secrets(&config));
    findings.extend(vendor_roots::check(&config));
    findings.extend(ledger_and_hsm(&config).await);
    for entry in &config.dps {
        let what = format!("dps {}", entry.name);
        findings.push(match entry.service() {
            Some(_) => dps(&config, entry, what).await,
            None => Finding {
                said: "ok: it is only injected, and nothing is enrolled in it".to_owned(),
                ..Finding::new(what, None)
            },
        });
    }
    let mut exit = Exit::Done;
    for finding in findings {
        finding.print(context)?;
        if let Some(failure) = finding.wrong {
            exit = if exit == Exit::Station {
                exit
            } else {
                failure.exit
            };
        }
    }
    Ok(exit)
}

/// Lists the ports. A `station.toml` is not needed yet; where there is one, its bays are not suggested again.
fn list_ports(context: &Context) -> Result<Exit, Failure> {
    let taken = if context.config.exists() {
        let config = Config::read(&context.config)?;
        let bays = config.bays.iter();
        bays.map(|bay| (bay.name.clone(), config.path(&bay.port)))
            .collect()
    } else {
        Vec::new()
    };
    let ports = port::list().map_err(|error| {
        Failure::station(format!(
            "the ports cannot be listed ({error}): mount /sys and try again"
        ))
    })?;
    for port in &ports {
        context.print(&json!(port), &port.to_string())?;
    }
    let suggested = port::suggest(&ports, &taken);
    if context.json {
        print_line(&json!({ "suggested": suggested }).to_string())?;
    } else if suggested.is_empty() {
        print_line("no port has a by-path name that is not a bay's already")?;
    } else {
        print_line(&format!("\nfor station.toml:\n\n{}", suggested.trim_end()))?;
    }
    Ok(Exit::Done)
}

/// Each file with a secret that any user of this machine can read. One that is missing is named where it is needed.
fn secrets(config: &Config) -> Vec<Finding> {
    /// What users have who are neither the owner nor in the group.
    const OTHERS: u32 = 0o007;
    let pins = config.cas.iter().map(|ca| &ca.pin);
    let credentials = config.enrolling().flat_map(|dps| dps.secrets());
    let credentials = credentials.map(|(_, secret)| secret);
    let all = pins.chain(credentials);
    let open = all.filter_map(|secret| {
        let Secret::File(path) = secret else {
            return None;
        };
        let path = config.path(path);
        let mode = std::fs::metadata(&path).ok()?.permissions().mode();
        let wrong = Failure::usage(format!(
            "{} can be used by every user of this machine: chmod 600 it",
            path.display()
        ));
        let what = format!("secret {}", path.display());
        (mode & OTHERS != 0).then(|| Finding::new(what, Some(wrong)))
    });
    open.collect()
}

fn disk(config: &Config) -> Finding {
    let path = config.path(&config.station.ledger);
    let folder = path.parent().unwrap_or(&config.folder);
    let wrong = match rustix::fs::statvfs(folder) {
        Ok(disk) if disk.f_bavail.saturating_mul(disk.f_frsize) >= FREE_MIN => None,
        Ok(_) => Some(Failure::station(format!(
            "{} has less than 1 GiB free: make room",
            folder.display()
        ))),
        Err(error) => Some(Failure::usage(format!(
            "{} cannot be looked at ({error}): correct station.ledger in station.toml",
            folder.display()
        ))),
    };
    Finding::new(format!("disk of {}", path.display()), wrong)
}

async fn ledger_and_hsm(config: &Config) -> Vec<Finding> {
    let path = config.path(&config.station.ledger);
    let what = format!("ledger {}", path.display());
    let ledger = match parts::ledger(config).await {
        Ok(ledger) => ledger,
        Err(failure) => {
            return vec![Finding::new(what, Some(failure))];
        }
    };
    let mut findings = vec![Finding::new(what, None)];
    for entry in &config.cas {
        let what = format!(
            "ca {}: certificates, module, token, PIN, key and a signature",
            entry.name
        );
        let test = async {
            let certificate = crate::config::read_certificate(&config.path(&entry.issuing))?;
            let issuer = Issuer::parse(&entry.name, &certificate.0)?;
            let root = crate::config::read_certificate(&config.path(&entry.root))?;
            let products = config.products.iter();
            let own = products.filter(|product| product.ca.as_ref() == Some(&entry.name));
            for product in own {
                check_ca(&issuer, &root.0, &product.certificate, parts::clock())?;
            }
            let hsm = parts::hsm(config, entry).await?;
            Ok(parts::self_test(&hsm, entry, &issuer, &ledger).await?)
        };
        let wrong = test.await.err();
        findings.push(Finding::new(what, wrong));
    }
    if let Err(error) = ledger.close().await {
        let what = "ledger, closing".to_owned();
        findings.push(Finding::new(what, Some(error.into())));
    }
    findings
}

/// Whether the service answers, which way the calls go, what the credential may do, and what the clocks say.
async fn dps(config: &Config, entry: &DpsConfig, what: String) -> Finding {
    let opened = parts::dps(config, entry);
    let (dps, ledger) = match (opened, parts::ledger(config).await) {
        (Ok(dps), Ok(ledger)) => (dps, ledger),
        (Err(failure), _) | (_, Err(failure)) => return Finding::new(what, Some(failure)),
    };
    let asked = enroller::missing_rights(&ledger, &dps, entry.share).await;
    let closed = ledger.close().await;
    let way = match dps.proxy() {
        Some(proxy) => format!("calls go through the proxy {proxy}"),
        None => "calls go there without a proxy".to_owned(),
    };
    let mut finding = Finding {
        notes: vec![way],
        details: json!({ "proxy": dps.proxy() }),
        ..Finding::new(what, closed.err().map(Failure::from))
    };
    match (asked, dps.clock_skew()) {
        (Err(fault), _) => finding.wrong = Some(fault.into()),
        (Ok(_), Some(skew)) => {
            let dps = dps.name().to_owned();
            finding.wrong = Some(Fault::ClockWrong { dps, skew }.into());
        }
        (Ok(missing), None) => rights(&mut finding, dps.name(), &missing),
    }
    finding
}

/// Without the right to write nothing can be enrolled; without that to read states, less can be said.
fn rights(finding: &mut Finding, dps: &str, missing: &[&str]) {
    finding.details["missing_rights"] = json!(missing);
    if missing.contains(&enroller::WRITE) {
        let right = enroller::WRITE;
        finding.wrong = Some(Failure::usage(format!(
            "the credential of dps {dps} may not write enrollments: give its policy the right {right}, or its principal the role that README.md names"
        )));
    }
    if missing.contains(&enroller::READ_STATES) {
        let right = enroller::READ_STATES;
        finding.notes.push(format!(
            "its credential has no {right}: what became of the devices cannot be shown"
        ));
    }
}
