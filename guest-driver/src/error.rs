//! What can go wrong: typed, so that a caller can tell a busy card from a lying one.

use crate::port::BufferError;
use core::time::Duration;
use dmus_interface::command::Status;
use dmus_interface::download::Problem;
use dmus_interface::regs::Fault;
use dmus_interface::ring::Reject;

/// What a platform can fail at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// No memory for DMA.
    #[error("no memory for DMA: {0} bytes were asked for")]
    NoMemory(usize),
    /// The device could not be set up.
    #[error("{0}")]
    Device(&'static str),
}

/// Why a driver call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
// A whole word says which: what returns one by the million is told from a success by one comparison.
#[repr(u64)]
pub enum DriverError {
    /// No free message: every slot is with the application or in flight. Wait for completions.
    #[error("no free message: all are taken or in flight")]
    NoMessage,
    /// No free buffer.
    #[error("no free buffer: all are taken or in flight")]
    NoBuffer,
    /// More data than a buffer holds.
    #[error("{len} bytes do not fit in a buffer of {size}")]
    TooLong {
        /// Bytes that were given.
        len: usize,
        /// Bytes of a buffer.
        size: usize,
    },
    /// A message of one allocator was given to another's stream, or a handle that already carries data got more.
    #[error("the message is not fit for this: {0}")]
    Misuse(&'static str),
    /// What answers at BAR0 is not this card.
    #[error("no DirectMusic card: the identity register reads {0:#010x}")]
    NotACard(u32),
    /// Every register reads all ones: the card has gone.
    #[error("the card does not answer any more (it reads all ones)")]
    CardGone,
    /// The card is not enabled any more: it was reset, by itself or by somebody else, and has forgotten its streams.
    #[error("the card was reset, and has forgotten its streams")]
    CardReset,
    /// The card lied: its clock is where virtual time cannot be.
    #[error("the card's clock shows {now} while time is granted up to {granted} only, in 100 ns")]
    ClockBeyondGrant {
        /// Master time by the card's word, 100 ns.
        now: i64,
        /// The last grant.
        granted: i64,
    },
    /// The card lied: with everything completed by its word, it never completed this slot.
    #[error("the card never completed slot {0}, which it was given")]
    NotCompleted(u32),
    /// The card refused a fragment of a SysEx message in the middle, and presented the message without it.
    #[error("the card refused the fragment of a message in slot {0}, and presented the rest")]
    FragmentRefused(u32),
    /// The card lied: what it captured does not follow on what came before.
    #[error("the card captured byte {position} after byte {expected} should have come")]
    OutOfOrder {
        /// The byte position by the card's word.
        position: u64,
        /// The one after the bytes before.
        expected: u64,
    },
    /// The card lied: it gave slots back as discarded, which only STOP and a reset may do, while the stream ran.
    #[error("the card discarded slots that were posted, {0} of them, while the stream ran")]
    DiscardedInRun(u64),
    /// Another major version of the interface.
    #[error("the card speaks interface version {0:#010x}, this driver \
        {v:#010x}", v = dmus_interface::regs::VERSION_VALUE)]
    WrongVersion(u32),
    /// A configuration that the driver cannot take.
    #[error("stream configuration: {0}")]
    BadConfig(&'static str),
    /// The card refused a transition.
    #[error("the card refused: {0}")]
    Refused(Fault),
    /// The card refused with a code that the data sheet does not have.
    #[error("the card refused with the unknown code {0}")]
    UnknownRefusal(u32),
    /// The card did not answer within the time limit.
    #[error("the card did not answer within {0:?}")]
    TimedOut(Duration),
    /// The card lied: completions moved by more than is in flight.
    #[error("the card published {published} completions while {in_flight} submissions were in flight")]
    HeadJump {
        /// New completions by the card's word.
        published: u32,
        /// Submissions that it could complete.
        in_flight: u32,
    },
    /// The card lied: it completed a slot that it did not own.
    #[error("the card completed slot {0}, which it does not own")]
    ForgedCompletion(u32),
    /// The card lied: a status that the data sheet does not have.
    #[error("the card completed slot {slot} with the unknown status {status}")]
    UnknownStatus {
        /// The slot that the entry names.
        slot: u32,
        /// The status.
        status: u16,
    },
    /// A port buffer cannot be read, or takes no more.
    #[error(transparent)]
    Buffer(#[from] BufferError),
    /// The card refused a slot that was posted for capture.
    #[error("the card refused slot {slot}, posted for capture: {reason:?}")]
    PostRefused {
        /// The slot.
        slot: u32,
        /// Why, if the data sheet has it.
        reason: Option<Reject>,
    },
    /// The card lied: a captured event that contradicts itself, or what was posted.
    #[error("the card filled slot {slot} with nonsense: {what}")]
    BadCapture {
        /// The slot.
        slot: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// The card refused a command.
    #[error("the card refused the command: {status}")]
    Command {
        /// Why.
        status: Status,
        /// What more it says: see [`Status`].
        size: u32,
        /// What more it says: see [`Status`].
        detail: u32,
    },
    /// The card answered a command with a status that the data sheet does not have.
    #[error("the card answered a command with the unknown status {0}")]
    UnknownAnswer(u32),
    /// The card refused a download.
    #[error("the card refused the download at its byte {at}: {problem}")]
    BadDownload {
        /// What is wrong.
        problem: Problem,
        /// Offset in the chunk.
        at: u32,
    },
    /// The card lied: a period of a wave sink that has no whole frames.
    #[error("the card filled a period with a part of a frame, or with something else than PCM")]
    BadPeriod,
    /// The platform failed.
    #[error(transparent)]
    Platform(#[from] PlatformError),
}
