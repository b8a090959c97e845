//! DMUS_KERNEL_EVENT, the event of the DirectMusic DDI and the card's DMA descriptor, in both pointer widths.
//!
//! Written by a driver into a slot of the pool; copied once by the card and decoded with [`Event::decode`]. Once the
//! slot has come home, all of the event but bReserved and cbStruct may be something else. Field meanings follow the
//! `DMUS_KERNEL_EVENT` page of Microsoft's driver documentation; pointers are IOVAs.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// usFlags: the event is whole.
pub const COMPLETE: u16 = 0;
/// usFlags: the message goes on in the next event.
pub const INCOMPLETE: u16 = 1;
/// usFlags: uData points to a chain of events that are handled together.
pub const PACKAGE: u16 = 2;

/// Bit 63 of the presentation time: do not hold the event for sequencing, play it at once.
pub const DONT_HOLD: i64 = i64::MIN;

/// Longest MIDI message, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Deepest nesting of packages.
pub const MAX_DEPTH: usize = 8;

/// Size of the pointers in events, and with it the layout of the event and the number of bytes that fit inline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PointerWidth {
    /// 4-byte pointers: 32-byte events, 4 inline bytes.
    Four,
    /// 8-byte pointers: 40-byte events, 8 inline bytes.
    #[default]
    Eight,
}

impl PointerWidth {
    /// Bytes of a pointer: also the longest inline data (cbEvent above it means a buffer).
    pub const fn bytes(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    /// Bytes of the event structure, the value of cbStruct.
    pub const fn event_size(self) -> usize {
        match self {
            Self::Four => size_of::<Event32>(),
            Self::Eight => size_of::<Event64>(),
        }
    }

    /// Decodes a number of bytes, the value of [`crate::regs::POINTER_WIDTH`].
    pub const fn decode(bytes: u32) -> Option<Self> {
        match bytes {
            4 => Some(Self::Four),
            8 => Some(Self::Eight),
            _ => None,
        }
    }
}

/// Bytes of the larger of the two event structures.
pub const MAX_EVENT_SIZE: usize = size_of::<Event64>();

/// The event with 8-byte pointers, as it lies in memory: 40 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event64 {
    /// Reserved.
    pub reserved: u8,
    /// cbStruct.
    pub struct_size: u8,
    /// cbEvent.
    pub event_bytes: U16,
    /// usChannelGroup.
    pub channel_group: U16,
    /// usFlags.
    pub flags: U16,
    /// ullPresTime100ns.
    pub time: I64,
    /// ullBytePosition.
    pub byte_position: U64,
    /// pNextEvt.
    pub next: U64,
    /// uData.
    pub data: [u8; 8],
}

/// The event with 4-byte pointers, as it lies in memory: 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event32 {
    /// Reserved.
    pub reserved: u8,
    /// cbStruct.
    pub struct_size: u8,
    /// cbEvent.
    pub event_bytes: U16,
    /// usChannelGroup.
    pub channel_group: U16,
    /// usFlags.
    pub flags: U16,
    /// ullPresTime100ns.
    pub time: I64,
    /// ullBytePosition.
    pub byte_position: U64,
    /// pNextEvt.
    pub next: U32,
    /// uData.
    pub data: [u8; 4],
}

const _: () = assert!(size_of::<Event64>() == 40 && size_of::<Event32>() == 32);

/// What uData is, by the rules of the DDI: the package flag first, then cbEvent against the pointer size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// The bytes themselves (abData); the first cbEvent of them count.
    Inline([u8; 8]),
    /// IOVA of a buffer with cbEvent bytes (pbData).
    Buffer(u64),
    /// IOVA of the first event of a chain (pPackageEvt).
    Package(u64),
}

/// An event of either width, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// cbStruct.
    pub struct_size: u8,
    /// cbEvent: bytes of event data.
    pub event_bytes: u16,
    /// usChannelGroup.
    pub channel_group: u16,
    /// usFlags: [`INCOMPLETE`], [`PACKAGE`].
    pub flags: u16,
    /// ullPresTime100ns: stream time, or [`DONT_HOLD`].
    pub time: i64,
    /// ullBytePosition.
    pub byte_position: u64,
    /// pNextEvt: IOVA of the next event of the chain, or 0.
    pub next: u64,
    /// uData.
    pub data: Data,
}

/// Reading a whole event from fewer bytes than [`PointerWidth::event_size`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event takes {needed} bytes, there are {given}")]
pub struct TooShort {
    /// Bytes of the structure.
    pub needed: usize,
    /// Bytes that were given.
    pub given: usize,
}

impl Event {
    /// Decodes the event at the start of `bytes`. Nothing is judged here but the number of bytes.
    pub fn decode(bytes: &[u8], width: PointerWidth) -> Result<Self, TooShort> {
        let short = TooShort { needed: width.event_size(), given: bytes.len() };
        let (raw, next, word) = match width {
            PointerWidth::Eight => {
                let (raw, _) = Event64::read_from_prefix(bytes).map_err(|_| short)?;
                (raw, raw.next.get(), raw.data)
            }
            PointerWidth::Four => {
                let (raw, _) = Event32::read_from_prefix(bytes).map_err(|_| short)?;
                let mut data = [0; 8];
                data[..4].copy_from_slice(&raw.data);
                (raw.widen(data), u64::from(raw.next.get()), data)
            }
        };
        let pointer = u64::from_le_bytes(word);
        let data = if raw.flags.get() & PACKAGE != 0 {
            Data::Package(pointer)
        } else if usize::from(raw.event_bytes.get()) <= width.bytes() {
            Data::Inline(word)
        } else {
            Data::Buffer(pointer)
        };
        Ok(Self {
            struct_size: raw.struct_size,
            event_bytes: raw.event_bytes.get(),
            channel_group: raw.channel_group.get(),
            flags: raw.flags.get(),
            time: raw.time.get(),
            byte_position: raw.byte_position.get(),
            next,
            data,
        })
    }

    /// Lays the event out in memory. Pointers are cut to the width; returns the bytes and how many of them count.
    pub fn encode(&self, width: PointerWidth) -> ([u8; MAX_EVENT_SIZE], usize) {
        let data = match self.data {
            Data::Inline(bytes) => bytes,
            Data::Buffer(iova) | Data::Package(iova) => iova.to_le_bytes(),
        };
        let wide = Event64 {
            reserved: 0,
            struct_size: self.struct_size,
            event_bytes: self.event_bytes.into(),
            channel_group: self.channel_group.into(),
            flags: self.flags.into(),
            time: self.time.into(),
            byte_position: self.byte_position.into(),
            next: self.next.into(),
            data,
        };
        let mut bytes = [0; MAX_EVENT_SIZE];
        bytes.copy_from_slice(wide.as_bytes());
        if width == PointerWidth::Four {
            // The two layouts agree up to the first pointer; there the narrow one has 4 bytes of it, then 4 of data.
            bytes.copy_within(32..36, 28);
            bytes[32..].fill(0);
        }
        (bytes, width.event_size())
    }
}

impl Event32 {
    fn widen(&self, data: [u8; 8]) -> Event64 {
        Event64 {
            reserved: self.reserved,
            struct_size: self.struct_size,
            event_bytes: self.event_bytes,
            channel_group: self.channel_group,
            flags: self.flags,
            time: self.time,
            byte_position: self.byte_position,
            next: u64::from(self.next.get()).into(),
            data,
        }
    }
}

/// Length of the message that a status byte begins: `Some(n)` for channel and system messages of fixed length, `None`
/// for SysEx, data bytes and undefined status.
pub const fn message_length(status: u8) -> Option<usize> {
    match status {
        0x80..=0xBF | 0xE0..=0xEF | 0xF2 => Some(3),
        0xC0..=0xDF | 0xF1 | 0xF3 => Some(2),
        0xF6 | 0xF8 | 0xFA..=0xFC | 0xFE | 0xFF => Some(1),
        _ => None,
    }
}

/// Whether `bytes` are exactly one complete MIDI message: a fixed-length message, or SysEx from F0 to F7.
pub fn is_message(bytes: &[u8]) -> bool {
    let Some((&status, data)) = bytes.split_first() else {
        return false;
    };
    let data = if status == 0xF0 {
        match data.split_last() {
            Some((0xF7, inside)) => inside,
            _ => return false,
        }
    } else if message_length(status) == Some(bytes.len()) {
        data
    } else {
        return false;
    };
    all_data(data)
}

/// Whether all bytes are below 0x80. Without an early end, so that many are looked at in one step; the last step
/// overlaps the one before.
fn all_data(data: &[u8]) -> bool {
    const STEP: usize = 64;
    let Some(last) = data.last_chunk::<STEP>() else {
        return data.iter().fold(0, |all, byte| all | byte) < 0x80;
    };
    let words = |step: &[u8; STEP]| -> [u64; STEP / 8] {
        let mut words = [0; STEP / 8];
        for (word, bytes) in words.iter_mut().zip(step.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        words
    };
    let mut all = words(last);
    for step in data.as_chunks::<STEP>().0 {
        for (all, word) in all.iter_mut().zip(words(step)) {
            *all |= word;
        }
    }
    all.iter().fold(0, |all, word| all | word) & 0x8080_8080_8080_8080 == 0
}

/// [`is_message`] of the lowest `len` bytes of a little-endian word, without a loop: inline data.
#[inline]
pub fn is_short_message(word: u64, len: usize) -> bool {
    ShortForm::of_length(len).is_message(word)
}

/// What inline data of some length has to look like to be one complete message: for judging many of the same length.
#[derive(Clone, Copy, Debug)]
pub struct ShortForm {
    len: u64,
    /// The upper bits of the bytes after the first.
    high_bits: u64,
    /// Which bits are fixed in SysEx, and how: F0 and F7 with data between; nothing is as short as one byte.
    sysex_mask: u64,
    sysex: u64,
}

impl ShortForm {
    /// That of no message.
    pub const NONE: Self = Self { len: 0, high_bits: 0, sysex_mask: 0, sysex: u64::MAX };

    /// By length, from 0 to 8.
    const ALL: [Self; 9] = {
        let mut forms = [Self::NONE; 9];
        forms[1].len = 1;
        let mut len = 2;
        while len < 9 {
            let last = 8 * (len - 1);
            let high_bits = forms[len - 1].high_bits | 0x80 << last;
            let (sysex_mask, sysex) = (high_bits | 0xFF << last | 0xFF, 0xF7 << last | 0xF0);
            forms[len] = Self { len: len as u64, high_bits, sysex_mask, sysex };
            len += 1;
        }
        forms
    };

    /// The form of `len` bytes. No word is a message of 0 bytes, or of more than 8.
    #[inline]
    pub fn of_length(len: usize) -> &'static Self {
        Self::ALL.get(len).unwrap_or(&Self::NONE)
    }

    /// Whether the bytes of a little-endian word are one complete message.
    #[inline(always)]
    pub const fn is_message(&self, word: u64) -> bool {
        match word as u8 {
            0xF0 => self.is_sysex(word),
            status => self.is_fixed(status, word),
        }
    }

    /// Whether the bytes of a little-endian word are one SysEx message, from F0 to F7.
    #[inline(always)]
    pub const fn is_sysex(&self, word: u64) -> bool {
        word & self.sysex_mask == self.sysex
    }

    /// Of messages whose status says how long they are.
    #[inline(always)]
    const fn is_fixed(&self, status: u8, word: u64) -> bool {
        // Bytes of each message, by the upper half of a channel status byte and by the lower half of a system one; 15
        // where there is no such message.
        const CHANNEL: u64 = 0xF322_3333_FFFF_FFFF;
        const SYSTEM: u64 = 0x11F1_11F1_F1FF_232F;
        let length = if status < 0xF0 { CHANNEL >> (4 * (status >> 4)) } else { SYSTEM >> (4 * (status & 15)) } & 15;
        length == self.len && word & self.high_bits == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_event(width: PointerWidth) -> impl Strategy<Value = Event> {
        let limit = width.bytes();
        let pointers = match width {
            PointerWidth::Four => u64::from(u32::MAX),
            PointerWidth::Eight => u64::MAX,
        };
        (any::<(u8, u16, u16, i64, u64)>(), 0..=pointers, 0..=pointers, 0u16..4).prop_map(
            move |(plain, next, word, flags)| {
                let (struct_size, event_bytes, channel_group, time, byte_position) = plain;
                let data = if flags & PACKAGE != 0 {
                    Data::Package(word)
                } else if usize::from(event_bytes) <= limit {
                    Data::Inline(word.to_le_bytes())
                } else {
                    Data::Buffer(word)
                };
                Event { struct_size, event_bytes, channel_group, flags, time, byte_position, next, data }
            },
        )
    }

    proptest! {
        #[test]
        fn events_survive_encoding_in_both_widths(
            wide in any_event(PointerWidth::Eight),
            narrow in any_event(PointerWidth::Four),
        ) {
            for (event, width) in [(wide, PointerWidth::Eight), (narrow, PointerWidth::Four)] {
                let (bytes, len) = event.encode(width);
                prop_assert_eq!(Event::decode(&bytes[..len], width), Ok(event));
            }
        }
    }

    /// DDI: DMUS_KERNEL_EVENT has its fields at these offsets, 40 bytes with 8-byte pointers and 32 with 4-byte ones.
    #[test]
    fn fields_are_at_the_offsets_of_the_ddi() {
        let event = Event {
            struct_size: 32,
            event_bytes: 0x0102,
            channel_group: 0x0304,
            flags: INCOMPLETE,
            time: 0x1122_3344_5566_7788,
            byte_position: 9,
            next: 0xAABB_CCDD,
            data: Data::Buffer(0x0BAD_CAFE),
        };
        let (bytes, len) = event.encode(PointerWidth::Four);
        assert_eq!(len, 32);
        assert_eq!(bytes[1], 32);
        assert_eq!(bytes[2..4], [2, 1]);
        assert_eq!(bytes[4..6], [4, 3]);
        assert_eq!(bytes[8], 0x88);
        assert_eq!(bytes[24..28], [0xDD, 0xCC, 0xBB, 0xAA]);
        assert_eq!(bytes[28..32], [0xFE, 0xCA, 0xAD, 0x0B]);
        let (bytes, len) = event.encode(PointerWidth::Eight);
        assert_eq!(len, 40);
        assert_eq!(bytes[32..36], [0xFE, 0xCA, 0xAD, 0x0B]);
    }

    /// DDI: Which member of uData is live: pPackageEvt if PACKAGE is set, abData if cbEvent is at most the pointer
    ///     size, else pbData.
    #[test]
    fn event_bytes_above_the_pointer_size_mean_a_buffer() {
        for width in [PointerWidth::Four, PointerWidth::Eight] {
            for bytes in 1..=12u16 {
                let mut raw = [0u8; 40];
                raw[2] = bytes as u8;
                let event = Event::decode(&raw, width).map(|e| e.data);
                let inline = usize::from(bytes) <= width.bytes();
                assert_eq!(matches!(event, Ok(Data::Inline(_))), inline);
            }
        }
    }

    proptest! {
        #[test]
        fn words_are_judged_as_bytes_are(status: u8, data: [u8; 7], high in 0u8..4, end: bool, len in 0usize..=8) {
            let mut bytes = [status, 0, 0, 0, 0, 0, 0, 0];
            for (i, byte) in data.iter().enumerate() {
                // Mostly data bytes: random ones are hardly ever a message.
                bytes[i + 1] = if high == 0 { *byte } else { *byte & 0x7F };
            }
            if end && len > 0 {
                bytes[0] = 0xF0;
                bytes[len - 1] = 0xF7;
            }
            prop_assert_eq!(is_short_message(u64::from_le_bytes(bytes), len), is_message(&bytes[..len]));
        }
    }

    #[test]
    fn a_status_byte_anywhere_in_sysex_makes_it_no_message() {
        for len in 2..300 {
            let mut bytes = [0x7F; 300];
            let bytes = &mut bytes[..len];
            bytes[0] = 0xF0;
            bytes[len - 1] = 0xF7;
            assert!(is_message(bytes));
            for at in 1..len - 1 {
                bytes[at] = 0x80;
                assert!(!is_message(bytes), "{at} of {len}");
                bytes[at] = 0x7F;
            }
        }
    }

    #[test]
    fn every_status_is_judged_alike_in_a_word() {
        for status in 0..=u8::MAX {
            for len in 0..=8 {
                for data in [[1; 8], [0xF7; 8], [1, 1, 0x80, 1, 1, 1, 1, 1]] {
                    let mut bytes = data;
                    bytes[0] = status;
                    let word = u64::from_le_bytes(bytes);
                    assert_eq!(is_short_message(word, len), is_message(&bytes[..len]), "{bytes:02x?} {len}");
                }
            }
        }
    }

    #[test]
    fn one_complete_message_and_nothing_else_is_a_message() {
        for good in [&[0x90, 60, 100][..], &[0xC0, 5], &[0xF8], &[0xF0, 0xF7], &[0xF0, 0x7E, 0x7F, 0x09, 0x01, 0xF7]] {
            assert!(is_message(good), "{good:02x?}");
        }
        for bad in [
            &[][..],
            &[60, 100],
            &[0x90, 60],
            &[0x90, 60, 0x80],
            &[0x90, 60, 100, 0],
            &[0xF0],
            &[0xF0, 1, 2],
            &[0xF7],
            &[0xF0, 0x90, 0xF7],
            &[0xF4],
        ] {
            assert!(!is_message(bad), "{bad:02x?}");
        }
    }
}
