//! Each rule of the data sheet is broken by one wrong driver, and named by its own code alone: in process, and in
//! booted guests.
//!
//! A process of its own, with an allocator of its own that one mistake makes short of memory for all: there is one test
//! that makes mistakes here, and the others need little.

use anyhow::{Context, ensure};
use dmus_conformance::zoo::{Place, mistakes};
use dmus_interface::rule::Rule;
use dmus_tests::counting::Counting;
use dmus_tests::programs::{self, said, script};
use dmus_tests::zoo::run;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn every_rule_has_one_wrong_driver_with_a_text_of_its_own() {
    let broken: Vec<&str> = mistakes().iter().map(|mistake| mistake.rule).collect();
    let rules: Vec<&str> = Rule::ALL.iter().map(|rule| rule.name).collect();
    assert_eq!(broken, rules);
    let mut texts: Vec<&str> = mistakes().iter().map(|mistake| mistake.what).collect();
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), rules.len());
}

#[test]
fn every_mistake_is_named_by_its_own_code_alone() -> anyhow::Result<()> {
    let mut not = Vec::new();
    for mistake in mistakes() {
        let code = mistake.code()?;
        match run(mistake) {
            Ok(verdict) if verdict.names_alone(code) => {}
            Ok(verdict) => not.push(format!("{code} {}: the card said {verdict}", mistake.rule)),
            Err(error) => not.push(format!("{code} {}: {error:#}", mistake.rule)),
        }
    }
    ensure!(not.is_empty(), "{}", not.join("\n"));
    Ok(())
}

/// Has all mistakes made in a booted guest.
fn booted(place: Place) -> anyhow::Result<()> {
    let done = programs::run(script("zoo").args(["--image", &place.to_string()]))?;
    ensure!(done.status.success(), "{place}: {}", said(&done));
    let table = String::from_utf8(done.stdout)?;
    let (mut tried, mut rows) = (0, table.lines());
    for mistake in mistakes() {
        let row = rows.next().with_context(|| format!("no row of {}", mistake.rule))?;
        let met = mistake.needs.are_met(place);
        tried += u32::from(met);
        let (code, end) = (mistake.code()?, if met { "  ok".into() } else { format!("  {}", mistake.needs) });
        let words: Vec<&str> = row.split_whitespace().take(2).collect();
        ensure!(words == [&code.to_string()[..], mistake.rule] && row.ends_with(&end), "{place}: {row}");
    }
    let last = format!("{tried} of {tried} are named by their own code alone");
    ensure!(tried > 40 && rows.eq([&last[..]]), "{place}: {table}");
    Ok(())
}

#[test]
fn every_mistake_that_a_bare_metal_guest_can_make_is_named_in_the_log_of_the_card_too() -> anyhow::Result<()> {
    booted(Place::BareMetal)
}

#[test]
fn every_mistake_that_a_linux_guest_can_make_is_named_in_the_log_of_the_card_too() -> anyhow::Result<()> {
    booted(Place::Linux)
}

#[test]
fn what_the_zoo_does_not_have_is_wrong_usage() -> anyhow::Result<()> {
    for arguments in [&["no-such-rule"][..], &["--image", "amiga"], &["--image"], &["--no-sandbox"], &["--dance"]] {
        let done = programs::run(script("zoo").args(arguments))?;
        ensure!(done.status.code() == Some(2), "{arguments:?}: {}", said(&done));
    }
    Ok(())
}
