//! What a voice makes of its articulation: times when it starts, and levels, sides, sends and filter as note and
//! channel say now.
//!
//! Fed by the region's patch, with the note and its channel as sources; read by the rest of the voice at each tick and
//! after each message.

use super::{Context, Voice};
use crate::bank::Speaker;
use crate::bank::patch::{self, DRIVERS, MOVING, Patch, Reading, Sources};
use crate::collection::connection::Source;
use crate::synth::PERIOD;
use crate::synth::channel::Channel;
use crate::synth::envelope::{Envelope, Times, clean};
use crate::synth::lanes::LowPass;
use crate::synth::oscillator::Oscillator;

/// The longest shutdown of a stolen voice, seconds: it holds a lane that another may need.
const SHUTDOWN_LIMIT: f32 = 0.1;
/// Of the drivers, the vibrato oscillator.
const VIBRATO: usize = 1;
/// Highest cutoff as a part of the sample rate.
const CUTOFF_LIMIT: f32 = 0.45;
/// Where levels end that blocks can ask for, 0.1 dB.
const SILENCE: f32 = -960.0;
const LOUDEST: f32 = 480.0;

/// Sources as a voice's blocks see them.
struct Seen<'a> {
    channel: &'a Channel,
    key: f32,
    velocity: u8,
    pressure: u8,
    drivers: [f32; DRIVERS],
}

impl Sources for Seen<'_> {
    fn read(&self, source: Source) -> Option<Reading> {
        let [lfo, vibrato, eg1, eg2] = self.drivers;
        Some(match source {
            Source::VELOCITY => Reading::of_7(self.velocity),
            Source::KEY => Reading { linear: self.key * (1.0 / 128.0), full: self.key * (1.0 / 127.0) },
            Source::POLY_PRESSURE => Reading::of_7(self.pressure),
            Source::LFO => Reading::of(0.5 + 0.5 * lfo),
            Source::VIBRATO => Reading::of(0.5 + 0.5 * vibrato),
            Source::EG1 => Reading::of(eg1),
            Source::EG2 => Reading::of(eg2),
            other => return self.channel.read(other),
        })
    }
}

impl Voice {
    /// Sets envelopes and oscillators up.
    pub(super) fn begin(&mut self, patch: &Patch, context: &Context<'_>) {
        let seen = self.seen(patch, context, [0.0; DRIVERS]);
        let at = |place| patch.at_start(place, &seen);
        // Time cents. What is less than a sample is no time at all.
        let samples = |place| {
            let samples = libm::exp2f(clean(at(place), -30_000.0, 8000.0) / 1200.0) * context.rate;
            if samples < 1.0 { 0.0 } else { samples }
        };
        // Controllers 72, 73 and 75 of General MIDI 2: an eighth to eight times as long.
        let longer = |controller| libm::exp2f(context.channel.offset(controller) * (3.0 / 64.0));
        let times = |first| Times {
            delay: samples(first),
            attack: samples(first + 1),
            hold: samples(first + 2),
            decay: samples(first + 3),
            fall: 1.0 - at(first + 4) / 1000.0,
            release: samples(first + 5),
        };
        let mut volume = times(patch::ENVELOPES);
        volume.attack *= longer(73);
        volume.decay *= longer(75);
        volume.release *= longer(72);
        self.amplitude = Envelope::start(&volume);
        self.modulation = Envelope::IDLE;
        if self.drivers & 8 != 0 {
            self.modulation = Envelope::start(&times(patch::ENVELOPES + 6));
        }
        let oscillator = |first, faster, later| {
            let cents = clean(at(first) + faster, -16_000.0, 12_000.0) - 6900.0;
            Oscillator::start(440.0 * libm::exp2f(cents / 1200.0), samples(first + 1) * later, context.rate)
        };
        if self.drivers & 1 != 0 {
            self.oscillators[0] = oscillator(patch::OSCILLATORS, 0.0, 1.0);
        }
        if self.drivers & 2 != 0 {
            // Controller 76: an octave up or down. 78: as the times above.
            let faster = context.channel.offset(76) * (1200.0 / 64.0);
            self.oscillators[1] = oscillator(patch::OSCILLATORS + 2, faster, longer(78));
        }
        let shutdown = samples(patch::SHUTDOWN).min(SHUTDOWN_LIMIT * context.rate);
        self.shutdown_ticks = (shutdown / PERIOD as f32).max(1.0);
    }

    fn seen<'a>(&self, patch: &Patch, context: &Context<'a>, drivers: [f32; DRIVERS]) -> Seen<'a> {
        let (key, velocity, pressure) = (f32::from(self.key), self.velocity, self.pressure);
        let mut seen = Seen { channel: context.channel, key, velocity, pressure, drivers };
        seen.key = patch.key(self.key, &seen);
        seen
    }

    /// Works out what note and channel say now.
    pub(super) fn take_in(&mut self, patch: &Patch, context: &Context<'_>) {
        self.version = context.channel.version;
        self.sums = patch.sums(&self.seen(patch, context, [0.0; DRIVERS]));
        if self.filtered {
            // Controllers 71 and 74 of General MIDI 2.
            self.sums.steady[patch::RESONANCE] += context.channel.offset(71) * 2.0;
            self.sums.steady[patch::CUTOFF] += context.channel.offset(74) * 75.0;
        }
        // Controller 77: half a semitone more vibrato, or less, but never turned over.
        let vibrato = &mut self.sums.depth[patch::PITCH][VIBRATO];
        let deeper = *vibrato + context.channel.offset(77) * (50.0 / 64.0);
        if context.channel.offset(77) != 0.0 {
            *vibrato = deeper.max(vibrato.min(0.0));
        }
        let moves = |driver: usize| self.intricate || self.sums.depth.iter().any(|depth| depth[driver] != 0.0);
        self.moving = (0..DRIVERS).fold(0, |bits, driver| bits | u8::from(moves(driver)) << driver);
        let steady = self.sums.steady;
        self.settle(&steady, context);
    }

    /// Takes in what drivers move that is no plain depth; gives pitch and cutoff.
    pub(super) fn take_in_others(&mut self, context: &Context<'_>, drivers: &[f32; DRIVERS]) -> (f32, f32) {
        let patch = context.bank.patch(context.bank.region(self.region).patch);
        let sums = patch.moved(&self.sums.steady, &self.seen(patch, context, *drivers));
        self.settle(&sums, context);
        (sums[patch::PITCH], sums[patch::CUTOFF])
    }

    /// Derives levels, sides, sends and the filter's shape from sums.
    fn settle(&mut self, sums: &[f32; MOVING], context: &Context<'_>) {
        let gain = sums[patch::GAIN];
        self.level =
            if gain > SILENCE { self.gain * libm::exp10f(gain.min(LOUDEST) / 200.0) * context.master } else { 0.0 };
        self.pan = match self.speaker {
            Speaker::Panned => context.tables.pan(clean(sums[patch::PAN] / 10.0, -50.0, 50.0)),
            Speaker::Left => (1.0, 0.0),
            Speaker::Right => (0.0, 1.0),
            Speaker::Both => (1.0, 1.0),
        };
        let part = |place: usize| clean(sums[place] / 1000.0, 0.0, 1.0);
        self.send_goals = (part(patch::REVERB), part(patch::CHORUS));
        if self.filtered {
            let resonance = clean(sums[patch::RESONANCE] / 10.0, 0.0, 96.0);
            // 0 dB is the flattest response; a peak of some height lowers everything by half of it.
            self.damping =
                (core::f32::consts::SQRT_2 * libm::exp10f(resonance / -20.0), libm::exp10f(resonance / -40.0));
            self.last_cutoff = f32::NAN;
        }
    }
}

/// The resonant low-pass: the analogue one of two poles, its frequencies warped so that the corner stays in place.
/// `damping` is 1 / Q and a gain.
pub(super) fn low_pass(cutoff: f32, damping: (f32, f32), context: &Context<'_>) -> LowPass {
    let limit = CUTOFF_LIMIT * context.rate;
    let hz = (440.0 * context.tables.ratio(clean(cutoff, 1500.0, 20_000.0) - 6900.0) as f32).min(limit);
    let turns = hz / context.rate;
    // Half the angle's sine keeps its digits where the angle is small and its cosine nearly 1.
    let half = context.tables.sine(0.5 * turns);
    let alpha = 0.5 * damping.0 * context.tables.sine(turns);
    let over = 1.0 / (1.0 + alpha);
    let square = half * half;
    LowPass { b: square * over * damping.1, a1: (4.0 * square - 2.0) * over, a2: (1.0 - alpha) * over }
}
