//! What tests of the whole program share: factory folders, programs run to their end, and what the spy saw of the HSM.

use rusqlite::{Connection, OpenFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;

/// How long a program may be silent, on a machine that does much else.
const RUN_MAX: Duration = Duration::from_secs(120);

/// The user and group whom nobody gave anything, as numbers.
const NOBODY: u32 = 65534;

/// How a program ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The exit code; none after a signal.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Every line of stdout, which must all be JSON objects.
    pub fn objects(&self) -> Vec<Value> {
        let parse = |line: &str| match serde_json::from_str(line) {
            Ok(object @ Value::Object(_)) => object,
            other => panic!("{line:?} is no JSON object: {other:?}"),
        };
        self.stdout.lines().map(parse).collect()
    }
}

/// Runs a program to its end; one that takes too long is killed and fails the test.
pub fn run(command: &mut Command) -> Ended {
    let mut running = Running::start(command);
    running.stdin = None;
    running.end()
}

/// A program under way.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: JoinHandle<String>,
    heard: String,
}

impl Running {
    /// Starts a program.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}; scripts/setup installs it"));
        let (line, lines) = channel();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            while let Ok(1..) = stdout.read_until(b'\n', &mut bytes) {
                let _ = line.send(String::from_utf8_lossy(&bytes).into_owned());
                bytes.clear();
            }
        });
        let mut stderr = child.stderr.take().expect("piped");
        let stderr = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Self {
            stdin: child.stdin.take(),
            child,
            lines,
            stderr,
            heard: String::new(),
        }
    }

    /// The next line of its stdout; none when it has closed that.
    pub fn line(&mut self) -> Option<String> {
        let line = match self.lines.recv_timeout(RUN_MAX) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {
                let _ = self.child.kill();
                panic!("silent for {RUN_MAX:?} after {:?}", self.heard);
            }
        };
        self.heard += &line;
        Some(line)
    }

    /// Its number in the system.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes to its stdin, which stays open.
    pub fn say(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("open until the end");
        stdin.write_all(bytes).unwrap();
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Kills it, as `kill -9` does.
    pub fn kill(mut self) -> Ended {
        self.child.kill().unwrap();
        self.end()
    }

    /// Asks it to end, as a system that shuts down does.
    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ended {
        while self.line().is_some() {}
        Ended {
            status: self.child.wait().unwrap(),
            stdout: self.heard,
            stderr: self.stderr.join().unwrap(),
        }
    }
}

/// What `openssl` says to these arguments, which it must find right.
pub fn openssl<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> String {
    let ended = run(Command::new("openssl").args(arguments));
    assert!(ended.status.success(), "{ended:?}");
    ended.stdout
}

/// OpenSC's spy, which stands between the station and the HSM and writes down every call.
pub fn spy() -> PathBuf {
    let places = [
        "/usr/lib/x86_64-linux-gnu/pkcs11-spy.so",
        "/usr/lib/x86_64-linux-gnu/pkcs11/pkcs11-spy.so",
    ];
    let found = places.iter().map(Path::new).find(|path| path.exists());
    found
        .expect("pkcs11-spy.so (opensc) is not installed: run scripts/setup")
        .to_owned()
}

/// The digests, in hexadecimal, that the HSM returned a signature for, by the spy's log. A question for a signature's
/// length is answered without one.
pub fn signed_digests(log: &str) -> Vec<String> {
    let mut signed = Vec::new();
    for call in log.split("\n\n") {
        let Some((_, call)) = call.split_once(": C_Sign\n") else {
            continue;
        };
        let Some((question, answer)) = call.split_once("[out] pSignature[*pulSignatureLen] ")
        else {
            continue;
        };
        let whole = answer.contains("Returned:  0 CKR_OK");
        if whole && !answer.starts_with("NULL") {
            signed.push(dumped(question));
        }
    }
    signed
}

/// The octets of a dump: after an offset of eight digits, at most sixteen octets of two digits, and then as text.
fn dumped(text: &str) -> String {
    let mut octets = String::new();
    for line in text.lines() {
        let Some(line) = line.strip_prefix("    0000").and_then(|line| line.get(6..)) else {
            continue;
        };
        let part = line.get(..3 * 16).unwrap_or(line);
        let pairs = part.split(' ').take_while(|pair| pair.len() == 2);
        octets.extend(pairs.map(str::to_ascii_lowercase));
    }
    octets
}

/// How often the spy saw a function called.
pub fn calls(log: &str, function: &str) -> usize {
    let name = format!(": {function}");
    log.lines().filter(|line| line.ends_with(&name)).count()
}

/// A place for a program and its files that a user has who may read nothing else.
pub struct Place {
    pub dir: TempDir,
    nobody: bool,
}

impl Place {
    /// A place of the user who runs the tests.
    pub fn own() -> Self {
        let dir = TempDir::new().unwrap();
        Self { dir, nobody: false }
    }

    /// A place of an ordinary user: another one where the tests are run by root.
    pub fn ordinary() -> Self {
        let place = Self {
            nobody: rustix::process::getuid().is_root(),
            ..Self::own()
        };
        if place.nobody {
            chown(place.dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        place
    }

    /// A command for the place's user; the program is copied, since that user may not reach it where it lies.
    pub fn command(&self, program: &Path) -> Command {
        if !self.nobody {
            return Command::new(program);
        }
        let copy = self.dir.path().join(program.file_name().unwrap());
        if !copy.exists() {
            fs::copy(program, &copy).unwrap();
            fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
        }
        let mut command = Command::new("setpriv");
        let ids = [NOBODY, NOBODY];
        command.args([format!("--reuid={}", ids[0]), format!("--regid={}", ids[1])]);
        command.arg("--clear-groups").arg(copy).current_dir("/");
        command
    }
}

/// A factory folder and the demo that runs in it. Dropping it ends its rig.
pub struct Factory {
    place: Place,
    devices: u16,
}

impl Factory {
    pub fn new(place: Place, devices: u16) -> Self {
        Self { place, devices }
    }

    /// The folder.
    pub fn dir(&self) -> PathBuf {
        self.place.dir.path().join("factory")
    }

    /// Its ledger.
    pub fn ledger(&self) -> PathBuf {
        self.dir().join("ledger.sqlite")
    }

    /// The station with these arguments, on the folder's `station.toml`.
    pub fn station(&self, arguments: &[&str]) -> Command {
        let mut command = self.program();
        command.args(arguments).arg("--config");
        command.arg(self.dir().join("station.toml"));
        command
    }

    /// A headless demo, on an HSM that is spied on.
    pub fn demo(&self) -> Command {
        let mut command = self.program();
        command.args(["demo", "--headless", "--devices", &self.devices.to_string()]);
        command
            .arg("--module")
            .arg(spy())
            .arg("--dir")
            .arg(self.dir());
        command
    }

    /// Lays the folder out, and does no more: its HSM's module is not there. Then it is, and spied on.
    pub fn lay_out(&self) {
        let nothing = "/no/such/module.so";
        let mut command = self.program();
        command.args(["demo", "--headless", "--devices", &self.devices.to_string()]);
        command.args(["--module", nothing, "--dir"]).arg(self.dir());
        let ended = run(&mut command);
        assert_eq!(ended.code(), Some(3), "{ended:?}");
        assert!(ended.stderr.contains(nothing), "{ended:?}");
        let path = self.dir().join("station.toml");
        let text = self
            .text("station.toml")
            .replace(nothing, spy().to_str().unwrap());
        fs::write(path, text).unwrap();
    }

    fn program(&self) -> Command {
        let mut command = self.place.command(Path::new(env!("CARGO_BIN_EXE_station")));
        command.env("PKCS11SPY_OUTPUT", self.spy_log_path());
        command
    }

    fn spy_log_path(&self) -> PathBuf {
        self.place.dir.path().join("spy.log")
    }

    /// What the spy wrote so far.
    pub fn spy_log(&self) -> String {
        fs::read_to_string(self.spy_log_path()).unwrap()
    }

    /// What `ca show` says, by the digest of what was to be signed.
    pub fn reservations(&self) -> BTreeMap<String, Value> {
        let shown = run(&mut self.station(&["ca", "show", "--json"]));
        assert_eq!(shown.code(), Some(0), "{shown:?}");
        let lines = shown.objects();
        let count = lines.len();
        let digest = |line: &Value| line["tbs_sha256"].as_str().unwrap().to_owned();
        let by_digest: BTreeMap<_, _> = lines
            .into_iter()
            .map(|line| (digest(&line), line))
            .collect();
        assert_eq!(by_digest.len(), count, "two reservations of the same bytes");
        by_digest
    }

    /// The damages that `ledger verify` names.
    pub fn damages(&self) -> Vec<Value> {
        let verified = run(&mut self.station(&["ledger", "verify", "--json"]));
        let mut lines = verified.objects();
        let sum = lines.pop().expect("a sum at the end");
        assert_eq!(sum["damages"], lines.len());
        assert_eq!(
            verified.code(),
            Some(i32::from(!lines.is_empty())),
            "{verified:?}"
        );
        lines
    }

    /// A JSON file of the folder.
    pub fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.text(path)).unwrap()
    }

    /// Every line of a file of JSON lines.
    pub fn json_lines(&self, path: &str) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap();
        self.text(path).lines().map(parse).collect()
    }

    /// A text file of the folder.
    pub fn text(&self, path: &str) -> String {
        let path = self.dir().join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The process that plays the rig; none where no rig lives.
    pub fn rig(&self) -> Option<rustix::process::Pid> {
        let status = self.ask_rig("status")?;
        rustix::process::Pid::from_raw(i32::try_from(status["pid"].as_i64()?).ok()?)
    }

    fn ask_rig(&self, what: &str) -> Option<Value> {
        let mut stream = UnixStream::connect(self.dir().join("rig/socket")).ok()?;
        writeln!(stream, "{{\"do\":\"{what}\"}}").ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }
}

impl Drop for Factory {
    fn drop(&mut self) {
        let _ = self.ask_rig("stop");
    }
}

/// An event on record, as far as tests look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub seq: i64,
    pub kind: String,
    pub device: Option<String>,
}

/// The events after `seq`, read beside whoever writes. A ledger that is not there yet, or only half, has none.
pub fn entries(ledger: &Path, seq: i64) -> Vec<Entry> {
    let read = || -> rusqlite::Result<Vec<Entry>> {
        let db = Connection::open_with_flags(ledger, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let sql = "SELECT seq, kind, device FROM events WHERE seq > ? ORDER BY seq";
        let mut statement = db.prepare(sql)?;
        let rows = statement.query_map([seq], |row| {
            Ok(Entry {
                seq: row.get(0)?,
                kind: row.get(1)?,
                device: row.get(2)?,
            })
        })?;
        rows.collect()
    };
    read().unwrap_or_default()
}

/// What stands in the events of a kind, as it was recorded.
pub fn bodies(ledger: &Path, kind: &str) -> Vec<String> {
    let open = Connection::open_with_flags(ledger, OpenFlags::SQLITE_OPEN_READ_ONLY);
    let db = open.expect("a ledger");
    let sql = "SELECT device || ' ' || body FROM events WHERE kind = ? ORDER BY seq";
    let mut statement = db.prepare(sql).expect("a ledger");
    let rows = statement.query_map([kind], |row| row.get(0));
    rows.expect("a ledger")
        .collect::<Result<_, _>>()
        .expect("texts")
}
