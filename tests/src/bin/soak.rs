//! `qemu-scripts/soak`: the soaks by hand, with their speed.

use anyhow::Context;
use dmus_tests::hostile::{self, Extent};
use std::time::{Duration, Instant};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["hostile", minutes] => clients(number(minutes)?),
        ["events", events, check] => soak(number(events)?, check != "off"),
        _ => anyhow::bail!("soak events NUMBER off|warn, or soak hostile MINUTES"),
    }
}

fn number(text: &str) -> anyhow::Result<u64> {
    text.replace('_', "").parse().with_context(|| format!("{text} is no number"))
}

fn soak(events: u64, checked: bool) -> anyhow::Result<()> {
    let started = Instant::now();
    let (mut shown, mut shown_events) = (started, 0);
    let report = dmus_tests::soak::run(events, checked, |sent| {
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

fn clients(minutes: u64) -> anyhow::Result<()> {
    let mut shown = Instant::now();
    let report =
        hostile::run(Extent::Time(Duration::from_secs(minutes * 60)), Duration::from_secs(1), |rounds, worst| {
            if shown.elapsed() >= Duration::from_secs(1) {
                eprintln!("{rounds:>7} clients, the next one's song heard within {worst:.1?}");
                shown = Instant::now();
            }
        })?;
    for (manner, worst) in &report.worst {
        println!("{:<14} {worst:>10.1?}", format!("{manner:?}"));
    }
    let hostile::Report { rounds, median, growth, end, .. } = report;
    println!(
        "from the end of a client to the end of the next one's song: at most as above, {median:.1?} in the median"
    );
    println!(
        "{rounds} clients, each followed by one whose song had the right bytes; {growth} bytes more; ended in {end:.1?}"
    );
    Ok(())
}
