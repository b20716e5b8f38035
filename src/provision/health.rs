//! How well a link works: counters, and from where on they are a bad sign.
//!
//! Invariant: counters only grow, so that the difference of two readings is what happened between them.

use serde::{Deserialize, Serialize};

/// What was counted on a link, since its port was opened or over one attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkHealth {
    /// Questions that were answered.
    pub round_trips: u64,
    /// Requests that had to be sent again.
    pub retries: u64,
    /// Packets that came with a wrong checksum.
    pub crc_errors: u64,
    /// Lines of packets that came damaged.
    pub dropped_lines: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// The longest that an answer took, in milliseconds.
    pub latency_max_ms: u64,
}

/// From where on a link is weak: a bad cable is to be seen before it fails units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkLimits {
    /// The most requests that may have to be sent again, of 1,000 that were answered.
    pub retries_per_1000: u64,
    /// The most packets that may come with a wrong checksum.
    pub crc_errors: u64,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self {
            retries_per_1000: 20,
            crc_errors: 10,
        }
    }
}

impl LinkHealth {
    /// Both together: counts are added, the longest wait is the longer one.
    pub fn plus(self, other: Self) -> Self {
        Self {
            round_trips: self.round_trips + other.round_trips,
            retries: self.retries + other.retries,
            crc_errors: self.crc_errors + other.crc_errors,
            dropped_lines: self.dropped_lines + other.dropped_lines,
            bytes_out: self.bytes_out + other.bytes_out,
            bytes_in: self.bytes_in + other.bytes_in,
            latency_max_ms: self.latency_max_ms.max(other.latency_max_ms),
        }
    }

    /// What was counted since `earlier` was read. The longest wait cannot be taken apart and stays.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            round_trips: self.round_trips.saturating_sub(earlier.round_trips),
            retries: self.retries.saturating_sub(earlier.retries),
            crc_errors: self.crc_errors.saturating_sub(earlier.crc_errors),
            dropped_lines: self.dropped_lines.saturating_sub(earlier.dropped_lines),
            bytes_out: self.bytes_out.saturating_sub(earlier.bytes_out),
            bytes_in: self.bytes_in.saturating_sub(earlier.bytes_in),
            latency_max_ms: self.latency_max_ms,
        }
    }

    /// How often something went wrong, whatever it was.
    pub fn wrong(&self) -> u64 {
        self.retries + self.crc_errors + self.dropped_lines
    }

    /// Whether that is more than the limits allow.
    pub fn exceeds(&self, limits: &LinkLimits) -> bool {
        let allowed = self.round_trips.saturating_mul(limits.retries_per_1000);
        self.retries.saturating_mul(1000) > allowed || self.crc_errors > limits.crc_errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_what_happened_between_two_readings() {
        let health = |round_trips, retries| LinkHealth {
            round_trips,
            retries,
            ..LinkHealth::default()
        };
        let sum = health(1000, 3).plus(health(500, 4));
        assert_eq!(sum.since(health(1000, 3)), health(500, 4));
        let limits = LinkLimits::default();
        assert!(!health(1000, 20).exceeds(&limits));
        assert!(health(1000, 21).exceeds(&limits));
        assert!(health(0, 1).exceeds(&limits));
        assert!(!LinkHealth::default().exceeds(&limits));
    }
}
