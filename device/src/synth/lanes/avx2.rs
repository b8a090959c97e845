//! The eight lanes of a group at once, on processors that have AVX2.
//!
//! Fed as `lanes` is, whose sums it repeats in the same order: no products are fused with sums, so that the bits are
//! the same.

use super::{FRACTION, FRACTION_SCALE, Group, LANES, LONGEST_STEP, Lane, Mix, SEND_SCALE, SILENT_TURN};
use crate::bank::GUARD;
use core::arch::x86_64::*;

/// Proof that the processor has AVX2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Available(());

impl Available {
    pub(super) fn detect() -> Option<Self> {
        std::arch::is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    /// Renders cubic or linear, with filters or without, with sends or without.
    pub(super) fn render(
        self,
        group: &mut Group,
        pool: &[i16],
        mix: &mut Mix,
        samples: usize,
        variant: (bool, bool, bool),
    ) {
        // SAFETY: `self` exists only where `detect` found AVX2.
        unsafe {
            match variant {
                (false, false, false) => blend::<false, false, false>(group, pool, mix, samples),
                (false, false, true) => blend::<false, false, true>(group, pool, mix, samples),
                (false, true, false) => blend::<false, true, false>(group, pool, mix, samples),
                (false, true, true) => blend::<false, true, true>(group, pool, mix, samples),
                (true, false, false) => blend::<true, false, false>(group, pool, mix, samples),
                (true, false, true) => blend::<true, false, true>(group, pool, mix, samples),
                (true, true, false) => blend::<true, true, false>(group, pool, mix, samples),
                (true, true, true) => blend::<true, true, true>(group, pool, mix, samples),
            }
        }
    }
}

#[target_feature(enable = "avx2")]
fn load(from: &Lane) -> __m256 {
    // SAFETY: a reference to eight floats is valid for a read of 32 bytes; no alignment is asked for.
    unsafe { _mm256_loadu_ps(from.as_ptr()) }
}

#[target_feature(enable = "avx2")]
fn store(to: &mut Lane, value: __m256) {
    // SAFETY: a unique reference to eight floats is valid for a write of 32 bytes; no alignment is asked for.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), value) }
}

#[target_feature(enable = "avx2")]
fn load_words(from: &[i32; LANES]) -> __m256i {
    // SAFETY: a reference to eight words is valid for a read of 32 bytes; no alignment is asked for.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn store_words(to: &mut [i32; LANES], value: __m256i) {
    // SAFETY: a unique reference to eight words is valid for a write of 32 bytes; no alignment is asked for.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), value) }
}

/// A sample's low and high half as numbers: the one at an index, and its successor.
#[target_feature(enable = "avx2")]
fn pair(words: __m256i) -> (__m256, __m256) {
    let low = _mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(words));
    (_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(_mm256_srai_epi32::<16>(words)))
}

/// Whether no position can leave the pool, whatever the number of samples: each lies in 1..end, end and its guard lie
/// in the pool, no step reaches further than a turn, and a turn leads to 1 or more.
#[target_feature(enable = "avx2")]
fn stays_inside(group: &Group, pool: &[i16]) -> bool {
    let Some(last) = pool.len().checked_sub(GUARD).and_then(|last| i32::try_from(last).ok()) else {
        return false;
    };
    let (at, end, turn, step) =
        (load_words(&group.at), load_words(&group.end), load_words(&group.turn), load_words(&group.step));
    let fractions = _mm256_or_si256(load_words(&group.fraction), load_words(&group.step_fraction));
    let zero = _mm256_setzero_si256();
    // All ones where something is wrong. Fractions have 31 bits, which makes a carry no more than one.
    let wrong = [
        _mm256_cmpgt_epi32(_mm256_set1_epi32(1), at),
        _mm256_cmpgt_epi32(at, _mm256_sub_epi32(end, _mm256_set1_epi32(1))),
        _mm256_cmpgt_epi32(end, _mm256_set1_epi32(last)),
        _mm256_cmpgt_epi32(zero, step),
        _mm256_cmpgt_epi32(step, _mm256_set1_epi32(LONGEST_STEP)),
        _mm256_cmpgt_epi32(_mm256_set1_epi32(SILENT_TURN), turn),
        _mm256_cmpgt_epi32(_mm256_add_epi32(turn, _mm256_set1_epi32(1)), end),
        _mm256_cmpgt_epi32(zero, fractions),
    ];
    let any = wrong.into_iter().fold(zero, |any, wrong| _mm256_or_si256(any, wrong));
    _mm256_testz_si256(any, any) != 0
}

#[target_feature(enable = "avx2")]
fn blend<const CUBIC: bool, const FILTER: bool, const SEND: bool>(
    group: &mut Group,
    pool: &[i16],
    mix: &mut Mix,
    samples: usize,
) {
    if !stays_inside(group, pool) {
        // Bounds are checked there sample by sample.
        debug_assert!(false, "a lane has left its wave");
        return group.blend::<CUBIC, FILTER, SEND>(pool, mix, samples);
    }
    let [half, three_halves] = [0.5, 1.5].map(|x| _mm256_set1_ps(x));
    let scale = _mm256_set1_ps(FRACTION_SCALE);
    let send_scale = _mm256_set1_ps(SEND_SCALE);
    let fraction_bits = _mm256_set1_epi32(FRACTION.cast_signed());
    let (mut at, mut fraction) = (load_words(&group.at), load_words(&group.fraction));
    let (step, step_fraction) = (load_words(&group.step), load_words(&group.step_fraction));
    let last = _mm256_sub_epi32(load_words(&group.end), _mm256_set1_epi32(1));
    let turn = load_words(&group.turn);
    let wet = _mm256_castsi256_ps(load_words(&group.wet));
    let (b, a1, a2) = (load(&group.b), load(&group.a1), load(&group.a2));
    let (mut w1, mut w2) = (load(&group.w1), load(&group.w2));
    let (mut left, mut right) = (load(&group.left), load(&group.right));
    let (left_step, right_step) = (load(&group.left_step), load(&group.right_step));
    let (reverb, chorus) = (load(&group.reverb), load(&group.chorus));
    let now_and_next: *const i32 = pool.as_ptr().cast();
    let before_and_now: *const i32 = pool.as_ptr().wrapping_sub(1).cast();
    let next_and_after: *const i32 = pool.as_ptr().wrapping_add(1).cast();

    let rows = mix.left.iter_mut().zip(&mut mix.right).zip(mix.reverb.iter_mut().zip(&mut mix.chorus));
    for ((out_left, out_right), (out_reverb, out_chorus)) in rows.take(samples) {
        let weight = _mm256_mul_ps(_mm256_cvtepi32_ps(fraction), scale);
        let mut x = if CUBIC {
            // SAFETY: the positions lie in 1..pool.len() - GUARD by `stays_inside` and by the turn below, so that the
            // four samples from the one before on lie in the pool. A gather asks for no alignment.
            let (early, late) = unsafe {
                (_mm256_i32gather_epi32::<2>(before_and_now, at), _mm256_i32gather_epi32::<2>(next_and_after, at))
            };
            let ((before, now), (next, after)) = (pair(early), pair(late));
            let rise = _mm256_sub_ps(next, before);
            let slope = _mm256_mul_ps(half, rise);
            let bend = _mm256_add_ps(
                _mm256_mul_ps(half, _mm256_sub_ps(after, before)),
                _mm256_mul_ps(three_halves, _mm256_sub_ps(now, next)),
            );
            let lift = _mm256_sub_ps(_mm256_add_ps(_mm256_sub_ps(before, now), slope), bend);
            let cubic = _mm256_add_ps(_mm256_mul_ps(bend, weight), lift);
            let square = _mm256_add_ps(_mm256_mul_ps(cubic, weight), slope);
            _mm256_add_ps(_mm256_mul_ps(square, weight), now)
        } else {
            // SAFETY: the positions lie in 1..pool.len() - GUARD by `stays_inside` and by the turn below, so that the
            // two samples from there on lie in the pool. A gather asks for no alignment.
            let (now, next) = pair(unsafe { _mm256_i32gather_epi32::<2>(now_and_next, at) });
            _mm256_add_ps(_mm256_mul_ps(_mm256_sub_ps(next, now), weight), now)
        };

        let sum = _mm256_add_epi32(fraction, step_fraction);
        fraction = _mm256_and_si256(sum, fraction_bits);
        // The carry is the top bit: shifted down with its sign it is minus one.
        let further = _mm256_sub_epi32(step, _mm256_srai_epi32::<31>(sum));
        at = _mm256_add_epi32(at, further);
        // A step is less than a turn, so one turn brings a position back before the end.
        at = _mm256_sub_epi32(at, _mm256_and_si256(_mm256_cmpgt_epi32(at, last), turn));

        if FILTER {
            let w = _mm256_sub_ps(_mm256_sub_ps(x, _mm256_mul_ps(a1, w1)), _mm256_mul_ps(a2, w2));
            let y = _mm256_mul_ps(b, _mm256_add_ps(_mm256_add_ps(w, w2), _mm256_add_ps(w1, w1)));
            (w2, w1) = (w1, w);
            x = _mm256_blendv_ps(x, y, wet);
        }
        let (to_left, to_right) = (_mm256_mul_ps(x, left), _mm256_mul_ps(x, right));
        store(out_left, _mm256_add_ps(load(out_left), to_left));
        store(out_right, _mm256_add_ps(load(out_right), to_right));
        if SEND {
            let both = _mm256_mul_ps(_mm256_add_ps(to_left, to_right), send_scale);
            store(out_reverb, _mm256_add_ps(load(out_reverb), _mm256_mul_ps(both, reverb)));
            store(out_chorus, _mm256_add_ps(load(out_chorus), _mm256_mul_ps(both, chorus)));
        }
        left = _mm256_add_ps(left, left_step);
        right = _mm256_add_ps(right, right_step);
    }
    store_words(&mut group.at, at);
    store_words(&mut group.fraction, fraction);
    store(&mut group.w1, w1);
    store(&mut group.w2, w2);
    store(&mut group.left, left);
    store(&mut group.right, right);
}
