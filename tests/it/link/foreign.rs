//! Devices as other firmware authors make them: slow lines, other versions of the protocol, bootloaders, other keys.

use super::bench::{Bench, over, quick, session, spec, wanted};
use dps_station::fixtures::pty::Pty;
use dps_station::link::session::Session;
use dps_station::link::smp::frame::{self, Decoder};
use dps_station::link::smp::{self, Header, Map, Op, Packet, SmpError, Version};
use dps_station::link::{Injection, LinkError, LinkOptions};
use dps_station::provision::dialogue::Grounds;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::sleep;

fn request(bytes: &[u8]) -> Option<Packet> {
    let mut decoder = Decoder::default();
    let bytes = bytes.iter().find_map(|&b| decoder.push(b))?;
    Some(Packet::decode(&bytes).unwrap())
}

fn reply(request: &Packet, body: Map) -> Vec<u8> {
    let packet = Packet {
        header: request.header.reply(),
        body,
    };
    let lines = frame::encode(&packet.encode(), frame::LINE_LENGTH).unwrap();
    lines.concat()
}

/// A session with the bench's device over a line that takes `pause` for each byte of a reply, and `gap` in its middle.
fn trickling(bench: &Bench, pause: Duration, gap: Duration) -> Session<DuplexStream> {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let device = bench.device.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = far.read(&mut buffer).await {
            let reply = device.lock().unwrap().handle(&buffer[..count]);
            for (index, byte) in reply.iter().enumerate() {
                sleep(if index == reply.len() / 2 { gap } else { pause }).await;
                if far.write_all(&[*byte]).await.is_err() {
                    return; // the session is over
                }
            }
        }
    });
    let options = LinkOptions {
        answer_ms: 100,
        tries: 1,
        ..quick()
    };
    Session::over(near, &bench.port(), &options).unwrap()
}

#[tokio::test]
async fn a_reply_that_comes_byte_by_byte_is_heard_to_its_end() {
    let bench = Bench::new();
    let pause = Duration::from_millis(3);
    let mut link = trickling(&bench, pause, pause);
    assert_eq!(link.identify().await.unwrap().device_id, spec().device_id);
    assert!(link.health().latency_max_ms > 300, "{:?}", link.health());
}

/// The device counts as silent, by a deadline of the link's own.
async fn is_silent_within(link: &mut Session<DuplexStream>, limit: Duration) {
    let silent = tokio::time::timeout(limit, link.identify())
        .await
        .expect("a deadline of its own");
    assert!(
        matches!(silent, Err(LinkError::Silent { .. })),
        "{silent:?}"
    );
}

#[tokio::test]
async fn a_reply_that_breaks_off_is_silence() {
    let bench = Bench::new();
    let gap = Duration::from_secs(20);
    let mut link = trickling(&bench, Duration::ZERO, gap);
    is_silent_within(&mut link, Duration::from_secs(10)).await;
}

#[tokio::test]
async fn a_line_that_never_stops_talking_ends_the_wait() {
    let bench = Bench::new();
    let (near, mut far) = tokio::io::duplex(1 << 10);
    tokio::spawn(async move {
        // Always in the middle of a packet.
        while far.write_all(b"\x06\x09Dw8PDw8P").await.is_ok() {
            sleep(Duration::from_millis(1)).await;
        }
    });
    let options = LinkOptions {
        tries: 1,
        ..quick()
    };
    let mut link = Session::over(near, &bench.port(), &options).unwrap();
    is_silent_within(&mut link, Duration::from_secs(15)).await;
}

/// Answers in one version only, and changes to the other with each question that it answered.
#[tokio::test]
async fn servers_of_either_version_may_follow_each_other_at_one_port() {
    let bench = Bench::new();
    let device = bench.device.clone();
    let mut known = Version::One;
    let mut link = over(&bench, move |bytes| {
        let request = request(bytes)?;
        if request.header.version == known {
            known = match known {
                Version::One => Version::Two,
                Version::Two => Version::One,
            };
            return Some(device.lock().unwrap().handle(bytes));
        }
        let code = match known {
            Version::One => smp::COMMON_VERSION_TOO_NEW,
            Version::Two => smp::COMMON_VERSION_TOO_OLD,
        };
        Some(reply(&request, Map::new().uint("rc", code.into())))
    });
    for _ in 0..4 {
        assert_eq!(link.identify().await.unwrap().device_id, spec().device_id);
    }
}

#[tokio::test]
async fn a_server_that_likes_neither_version_is_not_asked_for_ever() {
    let bench = Bench::new();
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let mut link = over(&bench, move |bytes| {
        let request = request(bytes)?;
        count.fetch_add(1, Ordering::Relaxed);
        let code = match request.header.version {
            Version::One => smp::COMMON_VERSION_TOO_OLD,
            Version::Two => smp::COMMON_VERSION_TOO_NEW,
        };
        Some(reply(&request, Map::new().uint("rc", code.into())))
    });
    let refused = link.identify().await.unwrap_err();
    assert!(matches!(refused, LinkError::Refused { .. }), "{refused:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

/// MCUboot's serial recovery speaks SMP too, and knows no user group; an application may be busy at first.
#[tokio::test]
async fn a_bootloader_that_answers_is_waited_out() {
    let bench = Bench::new();
    let port = bench.port();
    let mut pty = Pty::open(&port).unwrap();
    let device = bench.device.clone();
    let serve = tokio::spawn(async move {
        let mut buffer = [0; 1024];
        let mut refusals = 0;
        loop {
            let count = pty.read(&mut buffer).await.unwrap();
            if refusals > 0
                && let Some(request) = request(&buffer[..count])
            {
                refusals -= 1;
                let code = match refusals {
                    2.. => smp::COMMON_NOT_SUPPORTED,
                    _ => 10, // busy
                };
                let refused = reply(&request, Map::new().uint("rc", code.into()));
                pty.write_all(&refused).await.unwrap();
                continue;
            }
            let output = device.lock().unwrap().handle(&buffer[..count]);
            pty.write_all(&output).await.unwrap();
            if device.lock().unwrap().wants_restart() {
                device.lock().unwrap().restart().unwrap();
                refusals = 4;
            }
        }
    });
    let mut link = Session::open(&port, &quick()).await.unwrap();
    assert_eq!(link.restart().await.unwrap().boots, 2);
    serve.abort();
}

#[tokio::test]
async fn signatures_of_longer_keys_are_taken_and_absurd_ones_are_not() {
    let bench = Bench::new();
    for (length, fits) in [(72, true), (104, true), (512, true), (513, false)] {
        let answer = move |bytes: &[u8]| {
            let request = request(bytes)?;
            let rid = request.body.get_uint("rid").unwrap();
            let body = Map::new().uint("rid", rid).bytes("sig", &vec![7; length]);
            Some(reply(&request, body))
        };
        let mut link = session(&bench, answer, &quick());
        let signed = link.sign([0; 32]).await;
        assert_eq!(signed.is_ok(), fits, "{length}: {signed:?}");
    }
}

/// Newer Zephyr tells apart whether only the key is unknown, or the first part of its name already.
#[tokio::test]
async fn a_key_whose_root_is_unknown_is_a_key_that_is_unknown() {
    let bench = Bench::new();
    let device = bench.device.clone();
    let mut link = over(&bench, move |bytes| {
        let request = request(bytes)?;
        if request.header.group != smp::SETTINGS_GROUP {
            return Some(device.lock().unwrap().handle(bytes));
        }
        let refusal = SmpError {
            group: Some(smp::SETTINGS_GROUP),
            code: 5,
        };
        Some(reply(&request, Map::error(Version::Two, refusal)))
    });
    let held = link.read_back(&Injection::default()).await.unwrap();
    assert_eq!(held.observed.holding.id_scope, "");
    let refused = link.inject(&wanted(None), &Injection::default()).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.grounds(), Some(Grounds::UnknownSetting));
}

/// One that computes for a while before it says who it is, one question after the other.
#[tokio::test]
async fn a_device_that_thinks_before_each_answer_is_seen_to_restart() {
    let bench = Bench::new();
    let port = bench.port();
    let mut pty = Pty::open(&port).unwrap();
    let device = bench.device.clone();
    let serve = tokio::spawn(async move {
        let mut buffer = [0; 1024];
        loop {
            let count = pty.read(&mut buffer).await.unwrap();
            let output = device.lock().unwrap().handle(&buffer[..count]);
            if !output.is_empty() {
                sleep(Duration::from_millis(450)).await;
            }
            pty.write_all(&output).await.unwrap();
            if device.lock().unwrap().wants_restart() {
                device.lock().unwrap().restart().unwrap();
            }
        }
    });
    let options = LinkOptions::default();
    let mut link = Session::open(&port, &options).await.unwrap();
    assert_eq!(link.restart().await.unwrap().boots, 2);
    serve.abort();
}

#[tokio::test]
async fn a_refusal_without_a_number_is_said_so() {
    let bench = Bench::new();
    let mut link = over(&bench, |bytes| {
        Some(reply(&request(bytes)?, Map::new().text("rc", "no")))
    });
    let refused = link.identify().await.unwrap_err();
    assert_eq!(refused.grounds(), Some(Grounds::Unnumbered));
}

/// As Zephyr's settings group does (`settings_mgmt.c`).
#[tokio::test]
async fn a_simulated_device_gives_as_much_of_a_value_as_is_asked_for() {
    let bench = Bench::new();
    let ask = |op, command, body: Map| {
        let header = Header {
            version: Version::Two,
            op,
            group: smp::SETTINGS_GROUP,
            sequence: 1,
            command,
        };
        let packet = Packet { header, body }.encode();
        let lines = frame::encode(&packet, frame::LINE_LENGTH).unwrap();
        let answer = bench.device.lock().unwrap().handle(&lines.concat());
        request(&answer).unwrap().body
    };
    let named = || Map::new().text("name", "dps/id_scope");
    ask(
        Op::Write,
        smp::SETTING,
        named().bytes("val", b"0ne00112233"),
    );
    for (size, value, limit) in [(3, &b"0ne"[..], None), (500, b"0ne00112233", Some(253))] {
        let read = ask(Op::Read, smp::SETTING, named().uint("max_size", size));
        assert_eq!(read.get_bytes("val"), Ok(value));
        assert_eq!(read.get_uint("max_size").ok(), limit);
    }
    // What is not in storage stays in RAM, and a value that is left out is empty.
    ask(Op::Read, smp::SETTINGS_SAVE, Map::new());
    let read = || ask(Op::Read, smp::SETTING, named());
    assert_eq!(read().get_bytes("val"), Ok(&b"0ne00112233"[..]));
    assert_eq!(ask(Op::Write, smp::SETTING, named()), Map::new());
    assert_eq!(read().get_bytes("val"), Ok(&b""[..]));
}
