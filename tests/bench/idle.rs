//! What a station costs on which nothing happens, and how soon it is ready: at 4 and at 64 bays, with an empty shift
//! and with 50,000 units in it, headless and with its screen.
//!
//! The station is the real program, a process of its own; its bays are empty pseudo-terminals. `cargo bench --bench
//! idle`; `-- --check` looks at 4 bays only, and ends with 1 where a figure is over twice its aim.

#![allow(clippy::unwrap_used)]

#[path = "crowd.rs"]
mod crowd;
#[path = "line/figures.rs"]
#[allow(dead_code)]
mod figures;
#[path = "hall.rs"]
#[allow(dead_code)]
mod hall;

use dps_station::fixtures::pty::Pty;
use figures::{Aims, Spread, is_asked, millis};
use hall::Hall;
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Units in the large shift.
const UNITS: u32 = 50_000;
/// How long a station is left alone before it is looked at; how often it is looked at, and for how long each time.
const SETTLE: Duration = Duration::from_secs(3);
const LOOKS: usize = 3;
const LOOK: Duration = Duration::from_secs(10);
/// A tick of processor time, in milliseconds; see `proc(5)`.
const TICK_MS: u64 = 10;
/// The most that a station may take to its first report, in milliseconds.
const READY_AIM: f64 = 500.0;

/// How a station is watched.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Watched {
    Headless,
    Screen,
}

/// The most of a core, in percent, that an idle station may take.
fn aim(bays: usize) -> f64 {
    match bays {
        ..=4 => 0.3,
        _ => 0.5,
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let sizes = if is_asked("--check") {
        &[4][..]
    } else {
        &[4, 64][..]
    };
    let mut aims = Aims::default();
    println!(
        "bays | units | watched  | % of a core (aim) | first report, ms (aim) | all bays open, ms"
    );
    for &bays in sizes {
        for (units, watched) in [
            (0, Watched::Headless),
            (0, Watched::Screen),
            (UNITS, Watched::Headless),
            (UNITS, Watched::Screen),
        ] {
            let idle = measure(bays, units, watched).await;
            let what = format!("{bays} bays, {units} units, {watched:?}");
            let core = aims.hold(&format!("idle, {what}"), idle.core, Some(aim(bays)));
            print!(
                "{bays:4} | {units:5} | {watched:8?} | {:.2} ({:.2}-{:.2}) ({core})",
                idle.core.median, idle.core.low, idle.core.high
            );
            match idle.started {
                None => println!(),
                Some((ready, open)) => {
                    let spread = Spread::of(vec![ready]);
                    let aim = aims.hold(&format!("ready, {what}"), spread, Some(READY_AIM));
                    println!(" | {ready:.0} ({aim}) | {open:.0}");
                }
            }
        }
    }
    aims.end();
}

/// What was seen of one station.
struct Idle {
    /// How much of a core it took, in percent.
    core: Spread,
    /// How long it took to its first report, and until all bays were open, in milliseconds.
    started: Option<(f64, f64)>,
}

async fn measure(bays: usize, units: u32, watched: Watched) -> Idle {
    let hall = Hall::lay_out(bays, false);
    let ports = hall.bays().map(|bay| Pty::open(&hall.port(bay)).unwrap());
    let ports: Vec<Pty> = ports.collect();
    let file = |name: &str| hall.port(0).with_file_name(name);
    if units > 0 {
        crowd::put(&file("ledger.sqlite"), units).await;
    }
    let (mut station, started) = match watched {
        Watched::Headless => headless(&file("station.toml"), bays),
        Watched::Screen => (on_screen(&file("station.toml"), file("screen")), None),
    };
    tokio::time::sleep(SETTLE).await;
    let mut cores = Vec::new();
    for _ in 0..LOOKS {
        let (before, began) = (cpu_ms(&station), Instant::now());
        tokio::time::sleep(LOOK).await;
        let used = (cpu_ms(&station) - before) as f64;
        cores.push(100.0 * used / millis(began.elapsed()));
    }
    station.kill().unwrap();
    station.wait().unwrap();
    drop(ports);
    let core = Spread::of(cores);
    Idle { core, started }
}

/// Starts a station, and waits until all its bays wait; says how long its first report took, and that.
fn headless(config: &Path, bays: usize) -> (Child, Option<(f64, f64)>) {
    let began = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_station"))
        .args(["run", "--headless", "--config"])
        .arg(config)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut ready, mut waiting) = (None, 0);
    while waiting < bays {
        let line = lines.next().expect("the station runs").unwrap();
        ready.get_or_insert(millis(began.elapsed()));
        waiting += usize::from(line.contains("\"bay_waiting\""));
    }
    let open = millis(began.elapsed());
    std::thread::spawn(move || lines.for_each(drop));
    (child, ready.map(|ready| (ready, open)))
}

/// Starts a station with its screen on a terminal whose output is thrown away.
fn on_screen(config: &Path, link: PathBuf) -> Child {
    let mut terminal = Pty::open(&link).unwrap();
    let open = || File::options().read(true).write(true).open(&link).unwrap();
    let slave = open();
    let size = Winsize {
        ws_row: 36,
        ws_col: 120,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&slave, size).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_station"))
        .args(["run", "--config"])
        .arg(config)
        .stdin(open())
        .stdout(open())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    tokio::spawn(async move {
        let mut thrown = [0; 4096];
        while terminal.read(&mut thrown).await.is_ok() {}
    });
    child
}

/// Processor time that a process has used, its own and the kernel's for it, in milliseconds.
fn cpu_ms(child: &Child) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    // Behind the name, which may have spaces in it, fields 14 and 15 are the 12th and 13th.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').skip(11).take(2);
    ticks
        .map(|field| field.parse::<u64>().unwrap() * TICK_MS)
        .sum()
}
