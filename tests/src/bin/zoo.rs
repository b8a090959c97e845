//! `qemu-scripts/zoo`: the wrong drivers by hand, as a table.

use dmus_conformance::zoo::{Table, select};
use dmus_tests::counting::Counting;
use dmus_tests::zoo::run;
use std::process::ExitCode;

/// One mistake needs a card that is short of memory.
#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    let list = names.iter().any(|name| name == "--list");
    names.retain(|name| name != "--list");
    let chosen = match select(&names) {
        Ok(chosen) => chosen,
        Err(error) => {
            eprintln!("zoo: {error}");
            return ExitCode::from(2);
        }
    };
    let mut table = Table::new(&chosen);
    for mistake in chosen {
        match list {
            true => println!("{}", table.untried(mistake)),
            false => println!("{}", table.row(mistake, &run(mistake))),
        }
    }
    let (last, all) = table.end();
    if !list {
        println!("{last}");
    }
    ExitCode::from(u8::from(!all))
}
