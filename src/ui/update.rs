//! What a message does to the screen, and what it asks of the station. No single key destroys anything.

use super::keymap::Action;
use super::model::{Binding, Model, Panel};
use crate::provision::fault::harmless;
use crate::provision::floor::{Command, Floor};
use std::sync::Arc;

/// Longest text that the scan field takes, in characters; the longest GS1 DataMatrix code on a label is shorter.
const ENTRY_MAX: usize = 256;

/// An Enter in an empty field this soon after a character, in milliseconds, is a scanner's second one.
pub const SCANNER_ECHO_MS: i64 = 300;

/// The word that closes the shift, typed into the scan field while the shift panel is open.
pub const CLOSE_WORD: &str = "CLOSE";

/// The word that uploads, typed into the scan field while the shift panel is open.
pub const UPLOAD_WORD: &str = "UPLOAD";

/// The word that has refused records sent again, typed into the scan field while the shift panel is open.
pub const RETRY_WORD: &str = "RETRY";

/// The word that tests the port of the bay in the open detail, typed into the scan field.
const LOOPBACK_WORD: &str = "LOOPBACK";

/// What happens to a screen.
#[derive(Clone, Debug)]
pub enum Msg {
    /// The floor changed.
    Floor(Arc<Floor>),
    /// The time, in milliseconds since 1970.
    Clock(i64),
    /// A key.
    Action(Action),
    /// The station did not take the last command: its queue is full.
    Refused,
}

/// Takes in one message; gives the command to send to the station, if any.
pub fn update(model: &mut Model, msg: Msg) -> Option<Command> {
    match msg {
        Msg::Floor(floor) => {
            model.floor = floor;
            model.refocus();
            None
        }
        Msg::Clock(now_ms) => {
            model.now_ms = now_ms;
            None
        }
        Msg::Refused => {
            say(model, "the station is busy: try again");
            None
        }
        Msg::Action(action) => act(model, action),
    }
}

fn act(model: &mut Model, action: Action) -> Option<Command> {
    if action == Action::Quit {
        if model.quitting {
            return Some(Command::Quit);
        }
        model.quitting = true;
        return None;
    }
    model.quitting = false;
    match action {
        Action::Type(c) => type_in(model, c),
        Action::Erase => {
            model.entry.pop();
        }
        Action::Enter => return enter(model),
        Action::Back => {
            model.panel = Panel::Line;
            model.entry.clear();
            model.notice = None;
            model.chosen = None;
        }
        Action::Help => toggle(model, Panel::Help),
        Action::Detail => open_detail(model),
        Action::Shift => toggle(model, Panel::Shift),
        Action::Next => turn(model, |place| place.saturating_add(1)),
        Action::Previous => turn(model, |place| place.saturating_sub(1)),
        Action::Quit => {}
    }
    None
}

fn type_in(model: &mut Model, c: char) {
    model.notice = None;
    model.typed_ms = model.now_ms;
    if model.entry.chars().count() < ENTRY_MAX {
        model.entry.push_str(&harmless(&c.to_string(), 1));
    }
}

fn enter(model: &mut Model) -> Option<Command> {
    let text = std::mem::take(&mut model.entry).trim().to_owned();
    if text.is_empty() {
        return acknowledge(model);
    }
    model.notice = None;
    model.typed_ms = model.now_ms;
    if model.panel == Panel::Shift {
        if text.eq_ignore_ascii_case(CLOSE_WORD) {
            return close_shift(model);
        }
        if text.eq_ignore_ascii_case(UPLOAD_WORD) {
            say(model, "upload asked for");
            return Some(Command::Upload);
        }
        if text.eq_ignore_ascii_case(RETRY_WORD) {
            return retry(model);
        }
    }
    if model.panel == Panel::Detail && text.eq_ignore_ascii_case(LOOPBACK_WORD) {
        return test_port(model);
    }
    scan(model, text)
}

/// The bay whose detail is open tests its port as soon as it is empty.
fn test_port(model: &mut Model) -> Option<Command> {
    let bays = &model.floor.bays;
    let bay = bays
        .get(model.detail.min(bays.len().saturating_sub(1)))?
        .name
        .clone();
    say(
        model,
        &format!("{bay}: loopback test asked for; it begins when the bay is empty"),
    );
    Some(Command::Loopback { bay })
}

fn acknowledge(model: &mut Model) -> Option<Command> {
    if model.now_ms.saturating_sub(model.typed_ms) < SCANNER_ECHO_MS {
        return None;
    }
    model.notice = None;
    if let Some((bay, _)) = model.focused() {
        let bay = bay.name.clone();
        return Some(Command::Acknowledge { bay });
    }
    model.note_read_ms = model.floor.note.as_ref().map(|note| note.at_ms);
    None
}

/// Has every refused record sent again.
fn retry(model: &mut Model) -> Option<Command> {
    let refused = model.floor.outbox().refused;
    if refused == 0 {
        say(model, "no record is refused");
        return None;
    }
    say(model, &format!("{refused} refused records are sent again"));
    Some(Command::Retry)
}

fn close_shift(model: &mut Model) -> Option<Command> {
    let shift = model.floor.shift.as_ref().filter(|shift| shift.open);
    let Some(shift) = shift else {
        say(model, "no shift is open");
        return None;
    };
    let said = format!("closing shift {}", shift.name);
    say(model, &said);
    Some(Command::CloseShift)
}

/// A bay's label acknowledges what the bay shows, or makes the next scan one for that bay; other text is for the
/// bay that the screen names.
fn scan(model: &mut Model, text: String) -> Option<Command> {
    let floor = model.floor.clone();
    let labelled = |name: &str| name.eq_ignore_ascii_case(&text);
    if let Some(bay) = floor.bays.iter().find(|bay| labelled(&bay.name)) {
        let bay_name = bay.name.clone();
        if bay.unacknowledged.is_some() {
            return Some(Command::Acknowledge { bay: bay_name });
        }
        model.chosen = Some(bay_name);
        return None;
    }
    let bay = match model.binding() {
        Binding::Bay(name) => name.to_owned(),
        Binding::NoneWaits => {
            say(model, "no bay waits: this scan is for no bay");
            return None;
        }
        Binding::Ambiguous => {
            say(model, "which bay? scan its label first");
            return None;
        }
    };
    model.chosen = None;
    say(model, &format!("{} is for {bay}", harmless(&text, 40)));
    Some(Command::Scan { text, bay })
}

fn toggle(model: &mut Model, panel: Panel) {
    model.panel = if model.panel == panel {
        Panel::Line
    } else {
        panel
    };
}

/// The detail opens at the bay that needs a person.
fn open_detail(model: &mut Model) {
    toggle(model, Panel::Detail);
    let wanted = model.chosen.as_ref().or(model.focus.as_ref());
    if let Some(name) = wanted {
        let place = model.floor.bays.iter().position(|bay| bay.name == *name);
        model.detail = place.unwrap_or(model.detail);
    }
}

fn turn(model: &mut Model, step: impl Fn(usize) -> usize) {
    let last = model.floor.bays.len().saturating_sub(1);
    match model.panel {
        Panel::Detail => model.detail = step(model.detail).min(last),
        _ => model.page = step(model.page).min(last),
    }
}

fn say(model: &mut Model, text: &str) {
    model.notice = Some(text.to_owned());
}
