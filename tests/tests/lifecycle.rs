//! Clients that come and go, in the middle of playing: the card keeps nothing of them.

use dmus_interface::event::PointerWidth;
use dmus_interface::ring::Status;
use dmus_tests::loopback::Loopback;
use dmus_tests::programs::{self, Running, until};
use dmus_tests::raw::{RawStream, seconds};
use std::time::Duration;

const ROUNDS: usize = 1000;

/// Descriptors, mappings and threads of a process.
fn holdings(pid: u32) -> anyhow::Result<[usize; 3]> {
    let entries =
        |name: &str| -> anyhow::Result<usize> { Ok(std::fs::read_dir(format!("/proc/{pid}/{name}"))?.count()) };
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    Ok([entries("fd")?, maps.lines().filter(|line| line.contains("memfd:")).count(), entries("task")?])
}

#[test]
fn a_thousand_clients_that_leave_while_playing_leave_nothing_behind() -> anyhow::Result<()> {
    for transport in ["own", "crate"] {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("card.sock");
        let arguments = ["serve", "--clock", "virtual", "--transport", transport, "--socket"];
        let mut card = Running::start(programs::card()?.args(arguments).arg(&socket).env("DMUS_LOG", "off"))?;
        until("the socket", Duration::from_secs(20), || socket.exists())?;
        let mut before = None;
        for round in 0..ROUNDS {
            let platform = Loopback::new(&socket)?;
            let stream = RawStream::running(&platform, PointerWidth::Eight)?;
            stream.submit(0, stream.inline(0, &[0x90, 60, 100]), seconds(1));
            assert_eq!(stream.completion()?.status, Status::Presented, "round {round}");
            // More than is rendered before the client is gone.
            stream.submit(1, stream.inline(seconds(1000), &[0x90, 61, 100]), seconds(1000));
            if round == 9 {
                before = Some(holdings(card.id())?);
            }
            if round == ROUNDS - 1 {
                assert_eq!(before, Some(holdings(card.id())?), "descriptors, mappings, threads behind {transport}");
            }
        }
        assert!(card.status().is_none());
    }
    Ok(())
}
