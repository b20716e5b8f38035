//! `station enroll` and `station reconcile`: after the shift.

mod devices;
mod left;
mod list;
mod reconcile;
mod retry;

pub(super) use left::name_left;
pub(super) use reconcile::{ReconcileArgs, reconcile};

use super::parts::Actor;
use super::{Context, Exit, Failure, parts};
use crate::config::{Config, DpsConfig};
use crate::enroller::{self, Intent};
use crate::ledger::{Ledger, OutboxFilter, OutboxState};
use crate::provision::batch::Difference;
use crate::provision::fault::{Fault, harmless};
use crate::words;
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where a record may stand that did not make it.
const NOT_SETTLED: &[OutboxState] = &[
    OutboxState::Pending,
    OutboxState::DisablePending,
    OutboxState::Refused,
];

/// The longest name that is quoted, in characters.
const NAME_MAX: usize = 64;

/// Options of `station enroll`.
#[derive(Args)]
pub struct EnrollArgs {
    /// Only say what would be sent.
    #[arg(long)]
    dry_run: bool,
    /// First put back the refused records with these registration IDs or device IDs, with what their product means today.
    #[arg(long, num_args = 0.., value_name = "ID")]
    retry: Option<Vec<String>>,
    /// With --retry: put back every refused record.
    #[arg(long, requires = "retry")]
    all: bool,
    /// Enroll what this list has, too: a table with a header (see README.md).
    #[arg(long, value_name = "FILE", requires = "dps", conflicts_with = "retry")]
    csv: Option<PathBuf>,
    /// The DPS instance that the list is for.
    #[arg(long, value_name = "NAME", requires = "csv")]
    dps: Option<String>,
    #[command(flatten)]
    actor: Actor,
}

/// Enrolls everything that is pending, in every DPS instance.
pub(super) async fn enroll(context: &Context, args: EnrollArgs) -> Result<Exit, Failure> {
    let config = context.config()?;
    if let Some((file, dps)) = args.csv.as_ref().zip(args.dps.as_ref()) {
        return enroll_list(context, &config, &args, file, dps).await;
    }
    let mut ends = Vec::new();
    let ledger = match which(&args)? {
        None => parts::ledger_of(&config, &args.actor).await?,
        Some(which) => {
            let ledger = parts::ledger_of_someone(&config, &args.actor).await?;
            ends.push(retry::put_back(context, &config, &ledger, &which, args.dry_run).await);
            ledger
        }
    };
    for entry in &config.dps {
        ends.push(if only_injected(entry, &ledger).await? {
            nothing_to_enroll(context, entry)
        } else if args.dry_run {
            foresee(context, &config, entry, &ledger).await
        } else {
            settle(context, &config, entry, &ledger).await
        });
        ends.push(name_left(context, &ledger, &entry.name).await);
    }
    ledger.close().await?;
    together(ends)
}

/// Which refused records are to be sent again, if that is asked for.
fn which(args: &EnrollArgs) -> Result<Option<retry::Which<'_>>, Failure> {
    match &args.retry {
        None => Ok(None),
        Some(ids) if args.all && ids.is_empty() => Ok(Some(retry::Which::All)),
        Some(ids) if !args.all && !ids.is_empty() => Ok(Some(retry::Which::Named(ids))),
        Some(_) => Err(Failure::usage(
            "--retry needs to know which records: give their IDs, or --all for every refused one",
        )),
    }
}

/// Enrolls what a list has.
async fn enroll_list(
    context: &Context,
    config: &Config,
    args: &EnrollArgs,
    file: &Path,
    dps: &str,
) -> Result<Exit, Failure> {
    let Some(dps) = config.dps(dps) else {
        let names: Vec<_> = config.dps.iter().map(|entry| entry.name.as_str()).collect();
        return Err(Failure::usage(format!(
            "no [[dps]] is named {:?}: give --dps one of {}",
            harmless(dps, NAME_MAX),
            names.join(", ")
        )));
    };
    let list = list::List {
        file,
        dps,
        dry_run: args.dry_run,
    };
    let ledger = parts::ledger_of(config, &args.actor).await?;
    let end = list::enroll(context, config, &ledger, &list).await;
    ledger.close().await?;
    end
}

/// The end of all: one instance that fails does not stop the others, and each failure is said.
fn together(ends: Vec<Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let mut exit = Exit::Done;
    let mut failed: Option<Failure> = None;
    for end in ends {
        match end {
            Ok(Exit::Done) => {}
            Ok(other) => exit = other,
            Err(failure) => match &mut failed {
                None => failed = Some(failure),
                Some(first) => first.sentence = format!("{}; {failure}", first.sentence),
            },
        }
    }
    failed.map_or(Ok(exit), Err)
}

/// Whether a DPS instance is only injected: it has no service, and no record waits for it. One that has none while a
/// record waits is said by [`parts::dps`].
async fn only_injected(entry: &DpsConfig, ledger: &Ledger) -> Result<bool, Failure> {
    if entry.service().is_some() {
        return Ok(false);
    }
    for state in NOT_SETTLED {
        let filter = OutboxFilter {
            dps: Some(entry.name.clone()),
            state: Some(*state),
            limit: Some(1),
            ..OutboxFilter::default()
        };
        if !ledger.outbox(filter).await?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn nothing_to_enroll(context: &Context, entry: &DpsConfig) -> Result<Exit, Failure> {
    let text = format!(
        "{}: it is only injected, and nothing is enrolled in it",
        entry.name
    );
    let object = json!({
        "dps": entry.name, "enrolled": 0, "refused": 0, "disabled": 0, "deferred": 0, "pending": 0,
    });
    context.print(&object, &text)?;
    Ok(Exit::Done)
}

async fn foresee(
    context: &Context,
    config: &Config,
    entry: &DpsConfig,
    ledger: &Ledger,
) -> Result<Exit, Failure> {
    let dps = parts::dps(config, entry)?;
    for (id, intent) in enroller::dry_run(ledger, &dps, entry.share).await? {
        let intent = intent_words(&intent);
        let text = format!("{id}: {intent}");
        context.print(&json!({"registration_id": id, "intent": intent}), &text)?;
    }
    Ok(Exit::Done)
}

async fn settle(
    context: &Context,
    config: &Config,
    entry: &DpsConfig,
    ledger: &Ledger,
) -> Result<Exit, Failure> {
    let dps = parts::dps(config, entry)?;
    let mut summary = enroller::drain(ledger, &dps, entry.share).await;
    // Of this run and of all before it: a person has to know while there is one.
    summary.refused = ledger.outbox_counts(dps.name()).await?.refused;
    let s = &summary;
    context.print(
        &json!({
            "dps": dps.name(), "enrolled": s.enrolled, "refused": s.refused, "disabled": s.disabled,
            "deferred": s.deferred, "pending": s.pending,
        }),
        &format!(
            "{}: {} enrolled, {} refused, {} disabled, {} deferred, {} pending",
            dps.name(),
            s.enrolled,
            s.refused,
            s.disabled,
            s.deferred,
            s.pending
        ),
    )?;
    for (id, why) in put_off(ledger, dps.name()).await? {
        let text = format!("{id}: deferred: {why}");
        context.print(&json!({"registration_id": id, "deferred": why}), &text)?;
    }
    for (id, found) in &summary.also_set {
        let text = format!("{id}: {}", also_set(found));
        context.print(&json!({"registration_id": id, "also_set": found}), &text)?;
    }
    if let Some(skew) = dps.clock_skew() {
        let dps = dps.name().to_owned();
        let fault = Fault::ClockWrong { dps, skew };
        context.print(&json!({"clock": fault}), &words::sentence(&fault))?;
    }
    let all_settled = summary.all_settled();
    if let Some(fault) = summary.fault {
        return Err(fault.into());
    }
    match all_settled {
        true => Ok(Exit::Done),
        false => Ok(Exit::Incomplete),
    }
}

/// The records that were put off, by registration ID, with the reason.
async fn put_off(ledger: &Ledger, dps: &str) -> Result<BTreeMap<String, String>, Failure> {
    let mut found = BTreeMap::new();
    for state in [OutboxState::Pending, OutboxState::DisablePending] {
        let filter = OutboxFilter {
            dps: Some(dps.to_owned()),
            state: Some(state),
            ..OutboxFilter::default()
        };
        for row in ledger.outbox(filter).await? {
            if let Some(fault) = row.fault {
                found.insert(row.registration_id.to_string(), words::sentence(&fault));
            }
        }
    }
    Ok(found)
}

fn intent_words(intent: &Intent) -> String {
    match intent {
        Intent::Create => "will be created".to_owned(),
        Intent::Disable => "will be disabled".to_owned(),
        Intent::Confirm => "is there already, with the same content".to_owned(),
        Intent::LeaveDisabled => {
            "is there already, with the same content; someone disabled it there, and it stays so"
                .to_owned()
        }
        Intent::Refuse(found) => format!("is there with other content: {}", differences(found)),
    }
}

/// What someone set in a record of ours, which is no difference.
fn also_set(found: &[Difference]) -> String {
    let one = |found: &Difference| format!("{} is {}", found.field, found.theirs);
    let texts: Vec<_> = found.iter().map(one).collect();
    format!(
        "also set in the cloud, and left as it is: {}",
        texts.join("; ")
    )
}

fn differences(found: &[Difference]) -> String {
    let texts: Vec<_> = found.iter().map(words::difference).collect();
    texts.join("; ")
}
