use super::*;
use crate::dma::DoorbellPage;
use crate::dma::heap::leak;
use crate::{Allocator, StreamConfig};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use dmus_interface::event::PointerWidth;

mod graph;
mod groups;
mod ordering;

const SLOTS: usize = 16;

fn allocator(width: PointerWidth) -> Allocator<'static> {
    let page = DoorbellPage::new(Box::leak(Box::new(leak(4096, 0).memory))).expect("a page");
    let config = StreamConfig { slots: SLOTS as u32, ..StreamConfig::default() };
    let mut memories = config.sizes().into_iter().zip(1u64..).map(|((len, _), area)| leak(len, area << 16));
    Allocator::new(page, 0, width, config, core::array::from_fn(|_| memories.next().expect("four")))
        .expect("an allocator")
}

/// A message at a time, told from others by its key.
fn note<'m>(allocator: &'m Allocator<'_>, time: i64, key: u8) -> Message<'m> {
    let mut message = allocator.get_message().expect("a message");
    message.set_time(RefTime(time));
    message.set_data(&[0x90, key, 1]).expect("data");
    message
}

/// The keys of a message's events.
fn keys(message: &mut Message<'_>) -> Vec<u8> {
    let mut keys = vec![];
    message.edit_short(|bytes| keys.extend(bytes.get(1)));
    keys
}

/// The hardware: keeps what it gets until it is told to complete it.
#[derive(Default)]
struct Hardware<'m> {
    messages: RefCell<Vec<Message<'m>>>,
    states: RefCell<Vec<State>>,
    serviced: RefCell<Vec<RefTime>>,
}

impl Hardware<'_> {
    /// Completes everything; gives the keys in the order of arrival.
    fn complete(&self) -> Vec<u8> {
        let messages = self.messages.take();
        messages.into_iter().flat_map(|mut message| keys(&mut message)).collect()
    }
}

impl<'g, 'm: 'g> Mxf<'g, 'm> for Hardware<'m> {
    fn put_message(&self, message: Message<'m>) -> Result<(), DriverError> {
        self.messages.borrow_mut().push(message);
        Ok(())
    }

    fn service(&self, now: RefTime) -> Result<(), DriverError> {
        self.serviced.borrow_mut().push(now);
        Ok(())
    }

    fn set_state(&self, state: State) -> Result<(), DriverError> {
        self.states.borrow_mut().push(state);
        Ok(())
    }
}

/// A filter made of a closure, which is given the messages and the output.
struct Filter<'g, 'm, F> {
    output: Output<'g, 'm>,
    filter: F,
}

impl<'g, 'm, F> Filter<'g, 'm, F>
where
    F: Fn(Message<'m>, &Output<'g, 'm>) -> Result<(), DriverError>,
{
    fn new(filter: F) -> Self {
        Self { output: Output::new(), filter }
    }
}

impl<'g, 'm, F> Mxf<'g, 'm> for Filter<'g, 'm, F>
where
    F: Fn(Message<'m>, &Output<'g, 'm>) -> Result<(), DriverError>,
{
    fn put_message(&self, message: Message<'m>) -> Result<(), DriverError> {
        (self.filter)(message, &self.output)
    }

    fn output(&self) -> Option<&Output<'g, 'm>> {
        Some(&self.output)
    }
}
