//! `station enroll --pause` and `--resume`: the upload is held up, whichever process it runs in, until it may go on.

use super::{Context, Exit, Failure};
use crate::config::DpsConfig;
use crate::ledger::Ledger;
use crate::provision::event::Event;
use serde_json::json;

/// Puts on record that the upload to one instance is paused, or may go on.
pub(super) async fn pause(
    context: &Context,
    entry: &DpsConfig,
    ledger: &Ledger,
    pause: bool,
) -> Result<Exit, Failure> {
    let dps = entry.name.clone();
    let (event, text) = match pause {
        true => (
            Event::UploadPaused { dps },
            "the upload is paused: `station enroll --resume` lets it go on",
        ),
        false => (Event::UploadResumed { dps }, "the upload may go on"),
    };
    ledger.record(&event).await?;
    let object = json!({"dps": entry.name, "paused": pause});
    context.print(&object, &format!("{}: {text}", entry.name))?;
    Ok(Exit::Done)
}
