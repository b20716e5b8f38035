//! What stands in a list twice: a registration ID, a device ID, an endorsement key or a certificate.
//!
//! Invariant: of lines that contradict one another none is taken, whatever their order; of lines that say the same, the
//! first is. What is kept of a line does not grow with what stands in it.

use crate::provision::bytes::Digest;
use std::collections::HashMap;

/// What no two lines of a list may share, each by its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The registration ID.
    pub registration_id: Digest,
    /// The device ID.
    pub device_id: Digest,
    /// The endorsement key, or the public key in the certificate.
    pub identity: Digest,
    /// All that the line says.
    pub whole: Digest,
}

/// The lines of a list that were seen.
#[derive(Debug, Default)]
pub struct Twice {
    lines: Vec<Seen>,
    /// By what they share: the first of `lines` with it.
    first: HashMap<Short, u32>,
}

/// Enough of a digest to tell the lines of one list apart.
type Short = [u8; 16];

#[derive(Debug)]
struct Seen {
    line: u64,
    whole: Short,
    /// The first line that shares something with it and says something else.
    against: Option<u32>,
}

impl Twice {
    /// Notes a line; each is noted once, in their order, before any is judged.
    ///
    /// # Panics
    /// Beyond four thousand million lines.
    pub fn note(&mut self, line: u64, keys: &Keys) {
        let own = u32::try_from(self.lines.len()).expect("a file of that size has no place");
        let whole = short(&keys.whole);
        for key in keys.parts() {
            let first = *self.first.entry(key).or_insert(own);
            if let Some(seen) = self.lines.get_mut(first as usize)
                && seen.whole != whole
            {
                seen.against.get_or_insert(own);
            }
        }
        self.lines.push(Seen {
            line,
            whole,
            against: None,
        });
    }

    /// The other line for the sake of which this one is not taken; none where it is.
    pub fn other(&self, line: u64, keys: &Keys) -> Option<u64> {
        let seen = |number: u32| self.lines.get(number as usize);
        let mut others = keys.parts().into_iter().filter_map(|key| {
            let first = seen(*self.first.get(&key)?)?;
            match first.line == line {
                true => seen(first.against?).map(|other| other.line),
                false => Some(first.line),
            }
        });
        others.next()
    }
}

impl Keys {
    /// Each part under a key of its own kind.
    fn parts(&self) -> [Short; 3] {
        [
            (b"r", &self.registration_id),
            (b"d", &self.device_id),
            (b"i", &self.identity),
        ]
        .map(|(kind, digest)| short(&Digest::of_parts(&[kind, &digest.0])))
    }
}

fn short(digest: &Digest) -> Short {
    let mut short = Short::default();
    short.copy_from_slice(&digest.0[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    fn keys(parts: (u8, u8, u8)) -> Keys {
        let digest = |number: u8| Digest::of(&[number]);
        Keys {
            registration_id: digest(parts.0),
            device_id: digest(parts.1),
            identity: digest(parts.2),
            whole: Digest::of(&[parts.0, parts.1, parts.2]),
        }
    }

    fn others(lines: &[(u8, u8, u8)]) -> Vec<Option<u64>> {
        let mut twice = Twice::default();
        let numbered = || (2..).zip(lines.iter().map(|parts| keys(*parts)));
        numbered().for_each(|(line, keys)| twice.note(line, &keys));
        numbered()
            .map(|(line, keys)| twice.other(line, &keys))
            .collect()
    }

    #[test]
    fn of_the_same_line_the_first_is_taken_and_of_contradictions_none() {
        assert_eq!(
            others(&[(1, 1, 1), (2, 2, 2), (1, 1, 1)]),
            [None, None, Some(2)]
        );
        for other in [(1, 9, 9), (9, 1, 9), (9, 9, 1)] {
            assert_eq!(
                others(&[(1, 1, 1), other, (5, 5, 5)]),
                [Some(3), Some(2), None]
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(131), ..ProptestConfig::default() })]

        #[test]
        fn no_two_lines_that_are_taken_share_anything(
            lines in prop::collection::vec((0u8..6, 0u8..6, 0u8..6), 0..12)
        ) {
            let found = others(&lines);
            let taken: Vec<_> = lines.iter().zip(&found).filter(|(_, other)| other.is_none()).collect();
            for (place, (one, _)) in taken.iter().enumerate() {
                for (two, _) in &taken[place + 1..] {
                    prop_assert!(one.0 != two.0 && one.1 != two.1 && one.2 != two.2);
                }
            }
            // A line that shares nothing with any other is always taken.
            for (place, line) in lines.iter().enumerate() {
                let shared = lines.iter().enumerate().any(|(other, l)| {
                    other != place && (l.0 == line.0 || l.1 == line.1 || l.2 == line.2)
                });
                prop_assert!(shared || found[place].is_none());
            }
        }
    }
}
