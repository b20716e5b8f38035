//! What `station check` says of a product's vendor roots: which set it is, and every entry that is of no use.

use super::Finding;
use crate::commands::parts;
use crate::config::{Config, ProductConfig};
use crate::provision::endorsement::VendorRoots;
use crate::words;
use serde_json::{Value, json};
use std::path::Path;

/// Looks at the vendor roots of each product that names some. A set that trusts nobody is wrong; an entry that
/// cannot be used is named and does no harm, since published sets have some.
pub fn check(config: &Config) -> Vec<Finding> {
    let named = config.products.iter();
    let named = named.filter_map(|product| Some((product, product.vendor_roots.as_deref()?)));
    named
        .map(|(product, path)| finding(config, product, path))
        .collect()
}

fn finding(config: &Config, product: &ProductConfig, path: &Path) -> Finding {
    let what = format!(
        "vendor roots of product {} at {}",
        product.name,
        config.path(path).display()
    );
    match parts::roots(config, product) {
        Ok(roots) => {
            let now = parts::clock() / 1000;
            let useless = useless(&roots, now);
            Finding {
                said: summary(&roots),
                notes: useless
                    .iter()
                    .map(|(which, why)| format!("{which}: {why}"))
                    .collect(),
                details: details(&roots, &useless),
                ..Finding::new(what, None)
            }
        }
        Err(failure) => Finding::new(what, Some(failure)),
    }
}

fn summary(roots: &VendorRoots) -> String {
    let mut text = format!(
        "{} anchors, {} intermediates, SHA-256 {}",
        roots.anchors(),
        roots.intermediates(),
        roots.digest()
    );
    for release in roots.releases() {
        text += &format!(
            "; {} of {}, commit {}",
            release.file, release.date, release.commit
        );
    }
    text
}

/// Every entry that was refused, is not valid now, or leads to no anchor, and why.
fn useless(roots: &VendorRoots, now: i64) -> Vec<(String, String)> {
    let refused = roots.refused().iter();
    let refused = refused.map(|refused| {
        (
            refused.entry.clone(),
            format!("refused: it {}", words::endorsement_flaw(&refused.flaw)),
        )
    });
    let not_valid = roots
        .not_valid_at(now)
        .map(|name| (name.to_owned(), "not valid today".to_owned()));
    let dangling = roots.dangling(now).into_iter();
    let dangling = dangling.map(|(name, why)| {
        (
            name.to_owned(),
            format!("leads to no anchor: {}", words::of(&why).what),
        )
    });
    refused.chain(not_valid).chain(dangling).collect()
}

fn details(roots: &VendorRoots, useless: &[(String, String)]) -> Value {
    let releases = roots.releases().iter();
    let releases: Vec<_> = releases
        .map(
            |release| json!({"file": release.file, "date": release.date, "commit": release.commit}),
        )
        .collect();
    let useless: Vec<_> = useless
        .iter()
        .map(|(entry, why)| json!({"entry": entry, "why": why}))
        .collect();
    json!({
        "anchors": roots.anchors(),
        "intermediates": roots.intermediates(),
        "digest": roots.digest(),
        "releases": releases,
        "useless": useless,
    })
}
