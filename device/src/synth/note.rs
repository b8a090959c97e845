//! Notes that begin: which regions they play, who has a voice for them, and who has to give one up.
//!
//! Fed by note-ons, through `message`; starts voices in their lanes. What a note costs grows with the regions that
//! sound and with the voices that there are, and not with their product: what depends on all voices is found once a
//! note, and kept in [`Scratch`].

use super::channel::CHANNELS;
use super::lanes::{Group, KINDS, LANES, kind};
use super::voice::State;
use super::{PERIOD, Synth};
use crate::bank::Region;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// A voice that may be stolen, by what it is worth; its lane last.
type Worth = (u32, bool, i32, u64, usize);

/// What is found out once a note, if it has to be known. All of it has room for every lane.
#[derive(Default)]
pub(super) struct Scratch {
    /// Who is stolen next; some of them fade already. `None`: not known yet.
    victims: Option<BinaryHeap<Reverse<Worth>>>,
    /// The same without its contents.
    spare: BinaryHeap<Reverse<Worth>>,
    /// Voices of older notes on the channel that are in an exclusive class: the class, and the lane.
    rivals: Vec<(u16, usize)>,
    /// Voices of this note that are phase-locked: the group, whether it is no master, and the lane.
    locked: Vec<(u16, bool, usize)>,
}

impl Scratch {
    /// Bytes that so many lanes take.
    pub(super) fn bytes(lanes: usize) -> usize {
        lanes * (size_of::<Worth>() + size_of::<(u16, usize)>() + size_of::<(u16, bool, usize)>())
    }

    /// Room for so many lanes.
    pub(super) fn with_lanes(lanes: usize) -> Self {
        Self {
            victims: None,
            spare: BinaryHeap::with_capacity(lanes),
            rivals: Vec::with_capacity(lanes),
            locked: Vec::with_capacity(lanes),
        }
    }
}

/// A note while its voices start. No lane becomes free meanwhile.
struct Note {
    channel: usize,
    key: u8,
    velocity: u8,
    number: u64,
    /// By kind, and of all kinds: no lane group before it has room.
    full: [usize; KINDS + 1],
    /// Voices that are not silent.
    sounding: usize,
    /// Voices that count against the limit, once the victims are known.
    counting: usize,
    /// Those of its key have been ended, as a self-exclusive region asks.
    ended_key: bool,
    /// The first exclusive class whose voices were ended, and whether the rivals in all classes are known.
    class: Option<u16>,
    knows_rivals: bool,
}

impl Synth {
    /// Starts a voice for every region that the key and the velocity are in.
    pub(super) fn note_on(&mut self, channel: usize, key: u8, velocity: u8) {
        let bank = Arc::clone(&self.bank);
        let state = self.channel_mut(channel);
        let mono = state.mono;
        let Some(instrument) = bank.instrument(state.drum, state.bank, state.program) else {
            return;
        };
        if mono {
            self.each_voice(channel, |voice, context, lane| voice.release(context, lane));
        }
        self.notes += 1;
        // Each of what is found once a note looks at all lanes.
        self.work += 4 * (self.used * LANES) as u64;
        self.channel_mut(channel).begin_note(key);
        let mut note = Note {
            channel,
            key,
            velocity,
            number: self.notes,
            full: [0; KINDS + 1],
            sounding: self.sounding(),
            counting: 0,
            ended_key: false,
            class: None,
            knows_rivals: false,
        };
        let mut locked = false;
        for index in bank.sounding(instrument, key, velocity) {
            if self.is_void() {
                break;
            }
            let region = bank.region(index);
            locked |= region.phase_group != 0;
            self.start(&mut note, (index, region));
        }
        if let Some(mut victims) = self.scratch.victims.take() {
            victims.clear();
            self.scratch.spare = victims;
        }
        if locked {
            self.lock_phases();
        }
    }

    fn start(&mut self, note: &mut Note, (index, region): (usize, &Region)) {
        self.exclude(note, region);
        self.work += 2 * self.voice_cost;
        let priority = self.channel_mut(note.channel).priority;
        let kind = self.kind(note.channel, region);
        let Some(place) = self.free_lane(note, kind, priority) else {
            self.meter.lost += 1;
            return;
        };
        let Some(set) = &self.sets[note.channel / CHANNELS] else {
            return;
        };
        let context = set.context(note.channel, &self.tables, &self.bank, self.rate);
        let lane = (&mut self.groups[place / LANES], place % LANES, note.channel as u32);
        let struck = (note.key, note.velocity, note.number);
        self.voices[place].start(struck, (index, region), &context, lane, PERIOD - self.phase);
        self.used = self.used.max(place / LANES + 1);
        note.sounding += 1;
        note.counting += 1;
        if region.phase_group != 0 {
            self.scratch.locked.push((region.phase_group, !region.phase_master, place));
        }
        let worth = self.worth(place);
        if let Some(victims) = &mut self.scratch.victims {
            victims.push(Reverse(worth));
        }
    }

    /// Ends the voices of older notes that a region does not bear: those of its exclusive class, and those of its key.
    /// Once a note for each class, since there are none afterwards.
    fn exclude(&mut self, note: &mut Note, region: &Region) {
        let ends_key = region.self_exclusive && !note.ended_key;
        let class = region.key_group;
        let ends_class = class != 0 && note.class != Some(class);
        if ends_class && note.class.is_some() {
            self.exclude_another(note, class);
        }
        let first = ends_class && note.class.is_none();
        if first || ends_key {
            let (key, number) = (note.key, note.number);
            self.each_voice(note.channel, |voice, _, lane| {
                let rival = first && voice.key_group == class || ends_key && voice.key == key;
                if rival && voice.note != number {
                    note.counting = note.counting.saturating_sub(voice.counts().into());
                    voice.shut_down(lane);
                }
            });
        }
        note.ended_key |= ends_key;
        note.class = note.class.or(first.then_some(class));
    }

    /// As [`Self::exclude`], for all classes but the first of a note.
    #[cold]
    fn exclude_another(&mut self, note: &mut Note, class: u16) {
        let mut rivals = std::mem::take(&mut self.scratch.rivals);
        if !std::mem::replace(&mut note.knows_rivals, true) {
            rivals.clear();
            for place in 0..self.used * LANES {
                let voice = &self.voices[place];
                let here = self.groups[place / LANES].channel[place % LANES] as usize == note.channel;
                if here && voice.key_group != 0 && voice.note != note.number {
                    rivals.push((voice.key_group, place));
                }
            }
            rivals.sort_unstable();
        }
        let first = rivals.partition_point(|(other, _)| *other < class);
        for (_, place) in rivals[first..].iter_mut().take_while(|(other, _)| *other == class) {
            // What has been ended once needs no second look, at it or at what follows in its class.
            let place = std::mem::replace(place, usize::MAX);
            if place == usize::MAX {
                break;
            }
            note.counting = note.counting.saturating_sub(self.voices[place].counts().into());
            self.shut_down(place);
        }
        self.scratch.rivals = rivals;
    }

    /// Lets a voice fade out that has a lane.
    fn shut_down(&mut self, place: usize) {
        let lane = (&mut self.groups[place / LANES], place % LANES, PERIOD - self.phase);
        self.voices[place].shut_down(lane);
    }

    /// Lets voices of a note that are phase-locked run at the rate of their master: of the first, if none says that it
    /// is one.
    fn lock_phases(&mut self) {
        let mut locked = std::mem::take(&mut self.scratch.locked);
        // The leader of each group comes first in it.
        locked.sort_unstable();
        for group in locked.chunk_by(|(a, ..), (b, ..)| a == b) {
            let (_, _, leader) = group[0];
            for (_, _, follower) in group {
                self.voices[*follower].leader = (*follower != leader).then_some(leader);
            }
        }
        locked.clear();
        self.scratch.locked = locked;
        self.follow();
    }

    /// Gives voices the rates of their leaders.
    pub(super) fn follow(&mut self) {
        self.following = false;
        let until_tick = PERIOD - self.phase;
        for follower in 0..self.used * LANES {
            let voice = &self.voices[follower];
            let Some(leader) = voice.leader.filter(|_| voice.state != State::Idle) else {
                continue;
            };
            let ahead = &self.voices[leader];
            if ahead.note == voice.note && ahead.counts() {
                let rate = self.groups[leader / LANES].rate(leader % LANES);
                self.groups[follower / LANES].follow(follower % LANES, rate, until_tick);
                self.following = true;
            } else {
                self.voices[follower].leader = None;
            }
        }
    }

    /// The kind of a voice that is about to start.
    fn kind(&self, channel: usize, region: &Region) -> usize {
        let patch = self.bank.patch(region.patch);
        let set = self.sets[channel / CHANNELS].as_ref();
        let channel_sends = set.is_some_and(|set| set.channels[channel % CHANNELS].sends());
        kind(patch.filters(), !self.dry && (patch.sends() || channel_sends))
    }

    /// The first idle lane for a note of this kind and priority, after a voice has been stolen if all are in use. None
    /// if all of these have a higher priority, or if even the fading ones fill the lanes: then losing the new note is
    /// the lesser evil, since cutting one would click.
    fn free_lane(&mut self, note: &mut Note, kind: usize, priority: u32) -> Option<usize> {
        let has_room = |group: &Group| group.active != u8::MAX;
        let suits = |group: &Group| has_room(group) && (group.active == 0 || group.kind == kind);
        let find = |from: &mut usize, wanted: &dyn Fn(&Group) -> bool| {
            let found = self.groups[*from..].iter().position(wanted);
            *from = found.map_or(self.groups.len(), |found| *from + found);
            found.map(|_| *from)
        };
        // Better among others than not at all.
        let group = find(&mut note.full[kind], &suits).or_else(|| find(&mut note.full[KINDS], &has_room))?;
        let chosen = &mut self.groups[group];
        if chosen.active == 0 {
            chosen.kind = kind;
        }
        let lane = group * LANES + chosen.active.trailing_ones() as usize;
        if note.sounding >= self.limit {
            self.steal(note, priority)?;
        }
        Some(lane)
    }

    /// Ends notes until there is room for one more of this priority: those first that are worth least. None if each is
    /// worth more.
    fn steal(&mut self, note: &mut Note, priority: u32) -> Option<()> {
        let mut victims = self.scratch.victims.take().unwrap_or_else(|| {
            let mut all = std::mem::take(&mut self.scratch.spare).into_vec();
            let counting = (0..self.used * LANES).filter(|&place| self.voices[place].counts());
            all.extend(counting.map(|place| Reverse(self.worth(place))));
            note.counting = all.len();
            BinaryHeap::from(all)
        });
        // More than one only after the limit was lowered; then it takes some notes until it is kept.
        let surplus = (note.counting + 1).saturating_sub(self.limit).min(LANES);
        let stolen = (0..surplus).try_for_each(|_| {
            let victim = self.victim(&mut victims).filter(|victim| victim.0 <= priority)?;
            victims.pop();
            self.meter.lost += 1;
            note.counting = note.counting.saturating_sub(1);
            self.shut_down(victim.4);
            Some(())
        });
        self.scratch.victims = Some(victims);
        stolen
    }

    /// Who is worth least, without those that were ended otherwise meanwhile.
    fn victim(&self, victims: &mut BinaryHeap<Reverse<Worth>>) -> Option<Worth> {
        loop {
            let Reverse(first) = *victims.peek()?;
            if self.voices[first.4].counts() {
                return Some(first);
            }
            victims.pop();
        }
    }

    fn worth(&self, place: usize) -> Worth {
        let (priority, plays_on, level, note) = self.voices[place].worth((&self.groups[place / LANES], place % LANES));
        // In the order of `f32::total_cmp`.
        let bits = level.to_bits().cast_signed();
        (priority, plays_on, bits ^ ((bits >> 31).cast_unsigned() >> 1).cast_signed(), note, place)
    }
}
