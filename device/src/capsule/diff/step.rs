//! What is compared of a run: lanes, and the steps in them.
//!
//! Fed by the sorter with observations; feeds the passes with hashes, and the judge and the words with what was kept.

use super::digest::Digest;
use dmus_interface::event::{Data, Event};
use dmus_interface::regs::Fault;
use dmus_interface::regs::stream::{State, Type};
use dmus_interface::ring::Status;
use dmus_interface::time::RefTime;

/// Bytes that are kept of what is longer.
const KEPT_BYTES: usize = 64;
/// Events that are kept of a longer chain.
const KEPT_EVENTS: usize = 4;

/// A sequence of steps whose order is the driver's own. How the steps of two lanes interleave depends on the host. The
/// order of the lanes is that in which one leads to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Connections and resets.
    Control,
    /// Writes to registers, other than WAKE, and to COMMAND of the configuration space.
    Registers,
    /// Commands of the mailbox.
    Commands,
    /// Creation, states and closing of a stream.
    States(usize),
    /// What was submitted to a stream, or posted.
    Submissions(usize),
    /// Grants. What a grant covers was submitted before.
    Grants,
    /// What a MIDI input received live.
    Received(u16),
    /// How each submission of a stream ended.
    Completions(usize),
    /// Rules that were broken, of a stream if it is known.
    Violations(Option<usize>),
    /// What the card rendered. It follows from the rest, so it is the first difference only if there is no other.
    Audio,
}

/// When a run came across something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp {
    /// Resets so far, each of which sets the clock back to zero.
    pub(super) resets: u32,
    pub(super) master: RefTime,
    /// Observations so far.
    pub(super) sequence: u64,
    /// The time that counts for what is first: the master time, but of what the driver does before it grants more, that
    /// of the grant that the card was on its way to or stood at. When it comes across that is up to the host.
    pub(super) toward: RefTime,
}

impl Stamp {
    /// Without the number of observations, which depends on the host.
    pub(super) fn time(&self) -> (u32, RefTime) {
        (self.resets, self.master)
    }
}

/// A step in its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Placed {
    pub(super) lane: Lane,
    /// From 0 in each lane; of a completion, that of its submission.
    pub(super) ordinal: u64,
    pub(super) stamp: Stamp,
    pub(super) step: Step,
    /// Of what is compared.
    pub(super) digest: u64,
}

/// Bytes, or the beginning of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Excerpt {
    pub(super) shown: Vec<u8>,
    pub(super) len: usize,
    digest: u64,
}

impl Excerpt {
    pub(super) fn new(bytes: &[u8]) -> Self {
        let digest = Digest::new().bytes(bytes).finish();
        Self { shown: bytes[..bytes.len().min(KEPT_BYTES)].to_vec(), len: bytes.len(), digest }
    }
}

/// An event of a submission.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Member {
    pub(super) event: Event,
    pub(super) data: Excerpt,
}

/// What an entry of a submission ring led to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Submission {
    /// Of the entry, free-running since the stream was created.
    pub(super) index: u32,
    /// The slot was the card's already.
    pub(super) is_owned: bool,
    /// Master time when it was due, if that had passed before the card fetched it.
    pub(super) overdue: Option<RefTime>,
    /// The first of its events.
    pub(super) members: Vec<Member>,
    /// All of them.
    pub(super) count: u32,
    /// Of those that are not kept any more.
    rest: u64,
}

impl Submission {
    pub(super) fn new(index: u32, is_owned: bool) -> Self {
        Self { index, is_owned, ..Self::default() }
    }

    pub(super) fn add(&mut self, event: &Event, virtual_time: bool) {
        self.fold(virtual_time);
        let data = match event.data {
            Data::Inline(bytes) => Excerpt::new(&bytes[..usize::from(event.event_bytes).min(bytes.len())]),
            Data::Buffer(_) | Data::Package(_) => Excerpt::default(),
        };
        self.count = self.count.saturating_add(1);
        self.members.push(Member { event: *event, data });
    }

    /// The data of the last event.
    pub(super) fn add_data(&mut self, bytes: &[u8]) {
        if let Some(member) = self.members.last_mut() {
            member.data = Excerpt::new(bytes);
        }
    }

    /// Folds what is too much to be kept, before the next event of a chain.
    fn fold(&mut self, virtual_time: bool) {
        if self.members.len() > KEPT_EVENTS
            && let Some(member) = self.members.pop()
        {
            let mut digest = Digest::new();
            digest.number(self.rest);
            member.digest(&mut digest, virtual_time);
            self.rest = digest.finish();
        }
    }

    fn digest(&self, digest: &mut Digest, virtual_time: bool) {
        digest.number(self.is_owned.into()).number((virtual_time && self.overdue.is_some()).into());
        for member in &self.members {
            member.digest(digest, virtual_time);
        }
        digest.number(self.count.into()).number(self.rest);
    }
}

impl Member {
    /// Pointers count as what they lead to.
    fn digest(&self, digest: &mut Digest, virtual_time: bool) {
        let Event { struct_size, event_bytes, channel_group, flags, time, byte_position, next, data } = self.event;
        let kind = match data {
            Data::Inline(_) => 0,
            Data::Buffer(iova) => 1 + u64::from(iova == 0),
            Data::Package(iova) => 3 + u64::from(iova == 0),
        };
        for number in [struct_size.into(), event_bytes.into(), channel_group.into(), flags.into()] {
            digest.number(number);
        }
        digest.signed(if virtual_time { time } else { 0 }).number(byte_position);
        digest.number((next != 0).into()).number(kind).number(self.data.digest);
    }
}

/// What is compared.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Connected,
    Disconnected,
    Reset,
    /// A register, or of an offset that has none, was written.
    Write {
        offset: u64,
        bytes: Vec<u8>,
        /// It holds an address, which is not compared.
        is_address: bool,
    },
    /// COMMAND of the configuration space.
    Enabled {
        memory: bool,
        master: bool,
    },
    Command {
        opcode: u32,
        stream: u32,
        request: Excerpt,
        status: u32,
        at: RefTime,
    },
    Grant {
        until: RefTime,
        /// The grant before, if it was not reached.
        early: Option<RefTime>,
    },
    Opened {
        kind: Type,
        slots: u32,
        buffers: u32,
        buffer_size: u32,
        at: RefTime,
    },
    Changed {
        state: State,
        time_base: RefTime,
        at: RefTime,
    },
    Closed {
        at: RefTime,
    },
    Refused(Fault),
    Submission(Submission),
    Completion {
        /// Of its submission.
        index: u32,
        status: u16,
        flags: u16,
        time: i64,
        /// It was due at once: its time is when the card came across it, and is not compared.
        at_once: bool,
        /// What the slot was filled with, of a stream that captures.
        captured: Excerpt,
    },
    Violation {
        rule: &'static str,
        report: Option<String>,
    },
    Received(Vec<u8>),
    /// A block of a fixed size, wherever the card cut its own.
    Audio {
        /// Of both channels in turn.
        first: u64,
        samples: Vec<i16>,
    },
}

impl Step {
    /// Of what is compared. Without virtual time, no time is.
    pub(super) fn digest(&self, virtual_time: bool) -> u64 {
        let mut digest = Digest::new();
        let time = |time: RefTime| if virtual_time { time.0 } else { 0 };
        match self {
            Self::Connected => digest.number(0),
            Self::Reset => digest.number(1),
            Self::Disconnected => digest.number(18),
            Self::Write { offset, bytes, is_address } => match is_address {
                true => digest.number(2).number(*offset).number(bytes.len() as u64),
                false => digest.number(3).number(*offset).bytes(bytes),
            },
            Self::Enabled { memory, master } => digest.number(4).number((*memory).into()).number((*master).into()),
            Self::Command { opcode, stream, request, status, at } => {
                let numbers = [5, (*opcode).into(), (*stream).into(), request.digest, (*status).into()];
                numbers.into_iter().fold(&mut digest, Digest::number).signed(time(*at))
            }
            Self::Grant { until, .. } => digest.number(6).signed(until.0),
            Self::Opened { kind, slots, buffers, buffer_size, at } => {
                let numbers = [7, kind.value().into(), (*slots).into(), (*buffers).into(), (*buffer_size).into()];
                numbers.into_iter().fold(&mut digest, Digest::number).signed(time(*at))
            }
            Self::Changed { state, time_base, at } => {
                digest.number(8).number(*state as u64).signed(time(*time_base)).signed(time(*at))
            }
            Self::Closed { at } => digest.number(9).signed(time(*at)),
            Self::Refused(fault) => digest.number(10).number(*fault as u64),
            Self::Submission(submission) => {
                submission.digest(digest.number(11), virtual_time);
                &mut digest
            }
            Self::Completion { status, flags, time, at_once, captured, .. } => {
                match (virtual_time, Status::decode(*status)) {
                    (false, Some(Status::Presented | Status::Late | Status::Discarded)) => digest.number(12),
                    (false, _) => digest.number(13).number((*status).into()).number((*flags).into()),
                    (true, _) => {
                        let time = if *at_once { 0 } else { *time };
                        digest.number(14).number((*status).into()).number((*flags).into()).signed(time);
                        digest.number(captured.digest)
                    }
                }
            }
            Self::Violation { rule, .. } => digest.number(15).bytes(rule.as_bytes()),
            Self::Received(bytes) => digest.number(16).bytes(bytes),
            Self::Audio { samples, .. } => digest.number(17).samples(samples),
        };
        digest.finish()
    }
}
