//! Notify and service groups.

use super::*;
use core::sync::atomic::{AtomicU32, Ordering};
use dmus_interface::pci::{CONTROL_VECTOR, VECTORS};

extern crate std;

use std::time::{Duration, Instant};

/// Counts its services, and may fail.
#[derive(Default)]
struct Sink<'s> {
    services: Cell<u32>,
    failure: Option<DriverError>,
    /// Marked again while it is serviced, as by an interrupt.
    again: Option<(&'s ServiceGroups, ServiceGroup)>,
}

impl ServiceSink for Sink<'_> {
    fn request_service(&self) -> Result<(), DriverError> {
        self.services.set(self.services.get() + 1);
        if let Some((groups, group)) = self.again {
            groups.notify(Some(group));
        }
        self.failure.map_or(Ok(()), Err)
    }
}

fn group(vector: u16) -> ServiceGroup {
    ServiceGroup::of_vector(vector).expect("a vector of the card")
}

/// DDI: Notify with a service group has that group serviced, and no other
#[test]
fn notify_services_the_members_of_its_group() {
    let groups = ServiceGroups::new();
    let (one, other, beside) = (Sink::default(), Sink::default(), Sink::default());
    let members: [(_, &dyn ServiceSink); 3] = [(group(1), &one), (group(2), &other), (group(1), &beside)];
    let counts = || (one.services.get(), other.services.get(), beside.services.get());
    assert_eq!(groups.service(&members), Ok(()));
    assert_eq!(counts(), (0, 0, 0), "nobody asked");
    groups.notify(Some(group(1)));
    assert!(groups.is_requested());
    assert_eq!(groups.service(&members), Ok(()));
    assert_eq!(counts(), (1, 0, 1));
    assert!(!groups.is_requested());
    assert_eq!(groups.service(&members), Ok(()));
    assert_eq!(counts(), (1, 0, 1));
}

/// DDI: Notify without a service group has the miniport's group and that of every stream serviced
#[test]
fn notify_without_a_group_services_all() {
    let groups = ServiceGroups::new();
    let sinks: Vec<Sink<'_>> = (0..VECTORS).map(|_| Sink::default()).collect();
    let members: Vec<(ServiceGroup, &dyn ServiceSink)> =
        sinks.iter().zip(0..).map(|(sink, vector)| (group(vector), sink as &dyn ServiceSink)).collect();
    groups.notify(None);
    assert_eq!(groups.service(&members), Ok(()));
    assert!(sinks.iter().all(|sink| sink.services.get() == 1));
    assert_eq!(members.last().map(|(last, _)| *last), ServiceGroup::of_vector(CONTROL_VECTOR));
    assert_eq!(ServiceGroup::of_vector(VECTORS), None);
}

/// DDI: the interrupt routine only schedules the deferred call, which services once for however many interrupts came
/// before
#[test]
fn interrupts_before_a_service_are_served_by_one() {
    let groups = ServiceGroups::new();
    let sink = Sink::default();
    for _ in 0..1000 {
        groups.notify(Some(group(0)));
    }
    assert_eq!(sink.services.get(), 0, "notify itself services nothing");
    assert_eq!(groups.service(&[(group(0), &sink)]), Ok(()));
    assert_eq!(sink.services.get(), 1);
}

/// DDI: an interrupt during the deferred call schedules another
#[test]
fn a_request_during_a_service_is_for_the_next() {
    let groups = ServiceGroups::new();
    let sink = Sink { again: Some((&groups, group(0))), ..Sink::default() };
    groups.notify(Some(group(0)));
    for services in 1..5 {
        assert_eq!(groups.service(&[(group(0), &sink)]), Ok(()));
        assert_eq!(sink.services.get(), services);
        assert!(groups.is_requested());
    }
}

/// DDI: RegisterServiceGroup lets interrupts be serviced before Init returns: requests are kept from the start
#[test]
fn a_request_before_there_are_members_is_kept() {
    static GROUPS: ServiceGroups = ServiceGroups::new();
    GROUPS.notify(Some(group(3)));
    let sink = Sink::default();
    assert_eq!(GROUPS.service(&[(group(3), &sink)]), Ok(()));
    assert_eq!(sink.services.get(), 1);
}

#[test]
fn one_that_fails_keeps_no_other_from_its_service() {
    let groups = ServiceGroups::new();
    let first = Sink { failure: Some(DriverError::CardGone), ..Sink::default() };
    let second = Sink { failure: Some(DriverError::NoMessage), ..Sink::default() };
    let third = Sink::default();
    groups.notify(None);
    let members: [(_, &dyn ServiceSink); 3] = [(group(0), &first), (group(1), &second), (group(2), &third)];
    assert_eq!(groups.service(&members), Err(DriverError::CardGone));
    assert_eq!((second.services.get(), third.services.get()), (1, 1));
}

/// Each interrupt is seen by a service that comes after it, while services run all the time: none is lost between two
/// threads. For a second, or for as many interrupts as a quick machine has by then.
#[test]
fn no_interrupt_is_lost_between_two_threads() {
    let groups = ServiceGroups::new();
    let (left, seen, done) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let started = Instant::now();
            for number in 1..=100_000 {
                left.store(number, Ordering::Relaxed);
                groups.notify(Some(group(0)));
                let notified = Instant::now();
                while seen.load(Ordering::Acquire) != number && notified.elapsed() < Duration::from_secs(10) {
                    std::thread::yield_now();
                }
                if seen.load(Ordering::Acquire) != number || started.elapsed() > Duration::from_secs(1) {
                    break;
                }
            }
            done.store(1, Ordering::Release);
        });
        let reader = Reader { left: &left, seen: &seen };
        while done.load(Ordering::Acquire) == 0 {
            assert_eq!(groups.service(&[(group(0), &reader)]), Ok(()));
        }
    });
    assert_eq!(seen.into_inner(), left.into_inner(), "the last interrupt was lost");
}

/// Sees what the interrupt left for it.
struct Reader<'s> {
    left: &'s AtomicU32,
    seen: &'s AtomicU32,
}

impl ServiceSink for Reader<'_> {
    fn request_service(&self) -> Result<(), DriverError> {
        self.seen.store(self.left.load(Ordering::Relaxed), Ordering::Release);
        Ok(())
    }
}
