//! `station shift`: open, close, report.

use super::parts::Actor;
use super::{Context, Exit, Failure, enroll, parts};
use crate::ledger::{Ledger, LedgerError};
use crate::provision::event::{Balance, Event};
use crate::provision::fault::harmless;
use clap::Subcommand;
use serde_json::json;

/// The longest name of a shift, in characters.
const NAME_MAX: usize = 40;

/// What `station shift` can do.
#[derive(Subcommand)]
pub enum ShiftCommand {
    /// Open a shift.
    Open {
        /// Its name; the date and time when absent.
        name: Option<String>,
        #[command(flatten)]
        actor: Actor,
    },
    /// Close the open shift and print its balance.
    Close(Actor),
    /// Print the balance of the open shift, or of a named one.
    Report {
        /// Its name.
        name: Option<String>,
    },
}

/// Runs `station shift …`.
pub(super) async fn run(context: &Context, command: ShiftCommand) -> Result<Exit, Failure> {
    let config = context.config()?;
    let ledger = match &command {
        ShiftCommand::Open { actor, .. } | ShiftCommand::Close(actor) => {
            parts::ledger_of(&config, actor).await?
        }
        ShiftCommand::Report { .. } => parts::ledger(&config).await?,
    };
    let mut exit = Exit::Done;
    match command {
        ShiftCommand::Open { name, .. } => {
            let shift = open(&ledger, name).await?;
            context.print(
                &json!({"shift": shift, "open": true}),
                &format!("shift {shift} is open"),
            )?;
        }
        ShiftCommand::Close(_) => {
            let shift = current(&ledger).await?;
            let balance = close(&ledger, &shift).await?;
            print(context, &ledger, &shift, false, &balance).await?;
        }
        ShiftCommand::Report { name } => {
            let now = ledger.current_shift().await?;
            let now = now.map(|open| open.shift);
            let Some(shift) = name.or_else(|| now.clone()) else {
                return Err(Failure::usage("no shift is open: name the one to report"));
            };
            let balance = match ledger.balance(&shift).await {
                Err(LedgerError::Illegal(why)) => {
                    return Err(Failure::usage(format!(
                        "{why} on record: give the name that `station shift open` printed"
                    )));
                }
                balance => balance?,
            };
            let open = now.as_deref() == Some(shift.as_str());
            print(context, &ledger, &shift, open, &balance).await?;
            for entry in &config.dps {
                if enroll::name_left(context, &ledger, &entry.name).await? != Exit::Done {
                    exit = Exit::Incomplete;
                }
            }
        }
    }
    ledger.close().await?;
    Ok(exit)
}

/// Opens a shift; refused while another is open.
pub(super) async fn open(ledger: &Ledger, name: Option<String>) -> Result<String, Failure> {
    if let Some(open) = ledger.current_shift().await? {
        let shift = open.shift;
        return Err(Failure::usage(format!(
            "shift {shift} is open: close it with `station shift close`"
        )));
    }
    let shift = name.unwrap_or_else(|| date_and_time(parts::clock()));
    if shift.is_empty() || shift.chars().count() > NAME_MAX || harmless(&shift, NAME_MAX) != shift {
        return Err(Failure::usage(format!(
            "the shift's name must have 1 to {NAME_MAX} printable characters: give it another"
        )));
    }
    if ledger.balance(&shift).await.is_ok() {
        return Err(Failure::usage(format!(
            "a shift {shift} is on record already: give this one another name"
        )));
    }
    ledger
        .record(&Event::ShiftOpened {
            shift: shift.clone(),
        })
        .await?;
    Ok(shift)
}

/// Closes a shift with its balance.
pub(super) async fn close(ledger: &Ledger, shift: &str) -> Result<Balance, Failure> {
    let balance = ledger.balance(shift).await?;
    ledger
        .record(&Event::ShiftClosed {
            shift: shift.to_owned(),
            balance,
        })
        .await?;
    Ok(balance)
}

async fn current(ledger: &Ledger) -> Result<String, Failure> {
    ledger
        .current_shift()
        .await?
        .map(|open| open.shift)
        .ok_or_else(|| Failure::usage("no shift is open: open one with `station shift open`"))
}

async fn print(
    context: &Context,
    ledger: &Ledger,
    shift: &str,
    open: bool,
    balance: &Balance,
) -> Result<(), Failure> {
    let b = balance;
    let mut text = format!(
        "shift {shift}: {} open before + {} scanned = {} passed + {} failed + {} injected + {} scrapped + {} open after\n\
         {} passed = {} enrolled + {} covered + {} pending + {} refused + {} disabled",
        b.open_before,
        b.scanned,
        b.passed,
        b.failed,
        b.injected,
        b.scrapped,
        b.open_after,
        b.passed,
        b.enrolled,
        b.covered,
        b.pending,
        b.refused,
        b.disabled
    );
    let mut object = json!({"shift": shift, "open": open, "balance": balance});
    // They are no units, and no shift's: all that there are.
    let listed = ledger.listed(None).await?;
    if listed.all() > 0 {
        text += &format!(
            "\nfrom a list: {} enrolled + {} pending + {} refused + {} disabled",
            listed.enrolled, listed.pending, listed.refused, listed.disabled
        );
        object["listed"] = json!(listed);
    }
    context.print(&object, &text)
}

fn date_and_time(now_ms: i64) -> String {
    let format =
        time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    time::OffsetDateTime::from_unix_timestamp(now_ms / 1000)
        .ok()
        .and_then(|now| now.format(format).ok())
        .unwrap_or_else(|| now_ms.to_string())
}
