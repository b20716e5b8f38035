//! How soon a unit is missed that was taken out, or swapped for another, after it had passed.

use super::figures::{Aims, Spread, millis};
use super::shift::Shift;
use dps_station::fixtures::serial::{RATE, Times};

/// The most until a swapped unit is noticed, in milliseconds, where the port can tell: where it goes with its unit.
const NOTICE_AIM: f64 = 100.0;

/// Swaps units and takes them out, at a port that stays and at one that goes with its unit.
pub async fn measure(rounds: usize, aims: &mut Aims) {
    println!("\nuntil it is noticed, in ms | median (low-high) | aim");
    for (port, hotplug, aim) in [
        ("port stays", false, None),
        ("port goes", true, Some(NOTICE_AIM)),
    ] {
        let times = Times::at(Some(RATE));
        let mut shift = Shift::begin(1, hotplug, &times, None).await;
        let (mut swapped, mut taken) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            shift.round().await;
            shift.at_any_moment().await;
            let another = shift.device();
            swapped.push(shift.change(Some(another)).await);
            shift.passed().await;
            shift.at_any_moment().await;
            taken.push(shift.change(None).await);
        }
        for (what, noticed, aim) in [("swapped", swapped, aim), ("taken out", taken, None)] {
            let noticed = Spread::of(noticed.into_iter().map(millis).collect());
            let what = format!("{what}, {port}");
            let aim = aims.hold(&format!("{what}, ms"), noticed, aim);
            println!(
                "{what:26} | {:4.0} ({:.0}-{:.0}) | {aim}",
                noticed.median, noticed.low, noticed.high
            );
        }
    }
}
