//! Endorsement keys and their certificates in English.

use crate::provision::fault::{EkFlaw, Encoding, Fault, TemplateFault, TpmAttribute};

const NOT_GENUINE: &str = "set the unit aside: its TPM is not what it says it is";
const CHECK_CLOCK: &str = "check the station's clock, then set the unit aside";

pub fn what(fault: &Fault) -> Option<String> {
    let above = |which: &Option<String>| {
        which
            .clone()
            .unwrap_or_else(|| "the EK certificate".to_owned())
    };
    Some(match fault {
        Fault::EkCertificateMissing => "the TPM has no EK certificate".to_owned(),
        Fault::EkCertificateBroken { flaw: found } => {
            format!("the EK certificate {}", flaw(found))
        }
        Fault::EkCertificateAnotherKey => {
            "the EK certificate is for another key than the TPM's endorsement key".to_owned()
        }
        Fault::EkCertificateNoUsage => {
            "the EK certificate is not for endorsement keys: no key usage 2.23.133.8.1".to_owned()
        }
        Fault::EkCertificateExpired { which, day } => {
            format!("{} expired on {day}", above(which))
        }
        Fault::EkCertificateNotYetValid { which, day } => {
            format!("{} is not valid before {day}", above(which))
        }
        Fault::EkCertificateUnknownMaker { issuer } => format!(
            "the EK certificate is from an unknown maker: {issuer} is not among the vendor roots"
        ),
        Fault::EkCertificateBadSignature { issuer } => {
            format!("the EK certificate claims to be from {issuer}, whose key did not sign it")
        }
        Fault::OtherTpm { device } => {
            format!("{device} has another TPM than when it was first seen")
        }
        Fault::ChallengeNotMet { device } => {
            format!("the TPM of {device} did not meet the challenge that DPS will put to it")
        }
        _ => return None,
    })
}

pub fn next(fault: &Fault) -> Option<&'static str> {
    Some(match fault {
        Fault::EkCertificateMissing => {
            "set the unit aside; if all of a delivery are so, ask the process engineer"
        }
        Fault::EkCertificateExpired { .. } | Fault::EkCertificateNotYetValid { .. } => CHECK_CLOCK,
        Fault::EkCertificateUnknownMaker { .. } => {
            "set the unit aside; if its maker is to be trusted, the vendor roots need it"
        }
        Fault::EkCertificateBroken { .. }
        | Fault::EkCertificateAnotherKey
        | Fault::EkCertificateNoUsage
        | Fault::EkCertificateBadSignature { .. } => NOT_GENUINE,
        _ => return None,
    })
}

/// The rule that a vendor's certificate breaks, as what it does.
pub fn flaw(flaw: &EkFlaw) -> String {
    match flaw {
        EkFlaw::Beginning => "does not begin like a certificate".to_owned(),
        EkFlaw::CutShort => "is cut short".to_owned(),
        EkFlaw::NotDer(said) => format!("is not a DER certificate ({said})"),
        EkFlaw::Trailing(bytes) => format!("has {bytes} bytes after the certificate"),
        EkFlaw::TwoAlgorithms => "names two different signature algorithms".to_owned(),
        EkFlaw::NotStrict(said) => format!("is not strict DER ({said})"),
        EkFlaw::SignatureBits => "has a signature that is not a string of octets".to_owned(),
        EkFlaw::Extension(said) => format!("has a broken extension ({said})"),
        EkFlaw::NotNamed(attribute) => {
            let attribute = match attribute {
                TpmAttribute::Manufacturer => "manufacturer",
                TpmAttribute::Model => "model",
                TpmAttribute::Version => "version",
            };
            format!("does not name the TPM's {attribute}")
        }
        EkFlaw::UnknownCritical(oid) => format!("has the unknown critical extension {oid}"),
        EkFlaw::IsCa => "is the certificate of a CA".to_owned(),
        EkFlaw::OtherKey => "has a key that is not one of P-256, P-384, P-521 and RSA".to_owned(),
        EkFlaw::OtherSignature => {
            "is not signed by ECDSA or RSA with SHA-256, SHA-384 or SHA-512".to_owned()
        }
        EkFlaw::NoAuthority => "may not issue certificates".to_owned(),
        EkFlaw::NotBase64(said) => format!("is not base64 ({said})"),
        EkFlaw::TooMany(max) => {
            format!("comes after {max} certificates, which are all that are taken")
        }
    }
}

/// In what a key is not what it should be, as what it is or has.
pub fn template(fault: &TemplateFault) -> String {
    match fault {
        TemplateFault::Encoding(encoding) => {
            format!("is {}, not a TPM2B_PUBLIC", self::encoding(*encoding))
        }
        TemplateFault::Size { said, found } => {
            format!("says that it has {said} bytes after its size and has {found}")
        }
        TemplateFault::OtherTemplate(Some(name)) => {
            format!("is {name}, not the TCG's RSA-2048 template L-1")
        }
        TemplateFault::OtherTemplate(None) => {
            "is an ECC key, not the TCG's RSA-2048 template L-1".to_owned()
        }
        TemplateFault::StorageRootKey => {
            "is a storage root key, not the TCG's RSA-2048 template L-1".to_owned()
        }
        TemplateFault::Differs {
            field,
            expected,
            found,
        } => format!("has {field} {found} where {expected} is expected"),
    }
}

fn encoding(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Pem => "PEM text",
        Encoding::Der => "a DER structure",
        Encoding::WithoutSize => "a TPMT_PUBLIC without its size",
        Encoding::OtherAlgorithm => "no RSA or ECC public area",
        Encoding::Empty => "shorter than a size",
        Encoding::CutShort => "cut short",
        Encoding::Trailing => "longer than its fields",
        Encoding::Modulus => "without a 2048-bit modulus",
    }
}
