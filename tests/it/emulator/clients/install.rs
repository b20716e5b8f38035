//! Microsoft's clients as packages, installed once into the build's folder, in the versions that stand here.

use crate::support;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// One installation at a time: npm and pip get no faster beside one another.
static INSTALLING: Mutex<()> = Mutex::new(());

/// The folder with the clients' sources.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/emulator/clients")
}

/// The folder of Node's packages.
pub fn node() -> PathBuf {
    let lists = ["package.json", "package-lock.json"];
    let dir = installed("node", &lists, |dir| {
        for list in lists {
            fs::copy(sources().join(list), dir.join(list)).unwrap();
        }
        let mut install = limited("npm");
        install.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
        install.args(["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]);
        vec![(install, dir.to_owned())]
    });
    dir.join("node_modules")
}

/// A Python that has the packages.
pub fn python() -> PathBuf {
    let dir = installed("python", &["requirements.txt"], |dir| {
        let mut own = limited("python3");
        own.args(["-m", "venv", "."]);
        let mut install = limited("bin/python");
        install.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--retries=1",
            "-r",
        ]);
        install.arg(sources().join("requirements.txt"));
        vec![(own, dir.to_owned()), (install, dir.to_owned())]
    });
    dir.join("bin/python")
}

/// A program that is ended after two minutes.
fn limited(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "120", program]);
    command
}

/// A folder in which these commands were once carried out for these lists. One that fails is told of.
fn installed(
    name: &str,
    lists: &[&str],
    commands: impl FnOnce(&Path) -> Vec<(Command, PathBuf)>,
) -> PathBuf {
    // A test that fails here has said so, and another may try again.
    let _alone = INSTALLING
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("clients-{name}"));
    let lists: Vec<_> = lists.iter().map(|list| sources().join(list)).collect();
    let wanted: String = lists
        .iter()
        .map(|list| fs::read_to_string(list).unwrap())
        .collect();
    let done = dir.join("installed");
    if fs::read_to_string(&done).is_ok_and(|had| had == wanted) {
        return dir;
    }
    let _ = fs::remove_dir_all(&dir); // what another list left, if it left anything
    fs::create_dir_all(&dir).unwrap();
    for (mut command, place) in commands(&dir) {
        let ended = support::run(command.current_dir(&place));
        assert_eq!(
            ended.code(),
            Some(0),
            "Microsoft's clients are not there: `{command:?}` said {}{}; scripts/setup installs what it needs",
            ended.stdout,
            ended.stderr
        );
    }
    fs::write(done, wanted).unwrap();
    dir
}
