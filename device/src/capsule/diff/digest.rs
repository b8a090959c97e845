//! A hash over numbers and bytes, the same in each process.
//!
//! Fed by steps and observations; feeds the first pass, which keeps nothing else of them.

use std::hash::{DefaultHasher, Hasher};

/// See the module. Of 64 bits: only steps of one place are compared, so of a billion differences one goes unseen by
/// chance once in twenty billion comparisons.
#[derive(Clone, Debug)]
pub(super) struct Digest(DefaultHasher);

impl Digest {
    pub(super) fn new() -> Self {
        Self(DefaultHasher::new())
    }

    pub(super) fn number(&mut self, number: u64) -> &mut Self {
        self.0.write_u64(number);
        self
    }

    pub(super) fn signed(&mut self, number: i64) -> &mut Self {
        self.number(number.cast_unsigned())
    }

    /// With their number, so that no two lists of them are alike.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64);
        self.0.write(bytes);
        self
    }

    pub(super) fn samples(&mut self, samples: &[i16]) -> &mut Self {
        self.number(samples.len() as u64);
        for four in samples.chunks(4) {
            self.number(four.iter().fold(0, |word, sample| word << 16 | u64::from(sample.cast_unsigned())));
        }
        self
    }

    /// Never 0, which stands for nothing.
    pub(super) fn finish(&self) -> u64 {
        self.0.finish().max(1)
    }
}
