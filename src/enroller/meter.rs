//! What an upload has done and what it waits for, as it is shown to people.

use super::Summary;
use crate::provision::fault::Fault;
use crate::provision::upload::{Progress, Wait, seconds_left};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How far back operations are counted.
const MINUTE: Duration = Duration::from_secs(60);

/// Counts what an upload does.
pub(super) struct Meter {
    began: Instant,
    /// Operations of the last minute, by the second.
    operations: VecDeque<(Instant, u32)>,
    /// When a record was last settled; at first, when the upload began.
    pub(super) settled: Instant,
    /// Until when the share has no room.
    pub(super) quota: Option<Instant>,
    /// Until when the next record that was put off is not due.
    pub(super) record: Option<Instant>,
    /// Who has paused the upload, and when: by the clock, and when we noticed.
    pub(super) paused: Option<(Option<String>, i64, Instant)>,
    pub(super) clock_set_back: Option<i64>,
    /// Whether any call was charged yet.
    pub(super) begun: bool,
    pub(super) summary: Summary,
}

/// What keeps the service from being asked.
pub(super) struct Away {
    pub(super) until: Instant,
    pub(super) since_ms: i64,
    pub(super) fault: Option<Box<Fault>>,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            operations: VecDeque::new(),
            settled: Instant::now(),
            quota: None,
            record: None,
            paused: None,
            clock_set_back: None,
            begun: false,
            summary: Summary::default(),
        }
    }

    /// Notes operations that were charged.
    pub(super) fn charged(&mut self, operations: u32) {
        let now = Instant::now();
        self.begun = true;
        self.quota = None;
        self.paused = None;
        match self.operations.back_mut() {
            Some((at, known)) if now - *at < Duration::from_secs(1) => *known += operations,
            _ => self.operations.push_back((now, operations)),
        }
        let old = |(at, _): &mut (Instant, u32)| now - *at >= MINUTE;
        while self.operations.pop_front_if(old).is_some() {}
    }

    /// How it stands, with what the ledger says of the outbox.
    pub(super) fn progress(
        &self,
        to_go: u32,
        refused: u32,
        share: u32,
        away: Option<Away>,
    ) -> Progress {
        let now = Instant::now();
        let lately = self.operations.iter().filter(|(at, _)| now - *at < MINUTE);
        let per_minute = lately.map(|(_, operations)| operations).sum();
        let done = self.summary.enrolled + self.summary.disabled;
        let over = (now - self.began).as_secs();
        Progress {
            done,
            to_go,
            refused,
            per_minute,
            share,
            seconds_left: seconds_left(to_go, per_minute, over, share),
            wait: self.wait(now, away),
            clock_set_back: self.clock_set_back,
        }
    }

    fn wait(&self, now: Instant, away: Option<Away>) -> Option<Wait> {
        let left = |until: Instant| {
            let left = until.saturating_duration_since(now);
            (!left.is_zero()).then(|| left.as_millis().div_ceil(1_000) as u64)
        };
        if let Some((by, since_ms, _)) = &self.paused {
            let (by, since_ms) = (by.clone(), *since_ms);
            return Some(Wait::Person { since_ms, by });
        }
        if let Some((seconds, away)) = away.and_then(|away| left(away.until).zip(Some(away))) {
            return Some(Wait::Service {
                seconds,
                since_ms: away.since_ms,
                fault: away.fault,
            });
        }
        if let Some(seconds) = self.quota.and_then(left) {
            return Some(Wait::Quota { seconds });
        }
        let seconds = self.record.and_then(left)?;
        Some(Wait::Record { seconds })
    }
}
