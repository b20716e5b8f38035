//! One record of a trace as a person reads it. Whatever stands in the file, this neither fails nor lets text through
//! that could move a cursor.

use crate::link::smp::{self, Op, RawHeader, group};
use crate::provision::fault::{Fault, harmless};
use crate::words;
use data_encoding::HEXLOWER_PERMISSIVE;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// Characters of a text that are shown.
const TEXT_MAX: usize = 1_000;
/// Characters of a packet, in hexadecimal and without its header, that people are shown.
const HEX_MAX: usize = 64;
/// Longest packet that is decoded, in characters.
const PACKET_MAX: usize = 2 * 4096;

const DAY: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");
const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[hour]:[minute]:[second].[subsecond digits:6]");

/// A record: its texts are harmless.
pub(super) struct Shown(Map<String, Value>);

impl Shown {
    /// Reads a line; nothing where it is no record.
    pub fn read(line: &[u8]) -> Option<Self> {
        let Ok(Value::Object(fields)) = serde_json::from_slice(line) else {
            return None;
        };
        // A record has no value inside another: what else stands there is not looked into.
        let kept = fields.into_iter().filter_map(|(name, value)| {
            let value = match value {
                Value::String(text) if name == "bytes" => {
                    Value::String(harmless(&text, PACKET_MAX))
                }
                Value::String(text) => Value::String(harmless(&text, TEXT_MAX)),
                Value::Number(_) | Value::Bool(_) => value,
                Value::Null | Value::Array(_) | Value::Object(_) => return None,
            };
            Some((harmless(&name, TEXT_MAX), value))
        });
        let shown = Self(kept.collect());
        let whole = shown.0.get("kind").is_some_and(Value::is_string) && shown.at_us().is_some();
        whole.then_some(shown)
    }

    /// The bay that it belongs to.
    pub fn bay(&self) -> Option<&str> {
        self.0.get("bay").and_then(Value::as_str)
    }

    /// The record with its header decoded, for programs.
    pub fn object(&self) -> Value {
        let mut object = self.0.clone();
        if let Some(header) = self.header() {
            let decoded = json!({
                "op": op_name(header),
                "group": header.group,
                "command": header.command,
                "sequence": header.sequence,
                "length": header.length,
                "name": command_name(header),
            });
            object.insert("header".to_owned(), decoded);
        }
        Value::Object(object)
    }

    /// The record as a line for people.
    pub fn text(&self) -> String {
        let at = self.at_us().and_then(time_of);
        let of = |format: &[BorrowedFormatItem<'_>]| {
            at.and_then(|at| at.format(format).ok())
                .unwrap_or_else(|| "at no time".to_owned())
        };
        let bay = self.bay().unwrap_or("-");
        let what = match self.str("kind") {
            "begin" => format!("{} begins on {}", self.str("program"), of(DAY)),
            "wire" => self.packet(),
            "noise" => self.noise(),
            "step" => format!(
                "step   {} {}{}",
                self.step(),
                self.str("phase"),
                self.took()
            ),
            "tpm" => self.tpm(),
            "hsm" => format!(
                "hsm    {} on {}{}{}",
                self.str("call"),
                self.str("token"),
                self.took(),
                self.error()
            ),
            "dps" => self.dps(),
            "verdict" => self.verdict(),
            "dropped" => format!("{} records are missing here", self.number("count")),
            other => format!("{other}: a record of another version of this program"),
        };
        format!("{} {bay:<4} {what}", of(TIME))
    }

    fn step(&self) -> &str {
        let code = self.0.get("step").cloned().unwrap_or_default();
        match serde_json::from_value(code) {
            Ok(step) => words::step(step),
            Err(_) => self.str("step"),
        }
    }

    fn packet(&self) -> String {
        let arrow = match self.str("direction") {
            "out" => "->",
            _ => "<-",
        };
        let Some(header) = self.header() else {
            return format!("{arrow}     a packet without a header");
        };
        let hex = self.str("bytes");
        let body = hex.get(2 * smp::HEADER_LENGTH..).unwrap_or_default();
        let mut content: String = body.chars().take(HEX_MAX).collect();
        if content.len() < body.len() {
            content.push('…');
        }
        if let Some(hidden) = self.0.get("hidden").and_then(Value::as_u64) {
            content = format!("({hidden} bytes that are in no trace)");
        }
        format!(
            "{arrow}     {:<11} {} #{}, {} bytes {content}",
            op_name(header),
            command_name(header),
            header.sequence,
            header.length
        )
    }

    fn noise(&self) -> String {
        match self.0.get("bytes").and_then(Value::as_u64) {
            Some(bytes) => format!("noise  {bytes} bytes were thrown away"),
            None => format!(
                "noise  {} damaged lines, {} wrong checksums",
                self.number("lines"),
                self.number("checksums")
            ),
        }
    }

    fn tpm(&self) -> String {
        let result = match self.0.get("rc").and_then(Value::as_u64) {
            Some(0) => ": success".to_owned(),
            Some(rc) => format!(": code {rc:#x}"),
            None => String::new(),
        };
        format!(
            "tpm    {} ({:#x}), {} bytes out, {} in{result}{}{}",
            self.str("command"),
            self.number("code"),
            self.number("sent"),
            self.number("received"),
            self.took(),
            self.error()
        )
    }

    fn dps(&self) -> String {
        let status = self.0.get("status").and_then(Value::as_u64);
        format!(
            "dps    {} {} {}{}{}{}",
            self.str("dps"),
            self.str("method"),
            self.str("path"),
            status.map_or(String::new(), |status| format!(": {status}")),
            self.took(),
            self.error()
        )
    }

    fn verdict(&self) -> String {
        let fault = match (
            self.str("fault"),
            serde_json::from_str::<Fault>(self.str("told")),
        ) {
            ("", _) => String::new(),
            (code, Ok(fault)) => format!(": {} ({code})", words::of(&fault).what),
            (code, Err(_)) => format!(": {code}"),
        };
        format!(
            "end    attempt {} {}{fault}",
            self.str("attempt"),
            self.str("event")
        )
    }

    fn took(&self) -> String {
        match self.0.get("took_us").and_then(Value::as_u64) {
            Some(us) => format!(", {}.{:03} ms", us / 1000, us % 1000),
            None => String::new(),
        }
    }

    fn error(&self) -> String {
        match self.str("error") {
            "" => String::new(),
            error => format!(": {error}"),
        }
    }

    fn at_us(&self) -> Option<i64> {
        self.0.get("at_us").and_then(Value::as_i64)
    }

    fn str(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn number(&self, name: &str) -> u64 {
        self.0.get(name).and_then(Value::as_u64).unwrap_or_default()
    }

    fn header(&self) -> Option<RawHeader> {
        if self.str("kind") != "wire" {
            return None;
        }
        let hex = self.str("bytes").as_bytes().get(..2 * smp::HEADER_LENGTH)?;
        RawHeader::read(&HEXLOWER_PERMISSIVE.decode(hex).ok()?)
    }
}

fn op_name(header: RawHeader) -> &'static str {
    match header.op() {
        Some(Op::Read) => "read",
        Some(Op::ReadReply) => "read reply",
        Some(Op::Write) => "write",
        Some(Op::WriteReply) => "write reply",
        None => "reserved",
    }
}

/// The command's name, or its numbers. The number of the provisioning group is the product's to choose, among those
/// that SMP leaves to users.
fn command_name(header: RawHeader) -> String {
    let name = match (header.group, header.command) {
        (smp::OS_GROUP, smp::ECHO) => "os echo",
        (smp::OS_GROUP, smp::RESET) => "os reset",
        (smp::OS_GROUP, smp::PARAMETERS) => "os parameters",
        (smp::SETTINGS_GROUP, smp::SETTING) => "settings value",
        (smp::SETTINGS_GROUP, smp::SETTING_DELETE) => "settings delete",
        (smp::SETTINGS_GROUP, smp::SETTINGS_COMMIT) => "settings commit",
        (smp::SETTINGS_GROUP, smp::SETTINGS_SAVE) => "settings save",
        (group::GROUP.., group::IDENTIFY) => "identify",
        (group::GROUP.., group::MAKE_KEY) => "make key",
        (group::GROUP.., group::READ_OBJECT) => "read object",
        (group::GROUP.., group::WRITE_OBJECT) => "write object",
        (group::GROUP.., group::SIGN) => "sign",
        (group::GROUP.., group::TPM) => "TPM",
        (group::GROUP.., group::SEAL) => "seal",
        _ => return format!("group {} command {}", header.group, header.command),
    };
    name.to_owned()
}

fn time_of(at_us: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_us) * 1000).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(line: &str) -> String {
        Shown::read(line.as_bytes()).unwrap().text()
    }

    #[test]
    fn a_packet_is_decoded() {
        let line = r#"{"kind":"wire","at_us":1000001,"bay":"1","direction":"out","bytes":"0800000a00030700a1646e616d6563612f62"}"#;
        assert_eq!(
            text(line),
            "00:00:01.000001 1    ->     read        settings value #7, 10 bytes a1646e616d6563612f62"
        );
        let object = Shown::read(line.as_bytes()).unwrap().object();
        let header = json!({
            "op": "read", "group": 3, "command": 0, "sequence": 7, "length": 10, "name": "settings value"
        });
        assert_eq!(object["header"], header);
    }

    #[test]
    fn what_is_hidden_is_said_to_be() {
        let line = r#"{"kind":"wire","at_us":0,"bay":"1","direction":"in","bytes":"0b00010000400905","hidden":256}"#;
        assert!(
            text(line).contains("write reply TPM #9, 256 bytes (256 bytes that are in no trace)")
        );
    }

    #[test]
    fn commands_and_calls_are_named_with_what_they_took() {
        let tpm = r#"{"kind":"tpm","at_us":0,"command":"CreatePrimary","code":305,"sent":60,"received":10,"rc":257,"took_us":1234567}"#;
        assert!(
            text(tpm)
                .ends_with("CreatePrimary (0x131), 60 bytes out, 10 in: code 0x101, 1234.567 ms")
        );
        let dps = r#"{"kind":"dps","at_us":0,"dps":"main","method":"POST","path":"/enrollments","status":200,"took_us":50}"#;
        assert!(text(dps).ends_with("main POST /enrollments: 200, 0.050 ms"));
    }

    #[test]
    fn text_from_outside_cannot_move_the_cursor() {
        let line = r#"{"kind":"verdict","at_us":0,"bay":"\u001b[2J","attempt":"\u202ex","event":"failed","fault":"a\nb","told":"\u009b"}"#;
        let shown = Shown::read(line.as_bytes()).unwrap();
        let bad = |c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
        assert!(!shown.text().contains(bad), "{:?}", shown.text());
        assert!(!shown.object().to_string().contains(bad));
    }

    proptest! {
        #[test]
        fn any_line_is_shown_or_passed_over_without_a_panic(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(shown) = Shown::read(&line) {
                let _ = (shown.text(), shown.object());
            }
        }

        #[test]
        fn any_record_is_shown_in_one_line(
            kind in "wire|tpm|hsm|dps|step|noise|verdict|begin|dropped|.{0,9}",
            at_us in any::<i64>(),
            names in proptest::collection::vec("bytes|direction|hidden|rc|code|took_us|error|what|fault|path|.{0,9}", 0..6),
            texts in proptest::collection::vec("([0-9a-f]{2}){0,20}|\\PC{0,30}|.{0,30}", 6),
            numbers in proptest::collection::vec(any::<i64>(), 6),
        ) {
            let mut record = json!({ "kind": kind, "at_us": at_us });
            for (at, name) in names.iter().enumerate() {
                record[name] = match numbers[at] % 2 {
                    0 => Value::from(numbers[at]),
                    _ => Value::from(texts[at].as_str()),
                };
            }
            if let Some(shown) = Shown::read(record.to_string().as_bytes()) {
                let text = shown.text();
                prop_assert!(!text.contains(char::is_control), "{text:?}");
                let _ = shown.object();
            }
        }
    }
}
