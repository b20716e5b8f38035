//! The upload beside Microsoft's own client for Node, `upload.js`, which does the same work: bulks of ten, then a GET each,
//! four in flight. Processor time, memory and time on the clock at an open quota; and what of a quota is reached where
//! each reply takes 80 ms.
//!
//! `cargo bench --bench upload`; `-- --short` leaves out 100,000 records. The client can only reach port 443, so that this
//! needs the right to bind that; its packages come from npm into a folder of the build's own, at the first run.

#![allow(clippy::unwrap_used)]

#[path = "line/figures.rs"]
#[allow(dead_code)] // it has no rounds
mod figures;
#[path = "upload/fill.rs"]
mod fill;

use dps_station::dps::{API_VERSION, Credential, Dps, DpsOptions, ProxyChoice};
use dps_station::enroller::{Terms, drain};
use dps_station::fixtures::dps::{Emulator, EmulatorOptions, Faults};
use dps_station::provision::upload::Progress;
use figures::{Aims, Spread, is_asked};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::watch;

/// Records of a run.
const SIZES: [u32; 3] = [1_000, 10_000, 100_000];
/// The most that the station's processor time may be of the client's, and its time on the clock.
const AIM_CPU: f64 = 0.34;
const AIM_WALL: f64 = 1.0;
/// The most that a record may cost of what it costs in the smallest run.
const AIM_GROWTH: f64 = 1.1;
/// The most memory that the station may have in use, in MiB.
const AIM_RSS: f64 = 40.0;
/// The least of the quota that must be reached; held as what is lost of it.
const AIM_LOST: f64 = 0.02;
/// The share of the run at a quota, its records, and the time that each reply takes.
const SHARE: u32 = 1_000;
const AT_QUOTA: u32 = 1_600;
const REPLY_MS: u64 = 80;
/// The word with which this program runs as the station.
const AS_STATION: &str = "--as-station";
/// The variable in which it finds the connection string.
const CREDENTIAL: &str = "UPLOAD_BENCH_CREDENTIAL";

/// What a run took.
#[derive(Clone, Copy)]
struct Run {
    cpu_ms: f64,
    wall_ms: f64,
    rss_mib: f64,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|word| word == AS_STATION) {
        return upload(&arguments[at + 1..]).await;
    }
    let client = client();
    let sizes = if is_asked("--short") {
        &SIZES[..2]
    } else {
        &SIZES
    };
    let mut aims = Aims::default();
    let mut first: Option<Run> = None;
    println!("         | records | CPU ms/record | s on the clock | MiB");
    for &records in sizes {
        let folder = TempDir::new().unwrap();
        let list = folder.path().join("list.jsonl");
        fill::put(&folder.path().join("ledger.sqlite"), &list, records).await;
        let ours = beside(&folder, records, |cloud| station(&folder, cloud, u32::MAX)).await;
        print("station", records, ours);
        let growth = ours.cpu_ms / f64::from(records);
        let begin = *first.get_or_insert(ours);
        let growth = growth / (begin.cpu_ms / f64::from(sizes[0]));
        hold(
            &mut aims,
            "a record, of one of the smallest run",
            growth,
            AIM_GROWTH,
        );
        hold(&mut aims, "MiB", ours.rss_mib, AIM_RSS);
        if let Some(client) = &client {
            let theirs = beside(&folder, records, |cloud| node(client, cloud, &list)).await;
            print("client", records, theirs);
            hold(
                &mut aims,
                "CPU, of the client's",
                ours.cpu_ms / theirs.cpu_ms,
                AIM_CPU,
            );
            hold(
                &mut aims,
                "clock, of the client's",
                ours.wall_ms / theirs.wall_ms,
                AIM_WALL,
            );
        }
    }
    at_quota(&mut aims).await;
    aims.end();
}

fn print(who: &str, records: u32, run: Run) {
    println!(
        "{who:8} | {records:7} | {:13.3} | {:14.1} | {:.0}",
        run.cpu_ms / f64::from(records),
        run.wall_ms / 1000.0,
        run.rss_mib
    );
}

fn hold(aims: &mut Aims, what: &str, figure: f64, aim: f64) {
    let held = aims.hold(what, Spread::of(vec![figure]), Some(aim));
    println!("  {what}: {figure:.3} {held}");
}

/// Runs one of the two beside an emulated DPS that has nothing yet.
async fn beside(folder: &TempDir, records: u32, command: impl FnOnce(&Emulator) -> Command) -> Run {
    let dir = tempfile::tempdir_in(folder.path()).unwrap();
    let mut options = EmulatorOptions::new(dir.path());
    options.listen.set_port(443);
    let cloud = Emulator::start(options).await.unwrap();
    let mut command = command(&cloud);
    let ended = tokio::task::spawn_blocking(move || {
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .output()
            .unwrap()
    });
    let said = ended.await.unwrap().stdout;
    let said: Value = serde_json::from_slice(&said).unwrap();
    assert_eq!(said["settled"], records, "{said}");
    cloud.stop().await;
    let number = |key: &str| said[key].as_f64().unwrap();
    Run {
        cpu_ms: number("cpu_ms"),
        wall_ms: number("wall_ms"),
        rss_mib: number("rss_kib") / 1024.0,
    }
}

/// This program as the station, on the folder's ledger.
fn station(folder: &TempDir, cloud: &Emulator, share: u32) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .arg(AS_STATION)
        .arg(folder.path().join("ledger.sqlite"));
    command.arg(cloud.port().to_string()).arg(cloud.ca_file());
    command.arg(share.to_string());
    command.env(CREDENTIAL, cloud.connection_string());
    command
}

fn node(packages: &Path, cloud: &Emulator, list: &Path) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/upload.js");
    let mut command = Command::new("node");
    command.arg(script).arg(cloud.connection_string()).arg(list);
    command.env("NODE_EXTRA_CA_CERTS", cloud.ca_file());
    command.env("NODE_PATH", packages);
    command
}

/// Drains the outbox of a ledger, and prints what that took.
async fn upload(arguments: &[String]) {
    let [ledger, port, ca_file, share, ..] = arguments else {
        panic!("{arguments:?}")
    };
    let ledger = fill::open(Path::new(ledger));
    let credential = std::env::var(CREDENTIAL).unwrap();
    let options = DpsOptions {
        name: "main".to_owned(),
        service_url: format!("https://localhost:{port}"),
        credential: Credential::ConnectionString(credential.into()),
        ca_file: Some(PathBuf::from(ca_file)),
        api_version: API_VERSION.to_owned(),
        proxy: ProxyChoice::Never,
    };
    let dps = Dps::new(options, fill::now_ms).unwrap();
    let terms = Terms::new(share.parse().unwrap(), "bench");
    let (said, _) = watch::channel(Progress::default());
    let began = Instant::now();
    let summary = drain(&ledger, &dps, &terms, &said).await;
    let wall_ms = began.elapsed().as_millis();
    assert!(
        summary.all_settled() && summary.fault.is_none(),
        "{summary:?}"
    );
    println!(
        "{}",
        json!({"settled": summary.enrolled, "wall_ms": wall_ms, "cpu_ms": cpu_ms(), "rss_kib": peak_kib()})
    );
}

/// Processor time of this process, in milliseconds (`proc(5)`: `stat`, in hundredths of a second).
fn cpu_ms() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(") ").unwrap().1.split(' ');
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum();
    ticks * 10
}

/// The most memory that this process ever had in use, in KiB.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

/// What of a quota is reached where each reply takes its time: in two whole windows, after the first.
async fn at_quota(aims: &mut Aims) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ledger.sqlite");
    fill::put(&path, &folder.path().join("list.jsonl"), AT_QUOTA).await;
    let dir = TempDir::new().unwrap();
    let mut options = EmulatorOptions::new(dir.path());
    options.faults = Faults {
        slow: u32::MAX,
        slow_milliseconds: REPLY_MS,
        ..Faults::default()
    };
    let cloud = Emulator::start(options).await.unwrap();
    let mut command = station(&folder, &cloud, SHARE);
    tokio::task::spawn_blocking(move || command.stdout(Stdio::null()).status().unwrap())
        .await
        .unwrap();
    let charges = fill::charges(&path).await;
    let begin = charges[0].0;
    let minutes = 2.0;
    let window = Duration::from_secs(122).as_millis() as i64;
    let within = |at: i64| (begin..begin + window).contains(&at);
    let reached: u32 = charges.iter().filter(|c| within(c.0)).map(|c| c.1).sum();
    let lost = 1.0 - f64::from(reached) / (f64::from(SHARE) * minutes * 122.0 / 120.0);
    println!(
        "at a quota of {SHARE} a minute, with replies of {REPLY_MS} ms: {:.1} % of it",
        100.0 * (1.0 - lost)
    );
    hold(aims, "lost of the quota", lost, AIM_LOST);
}

/// The folder of the client's packages, in the versions that the tests use; says what is missing where they cannot be had.
fn client() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("upload-client");
    let packages = folder.join("node_modules");
    let lists = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/emulator/clients");
    if !packages.join("azure-iot-provisioning-service").exists() {
        fs::create_dir_all(&folder).unwrap();
        for list in ["package.json", "package-lock.json"] {
            fs::copy(lists.join(list), folder.join(list)).unwrap();
        }
        let mut install = Command::new("npm");
        install.args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--silent",
        ]);
        let installed = install.current_dir(&folder).status();
        if !installed.is_ok_and(|status| status.success()) {
            println!(
                "the client is not measured: its packages are not there: npm ci in {}",
                folder.display()
            );
            return None;
        }
    }
    Some(packages)
}
