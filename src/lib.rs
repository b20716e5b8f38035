//! `station`: the program on a production line that gives each device its cloud identity.
//!
//! Data goes one way, from the port to the ledger to the cloud, and each file knows its room:
//!
//! - [`provision`] thinks: what a device may be called, what comes next for it ([`provision::job`]), what may be
//!   signed, whether an endorsement key is genuine, what to enroll. No I/O, no clock, no randomness.
//! - [`config`] reads `station.toml`.
//! - [`link`], [`tpm`], [`hsm`], [`ledger`] and [`dps`] touch the world, and do not know one another; but what [`hsm`]
//!   signs is a [`ledger::Reserved`], which only the ledger gives.
//! - [`signing`] has the HSM sign what is the station's own: reserved first, checked after.
//! - [`bay`] brings them together for one place on the line: arrival, identification, then one effect after another,
//!   each recorded before the next. [`enroller`] drains the outbox. [`station`] supervises them.
//! - [`ui`] is the operator's screen: it gets copies of the floor and gives commands from a closed list.
//! - [`trace`] collects what the rooms say they do, through the macros of `tracing`, and writes it where it is wanted.
//! - [`commands`] turns argv into one of them.
//! - `fixtures` is a factory made of software (feature `demo`).

pub mod provision;
pub mod words;

pub mod config;

pub mod dps;
pub mod hsm;
pub mod ledger;
pub mod link;
pub mod tpm;

pub mod signing;

pub mod bay;
pub mod enroller;
pub mod station;

pub mod trace;
pub mod ui;

pub mod commands;

#[cfg(feature = "demo")]
#[path = "../fixtures/mod.rs"]
pub mod fixtures;
