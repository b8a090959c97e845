//! BAR0: the trapped registers.
//!
//! Written and read by a driver while it sets up; decoded by the card through [`find`]. No hot path goes through here.
//!
//! Registers are 4 or 8 bytes wide ([`Register::width`]). An access is 4 bytes, aligned; an 8-byte register is a low
//! half and a high half, or one aligned 8-byte access. Anything else (wrong width, misaligned, reserved offset, reading
//! a write-only or writing a read-only register) reads as all ones or is dropped, and is recorded in [`FAULT`]. The
//! halves of a clock are read at different times; [`crate::doorbell`] has the clocks whole.
//!
//! | offset | register | access | after reset |
//! |---|---|---|---|
//! | 0x000 | [`MAGIC`] | read | [`MAGIC_VALUE`] |
//! | 0x004 | [`VERSION`] | read | [`VERSION_VALUE`] |
//! | 0x008 | [`FEATURES`] | read | [`feature`] bits |
//! | 0x00C | [`STREAMS`] | read | 8 |
//! | 0x010 | [`CONTROL`] | read/write | 0 |
//! | 0x014 | [`POINTER_WIDTH`] | read/write | 8 |
//! | 0x018 | [`SAMPLE_RATE`] | read | 48,000 |
//! | 0x01C | [`CHANNEL_GROUPS`] | read | groups of 16 channels a stream |
//! | 0x020 | [`FAULT`] | read, write to clear | 0 |
//! | 0x024 | [`FAULT_DETAIL`] | read | 0 |
//! | 0x028 | [`FAULT_COUNT`] | read | 0 |
//! | 0x030 | [`MASTER_TIME`] | read, 8 bytes | 0 |
//! | 0x038 | [`LATENCY_TIME`] | read, 8 bytes | the latency |
//! | 0x040 | [`SAMPLE_POSITION`] | read, 8 bytes | 0 |
//! | 0x048 | [`WAKE`] | write | - |
//! | 0x050 | [`COMMAND_REQUEST`] | read/write, 8 bytes | 0 |
//! | 0x058 | [`COMMAND_REQUEST_SIZE`] | read/write | 0 |
//! | 0x05C | [`COMMAND_RESULT_ROOM`] | read/write | 0 |
//! | 0x060 | [`COMMAND_RESULT`] | read/write, 8 bytes | 0 |
//! | 0x068 | [`COMMAND_STREAM`] | read/write | 0 |
//! | 0x06C | [`COMMAND`] | write | - |
//! | 0x100 + 0x80 n | [`stream`] block n | | 0 |

mod fault;

pub use fault::Fault;

/// What may be done with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads only; writes are dropped and recorded.
    Read,
    /// Writes only; reads give all ones and are recorded.
    Write,
    /// Both.
    ReadWrite,
}

/// One register: where it is, how wide, and what may be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Byte offset in BAR0 (in a stream block: relative to the block).
    pub offset: u32,
    /// Bytes: 4 or 8.
    pub width: u32,
    /// Access rights.
    pub access: Access,
    /// Name for messages.
    pub name: &'static str,
}

const fn register(offset: u32, width: u32, access: Access, name: &'static str) -> Register {
    Register { offset, width, access, name }
}

/// Reads [`MAGIC_VALUE`]; all ones when the card is gone.
pub const MAGIC: Register = register(0x000, 4, Access::Read, "MAGIC");
/// "DMUS" in ASCII, little endian.
pub const MAGIC_VALUE: u32 = u32::from_le_bytes(*b"DMUS");
/// Interface version: major in the upper half, minor in the lower. A driver works with its own major version only.
pub const VERSION: Register = register(0x004, 4, Access::Read, "VERSION");
/// The version that this data sheet describes.
pub const VERSION_VALUE: u32 = 0x0001_0000;
/// [`feature`] bits.
pub const FEATURES: Register = register(0x008, 4, Access::Read, "FEATURES");
/// Number of stream blocks.
pub const STREAMS: Register = register(0x00C, 4, Access::Read, "STREAMS");
/// [`control`] bits. Clearing ENABLE is refused unless every stream is closed.
pub const CONTROL: Register = register(0x010, 4, Access::ReadWrite, "CONTROL");
/// Pointer width of events, 4 or 8. May change only while every stream is closed: a stream keeps the layout that it was
/// created with.
pub const POINTER_WIDTH: Register = register(0x014, 4, Access::ReadWrite, "POINTER_WIDTH");
/// Sample rate of the card, in Hz.
pub const SAMPLE_RATE: Register = register(0x018, 4, Access::Read, "SAMPLE_RATE");
/// Channel groups (sets of 16 MIDI channels) that each render stream has when it is created, numbered from 0. Constant:
/// [`SetChannelGroups`](crate::command::Opcode::SetChannelGroups) and `PortParameters` change those of one stream.
pub const CHANNEL_GROUPS: Register = register(0x01C, 4, Access::Read, "CHANNEL_GROUPS");
/// The first [`Fault`] since this register was last written (any value clears it), or 0.
pub const FAULT: Register = register(0x020, 4, Access::ReadWrite, "FAULT");
/// What [`FAULT`] was about:
///
/// | codes | detail |
/// |---|---|
/// | about a register: BadAccess, Reserved, AccessRights, BadValue, Locked, CommandBusy | its offset in BAR0 |
/// | about a transition: TransitionBusy, NotEnabled, Closed, NotStopped, Halted | the offset of TYPE or STATE |
/// | NoMemory | the offset of TYPE |
/// | about a configuration: BadPool, BadBuffers, BadRing, BadValue | the offset of the register that is wrong |
/// | about an area: NotMapped, NotWritable, Overlap | the offset of the register with its base |
/// | about a submission: BadSlot, SlotInFlight | stream << 16 \| low half of the slot number |
/// | UnfinishedMessage | stream << 16 \| the slot of the last fragment that came |
/// | about a ring: TailOverrun, TailBackward, ClosedStream | stream << 16 \| low half of the tail |
/// | RingFault | stream << 16 \| the entry: its index modulo the size of its ring |
/// | CaptureOverrun | stream << 16 |
/// | GrantBackward | 0 |
///
/// Of several registers or areas that are wrong it names the first, in the order SLOT_COUNT, SLOT_STRIDE, POOL_BASE,
/// BUFFER_SIZE, BUFFER_COUNT, BUFFER_BASE, SUBMISSION_SIZE, COMPLETION_SIZE, SUBMISSION_BASE, COMPLETION_BASE; of two
/// areas of one stream that overlap, the later in this order.
pub const FAULT_DETAIL: Register = register(0x024, 4, Access::Read, "FAULT_DETAIL");
/// Faults since reset, wrapping.
pub const FAULT_COUNT: Register = register(0x028, 4, Access::Read, "FAULT_COUNT");
/// Master clock, 100 ns. The same without a trap: [`crate::doorbell::MASTER_TIME`].
pub const MASTER_TIME: Register = register(0x030, 8, Access::Read, "MASTER_TIME");
/// Master clock plus the latency that the card guarantees, 100 ns: an event earlier than this may play late.
pub const LATENCY_TIME: Register = register(0x038, 8, Access::Read, "LATENCY_TIME");
/// Samples rendered since reset.
pub const SAMPLE_POSITION: Register = register(0x040, 8, Access::Read, "SAMPLE_POSITION");
/// Any write makes a sleeping card re-read the doorbell page.
pub const WAKE: Register = register(0x048, 4, Access::Write, "WAKE");
/// IOVA of a command's request ([`crate::command`]).
pub const COMMAND_REQUEST: Register = register(0x050, 8, Access::ReadWrite, "COMMAND_REQUEST");
/// Bytes of the request.
pub const COMMAND_REQUEST_SIZE: Register = register(0x058, 4, Access::ReadWrite, "COMMAND_REQUEST_SIZE");
/// Bytes that the card may write at [`COMMAND_RESULT`].
pub const COMMAND_RESULT_ROOM: Register = register(0x05C, 4, Access::ReadWrite, "COMMAND_RESULT_ROOM");
/// IOVA where the card puts the result.
pub const COMMAND_RESULT: Register = register(0x060, 8, Access::ReadWrite, "COMMAND_RESULT");
/// The stream that a command is about, for those that are about one.
pub const COMMAND_STREAM: Register = register(0x068, 4, Access::ReadWrite, "COMMAND_STREAM");
/// Writing an opcode ([`crate::command::Opcode`]) starts a command with what the registers above say now. Answered on
/// the doorbell page.
pub const COMMAND: Register = register(0x06C, 4, Access::Write, "COMMAND");

/// Bits of [`FEATURES`].
pub mod feature {
    /// Time moves only as far as the driver grants; else the host's clock drives it.
    pub const VIRTUAL_CLOCK: u32 = 1 << 0;
}

/// Bits of [`CONTROL`].
pub mod control {
    /// The card may access guest memory and streams may be created.
    pub const ENABLE: u32 = 1 << 0;
    /// Write 1: reset everything, as a function level reset does. Reads 0.
    pub const RESET: u32 = 1 << 1;
}

/// A stream's register block: [`FIRST`](stream::FIRST) + n x [`STRIDE`](stream::STRIDE) for stream n.
///
/// All but [`STATE`](stream::STATE), [`TYPE`](stream::TYPE) and the read-only ones are locked while the stream is open.
///
/// | offset | register | bytes | access |
/// |---|---|---|---|
/// | 0x00 | [`TYPE`](stream::TYPE) | 4 | read/write |
/// | 0x04 | [`STATE`](stream::STATE) | 4 | read/write |
/// | 0x08 | [`POOL_BASE`](stream::POOL_BASE) | 8 | read/write |
/// | 0x10 | [`SLOT_COUNT`](stream::SLOT_COUNT) | 4 | read/write |
/// | 0x14 | [`SLOT_STRIDE`](stream::SLOT_STRIDE) | 4 | read/write |
/// | 0x18 | [`BUFFER_BASE`](stream::BUFFER_BASE) | 8 | read/write |
/// | 0x20 | [`BUFFER_SIZE`](stream::BUFFER_SIZE) | 4 | read/write |
/// | 0x24 | [`BUFFER_COUNT`](stream::BUFFER_COUNT) | 4 | read/write |
/// | 0x28 | [`SUBMISSION_BASE`](stream::SUBMISSION_BASE) | 8 | read/write |
/// | 0x30 | [`SUBMISSION_SIZE`](stream::SUBMISSION_SIZE) | 4 | read/write |
/// | 0x34 | [`COMPLETION_SIZE`](stream::COMPLETION_SIZE) | 4 | read/write |
/// | 0x38 | [`COMPLETION_BASE`](stream::COMPLETION_BASE) | 8 | read/write |
/// | 0x40 | [`PREFETCH`](stream::PREFETCH) | 8 | read |
/// | 0x48 | [`TIME_BASE`](stream::TIME_BASE) | 8 | read |
/// | 0x50 | [`WAVE_RATE`](stream::WAVE_RATE) | 4 | read/write |
/// | 0x54 | [`WAVE_FORMAT`](stream::WAVE_FORMAT) | 4 | read/write |
pub mod stream {
    use super::{Access, Register, register};

    /// Offset of the first block.
    pub const FIRST: u32 = 0x100;
    /// Bytes from one block to the next.
    pub const STRIDE: u32 = 0x80;

    /// Stream type ([`super::stream::Type`]), or [`CLOSED`]. Writing a type creates the stream from the registers
    /// below, whose pool, buffers and rings share no memory with each other or with open streams; writing [`CLOSED`] in
    /// STOP closes it. Answered as a transition.
    pub const TYPE: Register = register(0x00, 4, Access::ReadWrite, "TYPE");
    /// State ([`State`]); reads back the state in force. Answered as a transition.
    pub const STATE: Register = register(0x04, 4, Access::ReadWrite, "STATE");
    /// IOVA of the event pool, aligned to the slot stride. With 4-byte pointers, pool and buffer area end at 4 GiB at
    /// the latest; rings may be anywhere.
    pub const POOL_BASE: Register = register(0x08, 8, Access::ReadWrite, "POOL_BASE");
    /// Slots in the pool, 1 to [`MAX_SLOTS`].
    pub const SLOT_COUNT: Register = register(0x10, 4, Access::ReadWrite, "SLOT_COUNT");
    /// Bytes from one slot to the next: a power of two, 64 to 4,096.
    pub const SLOT_STRIDE: Register = register(0x14, 4, Access::ReadWrite, "SLOT_STRIDE");
    /// IOVA of the buffer area for long event data, 8-byte aligned.
    pub const BUFFER_BASE: Register = register(0x18, 8, Access::ReadWrite, "BUFFER_BASE");
    /// Bytes in each buffer: a multiple of 8, up to [`MAX_BUFFER_SIZE`].
    pub const BUFFER_SIZE: Register = register(0x20, 4, Access::ReadWrite, "BUFFER_SIZE");
    /// Buffers in the area, 0 to [`MAX_SLOTS`], and at most 16 MiB of them.
    pub const BUFFER_COUNT: Register = register(0x24, 4, Access::ReadWrite, "BUFFER_COUNT");
    /// IOVA of the submission ring (u32 slot numbers), 4-byte aligned.
    pub const SUBMISSION_BASE: Register = register(0x28, 8, Access::ReadWrite, "SUBMISSION_BASE");
    /// Entries in the submission ring: a power of two, at least the slot count, up to [`MAX_RING`].
    pub const SUBMISSION_SIZE: Register = register(0x30, 4, Access::ReadWrite, "SUBMISSION_SIZE");
    /// Entries in the completion ring: a power of two, at least the slot count, up to [`MAX_RING`].
    pub const COMPLETION_SIZE: Register = register(0x34, 4, Access::ReadWrite, "COMPLETION_SIZE");
    /// IOVA of the completion ring ([`crate::ring::Completion`]), 16-byte aligned.
    pub const COMPLETION_BASE: Register = register(0x38, 8, Access::ReadWrite, "COMPLETION_BASE");
    /// How far ahead of its time the card wants an event at most (SchedulePreFetch), 100 ns.
    pub const PREFETCH: Register = register(0x40, 8, Access::Read, "PREFETCH");
    /// Master time less stream time while the stream runs, 100 ns.
    pub const TIME_BASE: Register = register(0x48, 8, Access::Read, "TIME_BASE");
    /// Wave sink streams: frames a second ([`crate::wave::WaveFormat`]).
    pub const WAVE_RATE: Register = register(0x50, 4, Access::ReadWrite, "WAVE_RATE");
    /// Wave sink streams: channels in bits 0 to 7 (1 or 2), and bit 8 set for 32-bit floating point samples, else
    /// 16-bit ones.
    pub const WAVE_FORMAT: Register = register(0x54, 4, Access::ReadWrite, "WAVE_FORMAT");

    /// Every register of a block.
    pub const ALL: [Register; 16] = [
        TYPE,
        STATE,
        POOL_BASE,
        SLOT_COUNT,
        SLOT_STRIDE,
        BUFFER_BASE,
        BUFFER_SIZE,
        BUFFER_COUNT,
        SUBMISSION_BASE,
        SUBMISSION_SIZE,
        COMPLETION_SIZE,
        COMPLETION_BASE,
        PREFETCH,
        TIME_BASE,
        WAVE_RATE,
        WAVE_FORMAT,
    ];

    /// Most slots, and most buffers, of a stream.
    pub const MAX_SLOTS: u32 = 4096;
    /// Most entries of a ring.
    pub const MAX_RING: u32 = 8192;
    /// Largest buffer, in bytes (cbEvent is 16 bits wide).
    pub const MAX_BUFFER_SIZE: u32 = 65_528;
    /// Value of [`TYPE`] for no stream (after reset).
    pub const CLOSED: u32 = u32::MAX;

    /// Flag in [`TYPE`]: a capture stream gives raw bytes rather than messages.
    pub const UNCOOKED: u32 = 1 << 8;

    /// Stream types (`DMUS_STREAM_TYPE`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Type {
        /// MIDI from guest to synthesizer (`DMUS_STREAM_MIDI_RENDER`).
        Render,
        /// MIDI from the card's inputs to the guest (`DMUS_STREAM_MIDI_CAPTURE`).
        Capture {
            /// Complete messages; else the bytes as they come ([`UNCOOKED`] is set in the register).
            cooked: bool,
        },
        /// What the card renders, as PCM to the guest (`DMUS_STREAM_WAVE_SINK`).
        WaveSink,
    }

    impl Type {
        /// Register value.
        pub const fn value(self) -> u32 {
            match self {
                Self::Render => 0,
                Self::Capture { cooked: true } => 1,
                Self::Capture { cooked: false } => 1 | UNCOOKED,
                Self::WaveSink => 2,
            }
        }

        /// Decodes a register value; `None` for types that this card does not have.
        pub const fn decode(value: u32) -> Option<Self> {
            match value {
                0 => Some(Self::Render),
                1 => Some(Self::Capture { cooked: true }),
                2 => Some(Self::WaveSink),
                value if value == 1 | UNCOOKED => Some(Self::Capture { cooked: false }),
                _ => None,
            }
        }
    }

    /// Stream states (`KSSTATE`). Any state may follow any other. Here for render streams; for the others see
    /// [`crate`], "Capture" and "Wave sink".
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub enum State {
        /// What is held and what is given is discarded; stream time is zero; the synthesizer is silent and reset.
        #[default]
        Stop = 0,
        /// Events are held; stream time stands.
        Acquire = 1,
        /// As ACQUIRE: events are held, stream time stands, sounding notes stand still.
        Pause = 2,
        /// Events are presented; stream time moves.
        Run = 3,
    }

    impl State {
        /// Decodes a register value.
        pub const fn decode(value: u32) -> Option<Self> {
            match value {
                0 => Some(Self::Stop),
                1 => Some(Self::Acquire),
                2 => Some(Self::Pause),
                3 => Some(Self::Run),
                _ => None,
            }
        }
    }

    /// The offset in BAR0 of `register` in block `stream`.
    pub const fn at(stream: usize, register: Register) -> Register {
        Register { offset: FIRST + stream as u32 * STRIDE + register.offset, ..register }
    }
}

/// Every register outside the stream blocks.
pub const GLOBAL: [Register; 21] = [
    MAGIC,
    VERSION,
    FEATURES,
    STREAMS,
    CONTROL,
    POINTER_WIDTH,
    SAMPLE_RATE,
    CHANNEL_GROUPS,
    FAULT,
    FAULT_DETAIL,
    FAULT_COUNT,
    MASTER_TIME,
    LATENCY_TIME,
    SAMPLE_POSITION,
    WAKE,
    COMMAND_REQUEST,
    COMMAND_REQUEST_SIZE,
    COMMAND_RESULT_ROOM,
    COMMAND_RESULT,
    COMMAND_STREAM,
    COMMAND,
];

/// A register found by its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The stream block, or `None` for a global register.
    pub stream: Option<usize>,
    /// The register, with its offset relative to its block.
    pub register: Register,
    /// The upper half of an 8-byte register.
    pub high: bool,
}

/// Finds the register that holds the aligned 4 bytes at `offset`.
pub fn find(offset: u32) -> Option<Found> {
    let end = stream::FIRST + crate::pci::STREAMS as u32 * stream::STRIDE;
    let (stream, table, relative) = if offset < stream::FIRST {
        (None, &GLOBAL[..], offset)
    } else if offset < end {
        let inside = offset - stream::FIRST;
        let index = (inside / stream::STRIDE) as usize;
        (Some(index), &stream::ALL[..], inside % stream::STRIDE)
    } else {
        return None;
    };
    let register = table.iter().find(|r| (r.offset..r.offset + r.width).contains(&relative))?;
    Some(Found { stream, register: *register, high: relative != register.offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_do_not_overlap_and_fit_their_block() {
        for table in [&GLOBAL[..], &stream::ALL[..]] {
            for (i, a) in table.iter().enumerate() {
                assert_eq!(a.offset % a.width, 0, "{} is misaligned", a.name);
                for b in &table[i + 1..] {
                    let apart = a.offset + a.width <= b.offset || b.offset + b.width <= a.offset;
                    assert!(apart, "{} overlaps {}", a.name, b.name);
                }
            }
        }
        let last = stream::ALL.iter().map(|r| r.offset + r.width).max();
        assert!(last.is_some_and(|end| end <= stream::STRIDE));
    }

    #[test]
    fn every_register_is_found_at_its_own_offset() {
        for register in GLOBAL {
            assert_eq!(find(register.offset).map(|f| f.register), Some(register));
        }
        let found = find(stream::at(3, stream::POOL_BASE).offset + 4).map(|f| (f.stream, f.high));
        assert_eq!(found, Some((Some(3), true)));
        assert_eq!(find(0x0FC), None);
        assert_eq!(find(0x500), None);
    }

    #[test]
    fn fault_codes_decode_to_themselves() {
        for fault in Fault::ALL {
            assert_eq!(Fault::decode(fault as u32), Some(fault));
        }
        assert_eq!(Fault::decode(0), None);
    }
}
