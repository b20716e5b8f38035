//! Enrollment in batches: plan at most ten, read the answer device by device, difference to the cloud.
//!
//! Invariant: what is due is planned exactly once, and no answer of the service is taken for success here: success
//! is a record that was read back and shows no [`difference`] in what the station set.

use super::bytes::{Blob, Digest};
use super::device::RegistrationId;
use super::event::{EnrolledIdentity, Enrollment, Order};
pub use super::fault::Difference;
use super::fault::{Complaint, harmless};
use super::upload::is_due;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt;

/// Enrollments in one bulk call (DPS "Individual Enrollment - Run Bulk Operation": at most ten).
pub const BATCH_LIMIT: usize = 10;

/// Longest piece of the service's text that is kept, in characters.
const TEXT_LIMIT: usize = 200;

/// The field that says whether a device may register.
pub const STATUS: &str = "provisioningStatus";
const DESIRED: &str = "initialTwin.properties.desired";
const TAGS: &str = "initialTwin.tags";

/// Whether a device with the enrollment may register (`provisioningStatus`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It may.
    Enabled,
    /// It may not, whatever groups it belongs to.
    Disabled,
}

/// One record that waits to be settled with the service.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What the service is to hold.
    pub enrollment: Enrollment,
    /// What a person ordered of it; it goes alone then.
    pub ordered: Option<Order>,
    /// And whether the device may register with it.
    pub wanted: Status,
    /// The place of the event that says so.
    pub content_seq: u64,
    /// How often an upload of this record was deferred.
    pub tries: u32,
    /// Not to be tried before this time, in milliseconds since 1970.
    pub next_try_ms: i64,
    /// The record was sent and no answer is known: it must be read back before it is sent again.
    pub unanswered: bool,
}

/// Records that are settled together: at most [`BATCH_LIMIT`], all for the same status.
#[derive(Debug, PartialEq)]
pub struct Batch {
    /// The records, in the order of the outbox.
    pub rows: Vec<Row>,
    /// The outcome of an earlier call is unknown: only what is not there may be sent.
    pub read_first: bool,
}

impl Batch {
    /// A record by itself, of which it must be found out first what the service holds.
    pub fn alone(row: Row) -> Self {
        Self {
            rows: vec![row],
            read_first: true,
        }
    }
}

/// What the service says of a bulk call as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BulkAnswer {
    /// `isSuccessful`: every record went through.
    pub successful: bool,
    /// The records that did not.
    pub errors: Vec<ItemError>,
}

/// What the service says of one record of a bulk call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemError {
    /// The registration ID as the service spells it.
    pub registration_id: String,
    /// `errorCode`: the HTTP status times 1000 plus a detail, or the bare status.
    pub code: i64,
    /// `errorStatus`, in the service's words.
    pub text: String,
}

/// What became of one record of a bulk call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemResult {
    /// The service says that it went through.
    Accepted,
    /// The service already holds a record with this registration ID.
    Exists,
    /// The service will not have it; why, in its words.
    Refused(Complaint),
    /// The service could not take it this time; why, in its words.
    Deferred(Complaint),
    /// The answer does not tell.
    Unknown,
}

/// An individual enrollment as the service holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// The registration ID as the service spells it.
    pub registration_id: String,
    /// The device ID; absent if it is the registration ID.
    pub device_id: Option<String>,
    /// The entity tag, for `If-Match`; empty if the service gave none.
    pub etag: String,
    /// Whether the device may register.
    pub status: Status,
    /// The attestation.
    pub attestation: HeldAttestation,
    /// `registrationState.status`, such as `unassigned` or `assigned`; absent if the service gave none.
    pub registration_status: Option<String>,
    /// The whole record.
    pub raw: Map<String, Value>,
}

/// The attestation of an enrollment as the service shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldAttestation {
    /// Client certificates, of which the service shows thumbprints only.
    X509 {
        /// SHA-256 of the primary certificate's DER.
        primary: Option<Digest>,
        /// Name of the CA that any certificate may lead to.
        ca: Option<String>,
        /// Whether there is another certificate or CA that would do as well.
        others: bool,
    },
    /// The keys of a TPM.
    Tpm {
        /// `TPM2B_PUBLIC` of the endorsement key.
        endorsement_key: Blob,
        /// `TPM2B_PUBLIC` of the storage root key, where the service shows it.
        storage_root_key: Option<Blob>,
    },
    /// Anything else, by its type; no device of a station has it.
    Other(String),
}

/// Divides all rows that are due at `now_ms` into batches: those with an unknown outcome first, and of each those to
/// disable before those to enroll: few, and of units that must not register. Each is in the order of `rows`.
///
/// No batch has more than `most` records. A row that was deferred goes alone: if it was what made a call fail, it fails
/// alone from then on.
pub fn plan(rows: Vec<Row>, now_ms: i64, most: usize) -> Vec<Batch> {
    let limit = most.clamp(1, BATCH_LIMIT);
    let mut batches = Vec::new();
    let mut waiting = rows;
    waiting.retain(|row| is_due(row.next_try_ms, now_ms));
    for (wanted, read_first) in [
        (Status::Disabled, true),
        (Status::Enabled, true),
        (Status::Disabled, false),
        (Status::Enabled, false),
    ] {
        let alike = |row: &mut Row| row.wanted == wanted && row.unanswered == read_first;
        let due = waiting.extract_if(.., alike);
        let (fresh, again): (Vec<_>, Vec<_>) = due.partition(|row| row.tries == 0);
        let mut fresh = fresh.into_iter().peekable();
        while fresh.peek().is_some() {
            let rows = fresh.by_ref().take(limit).collect();
            batches.push(Batch { rows, read_first });
        }
        batches.extend(again.into_iter().map(|row| Batch {
            rows: vec![row],
            read_first,
        }));
    }
    batches
}

/// What became of each record of a bulk call, in the order of `sent`.
///
/// A partial failure is HTTP 200 with the failures listed, and whether a bulk call is atomic is not documented:
/// so a record that is not listed counts as accepted only if the list makes sense.
/// The class of an error is its HTTP status; the detail numbers of 409, 412 and 429 are not documented.
pub fn read_answer(sent: &[&RegistrationId], answer: &BulkAnswer) -> Vec<ItemResult> {
    let of = |id: &RegistrationId| {
        let named = |error: &&ItemError| error.registration_id.eq_ignore_ascii_case(id.as_str());
        answer.errors.iter().find(named)
    };
    let listed = sent.iter().filter(|id| of(id).is_some()).count();
    let makes_sense =
        listed == answer.errors.len() && answer.successful == answer.errors.is_empty();
    sent.iter()
        .map(|id| match of(id) {
            Some(error) => result_of(error),
            None if makes_sense => ItemResult::Accepted,
            None => ItemResult::Unknown,
        })
        .collect()
}

fn result_of(error: &ItemError) -> ItemResult {
    let status = if error.code >= 1000 {
        error.code / 1000
    } else {
        error.code
    };
    let why = || Complaint {
        status: None,
        code: Some(error.code),
        message: harmless(&error.text, TEXT_LIMIT),
        tracking_id: String::new(),
    };
    match status {
        409 => ItemResult::Exists,
        429 | 500..=599 => ItemResult::Deferred(why()),
        400..=499 => ItemResult::Refused(why()),
        _ => ItemResult::Unknown,
    }
}

/// Every field that we set and in which `held` is not `ours` with the status `wanted`; empty if they say the same.
///
/// The service's forms are normalised: a missing device ID is the registration ID, registration IDs differ not by
/// case, certificates compare by SHA-256 thumbprint, empty twins equal absent ones. What the service holds beyond that
/// is no difference: [`also_set`] has it.
pub fn difference(ours: &Enrollment, wanted: Status, held: &Held) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut compare =
        |field: &str, same: bool, ours: &dyn fmt::Display, theirs: &dyn fmt::Display| {
            if !same {
                found.push(Difference {
                    field: field.to_owned(),
                    ours: Some(harmless(&ours.to_string(), TEXT_LIMIT)),
                    theirs: harmless(&theirs.to_string(), TEXT_LIMIT),
                });
            }
        };

    let id = ours.registration_id.as_str();
    let same = id.eq_ignore_ascii_case(&held.registration_id);
    compare("registrationId", same, &id, &held.registration_id);

    let device = held.device_id.as_ref().unwrap_or(&held.registration_id);
    let same = ours.device_id.as_str() == device;
    compare("deviceId", same, &ours.device_id, device);

    let same = wanted == held.status;
    compare(STATUS, same, &wanted, &held.status);

    let same = same_identity(ours, &held.attestation);
    compare("attestation", same, &attestation(ours), &held.attestation);

    let twin = [(DESIRED, &ours.initial_desired), (TAGS, &ours.initial_tags)];
    for (field, ours) in twin {
        if let Some(ours) = ours {
            let theirs = twin_part(held, field);
            compare(field, holds(&theirs, ours), ours, &theirs);
        }
    }
    for (field, ours) in ours.content.fields() {
        let theirs = held.raw.get(field).unwrap_or(&Value::Null);
        compare(field, is_set(field, &ours, theirs), &ours, theirs);
    }
    found
}

/// What the service holds in our record beyond what we set and beyond its own defaults: someone set it there, or a
/// later service gives it by itself. It stays as it is.
pub fn also_set(ours: &Enrollment, held: &Held) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut add = |field: &str, value: &Value| {
        found.push(Difference {
            field: field.to_owned(),
            ours: None,
            theirs: harmless(&value.to_string(), TEXT_LIMIT),
        });
    };
    let nothing = Value::Object(Map::new());
    let desired = ours.initial_desired.as_ref().unwrap_or(&nothing);
    let tags = ours.initial_tags.as_ref().unwrap_or(&nothing);
    for (field, ours) in [(DESIRED, desired), (TAGS, tags)] {
        if let Some(more) = beyond(&twin_part(held, field), ours) {
            add(field, &more);
        }
    }
    let sent = ours.content.fields();
    let not_sent = BEYOND
        .iter()
        .filter(|(field, _)| sent.iter().all(|(name, _)| name != field));
    for (field, default) in not_sent {
        let value = held.raw.get(*field).unwrap_or(&Value::Null);
        if !default(value) {
            add(field, value);
        }
    }
    found
}

/// Whether the service holds a field as we set it. Hubs are a set of host names; where it leaves `hashed` out, it is so.
fn is_set(field: &str, ours: &Value, theirs: &Value) -> bool {
    let hosts = |value: &Value| -> Option<BTreeSet<String>> {
        let hosts = value.as_array()?.iter();
        hosts
            .map(|host| Some(host.as_str()?.to_ascii_lowercase()))
            .collect()
    };
    match field {
        "iotHubs" => hosts(ours) == hosts(theirs),
        "allocationPolicy" if theirs.is_null() => ours == "hashed",
        _ => holds(theirs, ours),
    }
}

/// A part of the initial twin as the service holds it, without what only the service writes.
fn twin_part(held: &Held, field: &str) -> Value {
    let mut members = field.split('.');
    let outer = members.next().and_then(|name| held.raw.get(name));
    let part = members.try_fold(outer.unwrap_or(&Value::Null), |part, name| part.get(name));
    without_metadata(part.unwrap_or(&Value::Null))
}

/// Whether all that `ours` says stands in `theirs`: objects may have more members there, everything else is compared
/// whole.
fn holds(theirs: &Value, ours: &Value) -> bool {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => ours
            .iter()
            .all(|(name, ours)| theirs.get(name).is_some_and(|theirs| holds(theirs, ours))),
        _ => theirs == ours,
    }
}

/// The members of `theirs` that `ours` says nothing of, at any depth; none if there are none.
fn beyond(theirs: &Value, ours: &Value) -> Option<Value> {
    let (Value::Object(theirs), Value::Object(ours)) = (theirs, ours) else {
        return None; // a value of ours: a difference, if it is one
    };
    let more = theirs.iter().filter_map(|(name, theirs)| {
        let more = match ours.get(name) {
            Some(ours) => beyond(theirs, ours)?,
            None => theirs.clone(),
        };
        Some((name.clone(), more))
    });
    let more: Map<_, _> = more.collect();
    (!more.is_empty()).then_some(Value::Object(more))
}

/// Whether the service's record is for the same key as ours, whatever else it says.
pub fn same_identity(ours: &Enrollment, held: &HeldAttestation) -> bool {
    match (&ours.identity, held) {
        (
            EnrolledIdentity::X509 { certificate },
            HeldAttestation::X509 {
                primary,
                ca,
                others,
            },
        ) => {
            let wanted = &ours.content.ca_reference;
            let certificate = wanted.is_none().then(|| Digest::of(&certificate.0));
            *primary == certificate && ca == wanted && !others
        }
        (
            EnrolledIdentity::Tpm {
                endorsement_key,
                storage_root_key,
            },
            HeldAttestation::Tpm {
                endorsement_key: ek,
                storage_root_key: srk,
            },
        ) => {
            let known = Some(storage_root_key).filter(|srk| !srk.0.is_empty());
            ek == endorsement_key
                && known
                    .zip(srk.as_ref())
                    .is_none_or(|(ours, held)| ours == held)
        }
        _ => false,
    }
}

/// Whether two enrollments are for the same key; a storage root key that one of them does not know is none.
pub fn same_keys(one: &EnrolledIdentity, other: &EnrolledIdentity) -> bool {
    one.reference() == other.reference()
}

type IsDefault = fn(&Value) -> bool;

/// Fields that decide what becomes of a device and that the station sends only where its product says so, with a test
/// for the value that the service gives by itself (IndividualEnrollment of its specification). `iotHubHostName` is not
/// among them: it is the old form of `iotHubs`, and whether the service fills it in after an assignment is not
/// documented.
const BEYOND: &[(&str, IsDefault)] = &[
    ("capabilities", |v| v["iotEdge"] != true),
    ("reprovisionPolicy", |v| {
        v["updateHubAssignment"] != false && v["migrateDeviceData"] != false
    }),
    ("allocationPolicy", |v| v.is_null() || v == "hashed"),
    ("iotHubs", |v| v.as_array().is_none_or(Vec::is_empty)),
    ("customAllocationDefinition", Value::is_null),
    ("credentialPolicyName", Value::is_null),
    ("optionalDeviceInformation", |v| {
        v.as_object().is_none_or(Map::is_empty)
    }),
];

/// A twin collection without the members that only the service writes (`$version`, `$metadata`); `{}` if absent.
fn without_metadata(collection: &Value) -> Value {
    match collection {
        Value::Null => Value::Object(Map::new()),
        Value::Object(members) => {
            let ours = members.iter().filter(|(name, _)| !name.starts_with('$'));
            Value::Object(ours.map(|(n, v)| (n.clone(), v.clone())).collect())
        }
        other => other.clone(),
    }
}

/// How ours would be shown.
fn attestation(ours: &Enrollment) -> String {
    match &ours.content.ca_reference {
        Some(name) => format!("x509 certificates of the CA {name:?}"),
        None => ours.identity.to_string(),
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
        })
    }
}

impl fmt::Display for EnrolledIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::X509 { certificate } => {
                write!(f, "x509 certificate {}", Digest::of(&certificate.0))
            }
            Self::Tpm {
                endorsement_key: ek,
                storage_root_key: srk,
            } => {
                write!(f, "tpm endorsement key {}", Digest::of(&ek.0))?;
                match srk.0.is_empty() {
                    true => Ok(()),
                    false => write!(f, ", storage root key {}", Digest::of(&srk.0)),
                }
            }
        }
    }
}

impl fmt::Display for HeldAttestation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::X509 {
                primary,
                ca,
                others,
            } => {
                match (primary, ca) {
                    (Some(digest), _) => write!(f, "x509 certificate {digest}")?,
                    (None, Some(name)) => write!(f, "x509 certificates of the CA {name:?}")?,
                    (None, None) => f.write_str("x509 without a primary certificate")?,
                }
                f.write_str(if *others { " and others" } else { "" })
            }
            Self::Tpm {
                endorsement_key: ek,
                storage_root_key,
            } => {
                write!(f, "tpm endorsement key {}", Digest::of(&ek.0))?;
                match storage_root_key {
                    Some(srk) => write!(f, ", storage root key {}", Digest::of(&srk.0)),
                    None => Ok(()),
                }
            }
            Self::Other(kind) => f.write_str(kind),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::provision::content::{Allocation, Content, Reprovision};
    use crate::provision::device::DeviceId;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;
    use serde_json::json;

    fn enrollment(number: u32, tpm: bool, desired: Option<Value>) -> Enrollment {
        let octets = |tag: u8| Blob([&[tag][..], &number.to_be_bytes()].concat());
        let device_id = DeviceId::parse(&format!("GW-{number}")).unwrap();
        Enrollment {
            dps: "main".to_owned(),
            registration_id: RegistrationId::of_device(&device_id),
            device_id,
            identity: if tpm {
                EnrolledIdentity::Tpm {
                    endorsement_key: octets(1),
                    storage_root_key: octets(2),
                }
            } else {
                EnrolledIdentity::X509 {
                    certificate: octets(3),
                }
            },
            initial_desired: desired,
            initial_tags: None,
            content: Content::default(),
        }
    }

    fn number(enrollment: &Enrollment) -> u32 {
        enrollment.device_id.as_str()[3..].parse().unwrap()
    }

    /// The record as the service gives it back, its defaults filled in or left out.
    fn held(ours: &Enrollment, status: Status, defaults: bool) -> Held {
        let mut raw = json!({});
        if defaults {
            raw = json!({
                "capabilities": {"iotEdge": false},
                "reprovisionPolicy": {"updateHubAssignment": true, "migrateDeviceData": true},
                "allocationPolicy": "hashed",
                "iotHubs": [],
                "customAllocationDefinition": null,
                "optionalDeviceInformation": {},
                "initialTwin": {"tags": {}, "properties": {"desired": {"$version": 1}}},
            });
        }
        if let Some(Value::Object(desired)) = &ours.initial_desired {
            for (name, value) in desired {
                raw["initialTwin"]["properties"]["desired"][name] = value.clone();
            }
        }
        let Value::Object(raw) = raw else {
            unreachable!("made as an object")
        };
        let id = ours.registration_id.as_str();
        Held {
            registration_id: if defaults {
                id.to_ascii_uppercase()
            } else {
                id.to_owned()
            },
            device_id: Some(ours.device_id.to_string()),
            etag: "\"1\"".to_owned(),
            status,
            attestation: match &ours.identity {
                EnrolledIdentity::X509 { certificate } => HeldAttestation::X509 {
                    primary: Some(Digest::of(&certificate.0)),
                    ca: None,
                    others: false,
                },
                EnrolledIdentity::Tpm {
                    endorsement_key,
                    storage_root_key,
                } => HeldAttestation::Tpm {
                    endorsement_key: endorsement_key.clone(),
                    storage_root_key: defaults.then(|| storage_root_key.clone()),
                },
            },
            registration_status: None,
            raw,
        }
    }

    type Mutation = fn(&mut Held);

    /// What is not ours any more where it is changed.
    const MUTATIONS: &[(&str, Mutation)] = &[
        ("registrationId", |h| h.registration_id.push('x')),
        ("deviceId", |h| h.device_id = Some("gw-other".to_owned())),
        ("provisioningStatus", |h| {
            h.status = match h.status {
                Status::Enabled => Status::Disabled,
                Status::Disabled => Status::Enabled,
            }
        }),
        ("attestation", |h| match &mut h.attestation {
            HeldAttestation::X509 { others, .. } => *others = true,
            HeldAttestation::Tpm {
                endorsement_key, ..
            } => endorsement_key.0.push(0),
            HeldAttestation::Other(_) => unreachable!("no station enrolls it"),
        }),
        ("attestation", |h| match &mut h.attestation {
            HeldAttestation::X509 { primary, .. } => *primary = None,
            HeldAttestation::Tpm {
                storage_root_key, ..
            } => *storage_root_key = Some(Blob(vec![9])),
            HeldAttestation::Other(_) => unreachable!("no station enrolls it"),
        }),
        ("attestation", |h| {
            h.attestation = HeldAttestation::Other("symmetricKey".to_owned());
        }),
    ];

    /// What someone may set beside ours.
    const ADDITIONS: &[(&str, Mutation)] = &[
        ("initialTwin.properties.desired", |h| {
            set(h, "/initialTwin/properties/desired/more", json!(1));
        }),
        ("initialTwin.tags", |h| {
            set(h, "/initialTwin/tags/more", json!(1));
        }),
        ("capabilities", |h| {
            set(h, "/capabilities/iotEdge", json!(true));
        }),
        ("reprovisionPolicy", |h| {
            set(h, "/reprovisionPolicy/migrateDeviceData", json!(false));
        }),
        ("allocationPolicy", |h| {
            set(h, "/allocationPolicy", json!("static"));
        }),
        ("iotHubs", |h| set(h, "/iotHubs", json!(["hub.example"]))),
        ("customAllocationDefinition", |h| {
            set(
                h,
                "/customAllocationDefinition/webhookUrl",
                json!("https://x"),
            );
        }),
        ("credentialPolicyName", |h| {
            set(h, "/credentialPolicyName", json!("p"));
        }),
        ("optionalDeviceInformation", |h| {
            set(h, "/optionalDeviceInformation/more", json!(1));
        }),
    ];

    /// Sets the value at a path, making the objects on the way to it.
    fn set(held: &mut Held, path: &str, value: Value) {
        let mut names = path.split('/').skip(1);
        let first = names.next().unwrap();
        let mut place = held.raw.entry(first).or_insert(Value::Null);
        for name in names {
            place = &mut place[name];
        }
        *place = value;
    }

    fn any_enrollment() -> impl Strategy<Value = Enrollment> {
        let desired = prop_oneof![
            Just(None),
            Just(Some(json!({}))),
            any::<(u32, String)>().prop_map(|(n, s)| Some(json!({"n": n, "deep": {"s": [s]}}))),
        ];
        (any::<u32>(), any::<bool>(), desired).prop_map(|(n, tpm, d)| enrollment(n, tpm, d))
    }

    fn any_status() -> impl Strategy<Value = Status> {
        prop_oneof![Just(Status::Enabled), Just(Status::Disabled)]
    }

    fn any_rows() -> impl Strategy<Value = Vec<Row>> {
        let row = (any_status(), 0..3_u32, 0..100_i64, any::<bool>());
        proptest::collection::vec(row, 0..60).prop_map(|rows| {
            let number = 0_u32..;
            let made = number
                .zip(rows)
                .map(|(n, (wanted, tries, next, sent))| Row {
                    ordered: None,
                    enrollment: enrollment(n, false, None),
                    wanted,
                    content_seq: n.into(),
                    tries,
                    next_try_ms: next,
                    unanswered: sent,
                });
            made.collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            rng_seed: RngSeed::Fixed(1),
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn every_due_row_is_planned_once_in_order_and_never_more_than_ten(
            rows in any_rows(), now_ms in 0..100_i64, most in 0..20_usize,
        ) {
            let batches = plan(rows.clone(), now_ms, most);
            let mut planned = Vec::new();
            for batch in &batches {
                prop_assert!(!batch.rows.is_empty());
                prop_assert!(batch.rows.len() <= BATCH_LIMIT.min(most.max(1)));
                let first = &batch.rows[0];
                prop_assert!(first.tries == 0 || batch.rows.len() == 1);
                for row in &batch.rows {
                    prop_assert_eq!(row.wanted, first.wanted);
                    prop_assert_eq!(row.unanswered, batch.read_first);
                }
                planned.extend(batch.rows.iter().map(|row| row.enrollment.registration_id.clone()));
                // The order of the outbox is the order of the numbers.
                let in_order = batch.rows.is_sorted_by_key(|row| number(&row.enrollment));
                prop_assert!(in_order);
            }
            planned.sort();
            let mut due: Vec<_> = rows.iter().filter(|row| row.next_try_ms <= now_ms)
                .map(|row| row.enrollment.registration_id.clone()).collect();
            due.sort();
            prop_assert_eq!(planned, due);
        }

        #[test]
        fn the_services_form_of_our_own_record_is_no_difference(
            ours in any_enrollment(), status in any_status(), defaults in any::<bool>(),
        ) {
            let theirs = held(&ours, status, defaults);
            prop_assert_eq!(difference(&ours, status, &theirs), vec![]);
            prop_assert_eq!(also_set(&ours, &theirs), vec![]);
        }

        #[test]
        fn what_someone_set_beside_ours_is_told_and_no_difference(
            ours in any_enrollment(), status in any_status(), defaults in any::<bool>(),
            (field, mutate) in proptest::sample::select(ADDITIONS),
        ) {
            let mut theirs = held(&ours, status, defaults);
            mutate(&mut theirs);
            prop_assert_eq!(difference(&ours, status, &theirs), vec![]);
            let found = also_set(&ours, &theirs);
            prop_assert!(matches!(&found[..], [only] if only.field == *field), "{:?}", found);
        }

        #[test]
        fn a_desired_property_of_ours_that_was_changed_is_a_difference(
            number in any::<u32>(), defaults in any::<bool>(), deep in any::<bool>(),
        ) {
            let desired = json!({"n": number, "deep": {"s": [number]}});
            let ours = enrollment(number, false, Some(desired));
            let mut theirs = held(&ours, Status::Enabled, defaults);
            let name = if deep { "deep/s" } else { "n" };
            set(&mut theirs, &format!("/initialTwin/properties/desired/{name}"), json!("other"));
            let found = difference(&ours, Status::Enabled, &theirs);
            prop_assert!(matches!(&found[..], [only] if only.field == DESIRED), "{:?}", found);
            prop_assert_eq!(also_set(&ours, &theirs), vec![]);
        }

        #[test]
        fn any_field_changed_is_found_and_named(
            ours in any_enrollment(), status in any_status(), defaults in any::<bool>(),
            (field, mutate) in proptest::sample::select(MUTATIONS),
        ) {
            let mut theirs = held(&ours, status, defaults);
            mutate(&mut theirs);
            let found = difference(&ours, status, &theirs);
            prop_assert!(found.iter().any(|d| d.field == field), "{:?}", found);
        }

        #[test]
        fn no_answer_makes_a_listed_record_accepted(
            successful in any::<bool>(),
            errors in proptest::collection::vec((0..12_u32, -1..600_000_i64), 0..12),
        ) {
            let ids: Vec<_> = (0..10)
                .map(|n| RegistrationId::parse(&format!("gw-{n}")).unwrap()).collect();
            let sent: Vec<_> = ids.iter().collect();
            let answer = BulkAnswer { successful, errors: errors.iter().map(|(n, code)| ItemError {
                registration_id: format!("GW-{n}"), code: *code, text: String::new(),
            }).collect() };
            let outcomes = read_answer(&sent, &answer);
            prop_assert_eq!(outcomes.len(), sent.len());
            for (n, _) in errors.iter().filter(|(n, _)| *n < 10) {
                prop_assert_ne!(&outcomes[*n as usize], &ItemResult::Accepted);
            }
        }
    }

    #[test]
    fn what_a_product_says_is_compared_and_the_rest_is_told() {
        let content = Content {
            iot_edge: true,
            allocation: Some(Allocation::Static),
            iot_hubs: vec!["Hub.example".to_owned()],
            reprovision: Some(Reprovision::Never),
            ..Content::default()
        };
        let ours = Enrollment {
            content,
            initial_tags: Some(json!({"line": "3"})),
            ..enrollment(1, false, None)
        };
        let mut theirs = held(&ours, Status::Enabled, true);
        let fields = |found: Vec<Difference>| {
            let names = found.into_iter().map(|one| one.field);
            names.collect::<Vec<_>>()
        };
        let found = fields(difference(&ours, Status::Enabled, &theirs));
        let all = [
            TAGS,
            "capabilities",
            "allocationPolicy",
            "iotHubs",
            "reprovisionPolicy",
        ];
        assert_eq!(found, all);
        set(
            &mut theirs,
            "/initialTwin/tags",
            json!({"line": "3", "customer": "x"}),
        );
        set(&mut theirs, "/capabilities/iotEdge", json!(true));
        set(&mut theirs, "/allocationPolicy", json!("static"));
        set(&mut theirs, "/iotHubs", json!(["hub.example"]));
        let never = json!({"updateHubAssignment": false, "migrateDeviceData": false});
        set(&mut theirs, "/reprovisionPolicy", never);
        assert_eq!(difference(&ours, Status::Enabled, &theirs), []);
        let more = also_set(&ours, &theirs);
        assert!(
            matches!(&more[..], [only] if only.theirs == r#"{"customer":"x"}"#),
            "{more:?}"
        );
    }

    #[test]
    fn an_enrollment_by_ca_is_for_that_ca_alone() {
        let mut ours = enrollment(1, false, None);
        ours.content.ca_reference = Some("root".to_owned());
        let by = |primary, ca: Option<&str>, others| HeldAttestation::X509 {
            primary,
            ca: ca.map(str::to_owned),
            others,
        };
        assert!(same_identity(&ours, &by(None, Some("root"), false)));
        let leaf = ours.identity.reference().digest();
        for other in [
            by(None, Some("other"), false),
            by(None, None, false),
            by(None, Some("root"), true),
            by(Some(leaf), Some("root"), false),
            by(Some(leaf), None, false),
        ] {
            assert!(!same_identity(&ours, &other), "{other}");
        }
    }

    #[test]
    fn an_answer_is_read_record_by_record() {
        let ids: Vec<_> = ["a", "b", "c", "d", "e"]
            .map(|id| RegistrationId::parse(id).unwrap())
            .to_vec();
        let sent: Vec<_> = ids.iter().collect();
        let error = |id: &str, code| ItemError {
            registration_id: id.to_owned(),
            code,
            text: "no\u{7}".to_owned(),
        };
        let said = |code| Complaint {
            status: None,
            code: Some(code),
            message: "no?".to_owned(),
            tracking_id: String::new(),
        };
        let mut answer = BulkAnswer {
            successful: false,
            errors: vec![
                error("B", 409_201),
                error("c", 400_004),
                error("d", 429),
                error("e", 200_000),
            ],
        };
        assert_eq!(
            read_answer(&sent, &answer),
            [
                ItemResult::Accepted,
                ItemResult::Exists,
                ItemResult::Refused(said(400_004)),
                ItemResult::Deferred(said(429)),
                ItemResult::Unknown,
            ]
        );
        answer.errors.push(error("someone-else", 400_000));
        assert_eq!(read_answer(&sent, &answer)[0], ItemResult::Unknown);
        let silent = BulkAnswer {
            successful: false,
            errors: vec![],
        };
        assert_eq!(read_answer(&sent, &silent)[0], ItemResult::Unknown);
    }
}
