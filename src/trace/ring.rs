//! The last minute of a bay, in memory.

use super::record::Record;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How far back a bay is remembered.
pub const RING_SPAN: Duration = Duration::from_secs(60);
/// But no more than so much of it, in bytes: both directions of a line of 115,200 baud that is never idle.
const RING_MAX: usize = 1 << 20;

/// What happened in a bay lately.
#[derive(Default)]
pub(super) struct Ring {
    records: VecDeque<Arc<Record>>,
    size: usize,
}

impl Ring {
    /// Takes a record in, and lets go of what is too old or too much.
    pub fn push(&mut self, record: Arc<Record>) {
        let span = i64::try_from(RING_SPAN.as_micros()).unwrap_or(i64::MAX);
        let oldest = record.at_us.saturating_sub(span);
        self.size += record.size();
        self.records.push_back(record);
        while let Some(first) = self.records.front() {
            if self.size <= RING_MAX && first.at_us >= oldest {
                return;
            }
            self.size -= first.size();
            self.records.pop_front();
        }
    }

    /// What it holds, the oldest first.
    pub fn records(&self) -> Vec<Arc<Record>> {
        self.records.iter().map(Arc::clone).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::record::Fields;

    fn record(at_us: i64, length: usize) -> Arc<Record> {
        Arc::new(Record {
            kind: "wire",
            at_us,
            bay: None,
            fields: Fields::default().text("bytes", &"x".repeat(length)),
        })
    }

    #[test]
    fn a_ring_holds_a_minute_and_no_more_than_its_bytes() {
        let mut ring = Ring::default();
        for second in 0..=120 {
            ring.push(record(second * 1_000_000, 10));
        }
        let times: Vec<_> = ring.records().iter().map(|r| r.at_us).collect();
        assert_eq!(times.first(), Some(&60_000_000));
        assert_eq!(times.last(), Some(&120_000_000));
        for _ in 0..100_000 {
            ring.push(record(120_000_000, 400));
        }
        let held: usize = ring.records().iter().map(|r| r.size()).sum();
        assert_eq!(held, ring.size);
        assert!(held <= RING_MAX && held > RING_MAX / 2, "{held}");
    }

    #[test]
    fn a_clock_that_is_set_back_neither_empties_a_ring_nor_lets_it_grow() {
        let mut ring = Ring::default();
        ring.push(record(1_000_000_000, 10));
        for _ in 0..100_000 {
            ring.push(record(0, 400));
        }
        assert!(ring.size <= RING_MAX);
        assert!(ring.records().len() > 1000);
    }
}
