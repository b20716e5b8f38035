//! Collects what the rooms say: finds the bay that it belongs to, remembers it there, and hands it to the writer.

use super::record::{Fields, Record};
use super::ring::Ring;
use super::writer::Queue;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::{LookupSpan, Scope};

/// Target of the span in which a bay lives; its field `name` is the bay's.
const BAY: &str = "bay";
/// Target of the span of one step of a job; its field `step` says which.
const STEP: &str = "step";
/// Target of what ends an attempt; with a field `fault` where it ended so.
const VERDICT: &str = "verdict";
/// All that is collected. Libraries below say things too, which nobody here has looked at for secrets.
const TARGETS: [&str; 8] = [BAY, STEP, VERDICT, "wire", "noise", "tpm", "hsm", "dps"];

/// The layer that collects.
pub(super) struct Collector {
    queue: Queue,
    /// Whether everything is written, and not only what is asked for.
    everything: bool,
}

/// A bay and what it did lately.
struct RecentBay {
    name: Arc<str>,
    ring: Mutex<Ring>,
}

/// A step under way.
struct Step {
    name: String,
    began: Instant,
}

impl Collector {
    pub fn new(queue: Queue, everything: bool) -> Self {
        Self { queue, everything }
    }

    /// Takes a record in.
    fn put(&self, kind: &'static str, bay: Option<&RecentBay>, fields: Fields) {
        let name = bay.map(|bay| Arc::clone(&bay.name));
        let failed = fields.get("fault").is_some();
        let attempt = fields.get("attempt").unwrap_or_default().to_owned();
        let record = Arc::new(Record::now(kind, name, fields));
        if self.everything {
            self.queue.line(&record);
        }
        let Some(bay) = bay else {
            return;
        };
        let mut ring = bay.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.push(Arc::clone(&record));
        if kind == VERDICT && failed {
            self.queue
                .dump(record.at_us, &bay.name, &attempt, ring.records());
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Collector {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match TARGETS.contains(&metadata.target()) {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        TARGETS.contains(&metadata.target())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else {
            return;
        };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        match span.metadata().target() {
            BAY => span.extensions_mut().insert(Arc::new(RecentBay {
                name: fields.get("name").unwrap_or_default().into(),
                ring: Mutex::default(),
            })),
            STEP => {
                span.extensions_mut().insert(Step {
                    name: fields.get("step").unwrap_or_default().to_owned(),
                    began: Instant::now(),
                });
                let bay = bay_of(Some(span.scope()));
                self.put(STEP, bay.as_deref(), fields.text("phase", "begins"));
            }
            _ => {}
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let bay = bay_of(context.event_scope(event));
        self.put(event.metadata().target(), bay.as_deref(), fields);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else {
            return;
        };
        let Some(step) = span.extensions_mut().remove::<Step>() else {
            return;
        };
        let took = u64::try_from(step.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let fields = Fields::default().text("step", &step.name);
        let fields = fields.text("phase", "ends").number("took_us", took);
        let bay = bay_of(Some(span.scope()));
        self.put(STEP, bay.as_deref(), fields);
    }
}

/// The bay that these spans are in, the innermost first.
fn bay_of<'a, S: LookupSpan<'a>>(spans: Option<Scope<'a, S>>) -> Option<Arc<RecentBay>> {
    spans?.find_map(|span| span.extensions().get::<Arc<RecentBay>>().map(Arc::clone))
}
