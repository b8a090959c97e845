//! The voice engine of one render stream: MIDI messages in, two planes of samples out.
//!
//! Fed by the stream's sequencer with complete messages at their exact samples, and by a [`Bank`] of DLS instruments;
//! adds to the stream's mix.
//!
//! `message` and `note` tell voices what to do. A `voice` sets the controls of its lane, `control` moves those of eight
//! voices on at each tick, and `lanes` renders the eight into a mix, which goes through `effects` and `output`.
//!
//! Everything that moves by itself (envelopes, oscillators, ends of voices) does so at sample positions divisible by
//! 32, gains run in straight lines between them, and messages act at once. So the output does not depend on how it is
//! cut into calls. Nor does it on the processor: `lanes` has vector code with the same bits, and all else is plain.

mod channel;
mod control;
mod curves;
mod effects;
mod envelope;
mod lanes;
mod message;
mod note;
mod oscillator;
mod output;
mod settings;
mod tables;
#[cfg(test)]
mod tests;
mod voice;

use crate::bank::Bank;
use channel::{CHANNELS, Channel};
use dmus_interface::sysex::{KeyTuning, Mode};
use effects::Effects;
pub use lanes::Interpolation;
use lanes::{Code, Group, LANES, Mix, bits};
use note::Scratch;
use output::Output;
use settings::Meter;
pub(crate) use settings::Statistics;
pub(crate) use settings::{GROUP_LIMIT, VOICE_LIMIT};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tables::Tables;
use voice::{Context, Lane, Voice};

/// Samples between control ticks; these fall on multiples of it, counted from the start of the stream.
pub(crate) const PERIOD: usize = 32;
/// Channels whose changes wait for the next sample: as many as one message can change.
const MOST_CHANGED: usize = CHANNELS;
/// The most voices a synth can have.
const MAX_VOICES: usize = 4096;
/// What a voice costs when it begins or takes note of a change, and what each block of its articulation adds.
const VOICE_COST: u64 = 100;
const BLOCK_COST: u64 = 25;
/// Lane groups of a synthesizer, regions of an instrument, and blocks of an articulation, up to which no message costs
/// much.
const LIGHT_GROUPS: usize = 64;
const LIGHT_REGIONS: usize = 256;
const LIGHT_BLOCKS: usize = 64;

/// A synthesizer with its own channel groups and voices.
pub struct Synth {
    bank: Arc<Bank>,
    tables: Tables,
    /// Hz.
    rate: f32,
    /// Samples rendered so far, modulo [`PERIOD`].
    phase: usize,
    /// Channel groups; one that no message has reached yet is as the power came on, and takes no room.
    sets: Vec<Option<Box<Set>>>,
    /// How many may sound; there are twice as many lanes, so that stolen voices have a place to fade out.
    limit: usize,
    voices: Vec<Voice>,
    /// Lanes of `voices`, eight a group.
    groups: Vec<Group>,
    /// Of `groups`: behind these, none is active.
    used: usize,
    /// Some voice may follow another one's rate.
    following: bool,
    /// Channels on which something has changed of which voices have not taken note yet; up to [`MOST_CHANGED`].
    changed: Vec<usize>,
    mix: Box<Mix>,
    effects: Effects,
    /// Nothing is sent to the effects.
    dry: bool,
    /// Whether reverb and chorus are sent to.
    audible: (bool, bool),
    /// What was asked for of them, and what its user allows.
    asked: (bool, bool),
    allowed: (bool, bool),
    output: Output,
    meter: Meter,
    interpolation: Interpolation,
    code: Code,
    /// Note-ons so far.
    notes: u64,
    scratch: Scratch,
    /// What messages have cost so far, and what a voice may cost that begins or takes note of something.
    work: u64,
    enough: u64,
    voice_cost: u64,
    light: bool,
    /// Nobody waits any more for what it does.
    void: Arc<AtomicBool>,
}

/// Sixteen channels.
struct Set {
    channels: [Channel; CHANNELS],
    /// Master volume as a gain.
    master: f32,
    /// Master tuning, cents: of all, and of all but percussion.
    fine: f32,
    coarse: f32,
    /// Tuning of each key, cents, once a message has tuned any.
    keys: Option<Box<[f32; 128]>>,
    /// Whose rules hold.
    mode: Mode,
}

impl Set {
    fn new(mode: Mode) -> Self {
        let channels = core::array::from_fn(|number| Channel::new(number, mode));
        Self { channels, master: 1.0, fine: 0.0, coarse: 0.0, keys: None, mode }
    }

    /// As new, but for what no message sets: priorities.
    fn reset(&mut self, mode: Mode) {
        let priorities = core::array::from_fn::<u32, CHANNELS, _>(|channel| self.channels[channel].priority);
        *self = Self::new(mode);
        for (channel, priority) in self.channels.iter_mut().zip(priorities) {
            channel.priority = priority;
        }
    }

    /// What voices of a channel read at a tick.
    fn context<'a>(&'a self, channel: usize, tables: &'a Tables, bank: &'a Bank, rate: f32) -> Context<'a> {
        let channel = &self.channels[channel % CHANNELS];
        let tuning = self.fine + if channel.drum { 0.0 } else { self.coarse };
        let keys = self.keys.as_deref().filter(|_| !channel.drum);
        Context { tables, bank, channel, master: self.master, tuning, keys, rate }
    }

    /// Octave tuning of the channels that bits name.
    fn tune_octave(&mut self, channels: u16, cents: [f32; 12]) {
        for (number, channel) in self.channels.iter_mut().enumerate() {
            if channels & 1 << number != 0 {
                channel.set_scale(cents);
            }
        }
    }

    /// Tuning of single keys, on all channels but percussion.
    fn tune_keys(&mut self, keys: &KeyTuning<'_>) {
        let table = self.keys.get_or_insert_with(|| Box::new([0.0; 128]));
        for (key, cents) in keys.iter() {
            table[usize::from(key & 127)] = cents - 100.0 * f32::from(key);
        }
    }

    /// What all channels share has changed.
    fn touch(&mut self) {
        self.channels.iter_mut().for_each(Channel::touch);
    }
}

impl Synth {
    /// A synthesizer for a stream of `sample_rate` Hz with `groups` x 16 channels and room for `voices` notes
    /// (1..=4096).
    pub fn new(bank: Arc<Bank>, sample_rate: u32, groups: u16, voices: usize) -> Self {
        let limit = voices.clamp(1, MAX_VOICES);
        let lane_groups = (2 * limit).div_ceil(LANES);
        let rate = sample_rate.max(1) as f32;
        let mut this = Self {
            bank,
            tables: Tables::new(),
            rate,
            phase: 0,
            sets: (0..groups).map(|_| None).collect(),
            limit,
            voices: vec![Voice::IDLE; lane_groups * LANES],
            groups: vec![Group::SILENT; lane_groups],
            used: 0,
            following: false,
            changed: Vec::with_capacity(MOST_CHANGED),
            mix: Box::new(Mix::new()),
            effects: Effects::new(rate),
            dry: false,
            audible: (true, true),
            asked: (true, true),
            allowed: (true, true),
            output: Output::new(),
            meter: Meter::default(),
            interpolation: Interpolation::default(),
            code: Code::best(),
            notes: 0,
            scratch: Scratch::with_lanes(lane_groups * LANES),
            work: 0,
            enough: 0,
            voice_cost: 0,
            light: false,
            void: Arc::default(),
        };
        this.weigh();
        this
    }

    /// Breaks off whatever it does once the flag is set: what comes out from then on is not what was asked for, and the
    /// synthesizer has to be [reset](Self::reset).
    pub(crate) fn give_up_at(&mut self, void: Arc<AtomicBool>) {
        self.void = void;
    }

    /// Whether nobody waits any more for what it does. Looked at wherever the work grows with what was downloaded.
    #[inline(always)]
    fn is_void(&self) -> bool {
        // Only a hint: whoever sets it says elsewhere what has changed.
        self.void.load(Ordering::Relaxed)
    }

    /// Works out what a voice may cost, and whether that is little for any message.
    fn weigh(&mut self) {
        let (regions, blocks) = self.bank.largest();
        self.voice_cost = VOICE_COST + BLOCK_COST * blocks as u64;
        self.light = self.groups.len() <= LIGHT_GROUPS && regions <= LIGHT_REGIONS && blocks <= LIGHT_BLOCKS;
    }

    /// Whether no message costs much, whatever has been downloaded: a fifth of a millisecond is the most.
    #[inline]
    pub(crate) fn is_light(&self) -> bool {
        self.light
    }

    /// From here on, messages may cost so much, in something like nanoseconds, until it [is enough](Self::is_enough).
    pub(crate) fn allow(&mut self, work: u64) {
        self.enough = self.work + work;
    }

    /// Whether messages have cost more than was allowed.
    #[inline(always)]
    pub(crate) fn is_enough(&self) -> bool {
        self.work > self.enough
    }

    /// What the next control tick will cost, in the same unit.
    pub(crate) fn tick_cost(&self) -> u64 {
        (self.used * LANES) as u64 * self.voice_cost
    }

    /// Finds samples between those of a wave another way: linear is cheaper, cubic (the default) is cleaner.
    pub fn with_interpolation(mut self, interpolation: Interpolation) -> Self {
        self.interpolation = interpolation;
        self
    }

    /// Without reverb and chorus, whatever is sent to them.
    pub fn without_effects(mut self) -> Self {
        self.dry = true;
        self
    }

    /// Channel groups.
    pub fn groups(&self) -> u16 {
        self.sets.len() as u16
    }

    /// Voices that are not silent, fading ones included.
    pub fn sounding(&self) -> usize {
        self.groups[..self.used].iter().map(|g| g.active.count_ones() as usize).sum()
    }

    /// Silences everything at once and sets all channels back to power-on state. The sample position stays.
    pub fn reset(&mut self) {
        self.voices[..self.used * LANES].fill(Voice::IDLE);
        self.groups[..self.used].fill(Group::SILENT);
        self.used = 0;
        self.effects.clear();
        for set in self.sets.iter_mut().flatten() {
            set.reset(Mode::default());
        }
    }

    /// Says at which absolute sample position rendering goes on, so that control-rate updates fall on the same
    /// positions in every stream. Only while nothing sounds: a glide under way would miss its end.
    pub fn seek(&mut self, position: u64) {
        self.phase = (position % PERIOD as u64) as usize;
    }

    /// A channel of a group that exists.
    fn channel_mut(&mut self, channel: usize) -> &mut Channel {
        &mut self.set_mut(channel / CHANNELS).channels[channel % CHANNELS]
    }

    fn set_mut(&mut self, group: usize) -> &mut Set {
        self.sets[group].get_or_insert_with(|| Box::new(Set::new(Mode::default())))
    }

    /// Calls `act` with each sounding voice of a channel, what it reads, its lane and the samples until the next tick.
    fn each_voice(&mut self, channel: usize, mut act: impl FnMut(&mut Voice, &Context<'_>, Lane<'_>)) {
        // It has been written to, if anything plays on it.
        let Some(Some(set)) = self.sets.get(channel / CHANNELS) else {
            return;
        };
        let context = set.context(channel, &self.tables, &self.bank, self.rate);
        let until_tick = PERIOD - self.phase;
        self.work += (self.used * LANES) as u64;
        let groups = self.groups[..self.used].iter_mut();
        for (voices, group) in self.voices.chunks_exact_mut(LANES).zip(groups) {
            for lane in bits(group.playing(channel as u32)) {
                act(&mut voices[lane], &context, (group, lane, until_tick));
                self.work += self.voice_cost;
                if self.void.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    }

    /// Something has changed on a channel: its voices take note before the next sample, of all that has changed by then
    /// at once.
    fn note_change(&mut self, channel: usize) {
        if self.changed.contains(&channel) {
            return;
        }
        if self.changed.len() == MOST_CHANGED {
            self.take_note();
        }
        self.changed.push(channel);
    }

    #[inline(never)]
    fn take_note(&mut self) {
        while let Some(channel) = self.changed.pop() {
            self.each_voice(channel, |voice, context, lane| voice.refresh(context, lane));
        }
        if self.following {
            self.follow();
        }
    }

    /// Adds the next samples to two planes and advances. Planes of unequal length are filled as far as the shorter one.
    pub fn render(&mut self, left: &mut [f32], right: &mut [f32]) {
        let length = left.len().min(right.len());
        self.meter.samples += length as u64;
        if !self.changed.is_empty() && length > 0 {
            self.take_note();
        }
        let mut done = 0;
        while done < length {
            if self.used == 0 && !self.effects.sounding() {
                self.output.tick((self.phase + (length - done)) / PERIOD);
                self.phase = (self.phase + (length - done)) % PERIOD;
                return;
            }
            let samples = (PERIOD - self.phase).min(length - done);
            let range = done..done + samples;
            self.segment(&mut left[range.clone()], &mut right[range]);
            done += samples;
            self.phase = (self.phase + samples) % PERIOD;
            // At the end of a period, not at the start of the next: messages that come in between see its outcome.
            if self.phase == 0 {
                self.tick();
                if self.is_void() {
                    return;
                }
            }
        }
    }

    /// Renders up to the next tick or less.
    fn segment(&mut self, left_plane: &mut [f32], right_plane: &mut [f32]) {
        let samples = left_plane.len();
        let groups = &mut self.groups[..self.used];
        let sends = !self.dry && groups.iter().any(|group| group.sending != 0);
        self.mix.clear(samples, sends);
        let length = (samples, PERIOD - self.phase);
        for group in groups.iter_mut().filter(|group| group.active != 0) {
            group.render(self.bank.pool(), &mut self.mix, length, (self.interpolation, sends), self.code);
        }
        self.mix.join(self.code);
        if sends {
            self.effects.wake();
        }
        let afterglow = self.effects.remaining(samples);
        for sample in 0..afterglow {
            let mut sent = self.mix.sends(sample);
            if self.audible != (true, true) {
                sent = (if self.audible.0 { sent.0 } else { 0.0 }, if self.audible.1 { sent.1 } else { 0.0 });
            }
            let (a, b) = self.effects.next(sent, &self.tables);
            let (left, right) = self.mix.sides();
            left[sample] += a;
            right[sample] += b;
        }
        // Counted from the last sample that was sent, wherever the stream is cut.
        if !sends {
            self.effects.fade(afterglow);
        }
        let (left, right) = self.mix.sides();
        self.output.pass(self.phase, left, left_plane);
        self.output.pass(self.phase, right, right_plane);
    }

    fn tick(&mut self) {
        self.output.tick(1);
        self.meter.voice_ticks += self.sounding() as u64;
        let groups = self.groups[..self.used].iter_mut();
        let sounding = self.voices.chunks_exact_mut(LANES).zip(groups).filter(|(_, group)| group.active != 0);
        for (voices, group) in sounding {
            if self.void.load(Ordering::Relaxed) {
                return;
            }
            for lane in bits(group.control.ending) {
                voices[lane] = Voice::IDLE;
                group.stop(lane);
            }
            group.advance(self.code);
            for lane in bits(group.control.intricate) {
                let channel = group.channel[lane] as usize;
                // A voice's channel has been written to by its note-on at the latest.
                if let Some(set) = &self.sets[channel / CHANNELS] {
                    let context = set.context(channel, &self.tables, &self.bank, self.rate);
                    voices[lane].take_in_others(&context, (&mut *group, lane));
                }
            }
            let ended = group.tick(self.rate, self.code);
            group.begin_ends(ended);
            bits(ended).for_each(|lane| voices[lane].end());
        }
        if self.following {
            self.follow();
        }
        while self.used > 0 && self.groups[self.used - 1].active == 0 {
            self.used -= 1;
        }
    }
}
