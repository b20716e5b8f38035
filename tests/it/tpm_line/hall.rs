//! A hall with one bay and no HSM: a real bay and ledger, and simulated devices with software TPMs on its cable.

use dps_station::bay::{Bay, Line, LineProduct};
use dps_station::fixtures::device::{Device, DeviceSpec, Tpm};
use dps_station::fixtures::pty::Pty;
use dps_station::fixtures::tpm::SwTpm;
use dps_station::ledger::{Ledger, Options, OutboxFilter, OutboxState, verify};
use dps_station::link::{Injection, LinkOptions, of_product};
use dps_station::provision::bytes::Digest;
use dps_station::provision::certificate::Profile;
use dps_station::provision::device::{Attestation, DeviceId};
use dps_station::provision::endorsement::{EmptyHandle, EndorsementPolicy, VendorRoots};
use dps_station::provision::event::{EndorsementRecord, Event};
use dps_station::provision::fault::{Blame, Fault};
use dps_station::provision::floor::Report;
use dps_station::provision::product::{DpsTarget, Product};
use dps_station::provision::verdict::Verdict;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// How long one stay in the bay may take, on a machine that does much else.
const STAY_MAX: Duration = Duration::from_secs(60);
/// Reports that may wait.
const REPORTS: usize = 64;
/// How long a device takes from reset until it listens again.
const START_TIME: Duration = Duration::from_millis(20);

/// One bay, and the ledger behind it.
pub struct Hall {
    dir: TempDir,
    pub link: LinkOptions,
    pub line: Arc<Line>,
}

impl Hall {
    /// A hall for TPM devices whose makers are `roots`; `change` says in what its product differs from the ordinary.
    pub fn new(roots: VendorRoots, change: impl FnOnce(&mut Product)) -> Self {
        let dir = TempDir::new().unwrap();
        let mut product = product(roots);
        change(&mut product);
        let line = line(&dir.path().join("ledger.sqlite"), product);
        Self {
            dir,
            link: LinkOptions::default(),
            line: Arc::new(line),
        }
    }

    /// A device as it comes from its first firmware, with this TPM in it.
    pub fn device(&self, name: &str, tpm: impl Tpm + 'static) -> Device {
        let device = Device::load_or_make(&self.flash(name), spec(name)).unwrap();
        device.with_tpm(Box::new(tpm))
    }

    /// The bay, not yet open.
    pub fn bay(&self, reports: mpsc::Sender<Report>) -> Bay {
        Bay {
            name: "1".to_owned(),
            port: self.port(),
            hotplug: true,
            link: self.link.clone(),
            limits: Default::default(),
            line: Arc::clone(&self.line),
            reports,
            test: Arc::default(),
            scans: Arc::default(),
        }
    }

    /// Opens the bay.
    pub fn open(&self) -> OpenBay {
        let (reports, said) = mpsc::channel(REPORTS);
        let (stop, stopped) = watch::channel(false);
        let bay = self.bay(reports);
        OpenBay {
            said,
            stop,
            task: tokio::spawn(async move { bay.run(stopped).await.map_err(|e| e.to_string()) }),
        }
    }

    /// One stay of one device.
    pub async fn stay(&self, name: &str, tpm: impl Tpm + 'static) -> Stay {
        let mut bay = self.open();
        let plug = self.plug_in(self.device(name, tpm));
        let stay = bay.stay().await;
        let bytes = plug.pull();
        bay.close().await;
        Stay { bytes, ..stay }
    }

    /// Hangs a device on the bay's cable.
    pub fn plug_in(&self, device: Device) -> Plug {
        self.hang(device, |_| false)
    }

    /// Hangs a device on the bay's cable, which comes off when it is sealed, before it can say so.
    pub fn plug_in_until_sealed(&self, device: Device) -> Plug {
        self.hang(device, Device::sealed)
    }

    fn hang(&self, device: Device, comes_off: fn(&Device) -> bool) -> Plug {
        let pty = Pty::open(&self.port()).unwrap();
        let bytes = Arc::new(Mutex::new(Bytes::default()));
        let task = tokio::spawn(run(device, pty, Arc::clone(&bytes), comes_off));
        Plug { task, bytes }
    }

    /// Holds the ledger and the devices to this: so the verdicts on its units stand, those that passed and no other are
    /// sealed and wait to be enrolled, nothing was reserved or allocated, no attempt is open, and the record is whole.
    pub async fn ends(&self, units: &[(&str, Option<Verdict>)]) {
        let ledger = &self.line.ledger;
        let found = ledger.units().await.unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|row| (row.device.as_str(), row.verdict))
            .collect();
        assert_eq!(found, units);
        let waiting = ledger.outbox(OutboxFilter::default()).await.unwrap();
        let waiting: BTreeMap<_, _> = waiting
            .iter()
            .map(|row| (row.device.as_str(), row.state))
            .collect();
        for (name, verdict) in units {
            let passed = *verdict == Some(Verdict::Passed);
            let wanted = passed.then_some(&OutboxState::Pending);
            assert_eq!(waiting.get(name), wanted, "{name}");
            if verdict.is_some() {
                assert_eq!(self.is_sealed(name), passed, "{name}");
            }
        }
        assert_eq!(ledger.reservations().await.unwrap(), []);
        assert!(ledger.allocations().await.unwrap().is_empty());
        assert_eq!(ledger.open_attempts().await.unwrap(), []);
        assert_eq!(verify(&self.ledger_file()).unwrap().damages, []);
    }

    /// Whether a device says in its flash that it is sealed.
    pub fn is_sealed(&self, name: &str) -> bool {
        let flash = fs::read(self.flash(name)).unwrap();
        let flash: Value = serde_json::from_slice(&flash).unwrap();
        flash["sealed"].as_bool().unwrap()
    }

    /// The ledger's file.
    pub fn ledger_file(&self) -> PathBuf {
        self.dir.path().join("ledger.sqlite")
    }

    fn flash(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.json"))
    }

    fn port(&self) -> PathBuf {
        self.dir.path().join("bay")
    }
}

/// A bay that serves.
pub struct OpenBay {
    said: mpsc::Receiver<Report>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), String>>,
}

impl OpenBay {
    /// Waits until the device that is in the bay, or comes next, has its verdict, or is gone.
    pub async fn stay(&mut self) -> Stay {
        let (mut events, mut heard) = (Vec::new(), Vec::new());
        let started = Instant::now();
        loop {
            let report = tokio::time::timeout(STAY_MAX, self.said.recv()).await;
            let report = report.unwrap_or_else(|_| panic!("no verdict after {events:?}"));
            let Report::Event { recorded, .. } = report.expect("the bay runs") else {
                continue;
            };
            events.push(recorded.event);
            heard.push(started.elapsed());
            if events.last().is_some_and(Event::ends_attempt) {
                break;
            }
        }
        Stay {
            events,
            heard,
            bytes: Bytes::default(),
        }
    }

    pub async fn close(self) {
        self.stop.send(true).unwrap();
        drop(self.said);
        self.task.await.unwrap().unwrap();
    }
}

/// Bytes that went over the cable.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bytes {
    pub to_device: usize,
    pub to_bay: usize,
}

/// A device that hangs on the cable.
pub struct Plug {
    task: JoinHandle<io::Result<()>>,
    bytes: Arc<Mutex<Bytes>>,
}

impl Plug {
    /// Unplugs the device.
    pub fn pull(self) -> Bytes {
        self.task.abort();
        *self.bytes.lock().unwrap()
    }
}

/// Runs a device until it comes off, and counts.
async fn run(
    device: Device,
    mut pty: Pty,
    bytes: Arc<Mutex<Bytes>>,
    comes_off: fn(&Device) -> bool,
) -> io::Result<()> {
    let device = Arc::new(Mutex::new(device));
    let mut buffer = [0; 1024];
    loop {
        let count = pty.read(&mut buffer).await?;
        bytes.lock().unwrap().to_device += count;
        let (input, worker) = (buffer[..count].to_vec(), Arc::clone(&device));
        let work = move || worker.lock().unwrap().handle(&input);
        let output = tokio::task::spawn_blocking(work).await?;
        if comes_off(&device.lock().unwrap()) {
            return Ok(());
        }
        bytes.lock().unwrap().to_bay += output.len();
        pty.write_all(&output).await?;
        let restart = device.lock().unwrap().wants_restart();
        if restart {
            tokio::time::sleep(START_TIME).await;
            pty.discard_input()?;
            device.lock().unwrap().restart()?;
            pty.write_all(b"*** Booting ***\r\n").await?;
        }
    }
}

/// What is on record of one stay.
#[derive(Debug)]
pub struct Stay {
    pub events: Vec<Event>,
    /// When each was heard of, since the test began to listen.
    pub heard: Vec<Duration>,
    pub bytes: Bytes,
}

impl Stay {
    pub fn kinds(&self) -> Vec<&'static str> {
        self.events.iter().map(Event::kind).collect()
    }

    /// How long the step took that ended with this event.
    pub fn step(&self, kind: &str) -> Duration {
        let at = self.kinds().iter().position(|found| *found == kind);
        let at = at.unwrap_or_else(|| panic!("no {kind}: {self:?}"));
        self.heard[at] - self.heard[at - 1]
    }

    pub fn passed(&self) -> bool {
        matches!(self.events.last(), Some(Event::Passed { .. }))
    }

    /// The fault of a unit that failed, which is the unit's own and leaves nothing to disable: it has no certificate.
    pub fn failed(&self) -> &Fault {
        match self.events.last() {
            Some(Event::Failed {
                fault,
                disable: None,
            }) => {
                assert_eq!(fault.blame(), Blame::Device, "{fault:?}");
                fault
            }
            other => panic!("no FAIL: {other:?}"),
        }
    }

    /// The fault of the station that kept it from a verdict on the unit.
    pub fn errored(&self) -> &Fault {
        match self.events.last() {
            Some(Event::Errored { fault }) => {
                assert_eq!(fault.blame(), Blame::Station, "{fault:?}");
                fault
            }
            other => panic!("no ERROR: {other:?}"),
        }
    }

    pub fn endorsement(&self) -> &EndorsementRecord {
        let record = self.events.iter().find_map(|event| match event {
            Event::EndorsementRead(record) => Some(record),
            _ => None,
        });
        record.expect("an endorsement key is on record")
    }
}

/// A TPM that the test can still reach when it is in a device.
#[derive(Clone)]
pub struct Chip {
    tpm: Arc<Mutex<SwTpm>>,
    _dir: Arc<TempDir>,
}

impl Chip {
    pub fn new((tpm, dir): (SwTpm, TempDir)) -> Self {
        Self {
            tpm: Arc::new(Mutex::new(tpm)),
            _dir: Arc::new(dir),
        }
    }

    /// Takes its power away and gives it back.
    pub fn power_cycle(&self) {
        self.tpm.lock().unwrap().power_cycle().unwrap();
    }
}

impl Tpm for Chip {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.tpm.lock().unwrap().transact(command)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.tpm.lock().unwrap().power_cycle()
    }
}

/// One command as the TPM itself saw it.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    pub code: u32,
    /// Bytes of the command.
    pub asked: usize,
    /// Bytes of the response.
    pub answered: usize,
    /// The TPM's own time.
    pub took: Duration,
}

/// A TPM that is watched.
#[derive(Clone)]
pub struct Watched {
    chip: Chip,
    log: Arc<Mutex<Vec<Command>>>,
}

impl Watched {
    pub fn new(chip: Chip) -> Self {
        let log = Arc::default();
        Self { chip, log }
    }

    pub fn commands(&self) -> Vec<Command> {
        self.log.lock().unwrap().clone()
    }
}

impl Tpm for Watched {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let started = Instant::now();
        let response = self.chip.transact(command)?;
        let took = started.elapsed();
        let code = command[6..10].try_into().map(u32::from_be_bytes);
        self.log.lock().unwrap().push(Command {
            code: code.unwrap(),
            asked: command.len(),
            answered: response.len(),
            took,
        });
        Ok(response)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.chip.restart()
    }
}

/// A minute from now, when everything that a test makes has been made: milliseconds since 1970.
fn clock() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(now.unwrap().as_millis()).unwrap() + 60_000
}

/// How a device comes from its first firmware.
pub fn spec(name: &str) -> DeviceSpec {
    DeviceSpec {
        device_id: DeviceId::parse(name).unwrap(),
        model: "SIM-TPM".to_owned(),
        firmware: "1.0".to_owned(),
        uid: name.as_bytes().to_vec(),
        kind: Attestation::Tpm,
    }
}

/// A line that makes this product without an HSM, with its ledger in this file.
pub fn line(ledger: &Path, product: Product) -> Line {
    let ledger = Ledger::open(Options {
        path: ledger.to_owned(),
        station: "S1".to_owned(),
        clock,
        progress: |_| {},
        max_pages: None,
    });
    let made = LineProduct {
        product: Arc::new(product),
        driver: of_product(Injection::default(), "SIM-TPM"),
        signer: None,
        step_deadline: Duration::from_secs(30),
    };
    Line {
        ledger: ledger.unwrap(),
        products: vec![made],
        present: Mutex::new(BTreeMap::new()),
        loopback: Default::default(),
        clock,
    }
}

/// The ordinary product: genuine TPMs only, and an empty handle is filled.
pub fn product(roots: VendorRoots) -> Product {
    Product {
        name: "sim-tpm".to_owned(),
        model: "SIM-TPM".to_owned(),
        firmware: Vec::new(),
        usb: Vec::new(),
        naming: Default::default(),
        attestation: Some(Attestation::Tpm),
        endpoint_readback: Default::default(),
        value_limit: 253,
        ca: None,
        profile: Profile::default(),
        dps: DpsTarget {
            name: "main".to_owned(),
            id_scope: "0ne00112233".to_owned(),
            global_endpoint: "global.azure-devices-provisioning.net".to_owned(),
        },
        initial_desired: None,
        initial_tags: None,
        content: Default::default(),
        line: "line".to_owned(),
        endorsement: EndorsementPolicy::Required,
        empty_handle: EmptyHandle::Persist,
        vendor_roots: Arc::new(roots),
        digest: Some(Digest::of(b"product")),
    }
}
