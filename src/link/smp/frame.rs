//! MCUmgr's console framing: packets as lines of base64 between whatever else a console says.
//!
//! Source: Zephyr, `doc/services/device_mgmt/smp_transport.rst`, "UART/serial and console"; what receivers put up
//! with in practice was measured on a Zephyr 3.4.99 server.

use super::HEADER_LENGTH;
use data_encoding::BASE64;

/// The longest line of the standard, in bytes, with marker and newline.
pub const LINE_LENGTH: usize = 127;
/// The shortest line that can carry anything: marker, one base64 quantum, newline.
const SHORTEST_LINE: usize = 7;
/// The longest packet that is read or written, in bytes, header included.
pub const MAX_PACKET: usize = 4096;

/// Starts the first line of a packet.
const START: [u8; 2] = [0x06, 0x09];
/// Starts every further line.
const CONTINUE: [u8; 2] = [0x04, 0x14];
/// The longest base64 text in one line that is read, in bytes: a whole packet in one line fits.
const MAX_TEXT: usize = (MAX_PACKET + ENVELOPE).div_ceil(3) * 4 + 1;
/// Octets of the length before a packet.
const LENGTH_FIELD: usize = 2;
/// Octets of the checksum behind a packet.
const CHECKSUM: usize = 2;
/// Octets that go with a packet into the buffer of whoever receives it.
pub const ENVELOPE: usize = LENGTH_FIELD + CHECKSUM;

const CRC: crc::Crc<u16> = crc::Crc::<u16>::new(&crc::CRC_16_XMODEM);

/// Why a packet cannot be framed: it has so many bytes, and not [`HEADER_LENGTH`] to [`MAX_PACKET`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketLength(pub usize);

/// Cuts a packet into lines of at most `line_length` bytes (marker and newline included), ready to be sent in order.
///
/// A `line_length` below 7, which carries one group of base64, counts as 7.
pub fn encode(packet: &[u8], line_length: usize) -> Result<Vec<Vec<u8>>, PacketLength> {
    if !(HEADER_LENGTH..=MAX_PACKET).contains(&packet.len()) {
        return Err(PacketLength(packet.len()));
    }
    let length = u16::try_from(packet.len() + CHECKSUM).map_err(|_| PacketLength(packet.len()))?;
    let mut whole = length.to_be_bytes().to_vec();
    whole.extend_from_slice(packet);
    whole.extend_from_slice(&CRC.checksum(packet).to_be_bytes());
    let lines = whole.chunks(payload(line_length)).enumerate();
    let lines = lines.map(|(index, part)| {
        let mut line = if index == 0 { START } else { CONTINUE }.to_vec();
        line.extend_from_slice(BASE64.encode(part).as_bytes());
        line.push(b'\n');
        line
    });
    Ok(lines.collect())
}

/// The longest packet that fits into `lines` lines of `line_length` bytes each.
pub fn packet_in(lines: usize, line_length: usize) -> usize {
    (lines * payload(line_length)).saturating_sub(ENVELOPE)
}

/// Bytes that one line carries: three for each base64 quantum between the marker and the newline.
fn payload(line_length: usize) -> usize {
    (line_length.max(SHORTEST_LINE) - START.len() - 1) / 4 * 3
}

/// Finds packets in a stream of bytes, whatever else is in it.
///
/// A marker counts wherever it stands in a line, because a prompt, colour codes or half a log line may stand before
/// it. A damaged line is dropped together with the packet that it belonged to; text between the lines of a packet is
/// skipped; a new start discards an unfinished packet. Memory is bounded by [`MAX_PACKET`], whatever arrives.
#[derive(Debug, Default)]
pub struct Decoder {
    line: Line,
    previous: u8,
    text: Vec<u8>,
    packet: Vec<u8>,
    damage: Damage,
}

/// What a decoder had to drop so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Lines with a marker that did not decode or did not fit.
    pub lines: u64,
    /// Packets that were complete but had a wrong checksum.
    pub checksums: u64,
}

/// What the present line is, as far as it was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Line {
    /// No marker yet: not ours.
    #[default]
    Foreign,
    /// The first line of a packet.
    First,
    /// A further line of a packet.
    Further,
}

impl Decoder {
    /// Takes one byte; gives the packet that it completes, if any.
    pub fn push(&mut self, byte: u8) -> Option<Vec<u8>> {
        let pair = [self.previous, byte];
        self.previous = byte;
        if pair == START || pair == CONTINUE {
            if self.line != Line::Foreign {
                self.damage.lines += 1; // the line broke off without a newline
            }
            self.line = if pair == START {
                Line::First
            } else {
                Line::Further
            };
            self.text.clear();
            return None;
        }
        if byte == b'\n' {
            let line = std::mem::take(&mut self.line);
            let packet = self.end_of_line(line);
            self.text.clear();
            return packet;
        }
        if self.line != Line::Foreign {
            if self.text.len() == MAX_TEXT {
                self.line = Line::Foreign;
                self.drop_line();
            } else {
                self.text.push(byte);
            }
        }
        None
    }

    /// Whether a packet has begun and is not complete.
    pub fn in_packet(&self) -> bool {
        self.line == Line::First || !self.packet.is_empty()
    }

    /// What was dropped since the decoder was made.
    pub fn damage(&self) -> Damage {
        self.damage
    }

    fn end_of_line(&mut self, line: Line) -> Option<Vec<u8>> {
        match line {
            Line::Foreign => return None,
            Line::First => self.packet.clear(),
            // The packet's start was dropped, or this is the rest of someone else's.
            Line::Further if self.packet.is_empty() => {
                self.damage.lines += 1;
                return None;
            }
            Line::Further => {}
        }
        let text = self.text.strip_suffix(b"\r").unwrap_or(&self.text);
        match BASE64.decode(text) {
            Ok(part) if !part.is_empty() => self.packet.extend_from_slice(&part),
            _ => {
                self.drop_line();
                return None;
            }
        }
        self.complete()
    }

    /// Gives the packet if all of it is there; drops it if it cannot become one.
    fn complete(&mut self) -> Option<Vec<u8>> {
        let (length, rest) = self.packet.split_first_chunk::<LENGTH_FIELD>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        let sane = HEADER_LENGTH + CHECKSUM..=MAX_PACKET + CHECKSUM;
        if !sane.contains(&length) || rest.len() > length {
            self.drop_line();
            return None;
        }
        if rest.len() < length {
            return None;
        }
        // Over packet and checksum together the CRC is 0.
        let packet = (CRC.checksum(rest) == 0).then(|| rest[..length - CHECKSUM].to_vec());
        if packet.is_none() {
            self.damage.checksums += 1;
        }
        self.packet.clear();
        packet
    }

    fn drop_line(&mut self) {
        self.damage.lines += 1;
        self.packet.clear();
        self.text.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(decoder: &mut Decoder, bytes: &[u8]) -> Vec<Vec<u8>> {
        bytes.iter().filter_map(|&b| decoder.push(b)).collect()
    }

    fn some_packet(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 7 + length) as u8).collect()
    }

    #[test]
    fn every_length_makes_the_round_trip() {
        let mut decoder = Decoder::default();
        for length in HEADER_LENGTH..=MAX_PACKET {
            let packet = some_packet(length);
            let lines = encode(&packet, LINE_LENGTH).unwrap();
            assert!(
                lines.iter().all(|line| line.len() <= LINE_LENGTH),
                "{length}"
            );
            assert_eq!(decode(&mut decoder, &lines.concat()), [packet], "{length}");
        }
        assert_eq!(decoder.damage(), Damage::default());
        assert!(encode(&[0; HEADER_LENGTH - 1], LINE_LENGTH).is_err());
        assert!(encode(&[0; MAX_PACKET + 1], LINE_LENGTH).is_err());
    }

    #[test]
    fn two_standard_lines_carry_182_bytes() {
        assert_eq!(packet_in(2, LINE_LENGTH), 182);
        assert_eq!(encode(&some_packet(182), LINE_LENGTH).unwrap().len(), 2);
        assert_eq!(encode(&some_packet(183), LINE_LENGTH).unwrap().len(), 3);
    }

    #[test]
    fn console_noise_is_passed_over() {
        let packet = some_packet(200);
        let lines = encode(&packet, LINE_LENGTH).unwrap();
        let noise: &[u8] = b"\x1b[32muart:~$ \x1b[0m[00:00:01] <inf> app: hello\r\n\r\n";
        let mut bytes = b"uart:~$ \x1b[8D\x1b[J".to_vec();
        for line in &lines {
            bytes.extend_from_slice(&line[..line.len() - 1]);
            bytes.extend_from_slice(b"\r\n");
            bytes.extend_from_slice(noise);
        }
        let mut decoder = Decoder::default();
        assert_eq!(decode(&mut decoder, &bytes), [packet]);
        assert_eq!(decoder.damage(), Damage::default());
    }

    #[test]
    fn a_damaged_or_aborted_packet_is_dropped_and_the_next_one_read() {
        let packet = some_packet(150);
        let lines = encode(&packet, LINE_LENGTH).unwrap();
        let whole = lines.concat();
        let mut flipped = whole.clone();
        flipped[20] ^= 1;
        let log_inside = [&lines[0][..50], b"<wrn> log\n", &lines[0][50..], &lines[1]].concat();
        let cases = [
            lines[0].clone(),                 // aborted after a line
            whole[..70].to_vec(),             // aborted in a line
            lines[1].clone(),                 // only the end
            flipped,                          // a bit error
            log_inside,                       // a log line inside a frame line
            [&lines[0][..], &whole].concat(), // a line twice
            b"\x06\x09\n\x06\x09AA==\n\x06\x09////////\n".to_vec(),
            vec![b'x'; 3 * MAX_TEXT],
            [START.to_vec(), vec![b'A'; 3 * MAX_TEXT]].concat(),
        ];
        for (index, case) in cases.iter().enumerate() {
            let mut decoder = Decoder::default();
            let mut bytes = case.clone();
            bytes.extend_from_slice(&whole);
            let found = decode(&mut decoder, &bytes);
            assert_eq!(found.last(), Some(&packet), "case {index}");
            assert!(found.iter().all(|p| *p == packet), "case {index}");
        }
    }

    proptest! {
        #[test]
        fn any_line_length_makes_the_round_trip(length in HEADER_LENGTH..1200, line in 0usize..400) {
            let packet = some_packet(length);
            let lines = encode(&packet, line).unwrap();
            prop_assert!(lines.iter().all(|l| l.len() <= line.max(SHORTEST_LINE)));
            prop_assert_eq!(decode(&mut Decoder::default(), &lines.concat()), [packet]);
        }

        #[test]
        fn noise_neither_panics_nor_swallows_the_packet_after_the_next_newline(
            noise in proptest::collection::vec(prop_oneof![
                any::<u8>(), Just(0x06), Just(0x09), Just(0x04), Just(0x14), Just(b'\n'), Just(b'A'), Just(b'=')
            ], 0..600),
        ) {
            let packet = some_packet(100);
            let mut bytes = noise;
            bytes.push(b'\n');
            bytes.extend(encode(&packet, LINE_LENGTH).unwrap().concat());
            let mut decoder = Decoder::default();
            let found = decode(&mut decoder, &bytes);
            prop_assert_eq!(found.last(), Some(&packet));
            prop_assert!(decoder.packet.capacity() <= 2 * MAX_TEXT);
        }

        #[test]
        fn a_changed_byte_never_yields_another_packet(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let packet = some_packet(170);
            let mut bytes = encode(&packet, LINE_LENGTH).unwrap().concat();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            bytes.push(b'\n');
            for found in decode(&mut Decoder::default(), &bytes) {
                prop_assert_eq!(&found, &packet);
            }
        }
    }
}
