//! What opens the service: tokens that a program prints, rights that are missing, and clocks that differ.

use super::Line;
use crate::odd_service::{OddService, answer};
use crate::support::Ended;
use dps_station::fixtures::dps::{Policy, Right};
use dps_station::ledger::OutboxState;
use serde_json::{Value, json};
use std::path::PathBuf;

impl Line {
    /// Lets the emulator take these tokens alone, each for enrollments; shared access signatures where `local`.
    fn takes(&self, local: bool, tokens: &[&str]) {
        let rights = ["EnrollmentRead", "EnrollmentWrite"];
        let tokens: serde_json::Map<_, _> = tokens
            .iter()
            .map(|token| ((*token).to_owned(), json!(rights)))
            .collect();
        let settings = json!({"disableLocalAuth": !local, "tokens": tokens});
        std::fs::write(self.dir.path().join("dps/entra.json"), settings.to_string()).unwrap();
    }

    /// A `token_command` that prints the token in `next`, and adds a line to `runs` each time.
    fn configure_command(&self, next: &str) {
        let dir = self.dir.path().display();
        std::fs::write(self.dir.path().join("next"), next).unwrap();
        let script = format!(
            "echo x >> {dir}/runs; printf '{{\"accessToken\":\"%s\",\"expires_on\":9999999999}}' $(cat {dir}/next)"
        );
        let command = json!(["sh", "-c", script]);
        self.configure_with(&format!("token_command = {command}\nproxy = \"none\""));
    }

    fn runs(&self) -> usize {
        let runs: PathBuf = self.dir.path().join("runs");
        let text = std::fs::read_to_string(&runs).unwrap_or_default();
        let _ = std::fs::remove_file(runs);
        text.lines().count()
    }

    async fn enrolled_by_program(&self) -> Ended {
        self.ended(self.station(&["enroll"])).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_a_program_prints_opens_the_service_and_is_got_once() {
    let line = Line::new().await;
    let enrollments = line.pass_many(25).await;
    line.takes(false, &["s3cret"]);
    line.configure_command("s3cret");
    let ended = line.enrolled_by_program().await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert!(ended.stdout.contains("25 enrolled"), "{ended:?}");
    assert_eq!(line.runs(), 1);
    line.all_stand(&enrollments, OutboxState::Enrolled).await;
    let shown = format!("{ended:?}");
    assert!(!shown.contains("s3cret"), "{shown}");
    let file = std::fs::read(line.dir.path().join("ledger.sqlite")).unwrap();
    let secret = b"s3cret";
    assert!(!file.windows(secret.len()).any(|bytes| bytes == secret));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_got_anew_once_and_charged_again_before_it_counts() {
    let line = Line::new().await;
    let enrollments = line.pass_many(1).await;
    // The token is taken until the program has run; from then on only the next is.
    line.takes(false, &["second"]);
    line.configure_command("first");
    let dir = line.dir.path().display().to_string();
    let script = format!(
        "printf '{{\"accessToken\":\"%s\",\"expires_on\":9999999999}}' $(cat {dir}/next); echo x >> {dir}/runs; echo second > {dir}/next"
    );
    let command = json!(["sh", "-c", script]);
    line.configure_with(&format!("token_command = {command}\nproxy = \"none\""));
    let ended = line.enrolled_by_program().await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert_eq!(line.runs(), 2);
    line.all_stand(&enrollments, OutboxState::Enrolled).await;
    let operations: u32 = line.charges().await.iter().map(|charge| charge.1).sum();
    assert_eq!(
        operations, 3,
        "sent with the first, sent with the second, read back"
    );

    // Nobody takes what it prints: asked once more, and then a person must look.
    line.pass(&super::x509(7)).await;
    line.takes(false, &[]);
    let ended = line.enrolled_by_program().await;
    assert_eq!(ended.code(), Some(3), "{ended:?}");
    assert!(ended.stderr.contains("refuses the credential"), "{ended:?}");
    assert!(!ended.stderr.contains("local authentication"), "{ended:?}");
    assert_eq!(line.runs(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_can_give_no_token_is_named_with_its_words() {
    let line = Line::new().await;
    let enrollments = line.pass_many(1).await;
    for (command, parts) in [
        (
            json!(["/no/such/program"]),
            ["/no/such/program", "cannot be run"],
        ),
        (json!(["echo", "hello"]), ["echo", "did not print what"]),
    ] {
        line.configure_with(&format!("token_command = {command}\nproxy = \"none\""));
        let ended = line.enrolled_by_program().await;
        assert_eq!(ended.code(), Some(3), "{ended:?}");
        for part in ["token_command", "correct it in station.toml"]
            .iter()
            .chain(&parts)
        {
            assert!(ended.stderr.contains(part), "{part}: {ended:?}");
        }
    }
    line.all_stand(&enrollments, OutboxState::Pending).await;
    // As a fault: "no_token".
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_fails_at_first_is_waited_for_with_its_words() {
    let line = Line::new().await;
    let enrollments = line.pass_many(1).await;
    line.takes(false, &["s3cret"]);
    let runs = line.dir.path().join("runs");
    let failing = |times: u32| {
        let script = format!(
            "echo x >> {0}; if [ $(wc -l < {0}) -le {times} ]; then echo 'Please run \u{1b}az login' >&2; exit 1; fi; \
             printf '{{\"accessToken\":\"s3cret\",\"expires_on\":9999999999}}'",
            runs.display()
        );
        let command = json!(["sh", "-c", script]);
        line.configure_with(&format!("token_command = {command}\nproxy = \"none\""));
    };
    failing(1_000);
    // Who only checks wants to know.
    let checked = line.ended(line.station(&["check"])).await;
    assert_eq!(checked.code(), Some(3), "{checked:?}");
    let said = "failed (exit status: 1: Please run ?az login)";
    let shown = format!("{}{}", checked.stdout, checked.stderr);
    assert!(
        shown.contains(said) && shown.contains("by hand"),
        "{checked:?}"
    );
    assert!(line.runs() > 1);

    failing(3);
    let ended = line.enrolled_by_program().await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert!(ended.stderr.contains(said), "{ended:?}");
    assert_eq!(line.runs(), 4);
    line.all_stand(&enrollments, OutboxState::Enrolled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_is_refused_asks_for_local_authentication() {
    let line = Line::new().await;
    line.pass_many(1).await;
    line.takes(false, &[]);
    line.configure("proxy = \"none\"");
    let ended = line.enrolled_by_program().await;
    assert_eq!(ended.code(), Some(3), "{ended:?}");
    let asks = "local authentication is switched off";
    assert!(
        ended.stderr.contains(asks) && ended.stderr.contains("token_command"),
        "{ended:?}"
    );
}

#[test]
fn one_way_in_is_needed_and_no_more() {
    for (keys, said) in [
        (
            "credential = \"env:A\"\ntoken_command = [\"az\"]",
            "give one of them",
        ),
        ("", "no credential or token_command"),
        ("token_command = []", "the program, then its arguments"),
        ("token_command = \"az account\"", "token_command"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "[station]\nid = \"S1\"\nledger = \"l\"\n[[dps]]\nname = \"main\"\nid_scope = \"0ne0\"\n\
             global_endpoint = \"h\"\nservice_url = \"https://h\"\n{keys}\n"
        );
        let path = folder.path().join("station.toml");
        std::fs::write(&path, text).unwrap();
        let error = dps_station::config::Config::read(&path)
            .unwrap_err()
            .to_string();
        assert!(error.contains(said), "{keys}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_finds_the_rights_that_are_missing_and_changes_nothing() {
    use Right::{EnrollmentRead, EnrollmentWrite, RegistrationStatusRead};
    let missing = async |rights: &[Right]| {
        let policies = vec![Policy::generate("station", rights)];
        let line = Line::with_policies(policies).await;
        line.configure("proxy = \"none\"");
        let ended = line.ended(line.station(&["check", "--json"])).await;
        let mut objects = ended.objects().into_iter();
        let object = objects
            .find(|object| object["check"] == "dps main")
            .unwrap();
        assert_eq!(line.writes(), []);
        let operations: u32 = line.charges().await.iter().map(|charge| charge.1).sum();
        (object, operations)
    };
    let (object, operations) =
        missing(&[EnrollmentRead, EnrollmentWrite, RegistrationStatusRead]).await;
    assert_eq!(
        (&object["ok"], &object["missing_rights"]),
        (&true.into(), &json!([])),
        "{object}"
    );
    assert_eq!(operations, 3);
    let (object, _) = missing(&[EnrollmentRead, EnrollmentWrite]).await;
    assert_eq!(object["ok"], true, "{object}");
    assert_eq!(object["missing_rights"], json!(["RegistrationStatusRead"]));
    let (object, _) = missing(&[EnrollmentRead]).await;
    assert_eq!(object["ok"], false, "{object}");
    assert_eq!(
        object["missing_rights"],
        json!(["EnrollmentWrite", "RegistrationStatusRead"])
    );
    assert!(
        object["said"].as_str().unwrap().contains("EnrollmentWrite"),
        "{object}"
    );
    let (object, operations) = missing(&[EnrollmentWrite]).await;
    assert_eq!(
        (&object["ok"], &object["missing_rights"]),
        (&false.into(), &Value::Null),
        "{object}"
    );
    assert_eq!(operations, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_differs_is_said_once_a_run() {
    let line = Line::new().await;
    line.pass_many(3).await;
    let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let odd = OddService::start(answer("404 Not Found", date, "")).await;
    line.configure("proxy = \"none\"");
    let path = line.dir.path().join("station.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let port = format!("https://localhost:{}", line.cloud.port());
    std::fs::copy(odd.ca_file(), line.dir.path().join("odd.pem")).unwrap();
    let text = text
        .replace(&port, &odd.url())
        .replace("rig/emulator-ca.pem", "odd.pem");
    std::fs::write(&path, text).unwrap();
    let ended = line.enrolled_by_program().await;
    assert_eq!(ended.code(), Some(3), "{ended:?}");
    assert_eq!(
        ended.stdout.matches("the station's clock is").count(),
        1,
        "{ended:?}"
    );
    assert!(
        ended
            .stdout
            .contains("s ahead of the clock of DPS \"main\""),
        "{ended:?}"
    );
}
