//! A device reset, and watched until it has started anew.

use super::{Patience, Port, Question, READ_SIZE, Session};
use crate::link::LinkError;
use crate::link::smp::frame::Decoder;
use crate::link::smp::{self, Map, Op};
use crate::provision::device::DeviceId;
use crate::provision::dialogue::Verb;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long after its answer a Zephyr device acts on a reset request (`MCUMGR_GRP_OS_RESET_MS`), and a little more.
const RESET_DELAY: Duration = Duration::from_millis(300);
/// Pause between two looks at a device that is to come back.
const RESTART_POLL: Duration = Duration::from_millis(20);
/// How long a device that is starting anew gets for one answer, beside what the line takes for it.
const RESTART_ANSWER: Duration = Duration::from_millis(250);
/// The same for the first question, which follows the first sign of life at once. One that comes too early is lost.
const EAGER_ANSWER: Duration = Duration::from_millis(40);
/// Bytes on the line for one question and its answer then, at most.
const LOOK_BYTES: usize = 600;
/// A device that still counts as before so long after a reset request never got it.
const RESET_LOST: Duration = Duration::from_secs(2);

impl Session<Port> {
    /// Resets the device and watches for the sign that it has started anew.
    ///
    /// Sent again only when the device was seen not to have started. Port and name may be others when it comes back.
    ///
    /// # Errors
    ///
    /// `Silent` when it does not come back in the options' time, `NotRestarted` when it never left, `Swapped` when
    /// another device comes.
    pub(in crate::link) async fn restart_watching<T: StartSign>(
        &mut self,
        sign: &T,
    ) -> Result<T::Device, LinkError> {
        let deadline = Instant::now() + Duration::from_millis(self.options.restart_ms);
        let reset = Question {
            what: Verb::Restart,
            op: Op::Write,
            group: smp::OS_GROUP,
            command: smp::RESET,
            patience: Patience::Once(self.options.answer()),
        };
        let mut answers = false;
        while Instant::now() < deadline {
            match self.ask(reset, |_| Map::new()).await {
                // Neither an answer nor its absence says whether the device will start anew.
                Ok(_) | Err(LinkError::Silent { .. } | LinkError::Malformed { .. }) => {}
                Err(error) if error.lost_port() => {}
                Err(error) => return Err(error),
            }
            match self.watch_restart(sign, deadline).await {
                Ok(Some(device)) => return Ok(device),
                Ok(None) => answers = true,
                // The time was over before this reset request could be called lost.
                Err(LinkError::Silent { .. }) if answers => break,
                Err(error) => return Err(error),
            }
            self.stream.health.retries += 1;
        }
        Err(match answers {
            true => LinkError::NotRestarted {
                device: sign.device(),
            },
            false => self.stream.silent(Verb::Restart),
        })
    }

    /// The device, started anew, or nothing if the device still answers with the old one long after the request.
    async fn watch_restart<T: StartSign>(
        &mut self,
        sign: &T,
        deadline: Instant,
    ) -> Result<Option<T::Device>, LinkError> {
        let asked = Instant::now();
        // Most devices say something when they start, or their port goes: no need to ask before.
        let mut buffer = [0; READ_SIZE];
        let mut heard = self
            .stream
            .receive(&mut buffer, asked + RESET_DELAY)
            .await
            .map(|_| ());
        let on_line = self.options.on_line(LOOK_BYTES);
        let mut wait = EAGER_ANSWER + on_line;
        let mut refused = None;
        while Instant::now() < deadline {
            let late_before = self.late;
            let answer = match heard {
                Ok(()) => sign.look(self, Patience::Once(wait)).await,
                Err(error) => Err(error),
            };
            // One that is up and needs longer gives its answer to the question before.
            wait = match self.late > late_before {
                true => (wait * 2).min(self.options.answer()),
                false => wait.max(RESTART_ANSWER + on_line),
            };
            match answer {
                Ok(Some(device)) => return Ok(Some(device)),
                Ok(None) if asked.elapsed() > RESET_LOST => return Ok(None),
                Ok(None) | Err(LinkError::Silent { .. } | LinkError::Malformed { .. }) => {}
                Err(error) if error.lost_port() => self.reopen(deadline).await?,
                // A bootloader answers too, or firmware that has not everything ready yet.
                Err(error @ LinkError::Refused { .. }) => refused = Some(error),
                Err(error) => return Err(error),
            }
            sleep(RESTART_POLL).await;
            heard = self.settle().await;
        }
        Err(refused.unwrap_or_else(|| self.stream.silent(Verb::Restart)))
    }

    /// Opens the port again as soon as it is there.
    async fn reopen(&mut self, deadline: Instant) -> Result<(), LinkError> {
        self.stream.reopen(&self.options, deadline).await?;
        self.decoder = Decoder::default();
        Ok(())
    }
}

/// How to tell that a device has started anew.
pub(in crate::link) trait StartSign: Sync {
    /// What is known of the device then.
    type Device: Send;

    /// What the device calls itself.
    fn device(&self) -> DeviceId;

    /// One look at the device, which gets `patience` for each answer: nothing as long as it has not started anew;
    /// `Swapped` where it is another one.
    fn look(
        &self,
        session: &mut Session<Port>,
        patience: Patience,
    ) -> impl Future<Output = Result<Option<Self::Device>, LinkError>> + Send;
}
