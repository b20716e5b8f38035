//! What identifies each device, by digest: events refer to it, so that they need not hold it.

use super::chain::device;
use super::failure::Failure;
use crate::provision::event::{EnrolledIdentity, Enrollment, EnrollmentRecord, Recorded};
use rusqlite::{Connection, OptionalExtension, params};

/// Keeps what a later event may refer to. What was kept under the same digest is as it was last read.
pub fn keep(
    db: &Connection,
    recorded: &Recorded,
    identity: &EnrolledIdentity,
) -> Result<(), Failure> {
    db.prepare_cached(
        "INSERT INTO credential (sha256, device, content) VALUES (?, ?, ?)
         ON CONFLICT DO UPDATE SET device = excluded.device, content = excluded.content",
    )?
    .execute(params![
        identity.reference().digest().0,
        device(recorded)?.as_str(),
        serde_json::to_string(identity).map_err(Failure::unstorable)?,
    ])?;
    Ok(())
}

/// The enrollment with what it refers to, which must be on record for the same device.
pub fn resolve(
    db: &Connection,
    recorded: &Recorded,
    enrollment: &EnrollmentRecord,
) -> Result<Enrollment, Failure> {
    let device = device(recorded)?;
    let content: Option<String> = db
        .prepare_cached("SELECT content FROM credential WHERE sha256 = ? AND device = ?")?
        .query_row(
            params![enrollment.identity.digest().0, device.as_str()],
            |row| row.get(0),
        )
        .optional()?;
    let damaged = |e: serde_json::Error| Failure::Damaged(format!("credential: {e}"));
    let content: Option<EnrolledIdentity> = content
        .map(|text| serde_json::from_str(&text))
        .transpose()
        .map_err(damaged)?;
    match content {
        Some(identity) if identity.reference() == enrollment.identity => {
            Ok(enrollment.clone().resolved(identity))
        }
        _ => Err(Failure::illegal(format!(
            "nothing on record of device {device} has the digest {} that its enrollment refers to",
            enrollment.identity.digest()
        ))),
    }
}
