//! What holds an address, and what an observation is without: where memory is does not make a difference.
//!
//! Fed by the sorter with accesses and observations; feeds it with hashes, and the words with registers.

use super::digest::Digest;
use super::step::{Step, Submission};
use crate::capsule::Observation;
use crate::device::Region;
use dmus_interface::regs::{self, Found, stream};
use dmus_interface::time::RefTime;

/// Of the configuration space.
const BARS: std::ops::Range<u64> = 0x10..0x28;

/// The register at an offset of BAR0.
pub(super) fn register(offset: u64) -> Option<Found> {
    u32::try_from(offset).ok().and_then(regs::find)
}

/// Whether it holds the address of something.
pub(super) fn is_address(found: &Found) -> bool {
    match found.stream {
        None => [regs::COMMAND_REQUEST, regs::COMMAND_RESULT].contains(&found.register),
        Some(_) => [stream::POOL_BASE, stream::BUFFER_BASE, stream::SUBMISSION_BASE, stream::COMPLETION_BASE]
            .contains(&found.register),
    }
}

/// The same, of any region: BARs and the messages of vectors are where the guest has room for them.
pub(super) fn holds_address(region: Region, offset: u64) -> bool {
    match region {
        Region::Registers => register(offset).is_some_and(|found| is_address(&found)),
        Region::Config => BARS.contains(&offset),
        Region::Msix => true,
        Region::Doorbell => false,
    }
}

/// Takes over a half of an address, or both.
pub(super) fn set(address: &mut u64, high: bool, bytes: &[u8]) {
    let mut word = address.to_le_bytes();
    let from = if high { 4 } else { 0 };
    for (to, byte) in word[from..].iter_mut().zip(bytes) {
        *to = *byte;
    }
    *address = u64::from_le_bytes(word);
}

/// The hash of an observation but for addresses, slots and buffers: those are compared by themselves.
pub(super) fn without_addresses(master: RefTime, observation: &Observation) -> u64 {
    let mut digest = Digest::new();
    digest.signed(master.0);
    match observation {
        Observation::Access { region, offset, write, bytes } => {
            digest.number(0).number(*region as u64).number(*offset).number((*write).into());
            digest.bytes(if holds_address(*region, *offset) { &[] } else { bytes });
        }
        Observation::Mapped { size, writable, shared, .. } => {
            digest.number(1).number(*size).number((*writable).into()).number((*shared).into());
        }
        Observation::Unmapped { size, .. } => _ = digest.number(2).number(*size),
        Observation::Fetched { stream, index, .. } => {
            digest.number(3).number(*stream as u64).number((*index).into());
        }
        Observation::Event { stream, event, .. } => {
            let mut submission = Submission::default();
            submission.add(event, true);
            digest.number(4).number(*stream as u64).number(Step::Submission(submission).digest(true));
        }
        Observation::Data { stream, bytes, .. } => _ = digest.number(5).number(*stream as u64).bytes(bytes),
        Observation::Completed { stream, index, completion } => {
            let end = u64::from(completion.status.get()) << 16 | u64::from(completion.flags.get());
            digest.number(6).number(*stream as u64).number((*index).into());
            digest.number(end).signed(completion.time.get());
        }
        Observation::Audio { samples, .. } => _ = digest.number(7).samples(samples),
        Observation::Received { input, bytes } => _ = digest.number(8).number((*input).into()).bytes(bytes),
        Observation::Violation { rule, stream, .. } => {
            digest.number(9).bytes(rule.as_bytes()).number(stream.map_or(u64::MAX, |stream| stream as u64));
        }
        Observation::Command { opcode, stream, request, status } => {
            digest.number(10).number((*opcode).into()).number((*stream).into()).number((*status).into());
            digest.bytes(request);
        }
        Observation::Captured { stream, bytes, .. } => {
            digest.number(12).number(*stream as u64).bytes(bytes);
        }
        Observation::Connected
        | Observation::Disconnected
        | Observation::Reset
        | Observation::Granted { .. }
        | Observation::Opened { .. }
        | Observation::Changed { .. }
        | Observation::Closed { .. }
        | Observation::Refused { .. }
        | Observation::Submitted { .. }
        | Observation::Interrupt { .. } => _ = digest.number(11).bytes(format!("{observation:?}").as_bytes()),
    }
    digest.finish()
}
