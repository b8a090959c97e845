//! Port buffers: timed events packed one behind the other, as applications hand them to a DirectMusic port
//! (`IDirectMusicBuffer`).
//!
//! Fed by applications, and by captured events; feeds the unpacker of a [`super::RenderPort`]. An event is a
//! DMUS_EVENTHEADER, its bytes at once behind it, and padding to a multiple of 8 bytes. Reading copies nothing, and
//! believes nothing.
//!
//! | field | type | offset | meaning |
//! |---|---|---|---|
//! | cbEvent | u32 | 0 | bytes of the event, without header and padding |
//! | dwChannelGroup | u32 | 4 | the group of 16 channels |
//! | rtDelta | i64 | 8 | time after the start time of the buffer, 100 ns |
//! | dwFlags | u32 | 16 | STRUCTURED 1: one complete message that can be parsed |
//!
//! The header has 20 bytes: it is declared packed, so that the data follows without a gap.

use dmus_interface::event::{MAX_MESSAGE, is_message, message_length};
use dmus_interface::time::RefTime;
use zerocopy::little_endian::{I64, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// dwFlags: the event is one complete MIDI message.
pub const STRUCTURED: u32 = 1;

/// Bytes of a DMUS_EVENTHEADER.
pub const HEADER_SIZE: usize = size_of::<Header>();

/// Events begin at multiples of this.
const ALIGN: usize = 8;

/// Bytes that an event with `len` bytes of data takes in a buffer (DMUS_EVENT_SIZE).
pub const fn event_size(len: usize) -> usize {
    len.saturating_add(HEADER_SIZE + ALIGN - 1) / ALIGN * ALIGN
}

/// DMUS_EVENTHEADER, as it lies in memory.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    event_bytes: U32,
    channel_group: U32,
    delta: I64,
    flags: U32,
}

const _: () = assert!(HEADER_SIZE == 20);

/// What is wrong with a port buffer, or with what is packed into one. `at` is the offset of the event in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BufferError {
    /// The buffer ends within an event.
    #[error("the port buffer ends within the event at byte {at}: the event takes {needed} bytes, {left} are left")]
    Truncated {
        /// Offset of the event.
        at: usize,
        /// Bytes that it takes, padding included.
        needed: usize,
        /// Bytes from it to the end.
        left: usize,
    },
    /// An event of no bytes.
    #[error("the event at byte {at} of the port buffer has no data")]
    Empty {
        /// Offset of the event.
        at: usize,
    },
    /// Longer than any message may be.
    #[error("the event at byte {at} of the port buffer has {len} bytes; a message has at most {MAX_MESSAGE}")]
    TooLong {
        /// Offset of the event.
        at: usize,
        /// cbEvent.
        len: u32,
    },
    /// Flags that do not exist.
    #[error("the event at byte {at} of the port buffer has the unknown flags {flags:#x}")]
    UnknownFlags {
        /// Offset of the event.
        at: usize,
        /// dwFlags.
        flags: u32,
    },
    /// A channel group that an event (16 bits) cannot name.
    #[error("the event at byte {at} of the port buffer is for channel group {group}; the last is 65,535")]
    ChannelGroup {
        /// Offset of the event.
        at: usize,
        /// dwChannelGroup.
        group: u32,
    },
    /// A structured event that is not exactly one message.
    #[error("the event at byte {at} of the port buffer is marked structured, and is not one complete MIDI message")]
    NotAMessage {
        /// Offset of the event.
        at: usize,
    },
    /// Times beyond the range of the clock.
    #[error("the time of the event at byte {at} of the port buffer is beyond the range of the clock")]
    TimeOverflow {
        /// Offset of the event.
        at: usize,
    },
    /// No room for one more event.
    #[error("the port buffer is full: {needed} bytes are needed, {left} are left")]
    Full {
        /// Bytes that the event takes, padding included.
        needed: usize,
        /// Bytes that are left.
        left: usize,
    },
}

/// An event of a port buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortEvent<'b> {
    /// Presentation time: start time of the buffer and rtDelta.
    pub time: RefTime,
    /// The group of 16 channels.
    pub channel_group: u16,
    /// Whether it is one complete message for certain.
    pub structured: bool,
    /// The bytes, where they lie in the buffer.
    pub bytes: &'b [u8],
}

/// A buffer that is being packed (`IDirectMusicBuffer`).
#[derive(Debug)]
pub struct PortBuffer<'b> {
    memory: &'b mut [u8],
    used: usize,
    start: Option<RefTime>,
}

impl<'b> PortBuffer<'b> {
    /// An empty buffer in `memory`.
    pub fn new(memory: &'b mut [u8]) -> Self {
        Self { memory, used: 0, start: None }
    }

    /// `PackStructured`: appends a message of one to three bytes, its status in the lowest byte of `message`.
    pub fn pack_structured(&mut self, time: RefTime, channel_group: u32, message: u32) -> Result<(), BufferError> {
        let bytes = message.to_le_bytes();
        match message_length(bytes[0]) {
            Some(len) if is_message(&bytes[..len]) => self.pack(time, channel_group, STRUCTURED, &bytes[..len]),
            _ => Err(BufferError::NotAMessage { at: self.used }),
        }
    }

    /// `PackUnstructured`: appends any bytes, SysEx as a rule.
    pub fn pack_unstructured(&mut self, time: RefTime, channel_group: u32, bytes: &[u8]) -> Result<(), BufferError> {
        self.pack(time, channel_group, 0, bytes)
    }

    /// `Flush`: forgets all events, and the start time.
    pub fn flush(&mut self) {
        self.used = 0;
        self.start = None;
    }

    /// `GetStartTime`: that of the first event packed, and zero for an empty buffer.
    pub fn get_start_time(&self) -> RefTime {
        self.start.unwrap_or_default()
    }

    /// The packed events (`GetRawBufferPtr`, `GetUsedBytes`).
    pub fn bytes(&self) -> &[u8] {
        &self.memory[..self.used]
    }

    /// The packed events, read again.
    pub fn events(&self) -> Events<'_> {
        Events::new(self.bytes(), self.get_start_time())
    }

    fn pack(&mut self, time: RefTime, channel_group: u32, flags: u32, bytes: &[u8]) -> Result<(), BufferError> {
        let at = self.used;
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let start = self.start.unwrap_or(time);
        let delta = time.0.checked_sub(start.0).ok_or(BufferError::TimeOverflow { at })?;
        let header = Header {
            event_bytes: len.into(),
            channel_group: channel_group.into(),
            delta: delta.into(),
            flags: flags.into(),
        };
        header.check(at)?;
        let needed = event_size(bytes.len());
        let free = &mut self.memory[at..];
        let left = free.len();
        let Some(event) = free.get_mut(..needed) else {
            return Err(BufferError::Full { needed, left });
        };
        let (head, rest) = event.split_at_mut(HEADER_SIZE);
        let (data, padding) = rest.split_at_mut(bytes.len());
        head.copy_from_slice(header.as_bytes());
        data.copy_from_slice(bytes);
        padding.fill(0);
        self.start = Some(start);
        self.used = at + needed;
        Ok(())
    }
}

impl Header {
    /// What can be judged without the data: its length.
    fn check(&self, at: usize) -> Result<usize, BufferError> {
        let (len, flags, group) = (self.event_bytes.get(), self.flags.get(), self.channel_group.get());
        if len == 0 {
            Err(BufferError::Empty { at })
        } else if len as usize > MAX_MESSAGE {
            Err(BufferError::TooLong { at, len })
        } else if flags & !STRUCTURED != 0 {
            Err(BufferError::UnknownFlags { at, flags })
        } else if group > u32::from(u16::MAX) {
            Err(BufferError::ChannelGroup { at, group })
        } else {
            Ok(len as usize)
        }
    }
}

/// The events of a buffer (`GetNextEvent`), in the order in which they were packed. After an error there is nothing
/// more.
#[derive(Clone, Debug)]
pub struct Events<'b> {
    /// Empty once an error was met.
    rest: &'b [u8],
    at: usize,
    start: RefTime,
}

impl<'b> Events<'b> {
    /// Reads a buffer whose deltas count from `start`.
    pub fn new(buffer: &'b [u8], start: RefTime) -> Self {
        Self { rest: buffer, at: 0, start }
    }

    /// The event at the start of the rest, and the bytes that it takes.
    fn first(&self) -> Result<(PortEvent<'b>, usize), BufferError> {
        let (at, left) = (self.at, self.rest.len());
        let (header, data) = Header::ref_from_prefix(self.rest).map_err(|_| BufferError::Truncated {
            at,
            needed: event_size(1),
            left,
        })?;
        let len = header.check(at)?;
        let needed = event_size(len);
        let bytes = match data.get(..len) {
            Some(bytes) if needed <= left => bytes,
            _ => return Err(BufferError::Truncated { at, needed, left }),
        };
        let structured = header.flags.get() & STRUCTURED != 0;
        if structured && !is_message(bytes) {
            return Err(BufferError::NotAMessage { at });
        }
        let time = self.start.0.checked_add(header.delta.get()).ok_or(BufferError::TimeOverflow { at })?;
        let channel_group = header.channel_group.get() as u16;
        Ok((PortEvent { time: RefTime(time), channel_group, structured, bytes }, needed))
    }
}

impl<'b> Iterator for Events<'b> {
    type Item = Result<PortEvent<'b>, BufferError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let first = self.first();
        let taken = first.map_or(self.rest.len(), |(_, size)| size);
        self.rest = &self.rest[taken..];
        self.at += taken;
        Some(first.map(|(event, _)| event))
    }
}

#[cfg(test)]
mod tests;
