//! What a person says at a bay: the label that was scanned last, until the unit in it takes it, and that its fault was
//! seen.

use crate::provision::fault::harmless;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Longest text of a label that is kept, in characters; the longest GS1 DataMatrix code on a label is shorter.
const LABEL_MAX: usize = 256;

/// Room for one label: a later scan takes the place of an earlier one.
#[derive(Debug, Default)]
pub struct Scans {
    /// The label, and when it was scanned.
    label: Mutex<Option<(String, Instant)>>,
    came: Notify,
    acknowledged: AtomicBool,
}

impl Scans {
    /// A label was scanned.
    pub fn put(&self, text: &str) {
        *self.slot() = Some((harmless(text.trim(), LABEL_MAX), Instant::now()));
        self.came.notify_one();
    }

    /// A person has seen the fault that the bay shows.
    pub fn acknowledge(&self) {
        self.acknowledged.store(true, Ordering::Relaxed);
    }

    /// Whether a person has done something for the bay: seen its fault since this was asked last, or scanned a label
    /// that no unit has taken yet.
    pub(super) fn person_acted(&self) -> bool {
        self.acknowledged.swap(false, Ordering::Relaxed) || self.slot().is_some()
    }

    /// The label, for one unit only.
    pub(super) fn take(&self) -> Option<String> {
        self.slot().take().map(|(label, _)| label)
    }

    /// The same, where it has waited for longer than this.
    pub(super) fn take_older(&self, than: Duration) -> Option<String> {
        let taken = self.slot().take_if(|(_, since)| since.elapsed() > than);
        taken.map(|(label, _)| label)
    }

    /// The same, as soon as there is one.
    pub(super) async fn next(&self) -> String {
        loop {
            if let Some(label) = self.take() {
                return label;
            }
            self.came.notified().await;
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<(String, Instant)>> {
        self.label.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
