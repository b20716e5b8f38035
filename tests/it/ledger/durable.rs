//! What was acknowledged is never lost: not to a full disk, not to a kill.

use super::*;
use dps_station::words;

#[tokio::test]
async fn a_full_disk_is_one_sentence_and_loses_nothing() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let ledger = Ledger::open(Options {
        max_pages: Some(40),
        ..options(&path)
    })
    .unwrap();
    let mut acknowledged = Vec::new();
    let error = loop {
        let number = u8::try_from(acknowledged.len()).unwrap();
        let event = Event::ShiftOpened {
            shift: format!("{number} {}", "x".repeat(3000)),
        };
        let closed = Event::ShiftClosed {
            shift: format!("{number} {}", "x".repeat(3000)),
            balance: Default::default(),
        };
        match ledger.record(&event).await {
            Ok(recorded) => acknowledged.push(recorded),
            Err(error) => break error,
        }
        match ledger.record(&closed).await {
            Ok(recorded) => acknowledged.push(recorded),
            Err(error) => break error,
        }
    };
    let text = words::sentence(&error.fault());
    assert!(matches!(error, LedgerError::Full { .. }), "{text}");
    assert!(text.contains(path.to_str().unwrap()) && text.contains("make room"));
    let again = ledger.record(&acknowledged[0].event).await;
    assert!(again.is_err());
    assert_eq!(all(&ledger).await, acknowledged);
    ledger.close().await.unwrap();
    assert_eq!(clean(&path), acknowledged.len() as u64);
    let ledger = open(&path);
    pass(&ledger, 1).await;
    assert_eq!(clean(&path), acknowledged.len() as u64 + 7);
}

#[tokio::test]
async fn what_was_acknowledged_outlives_a_kill_at_any_moment() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    let job = claim(&ledger, 1).await;
    for (index, event) in whole_job(1).iter().enumerate() {
        append(&ledger, &job, std::slice::from_ref(event)).await;
        let copy = copy_live(&path, &folder.path().join(index.to_string()));
        assert_eq!(clean(&copy), index as u64 + 3);
        assert_eq!(all(&open(&copy)).await, all(&ledger).await);
    }
}

#[tokio::test]
async fn what_does_not_fit_fails_alone() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let ledger = Ledger::open(Options {
        max_pages: Some(60),
        ..options(&path)
    })
    .unwrap();
    let charge = |dps: &str| Event::Charged {
        dps: dps.to_owned(),
        operations: 1,
        sending: Vec::new(),
    };
    let (small, large) = (charge("main"), charge(&"x".repeat(1_000_000)));
    // Queued at once, so that the writer can take them as one transaction.
    let (first, second, third) = tokio::join!(
        ledger.record(&small),
        ledger.record(&large),
        ledger.record(&small)
    );
    assert!(first.is_ok() && third.is_ok(), "{first:?} {third:?}");
    assert!(matches!(second, Err(LedgerError::Full { .. })));
    assert_eq!(clean(&path), 2);
}
