//! Bearer tokens: a program prints one, and is asked for the next when half of its life is over.

use crate::provision::fault::{TokenTrouble, harmless, said};
use reqwest::header::HeaderValue;
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// The longest that the program may take; Azure's command line takes some seconds.
const RUN_MAX: Duration = Duration::from_secs(60);
/// The most that is read of what it prints, in bytes; a token has a few thousand.
const OUTPUT_MAX: usize = 1 << 16;
/// The most that is shown of what it says on stderr, in characters.
const SAID_MAX: usize = 200;
/// A program that gives the same token again, as Azure's does until shortly before its end, is not asked more often
/// than so, in seconds.
const RENEW_MIN_S: i64 = 30;

/// Gets tokens from a program.
pub(super) struct TokenCommand {
    command: Vec<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<Bearer>,
    /// How many tokens were got so far.
    count: u64,
    /// The service refused the last token, and has taken none since.
    refused: bool,
}

/// A token, as it goes into a header.
#[derive(Clone)]
pub(super) struct Bearer {
    /// `Bearer …`, marked as a secret.
    pub(super) value: HeaderValue,
    /// Which of the tokens of this run it is.
    pub(super) number: u64,
    got_s: i64,
    renew_s: i64,
}

/// Why there is no token.
pub(super) struct NoBearer {
    /// What the program did.
    pub(super) why: TokenTrouble,
    /// It may give one when it is asked again: it gave one before, or did what it does while something else is away.
    pub(super) may_pass: bool,
}

impl TokenCommand {
    pub(super) fn new(command: Vec<String>) -> Self {
        let state = Mutex::default();
        Self { command, state }
    }

    /// The program, without its arguments.
    pub(super) fn program(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }

    /// A token that is good at `now_s` (seconds since 1970): the last one until half of its life is over, then a new
    /// one. Whoever comes while the program runs waits for what it gives.
    pub(super) async fn token(&self, now_s: i64) -> Result<Bearer, NoBearer> {
        let mut state = self.state.lock().await;
        if let Some(current) = &state.current
            && (current.got_s..current.renew_s).contains(&now_s)
        {
            return Ok(current.clone());
        }
        let gave_before = state.count > 0;
        let got = self.run().await.and_then(|output| read(&output, now_s));
        let (value, expires_s) = got.map_err(|why| NoBearer {
            may_pass: gave_before || may_pass(&why),
            why,
        })?;
        state.count += 1;
        let half = (expires_s - now_s) / 2;
        let bearer = Bearer {
            value,
            number: state.count,
            got_s: now_s,
            renew_s: now_s + half.max(RENEW_MIN_S).min(expires_s - now_s),
        };
        state.current = Some(bearer.clone());
        Ok(bearer)
    }

    /// The service took a token.
    pub(super) async fn taken(&self) {
        self.state.lock().await.refused = false;
    }

    /// The service did not take the token of this number. Whether the next call has another one, so that it may be made
    /// again: of two refused in a row the second counts.
    pub(super) async fn refused(&self, number: u64) -> bool {
        let mut state = self.state.lock().await;
        if number != state.count {
            return true;
        }
        state.current = None;
        !std::mem::replace(&mut state.refused, true)
    }

    /// Runs the program, without a shell, and gives what it printed.
    async fn run(&self) -> Result<Vec<u8>, TokenTrouble> {
        let not_run = |error: std::io::Error| TokenTrouble::NotRun(said(&error));
        let mut child = Command::new(self.program())
            .args(&self.command[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(not_run)?;
        let stdout = child.stdout.take().expect("piped");
        let stderr = child.stderr.take().expect("piped");
        let whole = async {
            let (output, errors) = tokio::join!(bounded(stdout), bounded(stderr));
            let (output, errors) = (output.map_err(not_run)?, errors.map_err(not_run)?);
            if output.len().max(errors.len()) > OUTPUT_MAX {
                return Err(TokenTrouble::Endless(OUTPUT_MAX));
            }
            let status = child.wait().await.map_err(not_run)?;
            match status.success() {
                true => Ok(output),
                false => Err(TokenTrouble::Failed {
                    status: status.to_string(),
                    said: last_words(&errors),
                }),
            }
        };
        match timeout(RUN_MAX, whole).await {
            Ok(ended) => ended,
            Err(_) => Err(TokenTrouble::Timeout(RUN_MAX.as_secs())),
        }
    }
}

/// Whether what a program did may be for want of a network, an answer or the right time: no more than that is known of one
/// that failed.
fn may_pass(why: &TokenTrouble) -> bool {
    match why {
        TokenTrouble::Failed { .. } | TokenTrouble::Timeout(_) | TokenTrouble::Expired => true,
        TokenTrouble::NotRun(_) | TokenTrouble::NotAToken | TokenTrouble::Endless(_) => false,
    }
}

/// What comes out of a pipe, and at most one byte more than is read of it.
async fn bounded(pipe: impl AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = OUTPUT_MAX as u64 + 1;
    pipe.take(limit).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// The end of what was said, in one harmless line.
fn last_words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let skipped = words.chars().count().saturating_sub(SAID_MAX);
    let end: String = words.chars().skip(skipped).collect();
    harmless(&end, SAID_MAX)
}

/// Header and end, in seconds since 1970, of the token that `az account get-access-token` printed.
fn read(output: &[u8], now_s: i64) -> Result<(HeaderValue, i64), TokenTrouble> {
    #[derive(Deserialize)]
    struct Printed {
        #[serde(rename = "accessToken")]
        token: String,
        /// Seconds since 1970, as newer versions print beside the other.
        expires_on: Option<Value>,
        /// Local time, without a zone.
        #[serde(rename = "expiresOn")]
        expires_local: Option<String>,
    }
    let wrong = TokenTrouble::NotAToken;
    let printed: Printed = serde_json::from_slice(output).map_err(|_| wrong.clone())?;
    let seconds = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
    let local = || printed.expires_local.as_deref().and_then(from_local);
    let expires_s = printed.expires_on.as_ref().and_then(seconds).or_else(local);
    let expires_s = expires_s.ok_or_else(|| wrong.clone())?;
    if printed.token.is_empty() {
        return Err(wrong);
    }
    let mut value =
        HeaderValue::from_str(&format!("Bearer {}", printed.token)).map_err(|_| wrong)?;
    value.set_sensitive(true);
    match expires_s > now_s {
        true => Ok((value, expires_s)),
        false => Err(TokenTrouble::Expired),
    }
}

/// Seconds since 1970 of a local time such as `2026-11-21 23:30:00.000000`, or of one with its zone.
///
/// By SQLite, which asks the system for its zone: the `time` crate does so only while there is a single thread.
fn from_local(text: &str) -> Option<i64> {
    if let Ok(date) = OffsetDateTime::parse(text, &Rfc3339) {
        return Some(date.unix_timestamp());
    }
    let db = Connection::open_in_memory().ok()?;
    let sql = "SELECT unixepoch(?, 'utc')";
    db.query_row(sql, [text], |row| row.get(0)).ok().flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde_json::json;

    fn shell(script: &str) -> TokenCommand {
        TokenCommand::new(["sh", "-c", script].map(str::to_owned).to_vec())
    }

    fn trouble(printed: &Value) -> TokenTrouble {
        read(printed.to_string().as_bytes(), 1_000).unwrap_err()
    }

    #[test]
    fn the_end_is_taken_in_seconds_where_they_are_there() {
        let both =
            json!({"accessToken": "t", "expires_on": 2_000, "expiresOn": "1970-01-01 00:00:01"});
        let (value, expires_s) = read(both.to_string().as_bytes(), 1_000).unwrap();
        assert_eq!((value.to_str().unwrap(), expires_s), ("Bearer t", 2_000));
        assert!(value.is_sensitive());
        let zoned = json!({"accessToken": "t", "expiresOn": "1970-01-01T02:00:00+01:00"});
        assert_eq!(read(zoned.to_string().as_bytes(), 0).unwrap().1, 3_600);
        // Any zone is less than a day from the other end of the world.
        let local = json!({"accessToken": "t", "expiresOn": "1970-01-10 00:00:00.123456"});
        let expires_s = read(local.to_string().as_bytes(), 0).unwrap().1;
        assert!(
            (8 * 86_400..10 * 86_400).contains(&expires_s),
            "{expires_s}"
        );
    }

    #[test]
    fn what_is_no_token_is_said_and_not_shown() {
        for printed in [
            json!({}),
            json!({"accessToken": "t"}),
            json!({"accessToken": "", "expires_on": 2_000}),
            json!({"accessToken": "a\nb", "expires_on": 2_000}),
            json!({"accessToken": "t", "expiresOn": "soon"}),
        ] {
            assert_eq!(trouble(&printed), TokenTrouble::NotAToken, "{printed}");
        }
        let old = json!({"accessToken": "t", "expires_on": "1000"});
        assert_eq!(trouble(&old), TokenTrouble::Expired);
    }

    #[tokio::test]
    async fn a_token_is_kept_for_half_its_life_and_not_across_a_clock_set_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("runs");
        let command = shell(&format!(
            "echo x >> {0}; printf '{{\"accessToken\":\"t%s\",\"expires_on\":11000}}' $(wc -l < {0})",
            file.display()
        ));
        let at = async |now_s| {
            command
                .token(now_s)
                .await
                .map_err(|no| no.why)
                .unwrap()
                .value
        };
        assert_eq!(at(1_000).await, "Bearer t1");
        assert_eq!(at(5_999).await, "Bearer t1");
        assert_eq!(at(6_000).await, "Bearer t2");
        assert_eq!(at(5_999).await, "Bearer t3");
        // Shortly before its end it is asked seldom, and never for one that is over.
        assert_eq!(at(10_950).await, "Bearer t4");
        assert_eq!(at(10_979).await, "Bearer t4");
        assert_eq!(at(10_980).await, "Bearer t5");
        let ended = command
            .token(11_000)
            .await
            .map(|_| ())
            .map_err(|no| (no.why, no.may_pass));
        assert_eq!(ended, Err((TokenTrouble::Expired, true)));
    }

    #[tokio::test]
    async fn a_refused_token_is_got_anew_once() {
        let command = shell("echo '{\"accessToken\":\"t\",\"expires_on\":9000}'");
        let number = async || command.token(0).await.map_err(|no| no.why).unwrap().number;
        let first = number().await;
        assert!(command.refused(first).await);
        let second = number().await;
        // A call that was under way with the first says nothing about the second.
        assert!(command.refused(first).await);
        assert_eq!(number().await, second);
        assert!(!command.refused(second).await);
        let third = number().await;
        command.taken().await;
        assert!(command.refused(third).await);
    }

    #[tokio::test]
    async fn a_program_that_does_not_do_it_is_told_by_what_it_did() {
        let why = async |command: TokenCommand| {
            let got = command.token(0).await.map(|_| ());
            got.map_err(|no| no.why).unwrap_err()
        };
        let missing = TokenCommand::new(vec!["/no/such/program".to_owned()]);
        assert!(matches!(why(missing).await, TokenTrouble::NotRun(_)));
        let failed = why(shell("printf 'please\\n run\\033 az login' >&2; exit 3")).await;
        let said = "please run? az login".to_owned();
        let status = "exit status: 3".to_owned();
        assert_eq!(failed, TokenTrouble::Failed { status, said });
        let endless = why(shell("exec cat /dev/zero")).await;
        assert_eq!(endless, TokenTrouble::Endless(OUTPUT_MAX));
        assert_eq!(why(shell("echo hello")).await, TokenTrouble::NotAToken);
    }
}
