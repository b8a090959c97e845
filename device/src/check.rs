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
mod request;
mod wake;

pub(crate) use culprit::of_word as culprit_of_word;
pub(crate) use describe::{Details, Place, hex, kind, message};
pub(crate) use observer::Observer;
pub(crate) use page::Word;
pub(crate) use report::{seconds, write_event, write_history};
pub(crate) use request::COMPARED;
pub(crate) use wake::{DriverWords, Rings};

use crate::dma::owners::Owners;
use crate::log;
use dmus_interface::rule::{Code, Rule, Severity};
use parking_lot::Mutex;
use std::str::FromStr;
use std::sync::Arc;

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
    /// The last report in full.
    last: Option<String>,
    /// What was found since somebody last asked, if somebody does.
    news: Option<Vec<Breach>>,
}

/// A breach of a rule.
#[derive(Clone, Debug)]
pub(crate) struct Breach {
    pub(crate) rule: &'static Rule,
    pub(crate) stream: Option<usize>,
    pub(crate) slot: Option<u32>,
    /// The report in full, of the first of its kind.
    pub(crate) report: Option<String>,
}

/// Breaches that are kept until somebody asks.
const KEPT: usize = 4096;

/// At which mistakes a plugin of QEMU holds the guest.
#[derive(Debug)]
pub struct Stop {
    /// What the plugin is told by. Its stopping has to be [set](Owners::set_stopping). None in a replay, which judges
    /// as the card did and holds nobody.
    pub owners: Option<Arc<Owners>>,
    /// At each breach of this rule; else at the first of each that is an error and not allowed.
    pub at: Option<&'static Rule>,
}

impl Stop {
    fn is_at(&self, tally: &Tally, news: bool) -> bool {
        match self.at {
            Some(rule) => rule.code == tally.rule.code,
            None => news && tally.is_error(),
        }
    }
}

impl Tally {
    fn is_error(&self) -> bool {
        self.rule.severity == Severity::Error && self.allowed.is_none()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Checker {
    book: Mutex<Book>,
    stop: Option<Stop>,
}

impl Checker {
    /// Nothing was found yet. What is allowed is counted and reported, and is no reason to fail.
    pub fn new(allowed: &[Allowed], stop: Option<Stop>) -> Self {
        let reason = |rule: &Rule| allowed.iter().find(|allowed| allowed.rule.name == rule.name);
        let tally = |rule: &'static Rule| Tally {
            rule,
            allowed: reason(rule).map(|allowed| allowed.reason.clone()),
            count: 0,
            first: None,
            told: false,
        };
        let book = Book { tallies: Rule::ALL.iter().map(tally).collect(), full_reports: 0, last: None, news: None };
        Self { book: Mutex::new(book), stop }
    }

    /// Whether a plugin holds the guest at mistakes, and waits for the card to judge.
    pub(crate) fn stops(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.owners.is_some())
    }

    /// What was found since the last call, and from the first one on.
    pub(crate) fn take_news(&self) -> Vec<Breach> {
        self.book.lock().news.replace(Vec::new()).unwrap_or_default()
    }

    /// What it takes to make another one that judges as this one does.
    pub(crate) fn options(&self) -> (Vec<Allowed>, Option<Option<&'static Rule>>) {
        let book = self.book.lock();
        let allowed = book.tallies.iter().filter_map(|tally| {
            let reason = tally.allowed.clone()?;
            Some(Allowed { rule: tally.rule, reason })
        });
        (allowed.collect(), self.stop.as_ref().map(|stop| stop.at))
    }

    /// A rule was broken. It is described if that is the first time for this client.
    pub(crate) fn found(&self, code: Code, describe: impl FnOnce() -> Details) {
        let mut book = self.book.lock();
        let Book { tallies, full_reports, last, news } = &mut *book;
        let Some(tally) = tallies.iter_mut().find(|tally| tally.rule.code == code) else {
            return;
        };
        tally.count += 1;
        let first = !std::mem::replace(&mut tally.told, true);
        let stop = self.stop.as_ref().filter(|stop| stop.is_at(tally, first));
        let breach = Breach { rule: tally.rule, stream: None, slot: None, report: None };
        let mut tell = |breach| _ = news.as_mut().filter(|news| news.len() < KEPT).map(|news| news.push(breach));
        if !first && stop.is_none() || *full_reports == FULL_REPORTS {
            tell(breach);
            return;
        }
        *full_reports += 1;
        let details = describe();
        let text = report::text(tally.rule, tally.allowed.as_deref(), &details);
        let Place { stream, slot, .. } = details.place;
        tell(Breach { stream, slot, report: Some(text.clone()), ..breach });
        tally.first.get_or_insert(Box::new(details));
        if tracing::enabled!(tracing::Level::WARN) {
            log::say(&text);
        }
        *last = Some(text);
        // With the report there, for whoever sees that the guest is held.
        if let Some(owners) = stop.and_then(|stop| stop.owners.as_ref()) {
            owners.stop();
        }
    }

    /// Whether a breach of this rule would be described.
    pub(crate) fn is_news(&self, code: Code) -> bool {
        let at = self.stop.as_ref().and_then(|stop| stop.at).is_some_and(|rule| rule.code == code);
        at || self.book.lock().tallies.iter().any(|tally| tally.rule.code == code && !tally.told)
    }

    /// The last report in full.
    pub(crate) fn last_report(&self) -> Option<String> {
        self.book.lock().last.clone()
    }

    /// The client has gone: the next one is told everything anew.
    pub(crate) fn next_client(&self) {
        self.book.lock().tallies.iter_mut().for_each(|tally| tally.told = false);
    }

    /// How often each rule was broken that was, by the rules' order.
    pub fn counts(&self) -> Vec<(&'static Rule, u64)> {
        let book = self.book.lock();
        book.tallies.iter().filter(|tally| tally.count > 0).map(|tally| (tally.rule, tally.count)).collect()
    }

    /// Whether a rule was broken that is an error and not allowed.
    pub fn has_errors(&self) -> bool {
        self.book.lock().tallies.iter().any(|tally| tally.count > 0 && tally.is_error())
    }

    /// One line for the end: what was found, and where to read on; `None` if nothing was.
    pub fn summary(&self) -> Option<String> {
        report::summary(&self.book.lock().tallies)
    }

    /// All that was found, as the README of this crate documents it.
    pub fn json(&self) -> serde_json::Value {
        report::json(&self.book.lock().tallies)
    }
}
