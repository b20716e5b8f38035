//! The tests of the whole program, one file a promise or a part.

#![allow(clippy::unwrap_used)]

mod afterwards;
mod ca;
mod certificate;
mod cli;
mod codes;
mod configuration;
mod driver;
mod emulator;
mod enroll;
mod firmware;
mod fuzz;
mod headless;
mod hsm;
mod idle;
mod injection;
mod kill;
mod ledger;
mod line;
mod link;
mod lists;
mod loopback;
mod model;
mod naming;
mod odd_service;
mod plant;
mod ports;
mod rack;
mod readme;
mod retry;
mod returns;
mod scenarios;
mod screens;
mod stranger;
mod support;
mod template;
mod tidy;
mod tpm;
mod tpm_line;
mod trace;
mod words;
