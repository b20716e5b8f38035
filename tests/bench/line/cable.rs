//! A serial line of a given rate between a bay's pseudo-terminal and a device, and what passed over it.

use dps_station::fixtures::device::SharedDevice;
use dps_station::fixtures::pty::Pty;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

/// Bytes that arrive together, as adapters hand them on: 10 ms of the line. Less than the station takes for quiet.
const BATCH: usize = 115;
/// How late a delivery may have been to be made up for by the next. The runtime's timer counts whole milliseconds,
/// and a machine that is busy wakes later.
const LATE_MAX: Duration = Duration::from_millis(10);
/// How long a device takes from reset until it listens again.
const START_TIME: Duration = Duration::from_millis(20);
/// What it says then.
const BANNER: &[u8] = b"*** Booting Zephyr OS build v3.7.0 ***\r\n";
/// How much is read at a time, in bytes.
const READ_SIZE: usize = 1024;

/// What passed over a line since the device was found, both ways, and what the device did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub bytes: u64,
    pub round_trips: u64,
    /// The device's own time: at its requests, and from reset until it has said that it listens.
    pub own: Duration,
    /// How long the line was idle because the station had not asked yet.
    pub idle: Duration,
    found: bool,
}

/// One way of a line.
struct Way {
    rate: Option<f64>,
    late: Duration,
}

/// A bay's end of the cable: a port that stays, and whoever is put there.
pub struct Bay {
    devices: mpsc::Sender<Change>,
    tally: Arc<Mutex<Tally>>,
}

/// Who comes into the bay, if anyone, and who is to be told when that is done.
type Change = (Option<SharedDevice>, oneshot::Sender<()>);

impl Bay {
    /// An empty bay with a line of `rate` bytes per second, or one that takes no time.
    pub fn new(mut pty: Pty, rate: Option<f64>) -> Self {
        let (devices, mut next) = mpsc::channel::<Change>(1);
        let tally = Arc::new(Mutex::new(Tally::default()));
        let shared = Arc::clone(&tally);
        tokio::spawn(async move {
            let mut device = None;
            loop {
                tokio::select! {
                    ended = serve(device.take(), &mut pty, rate, &shared) => ended.unwrap(),
                    change = next.recv() => {
                        let Some((coming, done)) = change else { return };
                        pty.discard_input().unwrap();
                        device = coming;
                        let _ = done.send(());
                    }
                }
            }
        });
        Self { devices, tally }
    }

    /// Puts a device into the bay, and takes out whatever was there.
    pub async fn put(&self, device: Option<SharedDevice>) {
        *self.tally.lock().unwrap() = Tally::default();
        let (done, wait) = oneshot::channel();
        self.devices.send((device, done)).await.unwrap();
        wait.await.unwrap();
    }

    /// What has passed since the device was found.
    pub fn tally(&self) -> Tally {
        *self.tally.lock().unwrap()
    }
}

impl Way {
    /// Waits as long as the line takes for so many bytes.
    async fn pass(&mut self, bytes: usize) {
        let Some(rate) = self.rate else { return };
        let takes = Duration::from_secs_f64(bytes as f64 / rate);
        let now = Instant::now();
        let due = now + takes.saturating_sub(self.late);
        self.late = self.late.saturating_sub(takes);
        if due > now {
            sleep_until(due).await;
            self.late = due.elapsed().min(LATE_MAX);
        }
    }
}

/// Runs the device, or nothing, at the port. The dialogue goes one way at a time, and so does this.
async fn serve(
    device: Option<SharedDevice>,
    pty: &mut Pty,
    rate: Option<f64>,
    tally: &Mutex<Tally>,
) -> io::Result<()> {
    let way = || Way {
        rate,
        late: Duration::ZERO,
    };
    let (mut to_device, mut to_station) = (way(), way());
    let mut buffer = [0; READ_SIZE];
    loop {
        let began = Instant::now();
        let count = pty.read(&mut buffer).await?;
        let idle = began.elapsed();
        to_device.pass(count).await;
        let Some(device) = &device else { continue };
        let began = Instant::now();
        let (reply, restart) = {
            let mut device = device.lock().unwrap();
            (device.handle(&buffer[..count]), device.wants_restart())
        };
        let own = began.elapsed();
        say(&reply, pty, &mut to_station).await?;
        {
            let mut tally = tally.lock().unwrap();
            tally.bytes += (count + reply.len()) as u64;
            tally.round_trips += u64::from(!reply.is_empty());
            tally.own += own;
            tally.idle += idle;
            if !reply.is_empty() && !tally.found {
                *tally = Tally {
                    found: true,
                    ..Tally::default()
                };
            }
        }
        if restart {
            let began = Instant::now();
            sleep(START_TIME).await;
            pty.discard_input()?;
            device.lock().unwrap().restart()?;
            say(BANNER, pty, &mut to_station).await?;
            tally.lock().unwrap().own += began.elapsed();
        }
    }
}

async fn say(bytes: &[u8], pty: &mut Pty, way: &mut Way) -> io::Result<()> {
    for batch in bytes.chunks(BATCH) {
        way.pass(batch.len()).await;
        pty.write_all(batch).await?;
    }
    Ok(())
}
