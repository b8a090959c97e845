//! Conditional chunks (`cdl `): small programs by which a list asks whether this synthesizer is the one that it is
//! meant for.
//!
//! Fed with the chunk; the DLS reader leaves out the list around it when the answer is no.

use super::error::{Fault, Problem};
use super::riff::Chunk;
use alloc::vec::Vec;

/// Samples per second of the card.
const SAMPLE_RATE: u32 = 48_000;

/// A DLSID as its sixteen bytes lie in a file.
pub type DlsId = [u8; 16];

/// The tail that the first queries have in common, from the DLS specifications' list of identifiers.
const COMMON: [u8; 12] = [0x64, 0xc3, 0xd1, 0x11, 0xa7, 0x60, 0x00, 0x00, 0xf8, 0x75, 0xac, 0x12];
const SUPPORTS_DLS2: DlsId = [0xe5, 0x99, 0x45, 0xf1, 0x89, 0x46, 0xd2, 0x11, 0xaf, 0xa6, 0, 0xaa, 0, 0x24, 0xd8, 0xb6];
const SAMPLE_PLAYBACK_RATE: DlsId =
    [0x13, 0xf7, 0x91, 0x2a, 0xbf, 0xa4, 0xd2, 0x11, 0xbb, 0xdf, 0, 0x60, 0x08, 0x33, 0xdb, 0xd8];
/// System memory, as DirectMusic's SYNTHCAPS says it.
const SAMPLE_MEMORY: u32 = 0x7fff_ffff;

/// What this synthesizer says of itself. `None`: it does not know the question.
fn query(id: &DlsId) -> Option<u32> {
    if *id == SUPPORTS_DLS2 {
        return Some(1);
    }
    if *id == SAMPLE_PLAYBACK_RATE {
        return Some(SAMPLE_RATE);
    }
    let [a, 0x2f, 0x8f, 0x17, tail @ ..] = id else {
        return None;
    };
    match (a, *tail == COMMON) {
        // GM, GS and XG in hardware: of these, the built-in bank is General MIDI.
        (0x24, true) => Some(1),
        (0x25 | 0x26, true) => Some(0),
        // DLS Level 1.
        (0x27, true) => Some(1),
        (0x28, true) => Some(SAMPLE_MEMORY),
        _ => None,
    }
}

/// Runs the program; true if the list around it is for this synthesizer. X is the top of the stack and Y below it.
pub(super) fn holds(chunk: &Chunk<'_>) -> Result<bool, Fault> {
    let mut program = chunk.fields();
    // Every push has an operation of at least two bytes, so the chunk bounds the stack.
    let mut stack: Vec<u32> = Vec::new();
    while !program.data.is_empty() {
        let operation = program.u16()?;
        let bad = program.before(2, Problem::Condition("uses an unknown operation"));
        let empty = program.before(2, Problem::Condition("takes more values than it has"));
        let by_zero = program.before(2, Problem::Condition("divides by zero"));
        let result = match operation {
            0x10 => program.u32()?,
            0x11 => query(&program.take()?).unwrap_or(0),
            0x12 => u32::from(query(&program.take()?).is_some()),
            0x0f => u32::from(stack.pop().ok_or(empty)? == 0),
            0x01..=0x0e => {
                let (Some(x), Some(y)) = (stack.pop(), stack.pop()) else {
                    return Err(empty);
                };
                match operation {
                    0x01 => x & y,
                    0x02 => x | y,
                    0x03 => x ^ y,
                    0x04 => x.wrapping_add(y),
                    0x05 => x.wrapping_sub(y),
                    0x06 => x.wrapping_mul(y),
                    0x07 => x.checked_div(y).ok_or(by_zero)?,
                    0x08 => u32::from(x != 0 && y != 0),
                    0x09 => u32::from(x != 0 || y != 0),
                    0x0a => u32::from(x < y),
                    0x0b => u32::from(x <= y),
                    0x0c => u32::from(x > y),
                    0x0d => u32::from(x >= y),
                    _ => u32::from(x == y),
                }
            }
            _ => return Err(bad),
        };
        stack.push(result);
    }
    let result = stack.pop().ok_or(chunk.fault(Problem::Condition("leaves no result")))?;
    Ok(result != 0)
}
