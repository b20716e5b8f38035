//! Where the time of a TPM device goes: the two steps with its TPM, what the TPM itself takes of them, and what the
//! bytes of the whole job take on a serial line of 115,200 baud. Run by `TSS2_LOG=all+NONE cargo bench --bench tpm`: the
//! C library under the TSS writes to stderr otherwise.
//!
//! The simulated cable has no speed of its own, so a real line adds the last column to the time of the job.

#![allow(clippy::unwrap_used)]

#[path = "../it/tpm_line/hall.rs"]
#[allow(dead_code)] // the tests use the rest
mod hall;

use dps_station::fixtures::tpm::{Maker, SwTpm, manufacture};
use dps_station::tpm::roots;
use hall::{Chip, Hall, Watched};
use std::time::Duration;

/// Devices measured, each with a TPM of its own.
const DEVICES: usize = 5;
/// Bits for one byte on a serial line: start, eight, stop.
const BITS: usize = 10;
const BAUD: usize = 115_200;

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let maker = Maker::found(&dir.path().join("maker"), "bench").unwrap();
    let hall = Hall::new(roots::load(&maker.roots()).unwrap(), |_| ());
    println!(
        "{:8} {:>8} {:>9} {:>9} {:>9} {:>8} {:>7} {:>15}",
        "device", "job", "EK read", "proof", "its TPM", "commands", "bytes", "at 115,200 baud"
    );
    for number in 1..=DEVICES {
        let name = format!("bench-{number}");
        let own = tempfile::tempdir().unwrap();
        let state = own.path().join("tpm");
        manufacture(&state, &maker, None).unwrap();
        let tpm = Watched::new(Chip::new((SwTpm::start(&state).unwrap(), own)));
        let stay = hall.stay(&name, tpm.clone()).await;
        assert!(stay.passed(), "{stay:?}");
        let commands = tpm.commands();
        let bytes = stay.bytes.to_device + stay.bytes.to_bay;
        let wire = Duration::from_micros((bytes * BITS * 1_000_000 / BAUD) as u64);
        println!(
            "{name:8} {:>5} ms {:>6} ms {:>6} ms {:>6} ms {:>8} {bytes:>7} {:>12} ms",
            (stay.heard.last().unwrap().saturating_sub(stay.heard[0])).as_millis(),
            stay.step("endorsement_read").as_millis(),
            stay.step("proved").as_millis(),
            commands
                .iter()
                .map(|command| command.took)
                .sum::<Duration>()
                .as_millis(),
            commands.len(),
            wire.as_millis(),
        );
    }
}
