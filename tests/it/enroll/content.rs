//! What an enrollment says beside who the device is: from `station.toml` to the cloud, and on record when a unit passes.

use super::{Line, enrolled, x509};
use crate::retry::call;
use crate::support::{Factory, Place, bodies, run};
use dps_station::enroller::reconcile;
use dps_station::provision::content::{Allocation, Content, Reprovision};
use dps_station::provision::event::Enrollment;
use reqwest::Method;
use serde_json::{Value, json};
use std::fs;

/// Puts the text into the factory's `station.toml`, after the line that begins so.
fn insert(factory: &Factory, after: &str, text: &str) {
    let settings = factory.text("station.toml");
    let at = settings
        .find(after)
        .unwrap_or_else(|| panic!("{after}: {settings}"));
    let end = at + settings[at..].find('\n').unwrap() + 1;
    let changed = format!("{}{text}\n{}", &settings[..end], &settings[end..]);
    fs::write(factory.dir().join("station.toml"), changed).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_product_says_what_its_devices_are_enrolled_with_and_it_is_fixed_when_they_pass() {
    let factory = Factory::new(Place::own(), 2);
    factory.lay_out();
    let table = "enroll.initial_tags = { made = { line = \"{line}\", by = \"{model} {firmware}\", in = \"{shift}\" }, id = \"{device_id}\" }\n\
        enroll.iot_edge = true\nenroll.allocation_policy = \"static\"\nenroll.iot_hubs = [\"hub-b.azure-devices.net\"]\n\
        enroll.reprovision = \"reprovisionandresetdata\"";
    for product in ["model = \"SIM-X509\"", "model = \"SIM-TPM\""] {
        insert(&factory, product, table);
    }
    let ended = run(factory.demo().args(["--until", "passed"]));
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    // Whatever is said later: what they passed with counts.
    let later = factory.text("station.toml").replace("{device_id}", "later");
    fs::write(factory.dir().join("station.toml"), later).unwrap();
    let ended = run(&mut factory.station(&["enroll"]));
    assert_eq!(ended.code(), Some(0), "{ended:?}");

    for passed in bodies(&factory.ledger(), "passed") {
        let body: Value = serde_json::from_str(passed.split_once(' ').unwrap().1).unwrap();
        let enrollment = &body["enrollment"];
        let id = enrollment["registration_id"].as_str().unwrap();
        let (status, held) = call(&factory, Method::GET, id, None).await;
        assert_eq!(status, 200, "{held}");
        let tags = &held["initialTwin"]["tags"];
        assert_eq!(tags["id"], enrollment["device_id"]);
        assert_eq!(tags["made"]["line"], "demo");
        let by = tags["made"]["by"].as_str().unwrap();
        let firmware = enrollment["content"]["filled"]["firmware"]
            .as_str()
            .unwrap();
        assert!(
            by.starts_with("SIM-") && by.ends_with(firmware) && !firmware.is_empty(),
            "{by}"
        );
        let shift = enrollment["content"]["filled"]["shift"].as_str().unwrap();
        assert!(!shift.is_empty() && tags["made"]["in"] == shift, "{tags}");
        assert_eq!(held["capabilities"], json!({"iotEdge": true}));
        assert_eq!(held["allocationPolicy"], "static");
        assert_eq!(held["iotHubs"], json!(["hub-b.azure-devices.net"]));
        let policy = json!({"updateHubAssignment": true, "migrateDeviceData": false});
        assert_eq!(held["reprovisionPolicy"], policy);
    }
    let ended = run(&mut factory.station(&["reconcile"]));
    assert_eq!(ended.code(), Some(0), "{ended:?}");
}

#[tokio::test]
async fn an_enrollment_by_the_ca_is_created_read_back_and_reconciled() {
    let line = Line::new().await;
    let pair = rcgen::generate_simple_self_signed(["Factory root".to_owned()]).unwrap();
    let ca = json!({"properties": {
        "certificate": data_encoding::BASE64.encode(pair.cert.der()), "isVerified": true,
    }});
    line.admin(
        Method::PUT,
        "/emulator/certificates/factory-root",
        Some(&ca),
    )
    .await;
    let content = |name: &str| Content {
        ca_reference: Some(name.to_owned()),
        allocation: Some(Allocation::GeoLatency),
        reprovision: Some(Reprovision::Never),
        ..Content::default()
    };
    let good = Enrollment {
        content: content("factory-root"),
        initial_tags: Some(json!({"line": "3"})),
        ..x509(1)
    };
    let unknown = Enrollment {
        content: content("other-root"),
        ..x509(2)
    };
    line.pass(&good).await;
    assert_eq!(line.drain().await, enrolled(1));
    let held = line.held(&good).await;
    let x509 = &held.raw["attestation"]["x509"];
    assert_eq!(x509["caReferences"]["primary"], "factory-root");
    assert!(x509["clientCertificates"].is_null(), "{x509}");
    assert_eq!(
        reconcile(&line.ledger, &line.dps, &super::terms(super::SHARE)).await,
        Ok(vec![])
    );
    line.pass(&unknown).await;
    assert_eq!(line.drain().await.refused, 1);
    // A unit that fails later is disabled by the same record.
    line.fail(&good).await;
    assert_eq!(line.drain().await.disabled, 1);
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_line() {
    let long = format!("initial_tags = {{ a = \"{}\" }}", "{line}".repeat(40));
    let deep = format!("initial_tags = {}1{}", "{ a = ".repeat(11), " }".repeat(11));
    for (table, said) in [
        ("initial_tags = 7", "names with values"),
        (
            "initial_tags = { a = \"{customer}\" }",
            "{customer} is none of {line}, {shift}, {model}, {firmware}, {device_id}",
        ),
        ("initial_tags = { \"$a\" = 1 }", "none of `$`"),
        (&deep, "deeper"),
        (&long, "at most 4096 bytes"),
        ("allocation_policy = \"random\"", "unknown variant"),
        ("allocation_policy = \"static\"", "exactly one hub"),
        ("allocation_policy = \"custom\"", "needs webhook_url"),
        ("webhook_url = \"https://x\"", "only"),
        ("iot_hubs = [\"https://hub\"]", "host name"),
        ("reprovision = \"always\"", "unknown variant"),
        ("ca_reference = \"root\"", "only certificates"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "[station]\nid = \"S1\"\nledger = \"l\"\n[[dps]]\nname = \"main\"\nid_scope = \"0ne0\"\n\
             global_endpoint = \"h\"\nservice_url = \"https://h\"\ncredential = \"env:A\"\n\
             [[product]]\nname = \"gw\"\nmodel = \"GW\"\nattestation = \"tpm\"\nvendor_roots = \"r\"\n\
             dps = \"main\"\n[product.enroll]\n{table}\n"
        );
        let path = folder.path().join("station.toml");
        fs::write(&path, text).unwrap();
        let error = dps_station::config::Config::read(&path)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(said) && error.contains("line 1"),
            "{table}: {error}"
        );
        assert!(error.contains("enroll"), "{table}: {error}");
    }
}
