//! An articulation, sorted by what can change it: nothing, the note and its channel, or an oscillator or envelope.
//!
//! Fed by a region's connection blocks and the defaults of DLS Level 2; evaluated for a voice at note-on, when
//! something on its channel changes, and, for the little that then remains, at each control tick.

use crate::collection::connection::{Connection, DEFAULTS, Destination, Input, Shape, Source};

/// Destinations, as places in the sums of a voice. Those before [`KEY`] move while a note sounds; the others count when
/// it starts.
pub(crate) const GAIN: usize = 0;
pub(crate) const PITCH: usize = 1;
pub(crate) const CUTOFF: usize = 2;
pub(crate) const PAN: usize = 3;
pub(crate) const CHORUS: usize = 4;
pub(crate) const REVERB: usize = 5;
pub(crate) const RESONANCE: usize = 6;
pub(crate) const KEY: usize = 7;
/// Frequency and start delay of the first oscillator, then of the second.
pub(crate) const OSCILLATORS: usize = 8;
/// Delay, attack, hold, decay, sustain, release of the volume envelope, then of the other.
pub(crate) const ENVELOPES: usize = 12;
pub(crate) const SHUTDOWN: usize = 24;
pub(crate) const DESTINATIONS: usize = 25;
/// Those that move.
pub(crate) const MOVING: usize = KEY;
/// Of these, those that oscillators and envelopes usually move: gain, pitch, cutoff.
pub(crate) const DRIVEN: usize = 3;
/// What moves by itself: two oscillators and two envelopes.
pub(crate) const DRIVERS: usize = 4;

/// A cutoff that no sum of blocks brings down to what can be heard: there is no filter. Absolute cents.
const NO_FILTER: f32 = 30_000.0;

fn place(destination: Destination) -> Option<usize> {
    use Destination as D;
    Some(match destination {
        D::GAIN => GAIN,
        D::PITCH => PITCH,
        D::CUTOFF => CUTOFF,
        D::PAN => PAN,
        D::CHORUS => CHORUS,
        D::REVERB => REVERB,
        D::RESONANCE => RESONANCE,
        D::KEY => KEY,
        D::LFO_FREQUENCY => OSCILLATORS,
        D::LFO_DELAY => OSCILLATORS + 1,
        D::VIBRATO_FREQUENCY => OSCILLATORS + 2,
        D::VIBRATO_DELAY => OSCILLATORS + 3,
        D::EG1_DELAY => ENVELOPES,
        D::EG1_ATTACK => ENVELOPES + 1,
        D::EG1_HOLD => ENVELOPES + 2,
        D::EG1_DECAY => ENVELOPES + 3,
        D::EG1_SUSTAIN => ENVELOPES + 4,
        D::EG1_RELEASE => ENVELOPES + 5,
        D::EG2_DELAY => ENVELOPES + 6,
        D::EG2_ATTACK => ENVELOPES + 7,
        D::EG2_HOLD => ENVELOPES + 8,
        D::EG2_DECAY => ENVELOPES + 9,
        D::EG2_SUSTAIN => ENVELOPES + 10,
        D::EG2_RELEASE => ENVELOPES + 11,
        D::EG1_SHUTDOWN => SHUTDOWN,
        _ => return None,
    })
}

/// Which of the drivers a source is.
fn driver(source: Source) -> Option<usize> {
    [Source::LFO, Source::VIBRATO, Source::EG1, Source::EG2].into_iter().position(|driver| driver == source)
}

/// A source's position in its range, 0..=1: counted so that one more than the highest value would be 1, and so that the
/// highest value is. Straight lines take the first (64 of 128 is the middle), curves the second (127 is full level).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) linear: f32,
    pub(crate) full: f32,
}

impl Reading {
    /// A number of seven bits.
    pub(crate) fn of_7(value: u8) -> Self {
        let value = f32::from(value);
        Self { linear: value * (1.0 / 128.0), full: value * (1.0 / 127.0) }
    }

    /// A number of 14 bits.
    pub(crate) fn of_14(value: u16) -> Self {
        let value = f32::from(value);
        Self { linear: value * (1.0 / 16_384.0), full: value * (1.0 / 16_383.0) }
    }

    /// A fraction as it is.
    pub(crate) fn of(value: f32) -> Self {
        Self { linear: value, full: value }
    }
}

/// What blocks read.
pub(crate) trait Sources {
    /// Where a source stands; `None` for one that does not exist, which then contributes nothing.
    fn read(&self, source: Source) -> Option<Reading>;
}

/// One connection block.
#[derive(Clone, Copy, Debug)]
struct Block {
    source: (Source, Input),
    control: (Source, Input),
    scale: f32,
    place: usize,
}

impl Block {
    fn new(from: &Connection) -> Option<Self> {
        Some(Self {
            source: (from.source, from.transform.source()),
            control: (from.control, from.transform.control()),
            scale: from.scale as f32 / 65_536.0,
            place: place(from.destination)?,
        })
    }

    /// What it adds to its destination.
    fn value(&self, sources: &impl Sources) -> f32 {
        self.scale * read(self.source, sources) * read(self.control, sources)
    }
}

fn read((source, input): (Source, Input), sources: &impl Sources) -> f32 {
    if source == Source::NONE {
        return 1.0;
    }
    sources.read(source).map_or(0.0, |reading| shaped(input, reading))
}

fn shaped(input: Input, reading: Reading) -> f32 {
    let x = if matches!(input.shape, Shape::Linear | Shape::Unknown(_)) { reading.linear } else { reading.full };
    let x = if input.invert { 1.0 - x } else { x };
    match (input.bipolar, input.shape) {
        (false, shape) => bent(shape, x),
        (true, Shape::Switch) => 2.0 * bent(Shape::Switch, x) - 1.0,
        (true, shape) => {
            let x = 2.0 * x - 1.0;
            bent(shape, x.abs()).copysign(x)
        }
    }
}

fn bent(shape: Shape, x: f32) -> f32 {
    const DEPTH: f32 = 40.0 / 96.0;
    match shape {
        Shape::Linear | Shape::Unknown(_) => x,
        Shape::Concave if x >= 1.0 => 1.0,
        Shape::Concave => (-DEPTH * libm::log10f(1.0 - x)).min(1.0),
        Shape::Convex if x <= 0.0 => 0.0,
        Shape::Convex => (1.0 + DEPTH * libm::log10f(x)).max(0.0),
        Shape::Switch => f32::from(u8::from(x >= 0.5)),
    }
}

/// How far a driver moves one of the driven destinations: always in proportion, by a depth that note and channel say.
#[derive(Clone, Copy, Debug)]
struct Depth {
    block: Block,
    driver: usize,
    /// What the driver's value, -1..=1 of an oscillator and 0..=1 of an envelope, is multiplied with, and what is
    /// added.
    slope: f32,
    offset: f32,
}

impl Depth {
    fn new(mut block: Block) -> Option<Self> {
        if driver(block.control.0).is_some() {
            core::mem::swap(&mut block.source, &mut block.control);
        }
        let driver = driver(block.source.0)?;
        let input = block.source.1;
        let straight = matches!(input.shape, Shape::Linear | Shape::Unknown(_));
        if !straight || block.place >= DRIVEN || self::driver(block.control.0).is_some() {
            return None;
        }
        // Of 0..=1.
        let (mut slope, mut offset) = if input.invert { (-1.0, 1.0) } else { (1.0, 0.0) };
        if input.bipolar {
            (slope, offset) = (2.0 * slope, 2.0 * offset - 1.0);
        }
        if driver < 2 {
            (slope, offset) = (0.5 * slope, 0.5 * slope + offset);
        }
        block.source.0 = Source::NONE;
        Some(Self { block, driver, slope, offset })
    }
}

/// What moves a voice at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sums {
    /// Without the drivers.
    pub(crate) steady: [f32; MOVING],
    /// What each driver adds to each driven destination, times its value.
    pub(crate) depth: [[f32; DRIVERS]; DRIVEN],
}

/// A region's articulation.
#[derive(Clone, Debug)]
pub(crate) struct Patch {
    constants: [f32; DESTINATIONS],
    /// A constant stands in for the key number.
    fixed_key: bool,
    /// By destination.
    blocks: Vec<Block>,
    /// Of `blocks`, how many are of the moving destinations.
    moving: usize,
    depths: Vec<Depth>,
    /// What else depends on a driver.
    others: Vec<Block>,
    /// Bit per driver that is needed.
    drivers: u8,
}

impl Patch {
    pub(crate) fn new(connections: &[Connection]) -> Self {
        let mut patch = Self {
            constants: [0.0; DESTINATIONS],
            fixed_key: false,
            blocks: Vec::new(),
            moving: 0,
            depths: Vec::new(),
            others: Vec::new(),
            drivers: 0,
        };
        let unsaid = DEFAULTS.iter().filter(|default| !connections.iter().any(|own| own.joins_as(default)));
        for block in connections.iter().chain(unsaid).filter_map(Block::new) {
            patch.add(block);
        }
        patch.blocks.sort_by_key(|block| block.place);
        patch.moving = patch.blocks.partition_point(|block| block.place < MOVING);
        patch
    }

    fn add(&mut self, block: Block) {
        let constant = (block.source.0, block.control.0) == (Source::NONE, Source::NONE);
        self.fixed_key |= constant && block.place == KEY;
        if block.scale == 0.0 {
            return;
        }
        let driven = [block.source.0, block.control.0].map(driver);
        for driver in driven.into_iter().flatten() {
            self.drivers |= 1 << driver;
        }
        if let Some(depth) = Depth::new(block) {
            self.depths.push(depth);
        } else if driven != [None, None] {
            // What counts at the start only finds them at rest.
            if block.place < MOVING {
                self.others.push(block);
            }
        } else if constant {
            self.constants[block.place] += block.scale;
        } else {
            self.blocks.push(block);
        }
    }

    /// Blocks that are evaluated for a voice.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks.len() + self.depths.len() + self.others.len()
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        let blocks = self.blocks.len() + self.others.len();
        size_of::<Self>() + blocks * size_of::<Block>() + self.depths.len() * size_of::<Depth>()
    }

    /// Whether there is a filter at all.
    pub(crate) fn filters(&self) -> bool {
        self.constants[CUTOFF] < NO_FILTER
    }

    /// Whether it sends to effects, whatever the controllers say.
    pub(crate) fn sends(&self) -> bool {
        self.constants[REVERB] > 0.0 || self.constants[CHORUS] > 0.0
    }

    /// Bit per driver, by place: it moves something, or can.
    pub(crate) fn drivers(&self) -> u8 {
        self.drivers
    }

    /// Whether [`Self::moved`] does more than copy.
    pub(crate) fn has_others(&self) -> bool {
        !self.others.is_empty()
    }

    /// The key number as a source, from the key that was struck.
    pub(crate) fn key(&self, key: u8, sources: &impl Sources) -> f32 {
        let from = if self.fixed_key { self.constants[KEY] / 100.0 } else { f32::from(key) };
        let blocks = self.blocks.iter().filter(|block| block.place == KEY);
        from + blocks.map(|block| block.value(sources)).sum::<f32>() / 100.0
    }

    /// The sum at a destination that counts when a note starts.
    pub(crate) fn at_start(&self, place: usize, sources: &impl Sources) -> f32 {
        let blocks = self.blocks[self.moving..].iter().filter(|block| block.place == place);
        self.constants[place] + blocks.map(|block| block.value(sources)).sum::<f32>()
    }

    /// What note and channel say now.
    pub(crate) fn sums(&self, sources: &impl Sources) -> Sums {
        let mut steady = [0.0; MOVING];
        steady.copy_from_slice(&self.constants[..MOVING]);
        for block in &self.blocks[..self.moving] {
            steady[block.place] += block.value(sources);
        }
        let mut depth = [[0.0; DRIVERS]; DRIVEN];
        for Depth { block, driver, slope, offset } in &self.depths {
            let scale = block.value(sources);
            depth[block.place][*driver] += scale * slope;
            steady[block.place] += scale * offset;
        }
        Sums { steady, depth }
    }

    /// `steady` with what drivers add that is no plain depth.
    pub(crate) fn moved(&self, steady: &[f32; MOVING], sources: &impl Sources) -> [f32; MOVING] {
        let mut sums = *steady;
        for block in &self.others {
            sums[block.place] += block.value(sources);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collection::connection::Transform;

    struct Fixed(f32);

    impl Sources for Fixed {
        fn read(&self, source: Source) -> Option<Reading> {
            (source != Source(0x7777)).then_some(Reading::of(self.0))
        }
    }

    #[test]
    fn transforms_bend_as_the_specification_says() {
        let at = |bits: u16, x: f32| {
            let block = Connection::from(Source::controller(1), Destination::PAN, Transform(bits << 10), 10 << 16);
            Patch::new(&[block]).sums(&Fixed(x)).steady[PAN] - Patch::new(&[]).sums(&Fixed(x)).steady[PAN]
        };
        let concave = |x: f32| 10.0 * (-40.0 / 96.0 * libm::log10f(1.0 - x)).min(1.0);
        for (bits, x, should) in [
            (0, 0.25, 2.5),
            (0x20, 0.25, 7.5),
            (0x10, 0.25, -5.0),
            (0x30, 0.25, 5.0),
            (1, 0.5, concave(0.5)),
            (1, 1.0, 10.0),
            (0x21, 1.0, 0.0),
            (0x21, 0.0, 10.0),
            (0x11, 0.25, -concave(0.5)),
            (2, 0.5, 10.0 - concave(0.5)),
            (2, 0.0, 0.0),
            (2, 1.0, 10.0),
            (3, 0.49, 0.0),
            (3, 0.5, 10.0),
            (0x13, 0.49, -10.0),
            (0x13, 0.5, 10.0),
        ] {
            let is = at(bits, x);
            assert!((is - should).abs() < 1e-3, "{bits:#x} of {x}: {is}, not {should}");
        }
    }

    #[test]
    fn own_blocks_add_up_and_stand_in_for_defaults() {
        let cc7 = Connection::from(Source::controller(7), Destination::GAIN, Transform::NONE, 100 << 16);
        let patch = Patch::new(&[cc7, cc7]);
        // 2 x 100, and the default's 960 x concave for velocity and expression at nothing at all.
        assert_eq!(patch.sums(&Fixed(0.0)).steady[GAIN], -1920.0);
        assert_eq!(patch.sums(&Fixed(1.0)).steady[GAIN], 200.0);
        let unknown = Connection::from(Source(0x7777), Destination::GAIN, Transform::NONE, 100 << 16);
        assert_eq!(Patch::new(&[unknown]).sums(&Fixed(1.0)).steady[GAIN], 0.0);
    }

    #[test]
    fn drivers_in_either_place_and_polarity_become_depths() {
        let wheel = Source::controller(1);
        for (source, control, bits) in [(Source::LFO, wheel, 0x4000), (wheel, Source::LFO, 0x0100)] {
            let block = Connection::from(source, Destination::PITCH, Transform(bits), 50 << 16).controlled(control);
            let sums = Patch::new(&[block]).sums(&Fixed(0.5));
            assert_eq!(sums.depth[PITCH], [25.0, 0.0, 0.0, 0.0]);
        }
        for (source, bits, slope, offset) in [
            (Source::LFO, 0, 5.0, 5.0),
            (Source::LFO, 0x8000, -5.0, 5.0),
            (Source::LFO, 0xc000, -10.0, 0.0),
            (Source::EG2, 0, 10.0, 0.0),
            (Source::EG2, 0x8000, -10.0, 10.0),
            (Source::EG2, 0x4000, 20.0, -10.0),
        ] {
            let block = Connection::from(source, Destination::CUTOFF, Transform(bits), 10 << 16);
            let zero = Connection::constant(Destination::CUTOFF, 0);
            let patch = Patch::new(&[block, zero]);
            let sums = patch.sums(&Fixed(0.0));
            let depth: f32 = sums.depth[CUTOFF].iter().sum();
            assert_eq!((depth, sums.steady[CUTOFF]), (slope, offset), "{source:?} {bits:#x}");
            assert!(patch.filters() && !patch.has_others());
        }
        let twice = Connection::from(Source::EG1, Destination::PITCH, Transform::NONE, 1).controlled(Source::EG2);
        assert!(Patch::new(&[twice]).has_others());
    }
}
