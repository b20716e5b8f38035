//! How long an adapter holds back what came in: its latency timer, lowered where this user may.
//!
//! An FTDI adapter gathers what comes in for 16 ms before it hands it on, which costs a device half as much time again.
//! Its driver shows the timer as a file in `/sys`, which root may write, and others where a udev rule says so. The
//! driver would also lower it for any user who sets `ASYNC_LOW_LATENCY` (`setserial PORT low_latency`), but neither
//! `serialport` nor `rustix` can do that, and no `unsafe` is worth it. No other driver of the kernel has such a timer.

use std::fs;
use std::path::Path;

/// Where the kernel shows its terminals.
const TERMINALS: &str = "/sys/class/tty";
/// What the timer is set to, in milliseconds.
const LOW_MS: u32 = 1;

/// Lowers the timer of the adapter behind a port; gives what it is then, in milliseconds, where it stays higher.
pub(super) fn lower(path: &Path) -> Option<u32> {
    lower_in(Path::new(TERMINALS), path)
}

fn lower_in(terminals: &Path, path: &Path) -> Option<u32> {
    let terminal = path.canonicalize().ok()?;
    let name = terminal.file_name()?;
    let timer = terminals.join(name).join("device/latency_timer");
    let read = || -> Option<u32> { fs::read_to_string(&timer).ok()?.trim().parse().ok() };
    if read()? > LOW_MS {
        let _ = fs::write(&timer, LOW_MS.to_string()); // what became of it is read
    }
    read().filter(|ms| *ms > LOW_MS)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_timer_is_lowered_where_it_can_be_and_else_told() {
        let dir = tempfile::tempdir().unwrap();
        let port = dir.path().join("ttyUSB3");
        fs::write(&port, "").unwrap();
        let by_path = dir.path().join("by-path");
        symlink(&port, &by_path).unwrap();
        assert_eq!(lower_in(dir.path(), &by_path), None);

        let sys = tempfile::tempdir().unwrap();
        let device = sys.path().join("ttyUSB3/device");
        fs::create_dir_all(&device).unwrap();
        let timer = device.join("latency_timer");
        fs::write(&timer, "16\n").unwrap();
        assert_eq!(lower_in(sys.path(), &by_path), None);
        assert_eq!(fs::read_to_string(&timer).unwrap(), "1");

        // A number that nobody may write, whatever rights a user has.
        fs::remove_file(&timer).unwrap();
        symlink("/proc/sys/kernel/cap_last_cap", &timer).unwrap();
        assert!(lower_in(sys.path(), &by_path).is_some_and(|ms| ms > 1));
    }
}
