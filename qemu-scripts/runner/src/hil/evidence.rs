//! The folder of a case that did not pass: what is kept of it, less than 30 MB.
//!
//! Fed by [`super::run`], whose files are there already; feeds the index and JUnit with their names.

use super::run::files;
use crate::programs::Programs;
use anyhow::Context;
use dmus_card::sink::{AudioFile, Format};
use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Stdio};

/// Bytes of audio, and of a capsule, that are kept.
const MAX_AUDIO: u64 = 10 << 20;
const MAX_CAPSULE: u64 = 8 << 20;
/// The page that `dmus-card report` makes of a capsule.
pub(crate) const PAGE: &str = "run.html";
/// What there is no room for is said in this file.
const NOTE: &str = "note.txt";

/// Bounds what is in a folder, and makes the capsule's page.
pub(crate) fn keep(folder: &Path, programs: &Programs) -> anyhow::Result<()> {
    shorten_audio(&folder.join(files::AUDIO), folder)?;
    let capsule = folder.join(files::CAPSULE);
    // One that is cut is one of a card that was killed: whole up to there.
    if size(&capsule) > MAX_CAPSULE {
        OpenOptions::new().write(true).open(&capsule)?.set_len(MAX_CAPSULE)?;
        note(folder, "the capsule was too large: it holds the beginning of the run")?;
    }
    if size(&capsule) > 0 {
        // A page that cannot be made is no reason to lose what there is.
        let page = Command::new(programs.card()?)
            .args(["report".as_ref(), capsule.as_os_str(), "-o".as_ref(), folder.join(PAGE).as_os_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .context("cannot start dmus-card report")?;
        if !folder.join(PAGE).exists() {
            note(folder, &format!("the capsule made no page: {}", String::from_utf8_lossy(&page.stderr).trim()))?;
        }
    }
    Ok(())
}

fn size(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |known| known.len())
}

fn note(folder: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let path = folder.join(NOTE);
    let file = OpenOptions::new().append(true).create(true).open(&path);
    file.and_then(|mut file| writeln!(file, "{text}")).with_context(|| format!("cannot write {}", path.display()))
}

/// Long audio becomes a FLAC file, and what is too long for that, its end.
fn shorten_audio(wav: &Path, folder: &Path) -> anyhow::Result<()> {
    if size(wav) <= MAX_AUDIO {
        return Ok(());
    }
    let samples: Vec<i16> = hound::WavReader::open(wav)?.into_samples::<i16>().collect::<Result<_, _>>()?;
    // Two channels, 50 seconds of which are less than that as they are.
    let from = samples.len().saturating_sub(2 * 48_000 * 50);
    let flac = AudioFile { path: wav.with_extension("flac"), format: Format::Flac };
    let write = |samples: &[i16]| -> anyhow::Result<()> {
        let mut sink = flac.create()?;
        samples.chunks(48_000).for_each(|chunk| sink.write(chunk));
        Ok(sink.finish()?)
    };
    write(&samples)?;
    if size(&flac.path) > MAX_AUDIO {
        write(&samples[from..])?;
        note(folder, "the audio was too long: it is the last 50 s")?;
    }
    std::fs::remove_file(wav).with_context(|| format!("cannot remove {}", wav.display()))
}

/// The files of a folder, by name.
pub(crate) fn list(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}
