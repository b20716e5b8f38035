//! What the screen knows: the latest floor, the time, and what the person at it has typed and chosen.

use crate::provision::floor::{BayState, Floor, FloorBay, Note, Outcome};
use std::sync::Arc;

/// The state of the screen.
#[derive(Clone, Debug)]
pub struct Model {
    /// The latest floor.
    pub floor: Arc<Floor>,
    /// The time, in milliseconds since 1970.
    pub now_ms: i64,
    /// What the middle of the screen shows.
    pub panel: Panel,
    /// What stands in the scan field.
    pub entry: String,
    /// One sentence about the last thing entered.
    pub notice: Option<String>,
    /// The bay whose label was scanned: the next scan is for it.
    pub chosen: Option<String>,
    /// The bay whose result is to be acknowledged next. It stays the same until that is done: an Enter must not
    /// acknowledge a result that came up a moment earlier.
    pub focus: Option<String>,
    /// Which bay the detail panel shows, from 0.
    pub detail: usize,
    /// Which page of tiles is shown, from 0.
    pub page: usize,
    /// Whether the question "quit?" is open.
    pub quitting: bool,
    /// When the last character was entered, in milliseconds since 1970.
    pub typed_ms: i64,
    /// The time of the newest note that was read.
    pub note_read_ms: Option<i64>,
}

/// What the middle of the screen shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Panel {
    /// The bays.
    Line,
    /// What the words, shapes and keys mean.
    Help,
    /// One bay in full, for an engineer.
    Detail,
    /// The shift and the outbox.
    Shift,
}

/// What the next scan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding<'a> {
    /// This bay.
    Bay(&'a str),
    /// No bay waits.
    NoneWaits,
    /// More than one bay waits: the label at one of them has to be scanned first.
    Ambiguous,
}

impl Model {
    /// The screen as it is when it is first shown.
    pub fn new(floor: Arc<Floor>, now_ms: i64) -> Self {
        let mut model = Self {
            floor,
            now_ms,
            panel: Panel::Line,
            entry: String::new(),
            notice: None,
            chosen: None,
            focus: None,
            detail: 0,
            page: 0,
            quitting: false,
            typed_ms: i64::MIN,
            note_read_ms: None,
        };
        model.refocus();
        model
    }

    /// Chooses the result to acknowledge next: the present one while it is unacknowledged, then the newest.
    pub(super) fn refocus(&mut self) {
        if self.focused().is_none() {
            let newest = self
                .unacknowledged()
                .max_by_key(|(_, outcome)| outcome.at_ms);
            self.focus = newest.map(|(bay, _)| bay.name.clone());
        }
    }

    /// The result to acknowledge next, with its bay.
    pub fn focused(&self) -> Option<(&FloorBay, &Outcome)> {
        let bay = self.floor.bay(self.focus.as_deref()?)?;
        Some((bay, bay.unacknowledged.as_ref()?))
    }

    /// All results that wait for a person.
    pub fn unacknowledged(&self) -> impl Iterator<Item = (&FloorBay, &Outcome)> {
        let bays = self.floor.bays.iter();
        bays.filter_map(|bay| Some((bay, bay.unacknowledged.as_ref()?)))
    }

    /// The result that a banner shows: the one to acknowledge, else the newest of the units still in their bays.
    pub fn banner(&self) -> Option<(&FloorBay, &Outcome)> {
        let in_bays = self.floor.bays.iter().filter_map(|bay| match &bay.state {
            BayState::Finished(outcome) => Some((bay, outcome)),
            _ => None,
        });
        let newest = in_bays.max_by_key(|(_, outcome)| outcome.at_ms);
        self.focused().or(newest)
    }

    /// What the next scan is for: the bay whose label was scanned, else the only one that waits for a scan, else
    /// the only one that waits.
    pub fn binding(&self) -> Binding<'_> {
        if let Some(name) = self
            .chosen
            .as_deref()
            .filter(|n| self.floor.bay(n).is_some())
        {
            return Binding::Bay(name);
        }
        let waiting = |wanted: bool| {
            self.floor.bays.iter().filter(
                move |bay| matches!(bay.state, BayState::Waiting { for_scan } if for_scan || !wanted),
            )
        };
        let mut bays = waiting(waiting(true).next().is_some());
        match (bays.next(), bays.next()) {
            (Some(bay), None) => Binding::Bay(&bay.name),
            (None, _) => Binding::NoneWaits,
            _ => Binding::Ambiguous,
        }
    }

    /// The note to show, unless it was read.
    pub fn note(&self) -> Option<&Note> {
        let note = self.floor.note.as_ref()?;
        (self.note_read_ms < Some(note.at_ms)).then_some(note)
    }
}
