//! A ledger whose open shift has had so many units, all of which passed: made once, and kept for the next time.

use dps_station::ledger::{Claim, Ledger, Options};
use dps_station::provision::bytes::{Blob, Digest};
use dps_station::provision::device::{DeviceId, Identification, RegistrationId, SerialNumber};
use dps_station::provision::event::{EnrollmentRecord, Event, IdentityRef, Purpose, Reservation};
use std::fs;
use std::path::{Path, PathBuf};
use tokio::task::JoinSet;
use ulid::Ulid;

/// The station whose ledger it is; the halls of all benches have this one.
pub const STATION: &str = "line";

/// Units that are under way at a time while it is made: they share the ledger's commits.
const AT_A_TIME: u32 = 64;

/// Bytes of a certificate and of what is signed for it, about as many as a real one has.
const CERTIFICATE: usize = 450;

/// Puts a ledger with so many units where `path` says.
pub async fn put(path: &Path, units: u32) {
    let kept = kept(units);
    if !kept.exists() {
        make(&kept, units).await;
    }
    fs::copy(&kept, path).unwrap();
}

/// Where it is kept; one of other tables is another.
fn kept(units: u32) -> PathBuf {
    let tables = Digest::of(include_bytes!("../../src/ledger/schema.sql"));
    let name = format!("shift-{units}-{tables}.sqlite");
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Makes it in memory, where a sync costs nothing, if there is a place for that.
async fn make(kept: &Path, units: u32) {
    let memory = Path::new("/dev/shm");
    let folder = match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    };
    eprintln!("making a ledger of {units} units, for this time and the next");
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    let opened = Event::ShiftOpened {
        shift: "crowd".to_owned(),
    };
    ledger.record(&opened).await.unwrap();
    let mut workers = JoinSet::new();
    for worker in 0..AT_A_TIME {
        let ledger = ledger.clone();
        workers.spawn(async move {
            for number in (worker..units).step_by(AT_A_TIME as usize) {
                pass(&ledger, number).await;
            }
        });
    }
    while let Some(worked) = workers.join_next().await {
        worked.unwrap();
    }
    ledger.close().await.unwrap();
    // Whole or not at all: another bench may look for it.
    let aside = kept.with_extension("new");
    fs::copy(&path, &aside).unwrap();
    fs::rename(&aside, kept).unwrap();
}

/// Opens a ledger of [`STATION`].
pub fn open(path: &Path) -> Ledger {
    let options = Options {
        path: path.to_path_buf(),
        station: STATION.to_owned(),
        clock: now_ms,
        progress: |_| {},
        max_pages: None,
    };
    Ledger::open(options).unwrap()
}

/// The device of this number.
pub fn device(number: u32) -> DeviceId {
    DeviceId::parse(&format!("gw-{number:08}")).unwrap()
}

/// The microcontroller of this number.
pub fn uid(number: u32) -> Blob {
    Blob(format!("uid-{number:08}").into_bytes())
}

/// What a line records of a device that passes.
pub async fn pass(ledger: &Ledger, number: u32) {
    let attempt = Ulid::generate();
    let arrived = Event::Arrived {
        bay: "1".to_owned(),
        port: "/dev/serial/by-path/1".to_owned(),
    };
    ledger.arrive(attempt, &arrived).await.unwrap();
    let identified = Event::Identified {
        identification: Identification {
            device_id: device(number),
            blank: false,
            model: "GW".to_owned(),
            firmware: "1.0.0".to_owned(),
            uid: uid(number),
            boots: 1,
            sealed: false,
            tpm: false,
            holds: Digest([0; 32]),
            stock: false,
        },
        assigned: None,
        scanned: None,
    };
    let (claim, _) = ledger.identify(attempt, &identified).await.unwrap();
    job(ledger, &claim, number).await;
}

async fn job(ledger: &Ledger, claim: &Claim, number: u32) {
    let mut bytes = vec![0x5a; CERTIFICATE];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    let mut octets = [0x41; SerialNumber::OCTETS];
    octets[4..8].copy_from_slice(&number.to_be_bytes());
    let serial = SerialNumber::from_random(octets);
    let registration_id = RegistrationId::of_device(&device(number));
    let append = async |event: Event| {
        let product = Some(Digest([7; 32]));
        ledger.append(claim, product, &event).await.unwrap();
    };
    append(Event::Accepted {
        product: "gateway".to_owned(),
        product_digest: Digest([7; 32]),
    })
    .await;
    append(Event::KeyRead {
        csr: Blob(bytes.clone()),
        public_key: Blob(bytes[..91].to_vec()),
    })
    .await;
    append(Event::RegistrationIdDerived {
        registration_id: registration_id.clone(),
    })
    .await;
    append(Event::SerialReserved {
        reservation: Reservation {
            purpose: Purpose::Leaf,
            ca: "line".to_owned(),
            serial: serial.clone(),
            tbs: Blob(bytes.clone()),
        },
    })
    .await;
    let certificate_sha256 = Digest::of(&bytes);
    append(Event::Signed {
        serial,
        result: Blob(bytes),
    })
    .await;
    let enrollment = EnrollmentRecord {
        dps: "main".to_owned(),
        registration_id,
        device_id: device(number),
        identity: IdentityRef::X509 { certificate_sha256 },
        initial_desired: None,
        initial_tags: None,
        content: Default::default(),
    };
    append(Event::Passed { enrollment }).await;
}

fn now_ms() -> i64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    i64::try_from(now.as_millis()).unwrap()
}
