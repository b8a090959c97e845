//! What a card observes, on its way into a capsule or out of one: the same calls record a run and replay it.
//!
//! Fed by transport and engine with each thing that they decide by and that no replay could know: the client's
//! accesses, words of the doorbell page, slots and data, clock readings. A card that records hands each to its
//! [`Recording`]; one that replays is told by its [`Player`] what it was, and neither goes another way for it. What the
//! client does is kept in the order in which it and the engine took the lock.
//!
//! A file may hold anything. What a replay does not find in it, or not as its next record, ends the replay; until the
//! turn under way is over, each observation then is one that leads nowhere.

use super::blocks::{Batch, Writer};
use super::memory::Run;
use super::observation::Observation;
use super::records::{Cursor, Put, Tag};
use crate::capture::inputs::Piece;
use crate::dma::AccessError;
use crate::dma::owners::StoreRecord;
use crate::pci::Card;
use crate::stats::Stats;
use crate::stream::queue::Reach;
use dmus_interface::doorbell;
use dmus_interface::pci::STREAMS;
use dmus_interface::protocol::Page;
use dmus_interface::time::RefTime;
use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes of the client's accesses that may wait for the engine.
const MAX_WAITING: usize = 8 << 20;
/// What was recorded is passed on at least so often, so that a card that is killed leaves it.
const OFTEN: Duration = Duration::from_secs(1);

/// Observations, and bytes of the recording, that a listener is shown at once at most: more than a card notes of its
/// client at once, and little enough for the memory of whoever replays.
const MOST_SHOWN: usize = 2 << 20;
const MOST_READ: u64 = 128 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) enum ReplayLog {
    Record(Box<Recorder>),
    Replay(Box<Replaying>),
}

/// See [`ReplayLog`].
#[derive(Debug)]
pub(crate) struct Recorder {
    recording: Mutex<Recording>,
    /// The client did more than the engine took note of.
    overrun: AtomicBool,
    /// What the turn under way was told by a plugin: apart, since it is told in the middle of other observations.
    culprits: Mutex<Vec<Option<StoreRecord>>>,
}

/// What is being recorded, by the engine.
#[derive(Debug)]
pub(crate) struct Recording {
    writer: Writer,
    /// What is to be written next.
    batch: Batch,
    /// A turn is under way.
    in_turn: bool,
    /// When something was passed on last.
    passed: Instant,
    /// What the replay finds on its page without being told.
    grant: i64,
    tails: [u32; STREAMS],
    /// The last grant and time that were recorded: the next ones are told by how far they are from these.
    last_grant: i64,
    last_time: i64,
    /// Tails that the turn under way has found.
    found: Vec<(usize, u32)>,
    ready: bool,
    losses: (u64, u64),
    /// For who reads entries and slots.
    pub(super) run: Run,
}

/// What is being replayed.
#[derive(Debug)]
pub(crate) struct Replaying {
    player: Mutex<Player>,
    /// The card, which does again what the client asked of it.
    card: Mutex<Option<Card>>,
    /// What the next turn is told of a plugin's records, if there was a plugin.
    culprits: Option<Mutex<VecDeque<Option<StoreRecord>>>>,
}

/// Where a replay is.
pub(crate) struct Player {
    pub(super) cursor: Cursor,
    /// What the recording does not say, or says otherwise than this card needs it.
    pub(super) problem: Option<&'static str>,
    /// For whoever listens; nobody does unless `shows`.
    pub(super) shown: Vec<(RefTime, Observation)>,
    /// Where the first of them is in the recording.
    shown_from: u64,
    pub(super) shows: bool,
    pub(super) master: RefTime,
    tails: [u32; STREAMS],
    /// What is left of a run of entries and their slots.
    run: (VecDeque<u32>, VecDeque<[u64; 4]>),
}

impl std::fmt::Debug for Player {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Player").field("problem", &self.problem).finish_non_exhaustive()
    }
}

impl Recording {
    /// Where the next observation goes.
    #[inline]
    pub(super) fn put(&mut self) -> &mut Vec<u8> {
        if self.in_turn { &mut self.batch.turns } else { &mut self.batch.between }
    }

    pub(super) fn run_and_put(&mut self) -> (&mut Run, &mut Vec<u8>) {
        let out = if self.in_turn { &mut self.batch.turns } else { &mut self.batch.between };
        (&mut self.run, out)
    }

    fn pass(&mut self) {
        if self.batch.len() > 0 {
            self.batch = self.writer.pass(std::mem::take(&mut self.batch));
            self.passed = Instant::now();
        }
    }
}

impl Player {
    pub(super) fn new(cursor: Cursor, shows: bool) -> Self {
        Self {
            cursor,
            problem: None,
            shown: Vec::new(),
            shown_from: 0,
            shows,
            master: RefTime::ZERO,
            tails: [0; STREAMS],
            run: Default::default(),
        }
    }

    /// The next entry of a submission ring, which the recording has to have.
    pub(super) fn submission(&mut self) -> Option<u32> {
        if self.run.0.is_empty() {
            self.run = self.expect(Tag::Run, "another access to guest memory", Run::take)?;
        }
        self.run.0.pop_front()
    }

    /// The next slot, the same.
    pub(super) fn slot(&mut self) -> Option<[u64; 4]> {
        match self.run.1.pop_front() {
            Some(words) => Some(words),
            None => self.expect(Tag::Slot, "another access to guest memory", Cursor::words),
        }
    }

    pub(super) fn show(&mut self, observation: impl FnOnce() -> Observation) {
        if !self.shows {
            return;
        }
        if self.shown.is_empty() {
            self.shown_from = self.cursor.position();
        }
        if self.shown.len() >= MOST_SHOWN || self.cursor.position() - self.shown_from > MOST_READ {
            self.problem.get_or_insert("an end of what happens at once");
        }
        self.shown.push((self.master, observation()));
    }

    /// Whether the next record is such a one. It is taken by that.
    pub(super) fn takes(&mut self, tag: Tag) -> bool {
        // What is in the middle of a run has no other records before its end.
        let in_run = !self.run.0.is_empty() || !self.run.1.is_empty();
        let is_next = !in_run && self.problem.is_none() && self.cursor.peek() == Some(tag);
        if is_next {
            self.cursor.byte();
        }
        is_next
    }

    /// The next record has to be such a one.
    pub(super) fn expect<T>(
        &mut self,
        tag: Tag,
        problem: &'static str,
        get: impl FnOnce(&mut Cursor) -> Option<T>,
    ) -> Option<T> {
        let got = if self.takes(tag) { get(&mut self.cursor) } else { None };
        if got.is_none() {
            self.problem.get_or_insert(problem);
        }
        got
    }
}

impl ReplayLog {
    pub(super) fn record(writer: Writer, first: Vec<u8>) -> Self {
        let recording = Mutex::new(Recording {
            writer,
            batch: Batch::beginning_with(first),
            in_turn: false,
            passed: Instant::now(),
            grant: 0,
            tails: [0; STREAMS],
            last_grant: 0,
            last_time: 0,
            found: Vec::new(),
            ready: true,
            losses: (0, 0),
            run: Run::default(),
        });
        Self::Record(Box::new(Recorder { recording, overrun: AtomicBool::new(false), culprits: Mutex::default() }))
    }

    /// `culprits`: a plugin told the card of stores.
    pub(super) fn replay(player: Player, culprits: bool) -> Self {
        let culprits = culprits.then(Mutex::default);
        Self::Replay(Box::new(Replaying { player: Mutex::new(player), card: Mutex::new(None), culprits }))
    }

    /// The recording, if this is one.
    pub(crate) fn recording(&self) -> Option<MutexGuard<'_, Recording>> {
        match self {
            Self::Record(recorder) => Some(recorder.recording.lock()),
            Self::Replay(_) => None,
        }
    }

    /// The replay, if this is one.
    pub(crate) fn player(&self) -> Option<MutexGuard<'_, Player>> {
        match self {
            Self::Record(_) => None,
            Self::Replay(replaying) => Some(replaying.player.lock()),
        }
    }

    pub(super) fn set_card(&self, card: Option<Card>) {
        if let Self::Replay(replaying) = self {
            *replaying.card.lock() = card;
        }
    }

    /// What `real` observes, or what was observed as this was recorded; that of a record which is not there is `none`.
    fn observe<T>(
        &self,
        real: impl FnOnce() -> T,
        put: impl FnOnce(&mut Vec<u8>, &T),
        get: impl FnOnce(&mut Player) -> T,
    ) -> T {
        match self {
            Self::Record(recorder) => {
                let observed = real();
                put(recorder.recording.lock().put(), &observed);
                observed
            }
            Self::Replay(replaying) => get(&mut replaying.player.lock()),
        }
    }
}

/// What the client does. Recorded by the transport's thread, in a section, and taken over by the engine's next one.
impl ReplayLog {
    /// Adds a record to those that wait for the engine.
    pub(crate) fn note_access(&self, waiting: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
        if let Self::Record(recorder) = self {
            if waiting.len() < MAX_WAITING {
                put(waiting);
            } else {
                recorder.overrun.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Takes over what the client did since the last time.
    pub(crate) fn take_accesses(&self, waiting: &mut Vec<u8>) {
        if let Self::Record(recorder) = self
            && !waiting.is_empty()
        {
            recorder.recording.lock().put().append(waiting);
            if recorder.overrun.load(Ordering::Relaxed) {
                recorder.recording.lock().writer.give_up("the client did more than the engine could take note of");
            }
        }
    }

    /// Does again what the client did while no section was. Not to be called in one.
    pub(crate) fn repeat_accesses(&self) {
        if let Self::Replay(replaying) = self {
            let mut card = replaying.card.lock();
            while let Some(card) = &mut *card
                && super::replay::repeat_access(&replaying.player, card)
            {}
        }
    }

    /// A word of the page that the transport loads.
    pub(crate) fn word_at_access<P: Page>(&self, waiting: &mut Vec<u8>, page: &P, offset: usize, wide: bool) -> u64 {
        if let Self::Replay(replaying) = self {
            replaying.player.lock().take_word(page, offset, wide);
        }
        let value = load(page, offset, wide);
        self.note_access(waiting, |out| _ = out.tag(Tag::Word).number(offset as u64).number(value));
        value
    }

    /// The beginning of a request, as the opcode was written.
    pub(crate) fn request_then(&self, waiting: &mut Vec<u8>, read: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
        match self {
            Self::Record(_) => {
                let request = read();
                self.note_access(waiting, |out| _ = out.tag(Tag::RequestThen).bytes(&request));
                request
            }
            Self::Replay(replaying) => {
                let expected = "the request of a command";
                replaying.player.lock().expect(Tag::RequestThen, expected, Cursor::bytes).unwrap_or_default()
            }
        }
    }
}

fn load(page: &impl Page, offset: usize, wide: bool) -> u64 {
    match wide {
        true => page.load_u64(offset, Ordering::Relaxed),
        false => page.load_u32(offset, Ordering::Relaxed).into(),
    }
}

impl Player {
    /// Stores the word that is the next record, if it is at that place.
    fn take_word(&mut self, page: &impl Page, offset: usize, wide: bool) {
        if !self.takes(Tag::Word) {
            return;
        }
        match (self.cursor.small::<usize>(), self.cursor.number()) {
            (Some(at), Some(value)) if at == offset => match wide {
                true => page.store_u64(offset, value, Ordering::Relaxed),
                false => page.store_u32(offset, value as u32, Ordering::Relaxed),
            },
            _ => _ = self.problem.get_or_insert("another word of the doorbell page"),
        }
    }
}

/// What the engine observes.
impl ReplayLog {
    /// A turn begins.
    pub(crate) fn begin_turn(&self) {
        if let Some(mut recording) = self.recording() {
            recording.in_turn = true;
        }
    }

    /// The turn is over, after which grant and time were these; unless it is `notable`, it did nothing if it has
    /// observed nothing. Not to be called in a section: the disk may be slow.
    pub(crate) fn end_turn(&self, notable: bool, grant: RefTime, time: Option<RefTime>) {
        let Some(mut recording) = self.recording() else {
            return;
        };
        let Recording { batch, in_turn, grant: known, last_grant, last_time, found, .. } = &mut *recording;
        *in_turn = false;
        let anything = batch.has_turn();
        let out = &mut batch.between;
        let before = out.len();
        if grant.0 != *known {
            out.tag(Tag::Grant).signed(grant.0.wrapping_sub(*last_grant));
            (*known, *last_grant) = (grant.0, grant.0);
        }
        if let Some(RefTime(time)) = time
            && time != *last_time
        {
            out.tag(Tag::Time).signed(time.wrapping_sub(*last_time));
            *last_time = time;
        }
        for (stream, tail) in found.drain(..) {
            out.tag(Tag::Tail).byte(stream as u8).number(tail.into());
        }
        for culprit in self.take_culprits() {
            put_culprit(out, culprit.as_ref());
        }
        if notable || out.len() > before || anything {
            out.tag(Tag::Turn);
            batch.turns.tag(Tag::TurnEnd);
            batch.end_turn();
        }
        if recording.batch.len() >= super::blocks::BLOCK {
            recording.pass();
        }
    }

    /// The turn has found that this is the end.
    pub(crate) fn drop_turn(&self) {
        if let Some(mut recording) = self.recording() {
            recording.in_turn = false;
            recording.batch.drop_turn();
        }
    }

    /// The engine has nothing to do: what is recorded so far may be written.
    pub(crate) fn rest(&self) {
        if let Some(mut recording) = self.recording()
            && recording.passed.elapsed() >= OFTEN
        {
            recording.pass();
        }
    }

    /// The run is over, with so many frames of audio.
    pub(crate) fn finish(&self, stats: &Stats) {
        if let Some(mut recording) = self.recording() {
            let first = stats.first_presented().unwrap_or_default().as_nanos() as u64;
            recording.batch.between.tag(Tag::End).number(first);
            recording.pass();
            recording.writer.finish();
        }
    }

    /// A poll has found this tail of a stream.
    pub(crate) fn found_tail(&self, stream: usize, tail: u32) {
        match self {
            Self::Record(recorder) => {
                let Recording { tails, found, .. } = &mut *recorder.recording.lock();
                if tails.get_mut(stream).is_some_and(|last| std::mem::replace(last, tail) != tail) {
                    found.push((stream, tail));
                }
            }
            Self::Replay(replaying) => {
                let mut player = replaying.player.lock();
                if player.tails.get_mut(stream).is_some_and(|last| std::mem::replace(last, tail) != tail) {
                    player.show(|| Observation::Submitted { stream, tail });
                }
            }
        }
    }

    /// The page's words of a stream are zeroed.
    pub(crate) fn forget_tail(&self, stream: usize) {
        let tails = &mut match self {
            Self::Record(recorder) => MutexGuard::map(recorder.recording.lock(), |recording| &mut recording.tails),
            Self::Replay(replaying) => MutexGuard::map(replaying.player.lock(), |player| &mut player.tails),
        };
        if let Some(tail) = tails.get_mut(stream) {
            *tail = 0;
        }
    }

    /// All words of the page are zeroed.
    pub(crate) fn forget_page(&self) {
        (0..STREAMS).for_each(|stream| self.forget_tail(stream));
        if let Some(mut recording) = self.recording() {
            recording.grant = 0;
        }
    }

    /// A word of the page that the engine loads now.
    pub(crate) fn word<P: Page>(&self, page: &P, offset: usize, wide: bool) -> u64 {
        match self {
            Self::Record(recorder) => {
                let value = load(page, offset, wide);
                recorder.recording.lock().put().tag(Tag::Word).number(offset as u64).number(value);
                value
            }
            Self::Replay(replaying) => {
                replaying.player.lock().take_word(page, offset, wide);
                load(page, offset, wide)
            }
        }
    }

    /// The tail of a stream, which is polled once more in this turn.
    pub(crate) fn tail_again<P: Page>(&self, page: &P, stream: usize) -> u32 {
        let tail = self.word(page, doorbell::at(stream, doorbell::SUBMISSION_TAIL), false) as u32;
        if let Some(mut recording) = self.recording()
            && let Some(known) = recording.tails.get_mut(stream)
        {
            *known = tail;
        }
        tail
    }

    /// The tail of a stream that is not open is another than the one that was told of last.
    pub(crate) fn closed_tail<P: Page>(&self, page: &P, stream: usize, told: u32) -> u32 {
        let offset = doorbell::at(stream, doorbell::SUBMISSION_TAIL);
        match self {
            Self::Record(recorder) => {
                let tail = page.load_u32(offset, Ordering::Relaxed);
                if tail != told {
                    let mut recording = recorder.recording.lock();
                    if !recording.in_turn {
                        recording.put().tag(Tag::ClosedTail).byte(stream as u8);
                    }
                    recording.put().tag(Tag::Word).number(offset as u64).number(tail.into());
                }
                tail
            }
            Self::Replay(replaying) => {
                let mut player = replaying.player.lock();
                // That of another stream may be the next record.
                if player.cursor.peek() == Some(Tag::Word) && player.cursor.number_ahead(1) == Some(offset as u64) {
                    player.take_word(page, offset, false);
                }
                page.load_u32(offset, Ordering::Relaxed)
            }
        }
    }

    /// The engine has armed a sleep, or is awake.
    pub(crate) fn note_sleep(&self, asleep: bool) {
        if let Some(mut recording) = self.recording() {
            recording.put().tag(if asleep { Tag::Sleep } else { Tag::Awake });
        }
    }

    /// How a stream's memory can be reached.
    pub(crate) fn reach(&self, real: impl FnOnce() -> Reach) -> Reach {
        const ALL: [Reach; 3] = [Reach::Whole, Reach::Pieces, Reach::Away];
        self.observe(
            real,
            |out, reach| _ = out.tag(Tag::Reach).byte(*reach as u8),
            |player| {
                let reach = player.expect(Tag::Reach, "how the memory of a stream is reached", Cursor::byte);
                reach.and_then(|reach| ALL.get(usize::from(reach)).copied()).unwrap_or(Reach::Whole)
            },
        )
    }

    /// Publishes completions from `old` up to `new`; whether the driver asked for one of them.
    pub(crate) fn asked<P: Page>(
        &self,
        page: &P,
        stream: usize,
        (old, new): (u32, u32),
        publish: impl FnOnce() -> bool,
    ) -> bool {
        match self {
            Self::Record(recorder) => {
                let asked = publish();
                recorder.recording.lock().put().tag(Tag::Asked).byte(asked.into());
                asked
            }
            Self::Replay(replaying) => {
                // The event index that the driver stored is one that has the same outcome.
                let expected = "whether the driver asked for completions";
                let asked = replaying.player.lock().expect(Tag::Asked, expected, Cursor::byte);
                let event = if asked == Some(1) { old } else { new };
                page.store_u32(doorbell::at(stream, doorbell::COMPLETION_EVENT), event, Ordering::Relaxed);
                publish()
            }
        }
    }

    /// Raises vectors, some of which are connected.
    pub(crate) fn interrupts(&self, vectors: u32, stats: &Stats, raise: impl FnOnce() -> u32) {
        if vectors == 0 {
            return;
        }
        match self {
            Self::Record(recorder) => {
                let connected = raise();
                recorder.recording.lock().put().tag(Tag::Interrupts).number(connected.into());
            }
            Self::Replay(replaying) => {
                let mut player = replaying.player.lock();
                let connected = player.expect(Tag::Interrupts, "which interrupts are connected", Cursor::small);
                let connected: u32 = connected.unwrap_or(0) & vectors;
                stats.interrupts.add(connected.count_ones().into());
                for vector in (0..32).filter(|vector| connected & 1 << vector != 0) {
                    player.show(|| Observation::Interrupt { vector });
                }
            }
        }
    }

    /// Whether rendering was broken off by a reset.
    pub(crate) fn is_void(&self, real: bool, stats: &Stats) -> bool {
        let counters = || [&stats.presented, &stats.late].into_iter().chain(&stats.late_by);
        match self {
            Self::Record(recorder) => {
                if real {
                    let mut recording = recorder.recording.lock();
                    let out = recording.put().tag(Tag::Void);
                    counters().for_each(|counter| _ = out.number(counter.get()));
                }
                real
            }
            Self::Replay(replaying) => {
                let mut player = replaying.player.lock();
                let void = player.takes(Tag::Void);
                if void {
                    // The one that was broken off presented less than this one, which was not.
                    counters().for_each(|counter| counter.set(player.cursor.number().unwrap_or(0)));
                }
                void
            }
        }
    }

    /// Whether the sink has room.
    pub(crate) fn ready(&self, real: impl FnOnce() -> bool) -> bool {
        match self {
            Self::Record(recorder) => {
                let ready = real();
                let mut recording = recorder.recording.lock();
                if !std::mem::replace(&mut recording.ready, ready) || !ready {
                    recording.put().tag(Tag::Ready).byte(ready.into());
                }
                ready
            }
            Self::Replay(replaying) => {
                let mut player = replaying.player.lock();
                !player.takes(Tag::Ready) || player.cursor.byte() != Some(0)
            }
        }
    }

    /// What of the audio has not reached its listener.
    pub(crate) fn losses(&self, real: impl FnOnce() -> (u64, u64)) -> Option<(u64, u64)> {
        match self {
            Self::Record(recorder) => {
                let losses = real();
                let mut recording = recorder.recording.lock();
                if std::mem::replace(&mut recording.losses, losses) != losses {
                    recording.put().tag(Tag::Losses).number(losses.0).number(losses.1);
                }
                Some(losses)
            }
            Self::Replay(replaying) => {
                let mut player = replaying.player.lock();
                let there = player.takes(Tag::Losses);
                there.then(|| Some((player.cursor.number()?, player.cursor.number()?))).flatten()
            }
        }
    }

    /// What a live input received: nothing, bytes, or none any more.
    pub(crate) fn input(&self, input: u16, real: impl FnOnce() -> Option<Piece>) -> Option<Piece> {
        match self {
            Self::Record(recorder) => {
                let received = real();
                match &received {
                    None => {}
                    Some(Piece::Bytes(bytes)) => {
                        _ = recorder.recording.lock().put().tag(Tag::Input).number(input.into()).bytes(bytes)
                    }
                    Some(Piece::End) => _ = recorder.recording.lock().put().tag(Tag::InputEnd).number(input.into()),
                }
                received
            }
            Self::Replay(replaying) => replaying.player.lock().received(input),
        }
    }

    /// An access of the mailbox to a request or a result: how it ended, and what was read.
    pub(crate) fn access(
        &self,
        read: &mut [u8],
        real: impl FnOnce(&mut [u8]) -> Result<(), AccessError>,
    ) -> Result<(), AccessError> {
        match self {
            Self::Record(recorder) => {
                let result = real(read);
                let outcome = match result {
                    Ok(()) => 0,
                    Err(AccessError::NotMapped) => 1,
                    Err(AccessError::Void) => 2,
                };
                let mut recording = recorder.recording.lock();
                let out = recording.put().tag(Tag::Access).byte(outcome);
                if result.is_ok() {
                    out.extend_from_slice(read);
                }
                result
            }
            Self::Replay(replaying) => {
                let mut player = replaying.player.lock();
                match player.expect(Tag::Access, "an access of the mailbox to memory", Cursor::byte) {
                    Some(0) => match player.cursor.fill(read) {
                        Some(()) => Ok(()),
                        None => Err(AccessError::Void),
                    },
                    Some(1) => Err(AccessError::NotMapped),
                    _ => Err(AccessError::Void),
                }
            }
        }
    }

    /// Whether there is memory for a stream.
    pub(crate) fn has_room(&self, real: impl FnOnce() -> bool) -> bool {
        self.observe(
            real,
            |out, has_room| _ = out.tag(Tag::Room).byte((*has_room).into()),
            |player| player.expect(Tag::Room, "whether there is memory for a stream", Cursor::byte) == Some(1),
        )
    }

    /// Something that is as it mostly is, at most once between two other records, unless there is a record of it.
    pub(crate) fn unusual(&self, what: Unusual, real: impl FnOnce() -> bool) -> bool {
        let tag = match what {
            Unusual::WrongWords => Tag::PageCheck,
            Unusual::Away => Tag::Away,
        };
        match self {
            Self::Record(recorder) => {
                let is = real();
                if is {
                    recorder.recording.lock().put().tag(tag);
                }
                is
            }
            Self::Replay(replaying) => replaying.player.lock().takes(tag),
        }
    }

    /// A plugin has the card judge what the guest did, which has `stored` into what is held.
    pub(crate) fn note_judgement(&self, stored: bool) {
        if let Some(mut recording) = self.recording() {
            recording.put().tag(Tag::Judge).byte(stored.into());
        }
    }

    /// The same, if a plugin had it do so here.
    pub(crate) fn replayed_judgement(&self) -> Option<bool> {
        let mut player = self.player()?;
        if !player.takes(Tag::Judge) {
            return None;
        }
        player.cursor.byte().map(|stored| stored != 0)
    }

    /// Whether a plugin told the card of stores as this was recorded.
    pub(crate) fn replays_culprits(&self) -> bool {
        matches!(self, Self::Replay(replaying) if replaying.culprits.is_some())
    }

    /// The store that a plugin knows of a mistake; there is a plugin if the card has an owners map.
    pub(crate) fn culprit(&self, has_map: bool, real: impl FnOnce() -> Option<StoreRecord>) -> Option<StoreRecord> {
        match self {
            Self::Record(_) if !has_map => None,
            Self::Record(recorder) => {
                let culprit = real();
                match recorder.recording.try_lock() {
                    Some(mut recording) if !recording.in_turn => {
                        put_culprit(&mut recording.batch.between, culprit.as_ref())
                    }
                    _ => recorder.culprits.lock().push(culprit.clone()),
                }
                culprit
            }
            Self::Replay(replaying) => {
                let culprits = replaying.culprits.as_ref()?;
                if let Some(culprit) = culprits.lock().pop_front() {
                    return culprit;
                }
                // Between turns it is the next record.
                let mut player = replaying.player.try_lock()?;
                if player.takes(Tag::Culprit) { take_culprit(&mut player.cursor)? } else { None }
            }
        }
    }

    fn take_culprits(&self) -> Vec<Option<StoreRecord>> {
        match self {
            Self::Record(recorder) => std::mem::take(&mut *recorder.culprits.lock()),
            Self::Replay(_) => Vec::new(),
        }
    }

    /// What the next turn is told of a plugin's records.
    pub(super) fn add_culprit(&self, culprit: Option<StoreRecord>) {
        if let Self::Replay(replaying) = self
            && let Some(culprits) = &replaying.culprits
        {
            culprits.lock().push_back(culprit);
        }
    }

    /// Master time has moved.
    pub(crate) fn follow(&self, master: RefTime) {
        if let Some(mut player) = self.player() {
            player.master = master;
        }
    }

    /// Something happened that a listener is shown.
    pub(crate) fn show(&self, observation: impl FnOnce() -> Observation) {
        if let Some(mut player) = self.player() {
            player.show(observation);
        }
    }
}

fn put_culprit(out: &mut Vec<u8>, culprit: Option<&StoreRecord>) {
    out.tag(Tag::Culprit).byte(culprit.is_some().into());
    let Some(store) = culprit else {
        return;
    };
    let StoreRecord { number, address, size, value, vcpu, pc, registers, callers, functions } = store;
    out.number((*number).into()).number(*address).number((*size).into());
    out.number(*value as u64).number((*value >> 64) as u64).number((*vcpu).into()).number(*pc);
    registers.iter().for_each(|register| _ = out.number(*register));
    out.number(callers.len() as u64);
    callers.iter().for_each(|caller| _ = out.number(*caller));
    out.bytes(functions.join("\n").as_bytes());
}

/// Return addresses that a store has at most.
const MAX_CALLERS: u64 = 256;

pub(super) fn take_culprit(cursor: &mut Cursor) -> Option<Option<StoreRecord>> {
    if cursor.byte()? == 0 {
        return Some(None);
    }
    let (number, address, size) = (cursor.small()?, cursor.number()?, cursor.small()?);
    let value = u128::from(cursor.number()?) | u128::from(cursor.number()?) << 64;
    let (vcpu, pc) = (cursor.small()?, cursor.number()?);
    let mut registers = [0; 16];
    registers.iter_mut().try_for_each(|register| cursor.number().map(|value| *register = value))?;
    let callers = cursor.number().filter(|count| *count <= MAX_CALLERS)?;
    let callers = (0..callers).map(|_| cursor.number()).collect::<Option<_>>()?;
    let functions = String::from_utf8_lossy(&cursor.bytes()?).lines().map(str::to_owned).collect();
    Some(Some(StoreRecord { number, address, size, value, vcpu, pc, registers, callers, functions }))
}

/// What a card seldom observes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unusual {
    /// Words of the page that only the card stores are not as it stored them.
    WrongWords,
    /// The memory of some stream is away for a moment.
    Away,
}

impl Player {
    fn received(&mut self, input: u16) -> Option<Piece> {
        let tag = self.cursor.peek().filter(|tag| matches!(tag, Tag::Input | Tag::InputEnd))?;
        // Another input's is taken when that one is asked.
        if self.cursor.byte_ahead(1).map(u16::from) != Some(input) || !self.takes(tag) {
            return None;
        }
        self.cursor.byte();
        let piece = match tag {
            Tag::Input => Piece::Bytes(self.cursor.bytes()?.into()),
            _ => Piece::End,
        };
        self.show(|| match &piece {
            Piece::Bytes(bytes) => Observation::Received { input, bytes: bytes.clone() },
            Piece::End => Observation::Received { input, bytes: Box::default() },
        });
        Some(piece)
    }
}
