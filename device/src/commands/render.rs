//! `render`: a song to a WAV or FLAC file, without a guest.

use super::bank::Banks;
use anyhow::Context;
use dmus_card::files::{self, Flaws};
use dmus_card::offline;
use dmus_card::sink::AudioFile;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use std::process::ExitCode;

/// Render a MIDI file to a WAV or FLAC file without a guest.
///
/// The samples are those that a guest's playing of the same file in virtual time gives: 48 kHz, stereo, 16 bits, three
/// seconds past the last event.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Standard MIDI file, or RMID [default: the bundled song].
    song: Option<PathBuf>,
    /// The audio file to write: a .wav, or a .flac of the same samples.
    #[arg(short, long, value_name = "FILE", default_value = "out.wav")]
    output: AudioFile,
    /// Refuse a song or bank that is not quite as the standard has it, instead of playing what can be played with a
    /// warning.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    banks: Banks,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let flaws = Flaws::by(args.strict);
    let song = files::load_song(args.song.as_deref(), flaws)?;
    let bank = args.banks.load_for(&song, flaws)?;
    let song = song.song;
    let style =
        ProgressStyle::with_template("{msg:>10} [{bar:40}] {percent:>3} %").context("the progress bar's template")?;
    // In milliseconds.
    let bar = ProgressBar::new(song.duration().0.max(0) as u64 / 10_000).with_message("rendering");
    bar.set_style(style.progress_chars("=> "));
    let mut sink = args.output.create()?;
    offline::render(&song, bank, &mut *sink, |time| bar.set_position(time.0 as u64 / 10_000));
    bar.finish_and_clear();
    sink.finish()?;
    let (path, seconds) = (args.output.path.display(), song.duration().as_secs_f64());
    super::print(&format!("{path}: {} events, {seconds:.3} s of audio", song.len()))?;
    Ok(ExitCode::SUCCESS)
}
