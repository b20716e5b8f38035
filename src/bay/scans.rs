//! The label that was scanned last for a bay, until the unit in it takes it.

use crate::provision::fault::harmless;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// Longest text of a label that is kept, in characters; the longest GS1 DataMatrix code on a label is shorter.
const LABEL_MAX: usize = 256;

/// Room for one label: a later scan takes the place of an earlier one.
#[derive(Debug, Default)]
pub struct Scans {
    label: Mutex<Option<String>>,
    came: Notify,
}

impl Scans {
    /// A label was scanned.
    pub fn put(&self, text: &str) {
        *self.slot() = Some(harmless(text.trim(), LABEL_MAX));
        self.came.notify_one();
    }

    /// The label, for one unit only.
    pub(super) fn take(&self) -> Option<String> {
        self.slot().take()
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

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.label.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
