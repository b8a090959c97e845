//! The control-rate part of one voice: envelopes, oscillators, pitch, filter and level.
//!
//! Fed by a note-on and by its channel's controllers; sets steps, filters and gain ramps of its lane in a `Group`.

use super::channel::{Channel, concave};
use super::envelope::{Envelope, clean};
use super::lanes::{Group, PERIOD, Source};
use super::tables::Tables;
use crate::bank::{Articulation, Bank, Filter, Lfo, Region};

/// Gain of a full-scale wave, so that one fortissimo note at default controllers peaks near -12 dBFS.
const HEADROOM: f32 = 0.57 / 32_768.0;
/// Control ticks in which a stolen or silenced voice fades: 2.7 ms at 48 kHz.
const FADE_TICKS: u8 = 4;
/// Control ticks in which an exclusive class fades: 8 ms at 48 kHz, as a hand chokes a cymbal.
const CHOKE_TICKS: u8 = 12;
/// Highest cutoff as a part of the sample rate; a two-pole filter means little above.
const CUTOFF_LIMIT: f32 = 0.42;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Idle,
    /// Its key is down.
    Held,
    /// Its key is up, the pedal is down.
    Sustained,
    Released,
    /// Fading out early; no longer counts as a voice.
    Fading,
    /// Silent at the next tick.
    Ending,
}

/// One voice; its lane has the same index.
#[derive(Clone, Debug)]
pub(crate) struct Voice {
    pub(crate) state: State,
    /// Group x 16 + channel.
    pub(crate) channel: usize,
    pub(crate) key: u8,
    pub(crate) key_group: u16,
    /// Counts note-ons, so that voices of one note can be told from older ones.
    pub(crate) note: u64,
    articulation: Articulation,
    amplitude: Envelope,
    modulation: Envelope,
    /// Velocity and wave gain.
    gain: f32,
    /// 32.32 steps per output sample at the wave's own pitch.
    unity_step: f64,
    /// Interval above the wave's own pitch before controllers, cents.
    cents: f32,
    /// Cutoff before the envelope, absolute cents.
    cutoff: f32,
    /// Samples since note-on.
    age: f32,
    fade: u8,
    fade_ticks: u8,
    /// End of the wave behind a loop that the release leaves.
    tail: Option<usize>,
    /// Gains that volume, expression, pan and master volume give each side, on their way to the present values.
    sides: (f32, f32),
    /// What pitch and filter were last computed from.
    last_cents: f32,
    last_cutoff: f32,
}

/// What a voice reads at a tick besides itself.
pub(crate) struct Context<'a> {
    pub(crate) tables: &'a Tables,
    pub(crate) channel: &'a Channel,
    /// Gain of its channel group.
    pub(crate) master: f32,
    /// Output samples per second.
    pub(crate) rate: f32,
}

impl Voice {
    pub(crate) const IDLE: Self = Self {
        state: State::Idle,
        channel: 0,
        key: 0,
        key_group: 0,
        note: 0,
        articulation: Articulation::DEFAULT,
        amplitude: Envelope::IDLE,
        modulation: Envelope::IDLE,
        gain: 0.0,
        unity_step: 0.0,
        cents: 0.0,
        cutoff: 0.0,
        age: 0.0,
        fade: 0,
        fade_ticks: 1,
        tail: None,
        sides: (0.0, 0.0),
        last_cents: f32::NAN,
        last_cutoff: f32::NAN,
    };

    /// Starts a note of `region` in `lane`, `until_tick` samples before the next tick. False if the bank lacks its wave.
    pub(crate) fn start(
        &mut self,
        (key, velocity): (u8, u8),
        (bank, region): (&Bank, &Region),
        context: &Context<'_>,
        (group, lane): (&mut Group, usize),
        until_tick: usize,
    ) -> bool {
        let Some(wave) = bank.waves().get(region.wave) else {
            return false;
        };
        let articulation = bank.articulations().get(region.articulation).copied();
        let a = articulation.unwrap_or(Articulation::DEFAULT);
        let sampling = region.sampling.unwrap_or(wave.sampling);
        let looped = sampling
            .looped
            .filter(|l| l.length > 0 && l.start.checked_add(l.length).is_some_and(|end| end <= wave.length));
        let source = Source {
            base: wave.start,
            end: looped.map_or(wave.length, |l| l.start + l.length),
            loop_length: looped.map_or(0, |l| l.length),
        };
        let above = f32::from(key) - f32::from(sampling.unity_key);
        let level = clean(sampling.gain + a.gain, -96.0, 24.0);
        let cutoff = |f: Filter| f.cutoff + f.velocity * f32::from(velocity) / 127.0 + f.key * (f32::from(key) - 60.0);
        *self = Self {
            state: State::Held,
            channel: self.channel,
            key,
            key_group: region.key_group,
            note: self.note,
            articulation: a,
            amplitude: Envelope::start(&a.amplitude, a.amplitude.sustain / 96.0, key, velocity, context.rate),
            modulation: Envelope::start(&a.modulation, a.modulation.sustain / 100.0, key, velocity, context.rate),
            gain: concave(velocity) * libm::exp10f(level / 20.0) * HEADROOM,
            unity_step: f64::from(wave.rate) / f64::from(context.rate) * (1u64 << 32) as f64,
            cents: clean(above * a.key_pitch, -12_700.0, 12_700.0) + f32::from(sampling.fine_tune),
            cutoff: a.filter.map_or(0.0, cutoff),
            tail: looped.filter(|l| l.until_release).map(|_| wave.length),
            ..Self::IDLE
        };
        self.sides = self.side_goals(context);
        group.start(lane, source, self.gains(context));
        self.steer(context, group, lane);
        self.amplitude.advance(until_tick as f32);
        self.modulation.advance(until_tick as f32);
        self.age = until_tick as f32;
        group.ramp(lane, self.gains(context), until_tick);
        true
    }

    /// A control tick: moves on by a period and sets the lane up for the next one. Ends the voice when it is silent.
    pub(crate) fn tick(&mut self, context: &Context<'_>, group: &mut Group, lane: usize) {
        if self.state == State::Ending {
            self.state = State::Idle;
            group.stop(lane);
            return;
        }
        self.amplitude.advance(PERIOD as f32);
        self.modulation.advance(PERIOD as f32);
        self.age += PERIOD as f32;
        self.steer(context, group, lane);
        let sides = self.side_goals(context);
        self.sides = (approach(self.sides.0, sides.0), approach(self.sides.1, sides.1));
        let mut goal = self.gains(context);
        if self.state == State::Fading {
            self.fade = self.fade.saturating_sub(1);
            let part = f32::from(self.fade) / f32::from(self.fade_ticks);
            goal = (goal.0 * part, goal.1 * part);
        }
        let faded = self.state == State::Fading && self.fade == 0;
        if faded || self.amplitude.done() || group.exhausted(lane) {
            // One more period, in which the level runs down to nothing.
            goal = (0.0, 0.0);
            self.state = State::Ending;
        }
        group.ramp(lane, goal, PERIOD);
    }

    /// Sets pitch and filter of the lane, when they change.
    fn steer(&mut self, context: &Context<'_>, group: &mut Group, lane: usize) {
        let a = &self.articulation;
        let wheel = f32::from(context.channel.modulation) / 127.0;
        let depth = a.vibrato.pitch + a.vibrato.wheel_pitch * wheel;
        let mut cents = self.cents + context.channel.cents();
        if depth != 0.0 {
            cents += depth * self.oscillate(&a.vibrato, context);
        }
        if a.tremolo.pitch != 0.0 {
            cents += a.tremolo.pitch * self.oscillate(&a.tremolo, context);
        }
        if a.modulation_pitch != 0.0 {
            cents += a.modulation_pitch * self.modulation.fraction();
        }
        // Also true for the initial NaN, and for none that follows.
        if cents != self.last_cents {
            self.last_cents = cents;
            let cents = clean(cents, -12_000.0, 12_000.0);
            let step = (self.unity_step * context.tables.ratio(cents) + 0.5) as u64;
            // No more than 1024 samples at a step, so that positions cannot overflow.
            group.step[lane] = step.min(1 << 42);
        }
        if let Some(filter) = a.filter {
            let cutoff = self.cutoff + filter.envelope * self.modulation.fraction();
            if cutoff != self.last_cutoff {
                self.last_cutoff = cutoff;
                let (k, b1, b2) = low_pass(cutoff, filter.resonance, context);
                (group.k[lane], group.b1[lane], group.b2[lane]) = (k, b1, b2);
                group.filtered |= 1 << lane;
            }
        }
    }

    fn oscillate(&self, lfo: &Lfo, context: &Context<'_>) -> f32 {
        let seconds = self.age / context.rate - lfo.delay;
        if seconds > 0.0 { context.tables.sine(clean(seconds * lfo.rate, 0.0, 1e6)) } else { 0.0 }
    }

    /// The levels that the voice should have now, left and right.
    fn gains(&self, context: &Context<'_>) -> (f32, f32) {
        let tremolo = self.articulation.tremolo;
        let mut gain = self.gain * self.amplitude.amplitude(context.tables);
        if tremolo.gain != 0.0 {
            // Downwards only, so that a tremolo does not eat headroom.
            let depth = clean(tremolo.gain, -24.0, 24.0);
            gain *= context.tables.amplitude(depth.abs() - depth * self.oscillate(&tremolo, context));
        }
        (gain * self.sides.0, gain * self.sides.1)
    }

    /// What the controllers ask of each side now.
    fn side_goals(&self, context: &Context<'_>) -> (f32, f32) {
        let gain = context.channel.gain() * context.master;
        let pan = context.channel.pan() + self.articulation.pan;
        let (left, right) = context.tables.pan(clean(pan, -50.0, 50.0));
        (gain * left, gain * right)
    }

    /// Note-off, or the end of the pedal that held the note.
    pub(crate) fn release(&mut self, group: &mut Group, lane: usize) {
        if matches!(self.state, State::Held | State::Sustained) {
            self.state = State::Released;
            self.amplitude.release_amplitude();
            self.modulation.release_fraction();
            if let Some(end) = self.tail {
                group.leave_loop(lane, end);
            }
        }
    }

    /// Fades the voice out fast: it was stolen, or all sound is off.
    pub(crate) fn silence(&mut self) {
        self.fade_out(FADE_TICKS);
    }

    /// Fades the voice out as its exclusive class demands.
    pub(crate) fn choke(&mut self) {
        self.fade_out(CHOKE_TICKS);
    }

    fn fade_out(&mut self, ticks: u8) {
        if matches!(self.state, State::Held | State::Sustained | State::Released) {
            self.state = State::Fading;
            (self.fade, self.fade_ticks) = (ticks, ticks);
        } else if self.state == State::Fading && ticks < self.fade {
            // Keeps the level where it is and gets steeper.
            let level = f32::from(self.fade) / f32::from(self.fade_ticks);
            self.gain *= level;
            (self.fade, self.fade_ticks) = (ticks, ticks);
        }
    }

    /// Counts against the number of voices.
    pub(crate) fn counts(&self) -> bool {
        matches!(self.state, State::Held | State::Sustained | State::Released)
    }

    /// Who is stolen first: the released before the rest, the quieter before the louder, the older before the newer.
    pub(crate) fn worth(&self, tables: &Tables) -> (bool, f32, u64) {
        let level = if self.amplitude.rising() { 1.0 } else { self.amplitude.amplitude(tables) };
        (self.state != State::Released, self.gain * level, self.note)
    }
}

/// A quarter of the way at each tick: a fader thrown in an instant makes no click, and is there within 10 ms.
fn approach(now: f32, goal: f32) -> f32 {
    let left = goal - now;
    if left.abs() < 1e-5 { goal } else { now + 0.25 * left }
}

/// Coefficients of the DLS low-pass, k, b1 and b2: an analogue pole pair sampled, with unity gain at 0 Hz.
fn low_pass(cutoff: f32, resonance: f32, context: &Context<'_>) -> (f32, f32, f32) {
    let tables = context.tables;
    let limit = CUTOFF_LIMIT * context.rate;
    let hz = (440.0 * tables.ratio(clean(cutoff, 0.0, 18_000.0) - 6900.0) as f32).min(limit);
    let turns = hz / context.rate;
    // 0 dB of resonance is the flattest response, a quality of 1 / sqrt 2.
    let damping = core::f32::consts::FRAC_1_SQRT_2 * tables.amplitude(clean(resonance, 0.0, 24.0));
    // exp(-x) is 8.686 dB of attenuation for each unit of x.
    let radius = tables.amplitude(core::f32::consts::TAU * turns * damping * 8.685_89);
    let angle = turns * (1.0 - damping * damping).sqrt();
    let b1 = -2.0 * radius * tables.sine(angle + 0.25);
    let b2 = radius * radius;
    (1.0 + b1 + b2, b1, b2)
}
