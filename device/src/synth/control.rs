//! The control ticks of eight voices at once: envelopes, oscillators, pitch, filter and level.
//!
//! Fed by [`super::voice`] with what note and channel ask for, lane by lane; sets steps, filters and gain ramps of its
//! group. All of it is written for one lane and without branches, so that a loop over the lanes is vector code where
//! the processor has it, with the same bits: sums and products are rounded alike everywhere.

use super::PERIOD;
use super::curves::{OCTAVES_PER_DB, SILENCE_OCTAVES, exp2, max, min, quarter_sine, ratio};
use super::envelope::Envelopes;
use super::lanes::{Group, LANES, Lane, LowPass, SILENT_END, bits};
use super::oscillator::Oscillators;
use crate::bank::patch::{CUTOFF, DRIVEN, DRIVERS, GAIN, PITCH};

/// Gain of a full-scale wave, so that one fortissimo note at default controllers peaks near -12 dBFS.
pub(super) const HEADROOM: f32 = 0.57 / 32_768.0;
/// Part of the whole by which a control may miss its goal.
const CLOSE: f32 = 1e-5;
/// Highest cutoff as a part of the sample rate.
const CUTOFF_LIMIT: f32 = 0.45;
/// Where gains end that drivers can ask for, 0.1 dB.
const QUIETEST: f32 = -960.0;
const LOUDEST: f32 = 480.0;

/// A control that follows what is asked for, without a jump.
#[derive(Clone, Debug)]
pub(super) struct Follower {
    pub(super) now: Lane,
    pub(super) goal: Lane,
    near: f32,
}

impl Follower {
    const fn new(near: f32) -> Self {
        Self { now: [0.0; LANES], goal: [0.0; LANES], near }
    }

    /// A quarter of the way in each period: a fader thrown in an instant makes no click, and is there within 10 ms.
    #[inline(always)]
    fn approach(&mut self, lane: usize, part: f32) {
        let left = self.goal[lane] - self.now[lane];
        let nearer = self.now[lane] + 0.25 * part * left;
        self.now[lane] = if left.abs() < self.near { self.goal[lane] } else { nearer };
    }

    fn set(&mut self, lane: usize, value: f32) {
        (self.now[lane], self.goal[lane]) = (value, value);
    }
}

/// See the module. Bits are of lanes.
#[derive(Clone, Debug)]
pub(super) struct Control {
    pub(super) amplitude: Envelopes,
    pub(super) modulation: Envelopes,
    pub(super) oscillators: [Oscillators; 2],
    /// What each driver adds to each driven destination, times its value.
    pub(super) depth: [[Lane; DRIVERS]; DRIVEN],
    /// Without the drivers: cents less the wave's own, and absolute cents.
    pub(super) pitch: Lane,
    pub(super) cutoff: Lane,
    /// Steps per output sample at the wave's own pitch.
    pub(super) unity: Lane,
    /// What is left of a glide, cents, and what each tick takes off it.
    pub(super) glide: Lane,
    pub(super) glide_step: Lane,
    /// 1 / Q, and the gain that makes up for the resonance.
    pub(super) damping: Lane,
    pub(super) makeup: Lane,
    /// Gain of each side, and what goes to reverb and chorus.
    pub(super) sides: [Follower; 2],
    pub(super) sends: [Follower; 2],
    /// What is left of a fade at the next tick, and what each takes off it.
    pub(super) fade: Lane,
    pub(super) fade_step: Lane,
    /// By driver: it moves something. By destination: some driver moves it.
    pub(super) driving: [u8; DRIVERS],
    pub(super) moving: [u8; DRIVEN],
    /// Some block is more than a depth.
    pub(super) intricate: u8,
    pub(super) gliding: u8,
    /// Sides or sends may be under way.
    pub(super) settling: u8,
    pub(super) fading: u8,
    /// They are silent at the next tick.
    pub(super) ending: u8,
}

impl Control {
    pub(super) const IDLE: Self = Self {
        amplitude: Envelopes::IDLE,
        modulation: Envelopes::IDLE,
        oscillators: [Oscillators::OFF; 2],
        depth: [[[0.0; LANES]; DRIVERS]; DRIVEN],
        pitch: [0.0; LANES],
        cutoff: [0.0; LANES],
        unity: [0.0; LANES],
        glide: [0.0; LANES],
        glide_step: [0.0; LANES],
        damping: [1.0; LANES],
        makeup: [1.0; LANES],
        sides: [const { Follower::new(CLOSE * HEADROOM) }; 2],
        sends: [const { Follower::new(CLOSE) }; 2],
        fade: [1.0; LANES],
        fade_step: [0.0; LANES],
        driving: [0; DRIVERS],
        moving: [0; DRIVEN],
        intricate: 0,
        gliding: 0,
        settling: 0,
        fading: 0,
        ending: 0,
    };

    /// Forgets a voice.
    pub(super) fn stop(&mut self, lane: usize) {
        self.amplitude.stop(lane);
        self.modulation.stop(lane);
        self.oscillators.iter_mut().for_each(|oscillators| oscillators.stop(lane));
        self.depth.iter_mut().flatten().for_each(|depth| depth[lane] = 0.0);
        for field in [&mut self.pitch, &mut self.cutoff, &mut self.unity, &mut self.glide, &mut self.glide_step] {
            field[lane] = 0.0;
        }
        for follower in self.sides.iter_mut().chain(&mut self.sends) {
            follower.set(lane, 0.0);
        }
        (self.damping[lane], self.makeup[lane]) = (1.0, 1.0);
        (self.fade[lane], self.fade_step[lane]) = (1.0, 0.0);
        let others = [&mut self.intricate, &mut self.gliding, &mut self.settling, &mut self.fading, &mut self.ending];
        for bits in self.driving.iter_mut().chain(&mut self.moving).chain(others) {
            *bits &= !(1 << lane);
        }
    }

    /// What each driver adds to each driven destination, times its value.
    pub(super) fn set_depth(&mut self, lane: usize, depth: &[[f32; DRIVERS]; DRIVEN]) {
        let bit = 1 << lane;
        let intricate = self.intricate & bit != 0;
        let set = |bits: &mut u8, on: bool| *bits = *bits & !bit | u8::from(on) << lane;
        for (place, depth) in depth.iter().enumerate() {
            for (driver, depth) in depth.iter().enumerate() {
                self.depth[place][driver][lane] = *depth;
            }
            set(&mut self.moving[place], intricate || *depth != [0.0; DRIVERS]);
        }
        for driver in 0..DRIVERS {
            set(&mut self.driving[driver], depth.iter().any(|depth| depth[driver] != 0.0));
        }
    }

    /// Puts sides and sends where they are to be.
    pub(super) fn settle_at_once(&mut self, lane: usize) {
        for follower in self.sides.iter_mut().chain(&mut self.sends) {
            follower.now[lane] = follower.goal[lane];
        }
    }

    /// Brings sides and sends nearer to where controllers have put them, within a part of a period.
    pub(super) fn approach(&mut self, lane: usize, part: f32) {
        for follower in self.sides.iter_mut().chain(&mut self.sends) {
            follower.approach(lane, part);
        }
    }

    /// Where the drivers stand.
    #[inline(always)]
    pub(super) fn drivers(&self, lane: usize) -> [f32; DRIVERS] {
        let [lfo, vibrato] = &self.oscillators;
        [lfo.value(lane), vibrato.value(lane), self.amplitude.fraction(lane), self.modulation.fraction(lane)]
    }

    /// Where a driver stands, of all lanes.
    #[inline(always)]
    fn read(&self, driver: usize, values: &mut Lane) {
        for (lane, value) in values.iter_mut().enumerate() {
            *value = match driver {
                0 => self.oscillators[0].value(lane),
                1 => self.oscillators[1].value(lane),
                2 => self.amplitude.fraction(lane),
                _ => self.modulation.fraction(lane),
            };
        }
    }

    /// What the drivers add to a destination.
    #[inline(always)]
    fn driven(&self, place: usize, lane: usize, drivers: &[f32; DRIVERS]) -> f32 {
        let [a, b, c, d] = &self.depth[place];
        (a[lane] * drivers[0] + b[lane] * drivers[1]) + (c[lane] * drivers[2] + d[lane] * drivers[3])
    }

    /// Samples of the wave per output sample.
    #[inline(always)]
    pub(super) fn step(&self, lane: usize, drivers: &[f32; DRIVERS]) -> f32 {
        self.unity[lane] * ratio(self.pitch[lane] + self.glide[lane] + self.driven(PITCH, lane, drivers))
    }

    /// The resonant low-pass: the analogue one of two poles, its frequencies warped so that the corner stays in place.
    #[inline(always)]
    pub(super) fn low_pass(&self, lane: usize, drivers: &[f32; DRIVERS], rate: f32) -> LowPass {
        let cents = max(min(self.cutoff[lane] + self.driven(CUTOFF, lane, drivers), 20_000.0), 1500.0) - 6900.0;
        let turns = min(440.0 * ratio(cents) / rate, CUTOFF_LIMIT);
        // Half the angle's sine keeps its digits where the angle is small and its cosine nearly 1.
        let half = quarter_sine(turns);
        let square = half * half;
        let sine = 2.0 * half * (1.0 - square).sqrt();
        let alpha = 0.5 * self.damping[lane] * sine;
        let over = 1.0 / (1.0 + alpha);
        LowPass { b: square * over * self.makeup[lane], a1: (4.0 * square - 2.0) * over, a2: (1.0 - alpha) * over }
    }

    /// The level by envelope and drivers; 0..=1 without the latter.
    #[inline(always)]
    pub(super) fn level(&self, lane: usize, drivers: &[f32; DRIVERS]) -> f32 {
        let fall = self.amplitude.fall(lane, 0.0);
        let tenths = self.driven(GAIN, lane, drivers);
        let gain = exp2(min(tenths, LOUDEST) * (0.1 * OCTAVES_PER_DB) - fall * SILENCE_OCTAVES);
        let level = self.amplitude.rise(lane, 0.0) * gain;
        if fall >= 1.0 || tenths <= QUIETEST { 0.0 } else { level }
    }

    /// The levels that a voice should have at the next tick, left and right.
    pub(super) fn gains(&self, lane: usize) -> (f32, f32) {
        let level = self.level(lane, &self.drivers(lane)) * max(self.fade[lane], 0.0);
        let [left, right] = &self.sides;
        (level * left.now[lane], level * right.now[lane])
    }

    /// Where controllers want sides and sends.
    pub(super) fn goals(&self, lane: usize) -> [f32; 4] {
        let ([left, right], [reverb, chorus]) = (&self.sides, &self.sends);
        [left, right, reverb, chorus].map(|follower| follower.goal[lane])
    }

    pub(super) fn set_goals(&mut self, lane: usize, goals: [f32; 4]) {
        for (follower, goal) in self.sides.iter_mut().chain(&mut self.sends).zip(goals) {
            follower.goal[lane] = goal;
        }
        self.settling |= 1 << lane;
    }

    /// How loud the envelope alone would have a voice, or is going to have it.
    pub(super) fn envelope(&self, lane: usize) -> f32 {
        let fall = self.amplitude.fall(lane, 0.0);
        if fall >= 1.0 { 0.0 } else { exp2(-fall * SILENCE_OCTAVES) }
    }

    /// A voice moves on by itself, to its first tick.
    pub(super) fn advance_one(&mut self, lane: usize, samples: usize) {
        self.amplitude.advance_one(lane, samples as f32);
        self.modulation.advance_one(lane, samples as f32);
        self.oscillators.iter_mut().for_each(|oscillators| oscillators.advance_one(lane, samples as u32));
    }

    /// Envelopes and oscillators move on by a period.
    #[inline(always)]
    pub(super) fn advance_lanes(&mut self) {
        self.amplitude.advance(PERIOD as f32);
        self.modulation.advance(PERIOD as f32);
        self.oscillators.iter_mut().for_each(|oscillators| oscillators.advance(PERIOD as u32));
    }
}

impl Group {
    /// A control tick: sets the lanes up for the next period, at `rate` output samples a second. Gives those that have
    /// come to their end, whose level runs down to nothing in that period.
    #[inline(always)]
    pub(super) fn tick_lanes(&mut self, rate: f32) -> u8 {
        let control = &mut self.control;
        let mut drivers = [[0.0; LANES]; DRIVERS];
        for (driver, values) in drivers.iter_mut().enumerate() {
            if control.driving[driver] != 0 {
                control.read(driver, values);
            }
        }
        let drivers = |lane: usize| [drivers[0][lane], drivers[1][lane], drivers[2][lane], drivers[3][lane]];
        let [loudness, pitch, cutoff] = [GAIN, PITCH, CUTOFF].map(|place| control.moving[place] != 0);
        let gliding = control.gliding != 0;
        if gliding {
            for lane in 0..LANES {
                let left = control.glide[lane] - control.glide_step[lane];
                // Past the note's own pitch, or there but for rounding.
                control.glide[lane] = if left * control.glide[lane] > 0.0 { left } else { 0.0 };
            }
            if control.glide == [0.0; LANES] {
                control.gliding = 0;
            }
        }
        if pitch || gliding {
            for lane in 0..LANES {
                self.set_step(lane, self.control.step(lane, &drivers(lane)));
            }
        }
        if cutoff && self.filtered != 0 {
            for lane in 0..LANES {
                let LowPass { b, a1, a2 } = self.control.low_pass(lane, &drivers(lane), rate);
                (self.b[lane], self.a1[lane], self.a2[lane]) = (b, a1, a2);
            }
        }
        let control = &mut self.control;
        if control.settling != 0 {
            for follower in control.sides.iter_mut().chain(&mut control.sends) {
                for lane in 0..LANES {
                    follower.approach(lane, 1.0);
                }
            }
            let settled = |follower: &Follower| follower.now == follower.goal;
            if control.sides.iter().chain(&control.sends).all(settled) {
                control.settling = 0;
            }
            self.show_sends();
        }
        let control = &mut self.control;
        let mut levels = [0.0; LANES];
        if loudness {
            for (lane, level) in levels.iter_mut().enumerate() {
                *level = control.level(lane, &drivers(lane));
            }
        } else {
            for (lane, level) in levels.iter_mut().enumerate() {
                *level = control.level(lane, &[0.0; DRIVERS]);
            }
        }
        let mut ends = [0; LANES];
        for (lane, end) in ends.iter_mut().enumerate() {
            *end = u32::from(control.amplitude.is_over(lane)) | u32::from(self.at[lane] < SILENT_END);
        }
        if control.fading != 0 {
            for lane in 0..LANES {
                let left = control.fade[lane] - control.fade_step[lane];
                control.fade[lane] = left;
                levels[lane] *= max(left, 0.0);
                ends[lane] |= u32::from(left <= 0.0);
            }
        }
        let mut ended = 0;
        if ends.iter().fold(0, |any, end| any | end) != 0 {
            for lane in 0..LANES {
                ended |= (ends[lane] as u8) << lane;
                levels[lane] = if ends[lane] != 0 { 0.0 } else { levels[lane] };
            }
        }
        let [left, right] = &control.sides;
        for (lane, level) in levels.into_iter().enumerate() {
            let goal = (level * left.now[lane], level * right.now[lane]);
            self.left[lane] = self.left_goal[lane];
            self.left_step[lane] = (goal.0 - self.left[lane]) * (1.0 / PERIOD as f32);
            self.left_goal[lane] = goal.0;
            self.right[lane] = self.right_goal[lane];
            self.right_step[lane] = (goal.1 - self.right[lane]) * (1.0 / PERIOD as f32);
            self.right_goal[lane] = goal.1;
        }
        if self.filtered != 0 {
            for lane in 0..LANES {
                // A filter that rings out would end in denormal numbers, which cost a hundred times as much.
                let quiet = self.w1[lane].abs() < 1e-12 && self.w2[lane].abs() < 1e-12;
                self.w1[lane] = if quiet { 0.0 } else { self.w1[lane] };
                self.w2[lane] = if quiet { 0.0 } else { self.w2[lane] };
            }
        }
        ended & self.active
    }

    /// Sends as they are now.
    #[inline(always)]
    pub(super) fn show_sends(&mut self) {
        let [reverb, chorus] = &self.control.sends;
        (self.reverb, self.chorus) = (reverb.now, chorus.now);
        self.sending = 0;
        for lane in 0..LANES {
            self.sending |= u8::from(self.reverb[lane] != 0.0 || self.chorus[lane] != 0.0) << lane;
        }
    }

    /// Lanes that have come to their end: silent at the next tick. Those whose wave has ended stand still.
    pub(super) fn begin_ends(&mut self, ended: u8) {
        self.control.ending |= ended;
        for lane in bits(ended) {
            if self.exhausted(lane) {
                self.control.unity[lane] = 0.0;
                self.set_step(lane, 0.0);
            }
        }
    }
}
