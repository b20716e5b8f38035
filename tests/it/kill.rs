//! `kill -9` at any moment, then the same command again: nothing is lost, signed twice or enrolled twice.

mod boundaries;
mod tpm;
mod walk;

use crate::support::{Entry, Factory, Place, Running, bodies, entries, run, signed_digests};
use rustix::process::{Signal, kill_process};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

/// How long a station may take until the event that it is to be killed after.
const EVENT_MAX: Duration = Duration::from_secs(60);
/// How often the ledger is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(1);
/// The longest that a station lives on after that event, in microseconds.
const LATER_MAX_US: u64 = 4_000;
/// Devices of each factory: two a bay.
const DEVICES: u16 = 8;

/// Every kind of event of a line that makes devices of both kinds and is disturbed by nothing but kills.
const KINDS: [&str; 20] = [
    "arrived",
    "identified",
    "interrupted",
    "accepted",
    "link_measured",
    "key_read",
    "endorsement_read",
    "registration_id_derived",
    "serial_reserved",
    "signed",
    "written",
    "restarted",
    "read_back",
    "proved",
    "sealed",
    "passed",
    "shift_opened",
    "shift_closed",
    "charged",
    "enrolled",
];

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Whom {
    Station,
    StationAndRig,
}
use Whom::{Station, StationAndRig};

/// The moments at which one factory is struck, one start of the station after the other: shortly after the first event
/// of a kind, which is about a device or about the line itself.
type Moments = &'static [(&'static str, About, Whom)];

#[derive(Clone, Copy, Debug, PartialEq)]
enum About {
    Device,
    Line,
}
use About::{Device, Line};

/// What comes only once in a factory comes first, or long after what comes before it: a station that dies a little late
/// must not have it behind itself.
const FACTORIES: [Moments; 3] = [
    &[
        ("serial_reserved", Line, Station),
        ("signed", Line, StationAndRig),
        ("arrived", Line, Station),
        ("interrupted", Line, StationAndRig),
        ("identified", Device, StationAndRig),
        ("accepted", Device, Station),
        ("key_read", Device, StationAndRig),
        ("endorsement_read", Device, Station),
        ("enrolled", Device, Station),
    ],
    &[
        ("shift_opened", Line, Station),
        ("registration_id_derived", Device, StationAndRig),
        ("serial_reserved", Device, Station),
        ("serial_reserved", Device, StationAndRig),
        ("signed", Device, Station),
        ("written", Device, StationAndRig),
        ("restarted", Device, Station),
        ("charged", Line, StationAndRig),
    ],
    &[
        ("link_measured", Device, StationAndRig),
        ("read_back", Device, Station),
        ("proved", Device, StationAndRig),
        ("sealed", Device, Station),
        ("passed", Device, StationAndRig),
        ("shift_closed", Line, Station),
    ],
];

#[test]
fn killed_after_every_kind_of_event_the_line_ends_as_if_it_had_not_been() {
    let kinds = FACTORIES.iter().copied().flatten().map(|(kind, ..)| *kind);
    assert_eq!(kinds.collect::<BTreeSet<_>>(), BTreeSet::from(KINDS));
    std::thread::scope(|scope| {
        for (number, moments) in FACTORIES.into_iter().enumerate() {
            let place = match number {
                0 => Place::ordinary(),
                _ => Place::own(),
            };
            scope.spawn(move || strike(place, moments, &mut Random(number as u64)));
        }
    });
}

/// Strikes one factory at each of the moments, and lets it run to its end.
fn strike(place: Place, moments: Moments, random: &mut Random) {
    let factory = Factory::new(place, DEVICES);
    for (kind, about, whom) in moments {
        let fits =
            |entry: &Entry| entry.kind == *kind && (*about == Line || entry.device.is_some());
        let struck = strike_once(&factory, *whom, random, |seen| seen.iter().any(fits));
        assert!(struck, "the line ended before {kind} could be struck");
    }
    ends_as_if_nothing_had_been(&factory);
}

/// Strikes a hundred times at random moments, in factory after factory, or as often as `SOAK_MINUTES` allow.
/// `SOAK_SEED` repeats a run.
#[test]
#[ignore = "takes minutes: run by scripts/soak"]
fn soak_killed_at_random_moments() {
    const KILLS: usize = 100;
    let number = |name| Some(std::env::var(name).ok()?.parse().expect("a number"));
    let minutes = number("SOAK_MINUTES").unwrap_or(10);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = number("SOAK_SEED").unwrap_or(since.unwrap().as_secs());
    println!("SOAK_SEED={seed}");
    let random = &mut Random(seed);
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let mut kills = 0;
    let mut struck: BTreeMap<&str, usize> = BTreeMap::new();
    while kills < KILLS && Instant::now() < end {
        let factory = Factory::new(Place::ordinary(), DEVICES);
        loop {
            let whom = [Station, StationAndRig][random.below(2) as usize];
            // One of those that have been struck least.
            let count = |kind| struck.get(kind).copied().unwrap_or(0);
            let least = KINDS.map(count).into_iter().min();
            let rare: Vec<_> = KINDS
                .into_iter()
                .filter(|kind| Some(count(kind)) == least)
                .collect();
            let kind = rare[random.below(rare.len() as u64) as usize];
            let fits = |entry: &Entry| entry.kind == kind;
            if kills == KILLS || !strike_once(&factory, whom, random, |seen| seen.iter().any(fits))
            {
                break;
            }
            kills += 1;
            *struck.entry(kind).or_default() += 1;
        }
        ends_as_if_nothing_had_been(&factory);
    }
    println!("{kills} kills after {struck:?}");
    assert!(kills < KILLS || struck.len() == KINDS.len());
}

/// Starts the station, and kills it shortly after `now` is true of what it has recorded since it was started. False
/// when it ended, in good order, before that.
fn strike_once(
    factory: &Factory,
    whom: Whom,
    random: &mut Random,
    now: impl Fn(&[Entry]) -> bool,
) -> bool {
    let ledger = factory.ledger();
    let before = entries(&ledger, 0).last().map_or(0, |entry| entry.seq);
    let mut station = Running::start(&mut factory.demo());
    let mut rig = None;
    let deadline = Instant::now() + EVENT_MAX;
    // Only beside a station that has it open: a reader that comes first would make the shared index, as another user.
    let index = ledger.with_extension("sqlite-shm");
    while !(index.exists() && now(&entries(&ledger, before))) {
        rig = rig.or_else(|| factory.rig());
        if Instant::now() > deadline {
            let log = factory.text("rig/rig.log");
            panic!(
                "the line stands still: {:?}, and its rig says {log:?}",
                station.kill()
            );
        }
        if station.ended() {
            let ended = station.end();
            assert_eq!(ended.code(), Some(0), "{ended:?}");
            return false;
        }
        std::thread::sleep(LOOK);
    }
    std::thread::sleep(Duration::from_micros(random.below(LATER_MAX_US)));
    let ended = station.kill();
    if whom == StationAndRig {
        let rig = rig.expect("a rig lives before anything is recorded");
        kill_process(rig, Signal::KILL).unwrap();
    }
    ended.code().is_none()
}

/// Runs the line to its end: every device is assigned, and nothing was done twice on the way.
fn ends_as_if_nothing_had_been(factory: &Factory) {
    let ended = run(&mut factory.demo());
    let failed = bodies(&factory.ledger(), "failed");
    assert_eq!((ended.code(), &failed[..]), (Some(0), &[][..]), "{ended:?}");
    let summary = factory.json("summary.json");
    for count in ["passed", "enrolled", "assigned", "twin_read"] {
        assert_eq!(summary[count], DEVICES, "{count} of {summary}");
    }
    assert_eq!(factory.damages(), [] as [serde_json::Value; 0]);

    let reservations = factory.reservations();
    let mut signed = BTreeSet::new();
    for digest in signed_digests(&factory.spy_log()) {
        assert!(
            reservations.contains_key(&digest),
            "{digest} was not reserved"
        );
        assert!(signed.insert(digest.clone()), "{digest} was signed twice");
    }
    for (digest, line) in &reservations {
        let done = line["state"] == "signed";
        assert!(!done || signed.contains(digest), "{line} was never signed");
        assert_ne!(line["state"], "reserved", "{line} was left open");
    }

    let mut created = BTreeSet::new();
    for write in factory.json_lines("dps/writes.jsonl") {
        assert_eq!(write["op"], "create", "{write}");
        assert!(
            created.insert(write["registrationId"].to_string()),
            "{write} again"
        );
    }
    assert_eq!(created.len(), usize::from(DEVICES));
}

/// Numbers that look random and follow from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}
