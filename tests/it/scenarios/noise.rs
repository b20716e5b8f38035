//! Two hundred units over noisy cables: what passes is right, and nearly all pass.

use super::line::{RigBay, ids, in_a_process_with_an_hsm, options, run_bay};
use crate::plant::{self, STEP_DEADLINE};
use dps_station::fixtures::scenario::{Fault, Scenario};
use dps_station::link::LinkOptions;
use dps_station::provision::event::{Event, IdentityRef};
use dps_station::provision::floor::{LinkHealth, Report};
use std::collections::BTreeMap;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::task::JoinSet;

const BAYS: usize = 20;
const UNITS_A_BAY: usize = 10;

#[test]
fn of_200_units_over_noisy_cables_at_least_198_pass_and_none_wrongly() {
    in_a_process_with_an_hsm(
        "scenarios::noise::of_200_units_over_noisy_cables_at_least_198_pass_and_none_wrongly",
        |plant| async move {
            let dir = TempDir::new().unwrap();
            let ledger = plant::ledger(&dir.path().join("ledger.sqlite"));
            let line = Arc::new(plant.line(ledger, STEP_DEADLINE));
            let mut bays = JoinSet::new();
            for place in 1..=BAYS {
                let rig = RigBay {
                    name: place.to_string(),
                    dir: dir.path().to_owned(),
                    hotplug: false,
                    scenario: Some(noise()),
                    link: LinkOptions {
                        arrival_ms: LinkOptions::default().arrival_ms,
                        ..options()
                    },
                    units: ids(&place.to_string(), UNITS_A_BAY),
                };
                let line = Arc::clone(&line);
                bays.spawn(async move { run_bay(rig, UNITS_A_BAY, &line).await });
            }
            let mut sum = LinkHealth::default();
            let mut verdicts: BTreeMap<String, usize> = BTreeMap::new();
            while let Some(story) = bays.join_next().await {
                let story = story.unwrap();
                for report in &story.reports {
                    let Report::Event { recorded, .. } = report else {
                        continue;
                    };
                    let verdict = match &recorded.event {
                        Event::Passed { enrollment } => {
                            assert_right(&story.units, enrollment);
                            "passed".to_owned()
                        }
                        Event::Failed { fault, .. } | Event::Interrupted { fault } => {
                            fault.code().to_owned()
                        }
                        event if event.ends_attempt() => event.kind().to_owned(),
                        Event::LinkMeasured { health } => {
                            sum = sum.plus(*health);
                            continue;
                        }
                        _ => continue,
                    };
                    *verdicts.entry(verdict).or_default() += 1;
                }
            }
            println!("{verdicts:?}, {sum:?}");
            assert!(sum.retries > 0 && sum.crc_errors > 0 && sum.dropped_lines > 0);
            let passed = verdicts.remove("passed").unwrap_or_default();
            assert!(
                passed * 100 >= BAYS * UNITS_A_BAY * 99,
                "{passed}: {verdicts:?}"
            );
            // What noise may do to a unit: nothing that it says arrives, too late, or as something else.
            let explained = ["device_silent", "too_slow", "not_a_device_we_know"];
            assert!(
                verdicts.keys().all(|code| explained.contains(&&**code)),
                "{verdicts:?}"
            );
        },
    );
}

fn noise() -> Scenario {
    Scenario {
        name: "Noisy cables".to_owned(),
        seed: 20_260_401,
        hotplug: false,
        step_deadline_ms: None,
        fault: Fault::Noise {
            bit_errors: 1e-4,
            lost_lines: 0.01,
        },
        ends: Vec::new(),
    }
}

/// What is to be enrolled is what the unit itself holds.
fn assert_right(
    units: &[dps_station::fixtures::device::SharedDevice],
    enrollment: &dps_station::provision::event::EnrollmentRecord,
) {
    let unit = units.iter().map(|unit| unit.lock().unwrap());
    let unit = unit
        .into_iter()
        .find(|unit| *unit.device_id() == enrollment.device_id);
    let unit = unit.unwrap();
    let holding = unit.holding();
    assert!(unit.sealed());
    assert_eq!(holding.registration_id, enrollment.registration_id.as_str());
    assert_eq!(holding.id_scope, "0ne00112233");
    assert_eq!(
        holding.global_endpoint,
        "global.azure-devices-provisioning.net"
    );
    let IdentityRef::X509 { certificate_sha256 } = enrollment.identity else {
        panic!("an X.509 unit");
    };
    assert_eq!(holding.certificate_sha256, Some(certificate_sha256));
}
