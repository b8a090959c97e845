//! What the card's engine plays, held against FluidSynth with the same SoundFont, note by note; and a SoundFont against
//! itself as DLS.
//!
//! Fed by `qemu-scripts/peers`: TimGM6mb, FluidR3 and FluidSynth, which runs as a program.

use anyhow::{Context, ensure};
use dmus_card::bank::Bank;
use dmus_card::collection::Collection;
use dmus_card::synth::Synth;
use dmus_song::Song;
use dmus_tests::pitch;
use dmus_tests::programs::{run, said, script};
use dmus_tests::songs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const RATE: f64 = 48_000.0;
const KEYS: [u8; 5] = [36, 48, 60, 72, 84];
/// Ticks of a note, and of the silence after it: a second together.
const TICKS: (u32, u32) = (154, 38);
/// Seconds of a note that are compared: past the attack, before the release.
const HEARD: (f64, f64) = (0.05, 0.75);

/// One that is compared.
#[derive(Clone, Copy, Debug)]
struct Note {
    /// `None`: on the percussion channel.
    program: Option<u8>,
    key: u8,
    velocity: u8,
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.program {
            Some(program) => write!(f, "program {program} key {}", self.key)?,
            None => write!(f, "drum {}", self.key)?,
        }
        write!(f, " velocity {}", self.velocity)
    }
}

/// All programs, some of them at other velocities too, and the percussion of General MIDI.
fn notes() -> Vec<Note> {
    let note = |program: u8, key, velocity| Note { program: Some(program), key, velocity };
    let programs = (0..128).flat_map(|program| KEYS.map(|key| note(program, key, 100)));
    let velocities = (0..128).step_by(5).flat_map(|program| [30, 64, 127].map(|velocity| note(program, 60, velocity)));
    let drums = (35..=81).map(|key| Note { program: None, key, velocity: 100 });
    programs.chain(velocities).chain(drums).collect()
}

/// All notes, one a second from the first second on, dry.
fn song() -> Vec<u8> {
    let dry = [0, 9].into_iter().flat_map(|channel| [91, 93].map(|send| (0, vec![0xB0 | channel, send, 0])));
    // FluidSynth needs some time before it keeps it.
    let dry = dry.chain([(TICKS.0 + TICKS.1, vec![0xB0, 123, 0])]);
    let play = notes().into_iter().flat_map(|Note { program, key, velocity }| {
        let (on, off) = TICKS;
        let channel = if program.is_some() { 0 } else { 9 };
        [
            (0, vec![0xC0 | channel, program.unwrap_or(0)]),
            (0, vec![0x90 | channel, key, velocity]),
            (on, vec![0x80 | channel, key, 0]),
            (0, vec![0xB0 | channel, 120, 0]),
            (off, vec![0xB0 | channel, 123, 0]),
        ]
    });
    songs::file(dry.chain(play))
}

/// Left and right of some audio.
type Planes = [Vec<f32>; 2];

/// The song as the card's engine plays it, without effects.
fn ours(collection: &Collection, song: &[u8]) -> anyhow::Result<Planes> {
    let bank = Arc::new(Bank::new(std::slice::from_ref(collection))?);
    let mut synth = Synth::new(bank, RATE as u32, 1, 64).without_effects();
    let song = Song::parse(song)?;
    let length = song.duration().to_sample(RATE as u32).0 as usize;
    let [mut left, mut right] = [vec![0.0; length], vec![0.0; length]];
    let mut now = 0;
    for message in song.messages() {
        let at = message.time.to_sample(RATE as u32).0 as usize;
        synth.render(&mut left[now..at], &mut right[now..at]);
        synth.message(0, message.bytes);
        now = at;
    }
    synth.render(&mut left[now..], &mut right[now..]);
    Ok([left, right])
}

fn fluidsynth(bank: &Path, song: &[u8]) -> anyhow::Result<Planes> {
    let dir = tempfile::tempdir()?;
    let [midi, config, raw] = ["song.mid", "config", "audio"].map(|name| dir.path().join(name));
    std::fs::write(&midi, song)?;
    std::fs::write(&config, "interp 4\n")?;
    let found = run(script("peers").arg("--fluidsynth"))?;
    ensure!(found.status.success(), "{}", said(&found));
    let words = String::from_utf8(found.stdout)?;
    let mut words = words.lines();
    let mut command = Command::new(words.next().context("a program")?);
    command.args(words).args(["-n", "-i", "-q", "-R", "0", "-C", "0", "-r", "48000", "-T", "raw", "-O", "float"]);
    let done = run(command.arg("-F").arg(&raw).arg("-f").arg(&config).arg(bank).arg(&midi))?;
    ensure!(done.status.success(), "{}", said(&done));
    let mut planes: Planes = Default::default();
    for frame in std::fs::read(&raw)?.chunks_exact(8) {
        for (plane, sample) in planes.iter_mut().zip(frame.chunks_exact(4)) {
            plane.push(f32::from_le_bytes([sample[0], sample[1], sample[2], sample[3]]));
        }
    }
    Ok(planes)
}

/// The compared part of a note, by its place in the song.
fn part(planes: &Planes, index: usize) -> anyhow::Result<[&[f32]; 2]> {
    from(planes, index, HEARD.0)
}

/// From so many seconds after its beginning on.
fn from(planes: &Planes, index: usize, start: f64) -> anyhow::Result<[&[f32]; 2]> {
    // Ticks of 96 to half a second.
    let second = f64::from(TICKS.0 + TICKS.1) / 192.0;
    let at = |seconds: f64| (((index + 1) as f64 * second + seconds) * RATE) as usize;
    let [left, right] = planes.each_ref().map(|plane| plane.get(at(start)..at(HEARD.1)));
    Ok([left.context("the song is too short")?, right.context("the song is too short")?])
}

/// RMS of both sides, dB.
fn level(sides: [&[f32]; 2]) -> f64 {
    let power: f64 = sides.iter().flat_map(|side| side.iter()).map(|x| f64::from(*x) * f64::from(*x)).sum();
    10.0 * (power / sides[0].len() as f64).max(1e-12).log10()
}

fn soundfont(name: &str) -> anyhow::Result<PathBuf> {
    let done = run(script("peers").args(["--bank", name]))?;
    ensure!(done.status.success(), "{}", said(&done));
    Ok(PathBuf::from(String::from_utf8(done.stdout)?.trim()))
}

/// Why FluidSynth has some programs of a bank otherwise.
const REASONS: [(&str, &[u8], &str); 8] = [
    (
        "tim",
        &[48, 49, 50, 51, 76, 83, 85, 90],
        "an envelope bends one of two layers for some milliseconds; how the two meet then depends on the control rate",
    ),
    ("tim", &[118], "it falls by an octave at once, in steps of the control rate"),
    ("fluid", &[118], "it falls by an octave at once, in steps of the control rate"),
    ("tim", &[53], "FluidSynth cuts pitches down to whole cents"),
    ("tim", &[95], "oscillators are sines in DLS, triangles in FluidSynth"),
    ("tim", &[120, 125], "FluidSynth takes the scale's tuning of the wave's own correction, too"),
    ("tim", &[123], "chirps at half the sample rate, which interpolations damp in different ways"),
    ("fluid", &[95, 101], "an attenuation below zero, which the specification does not know and FluidSynth does"),
];

fn reason(name: &str, note: Note) -> Option<&'static str> {
    let program = note.program?;
    REASONS.iter().find(|(bank, programs, _)| *bank == name && programs.contains(&program)).map(|found| found.2)
}

/// Tells what is not where it is in the other engine, and why. It may be a twentieth, and nothing for which there is no
/// reason.
fn judge(name: &str, what: &str, found: &[(Note, f64)]) -> anyhow::Result<()> {
    let far: Vec<_> = found.iter().filter(|(_, off)| off.is_nan() || off.abs() > 1.0).collect();
    // Past the harness, which would keep it to itself as long as all is well.
    let mut out = std::io::stderr().lock();
    writeln!(out, "{name}: {} of {} notes are within 1 {what}; the others:", found.len() - far.len(), found.len())?;
    for (note, off) in &far {
        writeln!(out, "  {note}: {off:+.2} {what}: {}", reason(name, *note).unwrap_or("unknown"))?;
    }
    ensure!(far.len() * 20 <= found.len(), "{} of {} notes are more than 1 {what} off", far.len(), found.len());
    let unknown = far.iter().find(|(note, _)| reason(name, *note).is_none());
    ensure!(unknown.is_none(), "off for no reason that is known: {unknown:?}");
    Ok(())
}

/// Plays all notes in both engines and compares them.
fn compare(name: &str) -> anyhow::Result<()> {
    let path = soundfont(name)?;
    let song = song();
    let collection = Collection::read(std::fs::read(&path)?, &mut Default::default())?;
    let (ours, theirs) = (ours(&collection, &song)?, fluidsynth(&path, &song)?);
    let mut levels = vec![];
    let mut pitches = vec![];
    for (index, note) in notes().into_iter().enumerate() {
        let (our, their) = (part(&ours, index)?, part(&theirs, index)?);
        if level(their) < -80.0 && level(our) < -80.0 {
            continue;
        }
        // What is over by then is compared from its beginning on.
        let whole = (from(&ours, index, 0.0)?, from(&theirs, index, 0.0)?);
        let brief = level(their) < level(whole.1) - 20.0;
        let (our, their) = if brief { whole } else { (our, their) };
        levels.push((note, level(our) - level(their)));
        let found = pitch::compare(our, their);
        // What is not alike at any pitch counts as wrong.
        pitches.push((note, found.filter(|found| found.likeness > 0.3).map_or(f64::NAN, |found| found.cents)));
    }
    // The two engines have different full levels.
    let mut sorted: Vec<f64> = levels.iter().map(|(_, level)| *level).collect();
    sorted.sort_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    levels.iter_mut().for_each(|(_, level)| *level -= median);
    judge(name, "dB", &levels)?;
    judge(name, "cents", &pitches)
}

#[test]
fn timgm6mb_has_fluidsynths_levels_and_pitches() -> anyhow::Result<()> {
    compare("tim")
}

#[test]
fn fluidr3_has_fluidsynths_levels_and_pitches() -> anyhow::Result<()> {
    compare("fluid")
}

#[test]
fn a_soundfont_sounds_the_same_as_dls() -> anyhow::Result<()> {
    let collection = Collection::read(std::fs::read(soundfont("tim")?)?, &mut Default::default())?;
    let as_dls = Collection::read(collection.to_dls()?, &mut Default::default())?;
    let song = song();
    let (one, other) = (ours(&collection, &song)?, ours(&as_dls, &song)?);
    for (index, note) in notes().into_iter().enumerate() {
        let off = level(part(&one, index)?) - level(part(&other, index)?);
        ensure!(off.abs() < 0.5, "{note}: {off:+.2} dB");
    }
    Ok(())
}
