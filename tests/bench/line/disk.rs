//! A disk whose syncs are counted, and take as long as is said.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A library that stands before a program's syncs.
pub struct Disk {
    library: PathBuf,
    count: PathBuf,
    sync: Duration,
}

impl Disk {
    /// Makes the library in `dir`; each sync takes `sync` at least.
    pub fn make(dir: &Path, sync: Duration) -> Self {
        let library = dir.join("slow_sync.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/line/slow_sync.c");
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-O2", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .status()
            .expect("cc (build-essential) is not installed: run scripts/setup");
        assert!(made.success());
        Self {
            library,
            count: dir.join("syncs"),
            sync,
        }
    }

    /// Puts a program's files on this disk.
    pub fn under(&self, program: &mut Command) {
        program
            .env("LD_PRELOAD", &self.library)
            .env("SYNC_COUNT", &self.count)
            .env("SYNC_US", self.sync.as_micros().to_string());
    }

    /// Syncs so far.
    pub fn syncs(&self) -> u64 {
        let count = fs::read(&self.count).unwrap();
        u64::from_ne_bytes(count.try_into().unwrap())
    }
}
