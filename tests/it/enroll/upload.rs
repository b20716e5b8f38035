//! The upload as a program: it waits for the service and for people, has its turn alone, and says where it stands.

use super::*;
use crate::support::{Ended, Running, run};
use dps_station::ledger::{Charge, Room};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

/// Where the program finds the credential.
const CREDENTIAL: &str = "STATION_TEST_CREDENTIAL";

impl Line {
    /// The station as a program, on this line's ledger and a service at this port.
    fn program(&self, port: u16, share: u32, arguments: &[&str]) -> Command {
        let config = self.dir.path().join("station.toml");
        let ca_file = self.cloud.ca_file().display();
        let text = format!(
            "[station]\nid = \"S1\"\nsimulated = true\nledger = \"ledger.sqlite\"\n[[dps]]\nname = \"main\"\n\
             id_scope = \"0ne00000000\"\nglobal_endpoint = \"localhost\"\nshare = {share}\n\
             service_url = \"https://localhost:{port}\"\ncredential = \"env:{CREDENTIAL}\"\nca_file = \"{ca_file}\"\n"
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
        command.env(CREDENTIAL, self.cloud.connection_string());
        command.arg("--config").arg(config).args(arguments);
        command
    }

    fn enroll(&self, arguments: &[&str]) -> Command {
        let arguments = [&["enroll"], arguments].concat();
        self.program(self.cloud.port(), SHARE, &arguments)
    }
}

/// Runs a program to its end while the emulator goes on.
async fn ran(mut command: Command) -> Ended {
    tokio::task::spawn_blocking(move || run(&mut command))
        .await
        .unwrap()
}

/// The next line of a program's stdout, as an object.
async fn next(mut running: Running) -> (Running, Value) {
    tokio::task::spawn_blocking(move || {
        let line = running.line().expect("it goes on");
        let object = serde_json::from_str(&line).unwrap();
        (running, object)
    })
    .await
    .unwrap()
}

/// Waits until a program says that it waits for this.
async fn waits_for(mut running: Running, what: &str) -> (Running, Value) {
    loop {
        let (on, line) = next(running).await;
        if line["waits_for"] == what {
            return (on, line);
        }
        running = on;
    }
}

async fn ended(running: Running) -> Ended {
    tokio::task::spawn_blocking(|| running.end()).await.unwrap()
}

/// A port of this machine where nobody listens.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Leads from one port to another.
async fn lead(from: u16, to: u16) {
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let listener = TcpListener::bind(at(from)).await.unwrap();
    while let Ok((mut here, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut there = TcpStream::connect(at(to)).await.unwrap();
            let _ = copy_bidirectional(&mut here, &mut there).await; // either may hang up
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_waits_for_a_service_that_is_away_and_says_so() {
    let line = Line::new().await;
    let enrollments = line.pass_many(12).await;
    let port = free_port();
    let mut command = line.program(port, SHARE, &["enroll", "--json"]);
    let running = Running::start(&mut command);
    let (running, waits) = waits_for(running, "service").await;
    assert_eq!(waits["to_go"], 12, "{waits}");
    assert!(waits["seconds"].is_u64(), "{waits}");
    assert_eq!(waits["fault"]["code"], "dps_unreachable", "{waits}");
    let way = tokio::spawn(lead(port, line.cloud.port()));
    let ended = ended(running).await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert_eq!(ended.objects().last().unwrap()["enrolled"], 12);
    each_created_once(&line, &enrollments);
    way.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_and_refusals_for_a_while_end_no_upload() {
    let line = Line::new().await;
    let enrollments = line.pass_many(12).await;
    for faults in [
        Faults {
            fail: 6,
            ..Faults::default()
        },
        Faults {
            throttle: 6,
            retry_after_seconds: 0,
            ..Faults::default()
        },
    ] {
        line.faults(faults).await;
        let ended = ran(line.enroll(&[])).await;
        assert_eq!(ended.code(), Some(0), "{ended:?}");
        let calls = line.charges().await.len();
        assert!(calls > 6, "{calls}");
        line.pass(&x509(100)).await;
    }
    let one_more = [&enrollments[..], &[x509(100)]].concat();
    let created: BTreeSet<_> = line.writes().into_iter().map(|write| write.1).collect();
    assert!(created.len() >= 12 && created.len() <= one_more.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_asked_for_holds_for_the_next_process() {
    let line = Line::new().await;
    line.pass_many(2).await;
    line.faults(Faults {
        throttle: 1,
        retry_after_seconds: 3_000,
        ..Faults::default()
    })
    .await;
    let mut command = line.enroll(&["--json", "--wait"]);
    let running = Running::start(&mut command);
    let (running, _) = waits_for(running, "service").await;
    tokio::task::spawn_blocking(|| running.kill())
        .await
        .unwrap();
    let ended = ran(line.enroll(&[])).await;
    assert_eq!(ended.code(), Some(3), "{ended:?}");
    assert!(ended.stderr.contains("asked to be left alone"), "{ended:?}");
    assert_eq!(line.charges().await.len(), 1, "it was not called again");
}

#[tokio::test]
async fn what_only_a_person_can_change_ends_a_run_at_once() {
    let line = Line::new().await;
    line.pass_many(2).await;
    let untrusted = OddService::start(answer("200 OK", "", "")).await;
    let dps = line.other_dps(untrusted.url(), line.cloud.ca_file().to_owned());
    let summary = drain(&line.ledger, &dps, &terms(SHARE)).await;
    let fault = summary.fault.unwrap();
    assert_eq!(fault.code(), "dps_untrusted");
    assert_eq!(line.charges().await.len(), 1, "{fault:?}");
}

#[tokio::test]
async fn a_call_that_took_too_long_is_like_any_lost_answer() {
    let line = Line::new().await;
    let enrollments = line.pass_many(2).await;
    let odd = OddService::start(answer("408 Request Timeout", "", "")).await;
    let dps = line.other_dps(odd.url(), odd.ca_file());
    let fault = super::ended(&line, &dps, 2).await;
    assert_eq!(fault.code(), "dps_no_answer");
    assert_eq!(line.drain().await, enrolled(2));
    each_created_once(&line, &enrollments);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_drain_at_a_time_has_its_turn_and_the_next_follows_or_leaves() {
    let line = Line::new().await;
    let enrollments = line.pass_many(10).await;
    line.faults(Faults {
        throttle: 1,
        retry_after_seconds: 3_000,
        ..Faults::default()
    })
    .await;
    let mut command = line.enroll(&["--json", "--wait"]);
    let (first, _) = waits_for(Running::start(&mut command), "service").await;

    let leaves = ran(line.enroll(&[])).await;
    assert_eq!(leaves.code(), Some(1), "{leaves:?}");
    for said in ["station enroll", "process", "--wait"] {
        assert!(leaves.stderr.contains(said), "{said}: {leaves:?}");
    }
    let beside = drain(&line.ledger, &line.dps, &terms(SHARE)).await;
    assert_eq!(beside.fault.unwrap().code(), "upload_elsewhere");
    assert_eq!(line.charges().await.len(), 1, "they made no call");

    let mut command = line.enroll(&["--json", "--wait"]);
    let (follower, line_said) = waits_for(Running::start(&mut command), "turn").await;
    assert_eq!(line_said["to_go"], 10, "{line_said}");
    assert!(leaves.stderr.contains(&line_said["pid"].to_string()));
    tokio::task::spawn_blocking(|| first.kill()).await.unwrap();
    // It takes over, and leaves the service alone for as long as that asked the other.
    let (follower, _) = waits_for(follower, "service").await;
    assert_eq!(line.charges().await.len(), 1);
    tokio::task::spawn_blocking(|| follower.kill())
        .await
        .unwrap();
    let over = Event::ServiceBusy {
        dps: "main".to_owned(),
        pause_ms: 0,
    };
    line.ledger.record(&over).await.unwrap();
    assert_eq!(line.drain().await, enrolled(10));
    each_created_once(&line, &enrollments);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_pauses_an_upload_in_another_process_and_lets_it_go_on() {
    let line = Line::new().await;
    let enrollments = line.pass_many(200).await;
    line.faults(Faults {
        slow: u32::MAX,
        slow_milliseconds: 400,
        ..Faults::default()
    })
    .await;
    let mut command = line.enroll(&["--json"]);
    let (running, first) = next(Running::start(&mut command)).await;
    for key in [
        "dps",
        "done",
        "to_go",
        "refused",
        "per_minute",
        "share",
        "seconds_left",
        "waits_for",
        "seconds",
    ] {
        assert!(first.get(key).is_some(), "{key}: {first}");
    }
    let paused = ran(line.enroll(&["--pause", "--by", "Kim"])).await;
    assert_eq!(paused.code(), Some(0), "{paused:?}");
    let (running, waits) = waits_for(running, "person").await;
    assert_eq!(waits["by"], "Kim", "{waits}");
    // What was in flight is over by the next line but one.
    let (running, _) = next(running).await;
    let (running, before) = next(running).await;
    let charges = line.charges().await.len();
    let (running, after) = next(running).await;
    assert_eq!(before["done"], after["done"]);
    assert_eq!(line.charges().await.len(), charges, "no call was made");
    assert_eq!(after["waits_for"], "person");

    line.faults(Faults::default()).await;
    let resumed = ran(line.enroll(&["--resume", "--by", "Kim"])).await;
    assert_eq!(resumed.code(), Some(0), "{resumed:?}");
    let ended = ended(running).await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    each_created_once(&line, &enrollments);

    line.pass(&x509(500)).await;
    assert_eq!(ran(line.enroll(&["--pause"])).await.code(), Some(0));
    let leaves = ran(line.enroll(&[])).await;
    assert_eq!(leaves.code(), Some(1), "{leaves:?}");
    assert!(leaves.stderr.contains("is paused"), "{leaves:?}");
    let begun = drain(&line.ledger, &line.dps, &terms(SHARE)).await;
    assert_eq!(begun.fault.unwrap().code(), "upload_paused");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_reads_goes_on_while_an_upload_is_paused_but_not_while_the_service_is_busy() {
    let line = Line::new().await;
    let enrollments = line.pass_many(1).await;
    assert_eq!(ran(line.enroll(&["--pause"])).await.code(), Some(0));
    let program = |arguments: &[&str]| line.program(line.cloud.port(), SHARE, arguments);
    let shown = ran(line.enroll(&["--dry-run"])).await;
    assert_eq!(shown.code(), Some(0), "{shown:?}");
    let compared = ran(program(&["reconcile"])).await;
    assert_eq!(compared.code(), Some(0), "{compared:?}");
    let checked = ran(program(&["check", "--json"])).await.objects();
    let dps = checked.iter().find(|object| object["check"] == "dps main");
    assert_eq!(dps.unwrap()["ok"], true, "{checked:?}");
    line.all_stand(&enrollments, OutboxState::Pending).await;
    assert_eq!(line.writes(), []);

    let busy = Event::ServiceBusy {
        dps: "main".to_owned(),
        pause_ms: 3_000_000,
    };
    line.ledger.record(&busy).await.unwrap();
    let charges = line.charges().await.len();
    let compared = ran(program(&["reconcile"])).await;
    assert_eq!(compared.code(), Some(3), "{compared:?}");
    assert_eq!(line.charges().await.len(), charges, "no call was made");
}

#[tokio::test]
async fn two_processes_never_charge_more_than_the_share() {
    let line = Line::new().await;
    let open = || {
        Ledger::open(Options {
            path: line.dir.path().join("ledger.sqlite"),
            station: "S1".to_owned(),
            clock: real_clock,
            progress: |_| {},
            max_pages: None,
        })
        .unwrap()
    };
    let [one, other] = [open(), open()];
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..40 {
        let ledger = if number % 2 == 0 { &one } else { &other }.clone();
        tasks.spawn(async move { ledger.charge(reading(7, 100)).await.unwrap() });
    }
    let rooms = tasks.join_all().await;
    let made = |room: &&Room| matches!(room, Room::Made { operations: 7, .. });
    assert_eq!(rooms.iter().filter(made).count(), 14, "{rooms:?}");
    let charges = line.charges().await;
    assert_eq!(charges.iter().map(|charge| charge.1).sum::<u32>(), 98);
    // What is left has room for fewer.
    let fewer = Charge {
        fewer: true,
        ..reading(7, 100)
    };
    let rest = one.charge(fewer).await.unwrap();
    assert!(matches!(rest, Room::Made { operations: 2, .. }), "{rest:?}");
}

/// A charge for calls that send nothing.
fn reading(operations: u32, share: u32) -> Charge {
    Charge {
        dps: "main".to_owned(),
        share,
        operations,
        fewer: false,
        only_reads: false,
        leave: 0,
        sending: vec![],
    }
}

/// A clock that a test sets, in milliseconds since 1970.
static SET_CLOCK: AtomicI64 = AtomicI64::new(10_000_000);

fn set_clock() -> i64 {
    SET_CLOCK.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_clock_that_is_set_back_holds_an_upload_up_for_a_minute_and_not_for_ever() {
    let line = Line::with_clock(set_clock).await;
    let charge = async || line.ledger.charge(reading(10, 10)).await.unwrap();
    assert!(matches!(charge().await, Room::Made { .. }));
    assert_eq!(charge().await, Room::Full(61_000));
    SET_CLOCK.fetch_sub(3_600_000, Ordering::SeqCst);
    assert_eq!(charge().await, Room::Full(61_000));
    SET_CLOCK.fetch_add(60_000, Ordering::SeqCst);
    assert_eq!(charge().await, Room::Full(1_000));
    SET_CLOCK.fetch_add(1_000, Ordering::SeqCst);
    assert!(matches!(charge().await, Room::Made { .. }));
    // What was on record is found again by who opens the ledger anew.
    let again = Ledger::open(Options {
        path: line.dir.path().join("ledger.sqlite"),
        station: "S1".to_owned(),
        clock: set_clock,
        progress: |_| {},
        max_pages: None,
    });
    let again = again.unwrap();
    assert_eq!(again.charge(reading(1, 10)).await, Ok(Room::Full(61_000)));
}

#[tokio::test]
async fn a_call_that_was_answered_late_is_charged_again() {
    let line = Line::new().await;
    line.pass_many(1).await;
    line.faults(Faults {
        slow: 1,
        slow_milliseconds: 1_500,
        ..Faults::default()
    })
    .await;
    assert_eq!(line.drain().await, enrolled(1));
    let charges: Vec<_> = line.charges().await.iter().map(|c| (c.1, c.2)).collect();
    assert_eq!(charges, [(1, 1), (1, 0), (1, 0)]);
}

#[tokio::test]
async fn what_is_to_be_done_shows_in_pages_and_not_record_by_record() {
    let line = Line::new().await;
    let enrollments = line.pass_many(130).await;
    line.put(&[(&enrollments[0], Status::Enabled)]).await;
    let other = Enrollment {
        initial_desired: None,
        ..enrollments[1].clone()
    };
    line.put(&[(&other, Status::Enabled)]).await;
    let intents = foreseen(&line).await;
    assert_eq!(intents.len(), 130);
    assert_eq!(intents[0].1, Intent::Confirm);
    assert!(matches!(intents[1].1, Intent::Refuse(_)));
    assert!(intents[2..].iter().all(|(_, i)| *i == Intent::Create));
    // One page, and the one record that differs.
    let operations: u32 = line.charges().await.iter().map(|charge| charge.1).sum();
    assert_eq!(operations, 2);
}

/// What a program has read in all, in bytes, by files and sockets together; as it was seen last before its end.
async fn read_by(mut command: Command) -> u64 {
    let seen = std::sync::Arc::new(AtomicU64::new(0));
    let sees = std::sync::Arc::clone(&seen);
    tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        let io = format!("/proc/{}/io", child.id());
        while child.try_wait().unwrap().is_none() {
            let text = std::fs::read_to_string(&io).unwrap_or_default();
            let rchar = text.lines().find_map(|line| line.strip_prefix("rchar: "));
            if let Some(bytes) = rchar.and_then(|rchar| rchar.parse().ok()) {
                sees.fetch_max(bytes, Ordering::SeqCst);
            }
        }
        assert!(child.wait().unwrap().success());
    })
    .await
    .unwrap();
    seen.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_for_a_record_does_not_grow_with_the_outbox() {
    let mut each = Vec::new();
    for count in [60, 300] {
        let line = Line::new().await;
        line.pass_many(count).await;
        let enroll = line.program(line.cloud.port(), 1_000, &["enroll"]);
        each.push(read_by(enroll).await / u64::from(count));
    }
    assert!(each[1] < each[0] * 3 / 2, "{each:?}");
}
