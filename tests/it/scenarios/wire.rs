//! What the dialogue costs on the wire: on a 115,200 baud line that is where cycle time goes.

use super::line::{new_device, options};
use dps_station::fixtures::device::{Cable, run_device};
use dps_station::link::smp::group;
use dps_station::link::smp::{self, Header, Map, Op, Packet, Version, frame};
use dps_station::link::{DeviceLink, Injection, LinkError, LinkHealth};
use dps_station::provision::bytes::Digest;
use dps_station::provision::device::Holding;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// Questions and answers from arrival to seal, for a chain of two certificates.
const ROUND_TRIPS: u64 = 24;

/// Bytes that a device's replies may have in one frame (see `fixtures/device/smp_server.rs`).
const REPLY: usize = 384 - 4;

#[tokio::test]
async fn a_device_costs_little_more_than_the_necessary_bytes() {
    let dir = TempDir::new().unwrap();
    let port = dir.path().join("bay");
    let device = Arc::new(Mutex::new(new_device(dir.path(), "sim-1-000")));
    let far_end = tokio::spawn(run_device(device, Cable::uart(&port)));
    let chain = [vec![0x30, 0x82, 1, 0x9a], vec![0x30, 0x82, 1, 0xc2]].map(|mut der| {
        let length = 4 + usize::from(der[2]) * 256 + usize::from(der[3]);
        der.resize(length, 0x5a); // as long as the leaf and the issuing CA of a factory
        der
    });
    let mut link = loop {
        match DeviceLink::open(&port, &options()).await {
            Ok(link) => break link,
            Err(LinkError::PortMissing { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    let keys = Injection::default();
    let holding = Holding {
        id_scope: "0ne00112233".to_owned(),
        global_endpoint: "global.azure-devices-provisioning.net".to_owned(),
        registration_id: "sim-1-000".to_owned(),
        certificate_sha256: Some(Digest::of(&chain[0])),
    };
    let found = link.find(Duration::from_secs(2)).await.unwrap();
    let request = link.make_key("sim-1-000").await.unwrap();
    link.install(&chain).await.unwrap();
    link.inject(&holding, &keys).await.unwrap();
    let before = link.identify().await.unwrap();
    link.restart_from(&before).await.unwrap();
    assert_eq!(link.read_back(&keys).await.unwrap().holding, holding);
    let signature = link.sign([7; 32]).await.unwrap();
    link.seal(holding.digest()).await.unwrap();

    let LinkHealth {
        round_trips,
        retries,
        bytes_out,
        bytes_in,
        ..
    } = link.health();
    assert_eq!(retries, 0);
    let necessary = necessary(&request, &chain.concat(), &holding, &signature, &found);
    let spent = bytes_out + bytes_in;
    println!("{round_trips} round trips, {spent} bytes, of which {necessary} are necessary");
    assert!(spent * 100 <= necessary * 125, "{spent} of {necessary}");
    assert!(round_trips <= ROUND_TRIPS, "{round_trips}");
    far_end.abort();
}

/// Bytes of everything that must be said, in frames of the size that was agreed on: two lines to the device, its
/// packet buffer from it.
fn necessary(
    request: &[u8],
    chain: &[u8],
    holding: &Holding,
    signature: &[u8],
    found: &dps_station::provision::device::Identification,
) -> u64 {
    let sha = [0; 32];
    let identity = Map::new()
        .uint("v", group::PAGE_VERSION)
        .text("id", found.device_id.as_str())
        .text("model", &found.model)
        .text("fw", &found.firmware)
        .bytes("uid", &found.uid.0)
        .uint("boots", found.boots)
        .flag("sealed", false)
        .flag("tpm", false)
        .bytes("holds", &sha);
    let rid = || Map::new().uint("rid", u64::from(u32::MAX));
    let empty = Map::new;
    let mut all = vec![
        // Who is there; the same after the restart, which must be seen.
        (empty(), identity.clone()),
        (empty(), identity),
        // A key, and the request for its certificate.
        (
            rid().text("cn", found.device_id.as_str()),
            rid().uint("len", 999).bytes("sha", &sha),
        ),
        // The restart.
        (empty(), empty()),
        // The proof, and the seal.
        (rid().bytes("nonce", &sha), rid().bytes("sig", signature)),
        (rid().bytes("holds", &sha), rid().bytes("holds", &sha)),
        // The settings are saved.
        (empty(), empty()),
    ];
    for (key, value) in [
        ("dps/id_scope", &holding.id_scope),
        ("dps/endpoint", &holding.global_endpoint),
        ("dps/reg_id", &holding.registration_id),
    ] {
        let (name, value) = (Map::new().text("name", key), value.as_bytes());
        all.push((name.clone().bytes("val", value), empty()));
        all.push((name, Map::new().bytes("val", value)));
    }
    let sent = frame::packet_in(2, frame::LINE_LENGTH) - smp::HEADER_LENGTH;
    let head = Map::new().uint("obj", 1);
    all.extend(parts(chain, sent, &head).map(|part| (part, Map::new().uint("off", 999))));
    for object in [request, chain] {
        let ask = Map::new().uint("obj", 1).uint("off", 999);
        all.extend(
            parts(object, REPLY - smp::HEADER_LENGTH, &empty()).map(|part| (ask.clone(), part)),
        );
    }
    let bytes = |body: Map| -> u64 {
        let header = Header {
            version: Version::Two,
            op: Op::Read,
            group: group::GROUP,
            sequence: 0,
            command: 0,
        };
        let lines = frame::encode(&Packet { header, body }.encode(), frame::LINE_LENGTH).unwrap();
        lines.iter().map(|line| line.len() as u64).sum()
    };
    all.into_iter()
        .map(|(ask, reply)| bytes(ask) + bytes(reply))
        .sum()
}

/// An object in parts, each as large as fits `room`; the first says how long the whole is, and its digest.
fn parts(object: &[u8], room: usize, head: &Map) -> impl Iterator<Item = Map> {
    let mut parts = Vec::new();
    let mut rest = object;
    while !rest.is_empty() {
        let mut part = head.clone().uint("off", 999);
        if parts.is_empty() {
            part = part.uint("len", object.len() as u64).bytes("sha", &[0; 32]);
        }
        let (now, later) = rest.split_at(rest.len().min(part.room_for("data", room)));
        parts.push(part.bytes("data", now));
        rest = later;
    }
    parts.into_iter()
}
