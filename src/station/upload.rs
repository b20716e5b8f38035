//! The way to the cloud from a running station: one upload at a time, beside the bays.

use super::board::outbox;
use crate::dps::Dps;
use crate::enroller::{self, LONG_PATIENCE, Summary, Terms};
use crate::ledger::{Ledger, LedgerError, OutboxFilter, OutboxState};
use crate::provision::fault::Fault;
use crate::provision::floor::{Activity, Outbox, Report};
use crate::provision::person::Person;
use crate::provision::product::Product;
use crate::provision::upload::Progress;
use futures_util::future::join_all;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{mpsc, watch};

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
                        let stopped = Activity::Stopped(fault.clone());
                        shared.report(dps, Some(stopped), None).await;
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
            let uploads = shared.clouds.iter().map(async |(dps, share)| {
                shared.report(dps, Some(Activity::Uploading), None).await;
                let summary = shared.drain(dps, *share).await;
                let said = summary.fault.map_or(Activity::Uploaded, Activity::Stopped);
                shared.report(dps, Some(said), None).await;
            });
            join_all(uploads).await; // none waits for another's service
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
            match enroller::retry(&ledger, products, &row).await {
                Ok(_) | Err(LedgerError::Illegal(_)) => {} // one that cannot be taken stops no other
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Drains the outbox of an instance, and reports all the while how that stands.
    async fn drain(&self, dps: &Dps, share: u32) -> Summary {
        let terms = Terms {
            patience: LONG_PATIENCE,
            follow: true,
            ..Terms::new(share, "station run")
        };
        let (said, mut heard) = watch::channel(Progress::default());
        let tell = async {
            while heard.changed().await.is_ok() {
                let progress = heard.borrow_and_update().clone();
                self.report(dps, None, Some(progress)).await;
            }
        };
        let drained = async {
            let summary = enroller::drain(&self.ledger, dps, &terms, &said).await;
            drop(said);
            summary
        };
        tokio::join!(drained, tell).0
    }

    /// Reports what the ledger holds for an instance, and what the enroller has to say if anything.
    async fn report(&self, dps: &Dps, note: Option<Activity>, progress: Option<Progress>) {
        let Ok(counts) = self.ledger.outbox_counts(dps.name()).await else {
            return; // the station finds out with its own next question, and says so
        };
        let outbox = Outbox {
            note,
            progress,
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
