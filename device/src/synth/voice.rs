//! One voice, as messages see it: what it plays, and what note and channel make of its controls.
//!
//! Fed by a note-on and by its channel's controllers, through its region's patch; sets the controls of its lane in a
//! [`Group`], which moves them on by itself.

mod articulation;

use super::PERIOD;
use super::channel::Channel;
use super::control::HEADROOM;
use super::lanes::Group;
use super::tables::Tables;
use crate::bank::patch::MOVING;
use crate::bank::{Bank, Region, Speaker};

/// Control ticks in which a silenced voice fades: 2.7 ms at 48 kHz.
const FADE_TICKS: f32 = 4.0;

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
    /// Of the channel, when `steady` was made.
    version: u32,
    /// Bit per driver that the patch needs.
    drivers: u8,
    filtered: bool,
    /// The sums of its destinations without the drivers.
    steady: [f32; MOVING],
    /// Gain of the wave.
    gain: f32,
    /// Fine tuning less the unity note, cents.
    cents: f32,
    shutdown_ticks: f32,
}

/// What a voice reads besides itself.
pub(crate) struct Context<'a> {
    pub(crate) tables: &'a Tables,
    pub(crate) bank: &'a Bank,
    pub(crate) channel: &'a Channel,
    /// Gain of its channel group.
    pub(crate) master: f32,
    /// What the tuning of its channel group adds to the channel, cents.
    pub(crate) tuning: f32,
    /// And what it adds to each key, if it is not tuned equally.
    pub(crate) keys: Option<&'a [f32; 128]>,
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
        drivers: 0,
        filtered: false,
        steady: [0.0; MOVING],
        gain: 0.0,
        cents: 0.0,
        shutdown_ticks: 1.0,
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
            filtered: patch.filters(),
            gain: region.gain * context.channel.softness() * HEADROOM,
            cents: region.cents,
            ..Self::IDLE
        };
        group.start(lane, channel, sound);
        let control = &mut group.control;
        control.unity[lane] = sound.rate as f32 / context.rate;
        let glide = context.channel.glide;
        control.glide[lane] = glide.cents;
        control.glide_step[lane] = glide.cents / (glide.time * context.rate / PERIOD as f32).max(1.0);
        control.gliding |= u8::from(glide.cents != 0.0) << lane;
        control.intricate |= u8::from(patch.has_others()) << lane;
        self.begin(patch, context, (group, lane));
        self.take_in(patch, context, (group, lane));
        self.steer(context, (group, lane, until_tick));
        group.control.settle_at_once(lane);
        group.show_sends();
        group.set_gains(lane, group.control.gains(lane));
        group.control.advance_one(lane, until_tick);
        group.ramp(lane, group.control.gains(lane), until_tick);
    }

    /// Sets pitch and filter of the lane by what asks for them now.
    fn steer(&mut self, context: &Context<'_>, (group, lane, until_tick): Lane<'_>) {
        let drivers = group.control.drivers(lane);
        if group.control.intricate & 1 << lane != 0 {
            self.take_in_others(context, (group, lane));
        }
        if self.leader.is_none() {
            group.change_step(lane, group.control.step(lane, &drivers), until_tick);
        }
        if self.filtered {
            group.set_filter(lane, group.control.low_pass(lane, &drivers, context.rate));
        }
    }

    /// It has come to its end, and is silent at the next tick.
    pub(crate) fn end(&mut self) {
        self.state = State::Ending;
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
        group.control.amplitude.release_amplitude(lane, until_tick as f32);
        if self.drivers & 8 != 0 {
            group.control.modulation.release_fraction(lane, until_tick as f32);
        }
        let bank = context.bank;
        let region = bank.region(self.region);
        if let Some(tail) = region.tail {
            group.leave_loop(lane, (bank.sound(region.sound), bank.sound(tail)), until_tick);
        }
        group.bend(lane, group.control.gains(lane), until_tick);
    }

    /// Something on its channel has changed: from this very sample on.
    pub(crate) fn refresh(&mut self, context: &Context<'_>, (group, lane, until_tick): Lane<'_>) {
        if self.version == context.channel.version || !self.counts() {
            return;
        }
        let goals = group.control.goals(lane);
        self.take_in(context.bank.patch(context.bank.region(self.region).patch), context, (group, lane));
        self.steer(context, (group, lane, until_tick));
        // Many messages of another kind must not hurry a fader.
        if goals != group.control.goals(lane) {
            group.control.approach(lane, until_tick as f32 * (1.0 / PERIOD as f32));
            group.show_sends();
        }
        group.bend(lane, group.control.gains(lane), until_tick);
    }

    /// Fades the voice out from this sample on: all sound is off.
    pub(crate) fn silence(&mut self, _: &Context<'_>, lane: Lane<'_>) {
        self.fade_out(FADE_TICKS, lane);
    }

    /// Fades the voice out as its articulation says, since it was stolen or its exclusive class demands it.
    pub(crate) fn shut_down(&mut self, lane: Lane<'_>) {
        self.fade_out(self.shutdown_ticks, lane);
    }

    fn fade_out(&mut self, ticks: f32, (group, lane, until_tick): Lane<'_>) {
        let part = until_tick as f32 * (1.0 / PERIOD as f32);
        let control = &mut group.control;
        let step = control.fade_step[lane];
        let level = (control.fade[lane] + part * step).min(1.0);
        // One that fades already keeps the level where it is and gets steeper.
        let steeper = self.state == State::Fading && ticks * step < control.fade[lane];
        if !steeper && !self.counts() {
            return;
        }
        self.state = State::Fading;
        control.fade_step[lane] = level / ticks;
        control.fade[lane] = level - part * control.fade_step[lane];
        control.fading |= 1 << lane;
        group.bend(lane, group.control.gains(lane), until_tick);
    }

    /// Counts against the number of voices.
    pub(crate) fn counts(&self) -> bool {
        matches!(self.state, State::Held | State::Sustained | State::Released)
    }

    /// Who is stolen first: the lower priority before the higher, the released before the rest, the quieter before the
    /// louder, the older before the newer.
    pub(crate) fn worth(&self, (group, lane): (&Group, usize)) -> (u32, bool, f32, u64) {
        let level = group.control.envelope(lane);
        (self.priority, self.state != State::Released, level * level, self.note)
    }
}
