//! The way to the cloud from a running station: one upload at a time for each DPS instance, beside the bays.

use super::board::outbox;
use crate::dps::Dps;
use crate::enroller::{self, LONG_PATIENCE, Summary, Terms};
use crate::ledger::{Ledger, LedgerError, OutboxFilter, OutboxState};
use crate::provision::fault::Fault;
use crate::provision::floor::{Activity, Outbox, Report};
use crate::provision::person::Person;
use crate::provision::product::Product;
use crate::provision::upload::Progress;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, watch};

/// Who decides at a screen that nobody has logged in to, as it goes on record.
const OPERATOR: &str = "operator";

/// Drains the outbox of each DPS instance when asked.
pub struct Uploader {
    shared: Arc<Shared>,
}

struct Shared {
    ledger: Ledger,
    clouds: Vec<Cloud>,
    reports: mpsc::Sender<Report>,
    clock: fn() -> i64,
}

/// An instance.
struct Cloud {
    dps: Arc<Dps>,
    /// This station's share of it, in operations a minute.
    share: u32,
    /// How often an upload was asked for that is not known to be over: none is under way where that is 0.
    asked: AtomicU64,
}

impl Uploader {
    /// An uploader that reports to `reports`.
    pub fn new(
        ledger: Ledger,
        clouds: Vec<(Arc<Dps>, u32)>,
        reports: mpsc::Sender<Report>,
        clock: fn() -> i64,
    ) -> Self {
        let clouds = clouds.into_iter().map(|(dps, share)| Cloud {
            dps,
            share,
            asked: AtomicU64::new(0),
        });
        Self {
            shared: Arc::new(Shared {
                ledger,
                clouds: clouds.collect(),
                reports,
                clock,
            }),
        }
    }

    /// Starts an upload to each instance; where one is under way, another follows it.
    pub fn start(&self) {
        Shared::start(&self.shared);
    }

    /// Puts every refused record back, with what its product means today, and starts an upload; one that is under way
    /// takes them too, or the one that follows it.
    pub fn retry(&self, products: Vec<Arc<Product>>) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            match shared.put_back(&products).await {
                Ok(()) => Shared::start(&shared),
                Err(fault) => {
                    for cloud in &shared.clouds {
                        let stopped = Activity::Stopped(fault.clone());
                        shared.report(&cloud.dps, Some(stopped), None).await;
                    }
                }
            }
        });
    }

    /// The names of the instances.
    pub(super) fn clouds(&self) -> impl Iterator<Item = String> {
        let clouds = self.shared.clouds.iter();
        clouds.map(|cloud| cloud.dps.name().to_owned())
    }
}

impl Shared {
    /// Starts an upload to each instance that has none under way: none waits for another's service.
    fn start(shared: &Arc<Self>) {
        for (number, cloud) in shared.clouds.iter().enumerate() {
            if cloud.asked.fetch_add(1, Ordering::SeqCst) == 0 {
                let shared = Arc::clone(shared);
                tokio::spawn(async move { shared.upload(&shared.clouds[number]).await });
            }
        }
    }

    /// Uploads to an instance, and again for as long as that was asked for since the last upload began.
    async fn upload(&self, cloud: &Cloud) {
        loop {
            let asked = cloud.asked.load(Ordering::SeqCst);
            let dps = &cloud.dps;
            self.report(dps, Some(Activity::Uploading), None).await;
            let summary = self.drain(dps, cloud.share).await;
            let said = summary.fault.map_or(Activity::Uploaded, Activity::Stopped);
            self.report(dps, Some(said), None).await;
            let over = cloud
                .asked
                .compare_exchange(asked, 0, Ordering::SeqCst, Ordering::SeqCst);
            if over.is_ok() {
                return;
            }
        }
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
