//! How an upload stands and how long it waits: what people are shown of it, and the pauses between tries.
//!
//! Invariant: a pause grows with the tries that were in vain, up to a limit, and two uploads that began together do
//! not stay in step.

use super::fault::{Fault, TurnHolder};
use serde::{Deserialize, Serialize};

/// Pause after the first try that was in vain, in milliseconds; doubles with each further one.
const FIRST_PAUSE_MS: u64 = 500;
/// Longest pause, in milliseconds.
const LAST_PAUSE_MS: u64 = 60_000;
/// Wait before the first retry of a record, in milliseconds; doubles with each further try.
const FIRST_RETRY_MS: i64 = 2_000;
/// Longest wait before a retry of a record, in milliseconds.
const LAST_RETRY_MS: i64 = 15 * 60 * 1_000;
/// Operations that a record takes: it is sent, and read back.
const OPERATIONS_EACH: u64 = 2;

/// How an upload to one DPS instance stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Records settled in this upload: enrolled, or disabled.
    pub done: u32,
    /// Records that wait.
    pub to_go: u32,
    /// Records that are refused, of this upload and of earlier ones: a person must look.
    pub refused: u32,
    /// Operations in the last minute.
    pub per_minute: u32,
    /// The station's share, in operations a minute.
    pub share: u32,
    /// How long it will take, in seconds; absent while nothing was settled yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
    /// What it waits for; absent while it works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
    /// How far the clock was found set back, in seconds, if it was: what was charged before counts as charged then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_set_back: Option<i64>,
}

/// What an upload waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "snake_case")]
pub enum Wait {
    /// Room in the station's share.
    Quota {
        /// For how long yet.
        seconds: u64,
    },
    /// A service that does not answer, or asked to be left alone.
    Service {
        /// Until it is asked again.
        seconds: u64,
        /// Since when, in milliseconds since 1970.
        since_ms: i64,
        /// What it said last; absent where it asked an earlier upload.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fault: Option<Box<Fault>>,
    },
    /// Records that were put off.
    Record {
        /// Until the next is due.
        seconds: u64,
    },
    /// A person who has paused it.
    Person {
        /// Since when, in milliseconds since 1970.
        since_ms: i64,
        /// Who, if they said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// Another process that drains this outbox.
    Turn {
        /// Who.
        holder: TurnHolder,
    },
}

impl Wait {
    /// The word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Quota { .. } => "quota",
            Self::Service { .. } => "service",
            Self::Record { .. } => "record",
            Self::Person { .. } => "person",
            Self::Turn { .. } => "turn",
        }
    }

    /// For how long yet, in seconds, where that is known.
    pub fn seconds(&self) -> Option<u64> {
        match self {
            Self::Quota { seconds } | Self::Service { seconds, .. } | Self::Record { seconds } => {
                Some(*seconds)
            }
            Self::Person { .. } | Self::Turn { .. } => None,
        }
    }
}

/// How long to wait after so many tries in a row that were in vain, in milliseconds: from half of the full pause to
/// all of it, as `random` has it.
pub fn pause_ms(in_vain: u32, random: u32) -> u64 {
    let doubled = FIRST_PAUSE_MS << in_vain.saturating_sub(1).min(16);
    let full = doubled.min(LAST_PAUSE_MS);
    let half = full / 2;
    half + half * u64::from(random) / u64::from(u32::MAX)
}

/// How long the records that wait will take, in seconds, if it goes on as in the last `over_seconds` (at most a minute)
/// with their operations, and never faster than the share.
pub fn seconds_left(to_go: u32, operations: u32, over_seconds: u64, share: u32) -> Option<u64> {
    let a_minute = u64::from(operations) * 60 / over_seconds.clamp(1, 60);
    let pace = a_minute.min(share.into());
    (pace > 0).then(|| (u64::from(to_go) * OPERATIONS_EACH * 60).div_ceil(pace))
}

/// Whether a record that was put off until `next_try_ms` is due at `now_ms`, both in milliseconds since 1970. One that is
/// put off for longer than any is was so under a clock that was ahead.
pub fn is_due(next_try_ms: i64, now_ms: i64) -> bool {
    next_try_ms <= now_ms || next_try_ms > beyond_ms(now_ms)
}

/// The latest that a record may be put off until at `now_ms`, in milliseconds since 1970.
pub fn beyond_ms(now_ms: i64) -> i64 {
    now_ms.saturating_add(LAST_RETRY_MS)
}

/// When to try a record again that was deferred `tries` times before, in milliseconds since 1970.
pub fn next_try_ms(now_ms: i64, tries: u32) -> i64 {
    let doubled = FIRST_RETRY_MS << tries.min(20);
    now_ms.saturating_add(doubled.min(LAST_RETRY_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_are_never_in_step() {
        assert_eq!((pause_ms(1, 0), pause_ms(1, u32::MAX)), (250, 500));
        assert_eq!((pause_ms(4, 0), pause_ms(4, u32::MAX)), (2_000, 4_000));
        for in_vain in [8, 100, u32::MAX] {
            assert_eq!(pause_ms(in_vain, u32::MAX), LAST_PAUSE_MS);
        }
        let some: Vec<_> = (0..10).map(|n| pause_ms(3, n << 28)).collect();
        assert!(some.is_sorted() && some[0] < some[9], "{some:?}");
    }

    #[test]
    fn what_is_left_takes_two_operations_a_record_at_the_pace_of_the_last_minute() {
        assert_eq!(seconds_left(100, 0, 60, 1_000), None);
        assert_eq!(seconds_left(100, 200, 60, 1_000), Some(60));
        assert_eq!(seconds_left(100, 200, 10, 1_000), Some(12), "at the share");
        assert_eq!(seconds_left(0, 1, 0, 1), Some(0));
    }

    #[test]
    fn retries_wait_twice_as_long_each_time_up_to_a_limit() {
        assert_eq!(next_try_ms(1_000, 0), 3_000);
        assert_eq!(next_try_ms(1_000, 3), 17_000);
        assert_eq!(next_try_ms(0, u32::MAX), LAST_RETRY_MS);
        assert_eq!(next_try_ms(i64::MAX, 5), i64::MAX);
    }
}
