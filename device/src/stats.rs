//! Counters of the card, shared by its threads and read by whoever reports.
//!
//! Fed by the register file and the engine; feeds the summary of `serve` and its JSON file.

use crate::identity::SAMPLE_RATE;
use dmus_interface::time::RefTime;
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Limits of the classes of lateness, in milliseconds.
pub const LATE_LIMITS: [u32; 6] = [1, 2, 5, 10, 20, 50];

/// Everything the card counts since it was made. Messages are counted as the data sheet says.
#[derive(Debug, Default)]
pub struct Stats {
    /// Messages applied at their exact sample, or late.
    pub presented: Counter,
    /// Of these, messages whose sample had passed.
    pub late: Counter,
    /// Of these, by how late: below each of [`LATE_LIMITS`], and the rest.
    pub late_by: [Counter; LATE_LIMITS.len() + 1],
    /// Messages refused.
    pub rejected: Counter,
    /// Messages discarded by STOP.
    pub discarded: Counter,
    /// Events captured into posted slots.
    pub captured: Counter,
    /// Captured events dropped for want of posted slots.
    pub capture_overruns: Counter,
    /// Most slots of a stream that the card owned at once.
    pub peak_in_flight: Counter,
    /// Slots of the largest pool.
    pub pool_slots: Counter,
    /// Slots that the card owns now.
    pub in_flight: Counter,
    /// Trapped accesses to BAR0.
    pub register_accesses: Counter,
    /// Times that a vector was raised.
    pub interrupts: Counter,
    /// Samples given to the sink.
    pub samples: Counter,
    /// Of these, samples that the sink dropped.
    pub dropped_samples: Counter,
    /// Times that the host's sound device ran out of audio.
    pub underruns: Counter,
    /// Faults recorded.
    pub faults: Counter,
    /// Resets of the function: by the host, and by the guest through configuration space or CONTROL.
    pub resets: Counter,
    /// Ranges of guest memory that were mapped.
    pub maps: Counter,
    /// Times that ranges of guest memory were taken back.
    pub unmaps: Counter,
    /// Nanoseconds of Unix time at the first message presented, or 0.
    first_presented: Counter,
}

/// A number that only its writer changes: one thread, or whoever holds the link's lock.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    pub(crate) fn sub(&self, n: u64) {
        self.set(self.get().wrapping_sub(n));
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub(crate) fn raise_to(&self, n: u64) {
        self.set(self.get().max(n));
    }
}

impl Stats {
    #[inline]
    pub(crate) fn note_presented(&self, messages: u64) {
        if self.presented.get() == 0 {
            self.note_first();
        }
        self.presented.add(messages);
    }

    #[cold]
    fn note_first(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.first_presented.set(now.as_nanos() as u64);
    }

    /// Messages that were presented so late.
    #[cold]
    pub(crate) fn note_late(&self, messages: u64, late: RefTime) {
        self.late.add(messages);
        let class = LATE_LIMITS.iter().position(|limit| late.0 < i64::from(*limit) * 10_000);
        self.late_by[class.unwrap_or(LATE_LIMITS.len())].add(messages);
    }

    /// In a replay, what it was as this was recorded.
    pub(crate) fn set_first_presented(&self, nanos: u64) {
        self.first_presented.set(nanos);
    }

    /// All of them, as one JSON object: the README of this crate has its names.
    pub fn json(&self) -> Value {
        let names = LATE_LIMITS.iter().map(|limit| format!("below_{limit}_ms"));
        let names = names.chain([format!("{}_ms_and_more", LATE_LIMITS[LATE_LIMITS.len() - 1])]);
        let late_by: Map<String, Value> = names.zip(self.late_by.iter().map(|count| count.get().into())).collect();
        json!({
            "presented": self.presented.get(),
            "late": self.late.get(),
            "late_by": late_by,
            "rejected": self.rejected.get(),
            "discarded": self.discarded.get(),
            "captured": self.captured.get(),
            "capture_overruns": self.capture_overruns.get(),
            "peak_in_flight": self.peak_in_flight.get(),
            "in_flight": self.in_flight.get(),
            "pool_slots": self.pool_slots.get(),
            "register_accesses": self.register_accesses.get(),
            "interrupts": self.interrupts.get(),
            "faults": self.faults.get(),
            "resets": self.resets.get(),
            "maps": self.maps.get(),
            "unmaps": self.unmaps.get(),
            "dropped_samples": self.dropped_samples.get(),
            "underruns": self.underruns.get(),
            "audio_seconds": self.samples.get() as f64 / f64::from(SAMPLE_RATE),
            "first_presented_unix_seconds": self.first_presented().map(|time| time.as_secs_f64()),
        })
    }

    /// When the first message was presented, as Unix time: what another process can compare.
    pub fn first_presented(&self) -> Option<Duration> {
        let nanos = self.first_presented.get();
        (nanos != 0).then(|| Duration::from_nanos(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_late_are_counted_by_how_late() {
        let stats = Stats::default();
        for (late, messages) in [(0, 1), (9_999, 2), (10_000, 4), (499_999, 8), (500_000, 16), (i64::MAX, 32)] {
            stats.note_late(messages, RefTime(late));
        }
        assert_eq!(stats.late_by.each_ref().map(Counter::get), [3, 4, 0, 0, 0, 8, 48]);
        assert_eq!(stats.late.get(), 63);
    }
}
