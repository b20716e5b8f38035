//! A list as it is read from its file: row by row, with a bound on each line, and the digest of all of it.

use crate::commands::Failure;
use crate::provision::bytes::Digest;
use crate::provision::list::{COLUMNS, Header, HeaderTrouble, LINE_MAX, Row, Rows, Separator};
use crate::words;
use aws_lc_rs::digest::{Context, SHA256};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// What spreadsheets put before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A list under way; its header has been read.
pub(super) struct Reading {
    path: PathBuf,
    file: BufReader<Hashed>,
    rows: Rows,
    header: Header,
}

/// A file of which everything that is read is hashed.
struct Hashed {
    file: File,
    context: Context,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.context.update(&buffer[..read]);
        Ok(read)
    }
}

impl Reading {
    /// Opens the list and reads its header.
    ///
    /// # Errors
    /// A file that cannot be read, or in which nothing is a header.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let unreadable = |error: io::Error| unreadable(path, &error);
        let file = File::open(path).map_err(unreadable)?;
        if !file.metadata().map_err(unreadable)?.is_file() {
            return Err(Failure::usage(format!(
                "{} is no file: give the list that is to be enrolled",
                path.display()
            )));
        }
        let mut file = BufReader::new(Hashed {
            file,
            context: Context::new(&SHA256),
        });
        let first = line(&mut file).map_err(unreadable)?.flatten();
        let first = first.unwrap_or_default();
        let first = first.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&first);
        let mut rows = Rows::new(Separator::of(first));
        rows.push(Some(first.to_vec()));
        let header = match rows.next(true).map(|row| row.fields) {
            Some(Ok(fields)) => Header::parse(&fields).map_err(|trouble| wrong(path, &trouble))?,
            Some(Err(trouble)) => return Err(no_header(path, &words::line(&trouble))),
            None => return Err(no_header(path, "it is empty")),
        };
        rows.expect(header.width());
        Ok(Self {
            path: path.to_owned(),
            file,
            rows,
            header,
        })
    }

    /// Its header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next row; none after the last.
    pub fn next(&mut self) -> Result<Option<Row>, Failure> {
        loop {
            if let Some(row) = self.rows.next(false) {
                return Ok(Some(row));
            }
            match line(&mut self.file).map_err(|error| unreadable(&self.path, &error))? {
                Some(line) => self.rows.push(line),
                None => return Ok(self.rows.next(true)),
            }
        }
    }

    /// The digest of all that was read: of the whole file, after its last row.
    pub fn digest(self) -> Digest {
        let digest = self.file.into_inner().context.finish();
        let mut octets = [0; 32];
        octets.copy_from_slice(digest.as_ref());
        Digest(octets)
    }
}

/// The next line without its end, `None` in it where it is too long; none at the end of the file.
fn line(file: &mut impl BufRead) -> io::Result<Option<Option<Vec<u8>>>> {
    let mut line = Vec::new();
    let longest = LINE_MAX as u64 + 1;
    if file.by_ref().take(longest).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(Some(Some(line)));
    }
    if line.len() <= LINE_MAX {
        return Ok(Some(Some(line)));
    }
    file.skip_until(b'\n')?;
    Ok(Some(None))
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!(
        "{} cannot be read ({error}): give the list that is to be enrolled",
        path.display()
    ))
}

fn no_header(path: &Path, why: &str) -> Failure {
    let columns: Vec<_> = COLUMNS.iter().map(|(_, name)| *name).collect();
    Failure::usage(format!(
        "{}, line 1: {why}: begin the list with the names of its columns, of {}",
        path.display(),
        columns.join(", ")
    ))
}

fn wrong(path: &Path, trouble: &HeaderTrouble) -> Failure {
    let why = match trouble {
        HeaderTrouble::Twice(column) => format!("the column {} is there twice", column.name()),
        HeaderTrouble::NoRegistrationId => "no column is named registrationId".to_owned(),
        HeaderTrouble::NoIdentity => {
            "no column is named endorsementKey, and none certificate".to_owned()
        }
    };
    no_header(path, &why)
}
