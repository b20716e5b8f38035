//! What the ledger refuses, and what follows from what it holds.

use super::*;
use dps_station::ledger::{IdentityKind, OutboxState, ReservationState, UnitRow};
use dps_station::provision::event::EnrolledIdentity;
use dps_station::provision::naming::IdFormat;
use dps_station::provision::verdict::Verdict;

#[tokio::test]
async fn a_claim_taken_over_is_fenced_off() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    let first = claim(&ledger, 1).await;
    let second = claim(&ledger, 1).await;
    assert_eq!(second.fence(), first.fence() + 1);
    let fenced = LedgerError::Fenced { device: device(1) };
    assert_eq!(ledger.append(&first, None, &key_read(1)).await, Err(fenced));
    append(&ledger, &second, &[key_read(1)]).await;
    // The attempt left behind can still be ended, which moves nothing.
    assert_eq!(ledger.open_attempts().await.unwrap().len(), 2);
    for attempt in [first.attempt(), second.attempt()] {
        ledger.end_attempt(attempt, &interrupted()).await.unwrap();
        assert!(ledger.end_attempt(attempt, &interrupted()).await.is_err());
    }
    assert_eq!(ledger.open_attempts().await.unwrap(), []);
    let ended = ledger.append(&second, None, &derived(1)).await;
    assert!(matches!(ended, Err(LedgerError::Illegal(_))), "{ended:?}");
    clean(&path);
}

#[tokio::test]
async fn a_number_is_for_one_unit_and_goes_back_only_unused() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    let given = |number, uid: u8| Event::IdCheckedOut {
        device_id: device(number),
        format: IdFormat::parse("GW-###").unwrap(),
        uid: Blob(vec![uid]),
    };
    let returned = Event::IdReturned {
        device_id: device(2),
        uid: Blob(vec![2]),
        reason: Box::new(Fault::ProofFailed),
    };
    claim(&ledger, 1).await;
    let attempt = Ulid::generate();
    assert!(ledger.check_out(attempt, &given(2, 2)).await.is_err());
    ledger.arrive(attempt, &arrived()).await.unwrap();
    let taken = LedgerError::Taken { device: device(1) };
    assert_eq!(ledger.check_out(attempt, &given(1, 2)).await, Err(taken));
    ledger.check_out(attempt, &given(2, 2)).await.unwrap();
    let taken = LedgerError::Taken { device: device(2) };
    assert_eq!(ledger.check_out(attempt, &given(2, 3)).await, Err(taken));
    let duplicate = LedgerError::Duplicate {
        kind: IdentityKind::Uid,
        other: device(2),
        since_ms: clock(),
    };
    assert_eq!(
        ledger.check_out(attempt, &given(3, 2)).await,
        Err(duplicate)
    );
    let format = IdFormat::parse("GW-###").unwrap();
    let next = ledger.next_number(&format, 1).await;
    assert_eq!(next, Ok(3), "none before it was given back");

    ledger.record(&returned).await.unwrap();
    assert!(ledger.record(&returned).await.is_err());
    assert_eq!(ledger.next_number(&format, 1).await, Ok(2));
    assert_eq!(ledger.next_number(&format, 3).await, Ok(3));
    ledger.check_out(attempt, &given(2, 2)).await.unwrap();
    let held = ledger.device_of_uid(&Blob(vec![2])).await.unwrap();
    assert_eq!(held, Some(device(2)));
    let event = identified(device(2), &[2]);
    let (unit, _) = ledger.identify(attempt, &event).await.unwrap();
    append(&ledger, &unit, &[reserved(Purpose::Leaf, 2), failed(None)]).await;
    assert!(ledger.record(&returned).await.is_err());
    clean(&path);
}

#[tokio::test]
async fn one_identity_is_one_device() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    let first = claim(&ledger, 1).await;
    let job = whole_job(1);
    append(&ledger, &first, &job[..4]).await;
    append(&ledger, &first, &job[1..4]).await;
    let second = claim(&ledger, 2).await;
    let count = all(&ledger).await.len();
    for (event, kind) in [
        (&job[1], IdentityKind::PublicKey),
        (&job[2], IdentityKind::EndorsementKey),
        (&job[3], IdentityKind::RegistrationId),
    ] {
        let duplicate = LedgerError::Duplicate {
            kind,
            other: device(1),
            since_ms: clock(),
        };
        assert_eq!(ledger.append(&second, None, event).await, Err(duplicate));
    }
    assert_eq!(all(&ledger).await.len(), count);

    let attempt = Ulid::generate();
    ledger.arrive(attempt, &arrived()).await.unwrap();
    let same_chip = identified(device(3), &[1]);
    let error = ledger.identify(attempt, &same_chip).await.unwrap_err();
    let other = device(1);
    assert!(matches!(&error, LedgerError::Duplicate { other: found, .. } if *found == other));
    // The attempt is still open, and a device that says nothing of its chip is like no other.
    let nameless = identified(device(3), &[]);
    ledger.identify(attempt, &nameless).await.unwrap();
    clean(&path);
}

#[tokio::test]
async fn a_reservation_ends_once() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    let job = claim(&ledger, 1).await;
    let illegal = |result: Result<Recorded, LedgerError>| {
        assert!(matches!(result, Err(LedgerError::Illegal(_))), "{result:?}");
    };
    illegal(ledger.append(&job, None, &signed(1)).await);
    append(&ledger, &job, &[reserved(Purpose::Leaf, 1)]).await;
    illegal(ledger.append(&job, None, &reserved(Purpose::Leaf, 1)).await);
    illegal(ledger.record(&signed(1)).await);
    append(&ledger, &job, &[abandoned(1)]).await;
    illegal(ledger.append(&job, None, &signed(1)).await);
    illegal(ledger.append(&job, None, &abandoned(1)).await);
    illegal(ledger.record(&reserved(Purpose::Leaf, 2)).await);
    illegal(ledger.append(&job, None, &reserved(Purpose::Root, 2)).await);

    let right = ledger.reserve(reservation(Purpose::Root, 3)).await.unwrap();
    assert_eq!(right.reservation(), &reservation(Purpose::Root, 3));
    ledger.record(&signed(3)).await.unwrap();
    let states: Vec<_> = ledger.reservations().await.unwrap();
    let states: Vec<_> = states.iter().map(|row| row.state).collect();
    assert_eq!(
        states,
        [ReservationState::Abandoned, ReservationState::Signed]
    );
    clean(&path);
}

#[tokio::test]
async fn the_right_to_a_signature_is_given_once_and_for_what_is_on_record() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    let job = claim(&ledger, 1).await;
    let product = Some(Digest([7; 32]));
    let leaf = reservation(Purpose::Leaf, 1);
    let (recorded, right) = ledger
        .reserve_for(&job, product, leaf.clone())
        .await
        .unwrap();
    assert_eq!(right.reservation(), &leaf);
    assert_eq!(recorded.event, reserved(Purpose::Leaf, 1));
    assert_eq!(recorded.product_digest, product);
    assert_eq!(recorded.device.as_ref(), Some(job.device()));
    assert_eq!(
        ledger.events(job.device()).await.unwrap().last(),
        Some(&recorded)
    );

    let illegal =
        |error: LedgerError| assert!(matches!(error, LedgerError::Illegal(_)), "{error:?}");
    let again = ledger.reserve_for(&job, product, leaf.clone()).await;
    illegal(again.unwrap_err());
    illegal(ledger.reserve(leaf).await.unwrap_err());
    let root = reservation(Purpose::Root, 2);
    let not_a_leaf = ledger.reserve_for(&job, product, root).await;
    illegal(not_a_leaf.unwrap_err());

    let successor = claim(&ledger, 1).await;
    let leaf = reservation(Purpose::Leaf, 3);
    let fenced = ledger.reserve_for(&job, product, leaf).await.unwrap_err();
    assert!(matches!(fenced, LedgerError::Fenced { .. }), "{fenced:?}");
    append(&ledger, &successor, &[abandoned(1)]).await;
    assert_eq!(ledger.reservations().await.unwrap().len(), 1);
    clean(&path);
}

#[tokio::test]
async fn a_verdict_refers_to_what_is_on_record_of_the_same_device() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    pass(&ledger, 1).await;
    let other = claim(&ledger, 2).await;
    append(&ledger, &other, &[derived(2)]).await;
    let verdict = |identity: IdentityRef| Event::Passed {
        enrollment: EnrollmentRecord {
            identity,
            ..enrollment(2)
        },
    };
    let certificate_sha256 = Digest::of(&certificate(1).0);
    let nothing = IdentityRef::X509 {
        certificate_sha256: Digest([9; 32]),
    };
    let of_another = IdentityRef::X509 { certificate_sha256 };
    for identity in [nothing, of_another] {
        let refused = ledger.append(&other, None, &verdict(identity)).await;
        assert!(
            matches!(refused, Err(LedgerError::Illegal(_))),
            "{refused:?}"
        );
    }
    append(&ledger, &other, &[reserved(Purpose::Leaf, 2), signed(2)]).await;
    let as_a_key = IdentityRef::Tpm {
        endorsement_key_sha256: Digest::of(&certificate(2).0),
    };
    let refused = ledger.append(&other, None, &verdict(as_a_key)).await;
    assert!(
        matches!(refused, Err(LedgerError::Illegal(_))),
        "{refused:?}"
    );
    append(&ledger, &other, &[passed(2)]).await;

    let rows = ledger.outbox(OutboxFilter::default()).await.unwrap();
    let content: Vec<_> = rows
        .into_iter()
        .map(|row| row.enrollment.identity)
        .collect();
    let x509 = |number| EnrolledIdentity::X509 {
        certificate: certificate(number),
    };
    assert_eq!(content, [x509(1), x509(2)]);
    let body =
        "SELECT count(*) FROM events WHERE kind = 'passed' AND body LIKE '%certificate_sha256%'
        AND body NOT LIKE '%' || ? || '%'";
    let db = rusqlite::Connection::open(&path).unwrap();
    let bare: u32 = db
        .query_row(body, [certificate(2).base64()], |row| row.get(0))
        .unwrap();
    assert_eq!(bare, 2, "no verdict holds what it refers to");
    clean(&path);
}

#[tokio::test]
async fn an_event_cannot_be_changed_deleted_or_slipped_in() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    fill(&ledger).await;
    let db = rusqlite::Connection::open(&path).unwrap();
    for (sql, reason) in [
        ("UPDATE events SET body = '{}' WHERE seq = 3", "never changed"),
        ("DELETE FROM events WHERE seq = 3", "never deleted"),
        (
            "REPLACE INTO events SELECT * FROM events WHERE seq = 3",
            "without gaps",
        ),
        (
            "INSERT INTO events SELECT 1000, at_ms, station, operator, attempt, device, product_digest, kind,
                 version, body, prev, hash FROM events WHERE seq = 3",
            "without gaps",
        ),
    ] {
        let error = db.execute(sql, []).unwrap_err().to_string();
        assert!(error.contains(reason), "{sql}: {error}");
    }
    clean(&path);
}

async fn outbox_row(ledger: &Ledger, number: u8) -> (OutboxState, bool, u32) {
    let rows = ledger.outbox(OutboxFilter::default()).await.unwrap();
    let id = registration_id(number);
    let row = rows.iter().find(|row| row.registration_id == id).unwrap();
    (row.state, row.sending, row.tries)
}

#[tokio::test]
async fn the_outbox_follows_verdicts_and_answers() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    pass(&ledger, 1).await;
    assert_eq!(
        outbox_row(&ledger, 1).await,
        (OutboxState::Pending, false, 0)
    );
    // No answer without a charge.
    assert!(ledger.record(&enrolled(1)).await.is_err());
    ledger.record(&charged(&[1])).await.unwrap();
    assert_eq!(
        outbox_row(&ledger, 1).await,
        (OutboxState::Pending, true, 0)
    );
    let deferred = Event::EnrollmentDeferred {
        registration_id: registration_id(1),
        fault: fault(),
        next_try_ms: 99,
    };
    ledger.record(&deferred).await.unwrap();
    assert_eq!(
        outbox_row(&ledger, 1).await,
        (OutboxState::Pending, false, 1)
    );
    let due = |due_ms| OutboxFilter {
        due_ms: Some(due_ms),
        ..OutboxFilter::default()
    };
    assert_eq!(ledger.outbox(due(98)).await.unwrap().len(), 0);
    assert_eq!(ledger.outbox(due(99)).await.unwrap().len(), 1);
    ledger.record(&charged(&[1])).await.unwrap();
    let recorded = ledger.record(&enrolled(1)).await.unwrap();
    assert_eq!(recorded.device, Some(device(1)));
    assert_eq!(
        outbox_row(&ledger, 1).await,
        (OutboxState::Enrolled, false, 0)
    );
    // It fails after all: it must be disabled, and cannot be enrolled.
    let job = claim(&ledger, 1).await;
    append(&ledger, &job, &[failed(None)]).await;
    assert_eq!(outbox_row(&ledger, 1).await.0, OutboxState::DisablePending);
    ledger.record(&charged(&[1])).await.unwrap();
    assert!(ledger.record(&enrolled(1)).await.is_err());
    // While that call is under way it passes again: the answer is to a question no longer asked.
    let job = claim(&ledger, 1).await;
    append(&ledger, &job, &[passed(1)]).await;
    assert_eq!(
        outbox_row(&ledger, 1).await,
        (OutboxState::Pending, true, 0)
    );
    let disabled = Event::EnrollmentDisabled {
        registration_id: registration_id(1),
    };
    ledger.record(&disabled).await.unwrap();
    assert_eq!(
        outbox_row(&ledger, 1).await,
        (OutboxState::Pending, false, 0)
    );
    assert_eq!(ledger.operations_charged_since("main", 0).await, Ok(6));
    clean(&path);
}

#[tokio::test]
async fn a_refused_record_is_put_back_with_what_is_meant_now_and_nothing_else_is() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    pass(&ledger, 1).await;
    assert!(ledger.record(&retried(1)).await.is_err(), "it waits");
    ledger.record(&charged(&[1])).await.unwrap();
    let refused = Event::EnrollmentRefused {
        registration_id: registration_id(1),
        fault: fault(),
    };
    ledger.record(&refused).await.unwrap();

    let meant = |change: fn(&mut EnrollmentRecord)| {
        let mut now = enrollment(1);
        change(&mut now);
        Event::EnrollmentRetried {
            was: Box::new(enrollment(1)),
            now: Box::new(now),
        }
    };
    let of_another = meant(|now| now.device_id = device(2));
    let elsewhere = meant(|now| now.dps = "other".to_owned());
    let not_what_was_meant = Event::EnrollmentRetried {
        was: Box::new(EnrollmentRecord {
            initial_desired: None,
            initial_tags: None,
            content: Default::default(),
            ..enrollment(1)
        }),
        now: Box::new(enrollment(1)),
    };
    for wrong in [of_another, elsewhere, not_what_was_meant] {
        assert!(ledger.record(&wrong).await.is_err(), "{wrong:?}");
    }
    let corrected = meant(|now| now.initial_desired = Some(serde_json::json!({"site": "B"})));
    ledger.record(&corrected).await.unwrap();
    let rows = ledger.outbox(OutboxFilter::default()).await.unwrap();
    assert_eq!(
        (rows[0].state, &rows[0].fault),
        (OutboxState::Pending, &None)
    );
    let desired = rows[0].enrollment.initial_desired.as_ref().unwrap();
    assert_eq!(desired["site"], "B");
    clean(&path);

    // One that was to be disabled is put back as such.
    ledger.record(&charged(&[1])).await.unwrap();
    ledger.record(&refused).await.unwrap();
    let job = claim(&ledger, 1).await;
    append(&ledger, &job, &[failed(None)]).await;
    ledger.record(&charged(&[1])).await.unwrap();
    ledger.record(&refused).await.unwrap();
    let again = Event::EnrollmentRetried {
        was: Box::new(rows[0].enrollment.record()),
        now: Box::new(enrollment(1)),
    };
    ledger.record(&again).await.unwrap();
    assert_eq!(outbox_row(&ledger, 1).await.0, OutboxState::DisablePending);
    clean(&path);
}

#[tokio::test]
async fn a_shift_balances_in_units() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    let opened = |shift: &str| Event::ShiftOpened {
        shift: shift.to_owned(),
    };
    ledger.record(&opened("early")).await.unwrap();
    assert!(ledger.record(&opened("late")).await.is_err());
    pass(&ledger, 1).await;
    pass(&ledger, 2).await;
    let job = claim(&ledger, 3).await;
    append(&ledger, &job, &[failed(None)]).await;
    let job = claim(&ledger, 3).await;
    let events = [derived(3), reserved(Purpose::Leaf, 3), signed(3), passed(3)];
    append(&ledger, &job, &events).await;
    let job = claim(&ledger, 4).await;
    append(&ledger, &job, &[Event::Errored { fault: fault() }]).await;
    claim(&ledger, 5).await;
    let early = ledger.balance("early").await.unwrap();
    assert_eq!((early.open_before, early.scanned), (0, 5));
    assert_eq!((early.passed, early.failed, early.open_after), (3, 0, 2));
    assert_eq!(early.pending, 3);
    let closed = Event::ShiftClosed {
        shift: "early".to_owned(),
        balance: early,
    };
    ledger.record(&closed).await.unwrap();
    assert!(ledger.record(&closed).await.is_err());
    assert_eq!(ledger.current_shift().await.unwrap(), None);

    ledger.record(&opened("late")).await.unwrap();
    pass(&ledger, 5).await;
    let job = claim(&ledger, 1).await;
    append(&ledger, &job, &[failed(None)]).await;
    ledger.record(&charged(&[2])).await.unwrap();
    ledger.record(&enrolled(2)).await.unwrap();
    let late = ledger.balance("late").await.unwrap();
    assert_eq!((late.open_before, late.scanned), (2, 0));
    assert_eq!((late.passed, late.failed, late.open_after), (1, 0, 1));
    let early = ledger.balance("early").await.unwrap();
    assert_eq!((early.passed, early.failed, early.open_after), (2, 1, 2));
    assert_eq!((early.enrolled, early.pending), (1, 1));

    // A unit that comes while no shift is open belongs to the next one; it is in no shift twice, and never in none.
    let closed = Event::ShiftClosed {
        shift: "late".to_owned(),
        balance: late,
    };
    ledger.record(&closed).await.unwrap();
    pass(&ledger, 6).await;
    assert_eq!(ledger.balance("late").await.unwrap(), late);
    ledger.record(&opened("night")).await.unwrap();
    let night = ledger.balance("night").await.unwrap();
    assert_eq!((night.open_before, night.scanned), (1, 1));
    assert_eq!((night.passed, night.failed, night.open_after), (1, 0, 1));
    let counts = ledger.outbox_counts("main").await.unwrap();
    assert_eq!((counts.enrolled, counts.waiting), (1, 4)); // one of them to be disabled
    let units = ledger.units().await.unwrap();
    let UnitRow {
        verdict,
        registration_id: id,
        ..
    } = &units[0];
    assert_eq!(
        (*verdict, id),
        (Some(Verdict::Failed), &Some(registration_id(1)))
    );
    clean(&path);
}
