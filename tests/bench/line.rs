//! How fast a line is: from plug to verdict on 115,200 baud, beside the floor, which is what a device holds and is given
//! in frames as large as it takes, its own processor time and its boot; then the same with what slows a real line down,
//! and how soon a unit that was taken or swapped is noticed.
//!
//! The station is the real program, a process of its own, with its ledger on disk and SoftHSM; the devices are
//! simulated, behind pseudo-terminals, in this process. `cargo bench --bench line`; `-- --short` for few rounds of the
//! first figures, `-- --check` for the same, which ends with 1 where a figure is over twice its aim.

#![allow(clippy::unwrap_used)]

#[path = "line/disk.rs"]
mod disk;
#[path = "line/figures.rs"]
mod figures;
#[path = "line/floor.rs"]
mod floor;
#[path = "hall.rs"]
#[allow(dead_code)] // the script's bench uses the rest
mod hall;
#[path = "line/necessary.rs"]
mod necessary;
#[path = "line/pace.rs"]
mod pace;
#[path = "line/shift.rs"]
#[allow(dead_code)] // the script's bench uses the rest
mod shift;
#[path = "line/swap.rs"]
mod swap;

use disk::Disk;
use dps_station::fixtures::serial::{RATE, Times};
use figures::{Aims, Spread, is_asked, median, millis};
use shift::{Cycle, Shift};
use std::time::Duration;

/// Rounds at each number of bays; in each, every bay has one device.
const ROUNDS: usize = 5;
/// The same where few are enough to see that nothing is lost.
const FEW: usize = 3;
/// Bytes and round trips that an X.509 device may take.
const BYTES_AIM: f64 = 5_250.0;
const TRIPS_AIM: f64 = 18.0;

/// What slows a line down.
#[derive(Clone, Copy, PartialEq, Eq)]
enum With {
    Nothing,
    /// FTDI's default.
    Adapter,
    /// Zephyr's default.
    BeforeReset,
    SlowDisk,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let few = is_asked("--short") || is_asked("--check");
    let sizes: &[usize] = if few { &[1, 4] } else { &[1, 4, 16, 64] };
    let rounds = if few { FEW } else { ROUNDS };
    pace::check().await;
    println!(
        "times in ms, medians of {rounds} rounds; in brackets the lowest and the highest round; \
         of bytes and round trips the first bracket has the least that there are to say, the second the bytes of \
         that in the maps of the group's page; \
         `waits` is how long the line was idle while the device waited to be asked"
    );
    println!(
        "line                  | bays |  plug to verdict | noticed | floor | x floor (low-high)  aim     | x in maps | waits | device | bytes (least) (in maps) | trips (least) | syncs | CPU ms/device | peak MB"
    );
    let mut aims = Aims::default();
    for &bays in sizes {
        measure(With::Nothing, bays, rounds, &mut aims).await;
    }
    let ends = if few { &[1][..] } else { &[1, 64] };
    for with in [With::SlowDisk, With::BeforeReset, With::Adapter] {
        for &bays in ends {
            measure(with, bays, rounds.min(FEW), &mut aims).await;
        }
    }
    swap::measure(rounds, &mut aims).await;
    aims.end();
}

impl With {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "plain",
            Self::Adapter => "adapter holds 16 ms",
            Self::BeforeReset => "250 ms before reset",
            Self::SlowDisk => "5 ms a disk sync",
        }
    }

    fn times(self) -> Times {
        let mut times = Times::at(Some(RATE));
        match self {
            Self::Adapter => times.adapter = Duration::from_millis(16),
            Self::BeforeReset => times.before_reset = Duration::from_millis(250),
            Self::Nothing | Self::SlowDisk => {}
        }
        times
    }

    fn sync(self) -> Duration {
        match self {
            Self::SlowDisk => Duration::from_millis(5),
            _ => Duration::ZERO,
        }
    }

    /// The most that the way may be of its floor. What an adapter holds back is in no floor, and has no aim.
    fn aim(self, bays: usize) -> Option<f64> {
        match (self, bays) {
            (Self::Adapter, _) => None,
            (Self::SlowDisk, 1) => Some(1.10),
            (_, 1) => Some(1.05),
            (_, _) => Some(1.15),
        }
    }
}

/// All rounds of one line, as one line of the table.
async fn measure(with: With, bays: usize, rounds: usize, aims: &mut Aims) {
    let dir = tempfile::TempDir::new().unwrap();
    let disk = Disk::make(dir.path(), with.sync());
    let mut shift = Shift::begin(bays, false, &with.times(), Some(&disk)).await;
    let mut all: Vec<Vec<Cycle>> = Vec::new();
    let (mut cpu_ms, mut syncs) = (0, 0);
    for _ in 0..rounds {
        let before = (shift.used().cpu_ms, disk.syncs());
        all.push(shift.round().await);
        cpu_ms += shift.used().cpu_ms - before.0;
        syncs += disk.syncs() - before.1;
        shift.clear().await;
    }
    let devices = (bays * rounds) as f64;
    let middle = |value: fn(&Cycle) -> f64| {
        let of_round = |cycles: &Vec<Cycle>| median(cycles.iter().map(value).collect());
        Spread::of(all.iter().map(of_round).collect())
    };
    let took = middle(|cycle| millis(cycle.took));
    let ratio = middle(|cycle| cycle.took.as_secs_f64() / cycle.floor.as_secs_f64());
    let name = with.name();
    let what = format!("{name}, {bays} bays, x floor");
    let aim = aims.hold(&what, ratio, with.aim(bays));
    let bytes = middle(|cycle| cycle.tally.bytes as f64);
    let trips = middle(|cycle| cycle.tally.round_trips as f64);
    println!(
        "{name:21} | {bays:4} | {:5.0} ({:.0}-{:.0}) | {:7.0} | {:5.0} | {:.3} ({:.3}-{:.3}) {aim:7} | {:9.3} | {:5.0} | {:6.0} | {:.0} ({:.0}) ({:.0}) | {:.0} ({:.0}) | {:5.1} | {:.1} | {:.1}",
        took.median,
        took.low,
        took.high,
        middle(|cycle| millis(cycle.noticed)).median,
        middle(|cycle| millis(cycle.floor)).median,
        ratio.median,
        ratio.low,
        ratio.high,
        middle(|cycle| cycle.took.as_secs_f64() / cycle.in_maps.as_secs_f64()).median,
        middle(|cycle| millis(cycle.tally.idle)).median,
        middle(|cycle| millis(cycle.tally.own)).median,
        bytes.median,
        middle(|cycle| cycle.least.bytes as f64).median,
        middle(|cycle| cycle.maps as f64).median,
        trips.median,
        middle(|cycle| cycle.least.round_trips as f64).median,
        syncs as f64 / devices,
        cpu_ms as f64 / devices,
        shift.used().peak_kb as f64 / 1024.0,
    );
    if with == With::Nothing && bays == 1 {
        aims.hold("bytes of a device", bytes, Some(BYTES_AIM));
        aims.hold("round trips of a device", trips, Some(TRIPS_AIM));
    }
}
