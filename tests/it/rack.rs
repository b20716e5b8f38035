//! A full rack: 64 bays at once, by the real program, on whatever processors there are.

#[path = "../bench/hall.rs"]
#[allow(dead_code)] // the benches use the rest
mod hall;

use dps_station::fixtures::device::{Cable, run_device};
use dps_station::provision::event::Event;
use dps_station::provision::floor::Report;
use hall::{Hall, Running};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinHandle;

const BAYS: usize = 64;
/// Devices that come to each bay, one after the other.
const EACH: usize = 2;
/// What the station may take at most, in kilobytes.
const MEMORY_MAX_KB: u64 = 150 * 1024;
/// How long all may take, on a machine that does much else.
const ALL_MAX: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_bays_at_once_stay_within_memory() {
    let hall = Hall::lay_out(BAYS, true);
    let mut station = hall.run();
    let passed = tokio::time::timeout(ALL_MAX, provision(&hall, &mut station)).await;
    assert_eq!(passed.expect("all devices in time"), BAYS * EACH);
    let used = station.used();
    println!(
        "{} kB at most, {} ms of processor",
        used.peak_kb, used.cpu_ms
    );
    assert!(used.peak_kb < MEMORY_MAX_KB, "{} kB", used.peak_kb);
}

/// Puts device after device into each bay; gives how many passed.
async fn provision(hall: &Hall, station: &mut Running) -> usize {
    let plug_in = |number: usize| -> JoinHandle<std::io::Result<()>> {
        let cable = Cable::uart(&hall.port(number % BAYS));
        tokio::spawn(run_device(hall.device(number), cable))
    };
    let mut plugged: BTreeMap<usize, _> = hall.bays().map(|bay| (bay, plug_in(bay))).collect();
    let mut came = BAYS;
    let mut passed = 0;
    while passed < BAYS * EACH {
        match station.report().await {
            Report::Event { bay, recorded } => match recorded.event {
                Event::Passed { .. } => {
                    passed += 1;
                    plugged[&bay.parse().unwrap()].abort();
                }
                Event::Failed { fault, .. }
                | Event::Errored { fault }
                | Event::Interrupted { fault } => panic!("{fault:?}"),
                _ => {}
            },
            Report::Removed { bay, .. } if came < BAYS * EACH => {
                let bay: usize = bay.parse().unwrap();
                plugged.insert(bay, plug_in(BAYS + bay));
                came += 1;
            }
            _ => {}
        }
    }
    passed
}
