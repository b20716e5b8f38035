//! A running emulator, a plain HTTPS client, hand-made tokens, and certificates of the openssl program.

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use dps_station::fixtures::dps::{Emulator, EmulatorOptions};
use dps_station::fixtures::first_boot::{
    BootError, Booted, FirstBoot, Transport, X509Identity, first_boot,
};
use reqwest::{Certificate, Client, Method};
use serde_json::{Value, json};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// An endorsement key of Microsoft's quickstarts.
pub const SAMPLE_EK: &str = "AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEAxsj2gUScTk1UjuioeTlfGYZrrimExB+bScH75adUMRIi2UOMxG1kw4y+9RW/IVoMl4e620VxZad0ARX2gUqVjYO7KPVt3dyKhZS3dkcvfBisBhP1XH9B33VqHG9SHnbnQXdBUaCgKAfxome8UmBKfe+naTsE5fkvjb/do3/dD6l4sGBwFCnKRdln4XpM03zLpoHFao8zOwt8l/uP3qUIxmCYv9A7m69Ms+5/pCkTu/rK4mRDsfhZ0QLfbzVI6zQFOKF/rwsfBtFeWlWtcuJMKlXdD8TXWElTzgh7JS4qhFzreL0c1mI0GCj+Aws0usZh7dLIVPnlgZcBhgy1SSDQMQ==";

/// An enrollment with that key.
pub fn sample_tpm(id: &str) -> Value {
    json!({"registrationId": id, "attestation": {"type": "tpm", "tpm": {"endorsementKey": SAMPLE_EK}}})
}

/// An emulated cloud in a directory of its own.
pub struct Cloud {
    dir: TempDir,
    options: EmulatorOptions,
    emulator: Emulator,
    client: Client,
}

/// One reply of the cloud.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Value,
    pub error_code: Option<String>,
    pub retry_after: Option<String>,
    pub continuation: Option<String>,
    pub date: Option<String>,
}

impl Cloud {
    pub async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub async fn with(change: impl FnOnce(&mut EmulatorOptions)) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), change).await
    }

    /// Stops, lets `damage` do its work on the state, and starts again.
    pub async fn restart(self, damage: impl FnOnce(&Path)) -> Self {
        self.emulator.stop().await;
        damage(&self.dir.path().join("dps"));
        Self::open(self.dir, self.options).await
    }

    /// The cloud of a folder in which there was one.
    pub async fn in_folder(dir: TempDir, change: impl FnOnce(&mut EmulatorOptions)) -> Self {
        let mut options = EmulatorOptions::new(dir.path());
        change(&mut options);
        Self::open(dir, options).await
    }

    /// Stops, and leaves its folder.
    pub async fn into_folder(self) -> TempDir {
        self.emulator.stop().await;
        self.dir
    }

    pub async fn open(dir: TempDir, options: EmulatorOptions) -> Self {
        let emulator = Emulator::start(options.clone()).await.unwrap();
        let client = client(emulator.ca_file());
        Self {
            dir,
            options,
            emulator,
            client,
        }
    }

    pub fn emulator(&self) -> &Emulator {
        &self.emulator
    }

    pub fn id_scope(&self) -> &str {
        &self.options.id_scope
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.call(Method::GET, path, None, &[]).await
    }

    pub async fn put(&self, path: &str, body: &Value, if_match: Option<&str>) -> Reply {
        let headers: Vec<_> = if_match.map(|tag| ("if-match", tag)).into_iter().collect();
        self.call(Method::PUT, path, Some(body), &headers).await
    }

    pub async fn post(&self, path: &str, body: Option<&Value>) -> Reply {
        self.call(Method::POST, path, body, &[]).await
    }

    pub async fn delete(&self, path: &str, if_match: Option<&str>) -> Reply {
        let headers: Vec<_> = if_match.map(|tag| ("if-match", tag)).into_iter().collect();
        self.call(Method::DELETE, path, None, &headers).await
    }

    pub async fn faults(&self, faults: Value) {
        let reply = self.post("/emulator/faults", Some(&faults)).await;
        assert_eq!(reply.status, 204, "{reply:?}");
    }

    /// A call with the API version that current clients send, and the owner's token unless `headers` has another.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Reply {
        let path = format!("{path}?api-version=2021-10-01");
        self.raw(method, &path, body, headers).await
    }

    /// A call as a device makes it: no token but its own.
    pub async fn device(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        token: Option<&str>,
    ) -> Reply {
        let path = format!("{path}?api-version=2021-06-01");
        let headers: Vec<_> = token.map(|t| ("authorization", t)).into_iter().collect();
        self.plain(method, &path, body, &headers).await.unwrap()
    }

    pub async fn raw(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Reply {
        self.send(method, path, body, headers).await.unwrap()
    }

    pub async fn try_put(&self, path: &str, body: &Value) -> reqwest::Result<Reply> {
        self.try_call(Method::PUT, path, body).await
    }

    /// A call that may get no answer.
    pub async fn try_call(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> reqwest::Result<Reply> {
        let path = format!("{path}?api-version=2021-10-01");
        self.send(method, &path, Some(body), &[]).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> reqwest::Result<Reply> {
        let owner = &self.emulator.policies()[0];
        let token = token(
            &owner.primary_key,
            "localhost",
            now() + 60,
            Some(&owner.name),
        );
        let mut headers = headers.to_vec();
        if !headers.iter().any(|(name, _)| *name == "authorization") {
            headers.push(("authorization", &token));
        }
        self.plain(method, path, body, &headers).await
    }

    async fn plain(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> reqwest::Result<Reply> {
        let url = format!("https://localhost:{}{path}", self.emulator.port());
        let mut request = self.client.request(method, url);
        if let Some(body) = body {
            request = request.json(body);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await?;
        let header = |name: &str| {
            let value = response.headers().get(name)?;
            Some(value.to_str().unwrap().to_owned())
        };
        Ok(Reply {
            status: response.status().as_u16(),
            error_code: header("x-ms-error-code"),
            retry_after: header("retry-after"),
            continuation: header("x-ms-continuation"),
            date: header("date"),
            body: serde_json::from_slice(&response.bytes().await?).unwrap_or_default(),
        })
    }

    /// The first boot of a device with this chain and the key of `leaf`.
    pub async fn boot(&self, id: &str, chain: &[&Held], leaf: &Held) -> Result<Booted, BootError> {
        self.boot_over(Transport::Https, id, chain, leaf).await
    }

    /// The same, registering over HTTPS or MQTT.
    pub async fn boot_over(
        &self,
        registers_over: Transport,
        id: &str,
        chain: &[&Held],
        leaf: &Held,
    ) -> Result<Booted, BootError> {
        let own = X509Identity {
            certificate_chain: chain.iter().map(|held| held.der()).collect(),
            private_key: leaf.key(),
        };
        let boot = FirstBoot {
            registers_over,
            ..self.injected(id)
        };
        first_boot(&boot, &own).await
    }

    /// What is injected into a device, and the trust root of its firmware.
    pub fn injected(&self, id: &str) -> FirstBoot {
        FirstBoot {
            id_scope: self.id_scope().to_owned(),
            global_endpoint: format!("{}:{}", self.options.global_endpoint, self.emulator.port()),
            registration_id: id.to_owned(),
            trust_root: fs::read_to_string(self.emulator.ca_file()).unwrap(),
            network: self.emulator.address().ip(),
            mqtt_port: self.emulator.mqtt_address().port(),
            registers_over: Transport::Https,
        }
    }

    /// The kinds of write on record.
    pub fn ops(&self) -> Vec<String> {
        self.column("writes.jsonl", "op")
    }

    /// The registration IDs written, in order.
    pub fn ids(&self) -> Vec<String> {
        self.column("writes.jsonl", "registrationId")
    }

    /// The kinds of event on record.
    pub fn events(&self) -> Vec<String> {
        self.column("registrations.jsonl", "event")
    }

    fn column(&self, file: &str, name: &str) -> Vec<String> {
        let lines = self.lines(file);
        lines.iter().map(|line| text(&line[name])).collect()
    }

    /// Every line of a log.
    pub fn lines(&self, file: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.path().join("dps").join(file)).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect()
    }
}

/// A client that trusts the emulator's authority and nobody else.
pub fn client(ca_file: &Path) -> Client {
    let root = fs::read(ca_file).unwrap();
    Client::builder()
        .tls_certs_only([Certificate::from_pem(&root).unwrap()])
        .no_proxy()
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap()
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_secs()).unwrap()
}

/// A shared access signature over `resource` as it stands.
pub fn token(key: &str, resource: &str, expiry: i64, policy: Option<&str>) -> String {
    let key = BASE64.decode(key.as_bytes()).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let mac = hmac::sign(&key, format!("{resource}\n{expiry}").as_bytes());
    let policy = policy.map_or(String::new(), |name| format!("&skn={name}"));
    format!("{}{policy}", assemble(resource, mac.as_ref(), expiry))
}

/// A shared access signature of parts that are there already.
pub fn assemble(resource: &str, mac: &[u8], expiry: i64) -> String {
    let signature = BASE64
        .encode(mac)
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D");
    format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}")
}

/// The key of one member of a symmetric-key group.
pub fn derive(group_key: &str, id: &str) -> String {
    let key = BASE64.decode(group_key.as_bytes()).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    BASE64.encode(hmac::sign(&key, id.as_bytes()).as_ref())
}

pub fn x509(id: &str, certificate: &str) -> Value {
    let primary = json!({"primary": {"certificate": certificate}, "secondary": null});
    json!({"registrationId": id, "attestation": {"type": "x509", "x509": {"clientCertificates": primary}}})
}

pub fn group(id: &str, certificate: &str) -> Value {
    let primary = json!({"primary": {"certificate": certificate}});
    json!({"enrollmentGroupId": id, "attestation": {"type": "x509", "x509": {"signingCertificates": primary}}})
}

/// Keys and certificates made by the openssl program.
pub struct Pki {
    dir: TempDir,
    count: Cell<u32>,
}

/// A certificate and its key.
pub struct Held {
    certificate: PathBuf,
    key: PathBuf,
}

impl Pki {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let extensions = "[ca]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n\
            subjectKeyIdentifier=hash\n[leaf]\nbasicConstraints=critical,CA:FALSE\n\
            keyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth\n";
        fs::write(dir.path().join("extensions"), extensions).unwrap();
        let count = Cell::new(0);
        Self { dir, count }
    }

    pub fn self_signed(&self, name: &str) -> Held {
        self.make(name, "leaf", None, "2")
    }

    pub fn expired(&self, name: &str) -> Held {
        self.make(name, "leaf", None, "-1")
    }

    pub fn root(&self, name: &str) -> Held {
        self.make(name, "ca", None, "2")
    }

    pub fn authority(&self, name: &str, issuer: &Held) -> Held {
        self.make(name, "ca", Some(issuer), "2")
    }

    pub fn leaf(&self, name: &str, issuer: &Held) -> Held {
        self.make(name, "leaf", Some(issuer), "2")
    }

    fn make(&self, name: &str, section: &str, issuer: Option<&Held>, days: &str) -> Held {
        let number = self.count.replace(self.count.get() + 1);
        let path = |kind: &str| self.dir.path().join(format!("{number}.{kind}"));
        let (key, request, certificate) = (path("key"), path("csr"), path("pem"));
        let extensions = self.dir.path().join("extensions");
        let curve = "ec_paramgen_curve:P-256";
        openssl(
            Command::new("openssl")
                .args(["req", "-new", "-newkey", "ec", "-pkeyopt", curve, "-nodes"])
                .args(["-subj", &format!("/CN={name}")])
                .arg("-keyout")
                .arg(&key)
                .arg("-out")
                .arg(&request),
        );
        let mut sign = Command::new("openssl");
        sign.args([
            "x509",
            "-req",
            "-sha256",
            "-days",
            days,
            "-extensions",
            section,
        ])
        .arg("-in")
        .arg(&request)
        .arg("-extfile")
        .arg(&extensions)
        .arg("-out")
        .arg(&certificate);
        match issuer {
            Some(issuer) => sign
                .arg("-CA")
                .arg(&issuer.certificate)
                .arg("-CAkey")
                .arg(&issuer.key)
                .arg("-CAcreateserial"),
            None => sign.arg("-signkey").arg(&key),
        };
        openssl(&mut sign);
        Held { certificate, key }
    }
}

impl Held {
    pub fn pem(&self) -> String {
        fs::read_to_string(&self.certificate).unwrap()
    }

    /// Its certificate and its key as files, in PEM.
    pub fn files(&self) -> (&Path, &Path) {
        (&self.certificate, &self.key)
    }

    pub fn der(&self) -> Vec<u8> {
        openssl(
            Command::new("openssl")
                .args(["x509", "-outform", "DER", "-in"])
                .arg(&self.certificate),
        )
    }

    /// PKCS#8 in DER.
    pub fn key(&self) -> Vec<u8> {
        openssl(
            Command::new("openssl")
                .args(["pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in"])
                .arg(&self.key),
        )
    }

    /// The fingerprint as openssl computes it, without colons.
    pub fn openssl_fingerprint(&self, digest: &str) -> String {
        let out = openssl(
            Command::new("openssl")
                .args(["x509", "-noout", "-fingerprint", digest, "-in"])
                .arg(&self.certificate),
        );
        let out = String::from_utf8(out).unwrap();
        out.trim().split('=').nth(1).unwrap().replace(':', "")
    }
}

fn openssl(command: &mut Command) -> Vec<u8> {
    let output = command
        .output()
        .expect("openssl is missing: run scripts/setup");
    assert!(output.status.success(), "{output:?}");
    output.stdout
}
