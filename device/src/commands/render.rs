//! `render`: a song to an audio file, or played, without a guest.

use super::bank::Banks;
use anyhow::{Context, ensure};
use dmus_card::offline::{self, Block, Settings};
use dmus_card::sink::audio::AudioSink;
use dmus_card::sink::{AudioFile, Sink, to_s16};
use dmus_card::{ClockMode, files};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a sound device may take no audio.
const STILL: Duration = Duration::from_secs(10);

/// Render a MIDI file to a WAV or FLAC file without a guest, or play it.
///
/// The samples are those that a guest's playing of the same file in virtual time gives: 48 kHz, stereo, 16 bits, three
/// seconds past the last event.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Standard MIDI file, or RMID [default: the bundled song].
    song: Option<PathBuf>,
    /// The audio file to write: a .wav, or a .flac of the same samples [default: out.wav, unless it is listened to].
    #[arg(short, long, value_name = "FILE")]
    output: Option<AudioFile>,
    /// Play on this machine: through PipeWire or PulseAudio (PULSE_SERVER, or the user's own), or through ALSA by aplay
    /// where neither runs.
    #[arg(long)]
    listen: bool,
    /// Refuse a song that is not quite as the standard has it, instead of playing what can be played with a warning.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    banks: Banks,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let song = files::load_song(args.song.as_deref(), args.strict)?.song;
    let bank = args.banks.load()?;
    let style =
        ProgressStyle::with_template("{msg:>10} [{bar:40}] {percent:>3} %").context("the progress bar's template")?;
    // In milliseconds.
    let bar = ProgressBar::new(song.duration().0.max(0) as u64 / 10_000);
    bar.set_message(if args.listen { "playing" } else { "rendering" });
    bar.set_style(style.progress_chars("=> "));
    let output = match (&args.output, args.listen) {
        (None, false) => Some(AudioFile::default()),
        (output, _) => output.clone(),
    };
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    if let Some(file) = &output {
        sinks.push(file.create()?);
    }
    if args.listen {
        sinks.push(Box::new(AudioSink::open(ClockMode::Virtual)?));
    }
    let mut pcm = Vec::new();
    offline::mix(&song, bank, Settings::default(), |Block { left, right, until }| {
        pcm.clear();
        pcm.extend(left.iter().zip(right).flat_map(|(l, r)| [to_s16(*l), to_s16(*r)]));
        for sink in &mut sinks {
            wait_for(&mut **sink)?;
            sink.write(&pcm);
        }
        bar.set_position(until.0 as u64 / 10_000);
        anyhow::Ok(())
    })?;
    for sink in &mut sinks {
        sink.finish()?;
    }
    bar.finish_and_clear();
    let (seconds, events) = (song.duration().as_secs_f64(), song.len());
    let place = output.map_or("played".into(), |file| file.path.display().to_string());
    super::print(&format!("{place}: {events} events, {seconds:.3} s of audio"))?;
    Ok(ExitCode::SUCCESS)
}

/// A sound device takes audio as it plays.
fn wait_for(sink: &mut dyn Sink) -> anyhow::Result<()> {
    let deadline = Instant::now() + STILL;
    while !sink.ready() {
        ensure!(Instant::now() < deadline, "the sound device has taken no audio for {STILL:?}: is it suspended?");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
