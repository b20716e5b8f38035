//! One bay: arrival, identification, then one effect after another until the job is done.
//!
//! Data goes one way: what the device says becomes a fact, the job makes an event of it, the ledger makes that
//! durable, and only then does the job move and anybody hear of it. A copy of the job runs ahead as far as nothing but
//! questions and a restart follow, so that several events become durable together (`attempt.rs`).

mod attempt;
mod faults;
mod loopback;
mod memory;
mod naming;
mod perform;
mod presence;
mod returns;
mod scans;
mod stay;
mod tpm;
mod traced;

pub(crate) use faults::{link_fault, loopback_fault};
pub use scans::Scans;

use crate::hsm::Hsm;
use crate::ledger::{Ledger, LedgerError};
use crate::link::{DeviceLink, Driver, Found, LinkHealth, LinkOptions};
use crate::provision::certificate::Issuer;
use crate::provision::device::{DeviceId, Identification};
use crate::provision::event::{Event, Recorded};
use crate::provision::fault::{Blame, Fault};
use crate::provision::floor::Report;
use crate::provision::health::LinkLimits;
use crate::provision::job::{IllegalTransition, Job, Next};
use crate::provision::loopback::Limits;
use crate::provision::product::Product;
use crate::provision::verdict::Verdict;
use attempt::Attempt;
use faults::in_two_bays;
use memory::Memory;
use naming::Names;
use presence::Arrival;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tracing::Instrument;

/// One place for one device.
pub struct Bay {
    /// Its name.
    pub name: String,
    /// The path of its port.
    pub port: PathBuf,
    /// Whether the port comes and goes with the device.
    pub hotplug: bool,
    /// How its link is driven.
    pub link: LinkOptions,
    /// From where on its link is weak.
    pub limits: LinkLimits,
    /// What it shares with the other bays.
    pub line: Arc<Line>,
    /// Where its reports go.
    pub reports: mpsc::Sender<Report>,
    /// Woken to have the port tested as soon as the bay is empty.
    pub test: Arc<Notify>,
    /// Where labels that were scanned for it come in.
    pub scans: Arc<Scans>,
}

/// What all bays of a line share.
pub struct Line {
    /// The ledger.
    pub ledger: Ledger,
    /// What devices may become.
    pub products: Vec<LineProduct>,
    /// The devices that are in a bay now, and in which.
    pub present: Mutex<BTreeMap<DeviceId, String>>,
    /// What is demanded of a port in a loopback test.
    pub loopback: Limits,
    /// Milliseconds since 1970.
    pub clock: fn() -> i64,
}

/// A product, and what it takes to make it.
pub struct LineProduct {
    /// What a device should become.
    pub product: Arc<Product>,
    /// How to talk to its devices.
    pub driver: Arc<dyn Driver>,
    /// Who signs; absent for products without certificates.
    pub signer: Option<CaKey>,
    /// The longest that one step with a device may take.
    pub step_deadline: Duration,
}

/// A CA's key, and the certificate that it belongs to.
#[derive(Clone)]
pub struct CaKey {
    /// The HSM.
    pub hsm: Hsm,
    /// Label of the key.
    pub label: String,
    /// The issuing CA.
    pub issuer: Arc<Issuer>,
}

/// Why a bay cannot go on: the station itself failed.
#[derive(Debug, thiserror::Error)]
#[error("{0:?}")]
pub struct StationFault(pub Fault);

impl Bay {
    /// Serves devices until `stop` becomes true or the station itself fails.
    ///
    /// A stop is obeyed between attempts and while waiting; an attempt under way is dropped, which the next start
    /// of the station sets right from the record.
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> Result<(), StationFault> {
        tokio::select! {
            result = self.serve() => result,
            _ = stop.wait_for(|stop| *stop) => Ok(()),
        }
    }

    async fn serve(&self) -> Result<(), StationFault> {
        let mut memory = Memory::new(self.limits);
        loop {
            let mut link = self.open(&memory.frames).await?;
            self.report_waiting().await;
            let test_wanted = self.serve_port(&mut link, &mut memory).await?;
            self.close(link, &mut memory).await; // a test opens and locks the port itself
            if test_wanted {
                self.test_port().await?;
            }
        }
    }

    /// Serves one device after another until the port is gone or is to be tested; says whether it is.
    async fn serve_port(
        &self,
        link: &mut DeviceLink,
        memory: &mut Memory,
    ) -> Result<bool, StationFault> {
        loop {
            let found = match self.arrival(link, memory).await {
                Arrival::PortLost => return Ok(false),
                Arrival::TestWanted => return Ok(true),
                Arrival::Device(found) => Ok(found),
                Arrival::Stranger(fault) => Err(fault),
            };
            let unit = self.stay(link, found, memory).await?;
            if std::mem::take(&mut memory.held) {
                return Ok(false); // the unit has its turn when the port is opened again
            }
            self.departure(link, unit.as_ref(), memory).await;
            self.removed().await;
        }
    }

    /// Says that what was in the bay has left it.
    async fn removed(&self) {
        self.scans.take(); // a label that was scanned for it is not the next one's
        let (at_ms, bay) = (self.now(), self.name.clone());
        self.report(Report::Removed { at_ms, bay }).await;
        self.report_waiting().await;
    }

    /// An attempt that begins: something arrived.
    fn arrive(&self) -> Attempt {
        let mut attempt = Attempt::new(self.now());
        let arrived = Event::Arrived {
            bay: self.name.clone(),
            port: self.port.display().to_string(),
        };
        attempt.push(self.now(), None, arrived);
        attempt
    }

    /// One stay of one device; gives what the device last said of itself, if it ever did.
    async fn attempt(
        &self,
        link: &mut DeviceLink,
        found: Result<Found, Fault>,
        memory: &mut Memory,
    ) -> Result<Option<Identification>, StationFault> {
        let mut attempt = self.arrive();
        let found = match found {
            Ok(found) => found,
            Err(fault) => {
                self.end(&mut attempt, fault).await?;
                return Ok(None);
            }
        };
        let device = &found.identification.device_id;
        if let Some(other) = self.enter(device) {
            self.end(&mut attempt, in_two_bays(device, &other)).await?;
            return Ok(Some(found.identification));
        }
        let began = link.health();
        let result = self.job(attempt, link, found, memory).await;
        memory.attempt_over(link.health().since(began));
        self.leave();
        result.map(Some)
    }

    /// The job of an identified device, from claim to disposition.
    async fn job(
        &self,
        mut attempt: Attempt,
        link: &mut DeviceLink,
        found: Found,
        memory: &mut Memory,
    ) -> Result<Identification, StationFault> {
        let began = link.health();
        let made = match self.product_for(&found).await {
            Ok(made) => made,
            Err(fault) => {
                let measured = link.health().since(began);
                let found = found.identification;
                let fault = match memory.returns.is_often() {
                    true => memory.returns.verdict(&self.name, &found.device_id),
                    false => fault,
                };
                let fault = self.blame(fault, link, memory).await;
                self.misfit(attempt, &found, fault, measured).await?;
                memory.failed();
                return Ok(found);
            }
        };
        let found = found.identification;
        let naming = &made.product.naming;
        let names = match self
            .name(&mut attempt, link, &found, naming, memory)
            .await?
        {
            Ok(names) => names,
            Err(fault) => {
                if matches!(fault, Fault::WrongLabel(_) | Fault::NotScanned { .. }) {
                    memory.returns.excused();
                }
                let fault = self.blame(fault, link, memory).await;
                self.end(&mut attempt, fault).await?;
                return Ok(found);
            }
        };
        let device = self.identify(&mut attempt, &found, names);
        let measured = link.health().since(began);
        // A name that does not come from the device may be in use elsewhere until the claim is on record.
        if !naming.is_the_devices() {
            self.settle(&mut attempt, &device, None, measured).await?;
            if attempt.claim.is_none() {
                return Ok(found);
            }
        }
        let product = &made.product;
        let recovered = self.recover(&mut attempt, &device, product, measured);
        let Some(mut job) = recovered.await? else {
            return Ok(found);
        };
        let mut work = perform::Work {
            bay: self,
            device: made.driver.device(link),
            tpm_limit: Duration::from_millis(self.link.tpm_ms),
            made,
            name: &device,
            clock: self.line.clock,
            memory,
            began,
            reserved: None,
            last: found,
            resetting: false,
        };
        let ended = self.drive(&mut attempt, &mut job, &mut work).await?;
        work.memory.ended(ended);
        Ok(work.last)
    }

    /// Ends the attempt of a unit that no product fits.
    async fn misfit(
        &self,
        mut attempt: Attempt,
        found: &Identification,
        fault: Fault,
        measured: LinkHealth,
    ) -> Result<(), StationFault> {
        let device = self.identify(&mut attempt, found, Names::default());
        self.queue(&mut attempt, None, unjudged(fault), measured);
        self.settle(&mut attempt, &device, None, measured).await?;
        Ok(())
    }

    /// The job as the unit's record has it; none where that does not hang together, which is the unit's own matter and
    /// ends the attempt.
    async fn recover(
        &self,
        attempt: &mut Attempt,
        device: &DeviceId,
        product: &Arc<Product>,
        measured: LinkHealth,
    ) -> Result<Option<Job>, StationFault> {
        let events = self.line.ledger.events(device).await;
        let events = events.map_err(StationFault::ledger)?;
        let recovered = Job::recover(device.clone(), Arc::clone(product), &events);
        let damage = match recovered {
            Ok(mut job) => {
                if product.names_shift() {
                    let shift = self.line.ledger.current_shift().await;
                    let shift = shift.map_err(StationFault::ledger)?;
                    job.in_shift(shift.map(|shift| shift.shift).unwrap_or_default());
                }
                return Ok(Some(job));
            }
            Err(error) => unjudged(StationFault::damaged(error).0),
        };
        self.queue(attempt, None, damage, measured);
        self.settle(attempt, device, None, measured).await?;
        Ok(None)
    }

    /// Binds the attempt to the unit by its name, which it gives.
    fn identify(&self, attempt: &mut Attempt, found: &Identification, names: Names) -> DeviceId {
        let identified = Event::Identified {
            identification: found.clone(),
            assigned: names.assigned,
            scanned: names.scanned,
        };
        let device = identified.identified().unwrap_or(&found.device_id).clone();
        attempt.push(self.now(), None, identified);
        device
    }

    /// The heart: find out what comes next, do it, and have it on record before anything follows that must not be done
    /// twice; until the job is done.
    async fn drive(
        &self,
        attempt: &mut Attempt,
        job: &mut Job,
        work: &mut perform::Work<'_>,
    ) -> Result<Verdict, StationFault> {
        if !work.last.sealed {
            let _ = work.device.tune().await; // a lost port shows at the next step
        }
        let mut ahead = job.ahead();
        for event in attempt.waiting() {
            ahead.foresee(event).map_err(StationFault::damaged)?;
        }
        loop {
            if ahead.must_be_on_record() && attempt.waits() {
                let measured = work.measured();
                work.reserved = self
                    .settle(attempt, work.name, Some(&mut *job), measured)
                    .await?;
                if attempt.claim.is_none() {
                    return Ok(Verdict::Interrupted); // another device is known by this name
                }
                ahead = job.ahead();
            }
            let event = match ahead.next() {
                Next::Done(verdict) => return Ok(verdict),
                Next::Record(event) => event,
                Next::Do(effect) => {
                    let step = traced::step(&effect);
                    ahead.interpret(work.perform(effect).instrument(step).await)
                }
            };
            let event = match work.memory.returns.is_often() {
                true => work.of_a_unit_that_returns(&ahead).await,
                false => work.of_the_unit_here(event).await,
            };
            let before = attempt.waiting().count();
            self.queue(attempt, Some(&*job), event, work.measured());
            for event in attempt.waiting().skip(before) {
                ahead.foresee(event).map_err(StationFault::damaged)?;
            }
        }
    }

    /// Notes that a device is in this bay; the other bay's name if it is in one already.
    fn enter(&self, device: &DeviceId) -> Option<String> {
        let mut present = self
            .line
            .present
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = present.get(device) {
            return Some(other.clone());
        }
        present.insert(device.clone(), self.name.clone());
        None
    }

    fn leave(&self) {
        self.line
            .present
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, bay| *bay != self.name);
    }

    async fn report_event(&self, recorded: Recorded) {
        traced::verdict(&recorded);
        self.report(Report::Event {
            bay: self.name.clone(),
            recorded: Box::new(recorded),
        })
        .await;
    }

    async fn report_link(&self, link: &DeviceLink, memory: &Memory) {
        self.report(Report::Link {
            at_ms: self.now(),
            bay: self.name.clone(),
            health: memory.total(link.health()),
            weak: memory.weak(),
        })
        .await;
    }

    /// Nobody listening means that the station is stopping.
    async fn report(&self, report: Report) {
        let _ = self.reports.send(report).await;
    }

    fn now(&self) -> i64 {
        (self.line.clock)()
    }
}

/// What a refusal of the ledger means for the unit; every other fault of the ledger stops the station.
fn refusal(device: &DeviceId, error: LedgerError) -> Result<Fault, StationFault> {
    match error {
        LedgerError::Duplicate { kind, other, .. } => Ok(Fault::DuplicateIdentity {
            device: device.clone(),
            same: Some((kind, other)),
        }),
        LedgerError::Taken { .. } => Ok(Fault::DuplicateIdentity {
            device: device.clone(),
            same: None,
        }),
        error => Err(StationFault::ledger(error)),
    }
}

/// The verdict where there is no job that could have one.
fn unjudged(fault: Fault) -> Event {
    match fault.blame() {
        Blame::Device => Event::Failed {
            fault,
            disable: None,
        },
        Blame::Station | Blame::Cloud => Event::Errored { fault },
    }
}

impl StationFault {
    /// The ledger failed.
    pub fn ledger(error: LedgerError) -> Self {
        Self(error.fault())
    }

    /// The record of a device does not hang together.
    pub fn damaged(error: IllegalTransition) -> Self {
        Self(Fault::RecordDamaged {
            device: error.device,
            kind: error.kind.to_owned(),
        })
    }
}
