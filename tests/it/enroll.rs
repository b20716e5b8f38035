//! Enrollment: whatever happens between the outbox and DPS, every record ends where it belongs, once.

mod beside;
mod chaos;
mod content;
mod instances;
mod keys;
mod upload;
mod waits;
mod way;

use crate::odd_service::{OddService, answer};
use data_encoding::BASE64;
use dps_station::dps::{API_VERSION, Dps, DpsOptions, ProxyChoice};
use dps_station::enroller::{
    self, Discrepancy, DiscrepancyKind, Intent, Summary, Terms, dry_run, reconcile,
};
use dps_station::fixtures::dps::{Emulator, EmulatorOptions, Faults, Policy};
use dps_station::ledger::{
    Ledger, Options, OutboxFilter, OutboxRow, OutboxState, ReservationRow, ReservationState, verify,
};
use dps_station::provision::batch::Status;
use dps_station::provision::bytes::{Blob, Digest};
use dps_station::provision::device::{
    DeviceId, Holding, Identification, RegistrationId, SerialNumber,
};
use dps_station::provision::event::{
    EndorsementRecord, EndorsementVerdict, EnrolledIdentity, Enrollment, EnrollmentRecord, Event,
    Listing, Order, Purpose, Reservation,
};
use dps_station::provision::fault::{Blame, Fault, RecordTrouble};
use dps_station::provision::upload::Progress;
use dps_station::words;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;
use tokio::sync::watch;
use ulid::Ulid;

/// Operations a minute; more than any test here needs, unless it says so.
const SHARE: u32 = 1_000;
/// Patience where the service never does what it should.
const SHORT: Duration = Duration::from_secs(2);
/// How much faster [`fast_clock`] runs.
const FAST: i64 = 100;

/// The endorsement key of the C quickstart in the DPS documentation: a well-formed `TPM2B_PUBLIC`.
const ENDORSEMENT_KEY: &str = "AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEAxsj2gUScTk1UjuioeTlfGYZrrimExB+bScH75adUMRIi2UOMxG1kw4y+9RW/IVoMl4e620VxZad0ARX2gUqVjYO7KPVt3dyKhZS3dkcvfBisBhP1XH9B33VqHG9SHnbnQXdBUaCgKAfxome8UmBKfe+naTsE5fkvjb/do3/dD6l4sGBwFCnKRdln4XpM03zLpoHFao8zOwt8l/uP3qUIxmCYv9A7m69Ms+5/pCkTu/rK4mRDsfhZ0QLfbzVI6zQFOKF/rwsfBtFeWlWtcuJMKlXdD8TXWElTzgh7JS4qhFzreL0c1mI0GCj+Aws0usZh7dLIVPnlgZcBhgy1SSDQMQ==";

/// Terms with this share, and with patience for as long as a test should take.
fn terms(share: u32) -> Terms {
    patience(share, Duration::from_secs(20))
}

fn patience(share: u32, patience: Duration) -> Terms {
    Terms {
        patience,
        ..Terms::new(share, "test")
    }
}

/// Drains the outbox; nobody looks on.
async fn drain(ledger: &Ledger, dps: &Dps, terms: &Terms) -> Summary {
    let (said, _) = watch::channel(Progress::default());
    enroller::drain(ledger, dps, terms, &said).await
}

fn real_clock() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_millis()).unwrap()
}

/// A minute of it passes in 0.6 s.
fn fast_clock() -> i64 {
    static START: OnceLock<(i64, Instant)> = OnceLock::new();
    let (start_ms, start) = START.get_or_init(|| (real_clock(), Instant::now()));
    start_ms + i64::try_from(start.elapsed().as_millis()).unwrap() * FAST
}

/// A station's ledger beside an emulated DPS.
struct Line {
    dir: TempDir,
    cloud: Emulator,
    ledger: Ledger,
    dps: Dps,
}

impl Line {
    async fn new() -> Self {
        Self::with_clock(real_clock).await
    }

    async fn with_clock(clock: fn() -> i64) -> Self {
        Self::with(clock, Vec::new()).await
    }

    async fn with_policies(policies: Vec<Policy>) -> Self {
        Self::with(real_clock, policies).await
    }

    async fn with(clock: fn() -> i64, policies: Vec<Policy>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = EmulatorOptions {
            policies,
            ..EmulatorOptions::new(dir.path())
        };
        let cloud = Emulator::start(options).await.unwrap();
        let ledger = Ledger::open(Options {
            path: dir.path().join("ledger.sqlite"),
            station: "S1".to_owned(),
            clock,
            progress: |_| {},
            max_pages: None,
        });
        let dps = Dps::new(self::options(&cloud, cloud.connection_string()), clock);
        Self {
            ledger: ledger.unwrap(),
            dps: dps.unwrap(),
            dir,
            cloud,
        }
    }

    /// Runs a unit up to its verdict.
    async fn judge(&self, enrollment: &Enrollment, verdict: Event) {
        let attempt = Ulid::generate();
        let arrived = Event::Arrived {
            bay: "1".to_owned(),
            port: "/dev/null".to_owned(),
        };
        self.ledger.arrive(attempt, &arrived).await.unwrap();
        let identified = Event::Identified {
            identification: Identification {
                device_id: enrollment.device_id.clone(),
                blank: false,
                model: "M".to_owned(),
                firmware: "1".to_owned(),
                uid: Blob(enrollment.device_id.as_str().into()),
                boots: 1,
                sealed: false,
                tpm: false,
                holds: Digest::of(b""),
                stock: false,
            },
            assigned: None,
            scanned: None,
        };
        let (claim, _) = self.ledger.identify(attempt, &identified).await.unwrap();
        let derived = Event::RegistrationIdDerived {
            registration_id: enrollment.registration_id.clone(),
        };
        let mut events = vec![derived];
        events.extend(issued(enrollment));
        events.push(verdict);
        for event in events {
            self.ledger.append(&claim, None, &event).await.unwrap();
        }
    }

    async fn pass(&self, enrollment: &Enrollment) {
        let verdict = Event::Passed {
            enrollment: on_record(enrollment),
        };
        self.judge(enrollment, verdict).await;
    }

    async fn fail(&self, enrollment: &Enrollment) {
        let verdict = Event::Failed {
            fault: Fault::ProofFailed,
            disable: Some(Box::new(on_record(enrollment))),
        };
        self.judge(enrollment, verdict).await;
    }

    async fn pass_many(&self, count: u32) -> Vec<Enrollment> {
        let enrollments: Vec<_> = (0..count).map(x509).collect();
        for enrollment in &enrollments {
            self.pass(enrollment).await;
        }
        enrollments
    }

    async fn drain(&self) -> Summary {
        drain(&self.ledger, &self.dps, &terms(SHARE)).await
    }

    /// Records that a call was about to be made for `enrollments`, as a killed station leaves it.
    async fn charge(&self, enrollments: &[&Enrollment]) {
        let event = Event::Charged {
            dps: "main".to_owned(),
            operations: enrollments.len().try_into().unwrap(),
            sending: enrollments
                .iter()
                .map(|e| e.registration_id.clone())
                .collect(),
        };
        self.ledger.record(&event).await.unwrap();
    }

    /// Puts records into DPS that no drain has sent.
    async fn put(&self, enrollments: &[(&Enrollment, Status)]) {
        let answer = self.dps.create(enrollments).await.unwrap();
        assert!(answer.successful, "{answer:?}");
    }

    async fn faults(&self, faults: Faults) {
        let pem = std::fs::read(self.cloud.ca_file()).unwrap();
        let client = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&pem).unwrap()])
            .build()
            .unwrap();
        let url = format!("https://localhost:{}/emulator/faults", self.cloud.port());
        let answer = client.post(url).json(&faults).send().await.unwrap();
        answer.error_for_status().unwrap();
    }

    /// The writes that took effect, as (`op`, `registrationId`).
    fn writes(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.dir.path().join("dps/writes.jsonl")).unwrap();
        let field = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|line| (field(&line, "op"), field(&line, "registrationId")))
            .collect()
    }

    /// Each charge on record: when, how many operations, and how many records it sent.
    async fn charges(&self) -> Vec<(i64, u32, usize)> {
        let events = self.ledger.all_events(1, 10_000).await.unwrap();
        let charge = |recorded: dps_station::provision::event::Recorded| match recorded.event {
            Event::Charged {
                operations,
                sending,
                ..
            } => Some((recorded.at_ms, operations, sending.len())),
            _ => None,
        };
        events.into_iter().filter_map(charge).collect()
    }

    /// [`stands`], for this line's ledger.
    async fn stands(&self, wanted: &[(&Enrollment, OutboxState)]) {
        stands(&self.ledger, self.dir.path(), wanted).await;
    }

    /// The same, where all records stand alike.
    async fn all_stand(&self, enrollments: &[Enrollment], state: OutboxState) {
        let all: Vec<_> = enrollments.iter().map(|e| (e, state)).collect();
        self.stands(&all).await;
    }

    /// A client of another service under the same name.
    fn other_dps(&self, url: String, ca_file: std::path::PathBuf) -> Dps {
        let options = DpsOptions {
            service_url: url,
            ca_file: Some(ca_file),
            ..options(&self.cloud, self.cloud.connection_string())
        };
        Dps::new(options, real_clock).unwrap()
    }

    async fn row(&self, enrollment: &Enrollment) -> OutboxRow {
        let rows = self.ledger.outbox(OutboxFilter::default()).await.unwrap();
        let mut rows = rows.into_iter();
        rows.find(|row| row.registration_id == enrollment.registration_id)
            .unwrap()
    }

    async fn held(&self, enrollment: &Enrollment) -> dps_station::provision::batch::Held {
        let held = self.dps.get(&enrollment.registration_id).await.unwrap();
        held.unwrap()
    }
}

/// Holds the ledger in this folder to this: its records stand so, nothing was signed, allocated or begun for them, and
/// it is whole.
async fn stands(ledger: &Ledger, dir: &Path, wanted: &[(&Enrollment, OutboxState)]) {
    let rows = ledger.outbox(OutboxFilter::default()).await.unwrap();
    let found: BTreeMap<_, _> = rows.iter().map(|r| (&r.registration_id, r.state)).collect();
    let wanted: BTreeMap<_, _> = wanted
        .iter()
        .map(|(enrollment, state)| (&enrollment.registration_id, *state))
        .collect();
    assert_eq!(found, wanted);
    assert_eq!(ledger.units().await.unwrap().len(), wanted.len());
    let reservations = ledger.reservations().await.unwrap();
    let of_a_unit =
        |row: &ReservationRow| row.state == ReservationState::Signed && row.device.is_some();
    assert!(reservations.iter().all(of_a_unit), "{reservations:?}");
    assert!(ledger.allocations().await.unwrap().is_empty());
    assert_eq!(ledger.open_attempts().await.unwrap(), []);
    let file = dir.join("ledger.sqlite");
    assert_eq!(verify(&file).unwrap().damages, []);
}

/// The enrollment as a verdict has it.
fn on_record(enrollment: &Enrollment) -> EnrollmentRecord {
    EnrollmentRecord {
        dps: enrollment.dps.clone(),
        registration_id: enrollment.registration_id.clone(),
        device_id: enrollment.device_id.clone(),
        identity: enrollment.identity.reference(),
        initial_desired: enrollment.initial_desired.clone(),
        initial_tags: enrollment.initial_tags.clone(),
        content: enrollment.content.clone(),
    }
}

/// The events that put what identifies the device on record.
fn issued(enrollment: &Enrollment) -> Vec<Event> {
    match &enrollment.identity {
        EnrolledIdentity::X509 { certificate } => {
            let serial = SerialNumber::from_random(rand_octets());
            let reservation = Reservation {
                purpose: Purpose::Leaf,
                ca: "line".to_owned(),
                serial: serial.clone(),
                tbs: Blob::default(),
            };
            let result = certificate.clone();
            vec![
                Event::SerialReserved { reservation },
                Event::Signed { serial, result },
            ]
        }
        EnrolledIdentity::Tpm {
            endorsement_key,
            storage_root_key,
        } => vec![Event::EndorsementRead(Box::new(EndorsementRecord {
            endorsement_key: endorsement_key.clone(),
            storage_root_key: storage_root_key.clone(),
            certificate: None,
            chain: None,
            persisted: false,
            verdict: EndorsementVerdict::Waived {
                reason: Some("test".to_owned()),
                missing: None,
            },
        }))],
    }
}

/// Octets of a serial number that no other has.
fn rand_octets() -> [u8; SerialNumber::OCTETS] {
    let mut octets = [0; SerialNumber::OCTETS];
    octets[..16].copy_from_slice(&Ulid::generate().to_bytes());
    octets
}

fn options(cloud: &Emulator, credential: String) -> DpsOptions {
    DpsOptions {
        name: "main".to_owned(),
        service_url: format!("https://localhost:{}", cloud.port()),
        credential: credential.into(),
        ca_file: Some(cloud.ca_file().to_owned()),
        api_version: API_VERSION.to_owned(),
        proxy: ProxyChoice::Never,
    }
}

fn x509(number: u32) -> Enrollment {
    let device_id = DeviceId::parse(&format!("GW-{number:04}")).unwrap();
    let registration_id = RegistrationId::of_device(&device_id);
    let pair = rcgen::generate_simple_self_signed([registration_id.to_string()]).unwrap();
    Enrollment {
        dps: "main".to_owned(),
        registration_id,
        device_id,
        identity: EnrolledIdentity::X509 {
            certificate: Blob(pair.cert.der().to_vec()),
        },
        initial_desired: Some(json!({"interval": number, "deep": {"list": [1.5, "x", null]}})),
        initial_tags: None,
        content: Default::default(),
    }
}

fn enrolled(count: u32) -> Summary {
    Summary {
        enrolled: count,
        ..Summary::default()
    }
}

fn each_created_once(line: &Line, enrollments: &[Enrollment]) {
    let writes = line.writes();
    assert!(writes.iter().all(|(op, _)| op == "create"), "{writes:?}");
    let written: BTreeSet<_> = writes.iter().map(|(_, id)| id.as_str()).collect();
    let wanted = enrollments.iter().map(|e| e.registration_id.as_str());
    assert_eq!(written, wanted.collect());
    assert_eq!(writes.len(), enrollments.len());
}

#[tokio::test]
async fn twenty_five_records_take_three_calls_and_a_second_run_takes_none() {
    let line = Line::new().await;
    let mut enrollments = line.pass_many(24).await;
    let key = Blob(BASE64.decode(ENDORSEMENT_KEY.as_bytes()).unwrap());
    enrollments.push(Enrollment {
        identity: EnrolledIdentity::Tpm {
            endorsement_key: key.clone(),
            storage_root_key: key,
        },
        ..x509(24)
    });
    line.pass(&enrollments[24]).await;

    assert_eq!(line.drain().await, enrolled(25));
    each_created_once(&line, &enrollments);
    let charges = line.charges().await;
    let sent: Vec<_> = charges.iter().map(|c| c.2).filter(|&n| n > 0).collect();
    assert_eq!(sent, [10, 10, 5]);
    assert_eq!(charges.iter().map(|c| c.1).sum::<u32>(), 50);
    let row = line.row(&enrollments[3]).await;
    assert_eq!(row.state, OutboxState::Enrolled);
    assert_eq!(row.etag, Some(line.held(&enrollments[3]).await.etag));

    assert_eq!(line.drain().await, enrolled(0));
    assert_eq!(line.charges().await, charges);
}

#[tokio::test]
async fn an_answer_that_never_came_is_read_back_and_nothing_is_sent_twice() {
    let line = Line::new().await;
    let enrollments = line.pass_many(12).await;
    line.faults(Faults {
        drop_after_commit: 1,
        ..Faults::default()
    })
    .await;
    assert_eq!(line.drain().await, enrolled(12));
    each_created_once(&line, &enrollments);
}

#[tokio::test]
async fn after_a_kill_what_was_charged_is_read_back_before_it_is_sent() {
    let line = Line::new().await;
    let enrollments = line.pass_many(4).await;
    let all: Vec<_> = enrollments.iter().collect();
    line.charge(&all).await;
    // The call took effect for two of the four, and then the station was gone.
    line.put(&[(all[0], Status::Enabled), (all[2], Status::Enabled)])
        .await;
    assert_eq!(line.drain().await, enrolled(4));
    each_created_once(&line, &enrollments);
    let operations: Vec<_> = line.charges().await.iter().map(|c| (c.1, c.2)).collect();
    assert_eq!(operations, [(4, 4), (4, 0), (2, 2), (2, 0)]);
}

#[tokio::test]
async fn a_run_that_is_stopped_anywhere_is_resumed_and_nothing_is_sent_twice() {
    let line = Line::new().await;
    let enrollments = line.pass_many(15).await;
    let events = async || line.ledger.all_events(1, 10_000).await.unwrap().len();
    for more in 1..8 {
        let stop_at = events().await + more;
        let stop = async {
            while events().await < stop_at {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = line.drain() => break,
            () = stop => {}
        }
    }
    let summary = line.drain().await;
    assert_eq!((summary.deferred, summary.pending), (0, 0));
    each_created_once(&line, &enrollments);
    for enrollment in &enrollments {
        assert_eq!(line.row(enrollment).await.state, OutboxState::Enrolled);
    }
}

#[tokio::test]
async fn a_unit_that_fails_while_its_record_is_sent_ends_disabled() {
    let line = Line::new().await;
    let enrollments = line.pass_many(2).await;
    line.faults(Faults {
        throttle: 1,
        retry_after_seconds: 1,
        ..Faults::default()
    })
    .await;
    let fail = async {
        while line.charges().await.is_empty() {
            tokio::task::yield_now().await;
        }
        line.fail(&enrollments[0]).await;
    };
    let (summary, ()) = tokio::join!(line.drain(), fail);
    assert_eq!(summary.fault, None);
    assert_eq!(line.held(&enrollments[0]).await.status, Status::Disabled);
    assert_eq!(line.row(&enrollments[0]).await.state, OutboxState::Disabled);
    assert_eq!(line.row(&enrollments[1]).await.state, OutboxState::Enrolled);
}

#[tokio::test]
async fn a_unit_that_fails_while_its_record_waits_for_the_share_is_never_enabled() {
    let line = Line::with_clock(fast_clock).await;
    let enrollments = line.pass_many(2).await;
    let used_up = Event::Charged {
        dps: "main".to_owned(),
        operations: 10,
        sending: vec![],
    };
    line.ledger.record(&used_up).await.unwrap();
    let terms = terms(10);
    let run = drain(&line.ledger, &line.dps, &terms);
    // Both wait on the first poll: the run for its share, and the verdict is recorded in the meantime.
    let (summary, ()) = tokio::join!(run, line.fail(&enrollments[0]));
    assert_eq!(summary.fault, None);
    assert_eq!((summary.enrolled, summary.disabled), (1, 1));
    assert_eq!(line.held(&enrollments[0]).await.status, Status::Disabled);
    each_created_once(&line, &enrollments);
}

#[tokio::test]
async fn one_bad_record_is_refused_and_the_others_go_on() {
    let line = Line::new().await;
    let good = line.pass_many(5).await;
    let bad = Enrollment {
        identity: EnrolledIdentity::X509 {
            certificate: Blob(b"no certificate".to_vec()),
        },
        ..x509(5)
    };
    line.pass(&bad).await;
    let summary = line.drain().await;
    assert_eq!((summary.enrolled, summary.refused), (5, 1));
    assert_eq!(summary.fault, None);
    let row = line.row(&bad).await;
    let fault = row.fault.unwrap();
    assert_eq!(
        (fault.blame(), fault.code()),
        (Blame::Cloud, "enrollment_refused")
    );
    let what = words::of(&fault).what;
    assert!(what.contains("gw-0005: 400"), "{what}");
    let mut all: Vec<_> = good.iter().map(|e| (e, OutboxState::Enrolled)).collect();
    all.push((&bad, OutboxState::Refused));
    line.stands(&all).await;
    each_created_once(&line, &good);
}

#[tokio::test]
async fn a_record_that_the_service_cannot_take_now_is_deferred_and_tried_again() {
    let line = Line::new().await;
    let enrollments = line.pass_many(3).await;
    line.faults(Faults {
        refuse_in_bulk: vec!["gw-0001".to_owned()],
        ..Faults::default()
    })
    .await;
    let heal = async {
        while line.row(&enrollments[1]).await.tries == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(line.writes().len(), 2);
        let fault = line.row(&enrollments[1]).await.fault.unwrap();
        assert_eq!(
            (fault.blame(), fault.code()),
            (Blame::Cloud, "enrollment_deferred")
        );
        line.faults(Faults::default()).await;
    };
    let (summary, ()) = tokio::join!(line.drain(), heal);
    assert_eq!(summary, enrolled(3));
    each_created_once(&line, &enrollments);
    line.all_stand(&enrollments, OutboxState::Enrolled).await;
}

#[tokio::test]
async fn a_record_of_which_nothing_is_known_is_put_off_and_read_back_first() {
    let line = Line::new().await;
    let enrollments = line.pass_many(1).await;
    // Neither the call nor the reading back has an answer, however often.
    line.faults(Faults {
        fail: 4,
        ..Faults::default()
    })
    .await;
    let put_off = async {
        while line.row(&enrollments[0]).await.tries == 0 {
            tokio::task::yield_now().await;
        }
        let fault = line.row(&enrollments[0]).await.fault.unwrap();
        assert_eq!(
            (fault.blame(), fault.code()),
            (Blame::Cloud, "enrollment_unanswered")
        );
        line.all_stand(&enrollments, OutboxState::Pending).await;
    };
    let (summary, ()) = tokio::join!(line.drain(), put_off);
    assert_eq!(summary, enrolled(1));
    each_created_once(&line, &enrollments);
    line.all_stand(&enrollments, OutboxState::Enrolled).await;
    // Sent, read back three times; charged anew and read back; sent, read back.
    let charges = line.charges().await;
    let sent: Vec<_> = charges.iter().map(|charge| charge.2).collect();
    assert_eq!(sent, [1, 0, 0, 0, 1, 0, 1, 0]);
}

#[tokio::test]
async fn a_service_that_asks_for_too_long_a_pause_ends_the_run_and_nothing_is_lost() {
    let line = Line::new().await;
    let enrollments = line.pass_many(2).await;
    line.faults(Faults {
        throttle: 1,
        retry_after_seconds: 4,
        ..Faults::default()
    })
    .await;
    // A run that begins within that time, as after a kill, does not ask.
    for _ in 0..2 {
        let fault = ended(&line, &line.dps, 2).await;
        assert_eq!(
            (fault.blame(), fault.code()),
            (Blame::Cloud, "dps_throttled")
        );
        line.all_stand(&enrollments, OutboxState::Pending).await;
        assert_eq!(line.charges().await.len(), 1);
    }

    assert_eq!(line.drain().await, enrolled(2));
    each_created_once(&line, &enrollments);
}

#[tokio::test]
async fn a_service_that_knows_no_enrollments_refuses_the_call_and_not_the_records() {
    let line = Line::new().await;
    let enrollments = line.pass_many(2).await;
    let elsewhere = format!("https://localhost:{}/elsewhere", line.cloud.port());
    let elsewhere = line.other_dps(elsewhere, line.cloud.ca_file().to_owned());
    let fault = ended(&line, &elsewhere, 2).await;
    assert_eq!((fault.blame(), fault.code()), (Blame::Cloud, "dps_refused"));
    line.all_stand(&enrollments, OutboxState::Pending).await;

    assert_eq!(line.drain().await, enrolled(2));
    each_created_once(&line, &enrollments);
}

#[tokio::test]
async fn whatever_else_answers_is_not_believed_and_nothing_is_lost() {
    let line = Line::new().await;
    let enrollments = line.pass_many(6).await;
    let page = |status, headers| answer(status, headers, "<html>the factory's network</html>");
    // The first says that it knows no such call. After the second, the records were perhaps sent, and of such a one a
    // page that is not there says nothing.
    for (said, code) in [
        (page("404 Not Found", ""), "dps_refused"),
        (page("200 OK", ""), "dps_malformed"),
        (page("302 Found", "Location: /login\r\n"), "dps_malformed"),
        (page("404 Not Found", ""), "dps_malformed"),
    ] {
        let odd = OddService::start(said).await;
        let impostor = line.other_dps(odd.url(), odd.ca_file());
        let fault = ended(&line, &impostor, 6).await;
        assert_eq!((fault.blame(), fault.code()), (Blame::Cloud, code));
        line.all_stand(&enrollments, OutboxState::Pending).await;
    }
    assert_eq!(line.drain().await, enrolled(6));
    each_created_once(&line, &enrollments);
    line.all_stand(&enrollments, OutboxState::Enrolled).await;
}

/// What ended a run in which nothing was settled of so many records.
async fn ended(line: &Line, dps: &Dps, records: u32) -> Fault {
    let terms = patience(SHARE, SHORT);
    let summary = drain(&line.ledger, dps, &terms).await;
    let fault = summary.fault.clone().expect("the run ended early");
    assert_eq!(summary.deferred + summary.pending, records, "{summary:?}");
    let written = line.dir.path().join("dps/writes.jsonl");
    let written = std::fs::metadata(written).map_or(0, |file| file.len());
    assert_eq!(written, 0, "nothing took effect");
    fault
}

#[tokio::test]
async fn a_busy_service_is_left_alone_for_as_long_as_it_asks() {
    let line = Line::new().await;
    let enrollments = line.pass_many(2).await;
    line.faults(Faults {
        throttle: 1,
        retry_after_seconds: 1,
        ..Faults::default()
    })
    .await;
    let start = Instant::now();
    assert_eq!(line.drain().await, enrolled(2));
    assert!(start.elapsed() >= Duration::from_secs(1));
    each_created_once(&line, &enrollments);
    // The call that was turned away is charged too.
    let operations: Vec<_> = line.charges().await.iter().map(|c| c.1).collect();
    assert_eq!(operations, [2, 2, 2]);
}

#[tokio::test]
async fn a_service_that_fails_every_time_ends_the_run_and_nothing_is_lost() {
    let line = Line::new().await;
    let enrollments = line.pass_many(12).await;
    line.faults(Faults {
        fail: u32::MAX,
        ..Faults::default()
    })
    .await;
    let summary = drain(&line.ledger, &line.dps, &patience(SHARE, SHORT)).await;
    assert_eq!(summary.deferred + summary.pending, 12);
    let fault = summary.fault.unwrap();
    assert_eq!(
        (fault.blame(), fault.code()),
        (Blame::Cloud, "dps_no_answer")
    );
    assert!(words::of(&fault).what.contains("500001"), "{fault:?}");
    line.all_stand(&enrollments, OutboxState::Pending).await;

    line.faults(Faults::default()).await;
    assert_eq!(line.drain().await, enrolled(12));
    each_created_once(&line, &enrollments);
    line.all_stand(&enrollments, OutboxState::Enrolled).await;
}

#[tokio::test]
async fn a_wrong_key_and_a_dead_service_are_said_in_one_sentence_each() {
    let line = Line::new().await;
    let enrollments = line.pass_many(1).await;
    let key = BASE64.encode(&[7; 32]);
    let credential = format!(
        "HostName=localhost;SharedAccessKeyName=provisioningserviceowner;SharedAccessKey={key}"
    );
    let stranger = Dps::new(options(&line.cloud, credential), real_clock).unwrap();
    let summary = drain(&line.ledger, &stranger, &terms(SHARE)).await;
    assert_eq!(summary.pending, 1);
    let fault = summary.fault.unwrap();
    assert_eq!(
        (fault.blame(), fault.code()),
        (Blame::Station, "dps_unauthorized")
    );
    assert!(words::sentence(&fault).contains("credential"), "{fault:?}");
    assert!(!words::sentence(&fault).contains(&key));
    line.all_stand(&enrollments, OutboxState::Pending).await;

    let port = line.cloud.port();
    let Line {
        cloud,
        dir,
        ledger,
        dps,
    } = line;
    cloud.stop().await;
    let summary = drain(&ledger, &dps, &patience(SHARE, SHORT)).await;
    assert_eq!(summary.pending, 1);
    let fault = summary.fault.unwrap();
    assert_eq!(
        (fault.blame(), fault.code()),
        (Blame::Cloud, "dps_unreachable")
    );
    let url = format!("https://localhost:{port}/");
    assert!(words::of(&fault).what.contains(&url), "{fault:?}");
    let pending = [(&enrollments[0], OutboxState::Pending)];
    stands(&ledger, dir.path(), &pending).await;
}

#[tokio::test]
async fn someone_elses_record_under_our_id_is_left_to_a_person_and_not_touched() {
    let line = Line::new().await;
    let enrollments = line.pass_many(3).await;
    let foreign = Enrollment {
        device_id: DeviceId::parse("other").unwrap(),
        ..x509(1)
    };
    line.put(&[(&foreign, Status::Enabled)]).await;
    let before = line.held(&foreign).await;

    let summary = line.drain().await;
    assert_eq!((summary.enrolled, summary.refused), (2, 1));
    let what = words::of(&line.row(&enrollments[1]).await.fault.unwrap()).what;
    for said in [
        "gw-0001",
        "deviceId, attestation",
        "deviceId is other there and GW-0001 here",
    ] {
        assert!(what.contains(said), "{said}: {what}");
    }
    assert_eq!(line.held(&foreign).await, before);
}

#[tokio::test]
async fn a_unit_that_comes_back_with_stock_firmware_is_disabled_and_holds_up_no_other() {
    let line = Line::new().await;
    let [before, waits, other, listed] = [x509(0), x509(1), x509(2), x509(3)];
    line.pass(&before).await;
    assert_eq!(line.drain().await, enrolled(1));
    line.pass(&waits).await;
    line.pass(&other).await;
    line.charge(&[&waits, &other]).await;
    line.put(&[(&waits, Status::Enabled)]).await;
    // What a person's list says stays, whatever comes of the unit.
    let listing = Listing {
        enrollment: listed.clone(),
        public_key: None,
        file: "list.csv".to_owned(),
        file_sha256: Digest([1; 32]),
        line: 1,
    };
    let listing = Event::Listed(Box::new(listing));
    line.ledger.record(&listing).await.unwrap();
    for enrollment in [&before, &waits, &listed] {
        let injected = Event::Injected {
            observed: Holding {
                id_scope: "0ne00SIMUL8".to_owned(),
                global_endpoint: "localhost".to_owned(),
                registration_id: enrollment.registration_id.to_string(),
                certificate_sha256: None,
            },
            endpoint_prefix: None,
        };
        line.judge(enrollment, injected).await;
    }
    let summary = line.drain().await;
    assert_eq!(summary.fault, None);
    assert_eq!((summary.enrolled, summary.disabled), (2, 2), "{summary:?}");
    line.stands(&[
        (&before, OutboxState::Disabled),
        (&waits, OutboxState::Disabled),
        (&other, OutboxState::Enrolled),
        (&listed, OutboxState::Enrolled),
    ])
    .await;
    for enrollment in [&before, &waits] {
        assert_eq!(line.held(enrollment).await.status, Status::Disabled);
    }
    // With its own firmware again, it passes after all.
    line.pass(&before).await;
    assert_eq!(line.drain().await.enrolled, 1);
    assert_eq!(line.held(&before).await.status, Status::Enabled);
}

#[tokio::test]
async fn an_answer_that_the_ledger_does_not_take_puts_off_its_record_alone() {
    let line = Line::with_clock(fast_clock).await;
    let enrollments = line.pass_many(4).await;
    line.faults(Faults {
        slow: 1,
        slow_milliseconds: 1_500,
        ..Faults::default()
    })
    .await;
    // While the call is under way, another says that it has ended: no answer to it is taken any more.
    let id = &enrollments[1].registration_id;
    let unanswered = |why| Fault::EnrollmentUnanswered {
        dps: "main".to_owned(),
        registration_id: id.clone(),
        why,
    };
    let deferred = Event::EnrollmentDeferred {
        registration_id: id.clone(),
        fault: unanswered(RecordTrouble::NotHeld),
        next_try_ms: 0,
    };
    let interfere = async {
        while line.charges().await.is_empty() {
            tokio::task::yield_now().await;
        }
        line.ledger.record(&deferred).await.unwrap();
    };
    let (summary, ()) = tokio::join!(line.drain(), interfere);
    assert_eq!(summary, enrolled(4));
    line.all_stand(&enrollments, OutboxState::Enrolled).await;
    each_created_once(&line, &enrollments);
    let events = line.ledger.all_events(1, 10_000).await.unwrap();
    let put_off = events
        .into_iter()
        .filter_map(|recorded| match recorded.event {
            Event::EnrollmentDeferred { fault, .. } => Some(fault),
            _ => None,
        });
    let said = format!("registration ID {id} got an answer, but no call was charged for it");
    let faults = [RecordTrouble::NotHeld, RecordTrouble::Unrecorded(said)].map(unanswered);
    assert_eq!(put_off.collect::<Vec<_>>(), faults);
}

#[tokio::test]
async fn a_unit_that_did_not_pass_is_disabled_whether_it_was_enrolled_or_not() {
    let line = Line::new().await;
    let [never, before, foreign] = [x509(0), x509(1), x509(2)];
    line.pass(&before).await;
    assert_eq!(line.drain().await, enrolled(1));
    line.put(&[(&x509(2), Status::Enabled)]).await;
    for enrollment in [&never, &before, &foreign] {
        line.fail(enrollment).await;
    }

    let summary = line.drain().await;
    assert_eq!((summary.disabled, summary.refused), (2, 1));
    assert_eq!(line.held(&never).await.status, Status::Disabled);
    assert_eq!(line.held(&before).await.status, Status::Disabled);
    assert_eq!(line.held(&foreign).await.status, Status::Enabled);
    assert_eq!(line.row(&before).await.state, OutboxState::Disabled);
    let writes = line.writes();
    let of_before: Vec<_> = writes.iter().filter(|w| w.1 == "gw-0001").collect();
    assert_eq!(of_before.len(), 2, "created once, updated once");

    assert_eq!(line.drain().await, Summary::default());
    assert_eq!(line.writes(), writes);
}

#[tokio::test]
async fn a_unit_that_passes_after_all_is_enabled_again_and_one_that_a_person_disabled_is_not() {
    let line = Line::new().await;
    let [first, withdrawn, closed, unseen] = [x509(0), x509(1), x509(2), x509(3)];
    line.fail(&first).await; // created as disabled
    line.pass(&withdrawn).await;
    line.pass(&closed).await;
    assert_eq!(line.drain().await.disabled, 1);
    line.fail(&withdrawn).await;
    line.fail(&unseen).await;
    let order = Event::EnrollmentOrdered {
        registration_id: closed.registration_id.clone(),
        order: Order::Disable,
    };
    line.ledger.record(&order).await.unwrap();
    line.pass(&unseen).await; // before any upload knew of it
    assert_eq!(line.drain().await.disabled, 2);

    for enrollment in [&first, &withdrawn, &closed] {
        line.pass(enrollment).await;
    }
    let summary = line.drain().await;
    assert_eq!((summary.enrolled, summary.disabled), (2, 1));
    let status = async |enrollment| line.held(enrollment).await.status;
    for enrollment in [&first, &withdrawn, &unseen] {
        assert_eq!(status(enrollment).await, Status::Enabled);
        assert_eq!(line.row(enrollment).await.state, OutboxState::Enrolled);
    }
    assert_eq!(status(&closed).await, Status::Disabled);
    assert!(line.drain().await.all_settled());
}

#[tokio::test]
async fn a_record_that_was_put_off_under_a_clock_that_was_ahead_is_due_at_once() {
    let line = Line::new().await;
    let enrollment = x509(0);
    line.pass(&enrollment).await;
    line.charge(&[&enrollment]).await;
    let deferred = Event::EnrollmentDeferred {
        registration_id: enrollment.registration_id.clone(),
        fault: Fault::ProofFailed,
        next_try_ms: real_clock() + 30 * 86_400_000,
    };
    line.ledger.record(&deferred).await.unwrap();
    assert_eq!(line.drain().await.enrolled, 1);
}

#[tokio::test]
async fn no_minute_has_more_operations_than_the_share() {
    let line = Line::with_clock(fast_clock).await;
    let enrollments = line.pass_many(25).await;
    let start_ms = fast_clock();
    let terms = terms(20);
    assert_eq!(drain(&line.ledger, &line.dps, &terms).await, enrolled(25));
    each_created_once(&line, &enrollments);
    let charges = line.charges().await;
    for &(end_ms, ..) in &charges {
        let minute = charges
            .iter()
            .filter(|c| c.0 > end_ms - 60_000 && c.0 <= end_ms);
        let operations: u32 = minute.map(|c| c.1).sum();
        assert!(operations <= 20, "{operations} at {end_ms}: {charges:?}");
    }
    // Fifty operations do not fit into less than two whole minutes.
    assert!(fast_clock() - start_ms >= 120_000);
}

#[tokio::test]
async fn a_share_smaller_than_a_batch_makes_smaller_batches() {
    let line = Line::with_clock(fast_clock).await;
    line.pass_many(5).await;
    assert_eq!(drain(&line.ledger, &line.dps, &terms(3)).await, enrolled(5));
    let charges = line.charges().await;
    assert!(charges.iter().all(|c| c.1 <= 3), "{charges:?}");
}

/// What a run would do with each record.
async fn foreseen(line: &Line) -> Vec<(RegistrationId, Intent)> {
    let mut intents = Vec::new();
    let each = |id, intent| intents.push((id, intent));
    let ended = dry_run(&line.ledger, &line.dps, &terms(SHARE), each).await;
    ended.unwrap();
    intents
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_done_and_writes_nothing() {
    let line = Line::new().await;
    let enrollments = line.pass_many(3).await;
    line.fail(&x509(3)).await;
    let foreign = Enrollment {
        initial_desired: None,
        ..enrollments[2].clone()
    };
    line.put(&[
        (&enrollments[1], Status::Enabled),
        (&foreign, Status::Enabled),
    ])
    .await;
    let writes = line.writes();

    let intents = foreseen(&line).await;
    let ids: Vec<_> = intents.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["gw-0000", "gw-0001", "gw-0002", "gw-0003"]);
    assert_eq!(intents[0].1, Intent::Create);
    assert_eq!(intents[1].1, Intent::Confirm);
    assert!(
        matches!(&intents[2].1, Intent::Refuse(found) if found[0].field == "initialTwin.properties.desired")
    );
    assert_eq!(intents[3].1, Intent::Disable);
    assert_eq!(line.writes(), writes);
    assert_eq!(line.row(&enrollments[0]).await.state, OutboxState::Pending);
}

#[tokio::test]
async fn reconciling_lists_every_difference_both_ways() {
    let line = Line::new().await;
    let ours = line.pass_many(105).await;
    assert_eq!(line.drain().await, enrolled(105));
    assert_eq!(
        reconcile(&line.ledger, &line.dps, &terms(SHARE)).await,
        Ok(vec![]),
        "two pages agree"
    );

    // On record as enrolled, whatever the service holds.
    let [absent, different, disabled] = [x509(200), x509(201), x509(202)];
    for enrollment in [&absent, &different, &disabled] {
        line.pass(enrollment).await;
        line.charge(&[enrollment]).await;
        let event = Event::Enrolled {
            registration_id: enrollment.registration_id.clone(),
            etag: "\"old\"".to_owned(),
        };
        line.ledger.record(&event).await.unwrap();
    }
    let unknown = x509(300);
    let other = Enrollment {
        initial_desired: None,
        ..different.clone()
    };
    line.put(&[
        (&other, Status::Enabled),
        (&disabled, Status::Disabled),
        (&unknown, Status::Enabled),
    ])
    .await;
    // Waiting is not a difference, wherever it got to.
    line.pass(&x509(400)).await;

    let found = reconcile(&line.ledger, &line.dps, &terms(SHARE))
        .await
        .unwrap();
    let kind = |Discrepancy { kind, .. }: &Discrepancy| match kind {
        DiscrepancyKind::Absent => "absent",
        DiscrepancyKind::Unknown => "unknown",
        DiscrepancyKind::Disabled => "disabled",
        DiscrepancyKind::Different(_) => "different",
        DiscrepancyKind::AlsoSet(_) => "also set",
    };
    let found: Vec<_> = found
        .iter()
        .map(|d| (d.registration_id.as_str(), kind(d)))
        .collect();
    assert_eq!(
        found,
        [
            ("gw-0200", "absent"),
            ("gw-0201", "different"),
            ("gw-0202", "disabled"),
            ("gw-0300", "unknown"),
        ]
    );
    assert_eq!(ours.len() + 3, line.writes().len());
}

#[tokio::test]
async fn reading_leaves_a_busy_service_alone_and_outlives_a_lost_answer() {
    let line = Line::new().await;
    line.pass_many(2).await;
    assert_eq!(line.drain().await, enrolled(2));
    line.pass(&x509(2)).await;
    let trouble = Faults {
        throttle: 1,
        retry_after_seconds: 1,
        fail: 1,
        ..Faults::default()
    };
    line.faults(trouble.clone()).await;
    let start = Instant::now();
    let found = reconcile(&line.ledger, &line.dps, &terms(SHARE)).await;
    assert_eq!(found, Ok(vec![]));
    assert!(start.elapsed() >= Duration::from_secs(1));

    line.faults(trouble).await;
    let start = Instant::now();
    assert_eq!(foreseen(&line).await.len(), 1);
    assert!(start.elapsed() >= Duration::from_secs(1));

    line.faults(Faults {
        fail: u32::MAX,
        ..Faults::default()
    })
    .await;
    let short = patience(SHARE, SHORT);
    let ended = reconcile(&line.ledger, &line.dps, &short)
        .await
        .unwrap_err();
    assert_eq!(ended.code(), "dps_no_answer");
}

#[tokio::test]
async fn what_was_deferred_without_an_answer_is_read_back_before_it_is_sent_again() {
    let line = Line::new().await;
    let enrollments = line.pass_many(2).await;
    let [there, absent] = [&enrollments[0], &enrollments[1]];
    // Both were sent, one arrived, and neither answer did, nor that to the reading back.
    line.charge(&[there, absent]).await;
    line.put(&[(there, Status::Enabled)]).await;
    for enrollment in [there, absent] {
        let event = Event::EnrollmentDeferred {
            registration_id: enrollment.registration_id.clone(),
            fault: Fault::EnrollmentUnanswered {
                dps: "main".to_owned(),
                registration_id: enrollment.registration_id.clone(),
                why: RecordTrouble::NotHeld,
            },
            next_try_ms: 0,
        };
        line.ledger.record(&event).await.unwrap();
    }
    // Sent again, it would be deferred again.
    line.faults(Faults {
        refuse_in_bulk: vec![there.registration_id.to_string()],
        ..Faults::default()
    })
    .await;
    assert_eq!(line.drain().await, enrolled(2));
    each_created_once(&line, &enrollments);
}
