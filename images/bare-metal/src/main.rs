//! The player guest: plays one song on the card, and ends QEMU with what came of it.
//!
//! Fed by `boot.s`, which calls `kmain`, and by QEMU with the song (fw_cfg file `opt/dmus/song`); feeds the card through `dmus_driver`. What
//! it has to say goes to the serial port, a line each: `dmus: progress MILLISECONDS`, at the end `dmus: played NAME=NUMBER ...`, or
//! `dmus: error: REASON`. QEMU's exit code is 99 for a song that was played, and 33 for anything else.
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
mod time;

use anyhow::Context;
use dmus_driver::{Card, RenderStream, StreamConfig};
use dmus_interface::event::PointerWidth;
use dmus_interface::time::RefTime;
use dmus_song::Song;
use exit::Code;
use platform::Platform;

/// Where QEMU's command line puts the song.
const SONG: &str = "opt/dmus/song";
/// The largest song that is taken.
const SONG_LIMIT: u32 = 64 << 20;
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

    let file = fw_cfg::read(SONG, SONG_LIMIT)?;
    let file = file.with_context(|| alloc::format!("no song: give QEMU -fw_cfg name={SONG},file=SONG.mid"))?;
    let song = Song::parse(&file)?;
    println!("dmus: progress 0");

    let platform = Platform::open()?;
    let card = Card::open(platform, PointerWidth::Eight)?;
    let config = StreamConfig::default();
    let stream = RenderStream::open(&card, 0, config)?;

    let mut next_sign = PROGRESS_STEP;
    let played = dmus_driver::play(&stream, song.messages(), song.duration(), |now| {
        if now >= next_sign {
            println!("dmus: progress {}", now.0 / 10_000);
            next_sign = now.saturating_add(PROGRESS_STEP);
        }
    });
    let counts = played?.counts;
    let allocator = stream.allocator();
    println!(
        "dmus: played submitted={} presented={} late={} rejected={} discarded={} slots={} slots_home={} buffers={} buffers_home={}",
        counts.submitted,
        counts.presented,
        counts.late,
        counts.rejected,
        counts.discarded,
        config.slots,
        allocator.free_slots(),
        config.buffers,
        allocator.free_buffers(),
    );
    Ok(())
}
