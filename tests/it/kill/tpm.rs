//! Every boundary of a device with a TPM whose endorsement key the station makes persistent.

use super::walk::{self, Made, walk_all};
use crate::tpm::device::{self, handles, trusted};
use crate::tpm_line::hall::{self, Chip};
use crate::tpm_line::persistent_key;
use dps_station::bay::Line;
use dps_station::fixtures::device::Device;
use dps_station::fixtures::tpm::Defect;
use dps_station::provision::device::RegistrationId;
use dps_station::provision::event::EnrolledIdentity;
use std::path::Path;
use std::sync::Arc;

struct Factory {
    /// All that a TPM holds whose endorsement key its maker made persistent.
    handles: Vec<Vec<u8>>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_boundary_and_every_second_boundary_after_recovery() {
    let handles = device::Device::new(None).handles();
    walk_all(&Arc::new(Factory { handles })).await;
}

impl walk::Factory for Factory {
    type Chip = Chip;
    const WAY: &[&[&str]] = &[
        &["arrived", "identified", "accepted"],
        &["endorsement_read", "registration_id_derived"],
        &["written"],
        &["restarted", "read_back"],
        &["proved"],
        &["sealed", "link_measured", "passed"],
    ];

    fn chip(&self) -> Chip {
        let tpm = device::Device::new(Some(Defect::EmptyHandle));
        Chip::new(tpm.into_parts())
    }

    fn power_on(&self, flash: &Path, chip: &Chip) -> Device {
        chip.power_cycle();
        let device = Device::load_or_make(flash, hall::spec("sim-1")).unwrap();
        device.with_tpm(Box::new(chip.clone()))
    }

    fn line(&self, ledger: &Path) -> Line {
        hall::line(ledger, hall::product(trusted()))
    }

    /// The key that is enrolled is the TPM's own, at the one handle that the station filled. The TPM holds nothing else
    /// that it did not come with, and no certificate was reserved for it.
    fn check(&self, made: &Made, chip: &Chip) {
        let mut chip = chip.clone();
        assert_eq!(handles(&mut chip), self.handles);
        let own = persistent_key(&mut chip).unwrap();
        let EnrolledIdentity::Tpm {
            endorsement_key, ..
        } = &made.enrolled.enrollment.identity
        else {
            panic!("{:?}", made.enrolled);
        };
        assert_eq!(endorsement_key.0, own);
        let registration_id = RegistrationId::of_endorsement_key(&own);
        assert_eq!(made.enrolled.registration_id, registration_id);
        assert_eq!(
            made.device.holding().registration_id,
            registration_id.to_string()
        );
        assert!(made.reservations.is_empty());
    }
}
