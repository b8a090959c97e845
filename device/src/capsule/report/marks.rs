//! What is marked over time in every chart, and the breaches of rules as they were observed.
//!
//! Fed by violations, resets, late events and changes of state; feeds the charts and the section of violations.

use super::series::{Cell, Series};
use dmus_interface::pci::STREAMS;

/// Rules that are told apart: more than there are.
const RULES: usize = 256;

/// Of a report in words, how much is kept.
const REPORT: usize = 10_000;

/// What happened in a column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) violations: u64,
    /// The rule of the first of them.
    pub(super) rule: Option<&'static str>,
    /// Whose they are, a bit each; a violation of no stream is all streams'.
    pub(super) streams: u32,
    pub(super) resets: u64,
    pub(super) late: u64,
    pub(super) changes: u64,
}

impl Cell for Mark {
    fn fold(&mut self, later: &Self) {
        self.violations += later.violations;
        self.rule = self.rule.or(later.rule);
        self.streams |= later.streams;
        self.resets += later.resets;
        self.late += later.late;
        self.changes += later.changes;
    }
}

/// All marks of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    pub(super) columns: Series<Mark>,
}

impl Marks {
    pub(super) fn violation(&mut self, time: i64, rule: &'static str, stream: Option<usize>) {
        let streams = stream.filter(|stream| *stream < STREAMS).map_or(u32::MAX, |stream| 1 << stream);
        self.columns.at(time).fold(&Mark { violations: 1, rule: Some(rule), streams, ..Mark::default() });
    }

    pub(super) fn reset(&mut self, time: i64) {
        self.columns.at(time).resets += 1;
    }

    pub(super) fn late(&mut self, time: i64) {
        self.columns.at(time).late += 1;
    }

    pub(super) fn change(&mut self, time: i64) {
        self.columns.at(time).changes += 1;
    }
}

/// Breaches of a rule.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    pub(super) rule: &'static str,
    pub(super) count: u64,
    /// Run times of the first and the last.
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) stream: Option<usize>,
    pub(super) slot: Option<u32>,
    /// The first report in words.
    pub(super) report: Option<String>,
}

/// The breaches that were observed, by rule, in the order of their first.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) rules: Vec<Broken>,
}

impl Found {
    pub(super) fn add(
        &mut self,
        time: i64,
        rule: &'static str,
        stream: Option<usize>,
        slot: Option<u32>,
        report: Option<&str>,
    ) {
        let report = report.map(|report| report.chars().take(REPORT).collect::<String>());
        if let Some(broken) = self.rules.iter_mut().find(|broken| broken.rule == rule) {
            broken.count += 1;
            broken.last = time;
            broken.report = broken.report.take().or(report);
        } else if self.rules.len() < RULES {
            self.rules.push(Broken { rule, count: 1, first: time, last: time, stream, slot, report });
        }
    }

    pub(super) fn of(&self, rule: &str) -> Option<&Broken> {
        self.rules.iter().find(|broken| broken.rule == rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaches_are_told_apart_by_their_rules() {
        let mut found = Found::default();
        found.add(5, "late", Some(0), None, None);
        found.add(7, "late", Some(1), Some(2), Some("all about it"));
        found.add(9, "empty", None, None, None);
        let late = found.of("late").expect("the rule was broken");
        assert_eq!((late.count, late.first, late.last, late.stream), (2, 5, 7, Some(0)));
        assert_eq!((late.report.as_deref(), found.rules.len()), (Some("all about it"), 2));
    }

    #[test]
    fn a_violation_of_no_stream_or_of_an_impossible_one_is_marked_for_all() {
        let mut marks = Marks::default();
        marks.violation(0, "a", Some(3));
        assert_eq!(marks.columns.cells()[0].streams, 8);
        marks.violation(0, "b", Some(usize::MAX));
        assert_eq!((marks.columns.cells()[0].streams, marks.columns.cells()[0].rule), (u32::MAX, Some("a")));
    }
}
