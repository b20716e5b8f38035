//! The stored form of every kind of event, and of the tables: neither changes without a version that says so.

use super::*;
use dps_station::provision::content::{Allocation, Content, Filled, Reprovision};
use dps_station::provision::event::stored::VERSIONS;
use dps_station::provision::event::{Balance, EnrolledIdentity, Enrollment, Listing, Order};
use dps_station::provision::health::LinkHealth;
use dps_station::provision::loopback::{Errors, Loopback, ModemLines, RateResult};
use dps_station::provision::naming::IdFormat;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// All forms that ever were, by the ledger's version: the schema's digest, and each kind's version and shapes.
/// An entry is never changed once it is on `main`: a new form is a new entry.
const FORMS: &str = "fixtures/ledgers/forms.json";

#[tokio::test]
async fn no_form_changes_without_a_version() {
    let folder = folder();
    let ledger = open(&folder.path().join("ledger.sqlite"));
    let version = ledger.pragmas().await.unwrap().user_version.to_string();
    let forms = recorded_forms();
    let now = forms_now();
    assert!(
        forms.get(&version) == Some(&now),
        "{FORMS} has other forms for version {version}: raise the version of each kind whose body changed and that of \
         the ledger, and add this entry for it: {now:#}"
    );
    assert_eq!(forms.keys().max(), Some(&version), "{FORMS}");
}

#[test]
fn every_kind_is_in_the_table_of_versions() {
    let known: BTreeSet<_> = VERSIONS
        .iter()
        .map(|(kind, _)| (*kind).to_owned())
        .collect();
    let sampled = samples();
    let sampled: BTreeSet<_> = sampled
        .iter()
        .map(|event| event.kind().to_owned())
        .collect();
    assert_eq!(sampled, known);
    for event in samples() {
        let body = serde_json::to_value(&event).unwrap();
        assert!(
            body.get("because").is_none(),
            "that is where the reason stands"
        );
    }
}

#[test]
fn each_version_of_a_kind_has_one_form() {
    let forms = recorded_forms();
    let entries: Vec<_> = forms.values().collect();
    for pair in entries.windows(2) {
        let [before, after] = [&pair[0]["kinds"], &pair[1]["kinds"]];
        assert!(pair[0] != pair[1], "a version without a change");
        for (kind, old) in before.as_object().unwrap() {
            let new = &after[kind];
            let (old_version, new_version) = (old["version"].as_u64(), new["version"].as_u64());
            let changed = old["bodies"] != new["bodies"];
            assert!(new_version >= old_version, "{kind}");
            assert!(!changed || new_version > old_version, "{kind} changed");
        }
    }
}

fn recorded_forms() -> Map<String, Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FORMS);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn forms_now() -> Value {
    let mut kinds = Map::new();
    for event in samples() {
        let body = serde_json::to_value(&event).unwrap();
        let form = kinds
            .entry(event.kind())
            .or_insert_with(|| json!({"version": event.version(), "bodies": []}));
        form["bodies"].as_array_mut().unwrap().push(shape(&body));
    }
    let schema = Digest::of(include_bytes!("../../../src/ledger/schema.sql"));
    json!({"schema_sha256": schema, "kinds": kinds})
}

/// What kind of value stands where.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null => json!("null"),
        Value::Bool(_) => json!("boolean"),
        Value::Number(_) => json!("number"),
        Value::String(_) => json!("string"),
        Value::Array(items) => items.iter().map(shape).collect(),
        Value::Object(members) => {
            let shapes = members
                .iter()
                .map(|(name, value)| (name.clone(), shape(value)));
            Value::Object(shapes.collect())
        }
    }
}

/// Each kind of event with all that it may hold; a kind whose parts exclude one another has one sample for each.
fn samples() -> Vec<Event> {
    [attempts(), job(), ends(), station(), uploads()].concat()
}

fn holding() -> Holding {
    Holding {
        id_scope: "0ne".to_owned(),
        global_endpoint: "dps".to_owned(),
        registration_id: "gw-001".to_owned(),
        certificate_sha256: Some(Digest([1; 32])),
    }
}

fn attempts() -> Vec<Event> {
    vec![
        arrived(),
        Event::Identified {
            identification: Identification {
                device_id: device(1),
                blank: true,
                model: "M".to_owned(),
                firmware: "1".to_owned(),
                uid: Blob(vec![1]),
                boots: 1,
                sealed: false,
                tpm: false,
                holds: Digest([0; 32]),
                stock: true,
            },
            assigned: Some(device(1)),
            scanned: Some("GW-001".to_owned()),
        },
        Event::IdCheckedOut {
            device_id: device(1),
            format: IdFormat::parse("GW-###").unwrap(),
            uid: Blob(vec![1]),
        },
        Event::IdReturned {
            device_id: device(1),
            uid: Blob(vec![1]),
            reason: Box::new(Fault::ProofFailed),
        },
        Event::LinkMeasured {
            health: LinkHealth::default(),
        },
        interrupted(),
    ]
}

fn job() -> Vec<Event> {
    let endorsement = |verdict| {
        Event::EndorsementRead(Box::new(EndorsementRecord {
            endorsement_key: Blob(vec![1]),
            storage_root_key: Blob(vec![2]),
            certificate: Some(Blob(vec![3])),
            chain: Some(Blob(vec![4])),
            persisted: true,
            verdict,
        }))
    };
    let word = || "x".to_owned();
    vec![
        Event::Accepted {
            product: word(),
            product_digest: Digest([1; 32]),
        },
        key_read(1),
        endorsement(EndorsementVerdict::Genuine {
            manufacturer: word(),
            model: word(),
            version: word(),
            anchor: word(),
            roots_digest: Digest([1; 32]),
        }),
        endorsement(EndorsementVerdict::Waived {
            reason: Some(word()),
            missing: Some(Box::new(Fault::EkCertificateMissing)),
        }),
        derived(1),
        reserved(Purpose::Leaf, 1),
        abandoned(1),
        signed(1),
        Event::Written { asked: holding() },
        Event::Restarted {
            boots_before: 1,
            boots_after: 2,
        },
        Event::ReadBack {
            observed: holding(),
            value_limit: Some(64),
            by_digest: true,
        },
        Event::Proved {
            proof: Proof::Signature {
                nonce: Digest([3; 32]),
                signature: Blob(vec![6]),
            },
        },
        Event::Proved {
            proof: Proof::TpmRehearsal {
                signed: word(),
                hmac: Digest([3; 32]),
            },
        },
        Event::Sealed {
            holds: Digest([5; 32]),
        },
        Event::Recognised {
            holds: Digest([5; 32]),
        },
    ]
}

/// All that an enrollment may say.
fn content() -> Content {
    Content {
        iot_edge: true,
        allocation: Some(Allocation::Custom {
            webhook_url: "https://x".to_owned(),
            api_version: "1".to_owned(),
        }),
        iot_hubs: vec!["hub".to_owned()],
        reprovision: Some(Reprovision::Never),
        ca_reference: Some("root".to_owned()),
        filled: Some(Filled {
            shift: "early".to_owned(),
            firmware: "1".to_owned(),
        }),
    }
}

fn ends() -> Vec<Event> {
    let tpm = || EnrollmentRecord {
        identity: IdentityRef::Tpm {
            endorsement_key_sha256: Digest([1; 32]),
        },
        ..enrollment(1)
    };
    vec![
        passed(1),
        Event::Passed { enrollment: tpm() },
        Event::Passed {
            enrollment: EnrollmentRecord {
                initial_tags: Some(json!({"line": "3"})),
                content: content(),
                ..enrollment(1)
            },
        },
        Event::Injected {
            observed: holding(),
            endpoint_prefix: Some(12),
        },
        failed(Some(1)),
        Event::Failed {
            fault: fault(),
            disable: Some(Box::new(tpm())),
        },
        Event::Errored { fault: fault() },
    ]
}

fn station() -> Vec<Event> {
    let result = Loopback {
        rates: vec![RateResult {
            baud: 1,
            bytes: 1,
            errors: Errors::default(),
            latency_median_us: 1,
            latency_max_us: 1,
            bytes_per_second: 1,
            passed: true,
        }],
        lines: ModemLines {
            rts_cts: Some(true),
            dtr_dsr: Some(true),
            dtr_dcd: Some(true),
        },
    };
    vec![
        Event::LoopbackTested {
            bay: Some("1".to_owned()),
            port: "/dev/ttyUSB0".to_owned(),
            result: Box::new(result),
            passed: true,
        },
        Event::ShiftOpened {
            shift: "early".to_owned(),
        },
        Event::ShiftClosed {
            shift: "early".to_owned(),
            balance: Balance::default(),
        },
    ]
}

fn listed() -> Event {
    Event::Listed(Box::new(Listing {
        enrollment: Enrollment {
            dps: "main".to_owned(),
            registration_id: registration_id(1),
            device_id: DeviceId::parse("GW-1").unwrap(),
            identity: EnrolledIdentity::X509 {
                certificate: Blob(vec![1]),
            },
            initial_desired: Some(json!({"every": 1})),
            initial_tags: Some(json!({"site": "A"})),
            content: Default::default(),
        },
        public_key: Some(Blob(vec![2])),
        file: "list.csv".to_owned(),
        file_sha256: Digest::of(b"list"),
        line: 2,
    }))
}

fn uploads() -> Vec<Event> {
    vec![
        listed(),
        Event::EnrollmentOrdered {
            registration_id: registration_id(1),
            order: Order::Enable,
        },
        Event::EnrollmentDeleted {
            registration_id: registration_id(1),
        },
        charged(&[1]),
        Event::ServiceBusy {
            dps: "main".to_owned(),
            pause_ms: 1,
        },
        Event::UploadPaused {
            dps: "main".to_owned(),
        },
        Event::UploadResumed {
            dps: "main".to_owned(),
        },
        enrolled(1),
        Event::EnrollmentRefused {
            registration_id: registration_id(1),
            fault: fault(),
        },
        Event::EnrollmentDisabled {
            registration_id: registration_id(1),
        },
        Event::EnrollmentDeferred {
            registration_id: registration_id(1),
            fault: fault(),
            next_try_ms: 5,
        },
        retried(1),
    ]
}
