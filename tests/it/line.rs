//! The whole line: from an empty folder to every device's first boot, by the real program on real parts.

use crate::emulator::support::{now, token};
use crate::support::{Factory, Place, openssl, run, signed_digests};
use dps_station::fixtures::rig::{CLOUD_CA_FILE, CREDENTIAL_FILE};
use dps_station::provision::bytes::Digest;
use reqwest::{Certificate, Client};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const DEVICES: u16 = 12;

#[test]
fn twelve_devices_go_from_their_port_to_their_first_boot() {
    let factory = Factory::new(Place::own(), DEVICES);
    let ended = run(&mut factory.demo());
    assert_eq!(ended.code(), Some(0), "{ended:?}");

    summary_is_right(&factory);
    each_device_holds_what_was_asked(&factory);
    certificates_are_right(&factory);
    signatures_have_reservations(&factory);
    assert_eq!(factory.damages(), [] as [Value; 0]);
    a_rerun_changes_nothing(&factory);
}

fn summary_is_right(factory: &Factory) {
    let summary = factory.json("summary.json");
    for count in ["devices", "passed", "enrolled", "assigned", "twin_read"] {
        assert_eq!(summary[count], DEVICES, "{count} of {summary}");
    }
    assert_eq!(summary["failed"], 0);
    assert!(summary["seconds"].as_f64().unwrap() > 0.0);
    let each = summary["each"].as_array().unwrap();
    assert_eq!(each.len(), usize::from(DEVICES));
    let bays: BTreeSet<_> = each.iter().map(|device| text(&device["bay"])).collect();
    assert_eq!(bays, BTreeSet::from(["1", "2", "3", "4"]));
    for device in each {
        let own_name = device["registration_id"] == device["device_id"];
        assert_eq!(own_name, device["attestation"] == "x509", "{device}");
        assert!(text(&device["assigned_hub"]).ends_with(".azure-devices.net"));
    }
}

/// By what the rig reads from each device's flash, against what `station.toml` asks for.
fn each_device_holds_what_was_asked(factory: &Factory) {
    let config: toml::Value = toml::from_str(&factory.text("station.toml")).unwrap();
    let dps = &config["dps"][0];
    let each = factory.json("summary.json")["each"].take();
    for device in each.as_array().unwrap() {
        let id = text(&device["device_id"]);
        let held = factory.json(&format!("devices/{id}/readback.json"));
        let certificate = match text(&device["attestation"]) {
            "x509" => Value::from(Digest::of(&leaf(factory, id)).to_string()),
            _ => Value::Null,
        };
        let asked = json!({
            "id_scope": dps["id_scope"].as_str(),
            "global_endpoint": dps["global_endpoint"].as_str(),
            "registration_id": device["registration_id"],
            "certificate_sha256": certificate,
            "sealed": true,
        });
        assert_eq!(held, asked);
    }
}

/// By a program that shares no code with the station.
fn certificates_are_right(factory: &Factory) {
    let path = |path: &str| factory.dir().join(path).display().to_string();
    let (root, issuing) = (path("ca/root.pem"), path("ca/issuing.pem"));
    for id in with_certificates(factory) {
        let leaf = path(&format!("devices/{id}/certificate.pem"));
        let trust = ["-CAfile", &root, "-untrusted", &issuing];
        openssl(
            [
                &["verify", "-x509_strict", "-purpose", "sslclient"],
                &trust[..],
                &[&leaf],
            ]
            .concat(),
        );
        let subject = openssl([
            "x509",
            "-noout",
            "-subject",
            "-nameopt",
            "multiline",
            "-in",
            &leaf,
        ]);
        assert!(
            subject.contains(&format!("commonName                = {id}\n")),
            "{subject}"
        );
    }
    for ca in [&root, &issuing] {
        let subject = openssl(["x509", "-noout", "-subject", "-in", ca]);
        assert!(subject.contains("SIMULATED"), "{subject}");
    }
}

/// Every signature that the HSM returned, and every certificate that is out, was reserved, once, and is on record.
fn signatures_have_reservations(factory: &Factory) {
    let reservations = factory.reservations();
    let signed = signed_digests(&factory.spy_log());
    let distinct: BTreeSet<_> = signed.iter().cloned().collect();
    assert_eq!(distinct.len(), signed.len(), "something was signed twice");
    let on_record: BTreeSet<_> = reservations.keys().cloned().collect();
    assert_eq!(distinct, on_record);
    let mut purposes: BTreeMap<_, usize> = BTreeMap::new();
    let mut serials = BTreeSet::new();
    for line in reservations.values() {
        assert_eq!(line["state"], "signed");
        assert!(serials.insert(text(&line["serial"])), "{line}");
        *purposes.entry(text(&line["purpose"])).or_default() += 1;
    }
    let expected = [
        ("issuing", 1),
        ("leaf", usize::from(DEVICES) / 2),
        ("root", 1),
        ("self_test", 1),
    ];
    assert_eq!(purposes, BTreeMap::from(expected));
    for id in with_certificates(factory) {
        let leaf = leaf(factory, &id);
        let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
        let digest = Digest::of(leaf.tbs_certificate.as_ref()).to_string();
        assert_eq!(reservations[&digest]["device_id"], json!(id));
    }
}

fn a_rerun_changes_nothing(factory: &Factory) {
    let writes = factory.text("dps/writes.jsonl");
    let before = (factory.reservations(), signed_digests(&factory.spy_log()));
    let ended = run(&mut factory.demo());
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert_eq!(factory.text("dps/writes.jsonl"), writes);
    let after = (factory.reservations(), signed_digests(&factory.spy_log()));
    assert_eq!(after, before, "something was signed");
    summary_is_right(factory);
}

#[test]
fn a_device_whose_enrollment_is_deleted_is_missed() {
    let factory = Factory::new(Place::own(), DEVICES);
    let ended = run(factory.demo().args(["--until", "enrolled"]));
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    assert_eq!(runtime.block_on(delete(&factory, "sim-x509-0007")), 204);

    let ended = run(&mut factory.demo());
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    let summary = factory.json("summary.json");
    assert_eq!(summary["enrolled"], DEVICES);
    assert_eq!(summary["assigned"], DEVICES - 1);
    assert_eq!(summary["twin_read"], DEVICES - 1);
    for device in summary["each"].as_array().unwrap() {
        let missed = device["device_id"] == "sim-x509-0007";
        assert_eq!(device["assigned_hub"].is_null(), missed, "{device}");
    }
}

/// Deletes an enrollment behind the station's back; gives the status.
async fn delete(factory: &Factory, registration_id: &str) -> u16 {
    let credential = factory.text(CREDENTIAL_FILE);
    let part = |name: &str| {
        let found = credential
            .split(';')
            .find_map(|part| part.strip_prefix(name));
        found
            .unwrap_or_else(|| panic!("the credential has no {name}"))
            .trim()
    };
    let (policy, key) = (part("SharedAccessKeyName="), part("SharedAccessKey="));
    let signature = token(key, part("HostName="), now() + 60, Some(policy));
    let root = Certificate::from_pem(factory.text(CLOUD_CA_FILE).as_bytes()).unwrap();
    let client = Client::builder()
        .tls_certs_only([root])
        .no_proxy()
        .build()
        .unwrap();
    let port = factory.json("rig/plan.json")["dps_port"].clone();
    let path = format!("/enrollments/{registration_id}?api-version=2021-10-01");
    let request = client.delete(format!("https://localhost:{port}{path}"));
    let reply = request.header("authorization", signature).send().await;
    reply.unwrap().status().as_u16()
}

/// The devices that have a certificate: every other one.
fn with_certificates(factory: &Factory) -> Vec<String> {
    let each = factory.json("summary.json")["each"].take();
    let devices = each.as_array().unwrap().iter();
    let ids: Vec<_> = devices
        .filter(|device| device["attestation"] == "x509")
        .map(|device| text(&device["device_id"]).to_owned())
        .collect();
    assert_eq!(ids.len(), usize::from(DEVICES) / 2);
    ids
}

/// The certificate that a device holds, in DER.
fn leaf(factory: &Factory, device_id: &str) -> Vec<u8> {
    let text = factory.text(&format!("devices/{device_id}/certificate.pem"));
    let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).unwrap();
    pem.contents
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}
