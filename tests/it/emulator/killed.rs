//! The emulated cloud as a process of its own, killed while it is written to.

use super::support::{self, Cloud, sample_tpm, text};
use dps_station::fixtures::dps::{EmulatorOptions, Policy};
use reqwest::Client;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tokio::task::JoinSet;

/// How many of the writes under way are acknowledged before the kill, one kill for each.
const ROUNDS: [usize; 4] = [1, 2, 5, 11];
/// Writes under way at a time.
const WRITES: usize = 12;

#[tokio::test]
async fn no_acknowledged_write_is_lost_when_the_cloud_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in ROUNDS {
        let (process, door) = start(dir.path());
        let mut writes = JoinSet::new();
        for n in 0..WRITES {
            writes.spawn(door.clone().put(format!("r{round}-{n}")));
        }
        for _ in 0..round {
            let id = writes.join_next().await.unwrap().unwrap();
            acknowledged.push(id.expect("acknowledged while alive"));
        }
        drop(process);
        while let Some(id) = writes.join_next().await {
            acknowledged.extend(id.unwrap());
        }
    }
    let options = EmulatorOptions::new(dir.path());
    let cloud = Cloud::open(dir, options).await;
    for id in &acknowledged {
        let found = cloud.get(&format!("/enrollments/{id}")).await;
        assert_eq!(found.status, 200, "{id}");
    }
    let mut ids = cloud.ids();
    for id in &ids {
        let found = cloud.get(&format!("/enrollments/{id}")).await;
        assert_eq!(found.status, 200, "{id} is in the log");
    }
    ids.sort();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
}

/// How to reach the running process.
#[derive(Clone)]
struct Door {
    client: Client,
    service_url: String,
    key: String,
}

impl Door {
    /// Gives the ID back when the write was acknowledged.
    async fn put(self, id: String) -> Option<String> {
        let url = format!(
            "{}/enrollments/{id}?api-version=2021-10-01",
            self.service_url
        );
        let later = support::now() + 60;
        let token = support::token(&self.key, "localhost", later, Some(Policy::OWNER));
        let request = self.client.put(url).header("authorization", token);
        let reply = request.json(&sample_tpm(&id)).send().await.ok()?;
        (reply.status() == 200).then_some(id)
    }
}

/// A process that is killed, with SIGKILL, when it is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn start(dir: &Path) -> (Killed, Door) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_station"))
        .args(["emulate", "dps", "--json", "--dir"])
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = process.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let said: Value = serde_json::from_str(&line).unwrap();
    let connection = text(&said["connection_string"]);
    let (_, key) = connection.split_once("SharedAccessKey=").unwrap();
    let listen: SocketAddr = text(&said["listen"]).parse().unwrap();
    let door = Door {
        client: support::client(Path::new(&text(&said["ca_pem"]))),
        service_url: format!("https://localhost:{}", listen.port()),
        key: key.to_owned(),
    };
    (Killed(process), door)
}
