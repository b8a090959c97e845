//! What a voice costs: the card's engine beside FluidSynth and the Rust engines, all playing one song with one
//! SoundFont, effects off, and scenes of one kind of voice each; and beside an older one of this program.
//!
//! Fed by `qemu-scripts/bench synth`; feeds its table and JSON. Instructions are counted by callgrind, running this
//! program anew with `count WHO SECONDS [SCENE]`, or FluidSynth's own; differences between a short and a long song
//! leave out what begins and ends them. FluidSynth is LGPL: it runs as a program, fetched by `qemu-scripts/peers`.

mod engines;
mod fluidsynth;
mod scenes;

use anyhow::{Context, ensure};
use dmus_card::synth::Interpolation;
use dmus_song::Song;
use dmus_tests::bench::{
    Arguments, Quantile, Report, Row, Target, callgrind, instructions, per_operation, progress, this_program,
};
use dmus_tests::{programs, songs};
use fluidsynth::FluidSynth;
use nix::sys::resource::UsageWho;
use scenes::{SCENES, Scene, VOICES};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
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

/// What is played: the song with the SoundFont that all play, or a scene with its own.
struct Piece {
    scene: Option<Scene>,
    bank: PathBuf,
    /// Voices that sound on average.
    voices: f64,
    /// Where files of its own are, as long as it lives.
    dir: tempfile::TempDir,
}

impl Piece {
    fn of_song() -> anyhow::Result<Self> {
        let bank = bank()?;
        let voices = voices(&std::fs::read(&bank)?)?;
        Ok(Self { scene: None, bank, voices, dir: tempfile::tempdir()? })
    }

    fn of_scene(scene: Scene) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let bank = dir.path().join("scene.sf2");
        std::fs::write(&bank, scene.bank())?;
        Ok(Self { scene: Some(scene), bank, voices: VOICES, dir })
    }

    fn song(&self, seconds: u64) -> Vec<u8> {
        self.scene.map_or_else(|| song(seconds), |scene| scene.song(seconds))
    }

    fn effects(&self) -> bool {
        self.scene.is_some_and(|scene| scene.effects)
    }

    /// The words after a program that counts it.
    fn words(&self, who: &str, seconds: u64) -> Vec<String> {
        let words = ["count".to_owned(), who.to_owned(), seconds.to_string()];
        words.into_iter().chain(self.scene.map(|scene| scene.name.to_owned())).collect()
    }

    /// Instructions per second of it.
    fn counted(&self, who: &str) -> anyhow::Result<f64> {
        let out = self.dir.path().join("callgrind");
        per_operation(COUNTED, |seconds| {
            let done = programs::run(callgrind(&out).arg(this_program()?).args(self.words(who, seconds)))?;
            ensure!(done.status.success(), "callgrind failed: {}", programs::said(&done));
            instructions(&out)
        })
    }

    fn fluidsynth(&self, interpolation: Interpolation, seconds: u64) -> anyhow::Result<FluidSynth> {
        FluidSynth::new(self.dir.path(), &self.bank, (interpolation, self.effects()), &self.song(seconds))
    }

    fn fluidsynth_counted(&self, interpolation: Interpolation) -> anyhow::Result<f64> {
        let out = self.dir.path().join("callgrind");
        per_operation(COUNTED, |seconds| {
            let peer = self.fluidsynth(interpolation, seconds)?;
            let done = programs::run(peer.onto(callgrind(&out)).args(peer.arguments()))?;
            ensure!(done.status.success(), "FluidSynth under callgrind failed: {}", programs::said(&done));
            instructions(&out)
        })
    }

    /// CPU seconds for a second of it.
    fn time(&self, who: &str) -> anyhow::Result<f64> {
        let bank = std::fs::read(&self.bank)?;
        per_second(|seconds| {
            let mut engine = engines::by_name(who, &bank, self.effects())?;
            let song = Song::parse(&self.song(seconds))?;
            let before = fluidsynth::cpu(UsageWho::RUSAGE_SELF)?;
            engines::play(&mut *engine, &song, &mut |_| ());
            Ok(fluidsynth::cpu(UsageWho::RUSAGE_SELF)? - before)
        })
    }

    fn fluidsynth_time(&self, interpolation: Interpolation) -> anyhow::Result<f64> {
        per_second(|seconds| self.fluidsynth(interpolation, seconds)?.run())
    }

    /// The same of a program like this one.
    fn program_time(&self, program: &Path, who: &str) -> anyhow::Result<f64> {
        per_second(|seconds| {
            let before = fluidsynth::cpu(UsageWho::RUSAGE_CHILDREN)?;
            let done = programs::run(Command::new(program).args(self.words(who, seconds)))?;
            ensure!(done.status.success(), "{} failed: {}", program.display(), programs::said(&done));
            Ok(fluidsynth::cpu(UsageWho::RUSAGE_CHILDREN)? - before)
        })
    }

    /// A row of voices in real time, by CPU seconds for a second of both.
    fn timed(
        &self,
        name: impl Into<String>,
        target: Target,
        ours: &dyn Fn() -> anyhow::Result<f64>,
        peer: &dyn Fn() -> anyhow::Result<f64>,
    ) -> anyhow::Result<Row> {
        let name = name.into();
        progress(&name);
        let mut times = [vec![], vec![]];
        for _ in 0..ROUNDS {
            times[0].push(self.voices / ours()?);
            times[1].push(self.voices / peer()?);
        }
        Ok(Row::timed(name, "voices", target, Quantile::Median, times))
    }
}

/// Plays something for some seconds, for callgrind.
fn count(words: &[String]) -> anyhow::Result<()> {
    let (who, seconds, scene) = match words {
        [who, seconds] => (who, seconds, None),
        [who, seconds, scene] => (who, seconds, Some(Scene::by_name(scene).context("there is no such scene")?)),
        _ => anyhow::bail!("count wants WHO SECONDS [SCENE]"),
    };
    let seconds = seconds.parse()?;
    let (bank, song, effects) = match scene {
        Some(scene) => (scene.bank(), scene.song(seconds), scene.effects),
        None => (std::fs::read(bank()?)?, song(seconds), false),
    };
    engines::play(&mut *engines::by_name(who, &bank, effects)?, &Song::parse(&song)?, &mut |_| ());
    Ok(())
}

/// Voices that sound on average in what the counted songs differ by.
fn voices(bank: &[u8]) -> anyhow::Result<f64> {
    let mut engine = engines::Ours::new(bank, Interpolation::Linear, false)?;
    let [short, long] = COUNTED;
    let mut seen = Vec::new();
    engines::play(&mut engine, &Song::parse(&song(long))?, &mut |engine| seen.push(engine.sounding() as f64));
    let late = &seen[seen.len() * short as usize / long as usize..];
    Ok(late.iter().sum::<f64>() / late.len() as f64)
}

/// CPU seconds for a second, of what takes so much for some.
fn per_second(mut cpu: impl FnMut(u64) -> anyhow::Result<Duration>) -> anyhow::Result<f64> {
    let [short, long] = TIMED;
    let (less, more) = (cpu(short)?.as_secs_f64(), cpu(long)?.as_secs_f64());
    Ok((more - less).max(1e-9) / (long - short) as f64)
}

const UNIT: &str = "Ir/voice-smp";

fn song_rows(rows: &mut Vec<Row>) -> anyhow::Result<()> {
    use Interpolation::{Cubic, Linear};
    let piece = Piece::of_song()?;
    progress(format!("a song of {:.0} voices", piece.voices));
    let each = piece.voices * f64::from(RATE);
    let (linear, cubic) = (piece.counted("ours-linear")? / each, piece.counted("ours-cubic")? / each);
    progress("instructions of FluidSynth");
    let mut row = |name: &str, ours, peer: f64, target| {
        rows.push(Row::counted(name, UNIT, target, [ours, peer / each]));
    };
    let peer = piece.fluidsynth_counted(Linear)?;
    row("instructions, linear, to FluidSynth's linear", linear, peer, Target::OursAtMost(10.0));
    let peer = piece.fluidsynth_counted(Cubic)?;
    row("instructions, cubic, to FluidSynth's 4th order", cubic, peer, Target::OursAtMost(13.0));
    for who in ["rustysynth-ext", "rustysynth", "oxisynth"] {
        progress(format!("instructions of {who}"));
        row(&format!("instructions, linear, to {who}"), linear, piece.counted(who)?, Target::RatioAtMost(0.3));
    }

    progress("idle groups, and blocks split by events");
    let figures = [piece.counted("idle-1000")?, piece.counted("idle-1")?];
    rows.push(Row::counted("idle, 1,000 groups, to one", "Ir/second", Target::RatioAtMost(1.05), figures));
    for block in [64, 480] {
        let figures = [piece.counted(&format!("split-{block}"))?, piece.counted(&format!("whole-{block}"))?];
        let name = format!("linear, 8 events in each {block} samples, to none");
        rows.push(Row::counted(name, UNIT, Target::RatioAtMost(1.25), figures.map(|figure| figure / each)));
    }

    let mut row = |what: &str, target, ours: &str, peer: &dyn Fn() -> anyhow::Result<f64>| {
        let target = Target::RatioAtLeast(target);
        rows.push(piece.timed(format!("voices in real time, {what}"), target, &|| piece.time(ours), peer)?);
        anyhow::Ok(())
    };
    row("linear, to FluidSynth's linear", 6.0, "ours-linear", &|| piece.fluidsynth_time(Linear))?;
    row("cubic, to FluidSynth's 4th order", 4.0, "ours-cubic", &|| piece.fluidsynth_time(Cubic))?;
    for who in ["rustysynth-ext", "rustysynth", "oxisynth"] {
        row(&format!("linear, to {who}"), 2.5, "ours-linear", &|| piece.time(who))?;
    }
    Ok(())
}

fn scene_rows(rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let (linear, best) = (Interpolation::Linear, "rustysynth-ext");
    for scene in SCENES {
        let (piece, scene) = (Piece::of_scene(scene)?, scene.name);
        progress(format!("the scene {scene}"));
        let each = VOICES * f64::from(RATE);
        let ours = piece.counted("ours-linear")? / each;
        let mut row = |who: &str, peer: f64| {
            rows.push(Row::counted(
                format!("{scene}, instructions, to {who}"),
                UNIT,
                Target::Shown,
                [ours, peer / each],
            ));
        };
        row("FluidSynth", piece.fluidsynth_counted(linear)?);
        row(best, piece.counted(best)?);
        let mut row = |who: &str, peer: &dyn Fn() -> anyhow::Result<f64>| {
            let name = format!("{scene}, voices in real time, to {who}");
            rows.push(piece.timed(name, Target::Shown, &|| piece.time("ours-linear"), peer)?);
            anyhow::Ok(())
        };
        row("FluidSynth", &|| piece.fluidsynth_time(linear))?;
        row(best, &|| piece.time(best))?;
    }
    Ok(())
}

/// Rows to an older program like this one, which may know no scenes.
fn before_rows(rows: &mut Vec<Row>, before: &Path) -> anyhow::Result<()> {
    let (piece, this) = (Piece::of_song()?, this_program()?);
    for who in ["ours-linear", "ours-cubic"] {
        let name = format!("voices in real time, {who}, to the program before");
        let time = |program: &Path| piece.program_time(program, who);
        rows.push(piece.timed(name, Target::Shown, &|| time(&this), &|| time(before))?);
    }
    Ok(())
}

fn measure(before: Option<&Path>) -> anyhow::Result<Report> {
    let mut rows = vec![];
    if let Some(before) = before {
        before_rows(&mut rows, before)?;
    }
    song_rows(&mut rows)?;
    scene_rows(&mut rows)?;
    Ok(Report(rows))
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse()?;
    if let Some(words) = &arguments.count {
        count(words)?;
        return Ok(ExitCode::SUCCESS);
    }
    arguments.want_all()?;
    measure(arguments.before.as_deref()).context("the measurement failed")?.finish(arguments.json.as_deref())
}
