//! One SMP conversation with one device: requests, answers, deadlines and what is sent again.

mod restart;

pub(in crate::link) use restart::StartSign;

use super::frames::{Firmware, Frames};
use super::port::{ModemLine, Port};
use super::smp::frame::{self, Decoder};
use super::smp::{self, HEADER_LENGTH, Header, Map, Op, Packet, SmpError, Version};
use super::stream::{READ_SIZE, Stream};
use super::{Change, LinkError, LinkHealth, LinkOptions, wire};
use crate::provision::dialogue::{Nonsense, Verb};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep};

/// Floor for the negotiated packet size, in bytes: what fits one standard line. The size is not halved below it.
const SMALLEST_FRAME: usize = 89;
/// A reply that has begun is heard to its end as long as it does not pause for so long: a slow line is no silence.
const REPLY_PAUSE: Duration = Duration::from_millis(100);
/// But no longer than so long after the wait for it.
const REPLY_LIMIT: Duration = Duration::from_secs(5);

/// Pause between two looks at a modem line.
const LINE_POLL: Duration = Duration::from_millis(75);

/// One SMP conversation with one device over `S`.
#[derive(Debug)]
pub struct Session<S> {
    pub(super) stream: Stream<S>,
    pub(super) options: LinkOptions,
    decoder: Decoder,
    version: Version,
    sequence: u8,
    next_rid: u32,
    frame_size: usize,
    /// Whose word stands for packets longer than the options' size.
    long: Option<(Frames, Firmware)>,
    /// Replies to questions that were given up.
    late: u64,
}

/// A question, apart from its body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    /// What it asks for.
    pub what: Verb,
    pub op: Op,
    pub group: u16,
    pub command: u8,
    pub patience: Patience,
}

/// How long to wait for an answer and how often to ask. Everything asked more than once either changes nothing the
/// second time or bears a request ID.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    /// An ordinary answer: the options' number of tries.
    Ordinary,
    /// Something that takes its time: waits ever longer between tries until the options' limit.
    Slow,
    /// One try.
    Once(Duration),
}

impl Session<Port> {
    /// Opens the port for itself alone, and waits until the line is quiet.
    ///
    /// # Errors
    ///
    /// Those of [`Port::open_alone`], and `Gone` or `Io` when the port fails at once.
    pub async fn open(path: &Path, options: &LinkOptions) -> Result<Self, LinkError> {
        let mut session = Self::over(Port::open_alone(path, options).await?, path, options)?;
        session.settle().await?;
        Ok(session)
    }

    /// Waits until bytes come, the watched modem line falls, or the time is over. To wait for a line would hold up a
    /// thread, so that it is looked at now and then.
    pub(super) async fn listen(
        &mut self,
        wait: Duration,
        watched: Option<ModemLine>,
    ) -> Result<Change, LinkError> {
        let deadline = Instant::now() + wait;
        let mut buffer = [0; READ_SIZE];
        loop {
            let until = match watched {
                Some(_) => deadline.min(Instant::now() + LINE_POLL),
                None => deadline,
            };
            if let Some(count) = self.stream.receive(&mut buffer, until).await? {
                wire::discarded(count);
                return Ok(Change::Heard);
            }
            if watched.is_some_and(|line| !self.stream.is_up(line)) {
                return Ok(Change::LineFell);
            }
            if Instant::now() >= deadline {
                return Ok(Change::Nothing);
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Session<S> {
    /// A session over an open stream; `path` only names it in errors.
    ///
    /// # Errors
    ///
    /// `Io` when the system has no random bytes for the first request ID.
    pub fn over(stream: S, path: &Path, options: &LinkOptions) -> Result<Self, LinkError> {
        let mut rid = [0; 4];
        // A random start, so that a station that was killed does not get an earlier answer from memory.
        aws_lc_rs::rand::fill(&mut rid).map_err(|_| LinkError::Io {
            port: path.display().to_string(),
            source: Arc::new(io::Error::other("no random bytes")),
        })?;
        Ok(Self {
            stream: Stream::over(stream, path),
            decoder: Decoder::default(),
            version: Version::Two,
            sequence: rid[0],
            next_rid: u32::from_be_bytes(rid),
            frame_size: shortest_limit(options),
            long: None,
            late: 0,
            options: options.clone(),
        })
    }

    /// How well the link has worked since the session was made.
    pub fn health(&self) -> LinkHealth {
        self.stream.health
    }

    /// Ends a line that someone may have left unfinished, and waits until nothing comes any more.
    ///
    /// What comes meanwhile, such as replies to a killed station, is thrown away.
    pub(super) async fn settle(&mut self) -> Result<(), LinkError> {
        self.stream.send(b"\n").await?;
        let discarded = self.stream.drain().await?;
        wire::discarded(discarded);
        self.decoder = Decoder::default();
        Ok(())
    }

    /// The longest packet that the device says it has room for, in bytes: its buffer holds length and checksum too
    /// (Zephyr, `os_mgmt`, "MCUmgr parameters"). None where it does not say, or where the options allow no longer ones; an
    /// error where it does not answer.
    pub(super) async fn longest_packet(&mut self) -> Result<Option<usize>, LinkError> {
        if self.options.frame_limit <= shortest_limit(&self.options) {
            return Ok(None);
        }
        let parameters = Question {
            what: Verb::Parameters,
            op: Op::Read,
            group: smp::OS_GROUP,
            command: smp::PARAMETERS,
            patience: Patience::Once(self.options.answer()),
        };
        match self.ask(parameters, |_| Map::new()).await {
            Ok(reply) => {
                let buffer = reply.get_size("buf_size").ok();
                Ok(buffer.and_then(|size| size.checked_sub(frame::ENVELOPE)))
            }
            Err(LinkError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Allows packets of this size, in bytes, within the options; `firmware` is who says that it takes them.
    pub(super) fn allow(&mut self, size: Option<usize>, firmware: Option<(Frames, Firmware)>) {
        let shortest = shortest_limit(&self.options);
        let longest = self.options.frame_limit.clamp(shortest, frame::MAX_PACKET);
        self.frame_size = size.map_or(shortest, |size| size.clamp(shortest, longest));
        self.long = firmware;
    }

    /// A packet got its answer: if it is a long one, then such packets arrive.
    fn answered(&self, packet: &Packet) {
        if let Some((frames, firmware)) = &self.long
            && self.frame_size > shortest_limit(&self.options)
            && packet.encode().len() > shortest_limit(&self.options)
        {
            frames.trust(firmware);
        }
    }

    /// A packet of this size got no answer: the next ones are shorter.
    fn shorten(&mut self, sent: usize) {
        let shortest = shortest_limit(&self.options);
        if sent <= shortest {
            self.frame_size = (sent / 2).max(SMALLEST_FRAME);
            return;
        }
        if self.frame_size > shortest
            && let Some((frames, firmware)) = &self.long
        {
            frames.doubt(firmware);
        }
        self.frame_size = self.frame_size.min(shortest);
    }

    /// A request ID that was not used before.
    pub(super) fn request_id(&mut self) -> u64 {
        self.next_rid = self.next_rid.wrapping_add(1);
        self.next_rid.into()
    }

    /// Asks until there is an answer or patience ends. `body` is given the number of bytes that the body may have.
    pub(super) async fn ask(
        &mut self,
        question: Question,
        body: impl Fn(usize) -> Map,
    ) -> Result<Map, LinkError> {
        let started = Instant::now();
        self.sequence = self.sequence.wrapping_add(1);
        let mut wait = match question.patience {
            Patience::Once(wait) => wait,
            Patience::Ordinary | Patience::Slow => self.options.answer(),
        };
        let mut tries = 1;
        let mut other_version = false;
        loop {
            let packet = Packet {
                header: Header {
                    version: self.version,
                    op: question.op,
                    group: question.group,
                    sequence: self.sequence,
                    command: question.command,
                },
                body: body(self.frame_size - HEADER_LENGTH),
            };
            let error = match self.exchange(question.what, &packet, wait).await {
                Ok(reply) if !other_version && self.wants_other_version(&reply) => {
                    other_version = true;
                    continue;
                }
                Ok(reply) => {
                    self.answered(&packet);
                    return self.judge(question.what, reply);
                }
                Err(error @ (LinkError::Silent { .. } | LinkError::Malformed { .. })) => error,
                Err(error) => return Err(error),
            };
            let patience_ends = match question.patience {
                Patience::Once(_) => true,
                Patience::Ordinary => tries >= self.options.tries,
                Patience::Slow => started.elapsed() >= self.options.slow_answer(),
            };
            if patience_ends {
                return Err(error);
            }
            if matches!(question.patience, Patience::Slow) {
                let left = self.options.slow_answer().saturating_sub(started.elapsed());
                wait = left.min(wait * 2);
            }
            // One silence may be noise, unless the packet is longer than every server takes.
            let sent = packet.encode().len();
            let doubtful = tries > 1 || sent > frame::packet_in(2, frame::LINE_LENGTH);
            if doubtful && sent > self.frame_size / 2 {
                self.shorten(sent);
            }
            tries += 1;
            self.stream.health.retries += 1;
        }
    }

    /// Whether the device only knows the other version of the protocol, which is spoken from now on. Both ways: the
    /// next device at this port, or this one's firmware after its bootloader, may know only the newer one.
    fn wants_other_version(&mut self, reply: &Packet) -> bool {
        let (refused, other) = match self.version {
            Version::One => (smp::COMMON_VERSION_TOO_OLD, Version::Two),
            Version::Two => (smp::COMMON_VERSION_TOO_NEW, Version::One),
        };
        let wanted = Some(SmpError {
            group: None,
            code: refused,
        });
        let wants = reply.body.as_error() == wanted;
        if wants {
            self.version = other;
        }
        wants
    }

    /// The result that a reply stands for.
    fn judge(&self, what: Verb, reply: Packet) -> Result<Map, LinkError> {
        match reply.body.as_error() {
            None => Ok(reply.body),
            Some(error) => Err(LinkError::Refused {
                port: self.stream.port(),
                what,
                grounds: error.grounds(self.options.user_group),
            }),
        }
    }

    /// A field of a reply, or the error of a reply that does not have it.
    pub(super) fn field<T>(
        &self,
        what: Verb,
        field: Result<T, impl Into<Nonsense>>,
    ) -> Result<T, LinkError> {
        field.map_err(|error| self.stream.malformed(what, error))
    }

    /// Sends one packet and waits for the reply to it.
    async fn exchange(
        &mut self,
        what: Verb,
        packet: &Packet,
        wait: Duration,
    ) -> Result<Packet, LinkError> {
        let request = packet.encode();
        let lines = frame::encode(&request, self.options.line_length)
            .map_err(|error| self.stream.malformed(what, error))?;
        wire::sent(&request, packet, self.options.user_group);
        for (index, line) in lines.iter().enumerate() {
            if index > 0 && self.options.line_pause_ms > 0 {
                sleep(Duration::from_millis(self.options.line_pause_ms)).await;
            }
            self.stream.send(line).await?;
        }
        let sent = Instant::now();
        // What was sent may still be in the system's buffers.
        let wait = wait + self.options.on_line(lines.iter().map(Vec::len).sum());
        let mut deadline = sent + wait;
        let mut buffer = [0; READ_SIZE];
        let mut nonsense = None;
        while let Some(count) = self.stream.receive(&mut buffer, deadline).await? {
            let before = self.decoder.damage();
            let frames: Vec<_> = buffer[..count]
                .iter()
                .filter_map(|&byte| self.decoder.push(byte))
                .collect();
            let after = self.decoder.damage();
            self.stream.health.crc_errors += after.checksums - before.checksums;
            self.stream.health.dropped_lines += after.lines - before.lines;
            wire::damaged(
                after.lines - before.lines,
                after.checksums - before.checksums,
            );
            for bytes in frames {
                wire::came(&bytes, packet, self.options.user_group);
                match Packet::decode(&bytes) {
                    Ok(reply) if answers(&reply.header, &packet.header) => {
                        let latency = u64::try_from(sent.elapsed().as_millis()).unwrap_or(u64::MAX);
                        self.stream.health.latency_max_ms =
                            self.stream.health.latency_max_ms.max(latency);
                        self.stream.health.round_trips += 1;
                        return Ok(reply);
                    }
                    Ok(other) if other.header.op == packet.header.reply().op => self.late += 1,
                    Ok(_) => {} // an echo of the question
                    Err(error) => nonsense = Some(error),
                }
            }
            if self.decoder.in_packet() {
                let more = Instant::now() + REPLY_PAUSE;
                deadline = deadline.max(more.min(sent + wait + REPLY_LIMIT));
            }
        }
        Err(match nonsense {
            Some(error) => self.stream.malformed(what, error),
            None => self.stream.silent(what),
        })
    }
}

/// The longest packet that every server takes, as the options have it.
fn shortest_limit(options: &LinkOptions) -> usize {
    options.frame_size.clamp(SMALLEST_FRAME, frame::MAX_PACKET)
}

/// Whether a packet is the reply to the request; an old server may answer in version 1.
fn answers(reply: &Header, request: &Header) -> bool {
    Header {
        version: request.version,
        ..*reply
    } == request.reply()
}
