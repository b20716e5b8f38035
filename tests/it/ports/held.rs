//! Another program at a bay's port: it is named, no unit is blamed, and the bay goes on when it has let go.

use crate::codes::books::Books;
use crate::naming::place::{Hall, Place, fault as fault_of};
use crate::scenarios::line::{in_a_process_with_an_hsm, options};
use crate::support;
use dps_station::fixtures::pty::Pty;
use dps_station::fixtures::scenario::Flaw;
use dps_station::ledger::{OutboxState, ReservationState, verify};
use dps_station::link::loopback::{self, LoopbackError};
use dps_station::link::port;
use dps_station::link::{LinkError, LinkOptions};
use dps_station::provision::event::Event;
use dps_station::provision::fault::{Blame, Fault, Holder};
use dps_station::provision::verdict::Verdict;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take to open the port, on a machine that does much else.
const OPEN_MAX: Duration = Duration::from_secs(20);

/// Another program that has a port open. Dropping it ends it.
struct Other(Child);

impl Other {
    /// A program that reads the port, and so takes away what the device says.
    async fn reading(port: &Path) -> Self {
        let mut cat = Command::new("cat");
        Self::start(cat.arg(port).stdin(Stdio::null()), port).await
    }

    /// A program that only has it open.
    async fn sitting(port: &Path) -> Self {
        let mut sleep = Command::new("sleep");
        let port_open = File::open(port).unwrap();
        Self::start(sleep.arg("1000").stdin(port_open), port).await
    }

    /// Returns when it has the port open.
    async fn start(command: &mut Command, port: &Path) -> Self {
        let other = Self(command.stdout(Stdio::null()).spawn().unwrap());
        let terminal = fs::canonicalize(port).unwrap();
        let began = Instant::now();
        loop {
            let files = fs::read_dir(format!("/proc/{}/fd", other.0.id())).unwrap();
            let mut files = files.flatten().map(|file| fs::read_link(file.path()));
            if files.any(|to| to.is_ok_and(|to| to == terminal)) {
                return other;
            }
            assert!(began.elapsed() < OPEN_MAX, "it does not open the port");
            tokio::task::yield_now().await;
        }
    }

    /// How a fault names it.
    fn is_named_by(&self, fault: &Fault, program: &str) {
        let holder = Holder {
            pid: self.0.id(),
            program: program.to_owned(),
        };
        let Fault::PortBusy { holder: found, .. } = fault else {
            panic!("{fault:?}");
        };
        assert_eq!(found.as_ref(), Some(&holder));
        assert_eq!(fault.blame(), Blame::Station);
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The unit passes now, and nothing else was ever recorded against it.
async fn passes(hall: &Hall, mut place: Place) {
    let events = place.stay().await;
    assert_eq!(events.last().unwrap().kind(), "passed", "{events:?}");
    place.close().await;
    let all = hall.line.ledger.all_events(0, 1_000).await.unwrap();
    let failed = |event: &&_| matches!(event, Event::Failed { .. });
    assert_eq!(all.iter().map(|e| &e.event).find(failed), None);
    let books = Books {
        units: vec![Some(Verdict::Passed)],
        reservations: vec![ReservationState::Signed],
        outbox: vec![OutboxState::Pending],
        ..Books::default()
    };
    assert_eq!(Books::of(&hall.line.ledger).await, books);
    assert_eq!(verify(&hall.ledger()).unwrap().damages, []);
}

#[test]
fn a_program_that_was_there_before_is_named_and_the_bay_opens_when_it_is_gone() {
    in_a_process_with_an_hsm(
        "ports::held::a_program_that_was_there_before_is_named_and_the_bay_opens_when_it_is_gone",
        |plant| async move {
            let hall = Hall::with(&plant, |_| ());
            let port = hall.port("1");
            let pty = Pty::open(&port).unwrap();
            let other = Other::reading(&port).await;
            let mut place = hall.open_fixed("1");
            other.is_named_by(&place.trouble().await, "cat");
            assert_eq!(hall.line.ledger.all_events(0, 10).await.unwrap(), []);
            drop(other);
            place.until_open().await;
            drop(pty);
            place.plug(&hall.own("GW-A"));
            passes(&hall, place).await;
        },
    );
}

#[test]
fn a_program_that_comes_in_the_middle_of_an_attempt_fails_no_unit() {
    in_a_process_with_an_hsm(
        "ports::held::a_program_that_comes_in_the_middle_of_an_attempt_fails_no_unit",
        |plant| async move {
            let hall = Hall::with(&plant, |_| ());
            let mut place = hall.open("1");
            place.plug_firmly(&hall.own("GW-A"));
            place.until_event("identified").await;
            let other = Other::reading(&hall.port("1")).await;
            let events = place.stay().await;
            let Some(Event::Errored { fault }) = events.last() else {
                panic!("{events:?}");
            };
            other.is_named_by(fault, "cat");
            other.is_named_by(&place.trouble().await, "cat");
            drop(other);
            place.until_open().await;
            passes(&hall, place).await;
        },
    );
}

#[test]
fn a_unit_that_fails_is_blamed_where_no_other_program_is() {
    in_a_process_with_an_hsm(
        "ports::held::a_unit_that_fails_is_blamed_where_no_other_program_is",
        |plant| async move {
            for (flaw, code) in [
                (Flaw::RequestUnsigned, "request_unsigned"),
                (Flaw::Model("X".to_owned()), "not_a_device_we_know"),
            ] {
                let hall = Hall::with(&plant, |_| ());
                let mut place = hall.open("1");
                place.plug_firmly(&hall.flawed("GW-A", flaw));
                // Until its reports are taken, the bay does not go on from having opened the port.
                place.until_it_reports().await;
                let other = Other::sitting(&hall.port("1")).await;
                let events = place.stay().await;
                assert_eq!(events.last().unwrap().kind(), "errored", "{events:?}");
                other.is_named_by(&place.trouble().await, "sleep");
                drop(other);
                place.until_open().await;
                let events = place.stay().await;
                let ended = (events.last().unwrap().kind(), fault_of(&events).code());
                assert_eq!(ended, ("failed", code), "{events:?}");
                place.close().await;
            }
        },
    );
}

#[test]
fn what_never_says_who_it_is_is_no_unit_while_another_program_reads_the_port() {
    in_a_process_with_an_hsm(
        "ports::held::what_never_says_who_it_is_is_no_unit_while_another_program_reads_the_port",
        |plant| async move {
            let hall = Hall::with(&plant, |_| ());
            let mut place = hall.open("1");
            let silent = Pty::open(&hall.port("1")).unwrap();
            place.until_open().await;
            let other = Other::reading(&hall.port("1")).await;
            other.is_named_by(&place.trouble().await, "cat");
            assert_eq!(hall.line.ledger.all_events(0, 10).await.unwrap(), []);
            drop(other);
            // With nobody else at the port it is the unit's own silence.
            let events = place.stay().await;
            assert_eq!(fault_of(&events).code(), "device_silent");
            drop(silent);
            place.close().await;
        },
    );
}

#[test]
fn a_program_that_opens_the_port_of_an_empty_bay_is_told_at_once() {
    in_a_process_with_an_hsm(
        "ports::held::a_program_that_opens_the_port_of_an_empty_bay_is_told_at_once",
        |plant| async move {
            let hall = Hall::with(&plant, |_| ());
            let pty = Pty::open(&hall.port("1")).unwrap();
            let mut place = hall.open_fixed("1");
            place.until_open().await;
            let other = Other::reading(&hall.port("1")).await;
            other.is_named_by(&place.trouble().await, "cat");
            drop(other);
            place.until_open().await;
            drop(pty);
            place.plug(&hall.own("GW-A"));
            passes(&hall, place).await;
        },
    );
}

#[test]
fn a_program_that_nobody_can_name_is_no_fault_of_the_unit_either() {
    in_a_process_with_an_hsm(
        "ports::held::a_program_that_nobody_can_name_is_no_fault_of_the_unit_either",
        |plant| async move {
            let hall = Hall::with(&plant, |_| ());
            let bad = hall.flawed("GW-A", Flaw::RequestUnsigned);
            let mut place = hall.open("1");
            place.plug_firmly(&bad);
            // Until its reports are taken, the bay does not go on from having opened the port.
            place.until_it_reports().await;
            // This program's own files are as little looked at as those that it may not see.
            let other = File::open(hall.port("1")).unwrap();
            let unnamed = |fault: &Fault| matches!(fault, Fault::PortBusy { holder: None, .. });
            let events = place.stay().await;
            assert!(
                matches!(events.last(), Some(Event::Errored { fault }) if unnamed(fault)),
                "{events:?}"
            );
            let fault = place.trouble().await;
            assert!(unnamed(&fault), "{fault:?}");
            drop(other);
            place.until_open().await;
            let events = place.stay().await;
            assert_eq!(fault_of(&events).code(), "request_unsigned");
            place.close().await;
        },
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loopback_test_says_who_has_the_port() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("port");
    let _pty = Pty::open(&path).unwrap();
    let other = Other::reading(&path).await;
    let tested = loopback::run(&path, &LinkOptions::default(), &Default::default()).await;
    let Err(LoopbackError::Link(LinkError::PortBusy { holder, .. })) = tested else {
        panic!("{tested:?}");
    };
    assert_eq!(holder.unwrap().pid, other.0.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_device_behind_a_pseudo_terminal_and_the_station_itself_are_no_other_programs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("port");
    // socat has one end of each of its two pseudo-terminals, and may have the other as well.
    let mut socat = Command::new("socat");
    socat.arg(format!("pty,raw,echo=0,link={}", path.display()));
    socat.arg("pty,raw,echo=0").stderr(Stdio::null());
    let _far_end = Other(socat.spawn().unwrap());
    let began = Instant::now();
    while !path.exists() {
        assert!(began.elapsed() < OPEN_MAX, "it makes no port");
        tokio::task::yield_now().await;
    }
    let mine = port::Port::open_alone(&path, &LinkOptions::default()).await;
    mine.unwrap();

    // A process that has both ends, as a simulated device may.
    let both = "import os,pty,sys,time; m,s=pty.openpty(); print(os.ttyname(s),flush=True); time.sleep(1000)";
    let mut python = Command::new("python3");
    let mut python = Other(
        python
            .args(["-c", both])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut name = String::new();
    let mut said = std::io::BufReader::new(python.0.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut said, &mut name).unwrap();
    let path = Path::new(name.trim());
    port::Port::open_alone(path, &LinkOptions::default())
        .await
        .unwrap();
    // Both exclude themselves only at their own terminals.
    let other = Other::sitting(path).await;
    assert_eq!(port::holder(path).await.unwrap().pid, other.0.id());
}

/// What `station check` says of the bays of a line.
fn checked(dir: &Path, bays: &[(&str, &Path)]) -> (Option<i32>, Vec<serde_json::Value>) {
    let mut text = "[station]\nid = \"line-1\"\nsimulated = true\nledger = \"ledger\"\n".to_owned();
    for (name, port) in bays {
        text += &format!("[[bay]]\nname = \"{name}\"\nport = {port:?}\n");
    }
    fs::write(dir.join("station.toml"), text).unwrap();
    let mut station = Command::new(env!("CARGO_BIN_EXE_station"));
    let ended = support::run(station.args(["check", "--json"]).current_dir(dir));
    let of_bays = |line: &serde_json::Value| line["check"].as_str().unwrap().starts_with("bay ");
    let lines = ended.objects().into_iter().filter(of_bays).collect();
    (ended.code(), lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn check_opens_ports_as_a_run_does_and_leaves_them_free() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("port");
    let other_name = dir.path().join("other name");
    let _pty = Pty::open(&path).unwrap();
    std::os::unix::fs::symlink(&path, &other_name).unwrap();
    let file = dir.path().join("a file");
    fs::write(&file, "text").unwrap();
    let missing = dir.path().join("missing");
    let null = Path::new("/dev/null");
    let said = |bays: &[(&str, &Path)], wanted: i32, words: &[&str]| {
        let (code, lines) = checked(dir.path(), bays);
        assert_eq!(lines.len(), words.len());
        for (line, words) in lines.iter().zip(words) {
            let said = line["said"].as_str().unwrap();
            assert!(said.contains(words), "{said}");
            assert_eq!(line["ok"], *words == "ok");
            let placed = said.contains("station.toml, line ") && said.contains(": bay.port: ");
            assert_eq!(placed, *words != "ok", "{said}");
        }
        assert_eq!(code, Some(wanted), "{lines:?}");
    };
    said(&[("1", &path)], 0, &["ok"]);
    said(
        &[
            ("1", dir.path()),
            ("2", null),
            ("3", &file),
            ("4", &missing),
        ],
        2,
        &[
            "is no serial port: correct the bay's port",
            "/dev/null is no serial port: correct the bay's port",
            "is no serial port: correct the bay's port",
            "there is no such port: plug the adapter in",
        ],
    );
    assert_eq!(fs::read(&file).unwrap(), b"text");
    let same = "is the port of bay 1 too: give each bay a port of its own";
    said(&[("1", &path), ("2", &other_name)], 2, &["ok", same]);

    let mut other = Some(Other::reading(&path).await);
    let pid = other.as_ref().unwrap().0.id();
    let held = format!("another program, cat (process {pid}), has the port open: close");
    said(&[("1", &path)], 2, &[&held]);
    other.take();
    let locked = port::Port::open(&path, &options()).unwrap();
    let pid = std::process::id();
    let held = format!("(process {pid}), has the port open: close");
    said(&[("1", &path)], 2, &[&held]);
    drop(locked);
    // And it leaves nothing behind that would keep the line out.
    port::Port::open_alone(&path, &options()).await.unwrap();
}
