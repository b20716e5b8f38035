//! Medians, and figures beside their aims.

use std::time::Duration;

/// The median, and the ends.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

/// Figures that were measured, with the aims that they have.
#[derive(Default)]
pub struct Aims {
    missed: Vec<String>,
    lost: Vec<String>,
}

/// How many times its aim a figure may be, in its best round, before it counts as a gross loss.
const GROSS: f64 = 2.0;

impl Spread {
    pub fn of(values: Vec<f64>) -> Self {
        Self {
            low: values.iter().copied().fold(f64::INFINITY, f64::min),
            high: values.iter().copied().fold(0.0, f64::max),
            median: median(values),
        }
    }
}

impl Aims {
    /// Holds a figure to its aim, and gives the aim as it is printed.
    pub fn hold(&mut self, what: &str, figure: Spread, aim: Option<f64>) -> String {
        let Some(aim) = aim else {
            return String::new();
        };
        let Spread { low, median, .. } = figure;
        if median > aim {
            self.missed
                .push(format!("{what}: {median:.2}, aim {aim:.2}"));
        }
        // A machine that is busy has no rounds like that, or not only.
        if low > GROSS * aim {
            self.lost.push(what.to_owned());
        }
        format!("<= {aim:.2}")
    }

    /// Says which aims are missed. With `--check` a gross loss ends the program with 1, unless the machine has other work:
    /// then it is said, and is no verdict.
    pub fn end(self) {
        for missed in &self.missed {
            println!("over its aim: {missed}");
        }
        if !is_asked("--check") || self.lost.is_empty() {
            return;
        }
        let lost = self.lost.join("; ");
        eprintln!("more than {GROSS} x its aim: {lost}");
        if is_busy() {
            eprintln!(
                "that is no verdict, because this machine has more to do than it has processors"
            );
            return;
        }
        std::process::exit(1);
    }
}

/// Whether more wanted to run in the last minute than the machine has processors, and a bench (`proc(5)`: `loadavg`).
fn is_busy() -> bool {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let load: f64 = load.split(' ').next().unwrap().parse().unwrap();
    let processors = std::thread::available_parallelism().unwrap();
    load > (processors.get() + 1) as f64
}

/// Whether the bench was started with this word.
pub fn is_asked(word: &str) -> bool {
    std::env::args().any(|argument| argument == word)
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
