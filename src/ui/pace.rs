//! When the screen is drawn: where something changed, not too often, and where the clock on it moves.

use std::time::Duration;

/// Most drawings a second.
const FRAMES_PER_SECOND: u32 = 15;

/// The step of the clock on the screen, in milliseconds.
const CLOCK_MS: i64 = 1_000;

/// When the next drawing is due. Times are milliseconds since 1970, the screen's own.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    drawn_ms: i64,
    changed: bool,
}

impl Pace {
    /// A screen that was never drawn: it is due at once.
    pub fn new() -> Self {
        Self {
            drawn_ms: i64::MIN,
            changed: true,
        }
    }

    /// Something that is shown changed.
    pub fn change(&mut self) {
        self.changed = true;
    }

    /// The screen was drawn as of this time.
    pub fn drawn(&mut self, now_ms: i64) {
        *self = Self {
            drawn_ms: now_ms,
            changed: false,
        };
    }

    /// How long to wait before it is drawn next: until the clock moves, and not that long where something changed. A clock
    /// that was set back counts as having moved.
    pub fn wait(&self, now_ms: i64) -> Duration {
        let frame_ms = CLOCK_MS / i64::from(FRAMES_PER_SECOND);
        let since_ms = now_ms.saturating_sub(self.drawn_ms);
        let moved = now_ms.div_euclid(CLOCK_MS) != self.drawn_ms.div_euclid(CLOCK_MS);
        let wait_ms = match self.changed {
            _ if since_ms < 0 => 0,
            true => frame_ms - since_ms,
            false if moved => 0,
            false => CLOCK_MS - now_ms.rem_euclid(CLOCK_MS),
        };
        Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The drawings in the second after `from_ms` where the screen changes every so many milliseconds.
    fn drawings(from_ms: i64, every_ms: Option<usize>) -> usize {
        let mut pace = Pace::new();
        pace.drawn(from_ms);
        let mut count = 0;
        for (passed, now_ms) in (from_ms..from_ms + CLOCK_MS).enumerate() {
            if every_ms.is_some_and(|every| passed % every == 0) {
                pace.change();
            }
            if pace.wait(now_ms).is_zero() {
                pace.drawn(now_ms);
                count += 1;
            }
        }
        count
    }

    #[test]
    fn a_screen_on_which_nothing_happens_is_drawn_once_a_second_as_its_clock_moves() {
        for from_ms in [0, 1, 500, 999, 123_456] {
            assert!(drawings(from_ms, None) <= 1, "{from_ms}");
        }
        let mut pace = Pace::new();
        assert!(pace.wait(1_250).is_zero());
        pace.drawn(1_250);
        assert_eq!(pace.wait(1_250), Duration::from_millis(750));
        assert!(pace.wait(2_000).is_zero() && pace.wait(1_000).is_zero());
    }

    #[test]
    fn a_screen_that_changes_all_the_time_is_drawn_so_many_times_a_second() {
        assert_eq!(drawings(0, Some(1)), FRAMES_PER_SECOND as usize);
        assert_eq!(drawings(0, Some(400)), 3);
    }
}
