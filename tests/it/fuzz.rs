//! What comes from outside, mutated: no panic, bounded memory. Seeded, so that a case that fails can be run again
//! with `FUZZ_SEED`.

mod mutate;
mod targets;

use crate::support::{Place, run};
use mutate::Mutator;
use std::time::{Duration, Instant};

/// Names the first seed to [`worker`]; a fixed one where it is not set.
const SEED: &str = "FUZZ_SEED";
const DEFAULT_SEED: u64 = 0x5eed;
/// Names how many minutes [`worker`] goes on with one seed after another; without it there is one round.
const MINUTES: &str = "FUZZ_MINUTES";
/// By how much memory may grow meanwhile, in kilobytes.
const GROWTH_MAX_KB: u64 = 64 * 1024;

#[test]
fn nothing_from_outside_breaks_the_station() {
    fuzz(None);
}

#[test]
#[ignore = "takes SOAK_MINUTES, 10 unless said otherwise; scripts/soak runs it"]
fn soak_fuzz() {
    let minutes = std::env::var("SOAK_MINUTES").map_or(10, |text| text.parse().unwrap());
    fuzz(Some(minutes));
}

/// Runs [`worker`] in a process of its own, whose memory is nobody else's.
fn fuzz(minutes: Option<u64>) {
    let mut command = Place::own().command(&std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "--nocapture", "fuzz::worker"]);
    command.env_remove(MINUTES);
    if let Some(minutes) = minutes {
        command.env(MINUTES, minutes.to_string());
    }
    let ended = run(&mut command);
    let passed = ended.status.success() && ended.stdout.contains("1 passed");
    assert!(passed, "{}{}", ended.stdout, ended.stderr);
    println!("{}", ended.stdout);
}

#[tokio::test]
#[ignore = "run by nothing_from_outside_breaks_the_station"]
async fn worker() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let mut seed: u64 = number(SEED).unwrap_or(DEFAULT_SEED);
    let lasts = Duration::from_secs(60 * number(MINUTES).unwrap_or_default());
    let began = Instant::now();
    let before = peak_kb();
    loop {
        println!("{SEED}={seed}");
        targets::all(&mut Mutator::new(seed)).await;
        let grown = peak_kb() - before;
        assert!(grown < GROWTH_MAX_KB, "{grown} kB more");
        if began.elapsed() >= lasts {
            println!("grown by {grown} kB in {:?}", began.elapsed());
            return;
        }
        seed = seed.wrapping_add(1);
    }
}

/// The most memory that this process ever held, in kilobytes (`proc(5)`).
fn peak_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    peak.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}
