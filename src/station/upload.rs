//! The way to the cloud from a running station: one upload at a time, beside the bays.

use super::board::outbox;
use crate::dps::Dps;
use crate::enroller;
use crate::ledger::{Ledger, OutboxFilter, OutboxState};
use crate::provision::fault::Fault;
use crate::provision::floor::{Activity, Outbox, Report};
use crate::provision::person::Person;
use crate::provision::product::Product;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;

/// Who decides at a screen that nobody has logged in to, as it goes on record.
const OPERATOR: &str = "operator";

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
        Shared::start(Arc::clone(&self.shared));
    }

    /// Puts every refused record back, with what its product means today, and starts an upload; one that is under way
    /// takes them too.
    pub fn retry(&self, products: Vec<Arc<Product>>) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            match shared.put_back(&products).await {
                Ok(()) => Shared::start(shared),
                Err(fault) => {
                    for (dps, _) in &shared.clouds {
                        shared.report(dps, Activity::Stopped(fault.clone())).await;
                    }
                }
            }
        });
    }

    /// The names of the instances.
    pub(super) fn clouds(&self) -> impl Iterator<Item = String> {
        let clouds = self.shared.clouds.iter();
        clouds.map(|(dps, _)| dps.name().to_owned())
    }
}

impl Shared {
    fn start(shared: Arc<Self>) {
        if shared.running.swap(true, Ordering::SeqCst) {
            return;
        }
        tokio::spawn(async move {
            for (dps, share) in &shared.clouds {
                shared.report(dps, Activity::Uploading).await;
                let summary = enroller::drain(&shared.ledger, dps, *share).await;
                let said = summary.fault.map_or(Activity::Uploaded, Activity::Stopped);
                shared.report(dps, said).await;
            }
            shared.running.store(false, Ordering::SeqCst);
        });
    }

    /// Puts every refused record back, in the name of who stands at the screen.
    async fn put_back(&self, products: &[Arc<Product>]) -> Result<(), Fault> {
        let operator = Person::new(OPERATOR, None).expect("the operator's name is short and plain");
        let ledger = self.ledger.by(&operator);
        let refused = OutboxFilter {
            state: Some(OutboxState::Refused),
            ..OutboxFilter::default()
        };
        for row in ledger.outbox(refused).await? {
            enroller::retry(&ledger, products, &row).await?;
        }
        Ok(())
    }

    /// Reports what the ledger holds for an instance, and what the enroller has to say if anything.
    async fn report(&self, dps: &Dps, note: Activity) {
        let Ok(counts) = self.ledger.outbox_counts(dps.name()).await else {
            return; // the station finds out with its own next question, and says so
        };
        let outbox = Outbox {
            note: Some(note),
            ..outbox(counts)
        };
        let report = Report::Enroller {
            at_ms: (self.clock)(),
            dps: dps.name().to_owned(),
            outbox,
        };
        let _ = self.reports.send(report).await;
    }
}
