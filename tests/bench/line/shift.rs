//! Rounds of devices on a line, each from plug to verdict, and what each took.

use super::disk::Disk;
use super::floor::{self, Contents, Least};
use super::hall::{Hall, Running, Used};
use super::necessary::{self, Said};
use dps_station::fixtures::device::SharedDevice;
use dps_station::fixtures::serial::{Line, Tally, Times};
use dps_station::provision::device::Identification;
use dps_station::provision::event::{Event, Recorded};
use dps_station::provision::floor::Report;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often an empty bay is asked, at most: devices come at any moment between two questions.
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);
/// The golden ratio's fraction, by which moments spread evenly however many there are.
const SPREAD: f64 = 0.618_033_988_749_895;

/// A station and the lines to its bays.
pub struct Shift {
    station: Running, // the first to be dropped, before its files are
    hall: Hall,
    lines: Vec<Line>,
    times: Times,
    made: usize,
    rounds: usize,
}

/// One device's way through a bay.
#[derive(Clone, Copy, Debug)]
pub struct Cycle {
    /// From power to the verdict, as whoever reads the reports sees it.
    pub took: Duration,
    /// The part of it from the first question that it answered.
    pub job: Duration,
    /// From power to the report of its arrival.
    pub noticed: Duration,
    pub floor: Duration,
    pub least: Least,
    /// Bytes of the same in the maps of the group's page, and the floor with these.
    pub maps: u64,
    pub in_maps: Duration,
    pub tally: Tally,
}

/// What was heard of a device on its way.
#[derive(Default)]
struct Way {
    arrived: Option<Instant>,
    who: Option<Identification>,
    request: Vec<u8>,
    id_scope: String,
    endpoint: String,
}

impl Shift {
    /// Starts a station with so many bays, on a disk of its own where there is one, and waits until each bay waits.
    pub async fn begin(bays: usize, hotplug: bool, times: &Times, disk: Option<&Disk>) -> Self {
        let hall = Hall::lay_out(bays, hotplug);
        let lay = |bay| Line::lay(&hall.port(bay), hotplug, times.clone()).unwrap();
        let lines = hall.bays().map(lay).collect();
        let station = match disk {
            Some(disk) => hall.run_with(|station| disk.under(station)),
            None => hall.run(),
        };
        let mut shift = Self {
            station,
            hall,
            lines,
            times: times.clone(),
            made: 0,
            rounds: 0,
        };
        if !hotplug {
            let waits = |report: &Report| matches!(report, Report::BayWaiting { .. });
            shift.until_each(waits).await;
        }
        shift
    }

    /// A device that was in no bay yet.
    pub fn device(&mut self) -> SharedDevice {
        self.made += 1;
        self.hall.device(self.made - 1)
    }

    /// So many devices that were in no bay yet.
    pub fn devices(&mut self, count: usize) -> Vec<SharedDevice> {
        (0..count).map(|_| self.device()).collect()
    }

    /// Lets a device pass; gives the CA's certificate in DER, as the device has it.
    pub async fn certificate_of_the_ca(&mut self) -> Vec<u8> {
        let device = self.device();
        self.lines[0].put(Some(Arc::clone(&device))).await.unwrap();
        self.passed().await;
        self.change(None).await;
        let mut chain = device.lock().unwrap().certificates();
        chain.pop().unwrap()
    }

    /// The folder that all of it is in.
    pub fn dir(&self) -> &Path {
        self.hall.dir()
    }

    /// The station's process.
    pub fn process(&self) -> u32 {
        self.station.process()
    }

    /// Every bay gets a device at the same moment, and each passes.
    pub async fn round(&mut self) -> Vec<Cycle> {
        let devices = self.devices(self.lines.len());
        self.at_any_moment().await;
        let mut plugged = Vec::new();
        for (line, device) in self.lines.iter().zip(&devices) {
            plugged.push(line.put(Some(Arc::clone(device))).await.unwrap());
        }
        let mut under_way: BTreeMap<usize, Way> = BTreeMap::new();
        let mut cycles = Vec::new();
        while cycles.len() < devices.len() {
            let (at, report) = self.station.timed_report().await;
            let Report::Event { bay, recorded } = report else {
                continue;
            };
            let bay: usize = bay.parse().unwrap();
            let way = under_way.entry(bay).or_default();
            if way.note(at, *recorded) {
                let tally = self.lines[bay].tally();
                let plugged = plugged[bay].into_std();
                cycles.push(way.cycle(plugged, at, &devices[bay], tally, &self.times));
            }
        }
        cycles
    }

    /// Takes every device out, and waits until that was noticed.
    pub async fn clear(&mut self) {
        for line in &self.lines {
            line.put(None).await.unwrap();
        }
        let left = |report: &Report| matches!(report, Report::Removed { .. });
        self.until_each(left).await;
    }

    /// Changes what is in the first bay, where a unit has passed; gives how long until that was noticed.
    pub async fn change(&mut self, device: Option<SharedDevice>) -> Duration {
        let changed = self.lines[0].put(device).await.unwrap().into_std();
        loop {
            let (at, report) = self.station.timed_report().await;
            if matches!(report, Report::Removed { .. }) {
                return at - changed;
            }
        }
    }

    /// Waits until a unit has passed.
    pub async fn passed(&mut self) {
        let mut way = Way::default();
        loop {
            let (at, report) = self.station.timed_report().await;
            if let Report::Event { recorded, .. } = report
                && way.note(at, *recorded)
            {
                return;
            }
        }
    }

    /// What the station has used so far.
    pub fn used(&self) -> Used {
        self.station.used()
    }

    /// Waits until as many such reports have come as there are bays.
    async fn until_each(&mut self, wanted: fn(&Report) -> bool) {
        let mut left = self.lines.len();
        while left > 0 {
            left -= usize::from(wanted(&self.station.report().await));
        }
    }

    /// Waits, in each round for another part of the pause between two questions.
    pub async fn at_any_moment(&mut self) {
        self.rounds += 1;
        let part = (self.rounds as f64 * SPREAD).fract();
        tokio::time::sleep(BETWEEN_LOOKS.mul_f64(part)).await;
    }
}

impl Way {
    /// Takes note of an event; says whether the device has passed.
    fn note(&mut self, at: Instant, recorded: Recorded) -> bool {
        match recorded.event {
            Event::Arrived { .. } => self.arrived = Some(at),
            Event::Identified { identification, .. } => self.who = Some(identification),
            Event::KeyRead { csr, .. } => self.request = csr.0,
            Event::Written { asked } => {
                self.id_scope = asked.id_scope;
                self.endpoint = asked.global_endpoint;
            }
            Event::Passed { .. } => return true,
            Event::Failed { fault, .. }
            | Event::Errored { fault }
            | Event::Interrupted { fault } => panic!("{fault:?}"),
            _ => {}
        }
        false
    }

    fn cycle(
        &self,
        plugged: Instant,
        passed: Instant,
        device: &SharedDevice,
        tally: Tally,
        times: &Times,
    ) -> Cycle {
        let who = self.who.as_ref().unwrap();
        let said = Said {
            device_id: who.device_id.to_string(),
            model: who.model.clone(),
            firmware: who.firmware.clone(),
            uid: who.uid.0.clone(),
            request: self.request.clone(),
            chain: device.lock().unwrap().chain().to_vec(),
            id_scope: self.id_scope.clone(),
            endpoint: self.endpoint.clone(),
        };
        let buf_size = floor::buf_size(device);
        let least = floor::least(&Contents::of(&said), buf_size);
        let maps = necessary::bytes(&said, buf_size);
        Cycle {
            took: passed - plugged,
            job: passed - tally.asked.unwrap().into_std(),
            noticed: self.arrived.unwrap() - plugged,
            floor: floor::time(least.bytes, tally.own, times),
            least,
            maps,
            in_maps: floor::time(maps, tally.own, times),
            tally,
        }
    }
}
