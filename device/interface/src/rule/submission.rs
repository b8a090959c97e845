//! The rules about submissions: what a completion refuses.
//!
//! Fed by the reasons of [`crate::ring`]; feeds the table of rules.

use super::{Code, Rule, Severity};
use crate::ring::Reject;

/// By their codes.
pub(super) const RULES: [Rule; 17] = [
    Rule {
        code: Code::Reject(Reject::NotMapped),
        name: "event-not-mapped",
        severity: Severity::Error,
        section: "ring::Reject",
        cause: "The pool, or the buffer that uData leads to, is no memory that the card can reach: it was \
            unmapped, or bus-master is off.",
        mend: "Keep pool and buffers mapped until the stream is closed, and bus-master on while anything is in \
            flight.",
    },
    Rule {
        code: Code::Reject(Reject::BadStructSize),
        name: "struct-size",
        severity: Severity::Error,
        section: "event",
        cause: "cbStruct is not set: the slot was zeroed as a whole, or filled with a structure for the other \
            pointer size.",
        mend: "Set cbStruct once in each slot (40 with 8-byte pointers, 32 with 4-byte ones), and keep it: \
            GetMessage zeroes all but it.",
    },
    Rule {
        code: Code::Reject(Reject::BadFlags),
        name: "flags-unknown",
        severity: Severity::Error,
        section: "event",
        cause: "usFlags was left over from another use of the slot, or carries flags of an application.",
        mend: "Zero the slot when it is taken, and set no flags but PACKAGE and INCOMPLETE.",
    },
    Rule {
        code: Code::Reject(Reject::Empty),
        name: "event-empty",
        severity: Severity::Error,
        section: "event",
        cause: "cbEvent was not set, or a slot was submitted that nothing was put into.",
        mend: "Set cbEvent to the bytes of the message; drop messages that are empty instead of submitting them.",
    },
    Rule {
        code: Code::Reject(Reject::TooLong),
        name: "event-too-long",
        severity: Severity::Error,
        section: "event",
        cause: "A SysEx message is longer than the stream's buffers.",
        mend: "Send it in fragments (INCOMPLETE), or create the stream with larger buffers.",
    },
    Rule {
        code: Code::Reject(Reject::BadBuffer),
        name: "buffer-foreign",
        severity: Severity::Error,
        section: "event",
        cause: "uData is not the start of a buffer of the stream: an address of the guest's instead of the bus, \
            an offset, or a buffer of another stream.",
        mend: "Store buffer_base + number x buffer_size, as the device sees it.",
    },
    Rule {
        code: Code::Reject(Reject::BufferInFlight),
        name: "buffer-shared",
        severity: Severity::Error,
        section: "event",
        cause: "Two events in flight have the same buffer: it was given to the second before the first \
            completed, or was recycled by what was read back of cbEvent.",
        mend: "Give a buffer out again only when its slot has come home, and keep in private memory which \
            buffer went with which slot.",
    },
    Rule {
        code: Code::Reject(Reject::BadChain),
        name: "chain-foreign",
        severity: Severity::Error,
        section: "event::Event::next",
        cause: "pNextEvt or pPackageEvt is a pointer of the guest's, or one into the middle of a slot.",
        mend: "Store pool_base + slot x stride, as the device sees it; 0 ends a chain.",
    },
    Rule {
        code: Code::Reject(Reject::SlotInFlight),
        name: "chain-in-flight",
        severity: Severity::Error,
        section: "event::Event::next",
        cause: "The chain leads back to itself, or a slot in it was submitted before and has not come home.",
        mend: "Build chains of slots that are free, each once; zero pNextEvt when a slot is taken.",
    },
    Rule {
        code: Code::Reject(Reject::TimeMismatch),
        name: "chain-times",
        severity: Severity::Error,
        section: "event::Event::next",
        cause: "The members of a chain were stamped one by one.",
        mend: "Give all members the time of the head; for different times, submit them apart or in a package.",
    },
    Rule {
        code: Code::Reject(Reject::TooDeep),
        name: "package-deep",
        severity: Severity::Error,
        section: "event::PACKAGE",
        cause: "Packages were put into packages again and again.",
        mend: "Put the events into one package.",
    },
    Rule {
        code: Code::Reject(Reject::FragmentInChain),
        name: "fragment-in-chain",
        severity: Severity::Error,
        section: "event::INCOMPLETE",
        cause: "A part of a SysEx message was chained or packed.",
        mend: "Submit each fragment by itself, in their order.",
    },
    Rule {
        code: Code::Reject(Reject::BadChannelGroup),
        name: "channel-group",
        severity: Severity::Error,
        section: "event",
        cause: "usChannelGroup is left over, counts from 1, or the stream has fewer groups by now.",
        mend: "Count groups from 0, below the CHANNEL_GROUPS that the stream has.",
    },
    Rule {
        code: Code::Reject(Reject::BadMessage),
        name: "midi-malformed",
        severity: Severity::Error,
        section: "event",
        cause: "The bytes are no complete MIDI message: running status, two messages in one event, data bytes \
            above 127, or SysEx without F0 or F7.",
        mend: "Put one message with its status byte into each event; let a parser complete running status.",
    },
    Rule {
        code: Code::Reject(Reject::MessageTooLong),
        name: "sysex-too-long",
        severity: Severity::Error,
        section: "event::MAX_MESSAGE",
        cause: "The fragments of one SysEx message come to more than 64 KiB, or so many messages of that kind \
            wait that the card has no room.",
        mend: "Send less at once, and wait for what was sent before.",
    },
    Rule {
        code: Code::Reject(Reject::EmptyPackage),
        name: "package-empty",
        severity: Severity::Error,
        section: "event::PACKAGE",
        cause: "pPackageEvt is 0 in an event with the PACKAGE flag.",
        mend: "Put at least one event into a package, or clear the flag.",
    },
    Rule {
        code: Code::Reject(Reject::NotEmpty),
        name: "posted-not-empty",
        severity: Severity::Error,
        section: "ring::Reject",
        cause: "A slot was posted for capture as it came home, with cbEvent, usFlags or pNextEvt of the last \
            event.",
        mend: "Zero all but cbStruct and uData before a slot is posted again.",
    },
];
