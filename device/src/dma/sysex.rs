//! Copies of long messages that look at what they copy: one pass over guest memory, which is read once.
//!
//! Fed by the windows with places in the guest's buffers; feeds the private copy, and the plain path with whether that
//! is one message. With AVX2 32 bytes a step, else 8, with the same outcome.

use super::copy;
use core::arch::asm;
use core::arch::x86_64::{__m256i, _mm256_and_si256, _mm256_movemask_epi8, _mm256_or_si256, _mm256_storeu_si256};

/// Copies `to.len()` bytes; says whether they are a SysEx message: F0, bytes below 0x80, F7.
///
/// # Safety
/// So many bytes from `from` on can be read, and are not `to`; other processes may write to them meanwhile.
#[inline]
pub(super) unsafe fn copy_sysex(from: *const u8, to: &mut [u8]) -> bool {
    if to.len() < 2 {
        // SAFETY: the caller's.
        unsafe { copy(from, to.as_mut_ptr(), to.len()) };
        return false;
    }
    let inside = match std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the caller's, and the processor has AVX2.
        true => unsafe { vectors(from, to) },
        // SAFETY: the caller's.
        false => unsafe { words(from, to) },
    };
    inside && to.first() == Some(&0xF0) && to.last() == Some(&0xF7)
}

/// Whether none of these private bytes is 0x80 or above.
fn all_data(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, byte| all | byte) < 0x80
}

/// Bytes of a vector.
const STEP: usize = size_of::<__m256i>();

/// Copies 2 bytes or more; whether all but the first and the last of the copy are below 0x80.
///
/// # Safety
/// As [`copy_sysex`], on a processor with AVX2.
#[target_feature(enable = "avx2")]
unsafe fn vectors(from: *const u8, to: &mut [u8]) -> bool {
    /// All bits but those of the first byte, and those of the last one.
    static MASKS: [[u8; STEP]; 2] = {
        let mut masks = [[0xFF; STEP]; 2];
        masks[0][0] = 0;
        masks[1][STEP - 1] = 0;
        masks
    };
    let len = to.len();
    if len <= STEP {
        // SAFETY: the caller's.
        return unsafe { rest(from, to, 0) };
    }
    // The last step is of 1 to 32 bytes.
    let last = (len - 1) & !(STEP - 1);
    let place = to.as_mut_ptr();
    // SAFETY: each step but the last is 32 bytes below `last`, which is below `len`; so is the last one where it is
    // whole. Any bytes are valid.
    unsafe {
        let step = |at: usize| {
            let vector = load(from, at);
            _mm256_storeu_si256(place.add(at).cast(), vector);
            vector
        };
        let mask = |mask: &[u8; STEP]| mask.as_ptr().cast::<__m256i>().read_unaligned();
        let mut all = _mm256_and_si256(step(0), mask(&MASKS[0]));
        let mut at = STEP;
        // Two steps a round, after one by itself if they are odd in number.
        if last & STEP == 0 {
            all = _mm256_or_si256(all, step(at));
            at += STEP;
        }
        while at < last {
            all = _mm256_or_si256(all, _mm256_or_si256(step(at), step(at + STEP)));
            at += 2 * STEP;
        }
        if last + STEP == len {
            all = _mm256_or_si256(all, _mm256_and_si256(step(last), mask(&MASKS[1])));
            return _mm256_movemask_epi8(all) == 0;
        }
        rest(from, to, last) && _mm256_movemask_epi8(all) == 0
    }
}

/// Copies from place `at` on; whether all but the first byte of the whole and the last are below 0x80.
///
/// # Safety
/// As [`copy_sysex`].
#[inline(never)]
unsafe fn rest(from: *const u8, to: &mut [u8], at: usize) -> bool {
    let last = to.len() - 1;
    // SAFETY: the caller's: `at` is in `to`.
    unsafe { copy(from.add(at), to.as_mut_ptr().add(at), to.len() - at) };
    to.get(at.max(1)..last).is_none_or(all_data)
}

/// Loads a vector from memory that others may write to: once, whatever the compiler makes of the rest.
///
/// # Safety
/// 32 bytes at place `at` can be read, on a processor with AVX.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(from: *const u8, at: usize) -> __m256i {
    let vector;
    // SAFETY: the caller's; nothing but the register is changed.
    unsafe {
        asm!("vmovdqu {}, [{} + {}]", out(ymm_reg) vector, in(reg) from, in(reg) at,
            options(nostack, readonly, preserves_flags));
    }
    vector
}

/// As [`vectors`], on any processor.
///
/// # Safety
/// As [`copy_sysex`].
unsafe fn words(from: *const u8, to: &mut [u8]) -> bool {
    // SAFETY: the caller's.
    unsafe { copy(from, to.as_mut_ptr(), to.len()) };
    let inside = to.get(1..to.len() - 1).unwrap_or(&[]);
    let (words, rest) = inside.as_chunks::<8>();
    let all = words.iter().fold(0, |all, word| all | u64::from_ne_bytes(*word));
    all & 0x8080_8080_8080_8080 == 0 && all_data(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmus_interface::event::is_message;
    use proptest::prelude::*;

    /// Both ways, which must not differ.
    fn both(from: &[u8]) -> (Vec<u8>, bool) {
        let [mut fast, mut plain] = [vec![0; from.len()], vec![0; from.len()]];
        // SAFETY: so many bytes are there.
        let (judged, inside) = unsafe { (copy_sysex(from.as_ptr(), &mut fast), words(from.as_ptr(), &mut plain)) };
        assert_eq!(fast, plain);
        assert_eq!(judged, inside && from.first() == Some(&0xF0) && from.last() == Some(&0xF7));
        (fast, judged)
    }

    proptest! {
        #[test]
        fn what_is_copied_is_judged_as_a_message(
            len in 2usize..400,
            wrong in proptest::option::of((0usize..400, any::<u8>())),
        ) {
            let mut message = vec![0x7F; len];
            message[0] = 0xF0;
            message[len - 1] = 0xF7;
            if let Some((place, byte)) = wrong {
                message[place % len] = byte;
            }
            let (copied, judged) = both(&message);
            prop_assert_eq!(&copied, &message);
            prop_assert_eq!(judged, message[0] == 0xF0 && is_message(&message));
        }
    }

    #[test]
    fn a_status_byte_is_found_at_every_place() {
        for len in 3..200 {
            for place in 1..len - 1 {
                let mut message = vec![0; len];
                message[0] = 0xF0;
                message[len - 1] = 0xF7;
                assert!(both(&message).1);
                message[place] = 0x80;
                assert!(!both(&message).1, "{place} of {len}");
            }
        }
    }
}
