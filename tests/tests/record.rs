//! Recording as a user does it: a guest booted by `qemu-scripts/record` captures a song, and what it got is the song.

use anyhow::{anyhow, ensure};
use dmus_tests::programs::{run, said, script};
use dmus_tests::songs;
use midly::live::LiveEvent;
use midly::{MetaMessage, TrackEventKind};
use serde_json::Value;
use std::path::Path;

/// Records `in.mid` in `dir` into `out.mid`, and gives the summary.
fn record(dir: &Path, arguments: &[&str]) -> anyhow::Result<Value> {
    let json = dir.join("summary.json");
    let done = run(script("record").args(["in.mid", "--json"]).arg(&json).args(arguments).current_dir(dir))?;
    ensure!(done.status.success(), "{}", said(&done));
    Ok(serde_json::from_str(&std::fs::read_to_string(json)?)?)
}

/// A tick, and a message or tempo.
type Ticked = (u64, Vec<u8>);

/// Everything of a file that is a message or a tempo, with its tick, tracks merged; and where its longest track ends.
fn ticks(file: &[u8]) -> anyhow::Result<(Vec<Ticked>, u64)> {
    let (mut all, mut end) = (vec![], 0);
    let (_, tracks) = midly::parse(file).map_err(|error| anyhow!("{error}"))?;
    for track in tracks {
        let mut tick = 0u64;
        for event in track.map_err(|error| anyhow!("{error}"))? {
            let event = event.map_err(|error| anyhow!("{error}"))?;
            tick += u64::from(event.delta.as_int());
            let bytes = match event.kind {
                TrackEventKind::SysEx(data) => [&[0xF0], data].concat(),
                TrackEventKind::Escape(data) => data.to_vec(),
                TrackEventKind::Midi { channel, message } => {
                    let mut bytes = vec![];
                    LiveEvent::Midi { channel, message }.write(&mut bytes).map_err(|error| anyhow!("{error}"))?;
                    bytes
                }
                TrackEventKind::Meta(MetaMessage::Tempo(micros)) => {
                    [0xFF; 1].into_iter().chain(micros.as_int().to_be_bytes()).collect()
                }
                TrackEventKind::Meta(_) => continue,
            };
            all.push((tick, bytes));
        }
        end = end.max(tick);
    }
    // Tempos first at a tick; messages of one tick stay in the order of their tracks.
    all.sort_by_key(|(tick, bytes)| (*tick, bytes[0] != 0xFF));
    Ok((all, end))
}

/// DDI: in a booted guest, captured events reach the application complete, in order and with the time of the hardware:
///     a song recorded is the song.
/// DDI: the same with 4-byte pointers, in a booted guest.
#[test]
fn a_song_recorded_is_the_song_event_for_event_and_tick_for_tick() -> anyhow::Result<()> {
    for (file, width, image) in
        [(dmus_card::demo::song(), "8", "elf"), (songs::tempos(400), "4", "elf"), (songs::busy(20_000), "4", "linux")]
    {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("in.mid"), &file)?;
        let summary = record(dir.path(), &["--width", width, "--image", image, "-o", "out.mid"])?;
        let count = ticks(&file)?.0.iter().filter(|(_, bytes)| bytes[0] != 0xFF).count();
        assert_eq!((&summary["messages"], &summary["messages_received"]), (&count.into(), &count.into()));
        assert_eq!(summary["pointer_width"].to_string(), width);
        assert_eq!(ticks(&std::fs::read(dir.path().join("out.mid"))?)?, ticks(&file)?);
    }
    Ok(())
}
