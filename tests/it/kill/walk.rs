//! A walk over every boundary between two events of a device's way, and every second boundary after recovery: a station
//! that stops there leaves a record from which the next one goes on.
//!
//! All is real but the kill itself: bay, ledger, and a simulated device behind a pseudo-terminal. What else there is, and
//! what must have become of a device in the end, is its factory's matter.

use crate::link::bench::{Bench, Plug};
use crate::plant;
use crate::support::entries;
use dps_station::bay::{Bay, Line};
use dps_station::fixtures::device::{Cable, Device};
use dps_station::ledger::{OutboxRow, ReservationRow, verify};
use dps_station::link::LinkOptions;
use dps_station::provision::floor::Report;
use dps_station::provision::health::LinkLimits;
use dps_station::provision::verdict::Verdict;
use dps_station::station::close_open_attempts;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Walks at a time: most of each is waiting for a device.
const AT_A_TIME: usize = 12;
/// Reports that a bay gets rid of while nobody hears them.
const ROOM: usize = 1;
/// How often the ledger is looked at while a station is on its way.
const LOOK: Duration = Duration::from_millis(5);
/// How long a station may take to where it is stopped.
const STOP_MAX: Duration = Duration::from_secs(30);

/// What makes devices of one kind.
pub trait Factory: Send + Sync + 'static {
    /// What a device has that is not in its flash.
    type Chip: Send + Sync;
    /// The way of a device that nothing disturbs: the events of each commit.
    const WAY: &[&[&str]];

    /// The chip of a new device.
    fn chip(&self) -> Self::Chip;
    /// The device with this flash and this chip as it is when it gets power.
    fn power_on(&self, flash: &Path, chip: &Self::Chip) -> Device;
    /// A line with its ledger in this file.
    fn line(&self, ledger: &Path) -> Line;
    /// Checks what has become of a device that passed.
    fn check(&self, made: &Made, chip: &Self::Chip);
}

/// What is left of the making of one device.
pub struct Made<'a> {
    pub device: &'a Device,
    pub enrolled: &'a OutboxRow,
    pub reservations: &'a [ReservationRow],
}

/// Walks a device past nothing, and then devices past everything.
pub async fn walk_all<F: Factory>(factory: &Arc<F>) {
    let undisturbed = Unit::new(factory).await;
    assert_eq!(undisturbed.start(None).await, Reached::End);
    let way = F::WAY.concat();
    assert_eq!(undisturbed.kinds(), way);
    undisturbed.is_done().await;

    let mut walks = JoinSet::new();
    let after = commits::<F>().filter(|&end| end < way.len());
    let after = after.map(Stop::After).collect::<Vec<_>>().into_iter();
    for first in after.chain((1..=way.len()).map(Stop::Before)) {
        if walks.len() == AT_A_TIME {
            walks.join_next().await.unwrap().unwrap();
        }
        walks.spawn(walk(Arc::clone(factory), first));
    }
    while let Some(walked) = walks.join_next().await {
        walked.unwrap();
    }
}

/// How many events are on record after each commit of an undisturbed way.
fn commits<F: Factory>() -> impl Iterator<Item = usize> {
    F::WAY.iter().scan(0, |events, commit| {
        *events += commit.len();
        Some(*events)
    })
}

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

/// Stops a unit's first station at `first`, its second at each place that it comes to, and lets the third go on.
async fn walk<F: Factory>(factory: Arc<F>, first: Stop) {
    for second in 1.. {
        let mut unit = Unit::new(&factory).await;
        assert_eq!(unit.start(Some(first)).await, Reached::Stop, "{first:?}");
        unit.nothing_is_done_before_its_record(first);
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

/// One device in one bay, and the ledger of its stations.
struct Unit<F: Factory> {
    factory: Arc<F>,
    chip: F::Chip,
    bench: Bench,
    plug: Option<Plug>,
}

impl<F: Factory> Unit<F> {
    async fn new(factory: &Arc<F>) -> Self {
        let chip = factory.chip();
        let bench = Bench::of(|flash| factory.power_on(flash, &chip));
        let plug = bench.plug_in(Cable::uart(&bench.port())).await;
        Self {
            factory: Arc::clone(factory),
            chip,
            bench,
            plug: Some(plug),
        }
    }

    /// As when the rig is killed too.
    async fn lose_power(&mut self) {
        if let Some(plug) = self.plug.take() {
            plug.pull().await;
        }
        let device = self.factory.power_on(&self.bench.flash(), &self.chip);
        *self.bench.device.lock().unwrap() = device;
        self.plug = Some(self.bench.plug_in(Cable::uart(&self.bench.port())).await);
    }

    fn path(&self) -> PathBuf {
        self.bench.dir.path().join("ledger.sqlite")
    }

    /// Starts a station, and stops it there, or when the attempt has ended.
    async fn start(&self, stop: Option<Stop>) -> Reached {
        let line = Arc::new(self.factory.line(&self.path()));
        let ledger = line.ledger.clone();
        let before = self.kinds().len();
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
            // What was to become durable together with an event that is refused is not on record either.
            assert!(reached == Reached::End || self.kinds().len() <= allowed);
            self.refuse_no_more();
        }
        ledger.close().await.unwrap();
        reached
    }

    /// Serves the bay until the ledger refuses an event or the attempt ends; with a gate, until so many of its events
    /// are on record. In the end nothing of it goes on, as after a kill.
    async fn serve(&self, line: Arc<Line>, gate: Option<usize>) -> Reached {
        let before = self.kinds().len();
        // It lives until the bay has ended: one whom nobody can hear is held up by nothing.
        let (reports, mut said) = mpsc::channel(ROOM);
        let (_go, stop) = watch::channel(false);
        let mut bay = tokio::spawn(self.bay(line, reports).run(stop));
        let watched = async {
            match gate {
                Some(events) => self.hold(&mut said, before, events).await,
                None => self.listen(&mut said).await,
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
    async fn listen(&self, said: &mut mpsc::Receiver<Report>) -> Reached {
        loop {
            if let Report::Event { recorded, .. } = heard(said).await
                && ends(recorded.event.kind())
            {
                return Reached::End;
            }
        }
    }

    /// Hears as much of what the bay says as makes it stand between the record of its `events`-th event and the next
    /// effect: it cannot tell of that event. `before`: how many events were on record when the bay began.
    async fn hold(
        &self,
        said: &mut mpsc::Receiver<Report>,
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
        while !heard_enough(&heard(said).await) {}
        for _ in 0..events.saturating_sub(1 + ROOM) {
            heard(said).await;
        }
        loop {
            let kinds = self.kinds();
            if kinds.len() > before && ends(kinds.last().unwrap()) {
                return Reached::End;
            }
            if kinds.len() >= before + events {
                return Reached::Stop;
            }
            tokio::time::sleep(LOOK).await;
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

    /// Where its first station was stopped, whole commits are on record, and nothing was done to the device that should
    /// have waited for the next.
    fn nothing_is_done_before_its_record(&self, stop: Stop) {
        let allowed = match stop {
            Stop::After(events) => events,
            Stop::Before(event) => event - 1,
        };
        let kinds = self.kinds();
        let whole = commits::<F>().filter(|&end| end <= allowed).max();
        assert_eq!(kinds.len(), whole.unwrap_or(0), "{stop:?}: {kinds:?}");
        let on_record = |kind: &str| kinds.iter().any(|recorded| recorded == kind);
        let device = self.bench.device.lock().unwrap();
        let touched = !device.executed().is_empty();
        assert!(on_record("accepted") || !touched, "{stop:?}");
        let certified = !device.certificates().is_empty();
        assert!(on_record("signed") || !certified, "{stop:?}");
        let written = !device.holding().id_scope.is_empty();
        assert!(on_record("registration_id_derived") || !written, "{stop:?}");
        assert!(on_record("proved") || !device.sealed(), "{stop:?}");
    }

    /// The unit passed, once, is enrolled once, and nothing is left open.
    async fn is_done(&self) {
        let ledger = plant::ledger(&self.path());
        assert_eq!(ledger.open_attempts().await.unwrap(), []);
        assert_eq!(
            ledger.units().await.unwrap()[0].verdict,
            Some(Verdict::Passed)
        );
        let kinds = self.kinds();
        let passes = kinds.iter().filter(|kind| *kind == "passed");
        assert_eq!(passes.count(), 1, "{kinds:?}");
        let outbox = ledger.outbox(Default::default()).await.unwrap();
        let [enrolled] = &outbox[..] else {
            panic!("{outbox:?}");
        };
        let reservations = ledger.reservations().await.unwrap();
        ledger.close().await.unwrap();
        assert_eq!(verify(&self.path()).unwrap().damages, []);
        let device = self.bench.device.lock().unwrap();
        assert!(device.sealed());
        let made = Made {
            device: &device,
            enrolled,
            reservations: &reservations,
        };
        self.factory.check(&made, &self.chip);
    }
}

/// What the bay says next; never, where it has stopped and says why.
async fn heard(said: &mut mpsc::Receiver<Report>) -> Report {
    match said.recv().await {
        Some(report) => report,
        None => std::future::pending().await,
    }
}

fn ends(kind: &str) -> bool {
    ["passed", "recognised", "failed", "errored", "interrupted"].contains(&kind)
}
