//! One record of a trace: collected from the fields of an event, bounded, and written as a JSON object.

use crate::provision::fault::harmless;
use data_encoding::HEXLOWER;
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::field::{Field, Visit};

/// Characters of a text that are kept.
const TEXT_MAX: usize = 400;
/// Bytes of a field that are kept: the longest packet.
const BYTES_MAX: usize = 4096;
/// What a record takes besides texts and bytes, about, in memory and in a file.
const COST: usize = 192;

/// Something that happened.
pub(super) struct Record {
    pub kind: &'static str,
    /// Microseconds since 1970 (UTC).
    pub at_us: i64,
    pub bay: Option<Arc<str>>,
    pub fields: Fields,
}

/// What is known of it.
#[derive(Default)]
pub(super) struct Fields(Vec<(&'static str, Value)>);

enum Value {
    Number(u64),
    Text(String),
    Bytes(Vec<u8>),
}

impl Record {
    /// A record of now.
    pub fn now(kind: &'static str, bay: Option<Arc<str>>, fields: Fields) -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            kind,
            at_us: i64::try_from(now.as_micros()).unwrap_or(i64::MAX),
            bay,
            fields,
        }
    }

    /// What it counts against a bound in bytes: at least what it takes in memory, and half of what it takes in a file.
    pub fn size(&self) -> usize {
        let of = |(_, value): &(_, Value)| match value {
            Value::Number(_) => 0,
            Value::Text(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
        };
        COST + self.fields.0.iter().map(of).sum::<usize>()
    }

    /// The record as a line.
    pub fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("a record is made of texts and numbers");
        line.push(b'\n');
        line
    }
}

impl Fields {
    pub fn number(mut self, name: &'static str, number: u64) -> Self {
        self.0.push((name, Value::Number(number)));
        self
    }

    pub fn text(mut self, name: &'static str, text: &str) -> Self {
        self.0.push((name, Value::Text(harmless(text, TEXT_MAX))));
        self
    }

    /// The text of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|(field, value)| match value {
            Value::Text(text) if *field == name => Some(text.as_str()),
            _ => None,
        })
    }
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.push((field.name(), Value::Number(value)));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.record_u64(field, u64::try_from(value).unwrap_or(u64::MAX));
    }

    fn record_bytes(&mut self, field: &Field, value: &[u8]) {
        let kept = &value[..value.len().min(BYTES_MAX)];
        self.0.push((field.name(), Value::Bytes(kept.to_vec())));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0
            .push((field.name(), Value::Text(harmless(value, TEXT_MAX))));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", self.kind)?;
        map.serialize_entry("at_us", &self.at_us)?;
        if let Some(bay) = &self.bay {
            map.serialize_entry("bay", &**bay)?;
        }
        for (name, value) in &self.fields.0 {
            match value {
                Value::Number(number) => map.serialize_entry(name, number)?,
                Value::Text(text) => map.serialize_entry(name, text)?,
                Value::Bytes(bytes) => map.serialize_entry(name, &HEXLOWER.encode(bytes))?,
            }
        }
        map.end()
    }
}
