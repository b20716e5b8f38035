//! The tests of the whole program, one file a promise or a part.

mod link;
mod screens;
mod certificate;
mod hsm;
mod ledger;
mod certificate;
mod hsm;
#![allow(clippy::unwrap_used)]

mod tpm;
