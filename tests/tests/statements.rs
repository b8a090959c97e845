//! The list of statements of `dmus-conformance`, in process: the driver against the card over the socket, with either
//! pointer width.

use anyhow::ensure;
use dmus_card::ClockMode;
use dmus_card::capture::inputs::Input;
use dmus_card::transport::Transport;
use dmus_driver::{Card, Platform};
use dmus_interface::event::PointerWidth;
use dmus_tests::loopback::{HostedCard, Loopback};
use dmus_tests::memory::Ram;
use dmus_tests::unshared::UnsharedHost;
use std::collections::BTreeSet;
use std::time::Duration;

/// Runs the list, and names all that does not hold.
fn run<P: Platform>(platform: P, ram: impl Fn(&P) -> &Ram, width: PointerWidth) -> anyhow::Result<()> {
    let card = Card::open(platform, width)?;
    ensure!(dmus_conformance::unsuitable(&card)?.is_none());
    let mut failed = vec![];
    for check in dmus_conformance::checks() {
        if let Err(error) = check.run(&card) {
            failed.push(format!("{} ({}): {error:#}", check.name, check.statement));
        }
        let ram = ram(card.platform());
        let left = ram.outstanding.get();
        if left > 0 {
            ram.restart();
            failed.push(format!("{} leaves {left} bytes of memory for DMA behind", check.name));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

fn run_shared(width: PointerWidth) -> anyhow::Result<()> {
    let hosted = HostedCard::start_with(Transport::Own, ClockMode::Virtual, vec![Input::Loopback])?;
    run(hosted.connect()?, |platform| &platform.ram, width)?;
    hosted.finish()?;
    Ok(())
}

#[test]
fn every_statement_holds_in_process_with_8_byte_pointers() -> anyhow::Result<()> {
    run_shared(PointerWidth::Eight)
}

#[test]
fn every_statement_holds_in_process_with_4_byte_pointers() -> anyhow::Result<()> {
    run_shared(PointerWidth::Four)
}

#[test]
fn every_statement_holds_in_memory_that_the_card_reaches_by_messages_only() -> anyhow::Result<()> {
    let host = UnsharedHost::start_with(Duration::from_secs(10), vec![Input::Loopback])?;
    for width in [PointerWidth::Eight, PointerWidth::Four] {
        run(host.connect()?, |platform| &platform.ram, width)?;
    }
    host.finish()?;
    Ok(())
}

#[test]
fn names_are_of_one_check_each() {
    let checks = dmus_conformance::checks::<Loopback>();
    let names: BTreeSet<_> = checks.iter().map(|check| check.name).collect();
    let statements: BTreeSet<_> = checks.iter().map(|check| check.statement).collect();
    assert!(names.len() == checks.len() && statements.len() == checks.len());
}

#[test]
fn a_card_on_which_nothing_can_be_tried_is_told_so_with_its_mend() -> anyhow::Result<()> {
    for (clock, inputs, why) in [
        (ClockMode::Realtime, vec![Input::Loopback], "its clock is not virtual"),
        (ClockMode::Virtual, vec![], "not the loopback alone"),
        (ClockMode::Virtual, vec![Input::Loopback, Input::Loopback], "not the loopback alone"),
    ] {
        let hosted = HostedCard::start_with(Transport::Own, clock, inputs)?;
        let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
        let mut tried = 0;
        let refused = dmus_conformance::run(&card, |_, _, _| tried += 1);
        assert_eq!(tried, 0, "{why}");
        let said = refused.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(said.contains(why) && said.contains("--midi-in loopback"), "{said}");
    }
    Ok(())
}
