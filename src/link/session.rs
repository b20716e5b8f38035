//! One conversation with one device: requests, answers, deadlines and what is sent again.

use super::port::Port;
use super::smp::frame::{self, Decoder};
use super::smp::{self, HEADER_LENGTH, Header, Map, Op, Packet, Version};
use super::{LinkError, LinkHealth, LinkOptions};
use crate::provision::device::Identification;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// The shortest longest packet, in bytes: what fits one standard line. The size is not halved below it.
const SMALLEST_FRAME: usize = 89;
/// A line on which nothing came for so long is quiet.
const QUIET: Duration = Duration::from_millis(25);
/// How long to wait for a line to become quiet; one that never does is used as it is.
const SETTLE_LIMIT: Duration = Duration::from_secs(1);
/// How long the system may take to accept one line.
const SEND_LIMIT: Duration = Duration::from_secs(5);
/// How much is read at a time, in bytes.
const READ_SIZE: usize = 1024;
/// How restarting is named in errors.
const RESTART: &str = "start anew";
/// How long after its answer a Zephyr device acts on a reset request (`MCUMGR_GRP_OS_RESET_MS`), and a little more.
const RESET_DELAY: Duration = Duration::from_millis(300);
/// Pause between two looks at a port or a device that is to come back.
const RESTART_POLL: Duration = Duration::from_millis(20);
/// How long a device that is starting anew gets for one answer, beside what the line takes for it.
const RESTART_ANSWER: Duration = Duration::from_millis(250);
/// The same for the first question, which follows the first sign of life at once. One that comes too early is lost.
const EAGER_ANSWER: Duration = Duration::from_millis(40);
/// Bytes on the line for one question and its answer then, at most, and the bits of each.
const LOOK_BYTES: u32 = 600;
const BITS_PER_BYTE: u32 = 10;
/// A device that still counts as before so long after a reset request never got it.
const RESET_LOST: Duration = Duration::from_secs(2);

/// One conversation with one device over `S`.
#[derive(Debug)]
pub struct Session<S> {
    stream: S,
    path: PathBuf,
    pub(super) options: LinkOptions,
    decoder: Decoder,
    version: Version,
    sequence: u8,
    next_rid: u32,
    frame_size: usize,
    pub(super) health: LinkHealth,
}

/// A question, apart from its body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    /// What it asks for, as a verb.
    pub what: &'static str,
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
    /// Opens the port, waits until the line is quiet and, if the options say so, finds out how long packets may be.
    ///
    /// # Errors
    ///
    /// Those of [`Port::open`], and `Gone` or `Io` when the port fails at once.
    pub async fn open(path: &Path, options: &LinkOptions) -> Result<Self, LinkError> {
        let mut session = Self::over(Port::open(path, options)?, path, options)?;
        session.settle().await?;
        session.probe().await?;
        Ok(session)
    }

    /// Resets the device and watches until it has started anew; gives what it says of itself then.
    ///
    /// Sent again only when the device was seen not to have started. Port and name may be others when it comes back.
    ///
    /// # Errors
    ///
    /// `Silent` when it does not come back in the options' time, `Swapped` when another device does; what
    /// [`Session::identify`] gives before the reset.
    pub async fn restart(&mut self) -> Result<Identification, LinkError> {
        // Asked now, because a device that lost power since it was last asked has counted once more.
        let before = self.identify().await?;
        self.restart_from(&before).await
    }

    /// The same for a device that has just said `before` of itself.
    ///
    /// # Errors
    ///
    /// Those of [`Session::restart`].
    pub async fn restart_from(
        &mut self,
        before: &Identification,
    ) -> Result<Identification, LinkError> {
        self.restart_watching(before).await
    }

    /// Resets the device and watches for the sign that it has started anew.
    pub(super) async fn restart_watching<T: StartSign>(
        &mut self,
        sign: &T,
    ) -> Result<T::Device, LinkError> {
        let deadline = Instant::now() + Duration::from_millis(self.options.restart_ms);
        let reset = Question {
            what: RESTART,
            op: Op::Write,
            group: smp::OS_GROUP,
            command: smp::RESET,
            patience: Patience::Once(self.options.answer()),
        };
        while Instant::now() < deadline {
            match self.ask(reset, |_| Map::new()).await {
                // Neither an answer nor its absence says whether the device will start anew.
                Ok(_) | Err(LinkError::Silent { .. } | LinkError::Malformed { .. }) => {}
                Err(error) if error.lost_port() => {}
                Err(error) => return Err(error),
            }
            if let Some(device) = self.watch_restart(sign, deadline).await? {
                return Ok(device);
            }
            self.health.retries += 1;
        }
        Err(self.silent(RESTART))
    }

    /// The device, started anew, or nothing if the device still answers with the old one long after the request.
    async fn watch_restart<T: StartSign>(
        &mut self,
        sign: &T,
        deadline: Instant,
    ) -> Result<Option<T::Device>, LinkError> {
        let asked = Instant::now();
        // Most devices say something when they start, or their port goes: no need to ask before.
        let mut buffer = [0; READ_SIZE];
        let mut heard = self
            .receive(&mut buffer, asked + RESET_DELAY)
            .await
            .map(|_| ());
        let on_line =
            Duration::from_secs(1) * LOOK_BYTES * BITS_PER_BYTE / self.options.baud.max(1);
        let mut wait = EAGER_ANSWER + on_line;
        while Instant::now() < deadline {
            let answer = match heard {
                Ok(()) => sign.look(self, Patience::Once(wait)).await,
                Err(error) => Err(error),
            };
            wait = RESTART_ANSWER + on_line;
            match answer {
                Ok(Some(device)) => return Ok(Some(device)),
                Ok(None) if asked.elapsed() > RESET_LOST => return Ok(None),
                Ok(None) | Err(LinkError::Silent { .. } | LinkError::Malformed { .. }) => {}
                Err(error) if error.lost_port() => self.reopen(deadline).await?,
                Err(error) => return Err(error),
            }
            sleep(RESTART_POLL).await;
            heard = self.settle().await;
        }
        Err(self.silent(RESTART))
    }

    /// Opens the port again as soon as it is there.
    async fn reopen(&mut self, deadline: Instant) -> Result<(), LinkError> {
        loop {
            match Port::open(&self.path, &self.options) {
                Ok(port) => {
                    self.stream = port;
                    self.decoder = Decoder::default();
                    return Ok(());
                }
                Err(error) if Instant::now() >= deadline => return Err(error),
                // A port that is just appearing may be missing, busy with udev, or not yet ours.
                Err(_) => sleep(RESTART_POLL).await,
            }
        }
    }
}

/// How to tell that a device has started anew.
pub(super) trait StartSign: Sync {
    /// What is known of the device then.
    type Device: Send;

    /// One look at the device, which gets `patience` for each answer: nothing as long as it has not started anew;
    /// `Swapped` where it is another one.
    fn look(
        &self,
        session: &mut Session<Port>,
        patience: Patience,
    ) -> impl Future<Output = Result<Option<Self::Device>, LinkError>> + Send;
}

/// What a device with a start counter said of itself before.
impl StartSign for Identification {
    type Device = Self;

    async fn look(
        &self,
        session: &mut Session<Port>,
        patience: Patience,
    ) -> Result<Option<Self>, LinkError> {
        let now = session.identify_with(patience).await?;
        if !now.same_unit(self) {
            return Err(LinkError::Swapped {
                port: session.port(),
                found: now.device_id,
            });
        }
        Ok((now.boots > self.boots).then_some(now))
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
            source: io::Error::other("no random bytes"),
        })?;
        Ok(Self {
            stream,
            path: path.to_owned(),
            decoder: Decoder::default(),
            version: Version::Two,
            sequence: rid[0],
            next_rid: u32::from_be_bytes(rid),
            frame_size: options.frame_size.clamp(SMALLEST_FRAME, frame::MAX_PACKET),
            health: LinkHealth::default(),
            options: options.clone(),
        })
    }

    /// How well the link has worked since the session was made.
    pub fn health(&self) -> LinkHealth {
        self.health
    }

    /// Ends a line that someone may have left unfinished, and waits until nothing comes any more.
    ///
    /// What comes meanwhile, such as replies to a killed station, is thrown away.
    pub(super) async fn settle(&mut self) -> Result<(), LinkError> {
        self.send(b"\n").await?;
        let limit = Instant::now() + SETTLE_LIMIT;
        let mut buffer = [0; READ_SIZE];
        while Instant::now() < limit {
            if self
                .receive(&mut buffer, Instant::now() + QUIET)
                .await?
                .is_none()
            {
                break;
            }
        }
        self.decoder = Decoder::default();
        Ok(())
    }

    /// Doubles the longest packet as long as an echo of that size comes back.
    async fn probe(&mut self) -> Result<(), LinkError> {
        let echo = Question {
            what: "echo",
            op: Op::Write,
            group: smp::OS_GROUP,
            command: smp::ECHO,
            patience: Patience::Once(self.options.answer()),
        };
        let limit = self.options.frame_limit.min(frame::MAX_PACKET);
        while self.frame_size < limit {
            let size = limit.min(self.frame_size * 2);
            let overhead = HEADER_LENGTH + Map::new().text("d", "").encode().len() + 2;
            let text = "e".repeat(size - overhead);
            match self.ask(echo, |_| Map::new().text("d", &text)).await {
                Ok(reply) if reply.get_text("r") == Ok(&text) => self.frame_size = size,
                Err(error) if error.lost_port() => return Err(error),
                _ => break,
            }
        }
        Ok(())
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
                Ok(reply) => match self.judge(question.what, reply) {
                    Some(result) => return result,
                    None => continue, // once more in the older version
                },
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
                self.frame_size = (sent / 2).max(SMALLEST_FRAME);
            }
            tries += 1;
            self.health.retries += 1;
        }
    }

    /// The result that a reply stands for, or nothing when the question must be put in the older version.
    fn judge(&mut self, what: &'static str, reply: Packet) -> Option<Result<Map, LinkError>> {
        let Some(refusal) = reply.body.as_refusal() else {
            return Some(Ok(reply.body));
        };
        let too_new = refusal.group.is_none() && refusal.code == smp::COMMON_VERSION_TOO_NEW;
        if too_new && self.version == Version::Two {
            self.version = Version::One;
            return None;
        }
        Some(Err(LinkError::Refused {
            port: self.port(),
            what,
            refusal,
            user_group: self.options.user_group,
        }))
    }

    /// Sends one packet and waits for the reply to it.
    async fn exchange(
        &mut self,
        what: &'static str,
        packet: &Packet,
        wait: Duration,
    ) -> Result<Packet, LinkError> {
        let lines = frame::encode(&packet.encode(), self.options.line_length)
            .map_err(|error| self.malformed(what, error))?;
        for (index, line) in lines.iter().enumerate() {
            if index > 0 && self.options.line_pause_ms > 0 {
                sleep(Duration::from_millis(self.options.line_pause_ms)).await;
            }
            self.send(line).await?;
        }
        let sent = Instant::now();
        let mut buffer = [0; READ_SIZE];
        let mut nonsense = None;
        while let Some(count) = self.receive(&mut buffer, sent + wait).await? {
            let before = self.decoder.damage();
            let frames: Vec<_> = buffer[..count]
                .iter()
                .filter_map(|&byte| self.decoder.push(byte))
                .collect();
            let after = self.decoder.damage();
            self.health.crc_errors += after.checksums - before.checksums;
            self.health.dropped_lines += after.lines - before.lines;
            for bytes in frames {
                match Packet::decode(&bytes) {
                    Ok(reply) if answers(&reply.header, &packet.header) => {
                        let latency = u64::try_from(sent.elapsed().as_millis()).unwrap_or(u64::MAX);
                        self.health.latency_max_ms = self.health.latency_max_ms.max(latency);
                        self.health.round_trips += 1;
                        return Ok(reply);
                    }
                    Ok(_) => {} // the reply to a question that was given up
                    Err(error) => nonsense = Some(error),
                }
            }
        }
        Err(match nonsense {
            Some(error) => self.malformed(what, error),
            None => self.silent(what),
        })
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        let written = timeout(SEND_LIMIT, self.stream.write_all(bytes)).await;
        match written {
            Ok(Ok(())) => {
                self.health.bytes_out += bytes.len() as u64;
                Ok(())
            }
            Ok(Err(error)) => Err(self.failed(error)),
            Err(_) => Err(self.silent("take what is sent")),
        }
    }

    /// Reads what there is; nothing means that the deadline passed.
    async fn receive(
        &mut self,
        buffer: &mut [u8],
        deadline: Instant,
    ) -> Result<Option<usize>, LinkError> {
        // A stream that always has something to read would never let the timer have its turn.
        if Instant::now() >= deadline {
            return Ok(None);
        }
        match timeout_at(deadline, self.stream.read(buffer)).await {
            Err(_) => Ok(None),
            Ok(Ok(0)) => Err(LinkError::Gone { port: self.port() }),
            Ok(Ok(count)) => {
                self.health.bytes_in += count as u64;
                Ok(Some(count))
            }
            Ok(Err(error)) => Err(self.failed(error)),
        }
    }

    pub(super) fn malformed(&self, what: &'static str, why: impl ToString) -> LinkError {
        LinkError::Malformed {
            port: self.port(),
            what,
            why: why.to_string(),
        }
    }

    fn silent(&self, what: &'static str) -> LinkError {
        LinkError::Silent {
            port: self.port(),
            what,
        }
    }

    fn failed(&self, source: io::Error) -> LinkError {
        let port = self.port();
        let unplugged = rustix::io::Errno::from_io_error(&source).is_some_and(|errno| {
            use rustix::io::Errno;
            [Errno::IO, Errno::NXIO, Errno::NODEV].contains(&errno)
        });
        if unplugged || source.kind() == io::ErrorKind::BrokenPipe {
            return LinkError::Gone { port };
        }
        LinkError::Io { port, source }
    }

    pub(super) fn port(&self) -> String {
        self.path.display().to_string()
    }
}

/// Whether a packet is the reply to the request; an old server may answer in version 1.
fn answers(reply: &Header, request: &Header) -> bool {
    Header {
        version: request.version,
        ..*reply
    } == request.reply()
}
