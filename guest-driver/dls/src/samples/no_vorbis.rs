//! In place of a decoder, where there is no standard library: compressed samples have no length, and are left out.

use alloc::vec::Vec;

pub(super) fn samples(_: &[u8]) -> usize {
    0
}

pub(super) fn decode(_: &[u8], _: usize, _: &mut Vec<i16>) {}
