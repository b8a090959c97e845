//! What one program has sent to a port, as far as it is unfinished: a SysEx message that goes on, notes that sound,
//! pedals that are down.
//!
//! Fed with MIDI bytes in pieces as ALSA delivers them; feeds `playback` with whole messages, and at the end with what
//! ends the notes.

use dmus_interface::event::MAX_MESSAGE;
use dmus_interface::midi::{Parsed, Parser};

const CHANNELS: usize = 16;
const SUSTAIN: u8 = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Source {
    parser: Parser,
    sysex: Vec<u8>,
    /// Keys that are down, a bit each.
    notes: [u128; CHANNELS],
    /// Channels whose sustain pedal is down, a bit each.
    pedals: u16,
    /// SysEx messages that never ended, or are longer than a message may be.
    pub(super) malformed: u64,
}

impl Source {
    /// Takes the next bytes, and shows each message that they complete to `message`.
    pub(super) fn take(&mut self, bytes: &[u8], mut message: impl FnMut(&[u8])) {
        for &byte in bytes {
            match self.parser.push(byte) {
                Some(Parsed::Message(bytes, len)) => {
                    let bytes = &bytes[..usize::from(len)];
                    if bytes[0] < 0xF8 {
                        self.abandon_sysex();
                    }
                    self.note(bytes);
                    message(bytes);
                }
                Some(Parsed::SysEx(byte)) => {
                    if byte == 0xF0 {
                        self.abandon_sysex();
                    }
                    // One byte more than a message may have marks one that is too long.
                    if self.sysex.len() <= MAX_MESSAGE {
                        self.sysex.push(byte);
                    }
                    if byte == 0xF7 {
                        if self.sysex.len() <= MAX_MESSAGE {
                            message(&self.sysex);
                            self.sysex.clear();
                        }
                        self.abandon_sysex();
                    }
                }
                None => {}
            }
        }
    }

    /// The program has gone: shows what ends everything that it left sounding to `message`.
    pub(super) fn end(&mut self, mut message: impl FnMut(&[u8])) {
        self.abandon_sysex();
        for (channel, notes) in (0..).zip(std::mem::take(&mut self.notes)) {
            if self.pedals & 1 << channel != 0 {
                message(&[0xB0 | channel, SUSTAIN, 0]);
            }
            for note in (0..128).filter(|note| notes & 1 << note != 0) {
                message(&[0x80 | channel, note, 64]);
            }
        }
        self.pedals = 0;
    }

    fn abandon_sysex(&mut self) {
        self.malformed += u64::from(!self.sysex.is_empty());
        self.sysex.clear();
    }

    fn note(&mut self, message: &[u8]) {
        let channel = message[0] & 0x0F;
        let notes = &mut self.notes[usize::from(channel)];
        match *message {
            [0x90..0xA0, note, velocity] if velocity > 0 => *notes |= 1 << (note & 127),
            [0x80..0xA0, note, _] => *notes &= !(1 << (note & 127)),
            [0xB0..0xC0, SUSTAIN, value] if value >= 64 => self.pedals |= 1 << channel,
            [0xB0..0xC0, SUSTAIN, _] => self.pedals &= !(1 << channel),
            // All sound off, all notes off and the mode messages.
            [0xB0..0xC0, 120 | 123.., _] => *notes = 0,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(source: &mut Source, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut messages = vec![];
        source.take(bytes, |message| messages.push(message.to_vec()));
        messages
    }

    fn ended(source: &mut Source) -> Vec<Vec<u8>> {
        let mut messages = vec![];
        source.end(|message| messages.push(message.to_vec()));
        messages
    }

    #[test]
    fn sysex_in_pieces_is_one_message_and_unfinished_sysex_none() {
        let mut source = Source::default();
        assert_eq!(taken(&mut source, &[0xF0, 1]), Vec::<Vec<u8>>::new());
        assert_eq!(taken(&mut source, &[2, 0xF8, 0xF7]), [vec![0xF8], vec![0xF0, 1, 2, 0xF7]]);
        assert_eq!(taken(&mut source, &[0xF0, 1, 0xC0, 5]), [[0xC0, 5]]);
        assert_eq!(taken(&mut source, &[0xF7, 9, 9]), Vec::<Vec<u8>>::new());
        assert_eq!(source.malformed, 1);
        assert_eq!(taken(&mut source, &[0xF0, 1, 0xF0, 2, 0xF7]), [[0xF0, 2, 0xF7]]);
        assert_eq!(source.malformed, 2);
    }

    #[test]
    fn endless_sysex_takes_no_more_memory_than_a_message() {
        let mut source = Source::default();
        assert!(taken(&mut source, &[0xF0]).is_empty());
        for _ in 0..100 {
            assert!(taken(&mut source, &[1; 10_000]).is_empty());
        }
        assert!(source.sysex.capacity() <= 2 * MAX_MESSAGE + 2);
        assert!(taken(&mut source, &[0xF7]).is_empty());
        assert_eq!(source.malformed, 1);
        assert_eq!(taken(&mut source, &[0x90, 60, 1]), [[0x90, 60, 1]]);
    }

    #[test]
    fn what_a_program_left_sounding_ends_and_no_more() {
        let mut source = Source::default();
        taken(&mut source, &[0x90, 60, 1, 61, 1, 60, 0, 0x93, 0, 9, 0xB3, 64, 127, 0x95, 7, 7, 0xB5, 123, 0]);
        assert_eq!(ended(&mut source), [[0x80, 61, 64], [0xB3, 64, 0], [0x83, 0, 64]]);
        assert_eq!(ended(&mut source), Vec::<Vec<u8>>::new());
    }
}
