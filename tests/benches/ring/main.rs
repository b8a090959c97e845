//! What an event costs from GetMessage to its slot's coming home, driver and card, beside what the virtqueue crates and a bare ring take.
//!
//! Fed by `qemu-scripts/bench ring`; feeds its table and JSON. Instructions are counted by callgrind running this program anew with
//! `count WHO BYTES BATCH EVENTS`; times are taken in rounds in which both sides have their turn.

mod booted;
mod guest_memory;
mod ours;
mod peer_rtrb;
mod peer_virtqueue;

use anyhow::{Context, bail, ensure};
use dmus_tests::bench::{
    Arguments, Quantile, Report, Row, Target, callgrind, instructions, per_operation, progress, this_program,
};
use dmus_tests::programs::{self, said};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// One side's way to send a number of events (a multiple of the batch); gives the time that they took.
type Lane = Box<dyn FnMut(u64) -> anyhow::Result<Duration>>;

/// Events in flight between two threads.
const WINDOW: u64 = 16;
/// Fruitless looks until the other thread is taken for dead: seconds.
const PATIENCE: u64 = 200_000_000;

/// Events of a short and a long run under callgrind.
const COUNTED: [u64; 2] = [8 * 256, 40 * 256];
/// Rounds of times, and events in each.
const ROUNDS: usize = 61;
const TIMED: u64 = 100 * 256;

/// A SysEx message of that many bytes.
fn payload(bytes: usize) -> Vec<u8> {
    let mut data = vec![0x55; bytes];
    data[0] = 0xF0;
    data[bytes - 1] = 0xF7;
    data
}

/// Keeps [`WINDOW`] events in flight to another thread; `send` sends so many, `reclaim` says how many came home.
fn windowed(
    events: u64,
    mut send: impl FnMut(u64) -> anyhow::Result<()>,
    mut reclaim: impl FnMut() -> anyhow::Result<u64>,
) -> anyhow::Result<Duration> {
    // The other thread has to begin, or to wake, first.
    const WARM_UP: u64 = 2000;
    let (mut sent, mut home, mut idle) = (0, 0, 0);
    let mut started = Instant::now();
    while home < WARM_UP + events {
        let room = (WINDOW - (sent - home)).min(WARM_UP + events - sent);
        if room > 0 {
            send(room)?;
            sent += room;
        }
        let before = home;
        home += reclaim()?;
        if before < WARM_UP && home >= WARM_UP {
            started = Instant::now();
        }
        if home == before {
            idle += 1;
            ensure!(idle < PATIENCE, "the other thread does not answer");
            std::hint::spin_loop();
        } else {
            idle = 0;
        }
    }
    Ok(started.elapsed())
}

fn lane(who: &str, bytes: usize, batch: u64) -> anyhow::Result<Lane> {
    match who {
        "ours" => ours::one_thread(bytes, batch),
        "virtqueue" => peer_virtqueue::one_thread(bytes, batch),
        _ => bail!("there is no {who}"),
    }
}

/// Sends events and nothing else, for callgrind.
fn count(words: &[String]) -> anyhow::Result<()> {
    let [who, bytes, batch, events] = words else {
        bail!("count wants WHO BYTES BATCH EVENTS");
    };
    lane(who, bytes.parse()?, batch.parse()?)?(events.parse()?)?;
    Ok(())
}

/// Instructions per event of one side.
fn counted(who: &str, bytes: usize, batch: u64) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("callgrind");
    per_operation(COUNTED, |events| {
        let words = ["count".to_owned(), who.to_owned(), bytes.to_string(), batch.to_string(), events.to_string()];
        let done = programs::run(callgrind(&out).arg(this_program()?).args(words))?;
        ensure!(done.status.success(), "callgrind failed: {}", said(&done));
        instructions(&out)
    })
}

/// Nanoseconds per event of both sides, round by round.
fn timed(mut ours: Lane, mut peer: Lane) -> anyhow::Result<[Vec<f64>; 2]> {
    let mut times = [vec![], vec![]];
    // The first round warms up.
    for round in 0..=ROUNDS {
        for (lane, times) in [&mut ours, &mut peer].into_iter().zip(&mut times) {
            let taken = lane(TIMED)?;
            if round > 0 {
                times.push(taken.as_nanos() as f64 / TIMED as f64);
            }
        }
    }
    Ok(times)
}

fn measure() -> anyhow::Result<Report> {
    let mut rows = vec![];
    for (bytes, batch, target) in [(8, 1, 0.20), (8, 16, 0.15), (8, 256, 0.15), (256, 16, 0.35), (256, 256, 0.35)] {
        let name = format!("instructions, {bytes} B, batch {batch}, to the virtqueue crates");
        progress(&name);
        let figures = [counted("ours", bytes, batch)?, counted("virtqueue", bytes, batch)?];
        rows.push(Row::counted(name, "Ir/event", Target::RatioAtMost(target), figures));
    }
    let mut time = |name: String, target, quantile, ours: anyhow::Result<Lane>, peer: anyhow::Result<Lane>| {
        progress(&name);
        let times = timed(ours?, peer?).context("a lane stopped")?;
        rows.push(Row::timed(name, "ns/event", Target::RatioAtMost(target), quantile, times));
        anyhow::Ok(())
    };
    for batch in [16, 256] {
        let name = format!("time, 8 B, batch {batch}, to the virtqueue crates");
        time(name, 0.12, Quantile::Median, ours::one_thread(8, batch), peer_virtqueue::one_thread(8, batch))?;
    }
    let name = "time, 8 B, batch 256, to rtrb moving 40 B".to_owned();
    time(name, 2.0, Quantile::Median, ours::one_thread(8, 256), peer_rtrb::one_thread(256))?;
    for (bytes, target) in [(8, 0.25), (256, 0.40)] {
        let name = format!("time (p10), {bytes} B, two threads, window {WINDOW}, to the virtqueue crates");
        time(name, target, Quantile::P10, ours::two_threads(bytes), peer_virtqueue::two_threads(bytes))?;
    }
    let booted = "time, 8 B, booted in QEMU";
    progress(booted);
    let [ours, single, batched] = booted::events_per_second().context("the boot")?;
    for (peer, rates) in [("virtio-drivers' console", single), ("its queue, 64 at a time", batched)] {
        let name = format!("{booted}, to {peer}, into QEMU's device");
        rows.push(Row::timed(name, "events/s", Target::RatioAtLeast(10.0), Quantile::Median, [ours.clone(), rates]));
    }
    Ok(Report(rows))
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse()?;
    if let Some(words) = &arguments.count {
        count(words)?;
        return Ok(ExitCode::SUCCESS);
    }
    measure()?.finish(arguments.json.as_deref())
}
