//! The claim: the right of one attempt at a time to act on a device.

use crate::provision::device::DeviceId;
use serde::Serialize;
use ulid::Ulid;

/// The right to act on a device: held by one attempt at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Claim {
    pub(super) attempt: Ulid,
    pub(super) device: DeviceId,
    pub(super) fence: u32,
}

impl Claim {
    /// The attempt that holds it.
    pub fn attempt(&self) -> Ulid {
        self.attempt
    }

    /// The device.
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// Grows by one each time the claim on the device is taken.
    pub fn fence(&self) -> u32 {
        self.fence
    }
}
