//! What is on record when a scenario is over: units, reservations, numbers that were given out, and the outbox.

use dps_station::ledger::{AllocationState, Ledger, OutboxFilter, OutboxState, ReservationState};
use dps_station::provision::event::Event;
use dps_station::provision::fault::{Blame, Fault};
use dps_station::provision::verdict::Verdict;

/// What is on record, in the order of the units' names.
#[derive(Debug, Default, PartialEq)]
pub struct Books {
    /// The last verdict on each unit.
    pub units: Vec<Option<Verdict>>,
    /// What became of each reservation.
    pub reservations: Vec<ReservationState>,
    /// What became of each number.
    pub numbers: Vec<AllocationState>,
    /// What DPS is to hold.
    pub outbox: Vec<OutboxState>,
}

impl Books {
    /// What a ledger holds.
    pub async fn of(ledger: &Ledger) -> Self {
        let units = ledger.units().await.unwrap();
        let reservations = ledger.reservations().await.unwrap();
        let numbers = ledger.allocations().await.unwrap();
        let mut outbox = ledger.outbox(OutboxFilter::default()).await.unwrap();
        outbox.sort_by(|a, b| a.device.cmp(&b.device));
        Self {
            units: units.iter().map(|unit| unit.verdict).collect(),
            reservations: reservations.iter().map(|row| row.state).collect(),
            numbers: numbers.iter().map(|row| row.state).collect(),
            outbox: outbox.iter().map(|row| row.state).collect(),
        }
    }
}

/// How an attempt is to end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct End {
    /// The kind of the event that ends it.
    pub verdict: &'static str,
    /// The fault's code.
    pub code: &'static str,
    /// Who must act.
    pub blame: Blame,
    /// The kind of the event before it, apart from the link's measurement.
    pub after: &'static str,
}

impl End {
    /// Checks how an attempt ended; gives its fault.
    pub fn check<'a>(&self, events: &'a [Event]) -> &'a Fault {
        let Some(
            Event::Failed { fault, .. } | Event::Errored { fault } | Event::Interrupted { fault },
        ) = events.last()
        else {
            panic!("{}: {events:?}", self.code);
        };
        let kinds = events.iter().map(Event::kind);
        let kinds: Vec<_> = kinds.filter(|kind| *kind != "link_measured").collect();
        let found = (kinds[kinds.len() - 1], fault.code(), fault.blame());
        let wanted = (self.verdict, self.code, self.blame);
        assert_eq!(found, wanted, "{fault:?}");
        assert_eq!(
            kinds[kinds.len() - 2],
            self.after,
            "{}: {kinds:?}",
            self.code
        );
        fault
    }
}
