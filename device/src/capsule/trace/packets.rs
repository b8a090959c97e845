//! Packets of a trace, compressed, with the time as the difference to the packet before.
//!
//! Fed with events and tracks; feeds the file. An error of the file is kept, and ends the writing.

use super::names;
use super::proto::{
    Clock, ClockSnapshot, INCREMENTAL_STATE_CLEARED, NEEDS_INCREMENTAL_STATE, PACKET, TracePacket, TracePacketDefaults,
    TrackDescriptor, TrackEvent,
};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::io::{self, Write};

/// Nobody else writes to the file.
const SEQUENCE: u32 = 1;

/// BuiltinClock: what Perfetto shows time by.
const BOOTTIME: u32 = 6;
/// Clocks of this sequence alone, as Perfetto's own library numbers them: differences, and whole times.
const DIFFERENCES: u32 = 64;
const WHOLE: u32 = 65;
/// Both count reference time.
const UNIT_NS: u64 = 100;

/// Latest time: Perfetto keeps signed nanoseconds.
const LATEST: u64 = i64::MAX as u64 / UNIT_NS;

/// Deflate's. Its usual one takes three times as long, and makes the file smaller by a twentieth.
const LEVEL: u32 = 4;

/// Bytes that are compressed at once. Deflate looks back 32 KiB, so more would hardly make the file smaller.
const CHUNK: usize = 256 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Packets<W> {
    out: W,
    /// Not yet compressed.
    raw: Vec<u8>,
    error: Option<io::Error>,
    now: u64,
    /// Time of the last packet by the clock of differences.
    stamped: u64,
}

impl<W: Write> Packets<W> {
    pub(super) fn new(out: W) -> Self {
        let mut packets = Self { out, raw: Vec::new(), error: None, now: 0, stamped: 0 };
        let clock = |id, incremental, unit| Clock {
            clock_id: Some(id),
            timestamp: Some(0),
            is_incremental: incremental,
            unit_multiplier_ns: unit,
        };
        packets.add(&TracePacket {
            clock_snapshot: Some(ClockSnapshot {
                clocks: vec![
                    clock(BOOTTIME, None, None),
                    clock(DIFFERENCES, Some(true), Some(UNIT_NS)),
                    clock(WHOLE, None, Some(UNIT_NS)),
                ],
                primary_trace_clock: Some(BOOTTIME),
            }),
            trace_packet_defaults: Some(TracePacketDefaults { timestamp_clock_id: Some(DIFFERENCES) }),
            interned_data: Some(names::table()),
            sequence_flags: Some(INCREMENTAL_STATE_CLEARED),
            ..Self::packet()
        });
        packets
    }

    fn packet() -> TracePacket {
        TracePacket { trusted_packet_sequence_id: Some(SEQUENCE), ..TracePacket::default() }
    }

    /// Time of the trace, 100 ns.
    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// What follows happens then. Time does not go back.
    pub(super) fn set_now(&mut self, time: u64) {
        self.now = self.now.max(time.min(LATEST));
    }

    /// Whether nothing more can be written.
    pub(super) fn failed(&self) -> bool {
        self.error.is_some()
    }

    /// Something happens now.
    pub(super) fn event(&mut self, event: TrackEvent) {
        let difference = self.now - self.stamped;
        self.stamped = self.now;
        self.add(&TracePacket {
            timestamp: Some(difference),
            track_event: Some(event),
            sequence_flags: Some(NEEDS_INCREMENTAL_STATE),
            ..Self::packet()
        });
    }

    /// Something has happened at `time`, and becomes known now.
    pub(super) fn earlier(&mut self, time: u64, event: TrackEvent) {
        if time >= self.now {
            return self.event(event);
        }
        self.add(&TracePacket {
            timestamp: Some(time),
            timestamp_clock_id: Some(WHOLE),
            track_event: Some(event),
            sequence_flags: Some(NEEDS_INCREMENTAL_STATE),
            ..Self::packet()
        });
    }

    /// Events may be on this track from now on.
    pub(super) fn describe(&mut self, track: TrackDescriptor) {
        self.add(&TracePacket { track_descriptor: Some(track), ..Self::packet() });
    }

    fn add(&mut self, packet: &TracePacket) {
        if self.failed() {
            return;
        }
        prost::encoding::message::encode(PACKET, packet, &mut self.raw);
        if self.raw.len() >= CHUNK {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if let Err(error) = self.write_chunk() {
            self.error.get_or_insert(error);
        }
        self.raw.clear();
    }

    fn write_chunk(&mut self) -> io::Result<()> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(LEVEL));
        encoder.write_all(&self.raw)?;
        let packet = TracePacket { compressed_packets: Some(encoder.finish()?), ..TracePacket::default() };
        let mut bytes = Vec::new();
        prost::encoding::message::encode(PACKET, &packet, &mut bytes);
        self.out.write_all(&bytes)
    }

    /// Writes the rest.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if !self.failed() && !self.raw.is_empty() {
            self.flush();
        }
        match self.error.take() {
            Some(error) => Err(error),
            None => self.out.flush(),
        }
    }
}
