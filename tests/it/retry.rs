//! Records that the service refused: named until a person has put them right, then sent again, on record.

use crate::emulator::support as emulator;
use crate::support::{Ended, Factory, Place, run};
use dps_station::dps::{API_VERSION, Dps, DpsOptions, ProxyChoice};
use dps_station::ledger::{Ledger, Options};
use dps_station::provision::event::Event;
use dps_station::provision::floor::{Activity, Report};
use dps_station::station::Uploader;
use reqwest::Method;
use serde_json::{Value, json};
use std::fs;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A factory of `units` that passed, none of which is enrolled yet.
fn passed(units: u16) -> Factory {
    let factory = Factory::new(Place::own(), units);
    let ended = run(factory.demo().args(["--until", "passed"]));
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    factory
}

/// Makes a call about an enrollment to the factory's cloud, as its owner; its status and body.
pub async fn call(
    factory: &Factory,
    method: Method,
    id: &str,
    body: Option<Value>,
) -> (u16, Value) {
    let credential = factory.text("rig/dps-credential");
    let (_, key) = credential.rsplit_once("SharedAccessKey=").unwrap();
    let owner = Some("provisioningserviceowner");
    let token = emulator::token(key.trim(), "localhost", emulator::now() + 60, owner);
    let url = url(factory);
    let mut request = emulator::client(&factory.dir().join("rig/dps-ca.pem"))
        .request(
            method,
            format!("{url}/enrollments/{id}?api-version=2021-10-01"),
        )
        .header("authorization", token);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or_default())
}

/// Where the factory's cloud has its service API.
fn url(factory: &Factory) -> String {
    let settings = factory.text("station.toml");
    let url = settings.split("service_url = \"").nth(1).unwrap();
    url.split('"').next().unwrap().to_owned()
}

/// Somebody else's record under this registration ID.
async fn occupy(factory: &Factory, id: &str) {
    let foreign = json!({"registrationId": id, "attestation": {"type": "symmetricKey"}});
    let (status, said) = call(factory, Method::PUT, id, Some(foreign)).await;
    assert_eq!(status, 200, "{said}");
}

async fn free(factory: &Factory, id: &str) {
    assert_eq!(call(factory, Method::DELETE, id, None).await.0, 204);
}

fn station(factory: &Factory, arguments: &[&str]) -> Ended {
    run(factory.station(arguments).arg("--json"))
}

/// Which records were named as refused.
fn refused(ended: &Ended) -> Vec<String> {
    let objects = ended.objects();
    let named = objects
        .iter()
        .filter(|object| object["refused"].is_string());
    let id = |object: &Value| object["registration_id"].as_str().unwrap().to_owned();
    let mut ids: Vec<_> = named.map(id).collect();
    ids.sort(); // the bays pass units in any order
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_record_is_named_by_each_command_until_it_is_put_right_and_retried() {
    let factory = passed(3);
    let (first, second) = ("sim-x509-0001", "sim-x509-0003");
    for id in [first, second] {
        occupy(&factory, id).await;
    }
    let ended = station(&factory, &["enroll"]);
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    for id in [first, second] {
        free(&factory, id).await; // the cause is gone, and nobody said so yet
    }
    for arguments in [
        &["enroll"][..],
        &["enroll", "--dry-run"],
        &["reconcile"],
        &["shift", "report"],
    ] {
        let ended = station(&factory, arguments);
        assert_eq!(ended.code(), Some(1), "{arguments:?}: {ended:?}");
        assert_eq!(refused(&ended), [first, second], "{arguments:?}: {ended:?}");
        let why = ended.objects();
        let mut of_first = why
            .iter()
            .filter(|object| object["registration_id"] == first);
        let why = of_first
            .next()
            .and_then(|object| object["refused"].as_str());
        let next = format!("station enroll --retry {first}");
        assert!(why.unwrap().contains(&next), "{why:?}");
    }

    let ended = station(&factory, &["enroll", "--retry", first]);
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    assert_eq!(refused(&ended), [second], "{ended:?}");
    assert_eq!(call(&factory, Method::GET, first, None).await.0, 200);
    let ended = station(&factory, &["enroll", "--retry", "--all"]);
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert_eq!(call(&factory, Method::GET, second, None).await.0, 200);
    for arguments in [&["enroll"][..], &["reconcile"], &["shift", "report"]] {
        let ended = station(&factory, arguments);
        assert_eq!(ended.code(), Some(0), "{arguments:?}: {ended:?}");
    }
    assert_eq!(station(&factory, &["ledger", "verify"]).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_retried_is_what_the_product_means_today_and_the_record_has_both() {
    let factory = passed(1);
    let id = "sim-x509-0001";
    occupy(&factory, id).await;
    assert_eq!(station(&factory, &["enroll"]).code(), Some(1));
    free(&factory, id).await;
    let settings = factory.text("station.toml");
    let corrected = settings.replace(
        "telemetryIntervalSeconds = 60",
        "telemetryIntervalSeconds = 90",
    );
    assert_ne!(settings, corrected);
    fs::write(factory.dir().join("station.toml"), corrected).unwrap();

    let foreseen = station(&factory, &["enroll", "--retry", id, "--dry-run"]);
    assert_eq!(
        foreseen.code(),
        Some(1),
        "nothing is put back yet: {foreseen:?}"
    );
    let said = ["--by", "Ann", "--reason", "interval corrected"];
    let ended = station(&factory, &[&["enroll", "--retry", id], &said[..]].concat());
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    let (_, held) = call(&factory, Method::GET, id, None).await;
    let desired = &held["initialTwin"]["properties"]["desired"];
    assert_eq!(desired["telemetryIntervalSeconds"], 90, "{held}");

    let shown = station(&factory, &["ledger", "show", "--device", id]).objects();
    let retried: Vec<_> = shown
        .iter()
        .filter(|recorded| recorded["event"]["kind"] == "enrollment_retried")
        .collect();
    let [retried] = retried[..] else {
        panic!("{shown:?}")
    };
    assert_eq!(retried["operator"], "Ann");
    assert_eq!(retried["because"], "interval corrected");
    let interval =
        |when: &str| &retried["event"][when]["initial_desired"]["telemetryIntervalSeconds"];
    assert_eq!((interval("was"), interval("now")), (&json!(60), &json!(90)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_says_which_ids_it_cannot_take_and_takes_the_others() {
    let factory = passed(1);
    let id = "sim-x509-0001";
    let none = station(&factory, &["enroll", "--retry"]);
    assert_eq!(none.code(), Some(2), "{none:?}");
    assert!(none.stderr.contains("--all"), "{none:?}");
    let all = station(&factory, &["enroll", "--all"]);
    assert_eq!(all.code(), Some(2), "{all:?}");
    occupy(&factory, id).await;
    assert_eq!(station(&factory, &["enroll"]).code(), Some(1));
    free(&factory, id).await;
    let ended = station(&factory, &["enroll", "--retry", "nobody", id]);
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    let objects = ended.objects();
    let unknown = |object: &&Value| object["id"] == "nobody" && object["not_retried"].is_string();
    assert!(objects.iter().any(|object| unknown(&object)), "{objects:?}");
    assert_eq!(call(&factory, Method::GET, id, None).await.0, 200);
    let enrolled = station(&factory, &["enroll", "--retry", id]);
    assert_eq!(enrolled.code(), Some(1), "it is not refused: {enrolled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_screen_has_refused_records_sent_again_in_the_operators_name() {
    let factory = passed(1);
    let id = "sim-x509-0001";
    occupy(&factory, id).await;
    assert_eq!(station(&factory, &["enroll"]).code(), Some(1));
    free(&factory, id).await;

    let clock = || emulator::now() * 1_000;
    let options = Options {
        path: factory.dir().join("ledger.sqlite"),
        station: "demo".to_owned(),
        clock,
        progress: |_| {},
        max_pages: None,
    };
    let ledger = Ledger::open(options).unwrap();
    let service_url = url(&factory);
    let options = DpsOptions {
        name: "main".to_owned(),
        service_url,
        credential: factory.text("rig/dps-credential").trim().into(),
        ca_file: Some(factory.dir().join("rig/dps-ca.pem")),
        api_version: API_VERSION.to_owned(),
        proxy: ProxyChoice::Never,
    };
    let dps = Arc::new(Dps::new(options, clock).unwrap());
    let (sender, mut reports) = mpsc::channel(16);
    Uploader::new(ledger.clone(), vec![(dps, 1_000)], sender, clock).retry(Vec::new());
    loop {
        let Some(Report::Enroller { outbox, .. }) = reports.recv().await else {
            panic!("the uploader has gone")
        };
        match outbox.note {
            Some(Activity::Uploaded) => {
                break assert_eq!((outbox.refused, outbox.enrolled), (0, 1));
            }
            Some(Activity::Stopped(fault)) => panic!("{fault:?}"),
            _ => {}
        }
    }
    let events = ledger.all_events(1, 1_000).await.unwrap();
    let retried = |event: &&Event| matches!(event, Event::EnrollmentRetried { .. });
    let retried = events
        .iter()
        .find(|recorded| retried(&&recorded.event))
        .unwrap();
    assert_eq!(retried.operator.as_deref(), Some("operator"));
}
