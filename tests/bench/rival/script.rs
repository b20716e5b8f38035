//! The script as a process, with the lines to its bays.

use super::Cycle;
use super::hall::Used;
use dps_station::fixtures::device::SharedDevice;
use dps_station::fixtures::pki;
use dps_station::fixtures::serial::{Line, Times};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// What the script stands on.
const PACKAGES: [&str; 3] = [
    "smpclient[serial]==7.3.0",
    "python-pkcs11==0.10.1",
    "cryptography==50.0.2",
];
/// How long the script may say nothing.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Lines that may wait to be read.
const LINES_MAX: usize = 4096;

/// A script that runs. Dropping it kills it.
pub struct Script {
    child: Child,
    said: mpsc::Receiver<(Instant, Value)>,
    lines: Vec<Line>,
}

/// A Python that has the script's packages; says what is missing where there is none.
pub fn python() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rival");
    let python = own.join("bin/python");
    let whole = own.join(PACKAGES.concat().replace(['[', ']', '='], "-"));
    if whole.exists() {
        return Some(python);
    }
    let done = |command: &mut Command| command.status().is_ok_and(|status| status.success());
    let made = done(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&own),
    ) && done(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet"])
            .args(PACKAGES),
    );
    if made {
        fs::write(whole, "").unwrap();
        return Some(python);
    }
    println!(
        "the script is not measured, because its packages are not there: python3 -m venv {own} && {python} -m pip install {packages}",
        own = own.display(),
        python = python.display(),
        packages = PACKAGES.join(" ")
    );
    None
}

impl Script {
    /// Starts the script on so many bays, with the token and the CA of the hall in `dir`.
    pub async fn start(
        python: &Path,
        dir: &Path,
        bays: usize,
        times: &Times,
        ca: &[u8],
        buf_size: usize,
    ) -> Self {
        let port = |bay| dir.join(format!("rival-{bay}"));
        let lay = |bay| Line::lay(&port(bay), false, times.clone()).unwrap();
        let lines = (0..bays).map(lay).collect();
        fs::write(dir.join("rival-ca.der"), ca).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/rival/rival.py");
        let mut child = Command::new(python)
            .arg(source)
            .arg("--ports")
            .arg(dir.join("rival-"))
            .arg("--ledger")
            .arg(dir.join("rival.sqlite"))
            .arg("--module")
            .arg(pki::find_softhsm().unwrap())
            .args(["--token", "line", "--label", "issuing", "--pin", "1234"])
            .arg("--ca")
            .arg(dir.join("rival-ca.der"))
            .args(["--id-scope", "0ne00112233"])
            .args(["--endpoint", "global.azure-devices-provisioning.net"])
            .args(["--bays", &bays.to_string()])
            .args(["--buf-size", &buf_size.to_string()])
            .env("SOFTHSM2_CONF", dir.join("hsm/softhsm2.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let text = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, said) = mpsc::channel(LINES_MAX);
        std::thread::spawn(move || {
            for line in text.map_while(Result::ok) {
                let at = Instant::now();
                let said = serde_json::from_str(&line).unwrap();
                if sender.blocking_send((at, said)).is_err() {
                    return;
                }
            }
        });
        let mut script = Self { child, said, lines };
        script.until_each("ready").await;
        script
    }

    /// Every bay gets its device at the same moment, each passes, and is taken out.
    pub async fn round(&mut self, devices: &[SharedDevice]) -> Vec<Cycle> {
        let mut plugged = Vec::new();
        for (line, device) in self.lines.iter().zip(devices) {
            plugged.push(line.put(Some(Arc::clone(device))).await.unwrap().into_std());
        }
        let mut cycles = BTreeMap::new();
        while cycles.len() < devices.len() {
            let (at, said) = self.next().await;
            assert_ne!(said["event"], "failed", "{said}");
            if said["event"] == "passed" {
                let bay = usize::try_from(said["bay"].as_u64().unwrap()).unwrap();
                let tally = self.lines[bay].tally();
                cycles.insert(
                    bay,
                    Cycle {
                        took: at - plugged[bay],
                        job: at - tally.asked.unwrap().into_std(),
                        tally,
                    },
                );
            }
        }
        for (line, device) in self.lines.iter().zip(devices) {
            assert!(device.lock().unwrap().sealed());
            line.put(None).await.unwrap();
        }
        self.until_each("removed").await;
        cycles.into_values().collect()
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// What it has used so far.
    pub fn used(&self) -> Used {
        Used::by(self.process())
    }

    async fn next(&mut self) -> (Instant, Value) {
        let next = tokio::time::timeout(SILENCE_MAX, self.said.recv()).await;
        next.expect("the script says something")
            .expect("the script runs")
    }

    async fn until_each(&mut self, event: &str) {
        let mut left = self.lines.len();
        while left > 0 {
            left -= usize::from(self.next().await.1["event"] == event);
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
