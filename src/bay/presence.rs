//! Who is in the bay: its port opened, an arrival noticed, a departure noticed.

use super::faults::{link_fault, talks};
use super::memory::Memory;
use super::{Bay, StationFault};
use crate::link::{Change, DeviceLink, Driver, Found, Frames, LinkError, port, who};
use crate::provision::device::Identification;
use crate::provision::fault::{Blame, Doing, Fault, Holder};
use crate::provision::floor::Report;
use std::ops::RangeInclusive;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Pause between two looks whether a port has appeared.
const PLUG_POLL: Duration = Duration::from_millis(100);
/// Pause between two questions whether a device has arrived, as long as nothing is heard: firmware that says something
/// when it starts is asked at once. It grows while the bay stays empty, so that an idle line costs next to nothing.
const ARRIVAL_POLL: RangeInclusive<Duration> =
    Duration::from_millis(250)..=Duration::from_millis(1000);
/// How long an answer to such a question is waited for, where nothing was heard before: who answers later is heard in
/// the pause, and has longer from then on.
const ARRIVAL_TIMEOUT: Duration = Duration::from_millis(75);
/// The same where something was heard that was no answer: what starts may not have been ready for the question.
const HEARD_PAUSE: Duration = Duration::from_millis(10);
/// How often in a row another program must have had the port for it to be told: some only have a look.
const SHARED_LOOKS: u32 = 2;
/// How often in a row nothing must have been heard for the bay to count as empty again.
const QUIET_LOOKS: u32 = 4;
/// Pause between two questions whether a unit that is done has left, as long as nothing at the port says so: short at
/// first and when an answer did not come, and longer with each answer.
const DEPARTURE_POLL: RangeInclusive<Duration> =
    Duration::from_millis(75)..=Duration::from_millis(300);
/// How often in a row a unit that is done must not have been heard for it to have left: one answer may be lost.
const DEPARTURE_LOOKS: u32 = 3;
/// How long a device that is there may be silent to the arrival and departure questions.
pub(super) const PRESENCE_TIMEOUT: Duration = Duration::from_millis(500);
/// How often a port that cannot be opened is tried again.
pub(super) const REOPEN_POLL: Duration = Duration::from_secs(1);
/// How often an empty bay says how its link is, where something more went wrong on it.
const LINK_EVERY: Duration = Duration::from_secs(5);

/// What is in the bay.
pub(super) enum Arrival {
    /// A device that says who it is.
    Device(Found),
    /// Something that does not, and what is to be said of it.
    Stranger(Fault),
    /// Nothing to go by: the port went away, or another program has it too.
    PortLost,
    /// Nothing, and the port is to be tested.
    TestWanted,
}

impl Bay {
    /// Looks once who is in the bay, as every product's driver asks.
    ///
    /// # Errors
    ///
    /// Those of [`who`].
    pub(super) async fn look(
        &self,
        link: &mut DeviceLink,
        wait: Duration,
    ) -> Result<Found, LinkError> {
        let products = self.line.products.iter();
        let drivers: Vec<&dyn Driver> = products.map(|made| made.driver.as_ref()).collect();
        who(link, &drivers, wait).await
    }

    /// Opens the port, waiting for it where it is not there or another program has it; each trouble is reported once.
    pub(super) async fn open(&self, frames: &Frames) -> Result<DeviceLink, StationFault> {
        let mut said = None;
        loop {
            self.in_service().await?;
            match DeviceLink::open(&self.port, &self.link, frames).await {
                Ok(link) => {
                    let port = self.port.display().to_string();
                    self.report(Report::BayOpened {
                        at_ms: self.now(),
                        bay: self.name.clone(),
                        port,
                    })
                    .await;
                    return Ok(link);
                }
                Err(LinkError::PortMissing { .. }) if self.hotplug => self.plugged_in().await?,
                Err(error) => {
                    let fault = link_fault(&self.name, &error);
                    if said.as_ref() != Some(&fault) {
                        self.report(Report::BayOut {
                            at_ms: self.now(),
                            bay: self.name.clone(),
                            fault: fault.clone(),
                        })
                        .await;
                        said = Some(fault);
                    }
                    match error {
                        LinkError::PortMissing { .. } => self.plugged_in().await?,
                        error => {
                            sleep(REOPEN_POLL).await;
                            self.let_go(&error).await;
                        }
                    }
                }
            }
        }
    }

    /// Waits until something is at the port's path; at least for a moment, since a port may be there by name only.
    async fn plugged_in(&self) -> Result<(), StationFault> {
        loop {
            sleep(PLUG_POLL).await;
            if port::present(&self.port) {
                return Ok(());
            }
            if self.hotplug
                && let Some(fault) = self.unanswered()
            {
                self.refuse(fault).await?;
            }
        }
    }

    /// Waits until the program that has the port has it no more. The port is not opened meanwhile, and nobody else's
    /// files are looked at.
    async fn let_go(&self, error: &LinkError) {
        let LinkError::PortBusy {
            holder: Some(holder),
            ..
        } = error
        else {
            return;
        };
        while port::holds(&self.port, holder).await {
            sleep(REOPEN_POLL).await;
        }
    }

    /// That another program has the port, where one is found, or one was seen to open it (`shared`): then no unit is to
    /// blame for what went wrong.
    pub(super) async fn holder(&self, shared: bool) -> Option<Fault> {
        let holder = port::holder(&self.port).await;
        (shared || holder.is_some()).then(|| self.busy(holder))
    }

    fn busy(&self, holder: Option<Holder>) -> Fault {
        Fault::PortBusy {
            bay: self.name.clone(),
            port: self.port.display().to_string(),
            holder,
        }
    }

    /// Closes the port, once another program that was seen to open it has closed it. One that can be named is left to the
    /// next opening of the port.
    pub(super) async fn close(&self, link: DeviceLink, memory: &mut Memory) {
        memory.port_closed(link.health());
        if !link.shared() || port::holder(&self.port).await.is_some() {
            return;
        }
        self.report(Report::BayOut {
            at_ms: self.now(),
            bay: self.name.clone(),
            fault: self.busy(None),
        })
        .await;
        while link.shared() {
            sleep(REOPEN_POLL).await;
        }
    }

    /// The fault, or that another program has the port: that is looked for before a unit is blamed.
    pub(super) async fn blame(
        &self,
        fault: Fault,
        link: &DeviceLink,
        memory: &mut Memory,
    ) -> Fault {
        if fault.blame() != Blame::Device {
            return fault;
        }
        match self.holder(link.shared()).await {
            Some(held) => {
                memory.port_held();
                held
            }
            None => fault,
        }
    }

    /// Waits until something is there, the port is gone, or it is to be tested.
    ///
    /// A device is there when it answers. A port that came with its device, or that keeps sending what is no answer,
    /// has a stranger behind it once the link's patience with arrivals is over.
    pub(super) async fn arrival(&self, link: &mut DeviceLink, memory: &mut Memory) -> Arrival {
        let patience = Duration::from_millis(self.link.arrival_ms);
        let mut there_since = self.hotplug.then(Instant::now);
        let mut said = (Instant::now(), link.health().wrong());
        let mut pause = Duration::ZERO;
        let mut poll = *ARRIVAL_POLL.start();
        let mut quiet = 0;
        let mut shared = 0;
        loop {
            let heard_before = link.health().bytes_in;
            // Firmware that has something to say when it starts is asked at once.
            tokio::select! {
                biased;
                () = self.test.notified() => return Arrival::TestWanted,
                changed = link.listen(pause, None) => {
                    if changed.is_err_and(|error| error.lost_port()) {
                        return Arrival::PortLost;
                    }
                }
            }
            let patient = there_since.map_or(ARRIVAL_TIMEOUT, |_| PRESENCE_TIMEOUT);
            let error = match self.look(link, patient).await {
                Ok(found) => return Arrival::Device(found),
                Err(error) if error.lost_port() => return Arrival::PortLost,
                Err(error) => error,
            };
            // One that reads takes away what a unit says, so that the bay would seem empty.
            shared = if link.shared() { shared + 1 } else { 0 };
            if shared == SHARED_LOOKS {
                return Arrival::PortLost;
            }
            let heard = link.health().bytes_in > heard_before;
            pause = if heard { HEARD_PAUSE } else { poll };
            poll = match heard {
                true => *ARRIVAL_POLL.start(),
                false => ARRIVAL_POLL.end().min(&(poll * 9 / 8)).to_owned(),
            };
            if let Some(fault) = self.unanswered() {
                return Arrival::Stranger(fault);
            }
            // What talks now and then, such as firmware that logs once a second, is there in between too.
            quiet = if heard { 0 } else { quiet + 1 };
            let there = heard || self.hotplug;
            if there {
                there_since.get_or_insert_with(Instant::now);
            } else if quiet == QUIET_LOOKS {
                there_since = None;
            }
            if there && there_since.is_some_and(|since| since.elapsed() >= patience) {
                return match self.holder(link.shared()).await {
                    Some(_) => Arrival::PortLost,
                    None => Arrival::Stranger(self.stranger(&error, heard, memory)),
                };
            }
            let wrong = link.health().wrong();
            if said.0.elapsed() >= LINK_EVERY && wrong > said.1 {
                self.report_link(link, memory).await;
                said = (Instant::now(), wrong);
            }
        }
    }

    /// Waits until what was in the bay has left: silence, another device, a fresh start of one without a verdict, or
    /// the port gone.
    pub(super) async fn departure(
        &self,
        link: &mut DeviceLink,
        unit: Option<&Identification>,
        memory: &mut Memory,
    ) {
        let mut unheard = 0;
        let mut pause = *DEPARTURE_POLL.start();
        let mut line = link.line_up();
        let mut talked = false;
        loop {
            self.heed(memory);
            let heard_before = link.health().bytes_in;
            let asleep = Instant::now();
            let changed = tokio::select! {
                biased;
                // What never said who it is may be the loopback plug itself.
                () = self.test.notified(), if unit.is_none() => return self.test.notify_one(),
                changed = link.listen(pause, line) => changed,
            };
            let looks = match changed {
                Err(error) if error.lost_port() => return,
                Ok(Change::LineFell) => 1,
                _ => DEPARTURE_LOOKS,
            };
            // Firmware that logs what it is asked would be asked again and again.
            let talks = matches!(changed, Ok(Change::Heard));
            if talks && talked {
                sleep(pause.saturating_sub(asleep.elapsed())).await;
            }
            talked = talks;
            line = link.line_up();
            pause = DEPARTURE_POLL.end().min(&(pause * 5 / 4)).to_owned();
            match (self.look(link, PRESENCE_TIMEOUT).await, unit) {
                (Ok(Found { identification, .. }), Some(unit))
                    if identification.device_id == unit.device_id
                        && identification.boots == unit.boots =>
                {
                    memory.returns.there(Some(&identification));
                    unheard = 0;
                }
                (Ok(found), Some(_)) if memory.returns.still_here(&found.identification) => {
                    unheard = 0;
                }
                (Ok(_), _) => return,
                (Err(error), _) if error.lost_port() => return,
                // A port that comes and goes with its device tells more than an answer.
                (Err(_), _) if self.hotplug => {}
                (Err(_), None) if link.health().bytes_in > heard_before => unheard = 0,
                (Err(_), Some(_))
                    if link.health().bytes_in > heard_before && memory.returns.still_talks() =>
                {
                    unheard = 0;
                }
                (Err(_), _) => {
                    unheard += 1;
                    pause = *DEPARTURE_POLL.start();
                }
            }
            if unheard >= looks {
                return;
            }
        }
    }

    fn stranger(&self, error: &LinkError, heard: bool, memory: &mut Memory) -> Fault {
        match error {
            LinkError::Silent { .. } if heard => talks(&self.name),
            LinkError::Silent { .. } => {
                let fault = link_fault(&self.name, error);
                memory
                    .silences
                    .judge(&self.name, Doing::Answering, None, fault)
            }
            error => link_fault(&self.name, error),
        }
    }
}
