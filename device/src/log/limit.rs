//! How many lines the log has: only so many a second, of each kind and in all, since a guest or a client can cause them
//! without end.
//!
//! Fed by `tracing` with every line before it is made, where the kind is the place in the source that says it; feeds
//! the log with how many were left out.

use parking_lot::Mutex;
use std::fmt::{Debug, Write};
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines of one kind in each second.
const LINES: u32 = 20;
/// Lines of all kinds in each second: clients that come and go quickly have a new budget each.
const ALL_LINES: u32 = 200;
const SECOND: Duration = Duration::from_secs(1);

/// Refuses the lines beyond the limits.
pub(super) struct Limit;

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        // What was left out is said by this module, once a second.
        if event.metadata().target() == module_path!() {
            return true;
        }
        let callsite = event.metadata().callsite();
        let verdict = BUDGET.lock().admit(&callsite, Instant::now());
        if verdict == Verdict::FirstLeftOut {
            // Not under the lock, which whatever is shown here might need.
            let mut message = Message(String::new());
            event.record(&mut message);
            BUDGET.lock().show(&callsite, message.0);
        }
        verdict == Verdict::Line
    }
}

/// The words of a line, without its other fields.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            // A `String` takes everything.
            let _ = write!(self.0, "{value:?}");
        }
    }
}

static BUDGET: Mutex<Budget<Identifier>> = Mutex::new(Budget { all: Window::new(), kinds: Vec::new() });

/// Gives every kind its full budget.
pub(super) fn renew() {
    BUDGET.lock().renew();
}

/// Says what has been left out, of each kind once a second has passed since the first line of it, or of all kinds
/// `now`. Says whether there is more.
pub(super) fn say_left_out(now: bool) -> bool {
    let mut budget = BUDGET.lock();
    let passed = if now { Duration::ZERO } else { SECOND };
    let left_out = budget.take_left_out(Instant::now(), passed);
    let more = budget.has_left_out();
    drop(budget);
    for (lines, like) in left_out {
        tracing::warn!("{lines} more lines were left out like this one: {like}");
    }
    more
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Line,
    LeftOut,
    /// Left out, and the first one of those to be said together.
    FirstLeftOut,
}

/// Counts the lines of a second.
#[derive(Debug)]
struct Window {
    began: Option<Instant>,
    lines: u32,
}

impl Window {
    const fn new() -> Self {
        Self { began: None, lines: 0 }
    }

    /// Whether there may be another line now, of at most so many.
    fn has_room(&mut self, now: Instant, most: u32) -> bool {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= SECOND) {
            *self = Self { began: Some(now), lines: 0 };
        }
        self.lines < most
    }
}

/// The lines of one place in the source.
#[derive(Debug)]
struct Kind<K> {
    place: K,
    window: Window,
    left_out: u64,
    /// When the first of those was left out, and its words.
    since: Instant,
    like: String,
}

#[derive(Debug)]
struct Budget<K> {
    all: Window,
    /// There are as many as places in the source.
    kinds: Vec<Kind<K>>,
}

impl<K: Clone + PartialEq> Budget<K> {
    fn admit(&mut self, place: &K, now: Instant) -> Verdict {
        let known = self.kinds.iter().position(|kind| kind.place == *place);
        let index = known.unwrap_or(self.kinds.len());
        if known.is_none() {
            let (window, like) = (Window::new(), String::new());
            self.kinds.push(Kind { place: place.clone(), window, left_out: 0, since: now, like });
        }
        let kind = &mut self.kinds[index];
        if kind.window.has_room(now, LINES) && self.all.has_room(now, ALL_LINES) {
            kind.window.lines += 1;
            self.all.lines += 1;
            return Verdict::Line;
        }
        kind.left_out += 1;
        if kind.left_out > 1 {
            return Verdict::LeftOut;
        }
        kind.since = now;
        Verdict::FirstLeftOut
    }

    /// Remembers what the first line that was left out would have said.
    fn show(&mut self, place: &K, like: String) {
        if let Some(kind) = self.kinds.iter_mut().find(|kind| kind.place == *place) {
            kind.like = like;
        }
    }

    fn renew(&mut self) {
        for kind in &mut self.kinds {
            kind.window = Window::new();
        }
    }

    /// How many were left out of each kind, since so long ago at least, and what one of them would have said.
    fn take_left_out(&mut self, now: Instant, passed: Duration) -> Vec<(u64, String)> {
        let due = |kind: &&mut Kind<K>| kind.left_out > 0 && now.saturating_duration_since(kind.since) >= passed;
        let taken = self.kinds.iter_mut().filter(due);
        taken.map(|kind| (std::mem::take(&mut kind.left_out), std::mem::take(&mut kind.like))).collect()
    }

    fn has_left_out(&self) -> bool {
        self.kinds.iter().any(|kind| kind.left_out > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Budget<&'static str> {
        Budget { all: Window::new(), kinds: Vec::new() }
    }

    #[test]
    fn lines_beyond_the_rate_are_counted_and_said_after_a_second() {
        let (mut budget, start) = (budget(), Instant::now());
        for _ in 0..LINES {
            assert_eq!(budget.admit(&"fault", start), Verdict::Line);
        }
        assert_eq!(budget.admit(&"fault", start), Verdict::FirstLeftOut);
        budget.show(&"fault", "words".into());
        assert_eq!(budget.admit(&"fault", start + SECOND / 2), Verdict::LeftOut);
        assert_eq!(budget.admit(&"other", start), Verdict::Line);
        assert!(budget.take_left_out(start + SECOND / 2, SECOND).is_empty());
        assert_eq!(budget.admit(&"fault", start + SECOND), Verdict::Line);
        assert_eq!(budget.take_left_out(start + SECOND, SECOND), [(2, "words".into())]);
        assert!(!budget.has_left_out());
    }

    #[test]
    fn the_next_client_has_a_budget_of_its_own_and_all_of_them_one_together() {
        let (mut budget, now) = (budget(), Instant::now());
        let clients = 100;
        let mut lines = 0;
        for _ in 0..clients {
            for _ in 0..=LINES {
                lines += u32::from(budget.admit(&"fault", now) == Verdict::Line);
            }
            budget.renew();
        }
        assert_eq!(lines, ALL_LINES);
        let left_out: u64 = budget.take_left_out(now, Duration::ZERO).iter().map(|(lines, _)| lines).sum();
        assert_eq!(left_out, u64::from(clients * (LINES + 1) - ALL_LINES));
    }
}
