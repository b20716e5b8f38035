//! What is no device of ours, in a bay whose port is always there.

use super::plant;
use super::scenarios::line::options;
use dps_station::bay::{Bay, Line};
use dps_station::fixtures::pty::Pty;
use dps_station::provision::event::Event;
use dps_station::provision::floor::Report;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

/// Between two lines of its log: longer than one look at the bay takes.
const LOG_EVERY: Duration = Duration::from_millis(1_200);
/// How long the bay may take to notice, on a machine that does much else.
const NOTICED_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn firmware_that_only_logs_now_and_then_is_noticed() {
    let dir = TempDir::new().unwrap();
    let port = dir.path().join("bay");
    let mut pty = Pty::open(&port).unwrap();
    let ledger = plant::ledger(&dir.path().join("ledger.sqlite"));
    let shift = "early".to_owned();
    ledger.record(&Event::ShiftOpened { shift }).await.unwrap();
    let (reports, mut said) = mpsc::channel(64);
    let (stop, stopped) = watch::channel(false);
    let bay = Bay {
        name: "1".to_owned(),
        port,
        hotplug: false,
        link: options(),
        limits: Default::default(),
        line: Arc::new(Line {
            ledger,
            products: Vec::new(),
            present: Mutex::default(),
            loopback: Default::default(),
            clock: plant::clock,
        }),
        reports,
        test: Arc::default(),
        scans: Arc::default(),
    };
    let bay = tokio::spawn(async move { bay.run(stopped).await.unwrap() });
    let logs = tokio::spawn(async move {
        loop {
            pty.write_all(b"[00:00:01] <inf> app: alive\r\n")
                .await
                .unwrap();
            tokio::time::sleep(LOG_EVERY).await;
        }
    });
    let fault = tokio::time::timeout(NOTICED_WITHIN, async {
        loop {
            if let Some(Report::Event { recorded, .. }) = said.recv().await
                && let Event::Interrupted { fault } = recorded.event
            {
                return fault;
            }
        }
    });
    let fault = fault.await.expect("it is noticed");
    assert_eq!(fault.code(), "not_a_device_we_know");
    logs.abort();
    stop.send(true).unwrap();
    drop(said);
    bay.await.unwrap();
}
