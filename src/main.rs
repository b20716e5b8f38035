//! `station`: argv to one of the commands; the only place that prints a fault and picks an exit code.

use clap::Parser;
use dps_station::commands::{self, Cli};
use std::process::ExitCode;

fn main() -> ExitCode {
    match commands::run(Cli::parse()) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(failure) => {
            eprintln!("station: {failure}");
            ExitCode::from(failure.exit as u8)
        }
    }
}
