//! The port side of a stream (`IPortDMus`): port buffers, the filter graph, the sequencer and service from interrupts.
//!
//! Fed by applications, with packed buffers ([`PortBuffer`]) or messages, by capture streams, and by interrupt routines
//! ([`ServiceGroups`]); feeds a [`RenderStream`], or the application, through a graph of filters:
//!
//! ```text
//! PortBuffer -> Unpacker -> RenderPort -> filters of one's own -> Sequencer -> RenderStream
//!                               |                   |                |             |
//!                               +---- what is dropped, or has nowhere to go -------+--> Allocator
//!                               |                   |
//! CaptureStream, WaveStream -> CapturePort -> filters of one's own, the last of them the application's
//! ```
//!
//! Nothing here allocates after it is made, and every call is bounded, so that all of it can run in the deferred half
//! of an interrupt.
//!
//! ```
//! use dmus_driver::port::{Mxf, PortBuffer, RenderPort, Sequencer, ServiceGroup, ServiceGroups, Unpacker};
//! use dmus_driver::{Card, Platform, RenderStream, StreamConfig};
//! use dmus_interface::event::PointerWidth;
//! use dmus_interface::regs::stream::State;
//! use dmus_interface::time::RefTime;
//! use std::time::Duration;
//!
//! static GROUPS: ServiceGroups = ServiceGroups::new();
//!
//! let card = Card::open(dmus_tests::direct::Direct::new()?, PointerWidth::Eight)?;
//! let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
//! let sequencer = Sequencer::new(stream.allocator(), stream.prefetch());
//! let port = RenderPort::new(&stream);
//! sequencer.connect_output(&stream)?;
//! port.connect_output(&sequencer)?; // or a filter of your own, and the sequencer behind it
//! port.set_state(State::Run)?;
//!
//! let mut memory = [0; 256];
//! let mut buffer = PortBuffer::new(&mut memory);
//! buffer.pack_structured(RefTime::from_secs(1), 0, u32::from_le_bytes([0x90, 60, 100, 0]))?;
//! let mut events = Unpacker::new(buffer.bytes(), buffer.get_start_time())?;
//! assert!(port.play_buffer(&mut events)?); // else the pool is full: again after a service
//!
//! let group = ServiceGroup::of_vector(0).expect("a vector of the card");
//! while stream.allocator().counts().presented == 0 {
//!     port.grant(RefTime::from_secs(2)); // in virtual time: nothing else comes before
//!     assert!(card.platform().wait(0, Duration::from_secs(5)));
//!     GROUPS.notify(Some(group)); // all that an interrupt routine does
//!     GROUPS.service(&[(group, &port)])?; // the deferred half
//! }
//! # Ok::<(), anyhow::Error>(())
//! ```

mod buffer;
mod capture;
mod mxf;
mod sequencer;
mod service;

pub use buffer::{BufferError, Events, HEADER_SIZE, PortBuffer, PortEvent, STRUCTURED, event_size};
pub use capture::{CapturePort, CaptureSource, PositionNotify};
pub use mxf::{Mxf, Output};
pub use sequencer::Sequencer;
pub use service::{ServiceGroup, ServiceGroups, ServiceSink};

use crate::fragments::Fragments;
use crate::{DriverError, Message, Platform, RenderStream};
use core::cell::Cell;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;

/// The port's side of a render stream, and the head of its graph.
#[derive(Debug)]
pub struct RenderPort<'g, 'm, P: Platform> {
    stream: &'m RenderStream<'m, P>,
    output: Output<'g, 'm>,
    state: Cell<State>,
    /// Master time at stream time zero, in RUN.
    base: Cell<RefTime>,
    /// Stream time when it last stood still.
    stood: Cell<RefTime>,
}

impl<'g, 'm, P: Platform> RenderPort<'g, 'm, P> {
    /// The port of a stream in STOP. Until an output is connected, all that it is given is recycled.
    pub fn new(stream: &'m RenderStream<'m, P>) -> Self {
        Self {
            stream,
            output: Output::new(),
            state: Cell::new(State::Stop),
            base: Cell::default(),
            stood: Cell::default(),
        }
    }

    /// Stream time, without a trap: it moves in RUN, stands in PAUSE and ACQUIRE, and is zero in STOP.
    pub fn now(&self) -> RefTime {
        match self.state.get() {
            State::Run => self.stream.card().get_time().saturating_sub(self.base.get()),
            State::Stop | State::Acquire | State::Pause => self.stood.get(),
        }
    }

    /// Unpacks a buffer into the graph, as far as the pool has slots and buffers; true when all of it has gone. When
    /// false, call again after a service: nothing is lost, and the buffer goes on where it stopped. A message that a
    /// filter fails for is skipped, and its error returned.
    pub fn play_buffer(&self, buffer: &mut Unpacker<'_>) -> Result<bool, DriverError> {
        let allocator = self.stream.allocator();
        while let Some(fragments) = &mut buffer.current {
            if !fragments.put(allocator, |message| self.output.put_message(message))? {
                return Ok(false);
            }
            buffer.advance();
        }
        Ok(true)
    }

    /// In virtual time: grants time up to the first message that is held in the graph, or up to `rest`, the time of the
    /// first one that was not put into it yet.
    pub fn grant(&self, rest: RefTime) {
        if self.state.get() == State::Run {
            // A grant says that all before it is with the card.
            self.stream.flush();
            let until = self.next_time().map_or(rest, |held| held.min(rest));
            self.stream.card().grant(self.base.get().saturating_add(until));
        }
    }
}

impl<'g, 'm, P: Platform> Mxf<'g, 'm> for RenderPort<'g, 'm, P> {
    fn put_message(&self, message: Message<'m>) -> Result<(), DriverError> {
        self.output.put_message(message)
    }

    fn output(&self) -> Option<&Output<'g, 'm>> {
        Some(&self.output)
    }

    /// Sets the state of the graph, and of the stream if the graph does not lead there.
    fn set_state(&self, state: State) -> Result<(), DriverError> {
        let now = if state == State::Stop { RefTime::ZERO } else { self.now() };
        self.output.set_state(state)?;
        if self.stream.state() != Some(state) {
            Mxf::set_state(self.stream, state)?;
        }
        self.stood.set(now);
        if state == State::Run {
            self.base.set(self.stream.time_base());
        }
        self.state.set(state);
        self.request_service()
    }
}

impl<P: Platform> ServiceSink for RenderPort<'_, '_, P> {
    /// Recycles what is completed, services the graph, and shows the card what it gives on.
    fn request_service(&self) -> Result<(), DriverError> {
        let now = self.now();
        let reclaimed = self.stream.allocator().reclaim();
        let serviced = self.output.service(now);
        // Again for what the graph gave on, and in case it does not lead there any more.
        reclaimed.and(serviced).and(Mxf::service(self.stream, now))
    }
}

/// A port buffer that is being played (`IDirectMusicPort::PlayBuffer`), and how far it is.
#[derive(Clone, Debug)]
pub struct Unpacker<'b> {
    events: Events<'b>,
    current: Option<Fragments<'b>>,
}

impl<'b> Unpacker<'b> {
    /// Judges the whole buffer, so that none is played in part: events whose times count from `start`.
    pub fn new(buffer: &'b [u8], start: RefTime) -> Result<Self, BufferError> {
        let events = Events::new(buffer, start);
        for event in events.clone() {
            event?;
        }
        let mut unpacker = Self { events, current: None };
        unpacker.advance();
        Ok(unpacker)
    }

    /// The time of the next event, which is not in the graph yet, or not all of it.
    pub fn next_time(&self) -> Option<RefTime> {
        self.current.as_ref().map(Fragments::time)
    }

    fn advance(&mut self) {
        // No error can come: all of it was judged before.
        let event = self.events.next().and_then(Result::ok);
        self.current = event.map(|event| Fragments::new(event.time, event.channel_group, event.bytes));
    }
}

#[cfg(test)]
mod tests;
