//! What must be said to provision a device in the maps of the group's page and of the settings group: the list. Between
//! the floor, which has the contents alone, and what a dialogue spends.

use dps_station::link::smp::{self, Header, Map, Op, Packet, Version, frame, group};

/// The longest common DER ECDSA signature with P-256, in bytes.
const SIGNATURE: usize = 72;

/// Bytes of a packet buffer that are no packet: length and checksum.
const AROUND: usize = 4;

/// What is particular to a device.
pub struct Said {
    /// Its ID, which is the common name and the registration ID too.
    pub device_id: String,
    pub model: String,
    pub firmware: String,
    pub uid: Vec<u8>,
    /// Its certificate request in DER.
    pub request: Vec<u8>,
    /// Its certificate and the issuing CA's in DER, one after the other.
    pub chain: Vec<u8>,
    pub id_scope: String,
    pub endpoint: String,
}

/// Bytes that must pass, both ways, from plug to seal, in frames that fill the device's packet buffer.
pub fn bytes(said: &Said, buf_size: usize) -> u64 {
    let sha = [0; 32];
    let rid = || Map::new().uint("rid", u64::from(u32::MAX));
    let identity = Map::new()
        .uint("v", group::PAGE_VERSION)
        .text("id", &said.device_id)
        .text("model", &said.model)
        .text("fw", &said.firmware)
        .bytes("uid", &said.uid)
        .uint("boots", 1)
        .flag("sealed", false)
        .flag("tpm", false)
        .bytes("holds", &sha);
    let mut all = vec![
        // A key, and that the request for its certificate is there.
        (
            rid().text("cn", &said.device_id),
            rid().uint("len", 999).bytes("sha", &sha),
        ),
        // Who it is, the restart, and that it has started once more.
        (Map::new(), identity.clone()),
        (Map::new(), Map::new()),
        (Map::new(), identity),
        // The proof, and the seal.
        (
            rid().bytes("nonce", &sha),
            rid().bytes("sig", &[0; SIGNATURE]),
        ),
        (rid().bytes("holds", &sha), rid().bytes("holds", &sha)),
        // The settings are saved.
        (Map::new(), Map::new()),
    ];
    // Each setting, written and read back.
    for (key, value) in [
        ("dps/id_scope", &said.id_scope),
        ("dps/endpoint", &said.endpoint),
        ("dps/reg_id", &said.device_id),
    ] {
        let (name, value) = (Map::new().text("name", key), value.as_bytes());
        all.push((name.clone().bytes("val", value), Map::new()));
        all.push((name, Map::new().bytes("val", value)));
    }
    // The chain goes in; the request and the chain come out.
    let room = buf_size - AROUND - smp::HEADER_LENGTH;
    let parts_in = parts(&said.chain, room, &Map::new().uint("obj", 1));
    all.extend(
        parts_in
            .into_iter()
            .map(|part| (part, Map::new().uint("off", 999))),
    );
    for object in [&said.request, &said.chain] {
        for part in parts(object, room, &Map::new()) {
            all.push((Map::new().uint("obj", 1).uint("off", 999), part));
        }
    }
    let both = all
        .into_iter()
        .map(|(ask, reply)| on_wire(ask) + on_wire(reply));
    both.sum()
}

/// Bytes of one packet with this body, as it travels.
fn on_wire(body: Map) -> u64 {
    let header = Header {
        version: Version::Two,
        op: Op::Read,
        group: group::GROUP,
        sequence: 0,
        command: 0,
    };
    let packet = Packet { header, body }.encode();
    let lines = frame::encode(&packet, frame::LINE_LENGTH).unwrap();
    lines.iter().map(|line| line.len() as u64).sum()
}

/// An object in parts, each as large as fits `room`; the first says how long the whole is, and its digest.
fn parts(object: &[u8], room: usize, head: &Map) -> Vec<Map> {
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
    parts
}
