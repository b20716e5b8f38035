//! A list of devices to enroll, as people have it: a table with a header, of which each line stands for itself.
//!
//! Invariant: a line that cannot be meant says where and why, and has no say in how the other lines are read.

mod class;
mod leaf;
mod rows;
mod twice;

pub use class::{Class, Known, OnRecord, class};
pub use leaf::{Leaf, LeafFlaw, leaf};
pub use rows::{LINE_MAX, Row, Rows, Separator};
pub use twice::{Keys, Twice};

use super::bytes::Blob;
use super::device::{DeviceId, NameError, RegistrationId};
use super::endorsement::template::EndorsementKey;
use super::fault::{TemplateFault, harmless, said};
use data_encoding::BASE64;
use serde_json::Value;

/// The longest piece of a list that is quoted, in characters.
const QUOTED_MAX: usize = 60;
/// The longest that a path may be, in bytes: Linux takes no more.
const PATH_MAX: usize = 4096;

/// A column of the list that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// `registrationId`: needed.
    RegistrationId,
    /// `deviceId`; where it is empty, the registration ID, as with DPS.
    DeviceId,
    /// `attestation`: `tpm` or `x509`; where it is empty, what follows says it.
    Attestation,
    /// `endorsementKey`: base64 of `TPM2B_PUBLIC`.
    EndorsementKey,
    /// `certificate`: the path of a PEM or DER file, as seen from the list.
    Certificate,
    /// `tags`: a JSON object for the initial twin.
    Tags,
}

/// All columns that are read, as they are spelt; the case does not matter.
pub const COLUMNS: [(Column, &str); 6] = [
    (Column::RegistrationId, "registrationId"),
    (Column::DeviceId, "deviceId"),
    (Column::Attestation, "attestation"),
    (Column::EndorsementKey, "endorsementKey"),
    (Column::Certificate, "certificate"),
    (Column::Tags, "tags"),
];

/// Which field of a line stands for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The place of each of [`COLUMNS`], where it is there.
    places: [Option<usize>; COLUMNS.len()],
    /// How many fields each line has.
    width: usize,
    /// Columns that are not read, by their names.
    pub others: Vec<String>,
}

/// Why a header is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderTrouble {
    /// This column is there twice.
    Twice(Column),
    /// There is no column of registration IDs.
    NoRegistrationId,
    /// There is neither a column of endorsement keys nor one of certificates.
    NoIdentity,
}

/// What a line asks to be enrolled.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The registration ID, in lower case.
    pub registration_id: RegistrationId,
    /// The device ID.
    pub device_id: DeviceId,
    /// What the device proves itself with.
    pub means: Means,
    /// Tags of the initial twin; none where the field is empty.
    pub tags: Option<Value>,
}

/// What a device of the list proves itself with.
#[derive(Clone, Debug, PartialEq)]
pub enum Means {
    /// An endorsement key: `TPM2B_PUBLIC`.
    Tpm(Blob),
    /// The certificate in the file with this path, as the list has it.
    X509(String),
}

/// Why a line cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is longer than [`LINE_MAX`].
    TooLong,
    /// It is not UTF-8.
    NotUtf8,
    /// Its quotation marks do not go together.
    Quotes,
    /// It has so many fields, and the header has so many.
    Width(usize, usize),
    /// What stands in a column cannot be meant.
    In(Column, Flaw),
}

/// Why the value in a column cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is empty.
    Empty,
    /// It is not empty, and the attestation is another.
    NotOfAttestation,
    /// Both an endorsement key and a certificate stand there, and no attestation.
    Ambiguous,
    /// It is no name.
    Name(NameError),
    /// It is neither `tpm` nor `x509`.
    Attestation(String),
    /// It is not base64; the parser's words.
    NotBase64(String),
    /// It is no endorsement key.
    Key(TemplateFault),
    /// It is no path.
    Path,
    /// The file cannot be read; what the system said.
    File(String),
    /// The file holds no certificate of a device.
    Certificate(LeafFlaw),
    /// It is no JSON; the parser's words.
    NotJson(String),
    /// It is JSON, and no object.
    NotAnObject,
    /// A twin does not take it; why.
    Twin(String),
}

impl Column {
    /// How the column is spelt.
    pub fn name(self) -> &'static str {
        COLUMNS[self as usize].1
    }
}

impl Header {
    /// Reads the header's fields.
    ///
    /// # Errors
    /// A column that is there twice, or one that is needed and not there.
    pub fn parse(fields: &[String]) -> Result<Self, HeaderTrouble> {
        let mut header = Self {
            places: [None; COLUMNS.len()],
            width: fields.len(),
            others: Vec::new(),
        };
        for (place, field) in fields.iter().enumerate() {
            let name = field.trim();
            let known = COLUMNS
                .iter()
                .find(|(_, known)| known.eq_ignore_ascii_case(name));
            match known {
                Some((column, _)) => {
                    if header.places[*column as usize].replace(place).is_some() {
                        return Err(HeaderTrouble::Twice(*column));
                    }
                }
                None => header.others.push(harmless(name, QUOTED_MAX)),
            }
        }
        if header.places[Column::RegistrationId as usize].is_none() {
            return Err(HeaderTrouble::NoRegistrationId);
        }
        let identities = [Column::EndorsementKey, Column::Certificate];
        if identities
            .iter()
            .all(|column| header.places[*column as usize].is_none())
        {
            return Err(HeaderTrouble::NoIdentity);
        }
        Ok(header)
    }

    /// How many fields each line has.
    pub fn width(&self) -> usize {
        self.width
    }

    /// What a line's registration ID says, good or bad, to name the line by.
    pub fn named<'a>(&self, fields: &'a [String]) -> &'a str {
        self.value(fields, Column::RegistrationId)
    }

    /// Reads the fields of a line.
    ///
    /// # Errors
    /// The first column from which nothing can be read, and why.
    pub fn entry(&self, fields: &[String]) -> Result<Entry, Trouble> {
        if fields.len() != self.width {
            return Err(Trouble::Width(fields.len(), self.width));
        }
        let value = |column| self.value(fields, column);
        let name = |column, flaw| Trouble::In(column, Flaw::Name(flaw));
        let id = value(Column::RegistrationId);
        if id.is_empty() {
            return Err(Trouble::In(Column::RegistrationId, Flaw::Empty));
        }
        let registration_id = RegistrationId::parse(&id.to_ascii_lowercase())
            .map_err(|flaw| name(Column::RegistrationId, flaw))?;
        let device = match value(Column::DeviceId) {
            "" => registration_id.as_str(),
            device => device,
        };
        let device_id = DeviceId::parse(device).map_err(|flaw| name(Column::DeviceId, flaw))?;
        let means = means(
            value(Column::Attestation),
            value(Column::EndorsementKey),
            value(Column::Certificate),
        );
        let tags = tags(value(Column::Tags));
        Ok(Entry {
            registration_id,
            device_id,
            means: means.map_err(|(column, flaw)| Trouble::In(column, flaw))?,
            tags: tags.map_err(|flaw| Trouble::In(Column::Tags, flaw))?,
        })
    }

    fn value<'a>(&self, fields: &'a [String], column: Column) -> &'a str {
        let field = self.places[column as usize].and_then(|place| fields.get(place));
        field.map_or("", |field| field.trim())
    }
}

/// What the three columns say together that a device proves itself with.
fn means(attestation: &str, key: &str, certificate: &str) -> Result<Means, (Column, Flaw)> {
    use Column::{Attestation, Certificate, EndorsementKey};
    let tpm = match attestation.to_ascii_lowercase().as_str() {
        "tpm" => true,
        "x509" => false,
        "" if !key.is_empty() && !certificate.is_empty() => {
            return Err((Attestation, Flaw::Ambiguous));
        }
        "" if key.is_empty() && certificate.is_empty() => return Err((Attestation, Flaw::Empty)),
        "" => certificate.is_empty(),
        _ => {
            let found = harmless(attestation, QUOTED_MAX);
            return Err((Attestation, Flaw::Attestation(found)));
        }
    };
    match (tpm, key, certificate) {
        (true, "", _) => Err((EndorsementKey, Flaw::Empty)),
        (false, _, "") => Err((Certificate, Flaw::Empty)),
        (true, key, "") => tpm2b(key)
            .map(Means::Tpm)
            .map_err(|flaw| (EndorsementKey, flaw)),
        (true, ..) => Err((Certificate, Flaw::NotOfAttestation)),
        (false, "", path) if path.len() > PATH_MAX || path.contains('\0') => {
            Err((Certificate, Flaw::Path))
        }
        (false, "", path) => Ok(Means::X509(path.to_owned())),
        (false, ..) => Err((EndorsementKey, Flaw::NotOfAttestation)),
    }
}

fn tpm2b(base64: &str) -> Result<Blob, Flaw> {
    let bytes = BASE64
        .decode(base64.as_bytes())
        .map_err(|error| Flaw::NotBase64(said(&error)))?;
    let key = EndorsementKey::parse(&bytes).map_err(Flaw::Key)?;
    Ok(key.tpm2b().clone())
}

fn tags(text: &str) -> Result<Option<Value>, Flaw> {
    if text.is_empty() {
        return Ok(None);
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(members)) if members.is_empty() => Ok(None),
        Ok(object @ Value::Object(_)) => Ok(Some(object)),
        Ok(_) => Err(Flaw::NotAnObject),
        Err(error) => Err(Flaw::NotJson(said(&error))),
    }
}
