//! `dmusd wave`: the card's audio, back in the guest.
//!
//! Fed by a wave sink stream, while a song plays or for some time; feeds a WAV file. With the virtual clock, and in the
//! card's own format, it is sample for sample what the card writes to its sink.

use super::play::read_song;
use super::{Failure, interruption, open, say, say_played, signs_of_life};
use anyhow::Context;
use clap::builder::PossibleValuesParser;
use dmus_driver::{Platform, RenderStream, StreamConfig, WaveStream};
use dmus_driver_vfio::VfioPlatform;
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_interface::wave::{Sample, WaveFormat};
use std::fs::File;
use std::io::BufWriter;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Write what the card renders into a WAV file, through a wave sink stream: a song, or some seconds.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file to write.
    output: PathBuf,
    /// Play this MIDI file meanwhile, through to three seconds after its last event.
    #[arg(long, value_name = "SONG", conflicts_with = "seconds")]
    song: Option<PathBuf>,
    /// How long, without a song.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=21_600))]
    seconds: u32,
    /// Frames a second; the card resamples.
    #[arg(long, default_value = "48000")]
    #[arg(value_parser = PossibleValuesParser::new(["22050", "44100", "48000", "96000"]))]
    rate: String,
    /// One channel, the mean of both.
    #[arg(long)]
    mono: bool,
    /// 32-bit floating point instead of 16 bits.
    #[arg(long)]
    float: bool,
}

/// Number of the wave sink stream.
const WAVE: usize = 1;
/// Periods in the air: a player looks here twice a second at least, and a card whose periods nobody takes stands still,
/// or loses some in real time.
const PERIODS: u32 = 256;
/// Periods in a second.
const RATE: u32 = 50;
/// How long to sleep between two looks, without a song.
const GLANCE: Duration = Duration::from_millis(100);

pub(crate) fn run(device: Option<&str>, args: &Args) -> anyhow::Result<()> {
    let format = WaveFormat {
        rate: args.rate.parse()?,
        channels: if args.mono { 1 } else { 2 },
        sample: if args.float { Sample::F32 } else { Sample::S16 },
    };
    let song = args.song.as_deref().map(read_song).transpose()?.map(|(song, _)| song);
    let asked = interruption()?;
    let mut progress = signs_of_life(&asked);
    let card = open(device, PointerWidth::Eight)?;
    // Whole words.
    let period = (format.rate / RATE * format.frame_bytes() as u32).next_multiple_of(8);
    let config = StreamConfig { slots: PERIODS, buffers: PERIODS, buffer_size: period };
    let wave = WaveStream::open(&card, WAVE, config, format)?;
    let mut file = WavFile::create(&args.output, format)?;
    wave.set_state(State::Run)?;

    let mut taken = Ok(());
    let mut look = |now| {
        taken = std::mem::replace(&mut taken, Ok(())).and_then(|()| file.take(&wave));
        if taken.is_err() { ControlFlow::Break(()) } else { progress(now) }
    };
    match &song {
        Some(song) => {
            let config = StreamConfig::default();
            let stream = RenderStream::open(&card, 0, config)?;
            dmus_driver::play(&stream, song.messages(), song.duration(), look)?;
            say_played(std::iter::once(&stream), config);
        }
        None => {
            let end = RefTime::from_secs(args.seconds.into());
            card.grant(end);
            loop {
                let now = card.get_time();
                if look(now).is_break() || now >= end {
                    break;
                }
                // Until the grant is reached or a signal comes, if that is sooner.
                card.platform().wait(WAVE as u16, GLANCE);
            }
        }
    }
    taken?;
    // The period under way ends here.
    wave.set_state(State::Pause)?;
    file.take(&wave)?;
    wave.set_state(State::Stop)?;
    while wave.receive()?.is_some() {}
    let (slots_free, buffers_free) = wave.free_slots_and_buffers();
    say(format_args!(
        "wave frames={} lost={} slots={PERIODS} slots_free={slots_free} buffers={PERIODS} buffers_free={buffers_free}",
        file.frames, file.lost
    ));
    file.finish()?;
    anyhow::ensure!(!asked.load(Ordering::Relaxed), Failure::Interrupted);
    Ok(())
}

/// A WAV file that grows with what comes. Its header is refreshed each second, so that even a killed program leaves a
/// valid file.
struct WavFile {
    writer: hound::WavWriter<BufWriter<File>>,
    format: WaveFormat,
    frames: u64,
    /// Bytes that were lost for want of posted slots.
    lost: u64,
    /// Byte position after the last period.
    position: u64,
    refreshed: u64,
}

impl WavFile {
    fn create(path: &Path, format: WaveFormat) -> anyhow::Result<Self> {
        let (bits_per_sample, sample_format) = match format.sample {
            Sample::S16 => (16, hound::SampleFormat::Int),
            Sample::F32 => (32, hound::SampleFormat::Float),
        };
        let spec = hound::WavSpec {
            channels: format.channels.into(),
            sample_rate: format.rate,
            bits_per_sample,
            sample_format,
        };
        let writer =
            hound::WavWriter::create(path, spec).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { writer, format, frames: 0, lost: 0, position: 0, refreshed: 0 })
    }

    /// Writes all periods that are there: no more than were posted when the first was taken, and their like.
    fn take(&mut self, wave: &WaveStream<'_, VfioPlatform>) -> anyhow::Result<()> {
        for _ in 0..2 * PERIODS {
            let Some(period) = wave.receive()? else {
                break;
            };
            let bytes = period.to_vec();
            self.lost += period.byte_position().saturating_sub(self.position);
            self.position = period.byte_position().saturating_add(bytes.len() as u64);
            self.frames += (bytes.len() / self.format.frame_bytes()) as u64;
            match self.format.sample {
                Sample::S16 => {
                    let samples = bytes.as_chunks::<2>().0.iter();
                    samples.map(|bytes| i16::from_le_bytes(*bytes)).try_for_each(|s| self.writer.write_sample(s))
                }
                Sample::F32 => {
                    let samples = bytes.as_chunks::<4>().0.iter();
                    samples.map(|bytes| f32::from_le_bytes(*bytes)).try_for_each(|s| self.writer.write_sample(s))
                }
            }
            .context("cannot write the audio")?;
        }
        if self.frames - self.refreshed >= u64::from(self.format.rate) {
            self.refreshed = self.frames;
            self.writer.flush().context("cannot write the audio")?;
        }
        Ok(())
    }

    fn finish(self) -> anyhow::Result<()> {
        self.writer.finalize().context("cannot complete the audio")
    }
}
