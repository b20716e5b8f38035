//! After the upload: what became of the devices.

use crate::emulator::support::Pki;
use crate::lists::{Desk, endorsement_key, provision};
use dps_station::ledger::LedgerError;
use dps_station::provision::bytes::Digest;
use dps_station::provision::device::DeviceId;
use dps_station::provision::device::RegistrationId;
use dps_station::provision::event::{EnrollmentRecord, IdentityRef};
use dps_station::provision::event::{Event, Order};
use dps_station::provision::fault::Fault;
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

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_orders_is_done_once_by_its_tag_and_on_record() {
    let desk = desk().await;
    // Someone else's tag in our record, which no order loses.
    let mut body = desk.held("gw-1").await;
    body["initialTwin"] = json!({"tags": {"room": 7}});
    let tag = body["etag"].as_str().unwrap().to_owned();
    let put = desk.cloud.put("/enrollments/gw-1", &body, Some(&tag)).await;
    assert_eq!(put.status, 200, "{put:?}");

    let shown = desk.station(&["enrollment", "show", "GW-1", "gw-3", "gw-9", "--json"]);
    assert_eq!(shown.code(), Some(1), "{shown:?}");
    let shown = shown.objects();
    assert_eq!((&shown[0]["id"], shown.len()), (&json!("gw-9"), 3));
    let first = shown
        .iter()
        .find(|line| line["registration_id"] == "gw-1")
        .unwrap();
    assert_eq!(
        (&first["state"], &first["service"]["status"]),
        (&json!("enrolled"), &json!("enabled"))
    );
    assert_eq!(first["service"]["registration"]["status"], "assigned");
    let told = desk.station(&["enrollment", "show", "gw-1"]);
    assert!(
        told.stdout.contains("enrolled here") && told.stdout.contains("last contact"),
        "{told:?}"
    );

    let order = |verb: &str, more: &[&str]| {
        let said = [
            "--json",
            "--by",
            "Ada",
            "--reason",
            "returned from the field",
        ];
        desk.station(&[&["enrollment", verb][..], more, &said].concat())
    };
    for (verb, state, status) in [
        ("disable", "disabled", "disabled"),
        ("enable", "enrolled", "enabled"),
    ] {
        let ended = order(verb, &["GW-1"]);
        assert_eq!(ended.code(), Some(0), "{ended:?}");
        let last = ended.objects().pop().unwrap();
        assert_eq!(
            (&last["registration_id"], &last["state"]),
            (&json!("gw-1"), &json!(state))
        );
        let held = desk.held("gw-1").await;
        assert_eq!(held["provisioningStatus"], status);
        assert_eq!(held["initialTwin"]["tags"], json!({"room": 7}));
    }
    let ended = order("delete", &["gw-1", "gw-2"]);
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    for (id, status) in [("gw-1", 404), ("gw-2", 404), ("gw-3", 200)] {
        assert_eq!(
            desk.cloud.get(&format!("/enrollments/{id}")).await.status,
            status
        );
    }
    let again = order("delete", &["gw-1"]);
    assert_eq!(again.code(), Some(1), "{again:?}");
    let reconciled = desk.station(&["reconcile"]);
    assert_eq!(reconciled.code(), Some(0), "{reconciled:?}");

    let events = desk.station(&["ledger", "show", "--json"]).objects();
    let orders: Vec<_> = events
        .iter()
        .filter(|event| event["event"]["kind"] == "enrollment_ordered")
        .collect();
    assert_eq!(orders.len(), 4);
    for order in orders {
        assert_eq!(
            (&order["operator"], &order["because"]),
            (&json!("Ada"), &json!("returned from the field"))
        );
    }
    let counted = |kind: &str| {
        events
            .iter()
            .filter(|event| event["event"]["kind"] == kind)
            .count()
    };
    assert_eq!(counted("enrollment_deleted"), 2);
    desk.is_whole();

    // What was deleted may be listed again.
    let ended = desk.station(&["enroll", "--csv", "list.csv", "--dps", "main", "--json"]);
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert_eq!(desk.held("gw-2").await["provisioningStatus"], "enabled");
    desk.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_was_cut_off_is_carried_out_by_the_next_upload() {
    let desk = desk().await;
    let ledger = desk.ledger();
    for (id, order) in [("gw-2", Order::Delete), ("gw-3", Order::Disable)] {
        let registration_id = RegistrationId::parse(id).unwrap();
        let ordered = Event::EnrollmentOrdered {
            registration_id,
            order,
        };
        ledger.record(&ordered).await.unwrap();
    }
    ledger.close().await.unwrap();
    let ended = desk.station(&["enroll"]);
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert_eq!(desk.cloud.get("/enrollments/gw-2").await.status, 404);
    assert_eq!(desk.held("gw-3").await["provisioningStatus"], "disabled");
    let writes = desk.writes().len();
    assert_eq!(desk.station(&["enroll"]).code(), Some(0));
    assert_eq!(desk.writes().len(), writes);
    desk.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_order_lets_a_unit_register_that_did_not_pass() {
    let desk = Desk::new().await;
    let ledger = desk.ledger();
    let claim = provision(&ledger, "GW-1", "gw-1", 1).await.unwrap();
    let registration_id = RegistrationId::parse("gw-1").unwrap();
    let failed = Event::Failed {
        fault: Fault::ProofFailed,
        disable: Some(Box::new(EnrollmentRecord {
            dps: "main".to_owned(),
            registration_id: registration_id.clone(),
            device_id: DeviceId::parse("GW-1").unwrap(),
            identity: IdentityRef::Tpm {
                endorsement_key_sha256: Digest::of(&endorsement_key(1).0),
            },
            initial_desired: None,
            initial_tags: None,
            content: Default::default(),
        })),
    };
    ledger.append(&claim, None, &failed).await.unwrap();
    for order in [Order::Enable, Order::Delete] {
        let registration_id = registration_id.clone();
        let ordered = Event::EnrollmentOrdered {
            registration_id,
            order,
        };
        let refused = ledger.record(&ordered).await.unwrap_err();
        assert!(matches!(refused, LedgerError::Illegal(_)), "{refused:?}");
    }
    ledger.close().await.unwrap();
    assert_eq!(desk.station(&["enroll"]).code(), Some(0));
    for verb in ["enable", "delete"] {
        let ended = desk.station(&["enrollment", verb, "GW-1"]);
        assert_eq!(ended.code(), Some(1), "{ended:?}");
        assert!(ended.stdout.contains("cannot be ordered so"), "{ended:?}");
    }
    assert_eq!(desk.held("gw-1").await["provisioningStatus"], "disabled");
    desk.is_whole();
}
