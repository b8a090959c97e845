//! The card's MIDI inputs: a file that plays, bytes that come live, or what the card itself plays.
//!
//! Fed by the command line with [`Input`]s, by threads of their own with live bytes, and by the engine with what was
//! presented; feeds the capture streams, through the engine, with bytes and their master times.

use crate::replay_log::{Piece, ReplayLog};
use crate::shared::Shared;
use crate::stream::Monitor;
use crate::transport;
use dmus_interface::time::RefTime;
use dmus_song::Song;
use std::io::{self, Read};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Most inputs of a card.
pub const MAX_INPUTS: usize = 16;
/// Bytes that a live input reads at once, and how many such pieces may wait for the engine: then its sender has to.
const PIECE: usize = 1024;
const QUEUE: usize = 16;

/// Where MIDI comes from.
pub enum Input {
    /// A song, which begins at the first RUN of a capture stream.
    Song(Song),
    /// Bytes as they come, until the end.
    Live(Box<dyn Read + Send>),
    /// Bytes of whoever connects, one after the other.
    Listener(UnixListener),
    /// What the render streams present.
    Loopback,
}

/// An input with its state.
enum Source {
    Song {
        song: Song,
        /// The next message, and where in the song's list it is.
        next: usize,
    },
    /// A live input before its thread runs.
    Idle(Input),
    Live(Receiver<Piece>),
    /// A live input of a replay.
    Replayed,
    Loopback,
}

/// An input as a capsule keeps it.
#[derive(Clone, Debug)]
pub(crate) enum Replayed {
    Song(Song),
    /// The replay log has what it received.
    Live,
    Loopback,
}

impl Source {
    fn is_live(&self) -> bool {
        matches!(self, Self::Live(_) | Self::Idle(_) | Self::Replayed)
    }
}

/// What an input has for the capture streams.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Received<'b> {
    Bytes(&'b [u8]),
    /// Whoever sent has gone: what was left unfinished belongs to nothing that follows.
    End,
}

/// All inputs of a card.
pub(crate) struct Inputs {
    sources: Vec<Source>,
    /// Master time at which songs began.
    began: Option<RefTime>,
    /// Which live input is asked first.
    turn: usize,
}

impl Inputs {
    pub(crate) fn new(inputs: Vec<Input>) -> Self {
        let source = |input| match input {
            Input::Song(song) => Source::Song { song, next: 0 },
            Input::Loopback => Source::Loopback,
            live => Source::Idle(live),
        };
        Self { sources: inputs.into_iter().take(MAX_INPUTS).map(source).collect(), began: None, turn: 0 }
    }

    /// Those of a run that is replayed.
    pub(crate) fn replayed(inputs: Vec<Replayed>) -> Self {
        let source = |input| match input {
            Replayed::Song(song) => Source::Song { song, next: 0 },
            Replayed::Live => Source::Replayed,
            Replayed::Loopback => Source::Loopback,
        };
        Self { sources: inputs.into_iter().take(MAX_INPUTS).map(source).collect(), began: None, turn: 0 }
    }

    /// What a replay has to know of them.
    pub(crate) fn to_replay(&self) -> Vec<Replayed> {
        let input = |source: &Source| match source {
            Source::Song { song, .. } => Replayed::Song(song.clone()),
            Source::Loopback => Replayed::Loopback,
            Source::Idle(_) | Source::Live(_) | Source::Replayed => Replayed::Live,
        };
        self.sources.iter().map(input).collect()
    }

    /// Starts the threads of the live inputs; they end with their input, or when the engine has.
    pub(crate) fn start(&mut self, shared: &Arc<Shared>) -> io::Result<()> {
        for source in &mut self.sources {
            if matches!(source, Source::Idle(_)) {
                let (sender, receiver) = sync_channel(QUEUE);
                let Source::Idle(input) = std::mem::replace(source, Source::Live(receiver)) else {
                    continue;
                };
                let shared = Arc::clone(shared);
                std::thread::Builder::new().name("midi-in".into()).spawn(move || match input {
                    Input::Listener(listener) => listen(&listener, &sender, &shared),
                    Input::Live(mut bytes) => {
                        forward(&mut bytes, &sender, &shared);
                    }
                    Input::Song(_) | Input::Loopback => {}
                })?;
            }
        }
        Ok(())
    }

    /// Whether some input monitors what is rendered.
    pub(crate) fn monitors_render(&self) -> bool {
        self.sources.iter().any(|source| matches!(source, Source::Loopback))
    }

    /// A capture stream runs: songs begin now if they have not.
    pub(crate) fn begin(&mut self, now: RefTime) {
        self.began.get_or_insert(now);
    }

    /// As after power-on; live bytes go on.
    pub(crate) fn reset(&mut self) {
        self.began = None;
        for source in &mut self.sources {
            if let Source::Song { next, .. } = source {
                *next = 0;
            }
        }
    }

    /// Master time of the next message of a song.
    pub(crate) fn next_time(&self) -> Option<RefTime> {
        let began = self.began?;
        let times = self.sources.iter().filter_map(|source| match source {
            Source::Song { song, next } => song.get(*next).map(|message| began.saturating_add(message.time)),
            _ => None,
        });
        times.min()
    }

    /// Takes one message or piece that was received by `now`, and shows it to `receive` with its input and its master
    /// time.
    pub(crate) fn take_one(
        &mut self,
        now: RefTime,
        log: Option<&ReplayLog>,
        mut receive: impl FnMut(u16, RefTime, Received<'_>),
    ) -> bool {
        if let Some(due) = self.next_time().filter(|time| *time <= now) {
            for (number, source) in (0..).zip(&mut self.sources) {
                if let Source::Song { song, next } = source
                    && let Some(message) = song.get(*next)
                    && self.began.map(|began| began.saturating_add(message.time)) == Some(due)
                {
                    *next += 1;
                    receive(number, due, Received::Bytes(message.bytes));
                    return true;
                }
            }
        }
        // In turn: an input that never stops leaves room for the others.
        let count = self.sources.len();
        for place in (self.turn..count).chain(0..self.turn) {
            let real = || match &self.sources[place] {
                Source::Live(bytes) => bytes.try_recv().ok(),
                _ => None,
            };
            let piece = match log {
                Some(log) if self.sources[place].is_live() => log.input(place as u16, real),
                _ => real(),
            };
            if let Some(piece) = piece {
                self.turn = (place + 1) % count;
                let received = match &piece {
                    Piece::Bytes(bytes) => Received::Bytes(bytes),
                    Piece::End => Received::End,
                };
                receive(place as u16, now, received);
                return true;
            }
        }
        false
    }

    /// Shows what the render streams presented to `receive`, by time, once for each input that monitors it.
    pub(crate) fn take_monitored(&self, monitor: &mut Monitor, mut receive: impl FnMut(u16, RefTime, Received<'_>)) {
        for (time, bytes) in monitor.take() {
            for (number, source) in (0..).zip(&self.sources) {
                if matches!(source, Source::Loopback) {
                    receive(number, time, Received::Bytes(&bytes));
                }
            }
        }
    }
}

fn listen(listener: &UnixListener, sender: &SyncSender<Piece>, shared: &Shared) {
    loop {
        match transport::accept(listener) {
            Ok(mut client) => {
                if !forward(&mut client, sender, shared) {
                    return;
                }
            }
            Err(error) => {
                tracing::error!("a MIDI input ends, it cannot accept connections: {error}");
                return;
            }
        }
    }
}

/// Passes bytes on until their end, and that; false if nobody takes them any more.
fn forward(bytes: &mut dyn Read, sender: &SyncSender<Piece>, shared: &Shared) -> bool {
    let mut read = [0; PIECE];
    loop {
        let piece = match bytes.read(&mut read) {
            Ok(0) => Piece::End,
            Ok(len) => Piece::Bytes(read[..len].into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                tracing::warn!("a MIDI input's sender is gone: {error}");
                Piece::End
            }
        };
        let is_end = matches!(piece, Piece::End);
        if sender.send(piece).is_err() {
            return false;
        }
        shared.section().wake();
        if is_end {
            return true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_that_never_stops_leaves_room_for_the_others() {
        let mut inputs = Inputs::new(Vec::new());
        let senders: Vec<_> = (0..3)
            .map(|_| {
                let (sender, receiver) = sync_channel(QUEUE);
                inputs.sources.push(Source::Live(receiver));
                sender
            })
            .collect();
        // What finds no room waits, outside.
        let send = |input: usize| senders[input].try_send(Piece::Bytes([0xF8].into())).is_ok();
        while send(0) {}
        assert!(send(2));
        let mut received = vec![];
        for _ in 0..4 {
            assert!(inputs.take_one(RefTime::ZERO, None, |input, _, _| received.push(input)));
            send(0);
        }
        assert_eq!(received, [0, 2, 0, 0]);
    }
}
