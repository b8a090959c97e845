//! `play`: the whole path. A card, QEMU with the player guest on it, and somebody who watches both.
//!
//! Fed by the command line; feeds the terminal, an audio file and a JSON summary. The processes are run by
//! [`crate::supervisor`].

mod destination;

use crate::exit::{Exit, Failure};
use crate::guest::GuestReport;
use crate::machine::{Item, Job, Machine, Setting};
use crate::progress::Progress;
use crate::{summary, supervisor};
use anyhow::{Context, ensure};
use destination::Destination;
use dmus_card::files::{Flaws, NamedSong, load_collection, load_song};
use dmus_card::sink::mix::Encoding;
use dmus_card::sink::{AudioFile, Format};
use dmus_card::sound::Sound;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of a WAV file before its samples.
const WAV_HEADER: usize = 44;

/// Play a MIDI file: boot the player guest in QEMU on a card, through its driver and DMA rings, into a WAV or FLAC
/// file, or on this machine's sound.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Standard MIDI file, or RMID [default: the bundled song].
    song: Option<PathBuf>,
    /// The audio file to write: a .wav, or a .flac of the same samples; - for standard output. It and a FIFO get the
    /// whole file once the song has been played.
    #[arg(short, long, value_name = "FILE", default_value = "out.wav")]
    output: AudioFile,
    /// Play on this machine instead of into a file, through PipeWire or PulseAudio (PULSE_SERVER, or the user's own),
    /// or through ALSA by aplay where neither runs. In virtual time the device paces the card; with --realtime the
    /// card's audio is matched to the device's crystal.
    #[arg(long, conflicts_with_all = ["output", "through_guest"])]
    listen: bool,
    /// Write the summary to this file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Let the guest take the card's audio back and play it on QEMU's own sound device (virtio-sound), which writes
    /// this WAV file: in real time, and the same samples as the card's own, or exit code 5. In virtual time, and not in
    /// Linux.
    #[arg(long, value_name = "WAV", conflicts_with = "realtime")]
    through_guest: Option<PathBuf>,
    /// With --realtime: submit each event only so long before its time, as a live sequencer does, instead of as soon as
    /// the pool has room.
    #[arg(
        long,
        value_name = "MILLISECONDS",
        requires = "realtime",
        value_parser = clap::value_parser!(u32).range(1..=500)
    )]
    latency: Option<u32>,
    /// Refuse a song or bank that is not quite as the standard has it, instead of playing what can be played with a
    /// warning.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    sound: Sound,
    #[command(flatten)]
    encoding: Encoding,
    #[command(flatten)]
    machine: Machine,
    /// Play by this bank, a .dls, .sf2 or .sf3 file; may be given again: later ones are asked for an instrument first,
    /// and the built-in bank last.
    #[arg(long = "bank", value_name = "FILE")]
    banks: Vec<PathBuf>,
    /// Have the guest download what the song needs of this .dls, .sf2 or .sf3 file into the card, before it plays.
    #[arg(long, value_name = "FILE")]
    dls: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let flaws = Flaws::by(args.strict);
    let song = load_song(args.song.as_deref(), flaws)?;
    // The card and the guest read them again. A fault is told here, before anything starts.
    for file in args.banks.iter().chain(&args.dls) {
        load_collection(file, flaws)?;
    }
    song.collection(flaws)?;
    let started = Instant::now();
    let dir = tempfile::Builder::new().prefix("dmus-play-").tempdir().context("cannot make a temporary directory")?;
    let destination = Destination::new(args, dir.path())?;
    let playing = Playing {
        song: &song,
        output: destination.card(),
        sound: args.sound,
        banks: &args.banks,
        dls: args.dls.as_deref(),
        through_guest: args.through_guest.is_some(),
        latency: args.latency,
    };
    let job = playing.job(args.machine.setting(), dir.path())?;
    let mut progress = Progress::new("playing", song.song.duration())?;
    let (guest, card) = supervisor::run(&args.machine, &job, dir.path(), &mut progress)
        .map_err(|error| with_remains(error, destination.kept()))?;
    let fields = fields(args, destination.card(), (&song, &guest, &card), started.elapsed())?;
    // Where the audio goes nothing else does.
    let tell = |fields: &Value| match destination.is_stdout() {
        true => summary::print_to(&mut io::stderr(), fields),
        false => summary::print(fields),
    };
    tell(&fields);
    if let Some(first) = card["first_presented_unix_seconds"].as_f64() {
        let seconds = first - guest.qemu_start.as_secs_f64();
        tell(&json!({ "first_event": format!("{seconds:.3} s after QEMU's start") }));
    }
    summary::write(args.json.as_deref(), &fields)?;
    check(&song, &guest, &card)?;
    if let (Some(speaker), Some(output)) = (&job.speaker, &args.through_guest) {
        keep_speaker(speaker, &args.output.path, output)?;
    }
    destination.finish(dir.path())
}

/// What is played, and how.
pub(crate) struct Playing<'a> {
    pub(crate) song: &'a NamedSong,
    /// `None` is this machine's sound.
    pub(crate) output: Option<&'a AudioFile>,
    pub(crate) sound: Sound,
    pub(crate) banks: &'a [PathBuf],
    pub(crate) dls: Option<&'a Path>,
    pub(crate) through_guest: bool,
    pub(crate) latency: Option<u32>,
}

impl Playing<'_> {
    /// What card and guest are to do; files for them are made in `dir`.
    pub(crate) fn job(&self, Setting { linux, realtime, width }: Setting, dir: &Path) -> anyhow::Result<Job> {
        let by_aplaymidi = linux && realtime;
        for (wrong, why) in [
            (
                self.through_guest && (linux || self.output.is_none_or(|output| output.format != Format::Wav)),
                "--through-guest wants the bare-metal guest, and a .wav to compare with",
            ),
            (self.latency.is_some() && linux, "--latency is the bare-metal guest's"),
            (
                by_aplaymidi && width != 8,
                "--width 4 is not for aplaymidi, which plays by `dmusd alsa`: leave --realtime out",
            ),
            (by_aplaymidi && self.dls.is_some(), "--dls is not for aplaymidi: leave --realtime out, or use --bank"),
        ] {
            ensure!(!wrong, Failure::new(Exit::Usage, why));
        }

        let sink = self.output.map_or("audio".into(), AudioFile::to_string);
        let mut card = self.sound.words();
        card.extend(["--sink".into(), sink.into()]);
        card.extend(self.banks.iter().flat_map(|file| ["--bank".into(), file.into()]));
        let song_file = dir.join("song.mid");
        std::fs::write(&song_file, &self.song.bytes).context("cannot write a temporary file")?;
        let mut items = vec![("song".to_owned(), Item::File(song_file))];
        if self.through_guest {
            items.push(("through".into(), Item::Text("1".into())));
        }
        if let Some(latency) = self.latency {
            items.push(("latency".into(), Item::Text((u64::from(latency) * 10_000).to_string())));
        }
        let mut share = None;
        match self.dls {
            Some(dls) if linux => {
                let folder = dir.join("share");
                std::fs::create_dir(&folder)
                    .and_then(|()| std::fs::copy(dls, folder.join("dls")))
                    .with_context(|| format!("cannot copy {}", dls.display()))?;
                share = Some(folder);
            }
            Some(dls) => items.push(("dls".into(), Item::File(dls.into()))),
            None => {}
        }
        let with_dls = if self.dls.is_some() { " --dls /share/dls" } else { "" };
        Ok(Job {
            card,
            log: "warn",
            log_file: None,
            items,
            share,
            linux: match (realtime, width) {
                (true, _) => "play realtime".into(),
                (false, 8) if self.dls.is_none() => "play".into(),
                (false, width) => format!("dmusd play --width {width}{with_dls} \"$SONG\""),
            },
            speaker: self.through_guest.then(|| dir.join("speaker.wav")),
            misbehaves: false,
        })
    }
}

/// Makes a WAV file of what QEMU's sound device wrote: its samples up to the end of the card's, which they must equal.
/// All that comes after is silence.
fn keep_speaker(speaker: &Path, card: &Path, output: &Path) -> anyhow::Result<()> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let (mut heard, rendered) = (read(speaker)?, read(card)?);
    // QEMU leaves the lengths in its header 0; but for these, both files begin alike.
    let length = rendered.len().min(heard.len());
    let rest = heard.split_off(length);
    heard[..length.min(WAV_HEADER)].copy_from_slice(&rendered[..length.min(WAV_HEADER)]);
    std::fs::write(output, &heard).with_context(|| format!("cannot write {}", output.display()))?;
    let place = heard.iter().zip(&rendered).position(|(heard, rendered)| heard != rendered);
    let wrong = match place {
        Some(place) => format!("frame {} is another", (place - WAV_HEADER) / 4),
        None if length < rendered.len() => format!("{} frames are missing at its end", (rendered.len() - length) / 4),
        None if rest.iter().any(|byte| *byte != 0) => "something comes after its end".into(),
        None => {
            summary::say(&format!("{:<18} {}, the same samples", "through guest", output.display()));
            return Ok(());
        }
    };
    Err(Failure::new(Exit::Guest, format!("what the guest heard is not what the card rendered: {wrong}")).into())
}

/// Everything submitted was presented on time, and everything is returned, on both sides.
pub(crate) fn check(song: &NamedSong, guest: &GuestReport, card: &Value) -> anyhow::Result<()> {
    let messages = Some(song.song.len() as u64);
    let agreed = guest.number("submitted") == messages
        && card["presented"].as_u64() == messages
        && guest.number("presented").zip(guest.number("late")).map(|(on_time, late)| on_time + late) == messages
        && guest.all_returned(card);
    if agreed {
        return Ok(());
    }
    let said = &guest.summary;
    let message =
        format!("not every event was presented: the song has {}, guest {said:?}, card {card}", song.song.len());
    Err(Failure::new(Exit::Guest, message).into())
}

/// Adds what is left of the audio to an error.
fn with_remains(error: anyhow::Error, output: Option<&AudioFile>) -> anyhow::Error {
    let Some((output, seconds)) = output.and_then(|output| Some((output, output.seconds()?))) else {
        return error;
    };
    let remains = format!("{} holds the {seconds:.1} s that were rendered", output.path.display());
    match error.downcast_ref::<Failure>() {
        Some(failure) => Failure::new(failure.exit, format!("{}; {remains}", failure.message)).into(),
        None => anyhow::anyhow!("{error:#}; {remains}"),
    }
}

/// Everything worth knowing, under the names of the JSON file.
fn fields(
    args: &Args,
    output: Option<&AudioFile>,
    (song, guest, card): (&NamedSong, &GuestReport, &Value),
    wall: Duration,
) -> anyhow::Result<Value> {
    let mut fields = json!({
        "song": song.name,
        "events_submitted": guest.number("submitted"),
        "events_presented": card["presented"],
        "late": card["late"],
        "late_by": card["late_by"],
        "rejected": card["rejected"],
        "discarded": card["discarded"],
        "peak_in_flight": card["peak_in_flight"],
        "pool_slots": card["pool_slots"],
        "register_accesses": card["register_accesses"],
        "interrupts": card["interrupts"],
        "audio_seconds": card["audio_seconds"],
        "wall_seconds": (wall.as_secs_f64() * 1000.0).round() / 1000.0,
        "wav": null,
        "sha256": null,
        "underruns": card["underruns"],
        "dropped_samples": card["dropped_samples"],
        "clock": args.machine.clock_name(),
        "image": args.machine.image_name(),
        // The guest's own word, from those that say it.
        "pointer_width": guest.number("width").unwrap_or(args.machine.width.into()),
    });
    if let Some(AudioFile { path, .. }) = output {
        fields["wav"] = args.output.path.display().to_string().into();
        fields["sha256"] = sha256(path).with_context(|| format!("cannot read {}", path.display()))?.into();
    }
    // What a file has, or what listening has.
    let others = if output.is_some() { ["underruns", "dropped_samples"] } else { ["wav", "sha256"] };
    if let Some(fields) = fields.as_object_mut() {
        for name in others {
            fields.shift_remove(name);
        }
    }
    Ok(fields)
}

pub(crate) fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block)? {
            0 => break,
            n => hasher.update(&block[..n]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_heard_is_held_against_what_the_card_rendered() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = |name: &str| dir.path().join(name);
        let wav = |samples: &[u8]| [&[7; WAV_HEADER][..], samples].concat();
        std::fs::write(path("card.wav"), wav(&[1, 2, 3, 4, 5, 6, 7, 8]))?;
        for (samples, complaint) in [
            (&[1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0][..], ""),
            (&[1, 2, 3, 4, 5, 6, 7, 9, 0, 0, 0, 0], "frame 1 is another"),
            (&[1, 2, 3, 4], "1 frames are missing"),
            (&[1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 1, 0], "something comes after"),
        ] {
            let mut speaker = wav(samples);
            // QEMU's header has no lengths.
            speaker[4..8].fill(0);
            std::fs::write(path("speaker.wav"), speaker)?;
            let kept = keep_speaker(&path("speaker.wav"), &path("card.wav"), &path("out.wav"));
            match kept {
                Ok(()) => assert!(complaint.is_empty() && std::fs::read(path("out.wav"))? == wav(&samples[..8])),
                Err(error) => assert!(!complaint.is_empty() && error.to_string().contains(complaint), "{error}"),
            }
        }
        Ok(())
    }
}
