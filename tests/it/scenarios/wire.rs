//! What the dialogue costs on the wire: on a 115,200 baud line that is where cycle time goes.

#[path = "../../bench/line/necessary.rs"]
mod necessary;

use super::line::{new_device, options};
use dps_station::fixtures::device::{Cable, run_device};
use dps_station::fixtures::serial::{Line, RATE, Times};
use dps_station::link::{
    DeviceLink, Expected, Frames, Injection, LinkError, LinkHealth, Observation, of_product, who,
};
use dps_station::provision::bytes::Digest;
use dps_station::provision::device::Holding;
use necessary::Said;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The device's name.
const NAME: &str = "sim-1-000";
/// Questions and answers from the first to the seal, for a chain of two certificates and firmware that was not met
/// before.
const ROUND_TRIPS: u64 = 17;
/// Bytes of these, both ways.
const BYTES: u64 = 5_250;
/// What the device's packet buffer takes, in bytes, length and checksum included.
const BUFFER: usize = 384;

#[tokio::test]
async fn a_device_costs_little_more_than_the_necessary_bytes() {
    let dir = TempDir::new().unwrap();
    let port = dir.path().join("bay");
    let device = Arc::new(Mutex::new(new_device(dir.path(), NAME)));
    let far_end = tokio::spawn(run_device(device, Cable::uart(&port)));
    let (said, spent, _) = dialogue(&port).await;
    assert_eq!(spent.retries, 0);
    let necessary = necessary::bytes(&said, BUFFER);
    let bytes = spent.bytes_out + spent.bytes_in;
    let round_trips = spent.round_trips;
    println!("{round_trips} round trips, {bytes} bytes, of which {necessary} are necessary");
    assert!(bytes * 100 <= necessary * 115, "{bytes} of {necessary}");
    assert!(bytes <= BYTES, "{bytes}");
    assert!(round_trips <= ROUND_TRIPS, "{round_trips}");
    far_end.abort();
}

#[tokio::test]
async fn an_adapter_that_holds_back_and_a_late_reset_cost_time_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let port = dir.path().join("bay");
    let times = Times {
        adapter: Duration::from_millis(16),
        before_reset: Duration::from_millis(250),
        ..Times::at(Some(RATE))
    };
    let line = Line::lay(&port, false, times.clone()).unwrap();
    let device = Arc::new(Mutex::new(new_device(dir.path(), NAME)));
    let plugged = line.put(Some(Arc::clone(&device))).await.unwrap();
    let (_, spent, restart) = dialogue(&port).await;
    assert_eq!((spent.retries, spent.wrong()), (0, 0), "{spent:?}");
    assert!(device.lock().unwrap().sealed());
    // A line is never faster than its parts.
    assert!(restart >= times.before_reset + times.boot(), "{restart:?}");
    let tally = line.tally();
    let bytes = usize::try_from(tally.bytes).unwrap();
    let least = 2 * times.boot() + times.before_reset + times.of(bytes) + tally.own;
    assert!(plugged.elapsed() >= least, "{tally:?}");
    assert!(tally.round_trips >= spent.round_trips, "{tally:?}");
}

/// The whole of a device's dialogue, as a bay has it; gives what was said, what it took, and how long the restart took.
async fn dialogue(port: &Path) -> (Said, LinkHealth, Duration) {
    let chain = [vec![0x30, 0x82, 1, 0x9a], vec![0x30, 0x82, 1, 0xc2]].map(|mut der| {
        let length = 4 + usize::from(der[2]) * 256 + usize::from(der[3]);
        der.resize(length, 0x5a); // as long as the leaf and the issuing CA of a factory
        der
    });
    let frames = Frames::default();
    let mut link = loop {
        match DeviceLink::open(port, &options(), &frames).await {
            Ok(link) => break link,
            Err(LinkError::PortMissing { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error:?}"),
        }
    };
    let driver = of_product(Injection::default(), "of no matter to the group");
    let holding = Holding {
        id_scope: "0ne00112233".to_owned(),
        global_endpoint: "global.azure-devices-provisioning.net".to_owned(),
        registration_id: NAME.to_owned(),
        certificate_sha256: Some(Digest::of(&chain[0])),
    };
    // It may still start; then the first question is lost.
    let (before_job, found) = loop {
        let before = link.health();
        let wait = Duration::from_millis(500);
        if let Ok(found) = who(&mut link, &[driver.as_ref()], wait).await {
            break (before, found.identification);
        }
    };
    let mut device = driver.device(&mut link);
    device.tune().await.unwrap();
    let request = device.make_key(NAME).await.unwrap();
    device.install(&chain).await.unwrap();
    device.inject(&holding, None).await.unwrap();
    let before = device.identify().await.unwrap();
    let began = Instant::now();
    let after = device.restart(&before).await.unwrap();
    let restart = began.elapsed();
    let expected = Expected {
        holds: holding.digest(),
        says: after.holds,
        chain: chain.concat(),
    };
    let observation = device.read_back(&expected).await.unwrap();
    assert!(matches!(observation, Observation::Digests { .. }));
    device.prove([7; 32]).await.unwrap();
    device.seal(holding.digest()).await.unwrap();
    let spent = device.health().since(before_job);
    let said = Said {
        device_id: found.device_id.to_string(),
        model: found.model,
        firmware: found.firmware,
        uid: found.uid.0,
        request,
        chain: chain.concat(),
        id_scope: holding.id_scope,
        endpoint: holding.global_endpoint,
    };
    (said, spent, restart)
}
