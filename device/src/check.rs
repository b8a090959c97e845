//! The checker: names what a driver does wrong, in full the first time, and counts it from then on.
//!
//! Fed by sections with faults and refusals, by what watches each stream and the doorbell page; feeds standard
//! error, the report file and the exit status. It changes nothing that a driver sees: registers, completions and audio
//! are those of a card that does not check.

mod culprit;
mod describe;
mod journal;
mod observer;
mod page;
mod report;

pub(crate) use describe::{Details, Place};
pub(crate) use observer::Observer;
pub(crate) use page::Word;

use crate::log;
use dmus_interface::rule::{Code, Rule, Severity};
use parking_lot::Mutex;
use std::str::FromStr;

/// How many reports a process gives in full: each new client is told once again of each kind.
const FULL_REPORTS: u32 = 1000;

/// A rule that may be broken.
#[derive(Clone, Debug)]
pub struct Allowed {
    /// The rule.
    pub rule: &'static Rule,
    /// Why, for the report.
    pub reason: String,
}

/// Why a text is no `NAME=REASON`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// Nobody would know later why.
    #[error("expected NAME=REASON, as in not-zeroed=\"nobody reads them\"")]
    NoReason,
    /// The name is none.
    #[error("there is no such rule; `dmus-card explain` lists them all")]
    NoRule,
}

impl FromStr for Allowed {
    type Err = NotAllowed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, reason) = text.split_once('=').ok_or(NotAllowed::NoReason)?;
        let rule = Rule::find(name).ok_or(NotAllowed::NoRule)?;
        let reason = reason.trim();
        if reason.is_empty() { Err(NotAllowed::NoReason) } else { Ok(Self { rule, reason: reason.to_owned() }) }
    }
}

/// What is known of a rule so far.
#[derive(Clone, Debug)]
struct Tally {
    rule: &'static Rule,
    allowed: Option<String>,
    count: u64,
    /// The first of its kind.
    first: Option<Box<Details>>,
    /// The present client was told.
    told: bool,
}

#[derive(Debug)]
struct Book {
    /// In the order of [`Rule::ALL`].
    tallies: Vec<Tally>,
    full_reports: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Checker(Mutex<Book>);

impl Checker {
    /// Nothing was found yet. What is allowed is counted and reported, and is no reason to fail.
    pub fn new(allowed: &[Allowed]) -> Self {
        let reason = |rule: &Rule| allowed.iter().find(|allowed| allowed.rule.name == rule.name);
        let tally = |rule: &'static Rule| Tally {
            rule,
            allowed: reason(rule).map(|allowed| allowed.reason.clone()),
            count: 0,
            first: None,
            told: false,
        };
        Self(Mutex::new(Book { tallies: Rule::ALL.iter().map(tally).collect(), full_reports: 0 }))
    }

    /// A rule was broken. It is described if that is the first time for this client.
    pub(crate) fn found(&self, code: Code, describe: impl FnOnce() -> Details) {
        let mut book = self.0.lock();
        let Book { tallies, full_reports } = &mut *book;
        let Some(tally) = tallies.iter_mut().find(|tally| tally.rule.code == code) else {
            return;
        };
        tally.count += 1;
        if std::mem::replace(&mut tally.told, true) || *full_reports == FULL_REPORTS {
            return;
        }
        *full_reports += 1;
        let details = describe();
        let text = report::text(tally.rule, tally.allowed.as_deref(), &details);
        tally.first.get_or_insert(Box::new(details));
        drop(book);
        if tracing::enabled!(tracing::Level::WARN) {
            log::say(&text);
        }
    }

    /// Whether a breach of this rule would be described.
    pub(crate) fn is_news(&self, code: Code) -> bool {
        self.0.lock().tallies.iter().any(|tally| tally.rule.code == code && !tally.told)
    }

    /// The client has gone: the next one is told everything anew.
    pub(crate) fn next_client(&self) {
        self.0.lock().tallies.iter_mut().for_each(|tally| tally.told = false);
    }

    /// How often each rule was broken that was, by the rules' order.
    pub fn counts(&self) -> Vec<(&'static Rule, u64)> {
        let book = self.0.lock();
        book.tallies.iter().filter(|tally| tally.count > 0).map(|tally| (tally.rule, tally.count)).collect()
    }

    /// Whether a rule was broken that is an error and not allowed.
    pub fn has_errors(&self) -> bool {
        let is_error =
            |tally: &Tally| tally.count > 0 && tally.rule.severity == Severity::Error && tally.allowed.is_none();
        self.0.lock().tallies.iter().any(is_error)
    }

    /// One line for the end: what was found, and where to read on; `None` if nothing was.
    pub fn summary(&self) -> Option<String> {
        report::summary(&self.0.lock().tallies)
    }

    /// All that was found, as the README of this crate documents it.
    pub fn json(&self) -> serde_json::Value {
        report::json(&self.0.lock().tallies)
    }
}
