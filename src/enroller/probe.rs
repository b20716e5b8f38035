//! Finds out what the credential of a DPS instance may do, without any effect there.

use super::Terms;
use super::call::Caller;
use crate::dps::Dps;
use crate::ledger::Ledger;
use crate::provision::fault::Fault;
use std::time::Duration;

/// How long to go on asking a service that does not answer: who checks wants to know that.
const PATIENCE: Duration = Duration::from_secs(5);
/// The right to write enrollments, as shared access policies name it.
pub const WRITE: &str = "EnrollmentWrite";
/// The right to read registration states.
pub const READ_STATES: &str = "RegistrationStatusRead";

/// The rights that are missing of those that the station has a use for; that to read enrollments is not among them,
/// since it is the first that is needed. Its calls are charged.
///
/// # Errors
/// A fault that names the service and the next step, also where enrollments may not be read.
pub async fn missing_rights(
    ledger: &Ledger,
    dps: &Dps,
    share: u32,
) -> Result<Vec<&'static str>, Fault> {
    let terms = Terms {
        patience: PATIENCE,
        ..Terms::new(share, "station check")
    };
    let caller = Caller::to_read(ledger, dps, &terms);
    caller.read(|| dps.query(None)).await?;
    let mut missing = Vec::new();
    if !caller.read(|| dps.may_write()).await? {
        missing.push(WRITE);
    }
    if !caller.read(|| dps.may_read_states()).await? {
        missing.push(READ_STATES);
    }
    Ok(missing)
}
