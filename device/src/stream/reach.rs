//! How the memory of a stream is reached: in a section where it is shared whole, piece by piece outside of sections
//! where it is not, and by the replay log of a card that records or replays.
//!
//! Fed by the streams with what they do there; feeds that with the memory, which is the same to it whichever it is.

use super::queue::{Queues, SECTION};
use crate::deviation::{Deviations, FaultyMemory};
use crate::dma::{Pieces, Reach, StreamMemory};
use crate::replay_log::{Place, Recorded, ReplayLog, Replayed};
use crate::shared::Section;
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::stream::Type;
use dmus_interface::ring::{COMPLETION_SIZE, SUBMISSION_SIZE};
use std::time::Instant;

/// Something that is done with the memory of a stream.
pub(crate) trait Work {
    type Output;

    fn run(self, memory: &mut impl StreamMemory) -> Self::Output;
}

/// The same, as what changes the stream.
pub(crate) trait StreamWork: Work {
    /// It fetches what the tail publishes, of which pieces read all that is needed in few messages.
    const FETCHES: bool = false;

    fn queues(&mut self) -> &mut Queues;
}

/// A look, which changes nothing.
struct Look<F>(F);

impl<R, F: FnOnce(&mut dyn StreamMemory) -> R> Work for Look<F> {
    type Output = R;

    fn run(self, memory: &mut impl StreamMemory) -> R {
        self.0(memory)
    }
}

impl Queues {
    /// How the stream's parts can be reached; they are translated anew if the maps have changed.
    #[inline(always)]
    pub(crate) fn reach(&mut self, place: Place, section: &mut Section<'_>) -> Reach {
        match section.shared().replay_log() {
            None => self.find(section),
            Some(log) => log.reach(place, || self.find(section)),
        }
    }

    /// Where it is as it fetches, or takes over what is posted.
    pub(crate) fn fetching(&self) -> Place {
        Place::fetching(self.stream, self.submissions.fetched())
    }

    #[inline(always)]
    fn find(&mut self, section: &mut Section<'_>) -> Reach {
        match section.view(self.stream) {
            Some(_) => Reach::Whole,
            None => self.find_anew(section),
        }
    }

    #[cold]
    #[inline(never)]
    fn find_anew(&mut self, section: &mut Section<'_>) -> Reach {
        if section.renew(self.stream, &self.config) {
            // What was away may be back.
            self.away = None;
        }
        match section.view(self.stream) {
            Some(_) => Reach::Whole,
            None => self.find_pieces(section),
        }
    }

    /// Whether a part was found away, and may come back.
    pub(crate) fn is_away(&self, section: &Section<'_>) -> bool {
        self.away.is_some_and(|since| section.shared().is_remapping(since))
    }

    #[cold]
    fn find_pieces(&mut self, section: &Section<'_>) -> Reach {
        let config = &self.config;
        let bytes = |count: u32, size: u32| u64::from(count) * u64::from(size);
        let rings = [
            (config.submission_base, bytes(config.submission_entries, SUBMISSION_SIZE as u32), false),
            (config.completion_base, bytes(config.completion_entries, COMPLETION_SIZE as u32), true),
        ];
        let captured_into = [
            (config.pool_base, bytes(config.slots, config.stride), true),
            (config.buffer_base, bytes(config.buffers, config.buffer_size), true),
        ];
        let needed = if config.kind == Type::Render { &[][..] } else { &captured_into };
        let there = section.memory().is_some_and(|memory| {
            rings.iter().chain(needed).all(|(iova, len, write)| memory.allows(*iova, *len, *write))
        });
        if there {
            self.away = None;
            return Reach::Pieces;
        }
        let since = *self.away.get_or_insert_with(Instant::now);
        match section.shared().is_remapping(since) {
            true => Reach::Away,
            false => Reach::Pieces,
        }
    }

    /// Looks at the stream's memory, as it is now; `None` if it is not shared whole.
    pub(crate) fn look<R>(&self, section: &Section<'_>, look: impl FnOnce(&mut dyn StreamMemory) -> R) -> Option<R> {
        let log = section.shared().replay_log();
        let view = section.view(self.stream);
        if log.is_some_and(|log| !log.looks(|| view.is_some())) {
            return None;
        }
        observe(log, self.stream, self.config.width, || view, Look(look))
    }

    /// Does so piece by piece, outside of the section.
    pub(crate) fn look_by_pieces(&self, section: &mut Section<'_>, look: impl FnOnce(&mut dyn StreamMemory)) {
        let (shared, epoch) = (section.shared(), section.epoch());
        let pieces = || Some(Pieces::new(shared, epoch, &self.config));
        section.unlocked(|| observe(shared.replay_log(), self.stream, self.config.width, pieces, Look(look)));
    }
}

/// Does it by the way that is found at that place. `None` if the memory is away, or a reset has made it void
/// meanwhile.
#[inline(always)]
pub(super) fn access<W: StreamWork>(section: &mut Section<'_>, place: Place, mut work: W) -> Option<W::Output> {
    match work.queues().reach(place, section) {
        Reach::Whole => {
            let Queues { stream, config, .. } = *work.queues();
            match section.shared().deviations() {
                None => observe(section.shared().replay_log(), stream, config.width, || section.view(stream), work),
                Some(deviations) => access_with_faults(section, (stream, config.width), work, deviations),
            }
        }
        Reach::Pieces => by_pieces(section, work),
        Reach::Away => None,
    }
}

/// Does it in a section, on a card that may have faults; `None` if the card has reset itself meanwhile.
#[cold]
#[inline(never)]
fn access_with_faults<W: StreamWork>(
    section: &mut Section<'_>,
    (stream, width): (usize, PointerWidth),
    work: W,
    deviations: &Deviations,
) -> Option<W::Output> {
    let epoch = section.epoch();
    let work = WithFaults { work, deviations };
    let done = observe(section.shared().replay_log(), stream, width, || section.view(stream), work);
    section.reset_if_due();
    done.filter(|_| section.is_of(epoch))
}

/// What is done with the memory of a stream by a card that may have faults. They come on top of what is recorded, so
/// that a recording has what they fell upon.
struct WithFaults<'a, W> {
    work: W,
    deviations: &'a Deviations,
}

impl<W: Work> Work for WithFaults<'_, W> {
    type Output = W::Output;

    fn run(self, memory: &mut impl StreamMemory) -> W::Output {
        self.work.run(&mut FaultyMemory::new(memory, self.deviations))
    }
}

/// Does it piece by piece, outside of the section, as the engine; `None` if that was void.
#[cold]
pub(crate) fn by_pieces<W: StreamWork>(section: &mut Section<'_>, mut work: W) -> Option<W::Output> {
    let Queues { stream, config, submissions, .. } = work.queues();
    let (stream, config) = (*stream, *config);
    let (first, count) = (submissions.fetched(), submissions.pending().min(SECTION));
    let (shared, epoch) = (section.shared(), section.epoch());
    let pieces = || {
        let mut pieces = Pieces::new(shared, epoch, &config);
        if W::FETCHES {
            pieces.read_ahead(first, count);
        }
        Some(pieces)
    };
    let log = shared.replay_log();
    let done = section.unlocked(|| match shared.deviations() {
        None => observe(log, stream, config.width, pieces, work),
        Some(deviations) => observe(log, stream, config.width, pieces, WithFaults { work, deviations }),
    });
    section.reset_if_due();
    done.filter(|_| section.is_of(epoch))
}

/// Does it with the memory that is there, each access to which a recording notes, or with what a replay has of it.
#[inline(always)]
fn observe<M: StreamMemory, W: Work>(
    log: Option<&ReplayLog>,
    stream: usize,
    width: PointerWidth,
    memory: impl FnOnce() -> Option<M>,
    work: W,
) -> Option<W::Output> {
    let Some(log) = log else {
        return Some(work.run(&mut memory()?));
    };
    match log.recording() {
        Some(mut recording) => Some(work.run(&mut Recorded::new(memory()?, recording.memory()))),
        None => log.player().map(|mut player| work.run(&mut Replayed::new(&mut player, stream, width))),
    }
}
