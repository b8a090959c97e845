//! Driver core of the DirectMusic card: no_std, generic over a small [`Platform`].
//!
//! An application takes a [`Message`] from a stream's [`Allocator`], fills it and gives it to
//! [`RenderStream::put_message`]; the card plays it and hands the same slot back through the completion ring, which is
//! the allocator's free list. A captured event is a [`Message`], too, whose slot is posted again once it is dropped.
//! Nothing is allocated, copied or freed in between.
//!
//! The handles [`Message`] and [`Buffer`] are not `Clone`: giving one away moves it, dropping one recycles it, and none
//! can be kept beyond its allocator, so that the usual mistakes with DMA memory do not compile:
//!
//! ```compile_fail
//! # use dmus_driver::{DriverError, Platform, RenderStream};
//! # fn f<P: Platform>(stream: &RenderStream<'_, P>) -> Result<(), DriverError> {
//! let message = stream.allocator().get_message()?;
//! stream.put_message(message)?;
//! message.event_bytes(); // the card owns it now
//! # Ok(()) }
//! ```
//!
//! Nothing here trusts the card: slots are recycled from a private shadow, never from what device-visible memory says,
//! every wait has a limit, and a card that lies or goes away gives a typed [`DriverError`].
//!
//! All handles of a stream live on one thread (they are not `Sync`); the interrupt half of a platform only counts
//! interrupts, and the deferred half is whatever runs between two calls here. No allocator call blocks, touches the
//! heap or loops without bound.
#![no_std]

extern crate alloc;

// The example of the manual runs with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod allocator;
mod capture;
mod card;
pub mod dls;
pub mod dma;
mod error;
mod fragments;
mod mailbox;
mod message;
mod player;
pub mod port;
mod queue;
mod render;
mod shadow;
mod stream;
mod wave;

pub use allocator::{Allocator, Counts, Rejection};
pub use capture::{CaptureSink, CaptureStream};
pub use card::{Card, Platform};
pub use error::{DriverError, PlatformError};
pub use mailbox::Mailbox;
pub use message::{Buffer, Message};
pub use player::{Played, Progress, Recorded, play, play_live, play_through, record};
pub use render::RenderStream;
pub use stream::StreamConfig;
pub use wave::WaveStream;
