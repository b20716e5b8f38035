//! What the trace gets of a bay: its steps, and how each attempt ended.

use super::faults::step_of;
use crate::provision::event::{Event, Recorded};
use crate::provision::job::Effect;
use tracing::{Span, info, info_span};

/// The time in which an effect is performed.
pub(super) fn step(effect: &Effect) -> Span {
    let doing: &str = step_of(effect).into();
    info_span!(target: "step", "step", step = doing)
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
            let told = serde_json::to_string(fault).unwrap_or_default();
            info!(target: "verdict", attempt, event, fault = fault.code(), told);
        }
        _ => info!(target: "verdict", attempt, event),
    }
}
