//! `station run --headless` on a simulated line in another process that knows nothing of it: commands in, reports out.

use crate::support::entries;
use dps_station::station::WATCHED_MAX;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Devices that come; more than there are bays, so that units have to leave.
const DEVICES: usize = 6;
/// How long the whole line may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How soon a station must have ended that was asked to, whoever does not read what it says.
const END_MAX: Duration = Duration::from_secs(15);
/// More commands that are each reported than are kept for a reader.
const FLOOD: usize = WATCHED_MAX + 5_000;

/// How often another process is looked at.
const POLL: Duration = Duration::from_millis(20);

/// A process that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `station`, and gives its stdout line by line as JSON.
fn start(args: &[&str]) -> (Running, ChildStdin, Receiver<Value>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_station"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            let line = serde_json::from_str(&line).expect("stdout has JSON lines and nothing else");
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    (Running(child), stdin, lines)
}

/// Takes reports until `wanted` says that it is enough.
fn watch(reports: &Receiver<Value>, mut wanted: impl FnMut(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let report = reports.recv_timeout(left).expect("a report in time");
        if wanted(&report) {
            return report;
        }
    }
}

fn say(stdin: &mut ChildStdin, command: &str) {
    writeln!(stdin, "{command}").unwrap();
}

fn is_event(report: &Value, kind: &str) -> bool {
    report["recorded"]["event"]["kind"] == kind
}

#[test]
fn a_headless_station_obeys_json_lines_on_a_line_that_moves_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (_line, config) = lay_out(dir.path(), DEVICES);
    let config = config.to_str().unwrap();

    let (mut station, mut stdin, reports) = start(&["run", "--headless", "--config", config]);
    let mut passed = 0;
    let last = watch(&reports, |report| {
        passed += usize::from(is_event(report, "passed"));
        assert!(!is_event(report, "failed"), "{report}");
        passed == DEVICES
    });
    let bay = last["bay"].as_str().unwrap();
    watch(&reports, |report| {
        report["report"] == "removed" && report["bay"] == bay
    });

    say(&mut stdin, "not a command");
    say(
        &mut stdin,
        &format!(r#"{{"command":"acknowledge","bay":"{bay}"}}"#),
    );
    watch(&reports, |report| {
        report["report"] == "acknowledged" && report["bay"] == bay
    });
    say(&mut stdin, r#"{"command":"loopback","bay":"1"}"#);
    let told = watch(&reports, |report| {
        report["report"] == "note" && report["fault"]["code"] == "no_plug"
    });
    assert_eq!(told["title"], "Loopback test of bay 1");
    say(&mut stdin, r#"{"command":"close_shift"}"#);
    let closed = watch(&reports, |report| {
        report["report"] == "shift_state" && report["open"] == false
    });
    assert_eq!(closed["report"], "shift_state");

    // Another process opens the next one; what is pending is not of that shift, and still said.
    let opened = Command::new(env!("CARGO_BIN_EXE_station"))
        .args(["shift", "open", "next", "--config", config])
        .status()
        .unwrap();
    assert!(opened.success());
    let (mut followed, mut pending) = (false, false);
    watch(&reports, |report| {
        followed |= report["name"] == "next" && report["open"] == true;
        pending |= report["report"] == "enroller" && report["outbox"]["pending"] == DEVICES;
        followed && pending
    });
    quit(&mut station, &mut stdin);
}

#[test]
fn a_headless_station_takes_scans_as_json_lines() {
    let dir = tempfile::tempdir().unwrap();
    let (_line, config) = lay_out(dir.path(), 1);
    let text = std::fs::read_to_string(&config).unwrap();
    let product = "dps = \"main\"\ninitial";
    let scanned = "dps = \"main\"\ndevice_id = { scan = \"required\" }\ninitial";
    std::fs::write(&config, text.replace(product, scanned)).unwrap();
    let config = config.to_str().unwrap();

    let (mut station, mut stdin, reports) = start(&["run", "--headless", "--config", config]);
    let arrived = watch(&reports, |report| is_event(report, "arrived"));
    let bay = arrived["bay"].as_str().unwrap();
    let wanted = |report: &Value| report["report"] == "bay_waiting" && report["bay"] == bay;
    assert_eq!(watch(&reports, wanted)["for_scan"], true);
    say(
        &mut stdin,
        r#"{"command":"scan","bay":"no such bay","text":"x"}"#,
    );
    say(
        &mut stdin,
        &format!(r#"{{"command":"scan","bay":"{bay}","text":"sim-x509-0001"}}"#),
    );
    let told = watch(&reports, |report| report["report"] == "scanned");
    assert_eq!(
        (&told["bay"], &told["text"]),
        (&arrived["bay"], &"sim-x509-0001".into())
    );
    let identified = watch(&reports, |report| is_event(report, "identified"));
    assert_eq!(identified["recorded"]["event"]["scanned"], "sim-x509-0001");
    watch(&reports, |report| is_event(report, "passed"));
    quit(&mut station, &mut stdin);
}

#[test]
fn a_reader_that_takes_nothing_stops_neither_the_line_nor_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (_line, config) = lay_out(dir.path(), DEVICES);
    let (mut station, mut stdin, unread) = start_unread(&config);
    flood(&mut stdin, FLOOD);
    until_passed(dir.path(), DEVICES);

    assert_eq!(terminate(&mut station).code(), Some(0));
    // Closed in good order: nothing is left beside it, and nothing in it is damaged.
    assert!(!dir.path().join("ledger.sqlite-wal").exists());
    let config = config.to_str().unwrap();
    let verified = Command::new(env!("CARGO_BIN_EXE_station"))
        .args(["ledger", "verify", "--config", config])
        .output()
        .unwrap();
    assert!(verified.status.success(), "{verified:?}");
    drop(unread);
}

#[test]
fn a_reader_that_comes_back_is_told_how_much_it_missed() {
    let dir = tempfile::tempdir().unwrap();
    let (_line, config) = lay_out(dir.path(), 1);
    let (mut station, mut stdin, unread) = start_unread(&config);
    flood(&mut stdin, FLOOD);
    until_passed(dir.path(), 1);

    let mut unread = BufReader::new(unread);
    unread.read_exact(&mut [0; PIPE_SIZE]).unwrap(); // what the pipe was filled with
    let (sender, reports) = channel();
    std::thread::spawn(move || {
        for line in unread.lines().map_while(Result::ok) {
            let line: Value = serde_json::from_str(&line).expect("whole lines of JSON");
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    say(&mut stdin, r#"{"command":"acknowledge","bay":"last"}"#);
    let (mut acknowledged, mut missed) = (0, 0);
    watch(&reports, |report| {
        acknowledged += usize::from(report["report"] == "acknowledged");
        if report["report"] == "dropped" {
            assert!(report["at_ms"].is_number(), "{report}");
            missed += usize::try_from(report["count"].as_u64().unwrap()).unwrap();
        }
        report["bay"] == "last"
    });
    // Whatever else was said and missed, no acknowledgement is neither told nor counted.
    assert!(
        missed > 0 && acknowledged < FLOOD,
        "{missed}, {acknowledged}"
    );
    assert!(acknowledged + missed > FLOOD, "{missed}, {acknowledged}");
    quit(&mut station, &mut stdin);
}

#[test]
fn a_demo_whose_reader_takes_nothing_goes_on_and_ends_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (_full, full) = full_pipe();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_station"));
    demo.args(["demo", "--headless", "--json", "--devices", "4", "--dir"]);
    let demo = demo.arg(dir.path()).stdin(Stdio::null()).stdout(full);
    let mut demo = Running(demo.spawn().unwrap());
    // Everything is done: only its lines wait.
    until_there(&dir.path().join("summary.json"));
    until_gone(&dir.path().join("ledger.sqlite-wal"));
    assert_eq!(terminate(&mut demo).code(), Some(0));
    assert_eq!(passed(dir.path()), 4);
}

#[test]
fn a_demo_that_is_asked_to_end_early_closes_its_ledger_and_goes_on_the_next_time() {
    let dir = tempfile::tempdir().unwrap();
    let demo = || {
        let mut demo = Command::new(env!("CARGO_BIN_EXE_station"));
        demo.args(["demo", "--headless", "--devices", "8", "--dir"]);
        demo.arg(dir.path()).stdin(Stdio::null());
        demo
    };
    let (_full, full) = full_pipe();
    let mut first = Running(demo().stdout(full).spawn().unwrap());
    until_passed(dir.path(), 1);
    assert_eq!(terminate(&mut first).code(), Some(1));
    assert!(!dir.path().join("ledger.sqlite-wal").exists());
    assert!(passed(dir.path()) < 8);

    let again = demo().stdout(Stdio::null()).status().unwrap();
    assert_eq!(again.code(), Some(0));
    assert_eq!(passed(dir.path()), 8);
}

/// What a pipe holds, in bytes (`pipe(7)`).
const PIPE_SIZE: usize = 65_536;

/// A pipe that takes nothing until it is read.
fn full_pipe() -> (PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'\n'; PIPE_SIZE]).unwrap();
    (reader, writer)
}

/// Starts the station on a line, with a full pipe for its stdout.
fn start_unread(config: &Path) -> (Running, ChildStdin, PipeReader) {
    let (unread, full) = full_pipe();
    let mut child = Command::new(env!("CARGO_BIN_EXE_station"))
        .args(["run", "--headless", "--config"])
        .arg(config)
        .stdin(Stdio::piped())
        .stdout(full)
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    (Running(child), stdin, unread)
}

/// Gives the station commands that each make a report; fails when it takes no more of them.
fn flood(stdin: &mut ChildStdin, count: usize) {
    let mut stdin = stdin
        .as_fd()
        .try_clone_to_owned()
        .map(std::fs::File::from)
        .unwrap();
    let (done, all) = channel();
    std::thread::spawn(move || {
        let line = b"{\"command\":\"acknowledge\",\"bay\":\"1\"}\n";
        let _ = (0..count).try_for_each(|_| stdin.write_all(line));
        let _ = done.send(());
    });
    all.recv_timeout(PATIENCE)
        .expect("commands are taken although nobody reads");
}

/// Units that have passed, by the ledger.
fn passed(dir: &Path) -> usize {
    let all = entries(&dir.join("ledger.sqlite"), 0);
    all.iter().filter(|entry| entry.kind == "passed").count()
}

fn until_passed(dir: &Path, count: usize) {
    until("units have passed", || passed(dir) >= count);
}

/// Asks a process to end, and gives how it did.
fn terminate(running: &mut Running) -> ExitStatus {
    let pid = Pid::from_child(&running.0);
    kill_process(pid, Signal::TERM).unwrap();
    let deadline = Instant::now() + END_MAX;
    loop {
        if let Some(status) = running.0.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "it ends in time");
        std::thread::sleep(POLL);
    }
}

/// Lays out a line in another process, with units that come and go by themselves, and makes its CA; gives its
/// `station.toml`.
fn lay_out(dir: &Path, devices: usize) -> (Running, PathBuf) {
    let folder = dir.to_str().unwrap();
    let devices = devices.to_string();
    let (line, _, laid_out) = start(&[
        "emulate",
        "line",
        "--json",
        "--dir",
        folder,
        "--devices",
        &devices,
        "--auto",
    ]);
    let laid_out = watch(&laid_out, |line| line["config"].is_string());
    let config = laid_out["config"].as_str().unwrap();
    until_there(&dir.join("rig/socket"));
    let made = Command::new(env!("CARGO_BIN_EXE_station"))
        .args(["ca", "init", "--config", config])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    (line, PathBuf::from(config))
}

/// Ends the station in good order.
fn quit(station: &mut Running, stdin: &mut ChildStdin) {
    say(stdin, r#"{"command":"quit"}"#);
    // Its stdin is still open: that must not keep it.
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = station.0.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "the station ends in time");
        std::thread::sleep(POLL);
    };
    assert!(status.success());
}

/// Waits until another process has made a file.
fn until_there(path: &Path) {
    until(&path.display().to_string(), || path.exists());
}

/// Waits until another process has removed a file.
fn until_gone(path: &Path) {
    until(&path.display().to_string(), || !path.exists());
}

fn until(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "{what} in time");
        std::thread::sleep(POLL);
    }
}
