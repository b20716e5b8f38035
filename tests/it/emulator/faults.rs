//! What goes wrong on demand: each fault is what it says, and has the effect that it says and no other.

use super::support::{Cloud, Reply, sample_tpm, text};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// How long a client waits for a listener to come back.
const BACK_MAX: Duration = Duration::from_secs(60);

fn bulk(ids: &[&str]) -> Value {
    let entries: Vec<_> = ids.iter().map(|id| sample_tpm(id)).collect();
    json!({"mode": "create", "enrollments": entries})
}

/// The ten entries of a bulk operation, sent while this goes wrong.
async fn ten(cloud: &Cloud, faults: Value) -> reqwest::Result<Reply> {
    cloud.faults(faults).await;
    let ids: Vec<_> = (0..10).map(|n| format!("u{n}")).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    cloud
        .try_call(Method::POST, "/enrollments", &bulk(&ids))
        .await
}

#[tokio::test]
async fn each_has_its_answer_and_its_effect() {
    let gone = None;
    for (fault, status, taken) in [
        ("timeOut", Some(408), 0),
        ("throttle", Some(429), 0),
        ("fail", Some(500), 0),
        ("unavailable", Some(503), 0),
        ("failBulk", Some(400), 0),
        ("dropBeforeCommit", gone, 0),
        ("dropAfterCommit", gone, 10),
        ("cutReply", gone, 10),
    ] {
        let cloud = Cloud::start().await;
        let reply = ten(&cloud, json!({ fault: 1 })).await;
        assert_eq!(reply.ok().map(|reply| reply.status), status, "{fault}");
        assert_eq!(cloud.ops().len(), taken, "{fault}");
        // Once, and then no more.
        let next = cloud.post("/enrollments", Some(&bulk(&["next"]))).await;
        assert_eq!(next.body["isSuccessful"], true, "{fault}: {next:?}");
        assert_eq!(cloud.ops().len(), taken + 1, "{fault}");
    }
}

#[tokio::test]
async fn a_part_of_a_bulk_operation_is_refused() {
    let cloud = Cloud::start().await;
    let reply = ten(&cloud, json!({"partialBulk": 1, "seed": 3}))
        .await
        .unwrap();
    assert_eq!(
        (reply.status, &reply.body["isSuccessful"]),
        (200, &json!(false))
    );
    let refused: Vec<_> = reply.body["errors"].as_array().unwrap().iter().collect();
    assert!((1..10).contains(&refused.len()), "{refused:?}");
    for refused in &refused {
        assert_eq!(refused["errorCode"], 500_001);
        assert!(!cloud.ids().contains(&text(&refused["registrationId"])));
    }
    assert_eq!(cloud.ids().len() + refused.len(), 10);
}

#[tokio::test]
async fn a_condition_that_held_fails() {
    let cloud = Cloud::start().await;
    cloud.put("/enrollments/a", &sample_tpm("a"), None).await;
    cloud.faults(json!({"preconditionFailed": 1})).await;
    // What has no condition is not hit.
    assert_eq!(cloud.get("/enrollments/a").await.status, 200);
    assert_eq!(cloud.delete("/enrollments/a", Some("*")).await.status, 412);
    assert_eq!(cloud.delete("/enrollments/a", Some("*")).await.status, 204);
}

#[tokio::test]
async fn a_busy_service_says_when_to_come_back_in_every_form() {
    let cloud = Cloud::start().await;
    let (hour, skew) = (3600, 7200);
    let asked = json!({"throttle": 1, "unavailable": 1, "retryAfterSeconds": hour, "clockSkewSeconds": skew});
    for form in ["seconds", "date", "none"] {
        let mut faults = asked.clone();
        faults["retryAfter"] = json!(form);
        cloud.faults(faults).await;
        for status in [429, 503] {
            let reply = cloud.get("/enrollments/x").await;
            assert_eq!(reply.status, status);
            let date = |text: &str| OffsetDateTime::parse(text, &Rfc2822).unwrap();
            let now = date(reply.date.as_deref().unwrap());
            let ahead = now - OffsetDateTime::from(SystemTime::now());
            assert!((skew - 120..skew + 120).contains(&ahead.whole_seconds()));
            match (form, reply.retry_after.as_deref()) {
                ("seconds", Some(after)) => assert_eq!(after, "3600"),
                ("date", Some(after)) => {
                    let pause = (date(after) - now).whole_seconds();
                    assert!((hour..hour + 5).contains(&pause), "{pause}");
                }
                ("none", None) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_quota_counts_records_in_a_window_and_every_arrival_is_on_record() {
    let cloud = Cloud::start().await;
    let quota = json!({"operations": 12, "windowMilliseconds": 60_000});
    assert_eq!(
        ten(&cloud, json!({ "quota": quota })).await.unwrap().status,
        200
    );
    assert_eq!(cloud.get("/enrollments/u0").await.status, 200);
    assert_eq!(
        cloud
            .post("/enrollments", Some(&bulk(&["a", "b"])))
            .await
            .status,
        429
    );
    assert_eq!(cloud.get("/enrollments/u0").await.status, 200);
    let refused = cloud.get("/enrollments/u0").await;
    assert_eq!(refused.status, 429);
    let after: u64 = refused.retry_after.unwrap().parse().unwrap();
    assert!((1..=60).contains(&after));
    assert_eq!(cloud.ops().len(), 10);
    let arrivals = cloud.lines("arrivals.jsonl");
    let counts: Vec<_> = arrivals
        .iter()
        .map(|line| (line["operations"].clone(), line["carriedOut"].clone()))
        .collect();
    let expected = [(10, true), (1, true), (2, false), (1, true), (1, false)];
    assert_eq!(
        counts,
        expected.map(|(count, carried)| (json!(count), json!(carried)))
    );

    // What has left the window makes room again, after as long as was said.
    let quota = json!({"operations": 10, "windowMilliseconds": 300});
    cloud.faults(json!({ "quota": quota })).await;
    let mut reply = cloud.post("/enrollments", Some(&bulk(&["c"; 10]))).await;
    assert_eq!(reply.status, 200);
    let began = Instant::now();
    loop {
        reply = cloud.get("/enrollments/u0").await;
        match reply.status {
            200 => break,
            _ => assert!(began.elapsed() < BACK_MAX, "{reply:?}"),
        }
        let after: u64 = reply.retry_after.unwrap().parse().unwrap();
        tokio::time::sleep(Duration::from_secs(after)).await;
    }
}

#[tokio::test]
async fn nobody_listens_for_a_time() {
    let cloud = Cloud::start().await;
    let reply = ten(&cloud, json!({"absent": 1, "absentMilliseconds": 500})).await;
    assert!(reply.is_err(), "{reply:?}");
    let refused = cloud.try_put("/enrollments/a", &sample_tpm("a")).await;
    assert!(refused.unwrap_err().is_connect());
    let began = Instant::now();
    loop {
        match cloud.try_put("/enrollments/a", &sample_tpm("a")).await {
            Ok(reply) => break assert_eq!(reply.status, 200),
            Err(error) => assert!(error.is_connect() && began.elapsed() < BACK_MAX, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(cloud.ids(), ["a"]);
}

#[tokio::test]
async fn a_slow_reply_keeps_nobody_else_waiting() {
    let cloud = Cloud::start().await;
    cloud
        .faults(json!({"slow": 1, "slowMilliseconds": 60_000}))
        .await;
    let enrollment = sample_tpm("slow");
    let mut slow = std::pin::pin!(cloud.put("/enrollments/slow", &enrollment, None));
    let others = async {
        let began = Instant::now();
        while cloud.ids().is_empty() {
            assert!(began.elapsed() < BACK_MAX);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cloud.get("/enrollments/slow").await
    };
    tokio::select! {
        reply = &mut slow => panic!("not held back: {reply:?}"),
        reply = others => assert_eq!(reply.status, 200),
    }
}

#[tokio::test]
async fn chance_is_the_same_each_time_that_its_seed_is() {
    let cloud = Cloud::start().await;
    let mut runs = Vec::new();
    for seed in [7, 7, 8] {
        let chance = json!({"throttle": 0.2, "timeOut": 0.2, "fail": 0.2});
        cloud.faults(json!({"seed": seed, "chance": chance})).await;
        let mut statuses = Vec::new();
        for _ in 0..40 {
            statuses.push(cloud.get("/enrollments/x").await.status);
        }
        for status in [404, 408, 429, 500] {
            assert!(statuses.contains(&status), "seed {seed}: {statuses:?}");
        }
        runs.push(statuses);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}
