//! Live sound, against a real sound server: what its device gets is what was rendered.
//!
//! PulseAudio and aplay are others' programs that `qemu-scripts/peers` fetches. The server has a device that plays
//! nowhere, whose monitor is recorded.

use anyhow::{Context, ensure};
use dmus_interface::event::PointerWidth;
use dmus_tests::loopback::Loopback;
use dmus_tests::programs::{self, Running, run, said, script, signal, until};
use dmus_tests::raw::{RawStream, seconds};
use dmus_tests::songs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// How long a server or a card may take to start or to end, and audio to get where it is heard.
const SHORT: Duration = Duration::from_secs(30);
const NOTE: [u8; 3] = [0x90, 60, 100];
/// Bytes of a second.
const SECOND: usize = 48_000 * 4;

/// A sound server with a device that plays nowhere, and a recording of what is played there.
struct Server {
    dir: TempDir,
    recorder: Option<Running>,
    process: Option<Running>,
}

impl Server {
    fn start() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        // Fetches it, which has a limit of its own.
        let version = run(script("peers").args(["pulseaudio", "--version"]))?;
        ensure!(version.status.success(), "no sound server: {}", said(&version));
        let mut command = peer(dir.path(), "pulseaudio");
        command.args(["-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1", "--disable-shm=yes"]);
        command.args(["-L", "module-null-sink sink_name=nowhere rate=48000 format=s16le channels=2"]);
        command.arg("-L").arg(format!("module-native-protocol-unix socket={}", dir.path().join("server").display()));
        let process = Running::start(&mut command)?;
        let mut server = Self { dir, recorder: None, process: Some(process) };
        if let Err(error) = until("the sound server", SHORT, || server.path("server").exists()) {
            let output = server.process.take().context("no server")?;
            signal(output.id(), "KILL");
            return Err(error.context(said(&output.output()?)));
        }
        Ok(server)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Records what is played from now on.
    fn record(&mut self) -> anyhow::Result<()> {
        let mut command = peer(self.dir.path(), "parec");
        command.args(["--device=nowhere.monitor", "--raw", "--format=s16le", "--rate=48000", "--channels=2"]);
        command.args(["--latency-msec=50"]).arg(self.path("heard"));
        self.recorder = Some(Running::start(self.reached_by(&mut command))?);
        // A device that plays nothing is silent, and that is recorded, too.
        until("the recording", SHORT, || self.heard().is_ok_and(|heard| !heard.is_empty()))
    }

    fn heard(&self) -> anyhow::Result<Vec<u8>> {
        Ok(std::fs::read(self.path("heard"))?)
    }

    fn until_heard(&self, what: &str, heard: impl Fn(&[u8]) -> bool) -> anyhow::Result<()> {
        until(what, SHORT, || self.heard().is_ok_and(|audio| heard(&audio)))
    }

    /// Has a program play on this server.
    fn reached_by<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("PULSE_SERVER", format!("unix:{}", self.path("server").display())).current_dir(self.dir.path())
    }

    fn end(mut self) -> anyhow::Result<()> {
        for process in [self.recorder.take(), self.process.take()].into_iter().flatten() {
            signal(process.id(), "TERM");
            process.output()?;
        }
        Ok(())
    }
}

/// One of others' programs, with nothing of this user's in its sight.
fn peer(home: &Path, name: &str) -> Command {
    let mut command = script("peers");
    command.arg(name).env("HOME", home).env("XDG_RUNTIME_DIR", home).env("XDG_CONFIG_HOME", home);
    command.env_remove("DBUS_SESSION_BUS_ADDRESS").env_remove("DISPLAY");
    command
}

/// Notes after a second of silence: as a stream begins, a device's monitor leaves out what has been monitored already.
fn song() -> Vec<u8> {
    let start = (192, vec![0xB0, 7, 100]);
    let notes = (0..24u8).map(|n| (if n % 3 == 0 { 20 } else { 0 }, vec![0x90 | (n % 3), 40 + n, 100]));
    songs::file(std::iter::once(start).chain(notes))
}

/// The samples of a WAV file.
fn samples(wav: &Path) -> anyhow::Result<Vec<u8>> {
    let samples: Result<Vec<i16>, _> = hound::WavReader::open(wav)?.into_samples().collect();
    Ok(samples?.into_iter().flat_map(i16::to_le_bytes).collect())
}

/// From the first sample that is not 0 to the last.
fn sounding(samples: &[u8]) -> &[u8] {
    let frames = samples.len() / 4;
    let sounds = |frame: &usize| samples[frame * 4..frame * 4 + 4] != [0; 4];
    let first = (0..frames).find(sounds).unwrap_or(0);
    let last = (0..frames).rfind(sounds).map_or(0, |last| last + 1);
    &samples[first * 4..last * 4]
}

fn contains(heard: &[u8], expected: &[u8]) -> bool {
    heard.windows(expected.len()).step_by(4).any(|window| window == expected)
}

#[test]
fn a_rendered_song_is_heard_sample_by_sample() -> anyhow::Result<()> {
    let mut server = Server::start()?;
    server.record()?;
    std::fs::write(server.path("song.mid"), song())?;
    let render = ["render", "song.mid", "--listen", "-o", "song.wav"];
    let done = run(server.reached_by(programs::card()?.args(render)))?;
    assert!(done.status.success(), "{}", said(&done));
    let wav = samples(&server.path("song.wav"))?;
    let expected = sounding(&wav);
    assert!(expected.len() > 2 * SECOND);
    server.until_heard("the song, sample by sample", |heard| contains(heard, expected))?;
    server.end()
}

/// A card that plays on the server.
fn serve(server: &Server, clock: &str) -> anyhow::Result<(Running, Loopback)> {
    let mut card = programs::card()?;
    card.args(["serve", "--once", "--socket", "card.sock", "--sink", "audio", "--json", "card.json", "--clock", clock]);
    let mut card = Running::start(server.reached_by(&mut card))?;
    until("the card", SHORT, || server.path("card.json").exists() || card.status().is_some())?;
    if card.status().is_some() {
        anyhow::bail!("the card has ended: {}", said(&card.output()?));
    }
    Ok((card, Loopback::new(&server.path("card.sock"))?))
}

fn counters(server: &Server) -> anyhow::Result<serde_json::Value> {
    Ok(serde_json::from_str(&std::fs::read_to_string(server.path("card.json"))?)?)
}

#[test]
fn a_card_in_its_sandbox_is_heard_sample_by_sample_in_virtual_time() -> anyhow::Result<()> {
    let mut server = Server::start()?;
    server.record()?;
    let play = |platform: &Loopback| -> anyhow::Result<()> {
        let s = RawStream::running(platform, PointerWidth::Eight)?;
        s.submit(0, s.inline(seconds(1), &NOTE), seconds(3));
        s.reach(seconds(3))
    };
    let (card, platform) = serve(&server, "virtual")?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", card.id()))?;
    assert!(status.contains("Seccomp_filters:\t3"), "{status}");
    play(&platform)?;
    drop(platform);
    let done = card.output()?;
    assert!(done.status.success(), "{}", said(&done));

    let file = server.path("file");
    std::fs::create_dir(&file)?;
    let serve = ["serve", "--once", "--socket", "card.sock", "--sink", "wav:out.wav", "--clock", "virtual"];
    let card = Running::start(programs::card()?.args(serve).current_dir(&file))?;
    until("the card", SHORT, || file.join("out.wav").exists())?;
    play(&Loopback::new(&file.join("card.sock"))?)?;
    assert!(card.output()?.status.success());

    let wav = samples(&file.join("out.wav"))?;
    let expected = sounding(&wav);
    assert!(expected.len() > SECOND);
    server.until_heard("the note, sample by sample", |heard| contains(heard, expected))?;
    let counters = counters(&server)?;
    assert_eq!((&counters["underruns"], &counters["dropped_samples"]), (&0.into(), &0.into()), "{counters}");
    server.end()
}

#[test]
fn a_card_that_is_held_up_in_realtime_has_its_device_run_dry_and_says_so() -> anyhow::Result<()> {
    let mut server = Server::start()?;
    server.record()?;
    let (card, platform) = serve(&server, "realtime")?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    // An organ, which sounds until it is told to end.
    s.submit(0, s.inline(0, &[0xC0, 19]), 0);
    s.submit(1, s.inline(0, &NOTE), 0);
    let sounds = |audio: &[u8]| audio.iter().any(|byte| *byte != 0);
    let end = |heard: &[u8]| heard[heard.len().saturating_sub(SECOND / 5)..].to_vec();
    server.until_heard("the note", |heard| sounds(&end(heard)))?;
    signal(card.id(), "STOP");
    let silent = server.until_heard("silence", |heard| !sounds(&end(heard)));
    signal(card.id(), "CONT");
    silent?;
    server.until_heard("the note again", |heard| sounds(&end(heard)))?;
    drop(platform);
    let done = card.output()?;
    assert!(done.status.success(), "{}", said(&done));
    assert!(said(&done).contains("the sound device ran dry"), "{}", said(&done));
    let counters = counters(&server)?;
    assert!(counters["underruns"].as_u64() >= Some(1), "{counters}");
    server.end()
}

#[test]
fn without_a_server_the_song_is_played_by_aplay() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let fetched = run(script("peers").args(["aplay", "--version"]))?;
    ensure!(fetched.status.success(), "no aplay: {}", said(&fetched));
    let aplay = dir.path().join("aplay");
    let peers = programs::repository().join("qemu-scripts/peers");
    std::fs::write(&aplay, format!("#!/bin/sh\nexec '{}' aplay \"$@\"\n", peers.display()))?;
    std::fs::set_permissions(&aplay, std::fs::Permissions::from_mode(0o755))?;
    let device = "pcm.!default { type file slave.pcm { type null } file \"heard\" format raw }\n";
    std::fs::write(dir.path().join("asound.conf"), device)?;
    std::fs::write(dir.path().join("song.mid"), song())?;
    let path = std::env::var("PATH")?;
    let render = |path: &str, conf: &str| {
        let mut card = programs::card()?;
        card.args(["render", "song.mid", "--listen", "-o", "song.wav"]).current_dir(dir.path());
        card.env_remove("PULSE_SERVER").env("XDG_RUNTIME_DIR", dir.path()).env_remove("PULSE_RUNTIME_PATH");
        run(card.env("PATH", path).env("ALSA_CONFIG_PATH", dir.path().join(conf)))
    };
    let own = format!("{}:{path}", dir.path().display());
    let done = render(&own, "asound.conf")?;
    assert!(done.status.success(), "{}", said(&done));
    let (wav, heard) = (samples(&dir.path().join("song.wav"))?, std::fs::read(dir.path().join("heard"))?);
    assert!(contains(&heard, sounding(&wav)));

    // Without a device, and without aplay, it says what to do.
    std::fs::write(dir.path().join("none.conf"), "")?;
    for (path, conf, why) in
        [(&own[..], "none.conf", "ALSA has no device"), ("/none", "asound.conf", "aplay is missing")]
    {
        let done = render(path, conf)?;
        assert_eq!(done.status.code(), Some(1), "{}", said(&done));
        for advice in [why, "no PipeWire or PulseAudio listens at", "start the sound server"] {
            assert!(said(&done).contains(advice), "{}", said(&done));
        }
    }
    Ok(())
}

#[test]
fn a_server_that_is_named_and_is_not_there_is_an_error_that_says_what_to_do() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    for (server, advice) in [("unix:none", "no Unix socket"), ("unix:/none", "nobody listens at /none")] {
        let mut card = programs::card()?;
        card.args(["serve", "--socket", "s", "--sink", "audio"]).env("PULSE_SERVER", server);
        let done = run(card.current_dir(dir.path()))?;
        let words = said(&done);
        assert_eq!((done.status.code(), words.trim().lines().count()), (Some(1), 1), "{words}");
        assert!(words.contains(advice) && words.contains("unset it"), "{words}");
        assert!(!dir.path().join("s").exists());
    }
    Ok(())
}
