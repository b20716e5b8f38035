//! One byte changed, anywhere: verification names the damage, or every answer is what it was.

use super::*;
use dps_station::ledger::Damage;
use std::ops::Range;

/// Of the bytes that are not all tried, one in so many is; a prime, so that no place in a page is favoured.
const SAMPLE: usize = 61;

/// Size of a page of the ledger's file.
const PAGE: usize = 4096;

/// A ledger's file and log as bytes, to be damaged again and again.
struct Bench {
    folder: tempfile::TempDir,
    file: Vec<u8>,
    log: Option<Vec<u8>>,
    whole: String,
}

impl Bench {
    fn new(folder: tempfile::TempDir, path: &Path) -> Self {
        let file = std::fs::read(path).unwrap();
        let log = std::fs::read(log_of(path)).ok();
        let mut bench = Self {
            folder,
            file,
            log,
            whole: String::new(),
        };
        bench.put();
        assert_eq!(verify(&bench.path()).unwrap().damages, []);
        bench.whole = answers(&bench.path()).unwrap();
        bench
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("damaged.sqlite")
    }

    /// Writes both files as they now are.
    fn put(&self) {
        let path = self.path();
        let _ = std::fs::remove_file(path.with_extension("sqlite-shm"));
        let _ = std::fs::remove_file(log_of(&path));
        std::fs::write(&path, &self.file).unwrap();
        if let Some(log) = &self.log {
            std::fs::write(log_of(&path), log).unwrap();
        }
    }

    /// Verifies what is there after one change; without a finding, all answers must be the same. A version that is not
    /// known here is a finding too.
    fn check(&self, what: &str) -> Vec<Damage> {
        self.put();
        let damages = match verify(&self.path()) {
            Err(newer @ LedgerError::Newer { .. }) => vec![Damage {
                place: Place::File,
                what: newer.fault().code().to_owned(),
                fault: None,
            }],
            report => report.unwrap().damages,
        };
        if damages.is_empty() {
            let answers = answers(&self.path()).unwrap();
            assert!(answers == self.whole, "{what} changes an answer: {answers}");
        }
        damages
    }

    fn flip_in_file(&mut self, at: usize) -> Vec<Damage> {
        self.file[at] ^= mask(at);
        let damages = self.check(&format!("byte {at} of the file"));
        self.file[at] ^= mask(at);
        damages
    }

    fn flip_in_log(&mut self, at: usize) -> Vec<Damage> {
        self.log.as_mut().unwrap()[at] ^= mask(at);
        let damages = self.check(&format!("byte {at} of the log"));
        self.log.as_mut().unwrap()[at] ^= mask(at);
        damages
    }
}

/// What is flipped in the byte at `at`: each bit in turn, and now and then all of them.
fn mask(at: usize) -> u8 {
    match at % 9 {
        8 => 0xff,
        bit => 1 << bit,
    }
}

/// Everything that a ledger can answer, as text.
fn answers(path: &Path) -> Result<String, LedgerError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let ledger = Ledger::open(options(path))?;
        let answers = format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            ledger.all_events(0, u32::MAX).await?,
            ledger.events(&device(1)).await?,
            ledger.reservations().await?,
            ledger.outbox(OutboxFilter::default()).await?,
            ledger.units().await?,
            ledger.open_attempts().await?,
            ledger.current_shift().await?,
            ledger.balance("early").await?,
            ledger.operations_charged_since("main", 0).await?,
        );
        ledger.close().await?;
        Ok(answers)
    })
}

/// Where the content of each event, its hash included, lies in the file; of what SQLite moved, old copies remain.
fn contents(path: &Path, file: &[u8]) -> Vec<(i64, Vec<Range<usize>>)> {
    // SQLite keeps the time in 6 bytes, the number in the key of the row, and a version in one byte, or in none if it is 1.
    let sql = "SELECT seq, 6 + (version <> 1) + length(station) + coalesce(length(operator), 0) + coalesce(length(attempt), 0)
            + coalesce(length(device), 0) + coalesce(length(product_digest), 0) + length(kind) + length(body) + 64,
            CAST(body || prev || hash AS BLOB) FROM events";
    let db = rusqlite::Connection::open(path).unwrap();
    let mut statement = db.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    rows.unwrap()
        .map(|row| {
            let (seq, length, end): (i64, u32, Vec<u8>) = row.unwrap();
            let length = usize::try_from(length).unwrap();
            let found: Vec<_> = (0..=file.len() - end.len())
                .filter(|&at| file[at..].starts_with(&end))
                .collect();
            let ends = found.iter().map(|at| at + end.len());
            (seq, ends.map(|end| end - length..end).collect())
        })
        .collect()
}

async fn closed() -> (tempfile::TempDir, PathBuf) {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    fill(&ledger).await;
    ledger.close().await.unwrap();
    (folder, path)
}

/// Changes the bytes of every event: all of its two hashes, and one in `step` of the rest.
fn damage_events(step: usize) {
    let (folder, path) = runtime().block_on(closed());
    let mut bench = Bench::new(folder, &path);
    let contents = contents(&path, &bench.file);
    assert!(contents.len() > 30);
    for (seq, mut copies) in contents {
        copies.retain(|copy| !bench.flip_in_file(copy.start).is_empty());
        assert_eq!(copies.len(), 1, "event {seq}");
        let content = copies.remove(0);
        let hashes = content.end - 64;
        for at in (content.start..hashes)
            .step_by(step)
            .chain(hashes..content.end)
        {
            let damages = bench.flip_in_file(at);
            let named = damages.iter().any(|d| d.place == Place::Event(seq));
            assert!(named, "event {seq}, byte {at}: {damages:?}");
        }
    }
}

/// Changes all bytes of page 1, and one in `step` of the rest of the file.
fn damage_file(step: usize) {
    let (folder, path) = runtime().block_on(closed());
    let mut bench = Bench::new(folder, &path);
    let rest = (PAGE..bench.file.len()).step_by(step);
    for at in (0..PAGE).chain(rest) {
        bench.flip_in_file(at);
    }
}

#[test]
fn any_byte_of_an_event_changed_names_the_event() {
    damage_events(7);
}

#[test]
fn any_byte_of_the_file_changed_is_found_or_changes_no_answer() {
    damage_file(SAMPLE);
}

#[test]
#[ignore = "for scripts/soak: takes minutes"]
fn soak_every_byte_of_the_ledger() {
    let step = soak_step();
    damage_events(step);
    damage_file(step);
}

/// One in so many bytes, by the minutes that scripts/soak has; every byte from ten minutes on.
fn soak_step() -> usize {
    let minutes: usize = std::env::var("SOAK_MINUTES").map_or(1, |text| text.parse().unwrap());
    10_usize.div_ceil(minutes.max(1))
}

#[test]
fn any_byte_of_the_log_changed_is_found_or_changes_no_answer() {
    let (folder, path) = runtime().block_on(async {
        let (folder, path) = closed().await;
        let ledger = open(&path);
        pass(&ledger, 9).await;
        let copy = copy_live(&path, &folder.path().join("live"));
        (folder, copy)
    });
    let mut bench = Bench::new(folder, &path);
    let length = bench.log.as_ref().unwrap().len();
    let (header, frame) = (32, 24 + PAGE);
    let frames = (header..length).step_by(frame * 5);
    for at in (0..header).chain(frames.flat_map(|start| start..start + 24)) {
        assert_ne!(bench.flip_in_log(at), [], "byte {at} of the log");
    }
    for at in (header..length).step_by(SAMPLE * 7) {
        assert_ne!(bench.flip_in_log(at), [], "byte {at} of the log");
    }
    for at in (0..100).chain((100..bench.file.len()).step_by(SAMPLE * 7)) {
        bench.flip_in_file(at);
    }
}

#[test]
fn a_projection_that_does_not_follow_is_named_by_table_and_key() {
    let (_folder, path) = runtime().block_on(closed());
    let db = rusqlite::Connection::open(&path).unwrap();
    for (sql, table, key) in [
        (
            "UPDATE outbox SET tries = 7 WHERE device = 'GW-001'",
            "outbox",
            "gw-001",
        ),
        (
            "DELETE FROM charge WHERE seq = (SELECT min(seq) FROM charge)",
            "charge",
            "",
        ),
        (
            "INSERT INTO shift SELECT 'night', 2, 1, 2, 2, max(from_seq) FROM tally",
            "shift",
            "night",
        ),
    ] {
        db.execute_batch("BEGIN").unwrap();
        db.execute(sql, []).unwrap();
        db.execute_batch("COMMIT").unwrap();
        let damages = verify(&path).unwrap().damages;
        let named = damages.iter().any(|damage| match &damage.place {
            Place::Row { table: t, key: k } => t == table && k.contains(key),
            _ => false,
        });
        assert!(named, "{sql}: {damages:?}");
    }
}

#[test]
fn a_schema_without_its_triggers_is_named() {
    let (_folder, path) = runtime().block_on(closed());
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("DROP TRIGGER events_never_go").unwrap();
    let damages = verify(&path).unwrap().damages;
    let name = "trigger events_never_go".to_owned();
    assert_eq!(damages.len(), 1, "{damages:?}");
    assert_eq!(damages[0].place, Place::Schema(name));
}

#[tokio::test]
async fn what_a_kill_or_a_new_beginning_leaves_in_the_log_is_no_damage() {
    let (folder, path) = closed().await;
    let ledger = open(&path);
    pass(&ledger, 9).await;
    let copy = copy_live(&path, &folder.path().join("torn"));
    let log = std::fs::read(log_of(&copy)).unwrap();
    std::fs::write(log_of(&copy), &log[..log.len() - PAGE / 2]).unwrap();
    assert_eq!(clean(&copy), 47 - 1);

    let db = rusqlite::Connection::open(&path).unwrap();
    db.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))
        .unwrap();
    ledger.record(&charged(&[9])).await.unwrap();
    let copy = copy_live(&path, &folder.path().join("restarted"));
    assert_eq!(std::fs::read(log_of(&copy)).unwrap().len(), log.len());
    assert_eq!(clean(&copy), 48);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_in_use_can_be_verified() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    let ledger = open(&path);
    let writing = tokio::spawn(async move {
        for number in 0..100 {
            pass(&ledger, number).await;
        }
    });
    while !writing.is_finished() {
        clean(&path);
    }
    writing.await.unwrap();
    assert_eq!(clean(&path), 700);
}

#[test]
fn a_missing_file_is_an_error_and_is_not_made() {
    let folder = folder();
    let path = folder.path().join("none.sqlite");
    assert!(matches!(verify(&path), Err(LedgerError::Storage { .. })));
    assert!(!path.exists());
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}
