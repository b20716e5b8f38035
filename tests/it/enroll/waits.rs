//! What may happen while an upload waits: records change, others ask for calls, a clock steps back.

use super::*;
use dps_station::provision::floor::{Activity, Report};
use dps_station::station::Uploader;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::sync::mpsc;

/// Longest that a test waits for what must come.
const LONG: Duration = Duration::from_secs(60);

impl Line {
    /// Comes back when so many charges are on record.
    async fn charged(&self, charges: usize) {
        while self.charges().await.len() < charges {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn what_changed_while_a_call_waits_to_be_made_again_is_not_sent_as_it_was() {
    let line = Line::new().await;
    let enrollments = line.pass_many(3).await;
    line.faults(Faults {
        throttle: 1,
        retry_after_seconds: 3,
        ..Faults::default()
    })
    .await;
    let fail = async {
        line.charged(1).await;
        line.fail(&enrollments[0]).await;
    };
    let (summary, ()) = tokio::join!(line.drain(), fail);
    assert_eq!(summary.fault, None);
    assert_eq!((summary.enrolled, summary.disabled), (2, 1));
    assert_eq!(line.held(&enrollments[0]).await.status, Status::Disabled);
    each_created_once(&line, &enrollments); // never enabled, so never changed
}

/// What is reported of the instance of this name, from its next end of an upload on.
async fn uploaded(reports: &mut mpsc::Receiver<Report>, name: &str) {
    let heard = async {
        loop {
            match reports.recv().await {
                Some(Report::Enroller { dps, outbox, .. }) if dps == name => match outbox.note {
                    Some(Activity::Uploaded) => return,
                    Some(Activity::Stopped(fault)) => panic!("{fault:?}"),
                    _ => {}
                },
                Some(_) => {}
                None => panic!("the uploader has gone"),
            }
        }
    };
    let heard = tokio::time::timeout(LONG, heard).await;
    heard.expect("an upload that is asked for ends");
}

#[tokio::test]
async fn a_service_that_is_down_holds_up_no_upload_to_another() {
    let line = Line::new().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let down = DpsOptions {
        name: "down".to_owned(),
        service_url: format!("https://{}", nobody.local_addr().unwrap()),
        ..options(&line.cloud, line.cloud.connection_string())
    };
    drop(nobody);
    line.pass(&Enrollment {
        dps: "down".to_owned(),
        ..x509(100)
    })
    .await;
    let main = options(&line.cloud, line.cloud.connection_string());
    let clouds = [down, main].map(|dps| (Arc::new(Dps::new(dps, real_clock).unwrap()), SHARE));
    let (sender, mut reports) = mpsc::channel(16);
    let uploader = Uploader::new(line.ledger.clone(), clouds.into(), sender, real_clock);
    for enrollment in [x509(0), x509(1)] {
        line.pass(&enrollment).await;
        uploader.start();
        uploaded(&mut reports, "main").await;
        assert_eq!(line.row(&enrollment).await.state, OutboxState::Enrolled);
    }
}

#[tokio::test]
async fn an_upload_that_is_asked_for_while_one_is_under_way_follows_it() {
    let line = Line::new().await;
    line.pass_many(1).await;
    let main = options(&line.cloud, line.cloud.connection_string());
    let clouds = vec![(Arc::new(Dps::new(main, real_clock).unwrap()), SHARE)];
    let (sender, mut reports) = mpsc::channel(16);
    let uploader = Uploader::new(line.ledger.clone(), clouds, sender, real_clock);
    uploader.start();
    reports.recv().await.expect("it says that it begins");
    uploader.start();
    uploaded(&mut reports, "main").await;
    uploaded(&mut reports, "main").await;
}

#[tokio::test]
async fn reading_leaves_room_for_a_batch_that_is_to_be_sent() {
    let line = Line::with_clock(still_clock).await;
    let enrollments = line.pass_many(10).await;
    let beside = Event::Charged {
        dps: "main".to_owned(),
        operations: 10,
        sending: vec![],
    };
    line.ledger.record(&beside).await.unwrap();
    let terms = terms(20);
    let id = &enrollments[0].registration_id;
    let sent = async {
        while line.charges().await.iter().all(|charge| charge.2 == 0) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        held = enroller::look(&line.ledger, &line.dps, &terms, id) => panic!("{held:?} took the room"),
        summary = drain(&line.ledger, &line.dps, &terms) => panic!("{summary:?} had no room to read"),
        () = sent => {}
    }
    let charges: Vec<_> = line.charges().await.iter().map(|c| (c.1, c.2)).collect();
    assert_eq!(charges, [(10, 0), (10, 10)]);
}

/// A clock on which no time passes, so that nothing leaves the share.
fn still_clock() -> i64 {
    static START: OnceLock<i64> = OnceLock::new();
    *START.get_or_init(real_clock)
}

#[tokio::test]
async fn reading_gives_way_for_a_while_and_then_goes_on_beside_an_upload() {
    let line = Line::with_clock(fast_clock).await;
    let id = x509(0).registration_id;
    let terms = terms(20);
    // Always more than half of the share is in use, as beside an upload, and never all of it.
    let upload = async {
        let mut used = Vec::new();
        loop {
            used.retain(|at_ms| at_ms + 61_000 > fast_clock());
            if used.len() < 15 {
                let one = Event::Charged {
                    dps: "main".to_owned(),
                    operations: 1,
                    sending: vec![],
                };
                used.push(fast_clock());
                line.ledger.record(&one).await.unwrap();
            }
            tokio::task::yield_now().await;
        }
    };
    let read = async {
        line.charged(15).await;
        enroller::look(&line.ledger, &line.dps, &terms, &id).await
    };
    tokio::select! {
        held = tokio::time::timeout(LONG, read) => assert_eq!(held.expect("it goes on"), Ok(None)),
        () = upload => {}
    }
}

/// How often the clock is looked at until it is once ten seconds back.
static STEP_BACK: AtomicI64 = AtomicI64::new(i64::MAX);

fn stepping_clock() -> i64 {
    match STEP_BACK.fetch_sub(1, Ordering::SeqCst) {
        0 => real_clock() - 10_000,
        _ => real_clock(),
    }
}

#[tokio::test]
async fn a_clock_that_steps_back_between_two_looks_loses_no_record() {
    let line = Line::new().await;
    let dps = options(&line.cloud, line.cloud.connection_string());
    let dps = Dps::new(dps, stepping_clock).unwrap();
    for number in 0..6 {
        let enrollment = x509(number);
        line.pass(&enrollment).await;
        let put_off = Event::EnrollmentDeferred {
            registration_id: enrollment.registration_id.clone(),
            fault: Fault::EnrollmentDeferred {
                dps: "main".to_owned(),
                registration_id: enrollment.registration_id.clone(),
                why: RecordTrouble::NotHeld,
            },
            next_try_ms: real_clock() - 5_000,
        };
        line.ledger.record(&put_off).await.unwrap();
        STEP_BACK.store(number.into(), Ordering::SeqCst);
        let terms = terms(SHARE);
        let run = tokio::time::timeout(LONG, drain(&line.ledger, &dps, &terms));
        assert_eq!(run.await.expect("it ends"), enrolled(1), "{number}");
    }
}
