//! The factory folder of a demo: laid out once, its rig attached or restarted, summed up at the end.

use super::rig_failed;
use crate::commands::Failure;
use crate::fixtures::pki;
use crate::fixtures::rig::control::{Ask, Control};
use crate::fixtures::rig::{
    CLOUD_CA_FILE, CREDENTIAL_FILE, Operator, Plan, VENDOR_ROOTS, cloud, write_whole,
};
use crate::fixtures::scenario::Scenario;
use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Bays of the simulated line.
const BAYS: usize = 4;
/// How long a rig may take until it listens.
const RIG_START_MAX: Duration = Duration::from_secs(30);
/// How often a starting rig is tried.
const RIG_POLL: Duration = Duration::from_millis(50);

/// What decides how a new factory folder looks.
pub struct Layout<'a> {
    /// How many devices come.
    pub devices: u16,
    /// Whether some of them are not genuine.
    pub flaws: bool,
    /// What goes wrong in the first bay.
    pub scenario: Option<&'a Path>,
    /// Who takes them out of the bays.
    pub operator: Operator,
    /// PKCS#11 module in place of SoftHSM.
    pub module: Option<&'a Path>,
}

/// Lays out what is not there yet; a run that was killed here is finished by the next.
pub fn lay_out(dir: &Path, layout: &Layout<'_>) -> Result<PathBuf, Failure> {
    let failed = |error: std::io::Error| {
        Failure::station(format!(
            "{} cannot be laid out ({error}): make room or give the right",
            dir.display()
        ))
    };
    fs::create_dir_all(dir.join("rig")).map_err(failed)?;
    let dir = fs::canonicalize(dir).map_err(failed)?;
    let softhsm = pki::find_softhsm().map_err(no_token)?;
    fs::create_dir_all(dir.join("rig/hsm")).map_err(failed)?;
    let pin = pin(&dir.join("rig/hsm/pin")).map_err(failed)?;
    pki::make_token(&dir.join("rig/hsm"), TOKEN, &pin, &pin).map_err(no_token)?;
    let path = dir.join("station.toml");
    if path.exists() {
        return Ok(path);
    }
    let plan = match Plan::read(&dir) {
        Ok(plan) => plan,
        Err(_) => {
            let port = free_port().map_err(failed)?;
            let scenario = layout.scenario.map(Scenario::read).transpose();
            let plan = Plan {
                scenario: scenario.map_err(|error| Failure::usage(error.to_string()))?,
                operator: layout.operator,
                ..Plan::new(usize::from(layout.devices), BAYS, port, layout.flaws)
            };
            plan.write(&dir).map_err(failed)?;
            plan
        }
    };
    let module = layout.module.unwrap_or(&softhsm);
    let text = station_toml(&dir, &plan, module, &softhsm);
    write_whole(&path, text.as_bytes()).map_err(failed)?;
    Ok(path)
}

const TOKEN: &str = "factory";

fn no_token(error: pki::PkiError) -> Failure {
    Failure::station(error.to_string())
}

/// The PIN of the simulated HSM: drawn once, readable by this user only.
fn pin(path: &Path) -> std::io::Result<String> {
    use std::os::unix::fs::OpenOptionsExt;
    if let Ok(pin) = fs::read_to_string(path) {
        return Ok(pin);
    }
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| std::io::Error::other("no random numbers"))?;
    let pin = data_encoding::HEXLOWER.encode(&random);
    let fresh = path.with_extension("new");
    let mut options = File::options();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(pin.as_bytes())?;
    file.sync_all()?;
    fs::rename(fresh, path)?;
    Ok(pin)
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn station_toml(dir: &Path, plan: &Plan, module: &Path, softhsm: &Path) -> String {
    let cloud = cloud(dir, plan);
    let deadline = plan
        .scenario
        .as_ref()
        .and_then(|scenario| scenario.step_deadline_ms);
    let mut text = format!(
        r#"# A simulated line; the same program as on a real one.
[station]
id = "demo"
simulated = true
ledger = "ledger.sqlite"

[shift]
auto = true

[[ca]]
name = "factory"
module = "{module}"
token = "{TOKEN}"
label = "issuing"
pin = "file:rig/hsm/pin"
environment = {{ SOFTHSM2_CONF = "{conf}", PKCS11SPY = "{softhsm}" }}

[[dps]]
name = "main"
id_scope = "{scope}"
global_endpoint = "localhost:{port}"
service_url = "https://localhost:{port}"
credential = "file:{CREDENTIAL_FILE}"
ca_file = "{CLOUD_CA_FILE}"
proxy = "none"
share = 1000

[[product]]
name = "sim-x509"
model = "SIM-X509"
attestation = "x509"
ca = "factory"
dps = "main"
initial_desired = {{ telemetryIntervalSeconds = 60 }}
{deadline}
[[product]]
name = "sim-tpm"
model = "SIM-TPM"
attestation = "tpm"
dps = "main"
vendor_roots = "{VENDOR_ROOTS}"
initial_desired = {{ telemetryIntervalSeconds = 60 }}
"#,
        module = module.display(),
        conf = dir.join("rig/hsm/softhsm2.conf").display(),
        softhsm = softhsm.display(),
        scope = cloud.id_scope,
        port = plan.dps_port,
        deadline = deadline.map_or(String::new(), |ms| format!("step_deadline_ms = {ms}\n")),
    );
    for (place, bay) in plan.bays.iter().enumerate() {
        let scenario = plan.scenario.as_ref().filter(|_| place == 0);
        text += &bay_toml(bay, scenario.is_some_and(|scenario| scenario.hotplug));
    }
    text
}

fn bay_toml(name: &str, hotplug: bool) -> String {
    let hotplug = if hotplug { "hotplug = true\n" } else { "" };
    format!("\n[[bay]]\nname = \"{name}\"\nport = \"rig/bay-{name}\"\n{hotplug}")
}

/// Connects to the folder's rig; starts one, as a process of its own that outlives this one, where none lives.
pub async fn attach_rig(dir: &Path) -> Result<Control, Failure> {
    let deadline = Instant::now() + RIG_START_MAX;
    let mut rig: Option<std::process::Child> = None;
    loop {
        if let Ok(mut control) = Control::connect(dir).await
            && control.ask(&Ask::Status).await.is_ok()
        {
            return Ok(control);
        }
        // One that ended at once found the folder still held by a rig that was about to end.
        let lives = rig
            .as_mut()
            .is_some_and(|rig| matches!(rig.try_wait(), Ok(None)));
        if !lives {
            rig = Some(start_rig(dir).map_err(rig_failed)?);
        }
        if Instant::now() > deadline {
            return Err(rig_failed(std::io::Error::other("it does not answer")));
        }
        tokio::time::sleep(RIG_POLL).await;
    }
}

fn start_rig(dir: &Path) -> std::io::Result<std::process::Child> {
    use std::os::unix::process::CommandExt;
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.join("rig/rig.log"))?;
    Command::new(std::env::current_exe()?)
        .args(["emulate", "line", "--dir"])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
}
