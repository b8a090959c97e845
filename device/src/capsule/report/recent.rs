//! The last observations before the end, which explain a hang or a crash.
//!
//! Fed by every observation; feeds the last section of the page. What only repeats itself (audio, a register that is
//! polled) takes one line, so that it does not push out what matters.

use super::super::Observation;
use std::collections::VecDeque;

/// How many are kept.
pub(super) const KEPT: usize = 40;

/// Bytes that are kept of one.
pub(super) const BYTES: usize = 32;

/// How far back a repetition is looked for.
const LOOK_BACK: usize = 3;

/// An observation, and the same ones soon after it.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// Run time of the first and of the last.
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) count: u64,
    /// Its bytes are cut; of audio there are none.
    pub(super) what: Observation,
    /// Bytes that there were; of audio, frames in all.
    pub(super) size: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent {
    kept: VecDeque<Kept>,
}

impl Recent {
    pub(super) fn add(&mut self, time: i64, observation: &Observation) {
        let known = self.kept.iter_mut().rev().take(LOOK_BACK).find(|kept| repeats(kept, observation));
        if let Some(kept) = known {
            kept.last = time;
            kept.count += 1;
            if let Observation::Audio { samples, voices } = observation {
                kept.size += samples.len() as u64 / 2;
                kept.what = Observation::Audio { samples: Box::default(), voices: *voices };
            }
            return;
        }
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        let (what, size) = brief(observation);
        self.kept.push_back(Kept { first: time, last: time, count: 1, what, size });
    }

    /// The oldest first.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Kept> {
        self.kept.iter()
    }
}

fn repeats(kept: &Kept, observation: &Observation) -> bool {
    match (&kept.what, observation) {
        (Observation::Audio { .. }, Observation::Audio { .. }) => true,
        (Observation::Interrupt { vector }, Observation::Interrupt { vector: again }) => vector == again,
        (
            Observation::Access { region, offset, write, bytes },
            Observation::Access { region: again, offset: at, write: also, bytes: same },
        ) => (region, offset, write, bytes) == (again, at, also, same),
        _ => false,
    }
}

fn cut(bytes: &[u8]) -> (Box<[u8]>, u64) {
    (bytes[..bytes.len().min(BYTES)].into(), bytes.len() as u64)
}

/// What is kept of it, and its size.
fn brief(observation: &Observation) -> (Observation, u64) {
    match observation {
        Observation::Audio { samples, voices } => {
            (Observation::Audio { samples: Box::default(), voices: *voices }, samples.len() as u64 / 2)
        }
        Observation::Access { region, offset, write, bytes } => {
            let (bytes, size) = cut(bytes);
            (Observation::Access { region: *region, offset: *offset, write: *write, bytes }, size)
        }
        Observation::Data { stream, offset, bytes } => {
            let (bytes, size) = cut(bytes);
            (Observation::Data { stream: *stream, offset: *offset, bytes }, size)
        }
        Observation::Captured { stream, slot, bytes } => {
            let (bytes, size) = cut(bytes);
            (Observation::Captured { stream: *stream, slot: *slot, bytes }, size)
        }
        Observation::Received { input, bytes } => {
            let (bytes, size) = cut(bytes);
            (Observation::Received { input: *input, bytes }, size)
        }
        Observation::Command { opcode, stream, request, status } => {
            let (request, size) = cut(request);
            (Observation::Command { opcode: *opcode, stream: *stream, request, status: *status }, size)
        }
        // Its text is in the section of the rule.
        Observation::Violation { rule, stream, slot, .. } => {
            (Observation::Violation { rule, stream: *stream, slot: *slot, report: None }, 0)
        }
        other => (other.clone(), 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Region;

    fn polled(offset: u64) -> Observation {
        Observation::Access { region: Region::Registers, offset, write: false, bytes: [0; 4].into() }
    }

    #[test]
    fn what_repeats_itself_pushes_nothing_out() {
        let mut recent = Recent::default();
        recent.add(0, &Observation::Reset);
        for time in 1..1000 {
            recent.add(time, &Observation::Audio { samples: [0; 8].into(), voices: time as usize });
            recent.add(time, &polled(0x40));
        }
        let kept: Vec<_> = recent.iter().map(|kept| (kept.first, kept.last, kept.count, kept.size)).collect();
        assert_eq!(kept, [(0, 0, 1, 0), (1, 999, 999, 4 * 999), (1, 999, 999, 4)]);
    }

    #[test]
    fn the_last_are_kept_and_cut() {
        let mut recent = Recent::default();
        for offset in 0..100 {
            recent.add(0, &Observation::Data { stream: 0, offset, bytes: vec![7; 60_000].into() });
        }
        assert_eq!(recent.iter().len(), KEPT);
        for (kept, offset) in recent.iter().zip(60..) {
            assert_eq!(kept.what, Observation::Data { stream: 0, offset, bytes: vec![7; BYTES].into() });
            assert_eq!(kept.size, 60_000);
        }
    }
}
