//! What `station.toml` may not say: each is refused by `check` and by `run`, with its key and its line.

use crate::support::{Ended, Running, run};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// A line with two of everything, so that the second is the one that is wrong.
const LINE: &str = r#"[station]
id = "line-1"
simulated = true
ledger = "ledger.sqlite"

[[bay]]
name = "1"
port = "bay-1"
link = { baud = 9600 }

[[bay]]
name = "2"
port = "bay-2"

  [bay.link]
  # as fast as it goes
  baud = 921600

[[ca]]
name = "factory"
module = "hsm.so"
token = "factory"
label = "issuing"
pin = "file:pin"

[[dps]]
name = "main"
id_scope = "0ne00AAAAAA"
global_endpoint = "localhost:9"
service_url = "https://localhost:9"
credential = "file:credential"

[[product]]
name = "plain"
model = "GW-1"
attestation = "x509"
ca = "factory"
dps = "main"
certificate = { validity_days = 30 }

[[product]]
name = "gateway"
model = "GW-2"
attestation = "x509"
ca = "factory"
dps = "main"
initial_desired = { every = 60 }

  [product.certificate]

  validity_days = 3650

"#;

/// What the station says of a line, in which `old` was replaced by `new`.
fn said_of(arguments: &[&str], bytes: &[u8]) -> Ended {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("station.toml");
    fs::write(&path, bytes).unwrap();
    station(arguments, &path)
}

fn station(arguments: &[&str], config: &Path) -> Ended {
    run(&mut command(arguments, config))
}

fn command(arguments: &[&str], config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
    command.args(arguments).arg("--config").arg(config);
    command
}

/// The line with the last `old` replaced by `new`.
fn with(old: &str, new: &str) -> String {
    let (before, after) = LINE.rsplit_once(old).expect("it is there");
    format!("{before}{new}{after}")
}

/// The number of the first line that has `mark` in it.
fn line_of(text: &str, mark: &str) -> usize {
    let mut lines = text.lines();
    1 + lines.position(|line| line.contains(mark)).expect("there")
}

/// Refused with one sentence that names the file, the line and the key, says `why`, and gives the next step.
fn refused(text: &str, mark: &str, key: &str, why: &str) {
    for arguments in [&["check"][..], &["run", "--headless"]] {
        let ended = said_of(arguments, text.as_bytes());
        assert_eq!(ended.code(), Some(2), "{mark}: {ended:?}");
        let place = format!("station.toml, line {}: {key}: ", line_of(text, mark));
        assert!(ended.stderr.contains(&place), "{place:?}: {ended:?}");
        assert!(ended.stderr.contains(why), "{why:?}: {ended:?}");
        assert!(ended.stderr.ends_with(": correct it and start again\n"));
        assert_eq!((ended.stderr.lines().count(), &*ended.stdout), (1, ""));
    }
}

#[test]
fn a_number_that_cannot_be_meant_is_refused() {
    let cases = [
        (
            "validity_days = 3650",
            "validity_days = 0",
            "product.certificate.validity_days",
        ),
        (
            "validity_days = 3650",
            "validity_days = 99999999",
            "product.certificate.validity_days",
        ),
        (
            "validity_days = 3650",
            "backdate_minutes = 99999999",
            "product.certificate.backdate_minutes",
        ),
        (
            "[product.certificate]",
            "step_deadline_ms = 0\n[product.certificate]",
            "product.step_deadline_ms",
        ),
        (
            "[product.certificate]",
            "inject = { value_limit = 0 }\n[product.certificate]",
            "product.inject.value_limit",
        ),
        (
            "pin\"",
            "pin\"\n[shift]\n[loopback]\nlatency_max_ms = 0",
            "loopback.latency_max_ms",
        ),
        (
            "pin\"",
            "pin\"\n[loopback]\nbytes = 64\nlost_max = 64",
            "loopback.lost_max",
        ),
        (
            "pin\"",
            "pin\"\n[loopback]\nbytes = 64\n\nbit_errors_max = 256",
            "loopback.bit_errors_max",
        ),
        (
            "simulated = true",
            "ledger_pages_max = 0",
            "station.ledger_pages_max",
        ),
        ("credential\"", "credential\"\nshare = 0", "dps.share"),
        ("credential\"", "credential\"\nshare = 1001", "dps.share"),
        ("baud = 921600", "baud = 0", "bay.link.baud"),
        ("baud = 921600", "baud = 5000000000", "bay.link.baud"),
        ("baud = 921600", "frame_size = 0", "bay.link.frame_size"),
        (
            "baud = 921600",
            "frame_limit = 5000",
            "bay.link.frame_limit",
        ),
        ("baud = 921600", "line_length = 6", "bay.link.line_length"),
        (
            "baud = 921600",
            "line_pause_ms = 1001",
            "bay.link.line_pause_ms",
        ),
        ("baud = 921600", "answer_ms = 0", "bay.link.answer_ms"),
        (
            "baud = 921600",
            "slow_answer_ms = 0",
            "bay.link.slow_answer_ms",
        ),
        ("baud = 921600", "tpm_ms = 0", "bay.link.tpm_ms"),
        ("baud = 921600", "restart_ms = 0", "bay.link.restart_ms"),
        ("baud = 921600", "arrival_ms = 0", "bay.link.arrival_ms"),
        ("baud = 921600", "tries = 0", "bay.link.tries"),
        ("baud = 921600", "user_group = 63", "bay.link.user_group"),
        ("baud = 921600", "baud = -1", "bay.link.baud"),
        ("baud = 921600", "baud = 9600.5", "bay.link.baud"),
    ];
    for (old, new, key) in cases {
        let mark = format!("{} = ", key.rsplit('.').next().unwrap());
        let mark = new.lines().find(|line| line.contains(&mark)).unwrap();
        refused(&with(old, new), mark, key, "");
    }
    let too_many = with("credential\"", "credential\"\nshare = 1001");
    refused(&too_many, "share", "dps.share", "from 1 to 1000");
}

#[test]
fn two_products_or_bays_that_the_line_could_not_tell_apart_are_refused() {
    let model = with("\"GW-2\"", "\"GW-1\"");
    let second = "model = \"GW-1\" # again";
    let model = model.rsplit_once("model = \"GW-1\"").unwrap();
    let model = format!("{}{second}{}", model.0, model.1);
    let usb = |first: &str, later: &str| {
        let text = model.replacen(
            "ca = \"factory\"\n",
            &format!("ca = \"factory\"\n{first}\n"),
            1,
        );
        text.replace("initial_desired", &format!("{later}\ninitial_desired"))
    };
    for text in [
        model.clone(),
        usb("firmware = [\"1\"]", "firmware = [\"2\"]"),
        usb("", "usb = [\"2fe3:0004\"]"), // the first takes them all
        usb(
            "usb = [\"2fe3:0004\", \"2fe3:0005\"]",
            "usb = [\"2fe3:0005\"]",
        ),
    ] {
        refused(&text, second, "product.model", "products plain and gateway");
    }
    for text in [
        usb("usb = [\"2fe3:0004\"]", ""), // the second takes the others
        usb("usb = [\"2fe3:0004\"]", "usb = [\"2fe3:0005\"]"),
    ] {
        accepted(&text);
    }
    let port = "port = \"./bay-1\"";
    refused(
        &with("port = \"bay-2\"", port),
        port,
        "bay.port",
        "two bays",
    );
}

/// The file itself is not refused: what `check` then finds is no line of it.
fn accepted(text: &str) {
    let ended = said_of(&["check"], text.as_bytes());
    assert!(
        ended.stdout.starts_with("configuration ") && !ended.stderr.contains(", line "),
        "{ended:?}"
    );
}

#[test]
fn desired_properties_that_no_hub_takes_are_refused() {
    let table = "\n[product.initial_desired.net]\nok = 1\n";
    let deep = (0..10).fold("1".to_owned(), |inner, _| format!("{{ a = {inner} }}"));
    let deeper = format!("{{ a = {deep} }}");
    let long = format!("\"{}\"", "x".repeat(4097));
    let large = format!("[{}]", format!("\"{}\", ", "x".repeat(4090)).repeat(9));
    let cases = [
        (
            "initial_desired = 5",
            "initial_desired",
            "names with values",
        ),
        (
            "initial_desired = [{ a = 1 }]",
            "initial_desired",
            "names with values",
        ),
        (
            "initial_desired = 2026-01-01",
            "initial_desired",
            "names with values",
        ),
        (
            "initial_desired = { \"$version\" = 1 }",
            "initial_desired.$version",
            "`$`",
        ),
        (
            "initial_desired = { \"a b\" = 1 }",
            "initial_desired.a b",
            "space",
        ),
        (
            "initial_desired = { \"\" = 1 }",
            "initial_desired.",
            "1 to 1024 bytes",
        ),
        (
            "initial_desired = { a = [{ since = 2026-01-01 }] }",
            "initial_desired.a.since",
            "dates",
        ),
        ("initial_desired = { a = nan }", "initial_desired.a", "nan"),
        (
            "initial_desired = { a = 4503599627370496 }",
            "initial_desired.a",
            "4503599627370495",
        ),
        (
            &format!("initial_desired = {{ a = {long} }}"),
            "initial_desired.a",
            "4097",
        ),
        (
            &format!("initial_desired = {{ a = {large} }}"),
            "initial_desired",
            "32768",
        ),
        (
            &format!("initial_desired = {deeper}"),
            &format!("initial_desired{}", ".a".repeat(10)),
            "10 deep",
        ),
    ];
    for (new, key, why) in cases {
        let text = with("initial_desired = { every = 60 }", new);
        refused(&text, new, &format!("product.{key}"), why);
    }
    accepted(&with(
        "initial_desired = { every = 60 }",
        &format!("initial_desired = {deep}"),
    ));
    let nested = with("initial_desired = { every = 60 }", table)
        .replace("ok = 1", "ok = 1\n# and\nx.\"$y\" = 2");
    refused(&nested, "$y", "product.initial_desired.net.x.$y", "`$`");
}

/// A line whose only product has stock firmware.
const INJECTED: &str = r#"[station]
id = "line-1"
simulated = true
ledger = "ledger.sqlite"

[shift]
auto = true

[[bay]]
name = "1"
port = "bay-1"
hotplug = true

[[dps]]
name = "main"
id_scope = "0ne00AAAAAA"
global_endpoint = "localhost:9"

[[product]]
name = "sensor"
model = "SENSOR-1"
attestation = "none"
dps = "main"
inject = { id_key = "factory/serial" }
"#;

#[test]
fn a_line_that_only_injects_needs_no_service_of_a_dps() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("station.toml");
    fs::write(&path, INJECTED).unwrap();
    let checked = station(&["check", "--json"], &path);
    assert_eq!(checked.code(), Some(0), "{checked:?}");
    let is_dps = |line: &Value| line["check"] == "dps main";
    let dps = checked.objects().into_iter().find(is_dps).unwrap();
    assert!(
        dps["said"]
            .as_str()
            .unwrap()
            .contains("nothing is enrolled")
    );

    let mut line = Running::start(&mut command(&["run", "--headless", "--json"], &path));
    while !line.line().expect("a report").contains("shift_state") {}
    line.say(b"{\"command\":\"quit\"}\n");
    let ended = line.end();
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    for arguments in [&["enroll"][..], &["enroll", "--dry-run"], &["reconcile"]] {
        let ended = station(arguments, &path);
        assert_eq!(ended.code(), Some(0), "{ended:?}");
    }
    let enrolled = station(&["enroll", "--json"], &path).objects();
    assert_eq!(
        (enrolled.len(), &enrolled[0]["enrolled"]),
        (1, &Value::from(0))
    );
}

#[test]
fn a_product_that_is_enrolled_needs_the_service_of_its_dps() {
    let none = LINE.replace(
        "service_url = \"https://localhost:9\"\ncredential = \"file:credential\"\n",
        "",
    );
    refused(
        &none,
        "dps = \"main\"",
        "product.dps",
        "service_url and credential",
    );
    let half = with("credential = \"file:credential\"\n", "");
    refused(&half, "service_url", "dps.service_url", "no credential");
    let other = with("service_url = \"https://localhost:9\"\n", "");
    refused(&other, "credential =", "dps.credential", "no service_url");
}

#[test]
fn a_variable_that_no_process_can_have_is_refused_and_not_tried_for_ever() {
    for (name, value) in [("", "x"), ("A=B", "x"), ("A", "\\u0000")] {
        let new = format!("environment = {{ \"{name}\" = \"{value}\" }}");
        let text = with("pin = \"file:pin\"", &format!("pin = \"file:pin\"\n{new}"));
        refused(&text, &new, "ca.environment", "variable");
    }
}

#[test]
fn a_secret_that_is_a_number_is_not_repeated() {
    let text = with("pin = \"file:pin\"", "pin = 739105");
    refused(&text, "pin =", "ca.pin", "file:PATH");
    let said = said_of(&["check"], text.as_bytes());
    assert!(!said.stderr.contains("739105"), "{said:?}");
}
