//! Who is there: each driver that the products want is asked in turn, and the first that knows the device has it.

use super::{Driver, Group};
use crate::link::session::Patience;
use crate::link::{DeviceLink, LinkError};
use crate::provision::device::Identification;
use std::time::Duration;

/// A device that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The kind of driver that it needs.
    pub kind: &'static str,
    /// What it says of itself.
    pub identification: Identification,
}

/// Looks once who is there: asks each driver, in the order of `drivers`, until one finds a device. Where there is no
/// driver, that of the provisioning group asks: a stranger is to be noticed.
///
/// # Errors
///
/// `Silent` where nobody answers within `wait`, else what the last driver got for an answer. A lost port ends the look.
pub async fn who(
    link: &mut DeviceLink,
    drivers: &[&dyn Driver],
    wait: Duration,
) -> Result<Found, LinkError> {
    link.hello = None;
    let Some((first, others)) = drivers.split_first() else {
        return Group::default().find(link, wait).await;
    };
    let mut found = first.find(link, wait).await;
    for driver in others {
        match found {
            Err(error) if !error.lost_port() => found = driver.find(link, wait).await,
            found => return found,
        }
    }
    found
}

impl DeviceLink {
    /// How *identify* of the provisioning group is answered within `wait`. Several drivers go by the answer: it is
    /// asked for once a look, over a quiet line.
    pub(super) async fn hello(&mut self, wait: Duration) -> Result<Identification, LinkError> {
        if let Some(heard) = &self.hello {
            return heard.clone();
        }
        self.smp.settle().await?;
        let heard = self.smp.identify_with(Patience::Once(wait)).await;
        self.hello = Some(heard.clone());
        heard
    }
}
