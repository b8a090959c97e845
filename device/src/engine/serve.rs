//! Serving the rings: fetching what the tails publish, and giving back what is done with, section by section.
//!
//! Fed by whole turns, inside the turn's section; feeds the streams, whichever their direction, and the completion rings.

use super::Core;
use crate::capture::CaptureStream;
use crate::link::{Link, Shared};
use crate::stream::Stream;
use crate::stream::rings::Rings;
use parking_lot::MutexGuard;

/// What has rings: a stream of either direction.
trait Served {
    fn rings(&mut self) -> &mut Rings;
    fn has_work(&self) -> bool;
    /// Some of the work, within the section.
    fn serve(&mut self, link: &Link, shared: &mut Shared);
    /// All of it, in memory that the client does not share.
    fn serve_remote(&mut self, link: &Link, epoch: u64);
}

impl Served for Stream {
    fn rings(&mut self) -> &mut Rings {
        &mut self.rings
    }

    fn has_work(&self) -> bool {
        self.rings.has_work()
    }

    fn serve(&mut self, link: &Link, shared: &mut Shared) {
        self.serve(link, shared);
    }

    fn serve_remote(&mut self, link: &Link, epoch: u64) {
        self.serve_remote(link, epoch);
    }
}

impl Served for CaptureStream {
    fn rings(&mut self) -> &mut Rings {
        &mut self.rings
    }

    fn has_work(&self) -> bool {
        self.has_work()
    }

    fn serve(&mut self, link: &Link, shared: &mut Shared) {
        self.serve(link, shared);
    }

    fn serve_remote(&mut self, link: &Link, epoch: u64) {
        self.serve_remote(link, epoch);
    }
}

/// A section's worth of every stream.
struct Round<'a> {
    link: &'a Link,
    epoch: u64,
    /// Whether a stream has work left.
    left: bool,
    /// Whether one's rings are away.
    away: bool,
}

impl<'a> Round<'a> {
    #[inline]
    fn serve(
        &mut self,
        stream: &mut impl Served,
        mut shared: MutexGuard<'a, Shared>,
    ) -> Option<MutexGuard<'a, Shared>> {
        if !stream.has_work() {
            return Some(shared);
        }
        if stream.rings().is_remote(&shared) {
            // The transport, which receives the client's answers, must not wait for one that waits for them.
            drop(shared);
            stream.serve_remote(self.link, self.epoch);
            shared = self.link.lock();
            if shared.epoch != self.epoch || shared.shutdown {
                return None;
            }
        } else if stream.rings().is_away(self.link, &shared) {
            self.away = true;
            return Some(shared);
        } else {
            stream.serve(self.link, &mut shared);
        }
        self.left |= stream.has_work();
        Some(shared)
    }
}

impl Core {
    /// Fetches up to the tails that were last looked at, and publishes all completions, section by section. The last section goes on; `None`
    /// if a reset has made void what this turn is doing, or a ring is away.
    #[inline]
    pub(super) fn serve<'a>(
        &mut self,
        link: &'a Link,
        mut shared: MutexGuard<'a, Shared>,
    ) -> Option<MutexGuard<'a, Shared>> {
        loop {
            let mut round = Round { link, epoch: self.epoch, left: false, away: false };
            for stream in &mut self.streams {
                shared = round.serve(stream, shared)?;
            }
            for stream in &mut self.captures {
                shared = round.serve(stream, shared)?;
            }
            if !round.left && !round.away {
                return Some(shared);
            }
            drop(shared);
            if !round.left {
                // Nothing is rendered before what is granted is fetched. The transport needs the lock to bring the rings back.
                std::thread::yield_now();
                return None;
            }
            shared = link.lock();
            if shared.epoch != self.epoch {
                return None;
            }
        }
    }
}
