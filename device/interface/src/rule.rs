//! The rules that a driver can break: each has the code by which the card names it, a name, what it means, the likely
//! cause and the mend.
//!
//! Fed by the codes of [`crate::ring`], [`crate::regs`] and the card's checker; feeds the card's log, its report and
//! `dmus-card explain`, so that whatever is said of a code is said once.

mod check;
mod fault;
mod submission;

use crate::regs::Fault;
use crate::ring::Reject;
pub use check::Check;
use core::fmt;

/// The code of a rule: of a submission that was refused, written `R` and its number, of a fault, `F` and its number, or
/// of what only a card that checks names, `C` and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// In the flags of the completion.
    Reject(Reject),
    /// In the FAULT register, or on the doorbell page as the answer to a transition.
    Fault(Fault),
    /// Only in the report of the card.
    Check(Check),
}

impl Code {
    /// What it says, as a sentence without its full stop.
    pub fn meaning(&self) -> &dyn fmt::Display {
        match self {
            Self::Reject(reject) => reject,
            Self::Fault(fault) => fault,
            Self::Check(check) => check,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reject(reject) => write!(f, "R{}", *reject as u16),
            Self::Fault(fault) => write!(f, "F{}", *fault as u32),
            Self::Check(check) => write!(f, "C{}", *check as u32),
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The driver is wrong.
    Error,
    /// Something was lost, or is about to be.
    Warning,
    /// Nothing is lost: it costs time, or shows what nobody should see.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

/// A rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its code.
    pub code: Code,
    /// Its name, in kebab case: no other rule's.
    pub name: &'static str,
    /// How bad it is to break it.
    pub severity: Severity,
    /// Where the data sheet states it: a module of this crate, and an item of it.
    pub section: &'static str,
    /// How drivers come to break it.
    pub cause: &'static str,
    /// What to do about it.
    pub mend: &'static str,
}

const SUBMISSIONS: usize = submission::RULES.len();
const FAULTS: usize = fault::RULES.len();

impl Rule {
    /// Every rule: the submissions, the faults, then what a card names that checks; each by its codes.
    pub const ALL: [Self; SUBMISSIONS + FAULTS + check::RULES.len()] = {
        let mut all = [check::RULES[0]; SUBMISSIONS + FAULTS + check::RULES.len()];
        let mut number = 0;
        while number < all.len() {
            all[number] = match number {
                _ if number < SUBMISSIONS => submission::RULES[number],
                _ if number < SUBMISSIONS + FAULTS => fault::RULES[number - SUBMISSIONS],
                _ => check::RULES[number - SUBMISSIONS - FAULTS],
            };
            number += 1;
        }
        all
    };

    /// The rule of a code.
    pub fn of(code: Code) -> Option<&'static Self> {
        Self::ALL.iter().find(|rule| rule.code == code)
    }

    /// The rule with this name, or with this code as it is written (R7, f14).
    pub fn find(text: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|rule| rule.name == text || is_code(text, rule.code))
    }
}

fn is_code(text: &str, code: Code) -> bool {
    let (letter, number) = match code {
        Code::Reject(reject) => ('R', reject as u32),
        Code::Fault(fault) => ('F', fault as u32),
        Code::Check(check) => ('C', check as u32),
    };
    let mut rest = text.chars();
    rest.next().is_some_and(|first| first.eq_ignore_ascii_case(&letter)) && rest.as_str().parse() == Ok(number)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::BTreeSet;
    use std::string::ToString;

    #[test]
    fn every_code_has_one_rule_in_the_order_of_codes() {
        let rejects = Reject::ALL.map(Code::Reject);
        let faults = Fault::ALL.map(Code::Fault);
        let checks = Check::ALL.map(Code::Check);
        let codes = rejects.into_iter().chain(faults).chain(checks);
        assert!(Rule::ALL.iter().map(|rule| rule.code).eq(codes));
    }

    #[test]
    fn names_are_kebab_case_and_unlike_each_other_and_every_text_is_whole_sentences() {
        let names: BTreeSet<&str> = Rule::ALL.iter().map(|rule| rule.name).collect();
        assert_eq!(names.len(), Rule::ALL.len());
        for rule in &Rule::ALL {
            let kebab =
                rule.name.split('-').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase()));
            assert!(kebab, "{}", rule.name);
            for text in [rule.cause, rule.mend] {
                let first = text.chars().next().is_some_and(|first| first.is_alphanumeric());
                assert!(first && text.ends_with('.'), "{}: {text}", rule.name);
            }
        }
    }

    #[test]
    fn a_rule_is_found_by_its_name_and_by_its_code() {
        for rule in &Rule::ALL {
            let code = rule.code.to_string();
            for text in [rule.name, &code, &code.to_lowercase()] {
                assert_eq!(Rule::find(text).map(|found| found.name), Some(rule.name), "{text}");
            }
        }
        for text in ["", "R", "F0", "R18x", "7", "Tail-Overrun", "é"] {
            assert!(Rule::find(text).is_none(), "{text}");
        }
    }
}
