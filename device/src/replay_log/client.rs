//! What the client does: recorded by the transport's thread, in a section, and taken over by the engine's next one.
//!
//! Fed by the PCI function; feeds the recording, or does it again.

use super::player::Player;
use super::records::{Cursor, Put, Tag};
use super::{ReplayLog, load};
use dmus_interface::protocol::Page;
use parking_lot::Mutex;
use std::sync::atomic::Ordering;

/// Bytes of the client's accesses that may wait for the engine.
const MAX_WAITING: usize = 8 << 20;

/// Who does again, in a replay, what the client did.
pub(crate) trait Repeat: std::fmt::Debug + Send {
    /// Does what the next record is, if it is something that a client did; says whether it was.
    fn repeat(&mut self, player: &Mutex<Player>) -> bool;
}

impl ReplayLog {
    /// Adds a record to those that wait for the engine.
    pub(crate) fn note_access(&self, waiting: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
        if let Self::Record(recorder) = self {
            if waiting.len() < MAX_WAITING {
                put(waiting);
            } else {
                recorder.overrun.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Takes over what the client did since the last time.
    pub(crate) fn take_accesses(&self, waiting: &mut Vec<u8>) {
        if let Self::Record(recorder) = self {
            recorder.out().append(waiting);
            if recorder.overrun.load(Ordering::Relaxed) {
                recorder.recording.lock().writer.give_up("the client did more than the engine could take note of");
            }
        }
    }

    /// Does again what the client did while no section was. Not to be called in one.
    #[inline]
    pub(crate) fn repeat_accesses(&self) {
        if let Self::Replay(replaying) = self {
            let mut client = replaying.client.lock();
            while let Some(client) = &mut *client
                && client.repeat(&replaying.player)
            {}
        }
    }

    /// A word of the page that the transport loads.
    pub(crate) fn word_at_access<P: Page>(&self, waiting: &mut Vec<u8>, page: &P, offset: usize, wide: bool) -> u64 {
        if let Self::Replay(replaying) = self {
            replaying.player.lock().take_word(page, offset, wide);
        }
        let value = load(page, offset, wide);
        self.note_access(waiting, |out| _ = out.tag(Tag::Word).number(offset as u64).number(value));
        value
    }

    /// The beginning of a request, as the opcode was written.
    pub(crate) fn request_then(&self, waiting: &mut Vec<u8>, read: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
        match self {
            Self::Record(_) => {
                let request = read();
                self.note_access(waiting, |out| _ = out.tag(Tag::RequestThen).bytes(&request));
                request
            }
            Self::Replay(replaying) => {
                let expected = "the request of a command";
                replaying.player.lock().expect(Tag::RequestThen, expected, Cursor::bytes).unwrap_or_default()
            }
        }
    }
}

impl Player {
    /// Stores the word that is the next record, if it is at that place.
    pub(super) fn take_word(&mut self, page: &impl Page, offset: usize, wide: bool) {
        if !self.takes(Tag::Word) {
            return;
        }
        match (self.cursor.small::<usize>(), self.cursor.number()) {
            (Some(at), Some(value)) if at == offset => match wide {
                true => page.store_u64(offset, value, Ordering::Relaxed),
                false => page.store_u32(offset, value as u32, Ordering::Relaxed),
            },
            _ => _ = self.problem.get_or_insert("another word of the doorbell page"),
        }
    }
}
