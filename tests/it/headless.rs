//! `station run --headless` on a simulated line in another process that knows nothing of it: commands in, reports out.

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Devices that come; more than there are bays, so that units have to leave.
const DEVICES: usize = 6;
/// How long the whole line may take.
const PATIENCE: Duration = Duration::from_secs(60);

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
        report["report"] == "note"
            && report["lines"][0]
                .as_str()
                .is_some_and(|l| l.contains("plug"))
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

/// Waits until the rig of another process listens.
fn until_there(path: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while !path.exists() {
        assert!(Instant::now() < deadline, "{} in time", path.display());
        std::thread::sleep(POLL);
    }
}
