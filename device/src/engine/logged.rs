//! The turns of a card that records or replays.
//!
//! Fed by the engine's thread, or by a replay; feeds the replay log with what a turn has found on the page and on the
//! host's clock, and a replay with what it is shown.

use super::{Core, Engine, Turn};
use crate::capture::inputs::Replayed;
use crate::identity::ClockMode;
use crate::replay_log::ReplayLog;
use crate::shared::Section;
use crate::sound::Sound;
use dmus_interface::time::RefTime;

impl Engine {
    /// What a replay has to know of this engine: its clock, how far the crystal of wave sinks is off, how it
    /// sounds, and its inputs.
    pub(crate) fn to_replay(&self) -> (ClockMode, i32, Sound, Vec<Replayed>) {
        let Core { clock, streams, library, .. } = &self.core;
        (clock.mode(), streams.drift, library.sound, streams.inputs.to_replay())
    }

    /// In a replay: the host's clock shows this in realtime.
    pub(crate) fn replay_at(&mut self, time: RefTime) {
        self.core.clock.replay_at(time);
    }

    /// The sink had room, or had none.
    pub(crate) fn replay_ready(&mut self, ready: bool) {
        self.core.output.set_ready(ready);
    }

    /// A sleep was armed.
    pub(crate) fn replay_sleep(&mut self) {
        self.core.arm(&mut self.shared.engine_section());
    }

    /// The sleep is over.
    pub(crate) fn replay_awake(&mut self) {
        Core::end_sleep(&mut self.shared.engine_section());
    }

    /// The tail of a stream that is not open was told of.
    pub(crate) fn replay_closed_tail(&mut self, index: usize) {
        self.core.report_closed_tail(index, &mut self.shared.engine_section());
    }

    /// Completes the output of a replay.
    pub(crate) fn finish_replay(&mut self) -> Result<(), crate::sink::SinkError> {
        self.finish()
    }

    /// The voices that sound.
    pub(crate) fn voices(&self) -> usize {
        self.core.streams.render.iter().map(|stream| stream.synth.sounding()).sum()
    }

    /// Every slot that the card owns, in words.
    pub(crate) fn slots(&self) -> String {
        self.core.slots_with_histories()
    }
}

impl Core {
    /// One that has found nothing, and done nothing, is not recorded.
    pub(super) fn turn_logged(&mut self, mut section: Section<'_>, log: &ReplayLog) -> Turn {
        let (epoch, moved) = (self.epoch, self.clock.has_moved());
        section.take_accesses();
        log.begin_turn();
        let turn = self.wake_up(&mut section);
        // Which raises what is left to raise.
        drop(section);
        let time = (!self.clock.is_virtual()).then_some(self.clock.now().horizon);
        match turn {
            // It ends with the accesses before it.
            Turn::Shutdown => log.drop_turn(),
            _ => log.end_turn(turn == Turn::Worked || moved || epoch != self.epoch, self.clock.loaded(), time),
        }
        turn
    }
}
