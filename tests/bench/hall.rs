//! A simulated line in a folder of its own, and the real program as a process that runs it: what is measured from
//! outside.

use dps_station::fixtures::device::{Device, DeviceSpec, SharedDevice};
use dps_station::fixtures::pki;
use dps_station::provision::device::{Attestation, DeviceId};
use dps_station::provision::floor::Report;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Reports that may wait to be read.
const REPORTS_MAX: usize = 4096;
/// How long a station may say nothing at all; it says that it lives once a second.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// The PIN of the token, which ends with its folder.
const PIN: &str = "1234";
/// A tick of processor time, in milliseconds (`proc(5)`: 100 a second whatever the kernel's own clock does).
const TICK_MS: u64 = 10;
/// The model of the devices.
const MODEL: &str = "SIM-X509";

/// A line of so many bays: configuration, token, CA; devices are made as they are wanted.
pub struct Hall {
    dir: TempDir,
    bays: usize,
}

/// A station that runs. Dropping it kills it.
pub struct Running {
    child: Child,
    reports: mpsc::Receiver<(Instant, Report)>,
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// The most memory that it ever held, in kilobytes.
    pub peak_kb: u64,
    /// Processor time, its own and the kernel's for it, in milliseconds.
    pub cpu_ms: u64,
}

impl Hall {
    /// Lays the line out; `hotplug` says whether ports come and go with the devices.
    pub fn lay_out(bays: usize, hotplug: bool) -> Self {
        let dir = TempDir::new().unwrap();
        let made = pki::make_token(&dir.path().join("hsm"), "line", PIN, PIN);
        let conf = made.unwrap_or_else(|error| panic!("{error}"));
        let module = pki::find_softhsm().unwrap_or_else(|error| panic!("{error}"));
        fs::write(dir.path().join("pin"), PIN).unwrap();
        let cloud = "HostName=localhost;SharedAccessKeyName=line;SharedAccessKey=bGluZQ==";
        fs::write(dir.path().join("credential"), cloud).unwrap();
        let mut text = format!(
            r#"[station]
id = "line"
simulated = true
ledger = "ledger.sqlite"
[shift]
auto = true
[[ca]]
name = "line"
module = "{module}"
token = "line"
label = "issuing"
pin = "file:pin"
environment = {{ SOFTHSM2_CONF = "{conf}" }}
[[dps]]
name = "main"
id_scope = "0ne00112233"
global_endpoint = "global.azure-devices-provisioning.net"
service_url = "https://localhost"
credential = "file:credential"
[[product]]
name = "sim-x509"
model = "{MODEL}"
attestation = "x509"
ca = "line"
dps = "main"
"#,
            module = module.display(),
            conf = conf.display(),
        );
        for bay in 0..bays {
            text +=
                &format!("[[bay]]\nname = \"{bay}\"\nport = \"bay-{bay}\"\nhotplug = {hotplug}\n");
        }
        fs::write(dir.path().join("station.toml"), text).unwrap();
        let hall = Self { dir, bays };
        let made = hall.station(&["ca", "init"]).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        hall
    }

    /// The bays, by number.
    pub fn bays(&self) -> std::ops::Range<usize> {
        0..self.bays
    }

    /// The path of a bay's port.
    pub fn port(&self, bay: usize) -> PathBuf {
        self.dir.path().join(format!("bay-{bay}"))
    }

    /// A device from its first firmware.
    pub fn device(&self, number: usize) -> SharedDevice {
        device(self.dir.path(), number)
    }

    /// The folder that all of it is in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the station.
    pub fn run(&self) -> Running {
        self.run_with(|_| ())
    }

    /// Starts the station; `change` says in what it differs from an ordinary start.
    pub fn run_with(&self, change: impl FnOnce(&mut Command)) -> Running {
        let mut station = self.station(&["run", "--headless"]);
        change(&mut station);
        let mut child = station
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, reports) = mpsc::channel(REPORTS_MAX);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let at = Instant::now();
                let report = serde_json::from_str(&line);
                let report = report.unwrap_or_else(|error| panic!("{line}: {error}"));
                if sender.blocking_send((at, report)).is_err() {
                    return;
                }
            }
        });
        Running { child, reports }
    }

    fn station(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
        command.args(arguments).arg("--config");
        command.arg(self.dir.path().join("station.toml"));
        command
    }
}

/// A device from its first firmware, with its flash in `dir`.
pub fn device(dir: &Path, number: usize) -> SharedDevice {
    let name = format!("sim-{number:05}");
    let flash = dir.join(format!("{name}.json"));
    let spec = DeviceSpec {
        device_id: DeviceId::parse(&name).unwrap(),
        model: MODEL.to_owned(),
        firmware: "1.0.0".to_owned(),
        uid: format!("{number:012}").into_bytes(),
        kind: Attestation::X509,
    };
    Arc::new(Mutex::new(Device::load_or_make(&flash, spec).unwrap()))
}

impl Running {
    /// The next report.
    pub async fn report(&mut self) -> Report {
        self.timed_report().await.1
    }

    /// The next report, and when it came.
    pub async fn timed_report(&mut self) -> (Instant, Report) {
        let next = tokio::time::timeout(SILENCE_MAX, self.reports.recv()).await;
        next.expect("the station lives").expect("the station runs")
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// What the station has used so far (`proc(5)`: `status`, `stat`).
    pub fn used(&self) -> Used {
        Used::by(self.process())
    }
}

impl Used {
    /// What a process has used so far.
    pub fn by(process: u32) -> Self {
        let proc = Path::new("/proc").join(process.to_string());
        let status = fs::read_to_string(proc.join("status")).unwrap();
        let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let peak = peak.unwrap().trim().trim_end_matches(" kB");
        let stat = fs::read_to_string(proc.join("stat")).unwrap();
        // Behind the name, which may have spaces in it, fields 14 and 15 are the 12th and 13th.
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks = fields.split(' ').skip(11).take(2);
        let ticks: u64 = ticks.map(|field| field.parse::<u64>().unwrap()).sum();
        Self {
            peak_kb: peak.parse().unwrap(),
            cpu_ms: ticks * TICK_MS,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
