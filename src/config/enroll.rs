//! `[product.enroll]` of `station.toml`: what the enrollments of a product's devices say beside who the device is.

use super::desired::{self, Collection};
use super::place::Wrong;
use crate::provision::content::{
    Allocation, Content, FILLED_MAX, PLACEHOLDERS, Reprovision, named,
};
use crate::provision::content::{Filled, Particulars};
use crate::provision::device::Attestation;
use serde::Deserialize;
use serde_json::Value;

/// `[product.enroll]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EnrollConfig {
    /// Tags of the initial twin: a template.
    pub initial_tags: Option<Value>,
    /// Whether the devices are IoT Edge devices.
    pub iot_edge: bool,
    /// How the service chooses a hub.
    pub allocation_policy: Option<AllocationPolicy>,
    /// Host names of the hubs to choose from.
    pub iot_hubs: Vec<String>,
    /// Where a custom allocation is asked.
    pub webhook_url: Option<String>,
    /// By which version of the interface.
    pub webhook_api_version: Option<String>,
    /// What becomes of a device's data when it registers again.
    pub reprovision: Option<Reprovision>,
    /// Name of the CA in DPS that the devices' certificates lead to, in place of each certificate.
    pub ca_reference: Option<String>,
}

/// `allocation_policy`, in the words of Azure's command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AllocationPolicy {
    /// Evenly.
    Hashed,
    /// The nearest.
    #[serde(alias = "geoLatency")]
    GeoLatency,
    /// The only one in `iot_hubs`.
    Static,
    /// As a function of the customer's says.
    Custom,
}

impl EnrollConfig {
    /// What is said, the templates as they stand.
    pub(super) fn content(&self) -> Content {
        let allocation = self.allocation_policy.map(|policy| match policy {
            AllocationPolicy::Hashed => Allocation::Hashed,
            AllocationPolicy::GeoLatency => Allocation::GeoLatency,
            AllocationPolicy::Static => Allocation::Static,
            AllocationPolicy::Custom => Allocation::Custom {
                webhook_url: self.webhook_url.clone().unwrap_or_default(),
                api_version: self.webhook_api_version.clone().unwrap_or_default(),
            },
        });
        Content {
            iot_edge: self.iot_edge,
            allocation,
            iot_hubs: self.iot_hubs.clone(),
            reprovision: self.reprovision,
            ca_reference: self.ca_reference.clone(),
            filled: None,
        }
    }

    /// What is wrong with it.
    pub(super) fn check(&self, attestation: Option<Attestation>) -> Result<(), Wrong> {
        let wrong = |key: &str, what: &str| Err(Wrong::at(&[&key], what.to_owned()));
        if let Some(tags) = &self.initial_tags {
            template(tags, Collection::Tags).map_err(|wrong| wrong.under(&[&"initial_tags"]))?;
        }
        let custom = self.allocation_policy == Some(AllocationPolicy::Custom);
        let webhook = [&self.webhook_url, &self.webhook_api_version];
        let is_host = |hub: &String| {
            let part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
            !hub.is_empty() && hub.bytes().all(part)
        };
        let says = self.initial_tags.is_some() || !self.content().is_empty();
        if attestation.is_none() && says {
            return wrong(
                "",
                "devices of an injection-only product are never enrolled",
            );
        }
        if !self.iot_hubs.iter().all(is_host) {
            return wrong(
                "iot_hubs",
                "a hub is a host name, such as hub.azure-devices.net",
            );
        }
        if self.allocation_policy == Some(AllocationPolicy::Static) && self.iot_hubs.len() != 1 {
            return wrong(
                "allocation_policy",
                "static needs exactly one hub in iot_hubs",
            );
        }
        if custom && webhook.iter().any(|part| part.is_none()) {
            return wrong(
                "allocation_policy",
                "custom needs webhook_url and webhook_api_version",
            );
        }
        if !custom && webhook.iter().any(|part| part.is_some()) {
            return wrong(
                "webhook_url",
                "a webhook is for allocation_policy = \"custom\" only",
            );
        }
        if self.ca_reference.is_some() && attestation != Some(Attestation::X509) {
            return wrong("ca_reference", "only certificates lead to a CA");
        }
        Ok(())
    }
}

/// What is wrong with a template of a twin's part, also when everything in it is filled in at its longest.
pub(super) fn template(values: &Value, collection: Collection) -> Result<(), Wrong> {
    let known = |name: &&String| !PLACEHOLDERS.contains(&name.as_str());
    if let Some(strange) = named(values).iter().find(known) {
        let all = PLACEHOLDERS.map(|name| format!("{{{name}}}")).join(", ");
        let what = format!("{{{strange}}} is none of {all}");
        return Err(Wrong::at(&[], what));
    }
    let longest = "x".repeat(FILLED_MAX);
    let filled = Filled {
        shift: longest.clone(),
        firmware: longest.clone(),
    };
    let particulars = Particulars {
        line: &longest,
        model: &longest,
        device_id: &longest,
        filled: &filled,
    };
    desired::check(&particulars.fill(values), collection)
}
