//! Writes traces, on a thread of its own: nobody waits for the disk.

use super::record::{Fields, Record};
use super::{FORMAT, TraceError};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use time::macros::format_description;

/// The longest that a file of everything gets, in bytes; the one before it is kept, renamed to end in `.old`.
pub const FILE_MAX: u64 = 64 << 20;
/// Most traces of failed attempts that are kept.
pub const DUMPS_MAX: usize = 100;
/// Records that may wait to be written.
const QUEUE_MAX: usize = 8192;
/// Traces of failed attempts that may wait to be written, of a megabyte each.
const DUMPS_WAITING_MAX: usize = 16;
/// How the name of such a trace ends.
const DUMP_END: &str = ".trace";
/// How every trace begins.
const BEGINNING: &[u8] = b"{\"kind\":\"begin\"";

/// What the thread is asked to do.
enum Job {
    Line(Arc<Record>),
    Dump {
        name: String,
        records: Vec<Arc<Record>>,
    },
    End(SyncSender<()>),
}

/// The way to the thread. Never waits.
#[derive(Clone)]
pub(super) struct Queue {
    jobs: SyncSender<Job>,
    state: Arc<State>,
}

/// What the thread and those who ask it both know.
#[derive(Default)]
struct State {
    /// Records that found the queue full.
    dropped: AtomicU64,
    /// Dumps in the queue.
    waiting: AtomicUsize,
    /// Dumps that found too many there.
    lost: AtomicU64,
    /// The first thing that went wrong.
    error: Mutex<Option<TraceError>>,
}

/// The thread.
pub(super) struct Writer {
    queue: Queue,
}

impl Writer {
    /// Starts it, with the file for everything and the folder for failed attempts.
    pub fn start(file: Option<TraceFile>, folder: PathBuf) -> Self {
        let (jobs, waiting) = sync_channel(QUEUE_MAX);
        let state = Arc::new(State::default());
        let work = Work {
            file,
            folder,
            state: Arc::clone(&state),
        };
        std::thread::spawn(move || work.run(&waiting));
        Self {
            queue: Queue { jobs, state },
        }
    }

    pub fn queue(&self) -> Queue {
        self.queue.clone()
    }

    /// Waits until everything so far is written, for `limit` at most.
    pub fn finish(self, limit: Duration) -> Result<(), TraceError> {
        let (done, end) = sync_channel(1);
        // A queue that is full is the slow disk's, whose error or loss is told below.
        if self.queue.jobs.try_send(Job::End(done)).is_ok() {
            let _ = end.recv_timeout(limit);
        }
        let state = &self.queue.state;
        if let Some(error) = lock(&state.error).take() {
            return Err(error);
        }
        match state.lost.load(Ordering::Relaxed) {
            0 => Ok(()),
            lost => Err(TraceError::Lost(lost)),
        }
    }
}

impl Queue {
    /// Has a record written to the file for everything.
    pub fn line(&self, record: &Arc<Record>) {
        if self.jobs.try_send(Job::Line(Arc::clone(record))).is_err() {
            self.state.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Has the last minute of a bay written to a file of its own.
    pub fn dump(&self, at_us: i64, bay: &str, attempt: &str, records: Vec<Arc<Record>>) {
        let name = format!(
            "{}-{}-{}{DUMP_END}",
            stamp(at_us),
            in_a_name(bay),
            in_a_name(attempt)
        );
        let before = self.state.waiting.fetch_add(1, Ordering::Relaxed);
        let job = Job::Dump { name, records };
        if before >= DUMPS_WAITING_MAX || self.jobs.try_send(job).is_err() {
            self.state.waiting.fetch_sub(1, Ordering::Relaxed);
            self.state.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What the thread has in hand.
struct Work {
    /// The file for everything, as long as it can be written.
    file: Option<TraceFile>,
    folder: PathBuf,
    state: Arc<State>,
}

impl Work {
    fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let job = match jobs.try_recv() {
                Ok(job) => job,
                Err(TryRecvError::Empty) => {
                    self.write(TraceFile::flush); // before a wait, and not after every line
                    match jobs.recv() {
                        Ok(job) => job,
                        Err(_) => return,
                    }
                }
                Err(TryRecvError::Disconnected) => return self.write(TraceFile::flush),
            };
            match job {
                Job::Line(record) => self.line(&record),
                Job::Dump { name, records } => {
                    self.state.waiting.fetch_sub(1, Ordering::Relaxed);
                    self.dump(&name, &records);
                }
                Job::End(done) => {
                    self.write(TraceFile::flush);
                    let _ = done.send(()); // nobody waits any more
                }
            }
        }
    }

    fn line(&mut self, record: &Record) {
        let dropped = self.state.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let fields = Fields::default().number("count", dropped);
            let gap = Record::now("dropped", None, fields);
            self.write(|file| file.append(&gap.line()));
        }
        self.write(|file| file.append(&record.line()));
    }

    /// Writes to the file for everything. One that fails is left: what follows would not be whole.
    fn write(&mut self, act: impl FnOnce(&mut TraceFile) -> io::Result<()>) {
        if let Some(file) = &mut self.file
            && let Err(source) = act(file)
        {
            let path = file.path.clone();
            self.file = None;
            self.failed(TraceError::Io { path, source });
        }
    }

    fn dump(&self, name: &str, records: &[Arc<Record>]) {
        let path = self.folder.join(name);
        let mut text = begin();
        for record in records {
            text.extend(record.line());
        }
        let written = fs::create_dir_all(&self.folder)
            .and_then(|()| fs::write(&path, text))
            .and_then(|()| keep_newest(&self.folder));
        if let Err(source) = written {
            self.failed(TraceError::Io { path, source });
        }
    }

    fn failed(&self, error: TraceError) {
        lock(&self.state.error).get_or_insert(error);
    }
}

/// Removes the oldest traces of failed attempts above [`DUMPS_MAX`]; their names begin with the time.
fn keep_newest(folder: &Path) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if name.to_string_lossy().ends_with(DUMP_END) {
            names.push(name);
        }
    }
    names.sort();
    let many = names.len().saturating_sub(DUMPS_MAX);
    names[..many]
        .iter()
        .try_for_each(|name| fs::remove_file(folder.join(name)))
}

/// The file for everything.
pub(super) struct TraceFile {
    path: PathBuf,
    file: BufWriter<File>,
    /// Bytes in it.
    size: u64,
}

impl TraceFile {
    /// Opens a file that is not there yet, or continues one that an earlier trace wrote.
    pub fn open(path: PathBuf) -> Result<Self, TraceError> {
        for path in [&path, &old(&path)] {
            if !is_free(path).map_err(|source| io_error(path, source))? {
                return Err(TraceError::NotATrace(path.clone()));
            }
        }
        let opened = File::options().append(true).create(true).open(&path);
        let begun = opened.and_then(|file| {
            let mut begun = Self {
                size: file.metadata()?.len(),
                file: BufWriter::new(file),
                path: path.clone(),
            };
            begun.append(&begin())?;
            begun.flush()?;
            Ok(begun)
        });
        begun.map_err(|source| io_error(&path, source))
    }

    /// Writes a line; where the file would become too long, to a new one.
    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.size + line.len() as u64 > FILE_MAX {
            self.flush()?;
            fs::rename(&self.path, old(&self.path))?;
            self.file = BufWriter::new(File::create_new(&self.path)?);
            let beginning = begin();
            self.file.write_all(&beginning)?;
            self.size = beginning.len() as u64;
        }
        self.size += line.len() as u64;
        self.file.write_all(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn io_error(path: &Path, source: io::Error) -> TraceError {
    TraceError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Where a full file goes.
fn old(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".old");
    name.into()
}

/// Whether a trace may be written there: nothing is there, or a trace, or a file that one had only just begun.
fn is_free(path: &Path) -> io::Result<bool> {
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        metadata => metadata?,
    };
    if !metadata.is_file() {
        return Ok(false); // to read from a device or a pipe may take for ever
    }
    let mut beginning = Vec::new();
    let length = BEGINNING.len() as u64;
    File::open(path)?.take(length).read_to_end(&mut beginning)?;
    Ok(beginning.is_empty() || beginning == BEGINNING)
}

/// The first record of a file.
fn begin() -> Vec<u8> {
    let program = concat!("station ", env!("CARGO_PKG_VERSION"));
    let fields = Fields::default().number("format", FORMAT);
    Record::now("begin", None, fields.text("program", program)).line()
}

/// A time in the name of a file.
fn stamp(at_us: i64) -> String {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    OffsetDateTime::from_unix_timestamp(at_us.div_euclid(1_000_000))
        .ok()
        .and_then(|time| time.format(format).ok())
        .unwrap_or_default()
}

/// A text as a part of a file's name: a bay may be called `../1`.
fn in_a_name(text: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.chars()
        .map(|c| if fits(c) { c } else { '_' })
        .take(64)
        .collect()
}

fn lock(error: &Mutex<Option<TraceError>>) -> MutexGuard<'_, Option<TraceError>> {
    error.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn a_file_that_is_full_is_put_aside_once() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("t");
        let mut file = TraceFile::open(path.clone()).unwrap();
        let line = [vec![b'x'; (1 << 20) - 1], vec![b'\n']].concat();
        for _ in 0..=2 * (FILE_MAX >> 20) {
            file.append(&line).unwrap();
        }
        file.flush().unwrap();
        let mut sizes = Vec::new();
        for entry in fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            assert!(is_free(&entry.path()).unwrap(), "each begins as a trace");
            sizes.push(entry.metadata().unwrap().len());
        }
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|size| *size <= FILE_MAX), "{sizes:?}");
        assert_eq!(fs::metadata(&path).unwrap().len(), file.size);
    }

    #[test]
    fn a_trace_is_continued_and_nothing_else_is_touched() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("t");
        for _ in 0..2 {
            TraceFile::open(path.clone()).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches("\"begin\"").count(), 2);

        let other = dir.path().join("u");
        for taken in [other.clone(), old(&other)] {
            fs::write(&taken, "somebody's").unwrap();
            let refused = TraceFile::open(other.clone()).err();
            assert!(matches!(refused, Some(TraceError::NotATrace(path)) if path == taken));
            assert_eq!(fs::read_to_string(&taken).unwrap(), "somebody's");
            fs::remove_file(&taken).unwrap();
        }
        let device = TraceFile::open(PathBuf::from("/dev/null")).err();
        assert!(matches!(device, Some(TraceError::NotATrace(_))));
    }

    #[test]
    fn only_the_newest_traces_of_failed_attempts_are_kept() {
        let dir = TempDir::new().unwrap();
        let folder = dir.path().join("traces");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("notes.txt"), "mine").unwrap();
        let writer = Writer::start(None, folder.clone());
        let queue = writer.queue();
        let last = DUMPS_MAX as i64 + 4;
        for second in 0..=last {
            while queue.state.waiting.load(Ordering::Relaxed) == DUMPS_WAITING_MAX {
                std::thread::yield_now();
            }
            queue.dump(second * 1_000_000, "../1", "A", Vec::new());
        }
        writer.finish(Duration::from_secs(60)).unwrap();
        let names = fs::read_dir(&folder).unwrap();
        let mut names: Vec<_> = names.map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names.pop().unwrap(), "notes.txt");
        assert_eq!(names.len(), DUMPS_MAX);
        assert_eq!(names[0], "19700101T000005Z-___1-A.trace");
    }

    #[test]
    fn what_a_slow_disk_does_not_take_is_counted_in_its_place() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("t");
        let (jobs, waiting) = sync_channel(2);
        let state = Arc::new(State::default());
        let queue = Queue {
            jobs,
            state: Arc::clone(&state),
        };
        let record = || Arc::new(Record::now("wire", None, Fields::default()));
        for _ in 0..5 {
            queue.line(&record());
        }
        drop(queue);
        let work = Work {
            file: Some(TraceFile::open(path.clone()).unwrap()),
            folder: dir.path().to_owned(),
            state,
        };
        work.run(&waiting);
        let text = fs::read_to_string(&path).unwrap();
        let kinds: Vec<_> = text.lines().filter_map(|l| l.split('"').nth(3)).collect();
        assert_eq!(kinds, ["begin", "dropped", "wire", "wire"]);
        assert!(text.contains("\"count\":3"), "{text}");
    }
}
