//! `station trace`: what a trace holds, for people or as JSON lines. Needs no `station.toml`.

mod shown;

use super::{Context, Exit, Failure};
use clap::Subcommand;
use shown::Shown;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// The longest line that can be a record, in bytes.
const LINE_MAX: u64 = 64 * 1024;

/// What `station trace` can do.
#[derive(Subcommand)]
pub enum TraceCommand {
    /// Show the records of a trace, with the header of each packet decoded; times are UTC.
    Show {
        /// A file that `--trace` named, or one of the folder LEDGER-traces.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Only those of one bay.
        #[arg(long, value_name = "NAME")]
        bay: Option<String>,
    },
}

/// Runs `station trace …`.
pub(super) fn run(context: &Context, command: TraceCommand) -> Result<Exit, Failure> {
    let TraceCommand::Show { file, bay } = command;
    let unreadable = |error| unreadable(&file, &error);
    let mut lines = BufReader::new(File::open(&file).map_err(unreadable)?);
    let (mut records, mut others) = (0_u64, 0_u64);
    let mut line = Vec::new();
    while next(&mut lines, &mut line).map_err(unreadable)? {
        let Some(shown) = Shown::read(&line) else {
            others += 1;
            continue;
        };
        records += 1;
        if bay.is_none() || bay.as_deref() == shown.bay() {
            context.print(&shown.object(), &shown.text())?;
        }
    }
    if records == 0 {
        return Err(Failure::usage(format!(
            "{} holds no record of a trace: name a file that `--trace` wrote, or one of the folder LEDGER-traces",
            file.display()
        )));
    }
    if others > 0 {
        // The last line of a process that was killed, or damage.
        eprintln!(
            "station: {others} lines of {} are no records and were passed over",
            file.display()
        );
        return Ok(Exit::Incomplete);
    }
    Ok(Exit::Done)
}

/// Reads the next line; of one that is too long only the beginning, which is no record. Nothing at the end.
fn next(lines: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    if lines.by_ref().take(LINE_MAX).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if !line.ends_with(b"\n") {
        lines.skip_until(b'\n')?;
    }
    Ok(true)
}

fn unreadable(file: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!(
        "{} cannot be read ({error}): correct the file's name, or give the right to read it",
        file.display()
    ))
}
