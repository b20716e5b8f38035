//! How long packets may be, for each firmware that was met in a bay: asked for once, and doubted when one gets lost.
//!
//! A server says with MCUmgr's parameters how long a packet it has room for. It does not say how many lines of it its
//! port buffers, which is two by default: where bytes come faster than it works, as over USB, longer packets are lost
//! without a word (Zephyr, `UART_MCUMGR_RX_BUF_COUNT`; measured on a Zephyr 3.4.99 server: 182 bytes always arrived, 183
//! never). So a long packet that gets no answer is sent again in short ones, and firmware that does so twice gets no
//! long ones any more.

use super::{DeviceLink, LinkError};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many lost packets make a firmware one that gets no long ones: one may be noise.
const DOUBTS: u32 = 2;
/// How many kinds of firmware are remembered.
const MOST: usize = 64;

/// What is known of each firmware that was met in a bay; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Frames(Arc<Mutex<BTreeMap<Firmware, Known>>>);

/// Model and version of a firmware.
pub(in crate::link) type Firmware = (String, String);

#[derive(Debug, Default)]
struct Known {
    /// The longest packet, in bytes; none where the device did not say.
    size: Option<usize>,
    /// Long packets, or questions for their size, that got no answer since one did.
    doubts: u32,
}

impl Frames {
    /// The longest packet that this firmware takes, in bytes, if it says so and was not found to be wrong; nothing at
    /// all where it is to be asked.
    fn of(&self, firmware: &Firmware) -> Option<Option<usize>> {
        let known = self.known();
        let known = known.get(firmware)?;
        match (known.size, known.doubts) {
            (_, DOUBTS..) => Some(None),
            (None, 1..) => None, // silence may have been noise
            (size, _) => Some(size),
        }
    }

    fn learn(&self, firmware: &Firmware, size: Option<usize>) {
        self.entry(firmware, |known| *known = Known { size, doubts: 0 });
    }

    /// A long packet to this firmware, or the question for its size, got no answer.
    pub(in crate::link) fn doubt(&self, firmware: &Firmware) {
        self.entry(firmware, |known| known.doubts += 1);
    }

    /// A long packet to this firmware was answered.
    pub(in crate::link) fn trust(&self, firmware: &Firmware) {
        self.entry(firmware, |known| known.doubts = 0);
    }

    fn entry(&self, firmware: &Firmware, change: impl FnOnce(&mut Known)) {
        let mut known = self.known();
        if known.len() >= MOST && !known.contains_key(firmware) {
            known.clear();
        }
        change(known.entry(firmware.clone()).or_default());
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Firmware, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeviceLink {
    /// Sets how long packets may be to the device that has just said who it is; asks its firmware for that once.
    pub(super) async fn tune(&mut self) -> Result<(), LinkError> {
        let Some(Ok(device)) = &self.hello else {
            self.smp.allow(None, None);
            return Ok(());
        };
        let firmware = (device.model.clone(), device.firmware.clone());
        let size = match self.frames.of(&firmware) {
            Some(size) => size,
            None => match self.smp.longest_packet().await {
                Ok(size) => {
                    self.frames.learn(&firmware, size);
                    size
                }
                Err(error) if error.lost_port() => return Err(error),
                Err(_) => {
                    self.frames.doubt(&firmware);
                    None
                }
            },
        };
        self.smp.allow(size, Some((self.frames.clone(), firmware)));
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_firmware_that_loses_long_packets_twice_gets_no_more() {
        let frames = Frames::default();
        let firmware = ("gateway".to_owned(), "1.0.0".to_owned());
        assert_eq!(frames.of(&firmware), None);
        frames.learn(&firmware, Some(380));
        frames.doubt(&firmware);
        assert_eq!(frames.of(&firmware), Some(Some(380)));
        frames.trust(&firmware);
        frames.doubt(&firmware);
        assert_eq!(frames.of(&firmware), Some(Some(380)), "one may be noise");
        frames.doubt(&firmware);
        assert_eq!(frames.of(&firmware), Some(None));
    }

    #[test]
    fn a_firmware_that_does_not_answer_is_asked_once_more() {
        let frames = Frames::default();
        let firmware = ("gateway".to_owned(), "1.0.0".to_owned());
        frames.doubt(&firmware);
        assert_eq!(frames.of(&firmware), None);
        frames.doubt(&firmware);
        assert_eq!(frames.of(&firmware), Some(None));
    }

    #[test]
    fn devices_that_always_name_another_firmware_take_no_more_room() {
        let frames = Frames::default();
        for version in 0..1000 {
            frames.learn(&(String::new(), version.to_string()), None);
        }
        assert!(frames.known().len() <= MOST);
    }
}
