//! Powers of two and sines, for control ticks of eight voices at once: sums and products only, which every processor
//! rounds alike, and no branches.
//!
//! Read by the control ticks of voices, and by what sets a single voice up.

/// The range of a DLS envelope, dB.
pub(super) const SILENCE_DB: f32 = 96.0;
/// Powers of two for that range, and for each dB.
pub(super) const SILENCE_OCTAVES: f32 = SILENCE_DB * OCTAVES_PER_DB;
pub(super) const OCTAVES_PER_DB: f32 = 0.166_096_4;
/// What rounds to whole numbers by being added and taken away again, and leaves them in the lowest bits.
const ROUND: f32 = 12_582_912.0;

/// The lower of two; the second if one is no number.
#[inline(always)]
pub(super) fn min(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// The higher of two; the second if one is no number.
#[inline(always)]
pub(super) fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The whole number at or below one of 0..=4,194,303, as a number and as a word.
#[inline(always)]
pub(super) fn floor(x: f32) -> (f32, u32) {
    let near = (x + ROUND) - ROUND;
    let below = near - if near > x { 1.0 } else { 0.0 };
    (below, (below + ROUND).to_bits() - ROUND.to_bits())
}

/// 2^x, to 1e-7 of it; x is kept within -120..=120. Exact where x is whole.
#[inline(always)]
pub(super) fn exp2(x: f32) -> f32 {
    let x = max(min(x, 120.0), -120.0);
    let rounded = x + ROUND;
    let f = x - (rounded - ROUND);
    let p = ((((1.545_316_3e-4 * f + 1.339_086_3e-3) * f + 9.618_083e-3) * f + 0.055_503_57) * f + 0.240_226_5) * f
        + core::f32::consts::LN_2;
    f32::from_bits((p * f + 1.0).to_bits().wrapping_add(rounded.to_bits() << 23))
}

/// The frequency ratio of an interval in cents, to 0.001 cent; ten octaves at most.
#[inline(always)]
pub(super) fn ratio(cents: f32) -> f32 {
    exp2(max(min(cents, 12_000.0), -12_000.0) * (1.0 / 1200.0))
}

/// sin(pi x) of 0..=0.5.
#[inline(always)]
pub(super) fn quarter_sine(x: f32) -> f32 {
    let u = x * x;
    let p = ((0.077_655_91 * u - 0.598_290_4) * u + 2.550_077_4) * u - 5.167_710_3;
    x * (p * u + core::f32::consts::PI)
}

/// The sine of a phase of 2^32 to a turn.
#[inline(always)]
pub(super) fn sine(phase: u32) -> f32 {
    let x = phase.cast_signed() as f32 * (1.0 / 2_147_483_648.0);
    let a = x.abs();
    let a = quarter_sine(min(a, 1.0 - a));
    if x < 0.0 { -a } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_follow_the_functions() {
        for i in -24_000..24_000 {
            let x = i as f32 * 0.004_9;
            assert!((f64::from(exp2(x)) / libm::exp2(f64::from(x)) - 1.0).abs() < 3e-7, "2^{x}: {}", exp2(x));
            let cents = i as f32 * 0.37;
            let error = 1200.0 * libm::log2(f64::from(ratio(cents)) / libm::exp2(f64::from(cents) / 1200.0));
            assert!(error.abs() < 1e-3, "{cents} cents: off by {error}");
            let phase = (i as u32).wrapping_mul(98_765);
            let turns = f64::from(phase) / 4_294_967_296.0;
            let error = f64::from(sine(phase)) - libm::sin(core::f64::consts::TAU * turns);
            assert!(error.abs() < 1e-6, "{phase}: off by {error}");
        }
        for octaves in -10..=10 {
            assert_eq!(ratio(1200.0 * octaves as f32), libm::exp2f(octaves as f32));
        }
    }

    #[test]
    fn whole_numbers_are_those_at_or_below() {
        for x in [0.0, 0.25, 0.5, 0.999_999_94, 1.0, 1.5, 2.5, 3.75, 254.999_98, 255.0, 16_383.999, 4_194_303.0] {
            assert_eq!(floor(x), (x.floor(), x as u32), "{x}");
        }
    }

    #[test]
    fn what_is_no_number_is_harmless() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(exp2(bad).is_finite() && ratio(bad).is_finite());
        }
    }
}
