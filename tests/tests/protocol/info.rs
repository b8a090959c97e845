//! DEVICE_GET_INFO, DEVICE_GET_REGION_INFO, DEVICE_GET_IRQ_INFO.

use crate::common::*;
use dmus_card::transport::server::Limits;
use rustix::fs::fstat;

fn region_info(argsz: u32, index: u32) -> Vec<u8> {
    words(&[argsz, 0, index, 0, 0, 0, 0, 0])
}

#[test]
fn the_device_is_a_resettable_pci_function() {
    let mut client = Client::new();
    assert_eq!(client.call(GET_INFO, &words(&[16, 0, 0, 0])).expect_ok(), words(&[16, 3, 9, 5]));
    // As the `vfio_user` crate asks.
    assert_eq!(client.call(GET_INFO, &words(&[32, 0, 0, 0])).expect_ok(), words(&[16, 3, 9, 5]));
}

#[test]
fn device_info_that_is_too_short_is_refused() {
    let mut client = Client::new();
    client.call(GET_INFO, &words(&[15, 0, 0, 0])).expect_error(EINVAL);
    client.call(GET_INFO, &words(&[16, 0, 0])).expect_error(EINVAL);
    client.call(GET_INFO, &[]).expect_error(EINVAL);
    client.expect_alive();
}

#[test]
fn regions_are_described() {
    let mut client = Client::new();
    for (index, size, flags) in
        [(0, 4096, 3), (1, 0, 0), (3, 0, 0), (4, 4096, 3), (5, 0, 0), (6, 0, 0), (7, 4096, 3), (8, 0, 0)]
    {
        let reply = client.call(GET_REGION_INFO, &region_info(32, index));
        assert!(reply.fds.is_empty());
        assert_eq!(reply.expect_ok(), words(&[32, flags, index, 0, size, 0, 0, 0]), "region {index}");
    }
}

#[test]
fn the_doorbell_page_comes_with_its_memory() {
    let mut client = Client::new();
    let reply = client.call(GET_REGION_INFO, &region_info(64, BAR2));
    let [fd] = &reply.fds[..] else { panic!("{reply:?}") };
    let (theirs, ours) = (fstat(fd).unwrap(), fstat(client.device.doorbell()).unwrap());
    assert_eq!((theirs.st_dev, theirs.st_ino), (ours.st_dev, ours.st_ino));
    let payload = reply.expect_ok();
    assert_eq!(payload[..32], words(&[64, 0xF, 2, 32, 4096, 0, 0, 0]));
    // Sparse mmap, version 1, last; one area; from 0, the whole page.
    assert_eq!(payload[32..], words(&[0x0001_0001, 0, 1, 0, 0, 0, 4096, 0]));
}

#[test]
fn a_small_argsz_learns_how_much_room_is_needed() {
    let mut client = Client::new();
    for argsz in [32, 63] {
        let reply = client.call(GET_REGION_INFO, &region_info(argsz, BAR2));
        assert!(reply.fds.is_empty());
        assert_eq!(reply.expect_ok(), words(&[64, 0xF, 2, 32, 4096, 0, 0, 0]));
    }
}

#[test]
fn a_client_without_descriptors_is_not_offered_the_page() {
    let limits = Limits { send: PATIENCE, memory: PATIENCE };
    let mut client = Client::with_version(r#"{"capabilities":{"max_msg_fds":0}}"#, limits);
    let reply = client.call(GET_REGION_INFO, &region_info(64, BAR2));
    assert!(reply.fds.is_empty());
    assert_eq!(reply.expect_ok(), words(&[32, 3, 2, 0, 4096, 0, 0, 0]));
}

#[test]
fn region_info_that_is_wrong_is_refused() {
    let mut client = Client::new();
    client.call(GET_REGION_INFO, &region_info(31, 0)).expect_error(EINVAL);
    client.call(GET_REGION_INFO, &region_info(0, 0)).expect_error(EINVAL);
    client.call(GET_REGION_INFO, &region_info(64, 9)).expect_error(EINVAL);
    client.call(GET_REGION_INFO, &region_info(64, u32::MAX)).expect_error(EINVAL);
    client.call(GET_REGION_INFO, &region_info(32, 0)[..31]).expect_error(EINVAL);
    client.expect_alive();
}

#[test]
fn only_msix_has_vectors() {
    let mut client = Client::new();
    for index in 0..5 {
        let count = if index == 2 { 9 } else { 0 };
        assert_eq!(client.call(GET_IRQ_INFO, &words(&[16, 0, index, 0])).expect_ok(), words(&[16, 1, index, count]));
    }
}

#[test]
fn irq_info_that_is_wrong_is_refused() {
    let mut client = Client::new();
    client.call(GET_IRQ_INFO, &words(&[16, 0, 5, 0])).expect_error(EINVAL);
    client.call(GET_IRQ_INFO, &words(&[15, 0, 2, 0])).expect_error(EINVAL);
    client.call(GET_IRQ_INFO, &words(&[16, 0, 2])).expect_error(EINVAL);
    client.expect_alive();
}
