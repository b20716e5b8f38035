//! The gate before a service: open while it answers, closed for a while after a call in vain or where it asked for that.

use crate::provision::fault::Fault;
use crate::provision::upload::pause_ms;
use std::time::{Duration, Instant};

/// Whether the service may be asked.
#[derive(Default)]
pub(super) struct Gate {
    /// What has gone wrong since the last usable answer.
    pub(super) trouble: Option<Trouble>,
    /// Not to be asked before.
    pub(super) closed_until: Option<Instant>,
    /// What ended the run.
    pub(super) ended: Option<Fault>,
}

/// A service that does not answer.
pub(super) struct Trouble {
    pub(super) since: Instant,
    pub(super) since_ms: i64,
    /// Tries in a row that were in vain.
    pub(super) in_vain: u32,
    /// When the last of them was noticed: a call that had begun before says nothing new.
    pub(super) latest: Instant,
    pub(super) fault: Option<Box<Fault>>,
}

impl Gate {
    /// Has the service left alone from now on for so long at least.
    pub(super) fn close(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        self.closed_until = self.closed_until.max(Some(until));
    }

    /// Takes note of a call in vain; false where that is enough.
    pub(super) fn trouble(
        &mut self,
        began: Instant,
        asked: Option<Duration>,
        fault: Fault,
        patience: Duration,
        now_ms: i64,
    ) -> bool {
        let now = Instant::now();
        let trouble = self.trouble.get_or_insert(Trouble {
            since: now,
            since_ms: now_ms,
            in_vain: 0,
            latest: began,
            fault: None,
        });
        let news = began >= trouble.latest;
        if news {
            trouble.in_vain = trouble.in_vain.saturating_add(1);
            trouble.latest = now;
        }
        trouble.fault = Some(Box::new(fault));
        let left = patience.saturating_sub(now - trouble.since);
        if left.is_zero() || asked.is_some_and(|asked| asked > left) {
            return false;
        }
        // The last try is at the end of the time that there is.
        let pause = Duration::from_millis(pause_ms(trouble.in_vain, random())).min(left);
        if news || asked.is_some() {
            self.close(asked.unwrap_or_default().max(pause));
        }
        true
    }
}

/// Keeps uploads that began together out of step.
fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without random numbers, the shortest of the pauses does.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}
