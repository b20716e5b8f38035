//! What an upload asks of the ledger: its turn, room in the share, and what is due, in pages.

use super::quota::{Charge, Room};
use super::turn::{self, Turn};
use super::writer::{Request, Subject, Write};
use super::{Ledger, LedgerError, OutboxRow, Refused, Written, read};
use crate::provision::device::RegistrationId;
use std::collections::HashSet;
use std::sync::Arc;

impl Ledger {
    /// Charges calls to this station's share with [`crate::provision::event::Event::Charged`], if there is room for them and nothing holds
    /// them up: found out and recorded in one transaction, whichever processes charge.
    pub async fn charge(&self, charge: Charge) -> Result<Room, LedgerError> {
        let write = Write {
            subject: Subject::Station,
            person: self.person.clone(),
            events: Vec::new(),
            charge: Some(charge),
        };
        let written: Result<Written, Refused> = self
            .ask(|answer| Request::Write(Box::new(write), answer))
            .await;
        let room = written.map_err(|refused| refused.error)?.room;
        Ok(room.expect("a charge that was asked for is decided on"))
    }

    /// Takes the turn to drain the outbox of `dps`, for `command`; in vain while another process or another drain of
    /// this one has it.
    ///
    /// # Errors
    /// The file beside the ledger that stands for the turn cannot be made.
    pub fn turn(&self, dps: &str, command: &str, now_ms: i64) -> Result<Turn, LedgerError> {
        turn::take(&self.path, dps, command, now_ms).map_err(|error| LedgerError::Storage {
            path: self.path.to_path_buf(),
            reason: error.to_string(),
        })
    }

    /// At most `limit` records for `dps` that are due at `due_ms` (milliseconds since 1970), those to enroll first, each
    /// those due longest first; none of `held`.
    pub async fn outbox_due(
        &self,
        dps: &str,
        due_ms: i64,
        limit: usize,
        held: Arc<HashSet<RegistrationId>>,
    ) -> Result<Vec<OutboxRow>, LedgerError> {
        let dps = dps.to_owned();
        self.read(move |db| read::outbox_due(db, &dps, due_ms, limit, &held))
            .await
    }

    /// When the next record that waits for `dps` is due, at `now_ms` if not before; in milliseconds since 1970.
    pub async fn next_due_ms(&self, dps: &str, now_ms: i64) -> Result<Option<i64>, LedgerError> {
        let dps = dps.to_owned();
        self.read(move |db| read::next_due_ms(db, &dps, now_ms))
            .await
    }

    /// At most `limit` records that wait for `dps`, due or not, in the order of their registration IDs, after `after`.
    pub async fn outbox_waiting(
        &self,
        dps: &str,
        after: Option<&RegistrationId>,
        limit: u32,
    ) -> Result<Vec<OutboxRow>, LedgerError> {
        let (dps, after) = (dps.to_owned(), after.cloned());
        self.read(move |db| read::outbox_waiting(db, &dps, after.as_ref(), limit))
            .await
    }
}
