//! Bad input, and a world that is not as it should be: one sentence that names the thing and the next step, the exit
//! code that goes with it, and nothing lost.

use crate::emulator::support as emulator;
use crate::odd_service::{OddService, answer};
use crate::support::{Ended, Factory, Place, Running, calls, run};
use dps_station::provision::fault::{Blame, ClockSkew, DpsSetting, Fault};
use dps_station::words;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use std::fs;
use std::process::Stdio;

/// A factory whose only unit has passed, and is not enrolled yet.
fn passed() -> Factory {
    let factory = Factory::new(Place::own(), 1);
    let ended = run(factory.demo().args(["--until", "passed"]));
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    factory
}

/// Changes the factory's `station.toml`, in which `old` must stand.
fn edit(factory: &Factory, old: &str, new: &str) {
    let text = factory.text("station.toml");
    assert!(text.contains(old), "{old:?} is not in {text}");
    write(
        factory,
        "station.toml",
        text.replacen(old, new, 1).as_bytes(),
    );
}

fn write(factory: &Factory, path: &str, bytes: &[u8]) {
    fs::write(factory.dir().join(path), bytes).unwrap();
}

/// It ended with this code and one sentence on stderr, with what it names and a next step.
fn says(ended: &Ended, code: i32, names: &[&str]) {
    assert_eq!(ended.code(), Some(code), "{ended:?}");
    let line = ended.stderr.strip_suffix('\n').unwrap_or_default();
    let sentence = line.strip_prefix("station: ").unwrap_or_default();
    let next = sentence.rsplit_once(": ").map_or("", |(_, next)| next);
    assert!(!line.contains('\n') && next.len() > 8, "{ended:?}");
    for name in names {
        assert!(sentence.contains(name), "{name:?} is not in {sentence:?}");
    }
}

#[test]
fn a_wrong_configuration_is_named_with_its_line() {
    let factory = passed();
    let good = factory.text("station.toml");
    let cases: [(&str, &str, &[&str]); 7] = [
        ("id = \"demo\"", "", &["line 2", "missing field `id`"]),
        ("port = ", "prot = ", &["line 46", "unknown field `prot`"]),
        ("attestation = \"x509\"", "attestation = \"pgp\"", &["pgp"]),
        ("ca = \"factory\"", "ca = \"other\"", &["\"other\""]),
        (
            "simulated = true",
            "simulated = false",
            &["simulated", "scripts/release"],
        ),
        ("[shift]", "[shift", &["line 7"]),
        ("share = 1000", "share = -1", &["line ", "-1"]),
    ];
    for (old, new, names) in cases {
        edit(&factory, old, new);
        for arguments in [
            &["run", "--headless"][..],
            &["check"],
            &["ca", "show"],
            &["enroll", "--json"],
        ] {
            let ended = run(&mut factory.station(arguments));
            says(&ended, 2, &[&["station.toml"], names].concat());
            assert_eq!(ended.stdout, "");
        }
        write(&factory, "station.toml", good.as_bytes());
    }
    write(&factory, "station.toml", b"[station]\nid = \"\xff\"\n");
    says(
        &run(&mut factory.station(&["check"])),
        2,
        &["station.toml", "line 2", "UTF-8"],
    );
    fs::remove_file(factory.dir().join("station.toml")).unwrap();
    says(
        &run(&mut factory.station(&["check"])),
        2,
        &["station.toml", "--config"],
    );
}

#[test]
fn a_port_that_is_not_there_takes_its_bay_out_and_only_that() {
    let factory = passed();
    edit(&factory, "port = \"rig/bay-1\"", "port = \"rig/nothing\"");
    let checked = run(&mut factory.station(&["check", "--json"]));
    assert_eq!(checked.code(), Some(2), "{checked:?}");
    let wrong: Vec<_> = checked
        .objects()
        .into_iter()
        .filter(|line| line["ok"] == false)
        .collect();
    assert!(
        wrong.len() == 1 && text(&wrong[0], "said").contains("rig/nothing"),
        "{wrong:?}"
    );

    let mut line = Running::start(&mut factory.station(&["run", "--headless"]));
    let mut waits = 0;
    let mut out = false;
    while waits < 3 || !out {
        let report = report(&mut line);
        waits += i32::from(report["report"] == "bay_waiting");
        out |=
            report["report"] == "bay_out" && text(&report["fault"], "what").contains("rig/nothing");
    }
    line.say(b"{\"command\":\"quit\"}\n");
    assert_eq!(line.end().code(), Some(0));

    for bay in ["2", "3", "4"] {
        edit(
            &factory,
            &format!("port = \"rig/bay-{bay}\""),
            &format!("port = \"rig/no-{bay}\""),
        );
    }
    says(
        &run(&mut factory.station(&["run", "--headless"])),
        3,
        &["no bay"],
    );
}

#[test]
fn a_wrong_pin_is_tried_once_and_shown_nowhere() {
    let factory = passed();
    let right = factory.text("rig/hsm/pin");
    let wrong = "0123456789";
    write(&factory, "rig/hsm/pin", wrong.as_bytes());
    let before = calls(&factory.spy_log(), "C_Login");
    let ended = run(&mut factory.station(&["run", "--headless"]));
    says(&ended, 3, &["PIN", "factory"]);
    assert_eq!(calls(&factory.spy_log(), "C_Login"), before + 1);
    let checked = run(&mut factory.station(&["check"]));
    assert_eq!(checked.code(), Some(3), "{checked:?}");
    assert_eq!(calls(&factory.spy_log(), "C_Login"), before + 2);
    let said = format!("{ended:?}{checked:?}");
    assert!(!said.contains(wrong) && !said.contains(&right), "{said}");
    write(&factory, "rig/hsm/pin", right.as_bytes());
    finishes(&factory);
}

#[test]
fn a_missing_token_or_module_or_secret_is_named() {
    let factory = passed();
    let good = factory.text("station.toml");
    edit(&factory, "token = \"factory\"", "token = \"other\"");
    says(
        &run(&mut factory.station(&["run", "--headless"])),
        3,
        &["\"other\"", "factory"],
    );
    write(&factory, "station.toml", good.as_bytes());
    let module = format!("module = \"{}\"", crate::support::spy().display());
    edit(&factory, &module, "module = \"/no/such.so\"");
    says(
        &run(&mut factory.station(&["run", "--headless"])),
        3,
        &["/no/such.so"],
    );
    write(&factory, "station.toml", good.as_bytes());
    edit(&factory, "file:rig/hsm/pin", "file:rig/hsm/none");
    says(
        &run(&mut factory.station(&["run", "--headless"])),
        2,
        &["PIN", "rig/hsm/none"],
    );
    // A file without a PIN costs none of the token's few tries, and a pipe that nobody writes to keeps nobody.
    write(&factory, "rig/hsm/none", b"\n");
    let pipe = factory.dir().join("rig/hsm/pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
    let before = calls(&factory.spy_log(), "C_Login");
    for (from, to) in [("none", "none"), ("none", "pipe")] {
        edit(
            &factory,
            &format!("file:rig/hsm/{from}"),
            &format!("file:rig/hsm/{to}"),
        );
        let ended = run(&mut factory.station(&["run", "--headless"]));
        says(&ended, 2, &["PIN", &format!("rig/hsm/{to}")]);
    }
    assert_eq!(calls(&factory.spy_log(), "C_Login"), before);
}

#[test]
fn without_dps_or_with_a_wrong_key_nothing_is_lost() {
    let factory = passed();
    let credential = factory.text("rig/dps-credential");
    let (names, key) = credential.rsplit_once("SharedAccessKey=").unwrap();
    let other = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    write(
        &factory,
        "rig/dps-credential",
        format!("{names}SharedAccessKey={other}").as_bytes(),
    );
    let ended = run(&mut factory.station(&["enroll"]));
    assert_eq!(ended.code(), Some(3), "{ended:?}");
    says(&refusal(ended), 3, &["main"]);
    write(&factory, "rig/dps-credential", b"rubbish");
    let ended = run(&mut factory.station(&["enroll"]));
    says(&ended, 2, &["main"]);
    let rubbish = Fault::DpsConfiguration {
        dps: "main".to_owned(),
        setting: DpsSetting::UnknownPart,
    };
    assert_eq!(
        (rubbish.blame(), rubbish.code()),
        (Blame::Station, "dps_configuration")
    );
    let sentence = words::sentence(&rubbish);
    assert_eq!(ended.stderr, format!("station: {sentence}\n"));
    write(
        &factory,
        "rig/dps-credential",
        format!("{names}SharedAccessKey={key}").as_bytes(),
    );

    kill_process(factory.rig().unwrap(), Signal::KILL).unwrap();
    let ended = run(&mut factory.station(&["enroll", "--json", "--wait", "1s"]));
    let pending = ended.objects();
    let pending = [pending.last().unwrap()];
    assert_eq!(
        pending[0]["pending"].as_i64().unwrap() + pending[0]["deferred"].as_i64().unwrap(),
        1
    );
    says(&refusal(ended), 3, &["main", "localhost"]);
    finishes(&factory);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_is_found_before_the_first_unit() {
    let factory = passed();
    let before = factory.reservations();
    let good = factory.text("station.toml");
    // No enrollments at all, by a service on whose clock it is 1994.
    let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let odd = OddService::start(answer("200 OK", date, "[]")).await;
    let url = good.split("service_url = \"").nth(1).unwrap();
    let url = url.split('"').next().unwrap();
    edit(&factory, url, &odd.url());
    edit(
        &factory,
        "ca_file = \"rig/dps-ca.pem\"",
        &format!("ca_file = \"{}\"", odd.ca_file().display()),
    );
    let checked = run(&mut factory.station(&["check", "--json"]));
    assert_eq!(checked.code(), Some(3), "{checked:?}");
    let findings = checked.objects().into_iter();
    let wrong: Vec<_> = findings.filter(|line| line["ok"] == false).collect();
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert_eq!(wrong[0]["check"], "dps main");
    let fault = Fault::ClockWrong {
        dps: "main".to_owned(),
        skew: ClockSkew(1_000_000_000),
    };
    assert_eq!(
        (fault.blame(), fault.code()),
        (Blame::Station, "clock_wrong")
    );
    let said = text(&wrong[0], "said");
    let next = words::of(&fault).next;
    assert!(
        said.starts_with("the station's clock is ") && said.ends_with(&next),
        "{said}"
    );
    // The HSM signed for its self-test, and for nothing else; nothing was sent.
    let purposes: Vec<_> = factory
        .reservations()
        .into_iter()
        .filter(|(digest, _)| !before.contains_key(digest))
        .map(|(_, line)| (line["purpose"].clone(), line["state"].clone()))
        .collect();
    assert_eq!(purposes, [("self_test".into(), "signed".into())]);
    write(&factory, "station.toml", good.as_bytes());
    finishes(&factory);
}

#[test]
fn a_dps_that_is_away_does_not_stop_the_next_one() {
    let factory = passed();
    let dead = "[[dps]]\nname = \"away\"\nid_scope = \"0ne00000000\"\nglobal_endpoint = \"localhost:9\"\n\
        service_url = \"https://localhost:9\"\ncredential = \"file:rig/dps-credential\"\nshare = 10\n\n[[dps]]";
    edit(&factory, "[[dps]]", dead);
    let ended = run(&mut factory.station(&["reconcile", "--json"]));
    assert_eq!(text(&ended.objects()[0], "dps"), "main");
    says(&ended, 3, &["\"away\"", "localhost:9"]);
    finishes(&factory);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_refused_is_named_with_the_reason() {
    let factory = passed();
    let id = "sim-x509-0001";
    let credential = factory.text("rig/dps-credential");
    let (_, key) = credential.rsplit_once("SharedAccessKey=").unwrap();
    let owner = Some("provisioningserviceowner");
    let token = emulator::token(key.trim(), "localhost", emulator::now() + 60, owner);
    let settings = factory.text("station.toml");
    let url = settings.split("service_url = \"").nth(1).unwrap();
    let url = url.split('"').next().unwrap();
    let foreign = json!({"registrationId": id, "attestation": {"type": "symmetricKey"}});
    let put = emulator::client(&factory.dir().join("rig/dps-ca.pem"))
        .put(format!("{url}/enrollments/{id}?api-version=2021-10-01"))
        .header("authorization", token)
        .json(&foreign);
    assert_eq!(put.send().await.unwrap().status(), 200);

    let ended = run(&mut factory.station(&["enroll", "--json"]));
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    let [sum, refused] = &ended.objects()[..] else {
        panic!("{ended:?}")
    };
    assert_eq!(sum["refused"], 1);
    assert_eq!(text(refused, "registration_id"), id);
    let why = text(refused, "refused");
    assert!(
        why.contains("attestation") && why.contains("person"),
        "{why}"
    );
    let again = run(&mut factory.station(&["enroll", "--json"]));
    assert_eq!(again.code(), Some(1), "{again:?}");
    assert_eq!(again.objects()[1], *refused);
}

/// What was said without the sum that stdout has.
fn refusal(ended: Ended) -> Ended {
    for secret in ["SharedAccessKey=", "AAECAwQF"] {
        assert!(!format!("{ended:?}").contains(secret), "{ended:?}");
    }
    ended
}

#[test]
fn on_a_full_disk_the_station_stops_and_then_goes_on() {
    let factory = Factory::new(Place::own(), 4);
    factory.lay_out();
    // Too small for the tables alone, then full at one event after another: each start needs some room to recover.
    let unlimited = "[shift]".to_owned();
    let mut limit = unlimited.clone();
    for pages in (10..40).step_by(3) {
        let next = format!("ledger_pages_max = {pages}\n[shift]");
        edit(&factory, &limit, &next);
        limit = next;
        let ended = run(&mut factory.demo());
        if ended.code() == Some(0) {
            break;
        }
        says(&ended, 3, &["ledger.sqlite", "disk is full"]);
    }
    assert!(!limit.contains("= 10\n"), "ten pages were enough");
    edit(&factory, &limit, &unlimited);
    finishes(&factory);
    assert_eq!(factory.json("summary.json")["twin_read"], 4);
}

#[test]
fn without_an_open_shift_the_line_does_not_run() {
    let factory = passed();
    edit(&factory, "auto = true", "auto = false");
    let closed = run(&mut factory.station(&["shift", "close"]));
    assert_eq!(closed.code(), Some(0), "{closed:?}");
    says(
        &run(&mut factory.station(&["run", "--headless"])),
        2,
        &["station shift open"],
    );
    says(
        &run(&mut factory.station(&["shift", "close"])),
        2,
        &["station shift open"],
    );
}

#[test]
fn a_ledger_has_one_station_and_rubbish_on_its_stdin_is_passed_over() {
    let factory = passed();
    let mut line = Running::start(&mut factory.station(&["run", "--headless"]));
    while report(&mut line)["report"] != "bay_waiting" {}
    let second = run(&mut factory.station(&["run", "--headless"]));
    says(&second, 3, &["ledger.sqlite-station", "another station"]);

    // One line that is too long, with a command at its end, is no command.
    line.say(&[&[b' '; 4096 - 1][..], b"x", b"{\"command\":\"quit\"}\n"].concat());
    line.say(b"rubbish\n{\"command\":\"dance\"}\n\xff\xfe\n\n[]\n");
    line.say(b"{\"command\":\"acknowledge\",\"bay\":\"1\"}\n");
    while report(&mut line)["report"] != "acknowledged" {}
    // It ends although its stdin stays open.
    line.say(b"{\"command\":\"quit\"}\n");
    let ended = line.end();
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    ended.objects();
    let refused = ended
        .stderr
        .lines()
        .filter(|line| line.contains("is no command"));
    assert_eq!(refused.count(), 5, "{ended:?}");
    finishes(&factory);
}

#[test]
fn with_json_stdout_has_nothing_but_objects() {
    let factory = passed();
    let commands: [(&[&str], i32); 14] = [
        (&["check"], 0),
        (&["ca", "init"], 0),
        (&["ca", "show"], 0),
        (&["enroll", "--dry-run"], 0),
        (&["enroll"], 0),
        (&["reconcile"], 0),
        (&["shift", "report"], 0),
        (&["shift", "close"], 0),
        (&["shift", "open", "late"], 0),
        (&["shift", "open"], 2),
        (&["ledger", "show"], 0),
        (&["ledger", "show", "--device", "sim-x509-0001"], 0),
        (&["ledger", "show", "--device", "a b"], 2),
        (&["ledger", "verify"], 0),
    ];
    for (arguments, code) in commands {
        let ended = run(factory.station(arguments).arg("--json"));
        assert_eq!(ended.code(), Some(code), "{arguments:?}: {ended:?}");
        assert_eq!(
            ended.objects().is_empty(),
            code != 0,
            "{arguments:?}: {ended:?}"
        );
        if code != 0 {
            says(&ended, code, &[]);
        }
    }
    let ended = run(factory.demo().arg("--json"));
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert_eq!(ended.objects().last().unwrap()["assigned"], 1);
}

fn finishes(factory: &Factory) {
    let ended = run(&mut factory.demo());
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert_eq!(factory.damages(), [] as [Value; 0]);
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}

fn report(line: &mut Running) -> Value {
    let report = line.line().expect("a report");
    serde_json::from_str(&report).unwrap_or_else(|error| panic!("{report:?}: {error}"))
}

#[test]
fn names_that_are_not_on_record_are_the_callers_mistake() {
    let factory = passed();
    let shift = |arguments: &[&str]| run(&mut factory.station(&[&["shift"], arguments].concat()));
    says(&shift(&["report", "nope"]), 2, &["no shift nope"]);
    assert_eq!(shift(&["close"]).code(), Some(0));
    says(&shift(&["close"]), 2, &["no shift is open"]);
    assert_eq!(shift(&["open", "early"]).code(), Some(0));
    says(&shift(&["open", "late"]), 2, &["shift early is open"]);
    assert_eq!(shift(&["close"]).code(), Some(0));
    says(&shift(&["open", "early"]), 2, &["early is on record"]);
    for name in ["", "a\u{1b}[31mb", "a\nb", &"x".repeat(41)] {
        says(&shift(&["open", name]), 2, &["printable"]);
    }
    let shown = run(&mut factory.station(&["ledger", "show", "--device", "nope"]));
    says(&shown, 2, &["nope"]);
}

#[test]
fn the_ledger_of_another_station_is_not_gone_on_with() {
    let factory = passed();
    edit(&factory, "id = \"demo\"", "id = \"line-9\"");
    for arguments in [
        &["run", "--headless"][..],
        &["shift", "close"],
        &["enroll"],
        &["check"],
    ] {
        let ended = run(&mut factory.station(arguments));
        assert_eq!(ended.code(), Some(2), "{ended:?}");
        let said = ended.stdout.clone() + &ended.stderr;
        assert!(
            said.contains("that of station demo, and this is station line-9"),
            "{ended:?}"
        );
    }
}

#[test]
fn a_reader_of_stdout_that_has_gone_is_no_panic() {
    let factory = passed();
    for arguments in [&["ledger", "show"][..], &["run", "--headless"]] {
        let mut child = factory
            .station(arguments)
            .stdin(Stdio::piped()) // held open: it must not be what ends the station
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let stdin = child.stdin.take();
        let ended = child.wait_with_output().unwrap();
        drop(stdin);
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(3), "{said}");
        assert!(
            said.starts_with("station: stdout takes no more") && said.lines().count() == 1,
            "{said}"
        );
    }
}
