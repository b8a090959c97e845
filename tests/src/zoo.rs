//! The zoo: for each rule of the data sheet a driver that breaks it, and nothing else.
//!
//! Fed by the names of rules; feeds a bare stream of a card in this process, and gives what the card said of it. The
//! whole zoo needs the allocator of [`counting`](crate::counting): one rule is about a card that is short of memory.

mod event;
mod memory;
mod progress;
mod registers;
mod ring;

use crate::direct::Direct;
use crate::raw::RawStream;
use anyhow::{Context, ensure};
use dmus_driver::Platform;
use dmus_interface::doorbell;
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::{self, Fault};
use dmus_interface::ring::Reject;
use dmus_interface::rule::{Code, Rule};
use std::fmt;

/// A bare stream of a card in this process.
type Stream<'p> = RawStream<'p, Direct>;

/// A wrong driver.
#[derive(Debug)]
pub struct Mistake {
    /// The name of the rule that it breaks.
    pub rule: &'static str,
    /// What it does.
    pub what: &'static str,
    /// The card that it does it to.
    card: fn() -> anyhow::Result<Direct>,
    /// What comes before, with the stream's registers filled. The card must have found nothing wrong at its end.
    before: fn(&Stream<'_>) -> anyhow::Result<()>,
    make: fn(&Stream<'_>) -> anyhow::Result<()>,
    /// Messages that the card counts as refused.
    messages: u64,
}

impl Mistake {
    /// One on a card in virtual time.
    const fn new(
        rule: &'static str,
        what: &'static str,
        before: fn(&Stream<'_>) -> anyhow::Result<()>,
        make: fn(&Stream<'_>) -> anyhow::Result<()>,
    ) -> Self {
        Self { rule, what, card: Direct::new, before, make, messages: 0 }
    }

    /// One for which messages are refused.
    const fn refusing(self, messages: u64) -> Self {
        Self { messages, ..self }
    }

    /// The code of its rule.
    pub fn code(&self) -> anyhow::Result<Code> {
        Ok(Rule::find(self.rule).with_context(|| format!("there is no rule {}", self.rule))?.code)
    }

    /// Makes the mistake, and gives what the card said of it. An error is one of the trial, not of the card.
    pub fn run(&self) -> anyhow::Result<Verdict> {
        let platform = (self.card)()?;
        let s = RawStream::prepare(&platform, PointerWidth::Eight)?;
        (self.before)(&s)?;
        let early = observe(&s)?;
        ensure!(early.is_empty(), "before the mistake, the card said: {}", list(&early));
        let (faults, messages) = (platform.stats.faults.get(), platform.stats.rejected.get());
        (self.make)(&s)?;
        Ok(Verdict {
            said: observe(&s)?,
            faults: platform.stats.faults.get() - faults,
            messages: platform.stats.rejected.get() - messages,
            expected_messages: self.messages,
        })
    }
}

/// Where the card named a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// In a completion.
    Completion(Reject),
    /// In FAULT.
    Fault(Fault),
    /// In REFUSAL, as the answer to a transition.
    Refusal(Fault),
}

impl Said {
    fn code(self) -> Code {
        match self {
            Self::Completion(reject) => Code::Reject(reject),
            Self::Fault(fault) | Self::Refusal(fault) => Code::Fault(fault),
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self {
            Self::Completion(_) => "completion",
            Self::Fault(_) => "FAULT",
            Self::Refusal(_) => "REFUSAL",
        };
        write!(f, "{place} {}", self.code())
    }
}

/// What the card said of a mistake.
#[derive(Debug)]
pub struct Verdict {
    /// What it said, the completions first.
    pub said: Vec<Said>,
    /// Faults that it counted.
    pub faults: u64,
    /// Messages that it counted as refused.
    pub messages: u64,
    expected_messages: u64,
}

impl Verdict {
    /// Whether the card named this code once, and found nothing else.
    pub fn names_alone(&self, code: Code) -> bool {
        let refused = self.said.iter().filter(|said| matches!(said, Said::Completion(_))).count();
        let recorded = self.said.iter().any(|said| matches!(said, Said::Fault(_)));
        let place = match code {
            Code::Reject(_) => (refused, self.faults) == (1, 0),
            Code::Fault(_) => (refused, self.faults) == (0, 1) && recorded,
        };
        place && self.said.iter().all(|said| said.code() == code) && self.messages == self.expected_messages
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", list(&self.said))?;
        if self.faults > 1 {
            write!(f, " of {} faults", self.faults)?;
        }
        if self.messages != self.expected_messages {
            write!(f, ", {} messages refused, not {}", self.messages, self.expected_messages)?;
        }
        Ok(())
    }
}

fn list(said: &[Said]) -> String {
    let said: Vec<String> = said.iter().map(Said::to_string).collect();
    if said.is_empty() { "nothing".into() } else { said.join(", ") }
}

/// What comes before a mistake that needs no stream.
fn prepared(_: &Stream<'_>) -> anyhow::Result<()> {
    Ok(())
}

/// Lets the card do all that it has to, and gives what it says, completions that refuse nothing left out.
fn observe(s: &Stream<'_>) -> anyhow::Result<Vec<Said>> {
    s.platform.run_until_idle();
    // A register access tells the card that the driver is not just moving memory: what is away is gone.
    s.platform.read32(regs::MAGIC.offset);
    s.platform.run_until_idle();
    let mut said = Vec::new();
    while !s.is_drained() {
        said.extend(s.completion()?.reason.map(Said::Completion));
    }
    said.extend(s.take_fault().map(Said::Fault));
    said.extend(Fault::decode(s.word(doorbell::REFUSAL)).map(Said::Refusal));
    Ok(said)
}

/// Every mistake, in the order of the rules' codes.
pub fn mistakes() -> Vec<&'static Mistake> {
    let groups: [&[Mistake]; 5] =
        [&event::MISTAKES, &ring::MISTAKES, &memory::MISTAKES, &registers::MISTAKES, &progress::MISTAKES];
    let mut all: Vec<&Mistake> = groups.into_iter().flatten().collect();
    all.sort_by_key(|mistake| Rule::ALL.iter().position(|rule| rule.name == mistake.rule));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_named_alone_only_if_nothing_else_was_said_or_counted() {
        let verdict =
            |said: &[Said], faults, messages| Verdict { said: said.to_vec(), faults, messages, expected_messages: 1 };
        let (refused, other) = (Said::Completion(Reject::Empty), Said::Completion(Reject::BadFlags));
        let (fault, refusal) = (Said::Fault(Fault::Closed), Said::Refusal(Fault::Closed));
        let (reject, closed) = (Code::Reject(Reject::Empty), Code::Fault(Fault::Closed));
        assert!(verdict(&[refused], 0, 1).names_alone(reject));
        assert!(verdict(&[fault, refusal], 1, 1).names_alone(closed));
        let wrong: [(&[Said], u64, u64, Code); 9] = [
            (&[], 0, 1, reject),
            (&[other], 0, 1, reject),
            (&[refused, refused], 0, 1, reject),
            (&[refused, fault], 1, 1, reject),
            (&[refused], 1, 1, reject),
            (&[refused], 0, 2, reject),
            (&[fault], 2, 1, closed),
            (&[refusal], 1, 1, closed),
            (&[refused, fault], 1, 1, closed),
        ];
        for (said, faults, messages, code) in wrong {
            assert!(!verdict(said, faults, messages).names_alone(code), "{said:?}, {faults}, {messages}");
        }
    }
}
