//! A ledger in which so many units have passed and wait to be enrolled, and the same as a list for others.

use dps_station::ledger::{Happened, Ledger, Options};
use dps_station::provision::bytes::{Blob, Digest};
use dps_station::provision::device::{DeviceId, Identification, RegistrationId, SerialNumber};
use dps_station::provision::event::{EnrollmentRecord, Event, IdentityRef, Purpose, Reservation};
use serde_json::json;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;
use tokio::task::JoinSet;
use ulid::Ulid;

/// Units that are under way at a time: they share the ledger's commits.
const AT_A_TIME: u32 = 64;
/// The octets of a certificate's serial number that stand for the number of its device.
const SERIAL: [u8; 16] = [0x41; 16];

/// Puts a ledger with so many units where `path` says, and their enrollments into the file `list`.
pub async fn put(path: &Path, list: &Path, units: u32) {
    let memory = Path::new("/dev/shm");
    let aside = match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    };
    let fast = aside.path().join("ledger.sqlite");
    let ledger = open(&fast);
    let template = template();
    let mut workers = JoinSet::new();
    for worker in 0..AT_A_TIME {
        let (ledger, template) = (ledger.clone(), template.clone());
        workers.spawn(async move {
            for number in (worker..units).step_by(AT_A_TIME as usize) {
                pass(&ledger, number, certificate(&template, number)).await;
            }
        });
    }
    while let Some(worked) = workers.join_next().await {
        worked.unwrap();
    }
    ledger.close().await.unwrap();
    fs::copy(&fast, path).unwrap();
    let mut list = BufWriter::new(fs::File::create(list).unwrap());
    for number in 0..units {
        let certificate = Blob(certificate(&template, number)).base64();
        let device = device(number);
        let line = json!({"registrationId": RegistrationId::of_device(&device), "deviceId": device,
            "attestation": {"type": "x509", "x509": {"clientCertificates": {"primary": {"certificate": certificate}}}},
            "provisioningStatus": "enabled"});
        writeln!(list, "{line}").unwrap();
    }
}

/// Opens such a ledger.
pub fn open(path: &Path) -> Ledger {
    let options = Options {
        path: path.to_path_buf(),
        station: "line".to_owned(),
        clock: now_ms,
        progress: |_| {},
        max_pages: None,
    };
    Ledger::open(options).unwrap()
}

/// Each charge on record: when, and how many operations.
pub async fn charges(path: &Path) -> Vec<(i64, u32)> {
    let ledger = open(path);
    let mut found = Vec::new();
    let mut from = 1;
    loop {
        let events = ledger.all_events(from, 10_000).await.unwrap();
        let Some(last) = events.last() else {
            return found;
        };
        from = last.seq + 1;
        found.extend(events.iter().filter_map(|recorded| match recorded.event {
            Event::Charged { operations, .. } => Some((recorded.at_ms, operations)),
            _ => None,
        }));
    }
}

pub fn now_ms() -> i64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

fn device(number: u32) -> DeviceId {
    DeviceId::parse(&format!("gw-{number:08}")).unwrap()
}

/// A certificate like any other; its signature does not matter to DPS.
fn template() -> Vec<u8> {
    let mut params = rcgen::CertificateParams::new(["gw".to_owned()]).unwrap();
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&SERIAL));
    let key = rcgen::KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

/// The certificate of the device with this number.
fn certificate(template: &[u8], number: u32) -> Vec<u8> {
    let mut der = template.to_vec();
    let serial = der
        .windows(SERIAL.len())
        .position(|octets| octets == SERIAL);
    let at = serial.unwrap() + SERIAL.len() - 4;
    der[at..at + 4].copy_from_slice(&number.to_be_bytes());
    der
}

/// What a line records of a device that passes, in one commit.
async fn pass(ledger: &Ledger, number: u32, certificate: Vec<u8>) {
    let device_id = device(number);
    let registration_id = RegistrationId::of_device(&device_id);
    let mut octets = [0x41; SerialNumber::OCTETS];
    octets[4..8].copy_from_slice(&number.to_be_bytes());
    let serial = SerialNumber::from_random(octets);
    let events = [
        Event::Arrived {
            bay: "1".to_owned(),
            port: "/dev/serial/by-path/1".to_owned(),
        },
        Event::Identified {
            identification: Identification {
                device_id: device_id.clone(),
                blank: false,
                model: "GW".to_owned(),
                firmware: "1.0.0".to_owned(),
                uid: Blob(format!("uid-{number:08}").into_bytes()),
                boots: 1,
                sealed: false,
                tpm: false,
                holds: Digest([0; 32]),
                stock: false,
            },
            assigned: None,
            scanned: None,
        },
        Event::RegistrationIdDerived {
            registration_id: registration_id.clone(),
        },
        Event::SerialReserved {
            reservation: Reservation {
                purpose: Purpose::Leaf,
                ca: "line".to_owned(),
                serial: serial.clone(),
                tbs: Blob(certificate[..certificate.len() / 2].to_vec()),
            },
        },
        Event::Signed {
            serial,
            result: Blob(certificate.clone()),
        },
        Event::Passed {
            enrollment: EnrollmentRecord {
                dps: "main".to_owned(),
                registration_id,
                device_id,
                identity: IdentityRef::X509 {
                    certificate_sha256: Digest::of(&certificate),
                },
                initial_desired: None,
                initial_tags: None,
                content: Default::default(),
            },
        },
    ];
    let happened = events.map(|event| Happened {
        at_ms: None,
        product_digest: None,
        event,
    });
    ledger.begin(Ulid::generate(), &happened).await.unwrap();
}
