//! The floor of a device's time on the line: its contents in frames as large as it takes, its own processor time, and
//! the times that it says it needs. Nothing of what the station happens to ask is in it.

use super::necessary::Said;
use dps_station::fixtures::device::SharedDevice;
use dps_station::fixtures::serial::Times;
use dps_station::link::smp::frame::{self, Decoder};
use dps_station::link::smp::{self, Header, Map, Op, Packet, Version};
use std::time::Duration;

/// Bytes of a packet buffer that are no packet: length and checksum.
const AROUND: usize = 4;
/// The longest common DER ECDSA signature with P-256, in bytes.
const SIGNATURE: usize = 72;
const DIGEST: usize = 32;
const NONCE: usize = 32;
/// A start counter, and two flags.
const COUNTER: usize = 4;
const FLAGS: usize = 2;
/// The settings that are injected.
const KEYS: [&str; 3] = ["dps/id_scope", "dps/endpoint", "dps/reg_id"];

/// What must be known of a device and given to it: lengths in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Contents {
    /// Its ID, which is the common name and the registration ID too.
    pub device_id: usize,
    /// Model, firmware version and unique ID together.
    pub about: usize,
    /// Its certificate request in DER.
    pub request: usize,
    /// Its certificate and the issuing CA's in DER.
    pub chain: usize,
    pub id_scope: usize,
    pub endpoint: usize,
}

/// The least that passes over the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Least {
    pub bytes: u64,
    pub round_trips: u64,
}

impl Contents {
    /// Those of this device.
    pub fn of(said: &Said) -> Self {
        Self {
            device_id: said.device_id.len(),
            about: said.model.len() + said.firmware.len() + said.uid.len(),
            request: said.request.len(),
            chain: said.chain.len(),
            id_scope: said.id_scope.len(),
            endpoint: said.endpoint.len(),
        }
    }
}

/// The least that a dialogue in frames of the device's own size comes to. In each exchange the contents are packed one
/// after the other, without keys, offsets and digests of parts; each frame has its header and the empty map, and is
/// answered by one, as the protocol has it.
pub fn least(contents: &Contents, buf_size: usize) -> Least {
    let identification = contents.device_id + contents.about + COUNTER + FLAGS + DIGEST;
    let values = contents.id_scope + contents.endpoint + contents.device_id;
    let names: usize = KEYS.iter().map(|key| key.len()).sum();
    let exchanges = [
        (0, identification),
        (contents.device_id, contents.request),
        (contents.chain, 0),
        (names + values, 0), // written and saved
        (0, 0),              // restarted
        (0, identification),
        (names, values),
        (0, contents.chain),
        (NONCE, SIGNATURE),
        (DIGEST, DIGEST), // sealed
    ];
    let each = exchanges.map(|(there, back)| exchange(there, back, buf_size));
    Least {
        bytes: each.iter().map(|least| least.bytes).sum(),
        round_trips: each.iter().map(|least| least.round_trips).sum(),
    }
}

/// The least time from plug to verdict with so many bytes: two boots, the pause before the reset, the bytes, and the
/// device's own time.
pub fn time(bytes: u64, own: Duration, times: &Times) -> Duration {
    let bytes = usize::try_from(bytes).unwrap();
    2 * times.boot() + times.before_reset + times.of(bytes) + own
}

/// How long a packet the device takes, length and checksum included: it is asked, as MCUmgr has it.
pub fn buf_size(device: &SharedDevice) -> usize {
    let packet = Packet {
        header: header(smp::OS_GROUP, smp::PARAMETERS),
        body: Map::new(),
    };
    let lines = frame::encode(&packet.encode(), frame::LINE_LENGTH).unwrap();
    let answer = device.lock().unwrap().handle(&lines.concat());
    let mut decoder = Decoder::default();
    let answer = answer.into_iter().find_map(|byte| decoder.push(byte));
    let answer = Packet::decode(&answer.unwrap()).unwrap();
    answer.body.get_size("buf_size").unwrap()
}

/// The least of one exchange with contents of so many bytes each way.
pub fn exchange(there: usize, back: usize, buf_size: usize) -> Least {
    let overhead = smp::HEADER_LENGTH + Map::new().encode().len();
    let room = buf_size - AROUND - overhead;
    let frames = there.div_ceil(room).max(back.div_ceil(room)).max(1);
    let one_way = |content: usize| -> u64 {
        let parts = (0..frames).map(|n| content.saturating_sub(n * room).min(room));
        parts.map(|part| on_wire(overhead + part)).sum()
    };
    Least {
        bytes: one_way(there) + one_way(back),
        round_trips: frames as u64,
    }
}

/// Bytes of a packet of this length as it travels.
fn on_wire(packet: usize) -> u64 {
    let lines = frame::encode(&vec![0; packet], frame::LINE_LENGTH).unwrap();
    lines.iter().map(|line| line.len() as u64).sum()
}

fn header(group: u16, command: u8) -> Header {
    Header {
        version: Version::Two,
        op: Op::Read,
        group,
        sequence: 0,
        command,
    }
}
