//! Raw MIDI bytes to messages: running status, real-time bytes inside messages, and SysEx of any length.
//!
//! Fed byte by byte with what an instrument sends, by the card for cooked capture streams and by the driver's capture
//! sink for the others; feeds them with whole short messages and with the bytes of SysEx. What is no MIDI is left out:
//! data bytes without a status, undefined status bytes, messages that another status byte cuts short.

use crate::event::message_length;

/// What a byte completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A message of fixed length, with its status byte: so many of these bytes.
    Message([u8; 3], u8),
    /// The next byte of SysEx, from F0 to F7. Real-time messages may come in between; any other message, or F0, means
    /// that the SysEx before it was left unfinished.
    SysEx(u8),
}

/// Where in the bytes of one source the reader is. Bytes may come in pieces of any length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parser {
    /// Status byte that data belongs to, or 0.
    status: u8,
    /// The first data byte of a message that takes two.
    first: Option<u8>,
    in_sysex: bool,
}

impl Parser {
    /// Takes the next byte.
    pub fn push(&mut self, byte: u8) -> Option<Parsed> {
        match byte {
            0xF8.. => message_length(byte).map(|_| Parsed::Message([byte, 0, 0], 1)),
            0xF0 => {
                *self = Self { in_sysex: true, ..Self::default() };
                Some(Parsed::SysEx(byte))
            }
            0xF7 => {
                let ended = self.in_sysex;
                *self = Self::default();
                ended.then_some(Parsed::SysEx(byte))
            }
            0x80.. => {
                *self = Self::default();
                match message_length(byte) {
                    Some(1) => return Some(Parsed::Message([byte, 0, 0], 1)),
                    Some(_) => self.status = byte,
                    None => {}
                }
                None
            }
            _ if self.in_sysex => Some(Parsed::SysEx(byte)),
            _ => self.push_data(byte),
        }
    }

    fn push_data(&mut self, byte: u8) -> Option<Parsed> {
        let message = match (message_length(self.status)?, self.first.take()) {
            (2, _) => Parsed::Message([self.status, byte, 0], 2),
            (_, Some(first)) => Parsed::Message([self.status, first, byte], 3),
            (_, None) => {
                self.first = Some(byte);
                return None;
            }
        };
        if self.status >= 0xF0 {
            // Only channel messages have running status.
            self.status = 0;
        }
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::event::is_message;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    /// All messages that the bytes hold.
    fn messages(bytes: &[u8]) -> Vec<Vec<u8>> {
        let (mut parser, mut sysex, mut out) = (Parser::default(), vec![], vec![]);
        for &byte in bytes {
            match parser.push(byte) {
                Some(Parsed::Message(bytes, len)) => out.push(bytes[..usize::from(len)].to_vec()),
                Some(Parsed::SysEx(0xF0)) => sysex = vec![0xF0],
                Some(Parsed::SysEx(byte)) => {
                    sysex.push(byte);
                    if byte == 0xF7 {
                        out.push(std::mem::take(&mut sysex));
                    }
                }
                None => {}
            }
        }
        out
    }

    fn any_message() -> impl Strategy<Value = Vec<u8>> {
        let short = (0x80u8..0xF0, 0u8..128, 0u8..128).prop_map(|(status, a, b)| {
            let len = message_length(status).unwrap_or(0);
            vec![status, a, b][..len].to_vec()
        });
        let common = prop_oneof![Just(vec![0xF1, 5]), Just(vec![0xF2, 1, 2]), Just(vec![0xF3, 9]), Just(vec![0xF6])];
        let sysex = proptest::collection::vec(0u8..128, 0..40).prop_map(|data| {
            let mut bytes = vec![0xF0];
            bytes.extend(data);
            bytes.push(0xF7);
            bytes
        });
        prop_oneof![6 => short, 1 => common, 2 => sysex]
    }

    proptest! {
        /// With running status wherever it may be, and real-time bytes anywhere.
        #[test]
        fn messages_survive_being_sent(
            sent in proptest::collection::vec((any_message(), any::<bool>(), 0usize..60), 0..40),
        ) {
            let (mut wire, mut running, mut realtime) = (vec![], 0, 0);
            for (message, use_running, place) in &sent {
                let skip = usize::from(*use_running && message[0] == running);
                let mut bytes = message[skip..].to_vec();
                running = if message[0] < 0xF0 { message[0] } else { 0 };
                if *place < bytes.len() {
                    bytes.insert(*place, 0xF8);
                    realtime += 1;
                }
                wire.extend(bytes);
            }
            let mut got = messages(&wire);
            let all = got.len();
            got.retain(|message| message[0] != 0xF8);
            prop_assert_eq!(all - got.len(), realtime);
            prop_assert_eq!(got, sent.into_iter().map(|(message, ..)| message).collect::<Vec<_>>());
        }

        #[test]
        fn whatever_comes_only_messages_come_out(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            for message in messages(&bytes) {
                prop_assert!(is_message(&message), "{message:02x?}");
            }
        }
    }

    #[test]
    fn what_is_no_message_is_left_out() {
        let got = messages(&[1, 2, 0x90, 60, 0xF4, 61, 100, 0xF9, 0xF0, 1, 0xC3, 7, 8, 0xF7, 9, 0xF2, 1, 2, 3, 4]);
        assert_eq!(got, [vec![0xC3, 7], vec![0xC3, 8], vec![0xF2, 1, 2]]);
    }
}
