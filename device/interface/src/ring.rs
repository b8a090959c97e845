//! The rings in guest memory, and the arithmetic of their free-running indices.
//!
//! The submission ring holds u32 slot numbers, written by the driver; the completion ring holds [`Completion`]s,
//! written by the card, for a render stream not in the order of submission. An index counts up without bound (wrapping
//! at 2^32); the entry is at index modulo the ring's size.

#![warn(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap, clippy::cast_lossless)]

use zerocopy::little_endian::{I64, U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A slot number of an event pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// One entry of the completion ring, 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Completion {
    /// The slot that was submitted (the head of its chain): only this says which submission it was.
    pub slot: U32,
    /// [`Status`].
    pub status: U16,
    /// With [`Status::Rejected`] the [`Reject`] reason, else 0.
    pub flags: U16,
    /// [`Status::Presented`]: the time of the event, as it was submitted or captured; with [`crate::event::DONT_HOLD`]
    /// the stream time of the sample at which it was applied. [`Status::Late`]: how late, 100 ns. Else 0.
    pub time: I64,
}

impl Completion {
    /// The entry as two little-endian words.
    #[inline]
    pub const fn words(slot: u32, status: Status, flags: u16, time: i64) -> [u64; 2] {
        [slot as u64 | (status as u64) << 32 | (flags as u64) << 48, time.cast_unsigned()]
    }
}

/// Bytes of a completion ring entry.
pub const COMPLETION_SIZE: usize = size_of::<Completion>();
/// Bytes of a submission ring entry.
pub const SUBMISSION_SIZE: usize = 4;

/// What a card that checks stores over each submission ring entry that it has fetched, if it may write to the ring: no
/// slot number, so that an entry which is not there when the tail says so is seen. A driver stores an entry anew for
/// each submission, and reads none.
pub const CONSUMED: u32 = 0xC9C9_C9C9;

/// How a submission ended. 0 is no status, so that untouched memory is never a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Status {
    /// Applied to the synthesizer at its exact sample; in a capture stream: filled.
    Presented = 1,
    /// Applied, but its sample had passed.
    Late = 2,
    /// Discarded by STOP.
    Discarded = 3,
    /// Refused; the reason is in the flags.
    Rejected = 4,
    /// A SysEx fragment: its bytes are copied, the message goes on.
    Copied = 5,
}

impl Status {
    /// How many there are.
    pub const COUNT: usize = Self::Copied as usize;

    /// Decodes an entry's status.
    pub const fn decode(value: u16) -> Option<Self> {
        match value {
            1 => Some(Self::Presented),
            2 => Some(Self::Late),
            3 => Some(Self::Discarded),
            4 => Some(Self::Rejected),
            5 => Some(Self::Copied),
            _ => None,
        }
    }
}

/// Why a submission was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u16)]
pub enum Reject {
    /// The slot, or data that it points to, could not be read.
    #[error("the event or its data is not in memory that the guest shares with the card")]
    NotMapped = 1,
    /// cbStruct is not the size of the structure.
    #[error("cbStruct is not the size of the event structure")]
    BadStructSize = 2,
    /// Unknown bits in usFlags.
    #[error("unknown bits in usFlags")]
    BadFlags = 3,
    /// cbEvent is 0 in an event that is no package.
    #[error("cbEvent is 0")]
    Empty = 4,
    /// cbEvent is larger than a buffer.
    #[error("cbEvent is larger than the stream's buffers")]
    TooLong = 5,
    /// uData is not the start of a buffer of the stream.
    #[error("uData does not point to a buffer of the stream")]
    BadBuffer = 6,
    /// Another event in flight has the same buffer.
    #[error("the buffer belongs to another event in flight")]
    BufferInFlight = 7,
    /// pNextEvt or pPackageEvt is not the start of a slot of the pool.
    #[error("pNextEvt or pPackageEvt does not point to a slot of the pool")]
    BadChain = 8,
    /// A chain or package reaches a slot that is in flight: its own (a cycle) or another's.
    #[error("the chain or package reaches a slot that is in flight, or itself")]
    SlotInFlight = 9,
    /// Members of a chain have different times.
    #[error("members of a chain have different presentation times")]
    TimeMismatch = 10,
    /// Packages within packages too deep.
    #[error("packages are nested too deep")]
    TooDeep = 11,
    /// A fragment in a chain or package, or an INCOMPLETE package.
    #[error("a SysEx fragment inside a chain or package")]
    FragmentInChain = 12,
    /// usChannelGroup is not below the card's number of groups.
    #[error("usChannelGroup is out of range")]
    BadChannelGroup = 13,
    /// The bytes are not one complete MIDI message.
    #[error("the bytes are not one complete MIDI message")]
    BadMessage = 14,
    /// A message in fragments is longer than 64 KiB, or too many wait to be presented.
    #[error("fragmented SysEx data exceeds 64 KiB")]
    MessageTooLong = 15,
    /// An empty package.
    #[error("the package is empty")]
    EmptyPackage = 16,
    /// A slot posted to a capture stream carries data: cbEvent, usFlags or pNextEvt is not 0.
    #[error("the slot posted for capture is not empty: cbEvent, usFlags or pNextEvt is not 0")]
    NotEmpty = 17,
}

impl Reject {
    /// Every reason.
    pub const ALL: [Self; 17] = [
        Self::NotMapped,
        Self::BadStructSize,
        Self::BadFlags,
        Self::Empty,
        Self::TooLong,
        Self::BadBuffer,
        Self::BufferInFlight,
        Self::BadChain,
        Self::SlotInFlight,
        Self::TimeMismatch,
        Self::TooDeep,
        Self::FragmentInChain,
        Self::BadChannelGroup,
        Self::BadMessage,
        Self::MessageTooLong,
        Self::EmptyPackage,
        Self::NotEmpty,
    ];

    /// Decodes an entry's flags.
    pub fn decode(value: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|r| *r as u16 == value)
    }
}

/// Whether moving an index from `old` to `new` publishes entry number `event`: the vector is raised for that then. It
/// has other causes, too, and may be raised without one.
///
/// Correct across the wrap at 2^32 as long as fewer than 2^31 entries are published at once.
pub const fn passes(event: u32, old: u32, new: u32) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_completion_is_16_bytes() {
        assert_eq!(size_of::<Completion>(), 16);
        let bytes = Completion::words(0x0102_0304, Status::Rejected, 0x1122, -2).map(u64::to_le_bytes);
        let entry = Completion::read_from_bytes(bytes.as_flattened()).expect("16 bytes");
        assert_eq!((entry.slot.get(), entry.status.get()), (0x0102_0304, Status::Rejected as u16));
        assert_eq!((entry.flags.get(), entry.time.get()), (0x1122, -2));
    }

    #[test]
    fn reasons_decode_to_themselves() {
        for reason in Reject::ALL {
            assert_eq!(Reject::decode(reason as u16), Some(reason));
        }
    }

    proptest! {
        #[test]
        fn an_event_passes_exactly_when_it_is_among_the_published(
            old: u32,
            count in 0u32..100_000,
            ahead in -1000i32..101_000,
        ) {
            let event = old.wrapping_add_signed(ahead);
            let among = ahead >= 0 && ahead.cast_unsigned() < count;
            prop_assert_eq!(passes(event, old, old.wrapping_add(count)), among);
        }
    }
}
