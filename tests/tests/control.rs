//! What a serving card tells whoever debugs its guest: the control socket, and the owners map of a plugin that holds
//! the guest at mistakes, whose part is played here.

use anyhow::{Context, ensure};
use dmus_card::owners::Owners;
use dmus_conformance::raw::RawStream;
use dmus_driver::Platform;
use dmus_interface::doorbell;
use dmus_interface::event::{DONT_HOLD, Data, Event, PointerWidth};
use dmus_interface::owners::{ASKED, JUDGED, MAX_CALLERS, Record, Ring, STOPPING, STOPS, Store, WATCHING};
use dmus_interface::protocol::driver;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::wave::{Sample, WaveFormat};
use dmus_tests::loopback::Loopback;
use dmus_tests::memory::RAM_IOVA;
use dmus_tests::programs::{self, Running, run, said, signal, until};
use dmus_tests::raw::Bus;
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

const LIMIT: Duration = Duration::from_secs(20);
const NOTE: [u8; 3] = [0x90, 60, 100];
/// A second, 100 ns.
const SECOND: i64 = 10_000_000;
const WAVES: WaveFormat = WaveFormat { rate: 48_000, channels: 2, sample: Sample::S16 };

/// A card with a control socket, and a driver of it.
struct Served {
    card: Running,
    driver: Loopback,
    dir: tempfile::TempDir,
}

impl Served {
    fn new(options: &[&str]) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let arguments = ["serve", "--clock", "virtual", "--socket", "card.sock", "--control", "control.sock"];
        let mut command = programs::card()?;
        command.args(arguments).args(["--json", "counters"]).args(options).current_dir(dir.path());
        let card = Running::start(&mut command)?;
        until("the card's counters", LIMIT, || dir.path().join("counters").exists())?;
        let driver = Loopback::new(&dir.path().join("card.sock"))?;
        Ok(Self { card, driver, dir })
    }

    fn control(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    fn ask(&self, words: &[&str]) -> anyhow::Result<String> {
        let done = run(programs::card()?.arg("ask").arg(self.control()).args(words))?;
        ensure!(done.status.success(), "{words:?}: {}", said(&done));
        Ok(String::from_utf8(done.stdout)?)
    }

    fn end(self) -> anyhow::Result<Output> {
        drop(self.driver);
        signal(self.card.id(), "TERM");
        self.card.output()
    }
}

#[test]
fn slots_are_told_with_their_owner_their_event_and_their_steps() -> anyhow::Result<()> {
    let served = Served::new(&[])?;
    assert_eq!(served.ask(&["slots"])?, "no stream is open\n");
    assert_eq!(served.ask(&["violation"])?, "no rule was broken so far\n");
    let s = RawStream::running(&served.driver, PointerWidth::Eight)?;
    s.submit(3, s.inline(0, &NOTE), 0);
    s.completion()?;
    s.fill(5, s.inline(SECOND, &NOTE));
    s.put(5);
    s.publish();
    until("the card to have taken the slot", LIMIT, || served.ask(&["slots"]).is_ok_and(|all| all.contains("slot 5")))?;
    assert_eq!(
        served.ask(&["slots"])?,
        "stream 0, render, RUN: 1 of 64 slots are the card's; tail 2, fetched 2, completed 1\n  \
         slot 5     note on, channel 1, key 60, velocity 100, due 1.000000 s of stream time\n"
    );
    let slot = served.ask(&["slot", "5"])?;
    for line in [
        "stream 0, slot 5: the card's: note on, channel 1, key 60, velocity 100, due 1.000000 s of stream time",
        "  memory    cbEvent 3, group 0, due 1.000000 s of stream time",
        "  history   submitted by the driver    at 0.000000 s, tail 2",
        "            held by the card           at 0.000000 s, tail 2",
    ] {
        ensure!(slot.lines().any(|told| told == line), "{line}: {slot}");
    }
    let slot = served.ask(&["slot", "3"])?;
    ensure!(slot.starts_with("stream 0, slot 3: the driver's\n") && slot.contains("completed: presented"), "{slot}");
    assert_eq!(served.ask(&["slot", "64"])?, "stream 0 has 64 slots and no slot 64\n");
    // A mistake, and what is told of it by itself.
    s.publish_tail(1);
    until("the report", LIMIT, || served.ask(&["violation"]).is_ok_and(|told| told.contains("tail-backward")))?;
    let told = served.ask(&["violation"])?;
    let done = served.end()?;
    ensure!(said(&done).contains(&told), "{told}: {}", said(&done));
    ensure!(done.status.code() == Some(9), "{}", done.status);
    Ok(())
}

#[test]
fn a_held_slot_is_told_with_when_it_is_due_or_as_posted() -> anyhow::Result<()> {
    let served = Served::new(&[])?;
    let s = RawStream::prepare(&served.driver, PointerWidth::Eight)?;
    s.create()?;
    s.set_state(State::Pause)?;
    s.fill(1, s.inline(DONT_HOLD, &NOTE));
    s.fill(2, s.inline(0, &NOTE));
    s.fill(3, s.event(SECOND, 0, Data::Package(s.slot_iova(4))));
    s.fill(4, Event { next: s.slot_iova(5), ..s.inline(0, &NOTE) });
    s.fill(5, s.inline(0, &NOTE));
    (1..4).for_each(|slot| s.put(slot));
    s.publish();
    until("the card to have taken all", LIMIT, || served.ask(&["slots"]).is_ok_and(|all| all.contains("fetched 3")))?;
    let note = "note on, channel 1, key 60, velocity 100";
    assert_eq!(
        served.ask(&["slots"])?,
        format!(
            "stream 0, render, PAUSE: 5 of 64 slots are the card's; tail 3, fetched 3, completed 0\n  \
             slot 1     {note}, due at once\n  slot 2     {note}, due 0.000000 s of stream time\n  \
             slot 3     the head of a package, due 1.000000 s of stream time\n  \
             slot 4     {note}\n  slot 5     {note}\n"
        )
    );
    for (kind, name) in [
        (Type::Capture { cooked: true }, "capture"),
        (Type::Capture { cooked: false }, "capture, raw bytes"),
        (Type::WaveSink, "wave sink"),
    ] {
        let s = RawStream::prepare(&served.driver, PointerWidth::Eight)?;
        s.write(stream::WAVE_RATE, WAVES.rate);
        s.write(stream::WAVE_FORMAT, WAVES.value());
        assert_eq!(s.transition(stream::TYPE, kind.value())?, None, "{name}");
        s.set_state(State::Pause)?;
        s.fill(7, s.event(0, 0, Data::Inline(s.buffer_iova(0).to_le_bytes())));
        s.put(7);
        s.publish();
        until("the post", LIMIT, || served.ask(&["slots"]).is_ok_and(|all| all.contains("fetched 1")))?;
        assert_eq!(
            served.ask(&["slots"])?,
            format!(
                "stream 0, {name}, PAUSE: 1 of 64 slots are the card's; tail 1, fetched 1, completed 0\n  \
                 slot 7     posted, or part of a submission\n"
            )
        );
    }
    served.end().map(drop)
}

#[test]
fn nobody_at_the_control_socket_holds_up_the_others_or_the_end() -> anyhow::Result<()> {
    let served = Served::new(&[])?;
    let connect = || UnixStream::connect(served.control()).context("the control socket");
    // Silent ones, one who drips, one who never reads, and one who says too much.
    let silent = connect()?;
    let mut dripping = connect()?;
    let drip = std::thread::spawn(move || {
        let began = Instant::now();
        while began.elapsed() < LIMIT && dripping.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(200));
        }
        began.elapsed()
    });
    let mut deaf = connect()?;
    deaf.write_all(b"slots\n")?;
    let mut endless = connect()?;
    // The card may have enough of it.
    let _ = endless.write_all(&[b'a'; 100_000]);
    ensure!(served.ask(&["slots"])? == "no stream is open\n", "not answered");
    let mut heard = String::new();
    // What has not been read may be lost with the connection.
    let _ = endless.read_to_string(&mut heard);
    ensure!(heard.is_empty() || heard.starts_with("expected `slots`"), "{heard}");
    let dripped = drip.join().map_err(|_| anyhow::anyhow!("the one who drips"))?;
    ensure!(dripped < LIMIT, "one who drips was listened to for {dripped:?}");
    // A new one stays silent while the card ends.
    let last = connect()?;
    let done = served.end()?;
    ensure!(done.status.code() == Some(130), "{}: {}", done.status, said(&done));
    drop((silent, deaf, last));
    Ok(())
}

#[test]
fn a_control_socket_that_is_another_card_s_is_refused_and_goes_with_its_card() -> anyhow::Result<()> {
    let served = Served::new(&[])?;
    let control = served.control();
    let second = |options: &[&str]| -> anyhow::Result<(Option<i32>, String)> {
        let mut command = programs::card()?;
        let done =
            run(command.args(["serve", "--socket", "second.sock"]).args(options).current_dir(served.dir.path()))?;
        Ok((done.status.code(), said(&done)))
    };
    let (code, words) = second(&["--control", "control.sock"])?;
    ensure!(code == Some(1) && words.contains("the socket control.sock is in use by another process"), "{words}");
    let (code, words) = second(&["--control", "other.sock", "--check", "off"])?;
    ensure!(code == Some(2) && words.contains("are about what --check warn finds"), "{words}");
    let dir = served.end().map(drop);
    until("the socket to be removed", LIMIT, || !control.exists())?;
    dir
}

/// The plugin's side of the owners map.
struct Plugin {
    file: File,
    asked: u32,
    owned: u32,
}

impl Plugin {
    fn new(path: &Path) -> anyhow::Result<Self> {
        Ok(Self { file: File::options().read(true).write(true).open(path)?, asked: 0, owned: 0 })
    }

    fn word(&self, offset: u64) -> anyhow::Result<u32> {
        let mut word = [0; 4];
        self.file.read_exact_at(&mut word, offset)?;
        Ok(u32::from_le_bytes(word))
    }

    /// Waits as a vCPU does that has stored, and says for how many mistakes it would have been held by then.
    fn judged(&mut self) -> anyhow::Result<u32> {
        self.asked += 1;
        self.file.write_all_at(&self.asked.to_le_bytes(), ASKED)?;
        until("the judgement", LIMIT, || self.word(JUDGED).is_ok_and(|judged| judged == self.asked))?;
        self.word(STOPS)
    }

    /// The same after a store into memory of the card.
    fn judged_owned(&mut self) -> anyhow::Result<u32> {
        self.owned += 1;
        self.file.write_all_at(&self.owned.to_le_bytes(), Ring::Owned.next())?;
        self.judged()
    }

    /// Records a store by an instruction of a function.
    fn record(&self, ring: Ring, address: u64, pc: u64, function: &str) -> anyhow::Result<()> {
        let (value, vcpu, registers, caller_count) = (7, 1, [pc + 1; 16], 2);
        let (mut callers, text) = ([0; MAX_CALLERS], format!("{function} at driver.c:1\nmain at driver.c:9"));
        callers[..2].copy_from_slice(&[pc + 2, pc + 3]);
        let store = Store { ring, address, size: 4, value, vcpu, pc, registers, caller_count, callers, text: &text };
        let number = self.word(ring.next())?;
        self.file.write_all_at(Record::encode(number, &store).as_bytes(), ring.record(number))?;
        self.file.write_all_at(&(number + 1).to_le_bytes(), ring.next())?;
        Ok(())
    }
}

/// A card with an owners map, and the plugin.
fn with_plugin(options: &[&str]) -> anyhow::Result<(Served, Plugin)> {
    let dir = tempfile::tempdir()?;
    let map = dir.path().join("owners");
    Owners::create(&map, 64 << 20)?;
    let map = map.to_str().context("a path")?.to_owned();
    let served = Served::new(&[&["--owners", &map], options].concat())?;
    Ok((served, Plugin::new(Path::new(&map))?))
}

/// The same, and the card stops; `options`: the rule to stop at.
fn stopping(options: &[&str]) -> anyhow::Result<(Served, Plugin)> {
    let (served, plugin) = with_plugin(&[&["--check", "stop"], options].concat())?;
    ensure!(plugin.word(STOPPING)? == 1, "the guest is not to be held");
    Ok((served, plugin))
}

/// For a card that is replayed.
const KEPT: [&str; 4] = ["--record", "run.dmc", "--report", "report.json"];

/// The violations that a card reports, which its recording comes to as well.
fn replayed(served: Served) -> anyhow::Result<Vec<Value>> {
    let Served { card, driver, dir } = served;
    drop(driver);
    signal(card.id(), "TERM");
    let done = card.output()?;
    let replay = ["replay", "run.dmc", "--report", "again.json", "--json", "again"];
    let again = run(programs::card()?.args(replay).current_dir(dir.path()))?;
    ensure!((done.status.code(), again.status.code()) == (Some(9), Some(9)), "{}: {}", said(&done), said(&again));
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name));
    let report = read("report.json")?;
    assert_eq!(read("again.json")?, report);
    assert_eq!(read("again")?, read("counters")?);
    let report: Value = serde_json::from_str(&report)?;
    Ok(report["violations"].as_array().context("no violations")?.clone())
}

#[test]
fn a_guest_is_stopped_at_the_store_that_changes_a_slot_and_told_of_once() -> anyhow::Result<()> {
    let (served, mut plugin) = stopping(&[])?;
    let s = RawStream::running(&served.driver, PointerWidth::Eight)?;
    s.fill(5, s.inline(SECOND, &NOTE));
    s.put(5);
    s.publish();
    assert_eq!(plugin.judged()?, 0, "all is well");
    // The same once more changes nothing.
    s.fill(5, s.inline(SECOND, &NOTE));
    assert_eq!(plugin.judged_owned()?, 0, "it is as it was");
    s.fill(5, s.inline(SECOND, &[0x90, 61, 100]));
    assert_eq!(plugin.judged()?, 0, "no store into memory of the card was seen");
    assert_eq!(plugin.judged_owned()?, 1, "the slot has changed");
    s.fill(5, s.inline(2 * SECOND, &[0x90, 61, 100]));
    assert_eq!(plugin.judged_owned()?, 1, "the slot is told of already");
    s.grant(SECOND);
    s.completion()?;
    assert_eq!(plugin.judged()?, 1, "it went home as it was told of");
    // The next submission of that slot is another one, and so is its time.
    s.fill(5, s.inline(3 * SECOND, &NOTE));
    s.put(5);
    s.publish();
    assert_eq!(plugin.judged()?, 1, "it is in order");
    s.fill(5, s.inline(4 * SECOND, &NOTE));
    assert_eq!(plugin.judged_owned()?, 1, "only the first of a kind stops the guest");
    let done = served.end()?;
    ensure!(said(&done).contains("C6 slot-changed (2 times)"), "{}", said(&done));
    ensure!(done.status.code() == Some(9), "{}", done.status);
    Ok(())
}

#[test]
fn a_guest_is_stopped_at_each_breach_of_the_rule_that_is_chosen_and_at_no_other() -> anyhow::Result<()> {
    let (served, mut plugin) = stopping(&["--stop-at", "struct-size"])?;
    let s = RawStream::running(&served.driver, PointerWidth::Eight)?;
    let submit = |slot: u32, cut: u8| {
        let (mut bytes, len) = s.inline(0, &NOTE).encode(PointerWidth::Eight);
        bytes[1] -= cut;
        s.pool.memory.write(slot as usize * 64, &bytes[..len]);
        s.put(slot);
        s.publish();
    };
    for (slot, cut, stops) in [(0, 8, 1), (1, 0, 1), (2, 8, 2)] {
        submit(slot, cut);
        assert_eq!(plugin.judged()?, stops, "slot {slot}");
        s.completion()?;
    }
    s.publish_tail(1);
    assert_eq!(plugin.judged()?, 2, "a tail that went back is another rule's");
    let done = served.end()?;
    // Each that the guest is stopped at is told in full.
    ensure!(said(&done).matches("submission rejected R2 struct-size").count() == 2, "{}", said(&done));
    for slot in ["  where     stream 0, slot 0 at ", "  where     stream 0, slot 2 at "] {
        ensure!(said(&done).contains(slot), "{slot}: {}", said(&done));
    }
    Ok(())
}

#[test]
fn a_mistake_at_a_register_or_at_a_closed_stream_stops_the_guest_too() -> anyhow::Result<()> {
    let (served, mut plugin) = stopping(&[])?;
    served.driver.write_bar0(1, &[0]);
    assert_eq!(plugin.judged()?, 1, "a register of a wrong width");
    let s = RawStream::running(&served.driver, PointerWidth::Eight)?;
    s.publish_tail(0);
    assert_eq!(plugin.judged()?, 1, "nothing happened");
    driver::publish_tail(served.driver.doorbell(), 3, 1);
    assert_eq!(plugin.judged()?, 2, "a tail of a stream that is not open");
    served.end().map(drop)
}

#[test]
fn a_run_that_stopped_replays_to_the_same_report() -> anyhow::Result<()> {
    for at in [&[][..], &["--stop-at", "slot-changed"]] {
        let (served, mut plugin) = stopping(&[&KEPT[..], at].concat())?;
        let s = RawStream::running(&served.driver, PointerWidth::Eight)?;
        s.fill(5, s.inline(SECOND, &NOTE));
        s.put(5);
        s.publish();
        assert_eq!(plugin.judged()?, 0, "all is well");
        s.fill(5, s.inline(SECOND, &[0x90, 61, 100]));
        assert_eq!(plugin.judged_owned()?, 1, "the slot has changed");
        driver::publish_tail(served.driver.doorbell(), 3, 1);
        assert_eq!(plugin.judged()?, if at.is_empty() { 2 } else { 1 }, "a tail of a stream that is not open");
        s.grant(SECOND);
        s.completion()?;
        let violations = replayed(served)?;
        let names: Vec<&Value> = violations.iter().map(|violation| &violation["name"]).collect();
        ensure!(names.len() == 2 && names.contains(&&Value::from("slot-changed")), "{names:?}");
        // As they were judged, not as the slot went home.
        for violation in &violations {
            assert_eq!(violation["first"]["master_time_100ns"], 0, "{violation}");
            assert_eq!(violation["first"]["culprit"], Value::Null, "{violation}");
        }
    }
    Ok(())
}

#[test]
fn a_run_with_a_plugin_replays_to_the_same_culprits() -> anyhow::Result<()> {
    let (served, mut plugin) = with_plugin(&KEPT)?;
    plugin.file.write_all_at(&1_u32.to_le_bytes(), WATCHING)?;
    let s = RawStream::running(&served.driver, PointerWidth::Eight)?;
    s.fill(5, s.inline(SECOND, &NOTE));
    s.put(5);
    s.publish();
    plugin.judged()?;
    s.fill(5, s.inline(SECOND, &[0x90, 61, 100]));
    plugin.record(Ring::Owned, s.slot_iova(5) - RAM_IOVA + 4, 0x1000, "change")?;
    // Another slot's is not taken for it.
    plugin.record(Ring::Owned, s.slot_iova(6) - RAM_IOVA + 4, 0x1100, "other")?;
    s.grant(SECOND);
    s.completion()?;
    let (mut bytes, len) = s.inline(0, &NOTE).encode(PointerWidth::Eight);
    bytes[1] -= 8;
    s.pool.memory.write(0, &bytes[..len]);
    s.put(0);
    plugin.record(Ring::Doorbell, doorbell::at(0, doorbell::SUBMISSION_TAIL) as u64, 0x2000, "publish")?;
    s.publish();
    s.completion()?;
    plugin.record(Ring::Doorbell, doorbell::GRANT as u64, 0x3000, "grant")?;
    s.grant(0);
    plugin.judged()?;
    // Of this one, the plugin knows no store.
    served.driver.write_bar0(1, &[0]);
    let mut culprits = Vec::new();
    for violation in replayed(served)? {
        let (name, culprit) = (&violation["name"], &violation["first"]["culprit"]);
        let of = |key: &str| culprit[key].as_str().unwrap_or_default().to_owned();
        let function = culprit["functions"][0].as_str().unwrap_or_default().to_owned();
        culprits.push((name.as_str().unwrap_or_default().to_owned(), of("pc"), function));
    }
    culprits.sort();
    let expected = [
        ("grant-backward", "0x3000", "grant at driver.c:1"),
        ("register-width", "", ""),
        ("slot-changed", "0x1000", "change at driver.c:1"),
        ("struct-size", "0x2000", "publish at driver.c:1"),
    ];
    assert_eq!(culprits, expected.map(|(name, pc, function)| (name.into(), pc.into(), function.into())));
    Ok(())
}
