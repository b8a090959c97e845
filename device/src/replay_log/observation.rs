//! What a replay shows of a run, in the order in which the card came across it.

use crate::device::Region;
use dmus_interface::event::Event;
use dmus_interface::regs::Fault;
use dmus_interface::regs::stream::{State, Type};
use dmus_interface::ring::Completion;
use dmus_interface::time::RefTime;

/// A step of a run. Streams are numbered as in the registers, slots as in the pool of their stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// A client connected.
    Connected,
    /// It has gone: everything begins anew.
    Disconnected,
    /// The client accessed a region by a message; `bytes` were written, or are what was answered.
    Access {
        /// Which one.
        region: Region,
        /// Bytes from its start.
        offset: u64,
        /// Whether it was a write.
        write: bool,
        /// What was written, or answered.
        bytes: Box<[u8]>,
    },
    /// The client let the card access memory.
    Mapped {
        /// Address on the bus.
        iova: u64,
        /// Bytes.
        size: u64,
        /// Whether the card may write.
        writable: bool,
        /// Whether the client shares it; else it is accessed by messages.
        shared: bool,
    },
    /// The client took memory back.
    Unmapped {
        /// Address on the bus.
        iova: u64,
        /// Bytes.
        size: u64,
    },
    /// The function was reset, by whatever means.
    Reset,
    /// The driver granted time.
    Granted {
        /// Master time up to which everything is submitted.
        until: RefTime,
    },
    /// A stream was opened.
    Opened {
        /// Its number.
        stream: usize,
        /// What it does.
        kind: Type,
        /// Slots of its pool.
        slots: u32,
        /// Buffers of its buffer area.
        buffers: u32,
        /// Bytes of a buffer.
        buffer_size: u32,
    },
    /// A stream has changed its state.
    Changed {
        /// Its number.
        stream: usize,
        /// The new state.
        state: State,
        /// Master time less stream time, from now on.
        time_base: RefTime,
    },
    /// A stream was closed.
    Closed {
        /// Its number.
        stream: usize,
    },
    /// A transition of a stream was refused.
    Refused {
        /// Its number.
        stream: usize,
        /// Why.
        fault: Fault,
    },
    /// The mailbox was given a command, and it was carried out or refused.
    Command {
        /// Its opcode.
        opcode: u32,
        /// The stream that it is for.
        stream: u32,
        /// What was asked.
        request: Box<[u8]>,
        /// COMMAND_STATUS.
        status: u32,
    },
    /// The card saw a new tail: submissions so far.
    Submitted {
        /// The stream.
        stream: usize,
        /// Its tail, free-running.
        tail: u32,
    },
    /// The card fetched an entry of a submission ring. What it read of the slot follows.
    Fetched {
        /// The stream.
        stream: usize,
        /// The index of the entry, free-running.
        index: u32,
        /// The slot that the entry names.
        slot: u32,
    },
    /// The card read a slot that was submitted, or that a chain goes on with.
    Event {
        /// The stream.
        stream: usize,
        /// The slot.
        slot: u32,
        /// The event as it was there, judged by nobody yet.
        event: Event,
    },
    /// The card copied data of the last event that it read.
    Data {
        /// The stream.
        stream: usize,
        /// Bytes from the start of the stream's buffer area.
        offset: usize,
        /// What was there.
        bytes: Box<[u8]>,
    },
    /// The card filled a posted slot with something captured.
    Captured {
        /// The stream.
        stream: usize,
        /// The slot.
        slot: u32,
        /// What it stored.
        bytes: Box<[u8]>,
    },
    /// A submission, or a slot with something captured, went home.
    Completed {
        /// The stream.
        stream: usize,
        /// The index of the entry in the completion ring, free-running.
        index: u32,
        /// The entry: the slot that heads the submission, the status, and a time.
        completion: Completion,
    },
    /// The card raised a vector.
    Interrupt {
        /// Which one.
        vector: u16,
    },
    /// A MIDI input received bytes, live.
    Received {
        /// Its number.
        input: u16,
        /// They are empty when the sender has gone.
        bytes: Box<[u8]>,
    },
    /// The card rendered a block.
    Audio {
        /// Samples of both channels in turn.
        samples: Box<[i16]>,
        /// Voices that sounded at its end, of all streams.
        voices: usize,
    },
    /// The checker found a breach of a rule.
    Violation {
        /// The name of the rule, by which [`Rule::find`](dmus_interface::rule::Rule::find) has all about it.
        rule: &'static str,
        /// The stream, if it is known.
        stream: Option<usize>,
        /// The slot, if it is known.
        slot: Option<u32>,
        /// The report in words, if it is the first of its kind.
        report: Option<String>,
    },
}

/// Who is shown a run.
pub trait Listener {
    /// `observation` was made at a master time.
    fn observe(&mut self, master: RefTime, observation: &Observation);
}
