//! What a TPM device's whole job costs on the wire, against what it must cost.

use super::hall::{Command, Watched};
use super::{chip, ordinary};
use crate::tpm::NECESSARY;
use dps_station::fixtures::device::{ENDPOINT_KEY, ID_SCOPE_KEY, REGISTRATION_ID_KEY};
use dps_station::link::LinkOptions;
use dps_station::link::smp::{self, Header, Map, Op, Packet, Version, frame};
use dps_station::provision::event::Event;
use dps_station::tpm::command_name;
use std::time::Duration;

/// Bytes that the body of a simulated device's reply may have: Zephyr's buffer of 384, less length, checksum, header.
const REPLY_ROOM: usize = 372;

/// A job may cost a quarter more than it must.
fn within_budget(spent: usize, necessary: usize) -> bool {
    spent * 4 <= necessary * 5
}

#[tokio::test]
async fn a_whole_job_stays_within_its_budget_of_commands_and_bytes() {
    let mut hall = ordinary();
    hall.link.answer_ms = 10_000; // what is sent again on a busy machine is another matter
    let tpm = Watched::new(chip(None));
    let stay = hall.stay("sim-1", tpm.clone()).await;
    assert!(stay.passed(), "{stay:?}");

    let commands = tpm.commands();
    let names: Vec<_> = commands
        .iter()
        .map(|c| command_name(c.code).unwrap())
        .collect();
    let took: Duration = commands.iter().map(|command| command.took).sum();
    println!(
        "{} commands, {} necessary, {took:?} in the TPM",
        names.len(),
        NECESSARY.len()
    );
    assert!(within_budget(names.len(), NECESSARY.len()), "{names:?}");

    let spent = stay.bytes.to_device + stay.bytes.to_bay;
    let necessary = necessary_bytes(&commands, &stay.events, &hall.link);
    println!("{spent} bytes on the wire, {necessary} necessary");
    assert!(
        within_budget(spent, necessary),
        "{spent} bytes, {necessary} necessary"
    );
}

/// Each payload once, in frames of the negotiated size, as the provisioning group's page has it.
fn necessary_bytes(commands: &[Command], events: &[Event], link: &LinkOptions) -> usize {
    let wire = Wire {
        room: link.frame_size - smp::HEADER_LENGTH,
        line_length: link.line_length,
    };
    let mut left = commands.to_vec();
    let tpm = NECESSARY.iter().map(|name| {
        let found = left.iter().position(|c| command_name(c.code) == Some(name));
        left.remove(found.unwrap_or_else(|| panic!("{name} was not asked")))
    });
    let mut bytes: usize = tpm.map(|command| wire.tpm(command)).sum();

    let asked = events.iter().find_map(|event| match event {
        Event::Written { asked } => Some(asked),
        _ => None,
    });
    let asked = asked.expect("it was written");
    for (key, value) in [
        (ID_SCOPE_KEY, &asked.id_scope),
        (ENDPOINT_KEY, &asked.global_endpoint),
        (REGISTRATION_ID_KEY, &asked.registration_id),
    ] {
        let named = Map::new().text("name", key);
        let value = |map: Map| map.bytes("val", value.as_bytes());
        bytes += wire.exchange(&value(named.clone()), &Map::new()); // write
        bytes += wire.exchange(&named, &value(Map::new())); // read back
    }
    bytes += wire.exchange(&Map::new(), &Map::new()); // save
    bytes += wire.exchange(&Map::new(), &Map::new()); // reset
    let identification = Map::new()
        .uint("v", 1)
        .text("id", "sim-1")
        .text("model", "SIM-TPM")
        .text("fw", "1.0")
        .bytes("uid", b"sim-1")
        .uint("boots", 1)
        .flag("sealed", false)
        .flag("tpm", true)
        .bytes("holds", &[0; 32]);
    bytes += 2 * wire.exchange(&Map::new(), &identification); // before and after the reset
    let (of, empty) = (
        Map::new().uint("off", 0),
        Map::new().uint("off", 0).uint("len", 0),
    );
    let empty = empty.bytes("sha", &[0; 32]).bytes("data", &[]);
    bytes += wire.exchange(&of.uint("obj", 1), &empty); // it has no certificate
    let seal = Map::new()
        .uint("rid", u32::MAX.into())
        .bytes("holds", &[0; 32]);
    bytes + wire.exchange(&seal, &seal)
}

struct Wire {
    /// Bytes that the body of a request may have.
    room: usize,
    line_length: usize,
}

impl Wire {
    /// A command that goes over in parts, and its response that comes back in parts.
    fn tpm(&self, command: Command) -> usize {
        let rid = Map::new().uint("rid", u32::MAX.into());
        let whole = |map: Map, length: usize| map.uint("len", length as u64).bytes("sha", &[0; 32]);
        let (mut bytes, mut sent) = (0, 0);
        let received = loop {
            let mut request = rid.clone().uint("off", sent as u64);
            if sent == 0 {
                request = whole(request, command.asked);
            }
            let part = (command.asked - sent).min(request.room_for("data", self.room));
            let request = request.bytes("data", &vec![0; part]);
            sent += part;
            let reply = rid.clone().uint("off", sent as u64);
            if sent < command.asked {
                bytes += self.exchange(&request, &reply);
                continue;
            }
            let reply = whole(reply, command.answered);
            let part = command.answered.min(reply.room_for("data", REPLY_ROOM));
            bytes += self.exchange(&request, &reply.bytes("data", &vec![0; part]));
            break part;
        };
        bytes + self.rest(received, command.answered)
    }

    /// What is left of a response.
    fn rest(&self, mut received: usize, length: usize) -> usize {
        let mut bytes = 0;
        while received < length {
            let off = Map::new().uint("off", received as u64);
            let part = (length - received).min(off.room_for("data", REPLY_ROOM));
            let request = off.clone().uint("obj", 2);
            bytes += self.exchange(&request, &off.bytes("data", &vec![0; part]));
            received += part;
        }
        bytes
    }

    fn exchange(&self, request: &Map, reply: &Map) -> usize {
        self.packet(request) + self.packet(reply)
    }

    /// A packet as lines.
    fn packet(&self, body: &Map) -> usize {
        let header = Header {
            version: Version::Two,
            op: Op::Write,
            group: 64,
            sequence: 0,
            command: 0,
        };
        let body = body.clone();
        let packet = Packet { header, body }.encode();
        let lines = frame::encode(&packet, self.line_length).unwrap();
        lines.iter().map(Vec::len).sum()
    }
}
