//! Ticks to 100 ns, exactly: the tempo map of a MIDI file.
//!
//! Fed with ticks in rising order and tempo changes; feeds the times of a song's messages. The remainder of every
//! division is carried, so that a song with a thousand tempo changes ends at the right unit.

use super::SongError;
use dmus_interface::time::RefTime;
use midly::{Fps, Timing};

/// 120 quarter notes a minute, the tempo until a file sets one.
const DEFAULT_MICROS: u32 = 500_000;

pub(crate) struct Clock {
    /// A tick lasts `per_tick / denominator` units of 100 ns.
    per_tick: u128,
    denominator: u128,
    /// Follows tempo events: metrical time does, SMPTE time does not.
    metrical: bool,
    tick: u64,
    /// Time of `tick`, in units of 100 ns / `denominator`.
    scaled: u128,
}

impl Clock {
    pub(crate) fn new(timing: Timing) -> Result<Self, SongError> {
        let (per_tick, denominator, metrical) = match timing {
            Timing::Metrical(ticks) => (u128::from(DEFAULT_MICROS) * 10, u128::from(ticks.as_int()), true),
            Timing::Timecode(fps, subframes) => {
                let (frames, seconds) = match fps {
                    Fps::Fps24 => (24, 1),
                    Fps::Fps25 => (25, 1),
                    Fps::Fps29 => (30_000, 1001),
                    Fps::Fps30 => (30, 1),
                };
                (10_000_000 * seconds, frames * u128::from(subframes), false)
            }
        };
        if denominator == 0 {
            return Err(SongError::NoTimeBase);
        }
        Ok(Self { per_tick, denominator, metrical, tick: 0, scaled: 0 })
    }

    /// Moves on to `tick` and gives its time, rounded down.
    pub(crate) fn advance(&mut self, tick: u64) -> RefTime {
        self.scaled = self.scaled_at(tick);
        self.tick = tick;
        self.at(tick)
    }

    /// The time of a tick from the present one on, rounded down, if the tempo stays.
    pub(crate) fn at(&self, tick: u64) -> RefTime {
        let units = self.scaled_at(tick) / self.denominator;
        RefTime(i64::try_from(units).unwrap_or(i64::MAX))
    }

    fn scaled_at(&self, tick: u64) -> u128 {
        let ticks = u128::from(tick.saturating_sub(self.tick));
        self.scaled.saturating_add(ticks * self.per_tick)
    }

    /// The tick whose time is nearest, from the present one on, if the tempo stays: the very one, if the time is that
    /// of a tick.
    pub(crate) fn nearest(&self, time: RefTime) -> u64 {
        let ahead = (time.0.max(0) as u128 * self.denominator).saturating_sub(self.scaled);
        // The first that is no earlier. Quarter notes of no length at all have no ticks to choose from.
        let ticks = ahead.div_ceil(self.per_tick.max(1)).min(u128::from(u32::MAX) << 8) as u64;
        let tick = if self.per_tick == 0 { self.tick } else { self.tick.saturating_add(ticks) };
        let before = tick.saturating_sub(1).max(self.tick);
        match time.0.saturating_sub(self.at(before).0) < self.at(tick).0.saturating_sub(time.0) {
            true => before,
            false => tick,
        }
    }

    /// From the present tick on, a quarter note lasts `micros` microseconds.
    pub(crate) fn set_tempo(&mut self, micros: u32) {
        if self.metrical {
            self.per_tick = u128::from(micros) * 10;
        }
    }
}
