//! Whose turn it is to drain the outbox of a DPS instance: one at a time, whatever processes there are.

use super::store::beside;
use crate::provision::fault::{TurnHolder, harmless};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// The longest that the file is read, in bytes.
const FILE_MAX: u64 = 4096;

/// The longest command that is shown, in characters.
const COMMAND_MAX: usize = 64;

/// Whether a turn was taken.
#[derive(Debug)]
pub enum Turn {
    /// It is ours until this is dropped, or the process ends.
    Ours(File),
    /// Another has it.
    Taken(TurnHolder),
}

/// Takes the turn. The lock is on a file beside the ledger, in which stands who has it: a lock that is left by a dead
/// process is free.
pub fn take(ledger: &Path, dps: &str, command: &str, now_ms: i64) -> std::io::Result<Turn> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path(ledger, dps))?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut text = String::new();
        file.take(FILE_MAX).read_to_string(&mut text)?;
        // Who has just taken it may not have written yet.
        let mut holder: TurnHolder = serde_json::from_str(&text).unwrap_or_default();
        holder.command = harmless(&holder.command, COMMAND_MAX);
        return Ok(Turn::Taken(holder));
    }
    let holder = TurnHolder {
        pid: std::process::id(),
        command: command.to_owned(),
        since_ms: now_ms,
    };
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(&serde_json::to_vec(&holder)?)?;
    Ok(Turn::Ours(file))
}

/// The file whose lock is the turn: the name of a DPS instance may hold anything, a file's may not.
fn path(ledger: &Path, dps: &str) -> PathBuf {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let name: String = dps
        .chars()
        .map(|c| match plain(c) {
            true => c.to_string(),
            false => format!("%{:x}", u32::from(c)),
        })
        .collect();
    beside(ledger, &format!("-upload-{name}"))
}
