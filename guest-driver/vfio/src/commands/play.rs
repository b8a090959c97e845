//! `dmusd play`: one song, through one render stream.
//!
//! Fed by a MIDI file; feeds the card through `dmus_driver`'s player, as the bare-metal guest does: with the virtual
//! clock the audio has the same bytes.

use super::{Failure, Width, interruption, open, say, say_played, signs_of_life};
use dmus_dls::{Collection, Warnings};
use dmus_driver::{Mailbox, RenderStream, StreamConfig, dls};
use dmus_song::Song;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Play a MIDI file, through to three seconds after its last event.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Standard MIDI file, format 0 or 1.
    song: PathBuf,
    /// Download what the song needs of this .dls or .sf2 file into the card, before it plays.
    #[arg(long, value_name = "FILE")]
    dls: Option<PathBuf>,
    /// Bytes of the pointers in events.
    #[arg(long, value_enum, default_value = "8")]
    width: Width,
}

/// Reads a MIDI file, and the instruments that it brings along.
pub(crate) fn read_song(path: &Path) -> anyhow::Result<(Song, Option<Collection>)> {
    let name = path.display();
    let file = std::fs::read(path).map_err(|error| Failure::Unusable(format!("cannot read {name}: {error}")))?;
    let song = Song::parse(&file).map_err(|error| Failure::Unusable(format!("cannot play {name}: {error}")))?;
    song.complaints().for_each(|complaint| eprintln!("{name}: {complaint}"));
    let own = dmus_song::collection_of(&file).map(|own| read_collection(path, own.to_vec())).transpose()?;
    Ok((song, own))
}

fn read_collection(path: &Path, file: Vec<u8>) -> anyhow::Result<Collection> {
    let name = path.display();
    let mut warnings = Warnings::default();
    let read = Collection::read(file, &mut warnings);
    let collection = read.map_err(|error| Failure::Unusable(format!("cannot use {name}: {error}")))?;
    warnings.complaints().for_each(|complaint| eprintln!("{name}: {complaint}"));
    Ok(collection)
}

/// Reads a file of instruments.
fn load_collection(path: &Path) -> anyhow::Result<Collection> {
    let name = path.display();
    let file = std::fs::read(path).map_err(|error| Failure::Unusable(format!("cannot read {name}: {error}")))?;
    read_collection(path, file)
}

pub(crate) fn run(device: Option<&str>, args: &Args) -> anyhow::Result<()> {
    let (song, own) = read_song(&args.song)?;
    let collection = args.dls.as_deref().map(load_collection).transpose()?.or(own);
    let asked = interruption()?;
    let progress = signs_of_life(&asked);
    let card = open(device, args.width.into())?;
    if let Some(collection) = &collection {
        let done = dls::download_for(&mut Mailbox::open(&card)?, collection, song.messages())?;
        let (instruments, waves) = (done.instruments.len(), done.waves.len());
        say(format_args!("downloaded instruments={instruments} waves={waves} bytes={}", done.bytes));
    }
    let config = StreamConfig::default();
    let stream = RenderStream::open(&card, 0, config)?;
    dmus_driver::play(&stream, song.messages(), song.duration(), progress)?;
    say_played(std::iter::once(&stream), config);
    anyhow::ensure!(!asked.load(Ordering::Relaxed), Failure::Interrupted);
    if let Some(rejection) = stream.allocator().last_rejection() {
        anyhow::bail!("the card refused slot {} (of others, too, perhaps): {:?}", rejection.slot.0, rejection.reason);
    }
    Ok(())
}
