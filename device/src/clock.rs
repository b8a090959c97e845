//! The master clock, and how far the card may render.
//!
//! Fed by the driver's grants (virtual) or by the host's monotonic clock (realtime); feeds the engine.

use crate::identity::ClockMode;
use dmus_interface::time::RefTime;
use std::time::Instant;

/// See the module.
#[derive(Debug)]
pub(crate) struct Clock {
    mode: ClockMode,
    start: Instant,
    /// The latest grant; one that moves back is ignored.
    granted: RefTime,
    /// The latest grant whose reaching was announced.
    announced: RefTime,
}

impl Clock {
    pub(crate) fn new(mode: ClockMode) -> Self {
        Self { mode, start: Instant::now(), granted: RefTime::ZERO, announced: RefTime::ZERO }
    }

    pub(crate) fn is_virtual(&self) -> bool {
        self.mode == ClockMode::Virtual
    }

    pub(crate) fn grant(&mut self, grant: RefTime) {
        self.granted = self.granted.max(grant);
    }

    /// Whether such a grant would be new.
    pub(crate) fn would_move(&self, grant: RefTime) -> bool {
        grant > self.granted
    }

    /// Master time up to which every event is due.
    pub(crate) fn horizon(&self) -> RefTime {
        match self.mode {
            ClockMode::Virtual => self.granted,
            ClockMode::Realtime => RefTime::from_nanos(self.start.elapsed().as_nanos() as u64),
        }
    }

    /// A grant that the driver waits for.
    pub(crate) fn awaited(&self) -> Option<RefTime> {
        (self.granted > self.announced).then_some(self.granted)
    }

    /// The awaited grant is reached and has been announced.
    pub(crate) fn announce(&mut self) {
        self.announced = self.granted;
    }
}
