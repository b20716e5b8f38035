//! One unit that is not as it should be, or a line that is not, for each fault: how the attempt ends, and what is on
//! record then.

use super::books::{Books, End};
use crate::naming::place::{Hall, alter, spec};
use crate::plant::Plant;
use crate::scenarios::line::in_a_process_with_an_hsm;
use dps_station::bay::LineProduct;
use dps_station::fixtures::device::SharedDevice;
use dps_station::fixtures::scenario::Flaw as UnitFlaw;
use dps_station::ledger::{OutboxState, ReservationState, verify};
use dps_station::provision::bytes::Blob;
use dps_station::provision::device::{Attestation, DeviceId};
use dps_station::provision::dialogue::{Grounds, Item, Misfit};
use dps_station::provision::fault::{
    Blame, CertificateName, Fault, Flaw, HeldValue, HsmError, KeyFound, KeyKind, LabelTrouble,
    Mismatch, Unsigned,
};
use dps_station::provision::product::Product;
use dps_station::provision::verdict::Verdict;

/// What an attempt cost.
#[derive(Clone, Copy, PartialEq)]
enum Cost {
    /// No signature was reserved.
    Nothing,
    /// A serial number was given up; and the HSM signed it so many times.
    Serial(u64),
    /// The unit has a certificate.
    Certificate,
}
use Cost::*;

/// One unit on one line.
struct Case {
    end: End,
    cost: Cost,
    /// What is particular about the fault.
    says: fn(&Fault) -> bool,
    /// How the line differs from the ordinary one, and how its product does.
    line: fn(&mut LineProduct),
    product: fn(&mut Product),
    /// How the unit differs from the ordinary one.
    unit: fn(&Hall) -> SharedDevice,
    /// The label that was scanned for it.
    label: Option<&'static str>,
}

impl Case {
    fn ends(verdict: &'static str, code: &'static str, after: &'static str, cost: Cost) -> Self {
        let blame = match verdict {
            "errored" => Blame::Station,
            _ => Blame::Device,
        };
        Self {
            end: End {
                verdict,
                code,
                blame,
                after,
            },
            cost,
            says: |_| true,
            line: |_| (),
            product: |_| (),
            unit: |hall| hall.own("GW-A"),
            label: None,
        }
    }

    fn fails(code: &'static str, after: &'static str, cost: Cost) -> Self {
        Self::ends("failed", code, after, cost)
    }

    fn errs(code: &'static str, after: &'static str, cost: Cost) -> Self {
        Self::ends("errored", code, after, cost)
    }

    fn says(self, says: fn(&Fault) -> bool) -> Self {
        Self { says, ..self }
    }

    fn line(self, line: fn(&mut LineProduct)) -> Self {
        Self { line, ..self }
    }

    fn product(self, product: fn(&mut Product)) -> Self {
        Self { product, ..self }
    }

    fn unit(self, unit: fn(&Hall) -> SharedDevice) -> Self {
        Self { unit, ..self }
    }

    fn label(self, label: &'static str) -> Self {
        let label = Some(label);
        Self { label, ..self }
    }

    /// What is to be on record.
    fn books(&self) -> Books {
        Books {
            units: match self.end.verdict {
                "failed" => vec![Some(Verdict::Failed)],
                "errored" => vec![None],
                _ => Vec::new(),
            },
            reservations: match self.cost {
                Nothing => Vec::new(),
                Serial(_) => vec![ReservationState::Abandoned],
                Certificate => vec![ReservationState::Signed],
            },
            numbers: Vec::new(),
            // A unit that is not to blame may still pass with its certificate.
            outbox: match (self.end.verdict, self.cost) {
                ("failed", Certificate) => vec![OutboxState::DisablePending],
                _ => Vec::new(),
            },
        }
    }

    async fn play(&self, plant: &Plant) {
        let code = self.end.code;
        println!("{code} after {}", self.end.after);
        let hall = Hall::making(plant, |made| {
            (self.line)(made);
            alter(made, self.product);
        });
        let unit = (self.unit)(&hall);
        let hsm = &plant.signer.hsm;
        let before = hsm.meter().signatures;
        let mut place = hall.open("1");
        if let Some(label) = self.label {
            place.scans.put(label);
        }
        place.plug(&unit);
        let events = place.stay().await;
        let fault = self.end.check(&events);
        assert!((self.says)(fault), "{fault:?}");
        place.pull().await;
        place.close().await;

        assert_eq!(Books::of(&hall.line.ledger).await, self.books(), "{code}");
        let signed = match self.cost {
            Nothing => 0,
            Serial(signatures) => signatures,
            Certificate => 1,
        };
        assert_eq!(hsm.meter().signatures - before, signed, "{code}");
        let unit = unit.lock().unwrap();
        assert!(!unit.sealed(), "{code}");
        assert!(
            self.cost == Certificate || unit.chain().is_empty(),
            "{code}"
        );
        assert_eq!(verify(&hall.ledger()).unwrap().damages, [], "{code}");
    }
}

/// An ordinary unit with a flaw.
fn flawed(hall: &Hall, flaw: UnitFlaw) -> SharedDevice {
    hall.unit("GW-A", spec("GW-A"), |device| device.with_flaw(Some(flaw)))
}

fn play_all(test: &str, cases: fn() -> Vec<Case>) {
    in_a_process_with_an_hsm(test, |plant| async move {
        for case in cases() {
            case.play(&plant).await;
        }
    });
}

fn named(naming: &str, product: &mut Product) {
    product.naming = toml::from_str(naming).unwrap();
}

#[test]
fn a_unit_that_does_not_fit_its_product_fails_before_it_has_a_key() {
    play_all(
        "codes::one::a_unit_that_does_not_fit_its_product_fails_before_it_has_a_key",
        misfits,
    );
}

fn misfits() -> Vec<Case> {
    vec![
        Case::fails("no_id", "identified", Nothing)
            .says(|fault| {
                matches!(fault, Fault::NoId { device, .. }
                    if device.as_str().starts_with("uid-"))
            })
            .unit(|hall| hall.blank("a", None)),
        Case::fails("wrong_firmware", "identified", Nothing)
            .says(|fault| {
                matches!(fault, Fault::WrongFirmware { firmware, allowed, .. }
                    if firmware == "1.0.0" && *allowed == ["1.0.1", "2.0.0"])
            })
            .product(|product| product.firmware = vec!["1.0.1".to_owned(), "2.0.0".to_owned()]),
        Case::fails("no_tpm", "identified", Nothing)
            .product(|product| product.attestation = Some(Attestation::Tpm)),
        Case::fails("id_too_long", "identified", Nothing).unit(|hall| hall.own(&"G".repeat(65))),
        Case::fails("wrong_label", "identified", Nothing)
            .says(|fault| {
                matches!(fault, Fault::WrongLabel(LabelTrouble::OfAnother { label, device })
                    if label.as_deref() == Some("GW-B") && device.as_str() == "GW-A")
            })
            .product(|product| named("scan = \"required\"", product))
            .label("GW-B"),
        Case::ends("interrupted", "no_uid", "arrived", Nothing)
            .says(|fault| matches!(fault, Fault::NoUid { device } if device.as_str() == "GW-A"))
            .product(|product| named("source = \"allocated\"\nformat = \"GW-#\"", product))
            .unit(|hall| {
                let mut spec = spec("GW-A");
                spec.uid.clear();
                hall.unit("GW-A", spec, |device| device)
            }),
    ]
}

#[test]
fn a_request_that_is_no_good_is_never_reserved_for() {
    play_all(
        "codes::one::a_request_that_is_no_good_is_never_reserved_for",
        bad_requests,
    );
}

fn bad_requests() -> Vec<Case> {
    vec![
        Case::fails("device_refused", "accepted", Nothing)
            .says(|fault| {
                let storage = Grounds::StorageFailed;
                matches!(fault, Fault::DeviceRefused { grounds, .. } if *grounds == storage)
            })
            .unit(|hall| flawed(hall, UnitFlaw::NoRoomForKey)),
        Case::fails("request_invalid", "accepted", Nothing)
            .says(|fault| *fault == Fault::RequestInvalid { flaw: Flaw::NotDer })
            .unit(|hall| flawed(hall, UnitFlaw::RequestGarbled)),
        Case::fails("request_unsigned", "accepted", Nothing)
            .unit(|hall| flawed(hall, UnitFlaw::RequestUnsigned)),
        Case::fails("request_subject", "accepted", Nothing)
            .says(|fault| {
                matches!(fault, Fault::RequestSubject { found, expected }
                    if *found == ["GW-B"] && expected == "GW-A")
            })
            .unit(|hall| hall.unit("GW-A", spec("GW-A"), |device| device.with_own_name("GW-B"))),
        Case::fails("key_refused", "accepted", Nothing)
            .says(|fault| {
                let p384 = KeyFound::Kind(KeyKind::P384);
                matches!(fault, Fault::KeyRefused { found, .. } if *found == p384)
            })
            .unit(|hall| flawed(hall, UnitFlaw::KeyOnP384)),
    ]
}

#[test]
fn a_certificate_that_cannot_be_made_is_the_stations_matter() {
    play_all(
        "codes::one::a_certificate_that_cannot_be_made_is_the_stations_matter",
        unable_stations,
    );
}

fn unable_stations() -> Vec<Case> {
    const BEFORE: &str = "registration_id_derived";
    vec![
        Case::errs("no_ca", BEFORE, Nothing).line(|made| made.signer = None),
        // The CA itself ends sooner.
        Case::errs("ca_unfit", "accepted", Nothing)
            .says(|fault| {
                matches!(fault, Fault::CaUnfit { flaw, .. }
                    if matches!(flaw, Flaw::EndsBefore { days: 8000, .. }))
            })
            .product(|product| product.profile.validity_days = 8000),
        // The root that the product trusts is another one, of the same name.
        Case::errs("ca_unfit", "accepted", Nothing)
            .says(|fault| {
                let root = Some(CertificateName::Authority(2));
                matches!(fault, Fault::CaUnfit { which, flaw: Flaw::DidNotSign, .. } if *which == root)
            })
            .product(|product| product.ca.as_mut().unwrap().root = Blob(namesake())),
        Case::errs("draft_impossible", BEFORE, Nothing)
            .says(|fault| {
                let flaw = Flaw::NameLength { found: 65, max: 64 };
                *fault == Fault::DraftImpossible { flaw }
            })
            .product(|product| product.profile.organization = Some("x".repeat(65))),
        // The HSM has no such key.
        Case::errs("not_signed", "serial_abandoned", Serial(0))
            .says(|fault| matches!(why_unsigned(fault), Fault::Hsm(HsmError::KeyMissing { .. })))
            .line(|made| made.signer.as_mut().unwrap().label = "nobody".to_owned()),
        // It signs with the root's key.
        Case::errs("not_signed", "serial_abandoned", Serial(1))
            .says(|fault| {
                let (why, flaw) = (why_unsigned(fault), Flaw::BadSignature);
                (why.code(), why.blame()) == ("signed_wrongly", Blame::Station)
                    && *why == Fault::SignedWrongly { flaw }
            })
            .line(|made| made.signer.as_mut().unwrap().label = "root".to_owned()),
        Case::errs("cannot_be_read_back", "signed", Certificate)
            .says(|fault| {
                matches!(fault, Fault::CannotBeReadBack(Misfit::Value { item, max: 253, .. })
                    if *item == Item::GlobalEndpoint)
            })
            .product(|product| product.dps.global_endpoint = "g".repeat(254)),
    ]
}

fn why_unsigned(fault: &Fault) -> &Fault {
    match fault {
        Fault::NotSigned {
            why: Unsigned::Fault(why),
        } => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_unit_that_does_not_prove_what_it_was_given_fails_and_its_certificate_is_disabled() {
    play_all(
        "codes::one::a_unit_that_does_not_prove_what_it_was_given_fails_and_its_certificate_is_disabled",
        unproved,
    );
}

fn unproved() -> Vec<Case> {
    vec![
        Case::fails("does_not_hold", "read_back", Certificate)
            .says(|fault| differs(fault, &Mismatch::Values(vec![HeldValue::IdScope])))
            .unit(|hall| flawed(hall, changed_setting("dps/id_scope"))),
        Case::fails("does_not_hold", "restarted", Certificate)
            .says(|fault| differs(fault, &Mismatch::Chain))
            .unit(|hall| flawed(hall, UnitFlaw::ChainCutAtReset)),
        Case::fails("does_not_hold", "read_back", Certificate)
            .says(|fault| differs(fault, &Mismatch::KeyLost))
            .unit(|hall| flawed(hall, UnitFlaw::KeyLostAtReset)),
        Case::fails("no_restart", "written", Certificate)
            .unit(|hall| flawed(hall, UnitFlaw::IgnoresReset)),
        Case::fails("does_not_hold", "written", Certificate)
            .says(|fault| {
                let other = DeviceId::parse("FW-1").ok();
                differs(fault, &Mismatch::Name(other))
            })
            .product(|product| named("source = \"scanned\"\nformat = \"GW-#\"", product))
            .label("GW-1")
            .unit(|hall| hall.blank("a", Some(changed_setting("dps/device_id")))),
        Case::fails("proof_failed", "read_back", Certificate)
            .unit(|hall| flawed(hall, UnitFlaw::SignsWithAnotherKey)),
    ]
}

fn changed_setting(key: &str) -> UnitFlaw {
    UnitFlaw::SettingChangedAtReset(key.to_owned())
}

fn differs(fault: &Fault, in_what: &Mismatch) -> bool {
    matches!(fault, Fault::DoesNotHold { how, .. } if how == in_what)
}

/// A root of the same name as the plant's, with another key.
fn namesake() -> Vec<u8> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let kind = rcgen::DnType::CommonName;
    params.distinguished_name.push(kind, "SIMULATED CA");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let key = rcgen::KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}
