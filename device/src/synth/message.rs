//! MIDI messages: what each of them does to channels and to the voices that sound on them.
//!
//! Fed by the stream's sequencer with complete messages, each before the sample at which it counts; feeds `note` with
//! note-ons, and voices with the rest.

use super::channel::{CHANNELS, Channel};
use super::voice::{Context, Lane, State, Voice};
use super::{Set, Synth};

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
        if !matches!(message, [_, 0x7E | 0x7F, ..]) {
            return false;
        }
        self.message(group, message);
        self.is_enough()
    }

    /// Whether a message of up to 8 bytes in a little-endian word can be heard: most SysEx, and system messages, are
    /// nothing to listen to.
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
    fn apply_short(&mut self, group: u16, word: u64, len: usize) {
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
            (0xd0, &[pressure]) => self.change(channel, |state| state.set_pressure(pressure)),
            (0xe0, &[low, high]) => self.change(channel, |state| state.set_bend(low, high)),
            _ => {}
        }
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
                    self.each_voice(channel, Voice::silence);
                }
            }
            [0x7f, _, 0x04, 0x01, low @ 0..=127, high @ 0..=127] => {
                let part = (f32::from(high) * 128.0 + f32::from(low)) / 16_383.0;
                self.tune(group, |set| set.master = part * part);
            }
            [0x7f, _, 0x04, 0x03, low @ 0..=127, high @ 0..=127] => {
                let cents = (f32::from(high) * 128.0 + f32::from(low) - 8192.0) * (100.0 / 8192.0);
                self.tune(group, |set| set.fine = cents);
            }
            [0x7f, _, 0x04, 0x04, _, high @ 0..=127] => {
                self.tune(group, |set| set.coarse = (f32::from(high) - 64.0) * 100.0);
            }
            [0x7e | 0x7f, _, 0x08, 0x08, a, b, c, ref cents @ ..] => {
                if let Ok(cents) = <[u8; 12]>::try_from(cents) {
                    self.set_mut(group).tune_scale([a, b, c], cents.map(|cents| (cents & 127) as i8 - 64));
                    self.note_changes(group);
                }
            }
            _ => {}
        }
    }

    fn control(&mut self, channel: usize, controller: u8, value: u8) {
        let state = self.channel_mut(channel);
        match controller {
            // Mode messages are not controllers.
            120 => self.each_voice(channel, Voice::silence),
            121 => {
                state.reset_controllers();
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
