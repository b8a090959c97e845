//! Ten changes of a driver, planted around a real driver on a real card in this process, and what a comparison of the
//! two runs names as the first difference. In [`others`], what is not playing.

#[path = "diff/others.rs"]
mod others;
#[path = "diff/watch.rs"]
mod watch;

use anyhow::{Context, ensure};
use dmus_card::ClockMode;
use dmus_card::bank::Bank;
use dmus_card::capsule::Listener;
use dmus_card::capsule::diff::{Comparison, Kind, Lane, Run as Which, diff};
use dmus_card::sink::NullSink;
use dmus_driver::{Card, RenderStream, StreamConfig, play};
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_song::Song;
use dmus_tests::loopback::HostedCard;
use dmus_tests::recording::Recording;
use dmus_tests::songs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use watch::{Meddling, Watch};

/// Longer than anything takes.
const LIMIT: Duration = Duration::from_secs(5);
/// Batches of the song, events of each, and from one grant to the next: a tenth of a second.
const BATCHES: u32 = 12;
const EVENTS: u32 = 4;
const STEP: i64 = 1_000_000;
/// The batch that the change is in, and its first submission.
const BATCH: u32 = 5;
const AT: u32 = BATCH * EVENTS;

/// A change of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    WrongTime,
    LostEvent,
    DoubledEvent,
    Reordered,
    MissingGrant,
    LateTail,
    WrongLength,
    OtherGroup,
    DroppedWait,
    PoolSize,
}

impl Planted {
    /// Each, the lane and the kind of the difference that it makes, and words that have to be said.
    const ALL: [(Self, Lane, Kind, &'static str); 10] = [
        (Self::WrongTime, SUBMISSIONS, Kind::Changed(1), "due 0.501500 s instead of due 0.501000 s"),
        (
            Self::LostEvent,
            SUBMISSIONS,
            Kind::Lost(1),
            "B lost the event that A sent as submission 20 of stream 0: note on",
        ),
        (Self::DoubledEvent, SUBMISSIONS, Kind::Doubled(1), "once more, as submission 21 of stream 0: note on"),
        (
            Self::Reordered,
            SUBMISSIONS,
            Kind::Reordered(2),
            "the 2 events of submissions 20 to 21 of stream 0 in another",
        ),
        (
            Self::MissingGrant,
            Lane::Grants,
            Kind::Lost(1),
            "B lost the grant that A gave as grant 5: grant of 0.600000 s",
        ),
        (Self::LateTail, SUBMISSIONS, Kind::Changed(4), "the tail of B came after the grant that covers it"),
        (Self::WrongLength, SUBMISSIONS, Kind::Changed(1), "cbEvent 2 instead of 3"),
        (Self::OtherGroup, SUBMISSIONS, Kind::Changed(1), "channel group 1 instead of 0"),
        (
            Self::DroppedWait,
            Lane::Grants,
            Kind::NotWaited(Which::B),
            "it granted 0.700000 s before its grant of 0.600000 s was reached",
        ),
        (Self::PoolSize, Lane::Registers, Kind::Changed(1), "B has SLOT_COUNT of stream 0 = 32 (slots of the pool)"),
    ];

    /// What is done below the driver.
    fn meddling(self) -> Option<Meddling> {
        match self {
            Self::WrongTime => Some(Meddling::Time(5000)),
            Self::WrongLength => Some(Meddling::EventBytes(2)),
            Self::OtherGroup => Some(Meddling::Group(1)),
            Self::Reordered => Some(Meddling::Swap),
            _ => None,
        }
    }
}

const SUBMISSIONS: Lane = Lane::Submissions(0);

/// Made once: that takes longer than a run.
fn bank() -> Arc<Bank> {
    static BANK: OnceLock<Arc<Bank>> = OnceLock::new();
    Arc::clone(BANK.get_or_init(|| Arc::new(Bank::general_midi())))
}

/// How the host treats a run. Nothing of it is the driver's.
#[derive(Clone, Copy, Debug, Default)]
struct Host {
    /// The tail is stored, and the card takes a turn, after so many events, instead of once a batch.
    eager: Option<u32>,
    /// Bytes of memory that something else has before the driver's.
    before: usize,
    /// Somebody reads a register now and then.
    reads: bool,
}

/// Plays a short song by the real driver on a card in virtual time, with a change if one is asked for.
fn run(change: Option<Planted>, host: Host) -> anyhow::Result<Recording> {
    let is = |planted| change == Some(planted);
    let platform = Watch::new(bank())?;
    if host.before > 0 {
        dmus_driver::Platform::dma_alloc(&platform, host.before, 64)?;
    }
    platform.meddling.set(change.and_then(Planted::meddling).map(|meddling| (AT, meddling)));
    let card = Card::open(platform, PointerWidth::Eight)?;
    let slots = if is(Planted::PoolSize) { 32 } else { 64 };
    let stream = RenderStream::open(&card, 0, StreamConfig { slots, ..StreamConfig::default() })?;
    stream.set_state(State::Run)?;
    for batch in 0..BATCHES {
        let here = |planted| is(planted) && batch == BATCH;
        let until = RefTime(i64::from(batch + 1) * STEP);
        // What is late, or in another order, is so as a batch.
        let is_whole = here(Planted::LateTail) || here(Planted::Reordered);
        for event in 0..EVENTS {
            let times = match event {
                0 if here(Planted::LostEvent) => 0,
                0 if here(Planted::DoubledEvent) => 2,
                _ => 1,
            };
            let time = RefTime(i64::from(batch) * STEP + 10_000 + i64::from(event) * 150_000);
            let key = (30 + batch * EVENTS + event) as u8;
            let long = [&[0xF0][..], &[key; 20], &[0xF7]].concat();
            let bytes = if event == 2 { &long[..] } else { &[0x90, key, 100] };
            for _ in 0..times {
                stream.send(time, 0, bytes)?;
            }
            if host.eager.is_some_and(|every| event % every == 0) && !is_whole {
                stream.flush();
                card.platform().turn();
            }
            if host.reads {
                dmus_driver::Platform::read32(card.platform(), dmus_interface::regs::MAGIC.offset);
            }
        }
        if !here(Planted::LateTail) {
            stream.flush();
        }
        if here(Planted::MissingGrant) {
            continue;
        }
        card.grant(until);
        card.platform().drop_wait.set(here(Planted::DroppedWait));
        ensure!(stream.wait(u32::MAX, LIMIT), "{until} was not reached");
        stream.flush();
        stream.allocator().reclaim()?;
    }
    stream.set_state(State::Stop)?;
    stream.allocator().reclaim()?;
    drop(stream);
    card.platform().end()
}

fn compare(a: &Recording, b: &Recording) -> anyhow::Result<Comparison> {
    let bank = bank();
    let replay = |of: &Recording, to: &mut dyn Listener| of.replay(&bank, Box::new(NullSink), Some(to)).map(|_| ());
    diff(true, |to| replay(a, to), |to| replay(b, to))
}

#[test]
fn each_change_of_a_driver_is_the_first_difference() -> anyhow::Result<()> {
    let good = run(None, Host::default())?;
    for host in [Host::default(), Host { eager: Some(2), before: 4096, reads: true }] {
        for (planted, lane, kind, says) in Planted::ALL {
            let comparison = compare(&good, &run(Some(planted), host)?)?;
            let text = comparison.to_string();
            let difference = comparison.difference.with_context(|| format!("{planted:?} was not found"))?;
            ensure!((difference.lane, difference.kind) == (lane, kind), "{planted:?}: {text}");
            ensure!(text.contains(says), "{planted:?}: {says} is missing in {text}");
        }
    }
    Ok(())
}

#[test]
fn another_host_makes_no_difference() -> anyhow::Result<()> {
    let good = run(None, Host::default())?;
    ensure!(compare(&good, &run(None, Host::default())?)?.to_string() == "the same\n", "two runs alike differ");
    for eager in [None, Some(1), Some(2), Some(3)] {
        for (before, reads) in [(0, true), (4096, false), (64, true)] {
            let comparison = compare(&good, &run(None, Host { eager, before, reads })?)?;
            ensure!(comparison.is_same(), "{comparison}");
            ensure!(comparison.addresses_differ == (before > 0), "{comparison}");
            ensure!(comparison.timing.is_some() == (eager.is_some() || reads), "{comparison}");
        }
    }
    Ok(())
}

/// The driver's own player, which goes on when half of its pool is completed, is so many turns of the card behind.
fn played(latency: usize) -> anyhow::Result<Recording> {
    let song = Song::parse(&songs::busy(600))?;
    let platform = Watch::new(bank())?;
    platform.latency.set(latency);
    let card = Card::open(platform, PointerWidth::Eight)?;
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    let played = play(&stream, song.messages(), song.duration(), |_| {})?;
    ensure!(played.counts.presented == song.len() as u64, "{played:?}");
    drop(stream);
    card.platform().end()
}

#[test]
fn a_player_that_grants_as_its_pool_empties_is_the_same_on_any_host() -> anyhow::Result<()> {
    let runs = [1, 2, 5, 4096].map(played);
    let [a, others @ ..] = runs;
    let a = a?;
    let mut early = 0;
    for b in others {
        let comparison = compare(&a, &b?)?;
        ensure!(comparison.is_same() && comparison.timing.is_some(), "{comparison}");
        early += usize::from(comparison.early_grants != [false; 2]);
    }
    ensure!(early == 3, "no run granted early");
    Ok(())
}

/// The driver's own player through a socket, to a card with a thread of its own.
fn hosted(song: &[u8]) -> anyhow::Result<Recording> {
    let song = Song::parse(song)?;
    let host = HostedCard::start(ClockMode::Virtual)?;
    let card = Card::open(host.connect()?, PointerWidth::Eight)?;
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    let played = play(&stream, song.messages(), song.duration(), |_| {})?;
    ensure!(played.counts.presented == song.len() as u64, "{played:?}");
    drop(stream);
    drop(card);
    let recording = host.recording.clone();
    host.finish()?;
    Ok(recording)
}

/// What is done while threads beside it leave it no processor.
fn beside_busy_threads<T>(what: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let done = what();
        over.store(true, Ordering::Relaxed);
        done
    })
}

#[test]
fn a_song_through_a_socket_is_the_same_beside_busy_threads() -> anyhow::Result<()> {
    for song in [songs::busy(300), songs::tempos(100)] {
        let quiet = hosted(&song)?;
        for other in [hosted(&song)?, beside_busy_threads(|| hosted(&song))?] {
            let comparison = compare(&quiet, &other)?;
            ensure!(comparison.is_same(), "{comparison}");
        }
    }
    Ok(())
}
