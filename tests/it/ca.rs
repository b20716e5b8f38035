//! A CA that was not made here: taken as it is or refused, and never written over; and no unit under one that is not fit.

use crate::support::{Factory, Place, run};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SubjectPublicKeyInfo,
};
use std::fs;
use time::{Duration, OffsetDateTime};

const ISSUING: &str = "ca/issuing.pem";
const ROOT: &str = "ca/root.pem";

/// A factory whose CA was made by the demo, and whose units have left their bays.
fn factory() -> Factory {
    let factory = Factory::new(Place::own(), 1);
    let ended = run(factory.demo().args(["--until", "passed"]));
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    factory
}

/// A customer's root, and what it signs.
struct Customer {
    key: KeyPair,
    params: CertificateParams,
}

impl Customer {
    fn new(name: &str) -> Self {
        Self {
            key: KeyPair::generate().unwrap(),
            params: authority(name, 9_000),
        }
    }

    fn root(&self) -> String {
        self.params.self_signed(&self.key).unwrap().pem()
    }

    /// A CA certificate for this key, valid for so many days.
    fn issuing(&self, key: &SubjectPublicKeyInfo, days: i64) -> String {
        let root = Issuer::from_params(&self.params, &self.key);
        let mut params = authority("Line 7", days);
        params.use_authority_key_identifier_extension = true;
        params.signed_by(key, &root).unwrap().pem()
    }
}

fn authority(name: &str, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
    params.not_after = params.not_before + Duration::days(days);
    params
}

/// The key of the factory's issuing CA, which is in the HSM.
fn key_in_hsm(factory: &Factory) -> SubjectPublicKeyInfo {
    let pem = factory.text(ISSUING);
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    let certificate = pem.parse_x509().unwrap();
    SubjectPublicKeyInfo::from_der(certificate.public_key().raw).unwrap()
}

fn put(factory: &Factory, path: &str, text: &str) {
    fs::write(factory.dir().join(path), text).unwrap();
}

#[test]
fn a_customers_certificate_is_taken_as_it_is_or_refused_and_never_written_over() {
    let factory = factory();
    let (customer, stranger) = (Customer::new("Customer"), Customer::new("Stranger"));
    let own = key_in_hsm(&factory);
    let of_another_key = SubjectPublicKeyInfo::from_der(
        &rcgen::PublicKeyData::subject_public_key_info(&KeyPair::generate().unwrap()),
    )
    .unwrap();
    let good = customer.issuing(&own, 6_000);
    let root = customer.root(); // each call signs anew
    let cases: [(&str, &str, Option<&str>, &str); 5] = [
        ("taken", &good, Some(&root), ""),
        (
            "another key",
            &customer.issuing(&of_another_key, 6_000),
            Some(&root),
            "another key",
        ),
        (
            "another root",
            &good,
            Some(&stranger.root()),
            "not the issuer",
        ),
        ("no root", &good, None, "missing"),
        (
            "no certificate",
            "-----",
            Some(&root),
            "cannot be read as a certificate",
        ),
    ];
    for (what, issuing, root_file, says) in cases {
        put(&factory, ISSUING, issuing);
        let _ = fs::remove_file(factory.dir().join(ROOT));
        if let Some(root) = root_file {
            put(&factory, ROOT, root);
        }
        let ended = run(&mut factory.station(&["ca", "init"]));
        assert_eq!(
            ended.code() == Some(0),
            says.is_empty(),
            "{what}: {ended:?}"
        );
        assert!(ended.stderr.contains(says), "{what}: {ended:?}");
        assert_eq!(factory.text(ISSUING), issuing, "{what}");
        let root_now = fs::read_to_string(factory.dir().join(ROOT)).ok();
        assert_eq!(root_now.as_deref(), root_file, "{what}");
    }
    // A root alone is not written over either.
    fs::remove_file(factory.dir().join(ISSUING)).unwrap();
    put(&factory, ROOT, &root);
    let ended = run(&mut factory.station(&["ca", "init"]));
    assert_eq!(ended.code(), Some(2), "{ended:?}");
    assert_eq!(factory.text(ROOT), root);
    // Nor is a second root made under the name of the first.
    fs::remove_file(factory.dir().join(ROOT)).unwrap();
    let settings = factory.text("station.toml");
    let relabelled = settings.replace("label = \"issuing\"", "label = \"other\"");
    assert_ne!(settings, relabelled, "{settings}");
    put(&factory, "station.toml", &relabelled);
    let ended = run(&mut factory.station(&["ca", "init"]));
    assert_eq!(ended.code(), Some(2), "{ended:?}");
    assert!(ended.stderr.contains("a root named"), "{ended:?}");
}

#[test]
fn no_unit_begins_under_a_ca_that_cannot_finish_it() {
    let factory = factory();
    let (customer, stranger) = (Customer::new("Customer"), Customer::new("Stranger"));
    let own = key_in_hsm(&factory);
    let events = |factory: &Factory| {
        let shown = run(&mut factory.station(&["ledger", "show", "--json"])).objects();
        shown
            .iter()
            .filter(|unit| unit["verdict"] == "failed")
            .count()
    };
    for (issuing, root, says) in [
        (
            customer.issuing(&own, 6_000),
            stranger.root(),
            "not the issuer",
        ),
        (customer.issuing(&own, 300), customer.root(), "days"),
    ] {
        put(&factory, ISSUING, &issuing);
        put(&factory, ROOT, &root);
        for arguments in [&["check"][..], &["run", "--headless"]] {
            let ended = run(&mut factory.station(arguments));
            let said = ended.stdout.clone() + &ended.stderr;
            assert_eq!(ended.code(), Some(3), "{arguments:?}: {ended:?}");
            assert!(
                said.contains(says) && said.contains("CA "),
                "{arguments:?}: {said}"
            );
        }
        assert_eq!(events(&factory), 0);
    }
}
