//! The station beside a script of the parts that people use today, `rival.py`: the same job, on the same simulated devices
//! at 115,200 baud, turn about. `cargo bench --bench rival`; `-- --short` and `-- --check` as for the line's.
//!
//! The script's packages come from PyPI into a folder of the build's own, at the first run; where they cannot be had, it is
//! said how, and nothing is measured.

#![allow(clippy::unwrap_used)]

#[path = "line/disk.rs"]
#[allow(dead_code)] // the line's bench uses it
mod disk;
#[path = "line/figures.rs"]
mod figures;
#[path = "line/floor.rs"]
mod floor;
#[path = "hall.rs"]
#[allow(dead_code)] // memory is not compared
mod hall;
#[path = "line/necessary.rs"]
mod necessary;
#[path = "rival/script.rs"]
mod script;
#[path = "line/shift.rs"]
#[allow(dead_code)] // the line's bench uses the rest
mod shift;

use dps_station::fixtures::serial::{RATE, Tally, Times};
use figures::{Aims, Spread, is_asked, median, millis};
use rustix::process::{Pid, Signal, kill_process};
use script::Script;
use shift::Shift;
use std::time::Duration;

/// Rounds at each number of bays; in each, every bay has one device.
const ROUNDS: usize = 5;
const FEW: usize = 3;
/// The most that the station's time at one bay may be of the script's.
const AIM: f64 = 0.9;

/// One device's way, by either.
#[derive(Clone, Copy)]
pub struct Cycle {
    /// From power to the verdict.
    pub took: Duration,
    /// The part of it from the first question that the device answered.
    pub job: Duration,
    /// What passed over its line.
    pub tally: Tally,
}

/// What one of the two did in all rounds.
#[derive(Default)]
struct Figures {
    rounds: Vec<Vec<Cycle>>,
    cpu_ms: u64,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let few = is_asked("--short") || is_asked("--check");
    let Some(python) = script::python() else {
        return;
    };
    println!("times in ms, medians of all rounds; in brackets the lowest and the highest round");
    println!(
        "         | bays |  plug to verdict | from the first question | waits | bytes | trips | CPU ms/device"
    );
    let mut aims = Aims::default();
    let sizes: &[usize] = if few { &[1] } else { &[1, 64] };
    for &bays in sizes {
        let rounds = if few || bays > 1 { FEW } else { ROUNDS };
        compare(&python, bays, rounds, &mut aims).await;
    }
    aims.end();
}

/// Both, turn about: whoever does not have the turn is stopped.
async fn compare(python: &std::path::Path, bays: usize, rounds: usize, aims: &mut Aims) {
    let times = Times::at(Some(RATE));
    let mut shift = Shift::begin(bays, false, &times, None).await;
    let ca = shift.certificate_of_the_ca().await; // and both are warm
    turn(shift.process(), false);
    let buf_size = floor::buf_size(&shift.device());
    let mut script = Script::start(python, shift.dir(), bays, &times, &ca, buf_size).await;
    script.round(&shift.devices(bays)).await;
    turn(script.process(), false);
    let (mut station, mut rival) = (Figures::default(), Figures::default());
    for _ in 0..rounds {
        turn(shift.process(), true);
        let before = shift.used().cpu_ms;
        let cycles = shift.round().await.into_iter().map(|cycle| Cycle {
            took: cycle.took,
            job: cycle.job,
            tally: cycle.tally,
        });
        station.rounds.push(cycles.collect());
        station.cpu_ms += shift.used().cpu_ms - before;
        shift.clear().await;
        turn(shift.process(), false);

        let devices = shift.devices(bays);
        turn(script.process(), true);
        shift.at_any_moment().await;
        let before = script.used().cpu_ms;
        let cycles = script.round(&devices).await;
        rival.cpu_ms += script.used().cpu_ms - before;
        rival.rounds.push(cycles);
        turn(script.process(), false);
    }
    station.print("station", bays);
    rival.print("script", bays);
    let aim = (bays == 1).then_some(AIM);
    for (what, part) in [
        ("plug to verdict", took as Part),
        ("from the first question", job),
    ] {
        let (ours, theirs) = (station.each(part), rival.each(part));
        let ratio = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs);
        let ratio = Spread::of(ratio.collect());
        let what = format!("station / script, {bays} bays, {what}");
        let aim = aims.hold(&what, ratio, aim);
        println!(
            "{what}: {:.3} ({:.3}-{:.3}) {aim}",
            ratio.median, ratio.low, ratio.high
        );
    }
}

/// A part of a device's way.
type Part = fn(&Cycle) -> Duration;

fn took(cycle: &Cycle) -> Duration {
    cycle.took
}

fn job(cycle: &Cycle) -> Duration {
    cycle.job
}

/// Gives a process its turn, or takes it.
fn turn(process: u32, has: bool) {
    let process = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
    let signal = if has { Signal::CONT } else { Signal::STOP };
    kill_process(process, signal).unwrap();
}

impl Figures {
    /// The median of each round, in milliseconds.
    fn each(&self, part: Part) -> Vec<f64> {
        let of_round = |cycles: &Vec<Cycle>| {
            let times = cycles.iter().map(part).map(millis);
            median(times.collect())
        };
        self.rounds.iter().map(of_round).collect()
    }

    fn print(&self, who: &str, bays: usize) {
        let all = || self.rounds.iter().flatten();
        let took = Spread::of(self.each(took));
        let job = Spread::of(self.each(job));
        println!(
            "{who:8} | {bays:4} | {:5.0} ({:.0}-{:.0}) | {:5.0} ({:.0}-{:.0}) | {:5.0} | {:.0} | {:.0} | {:.1}",
            took.median,
            took.low,
            took.high,
            job.median,
            job.low,
            job.high,
            median(all().map(|cycle| millis(cycle.tally.idle)).collect()),
            median(all().map(|cycle| cycle.tally.bytes as f64).collect()),
            median(all().map(|cycle| cycle.tally.round_trips as f64).collect()),
            self.cpu_ms as f64 / all().count() as f64,
        );
    }
}
