//! The wire trace: what each bay's link, TPM, HSM and DPS did, kept for a minute and written where somebody needs it.
//!
//! The other rooms say what they do through the macros of `tracing`, under the targets below, and know nothing of this
//! one. [`start`] has it collected from then on, in this process. What a bay did in the last [`RING_SPAN`] stays in
//! memory; when an attempt there ends with a fault, that is written to a file of its own in the folder
//! `LEDGER-traces`, named `TIME-BAY-ATTEMPT.trace` after the attempt's number in ledger and reports, and the oldest
//! of more than [`DUMPS_MAX`] such files is removed. With a file asked for, everything is written to it as well, also
//! what belongs to no bay. Nobody waits for the disk: what a slow one does not take is counted, and said in its place.
//!
//! # What a file holds
//!
//! JSON lines, one object a record. Each has `kind` and `at_us`, microseconds since 1970 (UTC); where it belongs to a
//! bay, `bay`. Fields that do not apply are absent. `station trace show` makes it readable.
//!
//! | `kind` | what happened | fields |
//! |---|---|---|
//! | `begin` | a process began to write | `format`: 1; `program` |
//! | `wire` | a packet of the link's protocol went `out` or came `in`, whole and with its checksum right | `direction`; `bytes`: in hexadecimal, from the header on; `hidden`: how many more there were |
//! | `noise` | something came in that is no packet | `lines`: damaged; `checksums`: wrong; `bytes`: thrown away unread |
//! | `step` | a step of a job `begins` or `ends` | `step`; `phase`; at the end `took_us` |
//! | `tpm` | a TPM command was answered, or given up | `command`; `code`; `sent` and `received`: bytes; `rc`; `took_us`; `error` |
//! | `hsm` | a call to the HSM returned, or was given up | `call`; `token`; `took_us`; `error` |
//! | `dps` | a call to DPS was answered, or failed | `dps`; `method`; `path`; `status`; `took_us`; `error` |
//! | `verdict` | an attempt ended | `attempt`; `event`; where it ended with a fault `fault`, its code, and `told`, the fault as JSON |
//! | `dropped` | so many records are missing here | `count` |
//!
//! # What no file holds
//!
//! PINs, tokens, credentials and private keys: no room says them. Nothing of what is in a TPM command or response, on
//! its way over a link either: of such packets the header is kept, and the length. Nothing of what an HSM signs, nor of
//! what DPS is sent or answers.

mod collector;
mod record;
mod ring;
mod writer;

pub use ring::RING_SPAN;
pub use writer::{DUMPS_MAX, FILE_MAX};

use collector::Collector;
use std::path::PathBuf;
use std::time::Duration;
use tracing_subscriber::layer::SubscriberExt;
use writer::{TraceFile, Writer};

/// Version of the file's format, in each `begin`.
pub const FORMAT: u64 = 1;
/// How long the end of a trace may take; a disk that takes longer keeps the rest.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Where a trace goes.
pub struct Options {
    /// The file for everything, if it is wanted.
    pub file: Option<PathBuf>,
    /// The folder for the last minute of bays in which an attempt ended with a fault; made when it is needed.
    pub folder: PathBuf,
}

/// A trace under way.
pub struct Trace(Writer);

/// Why something is not traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// There is a file of that name which no trace wrote; it is left as it is.
    #[error("{} is there and is no trace: give `--trace` the name of a new file", .0.display())]
    NotATrace(PathBuf),
    /// The system failed.
    #[error(
        "the trace {} cannot be written ({source}): make room or give the right to its folder",
        path.display()
    )]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The disk was too slow.
    #[error("{0} traces of failed attempts were not written: see why the disk is slow")]
    Lost(u64),
    /// Something else in this process collects already.
    #[error("this process is traced already: start the station anew")]
    Twice,
}

/// Collects from now on, for the life of the process.
///
/// A file that an earlier trace wrote is continued. One that has [`FILE_MAX`] bytes is renamed to end in `.old`, in the
/// place of the one before.
///
/// # Errors
/// `NotATrace` and `Io` for the file, and `Twice`.
pub fn start(options: Options) -> Result<Trace, TraceError> {
    let file = options.file.map(TraceFile::open).transpose()?;
    let everything = file.is_some();
    let writer = Writer::start(file, options.folder);
    let collector = Collector::new(writer.queue(), everything);
    let subscriber = tracing_subscriber::registry().with(collector);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| TraceError::Twice)?;
    Ok(Trace(writer))
}

impl Trace {
    /// Has written what was traced so far. Blocks, for two seconds at most.
    ///
    /// # Errors
    /// `Io` and `Lost`, for the first thing that could not be written since the start.
    pub fn finish(self) -> Result<(), TraceError> {
        self.0.finish(END_LIMIT)
    }
}
