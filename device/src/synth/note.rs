//! Notes that begin: which regions they play, who has a voice for them, and who has to give one up.
//!
//! Fed by note-ons, through `message`; starts voices in their lanes.

use super::channel::CHANNELS;
use super::lanes::LANES;
use super::voice::State;
use super::{PERIOD, Synth};
use crate::bank::Region;
use std::sync::Arc;

impl Synth {
    /// Starts a voice for every region that the key and the velocity are in.
    pub(super) fn note_on(&mut self, channel: usize, key: u8, velocity: u8) {
        let bank = Arc::clone(&self.bank);
        let state = self.channel_mut(channel);
        let (regions, mono) = (bank.instrument(state.drum, state.bank, state.program), state.mono);
        if regions.is_empty() {
            return;
        }
        if mono {
            self.each_voice(channel, |voice, context, lane| voice.release(context, lane));
        }
        self.notes += 1;
        self.channel_mut(channel).begin_note(key);
        let mut locked = false;
        for index in regions {
            let region = bank.region(index);
            if region.holds(key, velocity) {
                locked |= region.phase_group != 0;
                self.start(channel, (key, velocity, self.notes), (index, region));
            }
        }
        if locked {
            self.lock_phases(self.notes);
        }
    }

    fn start(&mut self, channel: usize, (key, velocity, note): (u8, u8, u64), (index, region): (usize, &Region)) {
        if region.key_group != 0 || region.self_exclusive {
            self.each_voice(channel, |voice, context, lane| {
                let rival = region.key_group != 0 && voice.key_group == region.key_group
                    || region.self_exclusive && voice.key == key;
                if rival && voice.note != note {
                    voice.shut_down(context, lane);
                }
            });
        }
        let priority = self.channel_mut(channel).priority;
        let Some(place) = self.free_lane(priority) else {
            self.meter.lost += 1;
            return;
        };
        let Some(set) = &self.sets[channel / CHANNELS] else {
            return;
        };
        let context = set.context(channel, &self.tables, &self.bank, self.rate);
        let lane = (&mut self.groups[place / LANES], place % LANES, channel as u32);
        self.voices[place].start((key, velocity, note), (index, region), &context, lane, PERIOD - self.phase);
        self.used = self.used.max(place / LANES + 1);
    }

    /// Lets voices of a note that are phase-locked run at the rate of their master: of the first, if none says that it
    /// is one.
    fn lock_phases(&mut self, note: u64) {
        for follower in 0..self.used * LANES {
            let phase_group = |v: usize| {
                let voice = &self.voices[v];
                let region = (voice.state != State::Idle && voice.note == note).then(|| voice.region(&self.bank))?;
                (region.phase_group != 0).then_some((region.phase_group, region.phase_master))
            };
            let Some((own, _)) = phase_group(follower) else {
                continue;
            };
            let mut group = (0..self.used * LANES).filter(|&v| phase_group(v).is_some_and(|(group, _)| group == own));
            let first = group.clone().next();
            let leader = group.find(|&v| phase_group(v).is_some_and(|(_, master)| master)).or(first);
            self.voices[follower].leader = leader.filter(|&leader| leader != follower);
        }
        self.follow();
    }

    /// Gives voices the rates of their leaders.
    pub(super) fn follow(&mut self) {
        self.following = false;
        for follower in 0..self.used * LANES {
            let voice = &self.voices[follower];
            let Some(leader) = voice.leader.filter(|_| voice.state != State::Idle) else {
                continue;
            };
            let ahead = &self.voices[leader];
            if ahead.note == voice.note && ahead.counts() {
                let rate = self.groups[leader / LANES].rate(leader % LANES);
                self.groups[follower / LANES].follow(follower % LANES, rate);
                self.following = true;
            } else {
                self.voices[follower].leader = None;
            }
        }
    }

    /// The first idle lane for a note of this priority, after a voice has been stolen if all are in use. None if all of
    /// these have a higher priority, or if even the fading ones fill the lanes: then losing the new note is the lesser
    /// evil, since cutting one would click.
    fn free_lane(&mut self, priority: u32) -> Option<usize> {
        let group = self.groups.iter().position(|group| group.active != u8::MAX)?;
        let lane = group * LANES + self.groups[group].active.trailing_ones() as usize;
        if self.sounding() >= self.limit {
            self.steal(priority)?;
        }
        Some(lane)
    }

    /// Ends notes until there is room for one more of this priority: those first that are worth least. None if each is
    /// worth more.
    fn steal(&mut self, priority: u32) -> Option<()> {
        let counting = (0..self.used * LANES).filter(|&v| self.voices[v].counts()).count();
        // More than one only after the limit was lowered; then it takes some notes until it is kept.
        let surplus = (counting + 1).saturating_sub(self.limit).min(LANES);
        for _ in 0..surplus {
            let counting = (0..self.used * LANES).filter(|&v| self.voices[v].counts());
            let worth = |v: usize| self.voices[v].worth(&self.tables);
            let victim = counting.min_by(|&a, &b| {
                let (a, b) = (worth(a), worth(b));
                (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2)).then(a.3.cmp(&b.3))
            });
            let victim = victim.filter(|&victim| self.voices[victim].worth(&self.tables).0 <= priority)?;
            self.meter.lost += 1;
            let (group, lane) = (&mut self.groups[victim / LANES], victim % LANES);
            let channel = group.channel[lane] as usize;
            let Some(Some(set)) = self.sets.get(channel / CHANNELS) else {
                continue;
            };
            let context = set.context(channel, &self.tables, &self.bank, self.rate);
            self.voices[victim].shut_down(&context, (group, lane, PERIOD - self.phase));
        }
        Some(())
    }
}
