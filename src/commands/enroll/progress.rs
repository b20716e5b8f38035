//! How an upload stands, while it runs: a bar on a terminal, JSON lines with `--json`, else a line now and then.

use super::{Context, Failure};
use crate::commands::parts::clock;
use crate::dps::Dps;
use crate::enroller::{self, Summary, Terms};
use crate::ledger::Ledger;
use crate::provision::fault::Fault;
use crate::provision::upload::{Progress, Wait};
use crate::words;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often a JSON line is printed at most; the first after that time.
const JSON_EVERY: Duration = Duration::from_secs(1);
/// How often a line is printed where nobody looks on, unless it waits for something else.
const LINE_EVERY: Duration = Duration::from_secs(60);

/// Drains the outbox, and shows all the while how that stands.
pub(super) async fn drain(
    context: &Context,
    ledger: &Ledger,
    dps: &Dps,
    terms: &Terms,
) -> Result<Summary, Failure> {
    let (said, mut heard) = watch::channel(Progress::default());
    let mut shown = Shown::new(context, dps.name());
    let show = async {
        loop {
            if heard.changed().await.is_err() {
                return std::future::pending::<Failure>().await;
            }
            let progress = heard.borrow_and_update().clone();
            if let Err(failure) = shown.show(&progress) {
                return failure;
            }
        }
    };
    let summary = tokio::select! {
        summary = enroller::drain(ledger, dps, terms, &said) => Ok(summary),
        failure = show => Err(failure),
    };
    shown.end();
    summary
}

/// Where and how it is shown.
struct Shown<'a> {
    context: &'a Context,
    dps: &'a str,
    bar: Option<ProgressBar>,
    /// When a line was printed last; at first, when the upload began.
    latest: Instant,
    /// What it waited for then.
    waited: Option<&'static str>,
}

impl<'a> Shown<'a> {
    fn new(context: &'a Context, dps: &'a str) -> Self {
        let bar = (!context.json && stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{prefix}: {bar:24} {pos} of {len}, {msg}");
            let bar = ProgressBar::new(0).with_prefix(dps.to_owned());
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self {
            context,
            dps,
            bar,
            latest: Instant::now(),
            waited: None,
        }
    }

    fn show(&mut self, progress: &Progress) -> Result<(), Failure> {
        if let Some(bar) = &self.bar {
            bar.set_length(u64::from(progress.done) + u64::from(progress.to_go));
            bar.set_position(progress.done.into());
            bar.set_message(stands(progress));
            return Ok(());
        }
        if self.context.json {
            if self.latest.elapsed() < JSON_EVERY {
                return Ok(());
            }
            self.latest = Instant::now();
            return super::super::print_line(&line(self.dps, progress).to_string());
        }
        let waits = progress.wait.as_ref().map(Wait::word);
        let news = waits != self.waited && !matches!(waits, None | Some("quota"));
        if news || self.latest.elapsed() >= LINE_EVERY {
            (self.latest, self.waited) = (Instant::now(), waits);
            let said = stands(progress);
            let (done, to_go) = (progress.done, progress.to_go);
            eprintln!("station: {}: {done} done, {to_go} to go, {said}", self.dps);
        }
        Ok(())
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How it stands, and what is in the way where the service is.
fn stands(progress: &Progress) -> String {
    let said = words::progress(progress, clock());
    match in_the_way(progress) {
        Some(fault) => format!("{said} ({})", words::of(fault).what),
        None => said,
    }
}

fn in_the_way(progress: &Progress) -> Option<&Fault> {
    match &progress.wait {
        Some(Wait::Service { fault, .. }) => fault.as_deref(),
        _ => None,
    }
}

/// The same for programs.
fn line(dps: &str, progress: &Progress) -> Value {
    let wait = progress.wait.as_ref();
    let mut line = json!({
        "dps": dps, "done": progress.done, "to_go": progress.to_go, "refused": progress.refused,
        "per_minute": progress.per_minute, "share": progress.share, "seconds_left": progress.seconds_left,
        "waits_for": wait.map(Wait::word), "seconds": wait.and_then(Wait::seconds),
    });
    match wait {
        Some(Wait::Person { by, .. }) => line["by"] = json!(by),
        Some(Wait::Turn { holder }) => line["pid"] = json!(holder.pid),
        _ => {}
    }
    if let Some(fault) = in_the_way(progress) {
        line["fault"] = json!(fault);
        words::tell(&mut line["fault"]);
    }
    if let Some(seconds) = progress.clock_set_back {
        line["clock_set_back"] = json!(seconds);
    }
    line
}
