//! SoundFont 3: samples that another program has coded as Ogg Vorbis are those that it has coded as numbers.

use anyhow::{Context, ensure};
use dmus_card::collection::{Collection, Warnings};
use dmus_tests::programs::{self, run, said, script};
use dmus_tests::soundfont::sf3;
use std::path::Path;

/// A second of a chord, by FluidSynth, as Ogg Vorbis and as numbers of 16 bits: the middle of left and right.
fn recorded(dir: &Path) -> anyhow::Result<(Vec<u8>, Vec<i16>)> {
    let song = dir.join("chord.mid");
    let track = b"\0\x90\x3C\x64\0\x90\x40\x64\0\x90\x43\x64\x83\x60\x80\x3C\0\x60\xFF\x2F\0";
    let header = b"MThd\0\0\0\x06\0\0\0\x01\x01\xE0MTrk\0\0\0";
    std::fs::write(&song, [&header[..], &[track.len() as u8], track].concat())?;
    let font = run(script("peers").arg("--bank"))?;
    ensure!(font.status.success(), "{}", said(&font));
    let font = String::from_utf8(font.stdout)?;
    let render = |kind: &str, file: &Path| {
        let mut peer = script("peers");
        peer.args(["fluidsynth", "-n", "-i", "-q", "-r", "44100", "-R", "0", "-C", "0", "-T", kind, "-F"]);
        let done = run(peer.arg(file).arg(font.trim()).arg(&song))?;
        ensure!(done.status.success() && file.exists(), "{}", said(&done));
        Ok(())
    };
    let (ogg, wav) = (dir.join("chord.ogg"), dir.join("chord.wav"));
    render("oga", &ogg)?;
    render("wav", &wav)?;
    let samples: Result<Vec<i16>, _> = hound::WavReader::open(&wav)?.samples().collect();
    let middle = |pair: &[i16]| ((i32::from(pair[0]) + i32::from(pair[1])) >> 1) as i16;
    Ok((std::fs::read(ogg)?, samples?.chunks_exact(2).map(middle).collect()))
}

fn samples(ogg: &[u8]) -> anyhow::Result<Vec<i16>> {
    let mut warnings = Warnings::default();
    let read = Collection::read(sf3(ogg), &mut warnings)?;
    ensure!(warnings.count() == 0, "{:?}", warnings.first());
    Ok(read.waves.first().context("a wave")?.samples.to_vec())
}

#[test]
fn vorbis_samples_are_those_that_were_coded() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (ogg, expected) = recorded(dir.path())?;
    let decoded = samples(&ogg)?;
    ensure!(decoded.len() == expected.len(), "{} samples, not {}", decoded.len(), expected.len());
    let power = |samples: &mut dyn Iterator<Item = f64>| samples.map(|sample| sample * sample).sum::<f64>();
    let signal = power(&mut expected.iter().map(|sample| f64::from(*sample)));
    let noise = power(&mut expected.iter().zip(&decoded).map(|(is, should)| f64::from(*is) - f64::from(*should)));
    let ratio = 10.0 * (signal / noise).log10();
    ensure!(signal > 0.0 && ratio > 15.0, "{ratio:.1} dB");

    // It plays, with its loop, and nothing of it has to be mended.
    let font = dir.path().join("chord.sf3");
    std::fs::write(&font, sf3(&ogg))?;
    let wav = dir.path().join("out.wav");
    let done = run(programs::card()?.args(["render", "--strict", "--bank"]).arg(&font).arg("-o").arg(&wav))?;
    ensure!(done.status.success(), "{}", said(&done));
    Ok(())
}

#[test]
fn what_is_cut_off_of_a_vorbis_sample_is_silence() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (ogg, _) = recorded(dir.path())?;
    let whole = samples(&ogg)?;
    // Its last page says how long it is. It stays, and a byte of one before is wrong.
    let pages: Vec<usize> = ogg.windows(4).enumerate().filter(|(_, four)| four == b"OggS").map(|(at, _)| at).collect();
    let last = *pages.last().context("a page")?;
    let mut cut = ogg.clone();
    let third = *pages.get(2).context("a third page")?;
    ensure!(third < last, "only headers before the last page");
    cut.drain(third..last);
    let cut = samples(&cut)?;
    ensure!(cut.len() == whole.len(), "{} samples, not {}", cut.len(), whole.len());
    // No length at all, and nothing to play.
    for nothing in [&ogg[..0], b"OggS", &[7; 5000]] {
        ensure!(samples(nothing).is_err(), "{} bytes", nothing.len());
    }
    Ok(())
}
