//! After the upload: what became of the devices.

use crate::emulator::support::Pki;
use crate::lists::{Desk, endorsement_key};
use serde_json::{Value, json};
use std::fs;

/// Three devices in the cloud: one that has registered, one that has not, and one with a key of a TPM.
async fn desk() -> Desk {
    let desk = Desk::new().await;
    let authority = Pki::new();
    let mut list = "registrationId,deviceId,certificate,endorsementKey\n".to_owned();
    for id in ["gw-1", "gw-2"] {
        let leaf = authority.self_signed(id);
        desk.write(&format!("{id}.pem"), leaf.pem().as_bytes());
        list += &format!("{id},{},{id}.pem,\n", id.to_ascii_uppercase());
        if id == "gw-1" {
            desk.write("list.csv", list.as_bytes());
            let ended = desk.station(&["enroll", "--csv", "list.csv", "--dps", "main"]);
            assert_eq!(ended.code(), Some(0), "{ended:?}");
            desk.cloud.boot(id, &[&leaf], &leaf).await.unwrap();
        }
    }
    list += &format!("gw-3,GW-3,,{}\n", endorsement_key(3).base64());
    desk.write("list.csv", list.as_bytes());
    let ended = desk.station(&["enroll", "--csv", "list.csv", "--dps", "main"]);
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    desk
}

#[tokio::test(flavor = "multi_thread")]
async fn reconcile_shows_what_became_of_the_devices() {
    let desk = desk().await;
    let arrivals = desk.cloud.lines("registrations.jsonl").len();
    let ended = desk.station(&["reconcile", "--json", "--devices", "devices.jsonl"]);
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    let sum = &ended.objects()[0];
    assert_eq!(
        (&sum["dps"], &sum["differences"]),
        (&json!("main"), &json!(0))
    );
    assert_eq!(
        sum["registrations"],
        json!({"assigned": 1, "unassigned": 2})
    );
    let told = desk.station(&["reconcile", "--devices", "devices.csv"]);
    assert!(
        told.stdout
            .contains("registrations: 1 assigned, 2 unassigned"),
        "{told:?}"
    );
    assert_eq!(desk.cloud.lines("registrations.jsonl").len(), arrivals);

    let text = fs::read_to_string(desk.path("devices.jsonl")).unwrap();
    let devices: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let first = &devices[0];
    assert_eq!(
        (&first["registration_id"], &first["device_id"]),
        (&json!("gw-1"), &json!("GW-1"))
    );
    assert_eq!(
        (&first["status"], &first["enrollment"]),
        (&json!("assigned"), &json!("enabled"))
    );
    let hub = first["assigned_hub"].as_str().unwrap();
    assert!(hub.starts_with("hub-"), "{first}");
    let contact = first["last_contact"].as_str().unwrap();
    assert!(contact.ends_with('Z'), "{first}");
    for other in &devices[1..] {
        assert_eq!(other["status"], "unassigned");
        assert_eq!(
            (&other["assigned_hub"], &other["last_contact"]),
            (&Value::Null, &Value::Null)
        );
    }
    let table = fs::read_to_string(desk.path("devices.csv")).unwrap();
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(
        lines[0],
        "dps,registration_id,device_id,enrollment,status,assigned_hub,last_contact,error"
    );
    assert_eq!(
        lines[1],
        format!("\"main\",\"gw-1\",\"GW-1\",\"enabled\",\"assigned\",\"{hub}\",\"{contact}\",\"\"")
    );
    assert_eq!(lines.len(), 4);

    let lost = desk.station(&["reconcile", "--devices", "no/such/folder.csv"]);
    assert_eq!(lost.code(), Some(2), "{lost:?}");
    // Where the service says nothing, no file seems to be whole.
    let good = fs::read_to_string(desk.path("station.toml")).unwrap();
    let stranger = good.replace("SharedAccessKeyName=", "SharedAccessKeyName=no");
    desk.write("station.toml", stranger.as_bytes());
    let lost = desk.station(&["reconcile", "--devices", "lost.csv"]);
    assert_eq!(lost.code(), Some(3), "{lost:?}");
    let left = fs::read_dir(desk.dir.path()).unwrap();
    let mut left = left.map(|file| file.unwrap().file_name().into_string().unwrap());
    assert!(left.all(|name| !name.contains("lost.csv") && !name.contains(".part")));
}
