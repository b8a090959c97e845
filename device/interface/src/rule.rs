//! The rules that a driver can break: each has the code by which the card names it, a name, what it means, the likely
//! cause and the mend.
//!
//! Fed by the codes of [`crate::ring`] and [`crate::regs`]; feeds the card's log and `dmus-card explain`, so that
//! whatever is said of a code is said once.

use crate::regs::Fault;
use crate::ring::Reject;
use core::fmt;

/// The code of a rule: of a submission that was refused, written `R` and its number, or of a fault, `F` and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// In the flags of the completion.
    Reject(Reject),
    /// In the FAULT register, or on the doorbell page as the answer to a transition.
    Fault(Fault),
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reject(reject) => write!(f, "R{}", *reject as u16),
            Self::Fault(fault) => write!(f, "F{}", *fault as u32),
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The driver is wrong.
    Error,
    /// Something was lost, which a driver that is right can see, too.
    Warning,
}

/// A rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its code.
    pub code: Code,
    /// Its name, in kebab case: no other rule's.
    pub name: &'static str,
    /// How bad it is to break it.
    pub severity: Severity,
    /// Where the data sheet states it: a module of this crate, and an item of it.
    pub section: &'static str,
    /// How drivers come to break it.
    pub cause: &'static str,
    /// What to do about it.
    pub mend: &'static str,
}

impl Rule {
    /// Every rule: the submissions, then the faults, by their codes.
    pub const ALL: [Self; 44] = [
        Self {
            code: Code::Reject(Reject::NotMapped),
            name: "event-not-mapped",
            severity: Severity::Error,
            section: "ring::Reject",
            cause: "The pool, or the buffer that uData leads to, is no memory that the card can reach: it was \
                unmapped, or bus-master is off.",
            mend: "Keep pool and buffers mapped until the stream is closed, and bus-master on while anything is in \
                flight.",
        },
        Self {
            code: Code::Reject(Reject::BadStructSize),
            name: "struct-size",
            severity: Severity::Error,
            section: "event",
            cause: "cbStruct is not set: the slot was zeroed as a whole, or filled with a structure for the other \
                pointer size.",
            mend: "Set cbStruct once in each slot (40 with 8-byte pointers, 32 with 4-byte ones), and keep it: \
                GetMessage zeroes all but it.",
        },
        Self {
            code: Code::Reject(Reject::BadFlags),
            name: "flags-unknown",
            severity: Severity::Error,
            section: "event",
            cause: "usFlags was left over from another use of the slot, or carries flags of an application.",
            mend: "Zero the slot when it is taken, and set no flags but PACKAGE and INCOMPLETE.",
        },
        Self {
            code: Code::Reject(Reject::Empty),
            name: "event-empty",
            severity: Severity::Error,
            section: "event",
            cause: "cbEvent was not set, or a slot was submitted that nothing was put into.",
            mend: "Set cbEvent to the bytes of the message; drop messages that are empty instead of submitting them.",
        },
        Self {
            code: Code::Reject(Reject::TooLong),
            name: "event-too-long",
            severity: Severity::Error,
            section: "event",
            cause: "A SysEx message is longer than the stream's buffers.",
            mend: "Send it in fragments (INCOMPLETE), or create the stream with larger buffers.",
        },
        Self {
            code: Code::Reject(Reject::BadBuffer),
            name: "buffer-foreign",
            severity: Severity::Error,
            section: "event",
            cause: "uData is not the start of a buffer of the stream: an address of the guest's instead of the bus, \
                an offset, or a buffer of another stream.",
            mend: "Store buffer_base + number x buffer_size, as the device sees it.",
        },
        Self {
            code: Code::Reject(Reject::BufferInFlight),
            name: "buffer-shared",
            severity: Severity::Error,
            section: "event",
            cause: "Two events in flight have the same buffer: it was given to the second before the first \
                completed, or was recycled by what was read back of cbEvent.",
            mend: "Give a buffer out again only when its slot has come home, and keep in private memory which \
                buffer went with which slot.",
        },
        Self {
            code: Code::Reject(Reject::BadChain),
            name: "chain-foreign",
            severity: Severity::Error,
            section: "event::Event::next",
            cause: "pNextEvt or pPackageEvt is a pointer of the guest's, or one into the middle of a slot.",
            mend: "Store pool_base + slot x stride, as the device sees it; 0 ends a chain.",
        },
        Self {
            code: Code::Reject(Reject::SlotInFlight),
            name: "chain-in-flight",
            severity: Severity::Error,
            section: "event::Event::next",
            cause: "The chain leads back to itself, or a slot in it was submitted before and has not come home.",
            mend: "Build chains of slots that are free, each once; zero pNextEvt when a slot is taken.",
        },
        Self {
            code: Code::Reject(Reject::TimeMismatch),
            name: "chain-times",
            severity: Severity::Error,
            section: "event::Event::next",
            cause: "The members of a chain were stamped one by one.",
            mend: "Give all members the time of the head; for different times, submit them apart or in a package.",
        },
        Self {
            code: Code::Reject(Reject::TooDeep),
            name: "package-deep",
            severity: Severity::Error,
            section: "event::PACKAGE",
            cause: "Packages were put into packages again and again.",
            mend: "Put the events into one package.",
        },
        Self {
            code: Code::Reject(Reject::FragmentInChain),
            name: "fragment-in-chain",
            severity: Severity::Error,
            section: "event::INCOMPLETE",
            cause: "A part of a SysEx message was chained or packed.",
            mend: "Submit each fragment by itself, in their order.",
        },
        Self {
            code: Code::Reject(Reject::BadChannelGroup),
            name: "channel-group",
            severity: Severity::Error,
            section: "event",
            cause: "usChannelGroup is left over, counts from 1, or the stream has fewer groups by now.",
            mend: "Count groups from 0, below the CHANNEL_GROUPS that the stream has.",
        },
        Self {
            code: Code::Reject(Reject::BadMessage),
            name: "midi-malformed",
            severity: Severity::Error,
            section: "event",
            cause: "The bytes are no complete MIDI message: running status, two messages in one event, data bytes \
                above 127, or SysEx without F0 or F7.",
            mend: "Put one message with its status byte into each event; let a parser complete running status.",
        },
        Self {
            code: Code::Reject(Reject::MessageTooLong),
            name: "sysex-too-long",
            severity: Severity::Error,
            section: "event::MAX_MESSAGE",
            cause: "The fragments of one SysEx message come to more than 64 KiB, or so many messages of that kind \
                wait that the card has no room.",
            mend: "Send less at once, and wait for what was sent before.",
        },
        Self {
            code: Code::Reject(Reject::EmptyPackage),
            name: "package-empty",
            severity: Severity::Error,
            section: "event::PACKAGE",
            cause: "pPackageEvt is 0 in an event with the PACKAGE flag.",
            mend: "Put at least one event into a package, or clear the flag.",
        },
        Self {
            code: Code::Reject(Reject::NotEmpty),
            name: "posted-not-empty",
            severity: Severity::Error,
            section: "ring::Reject",
            cause: "A slot was posted for capture as it came home, with cbEvent, usFlags or pNextEvt of the last \
                event.",
            mend: "Zero all but cbStruct and uData before a slot is posted again.",
        },
        Self {
            code: Code::Fault(Fault::BadAccess),
            name: "register-width",
            severity: Severity::Error,
            section: "regs",
            cause: "A register was reached with 1 or 2 bytes, or by an address that its width does not divide; a \
                structure was copied onto the BAR, say.",
            mend: "Use aligned accesses of 4 bytes, or of 8 for a wide register.",
        },
        Self {
            code: Code::Fault(Fault::Reserved),
            name: "register-reserved",
            severity: Severity::Error,
            section: "regs",
            cause: "The offset belongs to no register: a constant for another version, or a stream block beyond the \
                last one.",
            mend: "Check MAGIC and VERSION first, and the number of the stream.",
        },
        Self {
            code: Code::Fault(Fault::AccessRights),
            name: "register-rights",
            severity: Severity::Error,
            section: "regs",
            cause: "A read-only register was written, or a write-only one read; a read-modify-write of a whole \
                block, say.",
            mend: "Look the register up: each says whether it can be read and written.",
        },
        Self {
            code: Code::Fault(Fault::BadValue),
            name: "register-value",
            severity: Severity::Error,
            section: "regs",
            cause: "The value is none that the register takes.",
            mend: "Look the register up: FAULT_DETAIL is its offset.",
        },
        Self {
            code: Code::Fault(Fault::Locked),
            name: "register-locked",
            severity: Severity::Error,
            section: "regs",
            cause: "The registers of an open stream were written, or the pointer width while a stream is open.",
            mend: "Close the stream first (STOP, then CLOSED).",
        },
        Self {
            code: Code::Fault(Fault::TransitionBusy),
            name: "transition-busy",
            severity: Severity::Error,
            section: "regs::stream::STATE",
            cause: "TYPE or STATE was written before the one before it was answered.",
            mend: "Wait until TRANSITIONS on the doorbell page has moved on.",
        },
        Self {
            code: Code::Fault(Fault::NotEnabled),
            name: "card-not-enabled",
            severity: Severity::Error,
            section: "regs::CONTROL",
            cause: "A stream was used before CONTROL was enabled, or with bus-master off: after a reset that \
                something else asked for, say.",
            mend: "Enable the card and bus-master first, and set up anew after a reset.",
        },
        Self {
            code: Code::Fault(Fault::Closed),
            name: "stream-closed",
            severity: Severity::Error,
            section: "regs::stream::STATE",
            cause: "STATE was written for a stream that was not created, or is closed again.",
            mend: "Create it by its TYPE, and await the answer.",
        },
        Self {
            code: Code::Fault(Fault::NotStopped),
            name: "stream-not-stopped",
            severity: Severity::Error,
            section: "regs::stream::TYPE",
            cause: "A stream was created where one is open, or closed while it runs.",
            mend: "Set STOP and await it; then write CLOSED.",
        },
        Self {
            code: Code::Fault(Fault::BadPool),
            name: "pool-geometry",
            severity: Severity::Error,
            section: "regs::stream::POOL_BASE",
            cause: "Slot count, stride or the alignment of the pool is out of range.",
            mend: "Look SLOT_COUNT, SLOT_STRIDE and POOL_BASE up; the base is aligned to the stride. FAULT_DETAIL \
                is the register's offset.",
        },
        Self {
            code: Code::Fault(Fault::BadBuffers),
            name: "buffer-geometry",
            severity: Severity::Error,
            section: "regs::stream::BUFFER_BASE",
            cause: "Size, count or alignment of the buffers is out of range.",
            mend: "Look BUFFER_SIZE, BUFFER_COUNT and BUFFER_BASE up. FAULT_DETAIL is the register's offset.",
        },
        Self {
            code: Code::Fault(Fault::BadRing),
            name: "ring-geometry",
            severity: Severity::Error,
            section: "regs::stream::SUBMISSION_BASE",
            cause: "A ring's size is no power of two, it is not aligned, or it has fewer entries than the pool has \
                slots.",
            mend: "Give both rings as many entries as there are slots, rounded up to a power of two.",
        },
        Self {
            code: Code::Fault(Fault::NotMapped),
            name: "stream-not-mapped",
            severity: Severity::Error,
            section: "regs::stream",
            cause: "Pool, buffers or a ring lie outside the memory that the guest shares: an address of the guest's \
                instead of the bus, or an IOMMU mapping that is missing.",
            mend: "Map the memory for the device and use the address that the mapping gave. Under QEMU, RAM must be \
                a memory-backend-memfd with share=on.",
        },
        Self {
            code: Code::Fault(Fault::TailOverrun),
            name: "tail-overrun",
            severity: Severity::Error,
            section: "doorbell::SUBMISSION_TAIL",
            cause: "The tail is more than the ring ahead of what was fetched: it was stored in bytes, or more was \
                submitted than the pool has slots.",
            mend: "Let the tail count up without bound, by one for each entry. Close the stream and create it anew.",
        },
        Self {
            code: Code::Fault(Fault::RingFault),
            name: "ring-unmapped",
            severity: Severity::Error,
            section: "regs::stream",
            cause: "A ring went away while its stream was open: it was unmapped or freed, or bus-master was turned \
                off.",
            mend: "Close the stream before its rings are unmapped. Close it now and create it anew.",
        },
        Self {
            code: Code::Fault(Fault::BadSlot),
            name: "entry-no-slot",
            severity: Severity::Error,
            section: "ring",
            cause: "An entry of the submission ring is no slot number: it was not written before the tail, or is an \
                address.",
            mend: "Write the entries first, then the tail with release.",
        },
        Self {
            code: Code::Fault(Fault::SlotInFlight),
            name: "slot-resubmitted",
            severity: Severity::Error,
            section: "ring",
            cause: "A slot was submitted again before it came home: it is on a free list twice, or the completion \
                ring was read too far.",
            mend: "Take slots only from completions up to COMPLETION_HEAD, each once.",
        },
        Self {
            code: Code::Fault(Fault::UnfinishedMessage),
            name: "sysex-unfinished",
            severity: Severity::Warning,
            section: "event::INCOMPLETE",
            cause: "The last fragment of a SysEx message did not come: another message, or STOP, came first.",
            mend: "Submit all fragments of a message in a row; the last has no INCOMPLETE flag.",
        },
        Self {
            code: Code::Fault(Fault::CaptureOverrun),
            name: "capture-overrun",
            severity: Severity::Warning,
            section: "ring",
            cause: "What was captured had no posted slot for too long, and the oldest was dropped.",
            mend: "Post more slots, and post them again as soon as they come home.",
        },
        Self {
            code: Code::Fault(Fault::CommandBusy),
            name: "command-busy",
            severity: Severity::Error,
            section: "regs::COMMAND",
            cause: "COMMAND was written before the command before it was answered.",
            mend: "Wait until COMMANDS on the doorbell page has moved on; let one user of the mailbox in at a time.",
        },
        Self {
            code: Code::Fault(Fault::Overlap),
            name: "memory-overlap",
            severity: Severity::Error,
            section: "regs::stream",
            cause: "Pool, buffers or a ring share memory with another of them, or with an open stream.",
            mend: "Allocate each by itself, as large as count x size says.",
        },
        Self {
            code: Code::Fault(Fault::NotWritable),
            name: "memory-not-writable",
            severity: Severity::Error,
            section: "regs::stream",
            cause: "The completion ring, or what is captured into, is mapped for the device to read only.",
            mend: "Map it for both directions (DMA_BIDIRECTIONAL, or write access in VFIO).",
        },
        Self {
            code: Code::Fault(Fault::Halted),
            name: "stream-halted",
            severity: Severity::Error,
            section: "regs::stream::STATE",
            cause: "The stream stands still after tail-overrun or ring-unmapped, and was asked for more.",
            mend: "Set STOP, write CLOSED, and create the stream anew.",
        },
        Self {
            code: Code::Fault(Fault::GrantBackward),
            name: "grant-backward",
            severity: Severity::Error,
            section: "doorbell::GRANT",
            cause: "The grant moved back or is negative: a stream time was granted instead of a master time, or two \
                threads grant.",
            mend: "Grant master time, from one place, and never less than before.",
        },
        Self {
            code: Code::Fault(Fault::ClosedStream),
            name: "tail-closed-stream",
            severity: Severity::Error,
            section: "doorbell::SUBMISSION_TAIL",
            cause: "A tail was stored for a stream that is not open: its number is wrong, or it was closed meanwhile.",
            mend: "Submit to streams that were created, by the number of their block.",
        },
        Self {
            code: Code::Fault(Fault::TailBackward),
            name: "tail-backward",
            severity: Severity::Error,
            section: "doorbell::SUBMISSION_TAIL",
            cause: "The tail moved back: it was stored as an index into the ring, two threads submit, or the guest \
                went back to a snapshot and the card did not.",
            mend: "Let the tail count up without bound, from one place. After a snapshot was loaded, reset the card \
                and set up anew.",
        },
        Self {
            code: Code::Fault(Fault::NoMemory),
            name: "card-out-of-memory",
            severity: Severity::Warning,
            section: "regs::stream",
            cause: "The card's process has no memory for a stream with so many slots and buffers.",
            mend: "Create it with fewer or smaller ones, or give the card's process more memory.",
        },
    ];

    /// The rule of a code.
    pub fn of(code: Code) -> Option<&'static Self> {
        Self::ALL.iter().find(|rule| rule.code == code)
    }

    /// The rule with this name, or with this code as it is written (R7, f14).
    pub fn find(text: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|rule| rule.name == text || is_code(text, rule.code))
    }
}

fn is_code(text: &str, code: Code) -> bool {
    let (letter, number) = match code {
        Code::Reject(reject) => ('R', reject as u32),
        Code::Fault(fault) => ('F', fault as u32),
    };
    let mut rest = text.chars();
    rest.next().is_some_and(|first| first.eq_ignore_ascii_case(&letter)) && rest.as_str().parse() == Ok(number)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::BTreeSet;
    use std::string::ToString;

    #[test]
    fn every_code_has_one_rule_in_the_order_of_codes() {
        let rejects = Reject::ALL.map(Code::Reject);
        let faults = Fault::ALL.map(Code::Fault);
        assert!(Rule::ALL.iter().map(|rule| rule.code).eq(rejects.into_iter().chain(faults)));
    }

    #[test]
    fn names_are_kebab_case_and_unlike_each_other_and_every_text_is_whole_sentences() {
        let names: BTreeSet<&str> = Rule::ALL.iter().map(|rule| rule.name).collect();
        assert_eq!(names.len(), Rule::ALL.len());
        for rule in &Rule::ALL {
            let kebab =
                rule.name.split('-').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase()));
            assert!(kebab, "{}", rule.name);
            for text in [rule.cause, rule.mend] {
                let first = text.chars().next().is_some_and(|first| first.is_alphanumeric());
                assert!(first && text.ends_with('.'), "{}: {text}", rule.name);
            }
        }
    }

    #[test]
    fn a_rule_is_found_by_its_name_and_by_its_code() {
        for rule in &Rule::ALL {
            let code = rule.code.to_string();
            for text in [rule.name, &code, &code.to_lowercase()] {
                assert_eq!(Rule::find(text).map(|found| found.name), Some(rule.name), "{text}");
            }
        }
        for text in ["", "R", "F0", "R18x", "7", "Tail-Overrun", "é"] {
            assert!(Rule::find(text).is_none(), "{text}");
        }
    }
}
