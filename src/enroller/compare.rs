//! What a record means that was read back.

use crate::provision::batch::{Difference, Held, STATUS, Status, difference, same_identity};
use crate::provision::event::Enrollment;

/// What a record that was read back means.
pub(super) enum Comparison {
    /// The service holds what is wanted.
    Settled,
    /// The same, but that someone disabled it there.
    DisabledThere,
    /// It is our record, and it must be disabled yet.
    ToDisable,
    /// It is not our record.
    Foreign(Vec<Difference>),
}

pub(super) fn compare(ours: &Enrollment, wanted: Status, held: &Held) -> Comparison {
    let same_key = same_identity(ours, &held.attestation);
    let found = difference(ours, wanted, held);
    match (wanted, held.status) {
        // Whatever else it says, it is for this key, and the key cannot register with it.
        (Status::Disabled, Status::Disabled) if same_key => Comparison::Settled,
        (Status::Disabled, Status::Enabled) if same_key => Comparison::ToDisable,
        _ => match &found[..] {
            [] => Comparison::Settled,
            [only] if only.field == STATUS => Comparison::DisabledThere,
            _ => Comparison::Foreign(found),
        },
    }
}
