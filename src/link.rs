//! How to talk to a device: everything the bay may ask of what is plugged in.
//!
//! A bay opens a [`DeviceLink`], asks [`who`] is there, and talks to the [`Device`] that was found by its verbs. It
//! does not know which language those are said in: that is the [`Driver`]'s, and which driver it is, the product says.
//! From the bay down:
//!
//! | file | what lives there |
//! |---|---|
//! | `device.rs` | [`Device`]: the verbs, and how a device answers to one that it does not have |
//! | `driver.rs` | [`Driver`]: finds its devices and makes them; [`of_product`] picks the one that a product needs |
//! | `driver/find.rs` | [`who`]: which of the drivers knows what is there |
//! | `driver/group.rs`, `driver/group/objects.rs` | devices with the provisioning group, [`smp::group`] |
//! | `driver/stock.rs` | devices with stock firmware, which only keep settings |
//! | `driver/settings.rs` | what these two have in common: the settings, and the product's keys for them |
//! | `session.rs`, `session/restart.rs` | one SMP conversation: deadlines, what is sent again, a reset watched |
//! | `smp.rs`, `smp/frame.rs`, `smp/group.rs` | SMP as bytes, without I/O |
//! | `frames.rs` | how long packets may be, by firmware |
//! | `stream.rs` | bytes to and from what is there, in whatever language, and the counters |
//! | `port.rs`, `port/list.rs`, `loopback.rs` | the serial port: opened, listed, tested |
//! | `port/holder.rs`, `port/watch.rs` | who else has the port, and who opens it later |
//! | `port/latency.rs` | how long an adapter holds back what came in |
//! | `error.rs` | [`LinkError`]; the facts that it carries are in [`provision::dialogue`](crate::provision::dialogue) |
//!
//! **To add a driver:** a file in `driver/` with a type that is a [`Driver`] and one that is a [`Device`], and a line in
//! [`of_product`]. It implements the verbs that its devices have, and leaves out the others. One that speaks no SMP
//! stands on `stream.rs` beside `session.rs`; what it must remember from one look at the bay to the next is
//! [`DeviceLink`]'s, and what it must remember from one verb to the next is its device's.
//!
//! # Why so
//!
//! - **An SMP codec of our own, without I/O.** Of the two crates that there are, `mcumgr-smp` leaves out the checksum
//!   at one message length in fifty, and panics on junk. `mcumgr-toolkit` gives up a whole answer where a line of the
//!   log stands in the middle of it, and sends the command again, which does harm where keys or a TPM are concerned; on
//!   a quiet line it is good, and the tests use it as a client that is not ours. The simulated device shares this
//!   codec, which therefore knows neither port nor clock.
//! - **Only what may be repeated is sent again.** What must not be executed twice has a request ID, and a device
//!   answers the second copy from memory. Whether a reset that nobody confirmed took place is decided by watching the
//!   device.
//! - **`serialport` without libudev.** It lists ports from `/sys` by itself, and needs no headers to build. It reports
//!   no arrivals, so an empty bay's port is looked at again and again. `tokio-serial` on top makes every wait end when
//!   its deadline does.

mod device;
mod driver;
mod error;
mod frames;
pub mod loopback;
pub mod port;
pub mod session;
pub mod smp;
mod stream;
mod wire;

pub use crate::provision::health::LinkHealth;
pub use device::{Device, Expected, Held, Observation, Reply};
pub use driver::{Driver, Found, Injection, ReadBack, ValueType, of_product, who};
pub use error::LinkError;
pub use frames::Frames;

use crate::provision::bounds::within;
use crate::provision::device::Identification;
use crate::provision::loopback::RATE;
use port::{ModemLine, Port};
use serde::{Deserialize, Serialize};
use session::Session;
use smp::{frame, group};
use std::path::Path;
use std::time::Duration;

/// Longest packet to a device that says that it takes longer ones, in bytes, unless the options say otherwise: a
/// certificate chain goes in one, and what a lost one costs is bearable.
const LONG_PACKET: usize = 1024;
/// Bits on the line for one byte, with start and stop bit.
const BITS_PER_BYTE: u32 = 10;

/// The open way to whatever is in a bay; [`who`] that is, drivers find out.
#[derive(Debug)]
pub struct DeviceLink {
    /// All drivers that there are speak SMP.
    smp: Session<Port>,
    /// What *identify* was answered with in the present look at who is there, once it was asked.
    hello: Option<Result<Identification, LinkError>>,
    /// How long packets may be.
    frames: Frames,
}

/// What changed at a port at which somebody listened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing, for as long as was to be waited.
    Nothing,
    /// Something came.
    Heard,
    /// The watched modem line fell: the device may have been taken away.
    LineFell,
}

/// How to talk over one bay's port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkOptions {
    /// Bits per second; USB CDC ACM and pseudo-terminals ignore it.
    #[serde(deserialize_with = "within::<_, _, { *RATE.start() as u64 }, { *RATE.end() as u64 }>")]
    pub baud: u32,
    /// Longest packet that every device takes, in bytes. 182 fit two lines, which is what a Zephyr server buffers by
    /// default.
    #[serde(deserialize_with = "within::<_, _, 89, 4_096>")]
    pub frame_size: usize,
    /// Longest packet to a device that says that it takes longer ones, in bytes. With no more than `frame_size`, it is not
    /// asked.
    #[serde(deserialize_with = "within::<_, _, 89, 4_096>")]
    pub frame_limit: usize,
    /// Longest line, in bytes, with marker and newline.
    #[serde(deserialize_with = "within::<_, _, 7, 4_096>")]
    pub line_length: usize,
    /// Pause between the lines of a packet, in milliseconds.
    #[serde(deserialize_with = "within::<_, _, 0, 1_000>")]
    pub line_pause_ms: u64,
    /// How long to wait for an ordinary answer, in milliseconds.
    #[serde(deserialize_with = "within::<_, _, 10, 60_000>")]
    pub answer_ms: u64,
    /// How long to wait in all for a key to be made or a TPM to work, in milliseconds.
    #[serde(deserialize_with = "within::<_, _, 100, 600_000>")]
    pub slow_answer_ms: u64,
    /// How long all commands to a device's TPM in one step may take, in milliseconds: the slowest TPM known makes an
    /// RSA key in 7.5 s, and two may have to be made.
    #[serde(deserialize_with = "within::<_, _, 100, 600_000>")]
    pub tpm_ms: u64,
    /// How long a device may take to start anew, in milliseconds.
    #[serde(deserialize_with = "within::<_, _, 100, 600_000>")]
    pub restart_ms: u64,
    /// How long what has appeared in the bay may take to say who it is, in milliseconds.
    #[serde(deserialize_with = "within::<_, _, 100, 600_000>")]
    pub arrival_ms: u64,
    /// How often an ordinary request is sent, at least once.
    #[serde(deserialize_with = "within::<_, _, 1, 100>")]
    pub tries: u32,
    /// Number of the provisioning user group.
    #[serde(deserialize_with = "within::<_, _, 64, 65_535>")]
    pub user_group: u16,
    /// Level to set on DTR after opening; absent leaves it as the system sets it.
    pub dtr: Option<bool>,
    /// Level to set on RTS after opening; absent leaves it as the system sets it.
    pub rts: Option<bool>,
}

impl DeviceLink {
    /// Opens a bay's port. What is learnt of the firmware there goes into `frames`, for the next time.
    ///
    /// # Errors
    ///
    /// Those of [`Session::open`].
    pub async fn open(
        path: &Path,
        options: &LinkOptions,
        frames: &Frames,
    ) -> Result<Self, LinkError> {
        Ok(Self {
            smp: Session::open(path, options).await?,
            hello: None,
            frames: frames.clone(),
        })
    }

    /// Waits until something changes at the port: bytes come, which are thrown away, the watched modem line falls, or
    /// the port goes away. The device is asked nothing.
    ///
    /// # Errors
    ///
    /// `Gone` or `Io` when the port is lost.
    pub async fn listen(
        &mut self,
        wait: Duration,
        watched: Option<ModemLine>,
    ) -> Result<Change, LinkError> {
        self.smp.listen(wait, watched).await
    }

    /// Whether another program opened the port after it was opened here, and has it still.
    pub fn shared(&self) -> bool {
        self.smp.stream.shared()
    }

    /// A modem line that the device holds up, where there is one to watch.
    pub fn line_up(&mut self) -> Option<ModemLine> {
        self.smp.stream.line_up()
    }

    /// How well the link has worked since its port was opened.
    pub fn health(&self) -> LinkHealth {
        self.smp.health()
    }
}

impl Default for LinkOptions {
    fn default() -> Self {
        let two_lines = frame::packet_in(2, frame::LINE_LENGTH);
        Self {
            baud: 115_200,
            frame_size: two_lines,
            frame_limit: LONG_PACKET,
            line_length: frame::LINE_LENGTH,
            line_pause_ms: 0,
            answer_ms: 1_000,
            slow_answer_ms: 15_000,
            tpm_ms: 25_000,
            restart_ms: 15_000,
            arrival_ms: 5_000,
            tries: 4,
            user_group: group::GROUP,
            dtr: None,
            rts: None,
        }
    }
}

impl LinkOptions {
    fn answer(&self) -> Duration {
        Duration::from_millis(self.answer_ms)
    }

    /// What so many bytes take on the line.
    fn on_line(&self, bytes: usize) -> Duration {
        let bits = u32::try_from(bytes)
            .unwrap_or(u32::MAX)
            .saturating_mul(BITS_PER_BYTE);
        Duration::from_secs(1) * bits / self.baud.max(1)
    }

    fn slow_answer(&self) -> Duration {
        Duration::from_millis(self.slow_answer_ms)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn options_have_defaults_and_refuse_unknown_keys() {
        let options: LinkOptions = toml::from_str("baud = 921600").unwrap();
        assert_eq!((options.baud, options.frame_size), (921_600, 182));
        assert!(toml::from_str::<LinkOptions>("bauds = 1").is_err());
    }
}
