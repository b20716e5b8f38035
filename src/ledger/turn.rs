//! Whose turn it is to drain the outbox of a DPS instance: one at a time, whatever processes there are.

use super::store::beside;
use crate::provision::fault::{TurnHolder, harmless};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
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
/// process is free. Only its owner can open it: whoever can, can keep all uploads out.
pub fn take(ledger: &Path, dps: &str, command: &str, now_ms: i64) -> std::io::Result<Turn> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path(&ledger.canonicalize()?, dps))?;
    if !lock(&file)? {
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

/// Locks a file until it is closed; false where another has it.
fn lock(file: &File) -> std::io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use rustix::fs::OFlags;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_ledger_has_one_turn_by_whatever_path_and_a_file_that_its_owner_alone_opens() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = folder.path().join("ledger.sqlite");
        std::fs::write(&ledger, "").unwrap();
        let other = folder.path().join("other.sqlite");
        symlink("ledger.sqlite", &other).unwrap();
        let ours = take(&ledger, "main", "first", 0).unwrap();
        assert!(matches!(ours, Turn::Ours(_)), "{ours:?}");
        let taken = take(&other, "main", "second", 0).unwrap();
        assert!(
            matches!(&taken, Turn::Taken(holder) if holder.command == "first"),
            "{taken:?}"
        );
        let file = folder.path().join("ledger.sqlite-upload-main");
        let mode = std::fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(ours);
        assert!(matches!(
            take(&other, "main", "second", 0),
            Ok(Turn::Ours(_))
        ));
    }

    #[test]
    fn a_lock_that_cannot_be_had_at_all_is_not_another_s() {
        let path = OFlags::PATH.bits().cast_signed();
        let folder = tempfile::tempdir().unwrap();
        let file = File::options()
            .read(true)
            .custom_flags(path)
            .open(folder.path());
        assert!(lock(&file.unwrap()).is_err());
    }
}
