//! A render stream: MIDI from the application to the card's synthesizer.
//!
//! Fed with messages by [`RenderStream::put_message`]; feeds the submission ring and the doorbell page. A batch of
//! messages costs one store of the tail ([`RenderStream::flush`]); nothing traps unless the card sleeps.

use crate::fragments::Fragments;
use crate::stream::StreamCore;
use crate::{Allocator, Card, DriverError, Message, Platform, StreamConfig};
use core::time::Duration;
use dmus_interface::regs::stream::{State, Type};
use dmus_interface::time::RefTime;

/// An open render stream of a card. Dropping it stops and closes it.
#[derive(Debug)]
pub struct RenderStream<'c, P: Platform> {
    core: StreamCore<'c, P>,
}

impl<'c, P: Platform> RenderStream<'c, P> {
    /// `NewStream`: creates render stream number `index` of the card.
    pub fn open(card: &'c Card<P>, index: usize, config: StreamConfig) -> Result<Self, DriverError> {
        Ok(Self { core: StreamCore::open(card, index, config, Type::Render)? })
    }

    /// The stream's allocator.
    pub fn allocator(&self) -> &Allocator<'c> {
        &self.core.allocator
    }

    /// The card.
    pub fn card(&self) -> &'c Card<P> {
        self.core.card
    }

    /// `IMXF::PutMessage`: gives the message (its chain, packages and buffers) to the card. [`Self::flush`] makes it
    /// visible.
    #[inline]
    pub fn put_message(&self, message: Message<'_>) -> Result<(), DriverError> {
        if !message.belongs_to(self.allocator()) {
            return Err(DriverError::Misuse("it is another stream's"));
        }
        message.submit();
        Ok(())
    }

    /// `GetMessage`, filling it with one whole message in the channel group, and `PutMessage`, in one step.
    /// [`Self::flush`] makes it visible.
    ///
    /// [`DriverError::NoMessage`] or [`DriverError::NoBuffer`] while the pool has no room, [`DriverError::TooLong`] for
    /// more bytes than a buffer has; nothing is sent then.
    #[inline]
    pub fn send(&self, time: RefTime, channel_group: u16, bytes: &[u8]) -> Result<(), DriverError> {
        self.allocator().send(time, channel_group, bytes)
    }

    /// Puts one MIDI message of any length: as one event, or as the fragments that the buffers make of it. Takes up
    /// after the first `put` bytes of it, and gives how many are put by now: fewer than all when the pool has run dry.
    /// Nothing else may be put before the rest is.
    pub fn put_bytes(&self, time: RefTime, bytes: &[u8], put: usize) -> Result<usize, DriverError> {
        let mut fragments = Fragments::resume(time, bytes, put);
        fragments.put(self.allocator(), |message| self.put_message(message))?;
        Ok(fragments.bytes_put())
    }

    /// Makes all messages put so far visible to the card. Of many that are due at once, flush a few at a time: the card
    /// works on them while more are put.
    #[inline]
    pub fn flush(&self) {
        self.core.flush();
    }

    /// `SetState`. Returns when the new state is in force; from STOP on, everything that was held has been completed.
    pub fn set_state(&self, state: State) -> Result<(), DriverError> {
        self.core.set_state(state)
    }

    /// The state that is in force; `None` if the card has gone.
    pub fn state(&self) -> Option<State> {
        self.core.state()
    }

    /// Sleeps until `completions` more completions are there, the grant is reached, or the limit has passed. False only
    /// if the limit passed.
    pub fn wait(&self, completions: u32, limit: Duration) -> bool {
        self.core.wait(completions, limit)
    }

    /// Master time at this stream's time zero, while it runs.
    pub fn time_base(&self) -> RefTime {
        self.core.time_base()
    }

    /// How far ahead the card wants events (SchedulePreFetch).
    pub fn prefetch(&self) -> RefTime {
        self.core.prefetch()
    }

    /// After [`Card::reset`]: recycles whatever the card held, and creates the stream anew.
    pub fn restore(&self) -> Result<(), DriverError> {
        self.core.restore()
    }
}
