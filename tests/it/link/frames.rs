//! How long packets are: as long as the device says that it takes, and short where long ones get lost.

use super::bench::{Bench, quick, spec};
use super::some_chain;
use dps_station::fixtures::device::{Cable, SharedDevice};
use dps_station::fixtures::pty::Pty;
use dps_station::link::smp::frame::Decoder;
use dps_station::link::{
    DeviceLink, Driver, Expected, Frames, Injection, LinkHealth, LinkOptions, Observation,
    ReadBack, of_product, who,
};
use dps_station::provision::bytes::Digest;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

const WAIT: Duration = Duration::from_secs(5);

fn driver() -> Arc<dyn Driver> {
    of_product(Injection::default(), "gateway")
}

/// Finds the device at the bench's port and installs a chain there; what the two cost.
async fn install(bench: &Bench, options: &LinkOptions, frames: &Frames) -> [LinkHealth; 2] {
    let driver = driver();
    let mut link = DeviceLink::open(&bench.port(), options, frames)
        .await
        .unwrap();
    who(&mut link, &[driver.as_ref()], WAIT).await.unwrap();
    let found = link.health();
    let mut device = driver.device(&mut link);
    device.tune().await.unwrap();
    let tuned = device.health();
    let chain = some_chain();
    device.install(&chain).await.unwrap();
    let done = device.health();
    assert_eq!(bench.device.lock().unwrap().chain(), chain.concat());
    [tuned.since(found), done.since(tuned)]
}

#[tokio::test]
async fn a_firmware_is_asked_once_and_gets_packets_as_long_as_it_takes() {
    let bench = Bench::new();
    let _plug = bench.plug_in(Cable::uart(&bench.port())).await;
    let frames = Frames::default();
    let [asked, long] = install(&bench, &quick(), &frames).await;
    let [again, as_long] = install(&bench, &quick(), &frames).await;
    assert_eq!((asked.round_trips, again.round_trips), (1, 0));
    assert_eq!(long.round_trips, as_long.round_trips);
    assert_eq!((long.retries, as_long.retries), (0, 0));

    let short_only = LinkOptions {
        frame_limit: 182,
        ..quick()
    };
    let [asked, short] = install(&bench, &short_only, &Frames::default()).await;
    assert_eq!(asked.round_trips, 0, "it need not be asked");
    let parts = (long.round_trips, short.round_trips);
    assert!(parts.0 < parts.1, "{parts:?}");
}

/// A device whose port has buffers for two lines, and gets all lines of a packet at once.
async fn with_two_line_buffers(bench: &Bench, device: SharedDevice) -> JoinHandle<()> {
    let mut pty = Pty::open(&bench.port()).unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        let (mut request, mut whole) = (Vec::new(), Decoder::default());
        while let Ok(count) = pty.read(&mut buffer).await {
            for &byte in &buffer[..count] {
                request.push(byte);
                if whole.push(byte).is_none() {
                    continue;
                }
                let request = std::mem::take(&mut request);
                let lines = request.iter().filter(|byte| **byte == b'\n').count();
                // The newline before the first question is a line of its own.
                let fits = lines <= 2 + usize::from(request.starts_with(b"\n"));
                let reply = fits.then(|| device.lock().unwrap().handle(&request));
                pty.write_all(&reply.unwrap_or_default()).await.unwrap();
            }
        }
    })
}

#[tokio::test]
async fn a_firmware_that_loses_long_packets_costs_two_waits_and_no_more() {
    let bench = Bench::new();
    let far_end = with_two_line_buffers(&bench, bench.device.clone()).await;
    let frames = Frames::default();
    let mut retries = Vec::new();
    for _ in 0..4 {
        let [asked, installed] = install(&bench, &quick(), &frames).await;
        assert_eq!(asked.retries, 0);
        retries.push(installed.retries);
    }
    assert_eq!(retries, [1, 1, 0, 0]);
    far_end.abort();
}

#[tokio::test]
async fn what_the_digest_proves_is_not_read_again() {
    let bench = Bench::new();
    let _plug = bench.plug_in(Cable::uart(&bench.port())).await;
    let chain = some_chain();
    let holding = super::wanted(Some(&chain[0]));
    let by_value = Injection {
        read_back: ReadBack::Values,
        ..Injection::default()
    };
    let expected = Expected {
        holds: holding.digest(),
        says: holding.digest(),
        chain: chain.concat(),
    };
    let other_values = Expected {
        says: Digest::of(b"other"),
        ..expected.clone()
    };
    let other_chain = Expected {
        chain: some_chain().concat(),
        ..expected.clone()
    };
    let frames = Frames::default();
    let mut link = DeviceLink::open(&bench.port(), &quick(), &frames)
        .await
        .unwrap();
    let by_digest = driver();
    let mut device = by_digest.device(&mut link);
    device.install(&chain).await.unwrap();
    device.inject(&holding, None).await.unwrap();
    let before = device.health();
    let confirmed = device.read_back(&expected).await.unwrap();
    assert_eq!(device.health().since(before).round_trips, 1);
    let digests = Observation::Digests {
        holds: holding.digest(),
        chain: Digest::of(&chain.concat()),
    };
    assert_eq!(confirmed, digests);
    for unexpected in [&other_values, &other_chain] {
        let Observation::Values(held) = device.read_back(unexpected).await.unwrap() else {
            panic!("believed by a digest that is not the one expected");
        };
        assert_eq!(
            (held.observed.holding, held.chain),
            (holding.clone(), chain.clone())
        );
    }
    drop(device);
    let each = of_product(by_value, &spec().model);
    let read = each.device(&mut link).read_back(&expected).await.unwrap();
    assert!(matches!(read, Observation::Values(_)), "{read:?}");
}
