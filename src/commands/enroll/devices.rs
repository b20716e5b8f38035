//! The file of `station reconcile --devices`: a line for each device, whole or not there.

use crate::commands::Failure;
use crate::provision::registration::Registration;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// A file under way: it gets its name when it is whole, and is gone if it never is.
pub(super) struct Devices {
    path: PathBuf,
    under_way: PathBuf,
    out: Option<BufWriter<File>>,
    csv: bool,
    error: Option<io::Error>,
}

impl Devices {
    /// Begins the file: a table where its name ends in `.csv`, else JSON lines.
    pub fn begin(path: &Path) -> Result<Self, Failure> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let under_way = PathBuf::from(name);
        let file = File::create(&under_way).map_err(|error| unwritable(path, &error))?;
        let mut devices = Self {
            path: path.to_owned(),
            under_way,
            out: Some(BufWriter::new(file)),
            csv: path
                .extension()
                .is_some_and(|end| end.eq_ignore_ascii_case("csv")),
            error: None,
        };
        if devices.csv {
            devices.line(Registration::HEADER);
        }
        Ok(devices)
    }

    /// Adds a device; what goes wrong is said at the end.
    pub fn add(&mut self, device: &Registration) {
        let line = match self.csv {
            true => device.row(),
            false => serde_json::to_string(device).expect("it is made of texts"),
        };
        self.line(&line);
    }

    fn line(&mut self, line: &str) {
        if let (Some(out), None) = (&mut self.out, &self.error) {
            self.error = writeln!(out, "{line}").err();
        }
    }

    /// Gives the whole file its name.
    pub fn end(mut self) -> Result<(), Failure> {
        let ended = match (self.error.take(), self.out.take()) {
            (Some(error), _) => Err(error),
            (None, None) => Ok(()),
            (None, Some(out)) => out
                .into_inner()
                .map_err(io::IntoInnerError::into_error)
                .and_then(|file| file.sync_all())
                .and_then(|()| fs::rename(&self.under_way, &self.path)),
        };
        ended.map_err(|error| unwritable(&self.path, &error))
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        // After its end, nothing has that name any more.
        let _ = fs::remove_file(&self.under_way);
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!(
        "{} cannot be written ({error}): give --devices a file in a folder that takes one",
        path.display()
    ))
}
