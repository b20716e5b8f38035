//! What an enrollment says beside who the device is: the twin that it begins with, its hubs, what later contacts do.
//!
//! Invariant: a template names only what is known of a unit when it passes, and what is filled in is harmless text.

use super::fault::harmless;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The longest text that is filled in for one placeholder, in characters.
pub const FILLED_MAX: usize = 128;
/// What a template may name, each between braces.
pub const PLACEHOLDERS: [&str; 5] = ["line", "shift", "model", "firmware", "device_id"];

/// What an enrollment says beside who the device is and its initial twin. What is absent is not sent, and is what
/// the service makes of that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Content {
    /// Whether the device is an IoT Edge device.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub iot_edge: bool,
    /// How the service chooses a hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
    /// Host names of the hubs to choose from; empty for all that are linked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub iot_hubs: Vec<String>,
    /// What becomes of the device's data when it registers again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reprovision: Option<Reprovision>,
    /// The CA that the device's certificate must lead to, by the name that it was uploaded under; in place of the
    /// certificate itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_reference: Option<String>,
    /// What was filled into the templates of this enrollment, where one named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filled: Option<Filled>,
}

/// What of a unit is not known any more once it has passed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filled {
    /// The shift that was open; empty where none was.
    pub shift: String,
    /// The firmware that the unit ran.
    pub firmware: String,
}

/// How the service chooses a hub (`allocationPolicy`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allocation {
    /// Evenly.
    Hashed,
    /// The nearest.
    GeoLatency,
    /// The only one that is given.
    Static,
    /// As a function of the customer's says.
    Custom {
        /// Where that is called.
        webhook_url: String,
        /// Version of the interface by which it is called.
        api_version: String,
    },
}

/// What becomes of a device's data when it registers again (`reprovisionPolicy`), in the words of Azure's command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reprovision {
    /// It moves with the device.
    ReprovisionAndMigrateData,
    /// It is set back to the initial twin.
    ReprovisionAndResetData,
    /// The device stays with its hub.
    Never,
}

/// What a unit's templates are filled with.
#[derive(Clone, Copy, Debug)]
pub struct Particulars<'a> {
    /// The station's name.
    pub line: &'a str,
    /// The unit's model.
    pub model: &'a str,
    /// The unit's device ID.
    pub device_id: &'a str,
    /// The rest.
    pub filled: &'a Filled,
}

impl Content {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is set, each as DPS spells field and value; without the initial twin and the attestation.
    pub fn fields(&self) -> Vec<(&'static str, Value)> {
        let mut fields = Vec::new();
        if self.iot_edge {
            fields.push(("capabilities", json!({"iotEdge": true})));
        }
        if let Some(allocation) = &self.allocation {
            let word = match allocation {
                Allocation::Hashed => "hashed",
                Allocation::GeoLatency => "geoLatency",
                Allocation::Static => "static",
                Allocation::Custom { .. } => "custom",
            };
            fields.push(("allocationPolicy", json!(word)));
        }
        if let Some(Allocation::Custom {
            webhook_url,
            api_version,
        }) = &self.allocation
        {
            let definition = json!({"webhookUrl": webhook_url, "apiVersion": api_version});
            fields.push(("customAllocationDefinition", definition));
        }
        if !self.iot_hubs.is_empty() {
            fields.push(("iotHubs", json!(self.iot_hubs)));
        }
        if let Some(policy) = self.reprovision {
            let (update, migrate) = match policy {
                Reprovision::ReprovisionAndMigrateData => (true, true),
                Reprovision::ReprovisionAndResetData => (true, false),
                Reprovision::Never => (false, false),
            };
            let policy = json!({"updateHubAssignment": update, "migrateDeviceData": migrate});
            fields.push(("reprovisionPolicy", policy));
        }
        fields
    }
}

impl Particulars<'_> {
    fn of(&self, placeholder: &str) -> Option<String> {
        let text = match placeholder {
            "line" => self.line,
            "shift" => &self.filled.shift,
            "model" => self.model,
            "firmware" => &self.filled.firmware,
            "device_id" => self.device_id,
            _ => return None,
        };
        Some(harmless(text, FILLED_MAX))
    }

    /// The template with everything that it names filled in: `{line}` and the like in texts, never in names. Other
    /// braces are themselves.
    pub fn fill(&self, template: &Value) -> Value {
        each_text(template, &mut |text| {
            parts(text)
                .map(|part| match part {
                    Part::Placeholder(name) => self.of(name).unwrap_or_default(),
                    Part::Text(text) => text.to_owned(),
                })
                .collect()
        })
    }
}

/// What a template names, in the order in which it stands there; known here or not.
pub fn named(template: &Value) -> Vec<String> {
    let mut found = Vec::new();
    each_text(template, &mut |text| {
        let names = parts(text).filter_map(|part| match part {
            Part::Placeholder(name) => Some(name.to_owned()),
            Part::Text(_) => None,
        });
        found.extend(names);
        String::new()
    });
    found
}

/// A piece of a text: a name between braces, or anything else.
enum Part<'a> {
    Placeholder(&'a str),
    Text(&'a str),
}

fn parts(text: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = match placeholder(rest) {
            Some(name) => {
                rest = &rest[name.len() + 2..];
                return Some(Part::Placeholder(name));
            }
            None => {
                let first = rest.chars().next().map_or(0, char::len_utf8);
                rest[first..].find('{').map_or(rest.len(), |at| at + first)
            }
        };
        let (text, after) = rest.split_at(end);
        rest = after;
        Some(Part::Text(text))
    })
}

/// The name that a text begins with, if it begins with one between braces.
fn placeholder(text: &str) -> Option<&str> {
    let (name, _) = text.strip_prefix('{')?.split_once('}')?;
    let fits = |b: u8| b.is_ascii_lowercase() || b == b'_';
    (!name.is_empty() && name.bytes().all(fits)).then_some(name)
}

fn each_text(value: &Value, change: &mut impl FnMut(&str) -> String) -> Value {
    match value {
        Value::String(text) => Value::String(change(text)),
        Value::Array(list) => list.iter().map(|value| each_text(value, change)).collect(),
        Value::Object(members) => {
            let mut changed = Map::new();
            for (name, value) in members {
                changed.insert(name.clone(), each_text(value, change));
            }
            Value::Object(changed)
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_filled_in_its_texts_and_nowhere_else() {
        let filled = Filled {
            shift: "early".to_owned(),
            firmware: "2.4\u{1b}".to_owned(),
        };
        let particulars = Particulars {
            line: "line-3",
            model: "GW",
            device_id: "GW-1",
            filled: &filled,
        };
        let template = json!({
            "{line}": "{line}", "made": {"on": ["{shift}/{model}", "v{firmware}", 1, true]},
            "id": "é{device_id}{device_id}", "open": "{", "json": "{\"a\":{}} {Line} {}", "other": "{customer}",
        });
        let wanted = json!({
            "{line}": "line-3", "made": {"on": ["early/GW", "v2.4?", 1, true]},
            "id": "éGW-1GW-1", "open": "{", "json": "{\"a\":{}} {Line} {}", "other": "",
        });
        assert_eq!(particulars.fill(&template), wanted);
        let mut names = named(&template);
        names.sort();
        let all = [
            "customer",
            "device_id",
            "device_id",
            "firmware",
            "line",
            "model",
            "shift",
        ];
        assert_eq!(names, all);
        for known in PLACEHOLDERS {
            assert!(particulars.of(known).is_some(), "{known}");
        }
    }

    #[test]
    fn what_is_not_set_is_not_said() {
        assert!(Content::default().fields().is_empty());
        let body = serde_json::to_value(Content::default());
        assert_eq!(body.ok(), Some(json!({})));
    }
}
