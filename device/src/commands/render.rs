//! `render`: a song to an audio file or a pipe, or played, without a guest.

use super::bank::Banks;
use anyhow::{Context, ensure};
use clap::error::ErrorKind;
use dmus_card::files::{self, Flaws};
use dmus_card::offline::{self, Block, Settings};
use dmus_card::sink::audio::AudioSink;
use dmus_card::sink::mix::{Encoding, MixFile, SampleFormat};
use dmus_card::sink::{AudioFile, Format, Sink, UnknownFormat, to_s16};
use dmus_card::sound::Sound;
use dmus_card::{ClockMode, log};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How long a sound device may take no audio.
const STILL: Duration = Duration::from_secs(10);

/// Render a MIDI file to a WAV or FLAC file without a guest, or play it.
///
/// The samples are those that a guest's playing of the same file in virtual time gives, if no option says otherwise: 48
/// kHz, stereo, 16 bits, three seconds past the last event.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Standard MIDI file, or RMID [default: the bundled song].
    song: Option<PathBuf>,
    /// The audio file to write: a .wav, or a .flac of the same samples; - for standard output. A pipe gets a WAV whose
    /// header has no length [default: out.wav, unless it is listened to].
    #[arg(short, long, value_name = "FILE")]
    output: Option<Output>,
    /// Play on this machine: through PipeWire or PulseAudio (PULSE_SERVER, or the user's own), or through ALSA by aplay
    /// where neither runs. 48 kHz and 16 bits.
    #[arg(long)]
    listen: bool,
    #[command(flatten)]
    sound: Sound,
    #[command(flatten)]
    encoding: Encoding,
    /// Refuse a song or bank that is not quite as the standard has it, instead of playing what can be played with a
    /// warning.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    banks: Banks,
}

#[derive(Clone)]
enum Output {
    Stdout,
    File(AudioFile),
}

impl FromStr for Output {
    type Err = UnknownFormat;

    fn from_str(path: &str) -> Result<Self, Self::Err> {
        if path == "-" { Ok(Self::Stdout) } else { path.parse().map(Self::File) }
    }
}

/// Where the mix goes.
enum Target {
    /// 16 bits.
    Sink(Box<dyn Sink>),
    File(MixFile, PathBuf),
    Pipe(MixFile),
}

impl Args {
    fn settings(&self) -> Settings {
        Settings { rate: self.encoding.rate.hz(), sound: self.sound }
    }

    /// Opens all that is to be written and played.
    fn targets(&self, output: Option<&Output>) -> anyhow::Result<Vec<Target>> {
        let (rate, format) = (self.encoding.rate.hz(), self.encoding.format);
        if self.listen && !self.encoding.is_usual() {
            refuse("--listen plays 48 kHz and 16 bits: leave out --rate and --format\n");
        }
        let mut targets = Vec::new();
        match output {
            None => {}
            Some(Output::Stdout) => {
                let stdout = io::stdout();
                ensure!(!stdout.is_terminal(), "standard output is a terminal: pipe it into a program, or redirect it");
                let pipe = File::from(stdout.as_fd().try_clone_to_owned().context("cannot write to standard output")?);
                targets.push(Target::Pipe(
                    MixFile::stream(pipe, rate, format).context("cannot write to standard output")?,
                ));
            }
            Some(Output::File(file)) => {
                let (path, is_flac) = (&file.path, file.format == Format::Flac);
                if is_flac && format != SampleFormat::S16 {
                    refuse("a .flac has 16 bits: leave out --format, or write a .wav\n");
                }
                targets.push(match is_pipe(path) {
                    true if is_flac => refuse("a pipe gets a WAV: name it .wav, or write the .flac to a file\n"),
                    true => {
                        let pipe = File::options().write(true).open(path);
                        let made = pipe.and_then(|pipe| MixFile::stream(pipe, rate, format));
                        Target::Pipe(made.with_context(|| format!("cannot write to {}", path.display()))?)
                    }
                    false if format == SampleFormat::S16 => Target::Sink(file.create_at(rate)?),
                    false => Target::File(MixFile::create(path, rate, format)?, path.clone()),
                });
            }
        }
        if self.listen {
            targets.push(Target::Sink(Box::new(AudioSink::open(ClockMode::Virtual)?)));
        }
        Ok(targets)
    }
}

/// Options that do not go together.
fn refuse(why: &str) -> ! {
    clap::Error::raw(ErrorKind::ArgumentConflict, why).exit()
}

fn is_pipe(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let flaws = Flaws::by(args.strict);
    let song = files::load_song(args.song.as_deref(), flaws)?;
    let bank = args.banks.load_for(&song, flaws)?;
    let song = song.song;
    let style =
        ProgressStyle::with_template("{msg:>10} [{bar:40}] {percent:>3} %").context("the progress bar's template")?;
    // In milliseconds. It is drawn on a terminal only.
    let bar = ProgressBar::new(song.duration().0.max(0) as u64 / 10_000);
    bar.set_message(if args.listen { "playing" } else { "rendering" });
    bar.set_style(style.progress_chars("=> "));
    let output = match (&args.output, args.listen) {
        (None, false) => Some(Output::File(AudioFile::default())),
        (output, _) => output.clone(),
    };
    let mut targets = args.targets(output.as_ref())?;
    let gain = args.sound.factor();
    let mut pcm = Vec::new();
    let mixed = offline::mix(&song, bank, args.settings(), |Block { left, right, until }| {
        pcm.clear();
        pcm.extend(left.iter().zip(right).flat_map(|(l, r)| [to_s16(l * gain), to_s16(r * gain)]));
        for target in &mut targets {
            match target {
                Target::Sink(sink) => {
                    wait_for(&mut **sink)?;
                    sink.write(&pcm);
                }
                Target::File(file, path) => {
                    let written = file.write(left, right, gain);
                    written.with_context(|| format!("cannot write {}", path.display()))?;
                }
                Target::Pipe(pipe) => pipe.write(left, right, gain).context("cannot write to the pipe")?,
            }
        }
        bar.set_position(until.0 as u64 / 10_000);
        anyhow::Ok(())
    });
    let finished = mixed.and_then(|()| targets.into_iter().try_for_each(finish));
    bar.finish_and_clear();
    // A reader that has heard enough may close the pipe.
    if let Err(error) = finished
        && error.downcast_ref::<io::Error>().is_none_or(|error| error.kind() != io::ErrorKind::BrokenPipe)
    {
        return Err(error);
    }
    let told = |place: &str| format!("{place}: {} events, {:.3} s of audio", song.len(), song.duration().as_secs_f64());
    match output {
        // Its place is taken by the audio.
        Some(Output::Stdout) => log::say(&told("standard output")),
        Some(Output::File(file)) => super::print(&told(&file.path.display().to_string()))?,
        None => super::print(&told("played"))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn finish(target: Target) -> anyhow::Result<()> {
    match target {
        Target::Sink(mut sink) => Ok(sink.finish()?),
        Target::File(file, path) => file.finish().with_context(|| format!("cannot write {}", path.display())),
        Target::Pipe(pipe) => pipe.finish_stream().context("cannot write to the pipe"),
    }
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
