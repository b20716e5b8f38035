//! What is said of the lines of a list, in English.

use super::endorsement;
use crate::provision::fault::IdentityKind;
use crate::provision::list::{Class, Flaw, Known, LINE_MAX, LeafFlaw, Trouble};

/// Why a line is what it is, and what to do; nothing where there is nothing to do.
pub fn class(class: &Class) -> Option<String> {
    Some(match class {
        Class::New | Class::Same => return None,
        Class::Differs(fields) => format!(
            "it is on record with another {}: give the list what is on record, or see what is held with `station ledger show`",
            fields.join(" and another ")
        ),
        Class::Malformed(trouble) => format!("{}: correct the line", line(trouble)),
        Class::Twice(other) => {
            format!("line {other} is for the same device or key: leave one of them out")
        }
        Class::Known(known) => format!("{}: find out whose it is", self::known(known)),
    })
}

/// Why a line cannot be meant.
pub fn line(trouble: &Trouble) -> String {
    match trouble {
        Trouble::TooLong => format!("it is longer than {LINE_MAX} bytes"),
        Trouble::NotUtf8 => "it is not UTF-8".to_owned(),
        Trouble::Quotes => "its quotation marks do not go together".to_owned(),
        Trouble::Width(1, width) => format!("it has 1 field, and the header {width}"),
        Trouble::Width(found, width) => format!("it has {found} fields, and the header {width}"),
        Trouble::In(column, flaw) => format!("column {} {}", column.name(), self::flaw(flaw)),
    }
}

fn flaw(flaw: &Flaw) -> String {
    match flaw {
        Flaw::Empty => "is empty".to_owned(),
        Flaw::NotOfAttestation => "is not empty, and the attestation is another".to_owned(),
        Flaw::Ambiguous => {
            "is empty, and the line has both an endorsement key and a certificate".to_owned()
        }
        Flaw::Name(error) => error.to_string(),
        Flaw::Attestation(found) => format!("is {found:?}, and neither tpm nor x509"),
        Flaw::NotBase64(said) => format!("is not base64 ({said})"),
        Flaw::Key(fault) => endorsement::template(fault),
        Flaw::Path => "is no path".to_owned(),
        Flaw::File(said) => format!("names a file that cannot be read ({said})"),
        Flaw::Certificate(flaw) => format!("names a file that {}", leaf(flaw)),
        Flaw::NotJson(said) => format!("is not JSON ({said})"),
        Flaw::NotAnObject => "is no JSON object".to_owned(),
        Flaw::Twin(why) => format!("has what no twin takes ({why})"),
    }
}

fn leaf(flaw: &LeafFlaw) -> String {
    match flaw {
        LeafFlaw::NoCertificate(said) => format!("holds no certificate ({said})"),
        LeafFlaw::Authority => "holds a CA's certificate, not a device's".to_owned(),
        LeafFlaw::OtherName(Some(name)) => {
            format!("holds a certificate for {name:?}, which is not the registration ID")
        }
        LeafFlaw::OtherName(None) => "holds a certificate without a common name".to_owned(),
    }
}

fn known(known: &Known) -> String {
    match known {
        Known::Identity(kind, other) => {
            let what = match kind {
                IdentityKind::PublicKey => "the key in its certificate",
                IdentityKind::EndorsementKey => "its endorsement key",
                IdentityKind::RegistrationId => "its registration ID",
                IdentityKind::Uid => "its microcontroller",
            };
            format!("{what} is on record as {other}'s")
        }
        Known::Unit => "its device ID is on record as that of a unit of this line".to_owned(),
        Known::Registered(id) => format!("its device is on record with the registration ID {id}"),
    }
}
