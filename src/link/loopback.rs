//! The station's own test of a port: a plug joins what goes out to what comes in, and all that was sent must return.
//!
//! Nothing but a short harmless text is sent before that text has come back, so that a device which was left in the
//! bay never gets the pattern.

mod pattern;

use super::port::Port;
use super::{LinkError, LinkOptions};
use crate::provision::loopback::{Errors, Limits, Loopback, RateResult};
use data_encoding::HEXLOWER;
use pattern::{compare, pattern};
use std::future::pending;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

/// A line on which nothing came for so long is quiet; an FTDI adapter holds bytes back for up to 255 ms.
const QUIET: Duration = Duration::from_millis(300);
/// How long the first byte of an answer may take.
const FIRST_BYTE: Duration = Duration::from_secs(1);
/// Time that is granted beyond what the bytes need on the line.
const SLACK: Duration = Duration::from_secs(5);
/// How often the plug is asked for; bit errors can spoil one try.
const TOKEN_TRIES: usize = 3;
/// Random bytes of the token.
const TOKEN_LENGTH: usize = 8;
/// What is taken from a line that should be quiet, in bytes; more means that something there talks.
const STALE_MAX: usize = 4096;
/// Single bytes that are sent to measure the latency.
const ROUND_TRIPS: u8 = 20;
/// So many single bytes that never return end the measurement.
const LOST_MAX: u64 = 3;
/// How much is read at a time, in bytes.
const READ_SIZE: usize = 4096;
/// Bits on the line for each byte: start, eight, stop.
const BITS: u64 = 10;

/// Why a port could not be tested. No port has failed a test for that.
#[derive(Debug)]
pub enum LoopbackError {
    /// What was sent did not come back.
    NoPlug {
        /// The port's path.
        port: String,
    },
    /// What was to be sent was not sent.
    SendsNothing {
        /// The port's path.
        port: String,
    },
    /// Bytes come that nobody sent.
    Talks {
        /// The port's path.
        port: String,
    },
    /// No random numbers.
    Random {
        /// The port's path.
        port: String,
    },
    /// The port failed.
    Link(LinkError),
}

impl From<LinkError> for LoopbackError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

/// Tests a port at each rate, or at the link's own where the limits name none. The port is locked all the while.
///
/// A plug that is there at one rate is there at all of them: a rate at which nothing comes back then, or at which the
/// port goes away, has failed, and so has a rate on which that happens once its plug was found.
///
/// Takes, at each rate, at most twice the time that the bytes need on the line and half a minute.
///
/// # Errors
///
/// Those of [`Port::open_alone`], no plug, or a port that goes away.
pub async fn run(
    path: &Path,
    link: &LinkOptions,
    limits: &Limits,
) -> Result<Loopback, LoopbackError> {
    let mut port = Port::open_alone(path, link).await?;
    let name = path.display().to_string();
    let own = [link.baud];
    let rates = if limits.rates.is_empty() {
        &own[..]
    } else {
        &limits.rates[..]
    };
    let mut result = Loopback::default();
    let mut plugged = false;
    for &baud in rates {
        let tested = match port.set_baud(path, baud) {
            Ok(()) => test(&mut port, &name, baud, limits).await,
            Err(error) => Err(error.into()),
        };
        let found = match tested {
            Ok(found) => {
                plugged = true;
                found
            }
            Err(LoopbackError::NoPlug { port: name }) if !plugged && port.unsent() => {
                return Err(LoopbackError::SendsNothing { port: name });
            }
            Err(LoopbackError::NoPlug { .. }) => lost(baud),
            Err(error) if !plugged => return Err(error),
            Err(_) => lost(baud),
        };
        result.rates.push(found);
    }
    if !plugged {
        return Err(LoopbackError::NoPlug { port: name });
    }
    result.lines = port.modem_lines().await;
    Ok(result)
}

/// A rate at which not even the text came back that asks for the plug.
fn lost(baud: u32) -> RateResult {
    let bytes = (TOKEN_TRIES * (2 * TOKEN_LENGTH + 1)) as u64;
    RateResult {
        baud,
        bytes,
        errors: Errors {
            lost: bytes,
            ..Errors::default()
        },
        ..RateResult::default()
    }
}

/// Tests what is called `port` at one rate: the plug, then single bytes, then the pattern.
///
/// # Errors
///
/// No plug, or a port that goes away before the plug was found.
pub async fn test<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    port: &str,
    baud: u32,
    limits: &Limits,
) -> Result<RateResult, LoopbackError> {
    let mut line = Line { stream, port, baud };
    line.confirm_plug().await?;
    let mut result = RateResult {
        baud,
        ..RateResult::default()
    };
    let length = limits.bytes as usize;
    let mut measured = line.measure_latency(&mut result).await;
    if measured.is_ok() {
        measured = line.run_pattern(length, &mut result).await;
    }
    if measured.is_err() {
        result.bytes += length as u64;
        result.errors.lost += length as u64;
    }
    result.passed = measured.is_ok() && limits.allow(&result);
    Ok(result)
}

/// A port under test.
struct Line<'a, S> {
    stream: &'a mut S,
    port: &'a str,
    baud: u32,
}

/// What came back, and how long after the first question the last byte of it did.
struct Received {
    bytes: Vec<u8>,
    time: Duration,
    /// Whether the port took all that was to be sent.
    sent: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<'_, S> {
    /// A random text must come back unchanged. It ends with Ctrl-U and without a newline: a shell forgets it, no
    /// device acts on it, and a terminal that echoes what is typed gives something else back.
    async fn confirm_plug(&mut self) -> Result<(), LoopbackError> {
        let port = || self.port.to_owned();
        if self.drain().await? >= STALE_MAX {
            return Err(LoopbackError::Talks { port: port() });
        }
        for _ in 0..TOKEN_TRIES {
            let mut random = [0; TOKEN_LENGTH];
            aws_lc_rs::rand::fill(&mut random)
                .map_err(|_| LoopbackError::Random { port: port() })?;
            let token = HEXLOWER.encode(&random) + "\x15";
            let received = self.exchange(token.as_bytes(), STALE_MAX).await?;
            if !received.sent {
                return Err(LoopbackError::SendsNothing { port: port() });
            }
            if received.bytes == token.as_bytes() {
                return Ok(());
            }
        }
        Err(LoopbackError::NoPlug { port: port() })
    }

    async fn measure_latency(&mut self, result: &mut RateResult) -> Result<(), LinkError> {
        let mut times = Vec::new();
        for byte in 0..ROUND_TRIPS {
            let start = Instant::now();
            let mut answer = [0];
            let round_trip = async {
                self.stream.write_all(&[byte]).await?;
                self.stream.read(&mut answer).await
            };
            result.bytes += 1;
            match timeout_at(start + FIRST_BYTE, round_trip).await {
                Ok(read) => {
                    count(self.port, read)?;
                    times.push(start.elapsed());
                    result.errors.bit_errors += u64::from((answer[0] ^ byte).count_ones());
                }
                Err(_) => result.errors.lost += 1,
            }
            if result.errors.lost >= LOST_MAX {
                break;
            }
        }
        result.errors.extra += self.drain().await? as u64;
        times.sort();
        let us = |time: Option<&Duration>| {
            time.map_or(0, |time| {
                u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
            })
        };
        result.latency_median_us = us(times.get(times.len() / 2));
        result.latency_max_us = us(times.last());
        Ok(())
    }

    async fn run_pattern(
        &mut self,
        length: usize,
        result: &mut RateResult,
    ) -> Result<(), LinkError> {
        let sent = pattern(length);
        let received = self.exchange(&sent, 2 * length).await?;
        let errors = compare(&sent, &received.bytes);
        result.bytes += length as u64;
        result.errors.bit_errors += errors.bit_errors;
        result.errors.lost += errors.lost;
        result.errors.extra += errors.extra;
        let us = received.time.as_micros().max(1);
        let rate = received.bytes.len() as u128 * 1_000_000 / us;
        result.bytes_per_second = u64::try_from(rate).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Sends while it receives, until the line is quiet; gives at most `max` bytes. What the port has not taken when
    /// its time is over stays unsent.
    async fn exchange(&mut self, bytes: &[u8], max: usize) -> Result<Received, LinkError> {
        let bits = bytes.len() as u64 * BITS;
        let line_time = Duration::from_micros(bits * 1_000_000 / u64::from(self.baud));
        let deadline = Instant::now() + line_time * 2 + SLACK;
        let (mut reader, mut writer) = tokio::io::split(&mut *self.stream);
        let mut sent = false;
        let send = async {
            match writer.write_all(bytes).await {
                Err(error) => failed(self.port, error),
                Ok(()) => {
                    sent = true;
                    pending().await
                }
            }
        };
        let received = tokio::select! {
            received = receive(&mut reader, self.port, max, FIRST_BYTE, deadline) => received?,
            error = send => return Err(error),
        };
        Ok(Received { sent, ..received })
    }

    /// Takes away what nobody asked for; gives how many bytes it was.
    async fn drain(&mut self) -> Result<usize, LinkError> {
        let deadline = Instant::now() + SLACK;
        let stale = receive(self.stream, self.port, STALE_MAX, QUIET, deadline).await?;
        Ok(stale.bytes.len())
    }
}

/// Takes what comes until the line is quiet or the deadline is over, at most `max` bytes; the first one may take `first`.
async fn receive(
    stream: &mut (impl AsyncRead + Unpin),
    port: &str,
    max: usize,
    first: Duration,
    deadline: Instant,
) -> Result<Received, LinkError> {
    let start = Instant::now();
    let mut received = Received {
        bytes: Vec::new(),
        time: Duration::ZERO,
        sent: true,
    };
    let mut wait = first;
    while received.bytes.len() < max {
        let mut buffer = [0; READ_SIZE];
        let until = deadline.min(Instant::now() + wait);
        let Ok(read) = timeout_at(until, stream.read(&mut buffer)).await else {
            break;
        };
        let count = count(port, read)?.min(max - received.bytes.len());
        received.bytes.extend(&buffer[..count]);
        received.time = start.elapsed();
        wait = QUIET;
    }
    Ok(received)
}

/// How much was read; nothing means that the port is gone.
fn count(port: &str, read: io::Result<usize>) -> Result<usize, LinkError> {
    match read {
        Ok(0) => Err(LinkError::Gone {
            port: port.to_owned(),
        }),
        Ok(count) => Ok(count),
        Err(error) => Err(failed(port, error)),
    }
}

fn failed(port: &str, source: io::Error) -> LinkError {
    LinkError::Io {
        port: port.to_owned(),
        source: Arc::new(source),
    }
}
