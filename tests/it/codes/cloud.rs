//! The codes of the TPM, the record, the station and the cloud.

/// The scenario of each of these codes: the path of a test.
pub const SCENARIOS: &[(&str, &str)] = &[];

const LATER: &str = "not gathered yet from the tests of the TPM, the record and the cloud";

/// The codes of these that have no scenario yet, and why.
pub const NOT_YET: &[(&str, &str)] = &[
    ("ek_certificate_missing", LATER),
    ("ek_certificate_broken", LATER),
    ("ek_certificate_another_key", LATER),
    ("ek_certificate_no_usage", LATER),
    ("ek_certificate_expired", LATER),
    ("ek_certificate_not_yet_valid", LATER),
    ("ek_certificate_unknown_maker", LATER),
    ("ek_certificate_bad_signature", LATER),
    ("other_tpm", LATER),
    ("challenge_not_met", LATER),
    ("ek_template", LATER),
    ("ek_not_proved", LATER),
    ("tpm_garbled", LATER),
    ("tpm_failed", LATER),
    ("tpm_stalled", LATER),
    ("tpm_bridge", LATER),
    ("no_challenge", LATER),
    ("ledger", LATER),
    ("record_damaged", LATER),
    ("record_incomplete", LATER),
    ("station_stopped", LATER),
    ("no_bay", LATER),
    ("bay_lost", LATER),
    ("hsm", LATER),
    ("clock_wrong", LATER),
    ("dps_unreachable", LATER),
    ("dps_unauthorized", LATER),
    ("dps_throttled", LATER),
    ("dps_refused", LATER),
    ("dps_no_answer", LATER),
    ("dps_malformed", LATER),
    ("dps_configuration", LATER),
    ("dps_share", LATER),
    ("enrollment_refused", LATER),
    ("enrollment_deferred", LATER),
    ("enrollment_unanswered", LATER),
];
