//! Devices that register with certificates of the openssl program and with symmetric keys.

use super::support::{self, Cloud, Pki, text};
use dps_station::fixtures::first_boot::{BootError, Transport};
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn a_device_with_an_enrolled_certificate_gets_its_hub_and_its_twin() {
    let cloud = Cloud::with(|o| o.assigning_polls = 1).await;
    let pki = Pki::new();
    let leaf = pki.self_signed("Unit-3");
    let mut body = support::x509("unit-3", &leaf.pem());
    body["deviceId"] = json!("UNIT-3");
    body["initialTwin"] = json!({"tags": {"line": "3"}, "properties": {"desired": {"rate": 5}}});
    cloud.put("/enrollments/unit-3", &body, None).await;

    let booted = cloud.boot("unit-3", &[&leaf], &leaf).await.unwrap();
    assert_eq!(booted.device_id, "UNIT-3");
    assert!(booted.assigned_hub.starts_with("hub-"));
    assert_eq!(booted.desired["rate"], 5);
    assert_eq!(booted.desired["$version"], 1);
    let first = cloud.events();
    assert_eq!(first, ["assigned", "hub_authenticated", "twin_read"]);

    let state = cloud.get("/registrations/unit-3").await;
    assert_eq!(state.body["status"], "assigned");
    assert_eq!(state.body["substatus"], "initialAssignment");
    assert_eq!(state.body["assignedHub"], booted.assigned_hub.as_str());
    let over_mqtt = cloud
        .boot_over(Transport::Mqtt, "unit-3", &[&leaf], &leaf)
        .await;
    assert_eq!(over_mqtt.unwrap(), booted);
    assert_eq!(cloud.events(), [first.clone(), first].concat());
}

#[tokio::test]
async fn a_device_that_is_not_enrolled_as_it_says_is_refused() {
    let cloud = Cloud::start().await;
    let pki = Pki::new();
    let (enrolled, other) = (pki.self_signed("unit-4"), pki.self_signed("unit-4"));
    let stranger = pki.self_signed("unit-5");
    let expired = pki.expired("unit-6");
    let body = support::x509("unit-4", &enrolled.pem());
    cloud.put("/enrollments/unit-4", &body, None).await;
    let body = support::x509("unit-6", &expired.pem());
    cloud.put("/enrollments/unit-6", &body, None).await;
    for (id, leaf) in [
        ("unit-4", &other),
        ("unit-4", &stranger),
        ("unit-5", &stranger),
        ("unit-6", &expired),
    ] {
        for over in [Transport::Https, Transport::Mqtt] {
            let error = cloud.boot_over(over, id, &[leaf], leaf).await.unwrap_err();
            let refused = matches!(
                error,
                BootError::Refused {
                    status: 401,
                    code: 401_002,
                    ..
                }
            );
            assert!(refused, "{id}: {error}");
        }
    }

    let mut body = support::x509("unit-4", &enrolled.pem());
    body["provisioningStatus"] = json!("disabled");
    cloud.put("/enrollments/unit-4", &body, Some("*")).await;
    for over in [Transport::Https, Transport::Mqtt] {
        let error = cloud
            .boot_over(over, "unit-4", &[&enrolled], &enrolled)
            .await;
        let error = error.unwrap_err();
        assert!(
            matches!(&error, BootError::NotAssigned { status, .. } if status == "disabled"),
            "{error}"
        );
    }
    assert_eq!(cloud.events(), ["refused", "refused"]);
}

#[tokio::test]
async fn a_group_takes_its_members_by_a_whole_chain_only() {
    let cloud = Cloud::start().await;
    let pki = Pki::new();
    let root = pki.root("root");
    let issuing = pki.authority("issuing", &root);
    let leaf = pki.leaf("unit-7", &issuing);
    let body = support::group("line-3", &root.pem());
    let reply = cloud.put("/enrollmentGroups/line-3", &body, None).await;
    assert_eq!(reply.status, 200, "{reply:?}");

    let error = cloud.boot("unit-7", &[&leaf], &leaf).await.unwrap_err();
    let missing = matches!(&error, BootError::Refused { status: 401, message, .. } if message == "CA certificate not found.");
    assert!(missing, "{error}");
    let booted = cloud
        .boot("unit-7", &[&leaf, &issuing], &leaf)
        .await
        .unwrap();
    assert_eq!(booted.device_id, "unit-7");
    let over_mqtt = cloud
        .boot_over(Transport::Mqtt, "unit-7", &[&leaf, &issuing], &leaf)
        .await;
    assert_eq!(over_mqtt.unwrap(), booted);
    let members = cloud.post("/registrations/line-3/query", None).await;
    assert_eq!(members.body[0]["registrationId"], "unit-7");

    // A group of the nearer signer decides, even when it is disabled.
    let mut nearer = support::group("line-3b", &issuing.pem());
    nearer["provisioningStatus"] = json!("disabled");
    cloud.put("/enrollmentGroups/line-3b", &nearer, None).await;
    let error = cloud
        .boot("unit-7", &[&leaf, &issuing], &leaf)
        .await
        .unwrap_err();
    assert!(matches!(error, BootError::NotAssigned { .. }), "{error}");
    cloud.delete("/enrollmentGroups/line-3b", None).await;

    // One member is kept out by a disabled enrollment of its own.
    let mut alone = support::x509("unit-7", &leaf.pem());
    alone["provisioningStatus"] = json!("disabled");
    cloud.put("/enrollments/unit-7", &alone, None).await;
    let error = cloud
        .boot("unit-7", &[&leaf, &issuing], &leaf)
        .await
        .unwrap_err();
    assert!(matches!(error, BootError::NotAssigned { .. }), "{error}");
}

#[tokio::test]
async fn a_group_refers_to_a_certificate_whose_owner_proved_possession() {
    let cloud = Cloud::start().await;
    let pki = Pki::new();
    let root = pki.root("factory");
    let path = "/emulator/certificates/factory";
    let body = json!({"properties": {"certificate": root.pem()}});
    let uploaded = cloud.put(path, &body, None).await;
    assert_eq!(uploaded.status, 200, "{uploaded:?}");
    let reference = json!({"type": "x509", "x509": {"caReferences": {"primary": "factory"}}});
    let group = json!({"enrollmentGroupId": "g", "attestation": reference});
    assert_eq!(
        cloud.put("/enrollmentGroups/g", &group, None).await.status,
        400
    );

    let etag = text(&uploaded.body["etag"]);
    let code = cloud
        .call(
            Method::POST,
            &format!("{path}/generateVerificationCode"),
            None,
            &[("if-match", &etag)],
        )
        .await;
    let (etag, name) = (
        text(&code.body["etag"]),
        text(&code.body["properties"]["verificationCode"]),
    );
    let verify = format!("{path}/verify");
    for (proof, status) in [
        (pki.leaf("WRONG", &root), 400),
        (pki.self_signed(&name), 400),
        (pki.leaf(&name, &root), 200),
    ] {
        let body = json!({"certificate": proof.pem()});
        let headers = [("if-match", etag.as_str())];
        let reply = cloud
            .call(Method::POST, &verify, Some(&body), &headers)
            .await;
        assert_eq!(reply.status, status, "{reply:?}");
    }
    let reply = cloud.put("/enrollmentGroups/g", &group, None).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let leaf = pki.leaf("unit-8", &root);
    cloud.boot("unit-8", &[&leaf], &leaf).await.unwrap();
}

#[tokio::test]
async fn a_symmetric_key_member_of_a_group_registers() {
    let cloud = Cloud::start().await;
    let group = json!({"enrollmentGroupId": "keys", "attestation": {"type": "symmetricKey"}});
    cloud.put("/enrollmentGroups/keys", &group, None).await;
    let secret = cloud
        .post("/enrollmentGroups/keys/attestationmechanism", None)
        .await;
    let group_key = text(&secret.body["symmetricKey"]["secondaryKey"]);
    let key = support::derive(&group_key, "unit-9");
    let resource = format!("{}%2fregistrations%2funit-9", cloud.id_scope());
    let later = support::now() + 60;
    let path = format!("/{}/registrations/unit-9/register", cloud.id_scope());
    let body = json!({"registrationId": "unit-9", "payload": null});
    for (token, status) in [
        (
            support::token(&key, &resource, later, Some("registration")),
            202,
        ),
        (support::token(&key, &resource, later, None), 202),
        (support::token(&key, &resource, later, Some("owner")), 401),
        (support::token(&group_key, &resource, later, None), 401),
    ] {
        let headers = [("authorization", token.as_str())];
        let reply = cloud.call(Method::PUT, &path, Some(&body), &headers).await;
        assert_eq!(reply.status, status, "{reply:?}");
    }
}

#[tokio::test]
async fn a_later_contact_follows_the_reprovision_policy() {
    let cloud = Cloud::start().await;
    let pki = Pki::new();
    let leaf = pki.self_signed("unit-12");
    let (a, b) = ("hub-a.azure-devices.net", "hub-b.azure-devices.net");
    let mut body = support::x509("unit-12", &leaf.pem());
    body["allocationPolicy"] = json!("static");
    // Hub wanted, update, migrate; then hub got, rate in the twin, substatus.
    for (rate, (wanted, update, migrate), (hub, read, substatus)) in [
        (1, (a, true, true), (a, 1, "initialAssignment")),
        (2, (b, true, true), (b, 1, "deviceDataMigrated")),
        (3, (a, true, false), (a, 3, "deviceDataReset")),
        (
            4,
            (b, false, false),
            (a, 3, "reprovisionedToInitialAssignment"),
        ),
    ] {
        body["iotHubs"] = json!([wanted]);
        body["reprovisionPolicy"] =
            json!({"updateHubAssignment": update, "migrateDeviceData": migrate});
        body["initialTwin"] = json!({"properties": {"desired": {"rate": rate}}});
        let condition = (rate > 1).then_some("*");
        let reply = cloud.put("/enrollments/unit-12", &body, condition).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let booted = cloud.boot("unit-12", &[&leaf], &leaf).await.unwrap();
        assert_eq!(
            (booted.assigned_hub.as_str(), &booted.desired["rate"]),
            (hub, &json!(read))
        );
        let state = cloud.get("/registrations/unit-12").await;
        assert_eq!(state.body["substatus"], substatus);
    }
    // A deleted registration state makes the next contact a first one.
    assert_eq!(
        cloud.delete("/registrations/unit-12", None).await.status,
        204
    );
    let booted = cloud.boot("unit-12", &[&leaf], &leaf).await.unwrap();
    assert_eq!(
        (booted.assigned_hub.as_str(), &booted.desired["rate"]),
        (b, &json!(4))
    );
}
