//! What the station tells of the ports of its machine, and which bays it suggests for them.

mod held;

use dps_station::config::Config;
use dps_station::link::port::{PortInfo, UsbInfo, list, look, suggest};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::process::Stdio;

fn usb_port(number: u32) -> PortInfo {
    PortInfo {
        path: PathBuf::from(format!("/dev/ttyUSB{number}")),
        by_path: Some(PathBuf::from(format!(
            "/dev/serial/by-path/pci-0000:00:14.0-usb-0:{number}:1.0-port0"
        ))),
        usb: Some(UsbInfo {
            vendor: 0x0403,
            product: 0x6001,
            serial: Some("A1\x1b[2J".to_owned()),
            manufacturer: Some("FTDI".to_owned()),
            name: None,
        }),
        holder: None,
        join_group: None,
    }
}

#[test]
fn suggested_bays_can_be_pasted_and_leave_out_what_is_a_bay_or_has_no_lasting_name() {
    let mut nameless = usb_port(1);
    nameless.by_path = None;
    let ports: Vec<PortInfo> = (2..=65).map(usb_port).chain([nameless]).collect();
    let taken = [("2".to_owned(), ports[0].by_path.clone().unwrap())];
    let suggested = suggest(&ports, &taken);
    assert!(suggested.starts_with("[[bay]]\nname = \"1\"\nport = \"/dev/serial/by-path/pci-0000"));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("station.toml");
    let line = "[station]\nid = \"a\"\nledger = \"l\"\n[[bay]]\nname = \"2\"\nport = \"x\"\n";
    fs::write(&path, format!("{line}{suggested}")).unwrap();
    let config = Config::read(&path).unwrap();
    assert_eq!(config.bays.len(), 64);
    assert_eq!(config.bays[2].name, "3");
    assert_eq!(Some(&config.bays[63].port), ports[63].by_path.as_ref());
}

#[test]
fn a_port_is_one_harmless_line() {
    let line = usb_port(3).to_string();
    assert!(line.starts_with("/dev/ttyUSB3  /dev/serial/by-path/"));
    assert!(line.ends_with("  0403:6001  FTDI  A1?[2J"), "{line}");
}

#[test]
fn who_holds_a_port_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("port");
    let file = File::create(&path).unwrap();
    let mut other = Command::new("cat");
    other
        .stdin(Stdio::piped())
        .stdout(file.try_clone().unwrap());
    let mut other = other.spawn().unwrap();
    let holder = look(&path, None).holder.unwrap();
    assert_eq!((holder.pid, holder.program.as_str()), (other.id(), "cat"));
    other.kill().unwrap();
    other.wait().unwrap();
    // The program that looks has it open still, and is no other program.
    assert_eq!(look(&path, None).holder, None);
    drop(file);
    let gone = look(Path::new("/nothing"), None);
    assert_eq!(gone.join_group.as_deref(), Some("dialout"));
}

#[test]
fn the_list_has_no_pseudo_terminals_and_needs_no_configuration() {
    let ports = list().unwrap();
    assert!(ports.iter().all(|port| !port.path.starts_with("/dev/pts")));
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_station"))
        .args(["check", "--ports", "--json"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), ports.len() + 1);
    assert_eq!(lines[ports.len()]["suggested"], suggest(&ports, &[]));
}
