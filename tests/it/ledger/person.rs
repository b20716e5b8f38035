//! Who did it, and why: on record with each write of theirs, and with nobody else's.

use super::*;
use crate::support::run;
use dps_station::provision::person::Person;
use std::process::Command;

#[tokio::test]
async fn a_handle_writes_for_one_person_and_the_others_do_not() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    let ada = ledger.by(&Person::new("Ada", Some("the line was moved")).unwrap());
    let bob = ada.by(&Person::new("Bob", None).unwrap());
    let mut said = Vec::new();
    for (number, handle) in (1..).zip([&ada, &bob, &ledger, &ada]) {
        let recorded = handle.record(&charged(&[])).await.unwrap();
        assert_eq!(recorded.seq, number);
        said.push((recorded.operator, recorded.because));
    }
    let text = |text: &str| Some(text.to_owned());
    let expected = [
        (text("Ada"), text("the line was moved")),
        (text("Bob"), None),
        (None, None),
        (text("Ada"), text("the line was moved")),
    ];
    assert_eq!(said, expected);
    let events = all(&ledger).await;
    let read: Vec<_> = events
        .iter()
        .cloned()
        .map(|r| (r.operator, r.because))
        .collect();
    assert_eq!(read, expected);
    assert!(events.iter().all(|recorded| recorded.event == charged(&[])));
    assert_eq!(clean(&path), 4);

    let object = serde_json::to_value(&events[0]).unwrap();
    assert_eq!(object["because"], "the line was moved");
    assert!(
        serde_json::to_value(&events[1])
            .unwrap()
            .get("because")
            .is_none()
    );
}

#[test]
fn commands_of_people_take_their_name_and_reason() {
    let folder = folder();
    let config = folder.path().join("station.toml");
    let text = "[station]\nid = \"S1\"\nsimulated = true\nledger = \"ledger.sqlite\"\n";
    std::fs::write(&config, text).unwrap();
    let station = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
        run(command
            .args(["--json", "--config"])
            .arg(&config)
            .args(arguments))
    };
    let (long_name, long_reason) = ("n".repeat(65), "r".repeat(201));
    for (arguments, names) in [
        (&["--by", ""][..], "--by"),
        (&["--by", "A\u{1b}[31m"], "--by"),
        (&["--by", &long_name], "--by"),
        (&["--by", "Ada", "--reason", &long_reason], "--reason"),
        (&["--by", "Ada", "--reason", "a\nb"], "--reason"),
        (&["--reason", "alone"], "--by"),
    ] {
        for command in [
            &["shift", "open"][..],
            &["shift", "close"],
            &["ca", "init"],
            &["enroll"],
            &["loopback", "/dev/null"],
        ] {
            let ended = station(&[command, arguments].concat());
            assert_eq!(ended.code(), Some(2), "{ended:?}");
            assert!(ended.stderr.contains(names), "{ended:?}");
        }
    }
    assert!(!folder.path().join("ledger.sqlite").exists());

    let opened = station(&[
        "shift", "open", "early", "--by", " Ada ", "--reason", "start",
    ]);
    assert_eq!(opened.code(), Some(0), "{opened:?}");
    assert_eq!(station(&["shift", "close", "--by", "Bob"]).code(), Some(0));
    let shown = station(&["ledger", "show"]).objects();
    let said: Vec<_> = shown
        .iter()
        .map(|line| (&line["operator"], &line["because"]))
        .collect();
    let expected = serde_json::json!(["Ada", "start", "Bob", null]);
    assert_eq!(
        said,
        [(&expected[0], &expected[1]), (&expected[2], &expected[3])]
    );
}
