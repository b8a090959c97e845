//! The voice engine of one render stream: MIDI messages in, two planes of samples out.
//!
//! Fed by the stream's sequencer with complete messages at their exact samples, and by a [`Bank`]; adds to the stream's mix.
//!
//! Everything at control rate (envelopes, oscillators, controllers, ends of voices) happens at sample positions divisible
//! by 32, gains run in straight lines between them, and notes start at once. So the output does not depend on
//! how it is cut into calls.

mod channel;
mod envelope;
mod lanes;
mod tables;
#[cfg(test)]
mod tests;
mod voice;

use std::sync::Arc;

use crate::bank::Bank;
use channel::Channel;
use lanes::{Group, LANES, Mix, PERIOD};
use tables::Tables;
use voice::{Context, State, Voice};

/// MIDI channels in a channel group.
const CHANNELS: usize = 16;
/// The percussion channel of each group (channel 10, counted from 1).
const PERCUSSION: usize = 9;
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
    /// Sixteen a group.
    channels: Vec<Channel>,
    /// Master volume of each group, as a gain.
    masters: Vec<f32>,
    /// How many may sound; there are twice as many lanes, so that stolen voices have a place to fade out.
    limit: usize,
    voices: Vec<Voice>,
    /// Lanes of `voices`, eight a group.
    groups: Vec<Group>,
    mix: Box<Mix>,
    /// Note-ons so far.
    notes: u64,
}

impl Synth {
    /// A synthesizer for a stream of `sample_rate` Hz with `groups` x 16 channels and room for `voices` notes (1..=4096).
    pub fn new(bank: Arc<Bank>, sample_rate: u32, groups: u16, voices: usize) -> Self {
        let limit = voices.clamp(1, MAX_VOICES);
        let lane_groups = (2 * limit).div_ceil(LANES);
        let channels = 0..usize::from(groups) * CHANNELS;
        Self {
            bank,
            tables: Tables::new(),
            rate: sample_rate.max(1) as f32,
            phase: 0,
            channels: channels.map(|c| Channel::new(c % CHANNELS == PERCUSSION)).collect(),
            masters: vec![1.0; usize::from(groups)],
            limit,
            voices: vec![Voice::IDLE; lane_groups * LANES],
            groups: vec![Group::SILENT; lane_groups],
            mix: Box::new(Mix::new()),
            notes: 0,
        }
    }

    /// Channel groups.
    pub fn groups(&self) -> u16 {
        self.masters.len() as u16
    }

    /// Voices that are not silent, fading ones included.
    pub fn sounding(&self) -> usize {
        self.groups.iter().map(|g| g.active.count_ones() as usize).sum()
    }

    /// Silences everything at once and sets all channels back to power-on state. The sample position stays.
    pub fn reset(&mut self) {
        self.voices.fill(Voice::IDLE);
        self.groups.fill(Group::SILENT);
        self.masters.fill(1.0);
        for (c, channel) in self.channels.iter_mut().enumerate() {
            *channel = Channel::new(c % CHANNELS == PERCUSSION);
        }
    }

    /// Says at which absolute sample position rendering goes on, so that control-rate updates fall on the same positions
    /// in every stream. Only while nothing sounds: a glide under way would miss its end.
    pub fn seek(&mut self, position: u64) {
        self.phase = (position % PERIOD as u64) as usize;
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
        let group = usize::from(group);
        let [status, data @ ..] = message else {
            return;
        };
        if group >= self.masters.len() || data.iter().any(|&byte| byte > 127) {
            return;
        }
        let channel = group * CHANNELS + usize::from(status & 0x0f);
        match (status & 0xf0, data) {
            (0x80, &[key, _]) | (0x90, &[key, 0]) => self.note_off(channel, key),
            (0x90, &[key, velocity]) => self.note_on(channel, key, velocity),
            (0xb0, &[controller, value]) => self.control(channel, controller, value),
            (0xc0, &[program]) => self.channels[channel].change_program(program),
            (0xe0, &[low, high]) => self.channels[channel].set_bend(low, high),
            _ => {}
        }
    }

    /// Universal SysEx: GM and GM2 System On, and master volume.
    fn exclusive(&mut self, group: u16, message: &[u8]) {
        let group = usize::from(group);
        let [0xf0, body @ .., 0xf7] = message else {
            return;
        };
        if group >= self.masters.len() {
            return;
        }
        match *body {
            [0x7e, _, 0x09, 0x01 | 0x03] => {
                self.masters[group] = 1.0;
                for channel in group * CHANNELS..(group + 1) * CHANNELS {
                    self.each_voice(channel, |voice, _, _| voice.silence());
                    self.channels[channel] = Channel::new(channel % CHANNELS == PERCUSSION);
                }
            }
            [0x7f, _, 0x04, 0x01, low @ 0..=127, high @ 0..=127] => {
                let part = (f32::from(high) * 128.0 + f32::from(low)) / 16_383.0;
                self.masters[group] = part * part;
            }
            _ => {}
        }
    }

    fn control(&mut self, channel: usize, controller: u8, value: u8) {
        self.channels[channel].control(controller, value);
        match controller {
            120 => self.each_voice(channel, |voice, _, _| voice.silence()),
            121 => {
                self.channels[channel].reset_controllers();
                self.lift_pedal(channel);
            }
            64 if value < 64 => self.lift_pedal(channel),
            // The mode messages 124 to 127 end all notes too.
            123..=127 => {
                let sustain = self.channels[channel].sustain;
                self.each_voice(channel, |voice, group, lane| key_up(voice, group, lane, sustain));
            }
            _ => {}
        }
    }

    fn note_off(&mut self, channel: usize, key: u8) {
        let sustain = self.channels[channel].sustain;
        self.each_voice(channel, |voice, group, lane| {
            if voice.key == key {
                key_up(voice, group, lane, sustain);
            }
        });
    }

    fn lift_pedal(&mut self, channel: usize) {
        self.each_voice(channel, |voice, group, lane| {
            if voice.state == State::Sustained {
                voice.release(group, lane);
            }
        });
    }

    /// Calls `act` with each sounding voice of a channel, its lane group and its lane.
    fn each_voice(&mut self, channel: usize, mut act: impl FnMut(&mut Voice, &mut Group, usize)) {
        for (voices, group) in self.voices.chunks_exact_mut(LANES).zip(&mut self.groups) {
            if group.active == 0 {
                continue;
            }
            for (lane, voice) in voices.iter_mut().enumerate() {
                if voice.state != State::Idle && voice.channel == channel {
                    act(voice, group, lane);
                }
            }
        }
    }

    /// Starts a voice for every region that the key and the velocity are in.
    fn note_on(&mut self, channel: usize, key: u8, velocity: u8) {
        let bank = Arc::clone(&self.bank);
        let state = &self.channels[channel];
        let Some(instrument) = bank.instrument(state.drum, state.bank, state.program) else {
            return;
        };
        self.notes += 1;
        let note = self.notes;
        let within = |(low, high): (u8, u8), value| (low..=high).contains(&value);
        for region in &instrument.regions {
            if !within(region.keys, key) || !within(region.velocities, velocity) {
                continue;
            }
            self.each_voice(channel, |voice, _, _| {
                let rival = region.key_group != 0 && voice.key_group == region.key_group
                    || region.self_exclusive && voice.key == key;
                if rival && voice.note != note {
                    voice.choke();
                }
            });
            let Some(index) = self.free_lane() else {
                return;
            };
            let context = Context {
                tables: &self.tables,
                channel: &self.channels[channel],
                master: self.masters[channel / CHANNELS],
                rate: self.rate,
            };
            let voice = &mut self.voices[index];
            (voice.channel, voice.note) = (channel, note);
            let lane = (&mut self.groups[index / LANES], index % LANES);
            voice.start((key, velocity), (&bank, region), &context, lane, PERIOD - self.phase);
        }
    }

    /// The first idle lane, after a voice has been stolen if all are in use. None if even the fading ones fill the lanes:
    /// then losing the new note is the lesser evil, since cutting one would click.
    fn free_lane(&mut self) -> Option<usize> {
        let lane = self.voices.iter().position(|v| v.state == State::Idle)?;
        let counting = self.voices.iter().filter(|v| v.counts());
        if counting.clone().count() >= self.limit {
            let ranked = self.voices.iter().enumerate().filter(|(_, v)| v.counts());
            let worth = |v: &Voice| v.worth(&self.tables);
            let victim = ranked.min_by(|(_, a), (_, b)| {
                let (a, b) = (worth(a), worth(b));
                a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2))
            });
            if let Some((victim, _)) = victim {
                self.voices[victim].silence();
            }
        }
        Some(lane)
    }

    /// Adds the next samples to two planes and advances. Planes of unequal length are filled as far as the shorter one.
    pub fn render(&mut self, left: &mut [f32], right: &mut [f32]) {
        let length = left.len().min(right.len());
        let mut done = 0;
        while done < length {
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
    fn segment(&mut self, left: &mut [f32], right: &mut [f32]) {
        let mut silent = true;
        for group in self.groups.iter_mut().filter(|g| g.active != 0) {
            if silent {
                self.mix.clear();
                silent = false;
            }
            group.render(self.bank.samples(), &mut self.mix, left.len());
        }
        if !silent {
            self.mix.add_to(left, right);
        }
    }

    fn tick(&mut self) {
        for (voices, group) in self.voices.chunks_exact_mut(LANES).zip(&mut self.groups) {
            if group.active == 0 {
                continue;
            }
            for (lane, voice) in voices.iter_mut().enumerate() {
                if voice.state != State::Idle {
                    let context = Context {
                        tables: &self.tables,
                        channel: &self.channels[voice.channel],
                        master: self.masters[voice.channel / CHANNELS],
                        rate: self.rate,
                    };
                    voice.tick(&context, group, lane);
                }
            }
        }
    }
}

/// A key goes up: the note ends, or the pedal holds it.
fn key_up(voice: &mut Voice, group: &mut Group, lane: usize, sustain: bool) {
    if sustain && voice.state == State::Held {
        voice.state = State::Sustained;
    } else if !sustain {
        voice.release(group, lane);
    }
}
