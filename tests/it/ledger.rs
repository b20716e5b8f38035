//! The ledger: what is acknowledged is durable, in one chain, and damage to it shows.
#![allow(clippy::unwrap_used)]

mod damage;
mod durable;
mod forms;
mod golden;
mod migration;
mod person;
mod plans;
mod rules;
mod sync;
mod tally;

use dps_station::ledger::{Claim, Ledger, LedgerError, Options, OutboxFilter, Place, verify};
use dps_station::provision::bytes::{Blob, Digest};
use dps_station::provision::device::{
    DeviceId, Holding, Identification, RegistrationId, SerialNumber,
};
use dps_station::provision::event::{
    EndorsementRecord, EndorsementVerdict, EnrollmentRecord, Event, IdentityRef, Proof, Purpose,
    Recorded, Reservation,
};
use dps_station::provision::fault::{Fault, Unsigned};
use dps_station::provision::verdict::Verdict;
use dps_station::words;
use std::path::{Path, PathBuf};
use ulid::Ulid;

/// A fixed time: what is tested does not depend on it.
fn clock() -> i64 {
    1_700_000_000_000
}

fn options(path: &Path) -> Options {
    Options {
        path: path.to_path_buf(),
        station: "S1".to_owned(),
        clock,
        progress: |_| {},
        max_pages: None,
    }
}

fn open(path: &Path) -> Ledger {
    Ledger::open(options(path)).unwrap()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn device(number: u8) -> DeviceId {
    DeviceId::parse(&format!("GW-{number:03}")).unwrap()
}

fn registration_id(number: u8) -> RegistrationId {
    RegistrationId::of_device(&device(number))
}

fn serial(number: u8) -> SerialNumber {
    SerialNumber::from_random([number; SerialNumber::OCTETS])
}

fn fault() -> Fault {
    Fault::StationStopped {
        bay: "1".to_owned(),
    }
}

fn arrived() -> Event {
    Event::Arrived {
        bay: "1".to_owned(),
        port: "/dev/ttyUSB0".to_owned(),
    }
}

fn interrupted() -> Event {
    Event::Interrupted { fault: fault() }
}

fn identified(device_id: DeviceId, uid: &[u8]) -> Event {
    Event::Identified {
        identification: Identification {
            device_id,
            blank: false,
            model: "M".to_owned(),
            firmware: "1".to_owned(),
            uid: Blob(uid.to_vec()),
            boots: 1,
            sealed: false,
            tpm: false,
            holds: Digest([0; 32]),
            stock: false,
        },
        assigned: None,
        scanned: None,
    }
}

fn key_read(number: u8) -> Event {
    Event::KeyRead {
        csr: Blob(vec![number; 8]),
        public_key: Blob(vec![number; 9]),
    }
}

fn derived(number: u8) -> Event {
    Event::RegistrationIdDerived {
        registration_id: registration_id(number),
    }
}

fn reservation(purpose: Purpose, number: u8) -> Reservation {
    Reservation {
        purpose,
        ca: "line".to_owned(),
        serial: serial(number),
        tbs: Blob(vec![number; 10]),
    }
}

fn reserved(purpose: Purpose, number: u8) -> Event {
    Event::SerialReserved {
        reservation: reservation(purpose, number),
    }
}

fn certificate(number: u8) -> Blob {
    Blob(vec![number; 12])
}

fn signed(number: u8) -> Event {
    Event::Signed {
        serial: serial(number),
        result: certificate(number),
    }
}

fn abandoned(number: u8) -> Event {
    Event::SerialAbandoned {
        serial: serial(number),
        reason: Unsigned::OutcomeUnknown,
    }
}

fn enrollment(number: u8) -> EnrollmentRecord {
    EnrollmentRecord {
        dps: "main".to_owned(),
        registration_id: registration_id(number),
        device_id: device(number),
        identity: IdentityRef::X509 {
            certificate_sha256: Digest::of(&certificate(number).0),
        },
        initial_desired: Some(serde_json::json!({ "site": "A" })),
        initial_tags: None,
        content: Default::default(),
    }
}

fn passed(number: u8) -> Event {
    Event::Passed {
        enrollment: enrollment(number),
    }
}

fn failed(disable: Option<u8>) -> Event {
    Event::Failed {
        fault: fault(),
        disable: disable.map(|number| Box::new(enrollment(number))),
    }
}

/// The record is to be sent again, as it was.
fn retried(number: u8) -> Event {
    Event::EnrollmentRetried {
        was: Box::new(enrollment(number)),
        now: Box::new(enrollment(number)),
    }
}

fn charged(sending: &[u8]) -> Event {
    Event::Charged {
        dps: "main".to_owned(),
        operations: u32::try_from(sending.len()).unwrap() + 1,
        sending: sending.iter().copied().map(registration_id).collect(),
    }
}

fn enrolled(number: u8) -> Event {
    Event::Enrolled {
        registration_id: registration_id(number),
        etag: format!("\"{number}\""),
    }
}

/// Brings device `number` into a bay, as a new attempt.
async fn claim(ledger: &Ledger, number: u8) -> Claim {
    let attempt = Ulid::generate();
    ledger.arrive(attempt, &arrived()).await.unwrap();
    let event = identified(device(number), &[number]);
    ledger.identify(attempt, &event).await.unwrap().0
}

async fn append(ledger: &Ledger, claim: &Claim, events: &[Event]) {
    for event in events {
        let product = Some(Digest([7; 32]));
        ledger.append(claim, product, event).await.unwrap();
    }
}

/// Brings device `number` through a whole job.
async fn pass(ledger: &Ledger, number: u8) {
    let claim = claim(ledger, number).await;
    append(
        ledger,
        &claim,
        &[
            key_read(number),
            derived(number),
            reserved(Purpose::Leaf, number),
            signed(number),
            passed(number),
        ],
    )
    .await;
}

async fn all(ledger: &Ledger) -> Vec<Recorded> {
    ledger.all_events(1, u32::MAX).await.unwrap()
}

fn clean(path: &Path) -> u64 {
    let report = verify(path).unwrap();
    assert_eq!(report.damages, []);
    assert!(!report.outdated);
    report.events
}

/// Records events of every kind.
async fn fill(ledger: &Ledger) {
    let record = async |event: Event| ledger.record(&event).await.unwrap();
    record(Event::ShiftOpened {
        shift: "early".to_owned(),
    })
    .await;
    ledger
        .reserve(reservation(Purpose::SelfTest, 200))
        .await
        .unwrap();
    record(signed(200)).await;

    let lost = Ulid::from_parts(1, 1);
    ledger.arrive(lost, &arrived()).await.unwrap();
    ledger.end_attempt(lost, &interrupted()).await.unwrap();

    let first = claim(ledger, 1).await;
    append(ledger, &first, &whole_job(1)).await;
    let again = claim(ledger, 1).await;
    let holds = Digest([5; 32]);
    append(ledger, &again, &[Event::Recognised { holds }]).await;

    let second = claim(ledger, 2).await;
    append(
        ledger,
        &second,
        &[
            derived(2),
            reserved(Purpose::Leaf, 2),
            abandoned(2),
            reserved(Purpose::Leaf, 12),
            Event::Signed {
                serial: serial(12),
                result: certificate(2),
            },
            failed(Some(2)),
        ],
    )
    .await;
    let third = claim(ledger, 3).await;
    append(ledger, &third, &[Event::Errored { fault: fault() }]).await;

    record(charged(&[1, 2])).await;
    record(Event::EnrollmentDeferred {
        registration_id: registration_id(1),
        fault: fault(),
        next_try_ms: 5,
    })
    .await;
    record(Event::EnrollmentDisabled {
        registration_id: registration_id(2),
    })
    .await;
    record(charged(&[1])).await;
    record(enrolled(1)).await;
    record(Event::EnrollmentRefused {
        registration_id: registration_id(1),
        fault: fault(),
    })
    .await;
    let balance = ledger.balance("early").await.unwrap();
    record(Event::ShiftClosed {
        shift: "early".to_owned(),
        balance,
    })
    .await;
}

/// The events of a job from the policy to PASS.
fn whole_job(number: u8) -> Vec<Event> {
    let holding = Holding {
        id_scope: "0ne".to_owned(),
        global_endpoint: "dps".to_owned(),
        registration_id: registration_id(number).to_string(),
        certificate_sha256: None,
    };
    vec![
        Event::Accepted {
            product: "gateway".to_owned(),
            product_digest: Digest([7; 32]),
        },
        key_read(number),
        Event::EndorsementRead(Box::new(EndorsementRecord {
            endorsement_key: Blob(vec![number; 11]),
            storage_root_key: Blob(vec![4; 4]),
            certificate: None,
            chain: None,
            persisted: false,
            verdict: EndorsementVerdict::Waived {
                reason: Some("test".to_owned()),
                missing: None,
            },
        })),
        derived(number),
        reserved(Purpose::Leaf, number),
        signed(number),
        Event::Written {
            asked: holding.clone(),
        },
        Event::Restarted {
            boots_before: 1,
            boots_after: 2,
        },
        Event::ReadBack {
            observed: holding,
            value_limit: None,
            by_digest: false,
        },
        Event::Proved {
            proof: Proof::Signature {
                nonce: Digest([3; 32]),
                signature: Blob(vec![6; 6]),
            },
        },
        Event::Sealed {
            holds: Digest([5; 32]),
        },
        passed(number),
    ]
}

#[tokio::test]
async fn the_writer_syncs_every_commit_and_keeps_the_rules() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    let pragmas = ledger.pragmas().await.unwrap();
    assert_eq!(pragmas.journal_mode, "wal");
    assert_eq!(pragmas.synchronous, 2);
    assert!(pragmas.foreign_keys && pragmas.recursive_triggers);
    assert_eq!(pragmas.busy_timeout_ms, 5000);
    assert_eq!(pragmas.application_id, dps_station::ledger::APPLICATION_ID);
    assert_eq!(pragmas.user_version, 4);
}

#[tokio::test]
async fn closing_leaves_one_file_and_ends_all_handles() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    let other = ledger.clone();
    fill(&ledger).await;
    ledger.close().await.unwrap();
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(folder.path()), ["ledger.sqlite"]);
    assert!(matches!(
        other.units().await,
        Err(LedgerError::Closed { .. })
    ));
    let before = std::fs::read(&path).unwrap();
    clean(&path);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(names(folder.path()), ["ledger.sqlite"]);
}

#[tokio::test]
async fn every_kind_of_event_is_read_back_as_it_was_written() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    fill(&ledger).await;
    let events = all(&ledger).await;
    let kinds: std::collections::BTreeSet<_> = events.iter().map(|e| e.event.kind()).collect();
    assert_eq!(kinds.len(), 26, "{kinds:?}");
    assert!((1..).zip(&events).all(|(seq, event)| event.seq == seq));
    let job: Vec<_> = ledger.events(&device(1)).await.unwrap();
    let job: Vec<_> = job.into_iter().map(|recorded| recorded.event).collect();
    assert_eq!(job[1..=12], whole_job(1));
    assert_eq!(clean(&path), events.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_and_handles_share_one_chain() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let handles = [open(&path), open(&path)];
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..40 {
        let ledger = handles[usize::from(number) % 2].clone();
        tasks.spawn(async move {
            pass(&ledger, number).await;
            // A refusal amid the others fails nobody else.
            let refused = ledger.record(&signed(number)).await;
            assert!(matches!(refused, Err(LedgerError::Illegal(_))));
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(clean(&path), 40 * 7);
    let units = handles[1].units().await.unwrap();
    assert!(
        units
            .iter()
            .all(|unit| unit.verdict == Some(Verdict::Passed))
    );
    assert_eq!(units.len(), 40);
}

/// What a kill would leave: the file and its log, without the shared memory.
fn copy_live(path: &Path, folder: &Path) -> PathBuf {
    std::fs::create_dir(folder).unwrap();
    let copy = folder.join("ledger.sqlite");
    std::fs::copy(path, &copy).unwrap();
    std::fs::copy(log_of(path), log_of(&copy)).unwrap();
    copy
}

fn log_of(path: &Path) -> PathBuf {
    path.with_extension("sqlite-wal")
}

#[tokio::test]
async fn a_backup_is_a_whole_ledger() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    fill(&ledger).await;
    let copy = folder.path().join("copy.sqlite");
    ledger.backup(&copy).await.unwrap();
    clean(&copy);
    assert_eq!(all(&open(&copy)).await, all(&ledger).await);
}

#[tokio::test]
async fn what_is_not_a_ledger_or_is_newer_is_left_alone() {
    let folder = folder();
    let text = folder.path().join("text");
    std::fs::write(&text, "not a database, but long enough to be looked at").unwrap();
    let foreign = folder.path().join("foreign");
    let db = rusqlite::Connection::open(&foreign).unwrap();
    db.execute_batch("CREATE TABLE t (x)").unwrap();
    for path in [text, foreign] {
        let before = std::fs::read(&path).unwrap();
        let error = Ledger::open(options(&path)).unwrap_err();
        assert!(matches!(error, LedgerError::NotALedger { .. }), "{error:?}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
    let newer = folder.path().join("newer");
    open(&newer).close().await.unwrap();
    let db = rusqlite::Connection::open(&newer).unwrap();
    db.pragma_update(None, "user_version", 9).unwrap();
    let error = Ledger::open(options(&newer)).unwrap_err();
    assert!(
        matches!(error, LedgerError::Newer { found: 9, .. }),
        "{error:?}"
    );
}

/// Where ledgers of older programs lie.
fn golden_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/ledgers")
}

/// The ledger of this name, as the older program left it, in a folder of its own.
fn load(name: &str) -> (tempfile::TempDir, PathBuf) {
    let text = golden_folder().join(name).with_extension("sql");
    let text = std::fs::read_to_string(text).unwrap();
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(&text).unwrap();
    db.close().unwrap();
    (folder, path)
}

/// Writes one event of this kind, version and body at the end of the chain, as another program may.
fn append_stored(path: &Path, kind: &str, version: i64, body: &str) {
    let db = rusqlite::Connection::open(path).unwrap();
    let sql = "SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1";
    let head = db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)));
    let head = head.unwrap_or((0, vec![0; 32]));
    append_row(&db, head, None, None, (kind, version, body));
}

/// Writes one event after the one with this place and hash, and gives its own.
fn append_row(
    db: &rusqlite::Connection,
    (last, prev): (i64, Vec<u8>),
    attempt: Option<&str>,
    device: Option<&str>,
    (kind, version, body): (&str, i64, &str),
) -> (i64, Vec<u8>) {
    use rusqlite::types::{Value, ValueRef};
    let text = |text: &str| Value::Text(text.to_owned());
    let mut columns = vec![
        Value::Integer(last + 1),
        Value::Integer(clock()),
        text("S1"),
        Value::Null,
        attempt.map_or(Value::Null, text),
        device.map_or(Value::Null, text),
        Value::Null,
        text(kind),
        Value::Integer(version),
        text(body),
        Value::Blob(prev),
    ];
    let hash = dps_station::ledger::hash(columns.iter().map(ValueRef::from));
    columns.push(Value::Blob(hash.0.to_vec()));
    let sql = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let mut statement = db.prepare_cached(sql).unwrap();
    statement
        .execute(rusqlite::params_from_iter(columns))
        .unwrap();
    (last + 1, hash.0.to_vec())
}

#[tokio::test]
async fn an_event_of_a_newer_program_is_refused_as_that_and_is_no_damage() {
    let opened = r#"{"kind":"shift_opened","shift":"early"}"#;
    for (kind, version) in [("shift_opened", 9), ("shift_moved", 1)] {
        let folder = folder();
        let path = folder.path().join("ledger.sqlite");
        open(&path).close().await.unwrap();
        append_stored(&path, kind, version, opened);
        let ledger = open(&path);
        let read = ledger.all_events(1, 10).await.unwrap_err();
        let verified = verify(&path).unwrap_err();
        for error in [read, verified] {
            assert!(
                matches!(error, LedgerError::NewerEvent { seq: 1, .. }),
                "{error:?}"
            );
            let said = words::sentence(&error.fault());
            assert!(said.contains("newer program"), "{said}");
        }
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch(
            "DROP TRIGGER events_never_change; UPDATE events SET kind = 'shift_opine'",
        )
        .unwrap();
        let damages = verify(&path).unwrap().damages;
        assert!(
            damages.iter().any(|d| d.place == Place::Event(1)),
            "{damages:?}"
        );
    }
}
