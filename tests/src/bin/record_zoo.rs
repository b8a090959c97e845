//! Renews the recordings of wrong drivers in `tests/zoo`, and what their replays come to.
//!
//! Run it after the format of recordings, the register interface or the mistakes have changed; with `--outcomes` it
//! keeps the recordings, for a change of what the card makes of them.

use anyhow::{Context, ensure};
use dmus_card::bank::Bank;
use dmus_conformance::zoo::mistakes;
use dmus_tests::counting::Counting;
use dmus_tests::recording::Recording;
use dmus_tests::zoo::{OUTCOMES, kept, outcome, record};
use serde_json::Map;
use std::fs;
use std::sync::Arc;

/// One mistake needs a card that is short of memory.
#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let renews = arguments.is_empty();
    ensure!(renews || arguments == ["--outcomes"], "usage: record_zoo [--outcomes]");
    let (dir, bank) = (kept(), Arc::new(Bank::general_midi()));
    fs::create_dir_all(&dir)?;
    let (mut outcomes, mut sum) = (Map::new(), 0);
    for mistake in mistakes() {
        let file = dir.join(format!("{}.dmc", mistake.rule));
        if renews {
            fs::write(&file, record(mistake, &bank)?.bytes())?;
        }
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        println!("{:>7} {}", bytes.len(), mistake.rule);
        sum += bytes.len();
        let outcome = outcome(&Recording::of(bytes), &bank).with_context(|| file.display().to_string())?;
        outcomes.insert(mistake.rule.into(), outcome);
    }
    fs::write(dir.join(OUTCOMES), format!("{:#}\n", serde_json::Value::Object(outcomes)))?;
    println!("{sum:>7} bytes in all");
    Ok(())
}
