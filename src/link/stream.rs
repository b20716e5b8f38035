//! Bytes to and from what is in a bay, whatever language it speaks: sent, received until a deadline, and counted.

use super::port::{ModemLine, Port, Watch};
use super::{LinkError, LinkHealth, LinkOptions};
use crate::provision::dialogue::{Nonsense, Verb};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// A line on which nothing came for so long is quiet.
const QUIET: Duration = Duration::from_millis(25);
/// How long to wait for a line to become quiet; one that never does is used as it is.
const SETTLE_LIMIT: Duration = Duration::from_secs(1);
/// How long the system may take to accept one line.
const SEND_LIMIT: Duration = Duration::from_secs(5);
/// How much is read at a time, in bytes.
pub(super) const READ_SIZE: usize = 1024;
/// Pause between two tries to open a port that is to come back.
const REOPEN_POLL: Duration = Duration::from_millis(20);

/// The bytes of one conversation over `S`.
#[derive(Debug)]
pub(super) struct Stream<S> {
    /// Absent while a port that went away is waited for.
    inner: Option<S>,
    path: PathBuf,
    /// How well it has worked since it was made; who speaks over it counts what is sent again, and what was damaged.
    pub health: LinkHealth,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream<S> {
    /// Over an open stream; `path` only names it in errors.
    pub fn over(stream: S, path: &Path) -> Self {
        Self {
            inner: Some(stream),
            path: path.to_owned(),
            health: LinkHealth::default(),
        }
    }

    /// Waits until nothing comes any more, and throws away what does; says how many bytes that was.
    pub async fn drain(&mut self) -> Result<usize, LinkError> {
        let limit = Instant::now() + SETTLE_LIMIT;
        let mut buffer = [0; READ_SIZE];
        let mut discarded = 0;
        while Instant::now() < limit {
            match self.receive(&mut buffer, Instant::now() + QUIET).await? {
                Some(count) => discarded += count,
                None => break,
            }
        }
        Ok(discarded)
    }

    /// Sends all of this.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        let Some(inner) = &mut self.inner else {
            return Err(LinkError::Gone { port: self.port() });
        };
        let written = timeout(SEND_LIMIT, inner.write_all(bytes)).await;
        match written {
            Ok(Ok(())) => {
                self.health.bytes_out += bytes.len() as u64;
                Ok(())
            }
            Ok(Err(error)) => Err(self.failed(error)),
            Err(_) => Err(self.silent(Verb::Listen)),
        }
    }

    /// Reads what there is; nothing means that the deadline passed.
    pub async fn receive(
        &mut self,
        buffer: &mut [u8],
        deadline: Instant,
    ) -> Result<Option<usize>, LinkError> {
        // A stream that always has something to read would never let the timer have its turn.
        if Instant::now() >= deadline {
            return Ok(None);
        }
        let Some(inner) = &mut self.inner else {
            return Err(LinkError::Gone { port: self.port() });
        };
        match timeout_at(deadline, inner.read(buffer)).await {
            Err(_) => Ok(None),
            Ok(Ok(0)) => Err(LinkError::Gone { port: self.port() }),
            Ok(Ok(count)) => {
                self.health.bytes_in += count as u64;
                Ok(Some(count))
            }
            Ok(Err(error)) => Err(self.failed(error)),
        }
    }

    /// The error of an answer that makes no sense.
    pub fn malformed(&self, what: Verb, nonsense: impl Into<Nonsense>) -> LinkError {
        LinkError::Malformed {
            port: self.port(),
            what,
            nonsense: nonsense.into(),
        }
    }

    /// The error of an answer that did not come.
    pub fn silent(&self, what: Verb) -> LinkError {
        LinkError::Silent {
            port: self.port(),
            what,
        }
    }

    /// The port's path, as errors name it.
    pub fn port(&self) -> String {
        self.path.display().to_string()
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
        LinkError::Io {
            port,
            source: Arc::new(source),
        }
    }
}

impl Stream<Port> {
    /// Whether another program opened the port, and has it still.
    pub fn shared(&self) -> bool {
        let watch = self.inner.as_ref().and_then(|port| port.watch.as_ref());
        watch.is_some_and(Watch::intruder)
    }

    /// A modem line that the other end holds up.
    pub fn line_up(&mut self) -> Option<ModemLine> {
        self.inner.as_mut()?.line_up()
    }

    /// Whether the other end holds this line up.
    pub fn is_up(&mut self, line: ModemLine) -> bool {
        self.inner.as_mut().is_some_and(|port| port.is_up(line))
    }

    /// Opens the port again as soon as it is there, once it is closed: a port that is still open cannot come back under
    /// its number.
    pub async fn reopen(
        &mut self,
        options: &LinkOptions,
        deadline: Instant,
    ) -> Result<(), LinkError> {
        self.inner = None;
        loop {
            match Port::open(&self.path, options) {
                Ok(port) => {
                    self.inner = Some(port);
                    return Ok(());
                }
                Err(error) if Instant::now() >= deadline => return Err(error),
                // A port that is just appearing may be missing, busy with udev, or not yet ours.
                Err(_) => sleep(REOPEN_POLL).await,
            }
        }
    }
}
