//! What the card said of a mistake, and whether that was the rule's own code alone.
//!
//! Fed by a trial with what a guest sees, and by the card's side with what it counted; feeds the table.

use super::Mistake;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use dmus_interface::regs::Fault;
use dmus_interface::ring::Reject;
use dmus_interface::rule::{Code, Rule};

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

    /// The place and the code, as they are displayed.
    fn parse(text: &str) -> Option<Self> {
        let (place, code) = text.split_once(' ')?;
        match (place, Rule::find(code)?.code) {
            ("completion", Code::Reject(reject)) => Some(Self::Completion(reject)),
            ("FAULT", Code::Fault(fault)) => Some(Self::Fault(fault)),
            ("REFUSAL", Code::Fault(fault)) => Some(Self::Refusal(fault)),
            _ => None,
        }
    }

    /// Several as [`words`] gives them; `None` if it is anything else.
    pub fn parse_all(text: &str) -> Option<Vec<Self>> {
        match text {
            NOTHING => Some(Vec::new()),
            _ => text.split(", ").map(Self::parse).collect(),
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

const NOTHING: &str = "nothing";

/// In words, on one line.
pub fn words(said: &[Said]) -> String {
    let said: Vec<String> = said.iter().map(Said::to_string).collect();
    if said.is_empty() { NOTHING.into() } else { said.join(", ") }
}

/// What the card said of a mistake.
#[derive(Debug)]
pub struct Verdict {
    /// What it said, the completions first.
    pub said: Vec<Said>,
    /// What its checker named, each code once.
    pub named: Vec<Code>,
    /// Faults that it counted.
    pub faults: u64,
    /// Messages that it counted as refused.
    pub messages: u64,
    expected_messages: u64,
}

impl Verdict {
    /// What was said of this mistake, what the card's checker named, and what the card had counted (faults, and refused
    /// messages) at the marks before and after it.
    pub fn new(mistake: &Mistake, said: Vec<Said>, named: Vec<Code>, before: [u64; 2], after: [u64; 2]) -> Self {
        let [faults, messages] = [0, 1].map(|which| after[which].wrapping_sub(before[which]));
        Self { said, named, faults, messages, expected_messages: mistake.messages }
    }

    /// Whether the card named this code once, and found nothing else.
    pub fn names_alone(&self, code: Code) -> bool {
        let refused = self.said.iter().filter(|said| matches!(said, Said::Completion(_))).count();
        let recorded = self.said.iter().any(|said| matches!(said, Said::Fault(_)));
        let place = match code {
            Code::Reject(_) => (refused, self.faults) == (1, 0),
            Code::Fault(_) => (refused, self.faults) == (0, 1) && recorded,
            // What a driver can see of it, if it can, is a broader code.
            Code::Check(_) => refused <= 1 && self.faults <= 1,
        };
        let said_alone = matches!(code, Code::Check(_)) || self.said.iter().all(|said| said.code() == code);
        place && said_alone && self.named == [code] && self.messages == self.expected_messages
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |code: &Code| self.said.iter().any(|said| said.code() == *code);
        let report: Vec<String> =
            self.named.iter().filter(|code| !told(code)).map(|code| format!("report {code}")).collect();
        match self.said.is_empty() && !report.is_empty() {
            true => write!(f, "{}", report.join(", "))?,
            false => write!(f, "{}", [&[words(&self.said)], &report[..]].concat().join(", "))?,
        }
        if self.faults > 1 {
            write!(f, " of {} faults", self.faults)?;
        }
        if self.messages != self.expected_messages {
            write!(f, ", {} messages refused, not {}", self.messages, self.expected_messages)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmus_interface::rule::Check;

    #[test]
    fn a_code_is_named_alone_only_if_nothing_else_was_said_or_counted() {
        let named = |said: &[Said]| said.first().map(|said| said.code()).into_iter().collect();
        let verdict = |said: &[Said], faults, messages| Verdict {
            said: said.to_vec(),
            named: named(said),
            faults,
            messages,
            expected_messages: 1,
        };
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
        let unnamed = Verdict { named: Vec::new(), ..verdict(&[refused], 0, 1) };
        assert!(!unnamed.names_alone(reject));
        let check = Code::Check(Check::SlotChanged);
        let changed = Verdict { named: [check].into(), ..verdict(&[], 0, 1) };
        assert!(changed.names_alone(check) && !changed.names_alone(Code::Check(Check::BufferChanged)));
        for (said, faults, messages, code) in wrong {
            assert!(!verdict(said, faults, messages).names_alone(code), "{said:?}, {faults}, {messages}");
        }
    }

    #[test]
    fn what_was_said_is_read_back_from_its_words() {
        let all = [Said::Completion(Reject::Empty), Said::Fault(Fault::Closed), Said::Refusal(Fault::Closed)];
        for said in [&all[..0], &all[..1], &all] {
            assert_eq!(Said::parse_all(&words(said)).as_deref(), Some(said));
        }
        for text in ["", "completion", "completion F3", "FAULT R4", "FAULT F0", "FAULT F3,REFUSAL F3", "fault F3"] {
            assert_eq!(Said::parse_all(text), None, "{text}");
        }
    }
}
