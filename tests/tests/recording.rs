//! Recordings of cards that serve as programs: killed ones, full disks, files that are none, and traces made meanwhile.

use anyhow::{Context, ensure};
use dmus_card::ClockMode;
use dmus_card::bank::Bank;
use dmus_card::capsule::{Capsule, Ended, Listener, Observation, Options, pack, unpack};
use dmus_card::check::Checker;
use dmus_card::deviation::Plan;
use dmus_card::sink::{NullSink, Sink, SinkError};
use dmus_driver::Platform;
use dmus_interface::doorbell;
use dmus_interface::event::PointerWidth;
use dmus_interface::protocol::Page as _;
use dmus_interface::regs::stream::State;
use dmus_interface::regs::{self, control};
use dmus_interface::time::RefTime;
use dmus_tests::attack::next_driver_plays;
use dmus_tests::direct::Direct;
use dmus_tests::loopback::{Loopback, MemorySink};
use dmus_tests::programs::{self, Running, run, said, signal, until};
use dmus_tests::raw::{RawStream, SLOTS, seconds};
use dmus_tests::recording::Recording;
use dmus_tests::recordings;
use std::io::{Cursor, Read};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// From one batch to the next.
const STEP: i64 = 1_000_000;
/// Bytes in front of the first block, and of the numbers in front of each.
const START: usize = 12;
const HEAD: usize = 12;

const SERVE: [&str; 7] = ["serve", "--socket", "card.sock", "--clock", "virtual", "--json", "card.json"];

fn serve(dir: &Path, arguments: &[&str]) -> anyhow::Result<Running> {
    let card = Running::start(programs::card()?.args(SERVE).args(arguments).current_dir(dir))?;
    until("the socket", LIMIT, || dir.join("card.sock").exists())?;
    Ok(card)
}

fn connect(dir: &Path) -> anyhow::Result<Loopback> {
    Loopback::new(&dir.join("card.sock"))
}

fn replay(dir: &Path, file: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    run(programs::card()?.args(["replay", file]).args(arguments).current_dir(dir))
}

fn end(card: Running) -> anyhow::Result<Output> {
    signal(card.id(), "TERM");
    card.output()
}

fn size(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |known| known.len())
}

fn samples(file: &Path) -> anyhow::Result<Vec<i16>> {
    let reader = hound::WavReader::open(file)?;
    Ok(reader.into_samples().collect::<Result<_, _>>()?)
}

/// A full pool of messages that no other batch has; on return they are completed.
fn play(stream: &RawStream<'_, Loopback>, batch: i64) -> anyhow::Result<()> {
    for slot in 0..SLOTS {
        let random = (batch as u32 * SLOTS + slot).wrapping_mul(2_654_435_761) >> 8;
        let [key, velocity, ..] = random.to_le_bytes();
        let message = [0x90, key & 0x7F, velocity & 0x7F];
        stream.fill(slot, stream.inline(batch * STEP + i64::from(slot), &message));
        stream.put(slot);
    }
    stream.publish();
    stream.grant((batch + 1) * STEP);
    for _ in 0..SLOTS {
        stream.completion()?;
    }
    stream.reach((batch + 1) * STEP)
}

/// Plays until a file has so many bytes; says how many batches that took.
fn play_until(stream: &RawStream<'_, Loopback>, file: &Path, bytes: u64) -> anyhow::Result<i64> {
    for batch in 0..2000 {
        play(stream, batch)?;
        if size(file) >= bytes {
            return Ok(batch + 1);
        }
    }
    anyhow::bail!("{} has {} bytes", file.display(), size(file))
}

/// Where each block of a file ends.
fn borders(file: &[u8]) -> Vec<usize> {
    let (mut all, mut at) = (vec![], START);
    while let Some(length) = file.get(at..at + 4).and_then(|bytes| bytes.first_chunk()) {
        at += HEAD + u32::from_le_bytes(*length) as usize;
        all.push(at);
    }
    all
}

/// A card that was ended in order, after so many batches; gives its recording.
fn recorded(dir: &Path, batches: i64) -> anyhow::Result<Vec<u8>> {
    let card = serve(dir, &["--record", "run.dmc"])?;
    let platform = connect(dir)?;
    let stream = RawStream::running(&platform, PointerWidth::Eight)?;
    (0..batches).try_for_each(|batch| play(&stream, batch))?;
    drop(platform);
    let done = end(card)?;
    ensure!(done.status.code() == Some(130), "{}", said(&done));
    Ok(std::fs::read(dir.join("run.dmc"))?)
}

/// What a replay says of a file, in one line of each kind: the time that it came to, and whether it was cut off.
fn told(done: &Output) -> anyhow::Result<(String, bool)> {
    let words = said(done);
    ensure!(done.status.code() == Some(0), "{words}");
    let time = words.lines().find_map(|line| line.split_once(": ")?.1.split_once(" s, "));
    let warned = words.matches(" is cut off or damaged behind ").count();
    ensure!(words.lines().count() == 1 + warned && warned < 2, "{words}");
    Ok((time.context("no time")?.0.to_owned(), warned == 1))
}

/// A sentence, and the exit code of a file that cannot be used.
fn is_refused(done: &Output, code: i32, sentence: &str) {
    let words = said(done);
    assert_eq!((done.status.code(), words.lines().count()), (Some(code), 1), "{words}");
    assert!(words.contains(sentence), "{words}");
}

#[test]
fn a_killed_card_leaves_a_recording_up_to_its_last_block() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let card = serve(dir.path(), &["--sink", "wav:out.wav", "--record", "run.dmc"])?;
    let platform = connect(dir.path())?;
    let stream = RawStream::running(&platform, PointerWidth::Eight)?;
    let file = dir.path().join("run.dmc");
    play(&stream, 0)?;
    let batches = play_on(&stream, &file)?;
    // In the middle of a note.
    stream.grant(seconds(3600));
    signal(card.id(), "KILL");
    let done = card.output()?;
    ensure!(done.status.code().is_none(), "{}", said(&done));
    let bytes = std::fs::read(&file)?;
    ensure!(borders(&bytes).len() >= 2, "{} blocks", borders(&bytes).len());
    let done = replay(dir.path(), "run.dmc", &["-o", "again.wav"])?;
    let (time, cut) = told(&done)?;
    // All that was in the file when the last batch was over.
    assert!(cut && time.parse::<f64>()? > 0.1, "{} after {batches} batches", said(&done));
    let (live, again) = (samples(&dir.path().join("out.wav"))?, samples(&dir.path().join("again.wav"))?);
    let common = live.len().min(again.len());
    assert!(common > 0 && live[..common] == again[..common]);
    assert!(again.iter().any(|sample| *sample != 0));
    // Half a block behind the last whole one changes nothing.
    let last = *borders(&bytes).iter().rfind(|border| **border <= bytes.len()).context("no block")?;
    std::fs::write(dir.path().join("half.dmc"), [&bytes[..last], &bytes[START..START + 20]].concat())?;
    assert_eq!(told(&replay(dir.path(), "half.dmc", &[])?)?, (time, true));
    Ok(())
}

/// Plays until a file has two more blocks than it had.
fn play_on(stream: &RawStream<'_, Loopback>, file: &Path) -> anyhow::Result<i64> {
    let blocks = || -> anyhow::Result<usize> {
        let bytes = std::fs::read(file)?;
        Ok(borders(&bytes).iter().filter(|border| **border <= bytes.len()).count())
    };
    let (before, mut batch) = (blocks()?, 1);
    while blocks()? < before + 2 {
        ensure!(batch < 2000, "the file does not grow");
        play(stream, batch)?;
        batch += 1;
    }
    Ok(batch)
}

#[test]
fn a_terminated_card_leaves_a_whole_recording_of_all_its_clients() -> anyhow::Result<()> {
    for transport in ["own", "crate"] {
        let dir = tempfile::tempdir()?;
        let outputs = ["--sink", "wav:out.wav", "--record", "run.dmc", "--trace", "live.pftrace"];
        let card = serve(dir.path(), &[&outputs[..], &["--transport", transport]].concat())?;
        let platform = connect(dir.path())?;
        let stream = RawStream::running(&platform, PointerWidth::Eight)?;
        (0..3).try_for_each(|batch| play(&stream, batch))?;
        drop(platform);
        next_driver_plays(&connect(dir.path())?)?;
        let done = end(card)?;
        assert_eq!(done.status.code(), Some(130), "{}", said(&done));
        let again = replay(dir.path(), "run.dmc", &["-o", "again.wav", "--json", "again.json"])?;
        assert!(!told(&again)?.1, "{}", said(&again));
        let read = |name: &str| std::fs::read(dir.path().join(name));
        assert!(read("out.wav")? == read("again.wav")?, "a replay sounds otherwise, {transport}");
        assert_eq!(String::from_utf8(read("card.json")?)?, String::from_utf8(read("again.json")?)?);
        let traced = run(programs::card()?.args(["trace", "run.dmc", "-o", "later.pftrace"]).current_dir(dir.path()))?;
        assert!(traced.status.success(), "{}", said(&traced));
        assert!(read("live.pftrace")? == read("later.pftrace")?, "a later trace differs, {transport}");
        let never = replay(dir.path(), "run.dmc", &["--until", "99999"])?;
        assert_eq!(never.status.code(), Some(1), "{}", said(&never));
        assert!(said(&never).contains("the point of --until never comes"), "{}", said(&never));
    }
    Ok(())
}

/// A signal breaks off whatever is under way, at any place.
#[test]
fn a_card_that_is_terminated_in_the_middle_leaves_a_whole_recording() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    for round in 0..8 {
        let card = serve(dir.path(), &["--sink", "wav:out.wav", "--record", "run.dmc"])?;
        let platform = connect(dir.path())?;
        let stream = RawStream::running(&platform, PointerWidth::Eight)?;
        for slot in 0..SLOTS {
            stream.fill(slot, stream.inline(i64::from(slot) * STEP, &[0x90, slot as u8, 100]));
            stream.put(slot);
        }
        stream.publish();
        stream.grant(seconds(3600));
        (0..round * 4).try_for_each(|_| stream.completion().map(drop))?;
        let done = end(card)?;
        assert_eq!(done.status.code(), Some(130), "{}", said(&done));
        let again = replay(dir.path(), "run.dmc", &["-o", "again.wav"])?;
        assert!(!told(&again)?.1, "{}", said(&again));
        let read = |name: &str| std::fs::read(dir.path().join(name));
        assert!(read("out.wav")? == read("again.wav")?, "a replay sounds otherwise, round {round}");
    }
    Ok(())
}

#[test]
fn a_full_disk_ends_the_recording_and_nothing_else() -> anyhow::Result<()> {
    /// In KiB.
    const FULL: u64 = 40;
    let dir = tempfile::tempdir()?;
    let run = |limit: &str, arguments: &[&str]| -> anyhow::Result<_> {
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("ulimit -f {limit}; exec \"$0\" \"$@\"")]).arg(programs::card()?.get_program());
        let card = Running::start(shell.args(SERVE).args(["--sink", "pipe:-"]).args(arguments).current_dir(&dir))?;
        until("the socket", LIMIT, || dir.path().join("card.sock").exists())?;
        Ok(card)
    };
    let card = run(&FULL.to_string(), &["--record", "run.dmc"])?;
    let id = card.id();
    let reader = std::thread::spawn(|| card.output());
    let platform = connect(dir.path())?;
    let stream = RawStream::running(&platform, PointerWidth::Eight)?;
    let batches = play_until(&stream, &dir.path().join("run.dmc"), FULL * 1024)?;
    (batches..batches + 10).try_for_each(|batch| play(&stream, batch))?;
    drop(platform);
    signal(id, "TERM");
    let limited = reader.join().ok().context("the reader")??;
    let words = String::from_utf8_lossy(&limited.stderr);
    assert_eq!(limited.status.code(), Some(130), "{words}");
    assert_eq!((words.matches("the recording ends here").count(), words.matches("run.dmc").count()), (1, 1), "{words}");

    let card = run("unlimited", &[])?;
    let id = card.id();
    let reader = std::thread::spawn(|| card.output());
    let platform = connect(dir.path())?;
    let stream = RawStream::running(&platform, PointerWidth::Eight)?;
    (0..batches + 10).try_for_each(|batch| play(&stream, batch))?;
    drop(platform);
    signal(id, "TERM");
    let whole = reader.join().ok().context("the reader")??;
    assert!(limited.stdout == whole.stdout, "{} and {} bytes", limited.stdout.len(), whole.stdout.len());

    let done = replay(dir.path(), "run.dmc", &["-o", "again.wav"])?;
    assert!(told(&done)?.1, "{}", said(&done));
    let again: Vec<u8> = samples(&dir.path().join("again.wav"))?.iter().flat_map(|n| n.to_le_bytes()).collect();
    assert!(again.len() > whole.stdout.len() / 2 && whole.stdout.starts_with(&again), "{}", said(&done));
    Ok(())
}

#[test]
fn a_trace_and_a_recording_do_not_end_each_other() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    for (record, trace, sentence) in
        [("run.dmc", "/dev/full", "cannot write /dev/full"), ("/dev/full", "run.pftrace", "/dev/full ends here")]
    {
        let card = serve(dir.path(), &["--record", record, "--trace", trace])?;
        let platform = connect(dir.path())?;
        let stream = RawStream::running(&platform, PointerWidth::Eight)?;
        (0..3).try_for_each(|batch| play(&stream, batch))?;
        drop(platform);
        let done = end(card)?;
        assert_eq!(done.status.code(), Some(130), "{}", said(&done));
        assert_eq!(said(&done).matches("/dev/full").count(), 1, "{}", said(&done));
        assert!(said(&done).contains(sentence), "{}", said(&done));
    }
    let done = replay(dir.path(), "run.dmc", &[])?;
    assert!(!told(&done)?.1, "{}", said(&done));
    assert!(size(&dir.path().join("run.pftrace")) > 1000);
    Ok(())
}

#[test]
fn a_second_card_that_would_record_to_the_file_is_refused() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let card = serve(dir.path(), &["--record", "run.dmc"])?;
    let platform = connect(dir.path())?;
    let stream = RawStream::running(&platform, PointerWidth::Eight)?;
    play(&stream, 0)?;
    let second = ["serve", "--socket", "other.sock", "--record", "run.dmc"];
    let done = run(programs::card()?.args(second).current_dir(dir.path()))?;
    is_refused(&done, 1, "cannot record to run.dmc: another card records to it");
    assert!(!dir.path().join("other.sock").exists());
    play(&stream, 1)?;
    drop(platform);
    end(card)?;
    let done = replay(dir.path(), "run.dmc", &[])?;
    assert_eq!(told(&done)?, ("0.200000".into(), false), "{}", said(&done));
    Ok(())
}

#[test]
fn a_recording_goes_through_a_pipe_or_nowhere() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    ensure!(run(Command::new("mkfifo").arg(dir.path().join("pipe")))?.status.success());
    let pipe = dir.path().join("pipe");
    let reader = std::thread::spawn(move || -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![];
        std::fs::File::open(pipe)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    for place in ["pipe", "/dev/null"] {
        let card = serve(dir.path(), &["--record", place])?;
        next_driver_plays(&connect(dir.path())?)?;
        let done = end(card)?;
        assert_eq!(done.status.code(), Some(130), "{}", said(&done));
        assert!(!said(&done).contains("the recording ends here"), "{}", said(&done));
    }
    std::fs::write(dir.path().join("run.dmc"), reader.join().ok().context("the reader")??)?;
    assert!(!told(&replay(dir.path(), "run.dmc", &[])?)?.1);
    Ok(())
}

#[test]
fn a_place_where_no_file_can_be_is_one_sentence() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    // Nobody makes files in /proc, not even root.
    for place in ["none/run.dmc", "/proc/run.dmc", "."] {
        let serve = ["serve", "--socket", "card.sock", "--record", place];
        let done = run(programs::card()?.args(serve).current_dir(dir.path()))?;
        is_refused(&done, 1, &format!("cannot record to {place}: "));
        assert!(!dir.path().join("card.sock").exists());
    }
    Ok(())
}

#[test]
fn what_is_no_recording_for_this_card_is_refused_in_one_sentence() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = recorded(dir.path(), 1)?;
    let mut newer = file.clone();
    newer[8] += 1;
    let mut records = unpack(&file)?;
    let key = b"\"interface\":";
    let at = records.windows(key.len()).position(|bytes| bytes == key).context("no version")? + key.len();
    records[at] = if records[at] == b'1' { b'2' } else { b'1' };
    let foreign = "it is no capsule, as dmus-card serve --record writes them";
    let cases: [(&[u8], &str); 8] = [
        (b"", foreign),
        (b"dmuscaps", foreign),
        (b"RIFF\x04\0\0\0DLS and more", foreign),
        (&newer, "it has format 3, and this card reads format 2"),
        (&pack(&records), "its card spoke version "),
        (&file[..START], "it ends before its first block does"),
        (&pack(b"\x02"), "its header is damaged"),
        (&pack(b"\x01\x02{]"), "its header is damaged"),
    ];
    for (bytes, sentence) in cases {
        std::fs::write(dir.path().join("bad.dmc"), bytes)?;
        for command in ["replay", "trace"] {
            let done = run(programs::card()?.args([command, "bad.dmc"]).current_dir(dir.path()))?;
            is_refused(&done, 3, &format!("cannot replay bad.dmc: {sentence}"));
        }
    }
    is_refused(&replay(dir.path(), "none.dmc", &[])?, 3, "cannot replay none.dmc: ");
    is_refused(&replay(dir.path(), ".", &[])?, 3, "cannot replay .: ");
    Ok(())
}

/// A recording may name any path for its bank.
#[test]
fn a_bank_that_is_no_file_does_not_hold_a_replay() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    ensure!(run(Command::new("mkfifo").arg(dir.path().join("pipe")))?.status.success());
    let records = unpack(&recorded(dir.path(), 1)?)?;
    let text = records.iter().position(|byte| *byte == b'{').context("no header")?;
    let mut values = serde_json::Deserializer::from_slice(&records[text..]).into_iter::<serde_json::Value>();
    let mut header = values.next().context("no header")??;
    for path in ["/dev/zero", "pipe", "."] {
        header["bank"] = serde_json::json!([{ "path": path, "size": 1, "crc": 1 }]);
        let json = header.to_string();
        let length = [json.len() as u8 | 0x80, (json.len() >> 7) as u8];
        std::fs::write(dir.path().join("bad.dmc"), pack(&[&[1], &length[..], json.as_bytes()].concat()))?;
        is_refused(&replay(dir.path(), "bad.dmc", &[])?, 3, "it is no regular file");
    }
    Ok(())
}

#[test]
fn a_damaged_recording_plays_up_to_the_damage() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = recorded(dir.path(), 120)?;
    let borders = borders(&file);
    ensure!(borders.len() >= 5 && borders.last() == Some(&file.len()), "{borders:?}");
    let replayed = |bytes: &[u8]| {
        std::fs::write(dir.path().join("part.dmc"), bytes)?;
        replay(dir.path(), "part.dmc", &[])
    };
    let whole = told(&replayed(&file)?)?;
    assert!(!whole.1);
    let mut before = None;
    for (number, border) in borders.iter().copied().enumerate() {
        // The last block is needed to be whole.
        let here = told(&replayed(&file[..border])?)?;
        assert_eq!(here.1, border != file.len(), "block {number}");
        if border < file.len() {
            assert_eq!(told(&replayed(&file[..=border])?)?, here, "a byte behind block {number}");
        }
        let from = number.checked_sub(1).map_or(START, |before| borders[before]);
        let mut flipped = file.clone();
        flipped[(from + HEAD + border) / 2] ^= 4;
        let mut wrong_head = file.clone();
        wrong_head[from + 9] ^= 1;
        for damaged in [&file[..border - 1], &flipped, &wrong_head] {
            let done = replayed(damaged)?;
            match &before {
                None => is_refused(&done, 3, "it ends before its first block does"),
                Some(before) => assert_eq!(told(&done)?, (String::clone(before), true), "block {number}"),
            }
        }
        before = Some(here.0);
    }
    assert_eq!(before, Some(whole.0));
    Ok(())
}

/// Counts what it is shown.
struct Count(usize);

impl Listener for Count {
    fn observe(&mut self, _: RefTime, _: &Observation) {
        self.0 += 1;
    }
}

/// A file of a few kilobytes could hold as many accesses as would fill the memory of whoever has them shown.
#[test]
fn more_at_once_than_a_card_records_is_not_shown() -> anyhow::Result<()> {
    const MOST: usize = 2 << 20;
    let records = unpack(&recordings::mistakes()?)?;
    let header = &records[..3 + usize::from(records[1] & 0x7F) + (usize::from(records[2]) << 7)];
    // A read of a byte of the doorbell page, and the answer.
    let read = [3, 2, 0, 1, 4, 1, 0];
    for (count, ended) in [(1000, Ended::Cut), (MOST + 9, Ended::Diverged("an end of what happens at once"))] {
        let file = pack(&[header, &read.repeat(count)].concat());
        let mut shown = Count(0);
        let bank = Arc::new(Bank::default());
        let run = Capsule::open(Cursor::new(file))?.replay(bank, Box::new(NullSink), None, Some(&mut shown), |_| ())?;
        assert_eq!(run.ended, ended);
        // Besides, that the client connected.
        assert!(shown.0 >= count.min(MOST) && shown.0 <= count.min(MOST) + 9, "{} of {count}", shown.0);
    }
    Ok(())
}

/// Keeps how many voices sound with each piece of audio.
struct Voices(Vec<usize>);

impl Listener for Voices {
    fn observe(&mut self, _: RefTime, observation: &Observation) {
        if let Observation::Audio { voices, .. } = observation {
            self.0.push(*voices);
        }
    }
}

#[test]
fn a_replay_shows_how_many_voices_sound() -> anyhow::Result<()> {
    let (recording, bank) = (Recording::default(), Arc::new(Bank::general_midi()));
    let platform = Direct::recorded(Arc::clone(&bank), recording.clone())?;
    let stream = RawStream::running(&platform, PointerWidth::Eight)?;
    stream.grant(seconds(1));
    for (slot, second, message) in [(0, 1, [0x90, 60, 100]), (1, 1, [0x90, 64, 100]), (2, 2, [0xB0, 120, 0])] {
        stream.fill(slot, stream.inline(seconds(second), &message));
        stream.put(slot);
    }
    stream.publish();
    stream.grant(seconds(3));
    stream.reach(seconds(3))?;
    platform.end()?;
    let mut shown = Voices(vec![]);
    recording.replay(&bank, Box::new(NullSink), Some(&mut shown))?;
    let (first, most, last) = (shown.0.first(), shown.0.iter().max(), shown.0.last());
    assert!(first == Some(&0) && most >= Some(&2) && last == Some(&0), "{:?}", shown.0);
    Ok(())
}

/// A sink that has room at each other question, and cannot be completed.
struct Narrow {
    asked: usize,
    audio: MemorySink,
}

impl Sink for Narrow {
    fn ready(&mut self) -> bool {
        self.asked += 1;
        self.asked.is_multiple_of(2)
    }

    fn write(&mut self, frames: &[i16]) {
        self.audio.write(frames);
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        Err(SinkError::Full { path: "the sink".into(), limit: "nothing" })
    }
}

/// A card with a thread of its own finds these as it rests: that there is room, that its sleep is over, and the tail of
/// a closed stream.
#[test]
fn what_is_found_between_two_turns_is_found_again_and_so_is_an_end_without_success() -> anyhow::Result<()> {
    let (recording, bank, audio) = (Recording::default(), Arc::new(Bank::default()), MemorySink::default());
    let checker = Arc::new(Checker::new(&[], None));
    let heard: (Box<dyn Sink>, _) = (Box::new(Narrow { asked: 0, audio: audio.clone() }), vec![]);
    let (platform, _) = Direct::deviating(Plan::default(), Arc::clone(&bank), heard, &checker, recording.clone())?;
    platform.keep_engine()?;
    let stream = RawStream::running(&platform, PointerWidth::Eight)?;
    stream.grant(seconds(1));
    stream.reach(seconds(1))?;
    let asleep = || platform.doorbell().load_u32(doorbell::WAKE_ARMED, Ordering::Acquire) != 0;
    stream.until("the card's sleep", asleep)?;
    platform.doorbell().store_u32(doorbell::at(3, doorbell::SUBMISSION_TAIL), 7, Ordering::Release);
    stream.ring();
    stream.until("the fault", || platform.stats.faults.get() > 0)?;
    // A request ends the sleep: nobody has to ring for what is stored then.
    stream.until("the next sleep", asleep)?;
    stream.set_state(State::Pause)?;
    stream.grant(seconds(2));
    stream.reach(seconds(2))?;
    platform.read32(regs::MAGIC.offset);
    platform.write32(regs::CONTROL.offset, control::RESET);
    ensure!(platform.end().is_err(), "the card ended well");
    let again = MemorySink::default();
    let sink = Box::new(Narrow { asked: 0, audio: again.clone() });
    let run = Capsule::open(Cursor::new(recording.bytes()))?.replay(bank, sink, None, None, |_| ())?;
    assert_eq!((run.ended, run.stats.faults.get()), (Ended::Whole, 1));
    assert!(audio.samples().len() == 2 * 96_000 && again.samples() == audio.samples());
    let report = run.checker.map(|checker| checker.json());
    assert_eq!(report, Some(checker.json()));
    ensure!(run.output.is_err(), "the replay ended well");
    Ok(())
}

#[test]
fn a_run_in_real_time_is_replayed_at_its_times() -> anyhow::Result<()> {
    let (recording, bank) = (Recording::default(), Arc::new(Bank::default()));
    let clock = ClockMode::Realtime;
    let platform = Direct::recorded_as(clock, Arc::clone(&bank), None, Options::default(), recording.clone())?;
    let stream = RawStream::running(&platform, PointerWidth::Eight)?;
    for slot in 0..3 {
        stream.fill(slot, stream.inline(i64::from(slot + 1) * STEP / 10, &[0x90, 60, 100]));
        stream.put(slot);
    }
    stream.publish();
    (0..3).try_for_each(|_| stream.completion().map(drop))?;
    platform.end()?;
    let run = recording.replay(&bank, Box::new(NullSink), None)?;
    assert_eq!(format!("{:?}", run.stats), format!("{:?}", platform.stats));
    assert!(run.stats.presented.get() + run.stats.late.get() == 3 && run.master.0 >= 3 * STEP / 10, "{:?}", run.master);
    Ok(())
}

#[test]
fn turns_that_find_nothing_take_no_room() -> anyhow::Result<()> {
    let recorded = |turns| -> anyhow::Result<usize> {
        let recording = Recording::default();
        let platform = Direct::recorded(Bank::default(), recording.clone())?;
        RawStream::running(&platform, PointerWidth::Eight)?;
        platform.run_until_idle();
        for _ in 0..turns {
            platform.turn();
        }
        platform.end()?;
        Ok(unpack(&recording.bytes())?.len())
    };
    let (few, many) = (recorded(1)?, recorded(10_000)?);
    assert!(many < few + 1000, "{few} bytes, and {many}");
    Ok(())
}
