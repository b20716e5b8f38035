//! The tests of the whole program, one file a promise or a part.

#![allow(clippy::unwrap_used)]

mod certificate;
mod hsm;
mod ledger;
mod link;
mod screens;
mod tidy;
#![allow(clippy::unwrap_used)]

mod tpm;
mod emulator;
mod hsm;
mod ledger;
mod link;
mod screens;
mod tpm;
