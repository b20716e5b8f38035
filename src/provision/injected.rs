//! What a device gives of the values that were injected, and whether they are the ones asked for.
//!
//! Invariant: only the global endpoint may be believed by its beginning, only where the product's policy says so, only
//! where the device itself says that it cuts values off there, and never by less than the product says that it gives.

use super::device::Holding;
use super::fault::HeldValue;
use serde::{Deserialize, Serialize};

/// How much of a value must come back before it is believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readback {
    /// All of it.
    #[default]
    Whole,
    /// As much as the device gives of any value, which must be the beginning of it.
    Prefix,
}

/// What a device gives of the values that were injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The values, as far as they came back; a value that is not there is empty.
    pub holding: Holding,
    /// The most bytes that the device gives of any value, where it says so: a value of that length may go on.
    pub value_limit: Option<usize>,
}

/// How what was observed agrees with what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// Every value came back whole and is right.
    Whole,
    /// The endpoint came back as its first bytes only, so many; they and the other values are right.
    EndpointPrefix(usize),
    /// Each value that is not what was written.
    Differs(Vec<HeldValue>),
}

impl Observed {
    /// Values of which each came back whole.
    pub fn whole(holding: Holding) -> Self {
        Self {
            holding,
            value_limit: None,
        }
    }

    /// Compares with what the device was asked to hold; `endpoint` is the policy for the endpoint, and `least` how many
    /// bytes must come back of one that is cut off.
    pub fn agreement(&self, asked: &Holding, endpoint: Readback, least: usize) -> Agreement {
        let length = self.holding.global_endpoint.len();
        let cut_off = self.value_limit == Some(length)
            && length >= least
            && length < asked.global_endpoint.len()
            && asked
                .global_endpoint
                .starts_with(&self.holding.global_endpoint);
        let by_prefix = cut_off && endpoint == Readback::Prefix;
        let mut held = self.holding.clone();
        if by_prefix {
            held.global_endpoint.clone_from(&asked.global_endpoint);
        }
        match (held == *asked, by_prefix) {
            (true, true) => Agreement::EndpointPrefix(length),
            (true, false) => Agreement::Whole,
            (false, _) => Agreement::Differs(difference(asked, &held)),
        }
    }
}

/// Each value that differs.
fn difference(asked: &Holding, observed: &Holding) -> Vec<HeldValue> {
    let values = [
        (HeldValue::IdScope, asked.id_scope != observed.id_scope),
        (
            HeldValue::GlobalEndpoint,
            asked.global_endpoint != observed.global_endpoint,
        ),
        (
            HeldValue::RegistrationId,
            asked.registration_id != observed.registration_id,
        ),
        (
            HeldValue::Certificate,
            asked.certificate_sha256 != observed.certificate_sha256,
        ),
    ];
    let differing = values.into_iter().filter(|(_, differs)| *differs);
    differing.map(|(value, _)| value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn holding(global_endpoint: &str) -> Holding {
        Holding {
            id_scope: "0ne00112233".to_owned(),
            global_endpoint: global_endpoint.to_owned(),
            registration_id: "gw-0001".to_owned(),
            certificate_sha256: None,
        }
    }

    proptest! {
        #[test]
        fn no_less_is_believed_than_the_whole_or_what_the_product_says(
            endpoint in "[a-z.]{1,40}",
            given in 0..50_usize,
            says in prop::option::of(0..50_usize),
            says_truly in any::<bool>(),
            least in 0..50_usize,
            by_prefix in any::<bool>(),
        ) {
            let given = given.min(endpoint.len());
            let observed = Observed {
                holding: holding(&endpoint[..given]),
                value_limit: if says_truly { Some(given) } else { says },
            };
            let policy = if by_prefix { Readback::Prefix } else { Readback::Whole };
            let found = observed.agreement(&holding(&endpoint), policy, least);
            let cut_off = by_prefix && given >= least && observed.value_limit == Some(given);
            let right = match given == endpoint.len() {
                true => Agreement::Whole,
                false if cut_off => Agreement::EndpointPrefix(given),
                false => Agreement::Differs(vec![HeldValue::GlobalEndpoint]),
            };
            prop_assert_eq!(found, right);
        }
    }
}
