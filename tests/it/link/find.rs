//! Who is there, where the products of a line want several drivers: each is found by its own, at no cost for the others.

use super::bench::{Bench, quick, spec};
use super::stock::{keys, stock};
use dps_station::fixtures::device::Cable;
use dps_station::fixtures::device::stock::System;
use dps_station::link::{
    DeviceLink, Driver, Found, Frames, Injection, LinkError, ValueType, of_product, who,
};
use dps_station::provision::dialogue::{Item, Verb};
use std::sync::Arc;
use std::time::Duration;

const WAIT: Duration = Duration::from_millis(500);

/// Drivers for the provisioning group, and for stock firmware with another key and with the right one.
fn drivers() -> [Arc<dyn Driver>; 3] {
    let right = keys(ValueType::Bytes);
    let other = Injection {
        id_key: Some("other/serial".to_owned()),
        ..right.clone()
    };
    [
        of_product(Injection::default(), "gateway"),
        of_product(other, "other"),
        of_product(right, "sensor"),
    ]
}

/// What is found on the bench by these of the drivers, and with how many answers.
async fn found(bench: &Bench, order: &[usize]) -> (Result<Found, LinkError>, u64) {
    let drivers = drivers();
    let asked: Vec<&dyn Driver> = order.iter().map(|&n| drivers[n].as_ref()).collect();
    let mut link = DeviceLink::open(&bench.port(), &quick(), &Frames::default())
        .await
        .unwrap();
    let found = who(&mut link, &asked, WAIT).await;
    (found, link.health().round_trips)
}

#[tokio::test]
async fn firmware_with_the_group_is_known_by_its_first_answer_whoever_asks() {
    let bench = Bench::new();
    let _plug = bench.plug_in(Cable::uart(&bench.port())).await;
    let kind = drivers()[0].kind();
    for order in [&[0][..], &[0, 1], &[1, 2, 0], &[2], &[]] {
        let (found, answers) = found(&bench, order).await;
        let found = found.unwrap();
        assert_eq!((found.kind, answers), (kind, 1), "{order:?}");
        assert_eq!(found.identification.device_id, spec().device_id);
        assert!(!found.identification.stock);
    }
}

#[tokio::test]
async fn stock_firmware_is_known_by_the_key_that_it_has_its_id_under() {
    let bench = Bench::with(stock(System::Zephyr));
    let _plug = bench.plug_in(Cable::uart(&bench.port())).await;
    let kind = drivers()[2].kind();
    // One answer says that it is stock, and each key takes one.
    for (order, wanted) in [(&[2][..], 2), (&[0, 2], 2), (&[2, 0], 2), (&[0, 1, 2], 3)] {
        let (found, answers) = found(&bench, order).await;
        let found = found.unwrap();
        assert_eq!((found.kind, answers), (kind, wanted), "{order:?}");
        assert_eq!(found.identification.device_id, spec().device_id);
        assert_eq!(found.identification.model, "sensor");
    }
}

#[tokio::test]
async fn what_no_driver_knows_is_said_as_the_last_one_heard_it() {
    let bench = Bench::with(stock(System::Zephyr));
    let _plug = bench.plug_in(Cable::uart(&bench.port())).await;
    let (strange, answers) = found(&bench, &[0, 1]).await;
    let strange = strange.unwrap_err();
    let what = Verb::Show(Item::DeviceId);
    assert!(
        matches!(&strange, LinkError::Malformed { what: asked, .. } if *asked == what),
        "{strange:?}"
    );
    assert_eq!(answers, 2);
}
