//! Several DPS instances of one station: what is wrong with one does not disturb another.

use super::{Line, x509};
use dps_station::ledger::OutboxState;
use dps_station::provision::event::Enrollment;

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_cannot_be_used_does_not_keep_another_from_its_records() {
    let line = Line::new().await;
    let living = line.pass_many(3).await;
    // The first in the file is another's by its certificate, which a run sees at once.
    let other = crate::odd_service::OddService::start(String::new()).await;
    let dead = Enrollment {
        dps: "dead".to_owned(),
        ..x509(9)
    };
    line.pass(&dead).await;
    line.configure("proxy = \"none\"");
    let path = line.dir.path().join("station.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let credential = line.cloud.connection_string();
    let entry = format!(
        "[[dps]]\nname = \"dead\"\nid_scope = \"0ne00SIMUL8\"\nglobal_endpoint = \"localhost\"\n\
         service_url = \"{}\"\ncredential = \"{credential}\"\nca_file = \"rig/emulator-ca.pem\"\n\
         proxy = \"none\"\n\n[[dps]]\nname = \"main\"",
        other.url()
    );
    std::fs::write(&path, text.replace("[[dps]]\nname = \"main\"", &entry)).unwrap();

    let ended = line.ended(line.station(&["enroll"])).await;
    assert_eq!(ended.code(), Some(3), "{ended:?}");
    assert!(ended.stdout.contains("main: 3 enrolled"), "{ended:?}");
    assert!(ended.stderr.contains("DPS \"dead\""), "{ended:?}");
    assert!(!ended.stderr.contains("DPS \"main\""), "{ended:?}");
    let mut all: Vec<_> = living.iter().map(|e| (e, OutboxState::Enrolled)).collect();
    all.push((&dead, OutboxState::Pending));
    line.stands(&all).await;
}
