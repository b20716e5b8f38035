//! The codes of TPMs, of the record, of the station itself and of the cloud: which scenario plays each.

mod station;

/// Each code, and the scenarios that play it through the whole line.
pub const SCENARIOS: &[(&str, &str)] = &[
    // --- the endorsement key
    (
        "ek_certificate_missing",
        "tpm_line::a_missing_certificate_fails_where_one_is_required",
    ),
    (
        "ek_certificate_broken",
        "tpm_line::refused::each_rule_of_an_ek_certificate_is_held_and_one_that_keeps_all_passes",
    ),
    (
        "ek_certificate_another_key",
        "tpm_line::a_certificate_for_another_key_fails",
    ),
    (
        "ek_certificate_no_usage",
        "tpm_line::refused::each_rule_of_an_ek_certificate_is_held_and_one_that_keeps_all_passes",
    ),
    (
        "ek_certificate_expired",
        "tpm_line::an_expired_certificate_fails",
    ),
    (
        "ek_certificate_not_yet_valid",
        "tpm_line::refused::each_rule_of_an_ek_certificate_is_held_and_one_that_keeps_all_passes",
    ),
    (
        "ek_certificate_unknown_maker",
        "tpm_line::a_certificate_from_an_unknown_maker_fails",
    ),
    (
        "ek_certificate_bad_signature",
        "tpm_line::refused::each_rule_of_an_ek_certificate_is_held_and_one_that_keeps_all_passes",
    ),
    (
        "other_tpm",
        "tpm_line::another_tpm_in_a_device_that_comes_back_fails",
    ),
    (
        "challenge_not_met",
        "tpm_line::refused::a_tpm_that_answers_the_challenge_wrongly_is_not_proved",
    ),
    (
        "ek_template",
        "tpm_line::refused::a_key_of_another_template_where_the_endorsement_key_belongs_fails",
    ),
    (
        "ek_not_proved",
        "tpm_line::a_tpm_that_shows_anothers_key_fails_when_it_must_use_it",
    ),
    // --- the way to the TPM
    (
        "tpm_garbled",
        "tpm_line::refused::answers_that_are_none_and_commands_that_fail_are_the_units_fault",
    ),
    (
        "tpm_failed",
        "tpm_line::refused::answers_that_are_none_and_commands_that_fail_are_the_units_fault",
    ),
    (
        "tpm_busy",
        "tpm_line::busy::a_tpm_that_puts_a_command_off_for_ever_is_busy_when_the_time_is_over",
    ),
    (
        "tpm_locked",
        "tpm_line::busy::a_tpm_that_is_locked_out_is_not_asked_again",
    ),
    (
        "tpm_stalled",
        "tpm_line::a_tpm_that_stalls_while_it_is_proved_costs_its_deadline_and_no_more",
    ),
    (
        "tpm_bridge",
        "tpm_line::refused::a_tpm_that_never_comes_to_its_job_is_an_error_and_no_verdict",
    ),
    // --- the record and the station
    (
        "ledger",
        "codes::cloud::station::a_ledger_that_is_full_in_an_attempt_stops_the_station_and_the_unit_passes_later",
    ),
    (
        "record_damaged",
        "codes::cloud::station::a_record_that_does_not_hang_together_is_that_units_error_only",
    ),
    (
        "record_incomplete",
        "codes::cloud::station::a_sealed_unit_without_what_its_product_asks_for_comes_to_no_verdict",
    ),
    (
        "station_stopped",
        "codes::cloud::station::a_ledger_that_is_full_in_an_attempt_stops_the_station_and_the_unit_passes_later",
    ),
    (
        "no_bay",
        "codes::cloud::station::a_station_without_a_port_ends_and_writes_nothing",
    ),
    (
        "bay_lost",
        "codes::cloud::station::a_bay_that_falls_over_ends_the_station_and_its_attempt_is_closed_later",
    ),
    (
        "hsm",
        "hsm::signing::what_fails_its_check_is_given_up_and_not_handed_out",
    ),
    (
        "clock_wrong",
        "cli::a_clock_that_is_wrong_is_found_before_the_first_unit",
    ),
    // --- the cloud
    (
        "dps_unreachable",
        "enroll::a_wrong_key_and_a_dead_service_are_said_in_one_sentence_each",
    ),
    (
        "dps_unauthorized",
        "enroll::a_wrong_key_and_a_dead_service_are_said_in_one_sentence_each",
    ),
    (
        "dps_throttled",
        "enroll::a_service_that_asks_for_too_long_a_pause_ends_the_run_and_nothing_is_lost",
    ),
    (
        "dps_refused",
        "enroll::a_service_that_knows_no_enrollments_refuses_the_call_and_not_the_records",
    ),
    (
        "dps_no_answer",
        "enroll::a_service_that_fails_every_time_ends_the_run_and_nothing_is_lost",
    ),
    (
        "dps_malformed",
        "enroll::whatever_else_answers_is_not_believed_and_nothing_is_lost",
    ),
    (
        "dps_configuration",
        "cli::without_dps_or_with_a_wrong_key_nothing_is_lost",
    ),
    (
        "enrollment_refused",
        "enroll::one_bad_record_is_refused_and_the_others_go_on",
    ),
    (
        "enrollment_deferred",
        "enroll::a_record_that_the_service_cannot_take_now_is_deferred_and_tried_again",
    ),
    (
        "enrollment_unanswered",
        "enroll::a_record_of_which_nothing_is_known_is_put_off_and_read_back_first",
    ),
];

/// Each code that no scenario plays yet, and what it takes.
pub const NOT_YET: &[(&str, &str)] = &[
    (
        "no_challenge",
        "the keys of a challenge are parsed before they are recorded, in the same attempt: it takes a ledger that gives \
         back other bytes than were written, which comes with disks that fail",
    ),
    (
        "dps_share",
        "the enroller gives up after ten minutes of real time: it takes a clock by which it waits and which a test moves",
    ),
];
