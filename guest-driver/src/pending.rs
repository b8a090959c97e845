//! A message on its way into the pool, in as many fragments as its buffers make it.
//!
//! Fed by the player and by the unpacker of port buffers; feeds a stream, or a graph of filters.

use crate::{Allocator, DriverError, Message, Platform, RenderStream};
use dmus_interface::time::RefTime;

/// A message whose bytes are not all sent yet.
#[derive(Clone, Debug)]
pub(crate) struct Pending<'b> {
    time: RefTime,
    channel_group: u16,
    bytes: &'b [u8],
    sent: usize,
}

impl<'b> Pending<'b> {
    pub(crate) fn new(time: RefTime, channel_group: u16, bytes: &'b [u8]) -> Self {
        Self { time, channel_group, bytes, sent: 0 }
    }

    /// A message of which the first `sent` bytes are sent.
    pub(crate) fn resume(time: RefTime, bytes: &'b [u8], sent: usize) -> Self {
        Self { sent: sent.min(bytes.len()), ..Self::new(time, 0, bytes) }
    }

    /// Bytes that are sent.
    pub(crate) fn sent(&self) -> usize {
        self.sent
    }

    /// Its presentation time.
    pub(crate) fn time(&self) -> RefTime {
        self.time
    }

    /// As [`Self::send`], to a stream itself.
    #[inline]
    pub(crate) fn play<P: Platform>(&mut self, stream: &RenderStream<'_, P>) -> Result<bool, DriverError> {
        let allocator = stream.allocator();
        if self.bytes.len() > allocator.get_buffer_size() {
            return self.send(allocator, |message| stream.put_message(message));
        }
        match stream.send(self.time, self.channel_group, self.bytes) {
            Ok(()) => Ok(true),
            Err(DriverError::NoMessage | DriverError::NoBuffer) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts as much as there are slots and buffers for; true when all of it is put. What `put` fails for has gone home and is not put again.
    pub(crate) fn send<'a>(
        &mut self,
        allocator: &'a Allocator<'_>,
        mut put: impl FnMut(Message<'a>) -> Result<(), DriverError>,
    ) -> Result<bool, DriverError> {
        let most = allocator.get_buffer_size();
        while self.sent < self.bytes.len() {
            let rest = &self.bytes[self.sent..];
            let piece = &rest[..rest.len().min(most)];
            let mut message = match allocator.get_message() {
                Ok(message) => message,
                Err(DriverError::NoMessage) => return Ok(false),
                Err(error) => return Err(error),
            };
            message.set_time(self.time);
            if self.channel_group != 0 {
                message.set_channel_group(self.channel_group);
            }
            match message.set_data(piece) {
                Ok(()) => {}
                Err(DriverError::NoBuffer) => return Ok(false),
                Err(error) => return Err(error),
            }
            if piece.len() < rest.len() {
                message.set_incomplete();
            }
            self.sent += piece.len();
            put(message)?;
        }
        Ok(true)
    }
}
