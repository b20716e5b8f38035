//! What a killed station leaves behind on a port.

use super::bench::quick;
use dps_station::fixtures::pty::Pty;
use dps_station::link::LinkError;
use dps_station::link::port::Port;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Environment variable with the port that [`hold_a_port`] opens.
const PORT_TO_HOLD: &str = "STATION_TEST_PORT";

#[test]
fn a_killed_station_leaves_the_port_to_the_next_one() {
    // Root may open a terminal that is in exclusive mode, so only an ordinary user can tell.
    let dir = tempfile::TempDir::new().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("it");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let mut command = match rustix::process::getuid().is_root() {
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
            command.arg(&program);
            command
        }
        false => Command::new(&program),
    };
    let output = command
        .args([
            "--ignored",
            "--exact",
            "link::killed::kill_a_holder_and_reopen",
        ])
        .current_dir("/")
        .output()
        .expect("setpriv is there; scripts/setup installs it");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
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
