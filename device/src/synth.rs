//! The voice engine of one render stream: MIDI messages in, two planes of samples out.
//!
//! Fed by the stream's sequencer with complete messages at their exact samples, and by a [`Bank`] of DLS instruments; adds to the stream's mix.
//!
//! Everything at control rate (envelopes, oscillators, controllers, ends of voices) happens at sample positions divisible
//! by 32, gains run in straight lines between them, and notes start at once. So the output does not depend on
//! how it is cut into calls. Nor does it on the processor: `lanes` has vector code with the same bits, and all else is plain.

mod channel;
mod effects;
mod envelope;
mod lanes;
mod oscillator;
mod output;
mod settings;
mod tables;
#[cfg(test)]
mod tests;
mod voice;

use crate::bank::{Bank, Region};
use channel::{CHANNELS, Channel};
use effects::Effects;
pub use lanes::Interpolation;
use lanes::{Code, Group, LANES, Mix};
use output::Output;
use settings::Meter;
pub(crate) use settings::{GROUP_LIMIT, VOICE_LIMIT};
use std::sync::Arc;
use tables::Tables;
use voice::{Context, Lane, State, Voice};

/// Samples between control ticks; these fall on multiples of it, counted from the start of the stream.
pub(crate) const PERIOD: usize = 32;
/// The most voices a synth can have.
const MAX_VOICES: usize = 4096;

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
    mix: Box<Mix>,
    effects: Effects,
    /// Nothing is sent to the effects.
    dry: bool,
    /// Whether reverb and chorus are sent to.
    heard: (bool, bool),
    output: Output,
    meter: Meter,
    interpolation: Interpolation,
    code: Code,
    /// Note-ons so far.
    notes: u64,
}

/// Sixteen channels.
struct Set {
    channels: [Channel; CHANNELS],
    /// Master volume as a gain.
    master: f32,
    /// Master tuning, cents: of all, and of all but percussion.
    fine: f32,
    coarse: f32,
}

impl Set {
    fn new() -> Self {
        Self { channels: core::array::from_fn(Channel::new), master: 1.0, fine: 0.0, coarse: 0.0 }
    }

    /// As new, but for what no message sets: priorities.
    fn reset(&mut self) {
        let priorities = core::array::from_fn::<u32, CHANNELS, _>(|channel| self.channels[channel].priority);
        *self = Self::new();
        for (channel, priority) in self.channels.iter_mut().zip(priorities) {
            channel.priority = priority;
        }
    }

    /// What voices of a channel read at a tick.
    fn context<'a>(&'a self, channel: usize, tables: &'a Tables, bank: &'a Bank, rate: f32) -> Context<'a> {
        let channel = &self.channels[channel % CHANNELS];
        let tuning = self.fine + if channel.drum { 0.0 } else { self.coarse };
        Context { tables, bank, channel, master: self.master, tuning, rate }
    }

    /// Octave tuning of the channels that three bytes of bits name, the highest channels first.
    fn tune_scale(&mut self, channels: [u8; 3], cents: [i8; 12]) {
        let bits = u32::from(channels[0]) << 14 | u32::from(channels[1]) << 7 | u32::from(channels[2]);
        for (number, channel) in self.channels.iter_mut().enumerate() {
            if bits & 1 << number != 0 {
                channel.set_scale(cents);
            }
        }
    }
}

impl Synth {
    /// A synthesizer for a stream of `sample_rate` Hz with `groups` x 16 channels and room for `voices` notes (1..=4096).
    pub fn new(bank: Arc<Bank>, sample_rate: u32, groups: u16, voices: usize) -> Self {
        let limit = voices.clamp(1, MAX_VOICES);
        let lane_groups = (2 * limit).div_ceil(LANES);
        let rate = sample_rate.max(1) as f32;
        Self {
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
            mix: Box::new(Mix::new()),
            effects: Effects::new(rate),
            dry: false,
            heard: (true, true),
            output: Output::new(),
            meter: Meter::default(),
            interpolation: Interpolation::default(),
            code: Code::best(),
            notes: 0,
        }
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
            set.reset();
        }
    }

    /// Says at which absolute sample position rendering goes on, so that control-rate updates fall on the same positions
    /// in every stream. Only while nothing sounds: a glide under way would miss its end.
    pub fn seek(&mut self, position: u64) {
        self.phase = (position % PERIOD as u64) as usize;
    }

    /// As [`Self::message`], of a message of up to 8 bytes in a little-endian word.
    #[inline]
    pub(crate) fn short_message(&mut self, group: u16, word: u64, len: usize) {
        if Self::listens_to(word) {
            self.heed(group, word, len);
        }
    }

    /// Whether a message of up to 8 bytes in a little-endian word can be heard: most SysEx, and system messages, are nothing to listen to.
    #[inline]
    pub(crate) fn listens_to(word: u64) -> bool {
        match word as u8 {
            0xF0 => Self::is_universal(word),
            0xF1..=0xFF => false,
            _ => true,
        }
    }

    /// Whether SysEx is of the universal kinds, 7E or 7F.
    #[inline]
    pub(crate) fn is_universal(word: u64) -> bool {
        word & 0xFE00 == 0x7E00
    }

    #[inline(never)]
    fn heed(&mut self, group: u16, word: u64, len: usize) {
        self.message(group, word.to_le_bytes().get(..len).unwrap_or(&[]));
    }

    /// Applies one complete MIDI message (channel message, or SysEx F0..F7) to a channel group, counted from 0, at the
    /// current sample. What makes no sense is ignored.
    #[inline]
    pub fn message(&mut self, group: u16, message: &[u8]) {
        match message {
            [0xf0, 0x7e | 0x7f, ..] => self.exclusive(group, message),
            // Other makers', and system messages: nothing here listens to them.
            [0xf0..=0xff, ..] => {}
            _ => self.channel_message(group, message),
        }
    }

    fn channel_message(&mut self, group: u16, message: &[u8]) {
        let [status @ 0x80..=0xef, data @ ..] = message else {
            return;
        };
        if usize::from(group) >= self.sets.len() || data.iter().any(|&byte| byte > 127) {
            return;
        }
        let channel = usize::from(group) * CHANNELS + usize::from(status & 0x0f);
        match (status & 0xf0, data) {
            (0x80, &[key, _]) | (0x90, &[key, 0]) => self.note_off(channel, key),
            (0x90, &[key, velocity]) => self.note_on(channel, key, velocity),
            (0xa0, &[key, pressure]) => self.press(channel, key, pressure),
            (0xb0, &[controller, value]) => self.control(channel, controller, value),
            (0xc0, &[program]) => self.channel_mut(channel).change_program(program),
            (0xd0, &[pressure]) => {
                self.channel_mut(channel).set_pressure(pressure);
                self.refresh(channel);
            }
            (0xe0, &[low, high]) => {
                self.channel_mut(channel).set_bend(low, high);
                self.refresh(channel);
            }
            _ => {}
        }
    }

    /// A channel of a group that exists.
    fn channel_mut(&mut self, channel: usize) -> &mut Channel {
        &mut self.set_mut(channel / CHANNELS).channels[channel % CHANNELS]
    }

    fn set_mut(&mut self, group: usize) -> &mut Set {
        self.sets[group].get_or_insert_with(|| Box::new(Set::new()))
    }

    /// Universal SysEx: GM and GM2 System On, master volume and tuning, and octave tuning.
    fn exclusive(&mut self, group: u16, message: &[u8]) {
        let group = usize::from(group);
        let [0xf0, body @ .., 0xf7] = message else {
            return;
        };
        if group >= self.sets.len() {
            return;
        }
        match *body {
            [0x7e, _, 0x09, system @ (0x01 | 0x03)] => {
                let set = self.set_mut(group);
                set.reset();
                if system == 0x03 {
                    set.channels.iter_mut().for_each(Channel::begin_general_midi_2);
                }
                for channel in group * CHANNELS..(group + 1) * CHANNELS {
                    self.each_voice(channel, |voice, _, _| voice.silence());
                }
            }
            [0x7f, _, 0x04, 0x01, low @ 0..=127, high @ 0..=127] => {
                let part = (f32::from(high) * 128.0 + f32::from(low)) / 16_383.0;
                self.set_mut(group).master = part * part;
            }
            [0x7f, _, 0x04, 0x03, low @ 0..=127, high @ 0..=127] => {
                self.set_mut(group).fine = (f32::from(high) * 128.0 + f32::from(low) - 8192.0) * (100.0 / 8192.0);
            }
            [0x7f, _, 0x04, 0x04, _, high @ 0..=127] => self.set_mut(group).coarse = (f32::from(high) - 64.0) * 100.0,
            [0x7e | 0x7f, _, 0x08, 0x08, a, b, c, ref cents @ ..] => {
                if let Ok(cents) = <[u8; 12]>::try_from(cents) {
                    self.set_mut(group).tune_scale([a, b, c], cents.map(|cents| (cents & 127) as i8 - 64));
                }
            }
            _ => {}
        }
    }

    fn control(&mut self, channel: usize, controller: u8, value: u8) {
        let state = self.channel_mut(channel);
        match controller {
            // Mode messages are not controllers.
            120 => self.each_voice(channel, |voice, _, _| voice.silence()),
            121 => {
                state.reset_controllers();
                self.lift_pedals(channel);
            }
            // The mode messages 124 to 127 end all notes too.
            123..=127 => {
                match controller {
                    126 => state.mono = true,
                    127 => state.mono = false,
                    _ => {}
                }
                let pedals = (state.sustains(), state.holds_some());
                self.each_voice(channel, |voice, context, lane| key_up(voice, context, lane, pedals));
            }
            _ => {
                let held_some = state.holds_some();
                state.control(controller, value);
                match (controller, value >= 64) {
                    (64 | 66, false) => self.lift_pedals(channel),
                    (66, true) if !held_some => {
                        self.each_voice(channel, |voice, _, _| voice.caught = voice.state == State::Held);
                    }
                    // Bank select, what comes before data entry, and pedals change no sound by themselves.
                    (0 | 32 | 64..=69 | 98..=101, _) => {}
                    _ => self.refresh(channel),
                }
            }
        }
    }

    fn note_off(&mut self, channel: usize, key: u8) {
        let Some(set) = &self.sets[channel / CHANNELS] else {
            return;
        };
        let state = &set.channels[channel % CHANNELS];
        let pedals = (state.sustains(), state.holds_some());
        self.each_voice(channel, |voice, context, lane| {
            if voice.key == key {
                key_up(voice, context, lane, pedals);
            }
        });
    }

    fn press(&mut self, channel: usize, key: u8, pressure: u8) {
        let state = self.channel_mut(channel).clone();
        self.each_voice(channel, |voice, context, lane| {
            if voice.key == key {
                voice.press(pressure, &state);
                voice.refresh(context, lane);
            }
        });
        if self.following {
            self.follow();
        }
    }

    /// Voices of a channel take note of what has changed on it.
    fn refresh(&mut self, channel: usize) {
        self.each_voice(channel, |voice, context, lane| voice.refresh(context, lane));
        if self.following {
            self.follow();
        }
    }

    /// A pedal has gone up, or both: ends what nothing holds any more.
    fn lift_pedals(&mut self, channel: usize) {
        let state = self.channel_mut(channel);
        let pedals = (state.sustains(), state.holds_some());
        self.each_voice(channel, |voice, context, lane| {
            if voice.state == State::Sustained {
                key_up(voice, context, lane, pedals);
            }
        });
    }

    /// Calls `act` with each sounding voice of a channel, what it reads, its lane and the samples until the next tick.
    fn each_voice(&mut self, channel: usize, mut act: impl FnMut(&mut Voice, &Context<'_>, Lane<'_>)) {
        // It has been written to, if anything plays on it.
        let Some(Some(set)) = self.sets.get(channel / CHANNELS) else {
            return;
        };
        let context = set.context(channel, &self.tables, &self.bank, self.rate);
        let until_tick = PERIOD - self.phase;
        let groups = self.groups[..self.used].iter_mut();
        for (voices, group) in self.voices.chunks_exact_mut(LANES).zip(groups) {
            for (lane, voice) in voices.iter_mut().enumerate() {
                if group.channel[lane] as usize == channel {
                    act(voice, &context, (group, lane, until_tick));
                }
            }
        }
    }

    /// Starts a voice for every region that the key and the velocity are in.
    fn note_on(&mut self, channel: usize, key: u8, velocity: u8) {
        let bank = Arc::clone(&self.bank);
        let state = self.channel_mut(channel);
        let (regions, mono) = (bank.instrument(state.drum, state.bank, state.program), state.mono);
        if regions.is_empty() {
            return;
        }
        if mono {
            self.each_voice(channel, |voice, context, lane| voice.release(context, lane));
        }
        self.notes += 1;
        self.channel_mut(channel).begin_note(key);
        let mut locked = false;
        for index in regions {
            let region = bank.region(index);
            if region.holds(key, velocity) {
                locked |= region.phase_group != 0;
                self.start(channel, (key, velocity, self.notes), (index, region));
            }
        }
        if locked {
            self.lock_phases(self.notes);
        }
    }

    fn start(&mut self, channel: usize, (key, velocity, note): (u8, u8, u64), (index, region): (usize, &Region)) {
        if region.key_group != 0 || region.self_exclusive {
            self.each_voice(channel, |voice, _, _| {
                let rival = region.key_group != 0 && voice.key_group == region.key_group
                    || region.self_exclusive && voice.key == key;
                if rival && voice.note != note {
                    voice.shut_down();
                }
            });
        }
        let priority = self.channel_mut(channel).priority;
        let Some(place) = self.free_lane(priority) else {
            self.meter.lost += 1;
            return;
        };
        let Some(set) = &self.sets[channel / CHANNELS] else {
            return;
        };
        let context = set.context(channel, &self.tables, &self.bank, self.rate);
        let lane = (&mut self.groups[place / LANES], place % LANES, channel as u32);
        self.voices[place].start((key, velocity, note), (index, region), &context, lane, PERIOD - self.phase);
        self.used = self.used.max(place / LANES + 1);
    }

    /// Lets voices of a note that are phase-locked run at the rate of their master: of the first, if none says that it is one.
    fn lock_phases(&mut self, note: u64) {
        for follower in 0..self.used * LANES {
            let phase_group = |v: usize| {
                let voice = &self.voices[v];
                let region = (voice.state != State::Idle && voice.note == note).then(|| voice.region(&self.bank))?;
                (region.phase_group != 0).then_some((region.phase_group, region.phase_master))
            };
            let Some((own, _)) = phase_group(follower) else {
                continue;
            };
            let mut group = (0..self.used * LANES).filter(|&v| phase_group(v).is_some_and(|(group, _)| group == own));
            let first = group.clone().next();
            let leader = group.find(|&v| phase_group(v).is_some_and(|(_, master)| master)).or(first);
            self.voices[follower].leader = leader.filter(|&leader| leader != follower);
        }
        self.follow();
    }

    /// Gives voices the rates of their leaders.
    fn follow(&mut self) {
        self.following = false;
        for follower in 0..self.used * LANES {
            let voice = &self.voices[follower];
            let Some(leader) = voice.leader.filter(|_| voice.state != State::Idle) else {
                continue;
            };
            let ahead = &self.voices[leader];
            if ahead.note == voice.note && ahead.counts() {
                let rate = self.groups[leader / LANES].rate(leader % LANES);
                self.groups[follower / LANES].follow(follower % LANES, rate);
                self.following = true;
            } else {
                self.voices[follower].leader = None;
            }
        }
    }

    /// The first idle lane for a note of this priority, after a voice has been stolen if all are in use. None if all of these have a higher priority,
    /// or if even the fading ones fill the lanes: then losing the new note is the lesser evil, since cutting one would click.
    fn free_lane(&mut self, priority: u32) -> Option<usize> {
        let group = self.groups.iter().position(|group| group.active != u8::MAX)?;
        let lane = group * LANES + self.groups[group].active.trailing_ones() as usize;
        if self.sounding() >= self.limit {
            self.steal(priority)?;
        }
        Some(lane)
    }

    /// Ends notes until there is room for one more of this priority: those first that are worth least. None if each is worth more.
    fn steal(&mut self, priority: u32) -> Option<()> {
        let counting = (0..self.used * LANES).filter(|&v| self.voices[v].counts()).count();
        // More than one only after the limit was lowered; then it takes some notes until it is kept.
        let surplus = (counting + 1).saturating_sub(self.limit).min(LANES);
        for _ in 0..surplus {
            let counting = (0..self.used * LANES).filter(|&v| self.voices[v].counts());
            let worth = |v: usize| self.voices[v].worth(&self.tables);
            let victim = counting.min_by(|&a, &b| {
                let (a, b) = (worth(a), worth(b));
                (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2)).then(a.3.cmp(&b.3))
            });
            let victim = victim.filter(|&victim| self.voices[victim].worth(&self.tables).0 <= priority)?;
            self.voices[victim].shut_down();
            self.meter.lost += 1;
        }
        Some(())
    }

    /// Adds the next samples to two planes and advances. Planes of unequal length are filled as far as the shorter one.
    pub fn render(&mut self, left: &mut [f32], right: &mut [f32]) {
        let length = left.len().min(right.len());
        self.meter.samples += length as u64;
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
            }
        }
    }

    /// Renders up to the next tick or less.
    fn segment(&mut self, left_plane: &mut [f32], right_plane: &mut [f32]) {
        let samples = left_plane.len();
        let (mut left, mut right) = ([0.0; PERIOD], [0.0; PERIOD]);
        let (left, right) = (&mut left[..samples], &mut right[..samples]);
        let groups = &mut self.groups[..self.used];
        let sends = !self.dry && groups.iter().any(|group| group.sending != 0);
        if !groups.is_empty() {
            self.mix.clear(samples, sends);
            for group in groups.iter_mut().filter(|group| group.active != 0) {
                group.render(self.bank.pool(), &mut self.mix, samples, (self.interpolation, sends), self.code);
            }
            self.mix.add_to(left, right);
        }
        if sends {
            self.effects.wake();
        }
        let afterglow = self.effects.remaining(samples);
        for sample in 0..afterglow {
            let mut sent = if sends { self.mix.sends(sample) } else { (0.0, 0.0) };
            if self.heard != (true, true) {
                sent = (if self.heard.0 { sent.0 } else { 0.0 }, if self.heard.1 { sent.1 } else { 0.0 });
            }
            let (a, b) = self.effects.next(sent, &self.tables);
            left[sample] += a;
            right[sample] += b;
        }
        // Counted from the last sample that was sent, wherever the stream is cut.
        if !sends {
            self.effects.fade(afterglow);
        }
        self.output.pass(self.phase, left, left_plane);
        self.output.pass(self.phase, right, right_plane);
    }

    fn tick(&mut self) {
        self.output.tick(1);
        let groups = self.groups[..self.used].iter_mut();
        for (voices, group) in self.voices.chunks_exact_mut(LANES).zip(groups) {
            self.meter.voice_ticks += u64::from(group.active.count_ones());
            for (lane, voice) in voices.iter_mut().enumerate() {
                if group.active & (1 << lane) == 0 {
                    continue;
                }
                let channel = group.channel[lane] as usize;
                // A voice's channel has been written to by its note-on at the latest.
                if let Some(set) = &self.sets[channel / CHANNELS] {
                    let context = set.context(channel, &self.tables, &self.bank, self.rate);
                    voice.tick(&context, group, lane);
                }
            }
        }
        if self.following {
            self.follow();
        }
        while self.used > 0 && self.groups[self.used - 1].active == 0 {
            self.used -= 1;
        }
    }
}

/// A key goes up: the note ends, or a pedal (sustain, sostenuto) holds it.
fn key_up(voice: &mut Voice, context: &Context<'_>, lane: Lane<'_>, (sustain, some): (bool, bool)) {
    if !(sustain || some && voice.caught) {
        voice.release(context, lane);
    } else if voice.state == State::Held {
        voice.state = State::Sustained;
    }
}
