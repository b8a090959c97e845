//! A capture stream: MIDI from the card's inputs to the application, and the capture sink that makes messages of it.
//!
//! Fed by the card through the completion ring, with slots that this posts; feeds the application with [`Captured`] events, or with messages
//! through a [`CaptureSink`]. An event is copied out once and its slot is posted again at once, so a slow application holds no slot.
//!
//! What the card writes is judged by the shadow: the buffer that goes with a slot is the one it was posted with, whatever cbEvent and uData say.

use crate::stream::RenderStream;
use crate::{Card, DriverError, Platform, StreamConfig};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;
use dmus_interface::event::{Data, Event, INCOMPLETE, MAX_EVENT_SIZE, MAX_MESSAGE};
use dmus_interface::midi::{Parsed, Parser};
use dmus_interface::regs::stream::{State, Type};
use dmus_interface::ring::{Reject, Status};
use dmus_interface::time::RefTime;

/// An event that was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured<'s> {
    /// Stream time of its last byte.
    pub time: RefTime,
    /// Number of the input (usChannelGroup).
    pub channel_group: u16,
    /// The message goes on in a later event, or (uncooked) these are raw bytes.
    pub incomplete: bool,
    /// Bytes captured before it; a gap means that an overrun has lost some.
    pub byte_position: u64,
    /// The data, 1 byte to a buffer's size.
    pub bytes: &'s [u8],
}

/// An open capture stream of a card. Dropping it stops and closes it.
#[derive(Debug)]
pub struct CaptureStream<'c, P: Platform> {
    /// Rings, pool and transitions, which are the same in both directions.
    stream: RenderStream<'c, P>,
    /// Slots are posted: not in STOP, where the card would hand them back.
    posting: bool,
    /// The data that was last received.
    received: Box<[u8]>,
}

impl<'c, P: Platform> CaptureStream<'c, P> {
    /// `NewStream`: creates capture stream number `index` of the card, of complete messages (cooked) or of raw bytes.
    ///
    /// As many slots are posted as there are buffers.
    pub fn open(card: &'c Card<P>, index: usize, config: StreamConfig, cooked: bool) -> Result<Self, DriverError> {
        Self::open_as(card, index, config, Type::Capture { cooked })
    }

    /// Creates a stream of any type whose slots are posted.
    pub(crate) fn open_as(
        card: &'c Card<P>,
        index: usize,
        config: StreamConfig,
        kind: Type,
    ) -> Result<Self, DriverError> {
        if config.buffers == 0 {
            return Err(DriverError::BadConfig("this stream needs buffers, one for each slot that it posts"));
        }
        let stream = RenderStream::open_as(card, index, config, kind)?;
        Ok(Self { stream, posting: false, received: vec![0; config.buffer_size as usize].into_boxed_slice() })
    }

    /// `SetState`. Returns when the new state is in force. From ACQUIRE on, slots are posted; from STOP on, they are home, but for those
    /// of events that [`Self::receive`] still has to give.
    pub fn set_state(&mut self, state: State) -> Result<(), DriverError> {
        if state == State::Run && !self.posting {
            // So that nothing comes before there are slots.
            self.set_state(State::Acquire)?;
        }
        self.stream.set_state(state)?;
        self.posting = state != State::Stop;
        self.post()
    }

    /// The next captured event; `None` when there is none yet ([`Self::wait`]).
    ///
    /// # Errors
    /// What the card did wrong; the slot is the driver's again and the stream goes on.
    pub fn receive(&mut self) -> Result<Option<Captured<'_>>, DriverError> {
        // Discarded slots bring nothing: there are no more of them than slots.
        for _ in 0..=self.stream.allocator().slots() {
            let Some((slot, buffer, entry)) = self.stream.allocator().take_posted()? else {
                return Ok(None);
            };
            let event = self.take(slot, buffer, entry);
            self.stream.allocator().take_home(slot, buffer);
            self.post()?;
            if let Some(event) = event? {
                let bytes = self.received.get(..usize::from(event.event_bytes)).unwrap_or(&[]);
                return Ok(Some(Captured {
                    time: RefTime(event.time),
                    channel_group: event.channel_group,
                    incomplete: event.flags & INCOMPLETE != 0,
                    byte_position: event.byte_position,
                    bytes,
                }));
            }
        }
        Ok(None)
    }

    /// Sleeps until something is captured, the grant is reached, or the limit has passed. False only if the limit passed.
    pub fn wait(&self, limit: Duration) -> bool {
        self.stream.wait(1, limit)
    }

    /// Master time at this stream's time zero, while it runs.
    pub fn time_base(&self) -> RefTime {
        self.stream.time_base()
    }

    /// The state that is in force; `None` if the card has gone.
    pub fn state(&self) -> Option<State> {
        self.stream.state()
    }

    /// Slots and buffers that are at home.
    pub fn at_home(&self) -> (usize, usize) {
        (self.stream.allocator().free_slots(), self.stream.allocator().free_buffers())
    }

    /// After [`Card::reset`]: takes home whatever the card held, and creates the stream anew, in STOP.
    pub fn restore(&mut self) -> Result<(), DriverError> {
        self.posting = false;
        self.stream.restore()
    }

    /// Posts every slot for which there is a buffer.
    fn post(&self) -> Result<(), DriverError> {
        let allocator = self.stream.allocator();
        while self.posting && allocator.free_slots() > 0 && allocator.free_buffers() > 0 {
            let message = allocator.get_message()?;
            message.post(allocator.get_buffer()?);
        }
        self.stream.flush();
        Ok(())
    }

    /// Copies a completed slot out, its data into `received`, and judges the copy. `None` if it was discarded.
    fn take(&mut self, slot: u32, buffer: u32, entry: u64) -> Result<Option<Event>, DriverError> {
        match Status::decode((entry >> 32) as u16) {
            Some(Status::Presented) => {}
            Some(Status::Discarded) => return Ok(None),
            Some(Status::Rejected) => {
                return Err(DriverError::PostRefused { slot, reason: Reject::decode((entry >> 48) as u16) });
            }
            _ => return Err(DriverError::UnknownStatus { slot, status: (entry >> 32) as u16 }),
        }
        let allocator = self.stream.allocator();
        let nonsense = |what| DriverError::BadCapture { slot, what };
        let mut bytes = [0; MAX_EVENT_SIZE];
        let size = allocator.width.event_size();
        if !allocator.pool.read(slot, &mut bytes[..size]) {
            return Err(nonsense("the slot is outside the pool"));
        }
        let event = Event::decode(&bytes[..size], allocator.width).map_err(|_| nonsense("it is too short"))?;
        let len = usize::from(event.event_bytes);
        if event.flags & !INCOMPLETE != 0 {
            return Err(nonsense("flags that no captured event has"));
        }
        if event.next != 0 {
            return Err(nonsense("a chain"));
        }
        if len == 0 || len > allocator.buffer_size {
            return Err(nonsense("cbEvent is 0, or more than the buffer holds"));
        }
        let place = buffer as usize * allocator.buffer_size;
        match event.data {
            Data::Inline(word) => self.received[..len].copy_from_slice(&word[..len]),
            Data::Buffer(iova) if iova == allocator.buffers.iova + place as u64 => {
                allocator.buffers.memory.read(place, &mut self.received[..len]);
            }
            _ => return Err(nonsense("uData is not the buffer that was posted")),
        }
        Ok(Some(event))
    }
}

/// The capture sink: messages out of captured events, cooked or not.
///
/// Running status, real-time bytes inside messages and SysEx over several events are put in order for each input by itself. SysEx above
/// 64 KiB is left out. Where an overrun has lost something, reading goes on with the next status byte.
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
    pub fn put_message(&mut self, event: &Captured<'_>, mut message: impl FnMut(&[u8])) {
        if event.byte_position != self.position {
            self.inputs.clear();
        }
        self.position = event.byte_position.wrapping_add(event.bytes.len() as u64);
        if self.inputs.len() >= Self::MAX_INPUTS && !self.inputs.contains_key(&event.channel_group) {
            return;
        }
        let reader = self.inputs.entry(event.channel_group).or_default();
        for &byte in event.bytes {
            match reader.parser.push(byte) {
                None => {}
                Some(Parsed::Message(bytes, len)) => message(&bytes[..usize::from(len)]),
                Some(Parsed::SysEx(byte)) => {
                    if byte == 0xF0 {
                        reader.sysex.clear();
                    }
                    // One byte more than a message may have marks one that is too long.
                    if reader.sysex.len() <= MAX_MESSAGE {
                        reader.sysex.push(byte);
                    }
                    if byte == 0xF7 && reader.sysex.len() <= MAX_MESSAGE {
                        message(&reader.sysex);
                    }
                }
            }
        }
    }
}
