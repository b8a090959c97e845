//! Time and sample arithmetic: 100 ns reference time, sample positions, and the exact conversion between them.
//!
//! Fed by event time stamps and grants; feeds the card's sequencer, the driver's player and the offline renderer, which
//! therefore agree on every sample.

use core::fmt;

/// Reference time units in a second.
pub const UNITS_PER_SECOND: i64 = 10_000_000;

/// A point in time, or a duration, in units of 100 ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefTime(pub i64);

/// A position in the rendered audio, in samples (frames) since reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SampleTime(pub u64);

impl RefTime {
    /// Time zero.
    pub const ZERO: Self = Self(0);

    /// A whole number of seconds; saturates.
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds.saturating_mul(UNITS_PER_SECOND))
    }

    /// A number of nanoseconds, rounded down; saturates.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self((nanos / 100) as i64)
    }

    /// The same in seconds, for people to read.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / UNITS_PER_SECOND as f64
    }

    /// Sum, clamped to the range of the type: a guest chooses these numbers.
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Difference, clamped to the range of the type.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The first sample at or after this time: ceil(t x rate / 10^7). Negative times are sample 0.
    pub const fn to_sample(self, rate: u32) -> SampleTime {
        if self.0 <= 0 {
            return SampleTime(0);
        }
        // Seconds and the rest by themselves, so that 64 bits hold the products.
        let (time, second) = (self.0 as u64, UNITS_PER_SECOND as u64);
        let whole = (time / second).saturating_mul(rate as u64);
        SampleTime(whole.saturating_add((time % second * rate as u64).div_ceil(second)))
    }
}

impl SampleTime {
    /// The time at which this sample begins, rounded down: floor(n x 10^7 / rate). Saturates; a rate of 0 counts as 1.
    pub const fn to_time(self, rate: u32) -> RefTime {
        let (rate, second) = (if rate == 0 { 1 } else { rate as u64 }, UNITS_PER_SECOND as u64);
        let time = (self.0 / rate).saturating_mul(second).saturating_add(self.0 % rate * second / rate);
        RefTime(if time > i64::MAX as u64 { i64::MAX } else { time as i64 })
    }
}

impl fmt::Display for RefTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.7} s", self.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sample_covers_the_times_up_to_and_at_its_start() {
        assert_eq!(RefTime(0).to_sample(48_000), SampleTime(0));
        assert_eq!(RefTime(1).to_sample(48_000), SampleTime(1));
        assert_eq!(RefTime::from_secs(1).to_sample(48_000), SampleTime(48_000));
        assert_eq!(RefTime(10_000_001).to_sample(48_000), SampleTime(48_001));
        assert_eq!(RefTime(-5).to_sample(48_000), SampleTime(0));
    }

    proptest! {
        #[test]
        fn conversions_agree_with_wide_arithmetic(t in 0..=i64::MAX, n: u64, rate in 1u32..400_000) {
            let sample = (t as u128 * u128::from(rate)).div_ceil(10_000_000);
            prop_assert_eq!(u128::from(RefTime(t).to_sample(rate).0), sample);
            let time = u128::from(n) * 10_000_000 / u128::from(rate);
            prop_assert_eq!(SampleTime(n).to_time(rate).0 as u128, time.min(i64::MAX as u128));
        }

        #[test]
        fn a_sample_never_begins_before_its_time_nor_a_whole_sample_after(
            t in 0..i64::MAX / 2,
            rate in 8_000u32..192_000,
        ) {
            let n = RefTime(t).to_sample(rate).0 as u128;
            let scaled = t as u128 * rate as u128;
            prop_assert!(n * 10_000_000 >= scaled);
            prop_assert!(n * 10_000_000 < scaled + 10_000_000);
        }

        #[test]
        fn a_sample_start_maps_back_to_the_sample(n in 0u64..1 << 50, rate in 8_000u32..192_000) {
            prop_assert_eq!(SampleTime(n).to_time(rate).to_sample(rate), SampleTime(n));
        }
    }
}
