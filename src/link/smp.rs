//! MCUmgr's Simple Management Protocol: the header, CBOR bodies and errors, without any I/O.
//!
//! Both ends of the line use it: the station's session and the simulated device.
//! Source: Zephyr, `doc/services/device_mgmt/smp_protocol.rst` and `smp_groups/*`.

pub mod frame;
pub mod group;

use ciborium::Value;

/// Group of the operating system's commands: [`ECHO`], [`RESET`], [`PARAMETERS`].
pub const OS_GROUP: u16 = 0;
/// Os group: `{"d": text}`, answered with `{"r": the same text}`.
pub const ECHO: u8 = 0;
/// Os group: `{}`, answered with `{}`, then the device starts anew.
pub const RESET: u8 = 5;
/// Os group: `{}`, answered with `{"buf_size", "buf_count"}`.
pub const PARAMETERS: u8 = 6;

/// Group of the settings commands.
pub const SETTINGS_GROUP: u16 = 3;
/// Settings group: read `{"name"}`, answered with `{"val"}`; write `{"name", "val"}`, answered with `{}`.
pub const SETTING: u8 = 0;
/// Settings group: delete `{"name"}` from storage.
pub const SETTING_DELETE: u8 = 1;
/// Settings group: let the firmware act on what was written.
pub const SETTINGS_COMMIT: u8 = 2;
/// Settings group: read loads from storage, write saves to it.
pub const SETTINGS_SAVE: u8 = 3;
/// Settings group, code: the key is too long.
pub const SETTINGS_KEY_TOO_LONG: u32 = 2;
/// Settings group, code: the key is not known.
pub const SETTINGS_KEY_NOT_FOUND: u32 = 3;
/// Settings group, code: nothing in the firmware knows the key, nor the first part of its name (newer Zephyr).
pub const SETTINGS_ROOT_NOT_FOUND: u32 = 5;

/// Common code: a field is missing or has the wrong type.
pub const COMMON_INVALID: u32 = 3;
/// Common code: there is no such entry; how version 1 says "key not found".
pub const COMMON_NO_ENTRY: u32 = 5;
/// Common code: group, command or operation not known.
pub const COMMON_NOT_SUPPORTED: u32 = 8;
/// Common code: the header's version is older than the server takes.
pub const COMMON_VERSION_TOO_OLD: u32 = 12;
/// Common code: the header's version is newer than the server knows.
pub const COMMON_VERSION_TOO_NEW: u32 = 13;
/// In version 1, an error of a user group is this number plus the group's own code.
pub const COMMON_USER: u32 = 256;

/// Stands for the code of an error that has none, or one that is no code.
pub const NO_CODE: u32 = u32::MAX;

/// Octets in an SMP header.
pub const HEADER_LENGTH: usize = 8;
/// How deep CBOR may nest in a body; a provisioning body needs 2.
const MAX_DEPTH: usize = 8;
/// Entries in a CBOR map that are looked at; a map with more is refused.
const MAX_ENTRIES: usize = 64;

/// Version of the protocol, as it stands in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The original protocol: errors are `{"rc"}`.
    One,
    /// The present protocol: errors of a group are `{"err": {"group", "rc"}}`.
    Two,
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Asks for something; changes nothing.
    Read,
    /// Answers a read.
    ReadReply,
    /// Changes something.
    Write,
    /// Answers a write.
    WriteReply,
}

/// The header of a packet, without the length of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Version of the protocol.
    pub version: Version,
    /// What the packet is.
    pub op: Op,
    /// Command group.
    pub group: u16,
    /// Chosen by the client, repeated in the reply.
    pub sequence: u8,
    /// Command within the group.
    pub command: u8,
}

/// A header as it stands in a packet, whatever it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawHeader {
    /// Version and operation.
    pub first: u8,
    /// Length of the body, in bytes.
    pub length: u16,
    /// Command group.
    pub group: u16,
    /// Chosen by the client, repeated in the reply.
    pub sequence: u8,
    /// Command within the group.
    pub command: u8,
}

/// A header and a body.
#[derive(Clone, Debug, PartialEq)]
pub struct Packet {
    /// The header.
    pub header: Header,
    /// The body.
    pub body: Map,
}

/// The body of a packet: a CBOR map with text keys. Entries with other keys are dropped when it is decoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map(Vec<(String, Value)>);

/// Why bytes are not a packet, or a body is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PacketError {
    /// Fewer bytes than a header, or than the header announces, or more.
    Length,
    /// Reserved version or operation.
    Header,
    /// Not a CBOR map, nested too deep, too many entries, or bytes after it.
    Body,
    /// A field is missing or has the wrong type.
    Field(&'static str),
}

/// What a server answers instead of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmpError {
    /// The group whose table explains the code; absent for the common table.
    pub group: Option<u16>,
    /// The code; never 0.
    pub code: u32,
}

impl Op {
    /// The operation that answers this one.
    pub fn reply(self) -> Self {
        match self {
            Op::Read | Op::ReadReply => Op::ReadReply,
            Op::Write | Op::WriteReply => Op::WriteReply,
        }
    }
}

impl Header {
    /// The header of the reply to a packet with this header.
    pub fn reply(self) -> Self {
        Self {
            op: self.op.reply(),
            ..self
        }
    }
}

impl RawHeader {
    /// Reads the header of a packet; none where there are fewer bytes than it has.
    pub fn read(packet: &[u8]) -> Option<Self> {
        let [
            first,
            _flags,
            length_high,
            length_low,
            group_high,
            group_low,
            sequence,
            command,
        ] = *packet.first_chunk::<HEADER_LENGTH>()?;
        Some(Self {
            first,
            length: u16::from_be_bytes([length_high, length_low]),
            group: u16::from_be_bytes([group_high, group_low]),
            sequence,
            command,
        })
    }

    /// The operation; none where it is a reserved one.
    pub fn op(self) -> Option<Op> {
        match self.first & 0b111 {
            0 => Some(Op::Read),
            1 => Some(Op::ReadReply),
            2 => Some(Op::Write),
            3 => Some(Op::WriteReply),
            _ => None,
        }
    }
}

impl Packet {
    /// The packet as bytes: header, then body.
    pub fn encode(&self) -> Vec<u8> {
        let body = self.body.encode();
        let version = match self.header.version {
            Version::One => 0,
            Version::Two => 1 << 3,
        };
        let op = match self.header.op {
            Op::Read => 0,
            Op::ReadReply => 1,
            Op::Write => 2,
            Op::WriteReply => 3,
        };
        // A body that does not fit the field is longer than any frame and refused by the framing.
        let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
        let mut bytes = vec![version | op, 0];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&self.header.group.to_be_bytes());
        bytes.extend_from_slice(&[self.header.sequence, self.header.command]);
        bytes.extend_from_slice(&body);
        bytes
    }

    /// Reads a packet. Reserved bits and flags are ignored; the length must fit exactly.
    pub fn decode(bytes: &[u8]) -> Result<Self, PacketError> {
        let raw = RawHeader::read(bytes).ok_or(PacketError::Length)?;
        let body = &bytes[HEADER_LENGTH..];
        if usize::from(raw.length) != body.len() {
            return Err(PacketError::Length);
        }
        let version = match (raw.first >> 3) & 0b11 {
            0 => Version::One,
            1 => Version::Two,
            _ => return Err(PacketError::Header),
        };
        let header = Header {
            version,
            op: raw.op().ok_or(PacketError::Header)?,
            group: raw.group,
            sequence: raw.sequence,
            command: raw.command,
        };
        Ok(Self {
            header,
            body: Map::decode(body)?,
        })
    }
}

impl Map {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// The map with an unsigned number added.
    pub fn uint(self, key: &str, value: u64) -> Self {
        self.with(key, Value::from(value))
    }

    /// The map with a text added.
    pub fn text(self, key: &str, value: &str) -> Self {
        self.with(key, Value::from(value))
    }

    /// The map with a byte string added.
    pub fn bytes(self, key: &str, value: &[u8]) -> Self {
        self.with(key, Value::from(value))
    }

    /// The map with a truth value added.
    pub fn flag(self, key: &str, value: bool) -> Self {
        self.with(key, Value::from(value))
    }

    /// How many bytes may go under `key` so that the whole body has at most `room` bytes; at least one, so that
    /// there is progress.
    pub fn room_for(&self, key: &str, room: usize) -> usize {
        const LONGER_HEAD: usize = 2; // a byte string of up to 65535 bytes has a head of 3 bytes, an empty one of 1
        let taken = self.clone().bytes(key, &[]).encode().len() + LONGER_HEAD;
        room.saturating_sub(taken).max(1)
    }

    /// Whether the map has the key.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The unsigned number under `key`.
    pub fn get_uint(&self, key: &'static str) -> Result<u64, PacketError> {
        self.get(key)
            .and_then(Value::as_integer)
            .and_then(|number| u64::try_from(number).ok())
            .ok_or(PacketError::Field(key))
    }

    /// The unsigned number under `key`, as a length or an offset.
    pub fn get_size(&self, key: &'static str) -> Result<usize, PacketError> {
        usize::try_from(self.get_uint(key)?).map_err(|_| PacketError::Field(key))
    }

    /// The text under `key`.
    pub fn get_text(&self, key: &'static str) -> Result<&str, PacketError> {
        self.get(key)
            .and_then(Value::as_text)
            .ok_or(PacketError::Field(key))
    }

    /// The byte string under `key`.
    pub fn get_bytes(&self, key: &'static str) -> Result<&[u8], PacketError> {
        self.get(key)
            .and_then(Value::as_bytes)
            .map(Vec::as_slice)
            .ok_or(PacketError::Field(key))
    }

    /// The 32 bytes under `key`.
    pub fn get_32(&self, key: &'static str) -> Result<[u8; 32], PacketError> {
        self.get_bytes(key)?
            .try_into()
            .map_err(|_| PacketError::Field(key))
    }

    /// The truth value under `key`.
    pub fn get_flag(&self, key: &'static str) -> Result<bool, PacketError> {
        self.get(key)
            .and_then(Value::as_bool)
            .ok_or(PacketError::Field(key))
    }

    /// The body that says an error, in the shape of `version`.
    ///
    /// Version 2 has `{"err": {"group", "rc"}}` for a group's own code. Version 1, and the common codes in either
    /// version, are `{"rc"}`; a user group's code is moved up by [`COMMON_USER`] in version 1.
    pub fn error(version: Version, error: SmpError) -> Self {
        match (version, error.group) {
            (Version::Two, Some(group)) => {
                let inner = vec![
                    (Value::from("group"), Value::from(group)),
                    (Value::from("rc"), Value::from(error.code)),
                ];
                Self::new().with("err", Value::Map(inner))
            }
            (Version::One, Some(_)) => Self::new().uint("rc", (COMMON_USER + error.code).into()),
            (_, None) => Self::new().uint("rc", error.code.into()),
        }
    }

    /// The error that the body of a reply holds, if it is one; `rc` 0 means success. Reads both shapes, whatever
    /// the version, because a version 2 server gives the common codes in the old one.
    pub fn as_error(&self) -> Option<SmpError> {
        let code = |value: &Value| {
            let number = value
                .as_integer()
                .and_then(|n| i128::from(n).try_into().ok());
            // A code that is no number, or a negative one, is no success either.
            Some(number.unwrap_or(NO_CODE)).filter(|&code| code != 0)
        };
        if let Some(inner) = self.get("err") {
            let inner = inner.as_map().map(Vec::as_slice).unwrap_or_default();
            let find = |key| {
                let entry = inner.iter().find(|(k, _)| k.as_text() == Some(key));
                entry.map(|(_, value)| value)
            };
            let group = find("group").and_then(Value::as_integer);
            return Some(SmpError {
                group: group.and_then(|n| n.try_into().ok()),
                code: find("rc").and_then(code).unwrap_or(NO_CODE),
            });
        }
        let code = self.get("rc").and_then(code)?;
        Some(SmpError { group: None, code })
    }

    /// The map in CBOR, with definite lengths, keys in the order in which they were added.
    pub fn encode(&self) -> Vec<u8> {
        let entries = self.0.iter();
        let value = Value::Map(
            entries
                .map(|(key, value)| (Value::from(key.as_str()), value.clone()))
                .collect(),
        );
        let mut bytes = Vec::new();
        ciborium::into_writer(&value, &mut bytes).expect("writing to a vector does not fail");
        bytes
    }

    /// Reads one CBOR map, of definite or indefinite length, that fills `bytes`.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, PacketError> {
        let value: Value = ciborium::de::from_reader_with_recursion_limit(&mut bytes, MAX_DEPTH)
            .map_err(|_| PacketError::Body)?;
        let Value::Map(entries) = value else {
            return Err(PacketError::Body);
        };
        if !bytes.is_empty() || entries.len() > MAX_ENTRIES {
            return Err(PacketError::Body);
        }
        let texts = entries.into_iter().filter_map(|(key, value)| match key {
            Value::Text(key) => Some((key, value)),
            _ => None,
        });
        Ok(Self(texts.collect()))
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.0.push((key.to_owned(), value));
        self
    }

    fn get(&self, key: &str) -> Option<&Value> {
        let entry = self.0.iter().find(|(k, _)| k == key);
        entry.map(|(_, value)| value)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    const HEADER: Header = Header {
        version: Version::Two,
        op: Op::Read,
        group: SETTINGS_GROUP,
        sequence: 7,
        command: SETTING,
    };

    #[test]
    fn a_packet_has_the_bytes_of_the_specification() {
        let packet = Packet {
            header: HEADER,
            body: Map::new().text("name", "a/b"),
        };
        let bytes = packet.encode();
        assert_eq!(
            HEXLOWER.encode(&bytes),
            "0800000a00030700a1646e616d6563612f62"
        );
        assert_eq!(Packet::decode(&bytes), Ok(packet));
    }

    #[test]
    fn a_map_of_indefinite_length_is_read_and_unknown_keys_are_ignored() {
        // {_ "off": 5, 1: 2, "x": [], "rc": 0}
        let map = Map::decode(
            &HEXLOWER
                .decode(b"bf636f666605010261788062726300ff")
                .unwrap(),
        )
        .unwrap();
        assert_eq!(map.get_uint("off"), Ok(5));
        assert_eq!(map.as_error(), None);
        assert_eq!(map.get_text("off"), Err(PacketError::Field("off")));
    }

    #[test]
    fn both_shapes_of_errors_are_understood() {
        let own = SmpError {
            group: Some(64),
            code: 3,
        };
        let two = Map::error(Version::Two, own);
        assert_eq!(
            HEXLOWER.encode(&two.encode()),
            "a163657272a26567726f7570184062726303"
        );
        assert_eq!(two.as_error(), Some(own));
        let one = Map::error(Version::One, own).as_error();
        let moved = SmpError {
            group: None,
            code: COMMON_USER + 3,
        };
        assert_eq!(one, Some(moved));
        let odd = Map::new().text("rc", "no");
        assert!(odd.as_error().is_some());
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        assert_eq!(Packet::decode(&[0; 7]), Err(PacketError::Length));
        assert_eq!(
            Packet::decode(&[0, 0, 0, 1, 0, 0, 0, 0]),
            Err(PacketError::Length)
        );
        assert_eq!(
            Packet::decode(&[4, 0, 0, 0, 0, 0, 0, 0]),
            Err(PacketError::Header)
        );
        assert_eq!(
            Packet::decode(&[0x10, 0, 0, 1, 0, 0, 0, 0, 0xa0]),
            Err(PacketError::Header)
        );
        assert_eq!(Map::decode(&[0xa0, 0xa0]), Err(PacketError::Body));
        assert_eq!(Map::decode(&[0x80]), Err(PacketError::Body));
        let deep = [&[0xa1, 0x61, b'a'][..], &[0x81; 40], &[0]].concat();
        assert_eq!(Map::decode(&deep), Err(PacketError::Body));
    }

    /// Packets that were made by another program (Python, with its own CRC and CBOR).
    #[test]
    fn packets_and_lines_are_those_of_the_vectors() {
        #[derive(serde::Deserialize)]
        struct Vector {
            name: String,
            version: u8,
            op: String,
            group: u16,
            sequence: u8,
            command: u8,
            body: Vec<(String, serde_json::Value)>,
            packet: String,
            lines: Vec<String>,
        }
        fn value(json: &serde_json::Value) -> Value {
            match json {
                serde_json::Value::Bool(flag) => Value::from(*flag),
                serde_json::Value::Number(number) => Value::from(number.as_u64().unwrap()),
                serde_json::Value::String(text) => Value::from(text.as_str()),
                other => match (&other["hex"], &other["map"]) {
                    (serde_json::Value::String(hex), _) => {
                        Value::Bytes(HEXLOWER.decode(hex.as_bytes()).unwrap())
                    }
                    (_, serde_json::Value::Array(pairs)) => {
                        Value::Map(pairs.iter().map(|p| (value(&p[0]), value(&p[1]))).collect())
                    }
                    _ => panic!("{other}"),
                },
            }
        }
        let vectors = include_str!("../../fixtures/vectors/smp.json");
        let vectors: Vec<Vector> = serde_json::from_str(vectors).unwrap();
        assert!(!vectors.is_empty());
        for vector in vectors {
            let packet = Packet {
                header: Header {
                    version: if vector.version == 1 {
                        Version::One
                    } else {
                        Version::Two
                    },
                    op: match vector.op.as_str() {
                        "read" => Op::Read,
                        "read_reply" => Op::ReadReply,
                        "write" => Op::Write,
                        _ => Op::WriteReply,
                    },
                    group: vector.group,
                    sequence: vector.sequence,
                    command: vector.command,
                },
                body: Map(vector
                    .body
                    .iter()
                    .map(|(k, v)| (k.clone(), value(v)))
                    .collect()),
            };
            let bytes = packet.encode();
            assert_eq!(HEXLOWER.encode(&bytes), vector.packet, "{}", vector.name);
            assert_eq!(Packet::decode(&bytes), Ok(packet), "{}", vector.name);
            let lines = frame::encode(&bytes, frame::LINE_LENGTH).unwrap();
            let lines = lines.iter().map(|line| {
                let (marker, text) = line.strip_suffix(b"\n").unwrap().split_at(2);
                format!(
                    "{} {}",
                    HEXLOWER.encode(marker),
                    String::from_utf8_lossy(text)
                )
            });
            assert!(lines.eq(vector.lines), "{}", vector.name);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Packet::decode(&bytes);
            if let Ok(map) = Map::decode(&bytes) {
                let _ = map.as_error();
            }
        }

        #[test]
        fn what_is_written_is_read(
            number in any::<u64>(), text in ".{0,40}", bytes in proptest::collection::vec(any::<u8>(), 0..300),
            group in any::<u16>(), sequence in any::<u8>(), command in any::<u8>(), write in any::<bool>(),
        ) {
            let packet = Packet {
                header: Header { group, sequence, command, op: if write { Op::Write } else { Op::ReadReply }, ..HEADER },
                body: Map::new().uint("n", number).text("t", &text).bytes("b", &bytes).flag("f", write),
            };
            prop_assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
        }
    }
}
