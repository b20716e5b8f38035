//! The tallies: what they say is what counting all events and rows anew gives, whatever was recorded, and by whom.

use super::*;
use dps_station::ledger::OutboxCounts;
use dps_station::provision::event::{Balance, Purpose};
use dps_station::provision::floor::Counts;
use dps_station::provision::naming::IdFormat;
use rusqlite::{Connection, params};
use std::collections::BTreeMap;

/// Stories, and what is tried in each; much of it is refused, as it is on a line.
const STORIES: u64 = 12;
const STEPS: u32 = 250;

/// Units by their own name, and units that get theirs from the station.
const NAMED: u8 = 6;
const BLANK: u8 = 3;

/// A line on which anything may happen, in an order that follows from the seed.
struct Story {
    ledger: Ledger,
    seed: u64,
    shifts: u32,
    claims: BTreeMap<u8, Claim>,
    serials: u8,
}

impl Story {
    fn below(&mut self, bound: u8) -> u8 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005);
        self.seed = self.seed.wrapping_add(1_442_695_040_888_963_407);
        u8::try_from((self.seed >> 33) % u64::from(bound)).unwrap()
    }

    async fn step(&mut self) {
        let number = self.below(NAMED) + 1;
        match self.below(20) {
            0 => self.turn_shift().await,
            1..=5 => {
                let claim = claim(&self.ledger, number).await;
                self.claims.insert(number, claim);
            }
            6 => self.blank(BLANK).await,
            7..=9 => self.judge(number, &[derived(number), passed(number)]).await,
            10 => self.judge(number, &[failed(None)]).await,
            11 => self.judge(number, &[failed(Some(number))]).await,
            12 => {
                self.judge(number, &[Event::Errored { fault: fault() }])
                    .await
            }
            13 => self.judge(number, &[interrupted()]).await,
            14 => {
                let holds = Digest([5; 32]);
                self.judge(number, &[Event::Recognised { holds }]).await;
            }
            15 => {
                let Some(Event::ReadBack { observed, .. }) = whole_job(number)
                    .into_iter()
                    .find(|event| matches!(event, Event::ReadBack { .. }))
                else {
                    panic!("a job reads back");
                };
                let injected = Event::Injected {
                    observed,
                    endpoint_prefix: None,
                };
                self.judge(number, &[injected]).await;
            }
            _ => self.upload(number).await,
        }
    }

    async fn turn_shift(&mut self) {
        let event = match self.ledger.current_shift().await.unwrap() {
            Some(open) => Event::ShiftClosed {
                balance: self.ledger.balance(&open.shift).await.unwrap(),
                shift: open.shift,
            },
            None => {
                self.shifts += 1;
                let shift = self.shifts.to_string();
                Event::ShiftOpened { shift }
            }
        };
        self.ledger.record(&event).await.unwrap();
    }

    /// A key, a certificate, and then these events; the unit's claim is over whatever comes of it.
    async fn judge(&mut self, number: u8, events: &[Event]) {
        let Some(claim) = self.claims.remove(&number) else {
            return;
        };
        self.serials = self.serials.wrapping_add(1);
        let signed = Event::Signed {
            serial: serial(self.serials),
            result: certificate(number),
        };
        let key = [reserved(Purpose::Leaf, self.serials), signed];
        for event in key.iter().chain(events) {
            let _ = self.ledger.append(&claim, None, event).await;
        }
    }

    /// A unit without a name: it fails under its provisional one, or gets one, which it may give back.
    async fn blank(&mut self, units: u8) {
        let uid = Blob(vec![100 + self.below(units)]);
        let provisional = DeviceId::provisional(&uid).unwrap();
        let attempt = Ulid::generate();
        self.ledger.arrive(attempt, &arrived()).await.unwrap();
        let mut found = identified(provisional, &uid.0);
        let Event::Identified {
            identification,
            assigned,
            ..
        } = &mut found
        else {
            panic!("it was identified");
        };
        identification.blank = true;
        if self.below(3) > 0 {
            let id = device(100 + self.below(units));
            let given = Event::IdCheckedOut {
                device_id: id.clone(),
                format: IdFormat::parse("GW-###").unwrap(),
                uid: uid.clone(),
            };
            let _ = self.ledger.check_out(attempt, &given).await;
            *assigned = self.ledger.device_of_uid(&uid).await.unwrap();
        }
        let device_id = assigned.clone();
        let Ok((claim, _)) = self.ledger.identify(attempt, &found).await else {
            return;
        };
        let verdict = match self.below(2) {
            0 => failed(None),
            _ => interrupted(),
        };
        let _ = self.ledger.append(&claim, None, &verdict).await;
        if let Some(device_id) = device_id.filter(|_| self.below(2) == 0) {
            let returned = Event::IdReturned {
                device_id,
                uid,
                reason: Box::new(Fault::ProofFailed),
            };
            let _ = self.ledger.record(&returned).await;
        }
    }

    async fn upload(&mut self, number: u8) {
        let registration_id = registration_id(number);
        let answer = match self.below(5) {
            0 => enrolled(number),
            1 => Event::EnrollmentRefused {
                registration_id,
                fault: fault(),
            },
            2 => Event::EnrollmentDisabled { registration_id },
            3 => retried(number),
            _ => Event::EnrollmentDeferred {
                registration_id,
                fault: fault(),
                next_try_ms: 5,
            },
        };
        let _ = self.ledger.record(&charged(&[number])).await;
        let _ = self.ledger.record(&answer).await;
    }
}

/// The balance of a shift, counted from the units.
fn balance(db: &Connection, from: i64, closed: i64) -> Balance {
    let sql = "WITH counted AS (
            SELECT first_seq < ?1 AS old, coalesce(judged_seq < ?2, 0) AS judged, verdict, outbox.state
            FROM unit LEFT JOIN outbox ON outbox.registration_id = unit.registration_id
            WHERE first_seq < ?2 AND (judged_seq IS NULL OR judged_seq > ?1)
        )
        SELECT count(*) FILTER (WHERE old), count(*) FILTER (WHERE NOT old),
            count(*) FILTER (WHERE judged AND verdict = 'passed'),
            count(*) FILTER (WHERE judged AND verdict = 'failed'),
            count(*) FILTER (WHERE NOT judged),
            count(*) FILTER (WHERE judged AND verdict = 'passed' AND state = 'enrolled'),
            count(*) FILTER (WHERE judged AND verdict = 'passed' AND state = 'covered'),
            count(*) FILTER (WHERE judged AND verdict = 'passed' AND state = 'pending'),
            count(*) FILTER (WHERE judged AND verdict = 'passed' AND state = 'refused'),
            count(*) FILTER (WHERE judged AND verdict = 'injected'),
            count(*) FILTER (WHERE judged AND verdict = 'passed' AND state = 'disabled')
        FROM counted";
    let counted = db.query_row(sql, params![from, closed], |row| {
        Ok(Balance {
            open_before: row.get(0)?,
            scanned: row.get(1)?,
            passed: row.get(2)?,
            failed: row.get(3)?,
            scrapped: 0,
            open_after: row.get(4)?,
            enrolled: row.get(5)?,
            covered: row.get(6)?,
            pending: row.get(7)?,
            refused: row.get(8)?,
            injected: row.get(9)?,
            disabled: row.get(10)?,
        })
    });
    counted.unwrap()
}

fn outbox(db: &Connection) -> OutboxCounts {
    let sql = "SELECT count(*) FILTER (WHERE state IN ('pending', 'disable_pending')),
            count(*) FILTER (WHERE state IN ('pending', 'disable_pending') AND tries > 0),
            count(*) FILTER (WHERE state = 'enrolled'), count(*) FILTER (WHERE state = 'refused')
        FROM outbox WHERE dps = 'main'";
    let counted = db.query_row(sql, [], |row| {
        Ok(OutboxCounts {
            waiting: row.get(0)?,
            tried: row.get(1)?,
            enrolled: row.get(2)?,
            refused: row.get(3)?,
        })
    });
    counted.unwrap()
}

/// What the bays saw in each shift so far, by where it begins: counted from the events alone, with every unit's name.
fn seen(events: &[Recorded]) -> BTreeMap<u64, Counts> {
    let mut all = BTreeMap::new();
    let mut from = 0;
    let mut units: BTreeMap<DeviceId, Option<&'static str>> = BTreeMap::new();
    let mut errors = 0;
    for recorded in events {
        let device = recorded.device.clone();
        let mut rename = |from: Option<DeviceId>, to: Option<DeviceId>| {
            if let Some(verdict) = units.remove(&from.unwrap()) {
                units.insert(to.unwrap(), verdict);
            }
        };
        match &recorded.event {
            Event::IdCheckedOut { uid, .. } => rename(DeviceId::provisional(uid), device),
            Event::IdReturned { uid, .. } => rename(device, DeviceId::provisional(uid)),
            Event::Identified { .. } => {
                units.entry(device.unwrap()).or_default();
            }
            Event::Recognised { .. } => {
                let device = device.unwrap();
                if units.get(&device) == Some(&None) {
                    units.remove(&device);
                }
            }
            Event::Passed { .. } | Event::Failed { .. } | Event::Injected { .. } => {
                units.insert(device.unwrap(), Some(recorded.event.kind()));
            }
            Event::Errored { .. } => errors += 1,
            _ => {}
        }
        let count = |wanted: Option<&str>| {
            let found = units.values().filter(|verdict| **verdict == wanted);
            u32::try_from(found.count()).unwrap()
        };
        let counts = Counts {
            passed: count(Some("passed")),
            failed: count(Some("failed")),
            injected: count(Some("injected")),
            open: count(None),
            errors,
        };
        all.insert(from, counts);
        if let Event::ShiftClosed { .. } = recorded.event {
            (from, errors) = (recorded.seq, 0);
            units.clear();
            all.insert(from, Counts::default());
        }
    }
    all
}

async fn is_what_a_recount_gives(ledger: &Ledger, path: &Path) {
    let db = Connection::open(path).unwrap();
    let events = all(ledger).await;
    let sql = "SELECT shift, from_seq, coalesce(closed_seq, 9223372036854775807) FROM shift ORDER BY opened_seq";
    let mut statement = db.prepare(sql).unwrap();
    let shifts = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let shifts: Vec<(String, i64, i64)> = shifts.unwrap().map(Result::unwrap).collect();
    for (shift, from, closed) in &shifts {
        let kept = ledger.balance(shift).await.unwrap();
        assert_eq!(kept, balance(&db, *from, *closed), "shift {shift}");
    }
    assert_eq!(ledger.outbox_counts("main").await.unwrap(), outbox(&db));
    let standing = ledger.lookout().look().await.unwrap().unwrap();
    let last = standing.shift.unwrap();
    let (shift, from, closed) = shifts.last().unwrap();
    assert_eq!((&last.shift, last.open), (shift, *closed == i64::MAX));
    let mut counted = Counts::default();
    for (_, counts) in seen(&events).range(from.cast_unsigned()..) {
        counted.passed += counts.passed;
        counted.failed += counts.failed;
        counted.injected += counts.injected;
        counted.open += counts.open;
        counted.errors += counts.errors;
    }
    assert_eq!(last.counts, counted);
    let main = standing.outboxes.get("main").copied();
    assert_eq!(main.unwrap_or_default(), outbox(&db));
}

#[tokio::test]
async fn the_tallies_are_what_counting_anew_gives() {
    let mut passed = 0;
    for seed in 1..=STORIES {
        let folder = folder();
        let path = folder.path().join("ledger.sqlite");
        let mut story = Story {
            ledger: open(&path),
            seed,
            shifts: 0,
            claims: BTreeMap::new(),
            serials: 0,
        };
        story.turn_shift().await;
        for step in 0..STEPS {
            story.step().await;
            if step % 10 == 0 {
                eprintln!("seed {seed}, step {step}");
                is_what_a_recount_gives(&story.ledger, &path).await;
            }
        }
        let units = story.ledger.units().await.unwrap();
        passed += units.iter().filter(|unit| unit.verdict.is_some()).count();
        assert!(story.shifts > 2, "seed {seed}");
        clean(&path);
    }
    assert!(passed > 50, "{passed}");
}

#[tokio::test]
async fn a_tally_that_was_changed_is_named() {
    for (sql, table) in [
        ("UPDATE tally SET passed = passed + 1", "tally"),
        ("UPDATE tally SET errors = 0", "tally"),
        ("UPDATE outbox_tally SET waiting = 0", "outbox_tally"),
    ] {
        let folder = folder();
        let path = folder.path().join("ledger.sqlite");
        let ledger = open(&path);
        fill(&ledger).await;
        pass(&ledger, 9).await;
        clean(&path);
        let db = Connection::open(&path).unwrap();
        assert!(db.execute(sql, []).unwrap() > 0);
        let damages = verify(&path).unwrap().damages;
        let named =
            |place: &Place| matches!(place, Place::Row { table: found, .. } if found == table);
        assert!(
            !damages.is_empty() && damages.iter().all(|d| named(&d.place)),
            "{damages:?}"
        );
    }
}

#[tokio::test]
async fn a_lookout_sees_what_others_commit_and_reads_nothing_where_nobody_did() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let (ledger, other) = (open(&path), open(&path));
    let lookout = ledger.lookout();
    let first = lookout.look().await.unwrap().unwrap();
    assert_eq!((first.shift, first.outboxes.len()), (None, 0));
    assert_eq!(lookout.look().await.unwrap(), None);
    let shift = "early".to_owned();
    other.record(&Event::ShiftOpened { shift }).await.unwrap();
    let opened = lookout.look().await.unwrap().unwrap().shift.unwrap();
    assert_eq!((opened.shift.as_str(), opened.open), ("early", true));
    assert_eq!(lookout.look().await.unwrap(), None);
    pass(&ledger, 1).await;
    let standing = lookout.look().await.unwrap().unwrap();
    assert_eq!(standing.shift.unwrap().counts.passed, 1);
    assert_eq!(standing.outboxes["main"].waiting, 1);
    assert_eq!(lookout.look().await.unwrap(), None);
}
