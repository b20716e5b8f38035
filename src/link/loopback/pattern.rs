//! The test pattern of a loopback, and the comparison of what was sent with what came back.

use crate::provision::loopback::Errors;

/// Length of a block, in bytes: its number in four bytes, then [`PRBS_LENGTH`] bytes of the sequence, then the
/// walking bytes.
const BLOCK: usize = 64;
/// Bytes of pseudo-random sequence in a block.
const PRBS_LENGTH: usize = 44;
/// How far a place is looked for after a loss or an insertion, in bytes: more than the 4096 that the Linux terminal
/// buffers.
const RESYNC_MAX: usize = 8192;
/// How many bytes are compared to find the place, the most. Wherever they begin, they hold at least 12 bytes of the
/// sequence, which are found at one place of the pattern only.
const WINDOW: usize = 32;
/// How many bytes after a wrong one are compared to see whether only that one is wrong.
const NEAR: usize = 8;

/// `length` bytes in numbered blocks of PRBS-23 (x^23 + x^18 + 1, ITU-T O.150) and of a one and a zero that walk
/// through a byte.
pub fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x7f_ffff;
    let walking = (0..8).map(|bit| 1u8 << bit);
    let walking: Vec<u8> = walking.clone().chain(walking.map(|byte| !byte)).collect();
    let mut bytes = Vec::with_capacity(length + BLOCK);
    for number in 0u32.. {
        if bytes.len() >= length {
            break;
        }
        bytes.extend(number.to_be_bytes());
        bytes.extend((0..PRBS_LENGTH).map(|_| prbs_byte(&mut state)));
        bytes.extend(&walking);
    }
    bytes.truncate(length);
    bytes
}

fn prbs_byte(state: &mut u32) -> u8 {
    (0..8).fold(0, |byte, _| {
        let bit = (*state >> 22 ^ *state >> 17) & 1;
        *state = (*state << 1 | bit) & 0x7f_ffff;
        byte << 1 | bit as u8
    })
}

/// Counts what is wrong with `received`. After a loss or an insertion the place is found again; where it cannot be,
/// the bytes count as wrong ones.
pub fn compare(sent: &[u8], received: &[u8]) -> Errors {
    let mut errors = Errors::default();
    let (mut sent, mut received) = (sent, received);
    loop {
        let same = equal_start(sent, received);
        (sent, received) = (&sent[same..], &received[same..]);
        if sent.is_empty() || received.is_empty() {
            errors.lost += sent.len() as u64;
            errors.extra += received.len() as u64;
            return errors;
        }
        match place(sent, received) {
            Place::Lost(count) => {
                errors.lost += count as u64;
                sent = &sent[count..];
            }
            Place::Extra(count) => {
                errors.extra += count as u64;
                received = &received[count..];
            }
            Place::Wrong(count) => {
                let pairs = sent.iter().zip(received).take(count);
                errors.bit_errors += pairs
                    .map(|(a, b)| u64::from((a ^ b).count_ones()))
                    .sum::<u64>();
                (sent, received) = (&sent[count..], &received[count..]);
            }
        }
    }
}

/// What explains that the first bytes differ, and by how many bytes.
enum Place {
    Lost(usize),
    Extra(usize),
    Wrong(usize),
}

fn place(sent: &[u8], received: &[u8]) -> Place {
    let shorter = sent.len().min(received.len());
    let near = NEAR.min(shorter - 1);
    if equal_count(&sent[1..=near], &received[1..=near]) * 4 >= near * 3 {
        return Place::Wrong(1);
    }
    let window = WINDOW.min(shorter);
    let mut best = (0, Place::Wrong(window));
    for shift in 1..=RESYNC_MAX {
        if let Some(rest) = sent.get(shift..) {
            let count = equal_count(&rest[..rest.len().min(window)], received);
            if count > best.0 {
                best = (count, Place::Lost(shift));
            }
        }
        if let Some(rest) = received.get(shift..) {
            let count = equal_count(&rest[..rest.len().min(window)], sent);
            if count > best.0 {
                best = (count, Place::Extra(shift));
            }
        }
        if best.0 == window {
            break;
        }
    }
    if best.0 * 4 >= window * 3 {
        best.1
    } else {
        Place::Wrong(window)
    }
}

fn equal_start(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn equal_count(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a == b).count()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn errors(bit_errors: u64, lost: u64, extra: u64) -> Errors {
        Errors {
            bit_errors,
            lost,
            extra,
        }
    }

    #[test]
    fn the_sequence_is_as_long_as_it_should_be_and_no_window_comes_twice() {
        let mut state = 0x7f_ffff;
        let bytes: Vec<u8> = (0..65_536).map(|_| prbs_byte(&mut state)).collect();
        let windows: std::collections::BTreeSet<&[u8]> = bytes.windows(4).collect();
        assert_eq!(windows.len(), bytes.len() - 3);
        // Seeded with ones, the first bit in which both taps have met a zero is the 19th.
        assert_eq!(&bytes[..3], [0, 0, 0b0011_1110]);
    }

    #[test]
    fn silence_is_loss_and_noise_is_no_panic() {
        let sent = pattern(1000);
        assert_eq!(compare(&sent, &[]), errors(0, 1000, 0));
        assert_eq!(compare(&[], &sent), errors(0, 0, 1000));
        let noise: Vec<u8> = sent
            .iter()
            .map(|byte| byte.wrapping_mul(167) ^ 0x5a)
            .collect();
        assert!(compare(&sent, &noise).bit_errors > 1000);
    }

    #[test]
    fn a_full_terminal_buffer_is_counted_whole() {
        let sent = pattern(16_384);
        for (at, count) in [(0, 4096), (5000, 4096), (5003, 64), (12_288, 4096)] {
            let mut received = sent.clone();
            received.drain(at..at + count);
            assert_eq!(
                compare(&sent, &received),
                errors(0, count as u64, 0),
                "{at}"
            );
        }
    }

    /// One fault for each stretch of 200 bytes: far enough apart to be told from one another.
    #[derive(Clone, Debug)]
    enum Injected {
        None,
        Flip(u8),
        Drop(usize),
        Insert(Vec<u8>),
    }

    fn injected() -> impl Strategy<Value = Injected> {
        prop_oneof![
            Just(Injected::None),
            (1..=255u8).prop_map(Injected::Flip),
            // A whole block lost within two looks like bit errors in one and the loss of the other.
            (1..BLOCK).prop_map(Injected::Drop),
            prop::collection::vec(any::<u8>(), 1..80).prop_map(Injected::Insert),
        ]
    }

    proptest! {
        #[test]
        fn counted_is_what_was_injected(
            faults in prop::collection::vec((injected(), 0..60usize), 0..12)
        ) {
            let sent = pattern(200 * (faults.len() + 1));
            let mut received = Vec::new();
            let mut wanted = Errors::default();
            for (number, stretch) in sent.chunks(200).enumerate() {
                let mut stretch = stretch.to_vec();
                if let Some((fault, at)) = faults.get(number) {
                    match fault {
                        Injected::None => {}
                        Injected::Flip(bits) => {
                            stretch[*at] ^= bits;
                            wanted.bit_errors += u64::from(bits.count_ones());
                        }
                        Injected::Drop(count) => {
                            stretch.drain(at..&(at + count));
                            wanted.lost += *count as u64;
                        }
                        Injected::Insert(bytes) => {
                            stretch.splice(at..at, bytes.iter().copied());
                            wanted.extra += bytes.len() as u64;
                        }
                    }
                }
                received.extend(stretch);
            }
            prop_assert_eq!(compare(&sent, &received), wanted);
        }

        #[test]
        fn any_two_texts_can_be_compared(
            sent in prop::collection::vec(0..4u8, 0..300),
            received in prop::collection::vec(0..4u8, 0..300),
        ) {
            let found = compare(&sent, &received);
            let kept = sent.len() as u64 - found.lost;
            prop_assert_eq!(kept + found.extra, received.len() as u64);
        }
    }
}
