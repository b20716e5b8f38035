//! Whether the simulated line has the rate that it should have.

use super::figures::{median, millis};
use super::hall;
use dps_station::fixtures::serial::{Line, RATE, Times};
use dps_station::link::smp::{self, Header, Map, Op, Packet, Version, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// Echoes that the pace of the line is checked with, and the text of each, in bytes.
const ECHOES: usize = 40;
const ECHO: usize = 64;
/// How far the line may be from its rate for the figures to count.
const TOLERANCE: f64 = 0.02;

/// Times echoes over a line that takes no time and over a paced one: the difference is what the bytes take.
pub async fn check() {
    let free = echo(None).await;
    let paced = echo(Some(RATE)).await;
    let line = (2 * echo_lines().len()) as f64 / RATE * 1000.0;
    let ratio = (paced - free) / line;
    println!(
        "pace: an echo takes {free:.2} ms unpaced and {paced:.2} ms paced, {ratio:.3} x the {line:.2} ms of its bytes"
    );
    // Said, not asserted: a slow machine makes figures worthless, and nothing wrong.
    if (ratio - 1.0).abs() > TOLERANCE {
        println!(
            "pace: NOT as it should be, so the figures below count for nothing: is the machine busy?"
        );
    }
}

/// What an echo takes, in milliseconds.
async fn echo(rate: Option<f64>) -> f64 {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("bay");
    let times = Times::at(rate);
    let line = Line::lay(&path, false, times.clone()).unwrap();
    let options = dps_station::link::LinkOptions::default();
    let mut port = dps_station::link::port::Port::open(&path, &options).unwrap();
    line.put(Some(hall::device(dir.path(), 0))).await.unwrap();
    // It listens once its banner has been said.
    let banner = dps_station::fixtures::device::BOOT_BANNER;
    port.read_exact(&mut vec![0; banner.len()]).await.unwrap();
    let lines = echo_lines();
    let mut reply = vec![0; lines.len()];
    let mut took = Vec::new();
    for _ in 0..ECHOES {
        let began = Instant::now();
        port.write_all(&lines).await.unwrap();
        port.read_exact(&mut reply).await.unwrap();
        took.push(millis(began.elapsed()));
    }
    median(took)
}

/// An echo request; its reply is as long.
fn echo_lines() -> Vec<u8> {
    let packet = Packet {
        header: Header {
            version: Version::Two,
            op: Op::Write,
            group: smp::OS_GROUP,
            sequence: 0,
            command: smp::ECHO,
        },
        body: Map::new().text("d", &"e".repeat(ECHO)),
    };
    let lines = frame::encode(&packet.encode(), frame::LINE_LENGTH).unwrap();
    lines.concat()
}
