//! What `station.toml` says of products whose devices have stock firmware, which can only be injected.

use super::ProductConfig;
use super::place::Wrong;
use crate::provision::device::Attestation;
use crate::provision::injected::Readback;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeSet;

/// What is wrong with a product in that respect, as the rest of a sentence about it.
pub(super) fn wrong(product: &ProductConfig) -> Option<&'static str> {
    let inject = &product.inject;
    let by_prefix = inject.endpoint_readback == Readback::Prefix;
    match product.attestation {
        Some(_) if inject.id_key.is_some() || by_prefix => Some(
            "is no injection-only product: leave out inject.id_key and inject.endpoint_readback",
        ),
        None if inject.id_key.is_none() => Some(
            "is injection-only, and needs inject.id_key: under which its devices have their ID",
        ),
        None if product.device_id.injects() => {
            Some("is injection-only: its devices keep the ID that they have")
        }
        None if !product.firmware.is_empty() => Some(
            "is injection-only, and names firmware versions, which stock firmware does not say",
        ),
        _ => None,
    }
}

/// Devices with stock firmware are told apart by nothing but the key that they have their ID under.
pub(super) fn keys_differ(products: &[ProductConfig]) -> Result<(), Wrong> {
    let mut seen = BTreeSet::new();
    for (number, product) in products.iter().enumerate() {
        if let Some(key) = &product.inject.id_key
            && !seen.insert(key)
        {
            let what = format!("two products have the id_key {key:?}");
            return Err(Wrong::at(
                &[&"product", &number, &"inject", &"id_key"],
                what,
            ));
        }
    }
    Ok(())
}

/// An attestation, or the word `none`. It must be said: devices of a product that merely forgot its attestation would
/// never be enrolled.
pub(super) fn attestation<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Attestation>, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        X509,
        Tpm,
        None,
    }
    Ok(match Word::deserialize(deserializer)? {
        Word::X509 => Some(Attestation::X509),
        Word::Tpm => Some(Attestation::Tpm),
        Word::None => None,
    })
}
