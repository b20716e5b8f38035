//! `station`: the program on a production line that gives each device its cloud identity.

pub mod provision;

pub mod config;

pub mod dps;
pub mod hsm;
pub mod ledger;
pub mod link;
pub mod tpm;

pub mod bay;
pub mod enroller;
pub mod station;

pub mod ui;

pub mod commands;

#[cfg(feature = "demo")]
#[path = "../fixtures/mod.rs"]
pub mod fixtures;
