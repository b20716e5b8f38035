//! Serial ports: found, opened, locked and listed by path.

mod holder;
mod latency;
mod list;
mod watch;

pub use holder::{holder, holds};
pub use list::{PortInfo, UsbInfo, list, look, suggest, usb_behind};
pub use watch::Watch;

use super::{LinkError, LinkOptions};
use crate::provision::fault::Holder;
use crate::provision::loopback::ModemLines;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_serial::{SerialPort, SerialPortBuilderExt, SerialStream};

/// How long a modem line may take to change, a USB adapter's report of it included.
const LINE_SETTLE: Duration = Duration::from_millis(50);

/// An open port, locked for this process. Dropping it frees it.
///
/// It shows only tokio's traits: `SerialStream` also has the blocking ones, which on it quietly do the wrong thing.
#[derive(Debug)]
pub struct Port {
    stream: SerialStream,
    /// Who else opens it; absent where the system gives no watch.
    pub watch: Option<Watch>,
    /// How long its adapter holds back what came in, in milliseconds, where that could not be lowered.
    pub latency_ms: Option<u32>,
}

/// A modem line that comes from the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModemLine {
    /// Data set ready.
    Dsr,
    /// Data carrier detect.
    Dcd,
    /// Clear to send.
    Cts,
}

impl Port {
    /// Opens and locks the port, where no other program has it open already.
    ///
    /// # Errors
    ///
    /// Those of [`Self::open`]; `PortBusy` names the program where the system shows it.
    pub async fn open_alone(path: &Path, options: &LinkOptions) -> Result<Self, LinkError> {
        let opened = Self::open(path, options);
        if !matches!(opened, Ok(_) | Err(LinkError::PortBusy { .. })) {
            return opened;
        }
        match holder(path).await {
            Some(holder) => Err(busy(path, Some(holder))),
            None => opened,
        }
    }

    /// Opens and locks the port, whoever else may have it open.
    ///
    /// The lock is an advisory one (`flock`), which ends with this process however it ends: it keeps out other
    /// stations, and no program that does not ask for it. A terminal also gets its exclusive mode (`TIOCEXCL`), which
    /// keeps out every program that does not run as root, and ends when the port is closed by all who have it. A
    /// pseudo-terminal does not: there that mode ends only with the other end, so that it would outlive a killed
    /// station and shut out its successor. Neither mode nor lock says anything of a program that was there before, or
    /// that runs as root: [`holder()`] looks for those, and [`Watch`] sees those that come later.
    ///
    /// # Errors
    ///
    /// `PortMissing`, `PortDenied`, `PortBusy`, `NotAPort`, or `Io` for what else the system says.
    pub fn open(path: &Path, options: &LinkOptions) -> Result<Self, LinkError> {
        // serialport calls every failure "no device"; asking the system first tells them apart. The probe stays open
        // until the port is, so that the modem lines do not fall in between.
        let probe = probe(path)?;
        let mut stream = tokio_serial::new(path.to_string_lossy(), options.baud)
            .open_native_async()
            .map_err(|error| failed(path, error.into()))?;
        if probe.metadata().is_ok_and(|file| holder::is_pty(&file)) {
            stream
                .set_exclusive(false)
                .map_err(|error| failed(path, error.into()))?;
        }
        drop(probe);
        // Pseudo-terminals have no modem lines, and that must not fail a session.
        if let Some(level) = options.dtr {
            let _ = stream.write_data_terminal_ready(level);
        }
        if let Some(level) = options.rts {
            let _ = stream.write_request_to_send(level);
        }
        Ok(Self {
            stream,
            watch: Watch::of(path),
            latency_ms: latency::lower(path),
        })
    }

    /// A modem line that the other end holds up, if there is one: it falls when the device is taken away.
    pub fn line_up(&mut self) -> Option<ModemLine> {
        let mut lines = [ModemLine::Dsr, ModemLine::Dcd, ModemLine::Cts].into_iter();
        lines.find(|line| self.is_up(*line))
    }

    /// Whether the other end holds this line up; not where the port has no such line. A USB adapter is asked over USB.
    pub fn is_up(&mut self, line: ModemLine) -> bool {
        let level = match line {
            ModemLine::Dsr => self.stream.read_data_set_ready(),
            ModemLine::Dcd => self.stream.read_carrier_detect(),
            ModemLine::Cts => self.stream.read_clear_to_send(),
        };
        level.unwrap_or(false)
    }

    /// Changes the rate, in bits per second, while the port stays open and locked.
    ///
    /// # Errors
    ///
    /// `Io` where the port cannot do it.
    pub fn set_baud(&mut self, path: &Path, baud: u32) -> Result<(), LinkError> {
        self.stream
            .set_baud_rate(baud)
            .map_err(|error| failed(path, error.into()))
    }

    /// Whether bytes that were given to the port wait to be sent; pseudo-terminals keep none.
    pub fn unsent(&self) -> bool {
        self.stream.bytes_to_write().is_ok_and(|count| count > 0)
    }

    /// Whether each modem line follows the one that a loopback plug joins it to; leaves DTR and RTS set.
    pub async fn modem_lines(&mut self) -> ModemLines {
        ModemLines {
            rts_cts: self
                .follows(
                    SerialStream::write_request_to_send,
                    SerialStream::read_clear_to_send,
                )
                .await,
            dtr_dsr: self
                .follows(
                    SerialStream::write_data_terminal_ready,
                    SerialStream::read_data_set_ready,
                )
                .await,
            dtr_dcd: self
                .follows(
                    SerialStream::write_data_terminal_ready,
                    SerialStream::read_carrier_detect,
                )
                .await,
        }
    }

    /// `None` where the port refuses to set or to read the line, as with ENOTTY: it has none.
    async fn follows(
        &mut self,
        set: fn(&mut SerialStream, bool) -> tokio_serial::Result<()>,
        read: fn(&mut SerialStream) -> tokio_serial::Result<bool>,
    ) -> Option<bool> {
        let mut follows = true;
        for level in [false, true] {
            set(&mut self.stream, level).ok()?;
            tokio::time::sleep(LINE_SETTLE).await;
            follows &= read(&mut self.stream).ok()? == level;
        }
        Some(follows)
    }
}

/// Whether something is plugged in at `path`; follows symbolic links.
pub fn present(path: &Path) -> bool {
    path.exists()
}

/// Opens the path only to see what the system says; the lock is free again when this returns.
fn probe(path: &Path) -> Result<File, LinkError> {
    let flags = rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
        .map_err(|error| failed(path, error))?;
    if !rustix::termios::isatty(&file) {
        return Err(not_a_port(path));
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(busy(path, None));
        }
        Err(TryLockError::Error(error)) => return Err(failed(path, error)),
    }
    file.unlock().map_err(|error| failed(path, error))?;
    Ok(file)
}

fn not_a_port(path: &Path) -> LinkError {
    LinkError::NotAPort {
        port: path.display().to_string(),
    }
}

fn busy(path: &Path, holder: Option<Holder>) -> LinkError {
    LinkError::PortBusy {
        port: path.display().to_string(),
        holder,
    }
}

fn failed(path: &Path, source: io::Error) -> LinkError {
    let port = path.display().to_string();
    match source.kind() {
        // ENXIO and ENODEV: the name is there, the device behind it is not.
        _ if matches!(source.raw_os_error(), Some(6 | 19)) => LinkError::PortMissing { port },
        io::ErrorKind::NotFound if !path.exists() => LinkError::PortMissing { port },
        io::ErrorKind::PermissionDenied => LinkError::PortDenied {
            group: group_of(path),
            port,
        },
        io::ErrorKind::IsADirectory => not_a_port(path),
        io::ErrorKind::ResourceBusy => busy(path, None),
        // serialport's word for a port that was locked between the probe and the opening.
        io::ErrorKind::NotFound => busy(path, None),
        _ => LinkError::Io {
            port,
            source: Arc::new(source),
        },
    }
}

/// Name of the group that the port belongs to, as `/etc/group` has it, or Debian's customary one.
fn group_of(path: &Path) -> String {
    let name = || {
        let id = std::fs::metadata(path).ok()?.gid().to_string();
        let groups = std::fs::read_to_string("/etc/group").ok()?;
        let line = groups.lines().find(|l| l.split(':').nth(2) == Some(&id))?;
        line.split(':').next().map(str::to_owned)
    };
    name().unwrap_or_else(|| "dialout".to_owned())
}

impl AsyncRead for Port {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Port {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    /// Does nothing: what was written is with the kernel, and waiting for the line to drain would block the thread.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
