//! Which other program has a port, as far as `/proc` shows that to this user.

use crate::provision::fault::{Holder, harmless};
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

/// How many open files of this machine's programs are looked at for one port, at most; a look takes some microseconds.
const FILES_MAX: usize = 200_000;
/// How long a look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// Longest name of a program, in characters; the kernel keeps 15 bytes.
const NAME_MAX: usize = 16;
/// The device numbers of the ends of pseudo-terminals that look like ports (the kernel's `devices.txt`).
const PTY_MAJOR: std::ops::RangeInclusive<u32> = 136..=143;
/// The device number of what makes pseudo-terminals, which is also their other end.
const PTMX: (u32, u32) = (5, 2);

/// A port, whatever its names are.
enum Place {
    /// By the number of its device.
    Device(u64),
    /// No device: by file system and number there.
    File(u64, u64),
}

/// Another program that has the port open, or else locked. Looks through `/proc` on a thread of its own, which takes
/// some milliseconds: for when a port is opened, and before a unit is blamed.
pub async fn holder(path: &Path) -> Option<Holder> {
    let path = path.to_owned();
    within_limit(move || holder_of(&path)).await.flatten()
}

/// Looks on a thread of its own, and gives up where a file system of somebody's does not answer.
async fn within_limit<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let looked = timeout(LOOK_LIMIT, tokio::task::spawn_blocking(look)).await;
    looked.ok()?.ok()
}

/// The same at once.
pub fn holder_of(path: &Path) -> Option<Holder> {
    let file = fs::metadata(path).ok()?;
    let port = Place::of(&file);
    let mut left = FILES_MAX;
    let mut others = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse::<u32>().ok()?;
        (pid != std::process::id()).then_some(pid)
    });
    // Looked at twice: a program that is just being started has the files of who starts it for a moment.
    let pid = others
        .find(|pid| port.is_open_in(*pid, &mut left) && port.is_open_in(*pid, &mut left))
        .or_else(|| locker_of(&file))?;
    let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(Holder {
        pid,
        program: harmless(program.trim_end(), NAME_MAX),
    })
}

/// Whether this program has the port; looks at its files alone.
pub async fn holds(path: &Path, holder: &Holder) -> bool {
    let (path, pid) = (path.to_owned(), holder.pid);
    let held = within_limit(move || {
        let file = fs::metadata(path).ok()?;
        let mut left = FILES_MAX;
        let open = Place::of(&file).is_open_in(pid, &mut left) || locker_of(&file) == Some(pid);
        Some(open)
    });
    held.await.flatten() == Some(true)
}

/// Whether a file is a pseudo-terminal.
pub(super) fn is_pty(file: &Metadata) -> bool {
    file.file_type().is_char_device() && PTY_MAJOR.contains(&rustix::fs::major(file.rdev()))
}

impl Place {
    fn of(file: &Metadata) -> Self {
        match file.file_type().is_char_device() {
            true => Self::Device(file.rdev()),
            false => Self::File(file.dev(), file.ino()),
        }
    }

    fn is(&self, file: &Metadata) -> bool {
        match *self {
            Self::Device(number) => file.file_type().is_char_device() && file.rdev() == number,
            Self::File(dev, ino) => (file.dev(), file.ino()) == (dev, ino),
        }
    }

    /// Whether a program has the port open. One that has the other end of a pseudo-terminal is the device, and no
    /// other program at its port.
    fn is_open_in(&self, pid: u32, left: &mut usize) -> bool {
        let files = fs::read_dir(format!("/proc/{pid}/fd"));
        let mut open = false;
        for entry in files.into_iter().flatten().flatten() {
            if *left == 0 {
                break;
            }
            *left -= 1;
            let Ok(file) = fs::metadata(entry.path()) else {
                continue; // closed meanwhile
            };
            open |= self.is(&file);
            let number = (
                rustix::fs::major(file.rdev()),
                rustix::fs::minor(file.rdev()),
            );
            if number == PTMX && self.has_other_end(pid, &entry.file_name().to_string_lossy()) {
                return false;
            }
        }
        open
    }

    /// Whether an open `/dev/ptmx` is this port's other end. Its `fdinfo` has a line `tty-index:  5` for `/dev/pts/5`.
    fn has_other_end(&self, pid: u32, fd: &str) -> bool {
        let Self::Device(number) = *self else {
            return false;
        };
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
        let index = info.lines().find_map(|l| l.strip_prefix("tty-index:"));
        PTY_MAJOR.contains(&rustix::fs::major(number))
            && index.and_then(|index| index.trim().parse().ok()) == Some(rustix::fs::minor(number))
    }
}

/// Who has the file locked with `flock`. A line of `/proc/locks` is `1: FLOCK  ADVISORY  WRITE 812 00:05:94 0 EOF`:
/// process, then device and inode (proc_locks(5)).
fn locker_of(file: &Metadata) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", file.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == place)?;
        let pid = words.get(at.checked_sub(1)?)?.parse().ok()?;
        (pid != 0 && pid != std::process::id()).then_some(pid)
    })
}
