//! TPMs that are wrong in one thing, each played through the line: what they are told, and that nothing came of it.

use super::hall::{Chip, Hall, OpenBay};
use super::{FAILED, REFUSED, chip, ordinary, persistent_key};
use crate::tpm::device::Device;
use dps_station::fixtures::device::Tpm;
use dps_station::fixtures::tpm::Defect;
use dps_station::provision::endorsement::template::{EndorsementKey, SRK_TEMPLATE};
use dps_station::provision::endorsement::{RootFile, VendorRoots};
use dps_station::provision::fault::Fault;
use dps_station::provision::verdict::Verdict;
use dps_station::tpm::jobs::{EK_CERTIFICATE_INDEX, EK_HANDLE};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SubjectPublicKeyInfo,
    date_time_ymd,
};
use std::io;
use yasna::models::ObjectIdentifier;

const NV_READ: u32 = 0x014e;
const NV_READ_PUBLIC: u32 = 0x0169;
const HMAC: u32 = 0x0155;
const FLUSH_CONTEXT: u32 = 0x0165;
const GET_CAPABILITY: u32 = 0x017a;

const SUCCESS: [u8; 10] = [0x80, 0x01, 0, 0, 0, 10, 0, 0, 0, 0];
/// `TPM_RC_FAILURE`.
const FAILURE: [u8; 10] = [0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x01];

/// A TPM some of whose answers are others than it gave: `change` makes them, of the command's code and the answer.
struct Spoiled<F> {
    tpm: Chip,
    change: F,
}

impl<F: Fn(u32, &[u8], Vec<u8>) -> Vec<u8> + Send> Tpm for Spoiled<F> {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let answer = self.tpm.transact(command)?;
        let code = u32::from_be_bytes(command[6..10].try_into().unwrap());
        Ok((self.change)(code, command, answer))
    }

    fn restart(&mut self) -> io::Result<()> {
        self.tpm.restart()
    }
}

/// A unit's stay, which ends with a FAIL; gives its fault and what led to it.
async fn fails(
    (hall, bay): (&Hall, &mut OpenBay),
    name: &str,
    tpm: impl Tpm + 'static,
) -> (Fault, Vec<&'static str>) {
    let plug = hall.plug_in(hall.device(name, tpm));
    let stay = bay.stay().await;
    plug.pull();
    (stay.failed().clone(), stay.kinds())
}

type Maker = CertifiedIssuer<'static, KeyPair>;

/// One of these names; two of the same name have different keys.
fn maker(name: &str) -> Maker {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A certificate for this endorsement key, as it should be but for the change.
fn certificate(
    key: &EndorsementKey,
    maker: &Maker,
    change: impl FnOnce(&mut CertificateParams),
) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![tpm_attributes()];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
    params.not_before = date_time_ymd(2024, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    change(&mut params);
    let key = SubjectPublicKeyInfo::from_der(&key.storage().spki()).unwrap();
    params.signed_by(&key, maker).unwrap().der().to_vec()
}

/// subjectAltName with a directoryName of manufacturer, model and version (TCG EK Credential Profile, section 3.1.2).
fn tpm_attributes() -> CustomExtension {
    let attributes = [(1, "id:00001014"), (2, "swtpm"), (3, "id:20191023")];
    let content = yasna::construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_tagged(yasna::Tag::context(4), |w| {
                w.write_sequence_of(|w| {
                    for (last, text) in attributes {
                        w.next().write_set_of(|w| {
                            w.next().write_sequence(|w| {
                                let oid = ObjectIdentifier::from_slice(&[2, 23, 133, 2, last]);
                                w.next().write_oid(&oid);
                                w.next().write_utf8_string(text);
                            });
                        });
                    }
                });
            });
        });
    });
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], content);
    extension.set_criticality(true);
    extension
}

/// The one TPM without a certificate, with this one in its NV memory.
fn carrying(certificate: &[u8]) -> Chip {
    let (mut tpm, dir) = Device::new(Some(Defect::NoCertificate)).into_parts();
    tpm.write_nv(EK_CERTIFICATE_INDEX, certificate).unwrap();
    Chip::new((tpm, dir))
}

/// All have the same endorsement key: what was refused of a unit is not held against the next one either.
#[tokio::test]
async fn each_rule_of_an_ek_certificate_is_held_and_one_that_keeps_all_passes() {
    let known = maker("known");
    let root = RootFile {
        name: "root.der".to_owned(),
        bytes: known.der().to_vec(),
    };
    let hall = Hall::new(VendorRoots::read(&[root]), |_| ());
    let key = persistent_key(&mut chip(Some(Defect::NoCertificate))).unwrap();
    let key = EndorsementKey::parse(&key).unwrap();
    let good = certificate(&key, &known, |_| ());
    let ca =
        |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let early = |params: &mut CertificateParams| params.not_before = date_time_ymd(9000, 1, 1);
    let late = |params: &mut CertificateParams| params.not_after = date_time_ymd(2025, 1, 1);
    let no_usage = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    };
    let cases = [
        ("ek_certificate_broken", certificate(&key, &known, ca)),
        ("ek_certificate_broken", good[..good.len() - 1].to_vec()),
        (
            "ek_certificate_no_usage",
            certificate(&key, &known, no_usage),
        ),
        ("ek_certificate_expired", certificate(&key, &known, late)),
        (
            "ek_certificate_not_yet_valid",
            certificate(&key, &known, early),
        ),
        (
            "ek_certificate_unknown_maker",
            certificate(&key, &maker("other"), |_| ()),
        ),
        (
            "ek_certificate_bad_signature",
            certificate(&key, &maker("known"), |_| ()),
        ),
    ];
    let mut bay = hall.open();
    let mut units = Vec::new();
    for (n, (code, nv)) in cases.iter().enumerate() {
        let name = format!("sim-{n}");
        let (fault, kinds) = fails((&hall, &mut bay), &name, carrying(nv)).await;
        assert_eq!(
            (fault.code(), &kinds[..]),
            (*code, &REFUSED[..]),
            "{fault:?}"
        );
        units.push((name, Some(Verdict::Failed)));
    }
    let plug = hall.plug_in(hall.device("sim-good", carrying(&good)));
    let stay = bay.stay().await;
    assert!(stay.passed(), "{stay:?}");
    plug.pull();
    bay.close().await;
    units.push(("sim-good".to_owned(), Some(Verdict::Passed)));
    let units: Vec<_> = units
        .iter()
        .map(|(name, verdict)| (name.as_str(), *verdict))
        .collect();
    hall.ends(&units).await;
}

#[tokio::test]
async fn a_key_of_another_template_where_the_endorsement_key_belongs_fails() {
    let hall = ordinary();
    let mut tpm = chip(Some(Defect::EmptyHandle));
    let key = made_under_owner(&mut tpm);
    let persist = [
        &[0, 0, 0x01, 0x20][..],
        &OWNER,
        &key,
        &PASSWORD,
        &EK_HANDLE.to_be_bytes(),
    ];
    commanded(&mut tpm, &persist.concat());
    let stay = hall.stay("sim-1", tpm).await;
    assert_eq!(
        (stay.failed().code(), &stay.kinds()[..]),
        ("ek_template", &REFUSED[..])
    );
    hall.ends(&[FAILED]).await;
}

const OWNER: [u8; 4] = [0x40, 0, 0, 0x01];
/// One authorization: the empty password.
const PASSWORD: [u8; 13] = [0, 0, 0, 9, 0x40, 0, 0, 0x09, 0, 0, 0, 0, 0];

/// Makes a storage root key, and gives its handle.
fn made_under_owner(tpm: &mut Chip) -> [u8; 4] {
    let head = [&[0, 0, 0x01, 0x31][..], &OWNER, &PASSWORD].concat(); // CreatePrimary
    let no_secret = [0, 4, 0, 0, 0, 0];
    let template = [&[0, 26][..], &SRK_TEMPLATE, &[0, 0]].concat();
    let nothing_outside = [0; 6];
    let create = [&head[..], &no_secret, &template, &nothing_outside].concat();
    commanded(tpm, &create)[10..14].try_into().unwrap()
}

/// A command with sessions, which must succeed: what stands behind its size.
fn commanded(tpm: &mut Chip, rest: &[u8]) -> Vec<u8> {
    let size = u32::try_from(6 + rest.len()).unwrap();
    let command = [&[0x80, 0x02][..], &size.to_be_bytes(), rest].concat();
    let answer = tpm.transact(&command).unwrap();
    assert_eq!(answer[6..10], [0; 4], "{answer:x?}");
    answer
}

#[tokio::test]
async fn answers_that_are_none_and_commands_that_fail_are_the_units_fault() {
    let hall = ordinary();
    let mut bay = hall.open();
    let cut = Spoiled {
        tpm: chip(None),
        change: |code, _: &[u8], answer: Vec<u8>| match code {
            NV_READ_PUBLIC => answer[..5].to_vec(),
            _ => answer,
        },
    };
    let (fault, kinds) = fails((&hall, &mut bay), "sim-1", cut).await;
    assert_eq!((fault.code(), &kinds[..]), ("tpm_garbled", &REFUSED[..]));
    let broken = Spoiled {
        tpm: chip(None),
        change: |code, _: &[u8], answer| match code {
            NV_READ => FAILURE.to_vec(),
            _ => answer,
        },
    };
    let (fault, kinds) = fails((&hall, &mut bay), "sim-2", broken).await;
    assert_eq!((fault.code(), &kinds[..]), ("tpm_failed", &REFUSED[..]));
    bay.close().await;
    hall.ends(&[
        ("sim-1", Some(Verdict::Failed)),
        ("sim-2", Some(Verdict::Failed)),
    ])
    .await;
}

/// It opens the credential, and then computes another answer than DPS will.
#[tokio::test]
async fn a_tpm_that_answers_the_challenge_wrongly_is_not_proved() {
    let hall = ordinary();
    let wrong = Spoiled {
        tpm: chip(None),
        change: |code, _: &[u8], mut answer: Vec<u8>| {
            if code == HMAC {
                answer[16] ^= 1; // behind header, size of the parameters and size of the digest
            }
            answer
        },
    };
    let stay = hall.stay("sim-1", wrong).await;
    assert_eq!(stay.failed().code(), "challenge_not_met");
    let kinds = stay.kinds();
    assert!(
        kinds.contains(&"read_back") && !kinds.contains(&"proved"),
        "{kinds:?}"
    );
    hall.ends(&[FAILED]).await;
}

/// It says that so much was left behind in it that clearing it away takes all the commands that a run may have.
#[tokio::test]
async fn a_tpm_that_never_comes_to_its_job_is_an_error_and_no_verdict() {
    let hall = ordinary();
    let full = Spoiled {
        tpm: chip(None),
        change: |code, command: &[u8], answer| match code {
            // Handles of transient objects and of sessions.
            GET_CAPABILITY if command[13] == 1 && [0x80, 0x02, 0x03].contains(&command[14]) => {
                sixty_four_handles(command[14])
            }
            FLUSH_CONTEXT => SUCCESS.to_vec(),
            _ => answer,
        },
    };
    let stay = hall.stay("sim-1", full).await;
    assert_eq!(stay.errored().code(), "tpm_bridge");
    let kinds = stay.kinds();
    assert!(!kinds.contains(&"endorsement_read"), "{kinds:?}");
    hall.ends(&[("sim-1", None)]).await;
}

fn sixty_four_handles(kind: u8) -> Vec<u8> {
    let head = [0x80, 0x01, 0, 0, 1, 19, 0, 0, 0, 0];
    let listed = [0, 0, 0, 0, 1, 0, 0, 0, 64]; // no more data, TPM_CAP_HANDLES, count
    let handles = (0..64).flat_map(|n| [kind, 0, 0, n]).collect();
    [head.to_vec(), listed.to_vec(), handles].concat()
}
