//! A wave sink's sample clock: which sample belongs to which time of the master clock, when the samples go by another
//! crystal.
//!
//! Fed with what both clocks show, each few milliseconds; feeds whoever converts between them. A phase-locked loop in
//! whole numbers: the same readings give the same times on any machine. It corrects by speed alone, so that its time
//! neither jumps back nor stands.
//!
//! The loop is a proportional and an integral term, critically damped at `BANDWIDTH`. Readings of a drift of 500 ppm
//! each 20 ms settle within two seconds, with never more than 70 us of error on the way, and then stay within two
//! samples.

use crate::time::{RefTime, SampleTime, UNITS_PER_SECOND};

/// Speeds, and parts of a correction, are in units of 2^-32.
const ONE: i64 = 1 << 32;
/// Natural frequency of the loop, per second: twice this, times the time since the last reading, is the part of an
/// error that is corrected until the next.
const BANDWIDTH: i64 = 4;
/// Largest such part, however long no reading came: half.
const MOST_AT_ONCE: i64 = ONE / 2;
/// Largest lasting difference in speed that is believed, either way: 1,000 ppm.
const MOST_DRIFT: i64 = ONE / 1000;
/// Largest difference in speed while an error is corrected: a sixteenth.
const MOST_SPEED: i64 = ONE / 16;
/// A sample clock that is this far behind stood still: it is set at once. One that is ahead must wait, since time never
/// goes back.
const STOOD_STILL: i64 = UNITS_PER_SECOND / 4;

/// See the module. Positions are counted from the sample at which the clock was last started.
#[derive(Clone, Debug)]
pub struct SampleClock {
    rate: u32,
    /// The latest reading: a time, and the sample of that time.
    time: RefTime,
    sample: SampleTime,
    /// How much faster than its nominal rate time goes by from here on, a sample, and the part of it that lasts.
    speed: i64,
    drift: i64,
    /// What the sample counter showed when the clock was started. `None` before.
    origin: Option<SampleTime>,
}

impl SampleClock {
    /// A clock of so many samples a second, which shows sample 0 at time 0 until it is started. A rate of 0 counts as
    /// 1.
    pub fn new(rate: u32) -> Self {
        let (time, sample) = (RefTime::ZERO, SampleTime(0));
        Self { rate: rate.max(1), time, sample, speed: 0, drift: 0, origin: None }
    }

    /// Master time at which a sample begins (ISynthSinkDMus::SampleToRefTime): rounded down, clamped to the range of
    /// the type.
    pub fn sample_to_ref_time(&self, sample: SampleTime) -> RefTime {
        let ahead = i128::from(sample.0) - i128::from(self.sample.0);
        let time = i128::from(self.time.0) + ahead.saturating_mul(self.units()).div_euclid(self.samples());
        RefTime(time.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64)
    }

    /// The first sample that begins at or after a master time (ISynthSinkDMus::RefTimeToSample): 0 for times before the
    /// start.
    pub fn ref_time_to_sample(&self, time: RefTime) -> SampleTime {
        let ahead = i128::from(time.0) - i128::from(self.time.0);
        // Rounded up.
        let sample = i128::from(self.sample.0) - (-ahead).saturating_mul(self.samples()).div_euclid(self.units());
        SampleTime(sample.clamp(0, i128::from(u64::MAX)) as u64)
    }

    /// Follows the master clock (ISynthSinkDMus::SyncToMaster): now it is `master`, and the sample counter shows
    /// `counted`. To be called about each 20 ms while the stream runs. `start` is for the first call after entering
    /// RUN: `counted` becomes sample 0 of time `master`, and what was learnt of the drift is forgotten. A call before
    /// any start is one. Readings of which one goes back, or stands, tell nothing.
    pub fn sync_to_master(&mut self, master: RefTime, counted: SampleTime, start: bool) {
        let origin = match self.origin {
            Some(origin) if !start => origin,
            _ => {
                *self = Self { time: master, origin: Some(counted), ..Self::new(self.rate) };
                return;
            }
        };
        let sample = SampleTime(counted.0.saturating_sub(origin.0));
        if sample <= self.sample || master <= self.time {
            return;
        }
        let expected = self.sample_to_ref_time(sample);
        let error = master.saturating_sub(expected).0;
        let passed = expected.saturating_sub(self.time).0.clamp(1, UNITS_PER_SECOND);
        // The counter tells no more than the sample that is playing, and times are rounded down: an error of that size
        // is none. And so a clock without drift stays exact.
        let within = (i128::from(error) - 1) * i128::from(self.rate) < i128::from(UNITS_PER_SECOND);
        let error = if error >= 0 && within { 0 } else { error };
        if error == 0 && self.speed == self.drift {
            return;
        }
        (self.sample, self.time) = (sample, expected);
        if error > STOOD_STILL {
            (self.time, self.speed) = (master, self.drift);
            return;
        }
        let part = (2 * BANDWIDTH * passed * (ONE / UNITS_PER_SECOND)).min(MOST_AT_ONCE);
        let of_error = |part: i64, most: i64| {
            let speed = i128::from(error) * i128::from(part) / i128::from(passed);
            speed.clamp(-i128::from(most), i128::from(most)) as i64
        };
        // Critically damped: the integral's part is a quarter of the square of the proportional one's.
        let lasting = (i128::from(part) * i128::from(part) / i128::from(4 * ONE)) as i64;
        self.drift = (self.drift + of_error(lasting, MOST_DRIFT)).clamp(-MOST_DRIFT, MOST_DRIFT);
        self.speed = (self.drift + of_error(part, MOST_SPEED)).clamp(-MOST_SPEED, MOST_SPEED);
    }

    /// So many units of time pass in [`SampleClock::samples`].
    fn units(&self) -> i128 {
        i128::from(UNITS_PER_SECOND) * i128::from(ONE + self.speed)
    }

    fn samples(&self) -> i128 {
        i128::from(self.rate) * i128::from(ONE)
    }
}

/// A simulated sound device whose crystal is off by so many parts per million: what its sample counter shows at a
/// master time.
pub fn drifting_counter(master: RefTime, rate: u32, ppm: i32) -> SampleTime {
    let nominal = i128::from(master.0.max(0)) * i128::from(rate);
    let samples = nominal.saturating_mul(1_000_000 + i128::from(ppm)) / (i128::from(UNITS_PER_SECOND) * 1_000_000);
    SampleTime(samples.clamp(0, i128::from(u64::MAX)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATES: [u32; 4] = [22_050, 44_100, 48_000, 96_000];
    /// 20 ms: how often a wave sink wakes.
    const WAKE: i64 = 200_000;
    const MILLISECOND: i64 = 10_000;

    /// A stream that runs on a device whose crystal is off.
    struct Simulation {
        clock: SampleClock,
        rate: u32,
        ppm: i32,
        now: RefTime,
        /// Samples that the device has lost, or played twice.
        slip: i64,
        noise: u32,
    }

    impl Simulation {
        /// In RUN since `start`.
        fn new(rate: u32, ppm: i32, start: i64) -> Self {
            let mut simulation =
                Self { clock: SampleClock::new(rate), rate, ppm, now: RefTime(start), slip: 0, noise: 1 };
            simulation.clock.sync_to_master(simulation.now, simulation.counter(), true);
            simulation
        }

        fn counter(&self) -> SampleTime {
            let counter = drifting_counter(self.now, self.rate, self.ppm);
            SampleTime(counter.0.saturating_add_signed(self.slip))
        }

        /// Sleeps, and reads both clocks, the counter by up to `jitter` units too early or too late.
        fn wake(&mut self, sleep: i64, jitter: i64) {
            self.now.0 += sleep;
            self.noise = self.noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let off = if jitter > 0 { i64::from(self.noise >> 8) % (2 * jitter + 1) - jitter } else { 0 };
            let master = self.now;
            self.now.0 += off;
            let counted = self.counter();
            self.now = master;
            self.clock.sync_to_master(master, counted, false);
        }

        /// How far the clock is off now, in 100 ns.
        fn error(&self) -> i64 {
            let origin = self.clock.origin.expect("started");
            let sample = SampleTime(self.counter().0.saturating_sub(origin.0));
            (self.clock.sample_to_ref_time(sample).0 - self.now.0).abs()
        }

        /// Largest error of a span, waking in between.
        fn worst(&mut self, seconds: i64, sleep: i64, jitter: i64) -> i64 {
            let wakes = seconds * UNITS_PER_SECOND / sleep;
            (0..wakes).fold(0, |worst, _| {
                self.wake(sleep, jitter);
                worst.max(self.error())
            })
        }
    }

    /// DDI: SampleToRefTime and RefTimeToSample convert between sample positions and reference time of 100 ns units.
    #[test]
    fn a_clock_without_drift_converts_as_the_whole_card_does() {
        for rate in RATES {
            let mut simulation = Simulation::new(rate, 0, 0);
            for wakes in 0..500 {
                for n in [0, 1, 2, 999, u64::from(rate) * 3600 + 7] {
                    let time = SampleTime(n).to_time(rate);
                    assert_eq!(simulation.clock.sample_to_ref_time(SampleTime(n)), time, "{rate} Hz, {wakes} wakes");
                    assert_eq!(simulation.clock.ref_time_to_sample(time), SampleTime(n));
                    let next = RefTime(time.0 + 1);
                    assert_eq!(simulation.clock.ref_time_to_sample(next), next.to_sample(rate));
                }
                simulation.wake(WAKE + wakes * 37, 0);
            }
        }
    }

    /// DDI: On the first SyncToMaster after entering RUN, fStart is true, and the sample clock begins at zero.
    #[test]
    fn a_start_zeroes_the_sample_clock() {
        let mut clock = SampleClock::new(48_000);
        // The counter goes on from stream to stream; PAUSE and STOP take master time, and no samples.
        for (master, counted) in [(RefTime(70_000_003), SampleTime(5)), (RefTime(900_000_000), SampleTime(300_000))] {
            clock.sync_to_master(master, counted, true);
            assert_eq!(clock.sample_to_ref_time(SampleTime(0)), master);
            assert_eq!(clock.ref_time_to_sample(master), SampleTime(0));
            assert_eq!(clock.ref_time_to_sample(RefTime(0)), SampleTime(0));
            assert_eq!(clock.sample_to_ref_time(SampleTime(48_000)), RefTime(master.0 + UNITS_PER_SECOND));
            // The calls that follow are no starts: they keep the zero.
            let later = RefTime(master.0 + UNITS_PER_SECOND);
            clock.sync_to_master(later, SampleTime(counted.0 + 48_000), false);
            assert_eq!(clock.sample_to_ref_time(SampleTime(48_000)), later);
            // A device that runs far off teaches a drift, which the next start forgets.
            let off = RefTime(master.0 + 3 * UNITS_PER_SECOND);
            clock.sync_to_master(off, SampleTime(counted.0 + 143_000), false);
            assert!(clock.drift != 0);
        }
        let mut unstarted = SampleClock::new(48_000);
        unstarted.sync_to_master(RefTime(123), SampleTime(77), false);
        assert_eq!(unstarted.sample_to_ref_time(SampleTime(0)), RefTime(123));
    }

    /// DDI: SyncToMaster, called periodically, keeps the sample clock in step with the master clock.
    #[test]
    fn drift_is_locked_within_two_seconds_and_stays_so_for_an_hour() {
        for (rate, ppm) in [(22_050, 500), (44_100, -500), (48_000, 500), (48_000, -500), (48_000, 1), (96_000, -137)] {
            let mut simulation = Simulation::new(rate, ppm, 12_345_678);
            let period = UNITS_PER_SECOND / i64::from(rate) + 1;
            let settling = simulation.worst(2, WAKE, 0);
            let hour = simulation.worst(3600, WAKE, 0);
            assert!(settling < 600 + period, "{rate} Hz, {ppm} ppm: {settling}");
            // Each reading is rounded down by up to a sample, which the loop takes for nothing.
            assert!(hour <= 2 * period, "{rate} Hz, {ppm} ppm: {hour}");
            let learnt = simulation.clock.drift as f64 / ONE as f64 * 1e6;
            assert!((learnt + f64::from(ppm)).abs() < 20.0, "{rate} Hz, {ppm} ppm: {learnt}");
        }
    }

    /// DDI: A wave sink wakes about every 20 ms, and software synths are expected to be accurate to 2 ms.
    #[test]
    fn an_hour_of_late_and_uneven_wakes_stays_within_a_millisecond() {
        for (ppm, sleep, jitter) in [(500, WAKE, MILLISECOND), (-500, WAKE / 4, MILLISECOND), (500, 5 * WAKE, 0)] {
            let mut simulation = Simulation::new(48_000, ppm, 0);
            simulation.worst(2, sleep, jitter);
            let hour = simulation.worst(3600, sleep, jitter);
            assert!(hour < MILLISECOND, "{ppm} ppm each {sleep}: {hour}");
        }
        // Now and then nobody wakes for a second.
        let mut simulation = Simulation::new(48_000, 500, 0);
        simulation.worst(2, WAKE, 0);
        for _ in 0..900 {
            simulation.wake(UNITS_PER_SECOND, 0);
            let worst = simulation.worst(3, WAKE, 0);
            assert!(worst < MILLISECOND, "{worst}");
        }
    }

    /// DDI: Each SyncToMaster corrects by a fraction of the difference only.
    #[test]
    fn a_difference_is_made_up_bit_by_bit_within_two_seconds() {
        for slip in [-2400, 2400] {
            let mut simulation = Simulation::new(48_000, 300, 0);
            simulation.worst(5, WAKE, 0);
            simulation.slip = slip;
            simulation.wake(WAKE, 0);
            let mut left = simulation.error();
            assert!(left > 49 * MILLISECOND, "{left}");
            for _ in 0..25 {
                simulation.wake(WAKE, 0);
                let now = simulation.error();
                assert!(now < left && left - now <= WAKE / 15, "{left} to {now}");
                left = now;
            }
            simulation.worst(1, WAKE, 0);
            simulation.wake(UNITS_PER_SECOND / 2, 0);
            let after = simulation.worst(10, WAKE, 0);
            assert!(after < MILLISECOND, "{slip} samples: {after}");
        }
    }

    #[test]
    fn readings_that_go_back_or_stand_tell_nothing() {
        let mut simulation = Simulation::new(48_000, 500, 0);
        simulation.worst(5, WAKE, 0);
        let SampleClock { time, sample, speed, drift, .. } = simulation.clock;
        for (master, counted) in [(0, 1), (1, 0), (-WAKE, 1000), (WAKE, -1000), (i64::MIN, 1), (1, i64::MIN)] {
            let (master, counted) = (time.0.saturating_add(master), sample.0.saturating_add_signed(counted));
            simulation.clock.sync_to_master(RefTime(master), SampleTime(counted), false);
            let now = &simulation.clock;
            assert_eq!((now.time, now.sample, now.speed, now.drift), (time, sample, speed, drift));
        }
    }

    #[test]
    fn a_device_that_stood_still_is_set_at_once() {
        let mut simulation = Simulation::new(48_000, -500, 0);
        simulation.worst(5, WAKE, 0);
        simulation.slip -= 48_000 * 60;
        simulation.wake(70 * UNITS_PER_SECOND, 0);
        assert!(simulation.error() < 10, "{}", simulation.error());
        assert!(simulation.worst(10, WAKE, 0) < MILLISECOND);
    }

    /// Readings in order, as a running stream has them, and anything at all.
    fn reading() -> impl Strategy<Value = (i64, u64, bool)> {
        prop_oneof![
            4 => (0i64..3_000_000, 0u64..12_000, prop::bool::weighted(0.02)),
            1 => (any::<i64>(), any::<u64>(), any::<bool>()),
        ]
    }

    proptest! {
        #[test]
        fn counted_time_never_goes_back(
            rate in 8000u32..200_000,
            steps in prop::collection::vec((0i64..10_000_000, 0u64..100_000), 1..100),
        ) {
            let mut clock = SampleClock::new(rate);
            let (mut master, mut counted, mut shown) = (RefTime(0), 0, RefTime(0));
            clock.sync_to_master(master, SampleTime(counted), true);
            for (time, samples) in steps {
                master.0 += time;
                counted += samples;
                let before = clock.sample_to_ref_time(SampleTime(counted));
                clock.sync_to_master(master, SampleTime(counted), false);
                let after = clock.sample_to_ref_time(SampleTime(counted));
                prop_assert!(shown <= before && before <= after);
                shown = after;
            }
        }

        #[test]
        fn conversions_are_monotone_and_each_others_inverse_whatever_was_read(
            rate in 8000u32..200_000,
            readings in prop::collection::vec(reading(), 0..40),
            sample in 0u64..1 << 44,
            step in 0u64..1 << 20,
        ) {
            let mut clock = SampleClock::new(rate);
            for (time, samples, start) in readings {
                let (master, counted) = (clock.time.0.wrapping_add(time), clock.sample.0.wrapping_add(samples));
                clock.sync_to_master(RefTime(master), SampleTime(counted), start);
            }
            let sample = SampleTime(clock.sample.0.saturating_add(sample));
            let later = SampleTime(sample.0.saturating_add(step));
            let (time, later_time) = (clock.sample_to_ref_time(sample), clock.sample_to_ref_time(later));
            prop_assert!(time <= later_time);
            prop_assert!(clock.ref_time_to_sample(time) <= clock.ref_time_to_sample(later_time));
            // Unless the time is cut off at the end of its range.
            if time < RefTime(i64::MAX) {
                prop_assert_eq!(clock.ref_time_to_sample(time), sample);
            }
        }

        #[test]
        fn anything_is_harmless(
            rate: u32,
            readings in prop::collection::vec((any::<i64>(), any::<u64>(), any::<bool>()), 0..20),
            (time, sample, ppm) in (any::<i64>(), any::<u64>(), any::<i32>()),
        ) {
            let mut clock = SampleClock::new(rate);
            for (master, counted, start) in readings {
                clock.sync_to_master(RefTime(master), SampleTime(counted), start);
                clock.sample_to_ref_time(SampleTime(sample));
                clock.ref_time_to_sample(RefTime(time));
                prop_assert!(clock.speed.abs() <= MOST_SPEED && clock.drift.abs() <= MOST_DRIFT);
            }
            drifting_counter(RefTime(time), rate, ppm);
        }
    }
}
