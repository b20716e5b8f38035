//! Raw TPM commands on their way to the device: what may pass, what is logged, and the flush before each run.

use super::busy::{FIRST_PAUSE, LAST_PAUSE, LOCKOUT, is_put_off};
use super::{Limit, Relay, TpmError};
use crate::provision::fault::ResponseFlaw;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Smallest and largest command and response, in bytes (the header; the PC Client profile's buffer size).
pub(super) const SIZES: std::ops::RangeInclusive<usize> = 10..=4096;

/// Most commands in one run; the longest job needs about twenty.
const COMMANDS_MAX: usize = 200;

/// Most handles asked for at once; a TPM has a handful of slots.
const HANDLES_MAX: u32 = 64;

/// Every command that may reach a device's TPM, with its name (TPM 2.0 library, part 2, `TPM_CC`). A provisioning
/// station needs no Clear, no ChangeEPS, no NV_UndefineSpace.
pub const ALLOWED: [(u32, &str); 13] = [
    (0x0000_0120, "EvictControl"),
    (0x0000_0131, "CreatePrimary"),
    (0x0000_0147, "ActivateCredential"),
    (0x0000_014e, "NV_Read"),
    (0x0000_0151, "PolicySecret"),
    (0x0000_0155, "HMAC"),
    (0x0000_0156, "Import"),
    (0x0000_0157, "Load"),
    (FLUSH_CONTEXT, "FlushContext"),
    (NV_READ_PUBLIC, "NV_ReadPublic"),
    (READ_PUBLIC, "ReadPublic"),
    (0x0000_0176, "StartAuthSession"),
    (GET_CAPABILITY, "GetCapability"),
];

const FLUSH_CONTEXT: u32 = 0x0000_0165;
const NV_READ_PUBLIC: u32 = 0x0000_0169;
const READ_PUBLIC: u32 = 0x0000_0173;
const GET_CAPABILITY: u32 = 0x0000_017a;

const TAG_NO_SESSIONS: u16 = 0x8001;
const CAP_HANDLES: u32 = 1;

/// First handles of what a run can leave behind: transient objects, loaded sessions, saved sessions.
const LEFT_BEHIND: [u32; 3] = [0x8000_0000, 0x0200_0000, 0x0300_0000];

/// One command as it went over the link, the last time that it did: no parameters, so nothing in it is secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandRecord {
    /// The command code.
    pub code: u32,
    /// Bytes sent.
    pub sent: usize,
    /// Bytes received; 0 where no answer came.
    pub received: usize,
    /// The response code; absent where no answer came.
    pub rc: Option<u32>,
    /// From sending to the answer.
    pub took: Duration,
}

/// The name of an allowed command.
pub fn command_name(code: u32) -> Option<&'static str> {
    let known = ALLOWED.iter().find(|(allowed, _)| *allowed == code);
    known.map(|(_, name)| *name)
}

/// One run's way to the device.
pub(super) struct Wire<'a, R> {
    relay: &'a mut R,
    log: &'a mut Vec<CommandRecord>,
    limit: Limit,
    /// Where this run begins in the log.
    first: usize,
    /// The last public read and its answer. The TSS asks for a key's public area twice, once for itself and once
    /// for its caller; the second time is answered from here, because a serial line takes 40 ms for it.
    remembered: Option<(Vec<u8>, Vec<u8>)>,
}

impl<'a, R: Relay> Wire<'a, R> {
    pub(super) fn new(relay: &'a mut R, log: &'a mut Vec<CommandRecord>, limit: Limit) -> Self {
        let first = log.len();
        Self {
            relay,
            log,
            limit,
            first,
            remembered: None,
        }
    }

    /// The name of the command sent last.
    pub(super) fn latest(&self) -> &'static str {
        let latest = self.log.get(self.first..).and_then(<[_]>::last);
        latest
            .and_then(|record| command_name(record.code))
            .unwrap_or("its first command")
    }

    /// The deadline has passed. Tells the trace of a command that was under way.
    pub(super) fn late(&self) -> TpmError {
        let late = TpmError::Deadline {
            command: self.latest(),
            limit: self.limit.whole,
        };
        let latest = self.log.get(self.first..).and_then(<[_]>::last);
        if let Some(unanswered) = latest.filter(|record| record.took.is_zero()) {
            tell(unanswered, Some(&late));
        }
        late
    }

    /// Carries one command to the TPM and its response back; one that the TPM puts off is sent again.
    pub(super) async fn transact(&mut self, command: Vec<u8>) -> Result<Vec<u8>, TpmError> {
        let code = word(&command, 6).unwrap_or_default();
        let name = command_name(code).ok_or(TpmError::NotAllowed(code))?;
        if let Some((asked, answer)) = self.remembered.take()
            && asked == command
        {
            return Ok(answer);
        }
        if self.log.len() - self.first == COMMANDS_MAX {
            return Err(TpmError::TooMany(COMMANDS_MAX));
        }
        let at = self.log.len();
        let sent = CommandRecord {
            code,
            sent: command.len(),
            received: 0,
            rc: None,
            took: Duration::ZERO,
        };
        self.log.push(sent);
        let mut pause = FIRST_PAUSE;
        let answer = loop {
            let answer = self.once(at, name, command.clone()).await?;
            match self.log[at].rc.unwrap_or_default() {
                LOCKOUT => return Err(TpmError::LockedOut { command: name }),
                rc if !is_put_off(rc) => break answer,
                rc if Instant::now() + pause >= self.limit.patience() => {
                    return Err(TpmError::Busy {
                        command: name,
                        rc,
                        limit: self.limit.whole,
                    });
                }
                _ => sleep(pause).await,
            }
            pause = LAST_PAUSE.min(pause * 2);
            self.log[at] = sent;
        };
        let repeatable = [READ_PUBLIC, NV_READ_PUBLIC].contains(&code);
        self.remembered = repeatable.then(|| (command, answer.clone()));
        Ok(answer)
    }

    /// Sends a command, notes in its record what came of that, and tells the trace.
    async fn once(
        &mut self,
        at: usize,
        name: &'static str,
        command: Vec<u8>,
    ) -> Result<Vec<u8>, TpmError> {
        let started = Instant::now();
        let answer = self.relay.transact(command).await;
        self.log[at].took = started.elapsed();
        let answer = answer.map_err(|e| TpmError::Link {
            command: name,
            why: e.to_string(),
        });
        let checked = answer.and_then(|answer| {
            self.log[at].received = answer.len();
            let rc = check(&answer);
            let rc = rc.map_err(|why| TpmError::Malformed { command: name, why })?;
            self.log[at].rc = Some(rc);
            Ok(answer)
        });
        tell(&self.log[at], checked.as_ref().err());
        checked
    }

    /// Flushes every transient object and session in the TPM.
    pub(super) async fn flush_everything(&mut self) -> Result<(), TpmError> {
        for first in LEFT_BEHIND {
            let command = raw(GET_CAPABILITY, &[CAP_HANDLES, first, HANDLES_MAX]);
            let answer = self.transact_ok(command).await?;
            for handle in handles(&answer)? {
                self.transact_ok(raw(FLUSH_CONTEXT, &[handle])).await?;
            }
        }
        Ok(())
    }

    async fn transact_ok(&mut self, command: Vec<u8>) -> Result<Vec<u8>, TpmError> {
        let answer = self.transact(command).await?;
        match word(&answer, 6) {
            Some(0) => Ok(answer),
            rc => Err(TpmError::Raw {
                command: self.latest(),
                rc: rc.unwrap_or_default(),
            }),
        }
    }
}

/// Tells the trace of a command: nothing of what is in it.
fn tell(record: &CommandRecord, error: Option<&TpmError>) {
    tracing::info!(
        target: "tpm",
        command = command_name(record.code),
        code = record.code,
        sent = record.sent,
        received = record.received,
        rc = record.rc,
        took_us = record.took.as_micros(),
        error = error.map(ToString::to_string),
    );
}

/// A command of 32-bit parameters without sessions.
fn raw(code: u32, parameters: &[u32]) -> Vec<u8> {
    let size = u32::try_from(10 + 4 * parameters.len()).expect("a handful of parameters");
    let mut command = TAG_NO_SESSIONS.to_be_bytes().to_vec();
    for word in [size, code].iter().chain(parameters) {
        command.extend_from_slice(&word.to_be_bytes());
    }
    command
}

/// The handles in an answer to GetCapability: moreData, capability, count, handles.
fn handles(answer: &[u8]) -> Result<Vec<u32>, TpmError> {
    let malformed = || TpmError::Malformed {
        command: "GetCapability",
        why: ResponseFlaw::Handles,
    };
    let count = word(answer, 15).filter(|count| *count <= HANDLES_MAX);
    let count = count.ok_or_else(malformed)? as usize;
    if word(answer, 11) != Some(CAP_HANDLES) || answer.len() != 19 + 4 * count {
        return Err(malformed());
    }
    Ok((0..count)
        .filter_map(|n| word(answer, 19 + 4 * n))
        .collect())
}

/// Checks a response's sizes and gives its code. A failed command has a bare header: a longer answer with an
/// error code is not the TPM's.
fn check(answer: &[u8]) -> Result<u32, ResponseFlaw> {
    if !SIZES.contains(&answer.len()) {
        return Err(ResponseFlaw::Length(answer.len()));
    }
    let (said, rc) = (word(answer, 2), word(answer, 6).unwrap_or_default());
    if said.map(|said| said as usize) != Some(answer.len()) {
        return Err(ResponseFlaw::Size(answer.len()));
    }
    if rc != 0 && answer.len() != 10 {
        return Err(ResponseFlaw::LongError(rc));
    }
    Ok(rc)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_response_must_have_the_size_it_says() {
        let ok = [0x80, 0x01, 0, 0, 0, 10, 0, 0, 0, 0];
        assert_eq!(check(&ok), Ok(0));
        assert!(check(&ok[..9]).is_err());
        assert!(check(&[&ok[..], &[0]].concat()).is_err());
        let failed = [0x80, 0x01, 0, 0, 0, 10, 0, 0, 1, 0x8b];
        assert_eq!(check(&failed), Ok(0x18b));
        let failed_with_content = [0x80, 0x01, 0, 0, 0, 11, 0, 0, 0, 0x8b, 0];
        assert!(check(&failed_with_content).is_err());
        assert!(check(&[0; 5000]).is_err());
    }

    #[test]
    fn a_list_of_handles_must_be_whole() {
        let mut answer = vec![
            0x80, 0x01, 0, 0, 0, 27, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2,
        ];
        answer.extend_from_slice(&0x8000_0000_u32.to_be_bytes());
        answer.extend_from_slice(&0x8000_0001_u32.to_be_bytes());
        assert_eq!(handles(&answer).unwrap(), [0x8000_0000, 0x8000_0001]);
        assert!(handles(&answer[..26]).is_err());
        answer[15] = 0xff;
        assert!(handles(&answer).is_err());
    }

    /// Answers everything with success, and counts.
    struct Yes(usize);

    impl Relay for Yes {
        type Error = String;
        async fn transact(&mut self, _: Vec<u8>) -> Result<Vec<u8>, String> {
            self.0 += 1;
            Ok(vec![0x80, 0x01, 0, 0, 0, 10, 0, 0, 0, 0])
        }
    }

    fn wire<'a>(relay: &'a mut Yes, log: &'a mut Vec<CommandRecord>) -> Wire<'a, Yes> {
        Wire::new(relay, log, Limit::from_now(Duration::from_secs(10)))
    }

    #[tokio::test]
    async fn what_is_not_allowed_never_reaches_the_device() {
        let mut relay = Yes(0);
        let mut log = Vec::new();
        let clear = raw(0x126, &[0x4000_000c]);
        let refused = wire(&mut relay, &mut log).transact(clear).await;
        assert!(matches!(refused, Err(TpmError::NotAllowed(0x126))));
        assert_eq!((relay.0, log), (0, Vec::new()));
    }

    #[tokio::test]
    async fn only_a_public_read_that_is_repeated_at_once_is_answered_from_memory() {
        let mut relay = Yes(0);
        let mut log = Vec::new();
        let mut wire = wire(&mut relay, &mut log);
        let read = raw(READ_PUBLIC, &[0x8101_0001]);
        let flush = raw(FLUSH_CONTEXT, &[0x8000_0000]);
        for command in [&read, &read, &read, &flush, &flush, &read] {
            wire.transact(command.clone()).await.unwrap();
        }
        assert_eq!(log.len(), 5);
        assert_eq!(relay.0, 5);
    }
}
