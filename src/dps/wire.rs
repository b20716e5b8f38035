//! The JSON of the service API, both ways.

use crate::provision::batch::{BulkAnswer, Held, HeldAttestation, ItemError, Status};
use crate::provision::bytes::{Blob, Digest};
use crate::provision::event::{EnrolledIdentity, Enrollment};
use crate::provision::fault::{Malformed, harmless};
use data_encoding::{BASE64, HEXLOWER};
use reqwest::header::HeaderValue;
use serde_json::{Map, Value, json};

/// Errors read from one bulk answer: a call has ten records.
const ERRORS_LIMIT: usize = 100;
/// Longest name, code or status that is kept, in characters.
const TEXT_LIMIT: usize = 256;

/// An IndividualEnrollment. Only what the station decides is sent; the service fills in the rest.
///
/// The certificate goes as base64 of its DER on one line: the one form that no tool path has refused.
fn enrollment(enrollment: &Enrollment, status: Status) -> Value {
    let content = &enrollment.content;
    let attestation = match (&enrollment.identity, &content.ca_reference) {
        (EnrolledIdentity::X509 { .. }, Some(name)) => json!({
            "type": "x509",
            "x509": {"caReferences": {"primary": name}},
        }),
        (EnrolledIdentity::X509 { certificate }, None) => json!({
            "type": "x509",
            "x509": {"clientCertificates": {"primary": {"certificate": certificate.base64()}}},
        }),
        (
            EnrolledIdentity::Tpm {
                endorsement_key,
                storage_root_key,
            },
            _,
        ) => {
            let mut tpm = json!({"endorsementKey": endorsement_key.base64()});
            if !storage_root_key.0.is_empty() {
                tpm["storageRootKey"] = json!(storage_root_key.base64());
            }
            json!({"type": "tpm", "tpm": tpm})
        }
    };
    let mut body = json!({
        "registrationId": enrollment.registration_id,
        "deviceId": enrollment.device_id,
        "attestation": attestation,
        // Always said, and read back: an SDK once lost it on create (azure-iot-sdk-csharp issue 1604).
        "provisioningStatus": status.to_string(),
    });
    if let Some(desired) = &enrollment.initial_desired {
        body["initialTwin"]["properties"]["desired"] = desired.clone();
    }
    for (field, value) in content.fields() {
        body[field] = value;
    }
    if let Some(tags) = &enrollment.initial_tags {
        body["initialTwin"]["tags"] = tags.clone();
    }
    body
}

/// Our record as the service holds it, with another status. The registration state is the service's own and stays out
/// (Azure's command line extension cleared it too); of a certificate the service shows the thumbprint alone, so that
/// ours, which is the same, goes in its place.
pub(super) fn with_status(ours: &Enrollment, held: &Held, status: Status) -> Value {
    let mut body = Value::Object(held.raw.clone());
    body["provisioningStatus"] = json!(status.to_string());
    if let Value::Object(members) = &mut body {
        members.remove("registrationState");
    }
    if let EnrolledIdentity::X509 { certificate } = &ours.identity
        && let Some(primary) = body.pointer_mut("/attestation/x509/clientCertificates/primary")
    {
        *primary = json!({"certificate": certificate.base64()});
    }
    body
}

/// The record's entity tag, sent as it was given; only one that came without quotes gets them (azure-iot-sdk-csharp does
/// so too).
pub(super) fn tag(held: &Held) -> Result<HeaderValue, Malformed> {
    let tag = match held.etag.as_str() {
        "" => return Err(Malformed::NoEtag),
        quoted if quoted.ends_with('"') => quoted.to_owned(),
        bare => format!("\"{bare}\""),
    };
    HeaderValue::from_str(&tag).map_err(|_| Malformed::OddEtag)
}

/// A BulkEnrollmentOperation that creates, and leaves alone what exists.
pub(super) fn bulk_create(enrollments: &[(&Enrollment, Status)]) -> Value {
    let enrollments = enrollments.iter().map(|(e, s)| enrollment(e, *s));
    json!({"mode": "create", "enrollments": enrollments.collect::<Vec<_>>()})
}

/// A QuerySpecification for all individual enrollments.
pub(super) fn query() -> Value {
    json!({"query": "SELECT * FROM enrollments"})
}

/// Reads a BulkEnrollmentOperationResult. An error entry that makes no sense is kept with what it has: it must not
/// turn into a success by being dropped.
pub(super) fn bulk_answer(body: &Value) -> Result<BulkAnswer, Malformed> {
    let successful = body["isSuccessful"]
        .as_bool()
        .ok_or(Malformed::BulkAnswer)?;
    let errors = match &body["errors"] {
        Value::Null => &[][..],
        Value::Array(errors) if errors.len() <= ERRORS_LIMIT => errors,
        _ => return Err(Malformed::BulkAnswer),
    };
    Ok(BulkAnswer {
        successful,
        errors: errors
            .iter()
            .map(|error| ItemError {
                registration_id: text(&error["registrationId"]).unwrap_or_default(),
                code: error["errorCode"].as_i64().unwrap_or_default(),
                text: text(&error["errorStatus"]).unwrap_or_default(),
            })
            .collect(),
    })
}

/// Reads one page of a query: a bare array.
pub(super) fn page(body: Value) -> Result<Vec<Held>, Malformed> {
    match body {
        Value::Array(records) => records.into_iter().map(held).collect(),
        _ => Err(Malformed::NotAList),
    }
}

/// Reads an IndividualEnrollment.
pub(super) fn held(body: Value) -> Result<Held, Malformed> {
    let Value::Object(raw) = body else {
        return Err(Malformed::Enrollment);
    };
    let id = raw.get("registrationId").and_then(text);
    let status = match raw.get("provisioningStatus").and_then(Value::as_str) {
        None | Some("enabled") => Status::Enabled,
        Some("disabled") => Status::Disabled,
        Some(_) => return Err(Malformed::ProvisioningStatus),
    };
    Ok(Held {
        registration_id: id.ok_or(Malformed::Enrollment)?,
        device_id: raw.get("deviceId").and_then(text),
        etag: raw.get("etag").and_then(text).unwrap_or_default(),
        status,
        attestation: attestation(raw.get("attestation").unwrap_or(&Value::Null)),
        registration_status: raw
            .get("registrationState")
            .and_then(|state| text(&state["status"])),
        raw,
    })
}

fn attestation(body: &Value) -> HeldAttestation {
    let other = || HeldAttestation::Other(text(&body["type"]).unwrap_or_default());
    match body["type"].as_str() {
        Some("x509") => {
            let x509 = &body["x509"];
            let certificates = &x509["clientCertificates"];
            let (primary, ca) = (&certificates["primary"], &x509["caReferences"]["primary"]);
            HeldAttestation::X509 {
                primary: thumbprint(primary),
                ca: text(ca),
                others: !certificates["secondary"].is_null()
                    || !is_empty(&x509["signingCertificates"])
                    || !x509["caReferences"]["secondary"].is_null()
                    || !(primary.is_null() || ca.is_null()),
            }
        }
        Some("tpm") => match blob(&body["tpm"]["endorsementKey"]) {
            Some(endorsement_key) => HeldAttestation::Tpm {
                endorsement_key,
                storage_root_key: blob(&body["tpm"]["storageRootKey"]),
            },
            None => other(),
        },
        _ => other(),
    }
}

/// SHA-256 of a certificate, from the `info` that the service gives in place of the certificate itself.
fn thumbprint(certificate: &Value) -> Option<Digest> {
    let hex = certificate["info"]["sha256Thumbprint"].as_str()?;
    let octets = HEXLOWER.decode(hex.to_ascii_lowercase().as_bytes()).ok()?;
    octets.try_into().ok().map(Digest)
}

/// Whether a pair of certificates or of references names none.
fn is_empty(pair: &Value) -> bool {
    pair.as_object().map_or(pair.is_null(), |pair: &Map<_, _>| {
        pair.values().all(Value::is_null)
    })
}

fn blob(value: &Value) -> Option<Blob> {
    BASE64.decode(value.as_str()?.as_bytes()).ok().map(Blob)
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(|text| harmless(text, TEXT_LIMIT))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::provision::batch::difference;
    use crate::provision::content::{Allocation, Content, Reprovision};
    use crate::provision::device::{DeviceId, RegistrationId};

    fn x509(desired: Option<Value>) -> Enrollment {
        Enrollment {
            dps: "main".to_owned(),
            registration_id: RegistrationId::parse("unit-0002").unwrap(),
            device_id: DeviceId::parse("Unit-0002").unwrap(),
            identity: EnrolledIdentity::X509 {
                certificate: Blob(b"leaf".to_vec()),
            },
            initial_desired: desired,
            initial_tags: None,
            content: Content::default(),
        }
    }

    fn tpm() -> Enrollment {
        Enrollment {
            identity: EnrolledIdentity::Tpm {
                endorsement_key: Blob(vec![0x01, 0x3a, 0x00, 0x01]),
                storage_root_key: Blob(vec![0, 0]),
            },
            ..x509(None)
        }
    }

    #[test]
    fn a_bulk_call_reads_as_documented() {
        let (first, second) = (x509(Some(json!({"interval": 5}))), tpm());
        let sent = bulk_create(&[(&first, Status::Enabled), (&second, Status::Disabled)]);
        let golden = json!({"mode": "create", "enrollments": [
            {"registrationId": "unit-0002", "deviceId": "Unit-0002", "provisioningStatus": "enabled",
             "attestation": {"type": "x509", "x509": {"clientCertificates": {"primary": {"certificate": "bGVhZg=="}}}},
             "initialTwin": {"properties": {"desired": {"interval": 5}}}},
            {"registrationId": "unit-0002", "deviceId": "Unit-0002", "provisioningStatus": "disabled",
             "attestation": {"type": "tpm", "tpm": {"endorsementKey": "AToAAQ==", "storageRootKey": "AAA="}}},
        ]});
        assert_eq!(sent, golden);
    }

    #[test]
    fn what_the_service_gives_back_is_no_difference() {
        let thumbprint = Digest::of(b"leaf").to_string().to_ascii_uppercase();
        let body = json!({
            "registrationId": "Unit-0002", "deviceId": "Unit-0002",
            "registrationState": {"registrationId": "unit-0002", "status": "unassigned", "etag": "\"x\""},
            "attestation": {"type": "x509", "x509": {"clientCertificates": {
                "primary": {"info": {"subjectName": "CN=unit-0002", "sha256Thumbprint": thumbprint}},
                "secondary": null}, "signingCertificates": null, "caReferences": null}},
            "capabilities": {"iotEdge": false},
            "etag": "\"13003fea-0000-0300-0000-62d1d5e50000\"",
            "provisioningStatus": "enabled",
            "reprovisionPolicy": {"updateHubAssignment": true, "migrateDeviceData": true},
            "createdDateTimeUtc": "2022-07-13T17:51:33.1234567Z",
            "lastUpdatedDateTimeUtc": "2022-07-13T17:51:33.1234567Z",
            "allocationPolicy": "hashed", "iotHubs": null, "initialTwin": null,
        });
        let held = held(body).unwrap();
        assert_eq!(difference(&x509(None), Status::Enabled, &held), []);
        assert_eq!(held.etag, "\"13003fea-0000-0300-0000-62d1d5e50000\"");
        assert_eq!(held.registration_status.as_deref(), Some("unassigned"));
    }

    #[test]
    fn all_that_a_product_says_is_sent_as_the_service_spells_it() {
        let content = Content {
            iot_edge: true,
            allocation: Some(Allocation::Custom {
                webhook_url: "https://x".to_owned(),
                api_version: "2019-03-31".to_owned(),
            }),
            iot_hubs: vec!["hub.azure-devices.net".to_owned()],
            reprovision: Some(Reprovision::ReprovisionAndResetData),
            ca_reference: Some("factory-root".to_owned()),
            filled: None,
        };
        let sent = enrollment(
            &Enrollment {
                initial_tags: Some(json!({"line": "3"})),
                content,
                ..x509(None)
            },
            Status::Enabled,
        );
        let golden = json!({
            "registrationId": "unit-0002", "deviceId": "Unit-0002", "provisioningStatus": "enabled",
            "attestation": {"type": "x509", "x509": {"caReferences": {"primary": "factory-root"}}},
            "initialTwin": {"tags": {"line": "3"}}, "capabilities": {"iotEdge": true},
            "allocationPolicy": "custom", "iotHubs": ["hub.azure-devices.net"],
            "customAllocationDefinition": {"webhookUrl": "https://x", "apiVersion": "2019-03-31"},
            "reprovisionPolicy": {"updateHubAssignment": true, "migrateDeviceData": false},
        });
        assert_eq!(sent, golden);
    }

    #[test]
    fn another_status_changes_nothing_else_that_the_service_holds() {
        let ours = x509(None);
        let thumbprint = Digest::of(b"leaf").to_string();
        let read = json!({
            "registrationId": "Unit-0002", "deviceId": "Unit-0002", "etag": "\"1\"",
            "registrationState": {"registrationId": "unit-0002", "status": "assigned"},
            "attestation": {"type": "x509", "x509": {"clientCertificates": {
                "primary": {"info": {"sha256Thumbprint": thumbprint}}, "secondary": null}}},
            "provisioningStatus": "enabled", "allocationPolicy": "geoLatency",
            "initialTwin": {"tags": {"customer": "x"}}, "ofALaterService": {"a": [1]},
        });
        let body = with_status(&ours, &held(read.clone()).unwrap(), Status::Disabled);
        let mut wanted = read;
        wanted["provisioningStatus"] = json!("disabled");
        wanted["attestation"]["x509"]["clientCertificates"]["primary"] =
            json!({"certificate": "bGVhZg=="});
        wanted.as_object_mut().unwrap().remove("registrationState");
        assert_eq!(body, wanted);
    }

    #[test]
    fn a_second_way_in_is_seen() {
        let thumbprint = Digest::of(b"leaf").to_string();
        for beside in [
            json!({"clientCertificates": {"primary": {"info": {"sha256Thumbprint": thumbprint}},
                "secondary": {"info": {}}}}),
            json!({"clientCertificates": {"primary": {"info": {"sha256Thumbprint": thumbprint}}},
                "caReferences": {"primary": "factory-root"}}),
        ] {
            let seen = attestation(&json!({"type": "x509", "x509": beside}));
            assert!(matches!(seen, HeldAttestation::X509 { others: true, .. }));
        }
    }

    #[test]
    fn a_tpm_record_is_read_with_and_without_its_storage_root_key() {
        for srk in [json!(null), json!("AAA=")] {
            let body = json!({"registrationId": "unit-0002", "deviceId": "Unit-0002",
                "attestation": {"type": "tpm", "tpm": {"endorsementKey": "AToAAQ==", "storageRootKey": srk}}});
            let held = held(body).unwrap();
            assert_eq!(difference(&tpm(), Status::Enabled, &held), []);
        }
    }

    #[test]
    fn a_bulk_answer_keeps_every_error_whatever_its_form() {
        let answer = bulk_answer(&json!({"isSuccessful": false, "errors": [
            {"registrationId": "a", "errorCode": 409_201, "errorStatus": "exists"}, {}, null,
        ]}));
        let answer = answer.unwrap();
        assert_eq!(answer.errors.len(), 3);
        assert_eq!(answer.errors[0].code, 409_201);
        let all_well = bulk_answer(&json!({"isSuccessful": true, "errors": null})).unwrap();
        assert!(all_well.successful && all_well.errors.is_empty());
    }

    #[test]
    fn nonsense_is_an_error_and_never_a_panic() {
        for body in [
            json!(null),
            json!(1),
            json!([]),
            json!({}),
            json!({"isSuccessful": "yes"}),
            json!({"isSuccessful": true, "errors": {}}),
            json!({"registrationId": 7}),
            json!({"registrationId": "a", "provisioningStatus": "perhaps"}),
        ] {
            assert!(held(body.clone()).is_err());
            assert!(bulk_answer(&body).is_err());
        }
        assert!(page(json!({})).is_err());
        assert_eq!(page(json!([])), Ok(vec![]));
        let odd = held(
            json!({"registrationId": "a", "attestation": {"type": "tpm", "tpm": {"endorsementKey": "!"}}}),
        );
        assert_eq!(
            odd.unwrap().attestation,
            HeldAttestation::Other("tpm".to_owned())
        );
    }
}
