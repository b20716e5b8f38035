//! One file a command: reads the configuration, calls what is below, prints.
//!
//! Every command takes `--config` and `--json`; with `--json`, stdout has one JSON object a line and nothing else.
//! Faults go to stderr as one sentence; the exit code is one of [`Exit`].

mod ca;
mod check;
#[cfg(feature = "demo")]
mod demo;
#[cfg(feature = "demo")]
mod emulate;
mod enroll;
mod enrollment;
mod ledger;
mod loopback;
mod parts;
mod printer;
mod run;
mod shift;
mod trace;

use crate::config::{Config, ConfigError};
use crate::provision::fault::Fault;
use crate::words;
use clap::{Parser, Subcommand};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything was done.
    Done = 0,
    /// Some device or record did not make it, or damage was found.
    Incomplete = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The station itself failed.
    Station = 3,
}

/// Why a command ended early: one sentence that names the thing and the next step, and the exit code.
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct Failure {
    /// The sentence.
    pub sentence: String,
    /// The exit code.
    pub exit: Exit,
}

/// The provisioning station of a production line.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Cli {
    /// The line's configuration.
    #[arg(
        long,
        global = true,
        default_value = "station.toml",
        value_name = "FILE"
    )]
    config: PathBuf,
    /// Print one JSON object a line.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Drive the line.
    Run(run::RunArgs),
    /// Run a whole factory in software.
    #[cfg(feature = "demo")]
    Demo(demo::DemoArgs),
    /// Enroll everything that passed and is still pending.
    Enroll(enroll::EnrollArgs),
    /// List every difference between the ledger and DPS, and what became of the devices.
    Reconcile(enroll::ReconcileArgs),
    /// Show what the service holds of a record, or disable, enable or delete it there.
    #[command(subcommand)]
    Enrollment(enrollment::EnrollmentCommand),
    /// Open, close or report a shift.
    #[command(subcommand)]
    Shift(shift::ShiftCommand),
    /// Show or verify the ledger.
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// Make the CA in the HSM, or show what it signed.
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// Test ports with a loopback plug in the place of the device.
    Loopback(loopback::LoopbackArgs),
    /// Check everything before the first unit.
    Check(check::CheckArgs),
    /// Show what a trace of the line holds.
    #[command(subcommand)]
    Trace(trace::TraceCommand),
    /// Run a fixture as a process of its own.
    #[cfg(feature = "demo")]
    #[command(subcommand)]
    Emulate(emulate::EmulateCommand),
}

/// What a command has in hand: where its configuration is, and how to print.
pub(crate) struct Context {
    config: PathBuf,
    json: bool,
}

/// Runs the command that `cli` names, and says how the program should end.
pub fn run(cli: Cli) -> Result<Exit, Failure> {
    let context = Context {
        config: match &cli.command {
            #[cfg(feature = "demo")]
            Command::Demo(args) => demo::prepare(args)?,
            _ => cli.config,
        },
        json: cli.json,
    };
    if let Some(environment) = context.environment(&cli.command)? {
        return Err(restart_with(&environment));
    }
    no_core_file();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::station(format!(
                "no threads can be started ({error}): start the station again"
            ))
        })?;
    runtime.block_on(async {
        match cli.command {
            Command::Run(args) => run::run(&context, args).await,
            #[cfg(feature = "demo")]
            Command::Demo(args) => demo::run(&context, args).await,
            Command::Enroll(args) => enroll::enroll(&context, args).await,
            Command::Reconcile(args) => enroll::reconcile(&context, args).await,
            Command::Enrollment(command) => enrollment::run(&context, command).await,
            Command::Shift(command) => shift::run(&context, command).await,
            Command::Ledger(command) => ledger::run(&context, command).await,
            Command::Ca(command) => ca::run(&context, command).await,
            Command::Loopback(args) => loopback::run(&context, args).await,
            Command::Check(args) => check::run(&context, args).await,
            Command::Trace(command) => trace::run(&context, command),
            #[cfg(feature = "demo")]
            Command::Emulate(command) => emulate::run(&context, command).await,
        }
    })
}

/// Threads that drive bays and cloud; blocking work has its own.
const WORKER_THREADS: usize = 2;

impl Context {
    /// Reads the configuration.
    fn config(&self) -> Result<Config, Failure> {
        let config = Config::read(&self.config)?;
        if cfg!(feature = "demo") && !config.station.simulated {
            return Err(Failure::usage(format!(
                "{} is not declared simulated, and this build has a factory in software inside: use a build made by scripts/release",
                self.config.display()
            )));
        }
        Ok(config)
    }

    /// Prints a line: the object with `--json`, else the text.
    fn print(&self, object: &serde_json::Value, text: &str) -> Result<(), Failure> {
        if self.json {
            print_line(&object.to_string())
        } else {
            print_line(text)
        }
    }

    /// What must be in the environment before any library is loaded and is not there yet.
    fn environment(&self, command: &Command) -> Result<Option<BTreeMap<String, String>>, Failure> {
        let mut wanted = BTreeMap::from([("TSS2_LOG".to_owned(), "all+NONE".to_owned())]);
        let needs_config = match command {
            #[cfg(feature = "demo")]
            Command::Emulate(_) => false,
            Command::Check(args) => !args.ports,
            Command::Trace(_) => false,
            _ => true,
        };
        if needs_config {
            for ca in self.config()?.cas {
                wanted.extend(ca.environment);
            }
        }
        wanted.retain(|name, value| std::env::var(name).as_ref() != Ok(value));
        Ok(Some(wanted).filter(|wanted| !wanted.is_empty()))
    }
}

/// Prints a line. Who reads stdout may be gone, as with `| head`, or its disk full: that is no reason to panic.
fn print_line(line: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .map_err(|error| {
            Failure::station(format!(
                "stdout takes no more ({error}): give it a reader or room, then run the command again"
            ))
        })
}

/// A core file would have the PINs in it, and lie where nobody guards it.
fn no_core_file() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let none = Rlimit {
        current: Some(0),
        ..getrlimit(Resource::Core)
    };
    let _ = setrlimit(Resource::Core, none); // to lower it is always allowed
}

/// Starts this program anew, in place, with `environment`: PKCS#11 modules and the TPM stack read theirs when they are
/// loaded, and to change the environment of a running process is not safe. Returns only when that fails.
fn restart_with(environment: &BTreeMap<String, String>) -> Failure {
    use std::os::unix::process::CommandExt;
    let error = match std::env::current_exe() {
        Ok(program) => std::process::Command::new(program)
            .args(std::env::args_os().skip(1))
            .envs(environment)
            .exec(),
        Err(error) => error,
    };
    Failure::station(format!(
        "the station cannot start itself ({error}): reinstall it"
    ))
}

impl Failure {
    pub(crate) fn usage(sentence: impl Into<String>) -> Self {
        Self {
            sentence: sentence.into(),
            exit: Exit::Usage,
        }
    }

    pub(crate) fn station(sentence: impl Into<String>) -> Self {
        Self {
            sentence: sentence.into(),
            exit: Exit::Station,
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::station(words::sentence(&fault))
    }
}
