//! Every boundary of a device with a certificate.
//!
//! SoftHSM and the spy read their configuration when they are loaded, so the walk is a process of its own; root may do
//! what an ordinary user may not, so where the tests are run by root it is walked as both.

use super::walk::{self, Made, walk_all};
use crate::link::bench::spec;
use crate::plant::{self, Plant, STEP_DEADLINE};
use crate::support::{Place, run, signed_digests, spy};
use dps_station::bay::Line;
use dps_station::fixtures::device::Device;
use dps_station::fixtures::pki::{find_softhsm, make_token};
use dps_station::ledger::ReservationState;
use dps_station::provision::bytes::Digest;
use dps_station::provision::event::{EnrolledIdentity, Purpose};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Environment variable with the folder of the token.
const FOLDER: &str = "STATION_TEST_BOUNDARIES";
const PIN: &str = "4711";

#[test]
fn every_boundary_and_every_second_boundary_after_recovery() {
    walk_as_owner_of(&Place::own());
    if rustix::process::getuid().is_root() {
        walk_as_owner_of(&Place::ordinary());
    }
}

fn walk_as_owner_of(place: &Place) {
    let folder = place.dir.path();
    let mut command = place.command(&std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("kill::boundaries::walk_in_its_own_process")
        .env(FOLDER, folder)
        .env("SOFTHSM2_CONF", folder.join("softhsm2.conf"))
        .env("PKCS11SPY", find_softhsm().unwrap())
        .env("PKCS11SPY_OUTPUT", folder.join("spy.log"));
    let ended = run(&mut command);
    let passed = ended.status.success() && ended.stdout.contains("1 passed");
    assert!(passed, "{}{}", ended.stdout, ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by every_boundary_and_every_second_boundary_after_recovery"]
async fn walk_in_its_own_process() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("set by the other test"));
    let factory = Arc::new(Factory::open(&folder).await);
    walk_all(&factory).await;
    factory.check_signatures(&folder.join("spy.log"));
}

/// What all units share: the HSM, and the product that they should become.
struct Factory {
    plant: Plant,
    /// What the HSM may have signed, as digests in hexadecimal.
    reserved: Mutex<BTreeSet<String>>,
}

impl Factory {
    async fn open(folder: &Path) -> Self {
        make_token(folder, "line", PIN, PIN).unwrap();
        let plant = Plant::open(spy(), "line", PIN, &spec().model).await;
        let reserved = plant.reserved.iter();
        let reserved = reserved.map(|ca| Digest::of(&ca.tbs.0).to_string());
        Self {
            reserved: Mutex::new(reserved.collect()),
            plant,
        }
    }

    /// Every signature that the HSM returned was reserved, and none twice.
    fn check_signatures(&self, log: &Path) {
        let signed = signed_digests(&std::fs::read_to_string(log).unwrap());
        let distinct: BTreeSet<_> = signed.iter().cloned().collect();
        assert_eq!(distinct.len(), signed.len(), "something was signed twice");
        let reserved = self.reserved.lock().unwrap();
        let stray: Vec<_> = distinct.difference(&reserved).collect();
        assert!(stray.is_empty(), "not reserved: {stray:?}");
    }
}

impl walk::Factory for Factory {
    type Chip = ();
    const WAY: &[&[&str]] = &[
        &["arrived", "identified", "accepted"],
        &["key_read", "registration_id_derived", "serial_reserved"],
        &["signed"],
        &["written"],
        &["restarted", "read_back", "proved"],
        &["sealed", "link_measured", "passed"],
    ];

    fn chip(&self) {}

    fn power_on(&self, flash: &Path, (): &()) -> Device {
        Device::load_or_make(flash, spec()).unwrap()
    }

    fn line(&self, ledger: &Path) -> Line {
        self.plant.line(plant::ledger(ledger), STEP_DEADLINE)
    }

    /// It has one certificate, which is the one that is enrolled, and no reservation is left open.
    fn check(&self, made: &Made, (): &()) {
        let rows = made.reservations;
        let count = |state| rows.iter().filter(|row| row.state == state).count();
        assert_eq!(count(ReservationState::Signed), 1, "{rows:?}");
        assert_eq!(count(ReservationState::Reserved), 0, "{rows:?}");
        assert!(rows.iter().all(|row| row.purpose == Purpose::Leaf));
        let all = rows.iter().map(|row| row.tbs_sha256.to_string());
        self.reserved.lock().unwrap().extend(all);

        let EnrolledIdentity::X509 { certificate } = &made.enrolled.enrollment.identity else {
            panic!("{:?}", made.enrolled);
        };
        assert_eq!(made.device.certificates()[0], certificate.0);
    }
}
