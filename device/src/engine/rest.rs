//! What the engine does with nothing to do.
//!
//! Fed by quiet turns; feeds the link's bell with sleeps, and the doorbell page with the number of an armed one.

use super::Core;
use crate::link::{Link, Shared};
use dmus_interface::protocol::card::{self, Look};
use std::time::{Duration, Instant};

/// How long a card with nothing to do looks again at once, and how long in timed sleeps, before it arms the trapped wake.
const SPIN: Duration = Duration::from_micros(40);
const WATCH: Duration = Duration::from_millis(20);
const SHORTEST_SLEEP: Duration = Duration::from_micros(50);
const LONGEST_SLEEP: Duration = Duration::from_millis(1);

/// How long looking again at once is worth it here. On one core the guest could do nothing meanwhile.
pub(super) fn spin() -> Duration {
    match std::thread::available_parallelism() {
        Ok(cores) if cores.get() == 1 => Duration::ZERO,
        _ => SPIN,
    }
}

impl Core {
    /// Nothing to do: look again soon, then in timed sleeps, then not before the driver rings.
    pub(super) fn rest(&mut self, link: &Link) {
        let since = *self.quiet_since.get_or_insert_with(Instant::now);
        let quiet = since.elapsed();
        let runs = !self.sink_ready || !self.clock.is_virtual() && self.any_runs();
        if quiet < self.spin && !runs {
            std::hint::spin_loop();
            return;
        }
        let step = if runs { LONGEST_SLEEP } else { quiet / 4 };
        let step = step.clamp(SHORTEST_SLEEP, LONGEST_SLEEP);
        let shared = link.lock();
        if quiet < WATCH || runs {
            drop(link.sleep(shared, Some(step)));
            return;
        }
        // In realtime a granted time is an alarm.
        let alarm = match self.clock.awaited() {
            Some(grant) if !self.clock.is_virtual() => {
                let left = grant.saturating_sub(self.clock.horizon()).0.max(0) as u64;
                Some(Duration::from_nanos(left.saturating_mul(100)))
            }
            _ => None,
        };
        self.sleeps = self.sleeps.wrapping_add(1).max(1);
        let look = card::arm_sleep(&shared.page, self.sleeps);
        let shared = if self.moved_in(look, &shared) { shared } else { link.sleep(shared, alarm) };
        card::end_sleep(&shared.page);
        self.quiet_since = None;
    }

    /// Whether the driver has stored anything that a turn would act on.
    fn moved_in(&self, look: Look, shared: &Shared) -> bool {
        self.clock.would_move(look.grant()) || {
            let render = self.streams.iter().map(|stream| &stream.rings);
            let mut rings = render.chain(self.captures.iter().map(|stream| &stream.rings));
            rings.any(|rings| rings.tail_moved(look, shared))
        }
    }
}
