//! Notify and service groups: how an interrupt leads to a stream's being serviced.
//!
//! Fed by interrupt routines, which mark the groups to be serviced and do nothing else; feeds the deferred half, which
//! services the streams of the marked groups. Between the two lies one atomic word.

use crate::DriverError;
use core::sync::atomic::{AtomicU32, Ordering};
use dmus_interface::pci::VECTORS;

/// What is serviced together (`IServiceGroup`): a stream, or the miniport. Each has an MSI-X vector of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceGroup(u16);

impl ServiceGroup {
    /// The group of an MSI-X vector: streams first, then the miniport ([`dmus_interface::pci::CONTROL_VECTOR`]).
    pub const fn of_vector(vector: u16) -> Option<Self> {
        if vector < VECTORS { Some(Self(vector)) } else { None }
    }

    const fn bit(self) -> u32 {
        1 << self.0
    }
}

const ALL: u32 = (1 << VECTORS) - 1;
const _: () = assert!(VECTORS < 32);

/// Something that is serviced in the deferred half (`IServiceSink`).
pub trait ServiceSink {
    /// Does all that there is to do. Bounded; it neither blocks nor touches the heap.
    fn request_service(&self) -> Result<(), DriverError>;
}

/// The service groups of a card, fit for a `static` that interrupt routines reach.
#[derive(Debug, Default)]
pub struct ServiceGroups {
    /// A bit a group that is to be serviced.
    requested: AtomicU32,
}

impl ServiceGroups {
    /// Nothing is requested. Requests are kept from here on, so that none is lost before there are streams
    /// (RegisterServiceGroup).
    pub const fn new() -> Self {
        Self { requested: AtomicU32::new(0) }
    }

    /// `Notify`: has the group serviced soon; with no group the miniport's and every stream's. For interrupt routines:
    /// one atomic operation.
    pub fn notify(&self, group: Option<ServiceGroup>) {
        // Release: what the caller saw or wrote before comes before the service.
        self.requested.fetch_or(group.map_or(ALL, ServiceGroup::bit), Ordering::Release);
    }

    /// Whether a group waits for service: ask, with interrupts off, before halting.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed) != 0
    }

    /// The deferred half: services the members of all marked groups once, however often they were marked. A request
    /// that comes meanwhile is for the next call. All are serviced even if one fails; the first error is the result.
    pub fn service(&self, members: &[(ServiceGroup, &dyn ServiceSink)]) -> Result<(), DriverError> {
        // Taken first, so that what is marked during the service is not forgotten.
        let requested = self.requested.swap(0, Ordering::Acquire);
        let mut result = Ok(());
        for (_, sink) in members.iter().filter(|(group, _)| requested & group.bit() != 0) {
            result = result.and(sink.request_service());
        }
        result
    }
}
