//! Serial ports: found, opened, locked and listed by path.

use super::{LinkError, LinkOptions};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_serial::{SerialPort, SerialPortBuilderExt, SerialStream};

/// Where udev puts names of ports by the plug that they are in.
const BY_PATH: &str = "/dev/serial/by-path";

/// An open port, locked for this process. Dropping it frees it.
///
/// It shows only tokio's traits: `SerialStream` also has the blocking ones, which on it quietly do the wrong thing.
#[derive(Debug)]
pub struct Port(SerialStream);

/// A port of this machine, with what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PortInfo {
    /// The kernel's name; it may change at the next plug.
    pub path: PathBuf,
    /// The name of the plug that it is in: the one to write into `station.toml`.
    pub by_path: Option<PathBuf>,
    /// Present on USB.
    pub usb: Option<UsbInfo>,
}

/// What a USB port says of itself.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct UsbInfo {
    /// Vendor ID.
    pub vendor: u16,
    /// Product ID.
    pub product: u16,
    /// Serial number of the adapter or device.
    pub serial: Option<String>,
    /// Name of the maker.
    pub manufacturer: Option<String>,
    /// Name of the product.
    pub name: Option<String>,
}

impl Port {
    /// Opens and locks the port.
    ///
    /// The lock is an advisory one (`flock`), which ends with this process however it ends. The terminal's own
    /// exclusive mode is switched off again: on a pseudo-terminal it would outlive a killed station and shut out its
    /// successor.
    ///
    /// # Errors
    ///
    /// `PortMissing`, `PortDenied`, `PortBusy`, or `Io` for what else the system says.
    pub fn open(path: &Path, options: &LinkOptions) -> Result<Self, LinkError> {
        // serialport calls every failure "no device"; asking the system first tells them apart. The probe stays open
        // until the port is, so that the modem lines do not fall in between.
        let probe = probe(path)?;
        let mut stream = tokio_serial::new(path.to_string_lossy(), options.baud)
            .open_native_async()
            .map_err(|error| failed(path, error.into()))?;
        drop(probe);
        stream
            .set_exclusive(false)
            .map_err(|error| failed(path, error.into()))?;
        // Pseudo-terminals have no modem lines, and that must not fail a session.
        if let Some(level) = options.dtr {
            let _ = stream.write_data_terminal_ready(level);
        }
        if let Some(level) = options.rts {
            let _ = stream.write_request_to_send(level);
        }
        Ok(Self(stream))
    }
}

/// Whether something is plugged in at `path`; follows symbolic links.
pub fn present(path: &Path) -> bool {
    path.exists()
}

/// The serial ports of this machine, by path. Pseudo-terminals are never among them.
///
/// # Errors
///
/// What the system says when its list cannot be read.
pub fn list() -> io::Result<Vec<PortInfo>> {
    if !Path::new("/sys/class/tty").is_dir() {
        return Ok(Vec::new()); // a bare container; serialport would panic
    }
    let mut ports: Vec<PortInfo> = serialport::available_ports()?
        .into_iter()
        .map(|port| {
            let path = PathBuf::from(port.port_name);
            let usb = match port.port_type {
                serialport::SerialPortType::UsbPort(usb) => Some(UsbInfo {
                    vendor: usb.vid,
                    product: usb.pid,
                    serial: usb.serial_number,
                    manufacturer: usb.manufacturer,
                    name: usb.product,
                }),
                _ => None,
            };
            let by_path = plug_of(&path);
            PortInfo { path, by_path, usb }
        })
        .collect();
    ports.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(ports)
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
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(LinkError::PortBusy {
                port: path.display().to_string(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(failed(path, error)),
    }
    file.unlock().map_err(|error| failed(path, error))?;
    Ok(file)
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
        io::ErrorKind::ResourceBusy => LinkError::PortBusy { port },
        // serialport's word for a port that was locked between the probe and the opening.
        io::ErrorKind::NotFound => LinkError::PortBusy { port },
        _ => LinkError::Io { port, source },
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

/// The by-path name that leads to `path`.
fn plug_of(path: &Path) -> Option<PathBuf> {
    let target = path.canonicalize().ok()?;
    let entries = std::fs::read_dir(BY_PATH).ok()?.flatten();
    entries
        .map(|entry| entry.path())
        .find(|link| link.canonicalize().is_ok_and(|to| to == target))
}

impl AsyncRead for Port {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Port {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    /// Does nothing: what was written is with the kernel, and waiting for the line to drain would block the thread.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
