//! From observations to steps in lanes, and to what only the host's timing has a part in.
//!
//! Fed by a replay; feeds a pass.

use super::address::{holds_address, is_address, register, set, without_addresses};
use super::digest::Digest;
use super::step::{Excerpt, Lane, Placed, Stamp, Step, Submission};
use crate::SAMPLE_RATE;
use crate::capsule::{Listener, Observation};
use crate::device::Region;
use dmus_interface::event::{Data, Event};
use dmus_interface::pci::STREAMS;
use dmus_interface::regs;
use dmus_interface::regs::stream::{self, MAX_SLOTS, State, Type};
use dmus_interface::ring::{Completion, Status};
use dmus_interface::time::{RefTime, UNITS_PER_SECOND};
use std::collections::BTreeMap;

/// Bytes of what was received in one step.
const RECEIVED: usize = 16;
/// Samples of one step of audio: both channels of 1,024 frames.
const AUDIO: usize = 2 * 1024;
/// A sample, rounded up.
const SAMPLE: RefTime = RefTime((UNITS_PER_SECOND as u64).div_ceil(SAMPLE_RATE as u64) as i64);
/// COMMAND of the configuration space, and its bits for memory space and bus-master.
const PCI_COMMAND: u64 = 4;
const MEMORY_SPACE: u8 = 2;
const BUS_MASTER: u8 = 4;
/// Rules about how the driver meets a card that sleeps, which is up to the host.
const OF_THE_HOST: [&str; 2] = ["wake-needless", "wake-missing"];
/// The same, of a card in real time: it drops what nobody fetched in time.
const OF_REAL_TIME: &str = "capture-overrun";

/// Takes what the sorter has sorted.
pub(super) trait Pass {
    /// A step of a lane.
    fn step(&mut self, placed: Placed);
    /// An observation, the hash of it without addresses, slots and buffers, and how many were before it.
    fn observation(&mut self, number: u64, digest: u64, master: RefTime, observation: &Observation);
    /// A grant, the number of which in its lane is given, came before the one before it was reached.
    fn early_grant(&mut self, ordinal: u64, since: SinceGrant);
}

/// What a driver may have gone on for, since its last grant.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SinceGrant {
    pub(super) interrupted: bool,
    pub(super) completed: bool,
}

/// A submission that has not come home.
#[derive(Clone, Debug)]
struct InFlight {
    ordinal: u64,
    index: u32,
    /// It is due at once, and so when the card comes across it.
    at_once: bool,
    /// What the card has filled it with.
    captured: Excerpt,
}

#[derive(Debug)]
struct Stream {
    /// It renders: its events have times.
    renders: bool,
    state: State,
    time_base: RefTime,
    /// Its last entry, of which events may follow.
    pending: Option<(Stamp, u64, Submission)>,
    submissions: u64,
    /// By slot: the submission that it heads.
    in_flight: BTreeMap<u32, InFlight>,
    pool: u64,
    buffers: u64,
    /// Of the slots and buffers that were chosen.
    chosen: Digest,
}

/// See the module.
pub(super) struct Sorter<'a> {
    virtual_time: bool,
    pass: &'a mut dyn Pass,
    now: Stamp,
    counts: BTreeMap<Lane, u64>,
    streams: [Stream; STREAMS],
    granted: RefTime,
    /// The grant before.
    granted_before: RefTime,
    since_grant: SinceGrant,
    /// With when the first of them came.
    received: BTreeMap<u16, (Stamp, Vec<u8>)>,
    audio: Vec<i16>,
    audio_first: u64,
    addresses: Digest,
}

/// What is left at the end of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    pub(super) stamp: Stamp,
    /// Of all addresses.
    pub(super) addresses: u64,
    /// Of the slots and buffers that were chosen.
    pub(super) chosen: u64,
}

impl<'a> Sorter<'a> {
    pub(super) fn new(virtual_time: bool, pass: &'a mut dyn Pass) -> Self {
        let stream = |_| Stream {
            renders: false,
            state: State::Stop,
            time_base: RefTime::ZERO,
            pending: None,
            submissions: 0,
            in_flight: BTreeMap::new(),
            pool: 0,
            buffers: 0,
            chosen: Digest::new(),
        };
        Self {
            virtual_time,
            pass,
            now: Stamp::default(),
            counts: BTreeMap::new(),
            streams: std::array::from_fn(stream),
            granted: RefTime::ZERO,
            granted_before: RefTime::ZERO,
            since_grant: SinceGrant::default(),
            received: BTreeMap::new(),
            audio: Vec::new(),
            audio_first: 0,
            addresses: Digest::new(),
        }
    }

    /// Passes on what waits for more.
    pub(super) fn end(mut self) -> End {
        for number in 0..STREAMS {
            let pending = &mut self.streams[number].pending;
            if let Some((stamp, ..)) = pending.take_if(|pending| is_cut(pending, &self.now)) {
                self.now.sequence = stamp.sequence;
            }
            self.submit(number);
        }
        for (input, (stamp, bytes)) in std::mem::take(&mut self.received) {
            self.pass_received(input, stamp, bytes);
        }
        if !self.audio.is_empty() {
            self.pass_audio();
        }
        let mut chosen = Digest::new();
        for stream in &self.streams {
            chosen.number(stream.chosen.finish());
        }
        End { stamp: self.now, addresses: self.addresses.finish(), chosen: chosen.finish() }
    }

    fn step(&mut self, lane: Lane, step: Step) {
        let ordinal = self.next(lane);
        self.place(lane, ordinal, self.now, step);
    }

    /// The number of the next step of a lane.
    fn next(&mut self, lane: Lane) -> u64 {
        let count = self.counts.entry(lane).or_default();
        *count += 1;
        *count - 1
    }

    fn place(&mut self, lane: Lane, ordinal: u64, mut stamp: Stamp, step: Step) {
        if !follows_driver(lane, &step) {
            stamp.toward = stamp.master;
        }
        let digest = step.digest(self.virtual_time);
        self.pass.step(Placed { lane, ordinal, stamp, step, digest });
    }

    /// Passes on the last entry of a stream, of which nothing follows any more.
    fn submit(&mut self, number: usize) {
        if let Some((stamp, ordinal, submission)) = self.streams[number].pending.take() {
            self.place(Lane::Submissions(number), ordinal, stamp, Step::Submission(submission));
        }
    }

    fn fetched(&mut self, number: usize, index: u32, slot: u32) {
        self.submit(number);
        let stamp = self.now;
        let stream = &mut self.streams[number];
        stream.chosen.number(slot.into());
        let ordinal = stream.submissions;
        stream.submissions += 1;
        let is_owned = stream.in_flight.contains_key(&slot);
        if !is_owned && slot < MAX_SLOTS {
            stream.in_flight.insert(slot, InFlight { ordinal, index, at_once: false, captured: Excerpt::default() });
        }
        stream.pending = Some((stamp, ordinal, Submission::new(index, is_owned)));
    }

    fn event(&mut self, number: usize, slot: u32, event: &Event) {
        let virtual_time = self.virtual_time;
        let (now, stream) = (self.now.master, &mut self.streams[number]);
        match event.data {
            Data::Buffer(iova) => _ = stream.chosen.number(iova.wrapping_sub(stream.buffers)),
            Data::Package(iova) => _ = stream.chosen.number(iova.wrapping_sub(stream.pool)),
            Data::Inline(_) => {}
        }
        if event.next != 0 {
            stream.chosen.number(event.next.wrapping_sub(stream.pool));
        }
        let Some((_, _, submission)) = &mut stream.pending else {
            return;
        };
        if submission.members.is_empty() && stream.renders && stream.state == State::Run && event.time >= 0 {
            let due = RefTime(event.time).saturating_add(stream.time_base);
            // Within a sample it is not late, and by how much the card is there before it knows a grant is up to the
            // host.
            submission.overdue = (due.saturating_add(SAMPLE) <= now).then_some(due);
        }
        if submission.members.is_empty()
            && let Some(in_flight) = stream.in_flight.get_mut(&slot)
        {
            in_flight.at_once = event.time < 0;
        }
        submission.add(event, virtual_time);
    }

    fn completed(&mut self, number: usize, completion: &Completion) {
        self.submit(number);
        self.since_grant.completed = true;
        // The card completes what it has fetched, and nothing else.
        let slot = completion.slot.get();
        let Some(InFlight { ordinal, index, at_once, captured }) = self.streams[number].in_flight.remove(&slot) else {
            return;
        };
        let (status, flags, time) = (completion.status.get(), completion.flags.get(), completion.time.get());
        let step = Step::Completion { index, status, flags, time, at_once, captured };
        self.place(Lane::Completions(number), ordinal, self.now, step);
    }

    fn reset(&mut self) {
        self.begin_anew();
        self.step(Lane::Control, Step::Reset);
    }

    fn begin_anew(&mut self) {
        for number in 0..STREAMS {
            self.submit(number);
            let stream = &mut self.streams[number];
            stream.in_flight.clear();
            (stream.state, stream.time_base) = (State::Stop, RefTime::ZERO);
        }
        (self.granted, self.granted_before) = (RefTime::ZERO, RefTime::ZERO);
        self.since_grant = SinceGrant::default();
        self.now.resets = self.now.resets.saturating_add(1);
    }

    fn granted(&mut self, until: RefTime) {
        let early = (self.virtual_time && self.now.master < self.granted).then_some(self.granted);
        if early.is_some() {
            let ordinal = self.counts.get(&Lane::Grants).copied().unwrap_or_default();
            self.pass.early_grant(ordinal, self.since_grant);
        }
        self.since_grant = SinceGrant::default();
        self.step(Lane::Grants, Step::Grant { until, early });
        if until > self.granted {
            self.granted_before = std::mem::replace(&mut self.granted, until);
        }
    }

    fn written(&mut self, offset: u64, bytes: &[u8]) {
        let found = register(offset);
        if found.is_some_and(|found| found.register == regs::WAKE) {
            return;
        }
        let is_address = found.is_some_and(|found| is_address(&found));
        if let Some(found) = found.filter(|_| is_address) {
            self.addresses.number(offset).bytes(bytes);
            if let Some(stream) = found.stream.and_then(|number| self.streams.get_mut(number)) {
                match found.register {
                    stream::POOL_BASE => set(&mut stream.pool, found.high, bytes),
                    stream::BUFFER_BASE => set(&mut stream.buffers, found.high, bytes),
                    _ => {}
                }
            }
        }
        self.step(Lane::Registers, Step::Write { offset, bytes: bytes.to_vec(), is_address });
    }

    fn received(&mut self, input: u16, bytes: &[u8]) {
        let (mut stamp, mut all) = self.received.remove(&input).unwrap_or_else(|| (self.now, Vec::new()));
        all.extend_from_slice(bytes);
        // Where the host has cut them does not count.
        let whole = all.len() - all.len() % RECEIVED;
        for block in all[..whole].chunks(RECEIVED) {
            self.pass_received(input, std::mem::replace(&mut stamp, self.now), block.to_vec());
        }
        let rest = all.split_off(whole);
        if !rest.is_empty() {
            self.received.insert(input, (stamp, rest));
        }
    }

    fn pass_received(&mut self, input: u16, stamp: Stamp, bytes: Vec<u8>) {
        let lane = Lane::Received(input);
        let ordinal = self.next(lane);
        self.place(lane, ordinal, stamp, Step::Received(bytes));
    }

    fn pass_audio(&mut self) {
        let samples = std::mem::take(&mut self.audio);
        let first = self.audio_first;
        self.audio_first += samples.len() as u64;
        self.step(Lane::Audio, Step::Audio { first, samples });
    }

    fn audio(&mut self, mut samples: &[i16]) {
        while !samples.is_empty() {
            let (now, later) = samples.split_at(samples.len().min(AUDIO - self.audio.len()));
            self.audio.extend_from_slice(now);
            samples = later;
            if self.audio.len() == AUDIO {
                self.pass_audio();
            }
        }
    }

    /// What a change of a stream's state brings, or its creation or end.
    fn state(&mut self, number: usize, step: Step) {
        self.submit(number);
        let stream = &mut self.streams[number];
        if let Step::Opened { kind, .. } = &step {
            stream.renders = *kind == Type::Render;
        }
        match &step {
            Step::Opened { .. } | Step::Closed { .. } => {
                stream.in_flight.clear();
                (stream.state, stream.time_base) = (State::Stop, RefTime::ZERO);
            }
            Step::Changed { state, time_base, .. } => (stream.state, stream.time_base) = (*state, *time_base),
            _ => {}
        }
        self.step(Lane::States(number), step);
    }

    fn sort(&mut self, observation: &Observation) {
        let (at, is) = (self.now.master, |stream: &usize| *stream < STREAMS);
        match observation {
            Observation::Connected => self.step(Lane::Control, Step::Connected),
            Observation::Disconnected => {
                self.step(Lane::Control, Step::Disconnected);
                self.begin_anew();
            }
            Observation::Access { region: Region::Registers, offset, write: true, bytes } => {
                self.written(*offset, bytes);
            }
            Observation::Access { region: Region::Config, offset: PCI_COMMAND, write: true, bytes } => {
                let has = |bit| bytes.first().is_some_and(|low| low & bit != 0);
                self.step(Lane::Registers, Step::Enabled { memory: has(MEMORY_SPACE), master: has(BUS_MASTER) });
            }
            Observation::Access { region, offset, write: true, bytes } if holds_address(*region, *offset) => {
                self.addresses.number(*offset).bytes(bytes);
            }
            Observation::Mapped { iova, .. } | Observation::Unmapped { iova, .. } => {
                self.addresses.number(*iova);
            }
            Observation::Reset => self.reset(),
            Observation::Granted { until } => self.granted(*until),
            Observation::Opened { stream, kind, slots, buffers, buffer_size } if is(stream) => {
                let (kind, slots, buffers, buffer_size) = (*kind, *slots, *buffers, *buffer_size);
                self.state(*stream, Step::Opened { kind, slots, buffers, buffer_size, at });
            }
            Observation::Changed { stream, state, time_base } if is(stream) => {
                self.state(*stream, Step::Changed { state: *state, time_base: *time_base, at });
            }
            Observation::Closed { stream } if is(stream) => self.state(*stream, Step::Closed { at }),
            Observation::Refused { stream, fault } if is(stream) => self.state(*stream, Step::Refused(*fault)),
            Observation::Command { opcode, stream, request, status } => {
                let request = super::step::Excerpt::new(request);
                let (opcode, stream, status) = (*opcode, *stream, *status);
                self.step(Lane::Commands, Step::Command { opcode, stream, request, status, at });
            }
            Observation::Fetched { stream, index, slot } if is(stream) => self.fetched(*stream, *index, *slot),
            Observation::Event { stream, slot, event } if is(stream) => self.event(*stream, *slot, event),
            Observation::Data { stream, bytes, .. } if is(stream) => {
                if let Some((_, _, submission)) = &mut self.streams[*stream].pending {
                    submission.add_data(bytes);
                }
            }
            Observation::Completed { stream, completion, .. } if is(stream) => self.completed(*stream, completion),
            Observation::Captured { stream, slot, bytes } if is(stream) => {
                if let Some(in_flight) = self.streams[*stream].in_flight.get_mut(slot) {
                    in_flight.captured = Excerpt::new(bytes);
                }
            }
            Observation::Interrupt { .. } => self.since_grant.interrupted = true,
            Observation::Received { input, bytes } => self.received(*input, bytes),
            Observation::Audio { samples, .. } if self.virtual_time => self.audio(samples),
            Observation::Violation { rule, stream, report, .. } => {
                let of_host = OF_THE_HOST.contains(rule) || !self.virtual_time && *rule == OF_REAL_TIME;
                if !of_host {
                    self.step(Lane::Violations(*stream), Step::Violation { rule, report: report.clone() });
                }
            }
            _ => {}
        }
    }
}

impl Listener for Sorter<'_> {
    fn observe(&mut self, master: RefTime, observation: &Observation) {
        self.now.master = master;
        // The card stands up to a sample behind a grant that it has reached.
        let stands = master < self.granted_before.saturating_add(SAMPLE);
        self.now.toward = if stands { self.granted_before } else { self.granted.max(master) };
        self.pass.observation(self.now.sequence, without_addresses(master, observation), master, observation);
        self.sort(observation);
        self.now.sequence += 1;
    }
}

/// Whether a step is there as soon as the card comes across what the driver did, and not at a time of its own.
fn follows_driver(lane: Lane, step: &Step) -> bool {
    match step {
        Step::Completion { status, at_once, .. } => *at_once || *status != Status::Presented as u16,
        _ => matches!(lane, Lane::Registers | Lane::Submissions(_) | Lane::Violations(_)),
    }
}

/// Whether a run ends before all of its last submission was read.
fn is_cut((stamp, _, submission): &(Stamp, u64, Submission), end: &Stamp) -> bool {
    let since = end.sequence - stamp.sequence;
    match submission.members.last() {
        None => since == 1,
        Some(last) => {
            matches!(last.event.data, Data::Buffer(_)) && last.data.len == 0 && since == 1 + u64::from(submission.count)
        }
    }
}
