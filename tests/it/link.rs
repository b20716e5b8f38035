//! The link against simulated devices: over pseudo-terminals opened by path, and over wires that lose things.

#![allow(clippy::unwrap_used)]

pub mod bench;
mod find;
mod foreign;
mod frames;
mod killed;
mod stock;

use bench::{Bench, identify_lines, over, quick, say, session, spec, wanted, wire};
use dps_station::fixtures::device::{Cable, Device, Tpm};
use dps_station::fixtures::pty::Pty;
use dps_station::fixtures::scenario::Flaw;
use dps_station::link::session::Session;
use dps_station::link::smp::frame::{self, Decoder};
use dps_station::link::smp::group::{self, Code};
use dps_station::link::smp::{self, Map, Packet, SmpError, Version};
use dps_station::link::{Injection, LinkError, LinkOptions, ValueType};
use dps_station::provision::bytes::Digest;
use dps_station::provision::device::{DeviceId, Holding};
use dps_station::provision::dialogue::{Grounds, Nonsense};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Two certificates as a chain, the first for the device's key; who signed them does not matter to the link.
fn some_chain() -> Vec<Vec<u8>> {
    let certificate = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    };
    vec![certificate("leaf.example"), certificate("issuer.example")]
}

/// The public key in a request that `openssl` finds properly signed and made out to `name`.
fn verified_request(request: &[u8], name: &str) -> Vec<u8> {
    let mut openssl = Command::new("openssl")
        .args(["req", "-inform", "DER", "-verify", "-noout", "-subject"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is there; scripts/setup installs it");
    openssl.stdin.take().unwrap().write_all(request).unwrap();
    let output = openssl.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(said.trim(), format!("subject=CN = {name}"));
    use x509_parser::prelude::FromDer;
    let (_, request) =
        x509_parser::certification_request::X509CertificationRequest::from_der(request).unwrap();
    let info = request.certification_request_info;
    info.subject_pki.subject_public_key.data.to_vec()
}

#[tokio::test]
async fn a_value_that_is_too_long_is_not_said_to_be_missing() {
    let model = "M".repeat(group::MAX_NAME + 1);
    let bench = Bench::with(|device| device.with_flaw(Some(Flaw::Model(model))));
    let _plug = bench.plug_in(Cable::uart(&bench.port())).await;
    let mut link = Session::open(&bench.port(), &quick()).await.unwrap();
    let nonsense = Nonsense::TooLong {
        field: "model".to_owned(),
        found: group::MAX_NAME + 1,
        max: group::MAX_NAME,
    };
    let found = link.identify().await.unwrap_err();
    let right = matches!(&found, LinkError::Malformed { nonsense: said, .. } if *said == nonsense);
    assert!(right, "{found:?}");
}

async fn simulated(cable: impl Fn(&Path) -> Cable) {
    let bench = Bench::new();
    let _plug = bench.plug_in(cable(&bench.port())).await;
    whole_dialogue(&bench.port()).await;
}

/// Everything that a station does to a device with a key of its own: GW-0001, at its first start.
pub async fn whole_dialogue(port: &Path) {
    let keys = Injection::default();
    let mut link = Session::open(port, &quick()).await.unwrap();

    let device = link.identify().await.unwrap();
    assert_eq!(device.device_id, spec().device_id);
    assert_eq!((device.boots, device.sealed, device.tpm), (1, false, false));

    let public_key = verified_request(&link.make_key("GW-0001").await.unwrap(), "GW-0001");
    let again = verified_request(&link.make_key("GW-0001").await.unwrap(), "GW-0001");
    assert_eq!(public_key, again, "a second key was made");

    let chain = some_chain();
    link.install(&chain).await.unwrap();
    link.install(&chain).await.unwrap();
    let holding = wanted(Some(&chain[0]));
    link.inject(&holding, &keys).await.unwrap();
    assert_eq!(link.restart().await.unwrap().boots, 2);

    let held = link.read_back(&keys).await.unwrap();
    assert_eq!(held.observed.holding, holding);
    assert_eq!(held.chain, chain);
    assert_eq!(link.identify().await.unwrap().holds, holding.digest());

    let nonce = [0x5a; 32];
    let signature = link.sign(nonce).await.unwrap();
    let key = aws_lc_rs::signature::UnparsedPublicKey::new(
        &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
        &public_key,
    );
    let message = [group::PROOF_PREFIX, &nonce].concat();
    key.verify(&message, &signature).unwrap();

    let other = link.seal(Digest::of(b"other")).await.unwrap_err();
    assert_eq!(other.grounds(), Some(Grounds::HoldsOther));
    assert_eq!(link.seal(holding.digest()).await.unwrap(), holding.digest());
    assert_eq!(link.seal(holding.digest()).await.unwrap(), holding.digest());
    assert_eq!(link.restart().await.unwrap().boots, 3);
    assert!(link.identify().await.unwrap().sealed);
    let refused = [
        link.make_key("GW-0001").await.unwrap_err(),
        link.install(&chain).await.unwrap_err(),
        link.sign(nonce).await.unwrap_err(),
        link.tpm(&[0; 12]).await.unwrap_err(),
        link.seal(Digest::of(b"other")).await.unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.grounds(), Some(Grounds::Sealed), "{error:?}");
    }
    link.inject(&wanted(None), &keys).await.unwrap_err();
    let health = link.health();
    assert_eq!((health.crc_errors, health.dropped_lines), (0, 0));
}

#[tokio::test]
async fn a_device_is_provisioned_over_a_port_that_stays() {
    // Spawned, because a bay is a task of its own.
    tokio::spawn(simulated(Cable::uart)).await.unwrap();
}

#[tokio::test]
async fn a_device_is_provisioned_over_a_port_that_leaves_at_reset() {
    simulated(|port| Cable {
        port_leaves_at_reset: true,
        ..Cable::uart(port)
    })
    .await;
}

#[tokio::test]
async fn what_is_not_saved_is_gone_after_a_reset() {
    let bench = Bench::new();
    let _plug = bench.plug_in(Cable::uart(&bench.port())).await;
    let keys = Injection::default();
    let mut link = Session::open(&bench.port(), &quick()).await.unwrap();
    link.inject(&wanted(None), &keys).await.unwrap();
    let other = Holding {
        id_scope: "0ne99999999".to_owned(),
        ..wanted(None)
    };
    // The same writes, but power is cut before the save.
    let unsaved = Map::new()
        .text("name", "dps/id_scope")
        .bytes("val", other.id_scope.as_bytes());
    say(&bench.device, smp::SETTINGS_GROUP, smp::SETTING, &unsaved);
    assert_eq!(link.read_back(&keys).await.unwrap().observed.holding, other);
    bench.device.lock().unwrap().restart().unwrap();
    assert_eq!(
        link.read_back(&keys).await.unwrap().observed.holding,
        wanted(None)
    );
}

#[tokio::test]
async fn flash_outlives_the_device_process() {
    let bench = Bench::new();
    say(
        &bench.device,
        group::GROUP,
        group::MAKE_KEY,
        &Map::new().uint("rid", 1).text("cn", "GW-0001"),
    );
    let key = bench.device.lock().unwrap().private_key().unwrap().to_vec();
    let again = Device::load_or_make(&bench.flash(), spec()).unwrap();
    assert_eq!(again.private_key(), Some(&key[..]));
    assert_eq!(again.boots(), 2);
}

/// A TPM of which only the number of executions matters; answers with as many bytes as the command had.
fn counting_tpm(count: &Arc<AtomicU32>) -> impl FnOnce(Device) -> Device {
    let count = count.clone();
    move |device| device.with_tpm(Box::new(Counting(count)))
}

struct Counting(Arc<AtomicU32>);

impl Tpm for Counting {
    fn transact(&mut self, command: &[u8]) -> std::io::Result<Vec<u8>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(command.iter().rev().copied().collect())
    }

    fn restart(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_tpm_command_is_executed_once_whatever_is_lost() {
    let command: Vec<u8> = (0..4096u32).map(|i| (i * 31 % 251) as u8).collect();
    let response: Vec<u8> = command.iter().rev().copied().collect();
    // The wire loses every n-th message: 2 hits each part's first reply, the others the last one at some time.
    for every in [2, 3, 5, 7] {
        let count = Arc::new(AtomicU32::new(0));
        let bench = Bench::with(counting_tpm(&count));
        let mut seen = 0;
        let mut link = wire(&bench, move |reply| {
            seen += 1;
            if seen % every == 0 { Vec::new() } else { reply }
        });
        assert_eq!(link.tpm(&command).await.unwrap(), response);
        assert_eq!(count.load(Ordering::Relaxed), 1, "every {every}");
        assert!(link.health().retries > 0);
        assert_eq!(link.tpm(&command[..10]).await.unwrap(), response[4086..]);
        assert_eq!(count.load(Ordering::Relaxed), 2, "every {every}");
    }
}

#[test]
fn a_repeated_request_is_answered_from_memory() {
    let count = Arc::new(AtomicU32::new(0));
    let bench = Bench::with(counting_tpm(&count));
    let command = |rid| {
        Map::new()
            .uint("rid", rid)
            .uint("off", 0)
            .uint("len", 3)
            .bytes("sha", &Digest::of(b"abc").0)
            .bytes("data", b"abc")
    };
    let first = say(&bench.device, group::GROUP, group::TPM, &command(5));
    let second = say(&bench.device, group::GROUP, group::TPM, &command(5));
    assert_eq!(first, second);
    assert_eq!(count.load(Ordering::Relaxed), 1);
    say(&bench.device, group::GROUP, group::TPM, &command(6));
    assert_eq!(count.load(Ordering::Relaxed), 2);
    let sign = |rid| Map::new().uint("rid", rid).bytes("nonce", &[1; 32]);
    let no_key = say(&bench.device, group::GROUP, group::SIGN, &sign(7));
    let refusal = SmpError {
        group: Some(group::GROUP),
        code: Code::NoKey as u32,
    };
    assert_eq!(no_key.as_error(), Some(refusal));
    let make = Map::new().uint("rid", 7).text("cn", "x");
    say(&bench.device, group::GROUP, group::MAKE_KEY, &make);
    let signed = say(&bench.device, group::GROUP, group::SIGN, &sign(7));
    assert_eq!(
        signed,
        say(&bench.device, group::GROUP, group::SIGN, &sign(7))
    );
}

#[tokio::test]
async fn console_noise_does_not_matter() {
    let bench = Bench::new();
    let device = bench.device.clone();
    let noise = move |request: &[u8]| {
        let reply = device.lock().unwrap().handle(request);
        let mut noisy = b"uart:~$ \x1b[8D\x1b[J[00:01] <inf> app: alive\r\n\x06\x09AAAA".to_vec();
        for line in reply.split_inclusive(|b| *b == b'\n') {
            noisy.extend_from_slice(&line[..line.len() - 1]);
            noisy.extend_from_slice(b"\r\n<dbg> \x1b[1;32mstill here\x1b[0m\r\n\r\n");
        }
        Some(noisy)
    };
    let mut link = session(&bench, noise, &LinkOptions::default());
    let chain = some_chain();
    link.install(&chain).await.unwrap();
    let held = link.read_back(&Injection::default()).await.unwrap();
    assert_eq!(held.chain, chain);
    assert_eq!(link.health().retries, 0);
}

#[tokio::test]
async fn a_version_1_server_is_spoken_to_in_version_1() {
    let bench = Bench::new();
    let device = bench.device.clone();
    let mut link = over(&bench, move |request| {
        let mut decoder = Decoder::default();
        let bytes = request.iter().find_map(|&b| decoder.push(b))?;
        let packet = Packet::decode(&bytes).unwrap();
        if packet.header.version == Version::One {
            return Some(device.lock().unwrap().handle(request));
        }
        let too_new = Packet {
            header: packet.header.reply(),
            body: Map::new().uint("rc", smp::COMMON_VERSION_TOO_NEW.into()),
        };
        Some(
            frame::encode(&too_new.encode(), frame::LINE_LENGTH)
                .unwrap()
                .concat(),
        )
    });
    assert_eq!(link.identify().await.unwrap().device_id, spec().device_id);
    let error = link.sign([0; 32]).await.unwrap_err();
    assert_eq!(error.grounds(), Some(Grounds::NoKey));
    let held = link.read_back(&Injection::default()).await.unwrap();
    assert_eq!(held.observed.holding.id_scope, "");
}

#[tokio::test]
async fn a_packet_that_is_too_long_for_the_device_is_halved() {
    let bench = Bench::new();
    let device = bench.device.clone();
    let options = LinkOptions {
        frame_size: 1000,
        tries: 10,
        ..quick()
    };
    // Two line buffers, as a Zephyr server has by default: what is longer is lost without a word.
    let server = move |request: &[u8]| {
        let lines = request.iter().filter(|b| **b == b'\n').count();
        (lines <= 2).then(|| device.lock().unwrap().handle(request))
    };
    let mut link = session(&bench, server, &options);
    let chain = some_chain();
    link.install(&chain).await.unwrap();
    assert_eq!(bench.device.lock().unwrap().chain(), chain.concat());
    assert!(link.health().retries >= 3, "one for each halving");
}

#[tokio::test]
async fn values_may_be_text() {
    let bench = Bench::new();
    let keys = Injection {
        value: ValueType::Text,
        ..Injection::default()
    };
    let mut link = wire(&bench, |reply| reply);
    let error = link.inject(&wanted(None), &keys).await.unwrap_err();
    assert!(matches!(error, LinkError::Refused { .. }), "{error:?}"); // a Zephyr device wants bytes
}

#[tokio::test]
async fn what_goes_wrong_with_a_port_is_named() {
    let bench = Bench::new();
    let path = bench.port();
    let missing = Session::open(&path, &quick()).await.unwrap_err();
    let named = path.display().to_string();
    assert!(
        matches!(&missing, LinkError::PortMissing { port } if *port == named),
        "{missing:?}"
    );

    let plug = bench.plug_in(Cable::uart(&path)).await;
    let mut link = Session::open(&path, &quick()).await.unwrap();
    let busy = Session::open(&path, &quick()).await.unwrap_err();
    assert!(matches!(busy, LinkError::PortBusy { .. }), "{busy:?}");
    link.identify().await.unwrap();
    drop(plug);
    let gone = link.identify().await.unwrap_err();
    assert!(matches!(gone, LinkError::Gone { .. }), "{gone:?}");
    drop(link);

    // A cable without a device at its end.
    let _pty = Pty::open(&path).unwrap();
    let mut link = Session::open(&path, &quick()).await.unwrap();
    let silent = link.identify().await.unwrap_err();
    assert!(matches!(silent, LinkError::Silent { .. }), "{silent:?}");
    assert_eq!(link.health().retries, 3);
}

#[tokio::test]
async fn what_was_meant_for_a_killed_station_is_drained() {
    let bench = Bench::new();
    let mut pty = Pty::open(&bench.port()).unwrap();
    let stale = bench.device.lock().unwrap().handle(&identify_lines());
    pty.write_all(&stale).await.unwrap();
    pty.write_all(b"\x06\x09half a li").await.unwrap();
    let mut link = Session::open(&bench.port(), &quick()).await.unwrap();
    let health = link.health();
    assert_eq!((health.dropped_lines, health.round_trips), (0, 0));
    drop(pty);
    assert!(link.identify().await.unwrap_err().lost_port());
}

#[tokio::test]
async fn a_reset_request_that_is_lost_is_sent_again_only_when_seen_to_be_lost() {
    let bench = Bench::new();
    let port = bench.port();
    let mut pty = Pty::open(&port).unwrap();
    let device = bench.device.clone();
    let resets = Arc::new(AtomicU32::new(0));
    let seen = resets.clone();
    let serve = tokio::spawn(async move {
        let mut buffer = [0; 1024];
        loop {
            let count = pty.read(&mut buffer).await.unwrap();
            let mut copy = Decoder::default();
            let reset = buffer[..count]
                .iter()
                .filter_map(|&b| copy.push(b))
                .any(|bytes| bytes[4..6] == [0, 0] && bytes[7] == smp::RESET);
            if reset && seen.fetch_add(1, Ordering::Relaxed) == 0 {
                continue; // the first is lost
            }
            let output = device.lock().unwrap().handle(&buffer[..count]);
            if device.lock().unwrap().wants_restart() {
                device.lock().unwrap().restart().unwrap(); // and the reply to the second
                continue;
            }
            pty.write_all(&output).await.unwrap();
        }
    });
    let mut link = Session::open(&port, &quick()).await.unwrap();
    assert_eq!(link.restart().await.unwrap().boots, 2);
    assert_eq!(resets.load(Ordering::Relaxed), 2);
    serve.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_independent_client_understands_the_device() {
    let bench = Bench::new();
    let _plug = bench.plug_in(Cable::uart(&bench.port())).await;
    let path = bench.port().display().to_string();
    tokio::task::spawn_blocking(move || {
        let port = serialport::new(path, 115_200)
            .timeout(Duration::from_secs(5))
            .open()
            .unwrap();
        let client = mcumgr_toolkit::MCUmgrClient::new_from_serial(port);
        for length in [0, 1, 60, 61, 62, 63, 100, 153, 154, 155, 300] {
            let text = "x".repeat(length);
            assert_eq!(client.os_echo(&text).unwrap(), text);
        }
        assert_eq!(client.os_mcumgr_parameters().unwrap().buf_size, 384);
        assert!(client.settings_read("dps/id_scope").is_err());
        client
            .settings_write("dps/id_scope", b"0ne00112233")
            .unwrap();
        assert!(client.settings_write("other", b"x").is_err());
        client.settings_save(None::<&str>).unwrap();
        client.settings_write("dps/id_scope", b"unsaved").unwrap();
        client.settings_load().unwrap();
        assert_eq!(
            client.settings_read("dps/id_scope").unwrap(),
            b"0ne00112233"
        );
        client.settings_delete("dps/id_scope").unwrap();
        client.settings_commit().unwrap();
        client.os_system_reset(false, None).unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn another_device_after_a_reset_is_noticed() {
    let bench = Bench::new();
    let mut other = spec();
    other.device_id = DeviceId::parse("GW-0002").unwrap();
    other.uid = vec![2; 12];
    let other = Device::load_or_make(&bench.dir.path().join("other.json"), other).unwrap();
    let cable = Cable {
        port_leaves_at_reset: true,
        start_time: Duration::from_secs(60),
        ..Cable::uart(&bench.port())
    };
    let _plug = bench.plug_in(cable).await;
    let mut link = Session::open(&bench.port(), &quick()).await.unwrap();
    link.identify().await.unwrap();
    let bay = bench.port();
    let swap = tokio::spawn(async move {
        while bay.exists() {
            tokio::task::yield_now().await;
        }
        let other = Arc::new(std::sync::Mutex::new(other));
        dps_station::fixtures::device::run_device(other, Cable::uart(&bay)).await
    });
    let error = link.restart().await.unwrap_err();
    assert!(
        matches!(&error, LinkError::Swapped { found, .. } if found.as_str() == "GW-0002"),
        "{error:?}"
    );
    swap.abort();
}
