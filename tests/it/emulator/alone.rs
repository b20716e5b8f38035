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
    ];
    assert_eq!(keys, shape);
    let listen: SocketAddr = text(&said["listen"]).parse().unwrap();
    assert_ne!(listen.port(), 0);
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

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
    let ended = crate::support::run(command.args(["emulate", "dps", "--listen", &address]));
    assert_eq!((ended.code(), &*ended.stdout), (Some(2), ""), "{ended:?}");
    assert!(
        ended.stderr.contains(&address) && ended.stderr.contains("--listen"),
        "{ended:?}"
    );
}
