//! System exclusive messages that the synthesizer understands: universal ones, and what of Roland's GS and Yamaha's XG
//! songs rely on.
//!
//! Read by the card's synthesizer, and by drivers that have to know what a song will play. Device numbers are not
//! looked at, since a card is alone on its stream, and neither are checksums.
//!
//! | message | bytes between F0 and F7 |
//! |---|---|
//! | General MIDI on, General MIDI 2 on | `7E dd 09 01`, `7E dd 09 03` |
//! | GS reset, GS mode | `41 dd 42 12 40 00 7F 00 cc`, `41 dd 42 12 00 00 7F mm cc` |
//! | XG on, XG reset of all parameters | `43 1d 4C 00 00 7E 00`, `43 1d 4C 00 00 7F 00` |
//! | master volume: 14 bits, GS | `7F dd 04 01 ll hh`, `41 dd 42 12 40 00 04 vv cc` |
//! | master tuning: fine, coarse | `7F dd 04 03 ll hh`, `7F dd 04 04 00 hh` |
//! | drum part on or off: GS, XG | `41 dd 42 12 40 1p 15 vv cc`, `43 1d 4C 08 pp 07 vv` |
//! | octave tuning, a byte each | `7E/7F dd 08 08 ff gg hh t*12`, GS `41 dd 42 12 40 1p 40 t*12 cc` |
//! | octave tuning, two bytes each | `7E/7F dd 08 09 ff gg hh (ss tt)*12` |
//! | tuning of single notes | `7F dd 08 02 pp nn (kk xx yy zz)*nn`, `7E/7F dd 08 07 bb pp nn (kk xx yy zz)*nn` |

/// Keys of an octave.
const OCTAVE: usize = 12;
/// The percussion channel, counted from 0.
pub const PERCUSSION: u8 = 9;

/// Whose rules a channel group follows, as the last reset said. They differ in what makes a drum part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// General MIDI, and what a group begins with.
    #[default]
    GeneralMidi,
    /// General MIDI 2.
    GeneralMidi2,
    /// Roland's.
    Gs,
    /// Yamaha's.
    Xg,
}

impl Mode {
    /// The high byte of the bank (CC0) that a channel has after the reset.
    pub fn first_bank(self, channel: u8) -> u8 {
        if self == Self::Xg && channel == PERCUSSION { 127 } else { 0 }
    }

    /// Whether a channel that changes its program is a drum part then, by the high byte of the bank.
    pub fn is_drum_part(self, bank_high: u8, before: bool) -> bool {
        match (self, bank_high) {
            (Self::Xg, high) => matches!(high, 126 | 127),
            // General MIDI 2's are taken without its reset, too.
            (_, 120) => true,
            (_, 121) => false,
            _ => before,
        }
    }
}

/// What a message asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Exclusive<'a> {
    /// All channels as at power-on, by these rules from now on.
    Reset(Mode),
    /// 0..=1 of the way, as a controller counts it: level in dB is 40 log10 of it.
    MasterVolume(f32),
    /// Of all channels, cents.
    FineTuning(f32),
    /// Of all channels but percussion, cents.
    CoarseTuning(f32),
    /// A channel becomes a drum part, or none.
    DrumPart {
        /// From 0.
        channel: u8,
        /// Whether it is one.
        drum: bool,
    },
    /// Of each key of the octave, from C on.
    OctaveTuning {
        /// A bit each, the first channel lowest.
        channels: u16,
        /// Added to the key's pitch.
        cents: [f32; OCTAVE],
    },
    /// Of single keys.
    KeyTuning(KeyTuning<'a>),
}

/// Keys, and the pitches that they get.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KeyTuning<'a>(&'a [[u8; 4]]);

impl KeyTuning<'_> {
    /// Each key, and its pitch in cents, of which key 60 has 6000 otherwise.
    pub fn iter(&self) -> impl Iterator<Item = (u8, f32)> {
        let changed = self.0.iter().filter(|[_, pitch @ ..]| *pitch != [127; 3]);
        changed.map(|&[key, semitone, high, low]| {
            (key & 127, 100.0 * (f32::from(semitone) + f32::from(fourteen(low, high)) / 16_384.0))
        })
    }
}

/// Whether the synthesizer listens to a maker's messages at all, by the byte behind F0.
#[inline]
pub fn is_heard(maker: u8) -> bool {
    // By a table, since the card asks for every SysEx that it fetches: half the instructions of four comparisons.
    static HEARD: [bool; 256] = {
        let mut heard = [false; 256];
        heard[0x41] = true;
        heard[0x43] = true;
        heard[0x7e] = true;
        heard[0x7f] = true;
        heard
    };
    HEARD[usize::from(maker)]
}

fn fourteen(low: u8, high: u8) -> u16 {
    u16::from(high & 127) << 7 | u16::from(low & 127)
}

/// A number of seven bits whose middle is none.
fn offset(byte: u8) -> f32 {
    f32::from(byte & 127) - 64.0
}

/// What a complete message, F0 to F7, asks for; `None` of one that the synthesizer passes over.
pub fn parse(message: &[u8]) -> Option<Exclusive<'_>> {
    let [0xf0, body @ .., 0xf7] = message else {
        return None;
    };
    match body {
        [0x7e | 0x7f, _, rest @ ..] => universal(body[0] == 0x7f, rest),
        [0x41, _, 0x42, 0x12, address @ ..] => gs(address),
        [0x43, 0x10..=0x1f, 0x4c, address @ ..] => xg(address),
        _ => None,
    }
}

fn universal(real_time: bool, message: &[u8]) -> Option<Exclusive<'_>> {
    Some(match (real_time, message) {
        (false, [0x09, 0x01]) => Exclusive::Reset(Mode::GeneralMidi),
        (false, [0x09, 0x03]) => Exclusive::Reset(Mode::GeneralMidi2),
        (true, &[0x04, 0x01, low @ 0..=127, high @ 0..=127]) => {
            Exclusive::MasterVolume((f32::from(high) * 128.0 + f32::from(low)) / 16_383.0)
        }
        (true, &[0x04, 0x03, low @ 0..=127, high @ 0..=127]) => {
            Exclusive::FineTuning((f32::from(fourteen(low, high)) - 8192.0) * (100.0 / 8192.0))
        }
        (true, &[0x04, 0x04, _, high @ 0..=127]) => Exclusive::CoarseTuning(offset(high) * 100.0),
        (_, &[0x08, 0x08, a, b, c, ref cents @ ..]) => {
            let cents = <[u8; OCTAVE]>::try_from(cents).ok()?.map(offset);
            Exclusive::OctaveTuning { channels: channels([a, b, c]), cents }
        }
        (_, &[0x08, 0x09, a, b, c, ref cents @ ..]) => {
            let pairs = <&[[u8; 2]; OCTAVE]>::try_from(cents.as_chunks().0).ok()?;
            let cents = pairs.map(|[high, low]| (f32::from(fourteen(low, high)) - 8192.0) * (100.0 / 8192.0));
            Exclusive::OctaveTuning { channels: channels([a, b, c]), cents }
        }
        (true, [0x08, 0x02, _, count, keys @ ..]) | (_, [0x08, 0x07, _, _, count, keys @ ..]) => {
            Exclusive::KeyTuning(KeyTuning(keys.as_chunks().0.get(..usize::from(*count))?))
        }
        _ => return None,
    })
}

/// Three bytes of bits, the highest channels first.
fn channels([a, b, c]: [u8; 3]) -> u16 {
    (u32::from(a & 3) << 14 | u32::from(b & 127) << 7 | u32::from(c & 127)) as u16
}

/// The channel of a part by its place in GS's addresses: the percussion channel is first.
fn gs_channel(part: u8) -> u8 {
    match part & 15 {
        0 => PERCUSSION,
        part @ 1..=9 => part - 1,
        part => part,
    }
}

/// An address and its data, and a checksum.
fn gs(address: &[u8]) -> Option<Exclusive<'_>> {
    Some(match address {
        [0x40, 0x00, 0x7f, 0x00, _] | [0x00, 0x00, 0x7f, _, _] => Exclusive::Reset(Mode::Gs),
        [0x40, 0x00, 0x04, volume @ 0..=127, _] => Exclusive::MasterVolume(f32::from(*volume) / 127.0),
        [0x40, part @ 0x10..=0x1f, 0x15, map, _] => Exclusive::DrumPart { channel: gs_channel(*part), drum: *map != 0 },
        [0x40, part @ 0x10..=0x1f, 0x40, cents @ .., _] => {
            let cents = <[u8; OCTAVE]>::try_from(cents).ok()?.map(offset);
            Exclusive::OctaveTuning { channels: 1 << gs_channel(*part), cents }
        }
        _ => return None,
    })
}

/// An address and its data.
fn xg(address: &[u8]) -> Option<Exclusive<'_>> {
    Some(match address {
        [0x00, 0x00, 0x7e | 0x7f, 0x00] => Exclusive::Reset(Mode::Xg),
        [0x08, part @ 0..=15, 0x07, mode] => Exclusive::DrumPart { channel: *part, drum: *mode != 0 },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn resets_and_drum_parts_of_all_makers() {
        for (message, mode) in [
            (&[0xf0, 0x7e, 0x7f, 0x09, 0x01, 0xf7][..], Mode::GeneralMidi),
            (&[0xf0, 0x7e, 0x00, 0x09, 0x03, 0xf7], Mode::GeneralMidi2),
            (&[0xf0, 0x41, 0x10, 0x42, 0x12, 0x40, 0x00, 0x7f, 0x00, 0x41, 0xf7], Mode::Gs),
            (&[0xf0, 0x41, 0x10, 0x42, 0x12, 0x00, 0x00, 0x7f, 0x01, 0x00, 0xf7], Mode::Gs),
            (&[0xf0, 0x43, 0x10, 0x4c, 0x00, 0x00, 0x7e, 0x00, 0xf7], Mode::Xg),
            (&[0xf0, 0x43, 0x1f, 0x4c, 0x00, 0x00, 0x7f, 0x00, 0xf7], Mode::Xg),
        ] {
            assert_eq!(parse(message), Some(Exclusive::Reset(mode)), "{message:x?}");
            assert!(is_heard(message[1]));
            assert_eq!(parse(&message[..message.len() - 1]), None, "without its end");
        }
        for (part, channel) in [(0x10, 9), (0x11, 0), (0x19, 8), (0x1a, 10), (0x1f, 15)] {
            let message = [0xf0, 0x41, 0x10, 0x42, 0x12, 0x40, part, 0x15, 2, 0, 0xf7];
            assert_eq!(parse(&message), Some(Exclusive::DrumPart { channel, drum: true }), "{part:x}");
        }
        let message = [0xf0, 0x43, 0x10, 0x4c, 0x08, 9, 0x07, 0, 0xf7];
        assert_eq!(parse(&message), Some(Exclusive::DrumPart { channel: 9, drum: false }));
        for other in [&[0xf0, 0x42, 0x30, 0xf7][..], &[0xf0, 0x43, 0x20, 0x4c, 0, 0, 0x7e, 0, 0xf7], &[0xf0, 0xf7]] {
            assert_eq!(parse(other), None);
        }
    }

    #[test]
    fn what_makes_a_drum_part_depends_on_the_rules() {
        for (mode, high, before, is) in [
            (Mode::GeneralMidi, 127, false, false),
            (Mode::GeneralMidi, 0, true, true),
            (Mode::GeneralMidi2, 120, false, true),
            (Mode::Gs, 121, true, false),
            (Mode::Gs, 8, true, true),
            (Mode::Xg, 127, false, true),
            (Mode::Xg, 126, false, true),
            (Mode::Xg, 64, true, false),
            (Mode::Xg, 0, true, false),
        ] {
            assert_eq!(mode.is_drum_part(high, before), is, "{mode:?} {high}");
        }
        assert_eq!([9, 8].map(|channel| Mode::Xg.first_bank(channel)), [127, 0]);
        assert_eq!(Mode::Gs.first_bank(9), 0);
    }

    #[test]
    fn volumes_and_tunings_in_their_units() {
        let volume = |message: &[u8]| match parse(message) {
            Some(Exclusive::MasterVolume(volume)) => volume,
            _ => f32::NAN,
        };
        assert_eq!(volume(&[0xf0, 0x7f, 0, 4, 1, 127, 127, 0xf7]), 1.0);
        assert_eq!(volume(&[0xf0, 0x41, 0x10, 0x42, 0x12, 0x40, 0, 4, 127, 0, 0xf7]), 1.0);
        assert_eq!(parse(&[0xf0, 0x7f, 0, 4, 3, 0, 96, 0xf7]), Some(Exclusive::FineTuning(50.0)));
        assert_eq!(parse(&[0xf0, 0x7f, 0, 4, 4, 0, 62, 0xf7]), Some(Exclusive::CoarseTuning(-200.0)));

        let octave = |head: &[u8], cents: &[u8], tail: &[u8]| {
            let message = [head, cents, tail].concat();
            match parse(&message) {
                Some(Exclusive::OctaveTuning { channels, cents }) => Some((channels, cents[0], cents[9], cents[11])),
                _ => None,
            }
        };
        let one = [&[0u8][..], &[64; 8], &[65, 64, 127]].concat();
        let universal = |kind| [0xf0, 0x7f, 0, 8, kind, 3, 0, 5];
        assert_eq!(octave(&universal(8), &one, &[0xf7]), Some((0xc005, -64.0, 1.0, 63.0)));
        assert_eq!(octave(&universal(8), &one[1..], &[0xf7]), None);
        let two: Vec<u8> = one.iter().flat_map(|high| [*high, 0]).collect();
        assert_eq!(octave(&universal(9), &two, &[0xf7]), Some((0xc005, -100.0, 1.5625, 98.4375)));
        let gs = [0xf0, 0x41, 0x10, 0x42, 0x12, 0x40, 0x1a, 0x40];
        assert_eq!(octave(&gs, &one, &[0, 0xf7]), Some((1 << 10, -64.0, 1.0, 63.0)));

        let keys = |message: &[u8]| match parse(message) {
            Some(Exclusive::KeyTuning(keys)) => Some(keys.iter().collect::<Vec<_>>()),
            _ => None,
        };
        let tuned = [0xf0, 0x7f, 0, 8, 2, 0, 2, 69, 70, 64, 0, 60, 127, 127, 127, 0xf7];
        assert_eq!(keys(&tuned), Some(vec![(69, 7050.0)]), "the second is not changed");
        let tuned = [0xf0, 0x7e, 0, 8, 7, 0, 0, 1, 69, 70, 64, 0, 0xf7];
        assert_eq!(keys(&tuned), Some(vec![(69, 7050.0)]));
        assert_eq!(keys(&[0xf0, 0x7f, 0, 8, 2, 0, 2, 69, 70, 64, 0, 0xf7]), None, "a key is missing");
    }
}
