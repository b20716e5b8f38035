//! The emulated cloud as a process of its own, reached with nothing but the line that it prints.

use super::support::{now, sample_tpm, text, token};
use crate::support::Running;
use reqwest::{Certificate, Client};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

#[tokio::test]
async fn the_line_that_it_prints_is_all_that_a_client_needs() {
    let mut process = Running::start(Command::new(env!("CARGO_BIN_EXE_station")).args([
        "emulate",
        "dps",
        "--listen",
        "127.0.0.1:0",
        "--json",
    ]));
    let said: BTreeMap<String, Value> = serde_json::from_str(&process.line().unwrap()).unwrap();
    let keys: Vec<_> = said.keys().map(String::as_str).collect();
    let shape = [
        "ca_pem",
        "connection_string",
        "host",
        "id_scope",
        "linked_hubs",
        "listen",
        "mqtt_listen",
    ];
    assert_eq!(keys, shape);
    let listen: SocketAddr = text(&said["listen"]).parse().unwrap();
    assert_ne!(listen.port(), 0);
    let mqtt: SocketAddr = text(&said["mqtt_listen"]).parse().unwrap();
    assert_eq!(mqtt.ip(), listen.ip());
    tokio::net::TcpStream::connect(mqtt).await.unwrap();
    let (host, scope) = (text(&said["host"]), text(&said["id_scope"]));
    let hubs = said["linked_hubs"].as_array().unwrap();
    let hub = text(&hubs[0]["host"]);
    assert_eq!((hubs.len(), &hubs[0]), (2, &json!({ "host": hub })));
    let ca = text(&said["ca_pem"]);
    assert!(Path::new(&ca).is_absolute());

    let client = Client::builder()
        .tls_certs_only([Certificate::from_pem(&fs::read(&ca).unwrap()).unwrap()])
        .no_proxy()
        .resolve(&host, listen)
        .resolve(&hub, listen)
        .build()
        .unwrap();
    let connection = text(&said["connection_string"]);
    let parts = connection
        .split(';')
        .map(|part| part.split_once('=').unwrap());
    let parts: BTreeMap<_, _> = parts.collect();
    assert_eq!(parts["HostName"], host);
    let sas = token(
        parts["SharedAccessKey"],
        &host,
        now() + 60,
        Some(parts["SharedAccessKeyName"]),
    );
    let url = format!(
        "https://{host}:{}/enrollments/unit-1?api-version=2021-10-01",
        listen.port()
    );
    let put = client.put(&url).json(&sample_tpm("unit-1"));
    assert_eq!(put.try_clone().unwrap().send().await.unwrap().status(), 401);
    assert_eq!(
        put.header("authorization", &sas)
            .send()
            .await
            .unwrap()
            .status(),
        200
    );

    let register = format!(
        "https://{host}:{}/{scope}/registrations/unit-1/register?api-version=2021-06-01",
        listen.port()
    );
    let body = json!({"registrationId": "unit-1"});
    let challenged = client.put(register).json(&body).send().await.unwrap();
    assert!(challenged.status().is_client_error(), "{challenged:?}");
    let twin = client
        .get(format!("https://{hub}:{}/", listen.port()))
        .send()
        .await;
    assert!(twin.unwrap().status().is_client_error());

    process.terminate();
    let ended = process.end();
    assert_eq!(
        (ended.code(), ended.stdout.lines().count()),
        (Some(0), 1),
        "{ended:?}"
    );
    assert!(
        !Path::new(&ca).exists(),
        "nobody asked for the folder to stay"
    );
}

/// The emulated DPS with these arguments, and the line that it prints.
fn emulate(arguments: &[&str]) -> (Running, BTreeMap<String, Value>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
    command.args(["emulate", "dps", "--json"]).args(arguments);
    let mut process = Running::start(&mut command);
    let line = process.line().unwrap_or_default();
    match serde_json::from_str(&line) {
        Ok(said) => (process, said),
        Err(error) => panic!("{line:?}: {error}: {:?}", process.kill()),
    }
}

/// A client that knows these names, and trusts the authority that was printed.
fn client_of(said: &BTreeMap<String, Value>, names: &[&str]) -> Client {
    let root = fs::read(text(&said["ca_pem"])).unwrap();
    let listen: SocketAddr = text(&said["listen"]).parse().unwrap();
    let builder = Client::builder()
        .tls_certs_only([Certificate::from_pem(&root).unwrap()])
        .no_proxy();
    let named = names
        .iter()
        .fold(builder, |builder, name| builder.resolve(name, listen));
    named.build().unwrap()
}

#[tokio::test]
async fn a_bench_reaches_it_by_its_own_name_and_trusts_it_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let mut roots = Vec::new();
    for _ in 0..2 {
        let (process, said) = emulate(&["--dir", folder, "--host", "Bench.example"]);
        assert_eq!(said["host"], "bench.example");
        assert_eq!(said["linked_hubs"], json!([{"host": "bench.example"}]));
        let connection = text(&said["connection_string"]);
        assert!(connection.starts_with("HostName=bench.example;"));
        let client = client_of(&said, &["bench.example"]);
        let listen: SocketAddr = text(&said["listen"]).parse().unwrap();
        for name in ["bench.example", "localhost"] {
            let url = format!("https://{name}:{}/enrollments/x", listen.port());
            let answer = client.get(url).send().await;
            assert_eq!(answer.expect(name).status(), 400, "no version was given");
        }
        // The hub has the same name: what is asked for tells them apart.
        let url = format!("https://bench.example:{}/devices/x/twin", listen.port());
        let answer = client.get(url).send().await.unwrap();
        assert!(answer.headers().contains_key("iothub-errorcode"));
        roots.push((fs::read(text(&said["ca_pem"])).unwrap(), connection));
        process.terminate();
        assert_eq!(process.end().code(), Some(0));
    }
    assert_eq!(roots[0], roots[1]);

    let (process, said) = emulate(&["--host", "192.0.2.7", "--hub", "hub.example"]);
    assert_eq!(said["host"], "192.0.2.7");
    assert_eq!(said["linked_hubs"], json!([{"host": "hub.example"}]));
    process.kill();
    let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
    let ended = crate::support::run(command.args(["emulate", "dps", "--host", "no name"]));
    assert_eq!(ended.code(), Some(2), "{ended:?}");
    assert!(ended.stderr.contains("neither a host's name"), "{ended:?}");
}

#[test]
fn a_folder_that_another_one_has_or_an_older_program_left_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let refused = |says: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
        let ended = crate::support::run(command.args(["emulate", "dps", "--dir", folder]));
        assert_eq!((ended.code(), &*ended.stdout), (Some(3), ""), "{ended:?}");
        for part in [folder, says, "another folder with --dir"] {
            assert!(ended.stderr.contains(part), "{ended:?}");
        }
    };
    let (process, _) = emulate(&["--dir", folder]);
    refused("another emulated cloud runs in it");
    process.kill();
    fs::remove_file(dir.path().join("dps/state.sqlite")).unwrap();
    refused("an older program left it");
}

#[tokio::test]
async fn a_file_and_flags_say_what_goes_wrong_and_a_flag_counts_more() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("faults.toml");
    let file_name = file.to_str().unwrap();
    let both = "throttle = 1\nretryAfterSeconds = 9\nchance = { timeOut = 1.0 }\n";
    fs::write(&file, both).unwrap();
    let flags = [
        "--faults",
        file_name,
        "--fault",
        "retryAfterSeconds = 7",
        "--fault",
        "chance.fail = 0.0",
    ];
    let (process, said) = emulate(&flags);
    let client = client_of(&said, &[]);
    let listen: SocketAddr = text(&said["listen"]).parse().unwrap();
    let url = format!("https://localhost:{}/enrollments/x", listen.port());
    let busy = client.get(&url).send().await.unwrap();
    assert_eq!(busy.headers()["retry-after"], "7");
    assert_eq!(client.get(&url).send().await.unwrap().status(), 408);
    process.kill();
    for (line, named) in [
        ("throtle = 1", "throtle"),
        ("chance.throtle = 1", "throtle"),
        ("throttle", "--fault"),
        ("throttle = -1", "-1"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
        let ended = crate::support::run(command.args(["emulate", "dps", "--fault", line]));
        assert_eq!((ended.code(), &*ended.stdout), (Some(2), ""), "{ended:?}");
        assert!(ended.stderr.contains(named), "{ended:?}");
        assert!(ended.stderr.contains("emulate dps --help"), "{ended:?}");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
    let help = crate::support::run(command.args(["emulate", "dps", "--help"]));
    for name in [
        "dropAfterCommit",
        "absentMilliseconds",
        "windowMilliseconds",
    ] {
        assert!(help.stdout.contains(name), "{help:?}");
    }
}

/// In a network of its own, where the low ports are root's whatever this machine says.
#[test]
fn who_may_not_have_a_low_port_is_told_what_to_do() {
    let place = crate::support::Place::ordinary();
    let inner = place.command(Path::new(env!("CARGO_BIN_EXE_station")));
    let mut command = Command::new("unshare");
    match rustix::process::getuid().is_root() {
        true => command.arg("--net"),
        false => command.args(["--user", "--net"]), // as nobody known: without any right in it
    };
    command.arg(inner.get_program()).args(inner.get_args());
    let arguments = ["emulate", "dps", "--listen", "0.0.0.0:443"];
    let ended = crate::support::run(command.args(arguments).current_dir("/"));
    assert_eq!((ended.code(), &*ended.stdout), (Some(2), ""), "{ended:?}");
    for part in ["0.0.0.0:443", "as root", "--listen"] {
        assert!(ended.stderr.contains(part), "{ended:?}");
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--listen", "--mqtt-listen"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
        let ended = crate::support::run(command.args(["emulate", "dps", flag, &address]));
        assert_eq!((ended.code(), &*ended.stdout), (Some(2), ""), "{ended:?}");
        let why = &ended.stderr;
        let named = why.contains(&address) && why.contains(&format!(" with {flag}"));
        assert!(named, "{ended:?}");
    }
}
