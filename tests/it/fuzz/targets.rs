//! Everything that reads what a device sends, and the simulated device that reads what a station sends.

use super::mutate::Mutator;
use crate::link::bench::{Bench, quick, session, wanted};
use dps_station::fixtures::device::Tpm;
use dps_station::link::smp::frame::{self, Decoder};
use dps_station::link::smp::{HEADER_LENGTH, Map, Packet};
use dps_station::link::{Injection, LinkOptions};
use dps_station::provision::bytes::Digest;
use dps_station::provision::certificate::{Csr, KeyPolicy};
use dps_station::provision::endorsement::certificate::EkCertificate;

/// Inputs to each parser in a round.
const INPUTS: usize = 10_000;
/// Requests to the simulated device in a round; each that it obeys is a file written.
const REQUESTS: usize = 2_000;
/// Conversations with a lying device in a round.
const CONVERSATIONS: usize = 100;
/// The longest answer that counts; a liar may well say nothing.
const ANSWER_MS: u64 = 2;

/// One round of all.
pub async fn all(mutator: &mut Mutator) {
    let packets = packets();
    let lines: Vec<_> = packets.iter().map(|packet| framed(packet)).collect();
    decoder(mutator, &lines);
    bodies(mutator, &packets);
    device(mutator, &packets);
    certificates(mutator);
    for _ in 0..CONVERSATIONS {
        conversation(Mutator::new(mutator.next()), &packets).await;
    }
}

/// The golden packets, and a few that ask for the impossible.
fn packets() -> Vec<Vec<u8>> {
    let text = include_str!("../../../fixtures/vectors/smp.json");
    let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
    let hex = |vector: &serde_json::Value| vector["packet"].as_str().unwrap().to_owned();
    let vectors = vectors.as_array().unwrap().iter().map(hex);
    let mut packets: Vec<Vec<u8>> = vectors
        .map(|hex| data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap())
        .collect();
    let bodies: [&[u8]; 5] = [
        &[0x9f; 300],                                            // nested without end
        &[0xbf, 0x61, 0x76, 0xbf, 0x61, 0x76, 0xbf, 0x61, 0x76], // maps without end
        &[
            0xa1, 0x61, 0x76, 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        ],
        &[0xbb, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[
            0xa1, 0x61, 0x76, 0x9b, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff,
        ],
    ];
    for body in bodies {
        packets.push(with_body(&packets[0], body));
    }
    packets
}

/// A packet with another body and a length that fits, cut to what can be framed.
fn with_body(packet: &[u8], body: &[u8]) -> Vec<u8> {
    let mut whole = packet[..HEADER_LENGTH].to_vec();
    whole.extend_from_slice(&body[..body.len().min(frame::MAX_PACKET - HEADER_LENGTH)]);
    let length = (whole.len() - HEADER_LENGTH) as u16;
    whole[2..4].copy_from_slice(&length.to_be_bytes());
    whole
}

fn framed(packet: &[u8]) -> Vec<u8> {
    frame::encode(packet, frame::LINE_LENGTH).unwrap().concat()
}

/// A mutated packet whose length and checksum are right, so that what is inside gets read.
fn sound(mutator: &mut Mutator, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut packet = mutator.mutate(packets);
    packet.resize(packet.len().max(HEADER_LENGTH), 0);
    let body = packet.split_off(HEADER_LENGTH);
    framed(&with_body(&packet, &body))
}

fn decoder(mutator: &mut Mutator, lines: &[Vec<u8>]) {
    let mut decoder = Decoder::default();
    for _ in 0..INPUTS {
        let input = mutator.mutate(lines);
        let found = input.iter().filter_map(|&byte| decoder.push(byte));
        for packet in found {
            assert!((HEADER_LENGTH..=frame::MAX_PACKET).contains(&packet.len()));
        }
    }
    // Whatever came before, a whole packet on a line of its own is found.
    decoder.push(b'\n');
    let found: Vec<_> = lines[0].iter().filter_map(|&b| decoder.push(b)).collect();
    assert_eq!(found.len(), 1);
}

fn bodies(mutator: &mut Mutator, packets: &[Vec<u8>]) {
    let bodies: Vec<_> = packets
        .iter()
        .map(|p| p[HEADER_LENGTH..].to_vec())
        .collect();
    for _ in 0..INPUTS {
        let _ = Packet::decode(&mutator.mutate(packets));
        let body = mutator.mutate(&bodies);
        if let Ok(map) = Map::decode(&body) {
            let _ = (map.as_error(), map.get_uint("rc"), map.get_32("sha"));
            // What was understood can be said again, in not many more bytes than it came in.
            let again = map.encode();
            assert!(
                again.len() <= 2 * body.len() + 9,
                "{} of {}",
                again.len(),
                body.len()
            );
            assert!(Map::decode(&again).is_ok());
        }
    }
}

fn device(mutator: &mut Mutator, packets: &[Vec<u8>]) {
    let bench = Bench::with(|device| device.with_tpm(Box::new(Echo)));
    let mut device = bench.device.lock().unwrap();
    let longest = framed(&[0; frame::MAX_PACKET]).len();
    for _ in 0..REQUESTS {
        let request = sound(mutator, packets);
        assert!(device.handle(&request).len() <= longest);
        if device.wants_restart() {
            device.restart().unwrap();
        }
    }
}

/// A TPM that gives back what it was given.
struct Echo;

impl Tpm for Echo {
    fn transact(&mut self, command: &[u8]) -> std::io::Result<Vec<u8>> {
        Ok(command.to_vec())
    }

    fn restart(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn certificates(mutator: &mut Mutator) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["GW-0001".to_owned()]).unwrap();
    let corpus = [
        params.serialize_request(&key).unwrap().der().to_vec(),
        params.self_signed(&key).unwrap().der().to_vec(),
    ];
    let keys = KeyPolicy::default();
    for _ in 0..INPUTS {
        let der = mutator.mutate(&corpus);
        let _ = Csr::parse(&der, "GW-0001", &keys);
        let _ = EkCertificate::parse(&der);
    }
}

/// Everything that a station asks, of a device that answers each request properly, or changed, or with something else.
async fn conversation(mut mutator: Mutator, packets: &[Vec<u8>]) {
    let options = LinkOptions {
        answer_ms: ANSWER_MS,
        slow_answer_ms: 2 * ANSWER_MS,
        tries: 2,
        ..quick()
    };
    let bench = Bench::with(|device| device.with_tpm(Box::new(Echo)));
    let (honest, packets) = (bench.device.clone(), packets.to_vec());
    let server = move |request: &[u8]| {
        let reply = honest.lock().unwrap().handle(request);
        let mut decoder = Decoder::default();
        let packet = reply.iter().find_map(|&byte| decoder.push(byte))?;
        Some(match mutator.below(8) {
            0..5 => reply,
            // The right header, and a changed body.
            5 => {
                let body = mutator.mutate(&[packet[HEADER_LENGTH..].to_vec()]);
                framed(&with_body(&packet, &body))
            }
            6 => {
                let other = mutator.mutate(&packets);
                framed(&with_body(
                    &packet,
                    other.get(HEADER_LENGTH..).unwrap_or_default(),
                ))
            }
            _ => mutator.mutate(&[reply]),
        })
    };
    let mut link = session(&bench, server, &options);
    let chain = vec![vec![0x30, 2, 5, 0]];
    let _ = link.identify().await;
    let _ = link.make_key("GW-0001").await;
    let _ = link.install(&chain).await;
    let _ = link.inject(&wanted(None), &Injection::default()).await;
    let _ = link.read_back(&Injection::default()).await;
    let _ = link.sign([7; 32]).await;
    let _ = link.tpm(&[0x80; 700]).await;
    let _ = link.seal(Digest::of(b"")).await;
}
