//! What the ledger did not do, in English.

use super::identity;
use crate::provision::fault::LedgerTrouble;

pub fn what(path: &str, trouble: &LedgerTrouble) -> String {
    match trouble {
        LedgerTrouble::NotALedger => format!("{path} is not a ledger of this program"),
        LedgerTrouble::Newer { found, known } => {
            format!("ledger {path} has version {found}, and this program knows {known}")
        }
        LedgerTrouble::OtherStation { found, ours } => {
            format!("ledger {path} is that of station {found}, and this is station {ours}")
        }
        LedgerTrouble::NewerEvent { seq, kind, version } => format!(
            "ledger {path}: event {seq} ({kind}, version {version}) was written by a newer program"
        ),
        LedgerTrouble::Full => {
            format!("ledger {path}: the disk is full and nothing more can be recorded")
        }
        LedgerTrouble::Busy => format!("ledger {path}: another process keeps it locked"),
        LedgerTrouble::Storage { said } => {
            format!("ledger {path} cannot be read or written ({said})")
        }
        LedgerTrouble::Damaged { said } => format!("ledger {path} is damaged ({said})"),
        LedgerTrouble::Silent { seconds } => {
            format!("ledger {path} has not answered for {seconds} s")
        }
        LedgerTrouble::Closed => format!("ledger {path} is closed"),
        LedgerTrouble::Fenced { device } => {
            format!("device {device} has been taken over by another attempt")
        }
        LedgerTrouble::Duplicate {
            identity: kind,
            other,
        } => format!("this {} was seen on device {other}", identity(*kind)),
        LedgerTrouble::Taken { device } => {
            format!("device ID {device} is on record as another unit's")
        }
        LedgerTrouble::Illegal { said } => {
            format!("the ledger refuses an event that contradicts what is on record ({said})")
        }
    }
}

pub fn next(trouble: &LedgerTrouble) -> &'static str {
    match trouble {
        LedgerTrouble::NotALedger => "name another file in station.toml",
        LedgerTrouble::OtherStation { .. } => {
            "correct station.ledger or station.id in station.toml"
        }
        LedgerTrouble::Newer { .. } | LedgerTrouble::NewerEvent { .. } => "use the newer program",
        LedgerTrouble::Full => "make room, then try again",
        LedgerTrouble::Busy => "end that process, then try again",
        LedgerTrouble::Storage { .. } | LedgerTrouble::Silent { .. } => {
            "check the disk, then start the station again"
        }
        LedgerTrouble::Damaged { .. } => "stop, and run `station ledger verify`",
        LedgerTrouble::Closed => "start the station again",
        LedgerTrouble::Fenced { .. } => "go on there",
        LedgerTrouble::Duplicate { .. } | LedgerTrouble::Taken { .. } => "compare the two units",
        LedgerTrouble::Illegal { .. } => {
            "run `station ledger verify`, and show its output to the process engineer"
        }
    }
}
