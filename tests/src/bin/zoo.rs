//! `qemu-scripts/zoo`: the wrong drivers by hand, as a table.

use dmus_interface::rule::Rule;
use dmus_tests::counting::Counting;
use dmus_tests::zoo::{Mistake, mistakes};
use std::process::ExitCode;

/// One mistake needs a card that is short of memory.
#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> anyhow::Result<ExitCode> {
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    let list = names.iter().any(|name| name == "--list");
    names.retain(|name| name != "--list");
    let mut chosen = Vec::new();
    for name in &names {
        let Some(rule) = Rule::find(name) else {
            eprintln!("zoo: there is no rule {name}; --list shows them all");
            return Ok(ExitCode::from(2));
        };
        chosen.push(rule.name);
    }
    let mut mistakes = mistakes();
    mistakes.retain(|mistake| chosen.is_empty() || chosen.contains(&mistake.rule));
    let width = |text: fn(&Mistake) -> &str| mistakes.iter().map(|mistake| text(mistake).len()).max().unwrap_or(0);
    let (name, what) = (width(|mistake| mistake.rule), width(|mistake| mistake.what));
    let mut not = 0;
    for mistake in &mistakes {
        let code = mistake.code()?;
        let row = format!("{:<4} {:<name$}  {:<what$}", code.to_string(), mistake.rule, mistake.what);
        if list {
            println!("{}", row.trim_end());
            continue;
        }
        let (said, alone) = match mistake.run() {
            Ok(verdict) => (verdict.to_string(), verdict.names_alone(code)),
            Err(error) => (format!("{error:#}"), false),
        };
        println!("{row}  {said:<24}  {}", if alone { "ok" } else { "NOT" });
        not += usize::from(!alone);
    }
    if !list {
        println!("{} of {} are named by their own code alone", mistakes.len() - not, mistakes.len());
    }
    Ok(ExitCode::from(u8::from(not > 0)))
}
