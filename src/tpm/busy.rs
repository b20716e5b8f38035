//! A TPM that puts a command off: by which answers, and how long the station is patient with it.
//!
//! Such an answer is a warning (TPM 2.0 library, part 2, `TPM_RC`, the format-zero codes from `RC_WARN` on): the TPM had
//! no room, no time or no NV memory for the command just then, and has not done it. A command that is answered with
//! anything but success has changed nothing in the TPM (part 3, the chapter on command processing), the nonces of its
//! sessions included, so that the same bytes may be sent again. The TSS does so by itself, but for three of these codes
//! only, and five times within milliseconds.

use std::time::Duration;
use tokio::time::Instant;

/// Pause before a command that was put off is sent again; each further one is twice as long.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest of these pauses. A self-test of all algorithms takes a TPM about a second, NV rate limits last seconds.
pub(super) const LAST_PAUSE: Duration = Duration::from_millis(500);

/// The part of a limit that is kept for clearing away what the run left in the TPM, at most.
const RESERVE: Duration = Duration::from_secs(1);
/// The same for short limits: one part in so many.
const RESERVE_PART: u32 = 8;

/// `TPM_RC_LOCKOUT`: after too many wrong authorizations the TPM takes no more for a while, which is longer than anybody
/// would wait here.
pub(super) const LOCKOUT: u32 = 0x921;

/// `TPM_RC_YIELDED`, `TPM_RC_TESTING`, `TPM_RC_NV_RATE`, `TPM_RC_RETRY`, `TPM_RC_NV_UNAVAILABLE`.
const PUT_OFF: [u32; 5] = [0x908, 0x90a, 0x920, 0x922, 0x923];

/// Whether this response code says that the command is to be sent again later.
pub(super) fn is_put_off(rc: u32) -> bool {
    PUT_OFF.contains(&rc)
}

/// The time that all TPM commands of one step have, whatever the number of runs.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    pub(super) ends: Instant,
    pub(super) whole: Duration,
}

impl Limit {
    /// This much, beginning now.
    pub fn from_now(whole: Duration) -> Self {
        let ends = Instant::now() + whole;
        Self { ends, whole }
    }

    /// Until when a command that is put off is sent again.
    pub(super) fn patience(&self) -> Instant {
        let reserve = RESERVE.min(self.whole / RESERVE_PART);
        self.ends.checked_sub(reserve).unwrap_or(self.ends)
    }
}
