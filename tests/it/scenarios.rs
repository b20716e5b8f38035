//! Every scenario file, through real bays, a ledger and an HSM: it ends as it says, without its fault it passes, and
//! the bay beside it is not disturbed.

#![allow(clippy::unwrap_used)]

pub mod line;
mod noise;
mod wire;

use crate::plant::{self, Plant, STEP_DEADLINE};
use dps_station::fixtures::scenario::{End, EndVerdict, Scenario};
use dps_station::ledger::{self, Ledger, OutboxFilter, OutboxState, ReservationState};
use dps_station::link::LinkOptions;
use dps_station::provision::device::DeviceId;
use dps_station::provision::event::{Event, Recorded};
use dps_station::provision::fault::Blame;
use dps_station::provision::floor::{Floor, Report};
use dps_station::provision::verdict::Verdict;
use dps_station::words;
use line::{RigBay, ids, in_a_process_with_an_hsm, options, run_bay};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinSet;

/// How long a bay may take for all attempts of a scenario.
const SCENARIO_MAX: Duration = Duration::from_secs(120);

#[test]
fn every_scenario_ends_as_it_says_and_passes_without_its_fault() {
    in_a_process_with_an_hsm(
        "scenarios::every_scenario_ends_as_it_says_and_passes_without_its_fault",
        |plant| async move {
            let hsm = plant.signer.hsm.clone();
            let before = hsm.meter().signatures;
            let mut runs = JoinSet::new();
            for path in scenario_files() {
                for faulty in [true, false] {
                    let (path, plant) = (path.clone(), Arc::clone(&plant));
                    runs.spawn(async move {
                        let name = format!("{} (fault: {faulty})", path.display());
                        let run = play(&path, faulty, &plant);
                        let ended = tokio::time::timeout(SCENARIO_MAX, run).await;
                        ended.unwrap_or_else(|_| panic!("{name} did not end in time"))
                    });
                }
            }
            let (mut failed, mut signed) = (0, 0);
            while let Some(run) = runs.join_next().await {
                match run {
                    Ok(certificates) => signed += certificates,
                    Err(_) => failed += 1,
                }
            }
            assert_eq!(failed, 0, "see above");
            // What the HSM signed is what is on record as signed, and nothing else.
            assert_eq!(hsm.meter().signatures - before, signed);
        },
    );
}

#[test]
fn an_interrupted_unit_passes_in_another_bay() {
    in_a_process_with_an_hsm(
        "scenarios::an_interrupted_unit_passes_in_another_bay",
        |plant| async move {
            let dir = TempDir::new().unwrap();
            let ledger = plant::ledger(&dir.path().join("ledger.sqlite"));
            let line = Arc::new(plant.line(ledger, STEP_DEADLINE));
            for (bay, scenario, wanted) in [
                ("1", Some("unplug.toml"), "interrupted"),
                ("2", None, "passed"),
            ] {
                let path = |name| folder().join(name);
                let rig = RigBay {
                    name: bay.to_owned(),
                    dir: dir.path().to_owned(),
                    hotplug: true,
                    scenario: scenario.map(|name| Scenario::read(&path(name)).unwrap()),
                    link: options(),
                    units: ids("1", 1),
                };
                let story = run_bay(rig, 1, &line).await;
                let Some(Report::Event { recorded, .. }) = story.reports.last() else {
                    panic!("{:?}", story.reports.last());
                };
                assert_eq!(recorded.event.kind(), wanted);
            }
            let units = line.ledger.units().await.unwrap();
            assert_eq!(units.len(), 1);
            let issued = line.ledger.reservations().await.unwrap();
            assert_eq!(issued.len(), 1, "a second certificate was issued");
        },
    );
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/scenarios")
}

fn scenario_files() -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder()).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// One scenario in one bay, with a good unit in another bay at the same time; gives how many certificates were issued.
async fn play(path: &Path, faulty: bool, plant: &Plant) -> u64 {
    let scenario = Scenario::read(path).unwrap();
    let name = format!("{} (fault: {faulty})", path.display());
    let dir = TempDir::new().unwrap();
    let deadline = scenario.step_deadline_ms.map(Duration::from_millis);
    let ledger = plant::ledger(&dir.path().join("ledger.sqlite"));
    let line = Arc::new(plant.line(ledger, deadline.unwrap_or(STEP_DEADLINE)));
    let pass = End {
        verdict: EndVerdict::Pass,
        code: None,
        says: None,
        disabled: false,
        counted: false,
    };
    let ends = match faulty {
        true => scenario.ends.clone(),
        false => vec![pass.clone()],
    };
    let struck = RigBay {
        name: "1".to_owned(),
        dir: dir.path().to_owned(),
        hotplug: scenario.hotplug,
        scenario: Some(scenario.clone()).filter(|_| faulty),
        link: options(),
        units: ids("1", ends.len()),
    };
    let beside = RigBay {
        name: "2".to_owned(),
        dir: dir.path().to_owned(),
        hotplug: false,
        scenario: None,
        link: LinkOptions::default(),
        units: ids("2", 1),
    };
    let (struck, beside) = tokio::join!(
        run_bay(struck, ends.len(), &line),
        run_bay(beside, 1, &line)
    );
    let ended = |reports: &[Report]| -> Vec<Recorded> {
        let events = reports.iter().filter_map(|report| match report {
            Report::Event { recorded, .. } => Some((**recorded).clone()),
            _ => None,
        });
        events.filter(|e| e.event.ends_attempt()).collect()
    };
    let found = ended(&struck.reports);
    assert_eq!(found.len(), ends.len(), "{name}: {found:?}");
    for (found, end) in found.iter().zip(&ends) {
        assert_end(&name, found, end);
    }
    let noted = measured(&struck.reports);
    assert!(!ends.iter().any(|end| end.counted) || noted > 0, "{name}");
    let good = ended(&beside.reports);
    assert_eq!(good.len(), 1, "{name}");
    assert_end(&format!("{name}, beside"), &good[0], &pass);
    assert_eq!(measured(&beside.reports), 0, "{name}, beside");

    assert_eq!(shown(&struck.reports), shown_for(ends.last().unwrap()));
    assert_clean(&name, &struck.reports);
    for unit in struck.units.iter().chain(&beside.units) {
        let device = unit.lock().unwrap();
        if device.sealed() {
            let once = device.executed().values().all(|count| *count == 1);
            let again = found.len() > 1; // a unit that came back is asked again, by a new request
            assert!(once || again, "{name}: {:?}", device.executed());
        }
    }
    let all = [found, good].concat();
    let signed = assert_books(&name, &line.ledger, &all).await;
    let disabled = line.ledger.outbox(OutboxFilter::default()).await.unwrap();
    let disabled = disabled
        .iter()
        .filter(|row| row.state == OutboxState::DisablePending);
    let wanted = ends.iter().filter(|end| end.disabled).count();
    assert_eq!(disabled.count(), wanted, "{name}");
    line.ledger.clone().close().await.unwrap();
    let verified = ledger::verify(&dir.path().join("ledger.sqlite")).unwrap();
    assert!(verified.damages.is_empty(), "{name}: {verified:?}");
    signed
}

/// Every unit has the verdict of its last attempt that had one; no reservation is open, no unit has two certificates,
/// and what DPS is to hold is what passed, or has a certificate and failed. Gives how many certificates were issued.
async fn assert_books(name: &str, ledger: &Ledger, ended: &[Recorded]) -> u64 {
    let mut verdicts: BTreeMap<DeviceId, Option<Verdict>> = BTreeMap::new();
    for attempt in ended {
        let Some(device) = attempt.device.clone() else {
            continue;
        };
        let verdict = verdicts.entry(device).or_default();
        match attempt.event {
            Event::Passed { .. } => *verdict = Some(Verdict::Passed),
            Event::Failed { .. } => *verdict = Some(Verdict::Failed),
            _ => {}
        }
    }
    let units = ledger.units().await.unwrap();
    let found = units.into_iter().map(|unit| (unit.device, unit.verdict));
    assert_eq!(found.collect::<BTreeMap<_, _>>(), verdicts, "{name}");

    let reservations = ledger.reservations().await.unwrap();
    let mut certified = BTreeSet::new();
    for row in reservations {
        let device = row.device.expect("it is for a unit");
        match row.state {
            ReservationState::Signed => assert!(certified.insert(device), "{name}: two"),
            ReservationState::Reserved => panic!("{name}: the reservation of {device} is open"),
            ReservationState::Abandoned => {}
        }
    }
    let outbox = ledger.outbox(OutboxFilter::default()).await.unwrap();
    let found = outbox.into_iter().map(|row| (row.device, row.state));
    let wanted = verdicts.into_iter().filter_map(|(device, verdict)| {
        let state = match verdict? {
            Verdict::Passed => OutboxState::Pending,
            _ => OutboxState::DisablePending,
        };
        certified.contains(&device).then_some((device, state))
    });
    let found: BTreeMap<_, _> = found.collect();
    assert_eq!(found, wanted.collect::<BTreeMap<_, _>>(), "{name}");
    certified.len() as u64
}

/// How much was wrong on the link, as the ledger has it for each attempt.
fn measured(reports: &[Report]) -> u64 {
    let wrong = reports.iter().map(|report| match report {
        Report::Event { recorded, .. } => match recorded.event {
            Event::LinkMeasured { health } => health.wrong(),
            _ => 0,
        },
        _ => 0,
    });
    wrong.sum()
}

fn assert_end(name: &str, found: &Recorded, end: &End) {
    use EndVerdict as V;
    let (verdict, fault) = match &found.event {
        Event::Passed { .. } => (V::Pass, None),
        Event::Failed { fault, .. } => (V::Fail, Some(fault)),
        Event::Errored { fault } => (V::Error, Some(fault)),
        Event::Interrupted { fault } if found.device.is_some() => (V::Interrupted, Some(fault)),
        // Nobody was identified: the fault says whose matter it is.
        Event::Interrupted { fault } => match fault.blame() {
            Blame::Device => (V::Fail, Some(fault)),
            _ => (V::Error, Some(fault)),
        },
        event => panic!("{name}: {} ends nothing here", event.kind()),
    };
    assert_eq!(verdict, end.verdict, "{name}: {fault:?}");
    assert_eq!(
        fault.map(|f| f.code().to_owned()),
        end.code,
        "{name}: {fault:?}"
    );
    let at_fault = match verdict {
        V::Error => Blame::Station,
        V::Pass | V::Fail | V::Interrupted => Blame::Device,
    };
    assert!(
        fault.is_none_or(|fault| fault.blame() == at_fault),
        "{name}: {fault:?}"
    );
    if let (Some(fault), Some(says)) = (fault, &end.says) {
        assert!(words::of(fault).what.contains(says), "{name}: {fault:?}");
    }
}

/// The word that the bay shows.
fn shown(reports: &[Report]) -> &'static str {
    let mut floor = Floor::new("test", true, 0);
    let last = reports.iter().rposition(
        |report| matches!(report, Report::Event { recorded, .. } if recorded.event.ends_attempt()),
    );
    for report in &reports[..=last.unwrap()] {
        floor.fold(report);
    }
    floor.bay("1").unwrap().word()
}

fn shown_for(end: &End) -> &'static str {
    match end.verdict {
        EndVerdict::Pass => "PASS",
        EndVerdict::Fail => "FAIL",
        EndVerdict::Error => "ERROR",
        EndVerdict::Interrupted => "INTERRUPTED",
    }
}

/// No text that goes to a screen or a file has a control character or a direction mark in it, nor has it no end.
fn assert_clean(name: &str, reports: &[Report]) {
    fn check(name: &str, value: &serde_json::Value) {
        match value {
            serde_json::Value::String(text) => {
                let bad = |c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
                assert!(!text.contains(bad), "{name}: {text:?}");
                assert!(text.len() <= 8192, "{name}: {} bytes", text.len());
            }
            serde_json::Value::Array(values) => values.iter().for_each(|value| check(name, value)),
            serde_json::Value::Object(map) => map.values().for_each(|value| check(name, value)),
            _ => {}
        }
    }
    for report in reports {
        check(name, &serde_json::to_value(report).unwrap());
    }
}
