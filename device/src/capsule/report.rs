//! A page of a run, for people: outcome, violations, slots, lateness and audio over time, and what came last.
//!
//! Fed by a replay, observation by observation; writes one HTML file that needs nothing else. What it keeps is bounded,
//! however long the run, and whatever a recording claims; all text in it is escaped.

mod audio;
mod chart;
mod charts;
mod html;
mod lateness;
mod marks;
mod occupancy;
mod page;
mod png;
mod recent;
mod series;
mod stream;
mod summary;
mod violations;
mod words;

use super::{Listener, Observation};
use audio::Audio;
use dmus_interface::pci::STREAMS;
use dmus_interface::time::RefTime;
use lateness::Lateness;
use marks::{Found, Marks};
use recent::Recent;
use serde_json::Value;
use series::RunTime;
use std::io;
use stream::Stream;

/// Client connections and resets that are told with their times.
const TOLD: usize = 24;

/// What the observations do not show.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// What the page is about: the name of the file, say.
    pub title: String,
    /// The clock that drove the card, in words; may be empty, as the bank may.
    pub clock: String,
    /// The bank that the card played by.
    pub bank: String,
    /// As [`Checker::json`](crate::check::Checker::json) gives it, or null if nothing checked.
    pub checker: Value,
    /// As `serve --json` leaves them, or null.
    pub counters: Value,
    /// Why the recording is not complete, if it is not.
    pub incomplete: Option<String>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Report {
    time: RunTime,
    observations: u64,
    streams: [Stream; STREAMS],
    /// Observations of streams that a card does not have.
    foreign: u64,
    lateness: Lateness,
    audio: Audio,
    marks: Marks,
    found: Found,
    recent: Recent,
    clients: u64,
    resets: Vec<i64>,
    reset_count: u64,
    maps: u64,
    unmaps: u64,
    commands: u64,
    interrupts: u64,
    received: u64,
}

impl Default for Report {
    fn default() -> Self {
        Self::new()
    }
}

impl Report {
    /// Of a run of which nothing was observed yet.
    pub fn new() -> Self {
        Self {
            time: RunTime::default(),
            observations: 0,
            streams: std::array::from_fn(|_| Stream::default()),
            foreign: 0,
            lateness: Lateness::default(),
            audio: Audio::default(),
            marks: Marks::default(),
            found: Found::default(),
            recent: Recent::default(),
            clients: 0,
            resets: Vec::new(),
            reset_count: 0,
            maps: 0,
            unmaps: 0,
            commands: 0,
            interrupts: 0,
            received: 0,
        }
    }

    /// Writes the page.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(self, facts: &Facts, out: &mut dyn io::Write) -> io::Result<()> {
        page::write(self, facts, out)
    }

    /// The stream of an observation, if a card has such a one.
    fn stream(&mut self, number: usize) -> Option<&mut Stream> {
        self.foreign += u64::from(number >= STREAMS);
        self.streams.get_mut(number)
    }

    /// The card is as new: nothing is open, and its clock begins anew.
    fn begin_anew(&mut self, time: i64) {
        self.streams.iter_mut().for_each(|stream| stream.close(time));
        self.time.begin_anew();
    }

    fn note_reset(&mut self, time: i64) {
        self.reset_count += 1;
        if self.resets.len() < TOLD {
            self.resets.push(time);
        }
        self.marks.reset(time);
        self.begin_anew(time);
    }
}

impl Listener for Report {
    fn observe(&mut self, master: RefTime, observation: &Observation) {
        let time = self.time.advance(master.0);
        self.observations += 1;
        self.recent.add(time, observation);
        match observation {
            Observation::Connected => self.clients += 1,
            Observation::Disconnected => self.begin_anew(time),
            Observation::Reset => self.note_reset(time),
            Observation::Mapped { .. } => self.maps += 1,
            Observation::Unmapped { .. } => self.unmaps += 1,
            Observation::Command { .. } => self.commands += 1,
            Observation::Interrupt { .. } => self.interrupts += 1,
            Observation::Received { .. } => self.received += 1,
            Observation::Access { .. }
            | Observation::Granted { .. }
            | Observation::Submitted { .. }
            | Observation::Data { .. }
            | Observation::Captured { .. } => {}
            Observation::Opened { stream, kind, slots, buffers, buffer_size } => {
                if let Some(stream) = self.stream(*stream) {
                    stream.open(time, *kind, *slots, *buffers, *buffer_size);
                }
            }
            Observation::Changed { stream: number, state, time_base } => {
                if let Some(stream) = self.stream(*number) {
                    stream.change(time, *state, *time_base);
                    self.marks.change(time);
                }
            }
            Observation::Closed { stream } => {
                if let Some(stream) = self.stream(*stream) {
                    stream.close(time);
                }
            }
            Observation::Refused { stream, .. } => {
                if let Some(stream) = self.stream(*stream) {
                    stream.refused += 1;
                }
            }
            Observation::Fetched { stream, slot, .. } => {
                if let Some(stream) = self.stream(*stream) {
                    stream.fetch(time, *slot);
                }
            }
            Observation::Event { stream, slot, event } => match self.streams.get_mut(*stream) {
                Some(stream) => stream.event(time, master.0, *slot, event, &mut self.lateness),
                None => self.foreign += 1,
            },
            Observation::Completed { stream, completion, .. } => match self.streams.get_mut(*stream) {
                Some(stream) => {
                    let late = self.lateness.late();
                    stream.complete(time, completion, &mut self.lateness);
                    if self.lateness.late() > late {
                        self.marks.late(time);
                    }
                }
                None => self.foreign += 1,
            },
            Observation::Audio { samples, voices } => self.audio.add(time, samples, *voices),
            Observation::Violation { rule, stream, slot, report } => {
                self.marks.violation(time, rule, *stream);
                self.found.add(time, rule, *stream, *slot, report.as_deref());
            }
        }
    }
}
