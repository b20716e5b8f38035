//! A loopback test: what is demanded of a port, and what was found.
//!
//! Invariant: a result passes only if every rate of it passed, and a result without a rate never does.

use super::bounds::within;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use std::ops::RangeInclusive;

/// Rates that can be tested, in bits per second.
pub const RATE: RangeInclusive<u32> = 300..=4_000_000;
/// Most rates of one test.
const RATES_MAX: usize = 16;

/// What is demanded of a port: `[loopback]` in `station.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bits per second to test at, each within [`RATE`], at most 16; empty for the bay's own.
    #[serde(deserialize_with = "rates")]
    pub rates: Vec<u32>,
    /// Length of the pattern at each rate, within 64 to 1,048,576 bytes: long enough for a sequence, short enough to be
    /// kept whole.
    #[serde(deserialize_with = "within::<_, _, 64, 1_048_576>")]
    pub bytes: u32,
    /// Most bits that may come back wrong, at each rate.
    pub bit_errors_max: u64,
    /// Most bytes that may be lost or extra, at each rate.
    pub lost_max: u64,
    /// The longest that one byte may take to go and come back, in milliseconds. An FTDI adapter with its default
    /// latency timer takes 16.
    #[serde(deserialize_with = "within::<_, _, 1, 60_000>")]
    pub latency_max_ms: u32,
}

/// What was found on a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loopback {
    /// The rates, in the order of the test.
    pub rates: Vec<RateResult>,
    /// The modem lines; reported, not judged, since many plugs leave them open.
    pub lines: ModemLines,
}

/// What was found at one rate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateResult {
    /// Bits per second.
    pub baud: u32,
    /// Bytes sent: pattern and single bytes.
    pub bytes: u64,
    /// What came back wrong.
    #[serde(flatten)]
    pub errors: Errors,
    /// Median round trip of a single byte, in microseconds; 0 if none came back.
    pub latency_median_us: u64,
    /// Longest round trip of a single byte, in microseconds.
    pub latency_max_us: u64,
    /// Pattern bytes received in a second.
    pub bytes_per_second: u64,
    /// Whether all of it is within the limits.
    pub passed: bool,
}

/// Differences between what was sent and what came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// Bits that came back wrong.
    pub bit_errors: u64,
    /// Bytes that did not come back.
    pub lost: u64,
    /// Bytes that came back and were never sent.
    pub extra: u64,
}

/// Whether each modem line follows the one that the plug joins it to; absent where the port has no such line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModemLines {
    /// CTS follows RTS.
    pub rts_cts: Option<bool>,
    /// DSR follows DTR.
    pub dtr_dsr: Option<bool>,
    /// DCD follows DTR.
    pub dtr_dcd: Option<bool>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rates: Vec::new(),
            bytes: 16_384,
            bit_errors_max: 0,
            lost_max: 0,
            latency_max_ms: 50,
        }
    }
}

impl Limits {
    /// The limit that would let a port pass that gives back nothing but noise, or nothing at all.
    pub fn passes_anything(&self) -> Option<&'static str> {
        /// Of eight bits of noise, four are wrong.
        const NOISE: u64 = 4;
        let bytes = u64::from(self.bytes);
        if self.bit_errors_max >= bytes * NOISE {
            Some("bit_errors_max")
        } else if self.lost_max >= bytes {
            Some("lost_max")
        } else {
            None
        }
    }

    /// Whether what was found at a rate is within the limits.
    pub fn allow(&self, found: &RateResult) -> bool {
        found.errors.bit_errors <= self.bit_errors_max
            && found.errors.lost.saturating_add(found.errors.extra) <= self.lost_max
            && found.latency_max_us <= u64::from(self.latency_max_ms) * 1000
    }
}

impl Loopback {
    /// Whether the port passed.
    pub fn passed(&self) -> bool {
        !self.rates.is_empty() && self.rates.iter().all(|rate| rate.passed)
    }

    /// The result for a person: a line for each rate, and one for the modem lines.
    pub fn text(&self) -> Vec<String> {
        let mut text: Vec<String> = self.rates.iter().map(ToString::to_string).collect();
        text.push(self.lines.to_string());
        text
    }
}

impl std::fmt::Display for ModemLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = |follows: Option<bool>| match follows {
            Some(true) => "joined",
            Some(false) => "not joined",
            None => "not on this port",
        };
        write!(
            f,
            "RTS-CTS {}, DTR-DSR {}, DTR-DCD {}",
            word(self.rts_cts),
            word(self.dtr_dsr),
            word(self.dtr_dcd)
        )
    }
}

impl std::fmt::Display for RateResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |us: u64| format!("{}.{:03}", us / 1000, us % 1000);
        write!(
            f,
            "{} {} baud: {} bytes, {} bit errors, {} lost, {} extra, latency {} ms, at most {} ms, {} bytes/s",
            if self.passed { "PASS" } else { "FAIL" },
            self.baud,
            self.bytes,
            self.errors.bit_errors,
            self.errors.lost,
            self.errors.extra,
            ms(self.latency_median_us),
            ms(self.latency_max_us),
            self.bytes_per_second
        )
    }
}

fn rates<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    let rates = Vec::<u32>::deserialize(deserializer)?;
    if rates.len() > RATES_MAX || !rates.iter().all(|rate| RATE.contains(rate)) {
        let (low, high) = (RATE.start(), RATE.end());
        return Err(D::Error::custom(format!(
            "rates are at most {RATES_MAX} numbers from {low} to {high}"
        )));
    }
    Ok(rates)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_defaults_bounds_and_no_unknown_keys() {
        let limits: Limits = toml::from_str("rates = [9600, 115200]\nlost_max = 2").unwrap();
        assert_eq!(
            (limits.rates.len(), limits.bytes, limits.lost_max),
            (2, 16_384, 2)
        );
        for wrong in ["byte = 1", "bytes = 63", "bytes = 1048577", "rates = [299]"] {
            assert!(toml::from_str::<Limits>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_limit_is_the_last_value_that_passes() {
        let limits = Limits {
            bit_errors_max: 2,
            lost_max: 3,
            latency_max_ms: 4,
            ..Limits::default()
        };
        let found = |bit_errors, lost, extra, latency_max_us| RateResult {
            errors: Errors {
                bit_errors,
                lost,
                extra,
            },
            latency_max_us,
            ..RateResult::default()
        };
        assert!(limits.allow(&found(2, 2, 1, 4000)));
        for over in [
            found(3, 0, 0, 0),
            found(0, 3, 1, 0),
            found(0, 0, 4, 0),
            found(0, 0, 0, 4001),
        ] {
            assert!(!limits.allow(&over), "{over:?}");
        }
        assert!(!Loopback::default().passed());
    }
}
