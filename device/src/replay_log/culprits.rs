//! The stores that a plugin of QEMU knows of mistakes: told in the middle of other observations, so recorded apart, in
//! front of the turn.
//!
//! Fed by the checker, which asks whose doing a mistake is; feeds the recording, or tells it in a replay.

use super::ReplayLog;
use super::recorder::Recorder;
use super::records::{Cursor, Put, Tag};
use crate::dma::owners::StoreRecord;

/// Return addresses that a store has at most.
const MAX_CALLERS: u64 = 256;

impl ReplayLog {
    /// Whether a plugin told the card of stores as this was recorded.
    pub(crate) fn replays_culprits(&self) -> bool {
        matches!(self, Self::Replay(replaying) if replaying.culprits.is_some())
    }

    /// The store that a plugin knows of a mistake; there is a plugin if the card has an owners map.
    pub(crate) fn culprit(&self, has_map: bool, real: impl FnOnce() -> Option<StoreRecord>) -> Option<StoreRecord> {
        match self {
            Self::Record(_) if !has_map => None,
            Self::Record(recorder) => {
                let culprit = real();
                match recorder.is_in_turn() {
                    true => recorder.culprits.lock().push(culprit.clone()),
                    false => put_culprit(&mut recorder.out(), culprit.as_ref()),
                }
                culprit
            }
            Self::Replay(replaying) => {
                let culprits = replaying.culprits.as_ref()?;
                if let Some(culprit) = culprits.lock().pop_front() {
                    return culprit;
                }
                // Between turns it is the next record.
                let mut player = replaying.player.try_lock()?;
                if player.takes(Tag::Culprit) { take_culprit(&mut player.cursor)? } else { None }
            }
        }
    }

    /// What the next turn is told of a plugin's records.
    pub(crate) fn add_culprit(&self, culprit: Option<StoreRecord>) {
        if let Self::Replay(replaying) = self
            && let Some(culprits) = &replaying.culprits
        {
            culprits.lock().push_back(culprit);
        }
    }
}

impl Recorder {
    /// Says whether the turn was told any.
    pub(super) fn put_culprits(&self, out: &mut Vec<u8>) -> bool {
        let mut culprits = self.culprits.lock();
        let told = !culprits.is_empty();
        culprits.drain(..).for_each(|culprit| put_culprit(out, culprit.as_ref()));
        told
    }
}

fn put_culprit(out: &mut Vec<u8>, culprit: Option<&StoreRecord>) {
    out.tag(Tag::Culprit).byte(culprit.is_some().into());
    let Some(store) = culprit else {
        return;
    };
    let StoreRecord { number, address, size, value, vcpu, pc, registers, callers, functions } = store;
    out.number((*number).into()).number(*address).number((*size).into());
    out.number(*value as u64).number((*value >> 64) as u64).number((*vcpu).into()).number(*pc);
    registers.iter().for_each(|register| _ = out.number(*register));
    out.number(callers.len() as u64);
    callers.iter().for_each(|caller| _ = out.number(*caller));
    out.bytes(functions.join("\n").as_bytes());
}

pub(crate) fn take_culprit(cursor: &mut Cursor) -> Option<Option<StoreRecord>> {
    if cursor.byte()? == 0 {
        return Some(None);
    }
    let (number, address, size) = (cursor.small()?, cursor.number()?, cursor.small()?);
    let value = u128::from(cursor.number()?) | u128::from(cursor.number()?) << 64;
    let (vcpu, pc) = (cursor.small()?, cursor.number()?);
    let mut registers = [0; 16];
    registers.iter_mut().try_for_each(|register| cursor.number().map(|value| *register = value))?;
    let callers = cursor.number().filter(|count| *count <= MAX_CALLERS)?;
    let callers = (0..callers).map(|_| cursor.number()).collect::<Option<_>>()?;
    let functions = String::from_utf8_lossy(&cursor.bytes()?).lines().map(str::to_owned).collect();
    Some(Some(StoreRecord { number, address, size, value, vcpu, pc, registers, callers, functions }))
}
