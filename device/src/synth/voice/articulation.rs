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
use crate::synth::envelope::{Times, clean};
use crate::synth::lanes::Group;

/// The longest shutdown of a stolen voice, seconds: it holds a lane that another may need.
const SHUTDOWN_LIMIT: f32 = 0.1;
/// Of the drivers, the vibrato oscillator.
const VIBRATO: usize = 1;
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
    pub(super) fn begin(&mut self, patch: &Patch, context: &Context<'_>, (group, lane): (&mut Group, usize)) {
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
        let control = &mut group.control;
        control.amplitude.start(lane, &volume);
        if self.drivers & 8 != 0 {
            control.modulation.start(lane, &times(patch::ENVELOPES + 6));
        }
        let oscillator = |first, faster, later| {
            let cents = clean(at(first) + faster, -16_000.0, 12_000.0) - 6900.0;
            (440.0 * libm::exp2f(cents / 1200.0), samples(first + 1) * later, context.rate)
        };
        let [lfo, vibrato] = &mut control.oscillators;
        if self.drivers & 1 != 0 {
            lfo.start(lane, oscillator(patch::OSCILLATORS, 0.0, 1.0));
        }
        if self.drivers & 2 != 0 {
            // Controller 76: an octave up or down. 78: as the times above.
            let faster = context.channel.offset(76) * (1200.0 / 64.0);
            vibrato.start(lane, oscillator(patch::OSCILLATORS + 2, faster, longer(78)));
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
    pub(super) fn take_in(&mut self, patch: &Patch, context: &Context<'_>, (group, lane): (&mut Group, usize)) {
        self.version = context.channel.version;
        let mut sums = patch.sums(&self.seen(patch, context, [0.0; DRIVERS]));
        if self.filtered {
            // Controllers 71 and 74 of General MIDI 2.
            sums.steady[patch::RESONANCE] += context.channel.offset(71) * 2.0;
            sums.steady[patch::CUTOFF] += context.channel.offset(74) * 75.0;
        }
        // Controller 77: half a semitone more vibrato, or less, but never turned over.
        let vibrato = &mut sums.depth[patch::PITCH][VIBRATO];
        let deeper = *vibrato + context.channel.offset(77) * (50.0 / 64.0);
        if context.channel.offset(77) != 0.0 {
            *vibrato = deeper.max(vibrato.min(0.0));
        }
        self.steady = sums.steady;
        group.control.set_depth(lane, &sums.depth);
        self.settle(&sums.steady, context, (group, lane));
    }

    /// Takes in what drivers move that is no plain depth.
    pub(crate) fn take_in_others(&self, context: &Context<'_>, (group, lane): (&mut Group, usize)) {
        let patch = context.bank.patch(context.bank.region(self.region).patch);
        let drivers = group.control.drivers(lane);
        let sums = patch.moved(&self.steady, &self.seen(patch, context, drivers));
        self.settle(&sums, context, (group, lane));
    }

    /// Derives pitch, levels, sides, sends and the filter's shape from sums.
    fn settle(&self, sums: &[f32; MOVING], context: &Context<'_>, (group, lane): (&mut Group, usize)) {
        let control = &mut group.control;
        let own = context.keys.map_or(0.0, |keys| keys[usize::from(self.key & 127)]);
        let tuning = context.tuning + context.channel.scale(self.key) + own;
        control.pitch[lane] = self.cents + tuning + sums[patch::PITCH];
        let gain = sums[patch::GAIN];
        let level =
            if gain > SILENCE { self.gain * libm::exp10f(gain.min(LOUDEST) / 200.0) * context.master } else { 0.0 };
        let pan = match self.speaker {
            Speaker::Panned => context.tables.pan(clean(sums[patch::PAN] / 10.0, -50.0, 50.0)),
            Speaker::Left => (1.0, 0.0),
            Speaker::Right => (0.0, 1.0),
            Speaker::Both => (1.0, 1.0),
        };
        let part = |place: usize| clean(sums[place] / 1000.0, 0.0, 1.0);
        let goals = [level * pan.0, level * pan.1, part(patch::REVERB), part(patch::CHORUS)];
        if goals != control.goals(lane) {
            control.set_goals(lane, goals);
        }
        if self.filtered {
            control.cutoff[lane] = sums[patch::CUTOFF];
            let resonance = clean(sums[patch::RESONANCE] / 10.0, 0.0, 96.0);
            // 0 dB is the flattest response; a peak of some height lowers everything by half of it.
            control.damping[lane] = core::f32::consts::SQRT_2 * libm::exp10f(resonance / -20.0);
            control.makeup[lane] = libm::exp10f(resonance / -40.0);
        }
    }
}
