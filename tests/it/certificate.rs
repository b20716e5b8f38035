//! Certificates and requests, judged by OpenSSL: what it makes is taken or refused with a reason, and what the
//! station drafts is what it accepts.

#![allow(clippy::unwrap_used)]

mod refused;

use dps_station::provision::certificate::{
    CaProfile, Csr, Issuer, KeyKind, KeyPolicy, Profile, assemble, check_request, check_signature,
    draft_issuing, draft_leaf, draft_request, draft_root, draft_self_test, draft_verification,
    read, self_check, validate_authority, validate_path, verify_proof,
};
use dps_station::provision::device::SerialNumber;
use dps_station::provision::event::{Purpose, Reservation};
use dps_station::provision::fault::Fault;
use dps_station::words;
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

const DEVICE: &str = "GW-0001";
const DAY_MS: i64 = 86_400_000;

/// A workbench with a CA whose keys are in software.
struct Bench {
    dir: TempDir,
    now_ms: i64,
    root_key: KeyPair,
    root: Issuer,
    ca_key: KeyPair,
    ca: Issuer,
}

impl Bench {
    fn new() -> Self {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now_ms = i64::try_from(now_ms.as_millis()).unwrap();
        let root_key = KeyPair::generate().unwrap();
        let spki = root_key.subject_public_key_info();
        let profile = ca_profile("Test Root");
        let draft = draft_root("root", &spki, &profile, serial(1), now_ms).unwrap();
        let root_der = signed(&draft, &root_key);
        check_signature(&root_der, &draft, &spki).unwrap();
        let root = Issuer::parse("root", &root_der).unwrap();

        let ca_key = KeyPair::generate().unwrap();
        let spki = ca_key.subject_public_key_info();
        let profile = CaProfile {
            validity_days: 5000,
            ..ca_profile("Test Issuing")
        };
        let draft = draft_issuing(&root, &spki, &profile, serial(2), now_ms).unwrap();
        let ca_der = signed(&draft, &root_key);
        check_signature(&ca_der, &draft, root.spki()).unwrap();
        let ca = Issuer::parse("line", &ca_der).unwrap();
        let bench = Self {
            dir: TempDir::new().unwrap(),
            now_ms,
            root_key,
            root,
            ca_key,
            ca,
        };
        bench.write_pem("root.pem", "CERTIFICATE", bench.root.der());
        bench.write_pem("ca.pem", "CERTIFICATE", bench.ca.der());
        bench
    }

    fn write_pem(&self, name: &str, kind: &str, der: &[u8]) {
        let mut lines = format!("-----BEGIN {kind}-----\n");
        for part in der.chunks(48) {
            lines += &data_encoding::BASE64.encode(part);
            lines += "\n";
        }
        lines += &format!("-----END {kind}-----\n");
        std::fs::write(self.dir.path().join(name), lines).unwrap();
    }

    /// Has OpenSSL make a key (options of `genpkey`) and a request (options of `req`).
    fn request(&self, key: &str, req: &str) -> Vec<u8> {
        let dir = self.dir.path();
        openssl(dir, &format!("genpkey -out key.pem {key}"));
        let request = "req -new -key key.pem -outform DER -out req.der";
        openssl(dir, &format!("{request} {req}"));
        std::fs::read(dir.join("req.der")).unwrap()
    }

    /// Drafts, signs, assembles and checks a leaf, and has OpenSSL judge it.
    fn issue(&self, csr: &Csr, profile: &Profile) -> Vec<u8> {
        let draft = draft_leaf(&self.ca, csr, DEVICE, serial(3), self.now_ms, profile).unwrap();
        let der = signed(&draft, &self.ca_key);
        self_check(&der, &draft, &self.ca, csr.spki(), DEVICE).unwrap();
        let contents = read(&der).unwrap();
        assert_eq!(contents.common_name, DEVICE);
        assert_eq!(contents.spki, csr.spki());
        assert_eq!(contents.serial, serial(3).octets());
        let chain = [self.ca.der(), self.root.der()];
        validate_path(&der, &chain, self.now_ms).unwrap();
        self.write_pem("leaf.pem", "CERTIFICATE", &der);
        let verified = openssl(
            self.dir.path(),
            "verify -x509_strict -purpose sslclient -CAfile root.pem -untrusted ca.pem leaf.pem",
        );
        assert_eq!(text(&verified.stdout).trim(), "leaf.pem: OK");
        der
    }
}

fn ca_profile(common_name: &str) -> CaProfile {
    CaProfile {
        common_name: common_name.to_owned(),
        organization: Some("Example".to_owned()),
        validity_days: 7300,
    }
}

fn serial(byte: u8) -> SerialNumber {
    SerialNumber::from_random([byte; 20])
}

fn signed(draft: &Reservation, key: &KeyPair) -> Vec<u8> {
    assemble(&draft.tbs.0, &key.sign(&draft.tbs.0).unwrap())
}

/// Runs OpenSSL with arguments that have no spaces in them.
fn openssl(dir: &Path, arguments: &str) -> Output {
    let output = Command::new("openssl")
        .args(arguments.split_ascii_whitespace())
        .current_dir(dir)
        .output()
        .expect("openssl is not installed: run scripts/setup");
    let said = text(&output.stderr);
    assert!(output.status.success(), "openssl {arguments}: {said}");
    output
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn every_kind() -> KeyPolicy {
    KeyPolicy(vec![KeyKind::P256, KeyKind::P384, KeyKind::Rsa])
}

const P256: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
const P384: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-384";
const RSA: &str = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048";
const SUBJECT: &str = "-subj /CN=GW-0001";

#[test]
fn every_request_that_is_taken_becomes_a_certificate_that_openssl_accepts() {
    let bench = Bench::new();
    let challenge = "[req]\ndistinguished_name=dn\nattributes=at\nprompt=no\n\
        [dn]\nCN=GW-0001\n[at]\nchallengePassword=secret12\n";
    std::fs::write(bench.dir.path().join("challenge.cnf"), challenge).unwrap();
    let extensions = "-addext subjectKeyIdentifier=hash -addext subjectAltName=DNS:gw";
    let authority = "-addext basicConstraints=critical,CA:TRUE";
    let cases = [
        ("P-256", P256, SUBJECT, "", false),
        ("P-256, SHA-384", P256, SUBJECT, "-sha384", false),
        ("P-384, SHA-256", P384, SUBJECT, "-sha256", false),
        ("P-384, SHA-384", P384, SUBJECT, "-sha384", false),
        ("RSA", RSA, SUBJECT, "", false),
        (
            "two units",
            P256,
            "-subj /OU=one/OU=two/CN=GW-0001",
            "",
            false,
        ),
        ("extensions", P256, SUBJECT, extensions, false),
        (
            "challenge password",
            P256,
            "-config challenge.cnf",
            "",
            false,
        ),
        ("to be a CA", P256, SUBJECT, authority, true),
        (
            "to sign",
            P256,
            SUBJECT,
            "-addext keyUsage=keyCertSign",
            true,
        ),
    ];
    for (name, key, subject, options, asks_for_ca) in cases {
        let der = bench.request(key, &format!("{subject} {options}"));
        let csr = Csr::parse(&der, DEVICE, &every_kind())
            .unwrap_or_else(|refusal| panic!("{name}: {refusal:?}"));
        assert_eq!(csr.asks_for_ca(), asks_for_ca, "{name}");
        let profile = Profile {
            organization: Some("Example".to_owned()),
            ..Profile::default()
        };
        bench.issue(&csr, &profile);
        let shown = openssl(bench.dir.path(), "x509 -in leaf.pem -noout -text");
        let shown = text(&shown.stdout);
        assert!(
            shown.contains("CA:FALSE") && !shown.contains("DNS:gw"),
            "{name}: {shown}"
        );
    }
}

#[test]
fn a_certificate_never_outlives_its_ca() {
    let bench = Bench::new();
    let csr = Csr::parse(&bench.request(P256, SUBJECT), DEVICE, &KeyPolicy::default()).unwrap();
    let draft = |now_ms, days| {
        let profile = Profile {
            validity_days: days,
            ..Profile::default()
        };
        draft_leaf(&bench.ca, &csr, DEVICE, serial(9), now_ms, &profile)
    };
    assert!(draft(bench.now_ms, 5000).is_ok());
    let beyond = words::sentence(&draft(bench.now_ms, 5001).unwrap_err());
    assert!(beyond.contains("5001 days"), "{beyond}");
    let early = words::sentence(&draft(bench.now_ms - DAY_MS, 1).unwrap_err());
    assert!(early.contains("clock"), "{early}");
    assert!(draft(bench.now_ms + 5001 * DAY_MS, 1).is_err());
    assert!(matches!(
        draft(i64::MAX, 1),
        Err(Fault::DraftImpossible { .. })
    ));
    assert!(matches!(
        draft(bench.now_ms, u32::MAX),
        Err(Fault::DraftImpossible { .. })
    ));
    let long = "x".repeat(65);
    let refused = draft_leaf(
        &bench.ca,
        &csr,
        &long,
        serial(9),
        bench.now_ms,
        &Profile::default(),
    );
    assert!(matches!(refused, Err(Fault::DraftImpossible { .. })));
}

#[test]
fn requests_and_verification_certificates_are_what_openssl_expects() {
    let bench = Bench::new();
    let dir = bench.dir.path();
    let key = KeyPair::generate().unwrap();
    let spki = key.subject_public_key_info();
    let profile = ca_profile("Line 7 Issuing");
    let draft = draft_request("line", &spki, &profile, serial(4)).unwrap();
    assert_eq!(draft.purpose, Purpose::Request);
    let der = signed(&draft, &key);
    check_request(&der, &draft, &spki).unwrap();
    assert!(check_request(&signed(&draft, &bench.ca_key), &draft, &spki).is_err());
    assert!(check_request(&der, &draft, bench.ca.spki()).is_err());
    std::fs::write(dir.join("request.der"), &der).unwrap();
    let shown = openssl(dir, "req -inform DER -in request.der -verify -noout -text");
    let shown = text(&shown.stdout);
    assert!(
        shown.contains("Line 7 Issuing") && shown.contains("CA:TRUE"),
        "{shown}"
    );

    let code = "A1B2C3D4E5F60718293A4B5C6D7E8F90A1B2C3D4E5F60718";
    let draft = draft_verification(&bench.ca, code, serial(5), bench.now_ms).unwrap();
    let der = signed(&draft, &bench.ca_key);
    check_signature(&der, &draft, bench.ca.spki()).unwrap();
    assert_eq!(read(&der).unwrap().common_name, code);
    bench.write_pem("verification.pem", "CERTIFICATE", &der);
    openssl(
        dir,
        "verify -x509_strict -CAfile root.pem -untrusted ca.pem verification.pem",
    );
    openssl(dir, "verify -x509_strict -CAfile root.pem ca.pem");

    let test = draft_self_test("line", serial(6));
    let signature = bench.ca_key.sign(&test.tbs.0).unwrap();
    verify_proof(bench.ca.spki(), &test.tbs.0, &signature).unwrap();
}

#[test]
fn a_customers_root_makes_an_issuing_ca_out_of_the_request() {
    let bench = Bench::new();
    let dir = bench.dir.path();
    // A root of another kind: RSA, and with two organizational units in its name.
    openssl(dir, &format!("genpkey -out customer.key {RSA}"));
    let root = "req -x509 -new -key customer.key -days 400 -out customer.pem \
        -subj /OU=one/OU=two/CN=Customer";
    openssl(dir, root);
    let key = KeyPair::generate().unwrap();
    let spki = key.subject_public_key_info();
    let draft = draft_request("line", &spki, &ca_profile("Line 7"), serial(4)).unwrap();
    bench.write_pem("line.csr", "CERTIFICATE REQUEST", &signed(&draft, &key));
    let sign = "x509 -req -in line.csr -CA customer.pem -CAkey customer.key \
        -copy_extensions copy -days 300 -outform DER -out line.der";
    openssl(dir, sign);
    let convert = "x509 -in customer.pem -outform DER -out customer.der";
    openssl(dir, convert);
    let line = std::fs::read(dir.join("line.der")).unwrap();
    let customer = std::fs::read(dir.join("customer.der")).unwrap();

    // OpenSSL took the time itself, after the bench did.
    let now = bench.now_ms + DAY_MS;
    validate_authority("line", &line, &[&customer], now).unwrap();
    assert_eq!(Issuer::parse("line", &line).unwrap().spki(), spki);
    for (above, now, what) in [
        (bench.root.der(), now, "not the issuer"),
        (&customer[..], now + 350 * DAY_MS, "not now"),
    ] {
        let said = validate_authority("line", &line, &[above], now).unwrap_err();
        assert!(words::sentence(&said).contains(what), "{said:?}");
    }
}

#[test]
fn a_device_proves_its_key_whatever_its_kind() {
    let bench = Bench::new();
    let dir = bench.dir.path();
    std::fs::write(dir.join("nonce"), b"a nonce").unwrap();
    for (key, hash) in [(P256, "sha256"), (P384, "sha384"), (RSA, "sha256")] {
        let request = bench.request(key, SUBJECT);
        let csr = Csr::parse(&request, DEVICE, &every_kind()).unwrap();
        openssl(
            dir,
            &format!("dgst -{hash} -sign key.pem -out signature nonce"),
        );
        let signature = std::fs::read(dir.join("signature")).unwrap();
        verify_proof(csr.spki(), b"a nonce", &signature).unwrap();
        let refused = verify_proof(csr.spki(), b"another nonce", &signature);
        assert_eq!(refused, Err(Fault::ProofFailed));
        assert_eq!(
            verify_proof(bench.ca.spki(), b"a nonce", &signature),
            Err(Fault::ProofFailed)
        );
    }
    assert_eq!(verify_proof(b"", b"", b""), Err(Fault::ProofFailed));
}
