//! What only a card that checks (`dmus-card serve --check warn`) names: mistakes that it sees by looking twice, or at
//! what it need not look at to play. None of them changes what the card does.
//!
//! Nothing feeds it; the card's checker names them, and the table of rules explains them.

use super::{Code, Rule, Severity};

/// A mistake that no completion and no FAULT tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u32)]
pub enum Check {
    /// A submission ring entry below the tail that still has what the card stored over the one before it.
    #[error("submission ring entry that was not stored before the tail")]
    EntryStale = 1,
    /// In virtual time: an event whose time a grant had covered before it was submitted.
    #[error("event submitted after a grant that promised that everything before it was submitted")]
    GrantBroken = 2,
    /// A word of the doorbell page that the card alone stores is not as it stored it.
    #[error("word of the doorbell page stored by the driver that is the card's")]
    ForeignWord = 3,
    /// bReserved is not 0.
    #[error("bReserved is not 0")]
    ReservedSet = 4,
    /// Bytes behind inline data are not 0.
    #[error("bytes of uData behind the last one of an inline event that are not 0")]
    NotZeroed = 5,
    /// A slot is not as it was when the card fetched it.
    #[error("slot that was stored to while the card owned it")]
    SlotChanged = 6,
    /// A buffer is not as it was when the card copied it.
    #[error("buffer that was stored to while the card owned it")]
    BufferChanged = 7,
    /// A posted buffer was stored to before the card filled it.
    #[error("posted buffer that was stored to while the card owned it")]
    PostedBufferTouched = 8,
    /// Slots or buffers that the card owns are not mapped any more.
    #[error("slot or buffer unmapped while the card owned it")]
    UnmappedInFlight = 9,
    /// After a reset a driver went on from where it was before it.
    #[error("tail that goes on from before the last reset")]
    UseAfterReset = 10,
    /// Tail or grant moved back, and memory with them: the guest went back to a snapshot, and the card did not.
    #[error("tail or grant that went back together with the guest's memory: a snapshot was loaded")]
    WentBack = 11,
    /// A chain reaches a slot of another submission.
    #[error("chain or package that reaches a slot of another submission in flight")]
    ChainSteals = 12,
    /// WAKE was written more often than the card has slept.
    #[error("write to WAKE that no sleep of the card asked for")]
    WakeNeedless = 13,
    /// A tail or the grant moved while the card slept, and nobody rang.
    #[error("tail or grant stored while the card slept, and WAKE not written")]
    WakeMissing = 14,
    /// Bus mastering was turned off, and on again without a reset, around a stream that was not in STOP.
    #[error("bus mastering turned off while a stream was not in STOP")]
    MasterOffInFlight = 15,
    /// A command's request is not as it was when the opcode was written.
    #[error("request of a command that was stored to before its answer")]
    RequestChanged = 16,
}

impl Check {
    /// Every one of them.
    pub const ALL: [Self; 16] = [
        Self::EntryStale,
        Self::GrantBroken,
        Self::ForeignWord,
        Self::ReservedSet,
        Self::NotZeroed,
        Self::SlotChanged,
        Self::BufferChanged,
        Self::PostedBufferTouched,
        Self::UnmappedInFlight,
        Self::UseAfterReset,
        Self::WentBack,
        Self::ChainSteals,
        Self::WakeNeedless,
        Self::WakeMissing,
        Self::MasterOffInFlight,
        Self::RequestChanged,
    ];
}

const fn rule(
    check: Check,
    name: &'static str,
    severity: Severity,
    section: &'static str,
    cause: &'static str,
    mend: &'static str,
) -> Rule {
    Rule { code: Code::Check(check), name, severity, section, cause, mend }
}

/// Their rules, by their codes.
pub(super) const RULES: [Rule; 16] = [
    rule(
        Check::EntryStale,
        "entry-stale",
        Severity::Error,
        "doorbell::SUBMISSION_TAIL",
        "The tail is stored before the ring entries, or without release order: the card reads an entry that is not \
            there yet. Or the driver counts one submission more than it made.",
        "Store the slot's number into the ring first, then the tail, with a store-release or a write barrier between \
            the two.",
    ),
    rule(
        Check::GrantBroken,
        "grant-broken",
        Severity::Warning,
        "doorbell::GRANT",
        "The grant is stored before the tail of what it covers, or it covers the time of an event that is submitted \
            later.",
        "Grant the time of the first event that is not submitted yet, and store the tail before the grant.",
    ),
    rule(
        Check::ForeignWord,
        "foreign-word",
        Severity::Error,
        "doorbell",
        "An offset is wrong (the words of stream n begin at 0x100 + 0x80 n), or the driver acknowledges by storing a \
            word that only the card stores.",
        "Store only the words of the driver: GRANT, and SUBMISSION_TAIL and COMPLETION_EVENT of its streams.",
    ),
    rule(
        Check::ReservedSet,
        "reserved-set",
        Severity::Warning,
        "event",
        "bReserved was left over, or a driver keeps something of its own there.",
        "Leave bReserved 0, and keep what belongs to a slot in private memory.",
    ),
    rule(
        Check::NotZeroed,
        "not-zeroed",
        Severity::Note,
        "event",
        "The slot was not zeroed before a shorter message was put into it: it shows bytes of the one before.",
        "Zero all but cbStruct when a slot is taken, as GetMessage does.",
    ),
    rule(
        Check::SlotChanged,
        "slot-changed",
        Severity::Error,
        "ring",
        "The driver filled or zeroed a slot again before its completion was there: it took the slot from its free \
            list too early, or recycled it when it was submitted.",
        "A slot is the card's from the store of the tail until its completion is published: touch it only after the \
            completion ring has brought it home.",
    ),
    rule(
        Check::BufferChanged,
        "buffer-changed",
        Severity::Error,
        "ring",
        "The next long message was copied into a buffer whose event has not completed.",
        "Give a buffer out again only when the slot that it went with has come home.",
    ),
    rule(
        Check::PostedBufferTouched,
        "posted-buffer-touched",
        Severity::Error,
        "ring",
        "The driver stored to a buffer that it had posted to a capture or wave sink stream: it uses the buffer for \
            something else, or clears it after posting.",
        "Clear a buffer before its slot is posted; from then on it is the card's until the completion is there.",
    ),
    rule(
        Check::UnmappedInFlight,
        "unmapped-in-flight",
        Severity::Error,
        "ring",
        "The driver (or the IOMMU's, for it) unmapped the pool or the buffers while events were held there.",
        "Stop the stream, take its completions, close it, and unmap then.",
    ),
    rule(
        Check::UseAfterReset,
        "use-after-reset",
        Severity::Warning,
        "regs::control::RESET",
        "The card was reset, and the driver kept its indices: all of them are 0 again, and every stream is closed.",
        "After a reset forget rings and tails, take all slots back, and create the streams anew.",
    ),
    rule(
        Check::WentBack,
        "went-back",
        Severity::Error,
        "doorbell::SUBMISSION_TAIL",
        "A snapshot of the machine was loaded (loadvm, a migration): guest and memory are as they were, the card is \
            not.",
        "Reset the card after a snapshot was loaded; take snapshots without the device.",
    ),
    rule(
        Check::ChainSteals,
        "chain-steals",
        Severity::Error,
        "event",
        "pNextEvt or pPackageEvt leads to a slot that was submitted by itself, or is in another chain that is held.",
        "Build a chain of slots that are the driver's, each in that chain alone.",
    ),
    rule(
        Check::WakeNeedless,
        "wake-needless",
        Severity::Note,
        "doorbell::WAKE_ARMED",
        "The driver writes WAKE after each tail or grant, without a look at WAKE_ARMED, or again for a sleep that it \
            has rung for: each write is a trap that takes longer than a hundred events.",
        "After a tail or grant and a full fence load WAKE_ARMED, and write WAKE only if that is neither 0 nor the \
            number that was rung for last.",
    ),
    rule(
        Check::WakeMissing,
        "wake-missing",
        Severity::Warning,
        "doorbell::WAKE_ARMED",
        "The driver does not look at WAKE_ARMED after it has stored a tail or the grant, or looks without a full \
            fence in between, and sees what was there before: the card sleeps on.",
        "After each tail or grant, a full fence and then a load of WAKE_ARMED; if that is a new number, write WAKE.",
    ),
    rule(
        Check::MasterOffInFlight,
        "master-off-in-flight",
        Severity::Error,
        "pci",
        "The command register was written without the bus-master bit while the card played, by a driver that suspends \
            the function or sets it up a second time: what is due meanwhile finds no memory.",
        "Set every stream to STOP, or reset the card, before bus mastering is turned off.",
    ),
    rule(
        Check::RequestChanged,
        "request-changed",
        Severity::Error,
        "regs::COMMAND",
        "The request's memory was used again, or freed, as soon as COMMAND was written: it is on the stack of a \
            function that has returned, say, or two threads use one buffer.",
        "Leave request and result alone from the write to COMMAND until COMMANDS counts the answer.",
    ),
];
