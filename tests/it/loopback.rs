//! Loopback tests of ports: what is counted is what a faulty cable did, and a bay that failed stays out until it passes.

use dps_station::bay::{Bay, Line};
use dps_station::fixtures::pty::Pty;
use dps_station::ledger::{Ledger, Options, verify};
use dps_station::link::LinkOptions;
use dps_station::link::loopback::{LoopbackError, run};
use dps_station::provision::event::Event;
use dps_station::provision::floor::Report;
use dps_station::provision::loopback::{Errors, Limits, Loopback, ModemLines};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Bytes of the text that asks for the plug, and single bytes after it; the pattern follows.
const BEFORE_PATTERN: usize = 17 + 20;
/// Length of the pattern in these tests, in bytes.
const PATTERN: u32 = 8192;
/// How long to wait for a report.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a cable does to the bytes, by their place in the stream.
#[derive(Clone, Debug, Default)]
struct Cable {
    flip: BTreeMap<usize, u8>,
    drop: BTreeMap<usize, usize>,
    insert: BTreeMap<usize, Vec<u8>>,
    delay: Duration,
    silent_from: Option<usize>,
    /// What comes from here on has a plug again.
    heard_again_from: Option<usize>,
    /// Shows control characters as a terminal does.
    terminal: bool,
}

/// A plug with that cable.
struct Plug {
    port: PathBuf,
    /// Bytes that have come from the station.
    heard: Arc<AtomicUsize>,
    echo: JoinHandle<()>,
}

impl Plug {
    fn new(dir: &Path, cable: Cable) -> Self {
        let port = dir.join("port");
        let pty = Pty::open(&port).unwrap();
        let heard = Arc::new(AtomicUsize::new(0));
        let echo = tokio::spawn(echo(pty, cable, Arc::clone(&heard)));
        Self { port, heard, echo }
    }

    async fn test(&self, limits: &Limits) -> Result<Loopback, LoopbackError> {
        run(&self.port, &LinkOptions::default(), limits).await
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        self.echo.abort();
    }
}

impl Cable {
    fn joins(&self, at: usize) -> bool {
        self.silent_from.is_none_or(|from| at < from)
            || self.heard_again_from.is_some_and(|from| at >= from)
    }
}

async fn echo(mut pty: Pty, cable: Cable, heard: Arc<AtomicUsize>) {
    let mut buffer = [0; 1024];
    let mut dropping = 0;
    loop {
        let count = pty.read(&mut buffer).await.unwrap();
        let mut answer = Vec::new();
        for &byte in &buffer[..count] {
            let at = heard.fetch_add(1, Ordering::SeqCst);
            answer.extend(cable.insert.get(&at).into_iter().flatten());
            dropping += cable.drop.get(&at).copied().unwrap_or_default();
            if dropping > 0 {
                dropping -= 1;
            } else if cable.joins(at) {
                match byte {
                    0x15 if cable.terminal => answer.extend(b"^U"),
                    _ => answer.push(byte ^ cable.flip.get(&at).copied().unwrap_or_default()),
                }
            }
        }
        tokio::time::sleep(cable.delay).await;
        pty.write_all(&answer).await.unwrap();
    }
}

fn limits() -> Limits {
    Limits {
        bytes: PATTERN,
        latency_max_ms: 900,
        ..Limits::default()
    }
}

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_plug_passes_at_each_rate_and_a_pseudo_terminal_has_no_modem_lines() {
    let dir = dir();
    let plug = Plug::new(dir.path(), Cable::default());
    let limits = Limits {
        rates: vec![9600, 921_600],
        ..limits()
    };
    let found = plug.test(&limits).await.unwrap();
    assert!(found.passed());
    assert_eq!(found.lines, ModemLines::default());
    let rates: Vec<u32> = found.rates.iter().map(|rate| rate.baud).collect();
    assert_eq!(rates, [9600, 921_600]);
    for rate in &found.rates {
        assert_eq!(rate.errors, Errors::default());
        assert_eq!(rate.bytes, u64::from(PATTERN) + 20);
        assert!(rate.latency_median_us > 0 && rate.latency_median_us <= rate.latency_max_us);
        assert!(rate.bytes_per_second > 0);
    }
    let sent = 2 * (BEFORE_PATTERN + PATTERN as usize);
    assert_eq!(plug.heard.load(Ordering::SeqCst), sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn counted_is_what_the_cable_did_and_each_limit_decides() {
    let dir = dir();
    let at = |place: usize| BEFORE_PATTERN + place;
    let cable = Cable {
        flip: BTreeMap::from([(at(0), 0x81), (at(300), 0x01), (at(301), 0x70)]),
        drop: BTreeMap::from([(at(1000), 1), (at(3000), 64), (at(5003), 700)]),
        insert: BTreeMap::from([(at(2000), vec![0]), (at(7000), vec![0x55; 90])]),
        ..Cable::default()
    };
    let wanted = Errors {
        bit_errors: 2 + 1 + 3,
        lost: 1 + 64 + 700,
        extra: 1 + 90,
    };
    let exact = Limits {
        bit_errors_max: wanted.bit_errors,
        lost_max: wanted.lost + wanted.extra,
        ..limits()
    };
    let mut bits = exact.clone();
    bits.bit_errors_max -= 1;
    let mut bytes = exact.clone();
    bytes.lost_max -= 1;
    for (limits, passes) in [(exact, true), (bits, false), (bytes, false)] {
        let plug = Plug::new(dir.path(), cable.clone());
        let found = plug.test(&limits).await.unwrap();
        assert_eq!(found.rates[0].errors, wanted);
        assert_eq!(found.passed(), passes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_plug_fails_by_its_latency_alone() {
    let dir = dir();
    let delay = Duration::from_millis(30);
    let plug = Plug::new(
        dir.path(),
        Cable {
            delay,
            ..Cable::default()
        },
    );
    let limits = Limits {
        latency_max_ms: 29,
        ..limits()
    };
    let found = plug.test(&limits).await.unwrap();
    assert_eq!(found.rates[0].errors, Errors::default());
    assert!(found.rates[0].latency_median_us >= 30_000);
    assert!(!found.passed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plug_that_falls_out_loses_all_that_follows() {
    let dir = dir();
    let cable = Cable {
        silent_from: Some(17),
        ..Cable::default()
    };
    let found = Plug::new(dir.path(), cable).test(&limits()).await.unwrap();
    assert_eq!(found.rates[0].errors.lost, 3 + u64::from(PATTERN));
    assert!(!found.passed());
}

/// The token of a rate that has no plug, as often as it is sent.
const TOKENS: u64 = 3 * 17;

#[tokio::test(flavor = "multi_thread")]
async fn a_fail_at_one_rate_is_not_lost_at_the_next() {
    let dir = dir();
    let limits = Limits {
        rates: vec![9600, 115_200],
        ..limits()
    };
    let one = BEFORE_PATTERN + PATTERN as usize;
    let flip = BTreeMap::from([(BEFORE_PATTERN, 0x01)]);
    // Whichever of two rates finds no plug, the other one found it: that rate has failed.
    let second = Cable {
        silent_from: Some(one),
        flip,
        ..Cable::default()
    };
    let first = Cable {
        silent_from: Some(0),
        heard_again_from: Some(TOKENS as usize),
        ..Cable::default()
    };
    for (cable, wanted) in [
        (second, [(1, 0, false), (0, TOKENS, false)]),
        (first, [(0, TOKENS, false), (0, 0, true)]),
    ] {
        let found = Plug::new(dir.path(), cable).test(&limits).await.unwrap();
        let rates = found.rates.iter().map(|rate| {
            let Errors {
                bit_errors, lost, ..
            } = rate.errors;
            (bit_errors, lost, rate.passed)
        });
        assert_eq!(rates.collect::<Vec<_>>(), wanted);
        assert!(!found.passed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_that_dies_is_no_missing_plug() {
    let dir = dir();
    // It takes nothing, because nobody takes from it.
    let port = dir.path().join("full");
    let pty = Pty::open(&port).unwrap();
    let mut stuffing = std::fs::OpenOptions::new();
    let flags = rustix::fs::OFlags::NOCTTY;
    stuffing.write(true).custom_flags(flags.bits() as i32);
    let mut stuffing = stuffing.open(&port).unwrap();
    // Room comes back for a while after the last of it was taken, so that this goes on until the cable is unplugged.
    let stuffing = std::thread::spawn(move || while stuffing.write(b"full").is_ok() {});
    let error = run(&port, &LinkOptions::default(), &limits()).await;
    assert!(
        matches!(error, Err(LoopbackError::SendsNothing { .. })),
        "{error:?}"
    );

    drop(pty);
    stuffing.join().unwrap();

    // It dies in the middle of the pattern, and is not there for the rate after that.
    let port = dir.path().join("dies");
    let mut pty = Pty::open(&port).unwrap();
    let dies = tokio::spawn(async move {
        let mut buffer = [0; 1024];
        let mut heard = 0;
        while heard <= BEFORE_PATTERN {
            let count = pty.read(&mut buffer).await.unwrap();
            heard += count;
            pty.write_all(&buffer[..count]).await.unwrap();
        }
    });
    let limits = Limits {
        rates: vec![9600, 115_200],
        ..limits()
    };
    let found = run(&port, &LinkOptions::default(), &limits).await.unwrap();
    dies.await.unwrap();
    let lost = found.rates.iter().map(|rate| rate.errors.lost);
    assert_eq!(lost.collect::<Vec<_>>(), [u64::from(PATTERN), TOKENS]);
    assert!(!found.passed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_plug_never_gets_the_pattern() {
    let dir = dir();
    let silent = Cable {
        silent_from: Some(0),
        ..Cable::default()
    };
    let terminal = Cable {
        terminal: true,
        ..Cable::default()
    };
    for cable in [silent, terminal] {
        let plug = Plug::new(dir.path(), cable);
        let error = plug.test(&limits()).await.unwrap_err();
        let named = plug.port.display().to_string();
        assert!(
            matches!(&error, LoopbackError::NoPlug { port } if *port == named),
            "{error:?}"
        );
        assert_eq!(plug.heard.load(Ordering::SeqCst), 3 * 17);
    }
    let port = dir.path().join("talks");
    let mut pty = Pty::open(&port).unwrap();
    let talk = tokio::spawn(async move {
        loop {
            pty.write_all(&[b'.'; 256]).await.unwrap();
        }
    });
    let error = run(&port, &LinkOptions::default(), &limits()).await;
    assert!(matches!(error, Err(LoopbackError::Talks { .. })));
    talk.abort();
}

fn open_ledger(path: &Path) -> Ledger {
    Ledger::open(Options {
        path: path.to_owned(),
        station: "line-1".to_owned(),
        clock: || 1_000,
        progress: |_| {},
        max_pages: None,
    })
    .unwrap()
}

/// The event of a test of bay 1.
pub fn tested(passed: bool) -> Event {
    Event::LoopbackTested {
        bay: Some("1".to_owned()),
        port: "port".to_owned(),
        result: Box::default(),
        passed,
    }
}

/// Waits for a report that `wanted` takes.
async fn wait_for<T>(
    reports: &mut mpsc::Receiver<Report>,
    wanted: impl Fn(&Report) -> Option<T>,
) -> T {
    let search = async {
        loop {
            let report = reports.recv().await.expect("the bay still runs");
            if let Some(found) = wanted(&report) {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, search)
        .await
        .expect("the report comes in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bay_that_failed_stays_out_until_it_passes() {
    let dir = dir();
    let plug = Plug::new(dir.path(), Cable::default());
    let ledger_path = dir.path().join("ledger");
    let ledger = open_ledger(&ledger_path);
    ledger.record(&tested(false)).await.unwrap();
    assert!(ledger.out_of_service("1").await.unwrap());
    assert!(!ledger.out_of_service("2").await.unwrap());

    let (sender, mut reports) = mpsc::channel(64);
    let bay = Bay {
        name: "1".to_owned(),
        port: plug.port.clone(),
        hotplug: false,
        link: LinkOptions::default(),
        limits: Default::default(),
        line: Arc::new(Line {
            ledger: ledger.clone(),
            products: Vec::new(),
            present: Default::default(),
            loopback: limits(),
            clock: || 1_000,
        }),
        reports: sender,
        test: Arc::default(),
        scans: Arc::default(),
    };
    let test = Arc::clone(&bay.test);
    let (stop, stopped) = watch::channel(false);
    let bay = tokio::spawn(bay.run(stopped));
    let code = wait_for(&mut reports, |report| match report {
        Report::BayOut { fault, .. } => Some(fault.code().to_owned()),
        Report::BayOpened { .. } => Some("it opened".to_owned()),
        _ => None,
    });
    assert_eq!(code.await, "loopback_failed");

    // Tested from the screen while it is out, then once more while it is in service.
    for _ in 0..2 {
        test.notify_one();
        let passed = wait_for(&mut reports, |report| match report {
            Report::Event { recorded, .. } => match recorded.event {
                Event::LoopbackTested { passed, .. } => Some(passed),
                _ => None,
            },
            _ => None,
        });
        assert!(passed.await);
        let opened = |report: &Report| matches!(report, Report::BayOpened { .. }).then_some(());
        wait_for(&mut reports, opened).await;
    }
    assert!(!ledger.out_of_service("1").await.unwrap());
    stop.send(true).unwrap();
    bay.await.unwrap().unwrap();
    ledger.close().await.unwrap();
    assert_eq!(verify(&ledger_path).unwrap().damages, []);
}

/// Runs `station` on the line of `dir`, away from the threads that run the plug.
async fn station(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
    command.args(args).current_dir(dir);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const LINE: &str = r#"
[station]
id = "line-1"
simulated = true
ledger = "ledger"
[loopback]
bytes = 8192
latency_max_ms = 900
[[bay]]
name = "1"
port = "port"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_pass_fail_or_one_sentence_and_the_ledger_knows() {
    let dir = dir();
    std::fs::write(dir.path().join("station.toml"), LINE).unwrap();
    let args = ["loopback", "1", "--json"];

    let bad = Cable {
        flip: BTreeMap::from([(BEFORE_PATTERN + 9, 3)]),
        ..Cable::default()
    };
    for (cable, exit, bit_errors) in [(bad, 1, 2), (Cable::default(), 0, 0)] {
        let _plug = Plug::new(dir.path(), cable);
        let output = station(dir.path(), &args).await;
        assert_eq!(output.status.code(), Some(exit), "{}", stderr(&output));
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found["bay"], "1");
        assert_eq!(found["baud"], 115_200);
        assert_eq!(found["bit_errors"], bit_errors);
        assert_eq!(found["passed"], exit == 0);
        assert_eq!(found["lines"]["rts_cts"], Value::Null);
        let ledger = open_ledger(&dir.path().join("ledger"));
        assert_eq!(ledger.out_of_service("1").await.unwrap(), exit == 1);
        ledger.close().await.unwrap();
    }

    let plug = Plug::new(dir.path(), Cable::default());
    let live = dir.path().join("station");
    std::fs::copy("/bin/cat", &live).unwrap();
    for (program, advice) in [
        (
            live.as_path(),
            "has the port open: take bay 1 out of service first",
        ),
        (
            Path::new("cat"),
            "has the port open: close that program first",
        ),
    ] {
        let mut held = Command::new(program);
        held.stdin(std::fs::File::open(&plug.port).unwrap());
        let mut held = held.spawn().unwrap();
        let output = station(dir.path(), &args).await;
        held.kill().unwrap();
        held.wait().unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert!(stderr(&output).contains(advice), "{}", stderr(&output));
    }
    drop(plug);

    for (place, sentence) in [
        ("7", "station: there is no bay 7: name one of station.toml"),
        (
            "./nothing",
            "station: ./nothing: there is no such port: plug",
        ),
    ] {
        let output = station(dir.path(), &["loopback", place]).await;
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).starts_with(sentence), "{}", stderr(&output));
        assert_eq!(stderr(&output).lines().count(), 1);
    }
}
