//! A MIDI channel: program, controllers and registered parameters.
//!
//! Fed by `Synth::message`; read by voices, at note-on and at control ticks.

/// The state of one channel.
#[derive(Clone, Debug)]
pub(crate) struct Channel {
    pub(crate) program: u8,
    /// CC0 x 128 + CC32 as of the last program change.
    pub(crate) bank: u16,
    bank_msb: u8,
    bank_lsb: u8,
    pub(crate) drum: bool,
    volume: u8,
    expression: u8,
    pan: u8,
    pub(crate) modulation: u8,
    pub(crate) sustain: bool,
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
}

const NO_RPN: (u8, u8) = (127, 127);

impl Channel {
    pub(crate) fn new(drum: bool) -> Self {
        Self {
            program: 0,
            bank: 0,
            bank_msb: 0,
            bank_lsb: 0,
            drum,
            volume: 100,
            expression: 127,
            pan: 64,
            modulation: 0,
            sustain: false,
            bend: 8192,
            rpn: NO_RPN,
            bend_range: (2, 0),
            fine_tune: 8192,
            coarse_tune: 64,
        }
    }

    /// Controllers that only set a value; the others are the synth's business.
    pub(crate) fn control(&mut self, controller: u8, value: u8) {
        match controller {
            0 => self.bank_msb = value,
            1 => self.modulation = value,
            6 => self.enter_data(value, true),
            7 => self.volume = value,
            10 => self.pan = value,
            11 => self.expression = value,
            32 => self.bank_lsb = value,
            38 => self.enter_data(value, false),
            64 => self.sustain = value >= 64,
            // A non-registered parameter: data entry must not reach the registered one.
            98 | 99 => self.rpn = NO_RPN,
            100 => self.rpn.1 = value,
            101 => self.rpn.0 = value,
            _ => {}
        }
    }

    fn enter_data(&mut self, value: u8, high: bool) {
        let coarse = |old: u16| u16::from(value) << 7 | (old & 0x7f);
        match (self.rpn, high) {
            ((0, 0), true) => self.bend_range.0 = value,
            ((0, 0), false) => self.bend_range.1 = value,
            ((0, 1), true) => self.fine_tune = coarse(self.fine_tune),
            ((0, 1), false) => self.fine_tune = (self.fine_tune & 0x3f80) | u16::from(value),
            ((0, 2), true) => self.coarse_tune = value,
            _ => {}
        }
    }

    pub(crate) fn change_program(&mut self, program: u8) {
        self.program = program;
        self.bank = u16::from(self.bank_msb) << 7 | u16::from(self.bank_lsb);
    }

    pub(crate) fn set_bend(&mut self, low: u8, high: u8) {
        self.bend = u16::from(high) << 7 | u16::from(low);
    }

    /// CC121: everything that a player moves, but not what a song sets up (program, volume, pan, tuning).
    pub(crate) fn reset_controllers(&mut self) {
        self.modulation = 0;
        self.expression = 127;
        self.sustain = false;
        self.bend = 8192;
        self.rpn = NO_RPN;
    }

    /// Volume and expression as a gain: DLS concave curves, 40 log10(x / 127) dB each.
    pub(crate) fn gain(&self) -> f32 {
        concave(self.volume) * concave(self.expression)
    }

    /// Percent, -50 left to +50 right. 0 and 1 are both hard left, so that 64 is the exact middle.
    pub(crate) fn pan(&self) -> f32 {
        (f32::from(self.pan.max(1)) - 64.0) * (50.0 / 63.0)
    }

    /// Bend and tuning, cents. Percussion keys are instruments, not pitches, so coarse tuning passes them by.
    pub(crate) fn cents(&self) -> f32 {
        let range = f32::from(self.bend_range.0) * 100.0 + f32::from(self.bend_range.1);
        let bend = (f32::from(self.bend) - 8192.0) / 8192.0 * range;
        let fine = (f32::from(self.fine_tune) - 8192.0) / 8192.0 * 100.0;
        let coarse = if self.drum { 0.0 } else { (f32::from(self.coarse_tune) - 64.0) * 100.0 };
        bend + fine + coarse
    }
}

/// The DLS concave curve of a 7-bit value as a gain: 40 log10(x / 127) dB is the square of x / 127.
pub(crate) fn concave(value: u8) -> f32 {
    let x = f32::from(value) / 127.0;
    x * x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bend_and_tuning_add_up() {
        let mut c = Channel::new(false);
        c.set_bend(0, 0);
        assert_eq!(c.cents(), -200.0);
        for (controller, value) in [(101, 0), (100, 0), (6, 12), (38, 50)] {
            c.control(controller, value);
        }
        assert_eq!(c.cents(), -1250.0);
        c.set_bend(0, 64);
        for (controller, value) in [(100, 1), (6, 96), (38, 0), (100, 2), (6, 65)] {
            c.control(controller, value);
        }
        assert_eq!(c.cents(), 150.0);
        c.control(98, 1);
        c.control(6, 0);
        assert_eq!(c.cents(), 150.0, "data for a non-registered parameter");
    }

    #[test]
    fn reset_keeps_what_a_song_sets_up() {
        let mut c = Channel::new(false);
        for (controller, value) in [(7, 90), (10, 1), (11, 5), (1, 99), (64, 127)] {
            c.control(controller, value);
        }
        c.set_bend(1, 2);
        c.reset_controllers();
        assert_eq!((c.volume, c.expression, c.modulation, c.sustain), (90, 127, 0, false));
        assert_eq!((c.cents(), c.pan()), (0.0, -50.0));
    }
}
