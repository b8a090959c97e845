//! DEVICE_RESET, and commands that are not there.

use crate::common::*;
use dmus_card::transport::server::ClientMemoryError;

#[test]
fn a_reset_reaches_the_device() {
    let mut client = Client::new();
    assert!(client.call(RESET, &[]).expect_ok().is_empty());
    assert_eq!(client.calls(), [Call::Reset]);
}

#[test]
fn a_reset_keeps_the_maps() {
    let mut client = Client::new();
    client.call(DMA_MAP, &map(3, 0, 0, 0x1000)).expect_ok();
    client.call(RESET, &[]).expect_ok();
    client.call(DMA_MAP, &map(3, 0, 0, 0x1000)).expect_error(EEXIST);
}

#[test]
fn a_reset_with_a_payload_is_refused() {
    let mut client = Client::new();
    client.call(RESET, &[0; 4]).expect_error(EINVAL);
    assert_eq!(client.calls(), []);
}

#[test]
fn unknown_commands_are_drained_and_refused() {
    let mut client = Client::new();
    for command in [0, 6, 11, 12, 16, 17, 18, 0x7FFF, 0xFFFF] {
        for length in [0, 1, 100, 60_000] {
            client.call(command, &vec![0xA5; length]).expect_error(ENOSYS);
        }
        client.post(command, &[0; 7]);
    }
    client.expect_alive();
}

#[test]
fn a_device_that_panics_ends_the_connection() {
    let mut client = Client::new();
    client.device.record.lock().unwrap().panic = true;
    client.send_bytes(&message(1, RESET, 0, &[]));
    client.expect_closed();
    assert!(client.join_panicked());
    assert_eq!(client.memory.read(0, &mut [0]), Err(ClientMemoryError::Disconnected));
}
