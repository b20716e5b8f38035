//! A line in this process: bays of the station, the rig's side of each, a ledger, and a CA in SoftHSM.

use crate::plant::Plant;
use dps_station::bay::{Bay, Line};
use dps_station::fixtures::cable::{Faults, Socket, run_faulty};
use dps_station::fixtures::device::{Device, DeviceSpec, SharedDevice};
use dps_station::fixtures::pki::{find_softhsm, make_token};
use dps_station::fixtures::scenario::Scenario;
use dps_station::link::LinkOptions;
use dps_station::provision::bytes::Digest;
use dps_station::provision::device::{Attestation, DeviceId};
use dps_station::provision::event::Event;
use dps_station::provision::floor::Report;
use dps_station::provision::health::LinkLimits;
use std::collections::VecDeque;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

const PIN: &str = "user-4711";
const TOKEN: &str = "factory";
const DIRECTORY: &str = "STATION_TEST_SCENARIO_DIRECTORY";
pub const MODEL: &str = "SIM-X509";

/// A bay, as the rig's side of it is to be.
pub struct RigBay {
    pub name: String,
    pub dir: PathBuf,
    pub hotplug: bool,
    pub scenario: Option<Scenario>,
    pub link: LinkOptions,
    /// Their device IDs.
    pub units: Vec<String>,
}

/// What happened in a bay.
pub struct Story {
    pub reports: Vec<Report>,
    pub units: Vec<SharedDevice>,
}

/// Runs `check` in a process of its own, because SoftHSM reads its configuration from the environment.
pub fn in_a_process_with_an_hsm<F: Future<Output = ()>>(
    test: &str,
    check: impl FnOnce(Arc<Plant>) -> F,
) {
    if std::env::var_os(DIRECTORY).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let module = find_softhsm().unwrap();
            let plant = Plant::open(module, TOKEN, PIN, MODEL).await;
            check(Arc::new(plant)).await;
        });
        return;
    }
    let directory = TempDir::new().unwrap();
    let configuration = make_token(directory.path(), TOKEN, PIN, PIN).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(DIRECTORY, directory.path())
        .env("SOFTHSM2_CONF", configuration)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
    print!("{said}");
}

/// Options of a link whose far end is in this process: answers come at once or not at all.
pub fn options() -> LinkOptions {
    LinkOptions {
        answer_ms: 250,
        slow_answer_ms: 4_000,
        restart_ms: 8_000,
        arrival_ms: 1_000,
        ..LinkOptions::default()
    }
}

/// Runs a bay and the units that come to it until so many attempts have ended.
pub async fn run_bay(rig: RigBay, attempts: usize, line: &Arc<Line>) -> Story {
    let (sender, mut reports) = mpsc::channel(64);
    let (stop, stopped) = watch::channel(false);
    let port = rig.dir.join(format!("bay-{}", rig.name));
    let mut socket = Socket::new(&port);
    if !rig.hotplug {
        socket.plug().unwrap();
    }
    let bay = Bay {
        name: rig.name.clone(),
        port,
        hotplug: rig.hotplug,
        link: rig.link.clone(),
        limits: LinkLimits::default(),
        line: Arc::clone(line),
        reports: sender,
        test: Arc::default(),
        scans: Arc::default(),
    };
    let queue: VecDeque<_> = (0..rig.units.len()).map(|n| unit(&rig, n)).collect();
    let units = queue.iter().map(|(device, _)| Arc::clone(device)).collect();
    let (next, orders) = mpsc::channel(1);
    let far_end = tokio::spawn(serve(queue, socket, rig.hotplug, orders));
    let near_end = tokio::spawn(bay.run(stopped));
    let mut story = Story {
        reports: Vec::new(),
        units,
    };
    let mut ended = 0;
    while ended < attempts {
        let report = reports.recv().await.expect("the bay runs");
        if let Report::Event { recorded, .. } = &report
            && recorded.event.ends_attempt()
        {
            ended += 1;
            let comes_back =
                matches!(recorded.event, Event::Interrupted { .. }) && recorded.device.is_some();
            if !comes_back && ended < attempts {
                next.send(()).await.unwrap();
            }
        }
        story.reports.push(report);
    }
    stop.send(true).unwrap();
    reports.close();
    near_end.await.unwrap().unwrap();
    far_end.abort();
    story
}

fn unit(rig: &RigBay, number: usize) -> (SharedDevice, Faults) {
    let place = rig.name.parse::<u64>().unwrap();
    let faults = Faults::new(rig.scenario.as_ref(), place * 1_000 + number as u64);
    let device = new_device(&rig.dir, &rig.units[number]);
    (
        Arc::new(Mutex::new(device.with_flaw(faults.flaw()))),
        faults,
    )
}

/// So many device IDs for a bay.
pub fn ids(bay: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("sim-{bay}-{n:03}")).collect()
}

/// A device that comes from its first firmware, or as its flash in the folder has it.
pub fn new_device(dir: &Path, id: &str) -> Device {
    let spec = DeviceSpec {
        device_id: DeviceId::parse(id).unwrap(),
        model: MODEL.to_owned(),
        firmware: "1.0.0".to_owned(),
        uid: Digest::of(id.as_bytes()).0[..12].to_vec(),
        kind: Attestation::X509,
    };
    Device::load_or_make(&dir.join(format!("{id}.json")), spec).unwrap()
}

/// The rig's side of a bay: one unit after the other; one that was swapped comes again at the end.
async fn serve(
    mut units: VecDeque<(SharedDevice, Faults)>,
    mut socket: Socket,
    hotplug: bool,
    mut orders: mpsc::Receiver<()>,
) {
    while let Some((device, mut faults)) = units.pop_front() {
        let swapped = tokio::select! {
            ran = run_faulty(&device, &mut socket, hotplug, &mut faults) => {
                ran.unwrap();
                true
            }
            _ = orders.recv() => false,
        };
        if swapped {
            units.push_back((device, faults));
            for (_, faults) in &mut units {
                *faults = Faults::new(None, 0);
            }
        }
        if hotplug {
            socket.unplug();
        }
    }
}
