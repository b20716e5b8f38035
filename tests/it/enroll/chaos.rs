//! Everything at once: every fault of the cloud, enrollers killed at any moment, two beside one another; and at the end
//! the cloud holds what passed, each record created once, and the share was never passed.

use super::{Line, real_clock, stands, x509};
use dps_station::fixtures::dps::{Faults, Trouble};
use dps_station::fixtures::scenario::Chance;
use dps_station::ledger::OutboxState;
use dps_station::provision::batch::Status;
use dps_station::provision::event::{Enrollment, Event};
use futures_util::future::join_all;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use strum::IntoEnumIterator;

/// Operations a minute: what `station.toml` has, and what the emulated service takes.
const SHARE: u32 = 1_000;
/// The service counts by the minute; in milliseconds.
const MINUTE_MS: i64 = 60_000;
/// How long an enroller may do nothing that the service sees.
const STILL_MAX: Duration = Duration::from_secs(240);
/// How often is looked what has arrived.
const LOOK: Duration = Duration::from_millis(5);
/// Enrollers, one after the other, that may end without having finished once nobody kills them any more.
const RUNS_MAX: usize = 20;
/// How old the charges are that a line begins with.
const CHARGED_BEFORE_MS: i64 = 53_000;
/// Of so many units, one did not pass; every second one of those is in the cloud already.
const FAILED_EVERY: u32 = 20;

/// Events that are read at a time.
const PAGE: u32 = 1_000;
/// How much of what the enrollers said is shown, in bytes.
const SAID_MAX: usize = 4_000;

struct Plan {
    seed: u64,
    devices: u32,
    kills: u32,
    /// How often two enrollers are started at once, and killed both.
    pairs: u32,
    /// Operations that the station made shortly before.
    charged: u32,
}

#[test]
fn killed_and_doubled_under_every_fault_an_upload_keeps_its_promises() {
    chaos(&Plan {
        seed: 1,
        devices: 200,
        kills: 8,
        pairs: 2,
        charged: SHARE - 100,
    });
}

/// 2,000 units, 50 kills and 10 pairs where there are ten minutes; a tenth of that for each minute that there is.
#[test]
#[ignore = "takes SOAK_MINUTES or longer, 10 unless said otherwise; scripts/soak runs it"]
fn soak_killed_and_doubled_under_every_fault_a_long_upload_keeps_its_promises() {
    let minutes = std::env::var("SOAK_MINUTES").map_or(10, |text| text.parse().unwrap());
    let tenths = u32::clamp(minutes, 1, 10);
    chaos(&Plan {
        seed: 2,
        devices: 200 * tenths,
        kills: 5 * tenths,
        pairs: tenths,
        charged: 0,
    });
}

/// Everything that can go wrong, by chance.
fn every_fault(seed: u64) -> Faults {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/faults/bad_day.toml");
    let faults = Faults::read(Some(&file), &[format!("seed = {seed}")]).unwrap();
    let quota = faults.quota.unwrap();
    assert_eq!(quota.operations, SHARE);
    assert_eq!(quota.window_milliseconds, MINUTE_MS.unsigned_abs());
    let each = serde_json::to_value(&faults.chance).unwrap();
    assert_eq!(each.as_object().unwrap().len(), Trouble::iter().count());
    faults
}

fn chaos(plan: &Plan) {
    println!("seed {}", plan.seed);
    let began = Instant::now();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let wanted = wanted(plan);
    let line = runtime.block_on(prepared(&wanted));
    runtime.block_on(line.faults(every_fault(plan.seed)));
    println!(
        "{} units are judged after {:?}",
        plan.devices,
        began.elapsed()
    );
    let mut arrivals = Arrivals::of(&line);
    if plan.charged > 0 {
        arrivals
            .all
            .push((real_clock() - CHARGED_BEFORE_MS, plan.charged));
        let charged = Event::Charged {
            dps: "main".to_owned(),
            operations: plan.charged,
            sending: Vec::new(),
        };
        runtime.block_on(line.ledger.record(&charged)).unwrap();
    }
    strike(plan, &line, &mut arrivals);
    println!(
        "{} arrived when the last was killed, after {:?}",
        arrivals.total(),
        began.elapsed()
    );
    finish(&line, &mut arrivals);
    println!(
        "{} arrived when it was done, after {:?}",
        arrivals.total(),
        began.elapsed()
    );

    written_once(&line, &wanted);
    let states: Vec<_> = wanted.iter().map(|w| (&w.enrollment, w.state())).collect();
    runtime.block_on(stands(&line.ledger, line.dir.path(), &states));
    within_the_share(&arrivals.all);
    let charged = runtime.block_on(charged(&line));
    let arrived: u32 = arrivals.all.iter().map(|(_, operations)| operations).sum();
    assert!(
        arrived <= charged,
        "{arrived} arrived, {charged} were charged"
    );

    runtime.block_on(line.faults(Faults::default()));
    let ended = crate::support::run(&mut line.station(&["reconcile", "--json"]));
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    runtime.block_on(line.cloud.stop());
}

/// All operations that are charged on record.
async fn charged(line: &Line) -> u32 {
    let (mut next, mut charged) = (1, 0);
    loop {
        let events = line.ledger.all_events(next, PAGE).await.unwrap();
        let Some(last) = events.last() else {
            return charged;
        };
        next = last.seq + 1;
        for recorded in &events {
            if let Event::Charged { operations, .. } = &recorded.event {
                charged += operations;
            }
        }
    }
}

/// What must become of a unit's record.
struct Wanted {
    enrollment: Enrollment,
    status: Status,
    /// Whether it was in the cloud before.
    there: bool,
}

impl Wanted {
    fn state(&self) -> OutboxState {
        match self.status {
            Status::Enabled => OutboxState::Enrolled,
            Status::Disabled => OutboxState::Disabled,
        }
    }
}

fn wanted(plan: &Plan) -> Vec<Wanted> {
    let of = |number: u32| Wanted {
        enrollment: x509(number),
        status: match number % FAILED_EVERY {
            0 => Status::Disabled,
            _ => Status::Enabled,
        },
        there: number.is_multiple_of(2 * FAILED_EVERY),
    };
    (0..plan.devices).map(of).collect()
}

/// A line whose units are judged and wait to be enrolled; by its clock, that was a while ago.
async fn prepared(wanted: &[Wanted]) -> Line {
    let line = Line::with_clock(|| real_clock() - CHARGED_BEFORE_MS).await;
    line.configure("");
    // Together, so that they share the ledger's commits.
    let judged = wanted.iter().map(async |wanted| {
        match wanted.status {
            Status::Enabled => line.pass(&wanted.enrollment).await,
            Status::Disabled => line.fail(&wanted.enrollment).await,
        }
        if wanted.there {
            line.put(&[(&wanted.enrollment, Status::Enabled)]).await;
        }
    });
    join_all(judged).await;
    line
}

/// Kills enrollers, alone and in pairs, each after some more operations have arrived.
fn strike(plan: &Plan, line: &Line, arrivals: &mut Arrivals) {
    let mut chance = Chance::new(plan.seed, 1);
    let strikes = u64::from(plan.kills + plan.pairs);
    // About two operations a record, so that there is work left for each.
    let most = (3 * u64::from(plan.devices) / 2 / strikes).max(2);
    let mut left = VecDeque::from(vec![1; plan.kills as usize]);
    for pair in 0..plan.pairs {
        left.insert((pair * plan.kills / plan.pairs.max(1)) as usize, 2);
    }
    for together in left {
        let mut enrollers: Vec<_> = (0..together).map(|_| enroller(line)).collect();
        let mut target = arrivals.total() + 1 + chance.draw() % most;
        if together > 1 && plan.charged > 0 && arrivals.total() < u64::from(SHARE) {
            target = u64::from(SHARE) + 1 + chance.draw() % most; // both come to where there is no room
        }
        arrivals.wait(|arrivals| {
            let ended = enrollers.iter_mut().all(|e| ended(e).is_some());
            ended || arrivals.total() >= target
        });
        for enroller in &mut enrollers {
            let _ = enroller.kill(); // it may have ended
            enroller.wait().unwrap();
        }
    }
}

/// Lets enrollers come to their end, until one has nothing left to do.
fn finish(line: &Line, arrivals: &mut Arrivals) {
    for _ in 0..RUNS_MAX {
        let mut enroller = enroller(line);
        let mut status = None;
        arrivals.wait(|_| {
            status = ended(&mut enroller);
            status.is_some()
        });
        if status.is_some_and(|status| status.success()) {
            return;
        }
    }
    panic!("not done after {RUNS_MAX} runs: {}", said(line));
}

fn enroller(line: &Line) -> Child {
    let path = line.dir.path().join("said");
    let mut log = OpenOptions::new();
    let log = log.create(true).append(true).open(path).unwrap();
    let mut command = line.station(&["enroll"]);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap());
    command.stderr(log).spawn().unwrap()
}

fn ended(enroller: &mut Child) -> Option<ExitStatus> {
    enroller.try_wait().unwrap()
}

/// The end of what the enrollers said.
fn said(line: &Line) -> String {
    let said = fs::read_to_string(line.dir.path().join("said")).unwrap_or_default();
    let first = said.len().saturating_sub(SAID_MAX);
    String::from_utf8_lossy(&said.as_bytes()[first..]).into_owned()
}

/// What arrived at the service: when, in milliseconds, and how many operations.
struct Arrivals {
    log: BufReader<File>,
    line: String,
    all: Vec<(i64, u32)>,
    looked: Instant,
}

impl Arrivals {
    /// From now on.
    fn of(line: &Line) -> Self {
        let path = line.dir.path().join("dps/arrivals.jsonl");
        let mut arrivals = Self {
            log: BufReader::new(File::open(path).unwrap()),
            line: String::new(),
            all: Vec::new(),
            looked: Instant::now(),
        };
        arrivals.look();
        arrivals.all.clear();
        arrivals
    }

    fn look(&mut self) {
        while self.log.read_line(&mut self.line).unwrap() > 0 && self.line.ends_with('\n') {
            let call: Value = serde_json::from_str(&self.line).unwrap();
            let operations = u32::try_from(call["operations"].as_u64().unwrap()).unwrap();
            self.all.push((call["atMs"].as_i64().unwrap(), operations));
            self.line.clear();
            self.looked = Instant::now();
        }
    }

    fn total(&self) -> u64 {
        self.all.iter().map(|(_, count)| u64::from(*count)).sum()
    }

    /// Waits until `done`; for no longer than an enroller may be still.
    fn wait(&mut self, mut done: impl FnMut(&Self) -> bool) {
        self.looked = Instant::now();
        loop {
            self.look();
            if done(self) {
                return;
            }
            assert!(
                self.looked.elapsed() < STILL_MAX,
                "nothing arrives any more"
            );
            std::thread::sleep(LOOK);
        }
    }
}

/// Each record was created once, and written over only where it had to be disabled.
fn written_once(line: &Line, wanted: &[Wanted]) {
    let text = fs::read_to_string(line.dir.path().join("dps/writes.jsonl")).unwrap();
    let mut found: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for write in text.lines() {
        let write: Value = serde_json::from_str(write).unwrap();
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        let status = word(&write["content"]["provisioningStatus"]);
        let id = word(&write["registrationId"]);
        found
            .entry(id)
            .or_default()
            .push((word(&write["op"]), status));
    }
    let expected = |wanted: &Wanted| {
        let id = wanted.enrollment.registration_id.to_string();
        let writes: &[_] = match (wanted.status, wanted.there) {
            (Status::Enabled, _) => &[("create", "enabled")],
            (Status::Disabled, false) => &[("create", "disabled")],
            (Status::Disabled, true) => &[("create", "enabled"), ("update", "disabled")],
        };
        let writes = writes
            .iter()
            .map(|(op, status)| ((*op).to_owned(), (*status).to_owned()));
        (id, writes.collect())
    };
    let expected: BTreeMap<String, Vec<_>> = wanted.iter().map(expected).collect();
    for (id, writes) in &expected {
        assert_eq!(found.get(id), Some(writes), "{id}");
    }
    assert_eq!(found.len(), expected.len());
}

/// In no minute, wherever it begins, more arrived than the share.
fn within_the_share(arrivals: &[(i64, u32)]) {
    let mut most = (0, 0);
    for (first, (begin_ms, _)) in arrivals.iter().enumerate() {
        let within = arrivals[first..].iter();
        let within = within.take_while(|(at_ms, _)| at_ms - begin_ms < MINUTE_MS);
        let count: u32 = within.map(|(_, count)| count).sum();
        most = most.max((count, *begin_ms));
    }
    println!("most in a minute: {} of {SHARE}", most.0);
    assert!(
        most.0 <= SHARE,
        "{} in the minute from {} ms",
        most.0,
        most.1
    );
}
