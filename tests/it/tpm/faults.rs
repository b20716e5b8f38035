//! A TPM, or the line to it, that does wrong in the middle of a run.

use super::device::{
    CHANGE, Device, LIMIT, READ_PUBLIC_EK, Wrong, challenge, rehearsal, trusted, verdict,
};
use dps_station::fixtures::tpm::{Defect, SwTpm};
use dps_station::provision::endorsement::EmptyHandle;
use dps_station::tpm::jobs::{self, Extracted};
use dps_station::tpm::{CommandRecord, Limit, Relay, TpmError, run};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tss_esapi::Context;

/// For a run that stalls, where it does not matter in which command it is cut.
const SHORT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn another_tpm_is_noticed_even_if_it_lies_about_its_key() {
    let mut one = Device::new(None);
    let mut other = Device::new(Some(Defect::NoCertificate));
    let keys = one.extract(EmptyHandle::Persist).await;
    let honest = other.rehearse(&keys).await.unwrap_err();
    assert!(matches!(honest, TpmError::AnotherKey { .. }), "{honest}");

    let borrowed = one.tpm.transact(&READ_PUBLIC_EK).unwrap();
    let other_srk = other.extract(EmptyHandle::Persist).await.storage_root_key;
    let claimed = Extracted {
        storage_root_key: other_srk,
        ..keys
    };
    let (challenge, sas) = challenge(&claimed);
    let job = rehearsal(&claimed, &challenge, &sas);
    let lied = other.run_wrong(Wrong::Lie(borrowed), LIMIT, job).await;
    assert!(matches!(lied, Err(TpmError::NotActivated(_))));
}

#[tokio::test]
async fn the_real_cause_of_a_broken_link_is_told() {
    let mut device = Device::new(None);
    for (nth, command) in [(0, "GetCapability"), (4, "NV_ReadPublic")] {
        let failed = device.run_wrong(Wrong::Break(nth), LIMIT, extraction).await;
        let said = failed.unwrap_err().to_string();
        let expected = format!("the link failed during {command}: the cable was pulled");
        assert_eq!(said, expected);
    }
}

fn extraction(tpm: &mut Context) -> Result<Extracted, TpmError> {
    jobs::extract(tpm, EmptyHandle::Persist)
}

/// Open descriptors and threads of this process that belong to bridges: loopback sockets.
fn open_sockets() -> usize {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    targets
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tpm_that_stalls_in_any_command_costs_one_deadline_and_nothing_more() {
    /// Long enough for every run to come to its command, with all of them at once.
    const LIMIT: Duration = Duration::from_secs(6);
    let mut device = Device::new(None);
    let before = device.handles();
    let keys = device.extract(EmptyHandle::Persist).await;
    let first = device.log.len();
    device.rehearse(&keys).await.unwrap();
    let mut names = device.names();
    names.drain(first..first + 3); // one run for both flushes what was left behind once
    let mut runs = JoinSet::new();
    for (nth, name) in names.into_iter().enumerate() {
        let (keys, before) = (keys.clone(), before.clone());
        runs.spawn(async move {
            let mut device = Device::new(None);
            let (challenge, sas) = challenge(&keys);
            let job = rehearsal(&keys, &challenge, &sas);
            let both = move |tpm: &mut Context| {
                extraction(tpm)?;
                job(tpm).map(drop)
            };
            let started = Instant::now();
            let stalled = device.run_wrong(Wrong::Stall(nth), LIMIT, both).await;
            let took = started.elapsed();
            let there =
                matches!(&stalled, Err(TpmError::Deadline { command, .. }) if *command == name);
            assert!(there, "{nth}, {name}: {stalled:?}");
            assert!(took < 2 * LIMIT, "{nth}, {name}: {took:?}");
            device.rehearse(&keys).await.unwrap(); // usable at once
            assert_eq!(device.handles(), before, "{nth}, {name}");
        });
    }
    assert!(runs.len() >= 20, "{} commands", runs.len());
    while let Some(ran) = runs.join_next().await {
        ran.unwrap();
    }
}

#[test]
fn stalled_runs_leave_no_socket_and_no_thread() {
    // In a process of its own: other tests open sockets too.
    if std::env::var_os("STATION_TEST_ALONE").is_none() {
        let this = std::env::current_exe().unwrap();
        let name = "tpm::faults::stalled_runs_leave_no_socket_and_no_thread";
        let alone = Command::new(this)
            .args([name, "--exact", "--nocapture"])
            .env("STATION_TEST_ALONE", "1")
            .output()
            .unwrap();
        assert!(alone.status.success(), "{alone:?}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let mut after_first = 0;
        for n in 0..20 {
            let mut device = Device::new(None);
            let stalled = device.run_wrong(Wrong::Stall(5), SHORT, extraction).await;
            assert!(matches!(stalled, Err(TpmError::Deadline { .. })));
            drop(device);
            let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
            let open = open_sockets() + threads;
            match n {
                0 => after_first = open,
                _ => assert!(
                    open <= after_first,
                    "{open} after {n} runs, {after_first} after one"
                ),
            }
        }
    });
}

/// A TPM's answers, kept, so that a run can have them again in no time.
struct Recorder<'a> {
    tpm: &'a mut SwTpm,
    answers: Vec<Vec<u8>>,
}

impl Relay for Recorder<'_> {
    type Error = std::io::Error;

    async fn transact(&mut self, command: Vec<u8>) -> std::io::Result<Vec<u8>> {
        let answer = self.tpm.transact(&command)?;
        self.answers.push(answer.clone());
        Ok(answer)
    }
}

/// The same answers again, with one byte of one of them changed.
struct Replay<'a> {
    answers: std::slice::Iter<'a, Vec<u8>>,
    /// Answers until the one that is changed.
    left: Option<usize>,
    at: usize,
}

impl Relay for Replay<'_> {
    type Error = &'static str;

    async fn transact(&mut self, _: Vec<u8>) -> Result<Vec<u8>, &'static str> {
        let mut answer = self.answers.next().ok_or("no more answers")?.clone();
        if self.left == Some(0) {
            answer[self.at] ^= CHANGE;
        }
        self.left = self.left.and_then(|left| left.checked_sub(1));
        Ok(answer)
    }
}

/// Every byte of every response. Reading uses no nonces, so the answers of one run fit the next.
#[tokio::test]
async fn one_changed_byte_never_gives_a_wrong_key_or_a_genuine_wrong_certificate() {
    let mut device = Device::new(None);
    // With this policy a handle that only seems empty would give another key.
    let job = |tpm: &mut Context| jobs::extract(tpm, EmptyHandle::ClientKey);
    let mut recorder = Recorder {
        tpm: &mut device.tpm,
        answers: Vec::new(),
    };
    let truth = run(&mut recorder, &mut Vec::new(), Limit::from_now(LIMIT), job).await;
    let (truth, answers) = (truth.unwrap(), recorder.answers);
    let trusted = trusted();
    let (mut refused, mut bytes) = (0, 0);
    for (nth, at) in answers
        .iter()
        .enumerate()
        .flat_map(|(nth, answer)| (0..answer.len()).map(move |at| (nth, at)))
    {
        bytes += 1;
        let mut replay = Replay {
            answers: answers.iter(),
            left: Some(nth),
            at,
        };
        let Ok(found) = run(&mut replay, &mut Vec::new(), Limit::from_now(LIMIT), job).await else {
            refused += 1;
            continue;
        };
        let place = format!("response {nth}, byte {at}");
        assert_eq!(found.endorsement_key, truth.endorsement_key, "{place}");
        assert_eq!(found.storage_root_key, truth.storage_root_key, "{place}");
        assert!(found.certificate.is_some(), "{place}"); // one that vanishes may be waived
        if verdict(&found, &trusted).is_ok() {
            assert_eq!(found.certificate, truth.certificate, "{place}");
        }
    }
    println!("{bytes} bytes changed, {refused} noticed by the run itself");
    assert!(refused > bytes / 4, "only {refused} of {bytes}");
}

#[tokio::test]
async fn one_changed_byte_never_meets_a_challenge_with_a_wrong_answer() {
    let mut device = Device::new(None);
    let keys = device.extract(EmptyHandle::Persist).await;
    let (challenge, sas) = challenge(&keys);
    let first = device.log.len();
    let job = rehearsal(&keys, &challenge, &sas);
    let truth = device.run(job).await.unwrap();
    let mut met = 0;
    for (nth, at) in changes(&device.log[first..]) {
        let job = rehearsal(&keys, &challenge, &sas);
        let answer = device.run_wrong(Wrong::Change(nth, at), LIMIT, job).await;
        if let Ok(answer) = answer
            && challenge.is_met_by(&answer.activated, &sas, &answer.hmac)
        {
            // Some bytes decide nothing, such as a ticket that is not used.
            assert!(answer == truth, "response {nth}, byte {at}");
            met += 1;
        }
    }
    assert!(met < 100, "{met} changes went unnoticed");
}

/// The head, the tail and every 29th byte between of every response. No more are needed: what meets a challenge is
/// compared whole with what the station itself computed.
fn changes(log: &[CommandRecord]) -> Vec<(usize, usize)> {
    let lengths = log.iter().map(|record| record.received).enumerate();
    let places = lengths.flat_map(|(nth, length)| {
        let chosen = move |at: &usize| *at < 18 || *at + 4 > length || at.is_multiple_of(29);
        (0..length).filter(chosen).map(move |at| (nth, at))
    });
    places.collect()
}
