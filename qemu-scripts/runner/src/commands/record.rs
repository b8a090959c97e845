//! `record`: the whole path backwards. A card whose MIDI input is a song, QEMU with a guest that captures it, and a
//! MIDI file of what the guest got.
//!
//! Fed by the command line; feeds the terminal, a MIDI file and a JSON summary. The processes are run by
//! [`crate::supervisor`].

use crate::exit::{Exit, Failure};
use crate::guest::GuestReport;
use crate::machine::{Item, Job, Machine, Setting};
use crate::progress::Progress;
use crate::{summary, supervisor};
use anyhow::Context;
use dmus_card::files::{Flaws, NamedSong, load_song};
use dmus_interface::time::RefTime;
use dmus_song::{TimeBase, TimedMessage};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Record a MIDI file: the card plays it into a guest's capture stream, and what the guest received becomes a MIDI file
/// again.
///
/// The file has the input's time base and tempo map, and its messages in one track: each is at the tick that it has in
/// the input. That every message came, and came at its time, is checked; if not, the exit code is 5, and the file holds
/// what came.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Standard MIDI file, format 0 or 1 [default: the bundled song].
    song: Option<PathBuf>,
    /// The MIDI file to write.
    #[arg(short, long, value_name = "FILE", default_value = "out.mid")]
    output: PathBuf,
    /// Write the summary to this file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let song = load_song(args.song.as_deref(), Flaws::Mend)?;
    let started = Instant::now();
    let dir = tempfile::Builder::new().prefix("dmus-record-").tempdir().context("cannot make a temporary directory")?;
    let job = job(&song, args.machine.setting(), dir.path())?;
    let mut progress = Progress::new("recording", until(&song))?;
    let (guest, card) = supervisor::run(&args.machine, &job, dir.path(), &mut progress)?;
    write(args, &song, &guest)?;
    let fields = fields(args, &song, &guest, &card, started.elapsed());
    summary::print(&fields);
    summary::write(args.json.as_deref(), &fields)?;
    check(&song, &guest, &card)
}

/// How long is recorded.
fn until(song: &NamedSong) -> RefTime {
    song.song.end().saturating_add(RefTime(10_000))
}

/// What card and guest are to do; a file for them is made in `dir`.
pub(crate) fn job(song: &NamedSong, setting: Setting, dir: &Path) -> anyhow::Result<Job> {
    let input = dir.join("input.mid");
    std::fs::write(&input, &song.bytes).context("cannot write a temporary file")?;
    let until = until(song);
    Ok(Job {
        card: ["--midi-in".into(), input.into()].into(),
        log: "warn",
        log_file: None,
        items: vec![("record".into(), Item::Text(until.0.to_string()))],
        share: None,
        linux: format!(
            "dmusd record --print --width {} --seconds {} recorded.mid",
            setting.width,
            (until.0 as u64).div_ceil(10_000_000)
        ),
        speaker: None,
        misbehaves: false,
    })
}

/// The MIDI file of what came.
fn write(args: &Args, song: &NamedSong, guest: &GuestReport) -> anyhow::Result<()> {
    let messages = guest.captured.iter().map(|(time, bytes)| TimedMessage { time: RefTime(*time), group: 0, bytes });
    let file = TimeBase::of(&song.bytes).and_then(|base| base.write(messages));
    let file = file.map_err(|error| anyhow::anyhow!("what was recorded makes no MIDI file: {error}"))?;
    std::fs::write(&args.output, file).with_context(|| format!("cannot write {}", args.output.display()))
}

/// Everything worth knowing, under the names of the JSON file.
fn fields(args: &Args, song: &NamedSong, guest: &GuestReport, card: &Value, wall: Duration) -> Value {
    json!({
        "song": song.name,
        "messages": song.song.len(),
        "messages_received": guest.number("messages"),
        "bytes_received": guest.number("bytes"),
        "bytes_lost": guest.number("lost"),
        "overruns": card["capture_overruns"],
        "register_accesses": card["register_accesses"],
        "interrupts": card["interrupts"],
        "wall_seconds": (wall.as_secs_f64() * 1000.0).round() / 1000.0,
        "midi": args.output.display().to_string(),
        "clock": args.machine.clock_name(),
        "image": args.machine.image_name(),
        // The guest's own word, from those that say it.
        "pointer_width": guest.number("width").unwrap_or(args.machine.width.into()),
    })
}

/// What of a song did not come, or came otherwise.
pub(crate) fn missing(song: &NamedSong, captured: &[(i64, Vec<u8>)]) -> Option<String> {
    let same = |(got, message): (&(i64, Vec<u8>), TimedMessage<'_>)| got.0 == message.time.0 && got.1 == message.bytes;
    match captured.iter().zip(song.song.messages()).position(|pair| !same(pair)) {
        Some(number) => Some(format!("message {number} is another, or came at another time")),
        None if captured.len() != song.song.len() => {
            Some(format!("{} of {} messages came", captured.len(), song.song.len()))
        }
        None => None,
    }
}

/// The guest got the song, each message at its time, and everything is returned.
pub(crate) fn check(song: &NamedSong, guest: &GuestReport, card: &Value) -> anyhow::Result<()> {
    let count = guest.captured.len();
    let wrong = match missing(song, &guest.captured) {
        Some(wrong) => wrong,
        None if guest.number("messages") != Some(count as u64) => "the serial line lost some of what came".into(),
        None if guest.number("lost") != Some(0) => "the card lost some".into(),
        None if !guest.all_returned(card) => "not every slot and buffer was returned".into(),
        None => return Ok(()),
    };
    let message = format!("the recording is not the song: {wrong} (guest {:?}, card {card})", guest.summary);
    Err(Failure::new(Exit::Guest, message).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmus_song::Song;

    #[test]
    fn a_recording_is_held_against_the_song() -> anyhow::Result<()> {
        // One message, half a second in.
        let bytes = b"MThd\0\0\0\x06\0\0\0\x01\0\x60MTrk\0\0\0\x08\x60\x90\x3C\x64\0\xFF\x2F\0".to_vec();
        let song = NamedSong { name: String::new(), song: Song::parse(&bytes)?, bytes };
        let good = "recorded messages=1 bytes=3 lost=0 slots=2 slots_free=2 buffers=2 buffers_free=2";
        let card = json!({ "in_flight": 0 });
        let fault = |lines: &[&str]| {
            let mut guest = GuestReport::new();
            lines.iter().for_each(|line| assert_eq!(guest.take(&format!("dmus: {line}")), None));
            check(&song, &guest, &card).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(fault(&["captured 5000000 903c64", good]), "");
        for (lines, complaint) in [
            (&["captured 5000001 903c64", good][..], "message 0 is another"),
            (&["captured 5000000 903c65", good], "message 0 is another"),
            (&["captured 5000000 903c6", good], "message 0 is another"),
            (&[good], "0 of 1 messages came"),
            (&["captured 5000000 903c64", "captured 5000000 903c64", good], "2 of 1 messages came"),
            (&["captured 5000000 903c64", &good.replace("messages=1", "messages=2")], "the serial line lost"),
            (&["captured 5000000 903c64", &good.replace("lost=0", "lost=1")], "the card lost"),
            (&["captured 5000000 903c64", &good.replace("slots_free=2", "slots_free=1")], "not every slot"),
            (&["captured 5000000 903c64"], "the serial line lost"),
        ] {
            assert!(fault(lines).contains(complaint), "{lines:?}: {}", fault(lines));
        }
        Ok(())
    }
}
