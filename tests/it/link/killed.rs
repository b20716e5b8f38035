//! What a killed station leaves behind on a port.

use super::bench::quick;
use crate::support::{Place, run};
use dps_station::fixtures::pty::Pty;
use dps_station::link::LinkError;
use dps_station::link::port::Port;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Environment variable with the port that [`hold_a_port`] opens.
const PORT_TO_HOLD: &str = "STATION_TEST_PORT";

#[test]
fn a_killed_station_leaves_the_port_to_the_next_one() {
    // Root may open a terminal that is in exclusive mode, so only an ordinary user can tell.
    let place = Place::ordinary();
    let ended = run(place.command(&std::env::current_exe().unwrap()).args([
        "--ignored",
        "--exact",
        "link::killed::kill_a_holder_and_reopen",
    ]));
    let passed = ended.status.success() && ended.stdout.contains("1 passed");
    assert!(passed, "{ended:?}");
}

#[tokio::test]
#[ignore = "run by a_killed_station_leaves_the_port_to_the_next_one"]
async fn kill_a_holder_and_reopen() {
    let dir = tempfile::TempDir::new().unwrap();
    let port = dir.path().join("bay");
    let _pty = Pty::open(&port).unwrap();
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "link::killed::hold_a_port",
        ])
        .env(PORT_TO_HOLD, &port)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let held = lines
        .map_while(Result::ok)
        .any(|line| line.ends_with("port is held"));
    let busy = Port::open(&port, &quick()).map(|_| ());
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(held);
    assert!(matches!(busy, Err(LinkError::PortBusy { .. })), "{busy:?}");
    Port::open(&port, &quick()).expect("the port is free again");
}

#[tokio::test]
#[ignore = "run by kill_a_holder_and_reopen"]
async fn hold_a_port() {
    let port = PathBuf::from(std::env::var_os(PORT_TO_HOLD).expect("set by the other test"));
    let _port = Port::open(&port, &quick()).unwrap();
    println!("port is held");
    // Until it is killed, or the other test ends and so closes this.
    std::io::stdin().lines().for_each(drop);
}
