//! The sequencer's side: a client with its ports, a queue that stamps what arrives, and that queue's clock against the
//! card's.
//!
//! Fed by the kernel's sequencer, and by `bridge` with what was captured; feeds `bridge` with events, each with its
//! bytes, its sender and its time.

use super::playback::Address;
use crate::commands::Failure;
use alsa::poll::Descriptors;
use alsa::seq::{Addr, Connect, Event, EventType, Input, MidiEvent, PortCap, PortInfo, PortType, Seq};
use alsa::{Direction, poll};
use anyhow::Context;
use dmus_driver::Card;
use dmus_driver_vfio::VfioPlatform;
use dmus_interface::time::RefTime;
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::time::Duration;

const CLIENT: &CStr = c"DirectMusic";
/// Events that the kernel holds for this program: the most that it grants. One that floods it fills this first.
pub(super) const INPUT_POOL: u32 = 2000;
/// Bytes of SysEx in one event of the sequencer: programs that read have small pools.
const PIECE: usize = 256;
/// Cells of a reader's pool that are filled before it is given time to read, and how long: a program has 200 by
/// default, and one that they overflow on loses them all.
const GULP: usize = 100;
const SWALLOW: Duration = Duration::from_millis(1);
/// Bytes of a cell.
const CELL: usize = 28;
/// How often, and how far apart, both clocks are read to learn the difference: the card publishes its own every
/// millisecond or less.
const READINGS: u32 = 8;
const BETWEEN_READINGS: Duration = Duration::from_micros(130);
/// A difference that no drift makes: one clock was set back.
const LEAP: i64 = 200_000;

/// Something from the sequencer.
pub(super) enum Arrival<'e> {
    /// MIDI bytes for a port, stamped with the queue's time.
    Bytes { port: i32, from: Address, stamp: RefTime, bytes: &'e [u8] },
    /// A program has disconnected from a port.
    Left { port: i32, from: Address },
    /// Nothing more for now.
    Nothing,
    /// The kernel had no room and dropped events.
    Overrun,
}

/// The sequencer's client. See the module.
pub(super) struct Ports {
    seq: Seq,
    queue: i32,
    decoder: MidiEvent,
    encoder: MidiEvent,
    /// Card's master time less the queue's.
    offset: RefTime,
    /// Readings that the comparison of both clocks still wants, and the largest difference so far.
    readings: u32,
    best: RefTime,
    /// Cells that were filled since readers had time.
    filled: usize,
}

impl Ports {
    /// Opens the client: `playback` ports, then `capture` ports, numbered on.
    pub(super) fn open(playback: u8, capture: u8) -> anyhow::Result<Self> {
        let seq = Seq::open(None, None, true).map_err(|error| {
            let mend = "modprobe snd-seq, and be in the group audio";
            Failure::Unusable(format!("cannot open the ALSA sequencer (/dev/snd/seq): {error}: {mend}"))
        })?;
        seq.set_client_name(CLIENT)?;
        seq.set_client_pool_input(INPUT_POOL)?;
        let queue = seq.alloc_named_queue(CLIENT)?;
        for number in 0..playback + capture {
            let writable = number < playback;
            let name = if writable {
                format!("DirectMusic {}", number + 1)
            } else {
                format!("DirectMusic in {}", number - playback + 1)
            };
            let mut info = PortInfo::empty()?;
            info.set_name(&CString::new(name)?);
            let kind = PortType::MIDI_GENERIC | PortType::HARDWARE | PortType::PORT;
            if writable {
                info.set_capability(PortCap::WRITE | PortCap::SUBS_WRITE);
                info.set_type(kind | PortType::MIDI_GM | PortType::SYNTHESIZER);
                info.set_midi_channels(16);
                info.set_timestamping(true);
                info.set_timestamp_real(true);
                info.set_timestamp_queue(queue);
            } else {
                info.set_capability(PortCap::READ | PortCap::SUBS_READ);
                info.set_type(kind);
            }
            seq.create_port(&info).context("cannot open a port of the sequencer")?;
        }
        seq.control_queue(queue, EventType::Start, 0, None)?;
        seq.drain_output()?;
        let (decoder, encoder) = (MidiEvent::new(0)?, MidiEvent::new(PIECE as u32)?);
        decoder.enable_running_status(false);
        Ok(Self { seq, queue, decoder, encoder, offset: RefTime::ZERO, readings: 0, best: RefTime::ZERO, filled: 0 })
    }

    /// Number of the client.
    pub(super) fn client(&self) -> anyhow::Result<i32> {
        Ok(self.seq.client_id()?)
    }

    pub(super) fn input(&self) -> Input<'_> {
        self.seq.input()
    }

    /// What to poll for arrivals.
    pub(super) fn descriptors(&self) -> anyhow::Result<Vec<poll::pollfd>> {
        Ok((&self.seq, Some(Direction::Capture)).get()?)
    }

    /// Shows the next arrival to `take`.
    pub(super) fn receive<R>(&self, input: &mut Input<'_>, take: impl FnOnce(Arrival<'_>) -> R) -> anyhow::Result<R> {
        let mut event = match input.event_input() {
            Ok(event) => event,
            Err(error) => match Errno::from_raw_os_error(error.errno()) {
                Errno::AGAIN | Errno::INTR => return Ok(take(Arrival::Nothing)),
                Errno::NOSPC => return Ok(take(Arrival::Overrun)),
                // An event of a kind that the crate does not know; it is taken.
                Errno::NOTSUP | Errno::INVAL => {
                    return Ok(take(Arrival::Bytes { port: -1, from: (0, 0), stamp: RefTime::ZERO, bytes: &[] }));
                }
                _ => return Err(error).context("cannot read from the sequencer"),
            },
        };
        let (source, port) = (event.get_source(), event.get_dest().port);
        let from = (source.client, source.port);
        if event.get_type() == EventType::PortUnsubscribed {
            let connection = event.get_data::<Connect>();
            let left = connection.map(|Connect { sender, dest }| (dest.port, (sender.client, sender.port)));
            let (port, from) = left.unwrap_or((-1, from));
            return Ok(take(Arrival::Left { port, from }));
        }
        let stamp = ref_time(event.get_time().unwrap_or_default());
        let mut short = [0; 32];
        let bytes = match event.get_ext() {
            Some(bytes) if event.get_type() == EventType::Sysex => bytes,
            Some(_) => &[],
            // What is no MIDI message (subscriptions, for one) has no bytes.
            None => {
                let len = self.decoder.decode(&mut short, &mut event).unwrap_or(0);
                &short[..len.min(short.len())]
            }
        };
        Ok(take(Arrival::Bytes { port, from, stamp, bytes }))
    }

    /// Whether somebody reads a port.
    pub(super) fn is_read(&self, port: i32) -> anyhow::Result<bool> {
        let address = Addr { client: self.client()?, port };
        Ok(self.seq.get_any_port_info(address)?.get_read_use() > 0)
    }

    /// Sends a message to whoever reads a port; false if some reader had no room for all of it.
    pub(super) fn send(&mut self, port: i32, message: &[u8]) -> anyhow::Result<bool> {
        if message.first() == Some(&0xF0) {
            let mut sent = true;
            for piece in message.chunks(PIECE) {
                self.fill(1 + piece.len().div_ceil(CELL));
                let mut event = Event::new_ext(EventType::Sysex, piece);
                sent &= output(&self.seq, port, &mut event)?;
            }
            return Ok(sent);
        }
        self.fill(1);
        match self.encoder.encode(message) {
            Ok((_, Some(mut event))) => output(&self.seq, port, &mut event),
            _ => Ok(true),
        }
    }

    /// Gives readers time when they may need it.
    fn fill(&mut self, cells: usize) {
        self.filled += cells;
        if self.filled > GULP {
            std::thread::sleep(SWALLOW);
            self.filled = cells;
        }
    }

    /// Nothing was sent for some time.
    pub(super) fn rested(&mut self, time: Duration) {
        if time >= SWALLOW {
            self.filled = 0;
        }
    }

    /// Learns by how much the card's clock is ahead of the queue's. Takes a millisecond.
    pub(super) fn learn_clocks(&mut self, card: &Card<VfioPlatform>) -> anyhow::Result<()> {
        self.begin_comparison();
        while self.compare_clocks(card)? {
            std::thread::sleep(BETWEEN_READINGS);
        }
        Ok(())
    }

    /// The difference of the clocks is to be learnt anew, a reading at a time.
    pub(super) fn begin_comparison(&mut self) {
        (self.readings, self.best) = (READINGS, RefTime(i64::MIN));
    }

    /// Reads both clocks once, if a comparison is under way; whether it wants more readings.
    pub(super) fn compare_clocks(&mut self, card: &Card<VfioPlatform>) -> anyhow::Result<bool> {
        if self.readings == 0 {
            return Ok(false);
        }
        // What the page says is older, never younger, than it should be, and read before the queue's: the largest
        // difference is the truest.
        let card = card.get_time();
        self.best = self.best.max(card.saturating_sub(self.queue_time()?));
        self.readings -= 1;
        if self.readings > 0 {
            return Ok(true);
        }
        let change = self.best.saturating_sub(self.offset);
        // Half of it at a time: single readings may be off by some tenths of a millisecond.
        self.offset = if change.0.abs() > LEAP { self.best } else { self.offset.saturating_add(RefTime(change.0 / 2)) };
        Ok(false)
    }

    /// The queue's time as master time of the card.
    pub(super) fn master_time(&self, stamp: RefTime) -> RefTime {
        stamp.saturating_add(self.offset)
    }

    /// The queue's time now.
    pub(super) fn queue_time(&self) -> anyhow::Result<RefTime> {
        Ok(ref_time(self.seq.get_queue_status(self.queue)?.get_real_time()))
    }
}

fn output(seq: &Seq, port: i32, event: &mut Event<'_>) -> anyhow::Result<bool> {
    event.set_source(port);
    event.set_subs();
    event.set_direct();
    match seq.event_output_direct(event) {
        Ok(_) => Ok(true),
        Err(error) => match Errno::from_raw_os_error(error.errno()) {
            Errno::AGAIN | Errno::NOMEM | Errno::NOSPC | Errno::NODEV | Errno::INTR => Ok(false),
            _ => Err(error).context("cannot write to the sequencer"),
        },
    }
}

fn ref_time(time: Duration) -> RefTime {
    RefTime::from_nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}
