//! Every fault code has a scenario that plays it through the line, or a reason why it has none yet.
//!
//! A scenario asserts the code, who must act, the event that ends the attempt, and what the ledger, the HSM and the
//! outbox hold afterwards.

pub mod books;
mod cloud;
mod one;
mod port;
mod several;

use dps_station::fixtures::scenario::Scenario;
use dps_station::provision::device::{DeviceId, Identification};
use dps_station::provision::fault::{Blame, Fault};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use strum::VariantNames;

/// The test that plays every file of `fixtures/scenarios/`.
const FILES: &str = "scenarios::every_scenario_ends_as_it_says_and_passes_without_its_fault";

/// The scenario of each code: the path of a test, which may play several. Others may play the code too.
const SCENARIOS: &[(&str, &str)] = &[
    // Ports and devices
    (
        "port_missing",
        "codes::port::a_bay_whose_port_cannot_be_opened_is_out_until_it_can",
    ),
    (
        "port_busy",
        "codes::port::a_bay_whose_port_cannot_be_opened_is_out_until_it_can",
    ),
    (
        "not_a_port",
        "codes::port::a_bay_whose_port_cannot_be_opened_is_out_until_it_can",
    ),
    (
        "port_denied",
        "codes::port::a_bay_whose_port_cannot_be_opened_is_out_until_it_can",
    ),
    (
        "no_plug",
        "codes::port::a_port_that_failed_or_could_not_be_tested_says_so",
    ),
    (
        "adapter_failed",
        "codes::port::a_port_that_failed_or_could_not_be_tested_says_so",
    ),
    (
        "port_talks",
        "codes::port::a_port_that_failed_or_could_not_be_tested_says_so",
    ),
    (
        "loopback_failed",
        "codes::port::a_port_that_failed_or_could_not_be_tested_says_so",
    ),
    ("device_gone", FILES),
    ("device_silent", FILES),
    ("bay_silent", FILES),
    ("power_lost", FILES),
    (
        "keeps_restarting",
        "returns::a_unit_that_restarts_for_ever_in_its_job_is_one_fault",
    ),
    ("too_slow", FILES),
    ("swapped", FILES),
    ("not_a_device_we_know", FILES),
    (
        "device_refused",
        "codes::one::a_request_that_is_no_good_is_never_reserved_for",
    ),
    (
        "device_unable",
        "driver::what_a_driver_does_not_have_is_the_stations_matter_and_not_the_units",
    ),
    // Names
    (
        "no_id",
        "codes::one::a_unit_that_does_not_fit_its_product_fails_before_it_has_a_key",
    ),
    (
        "no_uid",
        "codes::one::a_unit_that_does_not_fit_its_product_fails_before_it_has_a_key",
    ),
    (
        "wrong_label",
        "codes::one::a_unit_that_does_not_fit_its_product_fails_before_it_has_a_key",
    ),
    (
        "not_scanned",
        "codes::several::a_unit_whose_label_nobody_scans_is_not_named",
    ),
    (
        "nothing_answers",
        "codes::several::a_label_whose_unit_is_dead_is_told_of",
    ),
    (
        "other_format",
        "codes::several::a_unit_whose_name_cannot_be_kept_or_given_is_not_named",
    ),
    (
        "no_free_id",
        "codes::several::a_unit_whose_name_cannot_be_kept_or_given_is_not_named",
    ),
    (
        "in_two_bays",
        "codes::several::a_unit_that_is_in_another_bay_is_not_taken_twice",
    ),
    (
        "duplicate_identity",
        "codes::several::a_unit_with_the_key_of_another_fails_and_names_it",
    ),
    // The product's policy, and what a unit holds
    (
        "wrong_firmware",
        "codes::one::a_unit_that_does_not_fit_its_product_fails_before_it_has_a_key",
    ),
    (
        "no_tpm",
        "codes::one::a_unit_that_does_not_fit_its_product_fails_before_it_has_a_key",
    ),
    (
        "id_too_long",
        "codes::one::a_unit_that_does_not_fit_its_product_fails_before_it_has_a_key",
    ),
    (
        "sealed_unknown",
        "codes::several::a_sealed_unit_that_is_not_as_the_record_has_it_fails",
    ),
    (
        "does_not_hold",
        "codes::one::a_unit_that_does_not_prove_what_it_was_given_fails_and_its_certificate_is_disabled",
    ),
    (
        "no_restart",
        "driver::a_device_that_does_not_do_what_it_says_fails_and_its_certificate_is_disabled",
    ),
    (
        "new_key",
        "codes::several::a_unit_that_comes_back_with_another_key_gets_no_second_certificate",
    ),
    (
        "cannot_be_read_back",
        "codes::one::a_certificate_that_cannot_be_made_is_the_stations_matter",
    ),
    // Certificates
    (
        "request_invalid",
        "codes::one::a_request_that_is_no_good_is_never_reserved_for",
    ),
    (
        "request_unsigned",
        "codes::one::a_request_that_is_no_good_is_never_reserved_for",
    ),
    (
        "request_subject",
        "codes::one::a_request_that_is_no_good_is_never_reserved_for",
    ),
    (
        "key_refused",
        "codes::one::a_request_that_is_no_good_is_never_reserved_for",
    ),
    (
        "proof_failed",
        "codes::one::a_unit_that_does_not_prove_what_it_was_given_fails_and_its_certificate_is_disabled",
    ),
    (
        "path_invalid",
        "codes::several::a_unit_whose_certificate_has_ended_fails_and_one_of_a_ca_that_was_replaced_does_not",
    ),
    (
        "no_ca",
        "codes::one::a_certificate_that_cannot_be_made_is_the_stations_matter",
    ),
    (
        "ca_unfit",
        "codes::one::a_certificate_that_cannot_be_made_is_the_stations_matter",
    ),
    (
        "draft_impossible",
        "codes::one::a_certificate_that_cannot_be_made_is_the_stations_matter",
    ),
    (
        "not_signed",
        "codes::one::a_certificate_that_cannot_be_made_is_the_stations_matter",
    ),
    (
        "signed_wrongly",
        "codes::one::a_certificate_that_cannot_be_made_is_the_stations_matter",
    ),
];

/// The codes that have no scenario yet, and why.
const NOT_YET: &[(&str, &str)] = &[
    (
        "wrong_model",
        "no unit gets so far: a bay takes the product by the unit's model, and one of another model is not a device \
         that it knows; to be played when an order or a label says what a unit is to become",
    ),
    (
        "no_port_list",
        "needs a machine whose /sys cannot be read: the work on clocks and disks that fail brings such a machine",
    ),
    (
        "no_random",
        "needs a system that gives no random numbers: the work on clocks and disks that fail brings such a system",
    ),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The file that a test's path leads to, and the name of its function.
fn source_of(test: &str) -> (PathBuf, &str) {
    let (module, name) = test.rsplit_once("::").unwrap();
    let path = format!("tests/it/{}.rs", module.replace("::", "/"));
    (root().join(path), name)
}

/// How a code is written as a variant.
fn variant(code: &str) -> String {
    let words = code.split('_').map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_uppercase() + rest
    });
    format!("Fault::{} ", words.collect::<String>())
}

/// The codes that the scenario files end with.
fn codes_of_files() -> Vec<String> {
    let files = fs::read_dir(root().join("fixtures/scenarios")).unwrap();
    let scenarios = files.map(|file| Scenario::read(&file.unwrap().path()).unwrap());
    let ends = scenarios.flat_map(|scenario| scenario.ends);
    ends.filter_map(|end| end.code).collect()
}

#[test]
fn every_code_has_its_scenario_or_a_reason_why_not() {
    let scenarios = || SCENARIOS.iter().chain(cloud::SCENARIOS);
    let lists = scenarios().chain(NOT_YET).chain(cloud::NOT_YET);
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for (code, _) in lists {
        *places.entry(code).or_default() += 1;
    }
    for code in Fault::VARIANTS.iter().filter(|code| **code != "told") {
        let count = places.remove(code).unwrap_or_default();
        assert_eq!(count, 1, "{code} is to stand in exactly one list");
    }
    assert!(places.is_empty(), "these are no codes: {places:?}");
    for (code, test) in scenarios() {
        let (path, name) = source_of(test);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{test}: {error}"));
        assert!(text.contains(&format!("fn {name}(")), "there is no {test}");
        let named = match *test == FILES {
            true => codes_of_files().iter().any(|found| found == code),
            false => text.contains(&format!("\"{code}\"")) || text.contains(&variant(code)),
        };
        assert!(named, "{test} does not name {code}");
    }
    for (code, reason) in NOT_YET.iter().chain(cloud::NOT_YET) {
        assert!(reason.len() > 20, "{code}: {reason:?} is no reason");
    }
}

/// The one check of a product's policy that the line cannot reach yet.
#[test]
fn a_product_takes_no_other_model() {
    let product = crate::plant::product("SIM-X509", Vec::new(), Vec::new());
    let id = DeviceId::parse("GW-A").unwrap();
    let says = |model: &str| Identification::of_stock(id.clone(), model);
    assert_eq!(product.accept(&id, &says("SIM-X509")), Ok(()));
    let fault = product.accept(&id, &says("SIM-X510")).unwrap_err();
    assert_eq!(
        (fault.code(), fault.blame()),
        ("wrong_model", Blame::Device)
    );
}
