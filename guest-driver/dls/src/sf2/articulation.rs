//! Generators and modulators of a SoundFont as DLS connection blocks.
//!
//! Fed by zones; feeds regions. Most is the same thing by another name. What differs:
//!
//! - SoundFont envelopes fall 100 dB in their decay time, DLS ones 96 dB: times are shortened by as much. Sustain is an
//!   attenuation there, a level here.
//! - Times and scale tuning that depend on the key count from key 60 or the root key there, from key 0 here: constants
//!   make up for it.
//! - The attack of the modulation envelope is convex there, a straight line here. Of one that takes longer than a
//!   second all that it moves is bent: its attack, its peak and its end are right then, and what lies between is the
//!   lesser part.
//! - The initial attenuation acts by 0.4 of its value, as the sound cards did for which the banks were made, and as
//!   other players do.
//! - Default modulators that DLS has not, or has otherwise, become blocks of their own.

use crate::connection::{Connection, DEFAULTS, Destination, NO_TIME, Source, Transform};
use alloc::vec;
use alloc::vec::Vec;

/// 1200 log2(96 / 100), in 1/65536 cents.
const FROM_100_DB: i64 = -4_631_588;
/// An attenuation of 100 dB and more is silence, in cB.
const SILENCE: i32 = 960;
/// The time that stands for none, in time cents.
const INSTANT: i32 = -12_000;
/// The attack of a modulation envelope from which on its shape counts, in time cents.
const LONG_ATTACK: i32 = 0;
/// The cutoff that stands for no filter, in cents.
const OPEN: i32 = 13_500;

/// A generator: number, default, lowest and highest sum.
const RANGES: [(u16, i32, i32, i32); 41] = [
    (5, 0, -12_000, 12_000),
    (6, 0, -12_000, 12_000),
    (7, 0, -12_000, 12_000),
    (8, 13_500, 1500, 13_500),
    (9, 0, 0, 960),
    (10, 0, -12_000, 12_000),
    (11, 0, -12_000, 12_000),
    (13, 0, -960, 960),
    (15, 0, 0, 1000),
    (16, 0, 0, 1000),
    (17, 0, -500, 500),
    (21, -12_000, -12_000, 5000),
    (22, 0, -16_000, 4500),
    (23, -12_000, -12_000, 5000),
    (24, 0, -16_000, 4500),
    (25, -12_000, -12_000, 5000),
    (26, -12_000, -12_000, 8000),
    (27, -12_000, -12_000, 5000),
    (28, -12_000, -12_000, 8000),
    (29, 0, 0, 1000),
    (30, -12_000, -12_000, 8000),
    (31, 0, -1200, 1200),
    (32, 0, -1200, 1200),
    (33, -12_000, -12_000, 5000),
    (34, -12_000, -12_000, 8000),
    (35, -12_000, -12_000, 5000),
    (36, -12_000, -12_000, 8000),
    (37, 0, 0, 1440),
    (38, -12_000, -12_000, 8000),
    (39, 0, -1200, 1200),
    (40, 0, -1200, 1200),
    (46, -1, -1, 127),
    (47, -1, -1, 127),
    (48, 0, 0, 1440),
    (51, 0, -120, 120),
    (52, 0, -99, 99),
    (54, 0, 0, 3),
    (56, 100, 0, 1200),
    (57, 0, 0, 127),
    (58, -1, -1, 127),
    (60, 0, 0, 0),
];

/// The sums of a region's generators.
pub(super) struct Generators {
    sums: [i32; 61],
}

impl Generators {
    /// Sums up an instrument's generators (or the defaults) and a preset's.
    pub(super) fn new(instrument: impl Fn(u16) -> Option<u16>, preset: impl Fn(u16) -> Option<u16>) -> Self {
        let mut sums = [0; 61];
        for (number, default, low, high) in RANGES {
            let own = instrument(number).map_or(default, |amount| i32::from(amount as i16));
            // These have no meaning in presets: they are not amounts.
            let added = if matches!(number, 46 | 47 | 54 | 57 | 58) { None } else { preset(number) };
            let sum = own + added.map_or(0, |amount| i32::from(amount as i16));
            sums[usize::from(number)] = sum.clamp(low, high);
        }
        Self { sums }
    }

    fn get(&self, number: usize) -> i32 {
        self.sums[number]
    }

    /// The initial attenuation as a gain of a wave sample, 1/655,360 dB.
    pub(super) fn gain(&self) -> i32 {
        (self.get(48) << 16) / 10 * -4
    }

    /// Coarse and fine tuning, cents.
    pub(super) fn tuning(&self) -> i16 {
        (self.get(51) * 100 + self.get(52)) as i16
    }
}

/// A modulator as files hold it.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Modulator {
    pub(super) source: u16,
    pub(super) destination: u16,
    pub(super) amount: i32,
    pub(super) control: u16,
    pub(super) transform: u16,
}

impl Modulator {
    const fn new(source: u16, destination: u16, amount: i32, control: u16) -> Self {
        Self { source, destination, amount, control, transform: 0 }
    }

    /// Whether both are one modulator to the specification: then the amounts replace each other, or add up.
    fn is(&self, other: &Self) -> bool {
        Self { amount: 0, ..*self } == Self { amount: 0, ..*other }
    }

    fn block(&self) -> Option<Connection> {
        let (source, source_bits) = controller(self.source)?;
        let (control, control_bits) = match self.control {
            0 => (Source::NONE, 0),
            control => controller(control)?,
        };
        if self.transform != 0 {
            return None;
        }
        let (driver, destination) = target(self.destination)?;
        let (numerator, denominator) = match self.destination {
            // Attenuation there, gain here; and levels of sustain, of which 96 dB are 100 % here.
            48 | 29 => (-1, 1),
            37 => (-1000, i64::from(SILENCE)),
            // The wheel's range counts in 127ths there, in 128ths here.
            _ if control == Source::BEND_RANGE => (128, 127),
            _ => (1, 1),
        };
        let scale = saturated((i64::from(self.amount) << 16) * numerator / denominator);
        match (driver, control) {
            (Source::NONE, _) => {
                let transform = Transform(source_bits << 10 | control_bits << 4);
                Some(Connection { source, control, destination, transform, scale })
            }
            // An oscillator or envelope is a factor of its own: one controller more fits a block, two do not.
            (_, Source::NONE) => {
                let transform = Transform(driver_bits(driver) | source_bits << 4);
                Some(Connection { source: driver, control: source, destination, transform, scale })
            }
            _ => None,
        }
    }
}

/// Oscillators swing both ways.
fn driver_bits(driver: Source) -> u16 {
    if [Source::LFO, Source::VIBRATO].contains(&driver) { Transform::BIPOLAR.0 } else { 0 }
}

fn saturated(value: i64) -> i32 {
    value.clamp(i32::MIN.into(), i32::MAX.into()) as i32
}

/// A controller of a modulator, and its six transform bits: direction, polarity and shape.
fn controller(word: u16) -> Option<(Source, u16)> {
    let number = (word & 0x7f) as u8;
    let source = if word & 0x80 != 0 {
        Source::controller(number)
    } else {
        match number {
            2 => Source::VELOCITY,
            3 => Source::KEY,
            10 => Source::POLY_PRESSURE,
            13 => Source::CHANNEL_PRESSURE,
            14 => Source::PITCH_WHEEL,
            16 => Source::BEND_RANGE,
            _ => return None,
        }
    };
    let shape = word >> 10;
    (shape <= 3).then_some((source, (word >> 8 & 1) << 5 | (word >> 9 & 1) << 4 | shape))
}

/// What a generator moves, and the oscillator or envelope that it scales, if it is a depth.
fn target(generator: u16) -> Option<(Source, Destination)> {
    use Destination as D;
    Some(match generator {
        5 => (Source::LFO, D::PITCH),
        6 => (Source::VIBRATO, D::PITCH),
        7 => (Source::EG2, D::PITCH),
        8 => (Source::NONE, D::CUTOFF),
        9 => (Source::NONE, D::RESONANCE),
        10 => (Source::LFO, D::CUTOFF),
        11 => (Source::EG2, D::CUTOFF),
        13 => (Source::LFO, D::GAIN),
        15 => (Source::NONE, D::CHORUS),
        16 => (Source::NONE, D::REVERB),
        17 => (Source::NONE, D::PAN),
        21 => (Source::NONE, D::LFO_DELAY),
        22 => (Source::NONE, D::LFO_FREQUENCY),
        23 => (Source::NONE, D::VIBRATO_DELAY),
        24 => (Source::NONE, D::VIBRATO_FREQUENCY),
        25 => (Source::NONE, D::EG2_DELAY),
        26 => (Source::NONE, D::EG2_ATTACK),
        27 => (Source::NONE, D::EG2_HOLD),
        28 => (Source::NONE, D::EG2_DECAY),
        29 => (Source::NONE, D::EG2_SUSTAIN),
        30 => (Source::NONE, D::EG2_RELEASE),
        33 => (Source::NONE, D::EG1_DELAY),
        34 => (Source::NONE, D::EG1_ATTACK),
        35 => (Source::NONE, D::EG1_HOLD),
        36 => (Source::NONE, D::EG1_DECAY),
        37 => (Source::NONE, D::EG1_SUSTAIN),
        38 => (Source::NONE, D::EG1_RELEASE),
        48 => (Source::NONE, D::GAIN),
        52 => (Source::NONE, D::PITCH),
        _ => return None,
    })
}

/// The modulators of a region.
pub(super) struct Modulators(Vec<Modulator>);

impl Modulators {
    /// Those that every region has: velocity, wheels, pressure, volume, pan, expression and sends. Pan has the range
    /// that DLS gives it.
    pub(super) fn defaults() -> Self {
        Self(vec![
            Modulator::new(0x0502, 48, 960, 0),
            Modulator::new(0x000d, 6, 50, 0),
            Modulator::new(0x0081, 6, 50, 0),
            Modulator::new(0x0587, 48, 960, 0),
            Modulator::new(0x028a, 17, 508, 0),
            Modulator::new(0x058b, 48, 960, 0),
            Modulator::new(0x00db, 16, 200, 0),
            Modulator::new(0x00dd, 15, 200, 0),
            Modulator::new(0x020e, 52, 12_700, 0x0010),
        ])
    }

    fn merge(&mut self, modulator: Modulator, join: impl Fn(&mut i32, i32)) {
        match self.0.iter_mut().find(|known| known.is(&modulator)) {
            Some(known) => join(&mut known.amount, modulator.amount),
            None => self.0.push(modulator),
        }
    }

    /// An instrument's modulators replace the defaults, and a zone's those of the global zone.
    pub(super) fn instrument(
        &mut self,
        global: impl Iterator<Item = Modulator>,
        zone: impl Iterator<Item = Modulator>,
    ) {
        global.chain(zone).for_each(|modulator| self.merge(modulator, |known, amount| *known = amount));
    }

    /// A preset's modulators add to the instrument's; a zone's replace those of the global zone first.
    pub(super) fn preset(&mut self, global: impl Iterator<Item = Modulator>, zone: impl Iterator<Item = Modulator>) {
        let mut own = Self(Vec::new());
        own.instrument(global, zone);
        own.0.into_iter().for_each(|modulator| self.merge(modulator, |known, amount| *known += amount));
    }
}

/// The articulation of a region whose sample has this root key.
pub(super) fn connections(generators: &Generators, modulators: &Modulators, root: u8) -> Vec<Connection> {
    use Destination as D;
    let g = |number| generators.get(number);
    let mut blocks: Vec<Connection> = modulators.0.iter().filter_map(Modulator::block).collect();
    // What is as DLS has it anyway needs no saying, and what joins nothing but zeros stands only against a default.
    let stale = |block: &Connection| {
        let same = blocks.iter().filter(|other| other.joins_as(block)).count();
        let default = DEFAULTS.iter().find(|default| default.joins_as(block));
        same == 1 && default.map_or(block.scale == 0, |default| default == block)
    };
    let kept: Vec<bool> = blocks.iter().map(|block| !stale(block)).collect();
    let mut kept = kept.into_iter();
    blocks.retain(|_| kept.next().unwrap_or(true));

    let moved: Vec<Destination> = blocks.iter().map(|block| block.destination).collect();
    let mut constant = |destination, value: i64| blocks.push(Connection::constant(destination, saturated(value)));
    let fixed = |value: i32| i64::from(value) << 16;

    // The shortest time there is becomes none, which is the default, unless something lengthens it.
    for (number, by_key, destination) in [
        (25, 0, D::EG2_DELAY),
        (26, 0, D::EG2_ATTACK),
        (27, g(31), D::EG2_HOLD),
        (28, g(32), D::EG2_DECAY),
        (30, 0, D::EG2_RELEASE),
        (33, 0, D::EG1_DELAY),
        (34, 0, D::EG1_ATTACK),
        (35, g(39), D::EG1_HOLD),
        (36, g(40), D::EG1_DECAY),
        (38, 0, D::EG1_RELEASE),
    ] {
        if g(number) > INSTANT || by_key != 0 || moved.contains(&destination) {
            let falls = matches!(destination, D::EG1_DECAY | D::EG1_RELEASE);
            let shorter = if falls { FROM_100_DB } else { 0 };
            constant(destination, fixed(g(number)) + fixed(by_key * 60) + shorter);
        }
    }
    for (destination, value, default) in [
        (D::EG1_SUSTAIN, fixed((SILENCE - g(37)).max(0)) * 1000 / i64::from(SILENCE), fixed(1000)),
        (D::EG2_SUSTAIN, fixed(1000 - g(29)), fixed(1000)),
        (D::PAN, fixed(g(17)), 0),
        (D::REVERB, fixed(g(16)), 0),
        (D::CHORUS, fixed(g(15)), 0),
        // Scale tuning turns about the root key.
        (D::PITCH, fixed(i32::from(root) * (100 - g(56))), 0),
    ] {
        if value != default {
            constant(destination, value);
        }
    }
    // A filter that is open does something too, if it resonates: it lowers the whole.
    let filtered = g(8) < OPEN || g(9) > 0 || g(10) != 0 || g(11) != 0;
    if filtered || moved.contains(&D::CUTOFF) || moved.contains(&D::RESONANCE) {
        constant(D::CUTOFF, fixed(g(8)));
        constant(D::RESONANCE, fixed(g(9)));
    }
    if g(46) >= 0 {
        constant(D::KEY, fixed(g(46) * 100));
    }

    let mut from = |source, destination, value: i32| {
        if value != 0 {
            let bent = source == Source::EG2 && g(26) > LONG_ATTACK;
            let transform = if bent { Transform::CONVEX } else { Transform(driver_bits(source)) };
            blocks.push(Connection::from(source, destination, transform, saturated(fixed(value))));
        }
    };
    for (depth, source) in [(5, Source::LFO), (6, Source::VIBRATO), (7, Source::EG2)] {
        from(source, D::PITCH, g(depth));
    }
    from(Source::LFO, D::CUTOFF, g(10));
    from(Source::EG2, D::CUTOFF, g(11));
    from(Source::LFO, D::GAIN, g(13));
    for (by_key, destination) in [(31, D::EG2_HOLD), (32, D::EG2_DECAY), (39, D::EG1_HOLD), (40, D::EG1_DECAY)] {
        from(Source::KEY, destination, g(by_key) * -128);
    }
    if g(56) != 100 {
        // None at all must be said too: the default is 100.
        blocks.push(Connection::from(Source::KEY, D::PITCH, Transform::NONE, saturated(fixed(g(56) * 128))));
    }
    if g(47) >= 0 {
        // A velocity for good is a level for good: 40 log10 of its part of the whole.
        let level = 400.0 * libm::log10(f64::from(g(47).max(1)) / 127.0);
        blocks.push(Connection::from(Source::VELOCITY, D::GAIN, Transform::LEVEL, 0));
        blocks.push(Connection::constant(D::GAIN, (level * 65_536.0) as i32));
    }
    for (source, frequency, delay) in [
        (Source::LFO, (22, D::LFO_FREQUENCY), (21, D::LFO_DELAY)),
        (Source::VIBRATO, (24, D::VIBRATO_FREQUENCY), (23, D::VIBRATO_DELAY)),
    ] {
        if blocks.iter().any(|block| block.source == source) {
            blocks.push(Connection::constant(frequency.1, g(frequency.0) << 16));
            let wait = if g(delay.0) > INSTANT { g(delay.0) << 16 } else { NO_TIME };
            blocks.push(Connection::constant(delay.1, wait));
        }
    }
    blocks
}
