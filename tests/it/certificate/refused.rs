//! What is not taken, not signed, or not believed, each with its reason.

use super::*;

#[test]
fn requests_are_refused_with_a_reason() {
    let bench = Bench::new();
    let good = bench.request(P256, SUBJECT);
    let default = KeyPolicy::default();
    let reason = |der: &[u8], policy: &KeyPolicy| Csr::parse(der, DEVICE, policy).unwrap_err();

    let mut tampered = good.clone();
    let last = tampered.len() - 1;
    tampered[last] ^= 1;
    assert_eq!(reason(&tampered, &default), Fault::RequestUnsigned);
    let trailing = [&good[..], &[0]].concat();
    assert!(matches!(
        reason(&trailing, &default),
        Fault::RequestInvalid { .. }
    ));
    let trailing = [&good[..], &[5, 0]].concat();
    assert!(words::sentence(&reason(&trailing, &default)).contains("2 bytes follow"));
    let long = vec![0x30; Csr::MAX_BYTES + 1];
    assert!(matches!(
        reason(&long, &default),
        Fault::RequestInvalid { .. }
    ));
    // The outer length in more octets than it needs: BER, not DER.
    assert_eq!(good[0], 0x30);
    let body = if good[1] < 0x80 {
        &good[2..]
    } else {
        &good[3..]
    };
    let length = u8::try_from(body.len() >> 8).unwrap();
    let ber = [&[0x30, 0x83, 0, length, (body.len() & 0xff) as u8], body].concat();
    assert!(matches!(
        reason(&ber, &default),
        Fault::RequestInvalid { .. }
    ));

    let subjects: [(&str, &[&str]); 4] = [
        ("-subj /CN=GW-0002", &["GW-0002"]),
        ("-subj /CN=gw-0001", &["gw-0001"]),
        ("-subj /O=Example", &[]),
        ("-subj /CN=GW-0001/CN=GW-0002", &["GW-0001", "GW-0002"]),
    ];
    for (subject, names) in subjects {
        let refusal = reason(&bench.request(P256, subject), &default);
        let Fault::RequestSubject { found, .. } = refusal else {
            panic!("{subject:?}: {refusal:?}");
        };
        assert_eq!(found, names);
    }

    let weak_rsa = "-algorithm RSA -pkeyopt rsa_keygen_bits:1024";
    let pss = "-sigopt rsa_padding_mode:pss";
    let all = every_kind();
    let keys = [
        (P384, "", &default, "is P-384, and the product takes P-256"),
        (RSA, "", &default, "is RSA of 2048 to 4096 bits, and"),
        (weak_rsa, "", &all, "RSA of 1024 bits"),
        ("-algorithm ED25519", "", &all, "1.3.101.112"),
        (RSA, pss, &all, "RSA-PSS"),
    ];
    for (key, options, policy, what) in keys {
        let der = bench.request(key, &format!("{SUBJECT} {options}"));
        let said = words::of(&reason(&der, policy)).what;
        assert!(said.contains(what), "{said}");
    }
    let dir = bench.dir.path();
    openssl(dir, &format!("genpkey -out ec.pem {P256}"));
    openssl(dir, "ec -in ec.pem -conv_form compressed -out short.pem");
    let der = bench.request(P256, &format!("{SUBJECT} -key short.pem"));
    let said = words::of(&reason(&der, &every_kind())).what;
    assert!(said.contains("of another form"), "{said}");
}

#[test]
fn a_ca_that_rcgen_would_break_is_refused() {
    let bench = Bench::new();
    let dir = bench.dir.path();
    openssl(dir, &format!("genpkey -out key.pem {P256}"));
    openssl(dir, &format!("genpkey -out rsa.pem {RSA}"));
    let ca = "-addext basicConstraints=critical,CA:TRUE";
    let usage = "-addext keyUsage=critical,keyCertSign";
    let no_id = "-addext subjectKeyIdentifier=none";
    let loose = "-addext basicConstraints=CA:TRUE";
    let not_ca = "-addext basicConstraints=critical,CA:FALSE";
    let no_usage = "-addext keyUsage=digitalSignature";
    let cases = [
        ("key", "/OU=one/OU=two/CN=ca", [ca, usage, ""], "twice"),
        ("key", "/CN=ca", [not_ca, usage, ""], "CA flag"),
        ("key", "/CN=ca", [loose, usage, ""], "not critical"),
        ("key", "/CN=ca", [ca, "", ""], "lacks a key usage"),
        ("key", "/CN=ca", [ca, no_usage, ""], "signing"),
        ("key", "/CN=ca", [ca, usage, no_id], "identifier"),
        ("rsa", "/CN=ca", [ca, usage, ""], "P-256"),
    ];
    let empty = "[req]\ndistinguished_name=dn\n[dn]\n";
    std::fs::write(dir.join("empty.cnf"), empty).unwrap();
    for (key, subject, extensions, what) in cases {
        let make = "req -x509 -new -config empty.cnf -outform DER -out ca.der";
        let extensions = extensions.join(" ");
        openssl(
            dir,
            &format!("{make} -key {key}.pem -subj {subject} {extensions}"),
        );
        let der = std::fs::read(dir.join("ca.der")).unwrap();
        let said = words::sentence(&Issuer::parse("customer", &der).unwrap_err());
        assert!(said.contains("customer") && said.contains(what), "{said}");
    }
}

#[test]
fn the_self_check_finds_every_difference() {
    let bench = Bench::new();
    let csr = Csr::parse(&bench.request(P256, SUBJECT), DEVICE, &KeyPolicy::default()).unwrap();
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
            "cannot be read",
        ),
    ];
    for (finding, what) in findings {
        let said = words::sentence(&finding.unwrap_err());
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
    let csr = Csr::parse(&bench.request(P256, SUBJECT), DEVICE, &KeyPolicy::default()).unwrap();
    let leaf = bench.issue(&csr, &Profile::default());
    let (ca, root) = (bench.ca.der(), bench.root.der());
    let now = bench.now_ms;
    let refused = |leaf: &[u8], chain: &[&[u8]], now, what: &str| {
        let said = words::sentence(&validate_path(leaf, chain, now).unwrap_err());
        assert!(said.contains(what), "{what}: {said}");
    };
    validate_path(&leaf, &[ca], now).unwrap();
    refused(&leaf, &[], now, "0 CA certificates stand above it");
    refused(&leaf, &[root], now, "not the issuer");
    refused(&leaf, &[root, ca], now, "not the issuer");
    refused(
        &leaf,
        &[ca, root],
        now + 4000 * DAY_MS,
        "device's certificate: it is valid from",
    );
    refused(&leaf, &[ca, root], now - DAY_MS, "not now");
    refused(ca, &[root], now, "certificate: it is a CA's");
    refused(
        &leaf,
        &[&leaf, root],
        now,
        "CA certificate 1: it is not a CA's",
    );
    let mut bent = leaf.clone();
    let last = bent.len() - 1;
    bent[last] ^= 1;
    refused(&bent, &[ca, root], now, "did not sign");
    // The same name, another key: a chain that only looks right.
    let twin = draft_root(
        "twin",
        bench.root.spki(),
        &ca_profile("Test Issuing"),
        serial(1),
        now,
    );
    let twin = signed(&twin.unwrap(), &bench.root_key);
    refused(&leaf, &[&twin], now, "did not sign");
    // An issuing CA may not have a CA below it.
    let short_ca = CaProfile {
        validity_days: 30,
        ..ca_profile("Below")
    };
    let short = Profile {
        validity_days: 1,
        ..Profile::default()
    };
    let below = draft_issuing(&bench.ca, bench.root.spki(), &short_ca, serial(2), now).unwrap();
    let below = signed(&below, &bench.ca_key);
    let below = Issuer::parse("below", &below).unwrap();
    let draft = draft_leaf(&below, &csr, DEVICE, serial(3), now, &short).unwrap();
    let deep = signed(&draft, &bench.root_key);
    refused(&deep, &[below.der(), ca, root], now, "so long a path");
}
