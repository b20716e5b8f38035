//! Bytes changed at random, from a seed.

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

/// The longest input that mutation makes, in bytes.
const LENGTH_MAX: usize = 16 * 1024;
/// Bytes that decide something: of CBOR, DER, the framing, and the ends of numbers.
const TELLING: [u8; 20] = [
    0x00, 0x01, 0x04, 0x06, 0x09, 0x0a, 0x14, 0x1b, 0x30, 0x3b, 0x5b, 0x5f, 0x7b, 0x7f, 0x80, 0x9b,
    0x9f, 0xbb, 0xbf, 0xff,
];

/// A source of random changes.
pub struct Mutator(TestRng);

impl Mutator {
    pub fn new(seed: u64) -> Self {
        let seed = [seed.to_be_bytes(); 2].concat();
        Self(TestRng::from_seed(RngAlgorithm::XorShift, &seed))
    }

    /// A random number.
    pub fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A random number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// One of the corpus, changed in up to eight places.
    pub fn mutate(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..self.below(8) {
            self.change(&mut bytes, corpus);
        }
        bytes.truncate(LENGTH_MAX);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        if bytes.is_empty() {
            return bytes.push(self.next() as u8);
        }
        let at = self.below(bytes.len());
        let end = at + 1 + self.below(bytes.len() - at);
        match self.below(8) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = TELLING[self.below(TELLING.len())],
            2 => bytes.insert(at, TELLING[self.below(TELLING.len())]),
            3 => drop(bytes.drain(at..end)),
            4 => bytes.truncate(at),
            5 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            6 => {
                // A number of one to eight bytes at an end of its range.
                let end = bytes.len().min(at + (1 << self.below(4)));
                bytes[at..end].fill([0x00, 0x7f, 0x80, 0xff][self.below(4)]);
            }
            _ => {
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len().max(1)).min(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
}
