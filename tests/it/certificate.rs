//! Certificates and requests, judged by OpenSSL: what it makes is taken or refused with a reason, and what the
//! station drafts is what it accepts.

#![allow(clippy::unwrap_used)]

use dps_station::provision::certificate::{
    CaProfile, Csr, Issuer, KeyKind, KeyPolicy, Profile, Refusal, assemble, check_request,
    check_signature, draft_issuing, draft_leaf, draft_request, draft_root, draft_self_test,
    draft_verification, read, self_check, validate_path, verify_proof,
};
use dps_station::provision::device::SerialNumber;
use dps_station::provision::event::{Purpose, Reservation};
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
        let text = data_encoding::BASE64.encode(der);
        let text = format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n");
        // OpenSSL wants lines of at most 64 characters.
        let mut lines = String::new();
        for line in text.lines() {
            if line.starts_with('-') {
                lines.push_str(line);
                lines.push('\n');
                continue;
            }
            for chunk in line.as_bytes().chunks(64) {
                lines.push_str(std::str::from_utf8(chunk).unwrap());
                lines.push('\n');
            }
        }
        std::fs::write(self.dir.path().join(name), lines).unwrap();
    }

    /// Has OpenSSL make a key (`genpkey` options) and a request (`req` options).
    fn request(&self, key: &[&str], req: &[&str]) -> Vec<u8> {
        let dir = self.dir.path();
        openssl(dir, &[&["genpkey", "-out", "key.pem"], key].concat());
        let base = [
            "req", "-new", "-key", "key.pem", "-outform", "DER", "-out", "req.der",
        ];
        openssl(dir, &[&base[..], req].concat());
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
            &[
                "verify",
                "-x509_strict",
                "-purpose",
                "sslclient",
                "-CAfile",
                "root.pem",
                "-untrusted",
                "ca.pem",
                "leaf.pem",
            ],
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

fn openssl(dir: &Path, arguments: &[&str]) -> Output {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(dir)
        .output()
        .expect("openssl is not installed: run scripts/setup");
    assert!(
        output.status.success(),
        "openssl {arguments:?}: {}",
        text(&output.stderr)
    );
    output
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn every_kind() -> KeyPolicy {
    KeyPolicy(vec![KeyKind::P256, KeyKind::P384, KeyKind::Rsa])
}

const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const P384: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"];
const RSA: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
const SUBJECT: [&str; 2] = ["-subj", "/CN=GW-0001"];

#[test]
fn every_request_that_is_taken_becomes_a_certificate_that_openssl_accepts() {
    let bench = Bench::new();
    let two_units = ["-subj", "/OU=one/OU=two/CN=GW-0001"];
    let extended = [
        &SUBJECT[..],
        &[
            "-addext",
            "subjectKeyIdentifier=hash",
            "-addext",
            "subjectAltName=DNS:gw",
        ],
    ]
    .concat();
    let authority = [
        &SUBJECT[..],
        &["-addext", "basicConstraints=critical,CA:TRUE"],
    ]
    .concat();
    let signer = [&SUBJECT[..], &["-addext", "keyUsage=keyCertSign"]].concat();
    let cases: [(&str, &[&str], Vec<&str>, bool); 9] = [
        ("P-256", P256, SUBJECT.to_vec(), false),
        (
            "P-256, SHA-384",
            P256,
            [&SUBJECT[..], &["-sha384"]].concat(),
            false,
        ),
        (
            "P-384, SHA-256",
            P384,
            [&SUBJECT[..], &["-sha256"]].concat(),
            false,
        ),
        (
            "P-384, SHA-384",
            P384,
            [&SUBJECT[..], &["-sha384"]].concat(),
            false,
        ),
        ("RSA", RSA, SUBJECT.to_vec(), false),
        ("two units", P256, two_units.to_vec(), false),
        ("extensions", P256, extended, false),
        ("asks to be a CA", P256, authority, true),
        ("asks to sign certificates", P256, signer, true),
    ];
    for (name, key, req, asks_for_ca) in cases {
        let der = bench.request(key, &req);
        let csr = Csr::parse(&der, DEVICE, &every_kind())
            .unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        assert_eq!(csr.asks_for_ca(), asks_for_ca, "{name}");
        let profile = Profile {
            organization: Some("Example".to_owned()),
            ..Profile::default()
        };
        bench.issue(&csr, &profile);
        let shown = openssl(
            bench.dir.path(),
            &["x509", "-in", "leaf.pem", "-noout", "-text"],
        );
        let shown = text(&shown.stdout);
        assert!(
            shown.contains("CA:FALSE") && !shown.contains("DNS:gw"),
            "{name}: {shown}"
        );
    }
}

#[test]
fn requests_are_refused_with_a_reason() {
    let bench = Bench::new();
    let good = bench.request(P256, &SUBJECT);
    let default = KeyPolicy::default();
    let reason = |der: &[u8], policy: &KeyPolicy| {
        let refusal = Csr::parse(der, DEVICE, policy).unwrap_err();
        assert!(!refusal.fault().next.is_empty());
        refusal
    };

    let mut tampered = good.clone();
    let last = tampered.len() - 1;
    tampered[last] ^= 1;
    assert_eq!(reason(&tampered, &default), Refusal::RequestSignature);
    let trailing = [&good[..], &[0]].concat();
    assert!(matches!(reason(&trailing, &default), Refusal::Request(_)));
    let trailing = [&good[..], &[5, 0]].concat();
    assert!(
        reason(&trailing, &default)
            .to_string()
            .contains("2 bytes follow")
    );
    let long = vec![0x30; Csr::MAX_BYTES + 1];
    assert!(matches!(reason(&long, &default), Refusal::Request(_)));
    // The outer length in more octets than it needs: BER, not DER.
    assert_eq!(good[0], 0x30);
    let body = if good[1] < 0x80 {
        &good[2..]
    } else {
        &good[3..]
    };
    let length = u8::try_from(body.len() >> 8).unwrap();
    let ber = [&[0x30, 0x83, 0, length, (body.len() & 0xff) as u8], body].concat();
    assert!(matches!(reason(&ber, &default), Refusal::Request(_)));

    let subjects: [(&[&str], &[&str]); 4] = [
        (&["-subj", "/CN=GW-0002"], &["GW-0002"]),
        (&["-subj", "/CN=gw-0001"], &["gw-0001"]),
        (&["-subj", "/O=Example"], &[]),
        (
            &["-subj", "/CN=GW-0001/CN=GW-0002"],
            &["GW-0001", "GW-0002"],
        ),
    ];
    for (subject, names) in subjects {
        let refusal = reason(&bench.request(P256, subject), &default);
        let Refusal::RequestSubject { found, .. } = refusal else {
            panic!("{subject:?}: {refusal}");
        };
        assert_eq!(found, names);
    }

    let weak_rsa = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"];
    let keys: [(&[&str], &[&str], &KeyPolicy, &str); 5] = [
        (P384, &[], &default, "is P-384, and the product takes P-256"),
        (RSA, &[], &default, "is RSA of 2048 to 4096 bits, and"),
        (weak_rsa, &[], &every_kind(), "RSA of 1024 bits"),
        (
            &["-algorithm", "ED25519"],
            &[],
            &every_kind(),
            "1.3.101.112",
        ),
        (
            RSA,
            &["-sigopt", "rsa_padding_mode:pss"],
            &every_kind(),
            "RSA-PSS",
        ),
    ];
    for (key, req, policy, what) in keys {
        let der = bench.request(key, &[&SUBJECT[..], req].concat());
        let said = reason(&der, policy).to_string();
        assert!(said.contains(what), "{said}");
    }
    let dir = bench.dir.path();
    let compress = "ec -in ec.pem -conv_form compressed -out short.pem";
    openssl(dir, &[&["genpkey", "-out", "ec.pem"], P256].concat());
    openssl(dir, &compress.split(' ').collect::<Vec<_>>());
    let der = bench.request(P256, &[&SUBJECT[..], &["-key", "short.pem"]].concat());
    let said = reason(&der, &every_kind()).to_string();
    assert!(said.contains("of another form"), "{said}");
}

#[test]
fn a_ca_that_rcgen_would_break_is_refused() {
    let bench = Bench::new();
    let dir = bench.dir.path();
    openssl(dir, &[&["genpkey", "-out", "key.pem"], P256].concat());
    openssl(dir, &[&["genpkey", "-out", "rsa.pem"], RSA].concat());
    let usage = "keyUsage=critical,keyCertSign";
    let ca = "basicConstraints=critical,CA:TRUE";
    let cases: [(&str, &str, &[&str], &str); 5] = [
        ("key.pem", "/OU=one/OU=two/CN=ca", &[ca, usage], "twice"),
        (
            "key.pem",
            "/CN=ca",
            &["basicConstraints=critical,CA:FALSE", usage],
            "CA flag",
        ),
        (
            "key.pem",
            "/CN=ca",
            &[ca, "keyUsage=digitalSignature"],
            "signing",
        ),
        (
            "key.pem",
            "/CN=ca",
            &[ca, usage, "subjectKeyIdentifier=none"],
            "identifier",
        ),
        ("rsa.pem", "/CN=ca", &[ca, usage], "P-256"),
    ];
    std::fs::write(
        dir.join("empty.cnf"),
        "[req]\ndistinguished_name=dn\n[dn]\n",
    )
    .unwrap();
    for (key, subject, extensions, what) in cases {
        let mut arguments = vec![
            "req",
            "-x509",
            "-new",
            "-config",
            "empty.cnf",
            "-key",
            key,
            "-subj",
            subject,
            "-outform",
            "DER",
            "-out",
            "ca.der",
        ];
        for extension in extensions {
            arguments.extend(["-addext", extension]);
        }
        openssl(dir, &arguments);
        let der = std::fs::read(dir.join("ca.der")).unwrap();
        let said = Issuer::parse("customer", &der).unwrap_err().to_string();
        assert!(said.contains("customer") && said.contains(what), "{said}");
    }
}

#[test]
fn a_certificate_never_outlives_its_ca() {
    let bench = Bench::new();
    let csr = Csr::parse(
        &bench.request(P256, &SUBJECT),
        DEVICE,
        &KeyPolicy::default(),
    )
    .unwrap();
    let draft = |now_ms, days| {
        let profile = Profile {
            validity_days: days,
            ..Profile::default()
        };
        draft_leaf(&bench.ca, &csr, DEVICE, serial(9), now_ms, &profile)
    };
    assert!(draft(bench.now_ms, 5000).is_ok());
    let beyond = draft(bench.now_ms, 5001).unwrap_err().to_string();
    assert!(beyond.contains("5001 days"), "{beyond}");
    let early = draft(bench.now_ms - DAY_MS, 1).unwrap_err().to_string();
    assert!(early.contains("clock"), "{early}");
    assert!(draft(bench.now_ms + 5001 * DAY_MS, 1).is_err());
    assert!(matches!(draft(i64::MAX, 1), Err(Refusal::Draft(_))));
    assert!(matches!(
        draft(bench.now_ms, u32::MAX),
        Err(Refusal::Draft(_))
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
    assert!(matches!(refused, Err(Refusal::Draft(_))));
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
    let shown = openssl(
        dir,
        &[
            "req",
            "-inform",
            "DER",
            "-in",
            "request.der",
            "-verify",
            "-noout",
            "-text",
        ],
    );
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
        &[
            "verify",
            "-x509_strict",
            "-CAfile",
            "root.pem",
            "-untrusted",
            "ca.pem",
            "verification.pem",
        ],
    );
    openssl(
        dir,
        &["verify", "-x509_strict", "-CAfile", "root.pem", "ca.pem"],
    );

    let test = draft_self_test("line", serial(6));
    let signature = bench.ca_key.sign(&test.tbs.0).unwrap();
    verify_proof(bench.ca.spki(), &test.tbs.0, &signature).unwrap();
}

#[test]
fn the_self_check_finds_every_difference() {
    let bench = Bench::new();
    let csr = Csr::parse(
        &bench.request(P256, &SUBJECT),
        DEVICE,
        &KeyPolicy::default(),
    )
    .unwrap();
    let profile = Profile::default();
    let draft = draft_leaf(&bench.ca, &csr, DEVICE, serial(7), bench.now_ms, &profile).unwrap();
    let other = draft_leaf(&bench.ca, &csr, DEVICE, serial(8), bench.now_ms, &profile).unwrap();
    let der = signed(&draft, &bench.ca_key);
    let spki = csr.spki();
    let check = |der: &[u8], draft, ca, spki, name| self_check(der, draft, ca, spki, name);
    check(&der, &draft, &bench.ca, spki, DEVICE).unwrap();
    let wrong_key = signed(&draft, &bench.root_key);
    let mixed_up = Reservation {
        serial: serial(8),
        ..draft.clone()
    };
    let findings = [
        (check(&wrong_key, &draft, &bench.ca, spki, DEVICE), "verify"),
        (
            check(&der, &other, &bench.ca, spki, DEVICE),
            "reserved bytes",
        ),
        (
            check(&der, &mixed_up, &bench.ca, spki, DEVICE),
            "reserved serial",
        ),
        (
            check(&der, &draft, &bench.root, spki, DEVICE),
            "byte for byte",
        ),
        (
            check(&der, &draft, &bench.ca, bench.ca.spki(), DEVICE),
            "another key",
        ),
        (
            check(&der, &draft, &bench.ca, spki, "GW-0002"),
            "another device",
        ),
        (
            check(&der[..der.len() - 1], &draft, &bench.ca, spki, DEVICE),
            "no X.509",
        ),
    ];
    for (finding, what) in findings {
        let said = finding.unwrap_err().to_string();
        assert!(said.contains(what), "{what}: {said}");
    }
    for position in 0..der.len() {
        let mut bent = der.clone();
        bent[position] ^= 0x01;
        assert!(
            check(&bent, &draft, &bench.ca, spki, DEVICE).is_err(),
            "the bit at {position} was not missed"
        );
    }
}

#[test]
fn a_path_validates_as_dps_would_and_not_otherwise() {
    let bench = Bench::new();
    let csr = Csr::parse(
        &bench.request(P256, &SUBJECT),
        DEVICE,
        &KeyPolicy::default(),
    )
    .unwrap();
    let leaf = bench.issue(&csr, &Profile::default());
    let (ca, root) = (bench.ca.der(), bench.root.der());
    let now = bench.now_ms;
    let refused = |leaf: &[u8], chain: &[&[u8]], now, what: &str| {
        let said = validate_path(leaf, chain, now).unwrap_err().to_string();
        assert!(said.contains(what), "{what}: {said}");
    };
    validate_path(&leaf, &[ca], now).unwrap();
    refused(&leaf, &[], now, "0 CA certificates");
    refused(&leaf, &[root], now, "not the issuer");
    refused(&leaf, &[root, ca], now, "not the issuer");
    refused(
        &leaf,
        &[ca, root],
        now + 4000 * DAY_MS,
        "device's certificate is valid from",
    );
    refused(&leaf, &[ca, root], now - DAY_MS, "not now");
    refused(ca, &[root], now, "is a CA's");
    refused(&leaf, &[&leaf, root], now, "certificate 1 is not a CA's");
    let mut bent = leaf.clone();
    let last = bent.len() - 1;
    bent[last] ^= 1;
    refused(&bent, &[ca, root], now, "did not sign");
    // The same name, another key: a chain that only looks right.
    let twin = draft_root(
        "twin",
        &csr_key_of(&bench),
        &issuing_profile(),
        serial(1),
        now,
    );
    let twin = signed(&twin.unwrap(), &bench.root_key);
    refused(&leaf, &[&twin], now, "did not sign");
    // An issuing CA may not have a CA below it.
    let below = draft_issuing(&bench.ca, bench.root.spki(), &ca_below(), serial(2), now).unwrap();
    let below = signed(&below, &bench.ca_key);
    let below = Issuer::parse("below", &below).unwrap();
    let draft = draft_leaf(&below, &csr, DEVICE, serial(3), now, &short()).unwrap();
    let deep = signed(&draft, &bench.root_key);
    refused(&deep, &[below.der(), ca, root], now, "so long a path");
}

fn csr_key_of(bench: &Bench) -> Vec<u8> {
    bench.root_key.subject_public_key_info()
}

fn issuing_profile() -> CaProfile {
    ca_profile("Test Issuing")
}

fn ca_below() -> CaProfile {
    CaProfile {
        validity_days: 30,
        ..ca_profile("Below")
    }
}

fn short() -> Profile {
    Profile {
        validity_days: 1,
        ..Profile::default()
    }
}

#[test]
fn a_device_proves_its_key_whatever_its_kind() {
    let bench = Bench::new();
    let dir = bench.dir.path();
    std::fs::write(dir.join("nonce"), b"a nonce").unwrap();
    for (key, hash) in [(P256, "-sha256"), (P384, "-sha384"), (RSA, "-sha256")] {
        let request = bench.request(key, &SUBJECT);
        let csr = Csr::parse(&request, DEVICE, &every_kind()).unwrap();
        openssl(
            dir,
            &[
                "dgst",
                hash,
                "-sign",
                "key.pem",
                "-out",
                "signature",
                "nonce",
            ],
        );
        let signature = std::fs::read(dir.join("signature")).unwrap();
        verify_proof(csr.spki(), b"a nonce", &signature).unwrap();
        let refused = verify_proof(csr.spki(), b"another nonce", &signature);
        assert_eq!(refused, Err(Refusal::Proof));
        assert_eq!(
            verify_proof(bench.ca.spki(), b"a nonce", &signature),
            Err(Refusal::Proof)
        );
    }
    assert_eq!(verify_proof(b"", b"", b""), Err(Refusal::Proof));
}
