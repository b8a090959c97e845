//! A trace of a run for [Perfetto](https://ui.perfetto.dev): a track for each slot, and tracks for whatever else was
//! observed.
//!
//! Fed by a replay, or by a card that serves, as a [`Listener`]; feeds a `.pftrace` file. Its memory is bounded by the
//! slots of the open streams, whatever is observed.

mod event;
mod names;
mod packets;
mod proto;
mod stream;
mod tracks;

use super::{Listener, Observation};
use crate::device::Region;
use dmus_interface::command::{self, Opcode};
use dmus_interface::pci;
use dmus_interface::regs;
use dmus_interface::regs::Fault;
use dmus_interface::regs::stream::State;
use dmus_interface::rule::{Code, Rule};
use dmus_interface::time::RefTime;
use names::{Label, Name, Text};
use packets::Packets;
use proto::{COUNTER, DebugAnnotation, INSTANT, TrackEvent};
use std::io::{self, Write};
use stream::Stream;
use tracks::{instant, on};

/// Longest report of the checker that is shown, in bytes.
const LONGEST_REPORT: usize = 16 << 10;
/// What the audio level of silence is shown as, in dBFS: below that of any sample.
const SILENCE: f64 = -100.0;

/// Writes a run as a trace. What it shows at one master time it shows in the order of observation.
#[derive(Debug)]
pub struct Trace<W: Write> {
    packets: Packets<W>,
    streams: [Option<Stream>; pci::STREAMS],
    /// Time of the trace at master time 0, 100 ns. Not 0 once the master clock has started again.
    origin: u64,
    /// The master clock may start again: there was a reset, or a new client.
    restarts: bool,
    next_flow: u64,
    voices: Option<usize>,
    level: Option<f64>,
}

impl<W: Write> Trace<W> {
    /// A trace that is written to `out`, as a `.pftrace` file, in pieces of some 20 KiB.
    pub fn new(out: W) -> Self {
        let mut packets = Packets::new(out);
        for track in tracks::common() {
            packets.describe(track);
        }
        Self {
            packets,
            streams: [const { None }; pci::STREAMS],
            origin: 0,
            restarts: false,
            next_flow: 1,
            voices: None,
            level: None,
        }
    }

    /// Ends what is still in flight, and writes the rest. What `observe` could not write is an error here.
    pub fn finish(mut self) -> io::Result<()> {
        self.close_all(Text::AtEnd);
        self.packets.finish()
    }

    /// Moves time on. Where the master clock starts again after a reset, the trace goes on from where it is.
    fn time(&mut self, master: RefTime) {
        let master = u64::try_from(master.0).unwrap_or(0);
        let now = self.packets.now();
        let mut time = self.origin.saturating_add(master);
        let again = self.restarts && time < now;
        if again {
            self.origin = now.saturating_sub(master);
            time = now;
        }
        if again || time > now {
            self.restarts = false;
        }
        if time > now {
            for stream in self.streams.iter_mut().flatten() {
                stream.pass(&mut self.packets);
            }
            self.packets.set_now(time);
        }
        if again {
            self.instant(tracks::CONNECTION, Name::Clock, vec![Label::Offset.uint(self.origin)]);
        }
    }

    fn stream(&mut self, number: usize) -> Option<(&mut Stream, &mut Packets<W>)> {
        let stream = self.streams.get_mut(number)?.as_mut()?;
        Some((stream, &mut self.packets))
    }

    fn instant(&mut self, track: u64, name: Name, annotations: Vec<DebugAnnotation>) {
        self.packets.event(TrackEvent { debug_annotations: annotations, ..instant(track, name.iid()) });
    }

    /// An instant whose name is seldom seen, or not known beforehand.
    fn named(&mut self, track: u64, name: impl Into<String>, annotations: Vec<DebugAnnotation>) {
        let event = on(track, INSTANT);
        self.packets.event(TrackEvent { name: Some(name.into()), debug_annotations: annotations, ..event });
    }

    /// On the track of the stream if it is open, else on that of streams that are not.
    fn at_stream(&mut self, number: usize, name: Name, mut annotations: Vec<DebugAnnotation>) {
        if let Some((stream, packets)) = self.stream(number) {
            return stream.instant(packets, name, annotations);
        }
        annotations.push(Label::Stream.uint(number as u64));
        self.instant(tracks::NOT_OPEN, name, annotations);
    }

    fn close(&mut self, number: usize, cause: Text) {
        if let Some(mut stream) = self.streams.get_mut(number).and_then(Option::take) {
            stream.end(&mut self.packets, cause);
        }
    }

    fn close_all(&mut self, cause: Text) {
        for number in 0..self.streams.len() {
            self.close(number, cause);
        }
    }

    fn restart(&mut self, name: Name) {
        self.close_all(Text::AtReset);
        self.restarts = true;
        self.instant(tracks::CONNECTION, name, vec![]);
    }

    fn access(&mut self, region: Region, offset: u64, write: bool, bytes: &[u8]) {
        let name = format!("{} {}", if write { "write" } else { "read" }, place(region, offset));
        let mut value = [0; 8];
        let mut about = vec![Label::Offset.address(offset)];
        match value.get_mut(..bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                about.push(Label::Value.address(u64::from_le_bytes(value)));
            }
            None => about.push(Label::Data.text(event::hex(bytes))),
        }
        about.push(Label::Bytes.uint(bytes.len() as u64));
        self.named(tracks::ACCESSES, name, about);
    }

    fn refused(&mut self, stream: usize, fault: Fault) {
        let mut about = vec![Label::Code.text(Code::Fault(fault).to_string()), Label::Meaning.text(fault.to_string())];
        if let Some(rule) = Rule::of(Code::Fault(fault)) {
            about.push(Label::Reason.text(rule.name));
        }
        self.at_stream(stream, Name::Refused, about);
    }

    fn command(&mut self, opcode: u32, stream: u32, request: &[u8], status: u32) {
        let mut about = vec![
            Label::Opcode.address(opcode.into()),
            Label::Stream.uint(stream),
            Label::Bytes.uint(request.len() as u64),
            Label::Data.text(event::hex(request)),
        ];
        about.push(match command::Status::decode(status) {
            Some(status) => Label::Status.text(status.to_string()),
            None => Label::Status.text(format!("unknown ({status:#x})")),
        });
        match Opcode::decode(opcode) {
            Some(opcode) => self.named(tracks::MAILBOX, format!("{opcode:?}"), about),
            None => self.instant(tracks::MAILBOX, Name::Command, about),
        }
    }

    fn interrupt(&mut self, vector: u16) {
        let ended = self.streams.get_mut(usize::from(vector)).and_then(Option::as_mut).map(Stream::interrupted);
        self.packets.event(TrackEvent {
            debug_annotations: vec![Label::Vector.uint(vector)],
            terminating_flow_ids: ended.unwrap_or_default(),
            ..instant(tracks::INTERRUPTS, names::vector(vector))
        });
    }

    fn audio(&mut self, samples: &[i16], voices: usize) {
        if self.voices != Some(voices) {
            self.voices = Some(voices);
            let value = i64::try_from(voices).unwrap_or(i64::MAX);
            self.packets.event(TrackEvent { counter_value: Some(value), ..on(tracks::VOICES, COUNTER) });
        }
        let level = level(samples);
        if self.level != Some(level) {
            self.level = Some(level);
            self.packets.event(TrackEvent { double_counter_value: Some(level), ..on(tracks::LEVEL, COUNTER) });
        }
    }

    fn violation(&mut self, name: &str, stream: Option<usize>, slot: Option<u32>, report: Option<&str>) {
        let mut about = vec![];
        if let Some(rule) = Rule::find(name) {
            about.push(Label::Code.text(rule.code.to_string()));
            about.push(Label::Severity.text(rule.severity.to_string()));
            about.push(Label::Meaning.text(rule.code.meaning().to_string()));
        }
        about.extend(stream.map(|stream| Label::Stream.uint(stream as u64)));
        about.extend(slot.map(|slot| Label::Slot.uint(slot)));
        about.extend(report.map(|report| Label::Report.text(shortened(report, LONGEST_REPORT))));
        self.named(tracks::VIOLATIONS, name, about);
    }
}

impl<W: Write> Listener for Trace<W> {
    fn observe(&mut self, master: RefTime, observation: &Observation) {
        if self.packets.failed() {
            return;
        }
        self.time(master);
        match *observation {
            Observation::Connected => self.restart(Name::Connected),
            Observation::Disconnected => self.restart(Name::Disconnected),
            Observation::Reset => self.restart(Name::Reset),
            Observation::Access { region, offset, write, ref bytes } => self.access(region, offset, write, bytes),
            Observation::Mapped { iova, size, writable, shared } => {
                let about = vec![
                    Label::Iova.address(iova),
                    Label::Bytes.uint(size),
                    Label::Writable.flag(writable),
                    Label::Shared.flag(shared),
                ];
                self.instant(tracks::MEMORY, Name::Mapped, about);
            }
            Observation::Unmapped { iova, size } => {
                self.instant(tracks::MEMORY, Name::Unmapped, vec![Label::Iova.address(iova), Label::Bytes.uint(size)]);
            }
            Observation::Granted { until } => {
                self.instant(tracks::DOORBELL, Name::Grant, vec![Label::Until.int(until.0)]);
            }
            Observation::Opened { stream, kind, slots, buffers, buffer_size } => {
                self.close(stream, Text::AtClose);
                if let Some(place) = self.streams.get_mut(stream) {
                    *place = Some(Stream::new(stream, kind, slots, &mut self.packets));
                }
                let about =
                    vec![Label::Slots.uint(slots), Label::Buffers.uint(buffers), Label::BufferSize.uint(buffer_size)];
                self.at_stream(stream, Name::Opened, about);
            }
            Observation::Changed { stream, state, time_base } => {
                let name = match state {
                    State::Stop => Name::Stop,
                    State::Acquire => Name::Acquire,
                    State::Pause => Name::Pause,
                    State::Run => Name::Run,
                };
                self.at_stream(stream, name, vec![Label::TimeBase.int(time_base.0)]);
            }
            Observation::Closed { stream } => {
                self.at_stream(stream, Name::Closed, vec![]);
                self.close(stream, Text::AtClose);
            }
            Observation::Refused { stream, fault } => self.refused(stream, fault),
            Observation::Command { opcode, stream, ref request, status } => {
                self.command(opcode, stream, request, status);
            }
            Observation::Submitted { stream, tail } => {
                let next_flow = &mut self.next_flow;
                match self.streams.get_mut(stream).and_then(Option::as_mut) {
                    Some(stream) => stream.submitted(&mut self.packets, tail, next_flow),
                    None => {
                        let about = vec![Label::Stream.uint(stream as u64), Label::Tail.uint(tail)];
                        self.instant(tracks::DOORBELL, Name::Tail, about);
                    }
                }
            }
            Observation::Fetched { stream, index, slot } => {
                if let Some((stream, packets)) = self.stream(stream) {
                    stream.fetched(packets, index, slot);
                }
            }
            Observation::Event { stream, slot, ref event } => {
                if let Some((stream, packets)) = self.stream(stream) {
                    stream.event(packets, slot, event);
                }
            }
            Observation::Data { stream, offset, ref bytes } => {
                if let Some((stream, packets)) = self.stream(stream) {
                    stream.data(packets, offset, bytes);
                }
            }
            // The completion that follows ends the slot's slice.
            Observation::Captured { .. } => {}
            Observation::Completed { stream, index, ref completion } => {
                if let Some((stream, packets)) = self.stream(stream) {
                    stream.completed(packets, index, completion);
                }
            }
            Observation::Interrupt { vector } => self.interrupt(vector),
            Observation::Received { input, ref bytes } => {
                let name = if bytes.is_empty() { Name::Gone } else { Name::Received };
                let mut about = vec![Label::Input.uint(input)];
                if !bytes.is_empty() {
                    about.extend([Label::Bytes.uint(bytes.len() as u64), Label::Data.text(event::hex(bytes))]);
                }
                self.instant(tracks::INPUTS, name, about);
            }
            Observation::Audio { ref samples, voices } => self.audio(samples, voices),
            Observation::Violation { rule, stream, slot, ref report } => {
                self.violation(rule, stream, slot, report.as_deref());
            }
        }
    }
}

/// What is accessed there.
fn place(region: Region, offset: u64) -> String {
    let found = u32::try_from(offset).ok().and_then(|offset| regs::find(offset & !3));
    match (region, found) {
        (Region::Registers, Some(found)) => {
            let half = if found.high { " (high)" } else { "" };
            let stream = found.stream.map_or(String::new(), |stream| format!("stream {stream} "));
            format!("{stream}{}{half}", found.register.name)
        }
        (Region::Registers, None) => "reserved register".to_owned(),
        (Region::Config, _) => "configuration".to_owned(),
        (Region::Doorbell, _) => "doorbell page".to_owned(),
        (Region::Msix, _) => "MSI-X table".to_owned(),
    }
}

/// Peak of a block in dBFS, to a tenth.
fn level(samples: &[i16]) -> f64 {
    match samples.iter().map(|sample| sample.unsigned_abs()).max() {
        None | Some(0) => SILENCE,
        Some(peak) => libm::round(200.0 * libm::log10(f64::from(peak) / 32768.0)) / 10.0,
    }
}

/// The beginning of a text, at most so many bytes.
fn shortened(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests;
