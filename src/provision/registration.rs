//! What became of a device: its registration, as its enrollment shows it.
//!
//! Invariant: a line of the table has no field that a spreadsheet takes for a formula.

use super::batch::Held;
use super::fault::harmless;
use serde::Serialize;
use serde_json::Value;

/// The longest text of the service that is kept, in characters.
const TEXT_MAX: usize = 256;

/// The registration of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Registration {
    /// Name of the DPS instance.
    pub dps: String,
    /// The registration ID.
    pub registration_id: String,
    /// The device ID in IoT Hub.
    pub device_id: String,
    /// Whether the enrollment is `enabled` or `disabled`.
    pub enrollment: String,
    /// `unassigned` before the first contact, `assigning`, `assigned`, `failed` or `disabled`, as the service says it.
    pub status: String,
    /// The hub that the device belongs to.
    pub assigned_hub: Option<String>,
    /// When it was last in contact, as RFC 3339 has it: `lastUpdatedDateTimeUtc` once it has registered.
    pub last_contact: Option<String>,
    /// Why the service did not assign it, in its words.
    pub error: Option<String>,
}

impl Registration {
    /// The names of the fields, in the order of [`Registration::row`].
    pub const HEADER: &str =
        "dps,registration_id,device_id,enrollment,status,assigned_hub,last_contact,error";

    /// What an enrollment of `dps` shows. Before the first contact, the service gives none, or one with a date that says
    /// when the enrollment was made.
    pub fn of(dps: &str, held: &Held) -> Self {
        let state = held.raw.get("registrationState").unwrap_or(&Value::Null);
        let text = |name: &str| {
            let text = state.get(name).and_then(Value::as_str);
            text.filter(|text| !text.is_empty())
                .map(|text| harmless(text, TEXT_MAX))
        };
        let status = text("status").unwrap_or_else(|| "unassigned".to_owned());
        let device = held.device_id.as_ref().unwrap_or(&held.registration_id);
        Self {
            dps: dps.to_owned(),
            registration_id: held.registration_id.clone(),
            device_id: device.clone(),
            enrollment: held.status.to_string(),
            assigned_hub: text("assignedHub"),
            last_contact: text("lastUpdatedDateTimeUtc").filter(|_| status != "unassigned"),
            error: text("errorMessage"),
            status,
        }
    }

    /// One line of a table, without its end.
    pub fn row(&self) -> String {
        let or_empty = |text: &'_ Option<String>| text.clone().unwrap_or_default();
        let optional = [&self.assigned_hub, &self.last_contact, &self.error].map(or_empty);
        let always = [
            &self.dps,
            &self.registration_id,
            &self.device_id,
            &self.enrollment,
            &self.status,
        ];
        let fields = always.into_iter().chain(&optional);
        fields
            .map(|field| quoted(field))
            .collect::<Vec<_>>()
            .join(",")
    }
}

/// A field as RFC 4180 quotes it. What a spreadsheet would take for a formula gets an apostrophe before it.
fn quoted(field: &str) -> String {
    let formula = field.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let mark = if formula { "'" } else { "" };
    format!("\"{mark}{}\"", field.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_no_formula_and_stays_one_field() {
        for (field, wanted) in [
            ("gw-1", "\"gw-1\""),
            ("a,\"b\"", "\"a,\"\"b\"\"\""),
            ("=HYPERLINK(1)", "\"'=HYPERLINK(1)\""),
            ("-1", "\"'-1\""),
            ("@x", "\"'@x\""),
            ("+1", "\"'+1\""),
        ] {
            assert_eq!(quoted(field), wanted);
        }
    }
}
