//! What the engine tells of itself between two turns: a plugin that holds the guest until its last store is judged, and
//! the control socket.
//!
//! Fed by quiet turns; feeds the owners map with what is judged, and whoever asks with text.

use super::{Core, Turn};
use crate::check::{Word, kind, message, seconds, write_event, write_history};
use crate::dma::owners::Owners;
use crate::replay_log::Unusual;
use crate::shared::questions::Question;
use crate::shared::{Clocks, Section};
use crate::stream::in_flight::InFlight;
use crate::stream::queue::Queues;
use dmus_interface::doorbell;
use dmus_interface::owners::Ring;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// What was last seen of the owners map.
#[derive(Debug, Default)]
pub(super) struct Seen {
    asked: u32,
    owned: u32,
}

/// A stream, to be described.
struct Parts<'a> {
    queues: &'a Queues,
    state: State,
    in_flight: &'a InFlight,
    /// Stream times of the submissions that wait.
    due: BTreeMap<u32, i64>,
}

impl Core {
    /// With nothing to do for the second time, a card that checks looks whether the page's words are as it stored them.
    #[inline(never)]
    pub(super) fn check_page(&mut self, section: &Section<'_>) {
        let Some(checker) = section.shared().checker() else {
            return;
        };
        let clocks = section.clocks();
        let quiet = self.sleeper.is_quiet_again(clocks.samples);
        let log = section.shared().replay_log();
        if !quiet && log.is_none() {
            return;
        }
        let words = self.own_words(section, clocks);
        let wrong = || quiet && words.iter().any(|(offset, word)| word.is_wrong(section.page(), *offset));
        let look = match log {
            None => wrong(),
            Some(log) => log.unusual(Unusual::WrongWords, wrong),
        };
        if look {
            let load = |offset, wide| match log {
                None => section.page().load(offset, wide),
                Some(log) => log.word(section.page(), offset, wide),
            };
            let culprit = |word| section.last_store(word);
            checker.check_page(section.page(), clocks.master, &words, load, culprit);
        }
    }

    /// What the words of the page are that only the card stores, as it stored them.
    fn own_words(&self, section: &Section<'_>, clocks: Clocks) -> Vec<(usize, Word)> {
        let render = self.streams.render.iter().map(|stream| (&stream.queues, stream.state));
        let streams = render.chain(self.streams.capture.iter().map(|stream| (&stream.queues, stream.state)));
        let of_streams = streams.flat_map(|(queues, state)| {
            let at = |word| doorbell::at(queues.stream, word);
            let head = Word::Half(queues.completions.published());
            [(at(doorbell::COMPLETION_HEAD), head), (at(doorbell::STATE), Word::Half(state as u32))]
        });
        let of_clocks = [
            (doorbell::MASTER_TIME, Word::Whole(clocks.master.0 as u64)),
            (doorbell::SAMPLE_POSITION, Word::Whole(clocks.samples)),
            (doorbell::COMMANDS, Word::Half(section.commands())),
        ];
        of_streams.chain(of_clocks).collect()
    }

    /// A turn has found nothing to do. Whether it was quiet indeed, or another one is wanted at once.
    #[inline(never)]
    pub(super) fn inspect(&mut self, section: &mut Section<'_>) -> Turn {
        let shared = section.shared();
        shared.questions().answer(|question| self.answer(question, section));
        if let Some(look) = shared.replay_log().and_then(|log| log.replayed_judgement()) {
            self.judge_as(look, section);
        }
        let Some(owners) = shared.owners().filter(|owners| !owners.is_judged(owners.asked())) else {
            return Turn::Quiet;
        };
        let asked = owners.asked();
        if std::mem::replace(&mut self.seen.asked, asked) != asked {
            // This turn may have polled the page before the last store.
            return Turn::Worked;
        }
        self.judge(section, owners);
        owners.set_judged(asked);
        Turn::Quiet
    }

    /// What no turn has found by itself: a change of what is held, and tails of closed streams.
    fn judge(&mut self, section: &mut Section<'_>, owners: &Owners) {
        let owned = owners.count(Ring::Owned);
        let stored = std::mem::replace(&mut self.seen.owned, owned) != owned;
        if let Some(log) = section.shared().replay_log() {
            log.note_judgement(stored);
        }
        self.judge_as(stored, section);
    }

    /// The guest has `stored` into what is held, or only to the page.
    fn judge_as(&mut self, stored: bool, section: &mut Section<'_>) {
        self.report_closed(section);
        if !stored {
            return;
        }
        for stream in &self.streams.render {
            stream.look_at_held(section);
        }
        for stream in &self.streams.capture {
            stream.look_at_posted(section);
        }
    }

    fn answer(&self, question: Question, section: &Section<'_>) -> String {
        let mut text = String::new();
        // A string takes all that is written to it.
        let _ = match question {
            Question::Violation => {
                let report = section.shared().checker().and_then(|checker| checker.last_report());
                text.write_str(report.as_deref().unwrap_or("no rule was broken so far"))
                    .and_then(|()| text.write_char('\n'))
            }
            Question::Slots => text.write_str(&self.slots()),
            Question::Slot(slot) => self.parts().try_for_each(|parts| parts.slot(slot, section, &mut text)),
        };
        if text.is_empty() { "no stream is open\n".into() } else { text }
    }

    /// The open streams, and each slot that the card owns, in words.
    pub(super) fn slots(&self) -> String {
        let mut text = String::new();
        // A string takes all that is written to it.
        let _ = self.parts().try_for_each(|parts| parts.slots(&mut text));
        text
    }

    /// The same, and whose each slot is that was in use, with its last steps if these are known.
    pub(super) fn slots_with_histories(&self) -> String {
        let mut text = String::new();
        let _ = self.parts().try_for_each(|parts| parts.slots_with_histories(&mut text));
        text
    }

    fn parts(&self) -> impl Iterator<Item = Parts<'_>> {
        let render = self.streams.render.iter().map(|stream| {
            let (queues, state) = (&stream.queues, stream.state);
            let due = stream.due().map(|(time, head)| (head, time)).collect();
            Parts { queues, state, in_flight: stream.in_flight(), due }
        });
        render.chain(self.streams.capture.iter().map(|stream| {
            let (queues, state) = (&stream.queues, stream.state);
            Parts { queues, state, in_flight: stream.in_flight(), due: BTreeMap::new() }
        }))
    }
}

impl Parts<'_> {
    /// The stream in a line, and each slot that the card owns in another.
    fn slots(&self, text: &mut String) -> fmt::Result {
        self.stream(text)?;
        (0..self.queues.config.slots)
            .filter(|slot| self.in_flight.is_owned(*slot))
            .try_for_each(|slot| writeln!(text, "  slot {slot:<5} {}", self.held(slot)))
    }

    fn slots_with_histories(&self, text: &mut String) -> fmt::Result {
        self.stream(text)?;
        for slot in 0..self.queues.config.slots {
            let history = self.queues.observer.as_deref().map_or(Vec::new(), |observer| observer.history(slot));
            if history.is_empty() && !self.in_flight.is_owned(slot) {
                continue;
            }
            writeln!(text, "  slot {slot:<5} {}", self.owner(slot))?;
            let mut lines = String::new();
            write_history(&mut lines, &history)?;
            lines.lines().try_for_each(|line| writeln!(text, "  {line}"))?;
        }
        Ok(())
    }

    fn stream(&self, text: &mut String) -> fmt::Result {
        let Queues { stream, config, submissions, completions, .. } = self.queues;
        let state = format!("{:?}", self.state);
        writeln!(
            text,
            "stream {stream}, {}, {}: {} of {} slots are the card's; tail {}, fetched {}, completed {}",
            kind(config.kind),
            state.to_uppercase(),
            self.in_flight.owned(),
            config.slots,
            submissions.tail(),
            submissions.fetched(),
            completions.published()
        )
    }

    fn owner(&self, slot: u32) -> String {
        match self.in_flight.is_owned(slot) {
            true => format!("the card's: {}", self.held(slot)),
            false => "the driver's".into(),
        }
    }

    /// What the card holds of a slot that it owns, in words.
    fn held(&self, slot: u32) -> String {
        let what = match self.in_flight.bytes(slot) {
            Some(bytes) => message(bytes),
            None if self.due.contains_key(&slot) => "the head of a package".into(),
            None => "posted, or part of a submission".into(),
        };
        match self.due.get(&slot) {
            None => what,
            Some(time) if *time < 0 => format!("{what}, due at once"),
            Some(time) => format!("{what}, due {} of stream time", seconds(RefTime(*time))),
        }
    }

    fn slot(&self, slot: u32, section: &Section<'_>, text: &mut String) -> fmt::Result {
        let Queues { stream, config, .. } = self.queues;
        if slot >= config.slots {
            return writeln!(text, "stream {stream} has {} slots and no slot {slot}", config.slots);
        }
        writeln!(text, "stream {stream}, slot {slot}: {}", self.owner(slot))?;
        let details = self.queues.observer.as_deref().zip(section.view(*stream));
        let Some(details) = details.map(|(observer, mut view)| observer.details_of(&mut view, slot, None)) else {
            return writeln!(text, "  its memory cannot be looked at now");
        };
        if let Some(seen) = &details.event {
            write_event(text, "memory", seen)?;
        }
        write_history(text, &details.history)
    }
}
