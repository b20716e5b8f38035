//! TPM devices through the real bay: what each kind of bad one is told, and what each policy makes of it.

mod budget;
mod busy;
mod chips;
pub mod hall;
mod program;
mod refused;

use crate::emulator::support::Cloud;
use crate::tpm::device::{Device, READ_PUBLIC_EK, factory, trusted};
use chips::{Impostor, Stalling, Swapped};
use dps_station::fixtures::device::Tpm;
use dps_station::fixtures::first_boot::{FirstBoot, Transport, first_boot_tpm};
use dps_station::fixtures::tpm::{Defect, Maker, manufacture};
use dps_station::provision::device::RegistrationId;
use dps_station::provision::endorsement::{EmptyHandle, EndorsementPolicy, RootFile, VendorRoots};
use dps_station::provision::event::EndorsementVerdict;
use dps_station::provision::fault::Fault;
use dps_station::provision::product::Product;
use dps_station::provision::verdict::Verdict;
use dps_station::words;
use hall::{Chip, Hall, Stay};
use serde_json::json;
use std::fs;
use std::time::Duration;

const SET_ASIDE: &str = "set the unit aside and call the process engineer";
const NOT_GENUINE: &str = "set the unit aside: its TPM is not what it says it is";

/// The stay of a unit whose TPM is refused before anything is written to it.
const REFUSED: [&str; 5] = [
    "arrived",
    "identified",
    "accepted",
    "link_measured",
    "failed",
];
/// The only unit, and it failed.
const FAILED: (&str, Option<Verdict>) = ("sim-1", Some(Verdict::Failed));

/// A line that trusts the makers of good TPMs.
fn hall(change: impl FnOnce(&mut Product)) -> Hall {
    Hall::new(trusted(), change)
}

fn ordinary() -> Hall {
    hall(|_| ())
}

fn chip(defect: Option<Defect>) -> Chip {
    Chip::new(Device::new(defect).into_parts())
}

/// Why this TPM fails on an ordinary line, and that nothing was written to its device.
async fn refused(tpm: impl Tpm + 'static) -> Fault {
    let hall = ordinary();
    let stay = hall.stay("sim-1", tpm).await;
    assert_eq!(stay.kinds(), REFUSED);
    hall.ends(&[FAILED]).await;
    stay.failed().clone()
}

/// Why less was accepted, and the code of what was missing.
fn waived(stay: &Stay) -> (Option<&str>, Option<&str>) {
    match &stay.endorsement().verdict {
        EndorsementVerdict::Waived { reason, missing } => {
            (reason.as_deref(), missing.as_deref().map(Fault::code))
        }
        genuine => panic!("{genuine:?}"),
    }
}

/// What a TPM has at the endorsement key's handle; none where that is empty.
pub fn persistent_key(tpm: &mut Chip) -> Option<Vec<u8>> {
    let answer = tpm.transact(&READ_PUBLIC_EK).unwrap();
    let size = answer.get(10..12)?;
    let size = usize::from(u16::from_be_bytes([size[0], size[1]]));
    Some(answer[10..12 + size].to_vec())
}

#[tokio::test]
async fn a_good_tpm_passes_and_its_maker_is_on_record() {
    let mut tpm = chip(None);
    let stay = ordinary().stay("sim-1", tpm.clone()).await;
    assert!(stay.passed(), "{stay:?}");
    let record = stay.endorsement();
    assert!(
        matches!(&record.verdict, EndorsementVerdict::Genuine { model, roots_digest, .. }
        if model == "swtpm" && *roots_digest == trusted().digest())
    );
    assert!(!record.persisted);
    assert_eq!(
        persistent_key(&mut tpm),
        Some(record.endorsement_key.0.clone())
    );
}

#[tokio::test]
async fn a_certificate_from_an_unknown_maker_fails() {
    let dir = tempfile::tempdir().unwrap();
    let maker = Maker::found(&dir.path().join("maker"), "nobody").unwrap();
    manufacture(&dir.path().join("tpm"), &maker, None).unwrap();
    let tpm = Chip::new(Device::copy(&dir.path().join("tpm")).into_parts());
    let fault = refused(tpm).await;
    assert_eq!(fault.code(), "ek_certificate_unknown_maker");
    assert!(
        words::of(&fault)
            .what
            .contains("CN=SIMULATED TPM maker nobody"),
        "{fault:?}"
    );
    assert_eq!(
        words::of(&fault).next,
        "set the unit aside; if its maker is to be trusted, the vendor roots need it"
    );
}

/// The line trusts a root above the maker. The maker's own certificate stands in no vendor folder, only in the TPM.
#[tokio::test]
async fn intermediates_that_the_tpm_carries_complete_a_chain_and_prove_nothing_by_themselves() {
    let (root, intermediate) = above_the_maker();
    let trusting = |der: &[u8]| {
        let bytes = der.to_vec();
        let name = "root.der".to_owned();
        Hall::new(VendorRoots::read(&[RootFile { name, bytes }]), |_| ())
    };
    let stay = trusting(&root).stay("sim-1", chip(None)).await;
    assert_eq!(stay.failed().code(), "ek_certificate_unknown_maker");

    let (mut tpm, dir) = Device::new(None).into_parts();
    // As some makers do: padded, and over two indices.
    let (one, two) = intermediate.split_at(200);
    tpm.write_nv(0x01c0_0100, &[&[0xff; 7], one].concat())
        .unwrap();
    tpm.write_nv(0x01c0_0101, two).unwrap();
    let tpm = Chip::new((tpm, dir));
    let stay = trusting(&root).stay("sim-1", tpm.clone()).await;
    assert!(stay.passed(), "{stay:?}");
    let record = stay.endorsement();
    assert!(
        matches!(&record.verdict, EndorsementVerdict::Genuine { anchor, .. } if anchor == "CN=above")
    );
    assert!(record.chain.as_ref().unwrap().0.ends_with(&intermediate));

    // Another root of the same name.
    let (namesake, _) = above_the_maker();
    let stay = trusting(&namesake).stay("sim-1", tpm).await;
    assert_eq!(stay.failed().code(), "ek_certificate_bad_signature");
}

/// A new root, and a certificate from it for the maker of good TPMs.
fn above_the_maker() -> (Vec<u8>, Vec<u8>) {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let common_name = |params: &mut rcgen::CertificateParams, name: &str| {
        let kind = rcgen::DnType::CommonName;
        params.distinguished_name.push(kind, name);
    };
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let mut below = params.clone();
    common_name(&mut params, "above");
    common_name(&mut below, "SIMULATED TPM maker A");
    let key = rcgen::KeyPair::generate().unwrap();
    let root = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
    let pem = fs::read(factory().maker.roots().join("maker.pem")).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
    let maker = pem.parse_x509().unwrap();
    let key = rcgen::SubjectPublicKeyInfo::from_der(maker.public_key().raw).unwrap();
    let intermediate = below.signed_by(&key, &root).unwrap();
    (root.der().to_vec(), intermediate.der().to_vec())
}

#[tokio::test]
async fn a_certificate_for_another_key_fails() {
    let fault = refused(chip(Some(Defect::AnotherKey))).await;
    assert_eq!(fault.code(), "ek_certificate_another_key");
    assert_eq!(words::of(&fault).next, NOT_GENUINE);
}

#[tokio::test]
async fn an_expired_certificate_fails() {
    let fault = refused(chip(Some(Defect::Expired))).await;
    assert_eq!(fault.code(), "ek_certificate_expired");
    assert!(
        words::of(&fault).next.contains("check the station's clock"),
        "{fault:?}"
    );
}

#[tokio::test]
async fn a_missing_certificate_fails_where_one_is_required() {
    let fault = refused(chip(Some(Defect::NoCertificate))).await;
    assert_eq!(fault.code(), "ek_certificate_missing");
    assert!(
        words::of(&fault).next.contains("all of a delivery"),
        "{fault:?}"
    );
}

#[tokio::test]
async fn a_missing_certificate_is_on_record_where_one_is_not_required() {
    let hall = hall(|product| product.endorsement = EndorsementPolicy::IfPresent);
    let stay = hall.stay("sim-1", chip(Some(Defect::NoCertificate))).await;
    assert!(stay.passed(), "{stay:?}");
    assert_eq!(waived(&stay), (None, Some("ek_certificate_missing")));
    // One that is there must be right.
    let stay = hall.stay("sim-2", chip(Some(Defect::AnotherKey))).await;
    assert_eq!(stay.failed().code(), "ek_certificate_another_key");
}

#[tokio::test]
async fn a_waiver_is_on_record_with_what_it_waived() {
    let hall = hall(|product| {
        let reason = "a pilot lot".to_owned();
        product.endorsement = EndorsementPolicy::Waived { reason };
    });
    let missing = Some("ek_certificate_missing");
    for (name, defect, missing) in [
        ("sim-1", None, None),
        ("sim-2", Some(Defect::NoCertificate), missing),
    ] {
        let stay = hall.stay(name, chip(defect)).await;
        assert!(stay.passed(), "{stay:?}");
        assert_eq!(waived(&stay), (Some("a pilot lot"), missing));
    }
}

#[tokio::test]
async fn a_tpm_that_shows_anothers_key_fails_when_it_must_use_it() {
    let own = chip(Some(Defect::NoCertificate));
    let victim = chip(None);
    let hall = ordinary();
    let stay = hall.stay("sim-1", Impostor { own, victim }).await;
    hall.ends(&[FAILED]).await;
    // Key and certificate are genuine; they are not this TPM's.
    assert!(matches!(
        stay.endorsement().verdict,
        EndorsementVerdict::Genuine { .. }
    ));
    assert!(!stay.kinds().contains(&"proved"));
    let fault = stay.failed();
    assert_eq!(
        (fault.code(), words::of(fault).next.as_str()),
        ("ek_not_proved", SET_ASIDE)
    );
    assert!(
        words::of(fault)
            .what
            .contains("the endorsement key that it showed"),
        "{fault:?}"
    );
}

#[tokio::test]
async fn one_tpm_in_two_devices_fails_the_second_and_names_the_first() {
    let (hall, tpm) = (ordinary(), chip(None));
    assert!(hall.stay("sim-1", tpm.clone()).await.passed());
    let stay = hall.stay("sim-2", tpm).await;
    let fault = stay.failed();
    assert_eq!(fault.code(), "duplicate_identity");
    assert!(
        words::of(fault).what.contains("sim-2") && words::of(fault).what.contains("sim-1"),
        "{fault:?}"
    );
    assert!(!stay.kinds().contains(&"written"));
}

#[tokio::test]
async fn an_empty_handle_is_given_the_key_that_is_enrolled() {
    let mut tpm = chip(Some(Defect::EmptyHandle));
    assert_eq!(persistent_key(&mut tpm), None);
    let stay = ordinary().stay("sim-1", tpm.clone()).await;
    assert!(stay.passed(), "{stay:?}");
    let record = stay.endorsement();
    assert!(record.persisted);
    assert!(matches!(record.verdict, EndorsementVerdict::Genuine { .. }));
    // The device was reset since, and its TPM with it.
    assert!(stay.kinds().contains(&"restarted"));
    assert_eq!(
        persistent_key(&mut tpm),
        Some(record.endorsement_key.0.clone())
    );
}

#[tokio::test]
async fn an_empty_handle_may_be_left_to_the_devices_client() {
    let cloud = Cloud::start().await;
    let mut tpm = chip(Some(Defect::EmptyHandle));
    let hall = hall(|product| {
        let reason = "the client makes its own key".to_owned();
        product.endorsement = EndorsementPolicy::Waived { reason };
        product.empty_handle = EmptyHandle::ClientKey;
        product.dps.id_scope = cloud.id_scope().to_owned();
    });
    let stay = hall.stay("sim-1", tpm.clone()).await;
    assert!(stay.passed(), "{stay:?}");
    assert_eq!(waived(&stay).1, Some("ek_certificate_another_key"));
    assert_eq!(persistent_key(&mut tpm), None);

    let record = stay.endorsement();
    let registration_id = RegistrationId::of_endorsement_key(&record.endorsement_key.0);
    let body = json!({"registrationId": registration_id, "attestation": {"type": "tpm", "tpm": {
        "endorsementKey": record.endorsement_key.base64(),
    }}});
    let path = format!("/enrollments/{registration_id}");
    assert_eq!(cloud.put(&path, &body, None).await.status, 200);
    let boot = FirstBoot {
        id_scope: cloud.id_scope().to_owned(),
        global_endpoint: format!("localhost:{}", cloud.emulator().port()),
        registration_id: registration_id.to_string(),
        trust_root: fs::read_to_string(cloud.emulator().ca_file()).unwrap(),
        network: cloud.emulator().address().ip(),
        mqtt_port: cloud.emulator().mqtt_address().port(),
        registers_over: Transport::Https,
    };
    let mut own = tpm.clone();
    let booted = first_boot_tpm(&boot, move |command: &[u8]| own.transact(command)).await;
    assert_eq!(booted.unwrap().device_id, registration_id.to_string());
    assert_eq!(
        persistent_key(&mut tpm),
        Some(record.endorsement_key.0.clone())
    );
}

#[tokio::test]
async fn a_key_that_no_certificate_is_for_needs_a_waiver() {
    let hall = hall(|product| product.empty_handle = EmptyHandle::ClientKey);
    let stay = hall.stay("sim-1", chip(Some(Defect::EmptyHandle))).await;
    assert_eq!(stay.failed().code(), "ek_certificate_another_key");
}

#[tokio::test]
async fn another_tpm_after_the_reset_fails() {
    let (now, later) = (chip(None), chip(Some(Defect::NoCertificate)));
    let hall = ordinary();
    let stay = hall.stay("sim-1", Swapped { now, later }).await;
    hall.ends(&[FAILED]).await;
    assert!(stay.kinds().contains(&"read_back") && !stay.kinds().contains(&"proved"));
    let fault = stay.failed();
    assert_eq!(
        (fault.code(), words::of(fault).next.as_str()),
        ("other_tpm", SET_ASIDE)
    );
}

#[tokio::test]
async fn another_tpm_in_a_device_that_comes_back_fails() {
    let hall = ordinary();
    let (now, later) = (chip(None), chip(Some(Defect::NoCertificate)));
    let swapped = Swapped {
        now: now.clone(),
        later: later.clone(),
    };
    let first = hall.stay("sim-1", swapped).await;
    assert_eq!(first.failed().code(), "other_tpm");
    // It comes with the other one at once.
    let later = hall.stay("sim-1", later).await;
    assert_eq!(later.failed().code(), "other_tpm");
    assert_eq!(later.kinds(), REFUSED);
    hall.ends(&[FAILED]).await;
    let again = hall.stay("sim-1", now).await;
    assert!(again.passed(), "its own TPM is welcome: {again:?}");
    hall.ends(&[("sim-1", Some(Verdict::Passed))]).await;
}

#[tokio::test]
async fn a_tpm_that_stalls_while_it_is_read_costs_its_deadline_and_no_more() {
    stalls_at(4, "key_read").await;
}

#[tokio::test]
async fn a_tpm_that_stalls_while_it_is_proved_costs_its_deadline_and_no_more() {
    stalls_at(16, "proved").await;
}

/// A TPM that does not answer its n-th command fails in time, before that event, and the bay takes the next unit.
async fn stalls_at(nth: usize, before: &str) {
    /// Ten times what a good TPM needs, for a machine that does much else.
    const LIMIT: Duration = Duration::from_secs(3);
    let mut hall = ordinary();
    hall.link.tpm_ms = u64::try_from(LIMIT.as_millis()).unwrap();
    let mut bay = hall.open();
    let (stalling, release) = Stalling::new(chip(None), nth);
    let bad = hall.plug_in(hall.device("bad", stalling));
    let stay = bay.stay().await;
    let fault = stay.failed();
    assert_eq!(fault.code(), "tpm_stalled", "{fault:?}");
    assert!(
        words::of(fault).what.contains("did not answer"),
        "{fault:?}"
    );
    assert!(
        words::of(fault).next.contains("put the unit in again"),
        "{fault:?}"
    );
    assert!(!stay.kinds().contains(&before), "{stay:?}");
    assert!(stay.step("failed") < 2 * LIMIT, "{stay:?}");

    bad.pull();
    let good = hall.plug_in(hall.device("good", chip(Some(Defect::EmptyHandle))));
    let stay = bay.stay().await;
    assert!(stay.passed(), "{stay:?}");
    good.pull();
    bay.close().await;
    drop(release);
    hall.ends(&[
        ("bad", Some(Verdict::Failed)),
        ("good", Some(Verdict::Passed)),
    ])
    .await;
}
