//! What is known of the serial ports of this machine, without opening any: that would start some devices anew.

use super::holder::holder_of;
use crate::provision::fault::{Holder, harmless};
use crate::provision::product::UsbId;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where udev puts names of ports by the plug that they are in.
const BY_PATH: &str = "/dev/serial/by-path";
/// Longest text of a device that is shown, in characters; USB has at most 126.
const TEXT_MAX: usize = 126;

/// A port of this machine, with what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PortInfo {
    /// The kernel's name; it may change at the next plug.
    pub path: PathBuf,
    /// The name of the plug that it is in: the one to write into `station.toml`.
    pub by_path: Option<PathBuf>,
    /// Present on USB.
    pub usb: Option<UsbInfo>,
    /// Another program that has it open or locked, where the system shows one to this user.
    pub holder: Option<Holder>,
    /// The group that this user must join to open the port; absent where it may already.
    pub join_group: Option<String>,
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

impl fmt::Display for PortInfo {
    /// One line; what a device says of itself is made harmless.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(by_path) = &self.by_path {
            write!(f, "  {}", by_path.display())?;
        }
        if let Some(usb) = &self.usb {
            write!(f, "  {:04x}:{:04x}", usb.vendor, usb.product)?;
            let texts = [&usb.manufacturer, &usb.name, &usb.serial];
            for text in texts.into_iter().flatten() {
                write!(f, "  {}", harmless(text, TEXT_MAX))?;
            }
        }
        if let Some(holder) = &self.holder {
            let Holder { pid, program } = holder;
            write!(f, "  in use by {program} (process {pid})")?;
        }
        if let Some(group) = &self.join_group {
            write!(f, "  no permission: this user must join the group {group}")?;
        }
        Ok(())
    }
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
            look(Path::new(&port.port_name), usb)
        })
        .collect();
    ports.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(ports)
}

/// The USB device behind a port, if there is one.
///
/// # Errors
///
/// Those of [`list`].
pub fn usb_behind(path: &Path) -> io::Result<Option<UsbId>> {
    let Ok(target) = path.canonicalize() else {
        return Ok(None); // gone meanwhile
    };
    let port = list()?.into_iter().find(|port| {
        let path = port.path.canonicalize();
        path.is_ok_and(|path| path == target)
    });
    Ok(port.and_then(|port| port.usb).map(|usb| UsbId {
        vendor: usb.vendor,
        product: usb.product,
    }))
}

/// What can be seen of one port from outside.
pub fn look(path: &Path, usb: Option<UsbInfo>) -> PortInfo {
    use rustix::fs::{Access, access};
    let may_open = access(path, Access::READ_OK | Access::WRITE_OK).is_ok();
    PortInfo {
        path: path.to_owned(),
        by_path: plug_of(path),
        usb,
        holder: holder_of(path),
        join_group: (!may_open).then(|| super::group_of(path)),
    }
}

/// `[[bay]]` entries, ready for `station.toml`, for the ports that are no bay's yet. `taken` has the names and the
/// ports of the bays that there are. Only ports with a by-path name are suggested: other names may change.
pub fn suggest(ports: &[PortInfo], taken: &[(String, PathBuf)]) -> String {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let used: Vec<PathBuf> = taken.iter().map(|(_, port)| real(port)).collect();
    let mut names = (1u32..)
        .map(|number| number.to_string())
        .filter(|name| taken.iter().all(|(other, _)| other != name));
    let mut text = String::new();
    for port in ports {
        let Some(by_path) = &port.by_path else {
            continue;
        };
        if used.contains(&real(by_path)) || used.contains(&port.path) {
            continue;
        }
        let name = names.next().unwrap_or_default();
        let path = toml::Value::from(by_path.to_string_lossy().into_owned());
        text += &format!("[[bay]]\nname = \"{name}\"\nport = {path}\n\n");
    }
    text
}

/// The by-path name that leads to `path`.
fn plug_of(path: &Path) -> Option<PathBuf> {
    let target = path.canonicalize().ok()?;
    let entries = fs::read_dir(BY_PATH).ok()?.flatten();
    entries
        .map(|entry| entry.path())
        .find(|link| link.canonicalize().is_ok_and(|to| to == target))
}
