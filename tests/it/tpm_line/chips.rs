//! TPMs that are not what they should be, put together from good ones.

use super::hall::Chip;
use crate::tpm::device::READ_PUBLIC_EK;
use dps_station::fixtures::device::Tpm;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

/// A TPM that shows another's endorsement key, and the certificate that belongs to it.
pub struct Impostor {
    pub own: Chip,
    pub victim: Chip,
}

impl Tpm for Impostor {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        const NV_READ: [u8; 4] = [0, 0, 0x01, 0x4e];
        const NV_READ_PUBLIC: [u8; 4] = [0, 0, 0x01, 0x69];
        let code = command.get(6..10).unwrap_or_default();
        if command == READ_PUBLIC_EK || code == NV_READ || code == NV_READ_PUBLIC {
            self.victim.transact(command)
        } else {
            self.own.transact(command)
        }
    }

    fn restart(&mut self) -> io::Result<()> {
        self.own.restart()?;
        self.victim.restart()
    }
}

/// A TPM that is exchanged for another while the device is off.
pub struct Swapped {
    pub now: Chip,
    pub later: Chip,
}

impl Tpm for Swapped {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.now.transact(command)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.now = self.later.clone();
        self.now.restart()
    }
}

/// A TPM that does not answer its n-th command, from 0, and nothing after it, until the test drops what it was given.
pub struct Stalling {
    tpm: Chip,
    left: usize,
    released: Receiver<()>,
}

impl Stalling {
    pub fn new(tpm: Chip, nth: usize) -> (Self, Sender<()>) {
        let (release, released) = channel();
        let left = nth;
        let stalling = Self {
            tpm,
            left,
            released,
        };
        (stalling, release)
    }
}

impl Tpm for Stalling {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        if self.left == 0 {
            let _ = self.released.recv();
            return Err(io::Error::other("it stalls"));
        }
        self.left -= 1;
        self.tpm.transact(command)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.tpm.restart()
    }
}
