//! Is this endorsement key genuine: template, certificate, chain, credential challenge.
//!
//! Invariant: nothing but [`judge`] makes a verdict, and a verdict says either what proves the key, or why less
//! was accepted.

pub mod certificate;
mod chained;
pub mod credential;
mod roots;
pub mod template;

use super::event::EndorsementVerdict;
use super::fault::Fault;
use certificate::EkCertificate;
pub use roots::{RefusedRoot, Release, RootFile, VendorRoots};
use serde::{Deserialize, Serialize};
use template::EndorsementKey;

/// What to do where no EK is persistent at its handle, 0x81010001.
///
/// One TPM gives two different RSA EKs: the TCG's template has 256 zero octets as `unique`, the one in Microsoft's
/// clients has none (azure-iot-sdk-c, issue 2534). Those clients use a persistent EK as it is and make theirs where
/// there is none, so what is enrolled must be what the device will find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmptyHandle {
    /// Make the TCG's EK, the one that the EK certificate is for, and persist it there.
    #[default]
    Persist,
    /// Read the key that Microsoft's client will make. No EK certificate is for it, so such a product must waive it.
    ClientKey,
}

/// What is demanded of an endorsement key.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "certificate", try_from = "Stated")]
pub enum EndorsementPolicy {
    /// An EK certificate that chains to a vendor root.
    #[default]
    Required,
    /// The same where the TPM has a certificate; a TPM without one is accepted.
    IfPresent,
    /// Nothing; every record carries the reason.
    Waived {
        /// Why less is accepted.
        reason: String,
    },
}

/// The policy as a product states it: with a reason where, and only where, the certificate is waived.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stated {
    certificate: Demand,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Demand {
    Required,
    IfPresent,
    Waived,
}

impl TryFrom<Stated> for EndorsementPolicy {
    type Error = &'static str;
    fn try_from(stated: Stated) -> Result<Self, Self::Error> {
        match (stated.certificate, stated.reason) {
            (Demand::Required, None) => Ok(Self::Required),
            (Demand::IfPresent, None) => Ok(Self::IfPresent),
            (Demand::Waived, Some(reason)) if !reason.trim().is_empty() => {
                Ok(Self::Waived { reason })
            }
            (Demand::Waived, _) => Err("a certificate is waived for a reason: name it as `reason`"),
            (_, Some(_)) => Err("a reason is for a certificate that is waived: leave it out"),
        }
    }
}

/// Judges an endorsement key by its certificate (the content of the NV index, padding included) at the time `now`,
/// in seconds since 1970. `chain` is what the TPM carries of its maker's intermediates, one after the other; it may be
/// empty, and nothing in it is trusted.
pub fn judge(
    key: &EndorsementKey,
    certificate: Option<&[u8]>,
    chain: &[u8],
    policy: &EndorsementPolicy,
    roots: &VendorRoots,
    now: i64,
) -> Result<EndorsementVerdict, Fault> {
    let found = examine(key, certificate, chain, roots, now);
    let waived = |reason, missing: Option<Fault>| {
        let missing = missing.map(Box::new);
        Ok(EndorsementVerdict::Waived { reason, missing })
    };
    match (policy, found) {
        (EndorsementPolicy::Waived { reason }, found) => waived(Some(reason.clone()), found.err()),
        (EndorsementPolicy::IfPresent, Err(missing @ Fault::EkCertificateMissing)) => {
            waived(None, Some(missing))
        }
        (EndorsementPolicy::Required | EndorsementPolicy::IfPresent, found) => found,
    }
}

/// Whether the verdict depends on the intermediates that the TPM may carry: the vendor roots do not reach the
/// certificate, and the policy asks for it.
pub fn depends_on_chain(
    key: &EndorsementKey,
    certificate: Option<&[u8]>,
    policy: &EndorsementPolicy,
    roots: &VendorRoots,
    now: i64,
) -> bool {
    let judged = judge(key, certificate, &[], policy, roots, now);
    matches!(judged, Err(Fault::EkCertificateUnknownMaker { .. }))
}

fn examine(
    key: &EndorsementKey,
    certificate: Option<&[u8]>,
    chain: &[u8],
    roots: &VendorRoots,
    now: i64,
) -> Result<EndorsementVerdict, Fault> {
    let certificate = EkCertificate::parse(certificate.ok_or(Fault::EkCertificateMissing)?)?;
    certificate.check(key, now)?;
    let carried = roots::carried(chain);
    let anchor = roots.anchor_of(&certificate.link, &carried, now)?;
    Ok(EndorsementVerdict::Genuine {
        manufacturer: certificate.manufacturer,
        model: certificate.model,
        version: certificate.version,
        anchor: anchor.to_owned(),
        roots_digest: roots.digest(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::fault::EkFlaw;
    use super::template::published;
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType,
        ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SubjectPublicKeyInfo,
        date_time_ymd,
    };

    const NOW: i64 = 1_790_000_000; // September 2026

    type Issuer = CertifiedIssuer<'static, KeyPair>;

    fn ca(
        name: &str,
        algorithm: &'static rcgen::SignatureAlgorithm,
        above: Option<&Issuer>,
    ) -> Issuer {
        ca_until(name, algorithm, above, 2050)
    }

    fn ca_until(
        name: &str,
        algorithm: &'static rcgen::SignatureAlgorithm,
        above: Option<&Issuer>,
        year: i32,
    ) -> Issuer {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate_for(algorithm).unwrap();
        match above {
            None => CertifiedIssuer::self_signed(params, key).unwrap(),
            Some(above) => CertifiedIssuer::signed_by(params, key, above).unwrap(),
        }
    }

    fn ek() -> EndorsementKey {
        EndorsementKey::parse(&published()).unwrap()
    }

    /// subjectAltName with a directoryName that holds the three TCG attributes.
    fn san() -> CustomExtension {
        let content = yasna::construct_der(|w| {
            w.write_sequence(|w| {
                w.next().write_tagged(yasna::Tag::context(4), |w| {
                    w.write_sequence_of(|w| {
                        for (last, text) in [(1, "id:49465800"), (2, "SLB9670"), (3, "id:00070055")]
                        {
                            w.next().write_set_of(|w| {
                                w.next().write_sequence(|w| {
                                    let oid = [2, 23, 133, 2, last];
                                    w.next().write_oid(
                                        &yasna::models::ObjectIdentifier::from_slice(&oid),
                                    );
                                    w.next().write_utf8_string(text);
                                });
                            });
                        }
                    });
                });
            });
        });
        let mut san = CustomExtension::from_oid_content(&[2, 5, 29, 17], content);
        san.set_criticality(true);
        san
    }

    fn ek_params() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.custom_extensions = vec![san()];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
        params.not_before = date_time_ymd(2024, 1, 1);
        params.not_after = date_time_ymd(9999, 12, 31);
        params
    }

    fn issue(params: CertificateParams, key: &EndorsementKey, issuer: &Issuer) -> Vec<u8> {
        let key = SubjectPublicKeyInfo::from_der(&key.storage().spki()).unwrap();
        params.signed_by(&key, issuer).unwrap().der().to_vec()
    }

    fn roots(anchors: &[&Issuer], intermediates: &[&Issuer]) -> VendorRoots {
        let files = |issuers: &[&Issuer], folder: &str| {
            let files = issuers.iter().enumerate().map(|(n, issuer)| RootFile {
                name: format!("{folder}/{n}.crt"),
                bytes: issuer.der().to_vec(),
            });
            files.collect::<Vec<_>>()
        };
        let mut all = files(anchors, "RootCA");
        all.extend(files(intermediates, "IntermediateCA"));
        let roots = VendorRoots::read(&all);
        assert_eq!(roots.refused(), []);
        roots
    }

    fn required(nv: &[u8], roots: &VendorRoots) -> Result<EndorsementVerdict, Fault> {
        judge(
            &ek(),
            Some(nv),
            &[],
            &EndorsementPolicy::Required,
            roots,
            NOW,
        )
    }

    #[test]
    fn a_chain_of_every_key_type_up_to_an_anchor_that_is_not_self_signed() {
        let outside = ca("outside", &rcgen::PKCS_ECDSA_P256_SHA256, None);
        let anchor = ca("vendor", &rcgen::PKCS_ECDSA_P521_SHA512, Some(&outside));
        let upper = ca("upper", &rcgen::PKCS_ECDSA_P384_SHA384, Some(&anchor));
        let rsa = ca("rsa", &rcgen::PKCS_RSA_SHA256, Some(&upper));
        let lower = ca("lower", &rcgen::PKCS_ECDSA_P256_SHA256, Some(&rsa));
        let roots = roots(&[&anchor], &[&lower, &upper, &rsa]);
        let mut nv = issue(ek_params(), &ek(), &lower);
        nv.extend_from_slice(&[0xff; 40]); // as makers pad the index
        let verdict = required(&nv, &roots).unwrap();
        assert_eq!(
            verdict,
            EndorsementVerdict::Genuine {
                manufacturer: "id:49465800".to_owned(),
                model: "SLB9670".to_owned(),
                version: "id:00070055".to_owned(),
                anchor: "CN=vendor".to_owned(),
                roots_digest: roots.digest(),
            }
        );
    }

    #[test]
    fn every_fault_has_its_own_reason() {
        let maker = ca("maker", &rcgen::PKCS_ECDSA_P256_SHA256, None);
        let namesake = ca("maker", &rcgen::PKCS_ECDSA_P256_SHA256, None);
        let stranger = ca("stranger", &rcgen::PKCS_ECDSA_P256_SHA256, None);
        let old = ca_until("old", &rcgen::PKCS_ECDSA_P256_SHA256, None, 2025);
        let roots = roots(&[&maker, &old], &[]);
        let code = |nv: &[u8]| required(nv, &roots).unwrap_err().code().to_owned();
        assert!(required(&issue(ek_params(), &ek(), &maker), &roots).is_ok());
        assert_eq!(
            code(&issue(ek_params(), &ek(), &stranger)),
            "ek_certificate_unknown_maker"
        );
        assert_eq!(
            code(&issue(ek_params(), &ek(), &namesake)),
            "ek_certificate_bad_signature"
        );
        assert_eq!(
            code(&issue(ek_params(), &ek(), &old)),
            "ek_certificate_expired"
        );

        let mut other = published();
        other[100] ^= 1;
        let other = EndorsementKey::parse(&other).unwrap();
        assert_eq!(
            code(&issue(ek_params(), &other, &maker)),
            "ek_certificate_another_key"
        );

        let mut params = ek_params();
        params.not_after = date_time_ymd(2025, 6, 1);
        let refusal = required(&issue(params, &ek(), &maker), &roots).unwrap_err();
        let day = "2025-06-01".to_owned();
        assert_eq!(refusal, Fault::EkCertificateExpired { which: None, day });
        let mut params = ek_params();
        params.not_before = date_time_ymd(2030, 1, 1);
        assert_eq!(
            code(&issue(params, &ek(), &maker)),
            "ek_certificate_not_yet_valid"
        );
        let mut params = ek_params();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        assert_eq!(
            code(&issue(params, &ek(), &maker)),
            "ek_certificate_no_usage"
        );
        let mut params = ek_params();
        params.custom_extensions.clear();
        assert_eq!(code(&issue(params, &ek(), &maker)), "ek_certificate_broken");
        assert_eq!(code(&[0xff; 64]), "ek_certificate_broken");
    }

    #[test]
    fn an_intermediate_that_is_no_authority_is_refused_by_name() {
        let maker = ca("maker", &rcgen::PKCS_ECDSA_P256_SHA256, None);
        let file = RootFile {
            name: "IntermediateCA/leaf.der".to_owned(),
            bytes: issue(ek_params(), &ek(), &maker),
        };
        let garbage = RootFile {
            name: "RootCA/readme.crt".to_owned(),
            bytes: b"nothing".to_vec(),
        };
        let roots = VendorRoots::read(&[file, garbage]);
        assert_eq!(roots.refused()[0].entry, "IntermediateCA/leaf.der");
        assert_eq!(roots.refused()[0].flaw, EkFlaw::NoAuthority);
        assert_eq!(roots.refused()[1].entry, "RootCA/readme.crt");
    }

    #[test]
    fn policies_accept_less_only_on_record() {
        let maker = ca("maker", &rcgen::PKCS_ECDSA_P256_SHA256, None);
        let trusted = roots(&[&maker], &[]);
        let nothing = roots(&[], &[]);
        let good = issue(ek_params(), &ek(), &maker);
        let judge = |nv: Option<&[u8]>, policy: &EndorsementPolicy, roots| {
            judge(&ek(), nv, &[], policy, roots, NOW)
        };
        let accepted = |verdict| match verdict {
            Ok(EndorsementVerdict::Waived { reason, missing }) => {
                (reason, missing.map(|fault| fault.code().to_owned()))
            }
            other => panic!("{other:?}"),
        };
        let if_present = EndorsementPolicy::IfPresent;
        assert_eq!(
            judge(None, &EndorsementPolicy::Required, &trusted),
            Err(Fault::EkCertificateMissing)
        );
        let missing = Some("ek_certificate_missing".to_owned());
        assert_eq!(
            accepted(judge(None, &if_present, &trusted)),
            (None, missing)
        );
        assert!(judge(Some(&good), &if_present, &nothing).is_err());
        let waived = EndorsementPolicy::Waived {
            reason: "prototype run 7".to_owned(),
        };
        let reason = Some("prototype run 7".to_owned());
        let good = |roots| accepted(judge(Some(&good), &waived, roots));
        assert_eq!(good(&trusted), (reason.clone(), None));
        let missing = Some("ek_certificate_unknown_maker".to_owned());
        assert_eq!(good(&nothing), (reason, missing));
    }

    #[test]
    fn one_changed_byte_of_a_certificate_is_never_genuine() {
        let maker = ca("maker", &rcgen::PKCS_ECDSA_P256_SHA256, None);
        let roots = roots(&[&maker], &[]);
        let good = issue(ek_params(), &ek(), &maker);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x01;
            assert!(required(&bad, &roots).is_err(), "byte {at}");
        }
    }
}
