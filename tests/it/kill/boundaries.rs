//! Every boundary between two events of a device's way, and every second boundary after recovery: a station that stops
//! there leaves a record from which the next one goes on.
//!
//! All is real but the kill itself: bay, ledger, HSM, and a simulated device behind a pseudo-terminal. SoftHSM and the
//! spy read their configuration when they are loaded, so the walk is a process of its own; root may do what an ordinary
//! user may not, so where the tests are run by root it is walked as both.

use crate::link::bench::{Bench, Plug, spec};
use crate::plant::{self, Plant, STEP_DEADLINE};
use crate::support::{Place, entries, run, signed_digests, spy};
use dps_station::bay::{Bay, Line};
use dps_station::fixtures::device::{Cable, Device};
use dps_station::fixtures::pki::{find_softhsm, make_token};
use dps_station::ledger::{Ledger, ReservationState, Verdict, verify};
use dps_station::link::LinkOptions;
use dps_station::provision::bytes::Digest;
use dps_station::provision::event::{EnrolledIdentity, Purpose};
use dps_station::provision::floor::Report;
use dps_station::provision::health::LinkLimits;
use dps_station::station::close_open_attempts;
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Environment variable with the folder of the token.
const FOLDER: &str = "STATION_TEST_BOUNDARIES";
const PIN: &str = "4711";
/// Walks at a time: most of each is waiting for a device.
const AT_A_TIME: usize = 12;
/// Reports that a bay gets rid of while nobody hears them.
const ROOM: usize = 1;
/// How often the ledger is looked at while a station is on its way.
const LOOK: Duration = Duration::from_millis(5);
/// How long a station may take to where it is stopped.
const STOP_MAX: Duration = Duration::from_secs(30);

/// The way of a device that nothing disturbs.
const WAY: [&str; 14] = [
    "arrived",
    "identified",
    "accepted",
    "key_read",
    "registration_id_derived",
    "serial_reserved",
    "signed",
    "written",
    "restarted",
    "read_back",
    "proved",
    "sealed",
    "link_measured",
    "passed",
];

/// Where a station is stopped, in events since its start.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// So many are on record, and nothing has been done since.
    After(usize),
    /// What this one will tell of is done, and not on record.
    Before(usize),
}

/// How far a station came.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reached {
    Stop,
    /// The attempt ended before.
    End,
}

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
        .arg("kill::boundaries::walk_all")
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
async fn walk_all() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("set by the other test"));
    let factory = Arc::new(Factory::open(&folder).await);
    let undisturbed = Unit::new(&factory).await;
    assert_eq!(undisturbed.start(None).await, Reached::End);
    assert_eq!(undisturbed.kinds(), WAY);
    undisturbed.is_done().await;

    let mut walks = JoinSet::new();
    let after = (1..WAY.len()).map(Stop::After);
    for first in after.chain((1..=WAY.len()).map(Stop::Before)) {
        if walks.len() == AT_A_TIME {
            walks.join_next().await.unwrap().unwrap();
        }
        walks.spawn(walk(Arc::clone(&factory), first));
    }
    while let Some(walked) = walks.join_next().await {
        walked.unwrap();
    }
    factory.check_signatures(&folder.join("spy.log"));
}

/// Stops a unit's first station at `first`, its second at each place that it comes to, and lets the third go on.
async fn walk(factory: Arc<Factory>, first: Stop) {
    for second in 1.. {
        let mut unit = Unit::new(&factory).await;
        assert_eq!(unit.start(Some(first)).await, Reached::Stop, "{first:?}");
        // The two firsts of one boundary differ in how their seconds are stopped, and in when power is lost.
        let (then, power) = match (first, second % 2) {
            (Stop::After(_), 0) | (Stop::Before(_), 1) => (Stop::After(second), second % 4 < 2),
            _ => (Stop::Before(second), second % 4 > 1),
        };
        if power {
            unit.lose_power().await;
        }
        let reached = unit.start(Some(then)).await;
        if reached == Reached::Stop {
            if !power {
                unit.lose_power().await;
            }
            assert_eq!(unit.start(None).await, Reached::End, "{first:?}, {then:?}");
        }
        println!("{first:?}, {then:?}: {}", unit.kinds().join(" "));
        unit.is_done().await;
        if reached == Reached::End {
            return;
        }
    }
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

/// One device in one bay, and the ledger of its stations.
struct Unit {
    factory: Arc<Factory>,
    bench: Bench,
    plug: Option<Plug>,
}

impl Unit {
    async fn new(factory: &Arc<Factory>) -> Self {
        let bench = Bench::new();
        let plug = bench.plug_in(Cable::uart(&bench.port())).await;
        Self {
            factory: Arc::clone(factory),
            bench,
            plug: Some(plug),
        }
    }

    /// As when the rig is killed too.
    async fn lose_power(&mut self) {
        if let Some(plug) = self.plug.take() {
            plug.pull().await;
        }
        let flash = self.bench.dir.path().join("flash.json");
        *self.bench.device.lock().unwrap() = Device::load_or_make(&flash, spec()).unwrap();
        self.plug = Some(self.bench.plug_in(Cable::uart(&self.bench.port())).await);
    }

    fn path(&self) -> PathBuf {
        self.bench.dir.path().join("ledger.sqlite")
    }

    fn open(&self) -> Ledger {
        plant::ledger(&self.path())
    }

    /// Starts a station, and stops it there, or when the attempt has ended.
    async fn start(&self, stop: Option<Stop>) -> Reached {
        let ledger = self.open();
        let before = self.kinds().len();
        let line = Arc::new(self.factory.plant.line(ledger.clone(), STEP_DEADLINE));
        let allowed = match stop {
            None => None,
            Some(Stop::After(events)) => Some(before + events),
            Some(Stop::Before(event)) => Some(before + event - 1),
        };
        if let Some(allowed) = allowed {
            self.refuse_after(allowed);
        }
        let recovered = close_open_attempts(&line).await;
        let recorded = self.kinds().len() - before;
        let gate = match stop {
            Some(Stop::After(events)) => Some(events - recorded),
            _ => None,
        };
        let reached = match (recovered, gate) {
            (Err(_), _) | (Ok(_), Some(0)) => Reached::Stop,
            (Ok(_), gate) => self.serve(line, gate).await,
        };
        if let Some(allowed) = allowed {
            assert!(reached == Reached::End || self.kinds().len() == allowed);
            self.refuse_no_more();
        }
        ledger.close().await.unwrap();
        reached
    }

    /// Serves the bay until the ledger refuses an event or the attempt ends; with a gate, until so many of its events
    /// are on record. In the end nothing of it goes on, as after a kill.
    async fn serve(&self, line: Arc<Line>, gate: Option<usize>) -> Reached {
        let before = self.kinds().len();
        let (reports, said) = mpsc::channel(ROOM);
        let (_go, stop) = watch::channel(false);
        let mut bay = tokio::spawn(self.bay(line, reports).run(stop));
        let watched = async {
            match gate {
                Some(events) => self.hold(said, before, events).await,
                None => self.listen(said).await,
            }
        };
        let reached = tokio::select! {
            reached = tokio::time::timeout(STOP_MAX, watched) => reached,
            stopped = &mut bay => {
                assert!(stopped.unwrap().is_err(), "nothing stopped the bay");
                return Reached::Stop;
            }
        };
        bay.abort();
        let _ = bay.await;
        reached.unwrap_or_else(|_| panic!("it goes no further than {:?}", self.kinds()))
    }

    /// Hears what the bay says until the attempt has ended.
    async fn listen(&self, mut said: mpsc::Receiver<Report>) -> Reached {
        while let Some(report) = said.recv().await {
            if let Report::Event { recorded, .. } = report
                && ends(recorded.event.kind())
            {
                return Reached::End;
            }
        }
        std::future::pending().await // the bay has stopped, and says why
    }

    /// Hears as much of what the bay says as makes it stand between the record of its `events`-th event and the next
    /// effect: it cannot tell of that event. `before`: how many events were on record when the bay began.
    async fn hold(
        &self,
        mut said: mpsc::Receiver<Report>,
        before: usize,
        events: usize,
    ) -> Reached {
        // Before its first event a bay says that it is open, and that it waits; and before that, perhaps, that the port
        // is not there yet. One report has room while nobody hears it, and the next holds the bay up.
        let heard_enough = |report: &Report| match report {
            Report::BayOpened { .. } => events == 1,
            Report::BayWaiting { .. } => true,
            _ => false,
        };
        while !heard_enough(&said.recv().await.expect("the bay runs")) {}
        let mut to_hear = events.saturating_sub(1 + ROOM);
        loop {
            let kinds = self.kinds();
            if kinds.len() > before && ends(kinds.last().unwrap()) {
                return Reached::End;
            }
            if kinds.len() >= before + events {
                return Reached::Stop;
            }
            if to_hear == 0 {
                tokio::time::sleep(LOOK).await;
            } else if tokio::time::timeout(LOOK, said.recv()).await.is_ok() {
                to_hear -= 1;
            }
        }
    }

    fn bay(&self, line: Arc<Line>, reports: mpsc::Sender<Report>) -> Bay {
        Bay {
            name: "1".to_owned(),
            port: self.bench.port(),
            hotplug: false,
            link: LinkOptions::default(),
            limits: LinkLimits::default(),
            line,
            reports,
            test: Arc::default(),
            scans: Arc::default(),
        }
    }

    /// From here on, the ledger takes so many events in all, and fails at the next.
    fn refuse_after(&self, events: usize) {
        let sql = format!(
            "CREATE TRIGGER the_test_stops_here BEFORE INSERT ON events WHEN NEW.seq > {events}
             BEGIN SELECT raise(ABORT, 'stopped by the test'); END"
        );
        self.change(&sql);
    }

    fn refuse_no_more(&self) {
        self.change("DROP TRIGGER the_test_stops_here");
    }

    fn change(&self, sql: &str) {
        let db = Connection::open(self.path()).unwrap();
        db.busy_timeout(STOP_MAX).unwrap();
        db.execute_batch(sql).unwrap();
    }

    /// The kinds of all events on record.
    fn kinds(&self) -> Vec<String> {
        let entries = entries(&self.path(), 0);
        entries.into_iter().map(|entry| entry.kind).collect()
    }

    /// The unit passed, with one certificate that it holds, and nothing is left open.
    async fn is_done(&self) {
        let ledger = self.open();
        assert_eq!(ledger.open_attempts().await.unwrap(), []);
        assert_eq!(
            ledger.units().await.unwrap()[0].verdict,
            Some(Verdict::Passed)
        );
        let rows = ledger.reservations().await.unwrap();
        let count = |state| rows.iter().filter(|row| row.state == state).count();
        assert_eq!(count(ReservationState::Signed), 1, "{rows:?}");
        assert_eq!(count(ReservationState::Reserved), 0, "{rows:?}");
        let all = rows.iter().map(|row| row.tbs_sha256.to_string());
        self.factory.reserved.lock().unwrap().extend(all);
        assert!(rows.iter().all(|row| row.purpose == Purpose::Leaf));

        let outbox = ledger.outbox(Default::default()).await.unwrap();
        let [row] = &outbox[..] else {
            panic!("{outbox:?}");
        };
        let EnrolledIdentity::X509 { certificate } = &row.enrollment.identity else {
            panic!("{row:?}");
        };
        ledger.close().await.unwrap();
        let device = self.bench.device.lock().unwrap();
        assert!(device.sealed());
        assert_eq!(device.certificates()[0], certificate.0);
        assert_eq!(verify(&self.path()).unwrap().damages, []);
    }
}

fn ends(kind: &str) -> bool {
    ["passed", "recognised", "failed", "errored", "interrupted"].contains(&kind)
}
