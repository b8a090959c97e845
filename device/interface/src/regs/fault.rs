//! The codes of the FAULT register.
//!
//! Nothing feeds it; the card writes them, and drivers and the table of rules read them.

/// What a driver did wrong outside a submission: the value of [`super::FAULT`], and of [`crate::doorbell::REFUSAL`]
/// when it concerned a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u32)]
pub enum Fault {
    /// Access of a wrong width, or misaligned.
    #[error("register access of a wrong width or alignment")]
    BadAccess = 1,
    /// Access to a reserved offset.
    #[error("access to a reserved register offset")]
    Reserved = 2,
    /// Write to a read-only register, or read of a write-only one.
    #[error("access that the register does not allow")]
    AccessRights = 3,
    /// A value that the register does not take.
    #[error("value that the register does not take")]
    BadValue = 4,
    /// The register may not change now: its stream is open, or (POINTER_WIDTH, CONTROL) any stream is.
    #[error("register changed while its stream is open")]
    Locked = 5,
    /// A transition was asked for while another is under way.
    #[error("transition asked for while another is under way")]
    TransitionBusy = 6,
    /// A stream was used while the card is not enabled, or its bus-master bit is off.
    #[error("stream used while the card is not enabled or may not master the bus")]
    NotEnabled = 7,
    /// The stream is closed.
    #[error("state written to a closed stream")]
    Closed = 8,
    /// A type was written to a stream that is open, or CLOSED to one that is not open and in STOP.
    #[error("stream created twice, or closed while not in STOP")]
    NotStopped = 9,
    /// Slot count, stride or pool alignment is out of range.
    #[error("slot count, slot stride or pool base out of range")]
    BadPool = 10,
    /// Buffer size, count or alignment is out of range.
    #[error("buffer size, count or base out of range")]
    BadBuffers = 11,
    /// A ring's size or alignment is out of range, or it has fewer entries than the pool has slots.
    #[error("ring size or base out of range, or fewer entries than slots")]
    BadRing = 12,
    /// The pool, the buffers or a ring is not in memory that the guest shares.
    #[error("pool, buffers or ring outside the memory that the guest shares with the card")]
    NotMapped = 13,
    /// The submission tail ran more than the ring's size ahead of what the card took. The stream is halted.
    #[error("submission tail ahead of the ring by more than its size")]
    TailOverrun = 14,
    /// A ring entry could not be read or written any more: unmapped, or bus-master is off. The stream is halted. While
    /// the client does nothing but change its maps, and after bus-master was turned off until it does something else
    /// than a reset, the card first waits up to a second for the ring to come back.
    #[error("ring access outside the memory that the guest shares with the card")]
    RingFault = 15,
    /// Ring entry that is no slot number.
    #[error("submission ring entry that is no slot of the pool")]
    BadSlot = 16,
    /// Ring entry whose slot belongs to the card already.
    #[error("slot submitted while the card still owns it")]
    SlotInFlight = 17,
    /// A SysEx message in fragments was left unfinished, by what was submitted after it or by STOP.
    #[error("SysEx message in fragments left unfinished")]
    UnfinishedMessage = 18,
    /// Something captured (MIDI, or the audio of a wave sink) had no posted slot for too long, in realtime: the oldest
    /// was dropped.
    #[error("what was captured was dropped for want of posted slots")]
    CaptureOverrun = 19,
    /// A command was started while another is under way.
    #[error("command started while another is under way")]
    CommandBusy = 20,
    /// The pool, the buffers or a ring shares memory with another of them, or with an open stream.
    #[error("pool, buffers or ring overlapping another of them, or those of an open stream")]
    Overlap = 21,
    /// Memory that the card has to write to is mapped for reading only: the completion ring, and the pool and buffers
    /// of a stream that captures.
    #[error("completion ring, or what is captured into, in memory that the card may not write to")]
    NotWritable = 22,
    /// The stream stands still after [`Fault::TailOverrun`], [`Fault::TailBackward`] or [`Fault::RingFault`]: it can be
    /// stopped and closed, and nothing else.
    #[error("transition of a stream that stands still after a ring fault: only STOP and closing are left")]
    Halted = 23,
    /// The grant moved back, or is negative; it is ignored. A guest that went back to a snapshot does this, too: see
    /// [`Fault::TailBackward`].
    #[error("grant that moves back or is negative")]
    GrantBackward = 24,
    /// A submission tail was stored for a stream that is not open.
    #[error("submission tail stored for a closed stream")]
    ClosedStream = 25,
    /// The submission tail moved back behind what the card has fetched. The stream is halted. A driver's mistake, or a
    /// guest that went back to a snapshot: the card did not go back with it, so its rings and the driver's memory have
    /// nothing to do with each other any more, and only a reset brings them together.
    #[error("submission tail that moves back: a mistake, or the guest went back to a snapshot and the card did not")]
    TailBackward = 26,
    /// The card has no memory for the stream.
    #[error("creation of a stream for which the card has no memory: try fewer slots or smaller buffers")]
    NoMemory = 27,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 27] = [
        Self::BadAccess,
        Self::Reserved,
        Self::AccessRights,
        Self::BadValue,
        Self::Locked,
        Self::TransitionBusy,
        Self::NotEnabled,
        Self::Closed,
        Self::NotStopped,
        Self::BadPool,
        Self::BadBuffers,
        Self::BadRing,
        Self::NotMapped,
        Self::TailOverrun,
        Self::RingFault,
        Self::BadSlot,
        Self::SlotInFlight,
        Self::UnfinishedMessage,
        Self::CaptureOverrun,
        Self::CommandBusy,
        Self::Overlap,
        Self::NotWritable,
        Self::Halted,
        Self::GrantBackward,
        Self::ClosedStream,
        Self::TailBackward,
        Self::NoMemory,
    ];

    /// Decodes a register value.
    pub fn decode(value: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| *fault as u32 == value)
    }
}
