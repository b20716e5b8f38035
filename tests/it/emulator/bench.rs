//! A cloud in a box: a board on the bench, in a network of its own, lives with the emulated cloud at a real address and
//! at the real ports.

use super::support::{Held, Pki, client, now, text, token, x509};
use crate::support::{Running, run};
use dps_station::fixtures::first_boot::{FirstBoot, Transport, X509Identity, first_boot};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The address of the workstation on the bench, and that of the board (RFC 5737, section 3).
pub const CLOUD: &str = "192.0.2.1";
const BOARD: &str = "192.0.2.2/24";
/// What stands in the environment of tests that are run in such a network by another test, and may be run only there.
const FOLDER: &str = "STATION_TEST_BENCH";

/// Runs an ignored test as a process in a network of its own, which has nothing but itself. It needs root, or
/// a system that lets every user have namespaces.
pub fn in_its_own_network(test: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    if !rustix::process::getuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args(["--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", test])
        .env(FOLDER, folder.path());
    let ended = run(&mut command);
    let passed = ended.status.success() && ended.stdout.contains("1 passed");
    assert!(
        passed,
        "where the system forbids a network of one's own, run the tests as root: {}{}",
        ended.stdout, ended.stderr
    );
}

/// The folder of a test that is run so.
pub fn folder() -> std::path::PathBuf {
    let folder = std::env::var_os(FOLDER);
    folder
        .expect("run by the other test, in a network of its own")
        .into()
}

/// A board's network, which a cable joins with the one that we are in.
pub struct Bench {
    board: Child,
}

impl Bench {
    /// Lays the cable.
    pub fn new() -> Self {
        let mut board = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare: scripts/setup installs it");
        // Who answers is in its network already.
        board.stdin.as_mut().unwrap().write_all(b"?").unwrap();
        let mut answer = [0];
        board
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut answer)
            .unwrap();
        let bench = Self { board };
        let there = bench.board.id().to_string();
        let cable = format!("link add bench type veth peer name board netns {there}");
        let address = format!("address add {CLOUD}/24 dev bench");
        for words in ["link set lo up", &cable, &address, "link set bench up"] {
            done(Command::new("ip").args(words.split(' ')));
        }
        let address = format!("address add {BOARD} dev board");
        for words in ["link set lo up", &address, "link set board up"] {
            done(bench.on_the_board("ip").args(words.split(' ')));
        }
        bench
    }

    /// A program that is to run on the board.
    pub fn on_the_board(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.board.id()));
        command.arg(program);
        command
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.board.kill();
        let _ = self.board.wait();
    }
}

fn done(command: &mut Command) {
    let ended = run(command);
    assert!(
        ended.status.success(),
        "{command:?}: {ended:?}; scripts/setup installs ip"
    );
}

/// The cloud as the page in README.md has it started, and the line that it printed.
pub fn cloud(dir: &Path) -> (Running, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
    command.args(["emulate", "dps", "--json", "--host", CLOUD, "--dir"]);
    command.arg(dir);
    command.args(["--listen", "0.0.0.0:443", "--mqtt-listen", "0.0.0.0:8883"]);
    let mut process = Running::start(&mut command);
    let line = process.line();
    match line.and_then(|line| serde_json::from_str(&line).ok()) {
        Some(said) => (process, said),
        None => panic!("{:?}", process.kill()),
    }
}

/// Enrolls a device, as the workstation does.
pub async fn enroll(said: &Value, id: &str, body: &Value) {
    let connection = text(&said["connection_string"]);
    let (_, key) = connection.split_once("SharedAccessKey=").unwrap();
    let sas = token(key, CLOUD, now() + 60, Some("provisioningserviceowner"));
    let url = format!("https://{CLOUD}/enrollments/{id}?api-version=2021-10-01");
    let client = client(Path::new(&text(&said["ca_pem"])));
    let put = client.put(url).json(body).header("authorization", sas);
    assert_eq!(put.send().await.unwrap().status(), 200);
}

#[test]
fn a_board_at_another_address_lives_with_it_from_its_first_boot() {
    in_its_own_network("emulator::bench::on_the_bench");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by a_board_at_another_address_lives_with_it_from_its_first_boot"]
async fn on_the_bench() {
    let folder = folder();
    let bench = Bench::new();
    let pki = Pki::new();
    for round in ["first", "second"] {
        // The second start has the CA of the first: the board keeps what it was given.
        let (process, said) = cloud(&folder.join("cloud"));
        assert_eq!(said["listen"], "0.0.0.0:443");
        assert_eq!(said["mqtt_listen"], "0.0.0.0:8883");
        let leaf = pki.self_signed(round);
        enroll(&said, round, &x509(round, &leaf.pem())).await;
        if round == "first" {
            fs::copy(text(&said["ca_pem"]), folder.join("ca.pem")).unwrap();
        }
        board(&bench, &folder, &said, round, &leaf);
        process.terminate();
        assert_eq!(process.end().code(), Some(0));
    }
    let log = fs::read_to_string(folder.join("cloud/dps/registrations.jsonl")).unwrap();
    for event in ["assigned", "hub_authenticated", "twin_read"] {
        let found = log.matches(&format!("\"event\":\"{event}\"")).count();
        assert_eq!(found, 4, "twice by each way, {event}: {log}");
    }
}

/// Gives the board what a person puts into it, and switches it on.
fn board(bench: &Bench, folder: &Path, said: &Value, id: &str, leaf: &Held) {
    fs::write(folder.join("leaf.der"), leaf.der()).unwrap();
    fs::write(folder.join("leaf.key"), leaf.key()).unwrap();
    let scope = text(&said["id_scope"]);
    fs::write(folder.join("injected"), format!("{scope} {CLOUD} {id}")).unwrap();
    let mut command = bench.on_the_board(std::env::current_exe().unwrap());
    command.args([
        "--ignored",
        "--exact",
        "--nocapture",
        "emulator::bench::as_a_board",
    ]);
    let ended = run(&mut command);
    let passed = ended.status.success() && ended.stdout.contains("1 passed");
    assert!(passed, "{}{}", ended.stdout, ended.stderr);
}

#[tokio::test]
#[ignore = "run by on_the_bench, as the board"]
async fn as_a_board() {
    let folder = folder();
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let injected = String::from_utf8(read("injected")).unwrap();
    let [scope, endpoint, id] = injected.split(' ').collect::<Vec<_>>().try_into().unwrap();
    for registers_over in [Transport::Https, Transport::Mqtt] {
        let boot = FirstBoot {
            id_scope: scope.to_owned(),
            global_endpoint: endpoint.to_owned(),
            registration_id: id.to_owned(),
            trust_root: String::from_utf8(read("ca.pem")).unwrap(),
            network: endpoint.parse::<IpAddr>().unwrap(),
            mqtt_port: 8883,
            registers_over,
        };
        let own = X509Identity {
            certificate_chain: vec![read("leaf.der")],
            private_key: read("leaf.key"),
        };
        let booted = tokio::time::timeout(Duration::from_secs(60), first_boot(&boot, &own)).await;
        let booted = booted.unwrap().unwrap();
        let (device, hub) = (booted.device_id.as_str(), booted.assigned_hub.as_str());
        assert_eq!((device, hub), (id, endpoint));
    }
}
