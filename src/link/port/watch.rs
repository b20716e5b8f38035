//! Whether another program opens a port while the station has it, as the kernel tells it (inotify(7)).
//!
//! `/proc` shows only root which programs of other users have a port. That somebody opened it, and has not closed it
//! since, everybody can know who watched.

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

/// How much is read at a time, in bytes: sixteen for each event.
const READ_SIZE: usize = 512;

/// What the kernel tells of all ports. One for the whole program, because a user has 128 of these, and a rack 64 bays.
static NOTICES: OnceLock<Option<Mutex<Notices>>> = OnceLock::new();

/// Watches one port until it is dropped.
#[derive(Debug)]
pub struct Watch {
    number: i32,
}

struct Notices {
    events: OwnedFd,
    /// For each watch, whether who opened the port last has it still.
    taken: BTreeMap<i32, bool>,
}

impl Watch {
    /// From now on; none where the system gives none.
    pub(super) fn of(path: &Path) -> Option<Self> {
        on_all(|all| {
            let flags = WatchFlags::OPEN | WatchFlags::CLOSE;
            let number = inotify::add_watch(&all.events, path, flags).ok()?;
            all.taken.insert(number, false);
            Some(Self { number })
        })?
    }

    /// Whether another program opened the port since it is watched, and has not closed it.
    pub fn intruder(&self) -> bool {
        let taken = on_all(|all| {
            all.read();
            all.taken.get(&self.number).copied()
        });
        taken.flatten().unwrap_or(false)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        on_all(|all| {
            all.taken.remove(&self.number);
            let _ = inotify::remove_watch(&all.events, self.number); // gone already with its port
        });
    }
}

impl Notices {
    fn new() -> Option<Mutex<Self>> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        Some(Mutex::new(Self {
            events,
            taken: BTreeMap::new(),
        }))
    }

    /// Takes note of what was told since. Events of one kind in a row may be told as one: how many programs have a port,
    /// nobody can count.
    fn read(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); READ_SIZE];
        let mut reader = Reader::new(&self.events, &mut buffer);
        while let Ok(event) = reader.next() {
            if let Some(taken) = self.taken.get_mut(&event.wd()) {
                *taken = event.events().contains(ReadFlags::OPEN);
            }
        }
    }
}

fn on_all<T>(act: impl FnOnce(&mut Notices) -> T) -> Option<T> {
    let all = NOTICES.get_or_init(Notices::new).as_ref()?;
    Some(act(&mut all.lock().unwrap_or_else(PoisonError::into_inner)))
}
