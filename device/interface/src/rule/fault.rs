//! The rules outside submissions: what FAULT and REFUSAL tell of.
//!
//! Fed by the faults of [`crate::regs`]; feeds the table of rules.

use super::{Code, Rule, Severity};
use crate::regs::Fault;

/// By their codes.
pub(super) const RULES: [Rule; 27] = [
    Rule {
        code: Code::Fault(Fault::BadAccess),
        name: "register-width",
        severity: Severity::Error,
        section: "regs",
        cause: "A register was reached with 1 or 2 bytes, or by an address that its width does not divide; a \
            structure was copied onto the BAR, say.",
        mend: "Use aligned accesses of 4 bytes, or of 8 for a wide register.",
    },
    Rule {
        code: Code::Fault(Fault::Reserved),
        name: "register-reserved",
        severity: Severity::Error,
        section: "regs",
        cause: "The offset belongs to no register: a constant for another version, or a stream block beyond the \
            last one.",
        mend: "Check MAGIC and VERSION first, and the number of the stream.",
    },
    Rule {
        code: Code::Fault(Fault::AccessRights),
        name: "register-rights",
        severity: Severity::Error,
        section: "regs",
        cause: "A read-only register was written, or a write-only one read; a read-modify-write of a whole \
            block, say.",
        mend: "Look the register up: each says whether it can be read and written.",
    },
    Rule {
        code: Code::Fault(Fault::BadValue),
        name: "register-value",
        severity: Severity::Error,
        section: "regs",
        cause: "The value is none that the register takes.",
        mend: "Look the register up: FAULT_DETAIL is its offset.",
    },
    Rule {
        code: Code::Fault(Fault::Locked),
        name: "register-locked",
        severity: Severity::Error,
        section: "regs",
        cause: "The registers of an open stream were written, or the pointer width while a stream is open.",
        mend: "Close the stream first (STOP, then CLOSED).",
    },
    Rule {
        code: Code::Fault(Fault::TransitionBusy),
        name: "transition-busy",
        severity: Severity::Error,
        section: "regs::stream::STATE",
        cause: "TYPE or STATE was written before the one before it was answered.",
        mend: "Wait until TRANSITIONS on the doorbell page has moved on.",
    },
    Rule {
        code: Code::Fault(Fault::NotEnabled),
        name: "card-not-enabled",
        severity: Severity::Error,
        section: "regs::CONTROL",
        cause: "A stream was used before CONTROL was enabled, or with bus-master off: after a reset that \
            something else asked for, say.",
        mend: "Enable the card and bus-master first, and set up anew after a reset.",
    },
    Rule {
        code: Code::Fault(Fault::Closed),
        name: "stream-closed",
        severity: Severity::Error,
        section: "regs::stream::STATE",
        cause: "STATE was written for a stream that was not created, or is closed again.",
        mend: "Create it by its TYPE, and await the answer.",
    },
    Rule {
        code: Code::Fault(Fault::NotStopped),
        name: "stream-not-stopped",
        severity: Severity::Error,
        section: "regs::stream::TYPE",
        cause: "A stream was created where one is open, or closed while it runs.",
        mend: "Set STOP and await it; then write CLOSED.",
    },
    Rule {
        code: Code::Fault(Fault::BadPool),
        name: "pool-geometry",
        severity: Severity::Error,
        section: "regs::stream::POOL_BASE",
        cause: "Slot count, stride or the alignment of the pool is out of range.",
        mend: "Look SLOT_COUNT, SLOT_STRIDE and POOL_BASE up; the base is aligned to the stride. FAULT_DETAIL \
            is the register's offset.",
    },
    Rule {
        code: Code::Fault(Fault::BadBuffers),
        name: "buffer-geometry",
        severity: Severity::Error,
        section: "regs::stream::BUFFER_BASE",
        cause: "Size, count or alignment of the buffers is out of range.",
        mend: "Look BUFFER_SIZE, BUFFER_COUNT and BUFFER_BASE up. FAULT_DETAIL is the register's offset.",
    },
    Rule {
        code: Code::Fault(Fault::BadRing),
        name: "ring-geometry",
        severity: Severity::Error,
        section: "regs::stream::SUBMISSION_BASE",
        cause: "A ring's size is no power of two, it is not aligned, or it has fewer entries than the pool has \
            slots.",
        mend: "Give both rings as many entries as there are slots, rounded up to a power of two.",
    },
    Rule {
        code: Code::Fault(Fault::NotMapped),
        name: "stream-not-mapped",
        severity: Severity::Error,
        section: "regs::stream",
        cause: "Pool, buffers or a ring lie outside the memory that the guest shares: an address of the guest's \
            instead of the bus, or an IOMMU mapping that is missing.",
        mend: "Map the memory for the device and use the address that the mapping gave. Under QEMU, RAM must be \
            a memory-backend-memfd with share=on.",
    },
    Rule {
        code: Code::Fault(Fault::TailOverrun),
        name: "tail-overrun",
        severity: Severity::Error,
        section: "doorbell::SUBMISSION_TAIL",
        cause: "The tail is more than the ring ahead of what was fetched: it was stored in bytes, or more was \
            submitted than the pool has slots.",
        mend: "Let the tail count up without bound, by one for each entry. Close the stream and create it anew.",
    },
    Rule {
        code: Code::Fault(Fault::RingFault),
        name: "ring-unmapped",
        severity: Severity::Error,
        section: "regs::stream",
        cause: "A ring went away while its stream was open: it was unmapped or freed, or bus-master was turned \
            off.",
        mend: "Close the stream before its rings are unmapped. Close it now and create it anew.",
    },
    Rule {
        code: Code::Fault(Fault::BadSlot),
        name: "entry-no-slot",
        severity: Severity::Error,
        section: "ring",
        cause: "An entry of the submission ring is no slot number: it was not written before the tail, or is an \
            address.",
        mend: "Write the entries first, then the tail with release.",
    },
    Rule {
        code: Code::Fault(Fault::SlotInFlight),
        name: "slot-resubmitted",
        severity: Severity::Error,
        section: "ring",
        cause: "A slot was submitted again before it came home: it is on a free list twice, or the completion \
            ring was read too far.",
        mend: "Take slots only from completions up to COMPLETION_HEAD, each once.",
    },
    Rule {
        code: Code::Fault(Fault::UnfinishedMessage),
        name: "sysex-unfinished",
        severity: Severity::Warning,
        section: "event::INCOMPLETE",
        cause: "The last fragment of a SysEx message did not come: another message, or STOP, came first.",
        mend: "Submit all fragments of a message in a row; the last has no INCOMPLETE flag.",
    },
    Rule {
        code: Code::Fault(Fault::CaptureOverrun),
        name: "capture-overrun",
        severity: Severity::Warning,
        section: "ring",
        cause: "What was captured had no posted slot for too long, and the oldest was dropped.",
        mend: "Post more slots, and post them again as soon as they come home.",
    },
    Rule {
        code: Code::Fault(Fault::CommandBusy),
        name: "command-busy",
        severity: Severity::Error,
        section: "regs::COMMAND",
        cause: "COMMAND was written before the command before it was answered.",
        mend: "Wait until COMMANDS on the doorbell page has moved on; let one user of the mailbox in at a time.",
    },
    Rule {
        code: Code::Fault(Fault::Overlap),
        name: "memory-overlap",
        severity: Severity::Error,
        section: "regs::stream",
        cause: "Pool, buffers or a ring share memory with another of them, or with an open stream.",
        mend: "Allocate each by itself, as large as count x size says.",
    },
    Rule {
        code: Code::Fault(Fault::NotWritable),
        name: "memory-not-writable",
        severity: Severity::Error,
        section: "regs::stream",
        cause: "The completion ring, or what is captured into, is mapped for the device to read only.",
        mend: "Map it for both directions (DMA_BIDIRECTIONAL, or write access in VFIO).",
    },
    Rule {
        code: Code::Fault(Fault::Halted),
        name: "stream-halted",
        severity: Severity::Error,
        section: "regs::stream::STATE",
        cause: "The stream stands still after tail-overrun or ring-unmapped, and was asked for more.",
        mend: "Set STOP, write CLOSED, and create the stream anew.",
    },
    Rule {
        code: Code::Fault(Fault::GrantBackward),
        name: "grant-backward",
        severity: Severity::Error,
        section: "doorbell::GRANT",
        cause: "The grant moved back or is negative: a stream time was granted instead of a master time, or two \
            threads grant.",
        mend: "Grant master time, from one place, and never less than before.",
    },
    Rule {
        code: Code::Fault(Fault::ClosedStream),
        name: "tail-closed-stream",
        severity: Severity::Error,
        section: "doorbell::SUBMISSION_TAIL",
        cause: "A tail was stored for a stream that is not open: its number is wrong, or it was closed meanwhile.",
        mend: "Submit to streams that were created, by the number of their block.",
    },
    Rule {
        code: Code::Fault(Fault::TailBackward),
        name: "tail-backward",
        severity: Severity::Error,
        section: "doorbell::SUBMISSION_TAIL",
        cause: "The tail moved back: it was stored as an index into the ring, two threads submit, or the guest \
            went back to a snapshot and the card did not.",
        mend: "Let the tail count up without bound, from one place. After a snapshot was loaded, reset the card \
            and set up anew.",
    },
    Rule {
        code: Code::Fault(Fault::NoMemory),
        name: "card-out-of-memory",
        severity: Severity::Warning,
        section: "regs::stream",
        cause: "The card's process has no memory for a stream with so many slots and buffers.",
        mend: "Create it with fewer or smaller ones, or give the card's process more memory.",
    },
];
