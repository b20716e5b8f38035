//! Every boundary between two events of a device's way, and every second boundary after recovery: a station that stops
//! there leaves a record from which the next one goes on.
//!
//! All is real but the kill itself: bay, ledger, HSM, and a simulated device behind a pseudo-terminal. SoftHSM and the
//! spy read their configuration when they are loaded, so the walk is a process of its own; root may do what an ordinary
//! user may not, so where the tests are run by root it is walked as both.

use crate::support::{Place, calls, run, signed_digests, spy};
use dps_station::bay::{Bay, Line, LineProduct, Signer};
use dps_station::fixtures::device::{Cable, Device, DeviceSpec, SharedDevice, run_device};
use dps_station::fixtures::pki::{find_softhsm, make_token};
use dps_station::hsm::{Hsm, HsmOptions};
use dps_station::ledger::{Ledger, Options, ReservationState, Verdict, verify};
use dps_station::link::{Injection, LinkOptions, port};
use dps_station::provision::bytes::{Blob, Digest};
use dps_station::provision::certificate::{
    CaProfile, Issuer, Profile, Reserved, assemble, draft_issuing, draft_root,
};
use dps_station::provision::device::{Attestation, DeviceId, SerialNumber};
use dps_station::provision::event::{EnrolledIdentity, Event, Recorded, Reservation};
use dps_station::provision::product::{DpsTarget, EndorsementPolicy, Product, SigningCa};
use dps_station::station::close_open_attempts;
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

/// Environment variable with the place of the token.
const PLACE: &str = "STATION_TEST_BOUNDARIES";
const PIN: &str = "4711";
/// Walks at a time: most of each is waiting for its device.
const AT_A_TIME: usize = 12;
/// How long a station may take to a boundary.
const BOUNDARY_MAX: Duration = Duration::from_secs(30);

#[test]
fn every_boundary_and_every_second_boundary_after_recovery() {
    walk(&Place::own());
    if rustix::process::getuid().is_root() {
        walk(&Place::ordinary());
    }
}

fn walk(place: &Place) {
    let folder = place.dir.path();
    let configuration = make_token(&folder.join("hsm"), "line", PIN, PIN).unwrap();
    place.give();
    let mut command = place.command(&std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("kill::boundaries::walk_all")
        .env(PLACE, folder)
        .env("TMPDIR", folder)
        .env("SOFTHSM2_CONF", configuration)
        .env("PKCS11SPY", find_softhsm().unwrap())
        .env("PKCS11SPY_OUTPUT", folder.join("spy.log"));
    let ended = run(&mut command);
    assert!(
        ended.status.success() && ended.stdout.contains("1 passed"),
        "{}{}",
        ended.stdout,
        ended.stderr
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by every_boundary_and_every_second_boundary_after_recovery"]
async fn walk_all() {
    let factory = Arc::new(Factory::open().await);
    let mut walks = JoinSet::new();
    let mut tally = Tally::default();
    for (number, first) in every_stop().enumerate() {
        let _ = number;
        while walks.len() >= AT_A_TIME {
            tally.add(walks.join_next().await.unwrap().unwrap());
        }
        walks.spawn(Arc::clone(&factory).seconds_after(first));
    }
    while let Some(walked) = walks.join_next().await {
        tally.add(walked.unwrap());
    }
    factory.check_signatures(&tally);
    println!("{} walks", tally.walks);
}
