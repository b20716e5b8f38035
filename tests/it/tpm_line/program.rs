//! TPM products through the program itself: what a whole demo leaves, what happens to flawed units, and what
//! `station check` says of vendor roots. Everything is computed again by tools that share no code with the station.

use crate::support::{Factory, Place, Running, entries, openssl, run};
use crate::tpm::{tpm2_readpublic, vendor_bundles};
use data_encoding::{BASE64, HEXUPPER};
use dps_station::fixtures::rig::Plan;
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a station may take until the event that it is to be killed after.
const EVENT_MAX: Duration = Duration::from_secs(60);

#[test]
fn a_demo_leaves_of_each_tpm_what_other_tools_read_from_it() {
    let factory = Factory::new(Place::own(), 4);
    let ended = run(&mut factory.demo());
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    let summary = factory.json("summary.json");
    let (mut tpms, mut certificates) = (0, 0);
    for device in summary["each"].as_array().unwrap() {
        let folder = factory
            .dir()
            .join("devices")
            .join(text(&device["device_id"]));
        match text(&device["attestation"]) {
            "tpm" => {
                tpms += 1;
                tpm_device_is_right(device, &folder);
            }
            _ => {
                certificates += 1;
                assert!(device["tpm_state"].is_null(), "{device}");
                assert!(!folder.join("endorsement_key.b64").exists());
            }
        }
    }
    assert_eq!((tpms, certificates), (2, 2));
}

fn tpm_device_is_right(device: &Value, folder: &Path) {
    let base64 = fs::read_to_string(folder.join("endorsement_key.b64")).unwrap();
    let key = BASE64.decode(base64.trim_end().as_bytes()).unwrap();
    assert_eq!(tpm2_readpublic(Path::new(text(&device["tpm_state"]))), key);

    // The RSA modulus is the end of the public area, and is the certificate's.
    let certificate = folder.join("ek_certificate.der").display().to_string();
    let arguments = ["x509", "-inform", "der", "-noout", "-modulus", "-in"];
    let modulus = openssl(arguments.into_iter().chain([certificate.as_str()]));
    let expected = HEXUPPER.encode(&key[key.len() - 256..]);
    assert_eq!(modulus.trim_end(), format!("Modulus={expected}"));

    // Microsoft's rule, by other means: SHA-256 in base32, lower case, no padding.
    let rule = "base64 -d endorsement_key.b64 | openssl dgst -sha256 -binary | base32 -w 0 | tr -d = | tr A-Z a-z";
    let expected = run(Command::new("sh").args(["-c", rule]).current_dir(folder)).stdout;
    assert_eq!(text(&device["registration_id"]), expected);

    let held: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("readback.json")).unwrap()).unwrap();
    assert_eq!(text(&held["registration_id"]), expected);
    assert!(
        held["certificate_sha256"].is_null() && held["sealed"] == true,
        "{held}"
    );
}

#[test]
fn units_that_are_not_genuine_fail_with_their_reason_and_are_not_enrolled() {
    const DEVICES: u16 = 10;
    let factory = Factory::new(Place::own(), DEVICES);
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let plan = Plan::new(usize::from(DEVICES), 4, port, true); // as the interactive demo makes it
    plan.write(&factory.dir()).unwrap();
    let ended = run(factory.demo().arg("--json"));
    assert_eq!(ended.code(), Some(1), "{ended:?}");

    let failed: Vec<_> = ended.objects().into_iter().filter_map(failure).collect();
    let fault = |device: &str| {
        let found = failed.iter().find(|(id, _)| id == device);
        &found
            .unwrap_or_else(|| panic!("{device} did not fail: {failed:?}"))
            .1
    };
    let other_name = fault("sim-x509-0005");
    assert!(
        text(&other_name["what"]).contains("sim-other-0000"),
        "{other_name}"
    );
    let unknown_maker = fault("sim-tpm-0010");
    assert_eq!(unknown_maker["code"], "ek_certificate_unknown_maker");
    assert!(text(&unknown_maker["what"]).contains("CN=SIMULATED TPM maker unknown"));
    for fault in [other_name, unknown_maker] {
        assert_eq!(fault["blame"], "device");
        assert!(
            text(&fault["next"]).starts_with("set the unit aside"),
            "{fault:?}"
        );
    }
    assert_eq!(failed.len(), 2, "{failed:?}");

    let summary = factory.json("summary.json");
    assert_eq!(
        (&summary["passed"], &summary["failed"]),
        (&8.into(), &2.into())
    );
    let created: BTreeSet<_> = created(&factory).into_iter().collect();
    for device in summary["each"].as_array().unwrap() {
        let good = !["sim-x509-0005", "sim-tpm-0010"].contains(&text(&device["device_id"]));
        assert_eq!(!device["assigned_hub"].is_null(), good, "{device}");
        let id = device["registration_id"].as_str().unwrap_or_default();
        assert_eq!(created.contains(id), good, "{device}");
    }
    assert_eq!(created.len(), 8);
}

/// Promise 13. The unit loses its key after its certificate was issued, so that it can never pass with it.
#[test]
fn a_unit_that_fails_after_its_certificate_was_issued_is_disabled() {
    let factory = Factory::new(Place::own(), 1);
    let mut station = Running::start(&mut factory.demo());
    let deadline = Instant::now() + EVENT_MAX;
    let issued = || {
        let entries = entries(&factory.ledger(), 0);
        let issued =
            |entry: &crate::support::Entry| entry.kind == "signed" && entry.device.is_some();
        entries.iter().any(issued)
    };
    while !issued() {
        assert!(Instant::now() < deadline && !station.ended());
        std::thread::yield_now();
    }
    let rig = factory.rig().expect("the rig lives");
    station.kill();
    kill_process(rig, Signal::KILL).unwrap();
    let flash = factory.dir().join("rig/flash/sim-x509-0001.json");
    let mut content: Value = serde_json::from_slice(&fs::read(&flash).unwrap()).unwrap();
    assert_eq!(content["sealed"], false, "killed too late");
    content["private_key"] = Value::Null;
    fs::write(&flash, content.to_string()).unwrap();

    let ended = run(factory.demo().arg("--json"));
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    let failed: Vec<_> = ended.objects().into_iter().filter_map(failure).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0].1["code"], "new_key");
    let writes = factory.json_lines("dps/writes.jsonl");
    let last = writes.last().expect("something was written");
    assert_eq!(last["registrationId"], "sim-x509-0001");
    assert!(
        last.to_string()
            .contains("\"provisioningStatus\":\"disabled\""),
        "{last}"
    );
    assert_eq!(factory.json("summary.json")["assigned"], 0);
}

/// The device and the fault of a FAIL among the lines of a headless station.
fn failure(report: Value) -> Option<(String, Value)> {
    let recorded = &report["recorded"];
    (recorded["event"]["kind"] == "failed").then(|| {
        let device = text(&recorded["device"]).to_owned();
        (device, recorded["event"]["fault"].clone())
    })
}

/// The registration IDs of every enrollment that the cloud has.
fn created(factory: &Factory) -> Vec<String> {
    let writes = factory.json_lines("dps/writes.jsonl");
    let id = |write: &Value| text(&write["registrationId"]).to_owned();
    writes.iter().map(id).collect()
}

#[test]
fn check_says_which_vendor_roots_a_product_trusts() {
    let factory = Factory::new(Place::own(), 1);
    let ended = run(factory.demo().args(["--until", "passed"]));
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    let simulated = checked(&factory, None, 0);
    assert_eq!(
        (&simulated["anchors"], &simulated["intermediates"]),
        (&1.into(), &0.into())
    );

    if let Some(bundles) = vendor_bundles() {
        check_published(&factory, &bundles);
    }

    // What is of no use is named, and the rest is used.
    let folder = factory.dir().join("mixed");
    fs::create_dir_all(folder.join("IntermediateCA")).unwrap();
    let maker = factory.dir().join("rig/tpm-makers/known/roots/maker.pem");
    fs::copy(maker, folder.join("maker.pem")).unwrap();
    fs::write(folder.join("broken.crt"), "nothing").unwrap();
    expired_root(&folder);
    let mut dangling = 0;
    if let Some(bundles) = vendor_bundles() {
        let intermediates = bundles.join("tpm-intermediate-ca-certificates.pem");
        fs::copy(intermediates, folder.join("IntermediateCA/all.pem")).unwrap();
        dangling = 143;
    }
    let mixed = checked(&factory, Some(&folder), 0);
    let useless = mixed["useless"].as_array().unwrap();
    let named = |entry: &str, why: &str| {
        let fits = |line: &&Value| {
            text(&line["entry"]).contains(entry) && text(&line["why"]).contains(why)
        };
        useless.iter().filter(fits).count()
    };
    assert_eq!(named("broken.crt", "refused: "), 1, "{mixed}");
    assert_eq!(named("CN=bygone", "not valid today"), 1, "{mixed}");
    assert_eq!(named("", "leads to no anchor"), dangling, "{mixed}");

    // Nobody is trusted: a mistake.
    let empty = factory.dir().join("empty");
    fs::create_dir_all(&empty).unwrap();
    assert!(text(&checked(&factory, Some(&empty), 2)["said"]).contains("has no trust anchor"));
    let absent = checked(&factory, Some(Path::new("/nowhere/roots")), 2);
    assert!(text(&absent["said"]).contains("correct vendor_roots of product sim-tpm"));
}

/// The published bundles, whole.
fn check_published(factory: &Factory, bundles: &Path) {
    let published = checked(factory, Some(bundles), 0);
    assert_eq!(
        (&published["anchors"], &published["intermediates"]),
        (&26.into(), &143.into())
    );
    assert_eq!(published["useless"], Value::Array(Vec::new()));
    let said = text(&published["said"]);
    for part in [
        "26 anchors, 143 intermediates, SHA-256 ",
        text(&published["digest"]),
        "tpm-ca-certificates.pem of 2026-04-11, commit 7e245bcd7c6a19e92df9656f00a796765e875808",
        "tpm-intermediate-ca-certificates.pem of 2026-04-11",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
}

/// The line of `station check` about the vendor roots, with these in place of the demo's.
fn checked(factory: &Factory, roots: Option<&Path>, code: i32) -> Value {
    let path = factory.dir().join("station.toml");
    let original = factory.text("station.toml");
    if let Some(roots) = roots {
        let own = "vendor_roots = \"rig/tpm-makers/known/roots\"";
        assert!(original.contains(own));
        let other = format!("vendor_roots = \"{}\"", roots.display());
        fs::write(&path, original.replace(own, &other)).unwrap();
    }
    let ended = run(&mut factory.station(&["check", "--json"]));
    fs::write(&path, original).unwrap();
    assert_eq!(ended.code(), Some(code), "{ended:?}");
    let lines = ended.objects().into_iter();
    let mut lines =
        lines.filter(|line| text(&line["check"]).starts_with("vendor roots of product sim-tpm"));
    lines.next().expect("vendor roots are checked")
}

fn expired_root(folder: &Path) {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "bygone");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_after = rcgen::date_time_ymd(2025, 1, 1);
    let root = params
        .self_signed(&rcgen::KeyPair::generate().unwrap())
        .unwrap();
    fs::write(folder.join("bygone.der"), root.der()).unwrap();
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}
