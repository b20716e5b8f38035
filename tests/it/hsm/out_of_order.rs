//! An HSM that is slow, stands still, or fails for a while: what can wait waits, what is reserved is kept small, and all goes
//! on by itself. A module that a script delays and fails stands before SoftHSM.

use super::{PIN, alone, build_module, calls, options, reserved, self_test};
use dps_station::hsm::{Hsm, HsmError};
use dps_station::provision::fault::PinAdvice;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The longest that the HSM may take to be well again once nothing is wrong with it any more.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The spy before SoftHSM, and before it what the script says.
fn scripted(directory: &Path) -> PathBuf {
    build_module(directory, "fixtures/scripted_module.c", "scripted")
}

/// From now on, calls go as the script says.
fn script(directory: &Path, lines: &str) {
    let fresh = directory.join("script.new");
    std::fs::write(&fresh, lines).unwrap();
    std::fs::rename(fresh, directory.join("script")).unwrap();
}

#[test]
fn sixteen_bays_wait_their_turn_at_a_slow_hsm_and_each_gets_its_signature() {
    let name =
        "out_of_order::sixteen_bays_wait_their_turn_at_a_slow_hsm_and_each_gets_its_signature";
    alone(name, &["line"], async |directory| {
        let hsm = Hsm::open(options(scripted(&directory), "line", PIN))
            .await
            .unwrap();
        hsm.find_or_make_key("issuing").await.unwrap();
        // Together longer than one call may take.
        script(&directory, "C_Sign delay 700\n");
        let mut bays = Vec::new();
        for number in 1..=16 {
            let reserved = reserved(&directory, &self_test(number)).await;
            let hsm = hsm.clone();
            bays.push(async move { hsm.sign("issuing", reserved).await });
        }
        for signed in futures_of(bays).await {
            signed.unwrap();
        }
        assert_eq!(hsm.meter().sign_faults, 0);
    });
}

/// All of them at the same time.
async fn futures_of<T: Send + 'static>(
    tasks: Vec<impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
    let mut ended = Vec::new();
    for task in tasks {
        ended.push(task.await.unwrap());
    }
    ended
}

#[test]
fn after_a_standstill_the_hsm_is_used_again_and_nothing_is_reserved_meanwhile() {
    let name =
        "out_of_order::after_a_standstill_the_hsm_is_used_again_and_nothing_is_reserved_meanwhile";
    alone(name, &["line"], async |directory| {
        let hsm = Hsm::open(options(scripted(&directory), "line", PIN))
            .await
            .unwrap();
        hsm.find_or_make_key("issuing").await.unwrap();
        hsm.ready("issuing").await.unwrap();
        script(&directory, "C_Sign hang\n");
        let lost = reserved(&directory, &self_test(1)).await;
        let error = hsm.sign("issuing", lost).await.unwrap_err();
        assert!(matches!(error, HsmError::Hung { .. }), "{error:?}");
        let asked = Instant::now();
        let error = hsm.ready("issuing").await.unwrap_err();
        assert!(matches!(error, HsmError::Hung { .. }), "{error:?}");
        assert!(
            asked.elapsed() < Duration::from_secs(5),
            "it is known by now"
        );

        script(&directory, "");
        let mended = Instant::now();
        while let Err(error) = hsm.ready("issuing").await {
            assert!(mended.elapsed() < PATIENCE, "{error:?}");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let reserved = reserved(&directory, &self_test(2)).await;
        hsm.sign("issuing", reserved).await.unwrap();
    });
}

#[test]
fn a_login_that_fails_without_a_word_about_the_pin_is_tried_again_later_and_once() {
    let name = "out_of_order::a_login_that_fails_without_a_word_about_the_pin_is_tried_again_later_and_once";
    alone(name, &["line"], async |directory| {
        let hsm = Hsm::open(options(scripted(&directory), "line", PIN))
            .await
            .unwrap();
        hsm.find_or_make_key("issuing").await.unwrap();
        // The token loses its sessions, and its login fails: CKR_GENERAL_ERROR.
        script(&directory, "C_GetSessionInfo fail 0xB3\nC_Login fail 0x5\n");
        let before = hsm.meter().logins;
        for _ in 0..5 {
            let error = hsm.public_key("issuing").await.unwrap_err();
            let waits = matches!(
                &error,
                HsmError::Pin {
                    advice: PinAdvice::Wait,
                    ..
                }
            );
            assert!(waits, "{error:?}");
        }
        assert_eq!(
            hsm.meter().logins - before,
            1,
            "the PIN may have been judged"
        );
        script(&directory, "");
        let mended = Instant::now();
        while let Err(error) = hsm.public_key("issuing").await {
            assert!(mended.elapsed() < PATIENCE, "{error:?}");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        assert!(calls(&directory, "C_Login") >= 2);
    });
}
