//! TPM devices: the endorsement key read, proved and used, against real swtpm processes.

pub mod device;
mod faults;

use device::{Device, trusted, verdict};
use dps_station::fixtures::tpm::{Defect, Maker, manufacture};
use dps_station::provision::endorsement::EmptyHandle;
use dps_station::provision::endorsement::credential::make_credential;
use dps_station::provision::event::EndorsementVerdict;
use dps_station::provision::fault::Fault;
use dps_station::tpm::jobs;
use dps_station::tpm::{TpmError, command_name, roots};
use dps_station::words;
use std::path::{Path, PathBuf};
use std::process::Command;

#[tokio::test]
async fn a_good_tpm_is_genuine() {
    let found = Device::new(None).extract(EmptyHandle::Persist).await;
    assert!(!found.persisted);
    let genuine = verdict(&found, &trusted()).unwrap();
    let EndorsementVerdict::Genuine {
        manufacturer,
        model,
        anchor,
        ..
    } = genuine
    else {
        panic!("{genuine:?}");
    };
    assert_eq!(
        (manufacturer.as_str(), model.as_str()),
        ("id:00001014", "swtpm")
    );
    assert_eq!(anchor, "CN=SIMULATED TPM maker A");
}

#[tokio::test]
async fn the_endorsement_key_is_what_tpm2_tools_read() {
    let mut device = Device::new(None);
    let found = device.extract(EmptyHandle::Persist).await;
    let read = tpm2_readpublic(device.tpm.dir());
    assert_eq!(read, found.endorsement_key.tpm2b().0);
}

/// What tpm2-tools read at the endorsement key's handle, from a copy of a TPM's state.
pub fn tpm2_readpublic(state: &Path) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let file = "tpm2-00.permall";
    std::fs::copy(state.join(file), dir.path().join(file)).unwrap();
    let socket = dir.path().join("tpm");
    let say = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        let output = output.unwrap_or_else(|e| panic!("{program}: {e}: run scripts/setup"));
        assert!(output.status.success(), "{program}: {output:?}");
    };
    let path = |p: &Path| p.to_str().unwrap().to_owned();
    let control = format!("{}.ctrl", path(&socket));
    let copy = format!("dir={}", path(dir.path()));
    let server = format!("type=unixio,path={}", path(&socket));
    let ctrl = format!("type=unixio,path={control}");
    let flags = "not-need-init,startup-clear";
    say(
        "swtpm",
        &[
            "socket",
            "--tpm2",
            "--daemon",
            "--tpmstate",
            &copy,
            "--server",
            &server,
            "--ctrl",
            &ctrl,
            "--flags",
            flags,
        ],
    );
    let tcti = format!("swtpm:path={}", path(&socket));
    let out = path(&dir.path().join("ek"));
    say(
        "tpm2_readpublic",
        &["-T", &tcti, "-c", "0x81010001", "-f", "tss", "-o", &out],
    );
    say("swtpm_ioctl", &["--unix", &control, "-s"]);
    std::fs::read(out).unwrap()
}

#[tokio::test]
async fn every_bad_certificate_has_its_own_reason() {
    let stranger = tempfile::tempdir().unwrap();
    let maker = Maker::found(&stranger.path().join("maker"), "B").unwrap();
    manufacture(&stranger.path().join("tpm"), &maker, None).unwrap();
    let found = Device::copy(&stranger.path().join("tpm"))
        .extract(EmptyHandle::Persist)
        .await;
    let refusal = verdict(&found, &trusted()).unwrap_err();
    assert_eq!(refusal.code(), "ek_certificate_unknown_maker");
    assert!(
        words::of(&refusal)
            .what
            .contains("CN=SIMULATED TPM maker B")
    );

    for (defect, code) in [
        (Defect::NoCertificate, "ek_certificate_missing"),
        (Defect::Expired, "ek_certificate_expired"),
        (Defect::AnotherKey, "ek_certificate_another_key"),
    ] {
        let found = Device::new(Some(defect))
            .extract(EmptyHandle::Persist)
            .await;
        assert_eq!(verdict(&found, &trusted()).unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn an_empty_handle_gets_the_key_that_the_certificate_is_for() {
    let mut device = Device::new(Some(Defect::EmptyHandle));
    let first = device.extract(EmptyHandle::Persist).await;
    assert!(first.persisted);
    assert!(verdict(&first, &trusted()).is_ok());
    device.tpm.power_cycle().unwrap();
    let second = device.extract(EmptyHandle::Persist).await;
    assert!(!second.persisted);
    assert_eq!(second.endorsement_key, first.endorsement_key);
    device.rehearse(&second).await.unwrap();
}

#[tokio::test]
async fn an_empty_handle_stays_empty_where_the_client_makes_its_own_key() {
    let mut device = Device::new(Some(Defect::EmptyHandle));
    let before = device.handles();
    let found = device.extract(EmptyHandle::ClientKey).await;
    assert!(!found.persisted);
    // The certificate is for the TCG's key, which this is not: such a product must waive it.
    assert_eq!(
        verdict(&found, &trusted()),
        Err(Fault::EkCertificateAnotherKey)
    );
    device.rehearse(&found).await.unwrap();
    assert_eq!(device.handles(), before);
}

#[tokio::test]
async fn a_credential_opens_only_in_the_tpm_it_was_made_for() {
    let mut device = Device::new(None);
    let keys = device.extract(EmptyHandle::Persist).await;
    let (ek, srk) = (keys.endorsement_key.clone(), keys.storage_root_key.clone());
    let credential = make_credential(ek.storage(), &srk.name(), b"a secret", &[7; 32]).unwrap();
    let opened = device
        .run(move |tpm| jobs::activate(tpm, &ek, &srk, &credential))
        .await;
    assert_eq!(opened.unwrap(), b"a secret");

    let (ek, srk) = (keys.endorsement_key.clone(), keys.storage_root_key.clone());
    let name = ek.storage().name();
    let wrong = make_credential(ek.storage(), &name, b"a secret", &[7; 32]).unwrap();
    let refused = device
        .run(move |tpm| jobs::activate(tpm, &ek, &srk, &wrong))
        .await;
    assert!(matches!(refused, Err(TpmError::NotActivated(_))));
}

#[tokio::test]
async fn the_rehearsal_leaves_the_device_as_it_was() {
    let mut device = Device::new(None);
    let before = device.handles();
    let keys = device.extract(EmptyHandle::Persist).await;
    device.rehearse(&keys).await.unwrap();
    assert_eq!(device.handles(), before);
}

/// What is necessary for one device, and what for. A device that has been used before has a persistent storage root key, and then needs
/// neither the CreatePrimary nor its FlushContext.
pub const NECESSARY: [&str; 24] = [
    "GetCapability", // transient objects left behind by a cut run
    "GetCapability", // loaded sessions
    "GetCapability", // saved sessions
    "ReadPublic",    // the EK
    "NV_ReadPublic", // how long its certificate's index is
    "NV_Read",       // the certificate, in one piece
    "ReadPublic",    // is there a storage root key?
    "CreatePrimary", // no: the one that the device will make
    "FlushContext",  // the storage root key
    "GetCapability", // the second run, after the device's reset
    "GetCapability",
    "GetCapability",
    "ReadPublic", // the EK is still there, and the same
    "ReadPublic", // the storage root key
    "CreatePrimary",
    "StartAuthSession", // the EK's policy
    "PolicySecret",
    "ActivateCredential", // proof of the EK, and the key of the inner wrap
    "Import",             // the HMAC key
    "Load",
    "HMAC",         // the SAS string
    "FlushContext", // the session
    "FlushContext", // the HMAC key
    "FlushContext", // the storage root key
];

#[tokio::test]
async fn commands_and_bytes_stay_within_their_budget() {
    let mut device = Device::new(None);
    let keys = device.extract(EmptyHandle::Persist).await;
    device.tpm.power_cycle().unwrap();
    device.rehearse(&keys).await.unwrap();
    let mut superfluous = device.log.clone();
    let mut bytes = 0;
    for name in NECESSARY {
        let found = superfluous
            .iter()
            .position(|r| command_name(r.code) == Some(name));
        let record = superfluous.remove(found.unwrap_or_else(|| panic!("{name} was not asked")));
        bytes += record.sent + record.received;
    }
    let wire: usize = device.log.iter().map(|r| r.sent + r.received).sum();
    println!(
        "{} commands, {wire} bytes; necessary: {}, {bytes}",
        device.log.len(),
        NECESSARY.len()
    );
    println!("{:?}", device.names());
    assert!(
        device.log.len() * 4 <= NECESSARY.len() * 5,
        "{:?}",
        device.names()
    );
    assert!(wire * 4 <= bytes * 5, "{wire} bytes, {bytes} necessary");
}

#[tokio::test]
async fn a_run_can_be_spawned_on_any_thread() {
    let mut device = Device::new(None);
    let spawned = tokio::spawn(async move { device.extract(EmptyHandle::Persist).await });
    spawned.await.unwrap();
}

/// The published bundles, where they lie beside the checkout: they are others' work, and none ship with the station.
pub fn vendor_bundles() -> Option<PathBuf> {
    let places = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut places = places.map(|dir| dir.join("shared/data/tpm-vendor-roots"));
    let found = places.find(|dir| dir.is_dir());
    if found.is_none() {
        eprintln!("NOT TRIED: shared/data/tpm-vendor-roots does not lie beside the checkout");
    }
    found
}

#[test]
fn both_published_bundles_load_whole() {
    const NOVEMBER_2026: i64 = 1_796_000_000;
    let Some(bundles) = vendor_bundles() else {
        return;
    };
    let roots = roots::load(&bundles).unwrap();
    assert_eq!(roots.refused(), []);
    assert_eq!((roots.anchors(), roots.intermediates()), (26, 143));
    assert_eq!(roots.not_valid_at(NOVEMBER_2026).count(), 0);
    assert_eq!(roots.dangling(NOVEMBER_2026), []);
    for release in roots.releases() {
        assert_eq!(release.date, "2026-04-11");
        assert_eq!(release.commit, "7e245bcd7c6a19e92df9656f00a796765e875808");
    }
    assert_eq!(roots.releases().len(), 2);
}
