//! `station enroll` and `station reconcile`: after the shift.

mod devices;
mod left;
mod list;
mod pause;
mod progress;
mod reconcile;
mod retry;

pub(super) use left::name_left;
pub(super) use reconcile::{ReconcileArgs, reconcile};

use super::parts::Actor;
use super::{Context, Exit, Failure, parts};
use crate::config::{Config, DpsConfig};
use crate::enroller::{self, Intent, LONG_PATIENCE, Terms};
use crate::ledger::{Ledger, OutboxFilter, OutboxState};
use crate::provision::batch::Difference;
use crate::provision::fault::{Fault, harmless};
use crate::words;
use clap::Args;
use futures_util::future::join_all;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a record may stand that did not make it.
const NOT_SETTLED: &[OutboxState] = &[
    OutboxState::Pending,
    OutboxState::DisablePending,
    OutboxState::Refused,
];

/// The longest name that is quoted, in characters.
const NAME_MAX: usize = 64;
/// Records that are read at once.
const PAGE: u32 = 500;

/// Options of `station enroll`.
#[derive(Args)]
pub struct EnrollArgs {
    /// Only say what would be sent.
    #[arg(long, conflicts_with_all = ["wait", "pause", "resume"])]
    dry_run: bool,
    /// First put back the refused records with these registration IDs or device IDs, with what their product means today.
    #[arg(long, num_args = 0.., value_name = "ID", conflicts_with_all = ["pause", "resume"])]
    retry: Option<Vec<String>>,
    /// With --retry: put back every refused record.
    #[arg(long, requires = "retry")]
    all: bool,
    /// Enroll what this list has, too: a table with a header (see README.md).
    #[arg(long, value_name = "FILE", requires = "dps", conflicts_with_all = ["retry", "pause", "resume"])]
    csv: Option<PathBuf>,
    /// The DPS instance that the list is for.
    #[arg(long, value_name = "NAME", requires = "csv")]
    dps: Option<String>,
    /// Go on trying for so long (such as 90s, 30m, 2h) while DPS does not answer, 12 hours if no time is given; without
    /// this, 5 minutes. Where another process uploads, follow it, and go on where it ends.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "12h", value_parser = time)]
    wait: Option<Duration>,
    /// Have the upload pause, in whichever process it runs, until `--resume`.
    #[arg(long, conflicts_with_all = ["wait", "resume"])]
    pause: bool,
    /// Let a paused upload go on.
    #[arg(long, conflicts_with = "wait")]
    resume: bool,
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
    let each = config.dps.iter().map(async |entry| {
        if only_injected(entry, &ledger).await? {
            nothing_to_enroll(context, entry)
        } else if args.pause || args.resume {
            pause::pause(context, entry, &ledger, args.pause).await
        } else if args.dry_run {
            foresee(context, &config, entry, &ledger).await
        } else {
            settle(context, &config, entry, &ledger, args.wait).await
        }
    });
    ends.extend(join_all(each).await); // none waits for another's service
    for entry in config.dps.iter().filter(|_| !args.pause && !args.resume) {
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
        wait: args.wait,
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
    let terms = Terms::to_read(entry.share, "station enroll");
    let mut printed = Ok(());
    let each = |id, intent: Intent| {
        let intent = intent_words(&intent);
        let text = format!("{id}: {intent}");
        if printed.is_ok() {
            printed = context.print(&json!({"registration_id": id, "intent": intent}), &text);
        }
    };
    enroller::dry_run(ledger, &dps, &terms, each).await?;
    printed.map(|()| Exit::Done)
}

/// Drains the outbox of one DPS instance, and says what came of it.
pub(super) async fn settle(
    context: &Context,
    config: &Config,
    entry: &DpsConfig,
    ledger: &Ledger,
    wait: Option<Duration>,
) -> Result<Exit, Failure> {
    let dps = parts::dps(config, entry)?;
    let mut terms = Terms::new(entry.share, "station enroll");
    if let Some(patience) = wait {
        (terms.patience, terms.follow) = (patience, true);
    }
    let mut summary = progress::drain(context, ledger, &dps, &terms).await?;
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
        return Err(ended_by(fault));
    }
    match all_settled {
        true => Ok(Exit::Done),
        false => Ok(Exit::Incomplete),
    }
}

/// Why a run ended early: that somebody else is at it, or paused it, is no failure of the station.
fn ended_by(fault: Fault) -> Failure {
    let others = matches!(
        fault,
        Fault::UploadElsewhere { .. } | Fault::UploadPaused { .. }
    );
    let failure = Failure::from(fault);
    match others {
        true => Failure {
            exit: Exit::Incomplete,
            ..failure
        },
        false => failure,
    }
}

/// A time as people write it: a number and `s`, `m` or `h`.
fn time(text: &str) -> Result<Duration, String> {
    let wrong = || "give a number and s, m or h, such as 30m".to_owned();
    let end = text.len().saturating_sub(1);
    let (number, unit) = text.split_at_checked(end).ok_or_else(wrong)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let time = Duration::from_secs(number.saturating_mul(unit));
    match (Duration::from_secs(1)..=14 * LONG_PATIENCE).contains(&time) {
        true => Ok(time),
        false => Err("give a time from 1s to 168h".to_owned()),
    }
}

/// The records that were put off, by registration ID, with the reason.
async fn put_off(ledger: &Ledger, dps: &str) -> Result<BTreeMap<String, String>, Failure> {
    let mut found = BTreeMap::new();
    let mut last = None;
    loop {
        let page = ledger.outbox_waiting(dps, last.as_ref(), PAGE).await?;
        let Some(end) = page.last() else {
            return Ok(found);
        };
        last = Some(end.registration_id.clone());
        for row in page {
            if let Some(fault) = row.fault {
                found.insert(row.registration_id.to_string(), words::sentence(&fault));
            }
        }
    }
}

fn intent_words(intent: &Intent) -> String {
    match intent {
        Intent::Create => "will be created".to_owned(),
        Intent::Enable => "will be enabled".to_owned(),
        Intent::Delete => "will be deleted".to_owned(),
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
