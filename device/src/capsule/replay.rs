//! Makes a recorded run again: the same card and engine, on one thread, told by a capsule what they observed.
//!
//! Fed by a capsule's file; feeds a sink with the same audio, the caller with report and counters, and whoever listens
//! with [`Observation`]s.

use super::header::Header;
use crate::bank::Bank;
use crate::capture::inputs::Inputs;
use crate::check::Checker;
use crate::deviation::Deviations;
use crate::device::{Device, Gate, Region, RemoteError, RemoteMemory};
use crate::engine::Engine;
use crate::identity::SAMPLE_RATE;
use crate::pci::Card;
use crate::replay_log::blocks::{CapsuleError, Reader};
use crate::replay_log::observation::{Listener, Observation};
use crate::replay_log::records::Cursor;
use crate::replay_log::{Player, Repeat, ReplayLog, Tag, take_culprit};
use crate::shared::Shared;
use crate::sink::{Sink, SinkError};
use crate::stats::Stats;
use dmus_interface::doorbell;
use dmus_interface::pci::STREAMS;
use dmus_interface::protocol::Page;
use dmus_interface::time::RefTime;
use parking_lot::Mutex;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes of an access at most: the client's messages have no more.
const MAX_ACCESS: u64 = 4096;
/// Frames of audio that a replay makes at most, unless it is told where to end: a day. A hostile file could ask for
/// years.
const MOST_FRAMES: u64 = 24 * 3600 * SAMPLE_RATE as u64;

/// Where a replay is to end, if not with the recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Until {
    /// Once this master time is reached.
    Time(RefTime),
    /// At the first breach of the rule of this name.
    Breach(&'static str),
}

/// How a replay has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With the recording, which the card ended.
    Whole,
    /// With the recording, which was cut off, or damaged there.
    Cut,
    /// Where it was to end.
    Until,
    /// Before it came to where it was to end.
    NeverCame,
    /// A day of audio is made, and nobody said where to end.
    TooLong,
    /// The recording does not go on as this card would: what was missing.
    Diverged(&'static str),
}

/// What was rendered since the last turn.
type Block = Arc<Mutex<Vec<i16>>>;

/// Passes audio on, and keeps a copy for those who listen.
struct Tap {
    sink: Box<dyn Sink>,
    block: Option<Block>,
}

impl Sink for Tap {
    fn write(&mut self, frames: &[i16]) {
        // A sink that has no room may lose nothing here: a replay has time.
        while !self.sink.ready() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.sink.write(frames);
        if let Some(block) = &self.block {
            block.lock().extend_from_slice(frames);
        }
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.sink.finish()
    }
}

/// A client whose memory nobody asks for.
#[derive(Debug)]
struct Absent;

impl RemoteMemory for Absent {
    fn fetch(&self, _: &[(u64, usize)], _: &mut [u8], _: Gate<'_>) -> Result<(), RemoteError> {
        Err(RemoteError::Lost)
    }

    fn store(&self, _: u64, _: &[u8], _: Gate<'_>) -> Result<(), RemoteError> {
        Err(RemoteError::Lost)
    }

    fn close(&self) {}
}

/// A capsule that is open.
pub struct Capsule {
    header: Header,
    cursor: Cursor,
}

impl Capsule {
    /// Reads a capsule's header.
    ///
    /// # Errors
    /// It is no capsule, or not for this card.
    pub fn open(file: impl Read + Send + 'static) -> Result<Self, CapsuleError> {
        let mut cursor = Cursor::new(Box::new(Reader::new(file)?));
        let header = Header::read(&mut cursor)?;
        Ok(Self { header, cursor })
    }

    /// What was recorded, by what card.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Makes the run again, with the bank that the header names, up to its end or another point. A listener is shown
    /// what happened; `progress` is told master time.
    ///
    /// # Errors
    /// The system has no memory, or no descriptors, for a card.
    pub fn replay(
        self,
        bank: Arc<Bank>,
        sink: Box<dyn Sink>,
        until: Option<&Until>,
        mut listener: Option<&mut dyn Listener>,
        mut progress: impl FnMut(RefTime),
    ) -> Result<Replayed, CapsuleError> {
        let Self { mut header, cursor } = self;
        let shared = Arc::new(Shared::new()?);
        let block = listener.is_some().then(Block::default);
        let inputs = Inputs::replayed(std::mem::take(&mut header.inputs));
        let tap = Box::new(Tap { sink, block: block.clone() });
        let mut engine = Engine::new(Arc::clone(&shared), header.clock, bank, tap, inputs);
        engine.set_drift(header.drift);
        engine.set_sound(header.sound);
        let log = Arc::new(ReplayLog::replay(Player::new(cursor, listener.is_some()), header.culprits));
        shared.set_replay_log(Arc::clone(&log));
        if let Some(plan) = header.plan.take() {
            shared.set_deviations(Arc::new(Deviations::new(plan)));
        }
        let checker = header.checker();
        if let Some(checker) = &checker {
            checker.take_news();
            shared.set_checker(Arc::clone(checker));
        }
        log.set_client(Some(Box::new(Card::new(Arc::clone(&shared), header.clock))));
        let mut run = Run { engine, shared, log, checker, grant: 0, time: 0, position: 0 };
        let mut reached = RefTime::ZERO;
        let ended = loop {
            let ended = run.step();
            let (master, voices) = (run.shared.section().clocks().master, run.engine.voices());
            let breaches = run.checker.as_ref().map(|checker| checker.take_news()).unwrap_or_default();
            if let Some(listener) = &mut listener {
                run.show(*listener, &breaches, block.as_ref(), master, voices);
            }
            reached = reached.max(master);
            progress(master);
            let comes = match until {
                None => false,
                Some(Until::Time(time)) => master >= *time,
                Some(Until::Breach(name)) => breaches.iter().any(|breach| breach.rule.name == *name),
            };
            match ended {
                Some(Ended::Diverged(what)) => break Ended::Diverged(what),
                _ if comes => break Ended::Until,
                Some(_) if until.is_some() => break Ended::NeverCame,
                Some(ended) => break ended,
                None if until.is_none() && run.shared.stats().samples.get() > MOST_FRAMES => break Ended::TooLong,
                None => {}
            }
        };
        // The log holds the card, which holds the log.
        run.log.set_client(None);
        let output = run.engine.finish_replay();
        Ok(Replayed {
            ended,
            master: reached,
            slots: run.engine.slots(),
            stats: Arc::clone(run.shared.stats()),
            checker: run.checker,
            output,
        })
    }
}

/// What a replay came to.
pub struct Replayed {
    /// How it ended.
    pub ended: Ended,
    /// The latest master time that was reached: a reset begins it anew.
    pub master: RefTime,
    /// The open streams at the end, and each slot that the card owned, in words.
    pub slots: String,
    /// The card's counters.
    pub stats: Arc<Stats>,
    /// What was found, if drivers were checked as this was recorded.
    pub checker: Option<Arc<Checker>>,
    /// Whether the audio could be written.
    pub output: Result<(), SinkError>,
}

struct Run {
    engine: Engine,
    shared: Arc<Shared>,
    log: Arc<ReplayLog>,
    checker: Option<Arc<Checker>>,
    /// As they were last told.
    grant: i64,
    time: i64,
    /// Audio frames so far.
    position: u64,
}

impl Run {
    /// Goes on by some records; says how the replay has ended if it has.
    fn step(&mut self) -> Option<Ended> {
        self.log.repeat_accesses();
        let mut player = self.log.player()?;
        if let Some(problem) = player.problem {
            // What is missing may be behind the end: a long turn is more than one block.
            return Some(if player.cursor.lacks_more() { Ended::Cut } else { Ended::Diverged(problem) });
        }
        let Some(tag) = player.cursor.peek() else {
            return Some(if player.cursor.is_at_end() {
                Ended::Cut
            } else {
                Ended::Diverged("a record that is known")
            });
        };
        player.takes(tag);
        let cursor = &mut player.cursor;
        match tag {
            Tag::Grant => {
                self.grant = self.grant.wrapping_add(cursor.signed()?);
                let until = RefTime(self.grant);
                player.show(|| Observation::Granted { until });
                drop(player);
                self.shared.section().page().store_u64(doorbell::GRANT, until.0 as u64, Ordering::Relaxed);
            }
            Tag::Time => {
                self.time = self.time.wrapping_add(cursor.signed()?);
                drop(player);
                self.engine.replay_at(RefTime(self.time));
            }
            Tag::Tail => {
                let (stream, tail) = (usize::from(cursor.byte()?), cursor.half()?);
                drop(player);
                if stream < STREAMS {
                    let offset = doorbell::at(stream, doorbell::SUBMISSION_TAIL);
                    self.shared.section().page().store_u32(offset, tail, Ordering::Relaxed);
                }
            }
            Tag::Turn => {
                drop(player);
                self.engine.turn();
                let mut player = self.log.player()?;
                player.expect(Tag::TurnEnd, "the end of a turn", |_| Some(()));
            }
            Tag::Sleep => {
                drop(player);
                self.engine.replay_sleep();
            }
            Tag::Awake => {
                drop(player);
                self.engine.replay_awake();
            }
            Tag::ClosedTail => {
                let stream = usize::from(cursor.byte()?);
                drop(player);
                self.engine.replay_closed_tail(stream);
            }
            Tag::Culprit => {
                let culprit = take_culprit(cursor)?;
                drop(player);
                self.log.add_culprit(culprit);
            }
            Tag::Ready => {
                let ready = cursor.byte()? != 0;
                drop(player);
                self.engine.replay_ready(ready);
            }
            Tag::Losses => {
                let losses = (cursor.number()?, cursor.number()?);
                self.shared.stats().dropped_samples.set(losses.0);
                self.shared.stats().underruns.set(losses.1);
            }
            Tag::End => {
                let first = cursor.number()?;
                self.shared.stats().set_first_presented(first);
                return Some(Ended::Whole);
            }
            _ => return Some(Ended::Diverged("a record that may stand between two turns")),
        }
        None
    }

    /// Shows what has happened since the last time.
    fn show(
        &mut self,
        listener: &mut dyn Listener,
        breaches: &[crate::check::Breach],
        block: Option<&Block>,
        master: RefTime,
        voices: usize,
    ) {
        let shown = self.log.player().map(|mut player| {
            player.master = master;
            std::mem::take(&mut player.shown)
        });
        for (master, observation) in shown.into_iter().flatten() {
            listener.observe(master, &observation);
        }
        for breach in breaches {
            let observation = Observation::Violation {
                rule: breach.rule.name,
                stream: breach.stream,
                slot: breach.slot,
                report: breach.report.clone(),
            };
            listener.observe(master, &observation);
        }
        let samples = block.map(|block| std::mem::take(&mut *block.lock())).unwrap_or_default();
        if !samples.is_empty() {
            self.position += samples.len() as u64 / 2;
            listener.observe(master, &Observation::Audio { samples: samples.into(), voices });
        }
    }
}

impl Repeat for Card {
    fn repeat(&mut self, player: &Mutex<Player>) -> bool {
        let access = Access::take(&mut player.lock());
        let is_there = access.is_some();
        if let Some(access) = access {
            access.repeat(player, self);
        }
        is_there
    }
}

/// What a client asked of the card.
enum Access {
    Read { region: Region, offset: u64, len: u64 },
    Write { region: Region, offset: u64, bytes: Vec<u8> },
    Map { iova: u64, size: u64, writable: bool, shared: bool },
    Unmap { iova: u64, size: u64 },
    Vector,
    Reset,
    Left,
    NextPage,
    OfferMemory,
    ShutDown,
}

fn region(cursor: &mut Cursor) -> Option<Region> {
    const ALL: [Region; 4] = [Region::Config, Region::Registers, Region::Doorbell, Region::Msix];
    ALL.get(usize::from(cursor.byte()?)).copied()
}

impl Access {
    fn take(player: &mut Player) -> Option<Self> {
        let tag = player.cursor.peek()?;
        let is_access = matches!(
            tag,
            Tag::Read
                | Tag::Write
                | Tag::Map
                | Tag::Unmap
                | Tag::Vector
                | Tag::ResetFunction
                | Tag::Left
                | Tag::NextPage
                | Tag::OfferMemory
                | Tag::ShutDown
        );
        if !is_access {
            return None;
        }
        player.expect(tag, "an access of the client", |cursor| {
            Some(match tag {
                Tag::Read => {
                    let (region, offset) = (region(cursor)?, cursor.number()?);
                    Self::Read { region, offset, len: cursor.number().filter(|len| *len <= MAX_ACCESS)? }
                }
                Tag::Write => {
                    let (region, offset, bytes) = (region(cursor)?, cursor.number()?, cursor.bytes()?);
                    if bytes.len() as u64 > MAX_ACCESS {
                        return None;
                    }
                    Self::Write { region, offset, bytes }
                }
                Tag::Map => {
                    let (iova, size, kind) = (cursor.number()?, cursor.number()?, cursor.byte()?);
                    Self::Map { iova, size, writable: kind & 1 != 0, shared: kind & 2 != 0 }
                }
                Tag::Unmap => Self::Unmap { iova: cursor.number()?, size: cursor.number()? },
                Tag::Vector => {
                    // Which are connected is seen when they are raised.
                    cursor.number()?;
                    cursor.byte()?;
                    Self::Vector
                }
                Tag::ResetFunction => Self::Reset,
                Tag::Left => Self::Left,
                Tag::NextPage => Self::NextPage,
                Tag::ShutDown => Self::ShutDown,
                _ => Self::OfferMemory,
            })
        })
    }

    fn repeat(self, player: &Mutex<Player>, card: &mut Card) {
        let shared = card.shared();
        let by_client = !matches!(self, Self::Left | Self::NextPage | Self::ShutDown);
        if by_client {
            player.lock().show_client();
        }
        self.repeat_on(player, card);
        // A reset has begun it anew.
        player.lock().master = shared.section().clocks().master;
    }

    fn repeat_on(self, player: &Mutex<Player>, card: &mut Card) {
        let show = |observation: Observation| player.lock().show(|| observation);
        match self {
            Self::Read { region, offset, len } => {
                let mut bytes = vec![0; len as usize];
                card.read(region, offset, &mut bytes);
                let mut player = player.lock();
                let answer = player.expect(Tag::Answer, "the answer to a read", Cursor::bytes);
                // Of the page, only the words are known that the card acts on.
                let is_same = |answer: &Vec<u8>| match region {
                    Region::Doorbell => answer.len() == bytes.len(),
                    _ => *answer == bytes,
                };
                if answer.as_ref().is_some_and(|answer| !is_same(answer)) {
                    player.problem.get_or_insert("another answer to a read");
                }
                player.show(|| Observation::Access { region, offset, write: false, bytes: bytes.into() });
            }
            Self::Write { region, offset, bytes } => {
                card.write(region, offset, &bytes);
                show(Observation::Access { region, offset, write: true, bytes: bytes.into() });
            }
            Self::Map { iova, size, writable, shared } => {
                card.map_absent(iova, size, writable, shared);
                show(Observation::Mapped { iova, size, writable, shared });
            }
            Self::Unmap { iova, size } => {
                card.unmap(iova, size);
                show(Observation::Unmapped { iova, size });
            }
            Self::Vector => {}
            Self::Reset => {
                card.reset();
                show(Observation::Reset);
            }
            Self::Left => card.leave(),
            Self::NextPage => {
                card.change_page();
                player.lock().show_no_client();
            }
            Self::OfferMemory => card.offer_memory(Arc::new(Absent)),
            // There is no thread to wait for.
            Self::ShutDown => _ = card.shared().shut_down(),
        }
    }
}
