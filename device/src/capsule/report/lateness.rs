//! How late events were presented, and how far ahead the card had them: by classes, and over time.
//!
//! Fed by what render streams fetch and complete; feeds the charts.

use super::series::{Cell, Series};
use crate::stats::LATE_LIMITS;
use dmus_interface::ring::Status;

/// When the events of a stream are due.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Schedule {
    /// Stream time moves.
    pub(super) runs: bool,
    /// Master time less stream time.
    pub(super) base: i64,
}

impl Schedule {
    /// How long before its time an event was there; `None` if it is due at once, or nobody knows when.
    pub(super) fn ahead(&self, due: i64, master: i64) -> Option<i64> {
        (self.runs && due >= 0).then(|| due.saturating_add(self.base).saturating_sub(master))
    }
}

/// What came in a column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) on_time: u64,
    pub(super) late: u64,
    /// Least and most that something was late, 100 ns.
    pub(super) late_by: Option<(i64, i64)>,
    /// Least and most that something was fetched ahead of its time, 100 ns.
    pub(super) ahead: Option<(i64, i64)>,
}

impl Cell for Column {
    fn fold(&mut self, later: &Self) {
        self.on_time += later.on_time;
        self.late += later.late;
        self.late_by = both(self.late_by, later.late_by);
        self.ahead = both(self.ahead, later.ahead);
    }
}

fn both(one: Option<(i64, i64)>, other: Option<(i64, i64)>) -> Option<(i64, i64)> {
    match (one, other) {
        (Some((least, most)), Some((also_least, also_most))) => Some((least.min(also_least), most.max(also_most))),
        (one, None) | (None, one) => one,
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Lateness {
    /// As the counters have them, but submissions rather than messages.
    pub(super) classes: [u64; LATE_LIMITS.len() + 1],
    pub(super) on_time: u64,
    /// Most that something was late, and when in the run.
    pub(super) worst: Option<(i64, i64)>,
    pub(super) columns: Series<Column>,
}

impl Lateness {
    /// How many were late.
    pub(super) fn late(&self) -> u64 {
        self.classes.iter().sum()
    }

    pub(super) fn fetched(&mut self, time: i64, ahead: i64) {
        self.columns.at(time).fold(&Column { ahead: Some((ahead, ahead)), ..Column::default() });
    }

    pub(super) fn completed(&mut self, time: i64, status: Status, by: i64) {
        let column = match status {
            Status::Presented => {
                self.on_time += 1;
                Column { on_time: 1, ..Column::default() }
            }
            Status::Late => {
                let by = by.max(0);
                self.classes[class(by)] += 1;
                if self.worst.is_none_or(|(worst, _)| worst < by) {
                    self.worst = Some((by, time));
                }
                Column { late: 1, late_by: Some((by, by)), ..Column::default() }
            }
            Status::Discarded | Status::Rejected | Status::Copied => return,
        };
        self.columns.at(time).fold(&column);
    }
}

/// The class of a lateness, as the counters have it.
fn class(by: i64) -> usize {
    LATE_LIMITS.iter().position(|limit| by < i64::from(*limit) * 10_000).unwrap_or(LATE_LIMITS.len())
}

/// The classes by their names.
pub(super) fn class_names() -> impl Iterator<Item = String> {
    let below = LATE_LIMITS.iter().enumerate().map(|(number, limit)| match number.checked_sub(1) {
        Some(before) => format!("{} to {limit} ms", LATE_LIMITS[before]),
        None => format!("below {limit} ms"),
    });
    below.chain([format!("{} ms and more", LATE_LIMITS[LATE_LIMITS.len() - 1])])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_late_are_in_the_classes_of_the_counters() {
        let mut lateness = Lateness::default();
        for (time, by) in [0, 9_999, 10_000, 499_999, 500_000, i64::MAX, i64::MIN].into_iter().enumerate() {
            lateness.completed(time as i64, Status::Late, by);
        }
        lateness.completed(0, Status::Presented, 77);
        lateness.completed(0, Status::Rejected, 77);
        assert_eq!(lateness.classes, [3, 1, 0, 0, 0, 1, 2]);
        assert_eq!((lateness.on_time, lateness.worst), (1, Some((i64::MAX, 5))));
        assert_eq!(lateness.columns.cells()[0].late_by, Some((0, i64::MAX)));
        assert_eq!(class_names().count(), lateness.classes.len());
    }

    #[test]
    fn how_far_ahead_is_known_while_the_stream_runs() {
        let runs = Schedule { runs: true, base: 100 };
        assert_eq!([runs.ahead(50, 120), runs.ahead(0, 120), runs.ahead(-1, 120)], [Some(30), Some(-20), None]);
        assert_eq!(Schedule::default().ahead(50, 0), None);
        assert_eq!(Schedule { runs: true, base: i64::MAX }.ahead(i64::MAX, i64::MIN), Some(i64::MAX));
    }
}
