//! The emulated cloud, driven by plain HTTPS, hand-made tokens and certificates of the openssl program.

#![allow(clippy::unwrap_used)]

mod alone;
mod bench;
mod clients;
mod devices;
mod faults;
mod killed;
mod mqtt;
pub mod support;
mod tpm;

use dps_station::fixtures::dps::{Policy, Right};
use dps_station::fixtures::first_boot::Transport;
use reqwest::Method;
use serde_json::json;
use std::fs::{self, OpenOptions};
use std::io::Write;
use support::{Cloud, Pki, SAMPLE_EK, sample_tpm, text};

#[tokio::test]
async fn an_enrollment_is_created_read_updated_and_deleted() {
    let cloud = Cloud::start().await;
    let path = "/enrollments/Unit-1";
    let created = cloud.put(path, &sample_tpm("unit-1"), None).await;
    assert_eq!(created.status, 200, "{created:?}");
    assert_eq!(created.body["provisioningStatus"], "enabled");
    assert_eq!(created.body["registrationState"]["status"], "unassigned");
    assert_eq!(
        created.body["attestation"]["tpm"]["endorsementKey"],
        SAMPLE_EK
    );
    let etag = text(&created.body["etag"]);
    assert!(etag.starts_with('"') && etag.ends_with('"'));

    let again = cloud.put(path, &sample_tpm("unit-1"), None).await;
    assert_eq!(again.status, 409);
    assert_eq!(again.error_code.as_deref(), Some("409201"));
    assert_eq!(again.body["errorCode"], 409_201);
    assert!(again.body["trackingId"].is_string() && again.body["timestampUtc"].is_string());
    let stale = cloud
        .put(path, &sample_tpm("unit-1"), Some("\"other\""))
        .await;
    assert_eq!(stale.status, 412);

    let bare = etag.trim_matches('"');
    let updated = cloud.put(path, &sample_tpm("unit-1"), Some(bare)).await;
    assert_eq!(updated.status, 200);
    assert_ne!(updated.body["etag"], created.body["etag"]);
    assert_eq!(
        updated.body["createdDateTimeUtc"],
        created.body["createdDateTimeUtc"]
    );
    let read = cloud.get("/ENROLLMENTS/unit%2D1/").await;
    assert_eq!(read.body, updated.body);

    assert_eq!(cloud.delete(path, Some(bare)).await.status, 412);
    assert_eq!(cloud.delete(path, None).await.status, 204);
    let gone = cloud.get(path).await;
    assert_eq!(
        (gone.status, &gone.body["errorCode"]),
        (404, &json!(404_201))
    );
    assert_eq!(cloud.delete(path, None).await.status, 404);
    assert_eq!(
        cloud
            .put(path, &sample_tpm("unit-1"), Some("*"))
            .await
            .status,
        404
    );
    assert_eq!(cloud.ops(), ["create", "update", "delete"]);
}

#[tokio::test]
async fn secrets_are_given_out_by_attestationmechanism_only() {
    let cloud = Cloud::start().await;
    let keys = json!({"registrationId": "k", "attestation": {"type": "symmetricKey"}});
    let created = cloud.put("/enrollments/k", &keys, None).await;
    assert_eq!(created.body["attestation"], json!({"type": "symmetricKey"}));
    let secret = cloud
        .post("/enrollments/k/attestationmechanism", None)
        .await;
    let key = text(&secret.body["symmetricKey"]["primaryKey"]);
    assert_eq!(
        data_encoding::BASE64.decode(key.as_bytes()).unwrap().len(),
        64
    );

    // What was read can be written back: the keys stay.
    let kept = cloud.put("/enrollments/k", &created.body, Some("*")).await;
    assert_eq!(kept.status, 200, "{kept:?}");
    let after = cloud
        .post("/enrollments/k/attestationmechanism", None)
        .await;
    assert_eq!(after.body, secret.body);
}

#[tokio::test]
async fn a_certificate_is_read_in_three_forms_and_answered_as_info() {
    let cloud = Cloud::start().await;
    let pki = Pki::new();
    let leaf = pki.self_signed("unit-2");
    let pem = leaf.pem();
    let der = data_encoding::BASE64.encode(&leaf.der());
    let whole = data_encoding::BASE64.encode(pem.as_bytes());
    let mut infos = Vec::new();
    for form in [pem, der, whole] {
        let body = support::x509("unit-2", &form);
        let reply = cloud.put("/enrollments/unit-2", &body, None).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let primary = &reply.body["attestation"]["x509"]["clientCertificates"]["primary"];
        assert!(primary.get("certificate").is_none());
        assert_eq!(primary["info"]["subjectName"], "CN=unit-2");
        let kept = cloud
            .put("/enrollments/unit-2", &reply.body, Some("*"))
            .await;
        assert_eq!(kept.status, 200, "{kept:?}");
        infos.push(primary["info"]["sha1Thumbprint"].clone());
        cloud.delete("/enrollments/unit-2", None).await;
    }
    let expected = leaf.openssl_fingerprint("-sha1");
    assert!(
        infos.iter().all(|info| *info == expected.as_str()),
        "{infos:?}"
    );
}

#[tokio::test]
async fn what_is_not_an_enrollment_is_refused() {
    let cloud = Cloud::start().await;
    let bad = [
        json!({"registrationId": "x"}),
        json!({"registrationId": "other", "attestation": sample_tpm("x")["attestation"]}),
        json!({"registrationId": "x", "attestation": {"type": "tpm"}}),
        json!({"registrationId": "x", "attestation": {"type": "tpm", "tpm": {"endorsementKey": "AAAA"}}}),
        json!({"registrationId": "x", "attestation": {"type": "x509", "tpm": {"endorsementKey": SAMPLE_EK}}}),
        support::x509("x", "not a certificate"),
        json!({"registrationId": "x", "iotHubs": ["stranger.example"], "attestation": sample_tpm("x")["attestation"]}),
        json!({"registrationId": "x", "allocationPolicy": "static", "attestation": sample_tpm("x")["attestation"]}),
    ];
    for body in &bad {
        let reply = cloud.put("/enrollments/x", body, None).await;
        assert_eq!(reply.status, 400, "{body} {reply:?}");
    }
    let group = json!({"enrollmentGroupId": "g", "attestation": sample_tpm("x")["attestation"]});
    assert_eq!(
        cloud.put("/enrollmentGroups/g", &group, None).await.status,
        400
    );
    assert_eq!(
        cloud
            .put("/enrollments", &sample_tpm("x"), None)
            .await
            .status,
        405
    );
    assert!(cloud.ops().is_empty());
}

#[tokio::test]
async fn tokens_are_checked_for_key_resource_time_and_right() {
    let reader = Policy::generate("reader", &[Right::EnrollmentRead]);
    let owner = Policy::owner();
    let cloud = Cloud::with(|o| o.policies = vec![owner.clone(), reader.clone()]).await;
    let later = support::now() + 3600;
    let token = |key: &str, resource: &str, expiry: i64, policy: &str| {
        support::token(key, resource, expiry, Some(policy))
    };
    let (primary, secondary) = (&owner.primary_key, &owner.secondary_key);
    let name = &owner.name;
    let cases = [
        (token(primary, "localhost", later, name), 404),
        (token(secondary, "localhost", later, name), 404),
        (
            token(primary, "localhost%2fenrollments%2Fnone", later, name),
            404,
        ),
        (token(primary, "LOCALHOST", later, name), 404),
        (
            token(&reader.primary_key, "localhost", later, "reader"),
            404,
        ),
        (
            token(primary, "localhost%2fenrollments%2Fnon", later, name),
            401,
        ),
        (token(primary, "elsewhere", later, name), 401),
        (token(primary, "localhost", support::now() - 1, name), 401),
        (token(primary, "localhost", later, "reader"), 401),
        (token(&reader.primary_key, "localhost", later, name), 401),
        ("SharedAccessSignature sr=localhost".to_owned(), 401),
        ("Bearer x".to_owned(), 401),
        (String::new(), 401),
    ];
    for (token, status) in cases {
        let reply = cloud
            .call(
                Method::GET,
                "/enrollments/none",
                None,
                &[("authorization", &token)],
            )
            .await;
        assert_eq!(reply.status, status, "{token}");
    }
    let read_only = token(&reader.primary_key, "localhost", later, "reader");
    let reply = cloud
        .call(
            Method::PUT,
            "/enrollments/x",
            Some(&sample_tpm("x")),
            &[("authorization", &read_only)],
        )
        .await;
    assert_eq!(reply.status, 401);
    let unversioned = cloud.raw(Method::GET, "/enrollments/none", None, &[]).await;
    assert_eq!(unversioned.status, 400);
}

#[tokio::test]
async fn one_bad_record_of_a_bulk_does_not_stop_the_others() {
    let cloud = Cloud::start().await;
    cloud
        .put("/enrollments/old", &sample_tpm("old"), None)
        .await;
    cloud.faults(json!({"refuseInBulk": ["bad"]})).await;
    let entries = json!([sample_tpm("a"), sample_tpm("old"), sample_tpm("bad"), sample_tpm("A"), {"registrationId": "odd"}, sample_tpm("b")]);
    let body = json!({"mode": "create", "enrollments": entries});
    let reply = cloud.post("/enrollments/", Some(&body)).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.body["isSuccessful"], false);
    let refused: Vec<_> = reply.body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| {
            (
                text(&e["registrationId"]),
                e["errorCode"].as_u64().unwrap() / 1000,
            )
        })
        .collect();
    let expected = [("old", 409), ("bad", 500), ("A", 400), ("odd", 400)];
    assert_eq!(refused, expected.map(|(id, code)| (id.to_owned(), code)));
    assert_eq!(cloud.ids(), ["old", "a", "b"]);

    let none = json!({"mode": "create", "enrollments": []});
    assert_eq!(cloud.post("/enrollments", Some(&none)).await.status, 400);
    let many: Vec<_> = (0..11).map(|n| sample_tpm(&format!("n{n}"))).collect();
    let many = json!({"mode": "create", "enrollments": many});
    assert_eq!(cloud.post("/enrollments", Some(&many)).await.status, 400);
    let gone = json!({"mode": "delete", "enrollments": [{"registrationId": "a"}, {"registrationId": "b"}]});
    let gone = cloud.post("/enrollments", Some(&gone)).await;
    assert_eq!(gone.body, json!({"isSuccessful": true, "errors": []}));
}

#[tokio::test]
async fn pages_of_a_query_give_every_record_once() {
    let cloud = Cloud::start().await;
    for n in 0..7 {
        let id = format!("q{n}");
        cloud
            .put(&format!("/enrollments/{id}"), &sample_tpm(&id), None)
            .await;
    }
    let mut found = Vec::new();
    let mut continuation = String::new();
    loop {
        let headers = [
            ("x-ms-max-item-count", "3"),
            ("x-ms-continuation", continuation.as_str()),
        ];
        let body = json!({"query": "SELECT * FROM enrollments"});
        let page = cloud
            .call(Method::POST, "/enrollments/query", Some(&body), &headers)
            .await;
        assert_eq!(page.status, 200, "{page:?}");
        let items = page.body.as_array().unwrap().clone();
        found.extend(items.iter().map(|item| text(&item["registrationId"])));
        match page.continuation {
            Some(next) => continuation = next,
            None => break,
        }
    }
    assert_eq!(found, (0..7).map(|n| format!("q{n}")).collect::<Vec<_>>());
    let filtered = json!({"query": "SELECT * FROM enrollments WHERE deviceId = 'x'"});
    let refused = cloud.post("/enrollments/query", Some(&filtered)).await;
    assert_eq!(refused.status, 400);
}

/// Each is what a client of Microsoft's sends in its samples or its own tests.
#[tokio::test]
async fn the_queries_and_the_empty_keys_of_microsofts_samples_are_taken() {
    let cloud = Cloud::start().await;
    let empty = json!({"primaryKey": "", "secondaryKey": ""});
    let attestation = json!({"type": "symmetricKey", "symmetricKey": empty});
    let body = json!({"enrollmentGroupId": "g", "attestation": attestation});
    let created = cloud.put("/enrollmentGroups/g", &body, None).await;
    assert_eq!(created.status, 200, "{created:?}");
    let path = "/enrollmentGroups/g/attestationmechanism";
    let keys = cloud.post(path, None).await.body["symmetricKey"].clone();
    assert_ne!(keys["primaryKey"], keys["secondaryKey"]);
    for name in ["primaryKey", "secondaryKey"] {
        let key = data_encoding::BASE64.decode(text(&keys[name]).as_bytes());
        assert_eq!(key.unwrap().len(), 64);
    }
    for (path, query, records) in [
        ("/enrollments/query", "*", 0),
        ("/enrollmentGroups/query", "*", 1),
        ("/registrations/g/query", "*", 0),
        (
            "/registrations/g/query",
            "SELECT * FROM enrollmentGroups",
            0,
        ),
    ] {
        let page = cloud.post(path, Some(&json!({"query": query}))).await;
        let found = page.body.as_array().map(Vec::len);
        assert_eq!((page.status, found), (200, Some(records)), "{page:?}");
    }
}

#[tokio::test]
async fn a_restart_keeps_authority_keys_and_state_and_forgets_a_torn_line() {
    let cloud = Cloud::start().await;
    let pki = Pki::new();
    let leaf = pki.self_signed("unit-10");
    let body = support::x509("unit-10", &leaf.pem());
    cloud.put("/enrollments/unit-10", &body, None).await;
    let before = cloud.boot("unit-10", &[&leaf], &leaf).await.unwrap();
    let enrollment = cloud.get("/enrollments/unit-10").await.body;
    let connection_string = cloud.emulator().connection_string();
    let authority = fs::read(cloud.emulator().ca_file()).unwrap();

    let cloud = cloud
        .restart(|dir| {
            for name in ["writes.jsonl", "registrations.jsonl"] {
                let mut file = OpenOptions::new()
                    .append(true)
                    .open(dir.join(name))
                    .unwrap();
                file.write_all(b"{\"at\":\"2026-").unwrap();
            }
        })
        .await;
    assert_eq!(cloud.emulator().connection_string(), connection_string);
    assert_eq!(fs::read(cloud.emulator().ca_file()).unwrap(), authority);
    assert_eq!(cloud.get("/enrollments/unit-10").await.body, enrollment);
    let after = cloud.boot("unit-10", &[&leaf], &leaf).await.unwrap();
    assert_eq!(after.assigned_hub, before.assigned_hub);
    cloud
        .put("/enrollments/new", &sample_tpm("new"), None)
        .await;
    assert_eq!(cloud.ids(), ["unit-10", "new"]);
}

#[tokio::test]
async fn faults_strike_as_often_as_asked() {
    let cloud = Cloud::start().await;
    cloud
        .faults(json!({"throttle": 1, "retryAfterSeconds": 7, "fail": 1, "only": "service"}))
        .await;
    let throttled = cloud.get("/enrollments/x").await;
    assert_eq!(
        (throttled.status, throttled.retry_after.as_deref()),
        (429, Some("7"))
    );
    assert_eq!(cloud.get("/enrollments/x").await.status, 500);
    assert_eq!(cloud.get("/enrollments/x").await.status, 404);

    cloud.faults(json!({"dropAfterCommit": 1})).await;
    assert!(
        cloud
            .try_put("/enrollments/lost", &sample_tpm("lost"))
            .await
            .is_err()
    );
    assert_eq!(cloud.get("/enrollments/lost").await.status, 200);

    let pki = Pki::new();
    let leaf = pki.self_signed("unit-11");
    let body = support::x509("unit-11", &leaf.pem());
    cloud.put("/enrollments/unit-11", &body, None).await;
    cloud
        .faults(json!({"only": "device", "throttle": 2, "retryAfterSeconds": 0}))
        .await;
    cloud.boot("unit-11", &[&leaf], &leaf).await.unwrap();
    cloud
        .faults(json!({"throttle": 2, "retryAfterSeconds": 0}))
        .await;
    let over_mqtt = cloud
        .boot_over(Transport::Mqtt, "unit-11", &[&leaf], &leaf)
        .await;
    over_mqtt.unwrap();
}
