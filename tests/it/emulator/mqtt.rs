//! Devices that speak MQTT with DPS and with their hub, and what is refused there.

use super::support::{self, Cloud, Held, Pki, text};
use dps_station::fixtures::first_boot::Transport;
use dps_station::fixtures::mqtt::{PACKET_MAX, Wire, WireError};
use mqtt_protocol_core::mqtt::packet::v3_1_1::{Connect, Publish, Subscribe};
use mqtt_protocol_core::mqtt::packet::{Packet, Qos, SubEntry, SubOpts};
use mqtt_protocol_core::mqtt::result_code::{ConnectReturnCode, SubackReturnCode};
use mqtt_protocol_core::mqtt::role::Client;
use reqwest::Method;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const DPS: &str = "global.azure-devices-provisioning.net";
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A connection, with what was said on it that nobody has asked for yet.
pub struct Line(Wire<Client, TlsStream<TcpStream>>);

/// A message that came: topic, quality, body.
pub type Message = (String, Qos, Vec<u8>);

async fn tls(cloud: &Cloud, host: &str, own: Option<&Held>) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(cloud.emulator().ca_file()).unwrap();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        Some(own) => {
            let key = PrivatePkcs8KeyDer::from(own.key());
            let chain = vec![own.der().into()];
            config.with_client_auth_cert(chain, key.into()).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    let stream = TcpStream::connect(cloud.emulator().mqtt_address());
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector
        .connect(name, stream.await.unwrap())
        .await
        .unwrap()
}

/// What a client says first: host, client ID, user name, password, keep-alive.
pub struct Hello<'a>(
    pub &'a str,
    pub &'a str,
    pub &'a str,
    pub Option<&'a str>,
    pub u16,
);

/// Connects and gives the line, or the code of the refusal.
pub async fn hello(cloud: &Cloud, hello: &Hello<'_>) -> Result<Line, ConnectReturnCode> {
    hello_with(cloud, hello, None).await
}

/// The same, with a certificate.
async fn hello_with(
    cloud: &Cloud,
    hello: &Hello<'_>,
    own: Option<&Held>,
) -> Result<Line, ConnectReturnCode> {
    let Hello(host, id, user, password, keep_alive) = *hello;
    let mut connect = Connect::builder()
        .client_id(id)
        .unwrap()
        .clean_session(false)
        .keep_alive(keep_alive);
    connect = connect.user_name(user).unwrap();
    if let Some(password) = password {
        connect = connect.password(password).unwrap();
    }
    let mut wire = Wire::new(tls(cloud, host, own).await);
    wire.send(connect.build().unwrap()).await.unwrap();
    match wire.receive().await.unwrap() {
        Packet::V3_1_1Connack(answer) if answer.return_code() == ConnectReturnCode::Accepted => {
            assert!(!answer.session_present());
            Ok(Line(wire))
        }
        Packet::V3_1_1Connack(answer) => Err(answer.return_code()),
        other => panic!("{other:?}"),
    }
}

impl Line {
    pub async fn subscribe(&mut self, filter: &str, qos: Qos) -> SubackReturnCode {
        let entry = SubEntry::new(filter, SubOpts::new().set_qos(qos)).unwrap();
        let id = self.0.identifier().unwrap();
        let wish = Subscribe::builder().packet_id(id).entries(vec![entry]);
        self.0.send(wish.build().unwrap()).await.unwrap();
        loop {
            if let Packet::V3_1_1Suback(answer) = self.0.receive().await.unwrap() {
                return answer.return_codes()[0];
            }
        }
    }

    pub async fn publish(&mut self, topic: &str, body: &[u8]) {
        self.0.publish(topic, Qos::AtLeastOnce, body).await.unwrap();
    }

    pub async fn hear(&mut self) -> Message {
        let heard = async {
            loop {
                if let Packet::V3_1_1Publish(message) = self.0.receive().await.unwrap() {
                    let body = message.payload().as_slice().to_vec();
                    return (message.topic_name().to_owned(), message.qos(), body);
                }
            }
        };
        timeout(Duration::from_secs(20), heard).await.unwrap()
    }

    /// Waits until the other side closes.
    async fn end(mut self) {
        let ended = async {
            loop {
                match self.0.receive().await {
                    Err(WireError::Closed | WireError::Stream(_)) => return,
                    other => drop(other.unwrap()),
                }
            }
        };
        timeout(Duration::from_secs(20), ended).await.unwrap();
    }
}

fn json(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

fn with_key(id: &str) -> Value {
    let keys = json!({"primaryKey": KEY, "secondaryKey": KEY});
    json!({"registrationId": id, "attestation": {"type": "symmetricKey", "symmetricKey": keys}})
}

fn dps_user(cloud: &Cloud, id: &str) -> String {
    let version = "api-version=2019-03-31&ClientVersion=test%2F1";
    format!("{}/registrations/{id}/{version}", cloud.id_scope())
}

fn dps_token(cloud: &Cloud, id: &str, key: &str, expiry: i64) -> String {
    let resource = format!("{}%2Fregistrations%2F{id}", cloud.id_scope());
    support::token(key, &resource, expiry, None)
}

/// Registers with a symmetric key over MQTT, and gives the status and body of the last answer.
async fn register(cloud: &Cloud, id: &str, key: &str) -> (String, Value) {
    let (user, later) = (dps_user(cloud, id), support::now() + 60);
    let token = dps_token(cloud, id, key, later);
    let mut line = hello(cloud, &Hello(DPS, id, &user, Some(&token), 60))
        .await
        .unwrap();
    let granted = line
        .subscribe("$dps/registrations/res/#", Qos::AtLeastOnce)
        .await;
    assert_eq!(granted, SubackReturnCode::SuccessMaximumQos1);
    let topic = "$dps/registrations/PUT/iotdps-register/?$rid=a%201";
    line.publish(topic, br#"{"payload":null}"#).await;
    let (topic, qos, body) = line.hear().await;
    assert_eq!(qos, Qos::AtLeastOnce);
    let body = json(&body);
    if topic != "$dps/registrations/res/202/?$rid=a%201&retry-after=0" {
        return (topic, body);
    }
    let operation = text(&body["operationId"]);
    let poll = "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId=";
    line.publish(&format!("{poll}{operation}"), b" ").await;
    let (topic, _, body) = line.hear().await;
    (topic, json(&body))
}

/// Connects a device with the key to the hub that it was assigned to.
async fn at_hub(cloud: &Cloud, hub: &str, id: &str, lifetime: i64, keep_alive: u16) -> Line {
    let user = format!("{hub}/{id}/?api-version=2019-10-01&DeviceClientType=test");
    let resource = format!("{hub}%2Fdevices%2F{id}");
    let token = support::token(KEY, &resource, support::now() + lifetime, None);
    let line = hello(cloud, &Hello(hub, id, &user, Some(&token), keep_alive)).await;
    line.unwrap()
}

/// A cloud and the hub of one device in it, which has the key.
async fn with_device(id: &str) -> (Cloud, String) {
    let cloud = Cloud::start().await;
    let mut body = with_key(id);
    body["initialTwin"] = json!({"tags": {"line": "3"}, "properties": {"desired": {"rate": 5}}});
    cloud.put(&format!("/enrollments/{id}"), &body, None).await;
    let (_, state) = register(&cloud, id, KEY).await;
    let hub = text(&state["registrationState"]["assignedHub"]);
    (cloud, hub)
}

#[tokio::test]
async fn symmetric_keys_register_one_by_one_and_by_group() {
    let cloud = Cloud::start().await;
    let reply = cloud
        .put("/enrollments/key-1", &with_key("key-1"), None)
        .await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let attestation = with_key("")["attestation"].clone();
    let group = json!({"enrollmentGroupId": "keys", "attestation": attestation});
    cloud.put("/enrollmentGroups/keys", &group, None).await;
    for (id, key) in [
        ("key-1", KEY.to_owned()),
        ("key-2", support::derive(KEY, "key-2")),
    ] {
        let (topic, body) = register(&cloud, id, &key).await;
        assert_eq!(topic, "$dps/registrations/res/200/?$rid=2");
        assert_eq!(body["status"], "assigned", "{body}");
        assert_eq!(body["registrationState"]["deviceId"], id);
    }
    // The group's own key is no member's; a stranger has none at all.
    for (id, key) in [("key-3", KEY), ("key-1", SAMPLE_KEY)] {
        let (topic, body) = register(&cloud, id, key).await;
        assert_eq!(topic, "$dps/registrations/res/401/?$rid=a%201");
        assert_eq!(body["errorCode"], 401_002);
    }
    assert_eq!(cloud.events(), ["assigned", "assigned"]);
}

const SAMPLE_KEY: &str = "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc=";

#[tokio::test]
async fn a_tpm_and_a_throttled_device_are_told_so() {
    let cloud = Cloud::start().await;
    let tpm = support::sample_tpm("tpm-1");
    cloud.put("/enrollments/tpm-1", &tpm, None).await;
    let (topic, body) = register(&cloud, "tpm-1", KEY).await;
    assert_eq!(topic, "$dps/registrations/res/401/?$rid=a%201");
    assert!(body.get("authenticationKey").is_none(), "{body}");
    // With the keys that it would be challenged by over HTTPS, and a certificate to be let in with.
    let pki = Pki::new();
    let leaf = pki.self_signed("tpm-1");
    let user = dps_user(&cloud, "tpm-1");
    let greeting = Hello(DPS, "tpm-1", &user, None, 60);
    let mut line = hello_with(&cloud, &greeting, Some(&leaf)).await.unwrap();
    line.subscribe("$dps/registrations/res/#", Qos::AtMostOnce)
        .await;
    let keys = json!({"endorsementKey": support::SAMPLE_EK, "storageRootKey": support::SAMPLE_EK});
    let body = json!({"registrationId": "tpm-1", "tpm": keys}).to_string();
    let topic = "$dps/registrations/PUT/iotdps-register/?$rid=1";
    line.publish(topic, body.as_bytes()).await;
    let (topic, _, body) = line.hear().await;
    assert_eq!(topic, "$dps/registrations/res/401/?$rid=1");
    assert_eq!(json(&body)["errorCode"], 401_002);

    let throttle = json!({"only": "device", "throttle": 1, "retryAfterSeconds": 7});
    cloud.faults(throttle).await;
    let (topic, body) = register(&cloud, "key-1", KEY).await;
    assert_eq!(
        topic,
        "$dps/registrations/res/429/?$rid=a%201&Retry-After=7"
    );
    assert_eq!(body["errorCode"], 429_001);
}

#[tokio::test]
async fn who_cannot_be_right_is_not_let_in() {
    let (cloud, hub) = with_device("key-1").await;
    let user = dps_user(&cloud, "key-1");
    let at_hub = format!("{hub}/key-1/?api-version=2021-04-12");
    let (later, past) = (support::now() + 60, support::now() - 1);
    let good = dps_token(&cloud, "key-1", KEY, later);
    let old = dps_token(&cloud, "key-1", KEY, past);
    let other = dps_token(&cloud, "key-2", KEY, later);
    let resource = format!("{hub}%2Fdevices%2Fkey-1");
    let device = support::token(KEY, &resource, later, None);
    let wrong = support::token(SAMPLE_KEY, &resource, later, None);
    let stranger = format!("{hub}/key-9/?api-version=2021-04-12");
    let unversioned = format!("{hub}/key-1/");
    let (not, id, bad) = (
        ConnectReturnCode::NotAuthorized,
        ConnectReturnCode::IdentifierRejected,
        ConnectReturnCode::BadUserNameOrPassword,
    );
    for (greeting, code) in [
        (Hello(DPS, "key-1", &user, None, 60), not),
        (Hello(DPS, "key-1", &user, Some("secret"), 60), not),
        (Hello(DPS, "key-1", &user, Some(&old), 60), not),
        (Hello(DPS, "key-1", &user, Some(&other), 60), not),
        (Hello(DPS, "key-2", &user, Some(&good), 60), id),
        (Hello(&hub, "key-1", &user, Some(&good), 60), not),
        (Hello(DPS, "key-1", "key-1", Some(&good), 60), bad),
        (Hello(&hub, "key-1", &at_hub, Some(&wrong), 60), not),
        (Hello(&hub, "key-1", &at_hub, Some(&good), 60), not),
        (Hello(&hub, "key-2", &at_hub, Some(&device), 60), id),
        (Hello(DPS, "key-1", &at_hub, Some(&device), 60), not),
        (Hello(&hub, "key-9", &stranger, Some(&device), 60), not),
        (Hello(&hub, "key-1", &unversioned, Some(&device), 60), not),
    ] {
        let refused = hello(&cloud, &greeting).await.err();
        assert_eq!(refused, Some(code), "{} {}", greeting.0, greeting.2);
    }
    let mixed = format!(
        "{}/registrations/KEY-1/api-version=2019-03-31",
        cloud.id_scope()
    );
    hello(
        &cloud,
        &Hello("localhost", "key-1", &mixed, Some(&good), 60),
    )
    .await
    .unwrap();
    assert_eq!(cloud.events(), ["assigned"]);
}

#[tokio::test]
async fn a_device_reads_its_twin_reports_and_sends_messages() {
    let (cloud, hub) = with_device("key-1").await;
    let mut line = at_hub(&cloud, &hub, "key-1", 60, 60).await;
    let granted = line.subscribe("$iothub/twin/res/#", Qos::AtMostOnce).await;
    assert_eq!(granted, SubackReturnCode::SuccessMaximumQos0);
    line.publish("$iothub/twin/GET/?$rid=1", b"").await;
    let (topic, qos, body) = line.hear().await;
    assert_eq!(
        (topic.as_str(), qos),
        ("$iothub/twin/res/200/?$rid=1", Qos::AtMostOnce)
    );
    let first = json!({"desired": {"rate": 5, "$version": 1}, "reported": {"$version": 1}});
    assert_eq!(json(&body), first);

    let report = "$iothub/twin/PATCH/properties/reported/?$rid=";
    line.publish(&format!("{report}2"), br#"{"rate":5,"old":1}"#)
        .await;
    let (topic, _, body) = line.hear().await;
    assert_eq!(
        (topic.as_str(), body.len()),
        ("$iothub/twin/res/204/?$rid=2&$version=2", 0)
    );
    line.publish(&format!("{report}3"), br#"{"old":null}"#)
        .await;
    assert_eq!(
        line.hear().await.0,
        "$iothub/twin/res/204/?$rid=3&$version=3"
    );
    line.publish(&format!("{report}4"), br#"{"$version":9}"#)
        .await;
    assert_eq!(line.hear().await.0, "$iothub/twin/res/400/?$rid=4");

    for _ in 0..3 {
        line.publish("devices/key-1/messages/events/a=b", b"hot")
            .await;
    }
    // They are acknowledged in order, so the answer to this one comes after them.
    line.publish("$iothub/twin/GET/?$rid=5", b"").await;
    let (_, _, body) = line.hear().await;
    assert_eq!(json(&body)["reported"], json!({"rate": 5, "$version": 3}));
    assert_eq!(line.0.unacknowledged(), 0);
    let twin = format!("/emulator/twins/{hub}/key-1");
    let seen = cloud.get(&twin).await.body;
    assert_eq!(
        (&seen["messages"], &seen["tags"]),
        (&json!(3), &json!({"line": "3"}))
    );
    assert_eq!(seen["connectionState"], "Connected");

    let cloud = cloud.restart(|_| ()).await;
    line.end().await;
    let seen = cloud.get(&twin).await.body;
    assert_eq!(seen["messages"], 3);
    assert_eq!(seen["properties"]["reported"]["rate"], 5);
    assert_eq!(seen["connectionState"], "Disconnected");
}

#[tokio::test]
async fn what_the_back_end_desires_is_told_at_once_to_who_subscribed() {
    let (cloud, hub) = with_device("key-1").await;
    let twin = format!("/emulator/twins/{}/key-1", hub.to_uppercase());
    let change = |patch: Value| {
        let body = json!({"properties": {"desired": patch}});
        let (cloud, twin) = (&cloud, &twin);
        async move { cloud.call(Method::PATCH, twin, Some(&body), &[]).await }
    };
    let mut line = at_hub(&cloud, &hub, "key-1", 60, 60).await;
    let news = "$iothub/twin/PATCH/properties/desired/#";
    assert_eq!(change(json!({"rate": 6})).await.status, 200);
    line.subscribe(news, Qos::ExactlyOnce).await;
    let changed = change(json!({"rate": null, "mode": {"night": true}})).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let (topic, qos, body) = line.hear().await;
    assert_eq!(topic, "$iothub/twin/PATCH/properties/desired/?$version=3");
    assert_eq!(qos, Qos::AtLeastOnce);
    let told = json!({"rate": null, "mode": {"night": true}, "$version": 3});
    assert_eq!(json(&body), told);
    for bad in [json!(1), json!({"$version": 1}), json!(null)] {
        assert_eq!(change(bad).await.status, 400);
    }
    let desired = &cloud.get(&twin).await.body["properties"]["desired"];
    assert_eq!(
        (&desired["mode"]["night"], &desired["rate"]),
        (&json!(true), &Value::Null)
    );
    let unknown = cloud.get("/emulator/twins/hub-a/none").await;
    assert_eq!(unknown.status, 404);
}

#[tokio::test]
async fn a_connection_ends_with_what_is_not_allowed_on_it() {
    let (cloud, hub) = with_device("key-1").await;
    for topic in [
        "devices/key-2/messages/events/",
        "$iothub/twin/GET/",
        "$iothub/twin/PATCH/properties/desired/?$rid=1",
        "$dps/registrations/PUT/iotdps-register/?$rid=1",
        "free",
    ] {
        let mut line = at_hub(&cloud, &hub, "key-1", 60, 60).await;
        let other = line.subscribe("devices/key-2/messages/devicebound/#", Qos::AtMostOnce);
        assert_eq!(other.await, SubackReturnCode::Failure);
        line.publish(topic, b"{}").await;
        line.end().await;
    }
    let mut line = at_hub(&cloud, &hub, "key-1", 60, 60).await;
    let twice = Publish::builder()
        .topic_name("devices/key-1/messages/events/")
        .unwrap()
        .qos(Qos::ExactlyOnce)
        .packet_id(line.0.identifier().unwrap());
    line.0.send(twice.build().unwrap()).await.unwrap();
    line.end().await;
    let mut line = at_hub(&cloud, &hub, "key-1", 60, 60).await;
    let large = vec![0; PACKET_MAX as usize];
    let sent = line
        .0
        .publish("devices/key-1/messages/events/", Qos::AtMostOnce, &large);
    drop(sent.await); // the other side may have closed before it is all sent
    line.end().await;

    // A device has one connection: the last.
    let first = at_hub(&cloud, &hub, "key-1", 60, 60).await;
    let second = at_hub(&cloud, &hub, "key-1", 60, 60).await;
    first.end().await;
    let twin = cloud
        .get(&format!("/emulator/twins/{hub}/key-1"))
        .await
        .body;
    assert_eq!(
        (&twin["connectionState"], &twin["messages"]),
        (&json!("Connected"), &json!(0))
    );
    drop(second);
}

#[tokio::test]
async fn a_silent_client_and_one_whose_token_is_over_are_gone() {
    let (cloud, hub) = with_device("key-1").await;
    // One that says nothing at all within its keep-alive; the test's own end would ask, so it only listens.
    let user = format!("{hub}/key-1/?api-version=2021-04-12");
    let resource = format!("{hub}%2Fdevices%2Fkey-1");
    let token = support::token(KEY, &resource, support::now() + 60, None);
    let connect = Connect::builder()
        .client_id("key-1")
        .and_then(|c| c.user_name(user.as_str()))
        .and_then(|c| c.password(token.as_str()))
        .and_then(|c| c.keep_alive(1).build())
        .unwrap();
    let mut stream = tls(&cloud, &hub, None).await;
    stream
        .write_all(&connect.to_continuous_buffer())
        .await
        .unwrap();
    let mut heard = Vec::new();
    let ended = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut heard);
    drop(timeout(Duration::from_secs(20), ended).await.unwrap());
    assert_eq!(heard, [0x20, 2, 0, 0], "let in, and closed without a word");

    let line = at_hub(&cloud, &hub, "key-1", 2, 60).await;
    line.end().await;
}

#[tokio::test]
async fn no_bytes_harm_the_listener() {
    let (cloud, hub) = with_device("key-1").await;
    let garbage: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x10\xff\xff\xff\xff\xff",
        b"\x10\x00",
        b"\x30\x05\x00\x03abc",
        b"\x00",
        &[0xff; 4096],
    ];
    for bytes in garbage {
        let mut stream = tls(&cloud, DPS, None).await;
        stream.write_all(bytes).await.unwrap();
        drop(stream.shutdown().await); // the other side may have closed already
        let mut heard = Vec::new();
        let ended = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut heard);
        drop(timeout(Duration::from_secs(10), ended).await.unwrap());
    }
    at_hub(&cloud, &hub, "key-1", 60, 60).await;
}

#[tokio::test]
async fn a_certificate_opens_dps_and_hub_alike() {
    let cloud = Cloud::start().await;
    let pki = Pki::new();
    let leaf = pki.self_signed("unit-1");
    let body = support::x509("unit-1", &leaf.pem());
    cloud.put("/enrollments/unit-1", &body, None).await;
    let booted = cloud
        .boot_over(Transport::Mqtt, "unit-1", &[&leaf], &leaf)
        .await
        .unwrap();
    let twin = format!("/emulator/twins/{}/unit-1", booted.assigned_hub);
    let seen = cloud.get(&twin).await.body;
    assert_eq!(seen["properties"]["reported"]["desiredVersion"], 1);
    assert_eq!(seen["messages"], 1);
    let all = ["assigned", "hub_authenticated", "twin_read"];
    assert_eq!(cloud.events(), all);
}
