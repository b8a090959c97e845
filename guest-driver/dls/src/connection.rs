//! Connection blocks: how DLS joins oscillators, envelopes and controllers to what they move.
//!
//! Fed by the readers with blocks as files hold them; read by the voices. Numbers that neither specification names are
//! kept as they are, and mean nothing to the synthesizer.

/// What a block takes its value from (`CONN_SRC`), as source or as control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(pub u16);

impl Source {
    /// The value 1.
    pub const NONE: Self = Self(0);
    /// The first (modulation) oscillator.
    pub const LFO: Self = Self(1);
    /// Velocity of the note-on, 0..127 of 128.
    pub const VELOCITY: Self = Self(2);
    /// The key, 0..127 of 128.
    pub const KEY: Self = Self(3);
    /// The volume envelope.
    pub const EG1: Self = Self(4);
    /// The modulation envelope.
    pub const EG2: Self = Self(5);
    /// The pitch wheel, 14 bits.
    pub const PITCH_WHEEL: Self = Self(6);
    /// Polyphonic key pressure.
    pub const POLY_PRESSURE: Self = Self(7);
    /// Channel pressure.
    pub const CHANNEL_PRESSURE: Self = Self(8);
    /// The second (vibrato) oscillator.
    pub const VIBRATO: Self = Self(9);
    /// RPN 0, the pitch wheel's range: semitones of 128.
    pub const BEND_RANGE: Self = Self(0x100);
    /// RPN 1, fine tuning.
    pub const FINE_TUNE: Self = Self(0x101);
    /// RPN 2, coarse tuning.
    pub const COARSE_TUNE: Self = Self(0x102);

    /// The modulation wheel.
    pub const WHEEL: Self = Self::controller(1);
    /// A MIDI controller, 0..=127. DLS names 1, 7, 10, 11, 91 and 93, all by this rule; SoundFonts use the others too.
    pub const fn controller(number: u8) -> Self {
        Self(0x80 | number as u16)
    }
}

/// What a block moves (`CONN_DST`). Its unit is that of [`Connection::scale`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Destination(pub u16);

#[expect(missing_docs, reason = "the specification's own names")]
impl Destination {
    pub const NONE: Self = Self(0);
    pub const GAIN: Self = Self(1);
    pub const PITCH: Self = Self(3);
    pub const PAN: Self = Self(4);
    pub const KEY: Self = Self(5);
    pub const CHORUS: Self = Self(0x80);
    pub const REVERB: Self = Self(0x81);
    pub const LFO_FREQUENCY: Self = Self(0x104);
    pub const LFO_DELAY: Self = Self(0x105);
    pub const VIBRATO_FREQUENCY: Self = Self(0x114);
    pub const VIBRATO_DELAY: Self = Self(0x115);
    pub const EG1_ATTACK: Self = Self(0x206);
    pub const EG1_DECAY: Self = Self(0x207);
    pub const EG1_RELEASE: Self = Self(0x209);
    pub const EG1_SUSTAIN: Self = Self(0x20a);
    pub const EG1_DELAY: Self = Self(0x20b);
    pub const EG1_HOLD: Self = Self(0x20c);
    pub const EG1_SHUTDOWN: Self = Self(0x20d);
    pub const EG2_ATTACK: Self = Self(0x30a);
    pub const EG2_DECAY: Self = Self(0x30b);
    pub const EG2_RELEASE: Self = Self(0x30d);
    pub const EG2_SUSTAIN: Self = Self(0x30e);
    pub const EG2_DELAY: Self = Self(0x30f);
    pub const EG2_HOLD: Self = Self(0x310);
    pub const CUTOFF: Self = Self(0x500);
    pub const RESONANCE: Self = Self(0x501);
}

/// The shape that a value of 0..1 is bent to before it is scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// x.
    Linear,
    /// -40/96 log10(1 - x), which is 1 from x = 0.996 on: a level that falls as ears hear it.
    Concave,
    /// 1 + 40/96 log10(x): concave, mirrored.
    Convex,
    /// 0 below one half, else 1.
    Switch,
    /// Numbers that no specification names; taken as linear.
    Unknown(u8),
}

/// How one of the two inputs of a block is read. First it is inverted (1 - x). Unipolar, it is then bent; bipolar, it
/// is spread to -1..1, and both sides are bent alike from the middle outwards. Oscillators that are bipolar run over
/// -1..1 as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    /// 1 - x.
    pub invert: bool,
    /// -1..1 instead of 0..1.
    pub bipolar: bool,
    /// Between the two.
    pub shape: Shape,
}

/// The transform word (`usTransform`) as DLS Level 2 lays it out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Transform(pub u16);

impl Transform {
    /// Both inputs linear, 0..1.
    pub const NONE: Self = Self(0);
    /// The source runs over -1..1.
    pub const BIPOLAR: Self = Self(0x4000);
    /// The source is inverted and concave: full level at full value, falling to -96 dB at none (scale -96 dB).
    pub const LEVEL: Self = Self(0x8400);
    /// The source is convex: most of its way at its beginning.
    pub const CONVEX: Self = Self(0x0800);

    /// How the source is read.
    pub fn source(self) -> Input {
        Self::input(self.0 >> 10)
    }

    /// How the control is read.
    pub fn control(self) -> Input {
        Self::input(self.0 >> 4)
    }

    /// Of the product; Level 2 defines linear only.
    pub fn output(self) -> Shape {
        Self::shape(self.0)
    }

    fn input(bits: u16) -> Input {
        Input { invert: bits & 0x20 != 0, bipolar: bits & 0x10 != 0, shape: Self::shape(bits) }
    }

    fn shape(bits: u16) -> Shape {
        match bits & 0x0f {
            0 => Shape::Linear,
            1 => Shape::Concave,
            2 => Shape::Convex,
            3 => Shape::Switch,
            other => Shape::Unknown(other as u8),
        }
    }
}

/// One connection block: destination += source x control x scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    /// First factor.
    pub source: Source,
    /// Second factor.
    pub control: Source,
    /// What they move.
    pub destination: Destination,
    /// How the factors are read.
    pub transform: Transform,
    /// In 1/65536 of the destination's unit: cents of pitch, of frequency ([`PITCH_OF_440_HZ`]) and of time (1200 log2
    /// of seconds; [`NO_TIME`] is 0 s), 0.1 dB of gain and resonance, 0.1 % of sustain, pan and sends.
    pub scale: i32,
}

/// Absolute pitch cents of 440 Hz, times 65536.
pub const PITCH_OF_440_HZ: i32 = 6900 << 16;
/// The time in time cents that means none at all.
pub const NO_TIME: i32 = i32::MIN;
/// The cutoff that means no filter.
pub const NO_FILTER: i32 = i32::MAX;

impl Connection {
    /// A value that a destination has from the start.
    pub const fn constant(destination: Destination, scale: i32) -> Self {
        Self::from(Source::NONE, destination, Transform::NONE, scale)
    }

    /// A source straight to a destination.
    pub const fn from(source: Source, destination: Destination, transform: Transform, scale: i32) -> Self {
        Self { source, control: Source::NONE, destination, transform, scale }
    }

    /// Through a control.
    pub const fn controlled(self, control: Source) -> Self {
        Self { control, ..self }
    }

    /// Whether both join the same things. Blocks that do are added up, and together stand in for the default one.
    pub fn joins_as(&self, other: &Self) -> bool {
        (self.source, self.control, self.destination) == (other.source, other.control, other.destination)
    }
}

/// What holds of every articulation unless a block of its own joins the same things: DLS Level 2's default connections.
/// All others start from zero.
pub const DEFAULTS: [Connection; 28] = {
    use Destination as D;
    use Source as S;
    const CENTS: i32 = 1 << 16;
    const TENTHS: i32 = 1 << 16;
    const LEVEL: i32 = -960 * TENTHS;
    // 5 Hz, 10 ms and 15 ms.
    const SLOW: i32 = -851 * CENTS;
    const SOON: i32 = -7973 * CENTS;
    const SHUTDOWN: i32 = -7271 * CENTS;
    const fn constant(destination: D, scale: i32) -> Connection {
        Connection::constant(destination, scale)
    }
    [
        constant(D::LFO_FREQUENCY, SLOW),
        constant(D::LFO_DELAY, SOON),
        constant(D::VIBRATO_FREQUENCY, SLOW),
        constant(D::VIBRATO_DELAY, SOON),
        constant(D::EG1_DELAY, NO_TIME),
        constant(D::EG1_ATTACK, NO_TIME),
        constant(D::EG1_HOLD, NO_TIME),
        constant(D::EG1_DECAY, NO_TIME),
        constant(D::EG1_SUSTAIN, 1000 * TENTHS),
        constant(D::EG1_RELEASE, NO_TIME),
        constant(D::EG1_SHUTDOWN, SHUTDOWN),
        constant(D::EG2_DELAY, NO_TIME),
        constant(D::EG2_ATTACK, NO_TIME),
        constant(D::EG2_HOLD, NO_TIME),
        constant(D::EG2_DECAY, NO_TIME),
        constant(D::EG2_SUSTAIN, 1000 * TENTHS),
        constant(D::EG2_RELEASE, NO_TIME),
        constant(D::CUTOFF, NO_FILTER),
        Connection::from(S::KEY, D::PITCH, Transform::NONE, 12_800 * CENTS),
        Connection::from(S::PITCH_WHEEL, D::PITCH, Transform::BIPOLAR, 12_800 * CENTS).controlled(S::BEND_RANGE),
        Connection::from(S::FINE_TUNE, D::PITCH, Transform::BIPOLAR, 100 * CENTS),
        Connection::from(S::COARSE_TUNE, D::KEY, Transform::BIPOLAR, 6400 * CENTS),
        Connection::from(S::VELOCITY, D::GAIN, Transform::LEVEL, LEVEL),
        Connection::from(S::controller(7), D::GAIN, Transform::LEVEL, LEVEL),
        Connection::from(S::controller(11), D::GAIN, Transform::LEVEL, LEVEL),
        Connection::from(S::controller(10), D::PAN, Transform::BIPOLAR, 508 * TENTHS),
        Connection::from(S::controller(91), D::REVERB, Transform::NONE, 1000 * TENTHS),
        Connection::from(S::controller(93), D::CHORUS, Transform::NONE, 1000 * TENTHS),
    ]
};
