//! What the trace gets of a bay: its steps, and how each attempt ended.

use super::faults::step_name;
use crate::provision::event::{Event, Recorded};
use crate::provision::job::Effect;
use tracing::{Span, info, info_span};

/// The time in which an effect is performed.
pub(super) fn step(effect: &Effect) -> Span {
    info_span!(target: "step", "step", step = step_name(effect))
}

/// Says how an attempt ended, if this is its end. With a fault, what the bay did before is written out.
pub(super) fn verdict(recorded: &Recorded) {
    if !recorded.event.ends_attempt() {
        return;
    }
    let event = recorded.event.kind();
    let attempt = recorded.attempt.map(|attempt| attempt.to_string());
    match &recorded.event {
        Event::Failed { fault, .. } | Event::Errored { fault } | Event::Interrupted { fault } => {
            info!(target: "verdict", attempt, event, fault = fault.code, what = fault.what);
        }
        _ => info!(target: "verdict", attempt, event),
    }
}
