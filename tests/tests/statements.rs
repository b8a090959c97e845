//! The list of statements of `dmus-conformance`, in process: the driver against the card over the socket, with either pointer width.

use anyhow::ensure;
use dmus_card::ClockMode;
use dmus_card::capture::inputs::Input;
use dmus_card::transport::Transport;
use dmus_driver::Card;
use dmus_interface::event::PointerWidth;
use dmus_tests::loopback::{HostedCard, Loopback};
use std::collections::BTreeSet;

/// Runs the list, and names all that does not hold.
fn run(width: PointerWidth) -> anyhow::Result<()> {
    let hosted = HostedCard::start_with(Transport::Own, ClockMode::Virtual, vec![Input::Loopback])?;
    let card = Card::open(hosted.connect()?, width)?;
    ensure!(dmus_conformance::unsuitable(&card)?.is_none());
    let mut failed = vec![];
    for check in dmus_conformance::checks() {
        if let Err(error) = check.run(&card) {
            failed.push(format!("{} ({}): {error:#}", check.name, check.statement));
        }
        let left = card.platform().ram.outstanding.get();
        if left > 0 {
            card.platform().ram.restart();
            failed.push(format!("{} leaves {left} bytes of memory for DMA behind", check.name));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    drop(card);
    hosted.finish()?;
    Ok(())
}

#[test]
fn every_statement_holds_in_process_with_8_byte_pointers() -> anyhow::Result<()> {
    run(PointerWidth::Eight)
}

#[test]
fn every_statement_holds_in_process_with_4_byte_pointers() -> anyhow::Result<()> {
    run(PointerWidth::Four)
}

#[test]
fn names_are_of_one_check_each() {
    let checks = dmus_conformance::checks::<Loopback>();
    let names: BTreeSet<_> = checks.iter().map(|check| check.name).collect();
    let statements: BTreeSet<_> = checks.iter().map(|check| check.statement).collect();
    assert!(names.len() == checks.len() && statements.len() == checks.len());
}
