//! What a voice costs: the card's engine beside FluidSynth and the Rust engines, all playing one song with one
//! SoundFont, effects off.
//!
//! Fed by `qemu-scripts/bench synth`; feeds its table and JSON. Instructions are counted by callgrind, running this
//! program anew with `count WHO SECONDS`, or FluidSynth's own; differences between a short and a long song leave out
//! what begins and ends them. FluidSynth is LGPL: it runs as a program, fetched by `qemu-scripts/peers`.

mod engines;
mod fluidsynth;

use anyhow::{Context, ensure};
use dmus_card::synth::Interpolation;
use dmus_song::Song;
use dmus_tests::bench::{
    Arguments, Quantile, Report, Row, Target, callgrind, instructions, per_operation, progress, this_program,
};
use dmus_tests::{programs, songs};
use fluidsynth::FluidSynth;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const RATE: u32 = 48_000;
/// Seconds of a short and a long song under callgrind.
const COUNTED: [u64; 2] = [1, 3];
/// Seconds of a short and a long song whose times are taken, and rounds.
const TIMED: [u64; 2] = [2, 22];
const ROUNDS: usize = 7;
/// Notes that sound all the time, besides the melody's.
const CHANNELS: u8 = 9;
const HELD: u8 = 4;

/// A chord of 36 notes on sustained instruments, and 24 short notes a second above it.
fn song(seconds: u64) -> Vec<u8> {
    let programs = [16, 19, 48, 50, 52, 89, 91, 18, 49].into_iter().zip(0..CHANNELS);
    let set_up = programs.flat_map(|(program, channel)| {
        let dry = [91, 93].map(|send| (0, vec![0xB0 | channel, send, 0]));
        [(0, vec![0xC0 | channel, program])].into_iter().chain(dry)
    });
    let chord = (0..CHANNELS).flat_map(|channel| (0..HELD).map(move |i| (0, vec![0x90 | channel, 36 + 9 * i, 60])));
    let melody = (0..24 * seconds).flat_map(|i| {
        let (channel, key) = ((i % 9) as u8, 82 + (i % 20) as u8);
        [(4, vec![0x90 | channel, key, 90]), (4, vec![0x80 | channel, key, 0])]
    });
    songs::file(set_up.chain(chord).chain(melody))
}

/// The SoundFont that all play.
fn bank() -> anyhow::Result<PathBuf> {
    let said = programs::run(programs::script("peers").arg("--bank"))?;
    ensure!(said.status.success(), "there is no SoundFont: {}", programs::said(&said));
    Ok(String::from_utf8(said.stdout)?.trim().into())
}

/// Plays a song of some seconds, for callgrind.
fn count(words: &[String]) -> anyhow::Result<()> {
    let [who, seconds] = words else {
        anyhow::bail!("count wants WHO SECONDS");
    };
    let mut engine = engines::by_name(who, &std::fs::read(bank()?)?)?;
    engines::play(&mut *engine, &Song::parse(&song(seconds.parse()?))?, &mut |_| ());
    Ok(())
}

/// Instructions per second of the song.
fn counted(who: &str) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("callgrind");
    per_operation(COUNTED, |seconds| {
        let done = programs::run(callgrind(&out).arg(this_program()?).args(["count", who, &seconds.to_string()]))?;
        ensure!(done.status.success(), "callgrind failed: {}", programs::said(&done));
        instructions(&out)
    })
}

fn fluidsynth_counted(interpolation: Interpolation, bank: &Path) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("callgrind");
    per_operation(COUNTED, |seconds| {
        let peer = FluidSynth::new(dir.path(), bank, interpolation, &song(seconds))?;
        let done = programs::run(peer.onto(callgrind(&out)).args(peer.arguments()))?;
        ensure!(done.status.success(), "FluidSynth under callgrind failed: {}", programs::said(&done));
        instructions(&out)
    })
}

/// Voices that sound on average in what the counted songs differ by.
fn voices(bank: &[u8]) -> anyhow::Result<f64> {
    let mut engine = engines::Ours::new(bank, Interpolation::Linear)?;
    let [short, long] = COUNTED;
    let mut seen = Vec::new();
    engines::play(&mut engine, &Song::parse(&song(long))?, &mut |engine| seen.push(engine.sounding() as f64));
    let late = &seen[seen.len() * short as usize / long as usize..];
    Ok(late.iter().sum::<f64>() / late.len() as f64)
}

/// CPU seconds for a second of the song.
fn per_second(mut cpu: impl FnMut(u64) -> anyhow::Result<Duration>) -> anyhow::Result<f64> {
    let [short, long] = TIMED;
    let (less, more) = (cpu(short)?.as_secs_f64(), cpu(long)?.as_secs_f64());
    Ok((more - less).max(1e-9) / (long - short) as f64)
}

fn engine_time(who: &str, bank: &[u8]) -> anyhow::Result<f64> {
    per_second(|seconds| {
        let mut engine = engines::by_name(who, bank)?;
        let song = Song::parse(&song(seconds))?;
        let before = fluidsynth::cpu(nix::sys::resource::UsageWho::RUSAGE_SELF)?;
        engines::play(&mut *engine, &song, &mut |_| ());
        Ok(fluidsynth::cpu(nix::sys::resource::UsageWho::RUSAGE_SELF)? - before)
    })
}

fn fluidsynth_time(interpolation: Interpolation, bank: &Path) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir()?;
    per_second(|seconds| FluidSynth::new(dir.path(), bank, interpolation, &song(seconds))?.run())
}

fn measure() -> anyhow::Result<Report> {
    use Interpolation::{Cubic, Linear};
    let path = bank()?;
    let file = std::fs::read(&path)?;
    let mut rows = vec![];
    let voices = voices(&file)?;
    progress(format!("a song of {voices:.0} voices"));
    let each = voices * f64::from(RATE);
    let unit = "Ir/voice-smp";
    let (linear, cubic) = (counted("ours-linear")? / each, counted("ours-cubic")? / each);
    let mut row = |name: &str, ours, peer, target| {
        rows.push(Row::counted(name, unit, Target::RatioAtMost(target), [ours, peer]));
    };
    progress("instructions of FluidSynth");
    row("instructions, linear, to FluidSynth's linear", linear, fluidsynth_counted(Linear, &path)? / each, 0.333);
    row("instructions, cubic, to FluidSynth's 4th order", cubic, fluidsynth_counted(Cubic, &path)? / each, 0.333);
    for (who, target) in [("rustysynth-ext", 0.667), ("rustysynth", 0.667), ("oxisynth", 0.667)] {
        progress(format!("instructions of {who}"));
        row(&format!("instructions, linear, to {who}"), linear, counted(who)? / each, target);
    }

    progress("idle groups, and blocks split by events");
    let figures = [counted("idle-1000")?, counted("idle-1")?];
    rows.push(Row::counted("idle, 1,000 groups, to one", "Ir/second", Target::RatioAtMost(1.05), figures));
    for block in [64, 480] {
        let figures = [counted(&format!("split-{block}"))? / each, counted(&format!("whole-{block}"))? / each];
        let name = format!("linear, 8 events in each {block} samples, to none");
        rows.push(Row::counted(name, unit, Target::RatioAtMost(1.25), figures));
    }

    let mut time = |name: &str, target, ours: &str, peer: &dyn Fn() -> anyhow::Result<f64>| {
        progress(name);
        let mut times = [vec![], vec![]];
        for _ in 0..ROUNDS {
            times[0].push(voices / engine_time(ours, &file)?);
            times[1].push(voices / peer()?);
        }
        rows.push(Row::timed(name, "voices", Target::RatioAtLeast(target), Quantile::Median, times));
        anyhow::Ok(())
    };
    let fluid = |interpolation| fluidsynth_time(interpolation, &path);
    time("voices in real time, linear, to FluidSynth's linear", 2.5, "ours-linear", &|| fluid(Linear))?;
    time("voices in real time, cubic, to FluidSynth's 4th order", 2.5, "ours-cubic", &|| fluid(Cubic))?;
    for who in ["rustysynth-ext", "rustysynth", "oxisynth"] {
        time(&format!("voices in real time, linear, to {who}"), 1.3, "ours-linear", &|| engine_time(who, &file))?;
    }
    Ok(Report(rows))
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse()?;
    if let Some(words) = &arguments.count {
        count(words)?;
        return Ok(ExitCode::SUCCESS);
    }
    arguments.want_all()?;
    measure().context("the measurement failed")?.finish(arguments.json.as_deref())
}
