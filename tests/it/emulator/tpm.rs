//! TPM devices: our simulated firmware, and tpm2-tools as a client that is not ours, each with a TPM of its own.

use super::mqtt::{Hello, hello};
use super::support::{self, Cloud, Reply, text};
use data_encoding::BASE64;
use dps_station::fixtures::first_boot::{BootError, Booted, first_boot_tpm, raw_stream};
use mqtt_protocol_core::mqtt::packet::Qos;
use reqwest::Method;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const EK: &str = "0x81010001";
const SRK: &str = "0x81000001";
/// For one answer of the TPM.
const TPM_DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_tpm_device_registers_and_reads_its_twin_with_keys_it_was_sent() {
    let cloud = Cloud::with(|o| o.assigning_polls = 1).await;
    let tpm = Swtpm::start();
    tpm.make_keys();
    let mut body = enrollment("tpm-1", &tpm.public(EK));
    body["initialTwin"] = json!({"properties": {"desired": {"rate": 9}}});
    cloud.put("/enrollments/tpm-1", &body, None).await;
    // Twice: the key of the first boot is still at its handle at the second.
    for _ in 0..2 {
        let booted = tpm.boot(&cloud, "tpm-1").await.unwrap();
        assert_eq!(booted.device_id, "tpm-1");
        assert_eq!(booted.desired["rate"], 9);
    }
    for kind in ["transient", "loaded-session"] {
        let left = tpm.run("tpm2_getcap", &[&format!("handles-{kind}")]);
        assert!(
            left.is_empty(),
            "{kind}: {}",
            String::from_utf8_lossy(&left)
        );
    }
}

#[tokio::test]
async fn a_tpm_without_keys_makes_those_of_its_client() {
    let cloud = Cloud::start().await;
    let tpm = Swtpm::start();
    let unknown = tpm.boot(&cloud, "tpm-2").await.unwrap_err();
    let refused = matches!(
        unknown,
        BootError::Refused {
            status: 404,
            code: 404_201,
            ..
        }
    );
    assert!(refused, "{unknown}");
    let body = enrollment("tpm-2", &tpm.public(EK));
    cloud.put("/enrollments/tpm-2", &body, None).await;
    tpm.boot(&cloud, "tpm-2").await.unwrap();
}

#[tokio::test]
async fn a_tpm_that_is_not_the_enrolled_one_is_refused() {
    let cloud = Cloud::start().await;
    let (tpm, other) = (Swtpm::start(), Swtpm::start());
    other.make_keys();
    cloud
        .put(
            "/enrollments/tpm-3",
            &enrollment("tpm-3", &other.public(EK)),
            None,
        )
        .await;
    let error = tpm.boot(&cloud, "tpm-3").await.unwrap_err();
    let refused = matches!(
        error,
        BootError::Refused {
            status: 400,
            code: 400_004,
            ..
        }
    );
    assert!(refused, "{error}");

    let mut body = enrollment("tpm-3", &other.public(EK));
    body["provisioningStatus"] = json!("disabled");
    cloud.put("/enrollments/tpm-3", &body, Some("*")).await;
    let error = other.boot(&cloud, "tpm-3").await.unwrap_err();
    assert!(matches!(error, BootError::NotAssigned { .. }), "{error}");
}

#[tokio::test]
async fn tpm2_tools_pass_the_challenge_twice() {
    let cloud = Cloud::with(|o| o.assigning_polls = 1).await;
    let tpm = Swtpm::start();
    tpm.make_keys();
    let (ek, srk) = (tpm.public(EK), tpm.public(SRK));
    cloud
        .put("/enrollments/tpm-4", &enrollment("tpm-4", &ek), None)
        .await;
    let scope = cloud.id_scope().to_owned();
    let path = format!("/{scope}/registrations/tpm-4/register");
    let keys = json!({"endorsementKey": BASE64.encode(&ek), "storageRootKey": BASE64.encode(&srk)});
    let body = json!({"registrationId": "tpm-4", "tpm": keys});

    let challenge = register(&cloud, &path, &body, None).await;
    assert_eq!(challenge.status, 401, "{challenge:?}");
    assert_eq!(challenge.body["keyName"], "registration");
    assert_eq!(challenge.body["unencryptedAuthenticationKey"], Value::Null);
    let resource = format!("{scope}%2Fregistrations%2Ftpm-4");
    let wrong = support::token(
        &BASE64.encode(&[7; 32]),
        &resource,
        support::now() + 60,
        None,
    );
    assert_eq!(
        register(&cloud, &path, &body, Some(&wrong)).await.status,
        401
    );
    tpm.accept(&challenge.body["authenticationKey"]);
    let token = format!("{}&skn=registration", tpm.token(&resource));
    let begun = register(
        &cloud,
        &path,
        &json!({"registrationId": "tpm-4"}),
        Some(&token),
    )
    .await;
    assert_eq!(begun.status, 202, "{begun:?}");

    let operation = text(&begun.body["operationId"]);
    let path = format!("/{scope}/registrations/tpm-4/operations/{operation}");
    let headers = [("authorization", token.as_str())];
    let first = cloud
        .call(Method::GET, &path, Some(&json!({})), &headers)
        .await;
    assert_eq!(
        (first.status, &first.body["status"]),
        (202, &json!("assigning"))
    );
    let done = cloud.call(Method::GET, &path, None, &headers).await;
    assert_eq!(done.status, 200, "{done:?}");
    let state = &done.body["registrationState"];
    tpm.accept(&state["tpm"]["authenticationKey"]);
    let hub = text(&state["assignedHub"]);
    let token = tpm.token(&format!("{hub}%2Fdevices%2Ftpm-4"));
    let user = format!("{hub}/tpm-4/?api-version=2021-04-12");
    let greeting = Hello(&hub, "tpm-4", &user, Some(&token), 60);
    let mut line = hello(&cloud, &greeting).await.unwrap();
    line.subscribe("$iothub/twin/res/#", Qos::AtMostOnce).await;
    line.publish("$iothub/twin/GET/?$rid=1", b"").await;
    let (topic, _, twin) = line.hear().await;
    assert_eq!(topic, "$iothub/twin/res/200/?$rid=1");
    let twin: Value = serde_json::from_slice(&twin).unwrap();
    assert_eq!(twin["desired"]["$version"], 1);
}

async fn register(cloud: &Cloud, path: &str, body: &Value, token: Option<&str>) -> Reply {
    cloud.device(Method::PUT, path, Some(body), token).await
}

fn enrollment(id: &str, endorsement_key: &[u8]) -> Value {
    let key = BASE64.encode(endorsement_key);
    json!({"registrationId": id, "attestation": {"type": "tpm", "tpm": {"endorsementKey": key}}})
}

/// A software TPM on a socket in a directory of its own.
struct Swtpm {
    dir: TempDir,
    process: Child,
}

impl Swtpm {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--tpmstate", &format!("dir={}", dir.path().display())])
            .args([
                "--server",
                &format!("type=unixio,path={}", dir.path().join("tpm").display()),
            ])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("swtpm is missing: run scripts/setup");
        let tpm = Self { dir, process };
        drop(tpm.connect());
        tpm
    }

    async fn boot(&self, cloud: &Cloud, id: &str) -> Result<Booted, BootError> {
        first_boot_tpm(&cloud.injected(id), raw_stream(self.connect())).await
    }

    fn connect(&self) -> UnixStream {
        let begin = Instant::now();
        loop {
            match UnixStream::connect(self.file("tpm")) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(TPM_DEADLINE)).unwrap();
                    return stream;
                }
                Err(error) if begin.elapsed() > TPM_DEADLINE => panic!("swtpm: {error}"),
                Err(_) => thread::yield_now(),
            }
        }
    }

    /// Persists an endorsement key by the TCG's template and a storage root key, as a maker and a first owner do.
    fn make_keys(&self) {
        self.run("tpm2_createek", &["-c", EK, "-G", "rsa"]);
        let srk = self.path("srk");
        let attributes =
            "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt";
        let algorithm = "rsa2048:aes128cfb";
        self.run(
            "tpm2_createprimary",
            &["-C", "o", "-G", algorithm, "-a", attributes, "-c", &srk],
        );
        self.run("tpm2_evictcontrol", &["-C", "o", "-c", &srk, SRK]);
        self.flush();
    }

    /// `TPM2B_PUBLIC` of a persistent key.
    fn public(&self, handle: &str) -> Vec<u8> {
        let out = self.path("public");
        self.run("tpm2_readpublic", &["-c", handle, "-f", "tss", "-o", &out]);
        fs::read(out).unwrap()
    }

    /// Takes a key that the service sent into the TPM, by tpm2-tools.
    fn accept(&self, blob: &Value) {
        let blob = BASE64.decode(text(blob).as_bytes()).unwrap();
        let mut rest = blob.as_slice();
        let mut next = || {
            let size = usize::from(u16::from_be_bytes([rest[0], rest[1]])) + 2;
            let (head, tail) = rest.split_at(size);
            rest = tail;
            head.to_vec()
        };
        let credential = [vec![0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1], next(), next()].concat();
        fs::write(self.file("credential"), credential).unwrap();
        for name in ["duplicate", "seed", "object"] {
            fs::write(self.file(name), next()).unwrap();
        }
        let p = |name: &str| self.path(name);
        let session = p("session");
        self.run(
            "tpm2_startauthsession",
            &["--policy-session", "-S", &session],
        );
        self.run("tpm2_policysecret", &["-S", &session, "-c", "e"]);
        let policy = format!("session:{session}");
        self.run(
            "tpm2_activatecredential",
            &[
                "-c",
                SRK,
                "-C",
                EK,
                "-P",
                &policy,
                "-i",
                &p("credential"),
                "-o",
                &p("inner"),
            ],
        );
        self.run("tpm2_flushcontext", &[&session]);
        let files = [
            "-i",
            &p("duplicate"),
            "-u",
            &p("object"),
            "-s",
            &p("seed"),
            "-k",
            &p("inner"),
        ];
        self.run(
            "tpm2_import",
            &[&["-C", SRK, "-r", &p("private")], &files[..]].concat(),
        );
        self.run(
            "tpm2_load",
            &[
                "-C",
                SRK,
                "-u",
                &p("object"),
                "-r",
                &p("private"),
                "-c",
                &p("key"),
            ],
        );
        self.flush();
    }

    /// Frees what tpm2-tools leave in a TPM that has no resource manager.
    fn flush(&self) {
        self.run("tpm2_flushcontext", &["-t"]);
    }

    /// A token for `resource`, signed in the TPM by tpm2-tools.
    fn token(&self, resource: &str) -> String {
        let expiry = support::now() + 60;
        fs::write(self.file("text"), format!("{resource}\n{expiry}")).unwrap();
        let (key, mac) = (self.path("key"), self.path("mac"));
        self.run(
            "tpm2_hmac",
            &["-c", &key, "-g", "sha256", "-o", &mac, &self.path("text")],
        );
        self.flush();
        support::assemble(resource, &fs::read(mac).unwrap(), expiry)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Vec<u8> {
        let socket = self.path("tpm");
        let output = Command::new(program)
            .args([
                "-T",
                &format!("cmd:socat -t 30 STDIO UNIX-CONNECT:{socket}"),
            ])
            .args(arguments)
            .output()
            .expect("tpm2-tools are missing: run scripts/setup");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {said}");
        match program {
            "tpm2_getcap" => output.stdout,
            _ => Vec::new(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.file(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
