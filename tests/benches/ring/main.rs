//! What an event costs from GetMessage until its slot is free again, driver and card, beside what the virtqueue crates
//! and a bare ring take.
//!
//! Fed by `qemu-scripts/bench ring`; feeds its table and JSON. Instructions are counted by callgrind running this
//! program anew with `count WHO CASE BYTES BATCH EVENTS`; times are taken in rounds in which both sides have their
//! turn.

mod booted;
mod guest_memory;
mod ours;
mod peer_rtrb;
mod peer_virtqueue;

use anyhow::{Context, bail, ensure};
use dmus_tests::bench::{
    Arguments, Quantile, Report, Row, Target, callgrind, instructions, instructions_in, per_operation, progress,
    this_program,
};
use dmus_tests::programs::{self, said};
use ours::Watched;
use std::collections::BTreeMap;
use std::path::Path;
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

/// Keeps [`WINDOW`] events in flight to another thread; `send` sends so many, `reclaim` says how many were completed.
fn windowed(
    events: u64,
    mut send: impl FnMut(u64) -> anyhow::Result<()>,
    mut reclaim: impl FnMut() -> anyhow::Result<u64>,
) -> anyhow::Result<Duration> {
    // The other thread has to begin, or to wake, first.
    const WARM_UP: u64 = 2000;
    let (mut sent, mut done, mut idle) = (0, 0, 0);
    let mut started = Instant::now();
    while done < WARM_UP + events {
        let room = (WINDOW - (sent - done)).min(WARM_UP + events - sent);
        if room > 0 {
            send(room)?;
            sent += room;
        }
        let before = done;
        done += reclaim()?;
        if before < WARM_UP && done >= WARM_UP {
            started = Instant::now();
        }
        if done == before {
            idle += 1;
            ensure!(idle < PATIENCE, "the other thread does not answer");
            std::hint::spin_loop();
        } else {
            idle = 0;
        }
    }
    Ok(started.elapsed())
}

/// A message that the synthesizer hears: channel volume, which is never what it was.
fn controller(number: u64) -> [u8; 3] {
    [0xB0, 7, number as u8 & 0x7F]
}

/// Who is counted, in which case:
/// - `ours due`: ignored SysEx of so many bytes, due at once;
/// - `ours ahead`: the same, ahead of the grant that makes it due;
/// - `ours checked`: the same, on a card that checks;
/// - `ours recorded`, `ours due-recorded`: as `ahead` and `due`, on a card that records;
/// - `ours empty`: only those grants, as many as there are batches; the bytes mean nothing;
/// - `ours heard`: controllers of 3 bytes that the synthesizer hears, due at once;
/// - `synth heard`: the same ones in calls of the synthesizer, without a ring or batches;
/// - `virtqueue due`: so many bytes through the peer, which knows no time.
fn lane([who, case]: [&str; 2], bytes: usize, batch: u64) -> anyhow::Result<Lane> {
    match [who, case] {
        ["ours", "due"] => ours::one_thread(bytes, batch, Watched::No),
        ["ours", "due-recorded"] => ours::one_thread(bytes, batch, Watched::Recorded),
        ["ours", "ahead"] => ours::ahead(bytes, batch, Watched::No),
        ["ours", "checked"] => ours::ahead(bytes, batch, Watched::Checked),
        ["ours", "recorded"] => ours::ahead(bytes, batch, Watched::Recorded),
        ["ours", "empty"] => ours::empty(batch),
        ["ours", "heard"] => ours::heard(batch),
        ["synth", "heard"] => Ok(ours::called()),
        ["virtqueue", "due"] => peer_virtqueue::one_thread(bytes, batch),
        _ => bail!("there is no case {case} of {who}"),
    }
}

/// Sends events and nothing else, for callgrind.
fn count(words: &[String]) -> anyhow::Result<()> {
    let [who, case, bytes, batch, events] = words else {
        bail!("count wants WHO CASE BYTES BATCH EVENTS");
    };
    let (batch, events) = (batch.parse()?, events.parse::<u64>()?);
    ensure!((1..=256).contains(&batch) && events.is_multiple_of(batch), "events come in batches of 1 to 256");
    lane([who, case], bytes.parse()?, batch)?(events)?;
    Ok(())
}

/// Instructions per event, each counted once: several rows need the peer's.
#[derive(Default)]
struct Counted(BTreeMap<([&'static str; 2], usize, u64), f64>);

impl Counted {
    fn each(&mut self, who: [&'static str; 2], bytes: usize, batch: u64) -> anyhow::Result<f64> {
        if let Some(&known) = self.0.get(&(who, bytes, batch)) {
            return Ok(known);
        }
        let each = count_with(who, bytes, batch, instructions)?;
        self.0.insert((who, bytes, batch), each);
        Ok(each)
    }
}

/// What an event costs, by what `read` takes from callgrind's output.
fn count_with(
    who: [&str; 2],
    bytes: usize,
    batch: u64,
    read: impl Fn(&Path) -> anyhow::Result<u64>,
) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("callgrind");
    per_operation(COUNTED, |events| {
        let numbers = [bytes as u64, batch, events].map(|number| number.to_string());
        let mut counting = callgrind(&out);
        let done = programs::run(counting.arg(this_program()?).arg("count").args(who).args(numbers))?;
        ensure!(done.status.success(), "callgrind failed: {}", said(&done));
        read(&out)
    })
}

/// A row of instructions: its name's first part, what of ours is counted, what is taken off because it is not the
/// ring's, bytes, batch, and the most that the ratio may be.
type Case = (&'static str, &'static str, Option<[&'static str; 2]>, usize, u64, Option<f64>);

const CASES: [Case; 14] = {
    const DUE: &str = "due at once";
    const AHEAD: &str = "ahead of a grant";
    const HEARD: &str = "due at once and heard";
    const EMPTY: Option<[&str; 2]> = Some(["ours", "empty"]);
    const CALLED: Option<[&str; 2]> = Some(["synth", "heard"]);
    [
        (AHEAD, "ahead", EMPTY, 8, 1, None),
        (AHEAD, "ahead", EMPTY, 8, 16, Some(0.30)),
        (AHEAD, "ahead", EMPTY, 8, 256, Some(0.30)),
        (AHEAD, "ahead", EMPTY, 256, 1, None),
        (AHEAD, "ahead", EMPTY, 256, 16, Some(0.54)),
        (AHEAD, "ahead", EMPTY, 256, 256, Some(0.54)),
        (DUE, "due", None, 8, 1, Some(0.42)),
        (DUE, "due", None, 8, 16, Some(0.18)),
        (DUE, "due", None, 8, 256, Some(0.18)),
        (DUE, "due", None, 256, 16, Some(0.44)),
        (DUE, "due", None, 256, 256, Some(0.44)),
        (HEARD, "heard", CALLED, 3, 1, None),
        (HEARD, "heard", CALLED, 3, 16, None),
        (HEARD, "heard", CALLED, 3, 256, None),
    ]
};

/// What the checker may cost, of what the same events cost without it: bytes, batch, and the most that the ratio may
/// be.
const CHECKED: [(usize, u64, f64); 4] = [(8, 16, 1.2), (8, 256, 1.2), (256, 16, 1.6), (256, 256, 1.6)];

/// The rows of the checker, beside the same card without it.
fn count_checked(arguments: &Arguments, counted: &mut Counted, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    for (bytes, batch, target) in CHECKED {
        let name = format!("instructions, ahead of a grant, {bytes} B, batch {batch}, checked to unchecked");
        if !arguments.wants(&name) {
            continue;
        }
        progress(&name);
        let grants = counted.each(["ours", "empty"], bytes, batch)?;
        let [checked, unchecked] =
            [counted.each(["ours", "checked"], bytes, batch)?, counted.each(["ours", "ahead"], bytes, batch)?];
        let target = Target::RatioAtMost(target);
        rows.push(Row::counted(name, "Ir/event", target, [checked - grants, unchecked - grants]));
    }
    // Inlined or not: a card that does not check has none of it on an event's way.
    for batch in [1, 16] {
        let name = format!("instructions of the checker's code, ahead of a grant, 8 B, batch {batch}, off to warn");
        if arguments.wants(&name) {
            progress(&name);
            let of_checker =
                |case| count_with(["ours", case], 8, batch, |out| instructions_in(out, "/device/src/check"));
            rows.push(Row::counted(
                name,
                "Ir/event",
                Target::RatioAtMost(0.0),
                [of_checker("ahead")?, of_checker("checked")?],
            ));
        }
    }
    Ok(())
}

/// What is counted off and on, bytes, batch, and the most that the ratio may be.
type Recording = ([&'static str; 2], usize, u64, Option<f64>);

/// What recording may cost the engine's thread, of what the same run costs without it.
const RECORDINGS: [Recording; 5] = [
    (["ahead", "recorded"], 8, 16, Some(1.25)),
    (["ahead", "recorded"], 8, 256, Some(1.25)),
    (["ahead", "recorded"], 256, 16, None),
    (["due", "due-recorded"], 8, 16, None),
    (["due", "due-recorded"], 256, 16, None),
];

/// The rows of a card that records, beside the same card that does not.
fn count_recorded(arguments: &Arguments, counted: &mut Counted, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    for ([off, on], bytes, batch, target) in RECORDINGS {
        let what = if off == "due" { "due at once" } else { "ahead of a grant" };
        let name = format!("instructions, {what}, {bytes} B, batch {batch}, recorded to not");
        if !arguments.wants(&name) {
            continue;
        }
        progress(&name);
        let [on, off] = [counted.each(["ours", on], bytes, batch)?, counted.each(["ours", off], bytes, batch)?];
        let target = target.map_or(Target::Shown, Target::RatioAtMost);
        rows.push(Row::counted(name, "Ir/event", target, [on, off]));
    }
    Ok(())
}

/// The rows of instructions.
fn count_all(arguments: &Arguments, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let mut counted = Counted::default();
    for (what, case, less, bytes, batch, target) in CASES {
        let name = format!("instructions, {what}, {bytes} B, batch {batch}, to the virtqueue crates");
        if !arguments.wants(&name) {
            continue;
        }
        progress(&name);
        let less = less.map_or(Ok(0.0), |less| counted.each(less, bytes, batch))?;
        let ours = counted.each(["ours", case], bytes, batch)? - less;
        let peer = counted.each(["virtqueue", "due"], bytes, batch)?;
        let target = target.map_or(Target::Shown, Target::RatioAtMost);
        rows.push(Row::counted(name, "Ir/event", target, [ours, peer]));
    }
    count_checked(arguments, &mut counted, rows)?;
    count_recorded(arguments, &mut counted, rows)
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

/// The rows of times.
fn time_all(arguments: &Arguments, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    type Open<'a> = &'a dyn Fn() -> anyhow::Result<Lane>;
    let mut time = |name: String, target, quantile, ours: Open<'_>, peer: Open<'_>| {
        if arguments.wants(&name) {
            progress(&name);
            let times = timed(ours()?, peer()?).context("a lane stopped")?;
            rows.push(Row::timed(name, "ns/event", Target::RatioAtMost(target), quantile, times));
        }
        anyhow::Ok(())
    };
    for batch in [16, 256] {
        let name = format!("time, due at once, 8 B, batch {batch}, to the virtqueue crates");
        let (ours, peer) = (|| ours::one_thread(8, batch, Watched::No), || peer_virtqueue::one_thread(8, batch));
        time(name, 0.12, Quantile::Median, &ours, &peer)?;
    }
    let name = "time, due at once, 8 B, batch 256, to rtrb moving 40 B".to_owned();
    time(name, 2.0, Quantile::Median, &|| ours::one_thread(8, 256, Watched::No), &|| peer_rtrb::one_thread(256))?;
    for (bytes, target) in [(8, 0.25), (256, 0.5)] {
        let name = format!("time (p10), {bytes} B, two threads, window {WINDOW}, to the virtqueue crates");
        let (ours, peer) = (|| ours::two_threads(bytes), || peer_virtqueue::two_threads(bytes));
        time(name, target, Quantile::P10, &ours, &peer)?;
    }

    let booted = "time, 8 B, booted in QEMU";
    let names = ["virtio-drivers' console", "its queue, 64 at a time"]
        .map(|peer| format!("{booted}, to {peer}, into QEMU's device"));
    if names.iter().any(|name| arguments.wants(name)) {
        progress(booted);
        let [ours, single, batched] = booted::events_per_second().context("the boot")?;
        // One boot is for both: both are shown.
        for (name, rates) in names.into_iter().zip([single, batched]) {
            let rates = [ours.clone(), rates];
            rows.push(Row::timed(name, "events/s", Target::RatioAtLeast(10.0), Quantile::Median, rates));
        }
    }
    Ok(())
}

fn measure(arguments: &Arguments) -> anyhow::Result<Report> {
    let mut rows = vec![];
    count_all(arguments, &mut rows)?;
    if !arguments.instructions {
        time_all(arguments, &mut rows)?;
    }
    ensure!(!rows.is_empty(), "no row has that in its name");
    Ok(Report(rows))
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse()?;
    if let Some(words) = &arguments.count {
        count(words)?;
        return Ok(ExitCode::SUCCESS);
    }
    measure(&arguments)?.finish(arguments.json.as_deref())
}
