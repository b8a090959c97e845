//! The page of a run, as a browser takes it: its figures and violations are there, no script fails, and nothing is
//! asked of the network.
//!
//! The runs are made up here; what the checker says in them is what it said of drivers of the zoo.

use anyhow::{Context, ensure};
use dmus_card::ClockMode;
use dmus_card::bank::Bank;
use dmus_card::capsule::report::{Facts, Report};
use dmus_card::capsule::{Listener, Observation};
use dmus_card::device::Region;
use dmus_card::sink::NullSink;
use dmus_conformance::zoo::mistakes;
use dmus_interface::event::{DONT_HOLD, Data, Event};
use dmus_interface::regs::Fault;
use dmus_interface::regs::stream::{State, Type};
use dmus_interface::ring::{Completion, Status};
use dmus_interface::time::RefTime;
use dmus_tests::direct::Direct;
use dmus_tests::loopback::HostedCard;
use dmus_tests::programs::{Running, said, script, target};
use dmus_tests::recording::Recording;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

const MS: i64 = 10_000;

/// A run that is made up, step by step.
struct Run {
    report: Report,
    master: i64,
    tail: u32,
}

impl Run {
    fn new() -> Self {
        Self { report: Report::new(), master: 0, tail: 0 }
    }

    fn see(&mut self, observation: Observation) {
        self.report.observe(RefTime(self.master), &observation);
    }

    fn begin(&mut self) {
        self.see(Observation::Connected);
        self.see(Observation::Mapped { iova: 0x10_0000, size: 0x40_0000, writable: true, shared: true });
        self.access(0, false, &0x4D44_u32.to_le_bytes());
        self.see(Observation::Reset);
        let request: Box<[u8]> = [0; 16].into();
        self.see(Observation::Command { opcode: 7, stream: 0, request, status: 0 });
    }

    fn access(&mut self, offset: u64, write: bool, bytes: &[u8]) {
        self.see(Observation::Access { region: Region::Registers, offset, write, bytes: bytes.into() });
    }

    fn open(&mut self, stream: usize, kind: Type, slots: u32) {
        self.see(Observation::Opened { stream, kind, slots, buffers: slots / 4, buffer_size: 256 });
    }

    fn change(&mut self, stream: usize, state: State) {
        self.see(Observation::Changed { stream, state, time_base: RefTime(self.master) });
    }

    fn submit(&mut self, stream: usize, slot: u32, time: i64, note: u8) {
        self.tail += 1;
        let index = self.tail - 1;
        self.see(Observation::Submitted { stream, tail: self.tail });
        self.see(Observation::Fetched { stream, index, slot });
        let data = Data::Inline([0x90, note, 100, 0, 0, 0, 0, 0]);
        let event = Event {
            struct_size: 40,
            event_bytes: 3,
            channel_group: 1,
            flags: 0,
            time,
            byte_position: 0,
            next: 0,
            data,
        };
        self.see(Observation::Event { stream, slot, event });
    }

    fn complete(&mut self, stream: usize, slot: u32, status: Status, flags: u16, time: i64) {
        let completion =
            Completion { slot: slot.into(), status: (status as u16).into(), flags: flags.into(), time: time.into() };
        self.see(Observation::Completed { stream, index: 0, completion });
    }

    /// `frames` of a tone that swells and fades, from the master time on.
    fn render(&mut self, frames: i64) {
        let from = self.master * 48 / MS;
        let sample = |frame: i64| {
            let time = (from + frame) as f64 / 48_000.0;
            let swell = (time * 0.9).sin().abs() * (1.0 - 0.6 * (time * 0.13).sin().abs());
            let tone = (time * 440.0 * std::f64::consts::TAU).sin() * swell;
            [(tone * 21_000.0) as i16, (tone * 14_000.0 * (time * 0.3).cos()) as i16]
        };
        let samples = (0..frames).flat_map(sample).collect();
        self.see(Observation::Audio { samples, voices: 12 });
    }

    fn violation(&mut self, rule: &'static str, slot: Option<u32>, report: Option<&str>) {
        self.see(Observation::Violation { rule, stream: Some(0), slot, report: report.map(str::to_owned) });
    }

    fn page(self, facts: &Facts) -> anyhow::Result<String> {
        let mut page = Vec::new();
        self.report.write(facts, &mut page)?;
        Ok(String::from_utf8(page)?)
    }
}

/// A song of half a minute in stream 0, with 64 slots, while stream 1 captures: every kind of observation.
fn song() -> Run {
    let mut run = Run::new();
    run.begin();
    run.open(0, Type::Render, 64);
    run.open(1, Type::Capture { cooked: true }, 16);
    for slot in 0..16 {
        run.submit(1, slot, 0, 0);
    }
    run.change(0, State::Run);
    run.change(1, State::Run);
    let start = run.master;
    // Due times and slots, the earliest first.
    let mut held = std::collections::VecDeque::new();
    let mut free: std::collections::VecDeque<u32> = (0..64).collect();
    let mut next = 0_i64;
    for step in 0..3000_i64 {
        run.master = start + step * 10 * MS;
        run.see(Observation::Granted { until: RefTime(run.master + 10 * MS) });
        // Four notes a beat, now and then a chord, and a passage that needs nearly all slots.
        let ahead = if (1200..1500).contains(&step) { 900 * MS } else { 300 * MS };
        while next < step * 10 * MS + ahead {
            for note in 0..if next / MS % 500 == 0 { 5 } else { 1 } {
                if let Some(slot) = free.pop_front() {
                    run.submit(0, slot, next, 40 + (next / MS % 37) as u8 + note);
                    held.push_back((next, slot));
                }
            }
            next += 25 * MS;
        }
        while let Some((due, slot)) = held.front().copied().filter(|(due, _)| *due <= step * 10 * MS) {
            held.pop_front();
            let stumbles = (1700..1760).contains(&step) || step % 431 == 0;
            match (stumbles, step % 500) {
                (true, _) => run.complete(0, slot, Status::Late, 0, (step % 60 + 1) * MS * 7 / 10),
                (false, 0) => run.complete(0, slot, Status::Rejected, 7, 0),
                _ => run.complete(0, slot, Status::Presented, 0, due),
            }
            free.push_back(slot);
        }
        if step % 300 == 40 {
            run.see(Observation::Received { input: 0, bytes: [0x91, 60, 90].into() });
            run.complete(1, (step / 300) as u32, Status::Presented, 0, run.master);
        }
        if step == 900 {
            run.violation("slot-changed", Some(5), Some("ERROR: driver mistake C6 slot-changed\n  where stream 0"));
        }
        match step {
            1710 => run.violation("slot-changed", None, None),
            1720 => run.violation("wake-needless", None, None),
            2500 => run.violation("use-after-reset", None, None),
            _ => {}
        }
        if step == 2000 {
            run.change(0, State::Pause);
            run.see(Observation::Refused { stream: 0, fault: Fault::TransitionBusy });
        }
        if step == 2050 {
            run.see(Observation::Changed { stream: 0, state: State::Run, time_base: RefTime(start) });
        }
        run.render(480);
        run.see(Observation::Interrupt { vector: (step % 2) as u16 });
    }
    run.change(0, State::Stop);
    for (_, slot) in held {
        run.complete(0, slot, Status::Discarded, 0, 0);
    }
    run.see(Observation::Closed { stream: 0 });
    run.see(Observation::Data { stream: 1, offset: 0x40, bytes: vec![0xF0; 100].into() });
    run.see(Observation::Unmapped { iova: 0x10_0000, size: 0x40_0000 });
    run
}

/// What the checker says of some drivers of the zoo, as if one had made all these mistakes.
fn found_in_the_zoo(rules: &[&str]) -> anyhow::Result<Value> {
    let mut all = Vec::new();
    for mistake in mistakes().iter().filter(|mistake| rules.contains(&mistake.rule)) {
        let platform = Direct::new()?;
        let checker = platform.check();
        mistake.run(&platform, &mut || {})?;
        let found = checker.json()["violations"].as_array().cloned().context("no violations")?;
        all.extend(found.into_iter().filter(|violation| violation["name"] == mistake.rule));
    }
    ensure!(all.len() == rules.len(), "the zoo has found {} of {rules:?}", all.len());
    Ok(json!({ "version": 1, "violations": all }))
}

fn facts(checker: Value) -> Facts {
    Facts {
        title: "song-that-stumbles.capsule".into(),
        clock: "virtual: time moved as far as the driver granted".into(),
        bank: "built-in General MIDI".into(),
        checker,
        counters: Value::Null,
        incomplete: None,
    }
}

/// What a browser makes of a page.
struct Seen {
    /// All that is in it once its script has run.
    dom: String,
    /// What its console says.
    console: Vec<String>,
    /// What it asked of the network: the origins that asked.
    asked: Vec<String>,
}

fn browse(page: &Path) -> anyhow::Result<Seen> {
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("net.json");
    let mut chromium = script("browser");
    chromium.args(["--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr"]);
    chromium.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    // What the browser asks for itself is no matter of the page, and gets no answer.
    chromium.arg("--host-resolver-rules=MAP * ~NOTFOUND");
    chromium.arg(format!("--user-data-dir={}", dir.path().join("profile").display()));
    chromium.arg(format!("--log-net-log={}", log.display()));
    chromium.args(["--virtual-time-budget=2000", "--dump-dom"]).arg(format!("file://{}", page.display()));
    let output = Running::start(&mut chromium)?.output()?;
    ensure!(output.status.success(), "{}", said(&output));
    let said = String::from_utf8_lossy(&output.stderr);
    let console = said.lines().filter(|line| line.contains(":CONSOLE")).map(str::to_owned).collect();
    let log = std::fs::read_to_string(log)?;
    let initiators = log.split("\"initiator\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    let asked = initiators.filter(|initiator| *initiator != "not an origin").map(str::to_owned).collect();
    Ok(Seen { dom: String::from_utf8(output.stdout)?, console, asked })
}

impl Seen {
    fn ensure_quiet(&self) -> anyhow::Result<()> {
        ensure!(self.console.is_empty(), "the console says {:#?}", self.console);
        ensure!(self.asked.is_empty(), "the network was asked by {:?}", self.asked);
        ensure!(self.dom.contains("data-script=\"ready\""), "the script of the page did not run to its end");
        Ok(())
    }

    #[track_caller]
    fn shows(&self, text: &str) {
        assert!(self.dom.contains(text), "the page does not show {text:?}");
    }
}

/// Leaves a page where it can be looked at, and looks.
fn look(name: &str, page: &str) -> anyhow::Result<Seen> {
    let dir = target().join("report-pages");
    std::fs::create_dir_all(&dir)?;
    let file = dir.canonicalize()?.join(name);
    std::fs::write(&file, page)?;
    browse(&file)
}

#[test]
fn a_browser_shows_the_figures_and_violations_of_a_run() -> anyhow::Result<()> {
    let rules = ["slot-changed", "tail-overrun", "wake-needless"];
    let mut facts = facts(found_in_the_zoo(&rules)?);
    facts.incomplete = Some("the file ends in the middle of a record".into());
    let page = song().page(&facts)?;
    ensure!(page.len() < 2_000_000, "the page has {} bytes", page.len());
    let seen = look("song.html", &page)?;
    seen.ensure_quiet()?;
    for rule in rules {
        seen.shows(&format!("id=\"rule-{rule}\""));
        seen.shows(&format!("href=\"#rule-{rule}\""));
    }
    for text in [
        "<h1>song-that-stumbles.capsule</h1>",
        "2 errors, 1 warning, 16 notes",
        "the file ends in the middle of a record",
        "<dt>Presented</dt><dd><b>1,415</b>",
        "<dt>Late</dt><dd><b>39</b> <small>by 41.3 ms at most</small>",
        "<dt>Rejected</dt><dd><b>25</b>",
        "<dt>Discarded</dt><dd><b>16</b>",
        "<dt>Peak in flight</dt><dd><b>45</b> <small>of 64 slots</small>",
        "1,376 submissions were on time, 39 were late; the worst by 41.3 ms, at 17.3800 s of the run.",
        "20 to 50 ms</th><td class=\"n\">15</td>",
        "RUN <small>20.5000 s</small>",
        "1 transition refused",
        "30.0000 s, peak -4.9 dBFS, 12 voices at most",
        "C6</span> slot-changed",
        "The slot's history",
        "Submitted by the driver",
        "Stream 0, render",
        "Stream 1, capture",
        "id=\"flight-0\"",
        "id=\"occupancy-1\"",
        "a row is a slot",
        "Late submissions, by how late",
        "Waveform, both channels",
        "left above right",
        "stream 0 was closed",
        "100 bytes at buffer area + 0x40",
        "Last observations",
        "40 observations",
        // Not in the checker's JSON: told by the observation alone.
        "id=\"rule-use-after-reset\"",
    ] {
        seen.shows(text);
    }
    Ok(())
}

#[test]
fn counters_and_a_good_outcome_are_shown() -> anyhow::Result<()> {
    let mut facts = facts(json!({ "version": 1, "errors": 0, "warnings": 0, "notes": 0, "violations": [] }));
    let late_by = json!({ "below_1_ms": 1, "2": 2, "5": 0, "10": 0, "20": 0, "50": 0, "more": 31_415 });
    facts.counters = json!({ "presented": 7_654_321, "late": 31_418, "late_by": late_by, "peak_in_flight": 4_095 });
    let mut run = Run::new();
    run.begin();
    run.open(0, Type::Render, 4096);
    run.change(0, State::Run);
    for slot in 0..4096 {
        run.submit(0, slot, DONT_HOLD, 60);
    }
    run.master += 123 * MS;
    run.complete(0, 77, Status::Presented, 0, 0);
    let seen = look("good.html", &run.page(&facts)?)?;
    seen.ensure_quiet()?;
    for text in [
        "No rule was broken",
        "<b>7,654,321</b>",
        "<b>31,418</b>",
        "<b>4,095</b>",
        "<td class=\"n\">31,415</td>",
        "<b>0.1230 s</b>",
        "a row is 16 slots",
        "4,095 slots still in flight",
        "The card rendered no audio.",
    ] {
        seen.shows(text);
    }
    Ok(())
}

#[test]
fn an_empty_recording_makes_a_page() -> anyhow::Result<()> {
    let seen = look("empty.html", &Run::new().page(&Facts::default())?)?;
    seen.ensure_quiet()?;
    for text in ["Not checked", "No stream of the 8 was opened", "Nothing was observed"] {
        seen.shows(text);
    }
    Ok(())
}

/// The page of what a card recorded.
fn recorded(recording: &Recording) -> anyhow::Result<String> {
    let mut report = Report::new();
    recording.replay(&Arc::new(Bank::default()), Box::new(NullSink), Some(&mut report))?;
    let mut page = Vec::new();
    report.write(&Facts::default(), &mut page)?;
    Ok(String::from_utf8(page)?)
}

#[test]
fn each_client_is_counted_and_none_that_could_have_come() -> anyhow::Result<()> {
    let counts = |page: &str, clients: usize| -> anyhow::Result<()> {
        let figure = format!("<dt>Clients</dt><dd><b>{clients}</b>");
        let shown = page.split("<dt>Clients</dt>").nth(1).and_then(|rest| rest.get(..30));
        ensure!(page.contains(&figure), "the figure is {shown:?} and not {clients}");
        let told = page.matches("a client connected").count();
        ensure!(told == clients, "{told} of {clients} are among the last observations");
        Ok(())
    };
    let host = HostedCard::start(ClockMode::Virtual)?;
    drop(host.connect()?);
    let recording = host.recording.clone();
    host.finish()?;
    counts(&recorded(&recording)?, 1)?;

    // Nobody came, then two.
    for clients in [0, 2] {
        let mut run = Run::new();
        for _ in 0..clients {
            run.see(Observation::Connected);
            run.access(0, false, &[0; 4]);
            run.see(Observation::Disconnected);
        }
        run.render(480);
        counts(&run.page(&Facts::default())?, clients)?;
    }
    Ok(())
}

#[test]
fn a_hostile_recording_is_shown_as_text() -> anyhow::Result<()> {
    const EVIL: &str =
        "</script><script>document.title='owned';nope()</script><img src=x onerror=nope()>\"'><b id=owned>";
    let mut run = Run::new();
    run.begin();
    for number in [0, 7, 8, usize::MAX] {
        run.open(number, Type::Render, u32::MAX);
        run.change(number, State::Run);
        for slot in [0, 4095, 4096, u32::MAX] {
            run.submit(number, slot, i64::MAX, 255);
            run.complete(number, slot ^ 1, Status::Late, u16::MAX, i64::MIN);
            run.master = run.master.wrapping_mul(7).wrapping_sub(i64::MAX / 3);
        }
        run.see(Observation::Violation { rule: EVIL, stream: Some(number), slot: Some(1), report: Some(EVIL.into()) });
    }
    run.see(Observation::Command { opcode: u32::MAX, stream: u32::MAX, request: vec![0; 5000].into(), status: 12345 });
    let words = json!([EVIL, EVIL]);
    let first = json!({
        "stream": EVIL, "slot": EVIL, "expected": EVIL, "found": EVIL, "master_time_100ns": i64::MIN,
        "event": { "cb_event": EVIL, "channel_group": EVIL, "flags": EVIL, "time_100ns": i64::MAX, "bytes": EVIL,
            "message": EVIL },
        "culprit": { "pc": EVIL, "bytes": EVIL, "value": EVIL, "vcpu": EVIL, "functions": words, "callers": words,
            "registers": words },
        "history": [{ "step": EVIL, "master_time_100ns": EVIL, "tail": EVIL }],
    });
    let violation = json!({
        "code": EVIL, "name": format!("x{EVIL}"), "severity": EVIL, "meaning": EVIL, "cause": EVIL, "mend": EVIL,
        "section": EVIL, "count": u64::MAX, "allowed": null, "first": first,
    });
    let evil = || EVIL.to_owned();
    let facts = Facts {
        title: evil(),
        clock: evil(),
        bank: evil(),
        checker: json!({ "violations": [violation, { "name": EVIL, "allowed": EVIL }] }),
        counters: json!({ "presented": EVIL, "late_by": { "below": EVIL } }),
        incomplete: Some(evil()),
    };
    let page = run.page(&facts)?;
    ensure!(page.matches("<script").count() == 1, "the page has another script than its own");
    ensure!(!page.contains("<img") && !page.contains("<b id"), "a text of the recording is an element");
    let seen = look("hostile.html", &page)?;
    seen.ensure_quiet()?;
    ensure!(!seen.dom.contains("<title>owned"), "a script of the recording ran");
    Ok(())
}

/// Streams with the largest pools, all slots taken and given back in no order, for ten hours.
#[test]
fn a_long_run_with_large_pools_makes_a_page_of_bounded_size() -> anyhow::Result<()> {
    let mut run = Run::new();
    run.begin();
    for stream in 0..8 {
        run.open(stream, Type::Render, 4096);
        run.change(stream, State::Run);
    }
    let (mut random, mut taken) = (1_u64, vec![false; 8 * 4096]);
    for _ in 0..300_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (stream, slot) = ((random >> 33) as usize % 8, (random >> 40) as u32 % 4096);
        run.master += (random >> 50) as i64 % (240 * MS);
        let taken = &mut taken[stream * 4096 + slot as usize];
        *taken = !*taken;
        match *taken {
            true => run.submit(stream, slot, run.master + (random >> 30) as i64 % 10_000_000, 60),
            false => run.complete(stream, slot, Status::Late, 0, (random >> 20) as i64 % 10_000_000),
        }
        if random >> 60 == 0 {
            run.violation("slot-changed", Some(slot), None);
            run.render(1024);
        }
    }
    let page = run.page(&facts(Value::Null))?;
    ensure!(page.contains("a row is 16 slots") && page.len() < 8_000_000, "the page has {} bytes", page.len());
    Ok(())
}

#[test]
fn what_a_page_must_not_do_is_seen() -> anyhow::Result<()> {
    let page =
        "<!doctype html><html data-script=\"ready\"><img src=\"http://127.0.0.1:9/x.png\"><script>nope()</script>";
    let seen = look("bad.html", page)?;
    ensure!(!seen.asked.is_empty(), "a request to the network was not seen");
    ensure!(seen.console.iter().any(|line| line.contains("nope")), "an error of a script was not seen");
    Ok(())
}
