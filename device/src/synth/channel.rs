//! A MIDI channel: program, controllers and registered parameters.
//!
//! Fed by `Synth::message`; read by voices, at note-on and at the control tick after a change.

use crate::bank::patch::Reading;
use crate::collection::connection::Source;
use dmus_interface::property::priority;
use dmus_interface::sysex::{Mode, PERCUSSION};

/// MIDI channels in a channel group.
pub(crate) const CHANNELS: usize = 16;
const NO_RPN: (u8, u8) = (127, 127);
/// What the modulation wheel does if nothing else is said, in semitones and 128ths: what banks are made for.
const USUAL_WHEEL_RANGE: (u8, u8) = (0, 64);
/// The longest glide, seconds: what portamento time 127 asks for.
const LONGEST_GLIDE: f32 = 2.0;
/// What the soft pedal leaves of the level: 3 dB less.
const SOFTLY: f32 = 0.707_946;

/// From which pitch a note glides to its own, and how fast.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Glide {
    /// Cents above its own.
    pub(crate) cents: f32,
    /// Seconds.
    pub(crate) time: f32,
}

mod cc {
    pub(super) const BANK: usize = 0;
    pub(super) const WHEEL: usize = 1;
    pub(super) const PORTAMENTO_TIME: usize = 5;
    pub(super) const VOLUME: usize = 7;
    pub(super) const PAN: usize = 10;
    pub(super) const EXPRESSION: usize = 11;
    pub(super) const BANK_LOW: usize = 32;
    pub(super) const SUSTAIN: usize = 64;
    pub(super) const PORTAMENTO: usize = 65;
    pub(super) const SOSTENUTO: usize = 66;
    pub(super) const SOFT: usize = 67;
    pub(super) const PORTAMENTO_FROM: u8 = 84;
    pub(super) const REVERB: usize = 91;
    pub(super) const CHORUS: usize = 93;
}

/// The state of one channel.
#[derive(Clone, Debug)]
pub(crate) struct Channel {
    pub(crate) program: u8,
    /// CC0 x 128 + CC32 as of the last program change.
    pub(crate) bank: u16,
    pub(crate) drum: bool,
    /// Each note ends the one before.
    pub(crate) mono: bool,
    /// Who may be stolen from: the lowest first.
    pub(crate) priority: u32,
    /// Counts what voices have to take note of.
    pub(crate) version: u32,
    controllers: [u8; 128],
    pressure: u8,
    /// 14 bits, 8192 in the middle.
    bend: u16,
    /// Registered parameter that data entry goes to; 127, 127 is none.
    rpn: (u8, u8),
    /// Semitones and cents.
    bend_range: (u8, u8),
    /// 14 bits, 8192 is +-0, full scale is a semitone.
    fine_tune: u16,
    /// Semitones, 64 is +-0.
    coarse_tune: u8,
    /// What the modulation wheel does at its end: semitones and 128ths of one.
    wheel_range: (u8, u8),
    /// Cents of each key of the octave, from C on.
    scale: [f32; 12],
    last_key: Option<u8>,
    /// Controller 84: where the next note glides from.
    glide_from: Option<u8>,
    /// Of the latest note.
    pub(crate) glide: Glide,
}

impl Channel {
    /// A channel of a group, 0..=15, as a reset to these rules leaves it.
    pub(crate) fn new(number: usize, mode: Mode) -> Self {
        let mut controllers = [0; 128];
        controllers[cc::BANK] = mode.first_bank(number as u8);
        // General MIDI 2 starts with some reverberation.
        controllers[cc::REVERB] = if mode == Mode::GeneralMidi2 { 40 } else { 0 };
        controllers[cc::VOLUME] = 100;
        controllers[cc::PAN] = 64;
        controllers[cc::EXPRESSION] = 127;
        // The sound controllers and those of General MIDI 2 that have a middle.
        controllers[70..80].fill(64);
        Self {
            program: 0,
            bank: 0,
            drum: number == usize::from(PERCUSSION),
            mono: false,
            priority: priority::STANDARD | priority::offset(number as u32),
            version: 0,
            controllers,
            pressure: 0,
            bend: 8192,
            rpn: NO_RPN,
            bend_range: (2, 0),
            fine_tune: 8192,
            coarse_tune: 64,
            wheel_range: USUAL_WHEEL_RANGE,
            scale: [0.0; 12],
            last_key: None,
            glide_from: None,
            glide: Glide::default(),
        }
    }

    /// Controllers that only set a value; the others are the synth's business.
    pub(crate) fn control(&mut self, controller: u8, value: u8) {
        self.controllers[usize::from(controller & 0x7f)] = value;
        match controller {
            6 => self.enter_data(value, true),
            38 => self.enter_data(value, false),
            96 => self.step_data(1),
            97 => self.step_data(-1),
            // A non-registered parameter: data entry must not reach the registered one.
            98 | 99 => self.rpn = NO_RPN,
            100 => self.rpn.1 = value,
            101 => self.rpn.0 = value,
            cc::PORTAMENTO_FROM => self.glide_from = Some(value),
            _ => {}
        }
        self.touch();
    }

    /// A note begins: works out where it glides from. Percussion does not glide.
    pub(crate) fn begin_note(&mut self, key: u8) {
        let before = self.last_key.replace(key).filter(|_| self.controllers[cc::PORTAMENTO] >= 64);
        let part = f32::from(self.controllers[cc::PORTAMENTO_TIME]) / 127.0;
        self.glide = match self.glide_from.take().or(before) {
            Some(from) if !self.drum && part > 0.0 => {
                Glide { cents: 100.0 * (f32::from(from) - f32::from(key)), time: LONGEST_GLIDE * part * part }
            }
            _ => Glide::default(),
        };
    }

    /// What the soft pedal leaves of the level of a note that begins.
    pub(crate) fn softness(&self) -> f32 {
        if self.controllers[cc::SOFT] >= 64 { SOFTLY } else { 1.0 }
    }

    /// Whether its voices send to effects, by its own controllers.
    pub(crate) fn sends(&self) -> bool {
        self.controllers[cc::REVERB] != 0 || self.controllers[cc::CHORUS] != 0
    }

    /// Voices have something to take note of.
    pub(crate) fn touch(&mut self) {
        self.version = self.version.wrapping_add(1);
    }

    pub(crate) fn set_scale(&mut self, cents: [f32; 12]) {
        self.scale = cents;
        self.touch();
    }

    /// What the tuning of the scale adds to a key, cents.
    pub(crate) fn scale(&self, key: u8) -> f32 {
        if self.drum { 0.0 } else { self.scale[usize::from(key % 12)] }
    }

    fn enter_data(&mut self, value: u8, high: bool) {
        let coarse = |old: u16| u16::from(value) << 7 | (old & 0x7f);
        match (self.rpn, high) {
            ((0, 0), true) => self.bend_range.0 = value,
            ((0, 0), false) => self.bend_range.1 = value,
            ((0, 1), true) => self.fine_tune = coarse(self.fine_tune),
            ((0, 1), false) => self.fine_tune = (self.fine_tune & 0x3f80) | u16::from(value),
            ((0, 2), true) => self.coarse_tune = value,
            ((0, 5), true) => self.wheel_range.0 = value,
            ((0, 5), false) => self.wheel_range.1 = value,
            _ => {}
        }
    }

    /// Data increment and decrement, by the smallest step of the parameter (RP-018).
    fn step_data(&mut self, by: i8) {
        let seven = |old: u8| old.saturating_add_signed(by).min(127);
        // A number in two parts, the lower one below `parts`.
        let two = |(high, low): (u8, u8), parts: u16| {
            let steps = (u16::from(high) * parts + u16::from(low)).saturating_add_signed(by.into());
            let steps = steps.min(128 * parts - 1);
            ((steps / parts) as u8, (steps % parts) as u8)
        };
        match self.rpn {
            (0, 0) => self.bend_range = two(self.bend_range, 100),
            (0, 5) => self.wheel_range = two(self.wheel_range, 128),
            (0, 1) => self.fine_tune = self.fine_tune.saturating_add_signed(by.into()).min(0x3fff),
            (0, 2) => self.coarse_tune = seven(self.coarse_tune),
            _ => {}
        }
    }

    /// The bank says whether it is a drum part, too.
    pub(crate) fn change_program(&mut self, program: u8, mode: Mode) {
        let (high, low) = (self.controllers[cc::BANK], self.controllers[cc::BANK_LOW]);
        self.program = program;
        self.bank = u16::from(high) << 7 | u16::from(low);
        self.drum = mode.is_drum_part(high, self.drum);
    }

    pub(crate) fn set_bend(&mut self, low: u8, high: u8) {
        self.bend = u16::from(high) << 7 | u16::from(low);
        self.touch();
    }

    pub(crate) fn set_pressure(&mut self, value: u8) {
        self.pressure = value;
        self.touch();
    }

    /// CC121: everything that a player moves, but not what a song sets up (bank, program, volume, pan, sounds, sends,
    /// tuning).
    pub(crate) fn reset_controllers(&mut self) {
        for (number, value) in self.controllers.iter_mut().enumerate() {
            match number {
                cc::BANK | cc::PORTAMENTO_TIME | cc::VOLUME | cc::PAN | cc::BANK_LOW | 70..=79 | 91..=95 => {}
                cc::EXPRESSION => *value = 127,
                _ => *value = 0,
            }
        }
        self.pressure = 0;
        self.bend = 8192;
        self.rpn = NO_RPN;
        self.touch();
    }

    /// The pedal that holds all notes is down.
    pub(crate) fn sustains(&self) -> bool {
        self.controllers[cc::SUSTAIN] >= 64
    }

    /// The pedal that holds the notes of its moment is down.
    pub(crate) fn holds_some(&self) -> bool {
        self.controllers[cc::SOSTENUTO] >= 64
    }

    /// A controller's value less its middle, -64..=63.
    pub(crate) fn offset(&self, controller: usize) -> f32 {
        f32::from(self.controllers[controller]) - 64.0
    }

    /// Where a source that belongs to the channel stands.
    pub(crate) fn read(&self, source: Source) -> Option<Reading> {
        Some(match source {
            Source::PITCH_WHEEL => Reading::of_14(self.bend),
            Source::CHANNEL_PRESSURE => Reading::of_7(self.pressure),
            Source::BEND_RANGE => {
                Reading::of((f32::from(self.bend_range.0) + f32::from(self.bend_range.1) / 100.0) / 128.0)
            }
            Source::FINE_TUNE => Reading::of_14(self.fine_tune),
            // Percussion keys are instruments, not pitches, so coarse tuning passes them by.
            Source::COARSE_TUNE if self.drum => Reading::of(0.5),
            Source::COARSE_TUNE => Reading::of_7(self.coarse_tune),
            Source::WHEEL if self.wheel_range != USUAL_WHEEL_RANGE => {
                let part = |(high, low): (u8, u8)| f32::from(high) + f32::from(low) / 128.0;
                let Reading { linear, full } = Reading::of_7(self.controllers[cc::WHEEL]);
                let further = part(self.wheel_range) / part(USUAL_WHEEL_RANGE);
                Reading { linear: linear * further, full: full * further }
            }
            Source(number @ 0x80..=0xff) => Reading::of_7(self.controllers[usize::from(number & 0x7f)]),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cents, as the default connections make them.
    fn cents(c: &Channel) -> f32 {
        let at = |source| c.read(source).expect("a source").linear;
        (2.0 * at(Source::PITCH_WHEEL) - 1.0) * at(Source::BEND_RANGE) * 12_800.0
            + (2.0 * at(Source::FINE_TUNE) - 1.0) * 100.0
            + (2.0 * at(Source::COARSE_TUNE) - 1.0) * 6400.0
    }

    #[test]
    fn bend_and_tuning_add_up() {
        let mut c = Channel::new(0, Mode::default());
        c.set_bend(0, 0);
        assert_eq!(cents(&c), -200.0);
        for (controller, value) in [(101, 0), (100, 0), (6, 12), (38, 50)] {
            c.control(controller, value);
        }
        assert_eq!(cents(&c), -1250.0);
        c.set_bend(0, 64);
        for (controller, value) in [(100, 1), (6, 96), (38, 0), (100, 2), (6, 65)] {
            c.control(controller, value);
        }
        assert_eq!(cents(&c), 150.0);
        c.control(97, 0);
        assert_eq!(cents(&c), 50.0, "a step down");
        c.control(98, 1);
        c.control(6, 0);
        assert_eq!(cents(&c), 50.0, "data for a non-registered parameter");
    }

    #[test]
    fn reset_keeps_what_a_song_sets_up() {
        let mut c = Channel::new(0, Mode::default());
        for (controller, value) in [(7, 90), (10, 1), (11, 5), (1, 99), (64, 127), (91, 12)] {
            c.control(controller, value);
        }
        c.set_bend(1, 2);
        c.set_pressure(77);
        c.reset_controllers();
        let kept = [7, 10, 11, 1, 91].map(|number| c.controllers[number]);
        assert_eq!((kept, c.sustains(), c.pressure), ([90, 1, 127, 0, 12], false, 0));
        assert_eq!(cents(&c), 0.0);
    }

    #[test]
    fn channel_ten_goes_before_the_first_and_that_before_the_last() {
        let offset = |number| Channel::new(number, Mode::default()).priority & 0xff;
        assert_eq!([9, 0, 8, 10, 15].map(offset), [15, 14, 6, 5, 0]);
    }
}
