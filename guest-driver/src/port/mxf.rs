//! The graph of MIDI transport filters (`IMXF`): each gives messages to the next, and the allocator is behind the last.
//!
//! Fed by the unpacker, by capture streams and by applications; feeds, filter by filter, the stream or the application.
//! A message moves along the graph by value. So what a filter drops, what fails on its way and what has nowhere to go
//! are all the same: the allocator recycles it.

use crate::{Allocator, DriverError, Message, Platform, RenderStream};
use core::cell::Cell;
use core::fmt;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;

/// A MIDI transport filter. `'m` is the life of the allocator whose messages flow, `'g` that of the filters that are
/// connected.
///
/// A filter of one's own keeps an [`Output`], says so in [`Mxf::output`], and does its work in [`Mxf::put_message`]:
///
/// ```
/// use dmus_driver::port::{Mxf, Output};
/// use dmus_driver::{DriverError, Message};
///
/// /// Drops what is not for channel group 0.
/// struct FirstGroup<'g, 'm>(Output<'g, 'm>);
///
/// impl<'g, 'm> Mxf<'g, 'm> for FirstGroup<'g, 'm> {
///     fn put_message(&self, message: Message<'m>) -> Result<(), DriverError> {
///         if message.channel_group() == 0 { self.0.put_message(message) } else { Ok(()) }
///     }
///
///     fn output(&self) -> Option<&Output<'g, 'm>> {
///         Some(&self.0)
///     }
/// }
/// ```
///
/// All of it may be called from the deferred half of an interrupt: no filter may block, touch the heap or work without
/// bound.
pub trait Mxf<'g, 'm: 'g> {
    /// `PutMessage`: takes the message, and gives it on, keeps it, or drops it, which recycles it. So does an error.
    fn put_message(&self, message: Message<'m>) -> Result<(), DriverError>;

    /// Where its messages go; `None` for the end of a graph.
    fn output(&self) -> Option<&Output<'g, 'm>> {
        None
    }

    /// `PutMessage(NULL)`: it is stream time `now`; works on what became due, and passes the call on.
    fn service(&self, now: RefTime) -> Result<(), DriverError> {
        self.output().map_or(Ok(()), |output| output.service(now))
    }

    /// The earliest time of the messages that it holds, or a filter behind it holds, to give them on by and by.
    fn next_time(&self) -> Option<RefTime> {
        self.output()?.next_time()
    }

    /// `SetState`: passes the state on, and is in it when all behind are.
    fn set_state(&self, state: State) -> Result<(), DriverError> {
        self.output().map_or(Ok(()), |output| output.set_state(state))
    }

    /// `ConnectOutput`: messages go to `sink` from here on.
    fn connect_output(&self, sink: &'g dyn Mxf<'g, 'm>) -> Result<(), DriverError> {
        self.output().ok_or(AT_THE_END)?.connect(sink)
    }

    /// `DisconnectOutput`: messages go to the allocator from here on, until an output is connected again.
    fn disconnect_output(&self, sink: &'g dyn Mxf<'g, 'm>) -> Result<(), DriverError> {
        self.output().ok_or(AT_THE_END)?.disconnect(sink)
    }
}

const AT_THE_END: DriverError = DriverError::Misuse("it is the end of a graph and has no output");
const LOOP: DriverError = DriverError::Misuse("the filters are connected in a loop");

/// The output of a filter: the next one, or the allocator.
#[derive(Default)]
pub struct Output<'g, 'm: 'g> {
    sink: Cell<Option<&'g dyn Mxf<'g, 'm>>>,
    /// A call is on its way through here. Another one can only be the same that came round.
    busy: Cell<bool>,
}

impl<'g, 'm> Output<'g, 'm> {
    /// An output that goes to the allocator.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the message to the next filter, or to the allocator.
    pub fn put_message(&self, message: Message<'m>) -> Result<(), DriverError> {
        self.call(|sink| sink.put_message(message)).unwrap_or(Ok(()))
    }

    /// Services the filters behind.
    pub fn service(&self, now: RefTime) -> Result<(), DriverError> {
        self.call(|sink| sink.service(now)).unwrap_or(Ok(()))
    }

    /// The earliest time of the messages that filters behind hold.
    pub fn next_time(&self) -> Option<RefTime> {
        self.call(|sink| Ok(sink.next_time()))?.ok()?
    }

    /// Sets the state of the filters behind.
    pub fn set_state(&self, state: State) -> Result<(), DriverError> {
        self.call(|sink| sink.set_state(state)).unwrap_or(Ok(()))
    }

    fn connect(&self, sink: &'g dyn Mxf<'g, 'm>) -> Result<(), DriverError> {
        match self.sink.get() {
            Some(_) => Err(DriverError::Misuse("it has an output already: disconnect that first")),
            None => {
                self.sink.set(Some(sink));
                Ok(())
            }
        }
    }

    fn disconnect(&self, sink: &'g dyn Mxf<'g, 'm>) -> Result<(), DriverError> {
        match self.sink.get() {
            Some(connected) if core::ptr::addr_eq(connected, sink) => {
                self.sink.set(None);
                Ok(())
            }
            _ => Err(DriverError::Misuse("that filter is not its output")),
        }
    }

    /// Calls the next filter, if there is one, and not from within itself.
    fn call<T>(
        &self,
        call: impl FnOnce(&'g dyn Mxf<'g, 'm>) -> Result<T, DriverError>,
    ) -> Option<Result<T, DriverError>> {
        let sink = self.sink.get()?;
        if self.busy.replace(true) {
            return Some(Err(LOOP));
        }
        let result = call(sink);
        self.busy.set(false);
        Some(result)
    }
}

impl fmt::Debug for Output<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("connected", &self.sink.get().is_some()).finish_non_exhaustive()
    }
}

/// The end of a graph: the hardware. Its messages are recycled through the completion ring.
impl<'g, 'm: 'g, P: Platform> Mxf<'g, 'm> for RenderStream<'_, P> {
    fn put_message(&self, message: Message<'m>) -> Result<(), DriverError> {
        RenderStream::put_message(self, message)
    }

    /// Shows the card what was put, and recycles what it has completed.
    fn service(&self, _now: RefTime) -> Result<(), DriverError> {
        self.flush();
        self.allocator().reclaim()
    }

    fn set_state(&self, state: State) -> Result<(), DriverError> {
        RenderStream::set_state(self, state)?;
        self.allocator().reclaim()
    }
}

/// The end of every graph: recycles.
impl<'g, 'm: 'g> Mxf<'g, 'm> for Allocator<'_> {
    fn put_message(&self, message: Message<'m>) -> Result<(), DriverError> {
        Allocator::put_message(self, message)
    }
}
