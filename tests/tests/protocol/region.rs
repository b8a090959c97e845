//! REGION_READ, REGION_WRITE, REGION_WRITE_MULTI.

use crate::common::*;
use dmus_card::device::Region;

#[test]
fn reads_reach_each_region() {
    let mut client = Client::new();
    for (index, region) in [(BAR0, Region::Registers), (BAR2, Region::Doorbell), (BAR4, Region::Msix)] {
        let payload = client.call(REGION_READ, &access(8, index, 4)).expect_ok();
        assert_eq!(payload, [&access(8, index, 4)[..], &[8, 9, 10, 11]].concat());
        assert_eq!(client.calls().last(), Some(&Call::Read(region, 8, 4)));
    }
    client.expect_alive();
}

#[test]
fn a_whole_region_can_be_read() {
    let mut client = Client::new();
    assert_eq!(client.call(REGION_READ, &access(0, CONFIG, 4096)).expect_ok().len(), 16 + 4096);
}

#[test]
fn writes_arrive_and_are_acknowledged() {
    let mut client = Client::new();
    assert_eq!(client.call(REGION_WRITE, &write_to(0x10, BAR0, &[1, 2, 3, 4])).expect_ok(), access(0x10, BAR0, 4));
    client.call(REGION_WRITE, &write_to(0, CONFIG, &[7; 4096])).expect_ok();
    let expected =
        [Call::Write(Region::Registers, 0x10, vec![1, 2, 3, 4]), Call::Write(Region::Config, 0, vec![7; 4096])];
    assert_eq!(client.calls(), expected);
}

#[test]
fn posted_writes_are_not_answered() {
    let mut client = Client::new();
    for i in 0..100 {
        client.post(REGION_WRITE, &write_to(i * 4, BAR0, &[i as u8; 4]));
    }
    client.expect_alive();
    assert_eq!(client.calls().len(), 100);
}

#[test]
fn accesses_out_of_bounds_are_refused_and_not_passed_on() {
    let mut client = Client::new();
    for (offset, region, count) in [
        (4096, BAR0, 4),
        (4093, BAR0, 4),
        (4093, CONFIG, 4),
        (0, CONFIG, 4097),
        (u64::MAX, BAR0, 4),
        (u64::MAX - 3, BAR0, 4),
        (0, BAR0, 0),
        (0, 1, 4),
        (0, 6, 4),
        (0, 8, 4),
        (0, 9, 4),
        (0, u32::MAX, 4),
    ] {
        client.call(REGION_READ, &access(offset, region, count)).expect_error(EINVAL);
        let payload = [access(offset, region, count), vec![0; count as usize]].concat();
        client.call(REGION_WRITE, &payload).expect_error(EINVAL);
    }
    assert_eq!(client.calls(), []);
    client.expect_alive();
}

#[test]
fn the_last_bytes_are_in_bounds() {
    let mut client = Client::new();
    client.call(REGION_READ, &access(4092, BAR0, 4)).expect_ok();
    client.call(REGION_WRITE, &write_to(4095, BAR0, &[1])).expect_ok();
}

#[test]
fn a_huge_count_is_refused_and_not_allocated() {
    let mut client = Client::new();
    for count in [65536, 65537, 0x8000_0000, 0xFFFF_FFFF] {
        client.call(REGION_READ, &access(0, BAR0, count)).expect_error(EINVAL);
        client.call(REGION_WRITE, &access(0, BAR0, count)).expect_error(EINVAL);
    }
    assert_eq!(client.calls(), []);
}

#[test]
fn a_count_that_is_not_the_payload_is_refused() {
    let mut client = Client::new();
    for (count, bytes) in [(4, 0), (4, 3), (4, 5), (0, 4), (8, 4)] {
        let payload = [access(0, BAR0, count), vec![9; bytes]].concat();
        client.call(REGION_WRITE, &payload).expect_error(EINVAL);
    }
    client.call(REGION_READ, &[access(0, BAR0, 4), vec![0]].concat()).expect_error(EINVAL);
    assert_eq!(client.calls(), []);
    client.expect_alive();
}

#[test]
fn short_accesses_are_refused() {
    let mut client = Client::new();
    for length in 0..16 {
        client.call(REGION_READ, &access(0, BAR0, 4)[..length]).expect_error(EINVAL);
        client.call(REGION_WRITE, &access(0, BAR0, 4)[..length]).expect_error(EINVAL);
    }
    assert_eq!(client.calls(), []);
}

#[test]
fn wrong_posted_accesses_stay_unanswered() {
    let mut client = Client::new();
    client.post(REGION_WRITE, &write_to(5000, BAR0, &[0; 4]));
    client.post(REGION_WRITE, &access(0, BAR0, u32::MAX));
    client.post(REGION_READ, &access(0, BAR0, 4));
    client.expect_alive();
    assert_eq!(client.calls(), [Call::Read(Region::Registers, 0, 4)]);
}

#[test]
fn several_writes_in_one_message_arrive_in_order() {
    let mut client = Client::new();
    let payload = multi(&[(0, BAR0, &[1]), (8, BAR0, &[1, 2, 3, 4, 5, 6, 7, 8]), (4, CONFIG, &[9, 9])]);
    client.post(WRITE_MULTI, &payload);
    assert_eq!(client.call(WRITE_MULTI, &multi(&[(12, BAR4, &[5, 6, 7, 8])])).expect_ok(), 1u64.to_le_bytes());
    let expected = [
        Call::Write(Region::Registers, 0, vec![1]),
        Call::Write(Region::Registers, 8, vec![1, 2, 3, 4, 5, 6, 7, 8]),
        Call::Write(Region::Config, 4, vec![9, 9]),
        Call::Write(Region::Msix, 12, vec![5, 6, 7, 8]),
    ];
    assert_eq!(client.calls(), expected);
}

#[test]
fn two_hundred_writes_fit_in_one_message() {
    let mut client = Client::new();
    let writes: Vec<(u64, u32, &[u8])> = (0..200).map(|i| (i * 4, BAR0, &[1u8, 2, 3, 4][..])).collect();
    client.post(WRITE_MULTI, &multi(&writes));
    client.expect_alive();
    assert_eq!(client.calls().len(), 200);
}

#[test]
fn several_writes_with_one_wrong_write_nothing() {
    let mut client = Client::new();
    let good = multi(&[(0, BAR0, &[1]), (4, BAR0, &[2])]);
    let mut beyond = good.clone();
    beyond[8 + 24..][..8].copy_from_slice(&4096u64.to_le_bytes());
    let mut nine = good.clone();
    nine[8 + 12..][..4].copy_from_slice(&9u32.to_le_bytes());
    let mut more = good.clone();
    more[0] = 3;
    let mut fewer = good.clone();
    fewer[0] = 1;
    let mut wraps = good.clone();
    wraps[..8].copy_from_slice(&(u64::MAX / 24 + 3).to_le_bytes());
    for payload in [&beyond, &nine, &more, &fewer, &wraps, &good[..good.len() - 1], &good[..7], &[]] {
        client.call(WRITE_MULTI, payload).expect_error(EINVAL);
        client.post(WRITE_MULTI, payload);
    }
    assert_eq!(client.calls(), []);
    client.expect_alive();
}

#[test]
fn no_writes_in_one_message_are_no_error() {
    let mut client = Client::new();
    client.call(WRITE_MULTI, &multi(&[])).expect_ok();
}

#[test]
fn accesses_with_descriptors_are_refused() {
    let mut client = Client::new();
    let file = event();
    let fds = [std::os::fd::AsFd::as_fd(&file)];
    client.call_fds(REGION_READ, &access(0, BAR0, 4), &fds).expect_error(EINVAL);
    client.call_fds(REGION_WRITE, &write_to(0, BAR0, &[0; 4]), &fds).expect_error(EINVAL);
    assert_eq!(client.calls(), []);
    client.expect_alive();
}
