//! A network of the test's own, in which the emulated cloud has the real ports and names.

use crate::support::Running;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Lays a network out: its loopback and its hosts file. Then runs the rest.
const LAY_OUT: &str = r#"ip link set lo up && mount --bind "$1" /etc/hosts && shift && exec "$@""#;

/// A network with an emulated cloud in it. Killed when dropped.
pub struct Net {
    cloud: Option<Running>,
    /// What the cloud printed.
    pub said: Value,
}

impl Net {
    /// Starts the emulated cloud of a folder at 443 and 8883 of the loopback, which has these names.
    pub fn start(dir: &Path, names: &[&str]) -> Self {
        let hosts = dir.join("hosts");
        let names = names.join(" ");
        fs::write(&hosts, format!("127.0.0.1 localhost {names}\n")).unwrap();
        let mut command = Command::new("unshare");
        command
            .args([
                "--map-root-user",
                "--net",
                "--mount",
                "sh",
                "-c",
                LAY_OUT,
                "sh",
            ])
            .arg(hosts)
            .arg(env!("CARGO_BIN_EXE_station"))
            .args(["emulate", "dps", "--json", "--dir"])
            .arg(dir)
            .args(["--listen", "127.0.0.1:443"])
            .args(["--mqtt-listen", "127.0.0.1:8883"]);
        let mut cloud = Running::start(&mut command);
        let line = cloud.line().unwrap_or_default();
        match serde_json::from_str(&line) {
            Ok(said) => Self {
                cloud: Some(cloud),
                said,
            },
            Err(_) => panic!(
                "no network of the test's own: run the tests as root, or let users have namespaces: {:?}",
                cloud.end()
            ),
        }
    }

    /// A program within the network, which is ended after a minute.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = self.inside();
        command.args(["timeout", "--kill-after=5", "60"]);
        command.arg(program);
        command
    }

    /// Ends the cloud as a system that shuts down does.
    pub fn end(mut self) {
        let cloud = self.cloud.take().expect("it is there until here");
        cloud.terminate();
        assert_eq!(cloud.end().code(), Some(0));
    }

    fn inside(&self) -> Command {
        let cloud = self.cloud.as_ref().expect("it is there until its end");
        let mut command = Command::new("nsenter");
        command.args(["--target", &cloud.pid().to_string()]).args([
            "--user",
            "--preserve-credentials",
            "--net",
            "--mount",
        ]);
        command
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if let Some(cloud) = self.cloud.take() {
            cloud.kill();
        }
    }
}
