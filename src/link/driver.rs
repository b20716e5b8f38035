//! Drivers: how to talk to one kind of device, one file a kind.

mod find;
mod group;
mod settings;
mod stock;

pub use find::{Found, who};
pub use settings::{Injection, ReadBack, ValueType};

use super::{Device, DeviceLink, Reply};
use group::Group;
use std::sync::Arc;
use std::time::Duration;
use stock::Stock;

/// How to talk to one kind of device. Which one it is, a product says.
pub trait Driver: Send + Sync {
    /// Name of the kind: equal where the drivers of two products differ only in what the products say.
    fn kind(&self) -> &'static str;

    /// Asks once whether a device of the kind is there. One of another kind that is known by its answer is found too.
    ///
    /// # Errors
    ///
    /// `Silent` where nobody answers within `wait`, and what else [`Device`] names.
    fn find<'a>(&'a self, link: &'a mut DeviceLink, wait: Duration) -> Reply<'a, Found>;

    /// The device that was found, to be asked for the time of an attempt.
    fn device<'a>(&'a self, link: &'a mut DeviceLink) -> Box<dyn Device + 'a>;
}

/// The driver for devices of a product, by what its `inject` table says.
pub fn of_product(inject: Injection, model: &str) -> Arc<dyn Driver> {
    match inject.id_key.clone() {
        Some(id_key) => Arc::new(Stock::new(inject, id_key, model)),
        None => Arc::new(Group::new(inject)),
    }
}
