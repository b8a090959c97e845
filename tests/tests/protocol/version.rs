//! VERSION: negotiation, and what may not come before, instead of or after it.

use crate::common::*;
use dmus_card::transport::server::ServeError;

fn refused(payload: &[u8]) {
    let mut client = Client::raw();
    client.call(VERSION, payload).expect_error(EINVAL);
    // Nothing is lost: a better one is still taken.
    client.call(VERSION, &version(0, 1, QEMU_VERSION)).expect_ok();
    client.expect_alive();
}

fn accepted(payload: &[u8]) -> Vec<u8> {
    let mut client = Client::raw();
    let answer = client.call(VERSION, payload).expect_ok();
    client.expect_alive();
    answer
}

fn capabilities(answer: &[u8]) -> serde_json::Value {
    let (nul, json) = answer[4..].split_last().unwrap();
    assert_eq!(*nul, 0);
    serde_json::from_slice::<serde_json::Value>(json).unwrap()["capabilities"].clone()
}

#[test]
fn qemu_is_answered_with_our_limits() {
    let answer = accepted(&version(0, 1, QEMU_VERSION));
    assert_eq!((u16_at(&answer, 0), u16_at(&answer, 2)), (0, 1));
    let expected = serde_json::json!({
        "max_msg_fds": 16, "max_data_xfer_size": 65536, "max_dma_maps": 65535, "pgsizes": 4096, "write_multiple": true,
    });
    assert_eq!(capabilities(&answer), expected);
}

#[test]
fn the_minor_version_is_the_lesser_one() {
    assert_eq!(u16_at(&accepted(&version(0, 0, "{}")), 2), 0);
    assert_eq!(u16_at(&accepted(&version(0, 9, "{}")), 2), 1);
}

#[test]
fn version_data_is_optional() {
    accepted(&version_raw(0, 1, b""));
    accepted(&version(0, 1, "{}"));
    accepted(&version(0, 1, r#"{"capabilities":{}}"#));
}

#[test]
fn write_multiple_is_answered_only_to_who_proposes_it() {
    let answer = accepted(&version(0, 1, r#"{"capabilities":{"write_multiple":false}}"#));
    assert!(capabilities(&answer).get("write_multiple").is_none());
}

#[test]
fn unknown_keys_are_forgiven() {
    accepted(&version(
        0,
        1,
        r#"{"x":[1,{}],"capabilities":{"y":null,"twin_socket":{"supported":true},"max_msg_fds":2}}"#,
    ));
}

#[test]
fn a_missing_nul_is_refused() {
    refused(&version_raw(0, 1, b"{}"));
}

#[test]
fn an_interior_nul_is_refused() {
    refused(&version_raw(0, 1, b"{\0}\0"));
    refused(&version_raw(0, 1, b"{}\0\0"));
}

#[test]
fn what_is_no_json_is_refused() {
    for data in [&b"\0"[..], b"nonsense\0", b"{\0", b"\xFF\xFE\0", b"{}{}\0", b"[1]\0", b"5\0"] {
        refused(&version_raw(0, 1, data));
    }
}

#[test]
fn deeply_nested_json_is_refused() {
    refused(&version_raw(0, 1, &[vec![b'['; 60_000], vec![0]].concat()));
}

#[test]
fn capabilities_of_the_wrong_kind_are_refused() {
    for json in [
        r#"{"capabilities":3}"#,
        r#"{"capabilities":{"max_msg_fds":"16"}}"#,
        r#"{"capabilities":{"max_msg_fds":-1}}"#,
        r#"{"capabilities":{"max_data_xfer_size":0}}"#,
        r#"{"capabilities":{"max_data_xfer_size":1e999}}"#,
        r#"{"capabilities":{"max_data_xfer_size":1.5}}"#,
        r#"{"capabilities":{"pgsizes":2097152}}"#,
        r#"{"capabilities":{"pgsizes":[4096]}}"#,
        r#"{"capabilities":{"write_multiple":1}}"#,
    ] {
        refused(&version(0, 1, json));
    }
}

#[test]
fn a_short_version_is_refused() {
    for length in 0..4 {
        refused(&vec![0; length]);
    }
}

#[test]
fn another_major_version_ends_the_connection_after_an_error_reply() {
    let mut client = Client::raw();
    client.call(VERSION, &version(1, 0, QEMU_VERSION)).expect_error(EINVAL);
    client.expect_closed();
    assert!(matches!(client.join(), Err(ServeError::Version(1))));
}

#[test]
fn commands_before_version_are_refused() {
    let mut client = Client::raw();
    for command in [0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 0xFFFF] {
        client.call(command, &[0; 48]).expect_error(EINVAL);
    }
    assert_eq!(client.calls(), []);
    client.call(VERSION, &version(0, 1, QEMU_VERSION)).expect_ok();
}

#[test]
fn a_second_version_is_refused() {
    let mut client = Client::new();
    client.call(VERSION, &version(0, 1, QEMU_VERSION)).expect_error(EINVAL);
    client.call(VERSION, &version(7, 1, QEMU_VERSION)).expect_error(EINVAL);
    client.expect_alive();
}

#[test]
fn a_version_that_wants_no_reply_agrees_to_nothing() {
    let mut client = Client::raw();
    client.post(VERSION, &version(0, 1, QEMU_VERSION));
    client.call(REGION_READ, &access(0, CONFIG, 4)).expect_error(EINVAL);
}

#[test]
fn a_version_with_descriptors_is_refused() {
    let mut client = Client::raw();
    let file = event();
    client.call_fds(VERSION, &version(0, 1, QEMU_VERSION), &[std::os::fd::AsFd::as_fd(&file)]).expect_error(EINVAL);
}
