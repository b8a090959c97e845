//! The port side of a capture or wave sink stream: the head of a graph of filters that leads from the card to the
//! application.
//!
//! Fed by a [`CaptureStream`] or [`WaveStream`] whenever it is serviced; feeds the filters with [`Message`]s, and a
//! [`PositionNotify`] with how far the stream is.

use super::{Mxf, Output, ServiceSink};
use crate::{CaptureStream, DriverError, Message, Platform, WaveStream};
use core::cell::Cell;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;

/// `IPositionNotify`: is told how far a stream is.
pub trait PositionNotify {
    /// `PositionNotify`: an event or wave period that was captured or played has passed; it was the stream's bytes up
    /// to `byte_position`.
    fn position_notify(&self, byte_position: u64);
}

/// A stream whose messages come from the card.
pub trait CaptureSource {
    /// The next message; `None` when there is none yet.
    fn receive(&self) -> Result<Option<Message<'_>>, DriverError>;
    /// Slots in the pool.
    fn slots(&self) -> usize;
    /// Sets the state of the stream.
    fn set_state(&self, state: State) -> Result<(), DriverError>;
}

macro_rules! capture_source {
    ($stream:ident) => {
        impl<P: Platform> CaptureSource for $stream<'_, P> {
            fn receive(&self) -> Result<Option<Message<'_>>, DriverError> {
                self.receive()
            }

            fn slots(&self) -> usize {
                self.slots()
            }

            fn set_state(&self, state: State) -> Result<(), DriverError> {
                self.set_state(state)
            }
        }
    };
}

capture_source!(CaptureStream);
capture_source!(WaveStream);

/// The port's side of a capture or wave sink stream, and the head of its graph. A message that the graph drops is
/// posted again.
pub struct CapturePort<'g, 'm, S> {
    stream: &'m S,
    output: Output<'g, 'm>,
    notify: Option<&'g dyn PositionNotify>,
    /// Time of the last message.
    now: Cell<RefTime>,
}

impl<'g, 'm, S: CaptureSource> CapturePort<'g, 'm, S> {
    /// The port of a stream in STOP. Until an output is connected, all that is captured is recycled.
    pub fn new(stream: &'m S, notify: Option<&'g dyn PositionNotify>) -> Self {
        Self { stream, output: Output::new(), notify, now: Cell::default() }
    }
}

impl<'g, 'm, S: CaptureSource> Mxf<'g, 'm> for CapturePort<'g, 'm, S> {
    fn put_message(&self, message: Message<'m>) -> Result<(), DriverError> {
        self.now.set(message.time());
        let end = message.byte_position().wrapping_add(message.event_bytes().into());
        let result = self.output.put_message(message);
        if let Some(notify) = self.notify {
            notify.position_notify(end);
        }
        result
    }

    fn output(&self) -> Option<&Output<'g, 'm>> {
        Some(&self.output)
    }

    /// Sets the state of the graph and of the stream, so that the graph is ready before the first message and until the
    /// last.
    fn set_state(&self, state: State) -> Result<(), DriverError> {
        if state == State::Run {
            self.output.set_state(state)?;
        }
        self.stream.set_state(state)?;
        let serviced = self.request_service();
        if state != State::Run {
            self.output.set_state(state)?;
        }
        serviced
    }
}

impl<S: CaptureSource> ServiceSink for CapturePort<'_, '_, S> {
    /// Gives what was captured to the graph, no more than a pool of it, and services the graph. What fails stops
    /// nothing else; the first error is the result.
    fn request_service(&self) -> Result<(), DriverError> {
        let mut result = Ok(());
        for _ in 0..self.stream.slots() {
            match self.stream.receive() {
                Ok(None) => break,
                Ok(Some(message)) => result = result.and(self.put_message(message)),
                Err(error) => result = result.and(Err(error)),
            }
        }
        result.and(self.output.service(self.now.get()))
    }
}
