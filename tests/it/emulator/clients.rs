//! Microsoft's own clients, unmodified, against the emulated cloud at the ports and by the names that they know.

mod install;
mod net;

use super::bench::{self, Bench};
use super::support::{self, Cloud, Pki, SAMPLE_EK};
use crate::support::Ended;
use net::Net;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// The names that the clients ask for, which are Azure's.
const NAMES: [&str; 3] = [
    "global.azure-devices-provisioning.net",
    "hub-a.azure-devices.net",
    "hub-b.azure-devices.net",
];
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// What each line of a client's says; it must have ended well.
fn objects(ended: &Ended) -> Vec<Value> {
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    ended.objects()
}

/// What is enrolled, by its path: a device by certificate, one by key, and a group of which one is a member. And what
/// those three are given.
fn devices(pki: &Pki) -> ([(&'static str, Value); 3], Value) {
    let leaf = pki.self_signed("py-x509");
    let twin = json!({"tags": {"line": "3"}, "properties": {"desired": {"rate": 5}}});
    let keys = json!({"primaryKey": KEY, "secondaryKey": KEY});
    let keys = json!({"type": "symmetricKey", "symmetricKey": keys});
    let mut x509 = support::x509("py-x509", &leaf.pem());
    x509["initialTwin"] = twin.clone();
    let key = json!({"registrationId": "py-key", "deviceId": "py-2", "attestation": keys, "initialTwin": twin});
    let group = json!({"enrollmentGroupId": "py-group", "attestation": keys, "initialTwin": twin});
    let (certificate, private_key) = leaf.files();
    let given = json!([
        {"id": "py-x509", "certificate": certificate, "private_key": private_key},
        {"id": "py-key", "key": KEY},
        {"id": "py-member", "key": support::derive(KEY, "py-member")},
    ]);
    let enrolled = [
        ("/enrollments/py-x509", x509),
        ("/enrollments/py-key", key),
        ("/enrollmentGroups/py-group", group),
    ];
    (enrolled, given)
}

/// The life of a device as its client told it.
fn lived(life: &Value, id: &str, device: &str) {
    assert_eq!((&life["id"], &life["device"]), (&json!(id), &json!(device)));
    let first = json!({"desired": {"rate": 5, "$version": 1}, "reported": {"$version": 1}});
    assert_eq!(life["first"], first, "{life}");
    assert_eq!(life["told"], json!({"mode": "night", "$version": 2}));
    let desired = json!({"rate": 5, "mode": "night", "$version": 2});
    assert_eq!(life["last"]["desired"], desired);
    let reported = json!({"mode": "night", "$version": 2});
    assert_eq!(life["last"]["reported"], reported);
}

fn python(net: &Net, given: &Value) -> Ended {
    let script = install::sources().join("client.py");
    let mut command = net.command(&install::python());
    crate::support::run(command.arg(script).arg(given.to_string()))
}

#[tokio::test]
async fn pythons_device_client_registers_over_mqtt_and_lives_at_its_hub() {
    let pki = Pki::new();
    let (enrolled, devices) = devices(&pki);
    let cloud = Cloud::start().await;
    for (path, body) in &enrolled {
        let reply = cloud.put(path, body, None).await;
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    let dir = cloud.into_folder().await;
    let net = Net::start(dir.path(), &NAMES);
    let mut given = json!({
        "host": NAMES[0],
        "scope": net.said["id_scope"],
        "ca": net.said["ca_pem"],
        "devices": devices,
    });
    let lives = objects(&python(&net, &given));
    // A key that is not enrolled gets nowhere.
    given["devices"] = json!([{"id": "py-member", "key": KEY}]);
    let refused = python(&net, &given);
    assert_eq!(refused.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains("401"), "{refused:?}");
    net.end();

    let cloud = Cloud::in_folder(dir, |_| ()).await;
    let known = [
        ("py-x509", "py-x509"),
        ("py-key", "py-2"),
        ("py-member", "py-member"),
    ];
    assert_eq!(lives.len(), known.len());
    for (life, (id, device)) in lives.iter().zip(known) {
        lived(life, id, device);
        let hub = support::text(&life["hub"]);
        let held = cloud.get(&format!("/emulator/twins/{hub}/{device}")).await;
        assert_eq!(held.status, 200, "{held:?}");
        let held = (&held.body["messages"], &held.body["tags"]["line"]);
        assert_eq!(held, (&json!(1), &json!("3")));
    }
    let one = ["assigned", "hub_authenticated", "twin_read"];
    let mut events = cloud.events();
    events.dedup(); // the client reads once more by itself
    assert_eq!(events, [one; 3].concat());
}

#[test]
fn pythons_device_client_lives_on_a_board_at_another_address() {
    install::python(); // while there is a network to have it from
    bench::in_its_own_network("emulator::clients::python_on_the_bench");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by pythons_device_client_lives_on_a_board_at_another_address"]
async fn python_on_the_bench() {
    let folder = bench::folder();
    let bench = Bench::new();
    let (process, said) = bench::cloud(&folder.join("cloud"));
    let pki = Pki::new();
    let ([x509, key, _], devices) = devices(&pki);
    bench::enroll(&said, "py-x509", &x509.1).await;
    bench::enroll(&said, "py-key", &key.1).await;
    let given = json!({
        "host": bench::CLOUD,
        "scope": said["id_scope"],
        "ca": said["ca_pem"],
        "devices": [devices[0], devices[1]],
    });
    let mut command = bench.on_the_board("timeout");
    command
        .args(["--kill-after=5", "60"])
        .arg(install::python());
    command.arg(install::sources().join("client.py"));
    let lives = objects(&crate::support::run(command.arg(given.to_string())));
    assert!(
        lives.iter().all(|life| life["hub"] == bench::CLOUD),
        "{lives:?}"
    );
    assert_eq!(lives.len(), 2);
    lived(&lives[0], "py-x509", "py-x509");
    lived(&lives[1], "py-key", "py-2");
    process.terminate();
    assert_eq!(process.end().code(), Some(0));
}

#[tokio::test]
async fn nodes_service_client_enrolls_and_its_device_client_registers() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new();
    let leaf = pki.self_signed("node-x509");
    let (certificate, key) = leaf.files();
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let net = Net::start(dir.path(), &NAMES);
    let given = json!({
        "connection": net.said["connection_string"],
        "host": NAMES[0],
        "scope": net.said["id_scope"],
        "certificate": read(certificate),
        "key": read(key),
        "endorsementKey": SAMPLE_EK,
    });
    let mut command = net.command(Path::new("node"));
    command
        .arg(install::sources().join("client.js"))
        .arg(given.to_string())
        .env("NODE_PATH", install::node())
        .env("NODE_EXTRA_CA_CERTS", support::text(&net.said["ca_pem"]));
    let ended = crate::support::run(&mut command);
    let said = &objects(&ended)[0];
    net.end();
    assert_eq!(
        (&said["updated"], &said["stale"]),
        (&json!(true), &json!(412)),
        "{said}"
    );
    assert_eq!(said["read"], "node-1");
    let good = json!({"isSuccessful": true, "errors": []});
    assert_eq!((&said["bulk"], &said["gone"]), (&good, &good), "{said}");
    assert_eq!(said["again"]["isSuccessful"], false);
    let pages = said["pages"].as_array().unwrap().iter();
    let sizes: Vec<_> = pages.map(|page| page.as_array().unwrap().len()).collect();
    assert_eq!(sizes, [5, 5, 2]);
    assert_eq!(said["groups"], json!([["node-group"]]));
    let registered = said["registered"].as_array().unwrap();
    let devices: Vec<_> = registered.iter().map(|r| &r["deviceId"]).collect();
    assert_eq!(devices, ["node-1", "node-key", "node-member"]);
    for one in registered {
        assert_eq!(
            (&one["status"], &one["substatus"]),
            (&json!("assigned"), &json!("initialAssignment"))
        );
    }
    assert_eq!(said["refused"], "UnauthorizedError");
    assert_eq!(
        (&said["state"], &said["members"]),
        (&json!("assigned"), &json!([["node-member"]]))
    );
}
