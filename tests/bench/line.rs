//! How fast a line is: cycle time and devices per minute on 115,200 baud at 1, 4, 16 and 64 bays, beside the floor,
//! which is the necessary bytes at that rate and the device's own time.
//!
//! The station is the real program, a process of its own, with its ledger on disk and SoftHSM; the devices are
//! simulated, behind pseudo-terminals, in this process. `cargo bench --bench line`; `-- --short` for three rounds at
//! 1 and 4 bays.

#![allow(clippy::unwrap_used)]

#[path = "line/cable.rs"]
mod cable;
#[path = "hall.rs"]
mod hall;
#[path = "line/necessary.rs"]
mod necessary;

use cable::{Bay, Tally};
use dps_station::fixtures::device::Device;
use dps_station::fixtures::pty::Pty;
use dps_station::link::smp::{self, Header, Map, Op, Packet, Version, frame};
use dps_station::provision::device::Identification;
use dps_station::provision::event::{Event, Recorded};
use dps_station::provision::floor::Report;
use hall::{Hall, Running};
use necessary::Said;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// Bytes per second at 115,200 baud: each takes a start and a stop bit.
const RATE: f64 = 11_520.0;
/// Rounds at each number of bays; in each, every bay has one device.
const ROUNDS: usize = 5;
/// Echoes that the pace of the line is checked with, and the text of each, in bytes.
const ECHOES: usize = 40;
const ECHO: usize = 64;
/// How far the line may be from its rate for the figures to count.
const PACE_TOLERANCE: f64 = 0.02;

/// One device's way through a bay.
struct Cycle {
    /// From arrival to PASS, as the ledger has them.
    took: Duration,
    /// From power-on to arrival.
    noticed: Duration,
    floor: Duration,
    idle: Duration,
    own: Duration,
    necessary: u64,
    bytes: u64,
    round_trips: u64,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    // Cargo adds `--bench`.
    let short = std::env::args().any(|argument| argument == "--short");
    let (sizes, rounds) = match short {
        true => (&[1, 4][..], 3),
        false => (&[1, 4, 16, 64][..], ROUNDS),
    };
    check_pace().await;
    println!(
        "times in ms, medians of {rounds} rounds; in brackets the lowest and the highest round"
    );
    println!(
        "bays | devices/min |       cycle       | floor | cycle/floor       | idle | device | noticed | bytes (necessary) | trips | peak MB | CPU ms/device"
    );
    for &bays in sizes {
        measure(bays, rounds).await;
    }
}

/// Times echoes over a line that takes no time and over a paced one: the difference is what the bytes take.
async fn check_pace() {
    let free = echo(None).await;
    let paced = echo(Some(RATE)).await;
    let line = (2 * echo_lines().len()) as f64 / RATE * 1000.0;
    let ratio = (paced - free) / line;
    println!(
        "pace: an echo takes {free:.2} ms unpaced and {paced:.2} ms paced, {ratio:.3} x the {line:.2} ms of its bytes"
    );
    // Said, not asserted: a slow machine makes figures worthless, and nothing wrong.
    if (ratio - 1.0).abs() > PACE_TOLERANCE {
        println!(
            "pace: NOT as it should be, so the figures below count for nothing: is the machine busy?"
        );
    }
}

/// What an echo takes, in milliseconds.
async fn echo(rate: Option<f64>) -> f64 {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("bay");
    let bay = Bay::new(Pty::open(&path).unwrap(), rate);
    let options = dps_station::link::LinkOptions::default();
    let mut port = dps_station::link::port::Port::open(&path, &options).unwrap();
    bay.put(Some(hall::device(dir.path(), 0))).await;
    let lines = echo_lines();
    let mut reply = vec![0; lines.len()];
    // The first finds the device.
    port.write_all(&lines).await.unwrap();
    port.read_exact(&mut reply).await.unwrap();
    let mut took = Vec::new();
    for _ in 0..ECHOES {
        let began = Instant::now();
        port.write_all(&lines).await.unwrap();
        port.read_exact(&mut reply).await.unwrap();
        took.push(millis(began.elapsed()));
    }
    median(took)
}

/// An echo request; its reply is as long.
fn echo_lines() -> Vec<u8> {
    let packet = Packet {
        header: Header {
            version: Version::Two,
            op: Op::Write,
            group: smp::OS_GROUP,
            sequence: 0,
            command: smp::ECHO,
        },
        body: Map::new().text("d", &"e".repeat(ECHO)),
    };
    let lines = frame::encode(&packet.encode(), frame::LINE_LENGTH).unwrap();
    lines.concat()
}

/// All rounds at one number of bays, as one line of the table.
async fn measure(count: usize, rounds: usize) {
    let hall = Hall::lay_out(count, false);
    let open = |bay| Bay::new(Pty::open(&hall.port(bay)).unwrap(), Some(RATE));
    let bays: Vec<Bay> = hall.bays().map(open).collect();
    let mut station = hall.run();
    let mut waiting = 0;
    while waiting < count {
        waiting += usize::from(matches!(station.report().await, Report::BayWaiting { .. }));
    }
    let before = station.used();
    let (mut cycles, mut rates) = (Vec::new(), Vec::new());
    for number in 0..rounds {
        let (done, all) = round(&hall, &bays, &mut station, number).await;
        rates.push(count as f64 * 60.0 / all.as_secs_f64());
        cycles.push(done);
    }
    let used = station.used();
    let devices = (count * rounds) as u64;
    let middle = |value: fn(&Cycle) -> f64| {
        let of_round = |cycles: &Vec<Cycle>| median(cycles.iter().map(value).collect());
        Spread::of(cycles.iter().map(of_round).collect())
    };
    let took = middle(|cycle| millis(cycle.took));
    let ratio = middle(|cycle| cycle.took.as_secs_f64() / cycle.floor.as_secs_f64());
    println!(
        "{count:4} | {:11.0} | {:5.0} ({:.0}-{:.0}) | {:5.0} | {:.3} ({:.3}-{:.3}) | {:4.0} | {:6.0} | {:7.0} | {:.0} ({:.0}) | {:5.0} | {:7.1} | {:.1}",
        Spread::of(rates).median,
        took.median,
        took.low,
        took.high,
        middle(|cycle| millis(cycle.floor)).median,
        ratio.median,
        ratio.low,
        ratio.high,
        middle(|cycle| millis(cycle.idle)).median,
        middle(|cycle| millis(cycle.own)).median,
        middle(|cycle| millis(cycle.noticed)).median,
        middle(|cycle| cycle.bytes as f64).median,
        middle(|cycle| cycle.necessary as f64).median,
        middle(|cycle| cycle.round_trips as f64).median,
        used.peak_kb as f64 / 1024.0,
        (used.cpu_ms - before.cpu_ms) as f64 / devices as f64,
    );
}

/// Every bay gets a device at the same moment; gives their cycles, and how long it took until the last had passed.
async fn round(
    hall: &Hall,
    bays: &[Bay],
    station: &mut Running,
    number: usize,
) -> (Vec<Cycle>, Duration) {
    let devices: Vec<_> = hall
        .bays()
        .map(|bay| hall.device(number * bays.len() + bay))
        .collect();
    let began = Instant::now();
    let began_ms = now_ms();
    for (bay, device) in bays.iter().zip(&devices) {
        bay.put(Some(Arc::clone(device))).await;
    }
    let mut under_way: BTreeMap<usize, Way> = BTreeMap::new();
    let mut cycles = Vec::new();
    while cycles.len() < bays.len() {
        let Report::Event { bay, recorded } = station.report().await else {
            continue;
        };
        let bay: usize = bay.parse().unwrap();
        let way = under_way.entry(bay).or_default();
        if way.note(*recorded, began_ms) {
            let device = devices[bay].lock().unwrap();
            cycles.push(way.cycle(&device, bays[bay].tally()));
        }
    }
    let all = began.elapsed();
    for bay in bays {
        bay.put(None).await;
    }
    let mut left = 0;
    while left < bays.len() {
        left += usize::from(matches!(station.report().await, Report::Removed { .. }));
    }
    (cycles, all)
}

/// What was heard of a device on its way.
#[derive(Default)]
struct Way {
    noticed: u64,
    arrived_ms: i64,
    passed_ms: i64,
    identification: Option<Identification>,
    request: Vec<u8>,
    id_scope: String,
    endpoint: String,
}

impl Way {
    /// Takes note of an event; says whether the device has passed.
    fn note(&mut self, recorded: Recorded, began_ms: i64) -> bool {
        match recorded.event {
            Event::Arrived { .. } => {
                self.arrived_ms = recorded.at_ms;
                self.noticed = u64::try_from(recorded.at_ms - began_ms).unwrap_or_default();
            }
            Event::Identified { identification, .. } => self.identification = Some(identification),
            Event::KeyRead { csr, .. } => self.request = csr.0,
            Event::Written { asked } => {
                self.id_scope = asked.id_scope;
                self.endpoint = asked.global_endpoint;
            }
            Event::Passed { .. } => {
                self.passed_ms = recorded.at_ms;
                return true;
            }
            Event::Failed { fault, .. }
            | Event::Errored { fault }
            | Event::Interrupted { fault } => panic!("{fault:?}"),
            _ => {}
        }
        false
    }

    fn cycle(&self, device: &Device, tally: Tally) -> Cycle {
        let who = self.identification.as_ref().unwrap();
        let necessary = necessary::bytes(&Said {
            device_id: who.device_id.to_string(),
            model: who.model.clone(),
            firmware: who.firmware.clone(),
            uid: who.uid.0.clone(),
            request: self.request.clone(),
            chain: device.chain().to_vec(),
            id_scope: self.id_scope.clone(),
            endpoint: self.endpoint.clone(),
        });
        Cycle {
            took: Duration::from_millis((self.passed_ms - self.arrived_ms).unsigned_abs()),
            noticed: Duration::from_millis(self.noticed),
            floor: Duration::from_secs_f64(necessary as f64 / RATE) + tally.own,
            idle: tally.idle,
            own: tally.own,
            necessary,
            bytes: tally.bytes,
            round_trips: tally.round_trips,
        }
    }
}

/// The median, and the ends.
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    fn of(values: Vec<f64>) -> Self {
        Self {
            low: values.iter().copied().fold(f64::INFINITY, f64::min),
            high: values.iter().copied().fold(0.0, f64::max),
            median: median(values),
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}
