//! What became of every device of a demo: `summary.json`, and what is kept of each identity.

use super::rig_failed;
use crate::commands::{Exit, Failure};
use crate::fixtures::rig::control::{Answer, Boot};
use crate::fixtures::rig::{Plan, PlannedDevice, tpm_path, write_whole};
use crate::ledger::{Ledger, OutboxFilter, OutboxRow, OutboxState, UnitRow};
use crate::provision::device::{Attestation, DeviceId, RegistrationId};
use crate::provision::event::{EnrolledIdentity, Event};
use crate::provision::verdict::Verdict;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// `summary.json`: counts of devices, and a line for each.
#[derive(Default, Serialize)]
pub struct Summary {
    devices: usize,
    passed: usize,
    failed: usize,
    enrolled: usize,
    assigned: usize,
    twin_read: usize,
    seconds: f64,
    each: Vec<Each>,
}

/// What became of one device.
#[derive(Serialize)]
struct Each {
    device_id: DeviceId,
    registration_id: Option<RegistrationId>,
    attestation: Attestation,
    bay: Option<String>,
    assigned_hub: Option<String>,
    /// The folder of its swtpm.
    tpm_state: Option<PathBuf>,
}

/// Makes the summary, and writes `summary.json`.
pub async fn sum_up(
    dir: &Path,
    ledger: &Ledger,
    boots: &Answer,
    started: Instant,
) -> Result<Summary, Failure> {
    let plan = Plan::read(dir).map_err(rig_failed)?;
    let mut units: BTreeMap<_, _> = ledger
        .units()
        .await?
        .into_iter()
        .map(|unit| (unit.device.clone(), unit))
        .collect();
    let rows = ledger.outbox(OutboxFilter::default()).await?;
    let outbox: BTreeMap<_, _> = rows
        .into_iter()
        .map(|row| (row.device.clone(), row))
        .collect();
    let mut summary = Summary {
        devices: plan.devices.len(),
        ..Summary::default()
    };
    for planned in plan.devices {
        let boot = boots
            .boots
            .iter()
            .find(|boot| boot.device_id == planned.device_id.as_str());
        let row = outbox.get(&planned.device_id);
        if let Some(row) = row {
            keep_identity(dir, ledger, row).await?;
        }
        summary.count(dir, units.remove(&planned.device_id), planned, row, boot);
    }
    summary.seconds = started.elapsed().as_secs_f64();
    write_whole(&dir.join("summary.json"), summary.pretty().as_bytes()).map_err(rig_failed)?;
    Ok(summary)
}

impl Summary {
    fn count(
        &mut self,
        dir: &Path,
        unit: Option<UnitRow>,
        planned: PlannedDevice,
        row: Option<&OutboxRow>,
        boot: Option<&Boot>,
    ) {
        let verdict = unit.as_ref().and_then(|unit| unit.verdict);
        let assigned_hub = boot.and_then(|boot| boot.assigned_hub.clone());
        self.passed += usize::from(verdict == Some(Verdict::Passed));
        self.failed += usize::from(verdict == Some(Verdict::Failed));
        self.enrolled += usize::from(row.is_some_and(|row| row.state == OutboxState::Enrolled));
        self.assigned += usize::from(assigned_hub.is_some());
        self.twin_read += usize::from(boot.is_some_and(|boot| boot.twin_read));
        self.each.push(Each {
            registration_id: unit.as_ref().and_then(|unit| unit.registration_id.clone()),
            attestation: planned.attestation,
            bay: unit.map(|unit| unit.bay),
            assigned_hub,
            tpm_state: tpm_state(dir, &planned),
            device_id: planned.device_id,
        });
    }

    fn pretty(&self) -> String {
        serde_json::to_string_pretty(self).expect("a summary is made of strings and numbers")
    }

    /// The same as one line.
    pub fn line(&self) -> String {
        self.pretty().replace('\n', " ")
    }

    /// The counts, for people.
    pub fn sentence(&self) -> String {
        format!(
            "{} devices: {} passed, {} failed, {} enrolled, {} assigned, {} read their twin",
            self.devices, self.passed, self.failed, self.enrolled, self.assigned, self.twin_read
        )
    }

    /// Whether every device made it.
    pub fn exit(&self) -> Exit {
        let counts = [self.passed, self.enrolled, self.assigned, self.twin_read];
        match counts.iter().all(|count| *count == self.devices) {
            true => Exit::Done,
            false => Exit::Incomplete,
        }
    }
}

/// Where a device's TPM has its state; none where it has no TPM.
fn tpm_state(dir: &Path, device: &PlannedDevice) -> Option<PathBuf> {
    (device.attestation == Attestation::Tpm).then(|| tpm_path(dir, &device.device_id))
}

/// Writes what the station recorded of a TPM device's identity into `devices/<device_id>/`.
async fn keep_identity(dir: &Path, ledger: &Ledger, row: &OutboxRow) -> Result<(), Failure> {
    let EnrolledIdentity::Tpm {
        endorsement_key, ..
    } = &row.enrollment.identity
    else {
        return Ok(());
    };
    let folder = dir.join("devices").join(row.device.as_str());
    let text = endorsement_key.base64() + "\n";
    write_whole(&folder.join("endorsement_key.b64"), text.as_bytes()).map_err(rig_failed)?;
    for recorded in ledger.events(&row.device).await? {
        if let Event::EndorsementRead(record) = recorded.event
            && let Some(certificate) = record.certificate
        {
            write_whole(&folder.join("ek_certificate.der"), &certificate.0).map_err(rig_failed)?;
        }
    }
    Ok(())
}
