//! Each fault that a card can have at its occasions from 1 to a number, in each scenario: what the driver makes of it.

use anyhow::ensure;
use dmus_card::deviation::Fault;
use dmus_tests::card_faults::{Outcome, Scenario, judge, run};
use std::collections::BTreeMap;

fn main() -> anyhow::Result<()> {
    let occasions = std::env::args().nth(1).map_or(Ok(50), |number| number.parse())?;
    let mut wrong = 0;
    for scenario in Scenario::ALL {
        let usual = run(scenario, Default::default())?;
        ensure!(usual.outcome == Outcome::Recovered, "{scenario:?} without a fault: {:?}", usual.outcome);
        for fault in Fault::ALL {
            let mut counts: BTreeMap<String, Vec<u64>> = BTreeMap::new();
            for occasion in 1..=occasions {
                let ran = judge(scenario, *fault, occasion, &usual)?;
                let there = ran.deviations.occasions()["faults"][fault.name()].as_u64().unwrap_or(0);
                let word = match &ran.outcome {
                    _ if there < occasion => "no such occasion".to_owned(),
                    Outcome::Error(error) => {
                        format!("{error:?}").split(['(', ' ']).next().unwrap_or_default().to_owned()
                    }
                    other => other.word().to_owned(),
                };
                wrong += u64::from(ran.outcome.is_bad());
                counts.entry(word).or_default().push(occasion);
            }
            let cells = counts.iter().map(|(word, at)| format!("{word} {} (first {})", at.len(), at[0]));
            println!("{:<8} {:<18} {}", format!("{scenario:?}"), fault.name(), cells.collect::<Vec<_>>().join(", "));
        }
    }
    println!("{wrong} silent, leaked, hung, or put on the driver");
    Ok(())
}
