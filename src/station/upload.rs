//! The way to the cloud from a running station: one upload at a time, beside the bays.

use crate::dps::Dps;
use crate::enroller::{self, Summary};
use crate::ledger::Ledger;
use crate::provision::floor::{Outbox, Report};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;

/// Drains the outbox of each DPS instance when asked.
pub struct Uploader {
    shared: Arc<Shared>,
}

struct Shared {
    ledger: Ledger,
    /// The instances, each with this station's share in operations a minute.
    clouds: Vec<(Arc<Dps>, u32)>,
    reports: mpsc::Sender<Report>,
    clock: fn() -> i64,
    running: AtomicBool,
}

impl Uploader {
    /// An uploader that reports to `reports`.
    pub fn new(
        ledger: Ledger,
        clouds: Vec<(Arc<Dps>, u32)>,
        reports: mpsc::Sender<Report>,
        clock: fn() -> i64,
    ) -> Self {
        let running = AtomicBool::new(false);
        Self {
            shared: Arc::new(Shared {
                ledger,
                clouds,
                reports,
                clock,
                running,
            }),
        }
    }

    /// Starts an upload; does nothing while one is under way.
    pub fn start(&self) {
        if self.shared.running.swap(true, Ordering::SeqCst) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            for (dps, share) in &shared.clouds {
                shared
                    .report(
                        dps,
                        Outbox {
                            note: Some("uploading".to_owned()),
                            ..Outbox::default()
                        },
                    )
                    .await;
                let summary = enroller::drain(&shared.ledger, dps, *share).await;
                shared.report(dps, outbox(&summary)).await;
            }
            shared.running.store(false, Ordering::SeqCst);
        });
    }
}

impl Shared {
    async fn report(&self, dps: &Dps, outbox: Outbox) {
        let at_ms = (self.clock)();
        let _ = self
            .reports
            .send(Report::Enroller {
                at_ms,
                dps: dps.name().to_owned(),
                outbox,
            })
            .await;
    }
}

fn outbox(summary: &Summary) -> Outbox {
    Outbox {
        pending: summary.pending + summary.deferred,
        enrolled: summary.enrolled,
        refused: summary.refused,
        deferred: summary.deferred,
        note: Some(match &summary.fault {
            Some(fault) => fault.to_string(),
            None => "uploaded".to_owned(),
        }),
    }
}
