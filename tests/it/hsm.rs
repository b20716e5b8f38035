//! The HSM, as SoftHSM plays it. `pkcs11-spy.so` of OpenSC stands between and counts the calls.
//!
//! SoftHSM and the spy read their configuration from the environment when they are initialized, so each check runs in
//! a process of its own: the test starts this test program again for itself alone.

#![allow(clippy::unwrap_used)]

mod out_of_order;
mod signing;

use crate::plant;
use crate::support::{self, signed_digests, spy};
use dps_station::fixtures::pki::{find_softhsm, make_token};
use dps_station::hsm::{Hsm, HsmError, HsmOptions};
use dps_station::ledger::Reserved;
use dps_station::provision::certificate::{
    CaProfile, Issuer, assemble, check_signature, draft_root, draft_self_test, verify_proof,
};
use dps_station::provision::device::SerialNumber;
use dps_station::provision::event::Reservation;
use dps_station::provision::fault::KeyFlaw;
use pkcs11::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use pkcs11::mechanism::Mechanism;
use pkcs11::object::{Attribute, ObjectClass};
use pkcs11::session::{Session, UserType};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const SO_PIN: &str = "officer-0815";
const PIN: &str = "user-4711";
const DIRECTORY: &str = "STATION_TEST_HSM_DIRECTORY";

/// Runs `check` in a process of its own, in whose SoftHSM the named tokens exist.
fn alone<F: Future<Output = ()>>(test: &str, tokens: &[&str], check: impl FnOnce(PathBuf) -> F) {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(check(directory.into()));
        return;
    }
    let directory = TempDir::new().unwrap();
    std::fs::create_dir(directory.path().join("tokens")).unwrap();
    let mut configuration = PathBuf::new();
    for token in tokens {
        configuration = make_token(directory.path(), token, SO_PIN, PIN).unwrap();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("hsm::{test}"), "--nocapture"])
        .env(DIRECTORY, directory.path())
        .env("SOFTHSM2_CONF", configuration)
        .env("PKCS11_SCRIPT", directory.path().join("script"))
        .env("PKCS11SPY", find_softhsm().unwrap())
        .env("PKCS11SPY_OUTPUT", directory.path().join("spy.log"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    assert!(said.contains("1 passed"), "{said}");
}

fn options(module: PathBuf, token: &str, pin: &str) -> HsmOptions {
    HsmOptions {
        module,
        token: token.to_owned(),
        pin: pin.to_owned().into(),
    }
}

/// Reserves in the test's ledger.
async fn reserved(directory: &Path, reservation: &Reservation) -> Reserved {
    let ledger = plant::ledger(&directory.join("ledger.sqlite"));
    let reserved = ledger.reserve(reservation.clone()).await.unwrap();
    ledger.close().await.unwrap();
    reserved
}

fn self_test(number: u8) -> Reservation {
    draft_self_test("line", SerialNumber::from_random([number; 20]))
}

/// How often the spy saw a function called.
fn calls(directory: &Path, function: &str) -> usize {
    support::calls(&spy_log(directory), function)
}

/// How often the spy saw a signature returned.
fn signatures(directory: &Path) -> usize {
    signed_digests(&spy_log(directory)).len()
}

fn spy_log(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("spy.log")).unwrap()
}

/// A session of the test's own, beside the station's, in the same process.
fn own_session(library: &Pkcs11, token: &str) -> Session {
    let slots = library.get_slots_with_token().unwrap();
    let labelled = |slot: &_| library.get_token_info(*slot).unwrap().label() == token;
    let slot = slots.into_iter().find(labelled).unwrap();
    let session = library.open_rw_session(slot).unwrap();
    let _ = session.login(UserType::User, Some(&PIN.to_owned().into()));
    session
}

#[test]
fn a_key_is_made_once_found_again_and_signs() {
    alone(
        "a_key_is_made_once_found_again_and_signs",
        &["line"],
        async |directory| {
            let hsm = Hsm::open(options(spy(), "line", PIN)).await.unwrap();
            let missing = hsm.public_key("issuing").await.unwrap_err();
            assert!(
                matches!(missing, HsmError::KeyMissing { .. }),
                "{missing:?}"
            );
            let spki = hsm.find_or_make_key("issuing").await.unwrap();
            assert_eq!(hsm.find_or_make_key("issuing").await.unwrap(), spki);
            assert_eq!(hsm.public_key("issuing").await.unwrap(), spki);
            assert_ne!(hsm.find_or_make_key("audit").await.unwrap(), spki);
            assert_eq!(calls(&directory, "C_GenerateKeyPair"), 2);

            let profile = CaProfile {
                common_name: "SIMULATED Root".to_owned(),
                organization: None,
                validity_days: 30,
            };
            let serial = SerialNumber::from_random([77; 20]);
            let draft = draft_root("root", &spki, &profile, serial, 1_800_000_000_000).unwrap();
            let signature = hsm
                .sign("issuing", reserved(&directory, &draft).await)
                .await
                .unwrap();
            let certificate = assemble(&draft.tbs.0, &signature);
            check_signature(&certificate, &draft, &spki).unwrap();
            assert_eq!(Issuer::parse("root", &certificate).unwrap().spki(), spki);

            for number in 0..40 {
                let test = self_test(number);
                let signature = hsm
                    .sign("issuing", reserved(&directory, &test).await)
                    .await
                    .unwrap();
                verify_proof(&spki, &test.tbs.0, &signature).unwrap();
            }
            assert_eq!(
                signatures(&directory),
                41,
                "one signature for each reservation"
            );
            let meter = hsm.meter();
            assert_eq!((meter.signatures, meter.sign_faults), (41, 0));
            assert_eq!((meter.sessions, meter.logins), (3, 3), "two keys were made");
            assert!(meter.longest_signature >= meter.last_signature);
        },
    );
}

#[test]
fn half_a_pair_that_a_kill_left_does_not_stop_the_next_start() {
    alone(
        "half_a_pair_that_a_kill_left_does_not_stop_the_next_start",
        &["line"],
        async |directory| {
            let hsm = Hsm::open(options(spy(), "line", PIN)).await.unwrap();
            hsm.find_or_make_key("issuing").await.unwrap();
            drop(hsm);
            let status = Command::new("pkcs11-tool")
                .arg("--module")
                .arg(find_softhsm().unwrap())
                .args(["--token-label", "line", "--login", "--pin", PIN])
                .args(["--delete-object", "--type", "privkey", "--label", "issuing"])
                .status();
            assert!(status.unwrap().success());

            let hsm = Hsm::open(options(spy(), "line", PIN)).await.unwrap();
            let spki = hsm.find_or_make_key("issuing").await.unwrap();
            assert_eq!(hsm.public_key("issuing").await.unwrap(), spki);
            assert_eq!(calls(&directory, "C_GenerateKeyPair"), 2);
        },
    );
}

#[test]
fn a_wrong_pin_is_tried_once_and_never_again() {
    alone(
        "a_wrong_pin_is_tried_once_and_never_again",
        &["line"],
        async |directory| {
            let wrong = "user-0000";
            let error = Hsm::open(options(spy(), "line", wrong)).await.unwrap_err();
            assert!(matches!(error, HsmError::Pin { .. }), "{error:?}");
            let said = format!("{error:?} {:?}", options(spy(), "line", wrong));
            assert!(said.contains("line") && !said.contains(wrong), "{said}");
            // Nor by another CA with a key in this token.
            let again = Hsm::open(options(spy(), "line", wrong)).await.unwrap_err();
            assert!(matches!(again, HsmError::Pin { .. }), "{again:?}");
            assert_eq!(calls(&directory, "C_Login"), 1);
            // The right PIN opens it: what is refused is the PIN, not the token.
            Hsm::open(options(spy(), "line", PIN)).await.unwrap();
        },
    );
}

#[test]
fn a_pin_changed_under_a_running_station_is_tried_once_and_never_again() {
    let name = "a_pin_changed_under_a_running_station_is_tried_once_and_never_again";
    alone(name, &["line"], async |directory| {
        let hsm = Hsm::open(options(spy(), "line", PIN)).await.unwrap();
        hsm.find_or_make_key("issuing").await.unwrap();
        let library = Pkcs11::new(spy()).unwrap();
        let session = own_session(&library, "line");
        session
            .set_pin(&PIN.to_owned().into(), &"changed-99".to_owned().into())
            .unwrap();
        session.logout().unwrap();
        let before = calls(&directory, "C_Login");
        for number in 0..5 {
            let error = hsm
                .sign("issuing", reserved(&directory, &self_test(number)).await)
                .await;
            assert!(matches!(error, Err(HsmError::Pin { .. })), "{error:?}");
        }
        assert_eq!(calls(&directory, "C_Login"), before + 1);
        assert_eq!(signatures(&directory), 0);
    });
}

#[test]
fn a_lost_session_is_opened_again_and_the_key_found_again() {
    alone(
        "a_lost_session_is_opened_again_and_the_key_found_again",
        &["line"],
        async |directory| {
            let hsm = Hsm::open(options(spy(), "line", PIN)).await.unwrap();
            let spki = hsm.find_or_make_key("issuing").await.unwrap();
            let library = Pkcs11::new(spy()).unwrap();
            let prove = async |number| {
                let test = self_test(number);
                let signature = hsm
                    .sign("issuing", reserved(&directory, &test).await)
                    .await
                    .unwrap();
                verify_proof(&spki, &test.tbs.0, &signature).unwrap();
            };
            prove(1).await;
            // Somebody logs the token out: SoftHSM's object handles are stale from here on.
            own_session(&library, "line").logout().unwrap();
            prove(2).await;
            assert_eq!(hsm.meter().sessions, 3, "the key's making had its own");
            // The module is finalized and initialized by somebody else: no handle is valid.
            library.clone().finalize().unwrap();
            library
                .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
                .unwrap();
            prove(3).await;
            // The module is left finalized: only initializing it anew helps.
            library.finalize().unwrap();
            prove(4).await;
            assert_eq!(signatures(&directory), 4, "nothing was signed twice");
            assert_eq!(hsm.meter().sign_faults, 0);
        },
    );
}

#[test]
fn a_signature_that_fails_is_not_asked_for_again() {
    let name = "a_signature_that_fails_is_not_asked_for_again";
    alone(name, &["line"], async |directory| {
        let hsm = Hsm::open(options(spy(), "line", PIN)).await.unwrap();
        let spki = hsm.find_or_make_key("issuing").await.unwrap();
        let library = Pkcs11::new(spy()).unwrap();
        make_pair(&own_session(&library, "line"), "mute", false, false);
        let error = hsm
            .sign("mute", reserved(&directory, &self_test(1)).await)
            .await
            .unwrap_err();
        assert!(matches!(error, HsmError::Sign { .. }), "{error:?}");
        assert_eq!(calls(&directory, "C_SignInit"), 1);
        let test = self_test(2);
        let signature = hsm
            .sign("issuing", reserved(&directory, &test).await)
            .await
            .unwrap();
        verify_proof(&spki, &test.tbs.0, &signature).unwrap();
        let meter = hsm.meter();
        assert_eq!((meter.signatures, meter.sign_faults), (1, 1));
    });
}

#[test]
fn tokens_of_one_module_do_not_disturb_one_another() {
    let name = "tokens_of_one_module_do_not_disturb_one_another";
    alone(name, &["root", "line"], async |directory| {
        let softhsm = find_softhsm().unwrap();
        let root = Hsm::open(options(softhsm.clone(), "root", PIN))
            .await
            .unwrap();
        let line = Hsm::open(options(softhsm.clone(), "line", PIN))
            .await
            .unwrap();
        let root_key = root.find_or_make_key("key").await.unwrap();
        let line_key = line.find_or_make_key("key").await.unwrap();
        assert_ne!(root_key, line_key);
        let again = line.clone();
        drop(line);
        drop(root);
        let test = self_test(1);
        let signature = again
            .sign("key", reserved(&directory, &test).await)
            .await
            .unwrap();
        verify_proof(&line_key, &test.tbs.0, &signature).unwrap();
        drop(again); // the last one finalizes the module, and the next one initializes it
        let root = Hsm::open(options(softhsm, "root", PIN)).await.unwrap();
        assert_eq!(root.public_key("key").await.unwrap(), root_key);
    });
}

#[test]
fn what_is_missing_or_ambiguous_is_named() {
    alone(
        "what_is_missing_or_ambiguous_is_named",
        &["line", "line-2"],
        async |directory| {
            let softhsm = find_softhsm().unwrap();
            let no_module = PathBuf::from("/usr/lib/no-such-module.so");
            let error = Hsm::open(options(no_module, "line", PIN))
                .await
                .unwrap_err();
            assert!(
                matches!(&error, HsmError::Module { module, .. } if module.contains("no-such-module"))
            );
            let no_pkcs11 = directory.join("softhsm2.conf");
            let error = Hsm::open(options(no_pkcs11, "line", PIN))
                .await
                .unwrap_err();
            assert!(matches!(error, HsmError::Module { .. }), "{error:?}");
            let error = Hsm::open(options(softhsm.clone(), "other", PIN))
                .await
                .unwrap_err();
            let HsmError::TokenMissing { present, .. } = &error else {
                panic!("{error:?}");
            };
            assert_eq!(present.len(), 2);

            let hsm = Hsm::open(options(softhsm.clone(), "line", PIN))
                .await
                .unwrap();
            hsm.find_or_make_key("issuing").await.unwrap();
            let library = Pkcs11::new(&softhsm).unwrap();
            let session = own_session(&library, "line");
            make_pair(&session, "issuing", false, true);
            let error = hsm
                .sign("issuing", reserved(&directory, &self_test(1)).await)
                .await
                .unwrap_err();
            assert!(
                matches!(error, HsmError::KeyAmbiguous { count: 2, .. }),
                "{error:?}"
            );
            make_always_asking(&session, "asking");
            let error = hsm.find_or_make_key("asking").await.unwrap_err();
            assert!(
                matches!(
                    &error,
                    HsmError::KeyUnfit {
                        flaw: KeyFlaw::AlwaysAuthenticate,
                        ..
                    }
                ),
                "{error:?}"
            );
            make_pair(&session, "portable", true, true);
            let error = hsm.public_key("portable").await.unwrap_err();
            assert!(
                matches!(
                    &error,
                    HsmError::KeyUnfit {
                        flaw: KeyFlaw::Extractable,
                        ..
                    }
                ),
                "{error:?}"
            );
            drop(session);
            drop(hsm);

            // A second token with the label, made elsewhere and moved here.
            let elsewhere = directory.join("elsewhere");
            make_token(&elsewhere, "line", SO_PIN, PIN).unwrap();
            let tokens = directory.join("tokens");
            std::fs::rename(elsewhere.join("tokens/line"), tokens.join("twin")).unwrap();
            let error = Hsm::open(options(softhsm, "line", PIN)).await.unwrap_err();
            assert!(
                matches!(error, HsmError::TokenAmbiguous { count: 2, .. }),
                "{error:?}"
            );
        },
    );
}

const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

fn make_pair(session: &Session, label: &str, extractable: bool, sign: bool) {
    make_pair_with(session, label, extractable, sign, false);
}

/// A pair whose private half wants the PIN for each signature.
fn make_always_asking(session: &Session, label: &str) {
    make_pair_with(session, label, false, true, true);
}

fn make_pair_with(session: &Session, label: &str, extractable: bool, sign: bool, asks: bool) {
    let label = Attribute::Label(label.as_bytes().to_vec());
    let public = [
        Attribute::Token(true),
        label.clone(),
        Attribute::EcParams(P256.to_vec()),
    ];
    let mut private = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(extractable),
        Attribute::Sign(sign),
        label,
    ];
    private.extend(asks.then_some(Attribute::AlwaysAuthenticate(true)));
    session
        .generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)
        .unwrap();
}

#[test]
fn a_public_key_that_somebody_else_left_is_not_destroyed() {
    let name = "a_public_key_that_somebody_else_left_is_not_destroyed";
    alone(name, &["line"], async |directory| {
        let hsm = Hsm::open(options(spy(), "line", PIN)).await.unwrap();
        let library = Pkcs11::new(spy()).unwrap();
        let session = own_session(&library, "line");
        make_pair(&session, "issuing", false, true);
        let labelled = |class| {
            session
                .find_objects(&[
                    Attribute::Class(class),
                    Attribute::Label(b"issuing".to_vec()),
                ])
                .unwrap()
        };
        // Its owner knows the private half by another name.
        let renamed = [Attribute::Label(b"customer".to_vec())];
        let private = labelled(ObjectClass::PRIVATE_KEY)[0];
        session.update_attributes(private, &renamed).unwrap();

        let error = hsm.find_or_make_key("issuing").await.unwrap_err();
        assert!(
            matches!(
                &error,
                HsmError::KeyUnfit {
                    flaw: KeyFlaw::NoPrivateHalf,
                    ..
                }
            ),
            "{error:?}"
        );
        assert_eq!(labelled(ObjectClass::PUBLIC_KEY).len(), 1);
        assert_eq!(calls(&directory, "C_GenerateKeyPair"), 1, "the test's own");
    });
}

/// The spy before SoftHSM, with an oddity of another maker's module.
fn odd_module(directory: &Path, oddity: &str) -> PathBuf {
    build_module(directory, "tests/it/odd_module.c", oddity)
}

/// A module of this C source, which stands before the spy and is told its oddity.
fn build_module(directory: &Path, source: &str, oddity: &str) -> PathBuf {
    let module = directory.join(format!("{oddity}.so"));
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&module)
        .arg(format!("-DODD=\"{oddity}\""))
        .arg(format!("-DREAL={:?}", spy()))
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(source))
        .arg("-ldl")
        .status()
        .expect("cc (build-essential) is not installed: run scripts/setup");
    assert!(status.success());
    module
}

#[test]
fn modules_of_other_makers_make_keys_and_sign() {
    let name = "modules_of_other_makers_make_keys_and_sign";
    alone(name, &["line"], async |directory| {
        for (number, oddity) in (1..).zip(["clock", "tpm", "read-only"]) {
            let module = odd_module(&directory, oddity);
            let hsm = Hsm::open(options(module, "line", PIN)).await.unwrap();
            // A token that is only to be used has the key that the ones before it made.
            let spki = hsm.find_or_make_key("issuing").await.unwrap();
            let test = self_test(number);
            let signature = hsm
                .sign("issuing", reserved(&directory, &test).await)
                .await
                .unwrap();
            verify_proof(&spki, &test.tbs.0, &signature).unwrap();
            if oddity == "read-only" {
                let error = hsm.find_or_make_key("other").await.unwrap_err();
                assert!(matches!(error, HsmError::KeyUnmade { .. }), "{error:?}");
            } else {
                hsm.find_or_make_key(oddity).await.unwrap();
            }
        }
    });
}

#[test]
fn a_pin_refused_in_the_maker_s_own_words_is_tried_once_and_never_again() {
    let name = "a_pin_refused_in_the_maker_s_own_words_is_tried_once_and_never_again";
    alone(name, &["line"], async |directory| {
        let module = odd_module(&directory, "own-words");
        let error = Hsm::open(options(module, "line", "user-0000")).await;
        assert!(matches!(error, Err(HsmError::Pin { .. })), "{error:?}");
        assert_eq!(calls(&directory, "C_Login"), 1);
    });
}

#[test]
fn a_token_left_half_made_is_made_anew_and_a_finished_one_kept() {
    let directory = TempDir::new().unwrap();
    // What a kill leaves behind: a staging directory with a token that has no user PIN yet.
    let staging = directory.path().join("making-line");
    std::fs::create_dir_all(staging.join("half-a-token")).unwrap();
    std::fs::write(staging.join("half-a-token/token.object"), b"half").unwrap();
    make_token(directory.path(), "line", SO_PIN, PIN).unwrap();
    let object = directory.path().join("tokens/line/token.object");
    let before = std::fs::read(&object).unwrap();
    make_token(directory.path(), "line", SO_PIN, PIN).unwrap();
    assert_eq!(std::fs::read(&object).unwrap(), before);
    // What a kill leaves behind while SoftHSM logs in.
    std::fs::write(&object, b"").unwrap();
    make_token(directory.path(), "line", SO_PIN, PIN).unwrap();
    assert_eq!(std::fs::read(&object).unwrap(), before);
    let left: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(make_token(directory.path(), "../up", SO_PIN, PIN).is_err());
}
