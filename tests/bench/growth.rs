//! Whether the ledger gets slower as the shift goes on: what the line asks of it for each device and each second, and
//! what a device costs in it, with 1,000 and with 50,000 units in the open shift.
//!
//! `cargo bench --bench growth`; with `-- --check` it ends with 1 where a ratio is over twice its aim.

#![allow(clippy::unwrap_used)]

#[path = "crowd.rs"]
mod crowd;
#[path = "line/figures.rs"]
#[allow(dead_code)]
mod figures;

use dps_station::ledger::{Ledger, Lookout};
use figures::{Aims, Spread, median, millis};
use std::time::Instant;
use tempfile::TempDir;

/// Units of the small shift, and of the large one.
const SIZES: [u32; 2] = [1_000, 50_000];
/// The most that anything may take with the large one, of what it takes with the small one.
const AIM: f64 = 1.25;
/// Rounds, and how often each thing is done in each of them.
const ROUNDS: u32 = 5;
const TIMES: u32 = 100;
/// What is done.
const WHAT: [&str; 6] = [
    "the events of a device",
    "whose a microcontroller is",
    "how shift and outboxes stand, after a commit",
    "the same, after none",
    "the attempts that are open",
    "a device that passes: 8 events, each a commit",
];

/// What each thing takes, in milliseconds: the median of a round.
type Round = [f64; WHAT.len()];

/// A line's ledger in a shift of so many units.
struct Shift {
    ledger: Ledger,
    lookout: Lookout,
    units: u32,
    done: u32,
    _folder: TempDir,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut shifts = Vec::new();
    for units in SIZES {
        shifts.push(Shift::open(units).await);
    }
    // One after the other in each round: what else the machine does is the same for both.
    let mut rounds: Vec<[Round; 2]> = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push([shifts[0].round().await, shifts[1].round().await]);
    }
    println!(
        "in ms at {} and {} units in the open shift; medians of {ROUNDS} rounds of {TIMES}, in brackets the lowest and \
         the highest",
        SIZES[0], SIZES[1]
    );
    let mut aims = Aims::default();
    for (index, what) in WHAT.iter().enumerate() {
        let of =
            |value: &dyn Fn(&[Round; 2]) -> f64| Spread::of(rounds.iter().map(value).collect());
        let small = of(&|round| round[0][index]);
        let large = of(&|round| round[1][index]);
        let ratio = of(&|round| round[1][index] / round[0][index]);
        println!(
            "{what:45} | {:7.3} | {:7.3} | {:.2} x ({:.2}-{:.2}) | aim {}",
            small.median,
            large.median,
            ratio.median,
            ratio.low,
            ratio.high,
            aims.hold(what, ratio, Some(AIM)),
        );
    }
    aims.end();
}

impl Shift {
    async fn open(units: u32) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("ledger.sqlite");
        crowd::put(&path, units).await;
        let ledger = crowd::open(&path);
        Self {
            lookout: ledger.lookout(),
            ledger,
            units,
            done: 0,
            _folder: folder,
        }
    }

    async fn round(&mut self) -> Round {
        let mut took = [const { Vec::new() }; WHAT.len()];
        for time in 0..TIMES {
            // Spread over all units, so that not the same pages are read each time.
            let some = self.done % TIMES * (self.units / TIMES) + time % 7;
            let device = crowd::device(some);
            timed(&mut took[0], async {
                let events = self.ledger.events(&device).await.unwrap();
                assert_eq!(events.len(), 7); // the arrival is before it is known whose it is
            })
            .await;
            timed(&mut took[1], async {
                let found = self.ledger.device_of_uid(&crowd::uid(some)).await.unwrap();
                assert_eq!(found.as_ref(), Some(&device));
            })
            .await;
            timed(
                &mut took[5],
                crowd::pass(&self.ledger, self.units + self.done),
            )
            .await;
            timed(&mut took[2], async {
                assert!(self.lookout.look().await.unwrap().is_some());
            })
            .await;
            timed(&mut took[3], async {
                assert!(self.lookout.look().await.unwrap().is_none());
            })
            .await;
            timed(&mut took[4], async {
                assert!(self.ledger.open_attempts().await.unwrap().is_empty());
            })
            .await;
            self.done += 1;
        }
        took.map(median)
    }
}

async fn timed(took: &mut Vec<f64>, work: impl Future<Output = ()>) {
    let began = Instant::now();
    work.await;
    took.push(millis(began.elapsed()));
}
