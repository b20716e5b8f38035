//! What the trace gets of a link: each packet with its direction, but nothing of what is in TPM traffic.

use super::smp::group::{CHAIN, READ_OBJECT, REQUEST, TPM};
use super::smp::{HEADER_LENGTH, Packet, RawHeader};
use tracing::info;

/// Says that a request goes out.
pub(super) fn sent(packet: &[u8], request: &Packet, user_group: u16) {
    tell("out", packet, request, user_group);
}

/// Says that a packet came in while `request` waited for its reply.
pub(super) fn came(packet: &[u8], request: &Packet, user_group: u16) {
    tell("in", packet, request, user_group);
}

/// Says that so many lines and checksums were wrong in what came in.
pub(super) fn damaged(lines: u64, checksums: u64) {
    if lines + checksums > 0 {
        info!(target: "noise", lines, checksums);
    }
}

/// Says that so many bytes came in and were thrown away unread.
pub(super) fn discarded(bytes: usize) {
    if bytes > 0 {
        info!(target: "noise", bytes);
    }
}

fn tell(direction: &str, packet: &[u8], request: &Packet, user_group: u16) {
    let shown = match may_be_shown(packet, request, user_group) {
        true => packet.len(),
        false => packet.len().min(HEADER_LENGTH),
    };
    let hidden = Some(packet.len() - shown).filter(|hidden| *hidden > 0);
    info!(target: "wire", direction, bytes = &packet[..shown], hidden);
}

/// Whether a packet may be read by whoever gets the trace. TPM commands and responses may not: what they open, or
/// prove that they may, is nobody's business. A reply says not which object it is part of; the request for it does.
fn may_be_shown(packet: &[u8], request: &Packet, user_group: u16) -> bool {
    let Some(header) = RawHeader::read(packet) else {
        return false;
    };
    if header.group != user_group {
        return true;
    }
    match header.command {
        TPM => false,
        READ_OBJECT => {
            let asked = &request.header;
            let asked_for = request.body.get_uint("obj");
            (asked.group, asked.command, asked.sequence)
                == (user_group, READ_OBJECT, header.sequence)
                && matches!(asked_for, Ok(REQUEST | CHAIN))
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::smp::group::{GROUP, IDENTIFY, RESPONSE};
    use crate::link::smp::{Header, Map, Op, Version};

    fn packet(op: Op, command: u8, sequence: u8, body: Map) -> Packet {
        let header = Header {
            version: Version::Two,
            op,
            group: GROUP,
            sequence,
            command,
        };
        Packet { header, body }
    }

    fn shown(packet: &Packet, request: &Packet) -> bool {
        may_be_shown(&packet.encode(), request, GROUP)
    }

    #[test]
    fn nothing_of_tpm_traffic_is_shown() {
        let data = || Map::new().bytes("data", &[7; 40]);
        let identify = packet(Op::Read, IDENTIFY, 1, Map::new());
        let tpm = packet(Op::Write, TPM, 2, data());
        assert!(shown(&identify, &identify));
        assert!(!shown(&tpm, &tpm));
        let answer = packet(Op::WriteReply, TPM, 2, data());
        assert!(!shown(&answer, &tpm));
        assert!(!shown(&answer, &identify), "a late one");
    }

    #[test]
    fn an_object_is_shown_only_where_it_is_certainly_none_of_the_tpm() {
        let read = |object, sequence| {
            let body = Map::new().uint("obj", object).uint("off", 0);
            packet(Op::Read, READ_OBJECT, sequence, body)
        };
        let part = |sequence| {
            let body = Map::new().bytes("data", &[7; 40]);
            packet(Op::ReadReply, READ_OBJECT, sequence, body)
        };
        let (chain, response) = (read(CHAIN, 3), read(RESPONSE, 3));
        assert!(shown(&chain, &chain) && shown(&part(3), &chain));
        assert!(!shown(&response, &response) && !shown(&part(3), &response));
        assert!(!shown(&part(2), &chain), "a late one, of whatever object");
        let identify = packet(Op::Read, IDENTIFY, 3, Map::new());
        assert!(!shown(&part(3), &identify));
        assert!(!may_be_shown(&[0; 7], &identify, GROUP));
    }
}
