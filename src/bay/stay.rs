//! One stay in a bay: an attempt, unless a unit merely came back by itself.

use super::memory::Memory;
use super::returns::Returns;
use super::{Bay, StationFault};
use crate::link::{DeviceLink, Found};
use crate::provision::device::Identification;
use crate::provision::fault::Fault;

impl Bay {
    /// One stay: an attempt, unless the unit merely came back by itself. Gives what the unit last said of itself.
    pub(super) async fn stay(
        &self,
        link: &mut DeviceLink,
        found: Result<Found, Fault>,
        memory: &mut Memory,
    ) -> Result<Option<Identification>, StationFault> {
        self.heed(memory);
        let unit = found.as_ref().ok();
        let unit = unit.map(|found| found.identification.clone());
        if memory.returns.stays_away(unit.as_ref()) {
            return Ok(unit);
        }
        memory.returns.begins(unit.as_ref());
        let unit = self.attempt(link, found, memory).await?;
        memory.returns.there(unit.as_ref());
        self.report_link(link, memory).await;
        Ok(unit)
    }

    /// An attempt with nothing that could be spoken to.
    pub(super) async fn refuse(&self, fault: Fault) -> Result<(), StationFault> {
        let mut attempt = self.arrive();
        self.end(&mut attempt, fault).await?;
        self.removed().await;
        Ok(())
    }

    /// A person has acted on what the bay shows: the unit in it may be served again when it next starts anew.
    pub(super) fn heed(&self, memory: &mut Memory) {
        if self.scans.person_acted() {
            memory.returns = Returns::default();
        }
    }
}
