//! A message on its way into the pool, in as many fragments as its buffers make of it.
//!
//! Fed by the player and by the unpacker of port buffers; feeds a stream, or a graph of filters.

use crate::{Allocator, DriverError, Message, Platform, RenderStream};
use dmus_interface::time::RefTime;

/// A message whose bytes are not all put yet.
#[derive(Clone, Debug)]
pub(crate) struct Fragments<'b> {
    time: RefTime,
    channel_group: u16,
    bytes: &'b [u8],
    put: usize,
}

impl<'b> Fragments<'b> {
    pub(crate) fn new(time: RefTime, channel_group: u16, bytes: &'b [u8]) -> Self {
        Self { time, channel_group, bytes, put: 0 }
    }

    /// A message of which the first `put` bytes are put.
    pub(crate) fn resume(time: RefTime, bytes: &'b [u8], put: usize) -> Self {
        Self { put: put.min(bytes.len()), ..Self::new(time, 0, bytes) }
    }

    /// Bytes that are put.
    pub(crate) fn bytes_put(&self) -> usize {
        self.put
    }

    /// Its presentation time.
    pub(crate) fn time(&self) -> RefTime {
        self.time
    }

    /// As [`Self::put`], to a stream itself.
    #[inline]
    pub(crate) fn send<P: Platform>(&mut self, stream: &RenderStream<'_, P>) -> Result<bool, DriverError> {
        let allocator = stream.allocator();
        if self.bytes.len() > allocator.get_buffer_size() {
            return self.put(allocator, |message| stream.put_message(message));
        }
        match stream.send(self.time, self.channel_group, self.bytes) {
            Ok(()) => Ok(true),
            Err(DriverError::NoMessage | DriverError::NoBuffer) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts as much as there are slots and buffers for; true when all of it is put. What `put` fails for is recycled
    /// and not put again.
    pub(crate) fn put<'a>(
        &mut self,
        allocator: &'a Allocator<'_>,
        mut put: impl FnMut(Message<'a>) -> Result<(), DriverError>,
    ) -> Result<bool, DriverError> {
        while self.put < self.bytes.len() {
            let rest = &self.bytes[self.put..];
            let piece = &rest[..rest.len().min(allocator.get_buffer_size())];
            let message = allocator.get_message().and_then(|mut message| {
                message.set_data(piece)?;
                Ok(message)
            });
            let mut message = match message {
                Ok(message) => message,
                Err(DriverError::NoMessage | DriverError::NoBuffer) => return Ok(false),
                Err(error) => return Err(error),
            };
            message.set_time(self.time);
            message.set_channel_group(self.channel_group);
            if piece.len() < rest.len() {
                message.set_incomplete();
            }
            self.put += piece.len();
            put(message)?;
        }
        Ok(true)
    }
}
