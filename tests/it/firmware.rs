//! The provisioning group's page, proved: the reference in C and the byte vectors against both sides in Rust.

#![allow(clippy::unwrap_used)]

use super::link::whole_dialogue;
use super::plant::{self, STEP_DEADLINE};
use super::scenarios::line::{self, MODEL, in_a_process_with_an_hsm};
use dps_station::bay::Bay;
use dps_station::fixtures::device::{Device, DeviceSpec, Tpm};
use dps_station::fixtures::pty::Pty;
use dps_station::link::LinkOptions;
use dps_station::link::session::Session;
use dps_station::link::smp::Packet;
use dps_station::link::smp::frame::{self, Decoder};
use dps_station::provision::device::{Attestation, DeviceId};
use dps_station::provision::floor::Report;
use dps_station::provision::health::LinkLimits;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/firmware")
}

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/vectors/group.txt")
}

/// The reference and its host port, built as strictly as C99 allows.
fn compiled(dir: &Path) -> PathBuf {
    let files = |folder: PathBuf| {
        let entries = folder
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|end| end == "c"))
    };
    let program = dir.join("device");
    let output = Command::new("cc")
        .args([
            "-std=c99",
            "-pedantic",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-O1",
            "-o",
        ])
        .arg(&program)
        .args(files(sources()).chain(files(sources().join("host"))))
        .output()
        .expect("a C compiler is there; scripts/setup installs it");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    program
}

/// The reference as a process at the end of a cable. Dropping it ends the process and unplugs the cable.
struct Plugged {
    device: Child,
    cable: JoinHandle<()>,
}

impl Plugged {
    fn new(program: &Path, dir: &Path, port: &Path, more: &[&str]) -> Self {
        let flash = dir.join("flash");
        std::fs::create_dir_all(&flash).unwrap();
        let (console, far_end) = UnixStream::pair().unwrap();
        let device = Command::new(program)
            .arg(flash)
            .args(["GW-0001", MODEL])
            .args(more)
            .stdin(OwnedFd::from(far_end.try_clone().unwrap()))
            .stdout(OwnedFd::from(far_end))
            .spawn()
            .unwrap();
        console.set_nonblocking(true).unwrap();
        let mut console = tokio::net::UnixStream::from_std(console).unwrap();
        let mut pty = Pty::open(port).unwrap();
        let cable = tokio::spawn(async move {
            let (mut from_station, mut from_device) = ([0; 1024], [0; 1024]);
            loop {
                tokio::select! {
                    count = pty.read(&mut from_station) => {
                        console.write_all(&from_station[..count.unwrap()]).await.unwrap();
                    }
                    count = console.read(&mut from_device) => {
                        let count = count.unwrap();
                        assert!(count > 0, "the device ended");
                        pty.write_all(&from_device[..count]).await.unwrap();
                    }
                }
            }
        });
        Self { device, cable }
    }
}

impl Drop for Plugged {
    fn drop(&mut self) {
        self.cable.abort();
        self.device.kill().unwrap();
        self.device.wait().unwrap();
    }
}

#[tokio::test]
async fn the_station_provisions_through_the_reference_in_c() {
    let dir = TempDir::new().unwrap();
    let program = compiled(dir.path());
    let port = dir.path().join("bay");
    let _device = Plugged::new(&program, dir.path(), &port, &[]);
    whole_dialogue(&port).await;
}

#[test]
fn a_bay_passes_the_reference_in_c() {
    in_a_process_with_an_hsm(
        "firmware::a_bay_passes_the_reference_in_c",
        |plant| async move {
            let dir = TempDir::new().unwrap();
            let program = compiled(dir.path());
            let port = dir.path().join("bay");
            let _device = Plugged::new(&program, dir.path(), &port, &[]);
            let ledger = plant::ledger(&dir.path().join("ledger.sqlite"));
            let (sender, mut reports) = mpsc::channel(64);
            let (_stop, stopped) = watch::channel(false);
            let bay = Bay {
                name: "1".to_owned(),
                port,
                hotplug: false,
                link: line::options(),
                limits: LinkLimits::default(),
                line: Arc::new(plant.line(ledger, STEP_DEADLINE)),
                reports: sender,
                test: Arc::default(),
                scans: Arc::default(),
            };
            let bay = tokio::spawn(bay.run(stopped));
            let ended = loop {
                match reports.recv().await.expect("the bay runs") {
                    Report::Event { recorded, .. } if recorded.event.ends_attempt() => {
                        break recorded;
                    }
                    _ => {}
                }
            };
            assert_eq!(ended.event.kind(), "passed", "{:?}", ended.event);
            bay.abort();
        },
    );
}

#[tokio::test]
async fn the_reference_in_c_passes_a_tpm_command_on() {
    let dir = TempDir::new().unwrap();
    let program = compiled(dir.path());
    let port = dir.path().join("bay");
    let _device = Plugged::new(&program, dir.path(), &port, &["tpm"]);
    let options = LinkOptions {
        frame_limit: 380,
        ..LinkOptions::default()
    };
    let mut link = Session::open(&port, &options).await.unwrap();
    assert!(link.identify().await.unwrap().tpm);
    let command: Vec<u8> = (0..4096u32).map(|i| (i * 31 % 251) as u8).collect();
    let response: Vec<u8> = command.iter().rev().copied().collect();
    assert_eq!(link.tpm(&command).await.unwrap(), response);
}

#[test]
fn the_reference_in_c_answers_with_the_bytes_of_the_vectors() {
    let dir = TempDir::new().unwrap();
    let output = Command::new(compiled(dir.path()))
        .arg("vectors")
        .arg(vectors())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

struct Reversing;

impl Tpm for Reversing {
    fn transact(&mut self, command: &[u8]) -> std::io::Result<Vec<u8>> {
        Ok(command.iter().rev().copied().collect())
    }

    fn restart(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_simulated_device_answers_with_the_bytes_of_the_vectors() {
    let dir = TempDir::new().unwrap();
    let spec = DeviceSpec {
        device_id: DeviceId::parse("GW-0001").unwrap(),
        model: "gateway".to_owned(),
        firmware: "1.0.0".to_owned(),
        uid: (0..12).collect(),
        kind: Attestation::Tpm,
    };
    let device = Device::load_or_make(&dir.path().join("flash.json"), spec).unwrap();
    let mut device = device.with_tpm(Box::new(Reversing));
    let text = std::fs::read_to_string(vectors()).unwrap();
    let mut title = "";
    let mut said = Vec::new();
    for line in text.lines() {
        let (mark, rest) = line.split_at(1);
        let packet = || hex(rest.trim());
        match mark {
            "#" => title = rest,
            ">" => {
                let request = Packet::decode(&packet()).unwrap();
                assert_eq!(request.encode(), packet(), "{title}");
                let lines = frame::encode(&packet(), frame::LINE_LENGTH).unwrap();
                let reply = device.handle(&lines.concat());
                let mut decoder = Decoder::default();
                said = reply.iter().find_map(|&b| decoder.push(b)).unwrap();
            }
            "<" => assert_eq!(said, packet(), "{title}"),
            "~" => {
                let [ours, theirs] = [&said, &packet()].map(|bytes| Packet::decode(bytes).unwrap());
                assert_eq!(ours.header, theirs.header, "{title}");
                assert_eq!(form(&ours), form(&theirs), "{title}");
            }
            _ => {
                assert_eq!(line, "restart");
                device.restart().unwrap();
            }
        }
    }
}

fn hex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

/// The keys of a body, with the type of each value.
fn form(packet: &Packet) -> Vec<(String, &'static str)> {
    let value: ciborium::Value = ciborium::from_reader(&packet.body.encode()[..]).unwrap();
    let kind = |value: &ciborium::Value| match value {
        ciborium::Value::Integer(_) => "uint",
        ciborium::Value::Bytes(_) => "bytes",
        _ => "other",
    };
    let entries = value.into_map().unwrap().into_iter();
    entries
        .map(|(key, value)| (key.into_text().unwrap(), kind(&value)))
        .collect()
}
