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
    /// With `DMUS_NO_AVX2` in the environment it is as if the processor had none, to hold both ways against each other.
    pub(super) fn detect() -> Option<Self> {
        let unwanted = std::env::var_os("DMUS_NO_AVX2").is_some_and(|value| !value.is_empty());
        (!unwanted && std::arch::is_x86_feature_detected!("avx2")).then_some(Self(()))
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
/// in the pool, no step reaches further than a turn, and a turn leads to 1 or more. Numbers are compared as they are:
/// a sum could wrap, and let pass what it should refuse.
#[target_feature(enable = "avx2")]
fn stays_inside(group: &Group, pool: &[i16]) -> bool {
    // The first end that is none, which a step must not carry past the greatest number.
    let limit = (pool.len() + 1).checked_sub(GUARD).and_then(|limit| i32::try_from(limit).ok());
    let Some(limit) = limit.filter(|limit| limit.checked_add(LONGEST_STEP + 1).is_some()) else {
        return false;
    };
    let (at, end, turn, step) =
        (load_words(&group.at), load_words(&group.end), load_words(&group.turn), load_words(&group.step));
    let fractions = _mm256_or_si256(load_words(&group.fraction), load_words(&group.step_fraction));
    let (zero, all) = (_mm256_setzero_si256(), _mm256_set1_epi32(-1));
    // All ones where it is so. Fractions have 31 bits, which makes a carry no more than one.
    let right = [
        _mm256_cmpgt_epi32(at, zero),
        _mm256_cmpgt_epi32(end, at),
        _mm256_cmpgt_epi32(_mm256_set1_epi32(limit), end),
        _mm256_cmpgt_epi32(step, all),
        _mm256_cmpgt_epi32(_mm256_set1_epi32(LONGEST_STEP + 1), step),
        _mm256_cmpgt_epi32(turn, _mm256_set1_epi32(SILENT_TURN - 1)),
        _mm256_cmpgt_epi32(end, turn),
        _mm256_cmpgt_epi32(fractions, all),
    ];
    let both = right.into_iter().fold(all, |both, right| _mm256_and_si256(both, right));
    _mm256_movemask_epi8(both) == -1
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

#[cfg(test)]
mod tests {
    use super::super::SILENT_END;
    use super::*;
    use crate::bank::SILENCE;

    const EDGES: [i32; 10] =
        [i32::MIN, -1, 0, 1, SILENT_TURN, SILENT_END - 1, SILENT_END, SILENT_END + 1, i32::MAX - 1, i32::MAX];

    /// The rule in numbers that do not wrap.
    fn is_inside(group: &Group, lane: usize, len: usize) -> bool {
        let [at, end, turn, step] =
            [&group.at, &group.end, &group.turn, &group.step].map(|words| i64::from(words[lane]));
        let fractions = [group.fraction[lane], group.step_fraction[lane]];
        (1..end).contains(&at)
            && end + i64::try_from(GUARD).expect("small") <= i64::try_from(len).expect("small")
            && (0..turn).contains(&step)
            && step <= i64::from(LONGEST_STEP)
            && (i64::from(SILENT_TURN)..end).contains(&turn)
            && fractions.iter().all(|fraction| *fraction >= 0)
    }

    #[test]
    fn no_number_at_the_edge_of_its_width_passes_for_a_position_inside() {
        if Available::detect().is_none() {
            return;
        }
        let pool = [0; SILENCE + GUARD];
        let mut inside = 0;
        for at in EDGES {
            for end in EDGES {
                for turn in EDGES {
                    for (step, fraction) in [(0, 0), (-1, 0), (LONGEST_STEP, 5), (LONGEST_STEP + 1, 0), (1, -1)] {
                        let mut group = Group::SILENT;
                        let lane = inside % LANES;
                        (group.at[lane], group.end[lane], group.turn[lane]) = (at, end, turn);
                        (group.step[lane], group.step_fraction[lane]) = (step, fraction);
                        let expected = is_inside(&group, lane, pool.len());
                        // SAFETY: `detect` has found AVX2.
                        let found = unsafe { stays_inside(&group, &pool) };
                        assert_eq!(found, expected, "{at} {end} {turn} {step} {fraction}");
                        inside += usize::from(found);
                    }
                }
            }
        }
        assert!(inside > 8, "some are right");
    }
}
