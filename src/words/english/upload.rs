//! How an upload stands, in English.

use crate::provision::upload::{Progress, Wait};

/// How an upload stands, apart from what is done and to go: one clause after another.
pub fn progress(progress: &Progress, now_ms: i64) -> String {
    let mut clauses = Vec::new();
    if progress.refused > 0 {
        clauses.push(format!("{} refused", progress.refused));
    }
    let (pace, share) = (progress.per_minute, progress.share);
    clauses.push(format!("{pace} of {share} operations a minute"));
    if let Some(seconds) = progress.seconds_left.filter(|_| progress.to_go > 0) {
        clauses.push(format!("{} left", time(seconds)));
    }
    clauses.extend(progress.wait.as_ref().map(|wait| waits(wait, now_ms)));
    if let Some(seconds) = progress.clock_set_back {
        clauses.push(format!(
            "the clock was set back by {}",
            time(seconds.unsigned_abs())
        ));
    }
    clauses.join(", ")
}

fn waits(wait: &Wait, now_ms: i64) -> String {
    let lasts = |since_ms: i64| time(now_ms.saturating_sub(since_ms).max(0).unsigned_abs() / 1_000);
    match wait {
        Wait::Quota { seconds } => format!("waits for the quota for {}", time(*seconds)),
        Wait::Service {
            seconds, since_ms, ..
        } => format!(
            "waits for the service for {} now, asks again in {}",
            lasts(*since_ms),
            time(*seconds)
        ),
        Wait::Record { seconds } => {
            format!("waits for records that were put off for {}", time(*seconds))
        }
        Wait::Person { since_ms, by } => match by {
            Some(by) => format!("paused by {by} {} ago", lasts(*since_ms)),
            None => format!("paused {} ago", lasts(*since_ms)),
        },
        Wait::Turn { holder } => match holder.pid {
            0 => "another process is at it".to_owned(),
            pid => format!("`{}` (process {pid}) is at it", holder.command),
        },
    }
}

/// A time as people say it: to the second for two minutes, to the minute for two hours.
fn time(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_waits_for_is_said_with_its_time() {
        let stands = |wait| {
            let stands = Progress {
                to_go: 9,
                per_minute: 980,
                share: 1_000,
                seconds_left: Some(7_260),
                wait,
                ..Progress::default()
            };
            progress(&stands, 600_000)
        };
        let pace = "980 of 1000 operations a minute, 2 h 1 min left";
        assert_eq!(stands(None), pace);
        let quota = stands(Some(Wait::Quota { seconds: 12 }));
        assert_eq!(quota, format!("{pace}, waits for the quota for 12 s"));
        let service = stands(Some(Wait::Service {
            seconds: 3,
            since_ms: 0,
            fault: None,
        }));
        let said = "waits for the service for 10 min now, asks again in 3 s";
        assert_eq!(service, format!("{pace}, {said}"));
        let by = Some("Kim".to_owned());
        let paused = stands(Some(Wait::Person { since_ms: 0, by }));
        assert_eq!(paused, format!("{pace}, paused by Kim 10 min ago"));
    }
}
