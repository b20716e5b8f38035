//! How far a job may run ahead of the record.
//!
//! Invariant: no signature and no write to a device is asked for before all that leads to it is on record.

use super::identity::Identity;
use super::{Job, Stage};

impl Job {
    /// Whether what has happened must be on record before what comes next: a signature, a write to the device, the
    /// TPM's rehearsal, which takes its time, or the end of the attempt. All else may be done again without harm.
    pub fn must_be_on_record(&self) -> bool {
        match &self.stage {
            Stage::Accepted // a key is made
            | Stage::Reserved { .. }
            | Stage::Certified
            | Stage::Written // what is on the device is on record before it starts anew
            | Stage::Proved
            | Stage::Ended(_) => true,
            Stage::ReadBack(_) => matches!(self.identity(), Some(Identity::Tpm(_))),
            Stage::Identified
            | Stage::KeyKnown { .. }
            | Stage::Named
            | Stage::Unsigned(_)
            | Stage::Restarted
            | Stage::Sealed => false,
        }
    }

    /// The copy that runs ahead of the record. It alone may ask for a signature from then on.
    #[must_use]
    pub fn ahead(&mut self) -> Self {
        let ahead = self.clone();
        if let Stage::Reserved { unasked } = &mut self.stage {
            *unasked = None;
        }
        ahead
    }
}
