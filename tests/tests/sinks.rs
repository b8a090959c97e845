//! Where the audio of a served card goes, in its sandbox: files that agree, and pipes whose readers are slow or gone.

use dmus_driver::Platform;
use dmus_interface::doorbell;
use dmus_interface::event::PointerWidth;
use dmus_interface::protocol::Page as _;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_tests::attack::next_driver_plays;
use dmus_tests::loopback::Loopback;
use dmus_tests::programs::{self, Running, run, said, signal, until};
use dmus_tests::raw::{RawStream, seconds};
use dmus_tests::songs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(20);
const NOTE: [u8; 3] = [0x90, 60, 100];

fn connect(dir: &Path) -> anyhow::Result<Loopback> {
    until("the socket", SHORT, || dir.join("card.sock").exists())?;
    Loopback::new(&dir.join("card.sock"))
}

fn position(platform: &Loopback) -> u64 {
    platform.doorbell().load_u64(doorbell::SAMPLE_POSITION, Ordering::Acquire)
}

#[test]
fn a_flac_holds_the_samples_of_the_wav() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("song.mid"), songs::busy(500))?;
    for output in ["out.wav", "out.FLAC"] {
        let done = run(programs::card()?.args(["render", "song.mid", "-o", output]).current_dir(dir.path()))?;
        assert!(done.status.success(), "{}", said(&done));
    }
    let wav: Result<Vec<i32>, _> = hound::WavReader::open(dir.path().join("out.wav"))?.samples().collect();
    let flac: Result<Vec<i32>, _> = claxon::FlacReader::open(dir.path().join("out.FLAC"))?.samples().collect();
    assert!(wav? == flac?);
    Ok(())
}

/// The samples behind the header of a WAV that a pipe got, whose lengths mean nothing.
fn streamed(wav: &[u8]) -> &[u8] {
    assert!(wav.starts_with(b"RIFF") && wav[36..40] == *b"data" && wav[41..44] == [0xFF; 3], "{:?}", &wav[..44]);
    &wav[44..]
}

#[test]
fn standard_output_and_a_fifo_get_the_samples_of_the_file() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("song.mid"), songs::busy(500))?;
    let card = programs::card()?.get_program().to_owned();
    let render = |output: &str| {
        let mut command = Command::new(&card);
        command.args(["render", "song.mid", "-o", output]).current_dir(dir.path());
        command
    };
    assert!(run(&mut render("out.wav"))?.status.success());
    let file = std::fs::read(dir.path().join("out.wav"))?;

    let done = run(&mut render("-"))?;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(streamed(&done.stdout) == &file[44..]);

    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)?;
    let writer = Running::start(&mut render("fifo"))?;
    let reader = Running::start(Command::new("cat").arg(&fifo))?.output()?;
    assert!(writer.output()?.status.success());
    assert!(streamed(&reader.stdout) == &file[44..]);

    // A reader that has heard enough is no error.
    let mut shell = Command::new("bash");
    let line = "\"$0\" render song.mid -o - | head -c 1000 >/dev/null; exit \"${PIPESTATUS[0]}\"";
    let done = run(shell.args(["-c", line]).arg(&card).current_dir(dir.path()))?;
    assert!(done.status.success(), "{}", said(&done));
    Ok(())
}

#[test]
fn a_song_is_rendered_at_other_rates_formats_and_levels_and_without_effects() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let loud = [(0, vec![0xB0, 91, 127]), (0, vec![0xB0, 93, 127]), (0, vec![0x90, 60, 100]), (96, vec![0x80, 60, 0])];
    std::fs::write(dir.path().join("song.mid"), songs::file(loud))?;
    let render = |output: &str, options: &[&str]| -> anyhow::Result<(hound::WavSpec, Vec<f64>)> {
        let done =
            run(programs::card()?.args(["render", "song.mid", "-o", output]).args(options).current_dir(dir.path()))?;
        assert!(done.status.success(), "{}", said(&done));
        let mut reader = hound::WavReader::open(dir.path().join(output))?;
        let spec = reader.spec();
        let full = f64::from(2u32.pow(u32::from(spec.bits_per_sample) - 1));
        let samples = match spec.sample_format {
            hound::SampleFormat::Float => reader.samples::<f32>().map(|s| s.map(f64::from)).collect::<Result<_, _>>(),
            hound::SampleFormat::Int => reader.samples::<i32>().map(|s| s.map(|s| f64::from(s) / full)).collect(),
        };
        Ok((spec, samples?))
    };
    let level = |samples: &[f64]| (samples.iter().map(|s| s * s).sum::<f64>() / samples.len() as f64).sqrt();
    let (_, plain) = render("plain.wav", &[])?;
    for (format, bits) in [("s24", 24), ("f32", 32)] {
        let (spec, samples) = render("format.wav", &["--format", format])?;
        assert_eq!((spec.bits_per_sample, samples.len()), (bits, plain.len()));
        // The same mix, rounded otherwise.
        let off = samples.iter().zip(&plain).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(off <= 0.51 / 32_768.0 && off > 0.0, "{format}: {off}");
    }
    for (name, rate) in [("44100", 44_100), ("96000", 96_000)] {
        let (spec, samples) = render("rate.wav", &["--rate", name])?;
        assert_eq!(spec.sample_rate, rate);
        assert!((samples.len() as f64 / f64::from(rate) - plain.len() as f64 / 48_000.0).abs() < 1e-3);
        assert!((level(&samples) / level(&plain) - 1.0).abs() < 0.05, "{name}");
    }
    let (_, soft) = render("soft.wav", &["--gain", "-6.0206"])?;
    assert!((level(&soft) / level(&plain) - 0.5).abs() < 1e-3);
    let (_, no_reverb) = render("dry.wav", &["--reverb", "off"])?;
    let (_, dry) = render("dry.wav", &["--reverb", "off", "--chorus", "off"])?;
    assert!(plain != no_reverb && no_reverb != dry && plain.len() == dry.len());
    // A second after the note only the reverb is left.
    let end = |samples: &[f64]| level(&samples[2 * 96_000..]);
    assert!(end(&dry) < end(&plain) / 10.0, "{} {}", end(&dry), end(&plain));

    for options in [
        &["-o", "x.flac", "--format", "s24"][..],
        &["--listen", "--rate", "44100"],
        &["--listen", "--format", "f32"],
        &["--gain", "25"],
        &["--rate", "22050"],
    ] {
        let done = run(programs::card()?.args(["render", "song.mid"]).args(options).current_dir(dir.path()))?;
        assert_eq!(done.status.code(), Some(2), "{options:?}: {}", said(&done));
    }
    Ok(())
}

#[test]
fn a_served_card_sounds_as_it_is_set_and_so_does_its_recording() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let loud = [(0, vec![0xB0, 91, 127]), (0, vec![0xB0, 93, 127]), (0, vec![0x90, 60, 100]), (96, vec![0x80, 60, 0])];
    let song = songs::file(loud);
    std::fs::write(dir.path().join("song.mid"), &song)?;
    let set = ["--gain=-6.5", "--reverb=off"];
    let card = |arguments: &[&str]| -> anyhow::Result<_> {
        let done = run(programs::card()?.args(arguments).current_dir(dir.path()))?;
        anyhow::ensure!(done.status.success(), "{}", said(&done));
        Ok(())
    };
    card(&[&["render", "song.mid", "-o", "rendered.wav"], &set[..]].concat())?;
    let mut serve = programs::card()?;
    serve.args(["serve", "--socket", "card.sock", "--clock", "virtual", "--once", "--sink", "wav:served.wav"]);
    let serving = Running::start(serve.args(["--record", "run.dmc"]).args(set).current_dir(dir.path()))?;
    {
        let song = dmus_song::Song::parse(&song)?;
        let card = dmus_driver::Card::open(connect(dir.path())?, PointerWidth::Eight)?;
        let stream = dmus_driver::RenderStream::open(&card, 0, dmus_driver::StreamConfig::default())?;
        dmus_driver::play(&stream, song.messages(), song.duration(), |_| {})?;
    }
    let done = serving.output()?;
    assert!(done.status.success(), "{}", said(&done));
    card(&["replay", "run.dmc", "-o", "replayed.wav"])?;
    let [rendered, served, replayed] =
        ["rendered.wav", "served.wav", "replayed.wav"].map(|name| std::fs::read(dir.path().join(name)));
    let rendered = rendered?;
    assert!(rendered == served? && rendered == replayed?);
    card(&["render", "song.mid", "-o", "usual.wav"])?;
    assert!(rendered != std::fs::read(dir.path().join("usual.wav"))?);
    Ok(())
}

#[test]
fn a_pipe_that_nobody_empties_holds_time_up_and_not_the_card() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let serve = ["serve", "--once", "--socket", "card.sock", "--clock", "virtual", "--sink", "pipe:-"];
    let card = Running::start(programs::card()?.args(serve).current_dir(dir.path()))?;
    let platform = connect(dir.path())?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    s.submit(0, s.inline(0, &NOTE), seconds(20));
    s.until("a full pipe", || position(&platform) >= 16_384)?;
    // The card answers all the same.
    s.set_state(State::Pause)?;
    s.set_state(State::Run)?;
    assert!(position(&platform) < 48_000, "{}", position(&platform));
    let reader = std::thread::spawn(|| card.output());
    s.reach(seconds(20))?;
    drop(platform);
    let done = reader.join().expect("the reader")?;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(done.stdout.len(), 20 * 48_000 * 4);
    assert!(done.stdout[..48_000].iter().any(|byte| *byte != 0));
    Ok(())
}

#[test]
fn a_reader_that_goes_away_costs_only_its_audio() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let line = "\"$0\" serve --once --socket card.sock --clock virtual --sink pipe:- --json card.json \
                | head -c 1000 >/dev/null; exit \"${PIPESTATUS[0]}\"";
    let mut shell = Command::new("bash");
    shell.args(["-c", line]).arg(programs::card()?.get_program()).current_dir(dir.path());
    let card = Running::start(&mut shell)?;
    let platform = connect(dir.path())?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    s.submit(0, s.inline(0, &NOTE), seconds(60));
    s.reach(seconds(60))?;
    drop(platform);
    let done = card.output()?;
    assert!(done.status.success(), "{}", said(&done));
    assert!(said(&done).contains("nobody reads standard output any more"), "{}", said(&done));
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(dir.path().join("card.json"))?)?;
    assert_eq!(report["presented"], 1);
    assert!(report["dropped_samples"].as_u64() > Some(30 * 48_000), "{report}");
    Ok(())
}

#[test]
fn past_its_limit_of_audio_a_card_goes_on_silently() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let serve = ["serve", "--socket", "card.sock", "--clock", "virtual", "--sink", "wav:out.wav", "--max-audio", "2"];
    let card = Running::start(programs::card()?.args(serve).args(["--json", "card.json"]).current_dir(dir.path()))?;
    let platform = connect(dir.path())?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    // The first of them covers the limit, the last is all time there is.
    for until in [seconds(3), seconds(100)] {
        s.submit(0, s.inline(0, &NOTE), until);
        s.completion()?;
        s.reach(until)?;
    }
    s.grant(i64::MAX);
    drop(platform);
    next_driver_plays(&connect(dir.path())?)?;
    signal(card.id(), "TERM");
    let done = card.output()?;
    assert_eq!(done.status.code(), Some(130), "{}", said(&done));
    assert_eq!(said(&done).matches("--max-audio").count(), 1, "{}", said(&done));
    assert_eq!(hound::WavReader::open(dir.path().join("out.wav"))?.duration(), 2 * 48_000);
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(dir.path().join("card.json"))?)?;
    assert!(report["dropped_samples"].as_u64() >= Some(98 * 48_000), "{report}");
    let done = run(programs::card()?.args(["serve", "--socket", "s", "--max-audio", "0"]).current_dir(dir.path()))?;
    assert_eq!(done.status.code(), Some(2), "{}", said(&done));
    Ok(())
}

#[test]
fn a_sink_that_cannot_be_is_an_error_that_says_what_to_do() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("file"), "x")?;
    for (sink, advice) in [("pipe:none", "mkfifo makes a pipe"), ("pipe:file", "mkfifo")] {
        let done = run(programs::card()?.args(["serve", "--socket", "s", "--sink", sink]).current_dir(dir.path()))?;
        let words = said(&done);
        assert_eq!((done.status.code(), words.trim().lines().count()), (Some(1), 1), "{words}");
        assert!(words.contains(advice), "{words}");
        assert!(!dir.path().join("s").exists());
    }
    Ok(())
}

#[test]
fn an_audio_file_that_cannot_be_created_is_an_error_that_says_why() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    std::os::unix::fs::symlink("none/at-all", dir.path().join("link"))?;
    for format in ["wav", "flac"] {
        for (file, why) in [
            ("no/such/x", "the folder no/such does not exist"),
            // The folder of the link is there.
            ("link", "No such file or directory (os error 2)"),
            (".", "Is a directory (os error 21)"),
            ("/dev/full", "No space left on device (os error 28)"),
        ] {
            let sink = format!("{format}:{file}");
            let done =
                run(programs::card()?.args(["serve", "--socket", "s", "--sink", &sink]).current_dir(dir.path()))?;
            let sentence = format!("dmus-card: cannot create {file}: {why}\n");
            assert_eq!((done.status.code(), said(&done)), (Some(1), sentence));
            assert!(!dir.path().join("s").exists());
        }
    }
    Ok(())
}

/// DDI: The latency clock is the master clock plus the latency that the card guarantees.
#[test]
fn the_latency_clock_is_ahead_of_the_master_clock_by_a_constant() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let serve = ["serve", "--once", "--socket", "card.sock", "--clock", "virtual"];
    let card = Running::start(programs::card()?.args(serve).current_dir(dir.path()))?;
    let platform = connect(dir.path())?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    for time in [1, 7_654_321, seconds(5)] {
        s.grant(time);
        s.reach(time)?;
        let shown = |word| RefTime(platform.doorbell().load_u64(word, Ordering::Acquire) as i64);
        let (master, latency) = (shown(doorbell::MASTER_TIME), shown(doorbell::LATENCY_TIME));
        assert_eq!((master, latency), (RefTime(time), RefTime(time + 200_000)));
    }
    drop(platform);
    assert!(card.output()?.status.success());
    Ok(())
}
