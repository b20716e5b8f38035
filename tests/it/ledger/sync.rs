//! A sync to the disk comes before each acknowledgement, as the system calls of a process of its own show.

use super::*;
use std::io::Write;
use std::process::Command;

/// Names the ledger that the traced process is to write.
const PATH_VARIABLE: &str = "STATION_TEST_SYNC_LEDGER";

/// What the traced process writes to its standard output after each acknowledgement.
const MARK: &str = "acknowledged";

/// How many events the traced process records.
const EVENTS: usize = 5;

#[tokio::test]
#[ignore = "the process that a_sync_comes_before_each_acknowledgement traces"]
async fn traced() {
    let path = std::env::var_os(PATH_VARIABLE).expect("started by the test that traces it");
    let ledger = open(Path::new(&path));
    let job = claim(&ledger, 1).await;
    for event in &whole_job(1)[..EVENTS] {
        append(&ledger, &job, std::slice::from_ref(event)).await;
        let mut out = std::io::stdout().lock();
        out.write_all(MARK.as_bytes()).unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn a_sync_comes_before_each_acknowledgement() {
    let folder = folder();
    let trace = folder.path().join("trace");
    let output = Command::new("strace")
        .args([
            "-f",
            "-y",
            "-s",
            "256",
            "-e",
            "trace=fdatasync,fsync,write,pwrite64",
        ])
        .arg("-o")
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "ledger::sync::traced",
            "--ignored",
            "--nocapture",
        ])
        .env(PATH_VARIABLE, folder.path().join("ledger.sqlite"))
        .output()
        .expect("strace is here: scripts/setup installs it");
    assert!(output.status.success(), "{output:?}");
    let trace = std::fs::read_to_string(trace).unwrap();
    let mut acknowledged = 0;
    let (mut written, mut syncing, mut synced) = (false, false, false);
    for call in trace.lines() {
        if call.contains("pwrite64(") && call.contains("ledger.sqlite-wal>") {
            (written, syncing, synced) = (true, false, false);
        } else if call.contains("sync(") && call.contains("ledger.sqlite-wal>") {
            syncing = written;
            synced = syncing && call.ends_with("= 0");
        } else if call.contains("sync resumed") {
            synced = syncing && call.ends_with("= 0");
        } else if call.contains("write(1<") && call.contains(MARK) {
            assert!(synced, "acknowledged without a sync:\n{trace}");
            acknowledged += 1;
            (written, syncing, synced) = (false, false, false);
        }
    }
    assert_eq!(acknowledged, EVENTS, "{trace}");
}
