//! The checks, a module for each part of the DDI.

mod allocator;
mod bad_events;
mod bad_streams;
mod capture;
mod downloads;
mod events;
mod faults;
mod port;
mod properties;
mod states;
mod wave;

use crate::Check;
use alloc::vec::Vec;
use dmus_driver::Platform;

pub(crate) fn all<P: Platform>() -> Vec<Check<P>> {
    let parts = [
        events::checks(),
        allocator::checks(),
        states::checks(),
        port::checks(),
        capture::checks(),
        wave::checks(),
        properties::checks(),
        downloads::checks(),
        bad_events::checks(),
        bad_streams::checks(),
        faults::checks(),
    ];
    parts.into_iter().flatten().collect()
}
