//! The control-rate part of one voice: envelopes, oscillators, pitch, filter and level.
//!
//! Fed by a note-on and by its channel's controllers, through its region's patch; sets steps, filters and gain ramps of
//! its lane in a `Group`.

mod articulation;

use super::PERIOD;
use super::channel::Channel;
use super::envelope::{Envelope, clean};
use super::lanes::Group;
use super::oscillator::Oscillator;
use super::tables::Tables;
use crate::bank::patch::{self, DRIVERS, MOVING, Sums};
use crate::bank::{Bank, Region, Speaker};
use articulation::low_pass;

/// Gain of a full-scale wave, so that one fortissimo note at default controllers peaks near -12 dBFS.
const HEADROOM: f32 = 0.57 / 32_768.0;
/// Control ticks in which a silenced voice fades: 2.7 ms at 48 kHz.
const FADE_TICKS: f32 = 4.0;
/// Part of the whole by which a control may miss its goal.
const CLOSE: f32 = 1e-5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Idle,
    /// Its key is down.
    Held,
    /// Its key is up, a pedal is down.
    Sustained,
    Released,
    /// Fading out early; no longer counts as a voice.
    Fading,
    /// Silent at the next tick.
    Ending,
}

/// One voice; its lane has the same index, and knows the channel.
#[derive(Clone, Debug)]
pub(crate) struct Voice {
    pub(crate) state: State,
    pub(crate) key: u8,
    pub(crate) velocity: u8,
    pub(crate) key_group: u16,
    /// The sostenuto pedal went down while its key was down.
    pub(crate) caught: bool,
    /// Counts note-ons, so that voices of one note can be told from older ones.
    pub(crate) note: u64,
    /// The voice whose rate it runs at: its index, and its note.
    pub(crate) leader: Option<usize>,
    priority: u32,
    /// Index of its region.
    region: usize,
    speaker: Speaker,
    pressure: u8,
    /// Of the channel, when `sums` were made.
    version: u32,
    /// Where they will be at the next tick.
    amplitude: Envelope,
    modulation: Envelope,
    /// Where they were so many samples before that.
    earlier: (Envelope, Envelope, f32),
    oscillators: [Oscillator; 2],
    /// Bit per driver that the patch needs.
    drivers: u8,
    /// Bit per driver that moves something now.
    moving: u8,
    /// Some block is more than a depth.
    intricate: bool,
    sums: Sums,
    /// What `sums` make of the level, before drivers: wave gain, velocity, volume, expression, master volume.
    level: f32,
    /// What they make of each side's part of it.
    pan: (f32, f32),
    /// Gain of the wave, and of a fade that was begun anew.
    gain: f32,
    /// 32.32 steps per output sample at the wave's own pitch.
    unity_step: f64,
    /// Fine tuning less the unity note, cents.
    cents: f32,
    /// What is left of a glide, cents, and what each tick takes off it.
    glide: f32,
    glide_step: f32,
    /// Of a fade, the ticks that are left at the next one, and all of them.
    fade: f32,
    fade_ticks: f32,
    shutdown_ticks: f32,
    /// Gain of each side, on its way to the present value.
    sides: (f32, f32),
    sends: (f32, f32),
    send_goals: (f32, f32),
    filtered: bool,
    /// 1 / Q and the gain that makes up for the resonance.
    damping: (f32, f32),
    /// What pitch and filter were last computed from.
    last_cents: f32,
    last_cutoff: f32,
}

/// What a voice reads at a tick besides itself.
pub(crate) struct Context<'a> {
    pub(crate) tables: &'a Tables,
    pub(crate) bank: &'a Bank,
    pub(crate) channel: &'a Channel,
    /// Gain of its channel group.
    pub(crate) master: f32,
    /// What the tuning of its channel group adds to the channel, cents.
    pub(crate) tuning: f32,
    /// Output samples per second.
    pub(crate) rate: f32,
}

/// A voice's lane group, its lane in it, and the samples until the next tick.
pub(crate) type Lane<'a> = (&'a mut Group, usize, usize);

impl Voice {
    pub(crate) const IDLE: Self = Self {
        state: State::Idle,
        key: 0,
        velocity: 0,
        key_group: 0,
        caught: false,
        note: 0,
        leader: None,
        priority: 0,
        region: 0,
        speaker: Speaker::Panned,
        pressure: 0,
        version: 0,
        amplitude: Envelope::IDLE,
        modulation: Envelope::IDLE,
        earlier: (Envelope::IDLE, Envelope::IDLE, 0.0),
        oscillators: [Oscillator::OFF; 2],
        drivers: 0,
        moving: 0,
        intricate: false,
        sums: Sums { steady: [0.0; MOVING], depth: [[0.0; DRIVERS]; patch::DRIVEN] },
        level: 0.0,
        pan: (0.0, 0.0),
        gain: 0.0,
        unity_step: 0.0,
        cents: 0.0,
        glide: 0.0,
        glide_step: 0.0,
        fade: 0.0,
        fade_ticks: 1.0,
        shutdown_ticks: 1.0,
        sides: (0.0, 0.0),
        sends: (0.0, 0.0),
        send_goals: (0.0, 0.0),
        filtered: false,
        damping: (1.0, 1.0),
        last_cents: f32::NAN,
        last_cutoff: f32::NAN,
    };

    /// Starts a region in `lane` for a channel (group x 16 + channel), `until_tick` samples before the next tick.
    pub(crate) fn start(
        &mut self,
        (key, velocity, note): (u8, u8, u64),
        (index, region): (usize, &Region),
        context: &Context<'_>,
        (group, lane, channel): (&mut Group, usize, u32),
        until_tick: usize,
    ) {
        let patch = context.bank.patch(region.patch);
        let sound = context.bank.sound(region.sound);
        let glide = context.channel.glide;
        *self = Self {
            state: State::Held,
            key,
            velocity,
            key_group: region.key_group,
            note,
            priority: context.channel.priority,
            region: index,
            speaker: region.speaker,
            drivers: patch.drivers(),
            intricate: patch.has_others(),
            gain: region.gain * context.channel.softness() * HEADROOM,
            unity_step: f64::from(sound.rate) / f64::from(context.rate) * (1u64 << 32) as f64,
            cents: region.cents,
            glide: glide.cents,
            glide_step: glide.cents / (glide.time * context.rate / PERIOD as f32).max(1.0),
            filtered: patch.filters(),
            ..Self::IDLE
        };
        self.begin(patch, context);
        self.take_in(patch, context);
        let drivers = self.drivers_now(context.tables);
        group.start(lane, channel, sound);
        self.steer(context, &drivers, group, lane);
        self.sides = self.side_goals();
        self.sends = self.send_goals;
        group.set_gains(lane, self.gains(context, &drivers));
        group.set_sends(lane, self.sends);
        self.advance(until_tick as f32);
        group.ramp(lane, self.gains(context, &self.drivers_now(context.tables)), until_tick);
    }

    fn advance(&mut self, samples: f32) {
        self.earlier = (self.amplitude, self.modulation, samples);
        self.amplitude.advance(samples);
        if self.drivers & 8 != 0 {
            self.modulation.advance(samples);
        }
        for (bit, oscillator) in [1, 2].into_iter().zip(&mut self.oscillators) {
            if self.drivers & bit != 0 {
                oscillator.advance(samples);
            }
        }
    }

    /// Where the drivers stand that move something.
    fn drivers_now(&self, tables: &Tables) -> [f32; DRIVERS] {
        if self.moving == 0 {
            return [0.0; DRIVERS];
        }
        let value = |o: usize| if self.moving & (1 << o) != 0 { self.oscillators[o].value(tables) } else { 0.0 };
        [value(0), value(1), self.amplitude.fraction(), self.modulation.fraction()]
    }

    /// A control tick: moves on by a period and sets the lane up for the next one. Ends the voice when it is silent.
    pub(crate) fn tick(&mut self, context: &Context<'_>, group: &mut Group, lane: usize) {
        if self.state == State::Ending {
            self.state = State::Idle;
            group.stop(lane);
            return;
        }
        self.advance(PERIOD as f32);
        if self.glide != 0.0 {
            let before = self.glide;
            self.glide -= self.glide_step;
            // Past the note's own pitch, or there but for rounding.
            if self.glide * before <= 0.0 {
                self.glide = 0.0;
            }
        }
        if self.version != context.channel.version {
            self.take_in(context.bank.patch(context.bank.region(self.region).patch), context);
        }
        let drivers = self.drivers_now(context.tables);
        self.steer(context, &drivers, group, lane);
        self.approach(group, lane, 1.0);
        let mut goal = self.gains(context, &drivers);
        if self.state == State::Fading {
            self.fade -= 1.0;
            goal = self.faded(goal);
        }
        let faded = self.state == State::Fading && self.fade <= 0.0;
        let exhausted = group.exhausted(lane);
        if faded || exhausted || self.amplitude.done() {
            // One more period, in which the level runs down to nothing.
            goal = (0.0, 0.0);
            self.state = State::Ending;
            if exhausted {
                group.set_step(lane, 0);
            }
        }
        group.ramp(lane, goal, PERIOD);
    }

    /// What the drivers add to a destination now.
    fn driven(&self, place: usize, drivers: &[f32; DRIVERS]) -> f32 {
        let [a, b, c, d] = self.sums.depth[place];
        (a * drivers[0] + b * drivers[1]) + (c * drivers[2] + d * drivers[3])
    }

    /// Sets pitch and filter of the lane, when they change, and what else drivers move that is no plain depth.
    fn steer(&mut self, context: &Context<'_>, drivers: &[f32; DRIVERS], group: &mut Group, lane: usize) {
        let own = self.cents + (self.glide + context.tuning + context.channel.scale(self.key));
        let (mut cents, mut cutoff) = (own + self.sums.steady[patch::PITCH], self.sums.steady[patch::CUTOFF]);
        if self.moving != 0 {
            if self.intricate {
                let (pitch, corner) = self.take_in_others(context, drivers);
                (cents, cutoff) = (own + pitch, corner);
            }
            cents += self.driven(patch::PITCH, drivers);
            cutoff += self.driven(patch::CUTOFF, drivers);
        }
        // Also true for the initial NaN, and for none that follows.
        if cents != self.last_cents && self.leader.is_none() {
            self.last_cents = cents;
            let step = self.unity_step * context.tables.ratio(clean(cents, -12_000.0, 12_000.0)) + 0.5;
            group.set_step(lane, step as u64);
        }
        if self.filtered && cutoff != self.last_cutoff {
            self.last_cutoff = cutoff;
            group.set_filter(lane, low_pass(cutoff, self.damping, context));
        }
    }

    /// The levels that the voice should have now, left and right.
    fn gains(&self, context: &Context<'_>, drivers: &[f32; DRIVERS]) -> (f32, f32) {
        let mut gain = self.amplitude.amplitude(context.tables);
        if self.moving != 0 {
            let tenths = self.driven(patch::GAIN, drivers);
            if tenths != 0.0 {
                gain *= context.tables.gain(tenths / 10.0);
            }
        }
        (gain * self.sides.0, gain * self.sides.1)
    }

    /// What blocks, controllers and master volume ask of each side.
    fn side_goals(&self) -> (f32, f32) {
        (self.level * self.pan.0, self.level * self.pan.1)
    }

    /// Brings sides and sends nearer to where controllers have put them, within a part of a period.
    fn approach(&mut self, group: &mut Group, lane: usize, part: f32) {
        let goals = self.side_goals();
        if self.sides == goals && self.sends == self.send_goals {
            return;
        }
        let near = CLOSE * HEADROOM;
        self.sides = (approach(self.sides.0, goals.0, near, part), approach(self.sides.1, goals.1, near, part));
        if self.sends != self.send_goals {
            let goals = self.send_goals;
            let (reverb, chorus) = self.sends;
            self.sends = (approach(reverb, goals.0, CLOSE, part), approach(chorus, goals.1, CLOSE, part));
            group.set_sends(lane, self.sends);
        }
    }

    /// The index of the region that it plays.
    pub(crate) fn played(&self) -> Option<usize> {
        (self.state != State::Idle).then_some(self.region)
    }

    /// Pressure on its key.
    pub(crate) fn press(&mut self, pressure: u8, channel: &Channel) {
        self.pressure = pressure;
        // Whatever was taken in is stale.
        self.version = channel.version.wrapping_sub(1);
    }

    /// Note-off, or the end of the pedal that held the note: from this very sample on.
    pub(crate) fn release(&mut self, context: &Context<'_>, (group, lane, until_tick): Lane<'_>) {
        if !matches!(self.state, State::Held | State::Sustained) {
            return;
        }
        self.state = State::Released;
        // The envelopes stand at the next tick already: back to the last one, and to here.
        let (amplitude, modulation, samples) = self.earlier;
        let left = (until_tick as f32).min(samples);
        (self.amplitude, self.modulation) = (amplitude, modulation);
        self.amplitude.advance(samples - left);
        self.amplitude.release_amplitude();
        self.amplitude.advance(left);
        if self.drivers & 8 != 0 {
            self.modulation.advance(samples - left);
            self.modulation.release_fraction();
            self.modulation.advance(left);
        }
        let bank = context.bank;
        let region = bank.region(self.region);
        if let Some(tail) = region.tail {
            group.leave_loop(lane, bank.sound(region.sound), bank.sound(tail));
        }
        group.bend(lane, self.gains(context, &self.drivers_now(context.tables)), until_tick);
    }

    /// Something on its channel has changed: from this very sample on.
    pub(crate) fn refresh(&mut self, context: &Context<'_>, (group, lane, until_tick): Lane<'_>) {
        if self.version == context.channel.version || !self.counts() {
            return;
        }
        let goals = (self.side_goals(), self.send_goals);
        self.take_in(context.bank.patch(context.bank.region(self.region).patch), context);
        let drivers = self.drivers_now(context.tables);
        self.steer(context, &drivers, group, lane);
        // Many messages of another kind must not hurry a fader.
        if goals != (self.side_goals(), self.send_goals) {
            self.approach(group, lane, until_tick as f32 * (1.0 / PERIOD as f32));
        }
        group.bend(lane, self.gains(context, &drivers), until_tick);
    }

    /// Fades the voice out from this sample on: all sound is off.
    pub(crate) fn silence(&mut self, context: &Context<'_>, lane: Lane<'_>) {
        self.fade_out(FADE_TICKS, context, lane);
    }

    /// Fades the voice out as its articulation says, since it was stolen or its exclusive class demands it.
    pub(crate) fn shut_down(&mut self, context: &Context<'_>, lane: Lane<'_>) {
        self.fade_out(self.shutdown_ticks, context, lane);
    }

    fn fade_out(&mut self, ticks: f32, context: &Context<'_>, (group, lane, until_tick): Lane<'_>) {
        let part = until_tick as f32 * (1.0 / PERIOD as f32);
        if self.state == State::Fading && ticks < self.fade {
            // Keeps the level where it is and gets steeper.
            let level = ((self.fade + part) / self.fade_ticks).min(1.0);
            self.gain *= level;
            self.level *= level;
            self.sides = (self.sides.0 * level, self.sides.1 * level);
        } else if !self.counts() {
            return;
        }
        self.state = State::Fading;
        (self.fade, self.fade_ticks) = (ticks - part, ticks);
        let goal = self.faded(self.gains(context, &self.drivers_now(context.tables)));
        group.bend(lane, goal, until_tick);
    }

    /// What a fade leaves of a level.
    fn faded(&self, (left, right): (f32, f32)) -> (f32, f32) {
        let part = (self.fade / self.fade_ticks).max(0.0);
        (left * part, right * part)
    }

    /// Counts against the number of voices.
    pub(crate) fn counts(&self) -> bool {
        matches!(self.state, State::Held | State::Sustained | State::Released)
    }

    /// Who is stolen first: the lower priority before the higher, the released before the rest, the quieter before the
    /// louder, the older before the newer.
    pub(crate) fn worth(&self, tables: &Tables) -> (u32, bool, f32, u64) {
        let level = if self.amplitude.rising() { 1.0 } else { self.amplitude.amplitude(tables) };
        (self.priority, self.state != State::Released, self.level * level, self.note)
    }
}

/// A quarter of the way in each period: a fader thrown in an instant makes no click, and is there within 10 ms.
fn approach(now: f32, goal: f32, near: f32, part: f32) -> f32 {
    let left = goal - now;
    if left.abs() < near { goal } else { now + 0.25 * part * left }
}
