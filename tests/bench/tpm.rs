//! The two steps with a device's TPM on a line of 115,200 baud, beside their floor: the commands without which they could
//! not be, in frames as large as the device takes, and the TPM's own processor time for these.
//!
//! `TSS2_LOG=all+NONE cargo bench --bench tpm`, because the C library under the TSS writes to stderr otherwise; `-- --check`
//! ends with 1 where a figure is over twice its aim.

#![allow(clippy::unwrap_used)]

#[path = "line/figures.rs"]
mod figures;
#[path = "line/floor.rs"]
#[allow(dead_code)] // the line's bench uses the rest
mod floor;
#[path = "../it/tpm_line/hall.rs"]
#[allow(dead_code)] // the tests use the rest
mod hall;
#[path = "line/necessary.rs"]
#[allow(dead_code)] // as above
mod necessary;

use dps_station::fixtures::device::Tpm;
use dps_station::fixtures::serial::{Line, RATE, Times};
use dps_station::fixtures::tpm::{Maker, SwTpm, manufacture};
use dps_station::tpm::{command_name, roots};
use figures::{Aims, Spread, millis};
use hall::Hall;
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Devices measured, each with a TPM of its own.
const DEVICES: usize = 5;
/// The most that a step may be of its floor. The maps of the group's page have two digests of 32 bytes for each command,
/// which are in no floor.
const AIM: f64 = 1.75;
/// The steps, each with the commands that it cannot be without, as often as they ask for something new. Looking for what
/// others left behind, and clearing up, are no part of it.
const STEPS: [(&str, &[&str]); 2] = [
    (
        "endorsement key read",
        &["ReadPublic", "NV_ReadPublic", "NV_Read", "CreatePrimary"],
    ),
    (
        "identity proved",
        &[
            "CreatePrimary",
            "StartAuthSession",
            "PolicySecret",
            "ActivateCredential",
            "Import",
            "Load",
            "HMAC",
        ],
    ),
];

/// One command as the TPM saw it.
#[derive(Clone)]
struct Command {
    began: Instant,
    ended: Instant,
    worked: Duration,
    asked: Vec<u8>,
    answered: usize,
}

/// A TPM whose commands are noted, start by start.
#[derive(Clone)]
struct Metered {
    tpm: Arc<Mutex<SwTpm>>,
    starts: Arc<Mutex<Vec<Vec<Command>>>>,
    worked: Arc<AtomicU64>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let maker = Maker::found(&dir.path().join("maker"), "bench").unwrap();
    let hall = Hall::new(roots::load(&maker.roots()).unwrap(), |_| ());
    let mut measured: [Vec<Step>; 2] = Default::default();
    for number in 1..=DEVICES {
        let state = dir.path().join(format!("tpm-{number}"));
        manufacture(&state, &maker, None).unwrap();
        let tpm = Metered::new(SwTpm::start(&state).unwrap());
        let buf_size = stay(&hall, &format!("bench-{number}"), &tpm).await;
        let starts = tpm.starts.lock().unwrap();
        // The first start has the key read, the one after the restart the proof.
        let starts = starts.iter().filter(|commands| !commands.is_empty());
        for ((all, commands), (_, needed)) in measured.iter_mut().zip(starts).zip(STEPS) {
            all.push(Step::of(commands, needed, buf_size));
        }
    }
    println!("times in ms, medians of {DEVICES} devices, in brackets the lowest and the highest");
    println!(
        "step                 |     took | floor | x floor | its TPM | commands (needed) | bytes of contents (least)"
    );
    let mut aims = Aims::default();
    for ((name, _), steps) in STEPS.iter().zip(&measured) {
        let middle = |value: fn(&Step) -> f64| Spread::of(steps.iter().map(value).collect());
        let took = middle(|step| millis(step.took));
        let ratio = middle(|step| step.took.as_secs_f64() / step.floor.as_secs_f64());
        let aim = aims.hold(&format!("{name}, x floor"), ratio, Some(AIM));
        println!(
            "{name:20} | {:.0} ({:.0}-{:.0}) | {:.0} | {:.3} ({:.3}-{:.3}) {aim} | {:.0} | {:.0} ({:.0}) | {:.0} ({:.0})",
            took.median,
            took.low,
            took.high,
            middle(|step| millis(step.floor)).median,
            ratio.median,
            ratio.low,
            ratio.high,
            middle(|step| millis(step.worked)).median,
            middle(|step| step.commands as f64).median,
            middle(|step| step.needed as f64).median,
            middle(|step| step.bytes as f64).median,
            middle(|step| step.least as f64).median,
        );
    }
    aims.end();
}

/// One stay of one device on a paced line; gives how long a packet it takes.
async fn stay(hall: &Hall, name: &str, tpm: &Metered) -> usize {
    let times = Times {
        elsewhere: Arc::clone(&tpm.worked),
        ..Times::at(Some(RATE))
    };
    let (reports, _) = mpsc::channel(1);
    let line = Line::lay(&hall.bay(reports).port, true, times).unwrap();
    let mut bay = hall.open();
    let device = Arc::new(Mutex::new(hall.device(name, tpm.clone())));
    let buf_size = floor::buf_size(&device);
    line.put(Some(device)).await.unwrap();
    let stay = bay.stay().await;
    assert!(stay.passed(), "{stay:?}");
    line.put(None).await.unwrap();
    bay.close().await;
    buf_size
}

/// What a step took.
struct Step {
    took: Duration,
    floor: Duration,
    worked: Duration,
    commands: usize,
    needed: usize,
    bytes: u64,
    least: u64,
}

impl Step {
    /// From the first byte of the first command on the line to the last of the last response.
    fn of(commands: &[Command], needed: &[&str], buf_size: usize) -> Self {
        let times = Times::at(Some(RATE));
        let on_line = |bytes: u64| times.of(usize::try_from(bytes).unwrap());
        let least = |command: &Command| {
            floor::exchange(command.asked.len(), command.answered, buf_size).bytes
        };
        let (first, last) = (commands.first().unwrap(), commands.last().unwrap());
        let there = floor::exchange(first.asked.len(), 0, buf_size).bytes;
        let back = floor::exchange(0, last.answered, buf_size).bytes;
        let mut seen = BTreeSet::new();
        let once: Vec<_> = commands
            .iter()
            .filter(|command| needed.contains(&command.name()) && seen.insert(&command.asked))
            .collect();
        let bytes = once.iter().map(|command| least(command)).sum();
        let worked: Duration = once.iter().map(|command| command.worked).sum();
        Self {
            took: on_line(there) + (last.ended - first.began) + on_line(back),
            floor: on_line(bytes) + worked,
            worked: commands.iter().map(|command| command.worked).sum(),
            commands: commands.len(),
            needed: once.len(),
            bytes: commands.iter().map(least).sum(),
            least: bytes,
        }
    }
}

impl Command {
    fn name(&self) -> &'static str {
        let code = self.asked[6..10].try_into().map(u32::from_be_bytes);
        command_name(code.unwrap()).unwrap()
    }
}

impl Metered {
    fn new(tpm: SwTpm) -> Self {
        Self {
            tpm: Arc::new(Mutex::new(tpm)),
            starts: Arc::new(Mutex::new(vec![Vec::new()])),
            worked: Arc::default(),
        }
    }
}

impl Tpm for Metered {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let mut tpm = self.tpm.lock().unwrap();
        let (began, before) = (Instant::now(), tpm.worked()?);
        let response = tpm.transact(command)?;
        let worked = tpm.worked()?.saturating_sub(before);
        let nanos = u64::try_from(worked.as_nanos()).unwrap();
        self.worked.fetch_add(nanos, Ordering::SeqCst);
        let mut starts = self.starts.lock().unwrap();
        starts.last_mut().unwrap().push(Command {
            began,
            ended: Instant::now(),
            worked,
            asked: command.to_vec(),
            answered: response.len(),
        });
        Ok(response)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.starts.lock().unwrap().push(Vec::new());
        self.tpm.lock().unwrap().power_cycle()
    }
}
