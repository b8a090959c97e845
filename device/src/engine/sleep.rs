//! What the engine does with nothing to do.
//!
//! Fed by quiet turns; feeds the doorbell page with the number of an armed sleep, and the log with what virtual time
//! waits for.

use super::{Core, deviating};
use crate::shared::{Section, Shared};
use dmus_interface::pci::STREAMS;
use dmus_interface::protocol::card::{self, Poll};
use dmus_interface::time::SampleTime;
use std::time::{Duration, Instant};

/// How long a card with nothing to do looks again at once, and how long in timed sleeps, before it arms the trapped
/// wake.
const SPIN: Duration = Duration::from_micros(40);
pub(super) const WATCH: Duration = Duration::from_millis(20);
const SHORTEST_SLEEP: Duration = Duration::from_micros(50);
pub(super) const LONGEST_SLEEP: Duration = Duration::from_millis(1);
/// How long virtual time waits for a posted slot until the log says so.
const STALL: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Sleeper {
    /// Number of the present or last armed sleep.
    number: u32,
    quiet_since: Option<Instant>,
    /// How long looking again at once is worth it here: on one core the guest could do nothing meanwhile.
    spin: Duration,
    /// Virtual time waits for a slot.
    stalled: Option<Stall>,
    /// The tails of closed streams that were reported, as they were.
    reported: [u32; STREAMS],
    /// Samples that were rendered at the last quiet turn.
    quiet_at: u64,
}

/// Virtual time has waited for a slot at a sample since then.
struct Stall {
    position: SampleTime,
    since: Instant,
    /// The log says so.
    logged: bool,
}

impl Sleeper {
    pub(super) fn new() -> Self {
        let spin = match std::thread::available_parallelism() {
            Ok(cores) if cores.get() == 1 => Duration::ZERO,
            _ => SPIN,
        };
        Self { number: 0, quiet_since: None, spin, stalled: None, reported: [0; STREAMS], quiet_at: u64::MAX }
    }

    /// Whether nothing was rendered since the last quiet turn.
    pub(super) fn is_quiet_again(&mut self, samples: u64) -> bool {
        std::mem::replace(&mut self.quiet_at, samples) == samples
    }

    /// A turn has found something to do.
    #[inline]
    pub(super) fn worked(&mut self) {
        self.quiet_since = None;
    }

    /// The tail of a stream is zeroed: the same value may be reported again.
    pub(super) fn forget_tail(&mut self, index: usize) {
        if let Some(reported) = self.reported.get_mut(index) {
            *reported = 0;
        }
    }

    /// As [`Self::forget_tail`], for all streams.
    pub(super) fn forget_tails(&mut self) {
        self.reported = [0; STREAMS];
    }
}

impl Core {
    /// Nothing to do: look again soon, then in timed sleeps, then not before the driver rings.
    pub(super) fn rest(&mut self, shared: &Shared) {
        let since = *self.sleeper.quiet_since.get_or_insert_with(Instant::now);
        let quiet = deviating::quiet_for(shared, since.elapsed());
        let log = shared.replay_log();
        let waited = !self.output.is_ready();
        self.output.look(log);
        if let Some(log) = log {
            log.rest();
        }
        if waited && self.output.is_ready() {
            // There is something to do, and no driver would ring for it.
            self.sleeper.worked();
            return;
        }
        let plays = self.any_runs();
        if !plays {
            self.output.pause();
        }
        let runs = !self.output.is_ready() || !self.clock.is_virtual() && plays;
        if quiet < self.sleeper.spin && !runs {
            std::hint::spin_loop();
            return;
        }
        self.log_stall();
        let step = if runs { LONGEST_SLEEP } else { quiet / 4 };
        let step = step.clamp(SHORTEST_SLEEP, LONGEST_SLEEP);
        let mut section = shared.engine_section();
        section.take_accesses();
        if quiet < WATCH || runs {
            section.sleep(Some(step));
            return;
        }
        self.report_closed(&mut section);
        // In realtime a granted time is an alarm, and a stall is logged in time.
        let stall = self.sleeper.stalled.as_ref().filter(|stall| !stall.logged).map(|_| STALL);
        let alarm = self.clock.alarm().or(stall);
        // A guest that is held at mistakes waits for each judgement, before it rings.
        let holds = shared.checker().is_some_and(|checker| checker.stops());
        let alarm = if holds { Some(alarm.map_or(LONGEST_SLEEP, |alarm| alarm.min(LONGEST_SLEEP))) } else { alarm };
        let poll = self.arm(&mut section);
        if !self.moved_in(poll, &section) {
            section.sleep(deviating::asleep_for(shared, alarm));
        }
        Self::end_sleep(&mut section);
        if !holds {
            self.sleeper.quiet_since = None;
        }
    }

    /// Arms the trapped wake; with what to look whether anything moved.
    pub(super) fn arm(&mut self, section: &mut Section<'_>) -> Poll {
        self.sleeper.number = self.sleeper.number.wrapping_add(1).max(1);
        let poll = card::arm_sleep(section.page(), self.sleeper.number);
        section.show_armed();
        poll
    }

    pub(super) fn end_sleep(section: &mut Section<'_>) {
        card::end_sleep(section.page());
        section.show_awake();
    }

    /// Whether the driver has stored anything that a turn would act on.
    fn moved_in(&self, poll: Poll, section: &Section<'_>) -> bool {
        let render = self.streams.render.iter().map(|stream| &stream.queues);
        let mut queues = render.chain(self.streams.capture.iter().map(|stream| &stream.queues));
        self.clock.would_move(poll.grant()) || queues.any(|queues| queues.tail_moved(poll, section))
    }

    /// Tells of tails that were stored for streams which are not open.
    pub(super) fn report_closed(&mut self, section: &mut Section<'_>) {
        let open = self.streams.open;
        for index in (0..STREAMS).filter(|index| open & 1 << index == 0) {
            self.report_closed_tail(index, section);
            section.raise_now();
        }
    }

    /// Tells of a tail that was stored for a stream which is not open, once a value.
    pub(super) fn report_closed_tail(&mut self, index: usize, section: &mut Section<'_>) {
        let Some(reported) = self.sleeper.reported.get_mut(index) else {
            return;
        };
        let tail = section.closed_tail_word(index, *reported);
        if std::mem::replace(reported, tail) != tail && tail != 0 {
            section.closed_tail(index, tail);
        }
    }

    /// The log names the stream that virtual time has waited for, once a sample at which it does.
    fn log_stall(&mut self) {
        let stalled = self.clock.is_virtual().then(|| self.streams.capture.iter().find(|stream| stream.is_stalled()));
        let Some(stream) = stalled.flatten() else {
            self.sleeper.stalled = None;
            return;
        };
        let position = self.clock.now().position;
        let stall = match &mut self.sleeper.stalled {
            Some(stall) if stall.position == position => stall,
            other => other.insert(Stall { position, since: Instant::now(), logged: false }),
        };
        if !stall.logged && stall.since.elapsed() >= STALL {
            stall.logged = true;
            tracing::warn!(
                stream = stream.queues.stream,
                "virtual time stands still: this stream has something captured and no posted slot"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Device, DmaMap, Region};
    use crate::engine::Turn;
    use crate::identity::ClockMode;
    use dmus_interface::doorbell;
    use dmus_interface::protocol::Page;
    use dmus_interface::regs::stream::{self, Type};
    use dmus_interface::regs::{self, Register, control};
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    /// Who stores then sees no sleep, and does not ring.
    #[test]
    fn what_is_stored_between_the_last_look_and_the_sleep_is_seen() -> anyhow::Result<()> {
        const MEMORY: u64 = 1 << 16;
        let (mut card, mut engine) = crate::assemble(ClockMode::Virtual, Box::new(crate::sink::NullSink))?;
        let file = memfd_create("memory", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, MEMORY)?;
        card.map(DmaMap { iova: MEMORY, size: MEMORY, offset: 0, file: Some(file.into()), writable: true })?;
        card.write(Region::Config, 4, &[6, 0]);
        let mut write = |register: Register, value: u64| {
            card.write(Region::Registers, register.offset.into(), &value.to_le_bytes()[..register.width as usize]);
        };
        write(regs::POINTER_WIDTH, 8);
        write(regs::CONTROL, control::ENABLE.into());
        let at = |register| stream::at(0, register);
        for (register, size, base, page) in [
            (stream::POOL_BASE, stream::SLOT_COUNT, MEMORY, 0),
            (stream::SUBMISSION_BASE, stream::SUBMISSION_SIZE, MEMORY, 1),
            (stream::COMPLETION_BASE, stream::COMPLETION_SIZE, MEMORY, 2),
        ] {
            write(at(register), base + page * 4096);
            write(at(size), 4);
        }
        write(at(stream::SLOT_STRIDE), 64);
        write(at(stream::TYPE), Type::Render.value().into());
        while engine.turn() == Turn::Worked {}
        assert_eq!(engine.core.streams.open, 1, "the stream is refused");
        let shared = Arc::clone(&engine.shared);
        let mut seen = |grant: u64, tail: u32| {
            let mut section = shared.engine_section();
            section.page().store_u32(doorbell::at(0, doorbell::SUBMISSION_TAIL), tail, Ordering::Release);
            section.page().store_u64(doorbell::GRANT, grant, Ordering::Release);
            let poll = engine.core.arm(&mut section);
            let moved = engine.core.moved_in(poll, &section);
            Core::end_sleep(&mut section);
            drop(section);
            while engine.turn() == Turn::Worked {}
            moved
        };
        let stores = [(0, 0), (1000, 0), (1000, 0), (1000, 1), (1000, 1), (2000, 2)];
        assert_eq!(stores.map(|(grant, tail)| seen(grant, tail)), [false, true, false, true, false, true]);
        Ok(())
    }
}
