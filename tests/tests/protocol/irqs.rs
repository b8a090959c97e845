//! DEVICE_SET_IRQS.

use crate::common::*;
use rustix::event::epoll;
use rustix::fs::inotify;
use rustix::io::read;
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

const NONE: u32 = 1;
const BOOL: u32 = 2;
const EVENTFD: u32 = 4;
const MASK: u32 = 8;
const UNMASK: u32 = 16;
const TRIGGER: u32 = 32;
const MSIX: u32 = 2;

#[test]
fn one_vector_is_connected_to_the_eventfd_that_came() {
    let mut client = Client::new();
    let mine = event();
    client.call_fds(SET_IRQS, &irqs(EVENTFD | TRIGGER, MSIX, 3, 1), &[mine.as_fd()]).expect_ok();
    assert_eq!(client.calls(), [Call::Vector(3, true)]);
    let record = client.device.record.lock().unwrap();
    record.eventfds[0].1.as_ref().unwrap().signal().unwrap();
    let mut count = [0; 8];
    read(&mine, &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1);
}

#[test]
fn only_an_eventfd_with_room_in_it_becomes_a_vector() {
    let mut client = Client::new();
    let full = event();
    rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let (socket, _other) = UnixStream::pair().unwrap();
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).unwrap();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    let process = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let file = tempfile::tempfile().unwrap().into();
    let device = std::fs::File::options().write(true).open("/dev/null").unwrap().into();
    let mine = event();
    for wrong in [full, reader, writer, socket.into(), timer, epoll, inotify, process, memory(4096), file, device] {
        client.call_fds(SET_IRQS, &irqs(EVENTFD | TRIGGER, MSIX, 0, 1), &[wrong.as_fd()]).expect_error(EINVAL);
        // None of several, if one of them is wrong.
        let fds = [mine.as_fd(), wrong.as_fd()];
        client.call_fds(SET_IRQS, &irqs(EVENTFD | TRIGGER, MSIX, 0, 2), &fds).expect_error(EINVAL);
    }
    assert_eq!(client.calls(), []);
}

#[test]
fn a_range_of_vectors_takes_a_descriptor_each_in_order() {
    let mut client = Client::new();
    let events: Vec<OwnedFd> = (0..9).map(|_| event()).collect();
    let fds: Vec<_> = events.iter().map(AsFd::as_fd).collect();
    client.call_fds(SET_IRQS, &irqs(EVENTFD | TRIGGER, MSIX, 0, 9), &fds).expect_ok();
    let expected: Vec<_> = (0..9).map(|vector| Call::Vector(vector, true)).collect();
    assert_eq!(client.calls(), expected);
    for (vector, eventfd) in &client.device.record.lock().unwrap().eventfds {
        (0..=*vector).for_each(|_| eventfd.as_ref().unwrap().signal().unwrap());
    }
    for (vector, event) in events.iter().enumerate() {
        let mut count = [0; 8];
        read(event, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), vector as u64 + 1);
    }
}

#[test]
fn no_descriptors_disconnect_the_range() {
    let mut client = Client::new();
    client.call(SET_IRQS, &irqs(EVENTFD | TRIGGER, MSIX, 2, 2)).expect_ok();
    assert_eq!(client.calls(), [Call::Vector(2, false), Call::Vector(3, false)]);
}

#[test]
fn none_from_the_first_on_disables_all() {
    let mut client = Client::new();
    client.call(SET_IRQS, &irqs(NONE | TRIGGER, MSIX, 0, 0)).expect_ok();
    let expected: Vec<_> = (0..9).map(|vector| Call::Vector(vector, false)).collect();
    assert_eq!(client.calls(), expected);
}

#[test]
fn disabling_a_kind_without_vectors_is_no_error() {
    let mut client = Client::new();
    for index in [0, 1, 3, 4] {
        client.call(SET_IRQS, &irqs(NONE | TRIGGER, index, 0, 0)).expect_ok();
    }
    assert_eq!(client.calls(), []);
}

#[test]
fn vectors_that_do_not_exist_are_refused() {
    let mut client = Client::new();
    let mine = event();
    for (index, start, count) in
        [(MSIX, 9, 1), (MSIX, 8, 2), (MSIX, 0, 10), (MSIX, u32::MAX, 1), (MSIX, 1, u32::MAX), (0, 0, 1), (1, 0, 1)]
    {
        client.call(SET_IRQS, &irqs(EVENTFD | TRIGGER, index, start, count)).expect_error(EINVAL);
        client.call_fds(SET_IRQS, &irqs(EVENTFD | TRIGGER, index, start, count), &[mine.as_fd()]).expect_error(EINVAL);
        client.call(SET_IRQS, &irqs(NONE | TRIGGER, index, start, count)).expect_error(EINVAL);
    }
    client.call(SET_IRQS, &irqs(NONE | TRIGGER, 5, 0, 0)).expect_error(EINVAL);
    client.call(SET_IRQS, &irqs(NONE | TRIGGER, MSIX, 1, 0)).expect_error(EINVAL);
    client.call(SET_IRQS, &irqs(EVENTFD | TRIGGER, MSIX, 0, 0)).expect_error(EINVAL);
    assert_eq!(client.calls(), []);
    client.expect_alive();
}

#[test]
fn the_number_of_descriptors_must_fit() {
    let mut client = Client::new();
    let mine = event();
    let fd = mine.as_fd();
    client.call_fds(SET_IRQS, &irqs(EVENTFD | TRIGGER, MSIX, 0, 1), &[fd, fd]).expect_error(EINVAL);
    client.call_fds(SET_IRQS, &irqs(EVENTFD | TRIGGER, MSIX, 0, 3), &[fd, fd]).expect_error(EINVAL);
    client.call_fds(SET_IRQS, &irqs(NONE | TRIGGER, MSIX, 0, 0), &[fd]).expect_error(EINVAL);
    client.call_fds(SET_IRQS, &irqs(EVENTFD | TRIGGER, MSIX, 0, 0), &[fd]).expect_error(EINVAL);
    assert_eq!(client.calls(), []);
}

#[test]
fn data_and_action_are_one_of_each() {
    let mut client = Client::new();
    for flags in [0, EVENTFD, TRIGGER, NONE | EVENTFD | TRIGGER, EVENTFD | TRIGGER | MASK, EVENTFD | TRIGGER | 64] {
        client.call(SET_IRQS, &irqs(flags, MSIX, 0, 1)).expect_error(EINVAL);
    }
    assert_eq!(client.calls(), []);
}

#[test]
fn masking_and_triggering_are_not_supported() {
    let mut client = Client::new();
    for flags in [NONE | MASK, NONE | UNMASK, NONE | TRIGGER, EVENTFD | MASK, EVENTFD | UNMASK] {
        client.call(SET_IRQS, &irqs(flags, MSIX, 0, 1)).expect_error(ENOTSUP);
    }
    for action in [MASK, UNMASK, TRIGGER] {
        let payload = [irqs(BOOL | action, MSIX, 0, 2), vec![1, 0]].concat();
        client.call(SET_IRQS, &payload).expect_error(ENOTSUP);
    }
    assert_eq!(client.calls(), []);
}

#[test]
fn the_payload_must_be_as_long_as_it_says() {
    let mut client = Client::new();
    client.call(SET_IRQS, &irqs(EVENTFD | TRIGGER, MSIX, 0, 1)[..19]).expect_error(EINVAL);
    client.call(SET_IRQS, &[]).expect_error(EINVAL);
    client.call(SET_IRQS, &[irqs(EVENTFD | TRIGGER, MSIX, 0, 1), vec![0; 4]].concat()).expect_error(EINVAL);
    client.call(SET_IRQS, &[irqs(BOOL | TRIGGER, MSIX, 0, 2), vec![1]].concat()).expect_error(EINVAL);
    client.call(SET_IRQS, &irqs(BOOL | TRIGGER, MSIX, 0, u32::MAX)).expect_error(EINVAL);
    let mut short = irqs(EVENTFD | TRIGGER, MSIX, 0, 1);
    short[0] = 19;
    client.call(SET_IRQS, &short).expect_error(EINVAL);
    assert_eq!(client.calls(), []);
    client.expect_alive();
}
