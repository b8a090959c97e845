//! The phases in which a turn looks at the page and brings in what its words publish.
//!
//! Fed by the doorbell page with grant and tails; feeds the clock, and each stream with its section's worth.

use super::{Core, Streams, captures};
use crate::replay_log::Unusual;
use crate::shared::Section;
use crate::stream::RenderStream;
use dmus_interface::protocol::card::Poll;
use std::time::Duration;

/// From one look at memory that is away to the next while all is recorded: half a second of looks without a pause is
/// 10 MB.
const LOOK: Duration = Duration::from_micros(100);

/// What a fetch found.
pub(super) struct Fetched {
    /// Something was submitted.
    pub(super) worked: bool,
    /// Slots whose events wait for their time.
    pub(super) held: u32,
}

impl Core {
    /// Loads the grant, and says with what to load the tails after it: what a grant covers is among what these publish.
    #[inline(always)]
    pub(super) fn poll(&mut self, section: &mut Section<'_>) -> Poll {
        let poll = Poll::at(section.page());
        if self.clock.grant(poll.grant()).is_err() {
            section.grant_backward();
        }
        let Streams { capture, inputs, .. } = &self.streams;
        let reached = self.clock.now().horizon;
        let is_virtual = self.clock.is_virtual();
        self.clock.advance(|due| match is_virtual && !capture.is_empty() {
            true => captures::limit(capture, inputs, reached, due),
            false => due,
        });
        poll
    }

    /// Loads each stream's tail, fetches up to there and publishes what that completes: nothing is rendered before what
    /// is granted is fetched. `None` if a reset has made the turn void, or a ring is away for a moment.
    #[inline(always)]
    pub(super) fn fetch(&mut self, section: &mut Section<'_>, poll: Poll) -> Option<Fetched> {
        let (mut worked, mut held) = (false, 0);
        for stream in &mut self.streams.render {
            if stream.queues.poll(poll, section) {
                worked = true;
                if !stream.fetch(section) {
                    return self.fetch_all(section, poll);
                }
            }
            held += stream.held();
        }
        for stream in &mut self.streams.capture {
            if stream.queues.poll(poll, section) {
                worked = true;
                if !stream.exchange(section) {
                    return self.fetch_all(section, poll);
                }
            }
        }
        Some(Fetched { worked, held })
    }

    /// The same, of more than one section can fetch.
    #[cold]
    fn fetch_all(&mut self, section: &mut Section<'_>, poll: Poll) -> Option<Fetched> {
        if !section.is_of(self.epoch) {
            return None;
        }
        for stream in &mut self.streams.render {
            stream.queues.poll_again(poll, section);
        }
        for stream in &mut self.streams.capture {
            stream.queues.poll_again(poll, section);
        }
        self.fetch_rest(section).then(|| Fetched { worked: true, held: self.held() })
    }

    /// Slots of all streams whose events wait for their time.
    pub(super) fn held(&self) -> u32 {
        self.streams.render.iter().map(RenderStream::held).sum()
    }

    /// Goes on fetching, section by section. False as in [`Self::fetch`].
    #[cold]
    pub(super) fn fetch_rest(&mut self, section: &mut Section<'_>) -> bool {
        loop {
            section.unlocked(|| ());
            // What a reset in between has zeroed is no mistake of a driver.
            if !section.is_of(self.epoch) {
                return false;
            }
            let mut left = false;
            for stream in &mut self.streams.render {
                left |= !stream.fetch(section);
            }
            for stream in &mut self.streams.capture {
                left |= !stream.exchange(section);
            }
            if !left {
                return section.is_of(self.epoch);
            }
            let away = || self.is_away(section);
            let away = match section.shared().replay_log() {
                None => away(),
                Some(log) => log.unusual(Unusual::Away, away),
            };
            if away {
                self.give_way(section);
                return false;
            }
        }
    }

    /// Whether some stream's memory is away for a moment.
    fn is_away(&self, section: &Section<'_>) -> bool {
        let render = self.streams.render.iter().map(|stream| &stream.queues);
        let mut queues = render.chain(self.streams.capture.iter().map(|stream| &stream.queues));
        queues.any(|queues| queues.is_away(section))
    }

    /// The client is moving its memory, and the transport needs the lock for that.
    #[cold]
    pub(super) fn give_way(&mut self, section: &mut Section<'_>) {
        let records = section.shared().replay_log().is_some_and(|log| log.recording().is_some());
        section.unlocked(|| match records {
            true => std::thread::sleep(LOOK),
            false => std::thread::yield_now(),
        });
    }
}
