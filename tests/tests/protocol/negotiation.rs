//! Clients that do not negotiate, and whoever waits behind them.

use crate::common::{Client, QEMU_VERSION, VERSION, message, version};
use dmus_card::transport::server::ServeError;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_millis(100);

/// A client of a server that has somebody else waiting, or not.
fn client(waits: bool) -> (Client, Option<UnixStream>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("card.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let other = waits.then(|| UnixStream::connect(&path).unwrap());
    (Client::raw_beside(listener, LIMIT), other)
}

#[test]
fn a_silent_client_gives_way_to_another_after_the_limit() {
    let began = Instant::now();
    let (mut client, _other) = client(true);
    let outcome = client.join();
    assert!(matches!(outcome, Err(ServeError::Silent(LIMIT))), "{outcome:?}");
    assert!(began.elapsed() >= LIMIT);
}

#[test]
fn a_client_that_trickles_its_first_message_gives_way_too() {
    let (mut client, _other) = client(true);
    let version = version(0, 1, &" ".repeat(60_000));
    let began = Instant::now();
    let dropped = message(1, VERSION, 0, &version).iter().any(|byte| {
        std::thread::sleep(Duration::from_millis(1));
        client.stream.write_all(&[*byte]).is_err()
    });
    assert!(dropped && began.elapsed() >= LIMIT / 2);
    assert!(matches!(client.join(), Err(ServeError::Silent(LIMIT))));
}

#[test]
fn a_client_that_is_refused_again_and_again_gives_way_too() {
    let (mut client, _other) = client(true);
    let unknown = message(1, 99, 0, &[]);
    while client.stream.write_all(&unknown).and_then(|()| client.stream.read_exact(&mut [0; 16])).is_ok() {}
    assert!(matches!(client.join(), Err(ServeError::Silent(LIMIT))));
}

#[test]
fn a_silent_client_that_nobody_waits_for_may_negotiate_late() {
    let (mut client, _) = client(false);
    std::thread::sleep(2 * LIMIT);
    client.call(VERSION, &version(0, 1, QEMU_VERSION)).expect_ok();
    client.expect_alive();
    assert!(client.finish().is_ok());
}

#[test]
fn an_idle_client_that_has_negotiated_stays_whoever_waits() {
    let (mut client, _other) = client(true);
    client.call(VERSION, &version(0, 1, QEMU_VERSION)).expect_ok();
    std::thread::sleep(2 * LIMIT);
    client.expect_alive();
    assert!(client.finish().is_ok());
}
