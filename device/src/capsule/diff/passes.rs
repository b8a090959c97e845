//! The two passes over two runs: the first finds where each lane differs, by hashes alone; the second collects what is
//! there.
//!
//! Fed by the sorter; feeds the comparison.

use super::sorter::{End, Pass, SinceGrant, Sorter};
use super::step::{Lane, Placed, Stamp};
use crate::capsule::{Listener, Observation};
use dmus_interface::time::RefTime;
use std::collections::{BTreeMap, VecDeque};

/// Steps before a difference, and from there on, that are looked at, to find what became of them.
const BEFORE: u64 = AHEAD;
pub(super) const AHEAD: u64 = 64;
/// Grants that a run waits for because its driver does, and not because the card happened to be faster.
const WAITED: u64 = 4;
/// Steps of registers, grants and states that are shown around a difference: before, and after.
const AROUND: (usize, usize) = (4, 2);

/// What the first pass keeps of a run: 8 bytes a step, and 4 an observation.
#[derive(Debug, Default)]
pub(super) struct Hashes {
    /// By ordinal; 0 where nothing was.
    lanes: BTreeMap<Lane, Vec<u64>>,
    observations: Vec<u32>,
    grants: EarlyGrants,
}

/// The first grants that came before the one before them was reached.
#[derive(Clone, Copy, Debug, Default)]
struct EarlyGrants {
    any: Option<u64>,
    /// Without an interrupt since.
    uninterrupted: Option<u64>,
    /// With nothing completed since, either.
    idle: Option<u64>,
}

impl EarlyGrants {
    fn add(&mut self, ordinal: u64, since: SinceGrant) {
        self.any.get_or_insert(ordinal);
        if !since.interrupted {
            self.uninterrupted.get_or_insert(ordinal);
            if !since.completed {
                self.idle.get_or_insert(ordinal);
            }
        }
    }
}

impl EarlyGrants {
    /// The first grant that the run did not wait for, if the other run waited for all of so many. A driver that waits
    /// for completions, too, has an interrupt, or now and then finds them without one.
    fn unwaited(&self, waited: u64) -> Option<u64> {
        if waited >= WAITED { self.uninterrupted } else { self.idle }
    }
}

impl Pass for Hashes {
    fn step(&mut self, placed: Placed) {
        let lane = self.lanes.entry(placed.lane).or_default();
        let at = placed.ordinal as usize;
        if lane.len() <= at {
            lane.resize(at + 1, 0);
        }
        lane[at] = placed.digest;
    }

    fn observation(&mut self, _: u64, digest: u64, _: RefTime, _: &Observation) {
        self.observations.push(digest as u32);
    }

    fn early_grant(&mut self, ordinal: u64, since: SinceGrant) {
        self.grants.add(ordinal, since);
    }
}

/// How the second run compares with the hashes of the first.
#[derive(Debug)]
struct Compared {
    of_a: Hashes,
    lanes: BTreeMap<Lane, Met>,
    /// The first observation that another one is there for.
    observation: Option<u64>,
    count: u64,
    grants: EarlyGrants,
}

#[derive(Debug, Default)]
struct Met {
    count: u64,
    /// What differs first, and when the second run came there.
    differs: Option<(Stamp, u64)>,
}

impl Pass for Compared {
    fn step(&mut self, placed: Placed) {
        let Placed { lane, ordinal, stamp, digest, .. } = placed;
        let met = self.lanes.entry(lane).or_default();
        met.count = met.count.max(ordinal + 1);
        let of_a = self.of_a.lanes.get_mut(&lane).and_then(|lane| lane.get_mut(ordinal as usize));
        match of_a {
            Some(hash) if *hash == digest => *hash = 0,
            None if !matches!(lane, Lane::Completions(_)) => {}
            // Completions come in any order.
            _ if met.differs.is_none_or(|(earliest, _)| stamp < earliest) => met.differs = Some((stamp, ordinal)),
            _ => {}
        }
    }

    fn observation(&mut self, number: u64, digest: u64, _: RefTime, _: &Observation) {
        self.count = number + 1;
        let of_a = self.of_a.observations.get(number as usize);
        if of_a.is_some_and(|hash| *hash != digest as u32) {
            self.observation.get_or_insert(number);
        }
    }

    fn early_grant(&mut self, ordinal: u64, since: SinceGrant) {
        self.grants.add(ordinal, since);
    }
}

/// Where to look in the second pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) lane: Lane,
    pub(super) ordinal: u64,
    /// One run did not wait for its grant.
    pub(super) unwaited: bool,
}

/// What the first pass has found.
#[derive(Debug, Default)]
pub(super) struct Spots {
    pub(super) spots: Vec<Spot>,
    /// The first observation that differs.
    pub(super) observation: Option<u64>,
    /// Which runs grant before the grant before is reached.
    pub(super) early_grants: [bool; 2],
}

impl Compared {
    fn spots(self, virtual_time: bool) -> Spots {
        let Self { of_a, mut lanes, observation, count, grants } = self;
        let mut spots = Vec::new();
        let count_b = lanes.get(&Lane::Grants).map_or(0, |met| met.count);
        // From there on, what a driver grants may depend on what it found come home, and so on the host.
        let own = |early: EarlyGrants| early.any.unwrap_or(u64::MAX);
        let compared = if virtual_time { own(of_a.grants).min(own(grants)) } else { 0 };
        for (lane, hashes) in &of_a.lanes {
            let met = lanes.remove(lane).unwrap_or_default();
            let mut add = |ordinal| {
                if *lane != Lane::Grants || ordinal < compared {
                    spots.push(Spot { lane: *lane, ordinal, unwaited: false });
                }
            };
            if let Some((_, ordinal)) = met.differs {
                add(ordinal);
            }
            let is_completions = matches!(lane, Lane::Completions(_));
            if is_completions {
                let missing = hashes.iter().position(|hash| *hash != 0).map(|ordinal| ordinal as u64);
                missing.filter(|ordinal| met.differs.is_none_or(|(_, differs)| differs != *ordinal)).map(add);
            } else if met.differs.is_none() && met.count != hashes.len() as u64 {
                add(met.count.min(hashes.len() as u64));
            }
        }
        // Lanes of the second run alone.
        for (lane, met) in lanes {
            if lane != Lane::Grants || compared > 0 {
                let ordinal = met.differs.map_or(0, |(_, ordinal)| ordinal);
                spots.push(Spot { lane, ordinal, unwaited: false });
            }
        }
        let count_a = of_a.lanes.get(&Lane::Grants).map_or(0, |grants| grants.len() as u64);
        let unwaited = match (of_a.grants.any, grants.any) {
            (Some(_), None) => of_a.grants.unwaited(count_b),
            (None, Some(_)) => grants.unwaited(count_a),
            _ => None,
        };
        if let Some(ordinal) = unwaited {
            spots.push(Spot { lane: Lane::Grants, ordinal, unwaited: true });
        }
        let ends = (of_a.observations.len() as u64 != count).then(|| count.min(of_a.observations.len() as u64));
        let early_grants = [of_a.grants, grants].map(|early| early.any.is_some());
        Spots { spots, observation: observation.or(ends), early_grants }
    }
}

/// What is around a spot in one run.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    before: BTreeMap<u64, Placed>,
    from: BTreeMap<u64, Placed>,
    /// Steps of other lanes, up to the spot and behind it.
    pub(super) around: Vec<Placed>,
    left: Option<usize>,
}

impl Found {
    /// The steps before the spot.
    pub(super) fn before(&self) -> Vec<&Placed> {
        self.before.values().collect()
    }

    /// The steps from the spot on, without a gap.
    pub(super) fn from(&self, spot: &Spot) -> Vec<&Placed> {
        let ordinals = spot.ordinal..;
        self.from
            .values()
            .zip(ordinals)
            .take_while(|(placed, ordinal)| placed.ordinal == *ordinal)
            .map(|(p, _)| p)
            .collect()
    }
}

/// What the second pass collects of a run.
#[derive(Debug)]
pub(super) struct Collected {
    /// In the order of the spots.
    pub(super) found: Vec<Found>,
    /// The observation that was asked for.
    pub(super) observation: Option<(RefTime, Observation)>,
    asked: Option<u64>,
    spots: Vec<Spot>,
    last: VecDeque<Placed>,
    pub(super) end: End,
}

impl Collected {
    fn new(spots: &Spots) -> Self {
        Self {
            found: vec![Found::default(); spots.spots.len()],
            observation: None,
            asked: spots.observation,
            spots: spots.spots.clone(),
            last: VecDeque::new(),
            end: End::default(),
        }
    }

    /// Of spots that the run did not come to.
    fn conclude(&mut self) {
        for (spot, found) in self.spots.iter().zip(&mut self.found) {
            if found.left.is_none() {
                found.around = around(&self.last, spot.lane);
            }
        }
    }
}

fn around(last: &VecDeque<Placed>, lane: Lane) -> Vec<Placed> {
    let others: Vec<&Placed> = last.iter().filter(|placed| placed.lane != lane).collect();
    others[others.len().saturating_sub(AROUND.0)..].iter().map(|placed| (*placed).clone()).collect()
}

impl Pass for Collected {
    fn step(&mut self, placed: Placed) {
        let is_frame =
            matches!(placed.lane, Lane::Control | Lane::Registers | Lane::Commands | Lane::Grants | Lane::States(_));
        for (spot, found) in self.spots.iter().zip(&mut self.found) {
            if placed.lane != spot.lane {
                if let Some(left) = found.left.as_mut().filter(|left| is_frame && **left > 0) {
                    *left -= 1;
                    found.around.push(placed.clone());
                }
                continue;
            }
            let ahead = placed.ordinal.checked_sub(spot.ordinal);
            match ahead {
                Some(ahead) if ahead < AHEAD => _ = found.from.insert(placed.ordinal, placed.clone()),
                None if spot.ordinal - placed.ordinal <= BEFORE => {
                    _ = found.before.insert(placed.ordinal, placed.clone());
                }
                _ => {}
            }
            if ahead == Some(0) && found.left.is_none() {
                found.left = Some(AROUND.1);
                found.around = around(&self.last, spot.lane);
            }
        }
        if is_frame {
            // Enough for those of other lanes among them, whichever lane is asked for; registers come by the dozen.
            if self.last.len() == AHEAD as usize {
                self.last.pop_front();
            }
            self.last.push_back(placed);
        }
    }

    fn observation(&mut self, number: u64, _: u64, master: RefTime, observation: &Observation) {
        if self.asked == Some(number) {
            self.observation = Some((master, observation.clone()));
        }
    }

    fn early_grant(&mut self, _: u64, _: SinceGrant) {}
}

/// A run, replayed once to a listener.
pub(super) type Replay<'a, E> = &'a mut dyn FnMut(&mut dyn Listener) -> Result<(), E>;

fn sorted<E>(virtual_time: bool, run: Replay<'_, E>, pass: &mut dyn Pass) -> Result<End, E> {
    let mut sorter = Sorter::new(virtual_time, pass);
    run(&mut sorter)?;
    Ok(sorter.end())
}

/// Where two runs differ, and their ends.
pub(super) fn first<E>(virtual_time: bool, a: Replay<'_, E>, b: Replay<'_, E>) -> Result<(Spots, [End; 2]), E> {
    let mut of_a = Hashes::default();
    let end_a = sorted(virtual_time, a, &mut of_a)?;
    let (lanes, grants) = (BTreeMap::new(), EarlyGrants::default());
    let mut compared = Compared { of_a, lanes, observation: None, count: 0, grants };
    let end_b = sorted(virtual_time, b, &mut compared)?;
    Ok((compared.spots(virtual_time), [end_a, end_b]))
}

/// What is there.
pub(super) fn second<E>(virtual_time: bool, run: Replay<'_, E>, spots: &Spots) -> Result<Collected, E> {
    let mut collected = Collected::new(spots);
    collected.end = sorted(virtual_time, run, &mut collected)?;
    collected.conclude();
    Ok(collected)
}
