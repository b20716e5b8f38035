//! What someone does in the cloud to a record of ours: told, left as it is, and never taken for another's record.

use super::{Line, enrolled, x509};
use crate::emulator::support::{client, now, token};
use crate::support::{Ended, run};
use dps_station::ledger::OutboxState;
use dps_station::provision::batch::Status;
use dps_station::provision::event::Enrollment;
use reqwest::Method;
use serde_json::{Value, json};
use std::process::Command;

impl Line {
    /// A call of somebody who may do everything.
    pub async fn admin(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        let owner = &self.cloud.policies()[0];
        let token = token(
            &owner.primary_key,
            "localhost",
            now() + 60,
            Some(&owner.name),
        );
        let port = self.cloud.port();
        let url = format!("https://localhost:{port}{path}?api-version=2021-10-01");
        let mut request = client(self.cloud.ca_file()).request(method, url);
        request = request
            .header("authorization", token)
            .header("if-match", "*");
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.unwrap().error_for_status().unwrap();
        answer.json().await.unwrap()
    }

    /// Changes a record in the cloud as an administrator does.
    async fn administer(&self, enrollment: &Enrollment, change: impl FnOnce(&mut Value)) {
        let path = format!("/enrollments/{}", enrollment.registration_id);
        let mut body = self.admin(Method::GET, &path, None).await;
        change(&mut body);
        self.admin(Method::PUT, &path, Some(&body)).await;
    }

    /// A `station.toml` for this line, with `more` in its only `[[dps]]`.
    pub fn configure(&self, more: &str) {
        let credential = self.cloud.connection_string();
        self.configure_with(&format!("credential = \"{credential}\"\n{more}"));
    }

    /// The same without a credential.
    pub fn configure_with(&self, more: &str) {
        let text = format!(
            "[station]\nid = \"S1\"\nsimulated = true\nledger = \"ledger.sqlite\"\n\n\
             [[dps]]\nname = \"main\"\nid_scope = \"0ne00SIMUL8\"\n\
             global_endpoint = \"localhost\"\nservice_url = \"https://localhost:{}\"\n\
             ca_file = \"rig/emulator-ca.pem\"\nshare = 1000\n{more}\n",
            self.cloud.port()
        );
        std::fs::write(self.dir.path().join("station.toml"), text).unwrap();
    }

    /// The real program with this line's `station.toml`, and no proxy of the machine's.
    pub fn station(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
        for name in ["HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command.args(arguments).arg("--config");
        command.arg(self.dir.path().join("station.toml"));
        command
    }

    /// Runs the program beside this line's emulator.
    pub async fn ended(&self, mut command: Command) -> Ended {
        tokio::task::spawn_blocking(move || run(&mut command))
            .await
            .unwrap()
    }
}

/// What an administrator may set in a record, beside what we set.
fn decorate(body: &mut Value) {
    body["initialTwin"]["tags"] = json!({"customer": "north"});
    body["initialTwin"]["properties"]["desired"]["more"] = json!({"x": 1});
    body["reprovisionPolicy"] = json!({"updateHubAssignment": true, "migrateDeviceData": false});
    body["iotHubs"] = json!(["hub-a.azure-devices.net"]);
    body["allocationPolicy"] = json!("static");
    body["capabilities"] = json!({"iotEdge": true});
}

#[tokio::test(flavor = "multi_thread")]
async fn what_someone_set_in_our_record_is_told_once_and_left_as_it_is() {
    let line = Line::new().await;
    let enrollments = line.pass_many(3).await;
    // Sent, and the answer never came; in the meantime someone was at it.
    line.charge(&[&enrollments[1]]).await;
    line.put(&[(&enrollments[1], Status::Enabled)]).await;
    line.administer(&enrollments[1], decorate).await;
    let before = line.held(&enrollments[1]).await;
    line.configure("");

    let ended = line.ended(line.station(&["enroll"])).await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{ended:?}");
    assert!(lines[0].contains("3 enrolled, 0 refused"), "{ended:?}");
    let named = lines[1].strip_prefix("gw-0001: also set in the cloud");
    for part in [
        r#"initialTwin.tags is {"customer":"north"}"#,
        r#"initialTwin.properties.desired is {"more":{"x":1}}"#,
        "reprovisionPolicy is",
        r#"allocationPolicy is "static""#,
        r#"iotHubs is ["hub-a.azure-devices.net"]"#,
        r#"capabilities is {"iotEdge":true}"#,
    ] {
        assert!(
            named.unwrap_or_default().contains(part),
            "{part}: {ended:?}"
        );
    }
    line.all_stand(&enrollments, OutboxState::Enrolled).await;
    assert_eq!(line.held(&enrollments[1]).await, before);

    let ended = line.ended(line.station(&["reconcile", "--json"])).await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    let objects = ended.objects();
    assert_eq!(objects.len(), 2, "{objects:?}");
    assert_eq!(objects[0]["registration_id"], "gw-0001");
    assert_eq!(
        objects[0]["also_set"][0]["field"],
        "initialTwin.properties.desired"
    );
    assert_eq!(objects[1]["differences"], 0);
    assert_eq!(line.held(&enrollments[1]).await, before);
}

#[tokio::test]
async fn what_we_set_and_someone_changed_is_still_a_difference() {
    let line = Line::new().await;
    let enrollments = line.pass_many(1).await;
    line.charge(&[&enrollments[0]]).await;
    line.put(&[(&enrollments[0], Status::Enabled)]).await;
    let change = |body: &mut Value| {
        body["initialTwin"]["properties"]["desired"]["interval"] = json!(7);
        body["initialTwin"]["tags"] = json!({"customer": "north"});
    };
    line.administer(&enrollments[0], change).await;
    let summary = line.drain().await;
    assert_eq!((summary.enrolled, summary.refused), (0, 1));
    let fault = line.row(&enrollments[0]).await.fault.unwrap();
    let what = dps_station::words::of(&fault).what;
    assert!(what.contains("desired") && !what.contains("tags"), "{what}");
}

#[tokio::test]
async fn a_unit_that_fails_is_disabled_and_keeps_all_that_someone_set() {
    let line = Line::new().await;
    let enrollments = line.pass_many(1).await;
    assert_eq!(line.drain().await, enrolled(1));
    line.administer(&enrollments[0], decorate).await;
    let before = line.held(&enrollments[0]).await;
    line.fail(&enrollments[0]).await;
    let summary = line.drain().await;
    assert_eq!((summary.disabled, summary.fault), (1, None));
    let after = line.held(&enrollments[0]).await;
    assert_eq!(after.status, Status::Disabled);
    for field in [
        "initialTwin",
        "reprovisionPolicy",
        "iotHubs",
        "allocationPolicy",
        "capabilities",
        "attestation",
        "createdDateTimeUtc",
    ] {
        assert_eq!(after.raw.get(field), before.raw.get(field), "{field}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_administrator_disabled_stays_disabled_and_is_not_refused() {
    let line = Line::new().await;
    let enrollments = line.pass_many(2).await;
    line.charge(&[&enrollments[0]]).await;
    line.put(&[(&enrollments[0], Status::Enabled)]).await;
    let disable = |body: &mut Value| body["provisioningStatus"] = json!("disabled");
    line.administer(&enrollments[0], disable).await;
    line.configure("");

    let ended = line.ended(line.station(&["enroll", "--dry-run"])).await;
    assert!(
        ended
            .stdout
            .contains("gw-0000: is there already, with the same content; someone disabled it"),
        "{ended:?}"
    );
    let writes = line.writes();
    let summary = line.drain().await;
    assert_eq!(
        (summary.enrolled, summary.disabled, summary.refused),
        (1, 1, 0)
    );
    assert_eq!(line.held(&enrollments[0]).await.status, Status::Disabled);
    let wanted = [
        (&enrollments[0], OutboxState::Disabled),
        (&enrollments[1], OutboxState::Enrolled),
    ];
    line.stands(&wanted).await;
    assert_eq!(line.writes().len(), writes.len() + 1, "the other one only");
    // Another's record that is disabled is another's all the same.
    let foreign = x509(9);
    line.pass(&x509(9)).await;
    line.put(&[(&foreign, Status::Disabled)]).await;
    assert_eq!(line.drain().await.refused, 1);
}
