//! What the engine of a card does otherwise that takes liberties or has faults.
//!
//! Fed by the plan; feeds turns that come later, clocks that are wrong, and sleeps that begin or end without a reason.

use super::sleep::{LONGEST_SLEEP, WATCH};
use super::{Core, Turn};
use crate::deviation::{Deviations, Fault, Liberty};
use crate::shared::{Clocks, Section, Shared};
use crate::stream::queue::Queues;
use dmus_interface::time::RefTime;
use std::time::Duration;

/// How far clocks jump ahead: a minute.
const JUMP: i64 = 600_000_000;

/// What is wrong with the clocks, since they were these.
pub(super) struct ClockFault {
    fault: Fault,
    since: Clocks,
}

impl Core {
    /// A turn of a card that does otherwise.
    #[cold]
    pub(super) fn turn_deviating(&mut self, section: &mut Section<'_>, deviations: &Deviations) -> Turn {
        // What a replay finds, and when, is recorded.
        let is_live = section.shared().replay_log().is_none_or(|log| log.recording().is_some());
        let is_idle = !self.requests.any && !self.clock.has_moved() && self.clock.ahead() == 0;
        // The card may sleep after a turn that does nothing, and nobody rings for what it has kept itself. A vector
        // that the sleep raises is in no turn, where a replay looks for it.
        let owes = self.keeps() || deviations.has_deferred() || self.library.downloads.is_unloading();
        let comes_later = || deviations.takes(Liberty::FetchLater).is_some();
        if deviations.is_removed() || is_live && is_idle && !owes && comes_later() {
            return Turn::Quiet;
        }
        section.raise_deferred();
        let published = self.publish_kept(section);
        match self.take_turn::<true>(section) {
            Turn::Quiet if published => Turn::Worked,
            turn => turn,
        }
    }

    /// Whether a stream has completions that the turn before has kept.
    fn keeps(&self) -> bool {
        let render = self.streams.render.iter().map(|stream| &stream.queues);
        let mut queues = render.chain(self.streams.capture.iter().map(|stream| &stream.queues));
        queues.any(Queues::has_news)
    }

    /// Publishes what the turn before has kept.
    fn publish_kept(&mut self, section: &mut Section<'_>) -> bool {
        let mut any = false;
        for stream in &mut self.streams.render {
            any |= stream.queues.has_news() && stream.publish(section);
        }
        for stream in &mut self.streams.capture {
            any |= stream.queues.has_news() && stream.publish(section);
        }
        any
    }

    /// The clocks that are shown for these.
    pub(super) fn show_otherwise(&mut self, section: &Section<'_>, clocks: Clocks) -> Clocks {
        let Some(deviations) = section.shared().deviations() else {
            return clocks;
        };
        for fault in [Fault::ClockStands, Fault::ClockJumps, Fault::ClockSlow] {
            if deviations.has(fault) {
                self.clock_fault = Some(ClockFault { fault, since: section.clocks() });
            }
        }
        let Some(ClockFault { fault, since }) = &self.clock_fault else {
            return clocks;
        };
        match fault {
            Fault::ClockStands => *since,
            Fault::ClockJumps => Clocks { master: clocks.master.saturating_add(RefTime(JUMP)), ..clocks },
            _ => {
                let passed = clocks.master.saturating_sub(since.master).0 / 2;
                let samples = since.samples + clocks.samples.saturating_sub(since.samples) / 2;
                Clocks { master: since.master.saturating_add(RefTime(passed)), samples }
            }
        }
    }
}

/// How long the card has had nothing to do, as far as it goes by that.
pub(super) fn quiet_for(shared: &Shared, quiet: Duration) -> Duration {
    match shared.deviations() {
        Some(deviations) if deviations.takes(Liberty::Sleep).is_some() => quiet.max(WATCH),
        _ => quiet,
    }
}

/// How long a sleep lasts that ends when the driver rings.
pub(super) fn asleep_for(shared: &Shared, alarm: Option<Duration>) -> Option<Duration> {
    match shared.deviations() {
        Some(deviations) if deviations.takes(Liberty::Wake).is_some() => Some(LONGEST_SLEEP),
        _ => alarm,
    }
}
