//! The records of a capsule: a tag, and what belongs to it.
//!
//! Numbers are little-endian, or, where they are mostly small, in groups of seven bits with the lowest first.

use super::blocks::Source;
use zerocopy::{Immutable, KnownLayout, TryFromBytes};

/// What a record is of. In front of its name, what wrote it: the transport's thread as it called the card, an engine
/// between two turns or at the beginning of one, or in the middle of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, Immutable, KnownLayout)]
#[repr(u8)]
pub(crate) enum Tag {
    /// An option of the card, as JSON. Before everything else.
    Header = 1,
    /// A message of a song that plays at an input.
    SongMessage,
    /// Transport: a read begins; page words that it looked at follow, and the answer.
    Read,
    Answer,
    /// A write, and what it looked at.
    Write,
    /// What the mailbox's request was as the opcode was written.
    RequestThen,
    Map,
    Unmap,
    Vector,
    ResetFunction,
    /// The client has gone; there is a page for the next one.
    Left,
    NextPage,
    OfferMemory,
    /// A word of the doorbell page, as it was loaded.
    Word,
    /// Engine, before a turn: what this turn finds on the page, and on the host's clock.
    Grant,
    Time,
    Tail,
    Turn,
    TurnEnd,
    /// Between turns: a sleep was armed, and is over.
    Sleep,
    Awake,
    /// The tail of a stream that is not open, which is a word that follows.
    ClosedTail,
    /// In a turn: an entry of a submission ring, with the slot that it names, or by itself.
    Event,
    Submission,
    NoSubmission,
    Slot,
    NoSlot,
    Copy,
    NoCopy,
    NoComplete,
    Same,
    NoSame,
    Consumed,
    Completion,
    NoCompletion,
    /// Whether capture could store, by a message or without one.
    Wrote,
    WroteShared,
    /// A stream's memory could not be reached whole.
    Reach,
    /// Whether a stream could be looked at.
    Look,
    /// Some stream's is away for a moment.
    Away,
    /// The driver asked for one of the completions that were published.
    Asked,
    /// Which of the vectors that were raised are connected.
    Interrupts,
    /// Rendering was broken off by a reset, when so much had been counted.
    Void,
    /// What the sink said.
    Ready,
    Losses,
    /// A live input's bytes, or that its sender has gone.
    Input,
    InputEnd,
    /// How an access of the mailbox ended, and what it read.
    Access,
    /// Whether there was memory for a stream.
    Room,
    /// The page's words were looked at, and some were wrong.
    PageCheck,
    /// The plugin asked for the card's judgement.
    Judge,
    /// The store that a plugin of QEMU knew of a mistake: before the turn that was told of it.
    Culprit,
    /// The run's end, with what it came to.
    End,
    /// Not the client's, but recorded as its accesses are: the process ends, and breaks off what is under way.
    ShutDown,
}

/// Writes records.
pub(crate) trait Put {
    fn tag(&mut self, tag: Tag) -> &mut Self;
    fn byte(&mut self, byte: u8) -> &mut Self;
    fn number(&mut self, number: u64) -> &mut Self;
    fn signed(&mut self, number: i64) -> &mut Self;
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self;
    fn raw<const N: usize>(&mut self, bytes: [u8; N]) -> &mut Self;
}

impl Put for Vec<u8> {
    fn tag(&mut self, tag: Tag) -> &mut Self {
        self.byte(tag as u8)
    }

    fn byte(&mut self, byte: u8) -> &mut Self {
        self.push(byte);
        self
    }

    fn number(&mut self, mut number: u64) -> &mut Self {
        while number >= 0x80 {
            self.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8)
    }

    /// The sign is the lowest bit.
    fn signed(&mut self, number: i64) -> &mut Self {
        self.number((number << 1 ^ number >> 63).cast_unsigned())
    }

    /// How many, and the bytes.
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64);
        self.extend_from_slice(bytes);
        self
    }

    /// Bytes of which the reader knows how many they are.
    fn raw<const N: usize>(&mut self, bytes: [u8; N]) -> &mut Self {
        self.extend_from_slice(&bytes);
        self
    }
}

/// Bytes that one record has at most: a request of the mailbox is the longest.
pub(super) const MAX_BYTES: usize = 33 << 20;

/// Reads records.
pub(crate) struct Cursor {
    source: Box<dyn Source + Send>,
    bytes: Vec<u8>,
    at: usize,
    /// Bytes in front of those.
    before: u64,
    /// There is no more, or it cannot be read.
    ended: bool,
    /// More was asked for than there is.
    lacks: bool,
}

impl Cursor {
    pub(crate) fn new(source: Box<dyn Source + Send>) -> Self {
        Self { source, bytes: Vec::new(), at: 0, before: 0, ended: false, lacks: false }
    }

    /// So many bytes, which stay where they are.
    fn ahead(&mut self, count: usize) -> Option<&[u8]> {
        while self.bytes.len() - self.at < count {
            if self.ended {
                self.lacks = true;
                return None;
            }
            self.bytes.drain(..self.at);
            self.before += self.at as u64;
            self.at = 0;
            match self.source.read(&mut self.bytes) {
                Ok(more) => self.ended = !more,
                Err(error) => {
                    tracing::error!("the recording cannot be read on: {error}");
                    self.ended = true;
                }
            }
        }
        self.bytes.get(self.at..self.at + count)
    }

    /// Bytes that were read so far.
    pub(super) fn position(&self) -> u64 {
        self.before + self.at as u64
    }

    /// The tag of the next record.
    pub(crate) fn peek(&mut self) -> Option<Tag> {
        Tag::try_read_from_bytes(self.ahead(1)?).ok()
    }

    /// The byte so many behind the next one.
    pub(super) fn byte_ahead(&mut self, count: usize) -> Option<u8> {
        self.ahead(count + 1)?.last().copied()
    }

    /// The number that begins so many bytes behind the next one, which stays where it is.
    pub(super) fn number_ahead(&mut self, from: usize) -> Option<u64> {
        let mut number = 0;
        for (at, shift) in (0..64).step_by(7).enumerate() {
            let byte = self.byte_ahead(from + at)?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    /// Copies the next bytes out.
    pub(super) fn fill(&mut self, place: &mut [u8]) -> Option<()> {
        place.copy_from_slice(self.ahead(place.len())?);
        self.at += place.len();
        Some(())
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        let byte = *self.ahead(1)?.first()?;
        self.at += 1;
        Some(byte)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    pub(crate) fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    pub(super) fn small<T: TryFrom<u64>>(&mut self) -> Option<T> {
        self.number()?.try_into().ok()
    }

    pub(super) fn words<const N: usize>(&mut self) -> Option<[u64; N]> {
        let mut words = [0; N];
        let bytes = self.ahead(8 * N)?;
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        self.at += 8 * N;
        Some(words)
    }

    pub(crate) fn half(&mut self) -> Option<u32> {
        let bytes = *self.ahead(4)?.first_chunk::<4>()?;
        self.at += 4;
        Some(u32::from_le_bytes(bytes))
    }

    pub(crate) fn bytes(&mut self) -> Option<Vec<u8>> {
        let count = self.small::<usize>().filter(|count| *count <= MAX_BYTES)?;
        let bytes = self.ahead(count)?.to_vec();
        self.at += count;
        Some(bytes)
    }

    /// Whether the end was come to, with a record that is not whole, or without one that was expected.
    pub(crate) fn lacks_more(&self) -> bool {
        self.lacks
    }

    /// Whether all was read, to the last byte.
    pub(crate) fn is_at_end(&mut self) -> bool {
        self.ahead(1).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io;

    /// Gives so many bytes at a time.
    struct Pieces(Vec<u8>, usize);

    impl Source for Pieces {
        fn read(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
            let count = self.1.min(self.0.len());
            out.extend(self.0.drain(..count));
            Ok(count > 0)
        }
    }

    fn cursor(bytes: Vec<u8>, piece: usize) -> Cursor {
        Cursor::new(Box::new(Pieces(bytes, piece)))
    }

    proptest! {
        #[test]
        fn numbers_and_bytes_come_back_whatever_the_blocks(
            numbers in prop::collection::vec((any::<u64>(), 0..64_u32, any::<i64>()), 0..20),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            piece in 1..40_usize,
        ) {
            let mut out = Vec::new();
            for (number, shift, signed) in &numbers {
                out.tag(Tag::Time).number(number >> shift).signed(signed >> shift);
            }
            out.bytes(&bytes);
            let length = out.len() as u64;
            let mut cursor = cursor(out, piece);
            for (number, shift, signed) in &numbers {
                prop_assert_eq!(cursor.peek(), Some(Tag::Time));
                cursor.byte();
                prop_assert_eq!(cursor.number(), Some(number >> shift));
                prop_assert_eq!(cursor.signed(), Some(signed >> shift));
            }
            prop_assert_eq!(cursor.bytes(), Some(bytes));
            prop_assert_eq!(cursor.position(), length);
            prop_assert!(cursor.is_at_end());
        }

        #[test]
        fn any_bytes_are_numbers_or_none(bytes in prop::collection::vec(any::<u8>(), 0..40), piece in 1..9_usize) {
            let mut cursor = cursor(bytes.clone(), piece);
            while !cursor.is_at_end() {
                let at = cursor.position();
                let _ = cursor.number();
                prop_assert!(cursor.position() > at && cursor.position() <= bytes.len() as u64);
            }
        }
    }

    #[test]
    fn the_smallest_and_largest_numbers_come_back() {
        let mut out = Vec::new();
        for number in [0, 127, 128, u64::MAX] {
            out.number(number).signed(number.cast_signed());
        }
        out.signed(i64::MIN).signed(i64::MAX);
        let mut cursor = cursor(out, 3);
        for number in [0, 127, 128, u64::MAX] {
            assert_eq!((cursor.number(), cursor.signed()), (Some(number), Some(number.cast_signed())));
        }
        assert_eq!((cursor.signed(), cursor.signed()), (Some(i64::MIN), Some(i64::MAX)));
        assert!(cursor.is_at_end());
    }

    #[test]
    fn more_bytes_than_a_record_has_are_none() {
        let mut out = Vec::new();
        out.number(MAX_BYTES as u64 + 1).extend_from_slice(&[0; 100]);
        assert_eq!(cursor(out, 1000).bytes(), None);
        let mut out = Vec::new();
        out.number(u64::MAX);
        assert_eq!(cursor(out, 1000).bytes(), None);
    }
}
