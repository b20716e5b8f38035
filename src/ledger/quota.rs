//! The station's share of the service's quota: what is charged in the window, and whether there is room for more.
//!
//! Whoever charges reads and records in one write transaction, so that no two processes take the same room.

use super::failure::Failure;
use crate::provision::device::RegistrationId;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::{HashMap, VecDeque};

/// How long a charge takes up room, in milliseconds. The service counts by the minute (DPS documentation, "Quotas and
/// limits"); the rest is [`CALL_MARGIN_MS`].
const WINDOW_MS: i64 = 60_000 + CALL_MARGIN_MS;

/// How long after its charge a call may have arrived for the service's minute to be kept, in milliseconds; one whose
/// answer came later is charged again.
pub const CALL_MARGIN_MS: i64 = 1_000;

/// How far a charge may lie in the future before the clock counts as set back, in milliseconds.
const SET_BACK_MS: i64 = 1_000;

/// A charge that is asked for.
#[derive(Clone, Debug)]
pub struct Charge {
    /// Name of the DPS instance.
    pub dps: String,
    /// The station's share of it, in operations a minute.
    pub share: u32,
    /// How many operations, where nothing is sent.
    pub operations: u32,
    /// Whether fewer of them will do, if there is not room for all.
    pub fewer: bool,
    /// Whether it is for calls of somebody who only reads: these go on while a person has paused the upload.
    pub only_reads: bool,
    /// How many operations of the share are left free for others.
    pub leave: u32,
    /// The records that are about to be sent, one operation each; those whose content has changed are left out.
    pub sending: Vec<Sending>,
}

/// A record that is about to be sent.
#[derive(Clone, Debug)]
pub struct Sending {
    /// Its registration ID.
    pub registration_id: RegistrationId,
    /// The event that says what DPS is to hold; see [`OutboxRow`](super::OutboxRow).
    pub content_seq: u64,
}

/// What became of a charge that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    /// It is on record.
    Made {
        /// How many operations.
        operations: u32,
        /// The records that may be sent.
        sending: Vec<RegistrationId>,
        /// How far the clock was found set back, in milliseconds, if it was: what was charged before counts as charged
        /// now.
        set_back_ms: Option<i64>,
    },
    /// The share has no room for so long, in milliseconds.
    Full(i64),
    /// The service asked to be left alone for so much longer, in milliseconds.
    Busy(i64),
    /// Somebody has paused the upload.
    Paused {
        /// When, in milliseconds since 1970.
        since_ms: i64,
        /// Who, if they said.
        by: Option<String>,
    },
}

/// What is charged in the window, by DPS instance: what the writer keeps between charges.
#[derive(Default)]
pub struct Windows(HashMap<String, Window>);

/// What is charged in the window of one DPS instance.
///
/// The chain's order is the order in which things happened, whatever the clock said: a charge counts as made no later
/// than any after it.
#[derive(Default)]
struct Window {
    /// The place of the last charge that is counted.
    seen: i64,
    /// When and how many operations, in order.
    charged: VecDeque<(i64, u64)>,
    /// All of these together.
    used: u64,
}

/// Whether a charge may be made, with what goes on record if so.
pub enum Decision {
    /// It may.
    Charge {
        operations: u32,
        sending: Vec<RegistrationId>,
        set_back_ms: Option<i64>,
    },
    /// It may not; with it goes on record, as a charge of nothing, that the clock was set back.
    Wait { room: Room, set_back: bool },
}

impl Windows {
    /// Forgets everything, for a transaction that came to nothing.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Decides on a charge at the time `now_ms`.
    pub fn decide(
        &mut self,
        db: &Connection,
        asked: &Charge,
        now_ms: i64,
    ) -> Result<Decision, Failure> {
        let wait = |room, set_back| Ok(Decision::Wait { room, set_back });
        if let Some(room) = held_up(db, asked, now_ms)? {
            return wait(room, false);
        }
        let mut sending = Vec::new();
        for record in &asked.sending {
            if still_wanted(db, record)? {
                sending.push(record.registration_id.clone());
            }
        }
        let wanted = match asked.sending.is_empty() {
            true => asked.operations,
            false => u32::try_from(sending.len()).unwrap_or(u32::MAX),
        };
        let window = self.0.entry(asked.dps.clone()).or_default();
        window.catch_up(db, asked, now_ms)?;
        let set_back_ms = window.set_back(now_ms);
        window.expire(now_ms);
        let least = if asked.fewer { wanted.min(1) } else { wanted };
        let ours = asked.share.saturating_sub(asked.leave);
        let free = u64::from(ours).saturating_sub(window.used);
        let free = u32::try_from(free).unwrap_or(u32::MAX);
        if free < least {
            let room = Room::Full(window.full_for_ms(ours, least, now_ms));
            return wait(room, set_back_ms.is_some());
        }
        Ok(Decision::Charge {
            operations: wanted.min(free),
            sending,
            set_back_ms,
        })
    }
}

impl Window {
    /// Counts what was charged since it was last looked at, by whomever.
    fn catch_up(&mut self, db: &Connection, asked: &Charge, now_ms: i64) -> Result<(), Failure> {
        if self.seen == 0 {
            return self.begin(db, asked, now_ms);
        }
        let sql =
            "SELECT seq, at_ms, operations FROM charge WHERE dps = ? AND seq > ? ORDER BY seq";
        let mut statement = db.prepare_cached(sql)?;
        let mut rows = statement.query(params![asked.dps, self.seen])?;
        while let Some(row) = rows.next()? {
            self.seen = row.get(0)?;
            self.push(row.get(1)?, row.get::<_, u32>(2)?.into());
        }
        Ok(())
    }

    /// Counts what is on record, from its end to where it no longer matters.
    fn begin(&mut self, db: &Connection, asked: &Charge, now_ms: i64) -> Result<(), Failure> {
        let sql = "SELECT seq, at_ms, operations FROM charge WHERE dps = ? ORDER BY seq DESC";
        let mut statement = db.prepare_cached(sql)?;
        let mut rows = statement.query([&asked.dps])?;
        let mut latest_ms = i64::MAX;
        while let Some(row) = rows.next()? {
            self.seen = self.seen.max(row.get(0)?);
            latest_ms = latest_ms.min(row.get(1)?);
            // What was charged before that leaves the window before it.
            if latest_ms <= now_ms - WINDOW_MS || self.used >= u64::from(asked.share) {
                break;
            }
            let operations = row.get::<_, u32>(2)?.into();
            self.used += operations;
            match self.charged.front_mut() {
                Some((at_ms, known)) if *at_ms == latest_ms => *known += operations,
                _ => self.charged.push_front((latest_ms, operations)),
            }
        }
        Ok(())
    }

    /// Counts a charge; what was charged before it was so at its time at the latest.
    fn push(&mut self, at_ms: i64, operations: u64) {
        self.used += operations;
        let mut together = operations;
        while let Some((_, earlier)) = self.charged.pop_back_if(|(before, _)| *before >= at_ms) {
            together += earlier;
        }
        self.charged.push_back((at_ms, together));
    }

    /// How far the clock was set back since the last charge, if it was.
    fn set_back(&self, now_ms: i64) -> Option<i64> {
        let back_ms = self.charged.back()?.0.saturating_sub(now_ms);
        (back_ms > SET_BACK_MS).then_some(back_ms)
    }

    /// Lets go of what has left the window.
    fn expire(&mut self, now_ms: i64) {
        let gone = |(at_ms, _): &mut (i64, u64)| *at_ms <= now_ms - WINDOW_MS;
        while let Some((_, operations)) = self.charged.pop_front_if(gone) {
            self.used -= operations;
        }
    }

    /// How long it is until so many operations have room.
    fn full_for_ms(&self, share: u32, least: u32, now_ms: i64) -> i64 {
        let mut used = self.used;
        for (at_ms, operations) in &self.charged {
            used -= operations;
            if used + u64::from(least) <= u64::from(share) {
                return at_ms.min(&now_ms) + WINDOW_MS - now_ms;
            }
        }
        WINDOW_MS
    }
}

/// Whether the service itself holds up all calls to it, or a person all that an upload makes.
fn held_up(db: &Connection, asked: &Charge, now_ms: i64) -> Result<Option<Room>, Failure> {
    let sql = "SELECT busy_ms, busy_from_ms, paused_ms, paused_by FROM service WHERE dps = ?";
    let row = db.prepare_cached(sql)?.query_row([&asked.dps], |row| {
        let busy: Option<i64> = row.get(0)?;
        let from: Option<i64> = row.get(1)?;
        let paused: Option<i64> = row.get(2)?;
        Ok((busy.zip(from), paused, row.get(3)?))
    });
    let Some((busy, paused, by)) = row.optional()? else {
        return Ok(None);
    };
    if let Some(since_ms) = paused.filter(|_| !asked.only_reads) {
        return Ok(Some(Room::Paused { since_ms, by }));
    }
    // With a clock that was set back, what the service asked for is over at an unknown time: it says so again.
    let left = busy.and_then(|(busy_ms, from_ms)| {
        let gone_ms = now_ms - from_ms;
        (0..busy_ms).contains(&gone_ms).then(|| busy_ms - gone_ms)
    });
    Ok(left.map(Room::Busy))
}

/// Whether a record still waits with the content that is about to be sent: an answer about another would be taken for
/// one about the new content.
fn still_wanted(db: &Connection, record: &Sending) -> Result<bool, Failure> {
    let sql = "SELECT EXISTS (SELECT 1 FROM outbox WHERE registration_id = ? AND content_seq = ?
             AND state IN ('pending', 'disable_pending', 'delete_pending'))";
    let content_seq = record.content_seq.cast_signed();
    let wanted = db.prepare_cached(sql)?.query_row(
        params![record.registration_id.as_str(), content_seq],
        |row| row.get(0),
    )?;
    Ok(wanted)
}
