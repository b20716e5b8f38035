//! What the dialogue costs on the wire: on a 115,200 baud line that is where cycle time goes.

#[path = "../../bench/line/necessary.rs"]
mod necessary;

use super::line::{new_device, options};
use dps_station::fixtures::device::{Cable, run_device};
use dps_station::link::session::Session;
use dps_station::link::{Injection, LinkError, LinkHealth};
use dps_station::provision::bytes::Digest;
use dps_station::provision::device::Holding;
use necessary::Said;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// Questions and answers after arrival, to the seal, for a chain of two certificates.
const ROUND_TRIPS: u64 = 23;

#[tokio::test]
async fn a_device_costs_little_more_than_the_necessary_bytes() {
    let dir = TempDir::new().unwrap();
    let port = dir.path().join("bay");
    let device = Arc::new(Mutex::new(new_device(dir.path(), "sim-1-000")));
    let far_end = tokio::spawn(run_device(device, Cable::uart(&port)));
    let chain = [vec![0x30, 0x82, 1, 0x9a], vec![0x30, 0x82, 1, 0xc2]].map(|mut der| {
        let length = 4 + usize::from(der[2]) * 256 + usize::from(der[3]);
        der.resize(length, 0x5a); // as long as the leaf and the issuing CA of a factory
        der
    });
    let mut link = loop {
        match Session::open(&port, &options()).await {
            Ok(link) => break link,
            Err(LinkError::PortMissing { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error:?}"),
        }
    };
    let keys = Injection::default();
    let holding = Holding {
        id_scope: "0ne00112233".to_owned(),
        global_endpoint: "global.azure-devices-provisioning.net".to_owned(),
        registration_id: "sim-1-000".to_owned(),
        certificate_sha256: Some(Digest::of(&chain[0])),
    };
    let found = link.identify().await.unwrap();
    let before_job = link.health();
    let request = link.make_key("sim-1-000").await.unwrap();
    link.install(&chain).await.unwrap();
    link.inject(&holding, &keys).await.unwrap();
    let before = link.identify().await.unwrap();
    link.restart_from(&before).await.unwrap();
    assert_eq!(
        link.read_back(&keys).await.unwrap().observed.holding,
        holding
    );
    link.sign([7; 32]).await.unwrap();
    link.seal(holding.digest()).await.unwrap();

    let LinkHealth {
        round_trips,
        retries,
        bytes_out,
        bytes_in,
        ..
    } = link.health().since(before_job);
    assert_eq!(retries, 0);
    let necessary = necessary::bytes(&Said {
        device_id: found.device_id.to_string(),
        model: found.model,
        firmware: found.firmware,
        uid: found.uid.0,
        request,
        chain: chain.concat(),
        id_scope: holding.id_scope,
        endpoint: holding.global_endpoint,
    });
    let spent = bytes_out + bytes_in;
    println!("{round_trips} round trips, {spent} bytes, of which {necessary} are necessary");
    assert!(spent * 100 <= necessary * 125, "{spent} of {necessary}");
    assert!(round_trips <= ROUND_TRIPS, "{round_trips}");
    far_end.abort();
}
