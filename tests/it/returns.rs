//! Units that come back by themselves: one that keeps starting anew is one fault, whatever it does to the bay's port.

use super::codes::books::Books;
use super::naming::place::{Hall, Place};
use super::plant::Plant;
use super::scenarios::line::in_a_process_with_an_hsm;
use dps_station::fixtures::device::SharedDevice;
use dps_station::fixtures::pty::Pty;
use dps_station::fixtures::scenario::Flaw;
use dps_station::ledger::{OutboxState, ReservationState, verify};
use dps_station::provision::event::Event;
use dps_station::provision::fault::{Blame, Fault};
use dps_station::provision::verdict::Verdict;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

/// So often a unit starts anew after its last event is on record, and nothing more may come of it.
const MORE_STARTS: usize = 12;
/// How long the starts that a test waits for may take, on a machine that does much else.
const STARTS_MAX: Duration = Duration::from_secs(120);
/// How long a unit is away that a person has taken out.
const AWAY: Duration = Duration::from_secs(11);

/// A unit that starts anew by itself, for ever.
struct Restless {
    task: JoinHandle<io::Result<()>>,
    starts: Arc<AtomicUsize>,
}

/// How it does so.
#[derive(Clone, Copy)]
struct Habit {
    /// The longest time from one start to the next.
    every: Duration,
    /// The most that it answers from one start to the next; a job takes twenty.
    answers: usize,
    /// Whether the port leaves meanwhile, and comes back under another number; else it stays.
    port_leaves: bool,
}

impl Restless {
    fn plug(unit: &SharedDevice, port: PathBuf, habit: Habit) -> Self {
        let starts = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(run(Arc::clone(unit), port, habit, Arc::clone(&starts)));
        Self { task, starts }
    }

    /// Waits until it has started so often more.
    async fn starts(&self, count: usize) {
        let wanted = self.starts.load(Ordering::Relaxed) + count;
        let late = Instant::now() + STARTS_MAX;
        while self.starts.load(Ordering::Relaxed) < wanted {
            assert!(Instant::now() < late, "it starts anew no more");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn pull(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn run(
    unit: SharedDevice,
    port: PathBuf,
    habit: Habit,
    starts: Arc<AtomicUsize>,
) -> io::Result<()> {
    let mut pty = Pty::open(&port)?;
    let mut buffer = [0; 1024];
    loop {
        let over = Instant::now() + habit.every;
        for _ in 0..habit.answers {
            let count = tokio::select! {
                count = pty.read(&mut buffer) => count?,
                () = sleep_until(over) => break,
            };
            let output = unit.lock().unwrap().handle(&buffer[..count]);
            pty.write_all(&output).await?;
            if unit.lock().unwrap().wants_restart() {
                break;
            }
        }
        match habit.port_leaves {
            // The former one is open until the next one is made: the numbers cannot be the same.
            true => pty = Pty::open(&port)?,
            false => pty.discard_input()?,
        }
        unit.lock().unwrap().restart()?;
        pty.write_all(b"*** Booting ***\r\n").await?;
        starts.fetch_add(1, Ordering::Relaxed);
    }
}

/// All that the ledger has of attempts.
async fn on_record(hall: &Hall) -> Vec<Event> {
    let events = hall.line.ledger.all_events(1, 10_000).await.unwrap();
    events.into_iter().map(|recorded| recorded.event).collect()
}

/// The faults that units got as their verdicts.
fn verdicts(events: &[Event]) -> Vec<&str> {
    let fault = |event: &Event| match event {
        Event::Failed { fault, .. } | Event::Errored { fault } => Some(fault.code().to_owned()),
        _ => None,
    };
    let found = events.iter().filter_map(fault);
    found.map(|code| &*code.leak()).collect()
}

fn attempts(events: &[Event]) -> usize {
    let arrived = |event: &&Event| matches!(event, Event::Arrived { .. });
    events.iter().filter(arrived).count()
}

/// Takes part in the bay until the unit has its verdict, then has the unit start often: nothing may come of that.
async fn judged_once(hall: &Hall, place: &mut Place, unit: &Restless, codes: &[&str]) {
    loop {
        let events = place.stay().await;
        println!("{:?}", events.last());
        let last = events.last();
        if matches!(last, Some(Event::Failed { .. } | Event::Errored { .. })) {
            break;
        }
    }
    let before = on_record(hall).await;
    assert_eq!(verdicts(&before), codes, "{before:?}");
    place.look_away_while(unit.starts(MORE_STARTS)).await;
    let after = on_record(hall).await;
    assert_eq!(after, before, "nothing more");
}

fn signed(plant: &Plant) -> u64 {
    plant.signer.hsm.meter().signatures
}

/// It never gets through its job. Each bay has another kind of port.
#[test]
fn a_unit_that_restarts_for_ever_in_its_job_is_one_fault() {
    in_a_process_with_an_hsm(
        "returns::a_unit_that_restarts_for_ever_in_its_job_is_one_fault",
        |plant| async move {
            for port_leaves in [false, true] {
                let hall = Hall::with(&plant, |_| ());
                let before = signed(&plant);
                let mut place = match port_leaves {
                    true => hall.open("1"),
                    false => hall.open_fixed("1"),
                };
                let device = hall.own("GW-A");
                let habit = Habit {
                    every: Duration::from_millis(500),
                    answers: 8,
                    port_leaves,
                };
                let unit = Restless::plug(&device, hall.port("1"), habit);
                judged_once(&hall, &mut place, &unit, &["keeps_restarting"]).await;
                let events = on_record(&hall).await;
                assert_eq!(attempts(&events), 4, "{events:?}");
                let Some(Event::Failed { fault, .. }) = events.last() else {
                    panic!("{events:?}");
                };
                assert_eq!(fault.blame(), Blame::Device);
                assert!(matches!(fault, Fault::KeepsRestarting { times: 3, .. }));
                assert!(signed(&plant) - before <= 1, "signed again");
                let books = Books::of(&hall.line.ledger).await;
                assert_eq!(books.units, [Some(Verdict::Failed)]);
                assert_eq!(books.outbox.len(), books.reservations.len());

                // It was taken out, and is sound when it comes again.
                unit.pull().await;
                place.look_away_while(sleep(AWAY)).await;
                place.plug_firmly(&device);
                let events = place.stay().await;
                assert_eq!(events.last().unwrap().kind(), "passed", "{events:?}");
                place.close().await;
                assert_eq!(verify(&hall.ledger()).unwrap().damages, []);
            }
        },
    );
}

/// It has a FAIL of another kind, and a certificate that is to be disabled.
#[test]
fn a_unit_that_restarts_for_ever_after_its_verdict_gets_no_other_until_a_person_has_seen_it() {
    in_a_process_with_an_hsm(
        "returns::a_unit_that_restarts_for_ever_after_its_verdict_gets_no_other_until_a_person_has_seen_it",
        |plant| async move {
            let hall = Hall::with(&plant, |_| ());
            let before = signed(&plant);
            let mut place = hall.open_fixed("1");
            let forgets = Flaw::SettingChangedAtReset("dps/id_scope".to_owned());
            let device = hall.flawed("GW-A", forgets);
            let habit = Habit {
                every: Duration::from_secs(4),
                answers: usize::MAX,
                port_leaves: false,
            };
            let unit = Restless::plug(&device, hall.port("1"), habit);
            while !matches!(place.stay().await.last(), Some(Event::Failed { .. })) {}
            let events = on_record(&hall).await;
            assert_eq!(verdicts(&events), ["does_not_hold"]);
            place.look_away_while(unit.starts(3)).await;
            assert_eq!(on_record(&hall).await, events, "nothing more");

            place.scans.acknowledge();
            let again = place.stay().await;
            assert_eq!(again.first().unwrap().kind(), "arrived");
            assert_eq!(signed(&plant) - before, 1);
            let books = Books {
                units: vec![Some(Verdict::Failed)],
                reservations: vec![ReservationState::Signed],
                outbox: vec![OutboxState::DisablePending],
                ..Books::default()
            };
            assert_eq!(Books::of(&hall.line.ledger).await, books);
            unit.pull().await;
            place.close().await;
        },
    );
}

/// A unit that passed is left alone.
#[test]
fn a_unit_that_restarts_after_its_pass_keeps_it() {
    in_a_process_with_an_hsm(
        "returns::a_unit_that_restarts_after_its_pass_keeps_it",
        |plant| async move {
            let hall = Hall::with(&plant, |_| ());
            let mut place = hall.open_fixed("1");
            let device = hall.own("GW-A");
            place.plug_firmly(&device);
            let events = place.stay().await;
            assert_eq!(events.last().unwrap().kind(), "passed", "{events:?}");
            let before = on_record(&hall).await;
            for _ in 0..3 {
                device.lock().unwrap().restart().unwrap();
                place.look_away_while(sleep(Duration::from_secs(1))).await;
            }
            assert_eq!(on_record(&hall).await, before);
            place.close().await;
        },
    );
}
