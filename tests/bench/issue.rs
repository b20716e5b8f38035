//! What issuing a certificate takes: reserved on record, signed by the HSM, checked, and on record again; beside the floor,
//! which is the HSM's own time for the signature and the two syncs that promise it.
//!
//! `cargo bench --bench issue`; `-- --check` ends with 1 where it is over twice its aim. SoftHSM is the HSM, so its time is
//! short: what is not floor shows here, and would not with an HSM of a rack.

#![allow(clippy::unwrap_used)]

#[path = "line/figures.rs"]
mod figures;
#[path = "../it/plant.rs"]
#[allow(dead_code)] // the tests use the rest
mod plant;

use dps_station::fixtures::pki;
use dps_station::provision::certificate::draft_verification;
use dps_station::provision::device::SerialNumber;
use dps_station::signing::SigningKey;
use figures::{Aims, Spread, millis};
use plant::Plant;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Certificates issued in each round, and rounds.
const CERTIFICATES: u16 = 40;
const ROUNDS: u16 = 5;
/// Syncs for each: the reservation before the signature, and what came of it.
const SYNCS: u32 = 2;
/// What a commit writes at least, in bytes: a page.
const PAGE: usize = 4096;
/// The most that it may take of its floor.
const AIM: f64 = 1.5;
const PIN: &str = "1234";
/// Names the folder to the process that does it: SoftHSM reads its environment, which must be there before threads are.
const FOLDER: &str = "STATION_BENCH_FOLDER";

fn main() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(measure(Path::new(&folder)));
    }
    let dir = tempfile::tempdir().unwrap();
    let made = pki::make_token(&dir.path().join("hsm"), "line", PIN, PIN);
    let configuration = made.unwrap_or_else(|error| panic!("{error}"));
    let status = Command::new(std::env::current_exe().unwrap())
        .args(std::env::args_os().skip(1))
        .env(FOLDER, dir.path())
        .env("SOFTHSM2_CONF", configuration)
        .status()
        .unwrap();
    drop(dir);
    std::process::exit(status.code().unwrap_or(1));
}

async fn measure(folder: &Path) {
    let module = pki::find_softhsm().unwrap_or_else(|error| panic!("{error}"));
    let plant = Plant::open(module, "line", PIN, "model").await;
    let (hsm, issuer) = (&plant.signer.hsm, &plant.signer.issuer);
    let key = SigningKey {
        hsm,
        label: &plant.signer.label,
        public_key: issuer.spki(),
    };
    let ledger = plant::ledger(&folder.join("ledger.sqlite"));
    let mut each = Vec::new();
    for round in 0..ROUNDS {
        let sync = sync(&folder.join("page"));
        let before = hsm.meter().signing;
        let began = Instant::now();
        for number in 0..CERTIFICATES {
            let mut octets = [1; SerialNumber::OCTETS];
            octets[1..3].copy_from_slice(&(round * CERTIFICATES + number).to_be_bytes());
            let serial = SerialNumber::from_random(octets);
            let draft = draft_verification(issuer, "code", serial, plant::clock()).unwrap();
            key.certificate(draft, &ledger).await.unwrap();
        }
        let took = began.elapsed() / u32::from(CERTIFICATES);
        let signing = (hsm.meter().signing - before) / u32::from(CERTIFICATES);
        each.push((took, signing, sync));
    }
    ledger.close().await.unwrap();
    let of = |part: fn(&(Duration, Duration, Duration)) -> f64| {
        Spread::of(each.iter().map(part).collect())
    };
    let took = of(|(took, _, _)| millis(*took));
    let ratio =
        of(|(took, signing, sync)| took.as_secs_f64() / (*signing + *sync * SYNCS).as_secs_f64());
    let mut aims = Aims::default();
    let aim = aims.hold("issuing, x floor", ratio, Some(AIM));
    println!(
        "issuing, in ms: {:.2} ({:.2}-{:.2}) | the HSM's own {:.2} | a sync {:.2}, of which {SYNCS} | x floor {:.3} ({:.3}-{:.3}) {aim}",
        took.median,
        took.low,
        took.high,
        of(|(_, signing, _)| millis(*signing)).median,
        of(|(_, _, sync)| millis(*sync)).median,
        ratio.median,
        ratio.low,
        ratio.high,
    );
    aims.end();
}

/// What it takes to write a page and to have it on the disk.
fn sync(path: &Path) -> Duration {
    let mut file = File::create(path).unwrap();
    let began = Instant::now();
    for _ in 0..CERTIFICATES {
        file.write_all(&[1; PAGE]).unwrap();
        file.sync_data().unwrap();
    }
    began.elapsed() / u32::from(CERTIFICATES)
}
