//! What `fetch` and `render` do, with vectors: on processors that have AVX2.
//!
//! Fed as they are, whose sums it repeats in the same order: no products are fused with sums, so that the bits are the
//! same.

use super::fetch::Starts;
use super::mix::Bus;
use super::{BLOCKS, FRACTION, FRACTION_BITS, FRACTION_SCALE, Group, LANES, Lane, Mix, SEND_SCALE, bits};
use crate::synth::PERIOD;
use crate::synth::control::Control;
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

    /// A period has passed.
    pub(super) fn advance(self, control: &mut Control) {
        // SAFETY: `self` exists only where `detect` found AVX2.
        unsafe { advance(control) }
    }

    /// A control tick, as [`Group::tick`] says.
    pub(super) fn tick(self, group: &mut Group, rate: f32) -> u8 {
        // SAFETY: `self` exists only where `detect` found AVX2.
        unsafe { tick(group, rate) }
    }

    /// Fetches so many samples of some lanes, cubic or linear.
    pub(super) fn fetch(self, group: &mut Group, pool: &[i16], what: (usize, u8), cubic: bool) {
        // SAFETY: `self` exists only where `detect` found AVX2.
        unsafe {
            match cubic {
                false => fetch::<false>(group, pool, what),
                true => fetch::<true>(group, pool, what),
            }
        }
    }

    /// Mixes samples of a period, from a first one on, with sends or without.
    pub(super) fn blend(self, group: &mut Group, mix: &mut Mix, what: (usize, usize), sends: bool) {
        // SAFETY: `self` exists only where `detect` found AVX2.
        unsafe {
            match (group.filtered != 0, sends) {
                (false, false) => blend::<false, false>(group, mix, what),
                (false, true) => blend::<false, true>(group, mix, what),
                (true, false) => blend::<true, false>(group, mix, what),
                (true, true) => blend::<true, true>(group, mix, what),
            }
        }
    }

    /// Adds up what lies side by side in a bus.
    pub(super) fn join(self, bus: &mut Bus, blocks: usize) {
        // SAFETY: `self` exists only where `detect` found AVX2.
        unsafe { join(bus, blocks) }
    }
}

#[target_feature(enable = "avx2")]
fn advance(control: &mut Control) {
    control.advance_lanes();
}

#[target_feature(enable = "avx2")]
fn tick(group: &mut Group, rate: f32) -> u8 {
    group.tick_lanes(rate)
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

/// Eight samples.
///
/// # Safety
/// They are there.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn load_eight(from: *const i16) -> __m256i {
    // SAFETY: the caller's; no alignment is asked for.
    unsafe { _mm256_cvtepi16_epi32(_mm_loadu_si128(from.cast())) }
}

/// The first and the second samples of pairs, as numbers.
#[target_feature(enable = "avx2")]
fn split(pairs: __m256i) -> (__m256, __m256) {
    let first = _mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(pairs));
    (_mm256_cvtepi32_ps(first), _mm256_cvtepi32_ps(_mm256_srai_epi32::<16>(pairs)))
}

/// How far the samples of a block are, counted from its first: whole steps, and fractions to be added up.
struct Reach {
    steps: __m256i,
    fractions: __m256i,
}

/// How many samples of a wave those of a block are found among: for steps of 1 at most, of 2, or more.
const EIGHT: u32 = 0;
const SIXTEEN: u32 = 1;
const MORE: u32 = 2;

impl Reach {
    #[target_feature(enable = "avx2")]
    #[inline]
    fn new<const WIDTH: u32>(step: i32, fraction: u32) -> Self {
        let count = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let times = |step: i32| _mm256_mullo_epi32(count, _mm256_set1_epi32(step));
        if WIDTH == MORE {
            return Self { steps: times(step), fractions: times(fraction.cast_signed()) };
        }
        // Seven steps of no more than 2 fit a word, whole and fraction together.
        let fractions = times(((step.cast_unsigned() << FRACTION_BITS) + fraction).cast_signed());
        Self { steps: _mm256_setzero_si256(), fractions }
    }
}

/// The samples of a block.
///
/// # Safety
/// The position is one or more, and a sample before it is in the pool; and so are the furthest that is reached, and as
/// many after it as a guard has. Steps and fractions are such as reach no further than `WIDTH` says.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn block<const CUBIC: bool, const WIDTH: u32>(
    (at, fraction): (i32, u32),
    reach: &Reach,
    pool: &[i16],
) -> __m256 {
    let now = pool.as_ptr().wrapping_add(at.cast_unsigned() as usize);
    let sum = _mm256_add_epi32(_mm256_set1_epi32(fraction.cast_signed()), reach.fractions);
    let index = _mm256_srli_epi32::<{ FRACTION_BITS.cast_signed() }>(sum);
    let index = if WIDTH == MORE { _mm256_add_epi32(index, reach.steps) } else { index };
    let weight = _mm256_and_si256(sum, _mm256_set1_epi32(FRACTION.cast_signed()));
    let weight = _mm256_mul_ps(_mm256_cvtepi32_ps(weight), _mm256_set1_ps(FRACTION_SCALE));
    // SAFETY: what is read lies between the sample before the position and the guard after the furthest one: eight or
    // sixteen samples and three more, or, gathered, three more than the furthest. No alignment is asked for.
    let (before, now, next, after) = unsafe {
        if WIDTH == EIGHT {
            let at = |offset: isize| {
                _mm256_cvtepi32_ps(_mm256_permutevar8x32_epi32(load_eight(now.wrapping_offset(offset)), index))
            };
            if CUBIC { (at(-1), at(0), at(1), at(2)) } else { (at(0), at(0), at(1), at(1)) }
        } else {
            let (place, odd) = (_mm256_srli_epi32::<1>(index), _mm256_slli_epi32::<31>(index));
            let pairs = |offset: isize| {
                let from = now.wrapping_offset(offset);
                if WIDTH == MORE {
                    return split(_mm256_i32gather_epi32::<2>(from.cast(), index));
                }
                // Pairs that begin at an even place are in one row, the others in the next.
                let rows = [from, from.wrapping_add(1)].map(|row| _mm256_loadu_si256(row.cast()));
                let [even, other] = rows.map(|row| _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(row, place)));
                split(_mm256_castps_si256(_mm256_blendv_ps(even, other, _mm256_castsi256_ps(odd))))
            };
            if CUBIC {
                let ((before, now), (next, after)) = (pairs(-1), pairs(1));
                (before, now, next, after)
            } else {
                let (now, next) = pairs(0);
                (now, now, next, next)
            }
        }
    };
    let line = _mm256_add_ps(_mm256_mul_ps(_mm256_sub_ps(next, now), weight), now);
    if !CUBIC {
        return line;
    }
    let first = _mm256_add_ps(_mm256_sub_ps(before, _mm256_add_ps(now, now)), next);
    let second = _mm256_add_ps(_mm256_sub_ps(now, _mm256_add_ps(next, next)), after);
    let bend = _mm256_add_ps(_mm256_mul_ps(_mm256_sub_ps(second, first), weight), first);
    let part = _mm256_mul_ps(_mm256_set1_ps(0.5), _mm256_sub_ps(_mm256_mul_ps(weight, weight), weight));
    _mm256_add_ps(line, _mm256_mul_ps(part, bend))
}

/// Rows become columns.
#[target_feature(enable = "avx2")]
#[inline]
fn transpose(rows: &mut [Lane; LANES]) {
    let [a, b, c, d, e, f, g, h] = &*rows;
    let (a, b, c, d) = (load(a), load(b), load(c), load(d));
    let (e, f, g, h) = (load(e), load(f), load(g), load(h));
    let quarters = |a, b, c, d| {
        let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
        let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
        (
            _mm256_shuffle_ps::<0b01_00_01_00>(ab, cd),
            _mm256_shuffle_ps::<0b11_10_11_10>(ab, cd),
            _mm256_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high),
            _mm256_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high),
        )
    };
    let (upper, lower) = (quarters(a, b, c, d), quarters(e, f, g, h));
    store(&mut rows[0], _mm256_permute2f128_ps::<0x20>(upper.0, lower.0));
    store(&mut rows[1], _mm256_permute2f128_ps::<0x20>(upper.1, lower.1));
    store(&mut rows[2], _mm256_permute2f128_ps::<0x20>(upper.2, lower.2));
    store(&mut rows[3], _mm256_permute2f128_ps::<0x20>(upper.3, lower.3));
    store(&mut rows[4], _mm256_permute2f128_ps::<0x31>(upper.0, lower.0));
    store(&mut rows[5], _mm256_permute2f128_ps::<0x31>(upper.1, lower.1));
    store(&mut rows[6], _mm256_permute2f128_ps::<0x31>(upper.2, lower.2));
    store(&mut rows[7], _mm256_permute2f128_ps::<0x31>(upper.3, lower.3));
}

/// Adds to eight numbers.
#[target_feature(enable = "avx2")]
fn add_to(out: &mut Lane, x: __m256) {
    store(out, _mm256_add_ps(load(out), x));
}

/// A voice does not stray in a whole period, as in nearly all; or it does, or less is fetched.
const WHOLE: bool = true;
const PARTLY: bool = false;

/// The next samples of one voice.
#[target_feature(enable = "avx2")]
#[inline]
fn voice<const CUBIC: bool, const WIDTH: u32, const WAY: bool>(
    (group, lane): (&mut Group, usize),
    pool: &[i16],
    (starts, samples): (&Starts, usize),
) {
    let reach = Reach::new::<WIDTH>(group.step[lane], group.step_fraction[lane]);
    let samples = if WAY == WHOLE { PERIOD } else { samples };
    for at in 0..samples.div_ceil(LANES).min(BLOCKS) {
        let start = (starts.at[at][lane], starts.fraction[at][lane]);
        let x = if WAY == WHOLE || starts.strays[at][lane] == 0 {
            // SAFETY: `advance_positions` has found each sample, in this block or in all, before the end of a sound
            // that is in the pool with its guard, for steps that are not negative, and `WIDTH` is that of the lane.
            unsafe { block::<CUBIC, WIDTH>(start, &reach, pool) }
        } else {
            load(&group.fetch_some::<CUBIC>(pool, start, (lane, (samples - at * LANES).min(LANES))))
        };
        if let Some(to) = group.fetched[lane][PERIOD - samples + at * LANES..].first_chunk_mut() {
            store(to, x);
        }
    }
}

#[target_feature(enable = "avx2")]
fn fetch<const CUBIC: bool>(group: &mut Group, pool: &[i16], (samples, lanes): (usize, u8)) {
    let mut starts = Starts::NONE;
    group.advance_positions(&mut starts, pool.len(), samples);
    for lane in bits(lanes) {
        let what = (&starts, samples);
        match (starts.straying[lane] == 0 && samples == PERIOD, starts.reach[lane]) {
            (WHOLE, ..=1) => voice::<CUBIC, EIGHT, WHOLE>((group, lane), pool, what),
            (WHOLE, 2) => voice::<CUBIC, SIXTEEN, WHOLE>((group, lane), pool, what),
            (_, ..=1) => voice::<CUBIC, EIGHT, PARTLY>((group, lane), pool, what),
            (_, 2) => voice::<CUBIC, SIXTEEN, PARTLY>((group, lane), pool, what),
            _ => voice::<CUBIC, MORE, PARTLY>((group, lane), pool, what),
        }
    }
}

/// Eight samples of a lane from one in the period on.
#[target_feature(enable = "avx2")]
#[inline]
fn fetched(group: &Group, lane: usize, first: usize) -> __m256 {
    // Inside, since a lane has eight more than a period; a slice would have to be looked at again and again.
    let first = first.min(PERIOD);
    // SAFETY: eight floats from there on are in the lane's array; no alignment is asked for.
    unsafe { _mm256_loadu_ps(group.fetched[lane].as_ptr().add(first)) }
}

/// All ones in lanes that are filtered.
#[target_feature(enable = "avx2")]
fn mask(lanes: u8) -> __m256 {
    let bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    let set = _mm256_and_si256(_mm256_set1_epi32(i32::from(lanes)), bit);
    _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bit))
}

/// Adds samples of a period from a first one on to the mix.
#[target_feature(enable = "avx2")]
fn blend<const FILTER: bool, const SEND: bool>(group: &mut Group, mix: &mut Mix, (first, samples): (usize, usize)) {
    let send_scale = _mm256_set1_ps(SEND_SCALE);
    let mask = mask(group.filtered);
    let (b, a1, a2) = (load(&group.b), load(&group.a1), load(&group.a2));
    let (mut w1, mut w2) = (load(&group.w1), load(&group.w2));
    let (mut left, mut right) = (load(&group.left), load(&group.right));
    let (left_step, right_step) = (load(&group.left_step), load(&group.right_step));
    let (reverb, chorus) = (load(&group.reverb), load(&group.chorus));
    for block in 0..samples.div_ceil(LANES).min(BLOCKS) {
        let mut rows = [[0.0; LANES]; LANES];
        for (lane, row) in rows.iter_mut().enumerate() {
            store(row, fetched(group, lane, first + block * LANES));
        }
        transpose(&mut rows);
        let (out_left, out_right) = (&mut mix.left.lanes[block], &mut mix.right.lanes[block]);
        let (out_reverb, out_chorus) = (&mut mix.reverb.lanes[block], &mut mix.chorus.lanes[block]);
        let mut before = _mm256_add_ps(w1, w2);
        let mut next = |k: usize| {
            let mut x = load(&rows[k]);
            if FILTER {
                let w = _mm256_sub_ps(_mm256_sub_ps(x, _mm256_mul_ps(a2, w2)), _mm256_mul_ps(a1, w1));
                let sum = _mm256_add_ps(w, w1);
                x = _mm256_blendv_ps(x, _mm256_mul_ps(b, _mm256_add_ps(sum, before)), mask);
                (w2, w1, before) = (w1, w, sum);
            }
            let (to_left, to_right) = (_mm256_mul_ps(x, left), _mm256_mul_ps(x, right));
            (left, right) = (_mm256_add_ps(left, left_step), _mm256_add_ps(right, right_step));
            add_to(&mut out_left[k], to_left);
            add_to(&mut out_right[k], to_right);
            if SEND {
                let both = _mm256_mul_ps(_mm256_add_ps(to_left, to_right), send_scale);
                add_to(&mut out_reverb[k], _mm256_mul_ps(both, reverb));
                add_to(&mut out_chorus[k], _mm256_mul_ps(both, chorus));
            }
        };
        // A whole block by itself, so that it is unrolled.
        match (samples - block * LANES).min(LANES) {
            LANES => (0..LANES).for_each(&mut next),
            count => (0..count).for_each(&mut next),
        }
    }
    store(&mut group.left, left);
    store(&mut group.right, right);
    if FILTER {
        store(&mut group.w1, _mm256_and_ps(w1, mask));
        store(&mut group.w2, _mm256_and_ps(w2, mask));
    }
}

/// Adds up what lies side by side, by the tree of [`Bus::join`].
#[target_feature(enable = "avx2")]
fn join(bus: &mut Bus, blocks: usize) {
    for (sums, v) in bus.sums.iter_mut().zip(&mut bus.lanes).take(blocks) {
        transpose(v);
        let sum = |a: usize, b: usize| _mm256_add_ps(load(&v[a]), load(&v[b]));
        let (even, odd) = (_mm256_add_ps(sum(0, 4), sum(2, 6)), _mm256_add_ps(sum(1, 5), sum(3, 7)));
        store(sums, _mm256_add_ps(even, odd));
    }
}
