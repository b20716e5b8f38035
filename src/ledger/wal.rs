//! SQLite's write-ahead log, read by hand.
//!
//! SQLite ends the log at the first frame that does not add up and says nothing: after damage, acknowledged events
//! would be gone without a trace. Source of the format: SQLite "Database File Format", section 4.

/// Bytes before the first frame.
const HEADER: usize = 32;

/// Bytes of a frame before its page.
const FRAME_HEADER: usize = 24;

/// First four bytes of a log whose checksums take words as little-endian; with the lowest bit set, as big-endian.
const MAGIC: u32 = 0x377f_0682;

/// The only version of the format.
const VERSION: u32 = 3_007_000;

/// Something in the log that does not add up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalDamage {
    /// The header.
    Header,
    /// A frame, counted from 1.
    Frame(usize),
}

/// Checks the bytes of a log. An empty log is whole.
///
/// A frame whose salts both differ from the header's is left from before the log was last begun anew, and ends it. One
/// that has either salt claims to belong to it. A last frame that the file does not hold whole is what a killed
/// process leaves, and was never acknowledged.
pub fn check(log: &[u8]) -> Vec<WalDamage> {
    if log.is_empty() {
        return Vec::new();
    }
    let Some(header) = Header::parse(log) else {
        return vec![WalDamage::Header];
    };
    let mut damages = Vec::new();
    let mut checksum = header.checksum;
    let mut ended = false;
    for (index, frame) in log[HEADER..]
        .chunks_exact(FRAME_HEADER + header.page_size)
        .enumerate()
    {
        let ours = [word(frame, 8), word(frame, 12)]
            .iter()
            .zip(header.salts)
            .filter(|(found, salt)| **found == *salt)
            .count();
        let found = (word(frame, 16), word(frame, 20));
        if ours == 0 {
            ended = true;
            continue;
        }
        let computed = header.sum(header.sum(checksum, &frame[..8]), &frame[FRAME_HEADER..]);
        if ended || ours == 1 || computed != found || word(frame, 0) == 0 {
            damages.push(WalDamage::Frame(index + 1));
        }
        // Each checksum goes on from the one before; going on from the stored one keeps damage from spreading.
        checksum = found;
    }
    damages
}

/// What the header says.
struct Header {
    page_size: usize,
    salts: [u32; 2],
    checksum: (u32, u32),
    big_endian: bool,
}

impl Header {
    fn parse(log: &[u8]) -> Option<Self> {
        let bytes = log.get(..HEADER)?;
        let page_size = usize::try_from(word(bytes, 8)).ok()?;
        let header = Self {
            page_size,
            salts: [word(bytes, 16), word(bytes, 20)],
            checksum: (word(bytes, 24), word(bytes, 28)),
            big_endian: word(bytes, 0) & 1 == 1,
        };
        let sound = word(bytes, 0) & !1 == MAGIC
            && word(bytes, 4) == VERSION
            && page_size.is_power_of_two()
            && (512..=65_536).contains(&page_size)
            && header.sum((0, 0), &bytes[..24]) == header.checksum;
        sound.then_some(header)
    }

    /// The log's checksum of `bytes`, whose length is a multiple of 8, going on from `(s0, s1)`.
    fn sum(&self, (mut s0, mut s1): (u32, u32), bytes: &[u8]) -> (u32, u32) {
        for pair in bytes.chunks_exact(8) {
            let (x0, x1) = match self.big_endian {
                true => (word(pair, 0), word(pair, 4)),
                false => (word(pair, 0).swap_bytes(), word(pair, 4).swap_bytes()),
            };
            s0 = s0.wrapping_add(x0).wrapping_add(s1);
            s1 = s1.wrapping_add(x1).wrapping_add(s0);
        }
        (s0, s1)
    }
}

/// The big-endian word at `offset`, which the caller knows to be inside.
fn word(bytes: &[u8], offset: usize) -> u32 {
    bytes[offset..offset + 4]
        .iter()
        .fold(0, |word, &byte| word << 8 | u32::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_log_is_whole_and_a_short_one_is_not() {
        assert_eq!(check(&[]), []);
        assert_eq!(check(&[0; HEADER - 1]), [WalDamage::Header]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(log in proptest::collection::vec(any::<u8>(), 0..3000)) {
            check(&log);
        }
    }
}
