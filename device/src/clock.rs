//! Time: the master clock, how far it has moved, and how far the card has rendered.
//!
//! Fed by the driver's grants (virtual) or by the host's monotonic clock (realtime), and by the engine with what it
//! renders; feeds the engine with how far events are due, and each stream with [`Now`].

use crate::identity::{ClockMode, SAMPLE_RATE};
use dmus_interface::time::{RefTime, SampleTime};
use std::time::{Duration, Instant};

/// How far a grant may be ahead for a request to wait until it is reached. A minute of audio is rendered in less than a
/// second.
const FAR: RefTime = RefTime::from_secs(60);

/// Where the card is, between two blocks of samples.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// The next sample to render.
    pub(crate) position: SampleTime,
    /// The latest master time of that sample, and of the one before it: what is no later than `passed` comes too late.
    pub(crate) start: RefTime,
    pub(crate) passed: RefTime,
    /// Master time up to which events are due.
    pub(crate) horizon: RefTime,
    /// Master time up to which every event that was here has been presented.
    pub(crate) reached: RefTime,
}

impl Now {
    fn at(position: SampleTime, horizon: RefTime) -> Self {
        let start = position.to_time(SAMPLE_RATE);
        let passed = match position.0.checked_sub(1) {
            Some(before) => SampleTime(before).to_time(SAMPLE_RATE),
            None => RefTime(i64::MIN),
        };
        Self { position, start, passed, horizon, reached: horizon.min(start) }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Clock {
    mode: ClockMode,
    start: Instant,
    /// What the host's clock showed as a turn was recorded that is replayed now.
    replayed: Option<RefTime>,
    /// The grant as it was last loaded, whatever it was.
    loaded: RefTime,
    /// The latest grant; one that moves back is ignored.
    granted: RefTime,
    /// The latest grant whose reaching was announced.
    announced: RefTime,
    /// The sample of the horizon.
    horizon_sample: SampleTime,
    now: Now,
    /// Whether time or position have moved since they were published.
    moved: bool,
}

impl Clock {
    pub(crate) fn new(mode: ClockMode) -> Self {
        Self {
            mode,
            start: Instant::now(),
            replayed: None,
            loaded: RefTime::ZERO,
            granted: RefTime::ZERO,
            announced: RefTime::ZERO,
            horizon_sample: SampleTime(0),
            now: Now::at(SampleTime(0), RefTime::ZERO),
            moved: true,
        }
    }

    #[inline]
    pub(crate) fn is_virtual(&self) -> bool {
        self.mode == ClockMode::Virtual
    }

    pub(crate) fn mode(&self) -> ClockMode {
        self.mode
    }

    /// As new.
    pub(crate) fn restart(&mut self) {
        *self = Self { replayed: self.replayed, ..Self::new(self.mode) };
    }

    /// In realtime, the host's clock shows this until it is told otherwise.
    pub(crate) fn replay_at(&mut self, time: RefTime) {
        self.replayed = Some(time);
    }

    /// The grant as it was last loaded.
    pub(crate) fn loaded(&self) -> RefTime {
        self.loaded
    }

    #[inline]
    pub(crate) fn now(&self) -> &Now {
        &self.now
    }

    /// Takes the grant as it was loaded from the page. `Err` if it moved back or is negative: then it is ignored.
    #[inline]
    pub(crate) fn grant(&mut self, loaded: RefTime) -> Result<(), ()> {
        if loaded == self.loaded {
            return Ok(());
        }
        self.loaded = loaded;
        if loaded < self.granted {
            return Err(());
        }
        self.granted = loaded;
        Ok(())
    }

    /// Whether such a grant is another than the last.
    pub(crate) fn would_move(&self, loaded: RefTime) -> bool {
        loaded != self.loaded
    }

    /// Master time up to which every event is due, were there nothing to wait for.
    #[inline]
    fn due(&self) -> RefTime {
        match self.mode {
            ClockMode::Virtual => self.granted,
            ClockMode::Realtime => match self.replayed {
                None => RefTime::from_nanos(self.start.elapsed().as_nanos() as u64),
                Some(time) => time,
            },
        }
    }

    /// Moves the horizon to where events are due, or as far as `limit`; says whether that is further.
    #[inline]
    pub(crate) fn advance(&mut self, limit: impl FnOnce(RefTime) -> RefTime) -> bool {
        let due = self.due();
        if due == self.now.horizon {
            return false;
        }
        let horizon = limit(due);
        let further = horizon != self.now.horizon;
        if further {
            self.horizon_sample = horizon.to_sample(SAMPLE_RATE);
            self.now.horizon = horizon;
            self.moved = true;
        }
        further
    }

    /// Everything before sample `position` is rendered, and what is due there has been presented.
    pub(crate) fn move_to(&mut self, position: SampleTime) {
        self.now = Now::at(position, self.now.horizon);
        self.moved = true;
    }

    /// Master time up to which events are due before the next sample.
    #[inline]
    pub(crate) fn due_here(&self) -> RefTime {
        self.now.horizon.min(self.now.start)
    }

    /// Samples from the position to the horizon.
    #[inline]
    pub(crate) fn ahead(&self) -> u64 {
        self.horizon_sample.0.saturating_sub(self.now.position.0)
    }

    /// Master time now: of the horizon once it is rendered, else of the next sample.
    #[inline]
    pub(crate) fn master_time(&self) -> RefTime {
        match self.is_virtual() && self.now.position < self.horizon_sample {
            true => self.now.start,
            false => self.now.horizon,
        }
    }

    /// Whether virtual time stands at the grant, with everything up to there rendered.
    pub(crate) fn is_at_grant(&self) -> bool {
        self.now.horizon == self.granted && self.ahead() == 0
    }

    /// Whether so much is granted that nobody should wait for its rendering.
    pub(crate) fn is_far_from_grant(&self) -> bool {
        self.granted.saturating_sub(self.now.start) > FAR
    }

    /// Whether time or position have moved since they were published.
    #[inline]
    pub(crate) fn has_moved(&self) -> bool {
        self.moved
    }

    /// The same, and they are published now.
    pub(crate) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Whether the master clock has reached a grant that the driver waits for. Said once.
    pub(crate) fn take_reached(&mut self) -> bool {
        let reached = self.granted > self.announced && self.master_time() >= self.granted;
        if reached {
            self.announced = self.granted;
        }
        reached
    }

    /// How long it takes in realtime until a grant that the driver waits for is reached.
    pub(crate) fn alarm(&self) -> Option<Duration> {
        if self.is_virtual() || self.granted <= self.announced {
            return None;
        }
        let left = self.granted.saturating_sub(self.due()).0.max(0) as u64;
        Some(Duration::from_nanos(left.saturating_mul(100)))
    }
}
