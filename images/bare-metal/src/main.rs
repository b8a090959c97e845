//! The player guest: plays one song on the card, or records what the card's MIDI inputs bring, or tries what the DDI
//! states, or drives the card wrongly, and ends QEMU with what came of it.
//!
//! Fed by `boot.s`, which calls `kmain`, and by QEMU with the song (fw_cfg file `opt/dmus/song`) or with how long to
//! record (`opt/dmus/record`, in 100 ns); feeds the card through `dmus_driver`, beginning with what the song needs of
//! `opt/dmus/dls`, a .dls or .sf2 file, if there is one. The pointer width of its events is in `opt/dmus/width`: `4`,
//! or `8` without it. With `opt/dmus/latency` (100 ns, for a card that runs in real time) each message is submitted so
//! long before its time. With `opt/dmus/through` the card's audio comes back through a wave sink stream, and goes on to
//! QEMU's own sound device. What it has to say goes to the serial port, a line each: `dmus: downloaded NAME=NUMBER
//! ...`, `dmus: progress MILLISECONDS`, `dmus: captured TIME BYTES` (100 ns, and hexadecimal digits), at the end `dmus:
//! played NAME=NUMBER ...` or `dmus: recorded NAME=NUMBER ...`, or `dmus: error: REASON`. With `opt/dmus/conform` it
//! runs the checks of `dmus_conformance` instead, each with `dmus: holds NAME: STATEMENT` or `dmus: fails NAME:
//! STATEMENT: WHY`, and ends with `dmus: conformed NAME=NUMBER ...`. With `opt/dmus/zoo`, names of rules of the data
//! sheet with spaces between them, it breaks these, each with `dmus: broke NAME: WHAT THE CARD SAID`, or `dmus: kept
//! NAME: WHY` if it could not, and ends with `dmus: misbehaved NAME=NUMBER ...`. QEMU's exit code is 99 if all went
//! well, and 33 for anything else.
#![no_std]
#![no_main]

extern crate alloc;

#[cfg(feature = "bench")]
mod bench;
mod boot;
mod exit;
mod fw_cfg;
mod heap;
mod interrupts;
mod mmio;
mod pci;
mod platform;
mod port;
mod serial;
mod sound;
mod time;
mod virtio;

use alloc::vec::Vec;
use anyhow::Context;
use dmus_conformance::zoo::{self, words};
use dmus_dls::{Collection, Warnings};
use dmus_driver::{CaptureStream, Card, Counts, Mailbox, RenderStream, StreamConfig, WaveStream};
use dmus_interface::event::PointerWidth;
use dmus_interface::time::RefTime;
use dmus_interface::wave::{Sample, WaveFormat};
use dmus_song::Song;
use exit::Code;
use platform::Platform;
use sound::Speaker;

/// Where QEMU's command line puts the song, its instruments, the length of a recording, and the width of pointers.
const SONG: &str = "opt/dmus/song";
const DLS: &str = "opt/dmus/dls";
const RECORD: &str = "opt/dmus/record";
const WIDTH: &str = "opt/dmus/width";
/// Its presence asks for the checks of what the DDI states.
const CONFORM: &str = "opt/dmus/conform";
/// Names of the rules that are to be broken.
const ZOO: &str = "opt/dmus/zoo";
/// How long before its time each message is submitted, in 100 ns; without it, as soon as there is room.
const LATENCY: &str = "opt/dmus/latency";
/// Its presence asks for the audio to go through the guest.
const THROUGH: &str = "opt/dmus/through";
/// The largest song, and the largest file of instruments, that is taken.
const SONG_LIMIT: u32 = 64 << 20;
const DLS_LIMIT: u32 = 48 << 20;
/// The most bytes of names of rules.
const ZOO_LIMIT: u32 = 16 << 10;
/// How much of the song passes between two signs of life.
const PROGRESS_STEP: RefTime = RefTime::from_secs(1);

/// The guest's entry, in 64-bit mode with interrupts off; `eax` and `ebx` are the boot loader's.
#[unsafe(no_mangle)]
extern "C" fn kmain(eax: u32, ebx: u32) -> ! {
    serial::init();
    match run(eax, ebx) {
        Ok(()) => exit::exit(Code::Success),
        Err(error) => {
            println!("dmus: error: {error:#}");
            exit::exit(Code::Failure)
        }
    }
}

fn run(eax: u32, ebx: u32) -> anyhow::Result<()> {
    let memory = boot::MemoryMap::read(eax, ebx)?;
    heap::init(&memory)?;
    interrupts::init();
    time::init();
    #[cfg(feature = "bench")]
    if fw_cfg::read(bench::WANTED, 1)?.is_some() {
        return bench::run();
    }

    let width = match fw_cfg::read(WIDTH, 1)?.as_deref() {
        None | Some(b"8") => PointerWidth::Eight,
        Some(b"4") => PointerWidth::Four,
        Some(_) => anyhow::bail!("{WIDTH} is neither 4 nor 8"),
    };
    if fw_cfg::read(CONFORM, 20)?.is_some() {
        return conform(width);
    }
    if let Some(rules) = fw_cfg::read(ZOO, ZOO_LIMIT)? {
        return misbehave(core::str::from_utf8(&rules).context("the names of rules")?);
    }
    if let Some(until) = time_of(RECORD)? {
        return record(width, until);
    }
    let file = fw_cfg::read(SONG, SONG_LIMIT)?;
    let file = file.with_context(|| alloc::format!("no song: give QEMU -fw_cfg name={SONG},file=SONG.mid"))?;
    let song = Song::parse(&file)?;
    let own = dmus_song::collection_of(&file).map(<[u8]>::to_vec);
    drop(file);
    play(width, &song, own)
}

/// A time in 100 ns on QEMU's command line, if it is given.
fn time_of(name: &str) -> anyhow::Result<Option<RefTime>> {
    let Some(text) = fw_cfg::read(name, 20)? else {
        return Ok(None);
    };
    let time = core::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
    Ok(Some(RefTime(time.with_context(|| alloc::format!("{name} is no number of 100 ns"))?)))
}

/// Tells how far it is, a line a second of stream time.
fn signs_of_life() -> impl FnMut(RefTime) {
    println!("dmus: progress 0");
    let mut next = PROGRESS_STEP;
    move |now| {
        if now >= next {
            println!("dmus: progress {}", now.0 / 10_000);
            next = now.saturating_add(PROGRESS_STEP);
        }
    }
}

/// Plays, by instruments that QEMU was given, or else by those that the song brings along.
fn play(width: PointerWidth, song: &Song, own: Option<Vec<u8>>) -> anyhow::Result<()> {
    let card = Card::open(Platform::open()?, width)?;
    if let Some(file) = fw_cfg::read(DLS, DLS_LIMIT)?.or(own) {
        download(&card, file, song).context("cannot play by the file of instruments")?;
    }
    let progress = signs_of_life();
    let latency = time_of(LATENCY)?;
    // A latency holds many more messages than a song that is fetched ahead.
    let slots = if latency.is_some() { 1024 } else { StreamConfig::default().slots };
    let config = StreamConfig { slots, ..StreamConfig::default() };
    let stream = RenderStream::open(&card, 0, config)?;
    let counts = if let Some(latency) = latency {
        dmus_driver::play_live(&stream, song.messages(), song.duration(), latency, progress)?.counts
    } else if fw_cfg::read(THROUGH, 20)?.is_some() {
        play_through(&card, &stream, song, progress)?
    } else {
        dmus_driver::play(&stream, song.messages(), song.duration(), progress)?.counts
    };
    let allocator = stream.allocator();
    println!(
        "dmus: played submitted={} presented={} late={} rejected={} discarded={} \
         slots={} slots_free={} buffers={} buffers_free={} width={}",
        counts.submitted,
        counts.presented,
        counts.late,
        counts.rejected,
        counts.discarded,
        config.slots,
        allocator.free_slots(),
        config.buffers,
        allocator.free_buffers(),
        card.pointer_width().bytes(),
    );
    Ok(())
}

/// Puts what the song needs of a file of instruments into the card, where it stays.
fn download(card: &Card<Platform>, file: Vec<u8>, song: &Song) -> anyhow::Result<()> {
    let mut warnings = Warnings::default();
    let read = Collection::read(file, &mut warnings);
    let collection = read.map_err(|error| anyhow::anyhow!("{error}"))?;
    warnings.complaints().for_each(|complaint| println!("dmus: instruments: {complaint}"));
    let mut mailbox = Mailbox::open(card)?;
    let done = dmus_driver::dls::download_for(&mut mailbox, &collection, song.messages())?;
    let (instruments, waves) = (done.instruments.len(), done.waves.len());
    println!("dmus: downloaded instruments={instruments} waves={waves} bytes={}", done.bytes);
    Ok(())
}

/// Plays, and sends the audio on to QEMU's sound device.
fn play_through(
    card: &Card<Platform>,
    stream: &RenderStream<'_, Platform>,
    song: &Song,
    progress: impl FnMut(RefTime),
) -> anyhow::Result<Counts> {
    let format = WaveFormat { rate: 48_000, channels: 2, sample: Sample::S16 };
    let config = StreamConfig { slots: 16, buffers: 16, buffer_size: sound::PERIOD as u32 };
    let wave = WaveStream::open(card, 1, config, format)?;
    let mut speaker = Speaker::open()?;
    let listener = |period: &[u8]| speaker.play(period);
    let played = dmus_driver::play_through(stream, &wave, song.messages(), song.duration(), listener, progress)?;
    speaker.finish()?;
    anyhow::ensure!(wave.free_slots_and_buffers() == (16, 16), "slots of the wave sink were not returned");
    Ok(played.counts)
}

/// Records until some stream time, and prints what comes.
fn record(width: PointerWidth, until: RefTime) -> anyhow::Result<()> {
    let progress = signs_of_life();
    let card = Card::open(Platform::open()?, width)?;
    let config = StreamConfig { slots: 64, buffers: 64, ..StreamConfig::default() };
    let stream = CaptureStream::open(&card, 0, config, true)?;
    let show = |time: RefTime, bytes: &[u8]| {
        print!("dmus: captured {} ", time.0);
        bytes.iter().for_each(|byte| print!("{byte:02x}"));
        println!();
    };
    let recorded = dmus_driver::record(&card, &stream, until, show, progress)?;
    let (slots_free, buffers_free) = stream.free_slots_and_buffers();
    println!(
        "dmus: recorded messages={} bytes={} lost={} \
         slots={} slots_free={slots_free} buffers={} buffers_free={buffers_free} width={}",
        recorded.messages,
        recorded.bytes,
        recorded.lost,
        config.slots,
        config.buffers,
        card.pointer_width().bytes(),
    );
    Ok(())
}

/// Tries each statement of the DDI. That one does not hold is a result, and no error: whoever asked reads the lines.
fn conform(width: PointerWidth) -> anyhow::Result<()> {
    let card = Card::open(Platform::open()?, width)?;
    let report = |name: &str, statement: &str, result: anyhow::Result<()>| match result {
        Ok(()) => println!("dmus: holds {name}: {statement}"),
        Err(error) => println!("dmus: fails {name}: {statement}: {error:#}"),
    };
    let tally = dmus_conformance::run(&card, report)?;
    println!("dmus: conformed checks={} holding={} width={}", tally.checks, tally.holding, width.bytes());
    Ok(())
}

/// Breaks rules of the data sheet. What the card says of it is a result, and no error.
fn misbehave(rules: &str) -> anyhow::Result<()> {
    let rules: Vec<&str> = rules.split_whitespace().collect();
    let mistakes = zoo::select(&rules)?;
    zoo::run(&Platform::open()?, &mistakes, |mistake, said| match said {
        Ok(said) => println!("dmus: broke {}: {}", mistake.rule, words(&said)),
        Err(error) => println!("dmus: kept {}: {error:#}", mistake.rule),
    })?;
    println!("dmus: misbehaved mistakes={}", mistakes.len());
    Ok(())
}
