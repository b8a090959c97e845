//! What a card observes, on its way into a capsule or out of one: the same calls record a run and replay it.
//!
//! Fed by transport and engine with each thing that they decide by and that no replay could know: the client's
//! accesses, words of the doorbell page, slots and data, clock readings. A card that records hands each to its
//! [`Recorder`]; one that replays is told by its [`Player`] what it was, and neither goes another way for it. What the
//! client does is kept in the order in which it and the engine took the lock.
//!
//! What is mostly the same is recorded only when it is not. Such a record says of which place it is, so that no other
//! place takes it for its own.
//!
//! A file may hold anything. What a replay does not find in it, or not as its next record, ends the replay; until the
//! turn under way is over, each observation then is one that leads nowhere.

pub(crate) mod blocks;
mod client;
mod culprits;
mod memory;
pub(crate) mod observation;
mod observed;
mod player;
mod recorder;
pub(crate) mod records;
mod turns;

pub(crate) use client::Repeat;
pub(crate) use culprits::take_culprit;
pub(crate) use memory::{Recorded, Replayed};
pub(crate) use observation::Observation;
pub(crate) use observed::{Piece, Place, Unusual};
pub(crate) use player::Player;
pub(crate) use records::{Put, Tag};

use blocks::Writer;
use dmus_interface::protocol::Page;
use parking_lot::{Mutex, MutexGuard};
use player::Replaying;
use recorder::{Recorder, Recording};
use std::sync::atomic::Ordering;

/// See the module.
#[derive(Debug)]
pub(crate) enum ReplayLog {
    Record(Box<Recorder>),
    Replay(Box<Replaying>),
}

impl ReplayLog {
    pub(crate) fn record(writer: Writer, first: Vec<u8>) -> Self {
        Self::Record(Box::new(Recorder::new(writer, first)))
    }

    /// `culprits`: a plugin told the card of stores.
    pub(crate) fn replay(player: Player, culprits: bool) -> Self {
        let culprits = culprits.then(Mutex::default);
        Self::Replay(Box::new(Replaying { player: Mutex::new(player), client: Mutex::new(None), culprits }))
    }

    /// The recording, if this is one, for whoever reads a stream's memory.
    pub(crate) fn recording(&self) -> Option<MutexGuard<'_, Recording>> {
        match self {
            Self::Record(recorder) => Some(recorder.recording.lock()),
            Self::Replay(_) => None,
        }
    }

    /// The replay, if this is one.
    pub(crate) fn player(&self) -> Option<MutexGuard<'_, Player>> {
        match self {
            Self::Record(_) => None,
            Self::Replay(replaying) => Some(replaying.player.lock()),
        }
    }

    /// In a replay: who does again what the client did.
    pub(crate) fn set_client(&self, client: Option<Box<dyn Repeat>>) {
        if let Self::Replay(replaying) = self {
            *replaying.client.lock() = client;
        }
    }

    /// What `real` observes, which is recorded by `put`, or what `get` finds that was observed as this was recorded.
    fn observe<T>(
        &self,
        real: impl FnOnce() -> T,
        put: impl FnOnce(&mut Vec<u8>, &T),
        get: impl FnOnce(&mut Player) -> T,
    ) -> T {
        match self {
            Self::Record(recorder) => {
                let observed = real();
                put(&mut recorder.out(), &observed);
                observed
            }
            Self::Replay(replaying) => get(&mut replaying.player.lock()),
        }
    }
}

fn load(page: &impl Page, offset: usize, wide: bool) -> u64 {
    match wide {
        true => page.load_u64(offset, Ordering::Relaxed),
        false => page.load_u32(offset, Ordering::Relaxed).into(),
    }
}
