//! The first observation in which two runs differ.
//!
//! Fed by two replays; feeds a driver developer with what the runs have in common, the first difference, and what
//! came before it on both sides.
//!
//! Two runs of one driver are never observed alike: how many submissions a poll found, how often a register was read,
//! where the card was when it fetched something, all that is up to the host. So each run is sorted into
//! [lanes](Lane), whose steps have an order that is the driver's own, and what is compared of a step does not depend
//! on the host:
//!
//! | lane | compared, with virtual time | in real time, not |
//! |---|---|---|
//! | connections and resets | their order | |
//! | register writes | register and value, but for WAKE and for addresses | |
//! | commands | opcode, stream, request, status, master time | master time |
//! | grants | up to where; whether the driver waited for the grant before | anything |
//! | states of a stream | configuration, state, time base, master time | time base, master time |
//! | submissions of a stream | the fields of each event, its data, whether its time had passed | event times |
//! | completions of a stream | status, reason, time (unless due at once), what was captured | all but rejections |
//! | broken rules | the rule and the stream, but for those about WAKE | capture overruns |
//! | bytes of a MIDI input | the bytes of a live one; of a song, as they were captured | |
//! | audio | the samples | anything |
//!
//! Which slot or buffer an event is in is the allocator's, whose order depends on what came home when: it is not
//! compared, and neither are addresses. The first difference is the one at the earliest master time. What a driver
//! does before it grants more (submissions, registers, and what is refused) counts as of the grant before, whenever
//! the card came across it. At one time, requests come in the order in which they were made, and else a lane before
//! those that it leads to.
//!
//! A driver that grants before its last grant was reached goes by what it found completed, and that is up to the host:
//! of two runs, grants are compared up to the first such one. If only one run has grants like that without an interrupt
//! since the grant before, its driver did not wait where the other did. That is a difference, if the other run has at
//! least four grants, or if nothing was completed since, either. Else it is a note.
//!
//! The first pass keeps 8 bytes a step and 4 an observation of the first run, up to twice that where a list has just
//! grown, and nothing of the second run. So an event by itself costs 16 bytes for its submission and its completion,
//! and about as much for what was observed of it. The second pass keeps up to 128 steps of each lane that differs,
//! each with 64 bytes of its data at most.

mod address;
mod digest;
mod judge;
mod passes;
mod sorter;
mod step;
#[cfg(test)]
mod tests;
mod words;

pub use step::Lane;

use super::Listener;
use dmus_interface::time::RefTime;
use passes::{Collected, Spot};
use sorter::End;
use std::cmp::Ordering;
use std::fmt::{self, Display};
use step::{Placed, Stamp, Step};

/// Steps that are shown before a difference, and from there on.
const SHOWN: (usize, usize) = (3, 3);

/// One of the two runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// The first.
    A,
    /// The second.
    B,
}

/// What became of the steps of A in B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// So many are others.
    Changed(usize),
    /// So many are not there.
    Lost(usize),
    /// So many are there a second time.
    Doubled(usize),
    /// So many are there that A has not.
    Added(usize),
    /// So many are in another order.
    Reordered(usize),
    /// This run was over, where the other goes on.
    Ended(Run),
    /// This run granted before its last grant was reached, with no interrupt since, and the other never does.
    NotWaited(Run),
    /// The runs do not come together again within what is looked at.
    Unlike,
}

/// A step of a run, to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Master time.
    pub time: RefTime,
    /// The step in words.
    pub text: String,
    /// It is the first that differs.
    pub is_first: bool,
}

/// What a run has around a difference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// In the lane of the difference.
    pub steps: Vec<Line>,
    /// Of registers, commands, grants and states.
    pub around: Vec<Line>,
}

/// The first difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub lane: Lane,
    /// What.
    pub kind: Kind,
    /// Which step of the lane it is, from 0 in the run; of a completion, which submission's.
    pub ordinal: u64,
    /// Up to when the runs are the same, in words.
    pub until: String,
    /// The difference in one sentence.
    pub sentence: String,
    /// Of the first run.
    pub a: Context,
    /// Of the second.
    pub b: Context,
}

/// How two runs compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Whether time is the card's own, and so is compared.
    pub virtual_time: bool,
    /// The first difference, if there is one.
    pub difference: Option<Box<Difference>>,
    /// Where the first observation is another one, if no step is.
    pub timing: Option<String>,
    /// Pools, buffers, rings or mapped memory lie elsewhere.
    pub addresses_differ: bool,
    /// Events are in other slots or buffers.
    pub slots_differ: bool,
    /// From where on the audio differs, if something else does before.
    pub audio: Option<String>,
    /// Which runs granted before their last grant was reached: grants from there on were not compared.
    pub early_grants: [bool; 2],
    /// How far the first run goes.
    pub end: RefTime,
}

impl Comparison {
    /// Whether nothing but the host's timing and the places in memory differ.
    pub fn is_same(&self) -> bool {
        self.difference.is_none()
    }
}

/// Compares two runs. Each closure replays its run to a listener, and is called once or twice.
///
/// # Errors
/// Those of the replays.
pub fn diff<E>(
    virtual_time: bool,
    mut a: impl FnMut(&mut dyn Listener) -> Result<(), E>,
    mut b: impl FnMut(&mut dyn Listener) -> Result<(), E>,
) -> Result<Comparison, E> {
    let (spots, ends) = passes::first(virtual_time, &mut a, &mut b)?;
    let mut comparison = Comparison {
        virtual_time,
        difference: None,
        timing: None,
        addresses_differ: ends[0].addresses != ends[1].addresses,
        slots_differ: ends[0].chosen != ends[1].chosen,
        audio: None,
        early_grants: spots.early_grants,
        end: ends[0].stamp.master,
    };
    if spots.spots.is_empty() && spots.observation.is_none() {
        return Ok(comparison);
    }
    let of_a = passes::second(virtual_time, &mut a, &spots)?;
    let of_b = passes::second(virtual_time, &mut b, &spots)?;
    let met = |(place, spot): (usize, &Spot)| {
        let stamps = [&of_a, &of_b].map(|run| run.found[place].from(spot).first().map(|placed| placed.stamp));
        stamps.iter().any(Option::is_some).then_some(Met { place, lane: spot.lane, stamps })
    };
    let all: Vec<Met> = spots.spots.iter().enumerate().filter_map(met).collect();
    match all.iter().copied().reduce(Met::first_of) {
        None if spots.spots.is_empty() => comparison.timing = Some(timing(&of_a, &of_b)),
        // A replay that is another one the second time.
        None => comparison.timing = Some("where a replay did not repeat itself".into()),
        Some(first) => {
            let audio = all.iter().find(|met| met.lane == Lane::Audio && first.lane != Lane::Audio);
            comparison.audio = audio.map(|met| words::time(&met.earliest()));
            comparison.difference = Some(Box::new(difference(&spots.spots[first.place], first.place, [&of_a, &of_b])));
        }
    }
    Ok(comparison)
}

/// A spot, and when the runs came there.
#[derive(Clone, Copy, Debug)]
struct Met {
    place: usize,
    lane: Lane,
    stamps: [Option<Stamp>; 2],
}

impl Met {
    fn earliest(&self) -> Stamp {
        self.stamps.iter().flatten().min().copied().unwrap_or_default()
    }

    fn time(&self) -> (bool, u32, RefTime) {
        let times = self.stamps.iter().flatten().map(|stamp| (stamp.resets, stamp.toward));
        let (resets, time) = times.min().unwrap_or_default();
        (self.lane == Lane::Audio, resets, time)
    }

    /// Whether both runs, as far as they came to both, came here before they came there.
    fn precedes(&self, other: &Self) -> bool {
        let mut both =
            self.stamps.iter().zip(&other.stamps).filter_map(|(own, other)| own.as_ref().zip(other.as_ref()));
        let is_setup = |lane| matches!(lane, Lane::Control | Lane::Registers | Lane::Commands | Lane::States(_));
        is_setup(self.lane)
            && is_setup(other.lane)
            && both.clone().count() > 0
            && both.all(|(own, other)| own.sequence < other.sequence)
    }

    /// By time; at one time, the requests of a driver come in their order, and the rest by lanes.
    fn first_of(self, other: Self) -> Self {
        let is_other = match other.time().cmp(&self.time()) {
            Ordering::Equal if self.precedes(&other) => false,
            Ordering::Equal => other.precedes(&self) || other.lane < self.lane,
            order => order.is_lt(),
        };
        if is_other { other } else { self }
    }
}

fn timing(a: &Collected, b: &Collected) -> String {
    let told = |of: &Collected| of.observation.as_ref().map(|(_, observation)| words::observation(observation));
    let time = a.observation.iter().chain(&b.observation).map(|(master, _)| *master).min().unwrap_or_default();
    let time = words::time(&Stamp { master: time, ..Stamp::default() });
    let or_end = |told: Option<String>| told.unwrap_or_else(|| "nothing more".into());
    format!("first at {time}, where A has {}, and B {}", or_end(told(a)), or_end(told(b)))
}

fn difference(spot: &Spot, place: usize, runs: [&Collected; 2]) -> Difference {
    let [before, steps] = [
        runs.map(|run| run.found[place].before()),
        runs.map(|run| {
            let from = run.found[place].from(spot);
            match spot.lane {
                // Completions are compared one by one.
                Lane::Completions(_) => from.into_iter().take(1).collect(),
                _ => from,
            }
        }),
    ];
    let kind = kind(spot, &before[0], &steps, runs.map(|run| run.end));
    let earliest = steps.iter().filter_map(|steps| steps.first()).map(|placed| placed.stamp).min();
    let context = |run: usize| Context {
        steps: lines(&before[run], &steps[run]),
        around: runs[run].found[place].around.iter().map(|placed| line(placed, false)).collect(),
    };
    Difference {
        lane: spot.lane,
        kind,
        ordinal: spot.ordinal,
        until: words::time(&earliest.unwrap_or_default()),
        sentence: match (spot.lane, &steps[..]) {
            (Lane::Audio, [a, b]) => audio(a, b),
            (_, [a, b]) => words::sentence(kind, &before[0], a, b),
            _ => String::new(),
        },
        a: context(0),
        b: context(1),
    }
}

fn kind(spot: &Spot, before: &[&Placed], steps: &[Vec<&Placed>; 2], ends: [End; 2]) -> Kind {
    let [a, b] = steps;
    if spot.unwaited {
        let is_early =
            |steps: &[&Placed]| matches!(steps.first(), Some(Placed { step: Step::Grant { early: Some(_), .. }, .. }));
        return Kind::NotWaited(if is_early(b) { Run::B } else { Run::A });
    }
    for (run, own, other, end) in [(Run::B, b, a, ends[1]), (Run::A, a, b, ends[0])] {
        let is_over = |placed: &&&Placed| {
            // Up to the time of one observation, the number of them tells. Bytes come when the host has them.
            matches!(placed.lane, Lane::Received(_))
                || (end.stamp.time(), end.stamp.sequence) <= (placed.stamp.time(), placed.stamp.sequence)
        };
        if own.is_empty() && other.first().filter(is_over).is_some() {
            return Kind::Ended(run);
        }
    }
    if let (Some(Step::Received(of_a)), Some(Step::Received(of_b))) = (a.first().map(step), b.first().map(step)) {
        match (of_a.starts_with(of_b), of_b.starts_with(of_a)) {
            (true, _) => return Kind::Ended(Run::B),
            (_, true) => return Kind::Ended(Run::A),
            _ => {}
        }
    }
    judge::judge(before, a, b)
}

fn step<'a>(placed: &&'a Placed) -> &'a Step {
    &placed.step
}

fn audio(a: &[&Placed], b: &[&Placed]) -> String {
    let (Some(Step::Audio { first, samples: of_a }), Some(Step::Audio { samples: of_b, .. })) =
        (a.first().map(|placed| &placed.step), b.first().map(|placed| &placed.step))
    else {
        return "the audio of one run is longer".into();
    };
    let same = of_a.iter().zip(of_b).take_while(|(a, b)| a == b).count() as u64;
    for (run, len) in [(Run::A, of_a.len()), (Run::B, of_b.len())] {
        if len as u64 == same {
            return format!(
                "the audio of {run} ends with {} frames, and that of the other goes on",
                words::count((first + same) / 2)
            );
        }
    }
    format!("the audio differs from sample {} on, though nothing else does", words::count((first + same) / 2))
}

fn lines(before: &[&Placed], steps: &[&Placed]) -> Vec<Line> {
    let skipped = before.len().saturating_sub(SHOWN.0);
    let first = before.len() - skipped;
    let shown = before.iter().skip(skipped).chain(steps.iter().take(SHOWN.1));
    shown.enumerate().map(|(number, placed)| line(placed, number == first)).collect()
}

fn line(placed: &Placed, is_first: bool) -> Line {
    Line { time: placed.stamp.master, text: words::line(placed), is_first }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.difference, &self.timing) {
            (Some(difference), _) => write!(f, "{difference}")?,
            (None, Some(timing)) => {
                writeln!(
                    f,
                    "the same, up to the end at {}; only host timing differs ({timing})",
                    crate::check::seconds(self.end)
                )?;
            }
            (None, None) if self.slots_differ => writeln!(f, "the same, only host timing differs (other slots)")?,
            (None, None) => writeln!(f, "the same")?,
        }
        if let Some(audio) = &self.audio {
            writeln!(f, "note: the audio differs, from the 1,024 frames at {audio} on")?;
        }
        if self.addresses_differ {
            writeln!(f, "note: addresses of memory differ")?;
        }
        if self.slots_differ {
            writeln!(f, "note: events are in other slots or buffers")?;
        }
        let who = match self.early_grants {
            [true, true] => Some("both runs granted before their"),
            [true, false] => Some("A granted before its"),
            [false, true] => Some("B granted before its"),
            [false, false] => None,
        };
        if let Some(who) = who {
            writeln!(f, "note: {who} last grant was reached; grants from there on are not compared")?;
        }
        if !self.virtual_time {
            writeln!(f, "note: recorded in real time; times, grants and audio are not compared")?;
        }
        Ok(())
    }
}

impl Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the same up to {}; the first difference is in the {}:", self.until, self.lane)?;
        writeln!(f, "{}", self.sentence)?;
        for (run, context) in [(Run::A, &self.a), (Run::B, &self.b)] {
            writeln!(f, "\n{run}, {}", self.lane)?;
            write_lines(f, &context.steps)?;
            if !context.around.is_empty() {
                writeln!(f, "{run}, registers, grants and states around it")?;
                write_lines(f, &context.around)?;
            }
        }
        writeln!(f)
    }
}

fn write_lines(f: &mut fmt::Formatter<'_>, lines: &[Line]) -> fmt::Result {
    for Line { time, text, is_first } in lines {
        let mark = if *is_first { '>' } else { ' ' };
        writeln!(f, "{mark} {:>14}  {text}", crate::check::seconds(*time))?;
    }
    Ok(())
}
