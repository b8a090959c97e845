//! DMA_MAP, DMA_UNMAP.

use crate::common::*;
use rustix::fs::fstat;
use std::os::fd::AsFd;

const R: u32 = 1;
const RW: u32 = 3;

#[test]
fn memory_with_a_file_is_passed_on() {
    let mut client = Client::new();
    let ram = memory(1 << 20);
    client.call_fds(DMA_MAP, &map(RW, 0x2000, 0x10_0000, 0x4000), &[ram.as_fd()]).expect_ok();
    assert_eq!(client.calls(), [Call::Map(0x10_0000, 0x4000, 0x2000, true, true)]);
    let record = client.device.record.lock().unwrap();
    assert_eq!(fstat(&record.files[0]).unwrap().st_ino, fstat(&ram).unwrap().st_ino);
}

#[test]
fn memory_without_a_file_is_passed_on() {
    let mut client = Client::new();
    client.call(DMA_MAP, &map(R, 0, 0xFFFC_0000, 0x4_0000)).expect_ok();
    assert_eq!(client.calls(), [Call::Map(0xFFFC_0000, 0x4_0000, 0, false, false)]);
}

#[test]
fn a_map_up_to_the_last_address_is_possible() {
    let mut client = Client::new();
    client.call(DMA_MAP, &map(RW, 0, u64::MAX - 0xFFF, 0x1000)).expect_ok();
    client.call(DMA_MAP, &map(RW, 0, u64::MAX - 0xFFF, 0x1000)).expect_error(EEXIST);
    client.call(DMA_UNMAP, &unmap(0, u64::MAX - 0xFFF, 0x1000)).expect_ok();
    client.call(DMA_MAP, &map(RW, 0, u64::MAX - 0xFFF, 0x1000)).expect_ok();
}

#[test]
fn maps_that_cannot_be_are_refused() {
    let mut client = Client::new();
    let ram = memory(1 << 20);
    for (flags, offset, iova, size) in [
        (0, 0, 0, 0x1000),
        (4, 0, 0, 0x1000),
        (RW | 8, 0, 0, 0x1000),
        (RW, 0, 0, 0),
        (RW, 0, 0, 0x800),
        (RW, 0, 0, 0x1001),
        (RW, 0, 0x800, 0x1000),
        (RW, 0x800, 0, 0x1000),
        (RW, 0, u64::MAX - 0xFFF, 0x2000),
        (RW, u64::MAX - 0xFFF, 0, 0x1000),
        (RW, 0, 0x2000, u64::MAX - 0xFFF),
    ] {
        client.call_fds(DMA_MAP, &map(flags, offset, iova, size), &[ram.as_fd()]).expect_error(EINVAL);
    }
    client.call(DMA_MAP, &map(RW, 0x1000, 0, 0x1000)).expect_error(EINVAL);
    assert_eq!(client.calls(), []);
    client.expect_alive();
}

#[test]
fn overlapping_maps_are_refused() {
    let mut client = Client::new();
    client.call(DMA_MAP, &map(RW, 0, 0x4000, 0x4000)).expect_ok();
    for (iova, size) in [(0x4000, 0x4000), (0x3000, 0x2000), (0x7000, 0x1000), (0x5000, 0x1000), (0, 0x10_0000)] {
        client.call(DMA_MAP, &map(RW, 0, iova, size)).expect_error(EEXIST);
    }
    client.call(DMA_MAP, &map(RW, 0, 0x3000, 0x1000)).expect_ok();
    client.call(DMA_MAP, &map(RW, 0, 0x8000, 0x1000)).expect_ok();
    assert_eq!(client.calls().len(), 3);
}

#[test]
fn more_than_one_descriptor_is_refused() {
    let mut client = Client::new();
    let ram = memory(1 << 20);
    client.call_fds(DMA_MAP, &map(RW, 0, 0, 0x1000), &[ram.as_fd(), ram.as_fd()]).expect_error(EINVAL);
    assert_eq!(client.calls(), []);
    client.expect_alive();
}

#[test]
fn what_the_device_says_of_a_map_is_the_reply() {
    let mut client = Client::new();
    for (errno, replied) in [(12, 12), (6, 6), (0, EIO)] {
        client.device.record.lock().unwrap().map_error = Some(errno);
        client.call(DMA_MAP, &map(RW, 0, 0, 0x1000)).expect_error(replied);
    }
    // It is not mapped, so it can be tried again.
    client.device.record.lock().unwrap().map_error = None;
    client.call(DMA_MAP, &map(RW, 0, 0, 0x1000)).expect_ok();
}

#[test]
fn posted_maps_are_carried_out_unanswered() {
    let mut client = Client::new();
    client.post(DMA_MAP, &map(RW, 0, 0, 0x1000));
    client.post(DMA_MAP, &map(RW, 0, 0, 0x1000));
    client.post(DMA_UNMAP, &unmap(0, 0, 0x1000));
    client.expect_alive();
    assert_eq!(client.calls(), [Call::Map(0, 0x1000, 0, false, true), Call::Unmap(0, 0x1000)]);
}

#[test]
fn messages_of_the_wrong_length_are_refused() {
    let mut client = Client::new();
    client.call(DMA_MAP, &map(RW, 0, 0, 0x1000)[..31]).expect_error(EINVAL);
    client.call(DMA_MAP, &[map(RW, 0, 0, 0x1000), vec![0]].concat()).expect_error(EINVAL);
    client.call(DMA_UNMAP, &unmap(0, 0, 0x1000)[..23]).expect_error(EINVAL);
    client.call(DMA_UNMAP, &[unmap(0, 0, 0x1000), vec![0]].concat()).expect_error(EINVAL);
    client.call(DMA_MAP, &[]).expect_error(EINVAL);
    client.call(DMA_UNMAP, &[]).expect_error(EINVAL);
    let mut small = map(RW, 0, 0, 0x1000);
    small[0] = 31;
    client.call(DMA_MAP, &small).expect_error(EINVAL);
    assert_eq!(client.calls(), []);
    client.expect_alive();
}

#[test]
fn an_unmap_echoes_its_request() {
    let mut client = Client::new();
    client.call(DMA_MAP, &map(RW, 0, 0x1000, 0x1000)).expect_ok();
    assert_eq!(client.call(DMA_UNMAP, &unmap(0, 0x1000, 0x1000)).expect_ok(), unmap(0, 0x1000, 0x1000));
    assert_eq!(client.calls()[1], Call::Unmap(0x1000, 0x1000));
    client.call(DMA_MAP, &map(RW, 0, 0x1000, 0x1000)).expect_ok();
}

#[test]
fn a_large_unmap_takes_every_map_inside() {
    let mut client = Client::new();
    for page in [0x1000, 0x2000, 0x9000, 1 << 46] {
        client.call(DMA_MAP, &map(RW, 0, page, 0x1000)).expect_ok();
    }
    client.call(DMA_UNMAP, &unmap(0, 0, 1 << 47)).expect_ok();
    assert_eq!(client.calls()[4..], [Call::Unmap(0, 1 << 47)]);
    client.call(DMA_MAP, &map(RW, 0, 0, 1 << 47)).expect_ok();
}

#[test]
fn an_unmap_of_nothing_is_no_error() {
    let mut client = Client::new();
    client.call(DMA_UNMAP, &unmap(0, 0x1000, 0x1000)).expect_ok();
}

#[test]
fn an_unmap_that_cuts_a_map_is_refused() {
    let mut client = Client::new();
    client.call(DMA_MAP, &map(RW, 0, 0x4000, 0x4000)).expect_ok();
    client.call(DMA_MAP, &map(RW, 0, 0x8000, 0x4000)).expect_ok();
    for (iova, size) in [(0x4000, 0x1000), (0x5000, 0x1000), (0x7000, 0x1000), (0x3000, 0x2000), (0x4000, 0x5000)] {
        client.call(DMA_UNMAP, &unmap(0, iova, size)).expect_error(EINVAL);
    }
    assert_eq!(client.calls().len(), 2);
    client.call(DMA_MAP, &map(RW, 0, 0x4000, 0x1000)).expect_error(EEXIST);
}

#[test]
fn unmaps_that_cannot_be_are_refused() {
    let mut client = Client::new();
    for (flags, iova, size) in
        [(0, 0, 0), (0, 0x800, 0x1000), (0, 0, 0x800), (0, 0x2000, u64::MAX - 0xFFF), (4, 0, 0x1000), (2, 0x1000, 0)]
    {
        client.call(DMA_UNMAP, &unmap(flags, iova, size)).expect_error(EINVAL);
    }
    assert_eq!(client.calls(), []);
}

#[test]
fn everything_can_be_unmapped_at_once() {
    let mut client = Client::new();
    client.call(DMA_MAP, &map(RW, 0, 0x1000, 0x1000)).expect_ok();
    client.call(DMA_MAP, &map(RW, 0, u64::MAX - 0xFFF, 0x1000)).expect_ok();
    assert_eq!(client.call(DMA_UNMAP, &unmap(2, 0, 0)).expect_ok(), unmap(2, 0, 0));
    assert_eq!(client.calls()[2], Call::Unmap(0, u64::MAX));
    client.call(DMA_MAP, &map(RW, 0, 0x1000, 0x1000)).expect_ok();
}

#[test]
fn dirty_pages_are_not_supported() {
    let mut client = Client::new();
    client.call(DMA_MAP, &map(RW, 0, 0x1000, 0x1000)).expect_ok();
    // With the place for the bitmap that such a request has.
    client.call(DMA_UNMAP, &[unmap(1, 0x1000, 0x1000), vec![0; 24]].concat()).expect_error(ENOTSUP);
    client.call(DMA_UNMAP, &unmap(1, 0x1000, 0x1000)).expect_error(ENOTSUP);
    client.call(DIRTY_PAGES, &words(&[8, 1])).expect_error(ENOTSUP);
    assert_eq!(client.calls().len(), 1);
    client.expect_alive();
}

#[test]
fn each_map_of_a_burst_gets_its_own_descriptor() {
    let mut client = Client::new();
    let rams: Vec<_> = (0..20).map(|_| memory(0x1000)).collect();
    // Every third has none; sent at once, so that the server finds several in one read.
    for (i, ram) in rams.iter().enumerate() {
        let bytes = message(i as u16, DMA_MAP, 0, &map(RW, 0, i as u64 * 0x1000, 0x1000));
        if i % 3 == 0 { client.send_bytes(&bytes) } else { client.send_fds(&bytes, &[ram.as_fd()]) }
    }
    for i in 0..20 {
        client.reply_to(i, DMA_MAP).expect_ok();
    }
    for (i, call) in client.calls().iter().enumerate() {
        assert_eq!(*call, Call::Map(i as u64 * 0x1000, 0x1000, 0, i % 3 != 0, true));
    }
    let expected: Vec<_> = (0..20).filter(|i| i % 3 != 0).map(|i| fstat(&rams[i]).unwrap().st_ino).collect();
    let got: Vec<_> = client.device.record.lock().unwrap().files.iter().map(|f| fstat(f).unwrap().st_ino).collect();
    assert_eq!(got, expected);
}
