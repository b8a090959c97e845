//! MIDI messages: what each of them does to channels and to the voices that sound on them.
//!
//! Fed by the stream's sequencer with complete messages, each before the sample at which it counts; feeds `note` with
//! note-ons, and voices with the rest.

use super::channel::{CHANNELS, Channel};
use super::voice::{Context, Lane, State, Voice};
use super::{Set, Synth};
use dmus_interface::sysex::{self, Exclusive};

impl Synth {
    /// As [`Self::message`], of a message of up to 8 bytes in a little-endian word. Whether that is
    /// [enough](Self::is_enough).
    #[inline]
    pub(crate) fn short_message(&mut self, group: u16, word: u64, len: usize) -> bool {
        let listens = Self::listens_to(word);
        if listens {
            self.apply_short(group, word, len);
        }
        listens && self.is_enough()
    }

    /// As [`Self::short_message`], of a longer one, which is SysEx.
    #[inline]
    pub(crate) fn long_message(&mut self, group: u16, message: &[u8]) -> bool {
        if !matches!(message, [_, maker, ..] if sysex::is_heard(*maker)) {
            return false;
        }
        self.exclusive(group, message);
        self.is_enough()
    }

    /// Whether a message of up to 8 bytes in a little-endian word can be heard: most SysEx, and system messages, are
    /// nothing to listen to.
    #[inline]
    pub(crate) fn listens_to(word: u64) -> bool {
        match word as u8 {
            0xF0 => sysex::is_heard((word >> 8) as u8),
            0xF1..=0xFF => false,
            _ => true,
        }
    }

    #[inline(never)]
    fn apply_short(&mut self, group: u16, word: u64, len: usize) {
        self.message(group, word.to_le_bytes().get(..len).unwrap_or(&[]));
    }

    /// Applies one complete MIDI message (channel message, or SysEx F0..F7) to a channel group, counted from 0, at the
    /// current sample. What makes no sense is ignored.
    #[inline]
    pub fn message(&mut self, group: u16, message: &[u8]) {
        match message {
            [0xf0, ..] => self.exclusive(group, message),
            // System messages: nothing here listens to them.
            [0xf1..=0xff, ..] => {}
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
            (0xc0, &[program]) => self.change_program(channel, program),
            (0xd0, &[pressure]) => self.change(channel, |state| state.set_pressure(pressure)),
            (0xe0, &[low, high]) => self.change(channel, |state| state.set_bend(low, high)),
            _ => {}
        }
    }

    /// What the data sheet says of SysEx.
    #[inline(never)]
    fn exclusive(&mut self, group: u16, message: &[u8]) {
        let group = usize::from(group);
        let Some(exclusive) = sysex::parse(message).filter(|_| group < self.sets.len()) else {
            return;
        };
        match exclusive {
            Exclusive::Reset(mode) => {
                self.set_mut(group).reset(mode);
                for channel in group * CHANNELS..(group + 1) * CHANNELS {
                    self.each_voice(channel, Voice::silence);
                }
            }
            Exclusive::MasterVolume(part) => self.tune(group, |set| set.master = part * part),
            Exclusive::FineTuning(cents) => self.tune(group, |set| set.fine = cents),
            Exclusive::CoarseTuning(cents) => self.tune(group, |set| set.coarse = cents),
            Exclusive::DrumPart { channel, drum } => {
                self.channel_mut(group * CHANNELS + usize::from(channel)).drum = drum;
            }
            Exclusive::OctaveTuning { channels, cents } => {
                self.set_mut(group).tune_octave(channels, cents);
                self.note_changes(group);
            }
            Exclusive::KeyTuning(keys) => self.tune(group, |set| set.tune_keys(&keys)),
        }
    }

    fn change_program(&mut self, channel: usize, program: u8) {
        let set = self.set_mut(channel / CHANNELS);
        set.channels[channel % CHANNELS].change_program(program, set.mode);
    }

    fn control(&mut self, channel: usize, controller: u8, value: u8) {
        let state = self.channel_mut(channel);
        match controller {
            // Mode messages are not controllers.
            120 => self.each_voice(channel, Voice::silence),
            121 => {
                state.reset_controllers();
                self.each_voice(channel, |voice, context, _| voice.press(0, context.channel));
                self.note_change(channel);
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
                self.change(channel, |state| state.control(controller, value));
                match (controller, value >= 64) {
                    (64 | 66, false) => self.lift_pedals(channel),
                    (66, true) if !held_some => {
                        self.each_voice(channel, |voice, _, _| voice.caught = voice.state == State::Held);
                    }
                    _ => {}
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
        self.each_voice(channel, |voice, context, _| {
            if voice.key == key {
                voice.press(pressure, context.channel);
            }
        });
        self.note_change(channel);
    }

    /// Changes what voices of a channel read.
    fn change(&mut self, channel: usize, change: impl FnOnce(&mut Channel)) {
        change(self.channel_mut(channel));
        self.note_change(channel);
    }

    /// Changes what voices of a channel group read.
    fn tune(&mut self, group: usize, change: impl FnOnce(&mut Set)) {
        let set = self.set_mut(group);
        change(set);
        set.touch();
        self.note_changes(group);
    }

    fn note_changes(&mut self, group: usize) {
        (group * CHANNELS..(group + 1) * CHANNELS).for_each(|channel| self.note_change(channel));
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
}

/// A key goes up: the note ends, or a pedal (sustain, sostenuto) holds it.
fn key_up(voice: &mut Voice, context: &Context<'_>, lane: Lane<'_>, (sustain, some): (bool, bool)) {
    if !(sustain || some && voice.caught) {
        voice.release(context, lane);
    } else if voice.state == State::Held {
        voice.state = State::Sustained;
    }
}
