//! A simulated device on a bench, and wires between it and a session that do what a test wants.

use dps_station::fixtures::device::{Cable, Device, DeviceSpec, SharedDevice, run_device};
use dps_station::link::LinkOptions;
use dps_station::link::port;
use dps_station::link::session::Session;
use dps_station::link::smp::frame::{self, Decoder};
use dps_station::link::smp::{self, Map, Packet, Version, group};
use dps_station::provision::bytes::Digest;
use dps_station::provision::device::{Attestation, DeviceId, Holding};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

/// The device's flash, in the bench's folder.
const FLASH: &str = "flash.json";

/// A simulated device in a bay of its own.
pub struct Bench {
    pub dir: TempDir,
    pub device: SharedDevice,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(|device| device)
    }

    pub fn with(change: impl FnOnce(Device) -> Device) -> Self {
        Self::of(|flash| change(Device::load_or_make(flash, spec()).unwrap()))
    }

    /// With the device that is made with this flash.
    pub fn of(make: impl FnOnce(&Path) -> Device) -> Self {
        let dir = TempDir::new().unwrap();
        let device = Arc::new(Mutex::new(make(&dir.path().join(FLASH))));
        Self { dir, device }
    }

    pub fn flash(&self) -> PathBuf {
        self.dir.path().join(FLASH)
    }

    pub fn port(&self) -> PathBuf {
        self.dir.path().join("bay")
    }

    pub async fn plug_in(&self, cable: Cable) -> Plug {
        let port = cable.port.clone();
        let task = tokio::spawn(run_device(self.device.clone(), cable));
        tokio::time::timeout(Duration::from_secs(10), async {
            while !port::present(&port) {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the port appears");
        Plug(task)
    }
}

/// A plugged cable; dropping it unplugs.
pub struct Plug(JoinHandle<std::io::Result<()>>);

impl Plug {
    /// Unplugs, and waits until the port is gone: what is plugged in next has one of its own.
    pub async fn pull(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub fn spec() -> DeviceSpec {
    DeviceSpec {
        device_id: DeviceId::parse("GW-0001").unwrap(),
        model: "gateway".to_owned(),
        firmware: "1.0.0".to_owned(),
        uid: vec![7; 12],
        kind: Attestation::X509,
    }
}

pub fn quick() -> LinkOptions {
    LinkOptions {
        answer_ms: 200,
        slow_answer_ms: 5_000,
        ..LinkOptions::default()
    }
}

pub fn wanted(leaf: Option<&[u8]>) -> Holding {
    Holding {
        id_scope: "0ne00112233".to_owned(),
        global_endpoint: "global.azure-devices-provisioning.net".to_owned(),
        registration_id: "gw-0001".to_owned(),
        certificate_sha256: leaf.map(Digest::of),
    }
}

/// Asks the device directly, without a wire.
pub fn say(device: &SharedDevice, number: u16, command: u8, body: &Map) -> Map {
    let request = Packet {
        header: smp::Header {
            version: Version::Two,
            op: smp::Op::Write,
            group: number,
            sequence: 1,
            command,
        },
        body: body.clone(),
    };
    let lines = frame::encode(&request.encode(), frame::LINE_LENGTH).unwrap();
    let reply = device.lock().unwrap().handle(&lines.concat());
    let mut decoder = Decoder::default();
    let bytes = reply.iter().find_map(|&b| decoder.push(b)).unwrap();
    Packet::decode(&bytes).unwrap().body
}

pub fn identify_lines() -> Vec<u8> {
    let request = Packet {
        header: smp::Header {
            version: Version::Two,
            op: smp::Op::Read,
            group: group::GROUP,
            sequence: 1,
            command: group::IDENTIFY,
        },
        body: Map::new(),
    };
    frame::encode(&request.encode(), frame::LINE_LENGTH)
        .unwrap()
        .concat()
}

/// A session with the bench's device over a wire that changes, or loses, what the device says.
pub fn wire(
    bench: &Bench,
    mut change: impl FnMut(Vec<u8>) -> Vec<u8> + Send + 'static,
) -> Session<DuplexStream> {
    let device = bench.device.clone();
    over(bench, move |request| {
        Some(change(device.lock().unwrap().handle(request)))
    })
}

pub fn over(
    bench: &Bench,
    server: impl FnMut(&[u8]) -> Option<Vec<u8>> + Send + 'static,
) -> Session<DuplexStream> {
    let options = LinkOptions {
        answer_ms: 50,
        tries: 10,
        ..quick()
    };
    session(bench, server, &options)
}

/// A session with a server that is given one whole request at a time.
pub fn session(
    bench: &Bench,
    mut server: impl FnMut(&[u8]) -> Option<Vec<u8>> + Send + 'static,
    options: &LinkOptions,
) -> Session<DuplexStream> {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        let (mut request, mut whole) = (Vec::new(), Decoder::default());
        while let Ok(count @ 1..) = far.read(&mut buffer).await {
            for &byte in &buffer[..count] {
                request.push(byte);
                if whole.push(byte).is_some() {
                    let reply = server(&std::mem::take(&mut request)).unwrap_or_default();
                    if far.write_all(&reply).await.is_err() {
                        return; // the session is over
                    }
                }
            }
        }
    });
    Session::over(near, &bench.port(), options).unwrap()
}
