//! What the DirectMusic DDI states of the card and its driver, as far as a guest can see it: a list of checks that run
//! wherever the driver does.
//!
//! Fed with a [`Card`] on any [`Platform`]; feeds whoever runs the list (a test in process, the bare-metal guest,
//! `dmusd selftest`) with a result for each [`Check`]. It is `no_std`, and needs nothing of the host but a card of
//! virtual time whose only MIDI input is the loopback (`--clock virtual --midi-in loopback`): what the card presents
//! comes back through a capture stream, and so tells what it did and when. Nothing sounds for long, nothing waits
//! without a limit, and the card is reset before and after each check.
//!
//! [`raw`] is the driver without manners that the checks of bad input use, and tests beyond this list, too; [`zoo`] has
//! one driver of that kind for each rule of the data sheet.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

// The example of the manual is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The list of a module: `name: "statement"`, where the name is that of the function that checks it.
macro_rules! checks {
    ($($name:ident: $statement:literal,)*) => {
        /// The checks of this module.
        pub(crate) fn checks<P: Platform>() -> alloc::vec::Vec<$crate::Check<P>> {
            alloc::vec![$($crate::Check { name: stringify!($name), statement: $statement, run: $name::<P> }),*]
        }
    };
}

mod checks;
mod fixture;
pub mod raw;
pub mod zoo;

use alloc::vec::Vec;
use anyhow::Context;
use dmus_driver::{Card, Platform};

/// A statement of the DDI, in our words, and how to see whether it holds.
#[derive(Debug)]
pub struct Check<P: Platform> {
    /// A name in snake case, which no other check has.
    pub name: &'static str,
    /// What the DDI says.
    pub statement: &'static str,
    run: fn(&Card<P>) -> anyhow::Result<()>,
}

impl<P: Platform> Check<P> {
    /// Tries whether it holds on this card, which is reset before and after. It should be none that is [`unsuitable`].
    ///
    /// # Errors
    /// What is otherwise than stated, or the driver's error.
    pub fn run(&self, card: &Card<P>) -> anyhow::Result<()> {
        card.reset()?;
        let result = (self.run)(card);
        card.reset().context("the card after the check")?;
        result
    }
}

/// All checks, in the order of the DDI's documentation: events, allocator, streams, port side, properties, and what is
/// refused.
pub fn checks<P: Platform>() -> Vec<Check<P>> {
    checks::all()
}

/// How many checks were run, and how many statements hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All of them.
    pub checks: u32,
    /// Those that found nothing otherwise.
    pub holding: u32,
}

/// Runs all checks, and shows the name, the statement and the result of each to `report`.
///
/// # Errors
/// The card cannot be tried ([`unsuitable`]), or is gone.
pub fn run<P: Platform>(
    card: &Card<P>,
    mut report: impl FnMut(&str, &str, anyhow::Result<()>),
) -> anyhow::Result<Tally> {
    if let Some(why) = unsuitable(card)? {
        anyhow::bail!("the card cannot be tried, for {why}: serve it with --clock virtual --midi-in loopback");
    }
    let mut tally = Tally::default();
    for check in checks() {
        let result = check.run(card);
        tally.checks += 1;
        tally.holding += u32::from(result.is_ok());
        report(check.name, check.statement, result);
        // One that has gone fails for nothing else, but slowly.
        card.is_enabled()?;
    }
    Ok(tally)
}

/// Why the checks cannot be run on a card; `None` if they can. The card is reset.
pub fn unsuitable<P: Platform>(card: &Card<P>) -> anyhow::Result<Option<&'static str>> {
    card.reset()?;
    if !card.is_virtual() {
        return Ok(Some("its clock is not virtual"));
    }
    let alone = fixture::captures_only_what_it_presents(card);
    card.reset()?;
    Ok((!alone?).then_some("its MIDI input is not the loopback alone"))
}
