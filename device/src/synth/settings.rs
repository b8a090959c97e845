//! What a guest sets and asks of a synthesizer besides MIDI: sizes, priorities, levels and statistics.
//!
//! Fed by the properties of its stream, between blocks; nothing here is heard before the next sample.

use super::channel::CHANNELS;
use super::note::Scratch;
use super::{Bank, Group, LANES, MAX_VOICES, PERIOD, Set, Synth, Voice};
use crate::bank::Moved;
use crate::room::has_room;
use core::ops::Range;
use dmus_interface::sysex::Mode;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Most voices, and most channel groups, that a synth can be set to.
pub(crate) const VOICE_LIMIT: usize = MAX_VOICES;
pub(crate) const GROUP_LIMIT: u16 = 1024;

/// What was counted since it was last forgotten.
#[derive(Clone, Copy, Default)]
pub(crate) struct Meter {
    /// Samples rendered, and the sum of the voices over the ticks among them.
    pub(super) samples: u64,
    pub(super) voice_ticks: u64,
    /// Voices stolen, or not to be had.
    pub(super) lost: u32,
}

/// A summary of the meter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Statistics {
    /// Samples rendered.
    pub(crate) samples: u64,
    /// Voices, on average.
    pub(crate) voices: f64,
    /// Voices stolen, or not to be had.
    pub(crate) lost: u32,
    /// The largest sample, 1 is full scale.
    pub(crate) peak: f32,
}

impl Synth {
    /// Notes that may sound at once.
    pub(crate) fn voice_limit(&self) -> usize {
        self.limit
    }

    /// Lets so many notes (1..=4096) sound at once. Surplus ones are stolen as new ones come. Nothing changes if there
    /// is no memory for them.
    pub(crate) fn set_voice_limit(&mut self, voices: usize) {
        let limit = voices.clamp(1, MAX_VOICES);
        let groups = (2 * limit).div_ceil(LANES);
        // Old and new ones, for a while.
        let bytes = 2 * groups * (size_of::<Group>() + LANES * size_of::<Voice>()) + Scratch::bytes(groups * LANES);
        if groups > self.groups.len() && !has_room(bytes) {
            return;
        }
        self.limit = limit;
        if groups > self.groups.len() {
            self.voices.resize(groups * LANES, Voice::IDLE);
            self.groups.resize(groups, Group::SILENT);
            self.scratch = Scratch::with_lanes(groups * LANES);
        }
        self.weigh();
    }

    /// Has so many channel groups; notes of those that are gone end at once.
    pub(crate) fn set_groups(&mut self, groups: u16) {
        let channels = u32::from(groups) * CHANNELS as u32;
        for place in 0..self.used * LANES {
            let (group, lane) = (&mut self.groups[place / LANES], place % LANES);
            if group.active & 1 << lane != 0 && group.channel[lane] >= channels {
                group.stop(lane);
                self.voices[place] = Voice::IDLE;
            }
        }
        self.sets.resize_with(groups.into(), || None);
    }

    /// A channel's priority: who is stolen from first has the lowest.
    pub(crate) fn priority(&self, group: u16, channel: u8) -> Option<u32> {
        let set = self.sets.get(usize::from(group))?;
        let channel = usize::from(channel);
        Some(match set {
            Some(set) => set.channels.get(channel)?.priority,
            None => Set::new(Mode::default()).channels.get(channel)?.priority,
        })
    }

    /// Sets a channel's priority, for notes from now on; whether there is such a channel.
    pub(crate) fn set_priority(&mut self, group: u16, channel: u8, priority: u32) -> bool {
        let exists = group < self.groups() && usize::from(channel) < CHANNELS;
        if exists {
            self.channel_mut(usize::from(group) * CHANNELS + usize::from(channel)).priority = priority;
        }
        exists
    }

    /// Volume and boost, 0.01 dB.
    pub(crate) fn levels(&self) -> (i32, i32) {
        self.output.levels()
    }

    /// Sets volume and boost, 0.01 dB.
    pub(crate) fn set_levels(&mut self, (volume, boost): (i32, i32)) {
        self.output.set_levels(volume, boost);
    }

    /// Whether reverb, and chorus, were asked for.
    pub(crate) fn effects(&self) -> (bool, bool) {
        self.asked
    }

    /// Has reverb, and chorus, or not, as far as they are allowed.
    pub(crate) fn set_effects(&mut self, asked: (bool, bool)) {
        self.asked = asked;
        self.audible = (asked.0 && self.allowed.0, asked.1 && self.allowed.1);
        self.dry = self.audible == (false, false);
        if self.dry {
            self.effects.clear();
        }
    }

    /// Has no reverb, or no chorus, whatever is asked for.
    pub(crate) fn allow_effects(&mut self, allowed: (bool, bool)) {
        self.allowed = allowed;
        self.set_effects(self.asked);
    }

    /// What has happened since [`Self::forget_statistics`].
    pub(crate) fn statistics(&self) -> Statistics {
        let Meter { samples, voice_ticks, lost } = self.meter;
        let voices = voice_ticks as f64 * PERIOD as f64 / samples.max(1) as f64;
        Statistics { samples, voices, lost, peak: self.output.peak() }
    }

    /// Begins to count anew.
    pub(crate) fn forget_statistics(&mut self) {
        self.meter = Meter::default();
        self.output.forget_peak();
    }

    /// Everything as it was when the synth was made, with so many groups and voices, but for the bank and the position.
    pub(crate) fn restore(&mut self, groups: u16, voices: usize) {
        self.reset();
        self.sets.clear();
        self.set_groups(groups);
        let lanes = (2 * voices.clamp(1, MAX_VOICES)).div_ceil(LANES) * LANES;
        if lanes < self.voices.len() {
            // Others may need the memory.
            self.voices.truncate(lanes);
            self.voices.shrink_to_fit();
            self.groups.truncate(lanes / LANES);
            self.groups.shrink_to_fit();
            self.scratch = Scratch::with_lanes(lanes);
        }
        self.set_voice_limit(voices);
        self.output = super::output::Output::new();
        self.set_effects((true, true));
        self.forget_statistics();
    }

    /// Plays from another bank from now on, in which everything that sounds is where it was; gives the one before.
    pub(crate) fn exchange_bank(&mut self, bank: Arc<Bank>) -> Arc<Bank> {
        let before = core::mem::replace(&mut self.bank, bank);
        self.weigh();
        before
    }

    /// Of these stretches of the bank's regions, which are in order, adds where those begin that some voice plays in.
    pub(crate) fn find_played(&self, stretches: &[Range<usize>], played: &mut BTreeSet<usize>) {
        for region in self.voices[..self.used * LANES].iter().filter_map(Voice::played) {
            let before = stretches.partition_point(|stretch| stretch.start <= region).checked_sub(1);
            let stretch = before.and_then(|before| stretches.get(before));
            played.extend(stretch.filter(|stretch| stretch.contains(&region)).map(|stretch| stretch.start));
        }
    }

    /// Sounds of the bank have moved: lanes that are in them move along.
    pub(crate) fn move_along(&mut self, moved: &[Moved]) {
        for group in &mut self.groups[..self.used] {
            group.move_along(moved, PERIOD - self.phase);
        }
    }
}
