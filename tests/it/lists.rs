//! Lists: what people have without a line is classed line by line, and enrolled with the promises of the line.

use crate::emulator::support::{Cloud, SAMPLE_EK};
use crate::support::{Ended, run};
use data_encoding::BASE64;
use dps_station::ledger::{Claim, Ledger, LedgerError, Options, verify};
use dps_station::provision::bytes::{Blob, Digest};
use dps_station::provision::device::{DeviceId, Identification, RegistrationId};
use dps_station::provision::event::{
    EndorsementRecord, EndorsementVerdict, EnrolledIdentity, Enrollment, Event, Listing,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;
use ulid::Ulid;

/// A folder with a `station.toml` that has no line, beside an emulated DPS.
pub struct Desk {
    pub cloud: Cloud,
    pub dir: TempDir,
}

impl Desk {
    pub async fn new() -> Self {
        let cloud = Cloud::start().await;
        let dir = tempfile::tempdir().unwrap();
        let desk = Self { cloud, dir };
        desk.write("station.toml", desk.configuration().as_bytes());
        desk
    }

    fn configuration(&self) -> String {
        let emulator = self.cloud.emulator();
        format!(
            "[station]\nid = \"S1\"\nsimulated = true\nledger = \"ledger.sqlite\"\n\n[[dps]]\nname = \"main\"\n\
             id_scope = {:?}\nglobal_endpoint = \"localhost:{port}\"\nservice_url = \"https://localhost:{port}\"\n\
             credential = {:?}\nca_file = {:?}\nshare = 1000\n",
            self.cloud.id_scope(),
            emulator.connection_string(),
            emulator.ca_file(),
            port = emulator.port(),
        )
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.dir.path().join(name), bytes).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
        command.args(arguments).current_dir(self.dir.path());
        command
    }

    pub fn station(&self, arguments: &[&str]) -> Ended {
        run(&mut self.command(arguments))
    }

    /// The list, uploaded with these further arguments.
    fn enroll(&self, more: &[&str]) -> Ended {
        let list = ["enroll", "--csv", "list.csv", "--dps", "main"];
        self.station(&[&list[..], more].concat())
    }

    pub fn ledger(&self) -> Ledger {
        Ledger::open(Options {
            path: self.path("ledger.sqlite"),
            station: "S1".to_owned(),
            clock: || 1_800_000_000_000,
            progress: |_| {},
            max_pages: None,
        })
        .unwrap()
    }

    /// The writes that took effect, as (`op`, `registrationId`).
    pub fn writes(&self) -> Vec<(String, String)> {
        self.cloud.ops().into_iter().zip(self.cloud.ids()).collect()
    }

    /// What the service holds under this ID.
    pub async fn held(&self, id: &str) -> Value {
        let reply = self.cloud.get(&format!("/enrollments/{id}")).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.body
    }

    pub fn is_whole(&self) {
        assert_eq!(verify(&self.path("ledger.sqlite")).unwrap().damages, []);
    }
}

/// An endorsement key of its own for each number: the sample's with another modulus.
pub fn endorsement_key(number: u32) -> Blob {
    let mut octets = BASE64.decode(SAMPLE_EK.as_bytes()).unwrap();
    let end = octets.len();
    octets[end - 12..end - 8].copy_from_slice(&number.to_be_bytes());
    Blob(octets)
}

fn ek(number: u32) -> String {
    endorsement_key(number).base64()
}

/// A certificate for this name, in PEM and in DER.
fn certificate(name: &str) -> (String, Vec<u8>) {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), certificate.der().to_vec())
}

/// What is said of each line, by its number: registration ID, class, why.
fn said(ended: &Ended) -> BTreeMap<u64, (String, String, String)> {
    let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let lines = ended
        .objects()
        .into_iter()
        .filter(|line| line["line"].is_u64());
    lines
        .map(|line| {
            let what = (
                text(&line, "registration_id"),
                text(&line, "class"),
                text(&line, "why"),
            );
            (line["line"].as_u64().unwrap(), what)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_is_classed_and_a_bad_one_stops_no_other() {
    let desk = Desk::new().await;
    let (pem, _) = certificate("Cam-7");
    let (_, der) = certificate("cam-8");
    desk.write("cam-7.pem", pem.as_bytes());
    desk.write("cam-8.der", &der);
    desk.write("other.pem", certificate("other").0.as_bytes());
    let rows = [
        // Another order than that of the documents, a column that nobody reads, and a byte order mark.
        "\u{feff}tags,Attestation,registrationid,deviceId,endorsementKey,certificate,comment"
            .to_owned(),
        format!(
            "\"{{\"\"site\"\": \"\"A, B\"\"}}\",tpm,GW-1,Gateway-1,{},,first",
            ek(1)
        ),
        ",x509,Cam-7,,,cam-7.pem,".to_owned(),
        ",,cam-8,Cam-8,,cam-8.der,".to_owned(),
        ",tpm,gw-4,GW-4,AToAAQ==,,".to_owned(),
        format!(",tpm,gw-5,GW 5,{},,", ek(5)),
        format!(",pgp,gw-6,GW-6,{},,", ek(6)),
        ",x509,gw-7,GW-7,,nowhere.pem,".to_owned(),
        ",x509,gw-8,GW-8,,other.pem,".to_owned(),
        format!("[1],tpm,gw-9,GW-9,{},,", ek(9)),
        format!("\"{{\"\"$a\"\": 1}}\",tpm,gw-10,GW-10,{},,", ek(10)),
        format!("\"oh,tpm,gw-11,GW-11,{},,", ek(11)),
        format!(",tpm,gw-12,GW-12,{}", ek(12)),
        format!(",tpm,gw-13,GW-13,{},,the same again", ek(13)),
        format!(",tpm,GW-13,GW-13,{},,the same again", ek(13)),
        format!(",tpm,gw-14,GW-14,{},,", ek(14)),
        format!(",tpm,gw-15,GW-15,{},,the key of gw-14", ek(14)),
        format!(",tpm,gw-16,GW-16,{},,last", ek(16)),
    ];
    desk.write("list.csv", rows.join("\r\n").as_bytes());

    let foreseen = desk.enroll(&["--dry-run", "--json"]);
    assert_eq!(foreseen.code(), Some(1), "{foreseen:?}");
    assert!(foreseen.stderr.contains("comment"), "{foreseen:?}");
    let lines = said(&foreseen);
    let of = |class: &str| -> Vec<u64> {
        let lines = lines.iter().filter(|(_, (_, found, _))| found == class);
        lines.map(|(number, _)| *number).collect()
    };
    assert_eq!(of("new"), [2, 3, 4, 14, 18]);
    assert_eq!(of("malformed"), [5, 6, 7, 8, 9, 10, 11, 12, 13]);
    assert_eq!(of("twice"), [15, 16, 17]);
    for (line, words) in [
        (5, "endorsementKey"),
        (6, "deviceId must not contain ' '"),
        (7, "\"pgp\""),
        (8, "certificate names a file that cannot be read"),
        (9, "\"other\""),
        (10, "tags is no JSON object"),
        (11, "tags has what no twin takes ($a"),
        (12, "quotation marks"),
        (13, "5 fields, and the header 7"),
        (15, "line 14"),
        (16, "line 17"),
        (17, "line 16"),
    ] {
        assert!(lines[&line].2.contains(words), "{line}: {:?}", lines[&line]);
    }
    assert_eq!(lines[&3].0, "cam-7");
    assert_eq!(desk.writes(), []);

    let ended = desk.enroll(&["--json"]);
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    assert_eq!(said(&ended), lines);
    let sum = ended
        .objects()
        .into_iter()
        .find(|line| line["lines"].is_u64())
        .unwrap();
    assert_eq!(
        (&sum["lines"], &sum["new"], &sum["malformed"]),
        (&json!(17), &json!(5), &json!(9))
    );
    let mut written = desk.writes();
    written.sort();
    let created = ["cam-7", "cam-8", "gw-1", "gw-13", "gw-16"];
    assert_eq!(
        written,
        created.map(|id| ("create".to_owned(), id.to_owned()))
    );
    let first = desk.held("gw-1").await;
    assert_eq!(first["deviceId"], "Gateway-1");
    assert_eq!(first["initialTwin"]["tags"], json!({"site": "A, B"}));
    assert_eq!(first["attestation"]["tpm"]["endorsementKey"], ek(1));
    let thumbprint = Digest::of(&der).to_string().to_ascii_uppercase();
    let info =
        &desk.held("cam-8").await["attestation"]["x509"]["clientCertificates"]["primary"]["info"];
    assert_eq!(
        info["sha256Thumbprint"]
            .as_str()
            .unwrap()
            .to_ascii_uppercase(),
        thumbprint
    );

    let again = desk.enroll(&["--json"]);
    let same = said(&again)
        .values()
        .filter(|(_, class, _)| class == "same")
        .count();
    assert_eq!((again.code(), same, desk.writes().len()), (Some(1), 5, 5));
    desk.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_listed_is_on_record_as_from_a_list_and_counts_as_no_unit() {
    let desk = Desk::new().await;
    let list = format!(
        "registrationId,endorsementKey\ngw-1,{}\ngw-2,{}\n",
        ek(1),
        ek(2)
    );
    desk.write("list.csv", list.as_bytes());
    assert_eq!(desk.station(&["shift", "open", "early"]).code(), Some(0));
    let ended = desk.enroll(&["--json", "--by", "Ada", "--reason", "the old stock"]);
    assert_eq!(
        (ended.code(), desk.writes().len()),
        (Some(0), 2),
        "{ended:?}"
    );

    let shown = desk.station(&["ledger", "show", "--json"]).objects();
    let listed: Vec<_> = shown
        .iter()
        .filter(|event| event["event"]["kind"] == "listed")
        .collect();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[1]["event"]["line"], 3);
    assert_eq!(listed[1]["event"]["file"], "list.csv");
    assert_eq!(
        listed[1]["event"]["file_sha256"],
        Digest::of(list.as_bytes()).to_string()
    );
    assert_eq!(
        (&listed[1]["operator"], &listed[1]["because"]),
        (&json!("Ada"), &json!("the old stock"))
    );
    let of_one = desk.station(&["ledger", "show", "--device", "gw-2"]);
    assert!(of_one.stdout.contains("from a list"), "{of_one:?}");

    let report = desk.station(&["shift", "report", "--json"]);
    let report = &report.objects()[0];
    for count in ["scanned", "passed", "enrolled", "pending", "open_after"] {
        assert_eq!(report["balance"][count], 0, "{report}");
    }
    assert_eq!(
        report["listed"],
        json!({"enrolled": 2, "pending": 0, "refused": 0, "disabled": 0})
    );
    let told = desk.station(&["shift", "report"]);
    assert!(told.stdout.contains("from a list: 2 enrolled"), "{told:?}");
    let reconciled = desk.station(&["reconcile"]);
    assert_eq!(reconciled.code(), Some(0), "{reconciled:?}");
    assert!(
        reconciled.stdout.contains("2 from a list"),
        "{reconciled:?}"
    );
    assert_eq!(desk.ledger().units().await.unwrap(), []);
    desk.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_a_unit_of_the_line_is_refused_by_its_name() {
    let desk = Desk::new().await;
    let ledger = desk.ledger();
    provision(&ledger, "GW-1", "gw-1", 1).await.unwrap();
    ledger.close().await.unwrap();
    let mut list = "registrationId,deviceId,endorsementKey\n".to_owned();
    list += &format!("gw-1,GW-1,{}\n", ek(1));
    list += &format!("gw-2,GW-2,{}\n", ek(1));
    list += &format!("gw-1,GW-3,{}\n", ek(3));
    list += &format!("gw-4,GW-1,{}\n", ek(4));
    list += &format!("gw-5,GW-5,{}\n", ek(5));
    // One line each, so that none is against another of the list.
    let header = list.lines().next().unwrap().to_owned();
    let mut found = Vec::new();
    for line in list.lines().skip(1) {
        desk.write("list.csv", format!("{header}\n{line}\n").as_bytes());
        let ended = desk.enroll(&["--dry-run", "--json"]);
        found.extend(said(&ended).into_values());
    }
    let classes: Vec<_> = found.iter().map(|(_, class, _)| class.as_str()).collect();
    assert_eq!(classes, ["known", "known", "known", "known", "new"]);
    assert!(
        found[1]
            .2
            .contains("endorsement key is on record as GW-1's"),
        "{found:?}"
    );
    assert!(
        found[2]
            .2
            .contains("registration ID is on record as GW-1's"),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_listed_is_not_taken_by_a_unit_of_the_line() {
    let desk = Desk::new().await;
    let ledger = desk.ledger();
    let listing = Listing {
        enrollment: Enrollment {
            dps: "main".to_owned(),
            registration_id: RegistrationId::parse("gw-1").unwrap(),
            device_id: DeviceId::parse("GW-1").unwrap(),
            identity: EnrolledIdentity::Tpm {
                endorsement_key: endorsement_key(1),
                storage_root_key: Blob::default(),
            },
            initial_desired: None,
            initial_tags: None,
            content: Default::default(),
        },
        public_key: None,
        file: "list.csv".to_owned(),
        file_sha256: Digest::of(b""),
        line: 2,
    };
    ledger
        .record(&Event::Listed(Box::new(listing)))
        .await
        .unwrap();
    for (device, id, key) in [("GW-2", "gw-2", 1), ("GW-3", "gw-1", 3)] {
        let refused = provision(&ledger, device, id, key).await.unwrap_err();
        let LedgerError::Duplicate { other, .. } = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(other.as_str(), "GW-1");
    }
    ledger.close().await.unwrap();
    desk.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_cannot_be_read_is_said_and_changes_nothing() {
    let desk = Desk::new().await;
    let good = format!("registrationId,endorsementKey\ngw-1,{}\n", ek(1));
    for (list, words) in [
        (&b""[..], "it is empty"),
        (b"deviceId,endorsementKey\n", "registrationId"),
        (b"registrationId,tags\n", "certificate"),
        (b"registrationId,registrationID,certificate\n", "twice"),
        (b"\xff\xfer\0e\0g\0", "UTF-8"),
    ] {
        desk.write("list.csv", list);
        let ended = desk.enroll(&[]);
        assert_eq!(ended.code(), Some(2), "{ended:?}");
        assert!(
            ended.stderr.contains("list.csv, line 1") && ended.stderr.contains(words),
            "{ended:?}"
        );
    }
    desk.write("list.csv", good.as_bytes());
    for (arguments, words) in [
        (
            &["enroll", "--csv", "none.csv", "--dps", "main"][..],
            "none.csv",
        ),
        (&["enroll", "--csv", ".", "--dps", "main"], "is no file"),
        (
            &["enroll", "--csv", "list.csv", "--dps", "west"],
            "\"west\"",
        ),
        (&["enroll", "--csv", "list.csv"], "--dps"),
    ] {
        let ended = desk.station(arguments);
        assert_eq!(ended.code(), Some(2), "{ended:?}");
        assert!(ended.stderr.contains(words), "{ended:?}");
    }
    assert_eq!(desk.writes(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_is_a_list() {
    let desk = Desk::new().await;
    fs::create_dir(desk.path("certificates")).unwrap();
    desk.write(
        "certificates/camera-0002.pem",
        certificate("camera-0002").0.as_bytes(),
    );
    desk.write("list.csv", include_bytes!("../../fixtures/enroll.csv"));
    let ended = desk.enroll(&["--json"]);
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert_eq!(said(&ended).len(), 2);
    assert_eq!(
        desk.held("gateway-0001").await["initialTwin"]["tags"],
        json!({"site": "Hall 3", "line": 2})
    );
}

/// Runs a unit with a TPM until it has its registration ID.
pub async fn provision(
    ledger: &Ledger,
    device: &str,
    id: &str,
    key: u32,
) -> Result<Claim, LedgerError> {
    let (device_id, registration_id) = (
        DeviceId::parse(device).unwrap(),
        RegistrationId::parse(id).unwrap(),
    );
    let attempt = Ulid::generate();
    let arrived = Event::Arrived {
        bay: "1".to_owned(),
        port: "/dev/null".to_owned(),
    };
    ledger.arrive(attempt, &arrived).await?;
    let identified = Event::Identified {
        identification: Identification {
            uid: Blob(device.into()),
            tpm: true,
            ..Identification::of_stock(device_id.clone(), "M")
        },
        assigned: None,
        scanned: None,
    };
    let (claim, _) = ledger.identify(attempt, &identified).await?;
    let endorsed = Event::EndorsementRead(Box::new(EndorsementRecord {
        endorsement_key: endorsement_key(key),
        storage_root_key: Blob::default(), // not known, and so not sent
        certificate: None,
        chain: None,
        persisted: false,
        verdict: EndorsementVerdict::Waived {
            reason: Some("test".to_owned()),
            missing: None,
        },
    }));
    ledger.append(&claim, None, &endorsed).await?;
    let derived = Event::RegistrationIdDerived {
        registration_id: registration_id.clone(),
    };
    ledger.append(&claim, None, &derived).await?;
    Ok(claim)
}
