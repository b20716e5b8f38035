//! TPMs that put commands off, or are locked out: what is waited for, for how long, and what a person is told.

use super::hall::{Chip, Hall};
use super::{FAILED, chip, ordinary};
use crate::tpm::device::handles;
use dps_station::fixtures::device::Tpm;
use dps_station::provision::endorsement::VendorRoots;
use dps_station::provision::fault::{Blame, Fault};
use dps_station::provision::verdict::Verdict;
use dps_station::words;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const NV_READ: u32 = 0x014e;
const IMPORT: u32 = 0x0156;
const GET_CAPABILITY: u32 = 0x017a;

const YIELDED: u32 = 0x908;
const TESTING: u32 = 0x90a;
const NV_RATE: u32 = 0x920;
const LOCKOUT: u32 = 0x921;
const RETRY: u32 = 0x922;
const NV_UNAVAILABLE: u32 = 0x923;

/// A TPM that answers with a warning, and does nothing, as long as `warns` says so: of the command's code, the command,
/// and how often this command was put off in a row.
struct Warning<F> {
    tpm: Chip,
    rc: u32,
    warns: F,
    /// The command that was put off last, and how often in a row.
    latest: (Vec<u8>, usize),
    /// Every command that was put off.
    put_off: Arc<Mutex<Vec<u32>>>,
}

impl<F> Warning<F> {
    fn new(tpm: Chip, rc: u32, warns: F) -> Self {
        Self {
            tpm,
            rc,
            warns,
            latest: Default::default(),
            put_off: Arc::default(),
        }
    }
}

impl<F: FnMut(u32, &[u8], usize) -> bool + Send> Tpm for Warning<F> {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        if self.latest.0 != command {
            self.latest = (command.to_vec(), 0);
        }
        let code = u32::from_be_bytes(command[6..10].try_into().unwrap());
        if (self.warns)(code, command, self.latest.1) {
            self.latest.1 += 1;
            self.put_off.lock().unwrap().push(code);
            let rc = self.rc.to_be_bytes();
            return Ok([&[0x80, 0x01, 0, 0, 0, 10][..], &rc].concat());
        }
        self.latest.1 = 0;
        self.tpm.transact(command)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.tpm.restart()
    }
}

/// Whether a TPM holds nothing but what it came with: what is persistent or in NV memory may be new.
fn is_tidy(tpm: &mut Chip) -> bool {
    let listed = handles(tpm);
    // Transient objects, loaded sessions, saved sessions: header, no more data, TPM_CAP_HANDLES, and no handle.
    listed[1..4].iter().all(|answer| answer.len() == 19)
}

/// Seven times is more than the TSS itself would ask again.
#[tokio::test]
async fn a_unit_whose_tpm_puts_each_command_off_for_a_while_passes() {
    let mut halls = JoinSet::new();
    for rc in [YIELDED, TESTING, NV_RATE, RETRY, NV_UNAVAILABLE] {
        halls.spawn(async move {
            let warns = |code, _: &[u8], times| times < if code == NV_READ { 7 } else { 1 };
            let tpm = Warning::new(chip(None), rc, warns);
            let put_off = Arc::clone(&tpm.put_off);
            let hall = ordinary();
            let stay = hall.stay("sim-1", tpm).await;
            assert!(stay.passed(), "{rc:#x}: {stay:?}");
            hall.ends(&[("sim-1", Some(Verdict::Passed))]).await;
            let put_off = put_off.lock().unwrap();
            assert!(put_off.len() > 24 + 6, "{rc:#x}: {put_off:x?}");
        });
    }
    while let Some(ended) = halls.join_next().await {
        ended.unwrap();
    }
}

/// How a unit's stay ends whose TPM answers one kind of command with a warning, and never does it; and how often it
/// was asked. Nothing may be left in the TPM.
async fn ends_with(rc: u32, of: u32, limit: Duration) -> (Fault, usize) {
    let mut hall = ordinary();
    hall.link.tpm_ms = u64::try_from(limit.as_millis()).unwrap();
    let mut inside = chip(None);
    let tpm = Warning::new(inside.clone(), rc, move |code, _: &[u8], _| code == of);
    let put_off = Arc::clone(&tpm.put_off);
    let stay = hall.stay("sim-1", tpm).await;
    hall.ends(&[FAILED]).await;
    assert!(is_tidy(&mut inside), "{rc:#x}");
    let asked = put_off.lock().unwrap().len();
    (stay.failed().clone(), asked)
}

/// Import comes when a key is loaded.
#[tokio::test]
async fn a_tpm_that_puts_a_command_off_for_ever_is_busy_when_the_time_is_over() {
    const LIMIT: Duration = Duration::from_secs(3);
    for (rc, of, name) in [
        (YIELDED, GET_CAPABILITY, "GetCapability"),
        (TESTING, NV_READ, "NV_Read"),
        (NV_RATE, IMPORT, "Import"),
        (RETRY, IMPORT, "Import"),
    ] {
        let (fault, asked) = ends_with(rc, of, LIMIT).await;
        let busy = Fault::TpmBusy {
            bay: "1".to_owned(),
            command: name.to_owned(),
            rc,
            limit_ms: 3000,
        };
        assert_eq!((&fault, fault.blame()), (&busy, Blame::Device));
        assert!((2..20).contains(&asked), "{name}: {asked}");
        assert!(words::of(&fault).next.contains("put the unit in again"));
    }
}

#[tokio::test]
async fn a_tpm_that_is_locked_out_is_not_asked_again() {
    let (fault, asked) = ends_with(LOCKOUT, IMPORT, Duration::from_secs(20)).await;
    let locked = Fault::TpmLocked {
        bay: "1".to_owned(),
        command: "Import".to_owned(),
    };
    assert_eq!((&fault, fault.blame()), (&locked, Blame::Device));
    assert_eq!(asked, 1);
    assert!(words::of(&fault).what.contains("locked"));
}

/// Reading a TPM that this line does not trust takes two runs: the second one, for the maker's chain, has what the
/// first one left of the time, and so asks less often than it would with all of it.
#[tokio::test]
async fn all_runs_of_a_step_share_its_time() {
    const LIMIT: Duration = Duration::from_secs(4);
    /// In four seconds the TPM is asked fourteen times.
    const ASKED_MAX: usize = 10;
    let mut hall = Hall::new(VendorRoots::read(&[]), |_| ());
    hall.link.tpm_ms = u64::try_from(LIMIT.as_millis()).unwrap();
    let mut began = None;
    let chain = |command: &[u8]| command.get(10..16) == Some(&[0, 0, 0, 1, 0x01, 0xc0]);
    let warns = move |code, command: &[u8], _| match code {
        NV_READ => began.get_or_insert_with(Instant::now).elapsed() < Duration::from_secs(2),
        GET_CAPABILITY => chain(command),
        _ => false,
    };
    let tpm = Warning::new(chip(None), NV_RATE, warns);
    let put_off = Arc::clone(&tpm.put_off);
    let stay = hall.stay("sim-1", tpm).await;
    assert_eq!(stay.failed().code(), "tpm_busy");
    let put_off = put_off.lock().unwrap();
    let asked = put_off.iter().filter(|code| **code == GET_CAPABILITY);
    assert!(asked.count() <= ASKED_MAX, "{put_off:x?}");
}
