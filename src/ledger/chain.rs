//! The hash chain: how an event is stored, what its hash covers, and how it is read back.

use super::failure::Failure;
use crate::provision::bytes::Digest;
use crate::provision::device::DeviceId;
use crate::provision::event::Recorded;
use crate::provision::event::stored::{self, Unreadable};
use crate::provision::fault::harmless;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};
use ulid::Ulid;

/// What the first event has as the hash of the one before it.
pub const GENESIS: Digest = Digest([0; 32]);

/// All columns of `events` in the order in which the hash takes them; it covers all but the last, which holds it.
pub const COLUMNS: &str = "seq, at_ms, station, operator, attempt, device, product_digest, kind, version, body, prev, hash";

/// The question for all events in order, as rows of [`COLUMNS`]; no index can lead it astray.
pub fn in_order() -> String {
    format!("SELECT {COLUMNS} FROM events NOT INDEXED ORDER BY seq")
}

/// How many of [`COLUMNS`] the hash covers.
const HASHED: usize = 11;

/// The hash of an event: SHA-256 over these bytes, so that an auditor can compute it without this program.
///
/// For each of the columns `seq`, `at_ms`, `station`, `operator`, `attempt`, `device`, `product_digest`, `kind`,
/// `version`, `body`, `prev`, in this order and exactly as stored: one byte for the type (0 NULL, 1 INTEGER, 2 TEXT,
/// 3 BLOB, 4 REAL, which never occurs), the length in bytes (4, big-endian), the bytes. An INTEGER has 8 bytes,
/// big-endian two's complement; TEXT is UTF-8; NULL has no bytes. `prev` is the hash of the event before, and 32 zero
/// bytes in the first.
pub fn hash<'a>(columns: impl Iterator<Item = ValueRef<'a>>) -> Digest {
    let mut bytes = Vec::new();
    for column in columns {
        let (tag, content) = match column {
            ValueRef::Null => (0, Vec::new()),
            ValueRef::Integer(value) => (1, value.to_be_bytes().to_vec()),
            ValueRef::Text(text) => (2, text.to_vec()),
            ValueRef::Blob(blob) => (3, blob.to_vec()),
            ValueRef::Real(value) => (4, value.to_be_bytes().to_vec()),
        };
        let length = u32::try_from(content.len()).expect("SQLite's values are shorter than 2 GiB");
        bytes.push(tag);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&content);
    }
    Digest::of(&bytes)
}

/// Appends `event`, with what stands beside it, to the chain, and returns it with its place and as a reader of the
/// stored text will see it.
///
/// Must run inside a write transaction: the head of the chain is read here, since other processes append too.
pub fn append(db: &Connection, mut event: Recorded) -> Result<Recorded, Failure> {
    let (last, prev) = head(db)?;
    event.seq = last + 1;
    let (kind, version) = (event.event.kind(), event.event.version());
    let body =
        stored::write(&event.event, event.because.as_deref()).map_err(Failure::unstorable)?;
    let text = |text: &str| Value::Text(text.to_owned());
    let mut columns = vec![
        Value::Integer(event.seq.cast_signed()),
        Value::Integer(event.at_ms),
        text(&event.station),
        event.operator.as_deref().map_or(Value::Null, text),
        event.attempt.map_or(Value::Null, |a| text(&a.to_string())),
        event
            .device
            .as_ref()
            .map_or(Value::Null, |d| text(d.as_str())),
        event
            .product_digest
            .map_or(Value::Null, |d| Value::Blob(d.0.to_vec())),
        text(kind),
        Value::Integer(version.into()),
        text(&body),
        Value::Blob(prev.0.to_vec()),
    ];
    let hash = hash(columns.iter().map(ValueRef::from));
    columns.push(Value::Blob(hash.0.to_vec()));
    db.prepare_cached(&format!(
        "INSERT INTO events ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    ))?
    .execute(params_from_iter(columns))?;
    (event.event, event.because) =
        stored::read(kind, version.into(), &body).map_err(Failure::unstorable)?;
    Ok(event)
}

/// An event as it stands in the file: its place in the chain, and the event itself if it can be decoded.
pub struct Entry {
    /// The stored place.
    pub seq: i64,
    /// The stored hash of the event before; `None` if it is not a hash.
    pub prev: Option<Digest>,
    /// The stored hash; `None` if it is not a hash.
    pub hash: Option<Digest>,
    /// The hash computed from what is stored.
    pub computed: Digest,
    /// The event, or why it cannot be decoded.
    pub event: Result<Recorded, Unreadable>,
}

impl Entry {
    /// Whether what is stored is what was hashed.
    fn is_whole(&self) -> bool {
        self.hash == Some(self.computed)
    }

    /// The event. What cannot be decoded is damage, unless it is whole: then a newer program wrote it.
    pub fn recorded(self) -> Result<Recorded, Failure> {
        let (seq, whole) = (self.seq, self.is_whole());
        self.event.map_err(|unreadable| match unreadable {
            Unreadable::Newer { kind, version } if whole => Failure::Newer {
                seq,
                kind: harmless(&kind, KIND_MAX),
                version,
            },
            other => Failure::Damaged(other.to_string()),
        })
    }
}

/// How much of the name of an unknown kind is shown, in characters.
const KIND_MAX: usize = 40;

/// Follows the chain from its beginning, entry by entry.
pub struct Walk {
    /// The place that the next event must have.
    expected: i64,
    /// What the next event may be chained to.
    previous: [Digest; 2],
}

impl Walk {
    /// At the beginning.
    pub fn new() -> Self {
        Self {
            expected: 1,
            previous: [GENESIS; 2],
        }
    }

    /// Takes the next entry, and says what is wrong with it: each finding with the place of the event that it is about.
    pub fn step(&mut self, entry: &Entry) -> Vec<(i64, String)> {
        let mut found = Vec::new();
        if entry.seq != self.expected {
            let missing = format!("it is missing; event {} follows", entry.seq);
            found.push((self.expected, missing));
        }
        self.expected = entry.seq.saturating_add(1);
        if !entry.is_whole() {
            let what = "its content and its hash do not fit".to_owned();
            found.push((entry.seq, what));
        } else if !entry.prev.is_some_and(|prev| self.previous.contains(&prev)) {
            let what = "it does not follow from the event before it".to_owned();
            found.push((entry.seq, what));
        }
        // One of the two is what the next event was chained to, whichever of content and hash is damaged here.
        self.previous = [entry.computed, entry.hash.unwrap_or(entry.computed)];
        found
    }
}

/// Reads one row of [`COLUMNS`], whatever it holds.
pub fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let columns = (0..=HASHED)
        .map(|index| row.get_ref(index))
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let digest = |index: usize| columns[index].as_blob().ok().and_then(to_digest);
    Ok(Entry {
        seq: columns[0].as_i64().unwrap_or(0),
        prev: digest(HASHED - 1),
        hash: digest(HASHED),
        computed: hash(columns[..HASHED].iter().copied()),
        event: decode(&columns),
    })
}

/// Reads one row of [`COLUMNS`] as the event that it should be.
pub fn recorded(row: &Row<'_>) -> Result<Recorded, Failure> {
    let entry = entry(row)?;
    let seq = entry.seq;
    entry.recorded().map_err(|failure| failure.of_event(seq))
}

fn decode(columns: &[ValueRef<'_>]) -> Result<Recorded, Unreadable> {
    let text = |index: usize| columns[index].as_str().map_err(damaged);
    let optional = |index: usize| columns[index].as_str_or_null().map_err(damaged);
    let integer = |index: usize| columns[index].as_i64().map_err(damaged);
    let (event, because) = stored::read(text(7)?, integer(8)?, text(9)?)?;
    let digest = columns[6].as_blob_or_null().map_err(damaged)?;
    Ok(Recorded {
        seq: u64::try_from(integer(0)?).map_err(damaged)?,
        at_ms: integer(1)?,
        station: text(2)?.to_owned(),
        operator: optional(3)?.map(str::to_owned),
        attempt: optional(4)?
            .map(Ulid::from_string)
            .transpose()
            .map_err(damaged)?,
        device: optional(5)?
            .map(DeviceId::parse)
            .transpose()
            .map_err(damaged)?,
        product_digest: digest
            .map(|bytes| to_digest(bytes).ok_or("its product digest is not a digest"))
            .transpose()
            .map_err(damaged)?,
        because,
        event,
    })
}

fn damaged(what: impl ToString) -> Unreadable {
    Unreadable::Damaged(what.to_string())
}

fn head(db: &Connection) -> Result<(u64, Digest), Failure> {
    let head: Option<(i64, Vec<u8>)> = db
        .prepare_cached("SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((seq, hash)) = head else {
        return Ok((0, GENESIS));
    };
    let hash = to_digest(&hash)
        .ok_or_else(|| Failure::Damaged(format!("event {seq}: its hash is not a hash")))?;
    Ok((seq.cast_unsigned(), hash))
}

fn to_digest(bytes: &[u8]) -> Option<Digest> {
    bytes.try_into().ok().map(Digest)
}

/// The device that `recorded` is about, where it must be about one.
pub fn device(recorded: &Recorded) -> Result<&DeviceId, Failure> {
    recorded
        .device
        .as_ref()
        .ok_or_else(|| Failure::illegal(format!("{}: names no device", recorded.event.kind())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_over_the_documented_bytes() {
        let columns = [
            ValueRef::Integer(-2),
            ValueRef::Text(b"ab"),
            ValueRef::Null,
            ValueRef::Blob(&[7]),
        ];
        let bytes = b"\x01\0\0\0\x08\xff\xff\xff\xff\xff\xff\xff\xfe\x02\0\0\0\x02ab\0\0\0\0\0\x03\0\0\0\x01\x07";
        assert_eq!(hash(columns.into_iter()), Digest::of(bytes));
    }
}
