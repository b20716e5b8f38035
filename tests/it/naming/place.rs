//! A bay in this process that a test plugs units into, with a product that names them as the test says.

use crate::plant::{self, Plant, STEP_DEADLINE};
use crate::scenarios::line::options;
use dps_station::bay::{Bay, Line, LineProduct, Scans};
use dps_station::fixtures::device::{Cable, Device, DeviceSpec, SharedDevice, run_device};
use dps_station::fixtures::pty::Pty;
use dps_station::fixtures::scenario::Flaw;
use dps_station::provision::bytes::{Blob, Digest};
use dps_station::provision::device::{Attestation, DeviceId};
use dps_station::provision::event::Event;
use dps_station::provision::fault::Fault;
use dps_station::provision::floor::Report;
use dps_station::provision::health::LinkLimits;
use dps_station::provision::product::Product;
use serde_json::Value;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

/// How long one report may take to come, on a machine that does much else.
/// It is longer than the bay waits for a label.
const REPORT_MAX: Duration = Duration::from_secs(90);

/// A line with one product, and the units that come to it.
pub struct Hall {
    dir: Arc<TempDir>,
    pub line: Arc<Line>,
}

impl Hall {
    /// With a `[product.device_id]` of this text.
    pub fn new(plant: &Plant, naming: &str) -> Self {
        Self::with(plant, |product| {
            product.naming = toml::from_str(naming).unwrap();
            product.naming.check().unwrap();
        })
    }

    pub fn with(plant: &Plant, change: impl FnOnce(&mut Product)) -> Self {
        Self::making(plant, |made| alter(made, change))
    }

    /// With a line that makes its product as `change` says.
    pub fn making(plant: &Plant, change: impl FnOnce(&mut LineProduct)) -> Self {
        let dir = TempDir::new().unwrap();
        let ledger = plant::ledger(&dir.path().join("ledger.sqlite"));
        let mut line = plant.line(ledger, STEP_DEADLINE);
        change(&mut line.products[0]);
        Self {
            dir: Arc::new(dir),
            line: Arc::new(line),
        }
    }

    /// The same hall when its product is another one.
    pub fn turned(&self, plant: &Plant, change: impl FnOnce(&mut Product)) -> Self {
        let mut line = plant.line(self.line.ledger.clone(), STEP_DEADLINE);
        alter(&mut line.products[0], change);
        Self {
            dir: Arc::clone(&self.dir),
            line: Arc::new(line),
        }
    }

    pub fn ledger(&self) -> PathBuf {
        self.dir.path().join("ledger.sqlite")
    }

    /// The numbers that were given out, with what became of them.
    pub async fn numbers(&self) -> Vec<String> {
        let rows = self.line.ledger.allocations().await.unwrap();
        let text = rows
            .iter()
            .map(|row| format!("{} {:?}", row.device, row.state));
        text.collect()
    }

    /// A unit with an ID of its own.
    pub fn own(&self, id: &str) -> SharedDevice {
        Arc::new(Mutex::new(self.device(id)))
    }

    /// A unit without one.
    pub fn blank(&self, unit: &str, flaw: Option<Flaw>) -> SharedDevice {
        let device = self.device(unit).with_flaw(flaw).without_id().unwrap();
        Arc::new(Mutex::new(device))
    }

    /// A unit without one that asks for a certificate in another name.
    pub fn misnaming(&self, unit: &str) -> SharedDevice {
        let device = self.device(unit).with_own_name("GW-9999");
        Arc::new(Mutex::new(device.without_id().unwrap()))
    }

    /// A unit with an ID of its own and something wrong with it.
    pub fn flawed(&self, id: &str, flaw: Flaw) -> SharedDevice {
        Arc::new(Mutex::new(self.device(id).with_flaw(Some(flaw))))
    }

    /// Any unit, with its flash in a file of this name.
    pub fn unit(
        &self,
        flash: &str,
        spec: DeviceSpec,
        change: impl FnOnce(Device) -> Device,
    ) -> SharedDevice {
        let device = Device::load_or_make(&self.flash(flash), spec).unwrap();
        Arc::new(Mutex::new(change(device)))
    }

    /// Makes a flash out of another one, which may be itself.
    pub fn copy_flash(&self, from: &str, to: &str, change: impl FnOnce(&mut Value)) {
        let mut content = serde_json::from_slice(&fs::read(self.flash(from)).unwrap()).unwrap();
        change(&mut content);
        fs::write(self.flash(to), content.to_string()).unwrap();
    }

    fn device(&self, id: &str) -> Device {
        Device::load_or_make(&self.flash(id), spec(id)).unwrap()
    }

    fn flash(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.json"))
    }

    /// The path of a bay's port.
    pub fn port(&self, bay: &str) -> PathBuf {
        self.dir.path().join(format!("bay-{bay}"))
    }

    /// A bay that serves, each of its reports taken before the next is made. Its port comes and goes with its units.
    pub fn open(&self, name: &str) -> Place {
        self.serve(name, true)
    }

    /// The same with a port that is meant to be there always.
    pub fn open_fixed(&self, name: &str) -> Place {
        self.serve(name, false)
    }

    fn serve(&self, name: &str, hotplug: bool) -> Place {
        let (reports, said) = mpsc::channel(1);
        let (stop, stopped) = watch::channel(false);
        let scans = Arc::new(Scans::default());
        let test = Arc::new(Notify::new());
        let port = self.port(name);
        let bay = Bay {
            name: name.to_owned(),
            port: port.clone(),
            hotplug,
            link: options(),
            limits: LinkLimits::default(),
            line: Arc::clone(&self.line),
            reports,
            test: Arc::clone(&test),
            scans: Arc::clone(&scans),
        };
        let task = async move { bay.run(stopped).await.map_err(|fault| fault.to_string()) };
        Place {
            line: Arc::clone(&self.line),
            port,
            scans,
            test,
            said,
            stop,
            task: tokio::spawn(task),
            plug: None,
            numbers: Arc::default(),
        }
    }
}

/// Changes the product of a line.
pub fn alter(made: &mut LineProduct, change: impl FnOnce(&mut Product)) {
    let mut product = (*made.product).clone();
    change(&mut product);
    made.product = Arc::new(product);
}

/// An ordinary unit.
pub fn spec(id: &str) -> DeviceSpec {
    DeviceSpec {
        device_id: DeviceId::parse(id).unwrap(),
        model: "SIM-X509".to_owned(),
        firmware: "1.0.0".to_owned(),
        uid: uid(id).0,
        kind: Attestation::X509,
    }
}

/// A unit's microcontroller.
pub fn uid(unit: &str) -> Blob {
    Blob(Digest::of(unit.as_bytes()).0[..12].to_vec())
}

/// What an attempt ended with instead of a PASS.
pub fn fault(events: &[Event]) -> &Fault {
    match events.last() {
        Some(Event::Failed { fault, .. } | Event::Interrupted { fault }) => fault,
        other => panic!("no fault: {other:?}"),
    }
}

/// A bay, as the person before it has it.
pub struct Place {
    line: Arc<Line>,
    port: PathBuf,
    pub scans: Arc<Scans>,
    /// Has the port tested.
    pub test: Arc<Notify>,
    said: mpsc::Receiver<Report>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), String>>,
    plug: Option<JoinHandle<io::Result<()>>>,
    numbers: Arc<Mutex<Vec<PathBuf>>>,
}

impl Place {
    /// Plugs a unit in; its port goes away while it starts anew.
    pub fn plug(&mut self, unit: &SharedDevice) {
        let cable = Cable {
            port_leaves_at_reset: true,
            ..Cable::uart(&self.port)
        };
        self.plug = Some(tokio::spawn(run_device(Arc::clone(unit), cable)));
    }

    /// The same with a port that stays.
    pub fn plug_firmly(&mut self, unit: &SharedDevice) {
        let cable = Cable::uart(&self.port);
        self.plug = Some(tokio::spawn(run_device(Arc::clone(unit), cable)));
    }

    /// The same with a unit that comes back under another number of the port each time.
    pub fn plug_renumbered(&mut self, unit: &SharedDevice) {
        let (unit, port) = (Arc::clone(unit), self.port.clone());
        let numbers = Arc::clone(&self.numbers);
        self.plug = Some(tokio::spawn(async move {
            let number = |port: &Path| fs::read_link(port).unwrap();
            let mut pty = Pty::open(&port)?;
            numbers.lock().unwrap().push(number(&port));
            let mut buffer = [0; 1024];
            loop {
                let count = pty.read(&mut buffer).await?;
                let output = unit.lock().unwrap().handle(&buffer[..count]);
                pty.write_all(&output).await?;
                if unit.lock().unwrap().wants_restart() {
                    // The former one is open until the next one is made: the numbers cannot be the same.
                    pty = Pty::open(&port)?;
                    numbers.lock().unwrap().push(number(&port));
                    unit.lock().unwrap().restart()?;
                }
            }
        }));
    }

    /// The same with a unit that never comes back when it starts anew, and its port neither.
    pub fn plug_for_the_last_time(&mut self, unit: &SharedDevice) {
        let (unit, port) = (Arc::clone(unit), self.port.clone());
        self.plug = Some(tokio::spawn(async move {
            let mut pty = Pty::open(&port)?;
            let mut buffer = [0; 1024];
            while !unit.lock().unwrap().wants_restart() {
                let count = pty.read(&mut buffer).await?;
                let output = unit.lock().unwrap().handle(&buffer[..count]);
                pty.write_all(&output).await?;
            }
            Ok(())
        }));
    }

    /// The numbers that such a unit had.
    pub fn numbers(&self) -> Vec<PathBuf> {
        self.numbers.lock().unwrap().clone()
    }

    /// Unplugs the unit, and waits until that was noticed.
    pub async fn pull(&mut self) {
        self.unplug().await;
        self.until(|report| matches!(report, Report::Removed { .. }))
            .await;
    }

    /// Waits until the bay says that it waits for the label of the unit that has arrived.
    pub async fn until_scan_is_wanted(&mut self) {
        self.until_event("arrived").await;
        self.until(|report| matches!(report, Report::BayWaiting { for_scan: true, .. }))
            .await;
    }

    /// Waits until the bay has something to say, and leaves it there: the bay waits with what it says next.
    pub async fn until_it_reports(&self) {
        let said = async {
            while self.said.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        let said = tokio::time::timeout(REPORT_MAX, said).await;
        said.expect("a report in time");
    }

    /// Waits until the bay has its port.
    pub async fn until_open(&mut self) {
        self.until(|report| matches!(report, Report::BayOpened { .. }))
            .await;
    }

    pub async fn until_event(&mut self, kind: &str) {
        self.until(
            |report| matches!(report, Report::Event { recorded, .. } if recorded.event.kind() == kind),
        )
        .await;
    }

    /// Waits until the unit that is there, or comes next, has its verdict; gives all its events.
    pub async fn stay(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            if let Report::Event { recorded, .. } = self.next().await {
                events.push(recorded.event);
                if events.last().is_some_and(Event::ends_attempt) {
                    return events;
                }
            }
        }
    }

    /// Waits for the fault with which the bay is out of service, or of a note that it makes.
    pub async fn trouble(&mut self) -> Fault {
        loop {
            if let Report::BayOut { fault, .. }
            | Report::Note {
                fault: Some(fault), ..
            } = self.next().await
            {
                return fault;
            }
        }
    }

    /// Stops the bay where it stands, as a killed process would.
    pub async fn kill(mut self) {
        self.task.abort();
        let _ = self.task.await;
        // What it had asked to be recorded is recorded before anybody reads the ledger again.
        self.line.ledger.pragmas().await.unwrap();
        self.line.present.lock().unwrap().clear();
        if let Some(plug) = self.plug.take() {
            plug.abort();
            let _ = plug.await;
        }
    }

    pub async fn close(mut self) {
        self.unplug().await;
        self.stop.send(true).unwrap();
        self.said.close();
        self.task.await.unwrap().unwrap();
    }

    /// Takes the reports and looks at none of them, as long as `what` takes.
    pub async fn look_away_while(&mut self, what: impl Future<Output = ()>) {
        tokio::pin!(what);
        loop {
            tokio::select! {
                () = &mut what => return,
                report = self.said.recv() => assert!(report.is_some(), "the bay runs"),
            }
        }
    }

    async fn unplug(&mut self) {
        if let Some(plug) = self.plug.take() {
            plug.abort();
            let _ = plug.await;
        }
    }

    async fn until(&mut self, wanted: impl Fn(&Report) -> bool) {
        while !wanted(&self.next().await) {}
    }

    async fn next(&mut self) -> Report {
        let report = tokio::time::timeout(REPORT_MAX, self.said.recv()).await;
        report.expect("a report in time").expect("the bay runs")
    }
}
