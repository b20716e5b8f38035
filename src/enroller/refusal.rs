//! What it says about a record that the service refused the call it was in.

use crate::dps::Complaint;
use crate::provision::batch::ItemResult;
use crate::provision::fault::Fault;

/// Whether a refusal can be about what was sent; any other is about the URL, the version or the method, and would
/// meet every record alike.
pub(super) fn is_about_content(complaint: &Complaint) -> bool {
    matches!(complaint.status, Some(400 | 409 | 412 | 413 | 422))
}

/// Whether a record was put off while nobody knew what its last call did. Its code says so, of an old record too.
pub(super) fn is_unanswered(fault: &Fault) -> bool {
    fault.code() == "enrollment_unanswered"
}

/// What it means when the service refuses a call with one record as a whole.
pub(super) fn refused_alone(complaint: &Complaint) -> ItemResult {
    match complaint.status {
        Some(409) => ItemResult::Exists,
        _ => ItemResult::Refused(complaint.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_is_there_already_is_read_back_however_the_service_says_so() {
        let said = |status| Complaint {
            status: Some(status),
            code: None,
            message: String::new(),
            tracking_id: String::new(),
        };
        assert_eq!(refused_alone(&said(409)), ItemResult::Exists);
        assert_eq!(refused_alone(&said(400)), ItemResult::Refused(said(400)));
    }
}
