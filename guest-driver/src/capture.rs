//! A capture stream: MIDI from the card's inputs to the application, and the capture sink that parses it.
//!
//! Fed by the card through the completion ring, with slots that the stream core posts; feeds the application, or the
//! filters of a [`crate::port::CapturePort`], with [`Message`]s. Such a message is a slot of the pool with the buffer
//! that it was posted with. The application owns it, and hands it back by dropping it: at the stream's next call both
//! are posted again.

use crate::stream::StreamCore;
use crate::{Card, DriverError, Message, Platform, StreamConfig};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;
use dmus_interface::event::MAX_MESSAGE;
use dmus_interface::midi::{Parsed, Parser};
use dmus_interface::regs::stream::{State, Type};
use dmus_interface::time::RefTime;

/// An open capture stream of a card. Dropping it stops and closes it.
#[derive(Debug)]
pub struct CaptureStream<'c, P: Platform> {
    core: StreamCore<'c, P>,
}

impl<'c, P: Platform> CaptureStream<'c, P> {
    /// `NewStream`: creates capture stream number `index` of the card, of complete messages (cooked) or of raw bytes.
    ///
    /// As many slots are posted as there are buffers.
    pub fn open(card: &'c Card<P>, index: usize, config: StreamConfig, cooked: bool) -> Result<Self, DriverError> {
        Ok(Self { core: StreamCore::open(card, index, config, Type::Capture { cooked })? })
    }

    /// The card.
    pub fn card(&self) -> &'c Card<P> {
        self.core.card
    }

    /// `SetState`. Returns when the new state is in force. From ACQUIRE on, slots are posted; in STOP all are free
    /// again, but for those of events that [`Self::receive`] still has to give, or that the application has.
    pub fn set_state(&self, state: State) -> Result<(), DriverError> {
        self.core.set_state(state)
    }

    /// The next captured event; `None` when there is none yet ([`Self::wait`]). What was dropped before is posted
    /// again.
    ///
    /// # Errors
    /// What the card did wrong; the slot is the driver's again and the stream goes on.
    pub fn receive(&self) -> Result<Option<Message<'_>>, DriverError> {
        self.core.receive()
    }

    /// As [`crate::Allocator::settle`]: in STOP, with everything received.
    pub(crate) fn settle(&self) -> Result<(), DriverError> {
        self.core.allocator.settle()
    }

    /// Slots that came back as discarded, of those received.
    pub(crate) fn discarded(&self) -> u64 {
        self.core.allocator.counts().discarded
    }

    /// Slots in the pool: the most events that are there at one time.
    pub fn slots(&self) -> usize {
        self.core.allocator.slots()
    }

    /// Sleeps until something is captured, the grant is reached, or the limit has passed. False only if the limit
    /// passed.
    pub fn wait(&self, limit: Duration) -> bool {
        self.core.wait(1, limit)
    }

    /// Master time at this stream's time zero, while it runs.
    pub fn time_base(&self) -> RefTime {
        self.core.time_base()
    }

    /// The state that is in force; `None` if the card has gone.
    pub fn state(&self) -> Option<State> {
        self.core.state()
    }

    /// Slots and buffers that are free.
    pub fn free_slots_and_buffers(&self) -> (usize, usize) {
        (self.core.allocator.free_slots(), self.core.allocator.free_buffers())
    }

    /// After [`Card::reset`]: recycles whatever the card held, and creates the stream anew, in STOP.
    pub fn restore(&self) -> Result<(), DriverError> {
        self.core.restore()
    }
}

/// The capture sink: MIDI messages out of captured events, cooked or not.
///
/// Running status, real-time bytes inside messages and SysEx over several events are put in order for each input by
/// itself. SysEx above 64 KiB is left out. Where an overrun has lost something, reading goes on with the next status
/// byte. Memory is allocated when an input sends its first byte, and its first SysEx byte; never for an event.
#[derive(Debug, Default)]
pub struct CaptureSink {
    inputs: BTreeMap<u16, Reader>,
    /// Byte position after the event before.
    position: u64,
}

/// What one input has sent of a message.
#[derive(Debug, Default)]
struct Reader {
    parser: Parser,
    sysex: Vec<u8>,
}

impl CaptureSink {
    /// Most inputs whose messages are put together at once; those of others are left out. A card has fewer.
    pub const MAX_INPUTS: usize = 64;

    /// Takes the stream's next event, and shows each message that it completes to `message`.
    pub fn put_message(&mut self, event: &Message<'_>, mut message: impl FnMut(&[u8])) {
        let position = event.byte_position();
        if position != self.position {
            self.reset();
        }
        self.position = position.wrapping_add(event.event_bytes().into());
        let input = event.channel_group();
        if self.inputs.len() >= Self::MAX_INPUTS && !self.inputs.contains_key(&input) {
            return;
        }
        let reader = self.inputs.entry(input).or_default();
        let (mut bytes, mut offset) = ([0; 64], 0);
        loop {
            let read = event.read(offset, &mut bytes);
            if read == 0 {
                return;
            }
            bytes[..read].iter().for_each(|byte| reader.put(*byte, &mut message));
            offset += read;
        }
    }

    /// Forgets what is unfinished.
    pub fn reset(&mut self) {
        self.inputs.values_mut().for_each(|reader| reader.parser = Parser::default());
    }
}

impl Reader {
    fn put(&mut self, byte: u8, message: &mut impl FnMut(&[u8])) {
        match self.parser.push(byte) {
            None => {}
            Some(Parsed::Message(bytes, len)) => message(&bytes[..usize::from(len)]),
            Some(Parsed::SysEx(byte)) => {
                // One byte more than a message may have marks one that is too long.
                if byte == 0xF0 {
                    self.sysex.clear();
                    self.sysex.reserve_exact(MAX_MESSAGE + 1);
                }
                if self.sysex.len() <= MAX_MESSAGE {
                    self.sysex.push(byte);
                }
                if byte == 0xF7 && self.sysex.len() <= MAX_MESSAGE {
                    message(&self.sysex);
                }
            }
        }
    }
}
