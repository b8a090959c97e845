//! The zoo: for each rule of the data sheet a driver that breaks it, and nothing else.
//!
//! Fed by the names of rules; feeds a bare stream of a card, and gives what the card says of it where a guest can see
//! it. It runs in process, in the bare-metal guest and in Linux: what a mistake needs of the place besides a platform
//! is in [`Machine`]. What the card counts is for whoever sees the card's side: see [`run`].

mod event;
mod machine;
mod memory;
mod ownership;
mod progress;
mod registers;
mod ring;
mod table;
mod verdict;
mod wake;

use crate::raw::{RawStream, SLOTS};
use alloc::vec::Vec;
use anyhow::{Context, ensure};
use core::time::Duration;
use dmus_interface::doorbell;
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::{self, Fault};
use dmus_interface::rule::{Code, Rule};
pub use machine::{Machine, Needs, Place, settle_by_page, sleep_by_page};
pub use table::Table;
pub use verdict::{Said, Verdict, words};

/// A bare stream of a card, wherever that is.
type Stream<'p> = RawStream<'p, dyn Machine + 'p>;

/// The least time from one mistake to the next on one card: its log has at most 20 lines of a kind in a second, and
/// must have room for two marks of each.
const PACE: Duration = Duration::from_millis(150);

/// A wrong driver.
#[derive(Clone, Copy, Debug)]
pub struct Mistake {
    /// The name of the rule that it breaks.
    pub rule: &'static str,
    /// What it does.
    pub what: &'static str,
    /// Whether it wants a card that runs in real time; else it wants one in virtual time.
    pub realtime: bool,
    /// What it needs of the machine.
    pub needs: Needs,
    /// Messages that the card counts as refused.
    pub messages: u64,
    /// What comes before, with the stream's registers filled. The card must have found nothing wrong at its end.
    before: fn(&Stream<'_>) -> anyhow::Result<()>,
    make: fn(&Stream<'_>) -> anyhow::Result<()>,
}

impl Mistake {
    /// One on a card in virtual time, anywhere.
    const fn new(
        rule: &'static str,
        what: &'static str,
        before: fn(&Stream<'_>) -> anyhow::Result<()>,
        make: fn(&Stream<'_>) -> anyhow::Result<()>,
    ) -> Self {
        Self { rule, what, realtime: false, needs: Needs::Nothing, messages: 0, before, make }
    }

    /// One for which messages are refused.
    const fn refusing(self, messages: u64) -> Self {
        Self { messages, ..self }
    }

    /// One on a card that runs in real time.
    const fn in_realtime(self) -> Self {
        Self { realtime: true, ..self }
    }

    /// One that not every machine can make.
    const fn needing(self, needs: Needs) -> Self {
        Self { needs, ..self }
    }

    /// The code of its rule.
    ///
    /// # Errors
    /// There is no such rule.
    pub fn code(&self) -> anyhow::Result<Code> {
        Ok(Rule::find(self.rule).with_context(|| alloc::format!("there is no rule {}", self.rule))?.code)
    }

    /// Resets the card, makes the mistake, gives what the card says of it, and resets the card again. `mark` is called
    /// right before the mistake and once all is said: what the card counts in between is the mistake's.
    ///
    /// # Errors
    /// One of the trial, not of the card: the mistake cannot be made here, or the card answers what precedes it
    /// otherwise than it should.
    pub fn run(&self, machine: &dyn Machine, mark: &mut dyn FnMut()) -> anyhow::Result<Vec<Said>> {
        let s = RawStream::prepare(machine, PointerWidth::Eight)?;
        let said = self.run_on(&s, mark);
        s.close();
        said
    }

    fn run_on(&self, s: &Stream<'_>, mark: &mut dyn FnMut()) -> anyhow::Result<Vec<Said>> {
        (self.before)(s)?;
        let early = observe(s)?;
        ensure!(early.is_empty(), "before the mistake, the card said: {}", words(&early));
        mark();
        (self.make)(s)?;
        let said = observe(s)?;
        mark();
        Ok(said)
    }
}

/// What comes before a mistake that needs no stream.
fn prepared(_: &Stream<'_>) -> anyhow::Result<()> {
    Ok(())
}

/// Lets the card do all that it has to, and gives what it says, completions that refuse nothing left out.
fn observe(s: &Stream<'_>) -> anyhow::Result<Vec<Said>> {
    s.platform.settle(&s.rung)?;
    let mut said = Vec::new();
    let mut completions = 0;
    while !s.is_drained() {
        completions += 1;
        ensure!(completions <= SLOTS, "the card completes more slots than there are");
        said.extend(s.completion()?.reason.map(Said::Completion));
    }
    said.extend(s.take_fault().map(Said::Fault));
    said.extend(Fault::decode(s.word(doorbell::REFUSAL)).map(Said::Refusal));
    Ok(said)
}

/// Makes mistakes one after the other on one card, which must have the clock that they want, and shows `report` what
/// the card said of each. Before and after the `n`th it writes 2 `n` + 1 and 2 `n` + 2 to FAULT, which the card's log
/// shows (`DMUS_LOG=dmus_card::log=debug`) with what the card has counted: so what the log says of each can be told
/// apart, though it comes by another way than the reports.
///
/// # Errors
/// The card is gone.
pub fn run(
    machine: &dyn Machine,
    mistakes: &[&Mistake],
    mut report: impl FnMut(&Mistake, anyhow::Result<Vec<Said>>),
) -> anyhow::Result<()> {
    for (index, mistake) in (0..).zip(mistakes) {
        ensure!(machine.read32(regs::MAGIC.offset) == regs::MAGIC_VALUE, "there is no card, or it has gone");
        let begun = machine.now();
        let mut mark = index * 2;
        let said = mistake.run(machine, &mut || {
            mark += 1;
            machine.write32(regs::FAULT.offset, mark);
        });
        report(mistake, said);
        while machine.now().saturating_sub(begun) < PACE {
            machine.wait(0, PACE);
        }
    }
    Ok(())
}

/// Every mistake, in the order of the rules' codes.
pub fn mistakes() -> Vec<&'static Mistake> {
    let groups: [&[Mistake]; 7] = [
        &event::MISTAKES,
        &ring::MISTAKES,
        &memory::MISTAKES,
        &registers::MISTAKES,
        &progress::MISTAKES,
        &ownership::MISTAKES,
        &wake::MISTAKES,
    ];
    let mut all: Vec<&Mistake> = groups.into_iter().flatten().collect();
    all.sort_by_key(|mistake| Rule::ALL.iter().position(|rule| rule.name == mistake.rule));
    all
}

/// The mistakes that break these rules, by name or code; without any, all.
///
/// # Errors
/// There is no such rule.
pub fn select<T: AsRef<str>>(rules: &[T]) -> anyhow::Result<Vec<&'static Mistake>> {
    let mut names = Vec::new();
    for rule in rules {
        let rule = rule.as_ref();
        let found = Rule::find(rule);
        names.push(found.with_context(|| alloc::format!("there is no rule {rule}: `dmus-card explain` lists them"))?);
    }
    let mut chosen = mistakes();
    chosen.retain(|mistake| names.is_empty() || names.iter().any(|rule| rule.name == mistake.rule));
    Ok(chosen)
}
