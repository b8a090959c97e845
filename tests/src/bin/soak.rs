//! `qemu-scripts/soak`: the soak by hand, with its speed.

use anyhow::Context;
use std::time::Instant;

fn main() -> anyhow::Result<()> {
    let events = match std::env::args().nth(1) {
        Some(number) => number.replace('_', "").parse().with_context(|| format!("{number} is no number of events"))?,
        None => 1_000_000_000,
    };
    let started = Instant::now();
    let (mut shown, mut shown_events) = (started, 0);
    let report = dmus_tests::soak::run(events, |sent| {
        let passed = shown.elapsed().as_secs_f64();
        if passed >= 1.0 {
            let rate = (sent - shown_events) as f64 / passed;
            eprintln!("{sent:>13} of {events} events, {:>5.2} million a second", rate / 1e6);
            (shown, shown_events) = (Instant::now(), sent);
        }
    })?;
    let seconds = started.elapsed().as_secs_f64();
    println!("{report:?}");
    println!(
        "{:.2} million events a second over {seconds:.0} s; everything is returned",
        events as f64 / seconds / 1e6
    );
    Ok(())
}
