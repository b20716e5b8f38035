//! Reports on stdout: written by a thread of their own, which neither the line nor its end waits for.

use super::{Failure, parts, print_line};
use crate::provision::floor::Report;
use crate::words;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::oneshot;

/// How long a station that has ended waits for a reader to take what it said last.
const READER_LIMIT: Duration = Duration::from_secs(2);

/// A thread that prints. It cannot be ended while it writes to a reader who takes nothing, and ends with the process.
pub(super) struct Printer {
    /// What became of it; absent once that was told.
    end: Option<oneshot::Receiver<Result<(), Failure>>>,
}

impl Printer {
    /// Prints every report as a JSON line until there are no more. What the reader was too slow for is counted, and
    /// said in its place.
    pub(super) fn start(mut reports: Receiver<Arc<Report>>) -> Self {
        Self::on_its_thread(move || {
            loop {
                let report = match reports.blocking_recv() {
                    Ok(report) => report,
                    Err(RecvError::Lagged(count)) => Arc::new(Report::Dropped {
                        at_ms: parts::clock(),
                        count,
                    }),
                    Err(RecvError::Closed) => return Ok(()),
                };
                let object = serde_json::to_value(&*report);
                let mut object = object.expect("a report is made of strings and numbers");
                words::tell(&mut object);
                if let Report::Note { lines, fault, .. } = &*report {
                    object["lines"] = words::note_lines(lines, fault.as_ref()).into();
                }
                print_line(&object.to_string())?;
            }
        })
    }

    /// Prints one line: what a demo sums up.
    #[cfg(feature = "demo")]
    pub(super) fn say(line: String) -> Self {
        Self::on_its_thread(move || print_line(&line))
    }

    fn on_its_thread(print: impl FnOnce() -> Result<(), Failure> + Send + 'static) -> Self {
        let (ended, end) = oneshot::channel();
        std::thread::spawn(move || ended.send(print()));
        Self { end: Some(end) }
    }

    /// Waits until everything is printed or stdout takes no more.
    ///
    /// # Errors
    /// Stdout takes no more. Said once: who asks again is told that all is well.
    pub(super) async fn ended(&mut self) -> Result<(), Failure> {
        let Some(end) = &mut self.end else {
            return Ok(());
        };
        let printed = end
            .await
            .expect("the thread tells its end and nothing in it panics");
        self.end = None;
        printed
    }

    /// The same, for [`READER_LIMIT`] at most: who has not read it by then goes without.
    pub(super) async fn finish(mut self) -> Result<(), Failure> {
        let printed = tokio::time::timeout(READER_LIMIT, self.ended()).await;
        printed.unwrap_or(Ok(()))
    }
}
