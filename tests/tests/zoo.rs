//! Each rule of the data sheet is broken by one wrong driver, and named by its own code alone.
//!
//! A process of its own, with an allocator of its own that one mistake makes short of memory for all: there is one test
//! that makes mistakes.

use anyhow::ensure;
use dmus_conformance::zoo::mistakes;
use dmus_interface::rule::Rule;
use dmus_tests::counting::Counting;
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
