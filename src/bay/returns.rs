//! Units that come back by themselves: one that keeps starting anew is one fault, until it was taken out or a person has
//! seen it.

use crate::provision::device::{DeviceId, Identification};
use crate::provision::fault::Fault;
use std::time::Duration;
use tokio::time::Instant;

/// A unit is served so often in a row as long as it was not taken out between; then it gets its verdict.
const SERVED_MAX: u32 = 3;
/// Who was away for so long was taken out.
const AWAY: Duration = Duration::from_secs(10);
/// Nobody takes a unit out and puts it in again faster than this: it started anew by itself.
const BLINK: Duration = Duration::from_secs(1);
/// The same for what never said who it is: the next such thing may be another one.
const STRANGER_BLINK: Duration = Duration::from_secs(3);

/// The unit that was in a bay last, and how often it was served in a row.
#[derive(Default)]
pub(super) struct Returns {
    /// When it was there last; absent where nothing is known of any unit.
    there: Option<Instant>,
    /// What it said of itself then; absent where it never did.
    unit: Option<Identification>,
    served: u32,
    state: State,
}

/// How the last attempt with a unit ended.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Without a verdict: it may come back to be judged.
    #[default]
    Open,
    /// It is good.
    Good,
    /// It got a FAIL, or the station its ERROR.
    Bad,
    /// It is not served any more.
    Over,
}

impl Returns {
    /// Whether nothing is done with what has come into the bay, because it never was away.
    pub fn stays_away(&mut self, found: Option<&Identification>) -> bool {
        let Some(away) = self.away(found) else {
            *self = Self::default();
            return false;
        };
        let over = match (self.state, found) {
            (State::Over, _) => true,
            (State::Bad, _) => away < BLINK,
            (State::Good, _) | (State::Open, None) => self.served >= SERVED_MAX,
            (State::Open, Some(_)) => self.is_often(),
        };
        if over {
            self.there(found);
        }
        over
    }

    /// Whether this unit, which still is in the bay, has merely started anew since it got its verdict.
    pub fn still_here(&mut self, found: &Identification) -> bool {
        let judged = self.state != State::Open && self.away(Some(found)).is_some();
        if judged {
            self.there(Some(found));
        }
        judged
    }

    /// Whether a unit that has got its verdict is in the bay although it does not answer: it was heard.
    pub fn still_talks(&mut self) -> bool {
        let over = self.state == State::Over;
        if over {
            self.there(None);
        }
        over
    }

    /// An attempt with it begins.
    pub fn begins(&mut self, found: Option<&Identification>) {
        self.served += 1;
        self.state = State::Open;
        self.there(found);
    }

    /// The attempt that begins or has ended is not the unit's doing: the station erred, or its label did.
    pub fn excused(&mut self) {
        self.served = self.served.saturating_sub(1);
    }

    /// The verdict on a unit that was served often enough, as its fault. Nothing is done with it after that.
    pub fn verdict(&mut self, bay: &str, device: &DeviceId) -> Fault {
        self.state = State::Over;
        Fault::KeepsRestarting {
            bay: bay.to_owned(),
            device: device.clone(),
            times: SERVED_MAX,
        }
    }

    /// Whether the unit was served often enough, and now only gets its verdict.
    pub fn is_often(&self) -> bool {
        self.served > SERVED_MAX
    }

    /// It got its verdict.
    pub fn judged(&mut self, good: bool) {
        self.state = match (self.state, good) {
            (State::Over, _) => State::Over,
            (_, true) => State::Good,
            (_, false) => State::Bad,
        };
    }

    /// It is in the bay now; `found` is what it says of itself, if it does.
    pub fn there(&mut self, found: Option<&Identification>) {
        self.there = Some(Instant::now());
        if let Some(found) = found {
            self.unit = Some(found.clone());
        }
    }

    /// How long this unit was away; absent where it was taken out, is another one, or has got other firmware since.
    fn away(&self, found: Option<&Identification>) -> Option<Duration> {
        let away = self.there?.elapsed();
        let (limit, same) = match (&self.unit, found) {
            (Some(before), Some(now)) => (AWAY, now.same_unit(before) && alike(now, before)),
            // What does not say who it is may be the one before, which has no time for that.
            (Some(_), None) if self.state == State::Over => (AWAY, true),
            (_, None) => (STRANGER_BLINK, true),
            (None, Some(_)) => (AWAY, false),
        };
        (same && away < limit).then_some(away)
    }
}

/// Whether nothing was done to a unit that it says of itself, apart from what an attempt does to it.
fn alike(now: &Identification, before: &Identification) -> bool {
    now.firmware == before.firmware && now.model == before.model && now.sealed >= before.sealed
}
