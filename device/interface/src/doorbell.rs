//! BAR2: the doorbell page, plain memory that driver and card share, so that no hot path traps.
//!
//! The driver writes the submission tails, the completion events and the grant; the card writes the rest. Each word has
//! one writer, is naturally aligned, and is accessed whole, without locked operations. Neither side trusts a word that
//! it wrote there. A reset zeroes the page; the card then publishes the latency clock, and its sleeps. Creating and
//! closing a stream zero its tail, event and head. Words of different writers are in different cache lines.
//!
//! | offset | word | writer |
//! |---|---|---|
//! | 0x000 | [`GRANT`] | driver |
//! | 0x040 | [`WAKE_ARMED`] | card |
//! | 0x080 | [`MASTER_TIME`], [`LATENCY_TIME`], [`SAMPLE_POSITION`] | card |
//! | 0x0C0 | [`COMMANDS`], [`COMMAND_STATUS`], [`COMMAND_SIZE`], [`COMMAND_DETAIL`], [`UNLOADS`] | card |
//! | 0x100 + 0x80 n | [`SUBMISSION_TAIL`], [`COMPLETION_EVENT`] of stream n | driver |
//! | 0x140 + 0x80 n | [`COMPLETION_HEAD`], [`STATE`], [`TRANSITIONS`], [`REFUSAL`] of stream n | card |

/// i64, 100 ns of master time: everything before it is submitted. Never moves back, except to 0 by a reset: a grant
/// that does, or is negative, is ignored and reported ([`crate::regs::Fault::GrantBackward`]).
pub const GRANT: usize = 0x000;
/// u32: 0 while the card watches the page; else the number of its present sleep, which a write to
/// [`crate::regs::WAKE`] ends. Ring once for a number, and not without one. A card may sleep
/// as soon as it has nothing to do.
pub const WAKE_ARMED: usize = 0x040;
/// i64, 100 ns: the master clock as the card last published it.
pub const MASTER_TIME: usize = 0x080;
/// i64, 100 ns: the latency clock as the card last published it.
pub const LATENCY_TIME: usize = 0x088;
/// u64: samples rendered.
pub const SAMPLE_POSITION: usize = 0x090;

/// u32: commands answered so far, wrapping. Stored after the words below, and after the result, with release.
pub const COMMANDS: usize = 0x0C0;
/// u32: how the last command ended ([`crate::command::Status`]).
pub const COMMAND_STATUS: usize = 0x0C4;
/// u32: bytes of its result, or as its status says.
pub const COMMAND_SIZE: usize = 0x0C8;
/// u32: more about it, as its status says.
pub const COMMAND_DETAIL: usize = 0x0CC;
/// u32: unloads answered with [`crate::command::Status::Pending`] and carried out since, wrapping.
pub const UNLOADS: usize = 0x0D0;

/// u32: submissions so far, wrapping. Stored with release after the ring entries. One that moves back halts the stream
/// ([`crate::regs::Fault::TailBackward`]). One that is stored while the stream is closed is reported when the card goes
/// to sleep, or when the stream is created, which zeroes it ([`crate::regs::Fault::ClosedStream`]).
pub const SUBMISSION_TAIL: usize = 0x00;
/// u32: the completion number whose publication raises the vector, which may come later than the completion, and for
/// other reasons.
pub const COMPLETION_EVENT: usize = 0x04;
/// u32: completions so far, wrapping. Loaded with acquire before the entries.
pub const COMPLETION_HEAD: usize = 0x40;
/// u32: the state in force ([`crate::regs::stream::State`]). A halted stream keeps it until STOP.
pub const STATE: usize = 0x44;
/// u32: transitions (writes to TYPE or STATE) answered so far, wrapping. Stored after STATE and REFUSAL, with release.
/// A reset zeroes it; creating a stream does not.
pub const TRANSITIONS: usize = 0x48;
/// u32: why the last transition was refused ([`crate::regs::Fault`]), or 0.
pub const REFUSAL: usize = 0x4C;

/// Who stores a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The driver.
    Driver,
    /// The card.
    Card,
}

/// One word: where it is, how wide, and who writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// Byte offset in the page (of a stream's word: for [`at`]).
    pub offset: usize,
    /// Bytes: 4 or 8.
    pub width: usize,
    /// The only side that stores it.
    pub writer: Writer,
    /// Name for messages.
    pub name: &'static str,
}

const fn word(offset: usize, width: usize, writer: Writer, name: &'static str) -> Word {
    Word { offset, width, writer, name }
}

/// Every word outside the streams' parts.
pub const GLOBAL: [Word; 10] = [
    word(GRANT, 8, Writer::Driver, "GRANT"),
    word(WAKE_ARMED, 4, Writer::Card, "WAKE_ARMED"),
    word(MASTER_TIME, 8, Writer::Card, "MASTER_TIME"),
    word(LATENCY_TIME, 8, Writer::Card, "LATENCY_TIME"),
    word(SAMPLE_POSITION, 8, Writer::Card, "SAMPLE_POSITION"),
    word(COMMANDS, 4, Writer::Card, "COMMANDS"),
    word(COMMAND_STATUS, 4, Writer::Card, "COMMAND_STATUS"),
    word(COMMAND_SIZE, 4, Writer::Card, "COMMAND_SIZE"),
    word(COMMAND_DETAIL, 4, Writer::Card, "COMMAND_DETAIL"),
    word(UNLOADS, 4, Writer::Card, "UNLOADS"),
];

/// Every word of a stream's part.
pub const STREAM: [Word; 6] = [
    word(SUBMISSION_TAIL, 4, Writer::Driver, "SUBMISSION_TAIL"),
    word(COMPLETION_EVENT, 4, Writer::Driver, "COMPLETION_EVENT"),
    word(COMPLETION_HEAD, 4, Writer::Card, "COMPLETION_HEAD"),
    word(STATE, 4, Writer::Card, "STATE"),
    word(TRANSITIONS, 4, Writer::Card, "TRANSITIONS"),
    word(REFUSAL, 4, Writer::Card, "REFUSAL"),
];

const FIRST: usize = 0x100;
const STRIDE: usize = 0x80;

/// Offset in the page of `word` of stream `stream`, which counts modulo [`STREAMS`](crate::pci::STREAMS): so that it is
/// inside the page whatever it is, and no access need check it.
#[inline]
pub const fn at(stream: usize, word: usize) -> usize {
    FIRST + stream % crate::pci::STREAMS * STRIDE + word
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn words_are_aligned_and_apart_and_no_cache_line_has_two_writers() {
        const LINE: usize = 64;
        let streams = (0..crate::pci::STREAMS)
            .flat_map(|stream| STREAM.map(|word| Word { offset: at(stream, word.offset), ..word }));
        let words: Vec<Word> = GLOBAL.into_iter().chain(streams).collect();
        for (index, a) in words.iter().enumerate() {
            assert!(a.offset % a.width == 0 && a.offset + a.width <= crate::pci::BAR_SIZE as usize, "{a:?}");
            for b in &words[index + 1..] {
                assert!(a.offset + a.width <= b.offset || b.offset + b.width <= a.offset, "{a:?} overlaps {b:?}");
                assert!(a.writer == b.writer || a.offset / LINE != b.offset / LINE, "{a:?} beside {b:?}");
            }
        }
    }
}
