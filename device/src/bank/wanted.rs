//! What of a bank is played: a song names few of a bank's programs and keys, and what it does not name need be neither
//! decoded nor computed.
//!
//! Fed with a song's messages; asked as banks are loaded.

use crate::collection::Collection;
use dmus_song::Song;

/// Programs and keys. Whatever a song does with banks, drum parts and velocities, nothing else can sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    programs: u128,
    drums: bool,
    keys: u128,
}

impl Wanted {
    /// Everything, for those who do not know what will be played.
    pub const ALL: Self = Self { programs: u128::MAX, drums: true, keys: u128::MAX };

    /// What a song plays.
    pub fn by(song: &Song) -> Self {
        // Channels begin with program 0, and it is what drum parts fall back to.
        let mut wanted = Self { programs: 1, drums: true, keys: 0 };
        for message in song.messages() {
            match *message.bytes {
                [0x90..=0x9f, key @ 0..=127, _] => wanted.keys |= 1 << key,
                [0xc0..=0xcf, program @ 0..=127] => wanted.programs |= 1 << program,
                _ => {}
            }
        }
        wanted
    }

    /// What is still wanted of instruments that come behind these: of the same address the first counts, and each
    /// program falls back to that of bank 0.
    pub(super) fn without(&self, collections: &[Collection]) -> Self {
        let mut left = *self;
        for instrument in collections.iter().flat_map(|collection| &collection.instruments) {
            match (instrument.drum, instrument.bank, instrument.program) {
                (true, 0, 0) => left.drums = false,
                (false, 0, program @ 0..=127) => left.programs &= !(1 << program),
                _ => {}
            }
        }
        left
    }

    pub(super) fn has_program(&self, program: u8) -> bool {
        program < 128 && self.programs >> program & 1 == 1
    }

    pub(super) fn has_drums(&self) -> bool {
        self.drums
    }

    /// Whether any key of a range is wanted.
    pub(super) fn has_keys(&self, (low, high): (u8, u8)) -> bool {
        let below = |key: u8| if key >= 128 { u128::MAX } else { (1 << key) - 1 };
        low <= high && self.keys & below(high.saturating_add(1)) & !below(low) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bank::built_in;
    use dmus_song::TimedMessage;

    #[test]
    fn a_song_wants_its_programs_and_keys_and_no_others() {
        let messages: [&[u8]; 4] = [&[0xc3, 40], &[0x95, 60, 100], &[0x85, 61, 100], &[0x99, 127, 1]];
        let song: Song =
            messages.iter().map(|bytes| TimedMessage { time: Default::default(), group: 0, bytes }).collect();
        let wanted = Wanted::by(&song);
        assert_eq!([0, 40, 1, 127].map(|program| wanted.has_program(program)), [true, true, false, false]);
        for (keys, wants) in
            [((0, 59), false), ((0, 60), true), ((60, 60), true), ((61, 126), false), ((62, 127), true)]
        {
            assert_eq!(wanted.has_keys(keys), wants, "{keys:?}");
        }
        assert!(wanted.has_drums() && Wanted::ALL.has_keys((0, 0)) && Wanted::ALL.has_program(127));
        let left = wanted.without(&[built_in()]);
        assert!(!left.has_drums() && !left.has_program(0) && !left.has_program(40));
    }
}
