//! What was captured and has no slot yet: events, made of the inputs' bytes as the stream's mode wants them.
//!
//! Fed with bytes and their times; feeds the stream with events in order. In realtime each input has bounds of its own:
//! its oldest events are dropped and never those of another input, and no event that is left becomes part of a wrong
//! message by that. In virtual time nothing is dropped: what is captured in a turn is bounded, and the next turn has to
//! wait for slots.

use dmus_interface::event::{COMPLETE, INCOMPLETE};
use dmus_interface::midi::{Parsed, Parser};
use dmus_interface::time::RefTime;
use std::collections::VecDeque;

/// What may wait of an input in realtime.
const MAX_EVENTS: usize = 1024;
const MAX_BYTES: usize = 256 << 10;

/// An event to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Captured {
    /// Stream time.
    pub(super) time: RefTime,
    pub(super) input: u16,
    pub(super) flags: u16,
    pub(super) position: u64,
    pub(super) bytes: Box<[u8]>,
}

/// Reads the bytes of one input.
#[derive(Clone, Debug, Default)]
struct Cooker {
    parser: Parser,
    /// The SysEx bytes that were not passed on.
    piece: Vec<u8>,
    /// The beginning of this SysEx message was dropped, and so is the rest.
    dropping: bool,
}

/// An input as a stream receives from it.
#[derive(Debug, Default)]
struct Input {
    cooker: Cooker,
    /// Each with its place among those of all inputs.
    events: VecDeque<(u64, Captured)>,
    /// Bytes in `events`.
    bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pending {
    cooked: bool,
    /// Bytes of an event at most.
    limit: usize,
    /// By number, as far as they have sent something.
    inputs: Vec<Input>,
    /// Events that wait, and how many there have been.
    waiting: usize,
    count: u64,
    /// Bytes captured since STOP.
    position: u64,
    last: RefTime,
}

impl Pending {
    pub(super) fn new(cooked: bool, limit: usize) -> Self {
        let limit = limit.max(1);
        Self { cooked, limit, inputs: Vec::new(), waiting: 0, count: 0, position: 0, last: RefTime::ZERO }
    }

    /// Takes bytes of an input.
    pub(super) fn receive(&mut self, input: u16, time: RefTime, bytes: &[u8]) {
        let time = time.max(self.last);
        let place = usize::from(input);
        if self.inputs.len() <= place {
            self.inputs.resize_with(place + 1, Input::default);
        }
        if !self.cooked {
            for piece in bytes.chunks(self.limit) {
                self.push(input, time, INCOMPLETE, piece.into());
            }
            return;
        }
        let mut cooker = std::mem::take(&mut self.inputs[place].cooker);
        for &byte in bytes {
            match cooker.parser.push(byte) {
                None => {}
                Some(Parsed::Message(bytes, len)) => {
                    if bytes[0] < 0xF8 {
                        cooker.begin();
                    }
                    self.push(input, time, COMPLETE, bytes[..usize::from(len)].into());
                }
                Some(Parsed::SysEx(byte)) => {
                    if byte == 0xF0 {
                        cooker.begin();
                    } else if cooker.piece.len() == self.limit {
                        self.push_piece(&mut cooker, input, time, INCOMPLETE);
                    }
                    cooker.piece.push(byte);
                    if byte == 0xF7 {
                        self.push_piece(&mut cooker, input, time, COMPLETE);
                    }
                }
            }
        }
        self.inputs[place].cooker = cooker;
    }

    fn push_piece(&mut self, cooker: &mut Cooker, input: u16, time: RefTime, flags: u16) {
        let piece = std::mem::take(&mut cooker.piece);
        match cooker.dropping {
            true => self.position += piece.len() as u64,
            false => self.push(input, time, flags, piece.into()),
        }
    }

    fn push(&mut self, input: u16, time: RefTime, flags: u16, bytes: Box<[u8]>) {
        self.last = time;
        let position = self.position;
        self.position += bytes.len() as u64;
        if let Some(place) = self.inputs.get_mut(usize::from(input)) {
            place.bytes += bytes.len();
            place.events.push_back((self.count, Captured { time, input, flags, position, bytes }));
            self.count += 1;
            self.waiting += 1;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// The input of the next event.
    fn next(&self) -> Option<usize> {
        let numbers = |(place, input): (usize, &Input)| Some((input.events.front()?.0, place));
        let first = self.inputs.iter().enumerate().filter_map(numbers).min();
        first.map(|(_, place)| place)
    }

    pub(super) fn front(&self) -> Option<&Captured> {
        self.inputs[self.next()?].events.front().map(|(_, event)| event)
    }

    pub(super) fn pop(&mut self) -> Option<Captured> {
        let next = self.next()?;
        self.take(next, 0)
    }

    /// Takes an event of an input out.
    fn take(&mut self, input: usize, place: usize) -> Option<Captured> {
        let input = self.inputs.get_mut(input)?;
        let (_, event) = input.events.remove(place)?;
        input.bytes -= event.bytes.len();
        self.waiting -= 1;
        Some(event)
    }

    /// Whoever sent on an input has gone: the message that has begun is given up, and no running status is left.
    pub(super) fn end(&mut self, input: u16) {
        if let Some(input) = self.inputs.get_mut(usize::from(input)) {
            input.cooker = Cooker::default();
        }
    }

    /// The inputs are not received for a while: messages that have begun are given up.
    pub(super) fn cut(&mut self) {
        self.inputs.iter_mut().for_each(|input| input.cooker = Cooker::default());
    }

    /// As new.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.cooked, self.limit);
    }

    /// Drops the oldest events of each input until its rest is within bounds; says how many. SysEx goes as a whole, or
    /// what is left of it.
    pub(super) fn drop_excess(&mut self) -> u64 {
        (0..self.inputs.len()).map(|input| self.drop_excess_of(input)).sum()
    }

    fn drop_excess_of(&mut self, number: usize) -> u64 {
        let mut dropped = 0;
        while let Some(input) = self.inputs.get(number)
            && (input.events.len() > MAX_EVENTS || input.bytes > MAX_BYTES)
            && let Some(event) = self.take(number, 0)
        {
            dropped += 1;
            if self.cooked && event.flags & INCOMPLETE != 0 {
                dropped += self.drop_rest(number);
            }
        }
        dropped
    }

    /// Drops what follows of an input's SysEx message.
    fn drop_rest(&mut self, number: usize) -> u64 {
        let mut dropped = 0;
        let mut place = 0;
        while let Some((_, event)) = self.inputs.get(number).and_then(|input| input.events.get(place)) {
            let first = event.bytes.first().copied().unwrap_or(0);
            if first >= 0xF8 {
                place += 1;
                continue;
            }
            if (0x80..0xF7).contains(&first) {
                // Another message: the one before it was left unfinished.
                return dropped;
            }
            let last = event.flags & INCOMPLETE == 0;
            if self.take(number, place).is_some() {
                dropped += 1;
            }
            if last {
                return dropped;
            }
        }
        if let Some(input) = self.inputs.get_mut(number) {
            input.cooker.dropping = true;
        }
        dropped
    }
}

impl Cooker {
    /// A message begins; what was not finished before it never is.
    fn begin(&mut self) {
        self.piece.clear();
        self.dropping = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events(pending: &mut Pending) -> Vec<(u16, u16, Vec<u8>)> {
        std::iter::from_fn(|| pending.pop()).map(|event| (event.input, event.flags, event.bytes.into())).collect()
    }

    proptest! {
        #[test]
        fn cuts_in_what_an_input_sends_change_nothing(
            bytes in proptest::collection::vec(any::<u8>(), 0..500),
            cuts in proptest::collection::vec(1usize..20, 1..40),
        ) {
            let mut whole = Pending::new(true, 16);
            whole.receive(0, RefTime::ZERO, &bytes);
            let mut cut = Pending::new(true, 16);
            let (mut rest, mut cuts) = (&bytes[..], cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
                cut.receive(0, RefTime::ZERO, head);
                rest = tail;
            }
            prop_assert_eq!(events(&mut cut), events(&mut whole));
        }

        /// Whatever is dropped, what is left reads as messages that were sent.
        #[test]
        fn an_overrun_leaves_whole_messages(
            lengths in proptest::collection::vec(0usize..60_000, 1..40),
            first in 0usize..40,
        ) {
            let mut pending = Pending::new(true, 512);
            let mut dropped = 0;
            for (number, len) in lengths.iter().enumerate() {
                let mut sysex = vec![number as u8; len + 2];
                sysex[0] = 0xF0;
                sysex[len + 1] = 0xF7;
                for piece in sysex.chunks(4096) {
                    pending.receive((number % 2) as u16, RefTime::ZERO, piece);
                    dropped += pending.drop_excess();
                }
                if number == first {
                    pending.pop();
                }
            }
            for input in &pending.inputs {
                prop_assert!(input.bytes <= MAX_BYTES && input.events.len() <= MAX_EVENTS);
            }
            let last = lengths.len() - 1;
            let left = events(&mut pending);
            let mut open: [Option<Vec<u8>>; 2] = [None, None];
            let mut complete = vec![];
            for (input, flags, bytes) in left {
                let place = &mut open[usize::from(input)];
                if bytes[0] == 0xF0 {
                    *place = Some(vec![]);
                }
                // Only the rest of a message whose beginning the driver has may begin in the middle: it was popped.
                let Some(message) = place else { continue };
                message.extend(&bytes);
                if flags == COMPLETE {
                    complete.push(place.take().unwrap_or_default());
                }
            }
            for message in &complete {
                let number = message.get(1).copied().unwrap_or(0xF7);
                let expected = if message.len() == 2 { 0 } else { lengths[usize::from(number)] };
                prop_assert_eq!(message.len(), expected + 2);
                prop_assert!(message[1..message.len() - 1].iter().all(|byte| *byte == number));
            }
            if dropped > 0 {
                let newest = complete.last().map(Vec::len);
                prop_assert_eq!(newest, Some(lengths[last] + 2), "the newest is not intact");
            }
        }
    }

    #[test]
    fn a_flood_on_one_input_drops_nothing_of_another() {
        for cooked in [true, false] {
            let mut pending = Pending::new(cooked, 16);
            let (before, after) = ([0x91, 60, 100], [0x81, 60, 0]);
            pending.receive(1, RefTime(1), &before);
            for _ in 0..3 * MAX_EVENTS {
                pending.receive(0, RefTime(2), &[0x90, 1, 1]);
            }
            pending.receive(1, RefTime(3), &after);
            assert_eq!(pending.drop_excess(), 2 * MAX_EVENTS as u64);
            let left = events(&mut pending);
            let [first, .., last] = &left[..] else { unreachable!("{left:?}") };
            assert_eq!(((first.0, &first.2[..]), (last.0, &last.2[..])), ((1, &before[..]), (1, &after[..])));
            assert_eq!(left.len(), MAX_EVENTS + 2);
        }
    }

    #[test]
    fn real_time_comes_between_the_pieces_of_sysex() {
        let mut pending = Pending::new(true, 8);
        pending.receive(3, RefTime(5), &[0xF0, 1, 2, 3, 4, 5, 6, 7, 8, 0xF8, 9, 0xF7]);
        let expected = [
            (3, INCOMPLETE, vec![0xF0, 1, 2, 3, 4, 5, 6, 7]),
            (3, COMPLETE, vec![0xF8]),
            (3, COMPLETE, vec![8, 9, 0xF7]),
        ];
        assert_eq!(events(&mut pending), expected);
    }
}
