"""Checks a trace of the card against Perfetto's schema, and for what Perfetto would show otherwise than it is meant.

Run by `qemu-scripts/peers perfetto FILE`, which has the schema.
"""

import sys
import zlib
from collections import Counter, defaultdict

from google.protobuf.message import DecodeError
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as schema

Packet = schema.TracePacket
Event = schema.TrackEvent
TRACE_CLOCK = schema.BUILTIN_CLOCK_BOOTTIME


class Wrong(Exception):
    """What is wrong with a file, in a line."""


def parse(data, what):
    """The packets of a file, or of a compressed part of it, all of whose fields the schema knows."""
    trace = schema.Trace()
    try:
        trace.ParseFromString(data)
    except DecodeError as error:
        raise Wrong(f"{what} is no trace: {error}") from error
    known(trace, what)
    return trace.packet


def known(message, what):
    size = message.ByteSize()
    bare = type(message)()
    bare.CopyFrom(message)
    bare.DiscardUnknownFields()
    if bare.ByteSize() != size:
        for number, packet in enumerate(getattr(message, "packet", [])):
            known(packet, f"packet {number} of {what}")
        raise Wrong(f"{what} has fields or values that the schema does not know")


def unpacked(data):
    for number, packet in enumerate(parse(data, "the file")):
        if packet.HasField("compressed_packets"):
            part = f"compressed part {number}"
            try:
                raw = zlib.decompress(packet.compressed_packets)
            except zlib.error as error:
                raise Wrong(f"{part}: {error}") from error
            yield from parse(raw, part)
        else:
            yield packet


class Clocks:
    """Those of one sequence, each by where it stands and how it counts, in nanoseconds of the trace."""

    def __init__(self):
        self.known = {}

    def snapshot(self, snapshot):
        if snapshot.primary_trace_clock not in (0, TRACE_CLOCK):
            raise Wrong(f"the clock of the trace is {snapshot.primary_trace_clock}")
        base = [clock.timestamp for clock in snapshot.clocks if clock.clock_id == TRACE_CLOCK]
        if len(base) != 1:
            raise Wrong("a snapshot of the clocks does not say the trace's time")
        for clock in snapshot.clocks:
            unit = clock.unit_multiplier_ns or 1
            self.known[clock.clock_id] = [clock.is_incremental, unit, base[0] - clock.timestamp * unit, base[0]]

    def time(self, clock, stamp):
        if clock not in self.known:
            raise Wrong(f"clock {clock} is used before a snapshot has it")
        entry = self.known[clock]
        incremental, unit, offset, last = entry
        if not incremental:
            return offset + stamp * unit
        entry[3] = last + stamp * unit
        return entry[3]


class Sequence:
    """What the packets of one writer share."""

    def __init__(self):
        self.clocks = Clocks()
        self.default_clock = TRACE_CLOCK
        self.started = False
        self.names = {}
        self.keys = {}
        self.strings = {}


class Trace:
    def __init__(self):
        self.sequences = defaultdict(Sequence)
        self.tracks = {}
        # (time in ns, what it is, event), in the order of the file.
        self.events = []
        self.kinds = Counter()

    def add(self, packet):
        if not packet.HasField("trusted_packet_sequence_id"):
            raise Wrong("no sequence")
        sequence = self.sequences[packet.trusted_packet_sequence_id]
        if packet.sequence_flags & Packet.SEQ_INCREMENTAL_STATE_CLEARED:
            sequence.started = True
            sequence.names, sequence.keys, sequence.strings = {}, {}, {}
        if packet.HasField("clock_snapshot"):
            sequence.clocks.snapshot(packet.clock_snapshot)
        if packet.HasField("trace_packet_defaults"):
            sequence.default_clock = packet.trace_packet_defaults.timestamp_clock_id
        if packet.HasField("interned_data"):
            self.intern(sequence, packet.interned_data)
        if packet.HasField("track_descriptor"):
            self.describe(packet.track_descriptor)
        if packet.HasField("track_event"):
            if not packet.sequence_flags & Packet.SEQ_NEEDS_INCREMENTAL_STATE or not sequence.started:
                raise Wrong("an event that does not say that it needs what was before it, or comes before that")
            if not packet.HasField("timestamp"):
                raise Wrong("an event without a time")
            clock = packet.timestamp_clock_id or sequence.default_clock
            time = sequence.clocks.time(clock, packet.timestamp)
            if time >= 1 << 63:
                raise Wrong(f"time {time} is more than Perfetto can have")
            self.event(sequence, time, packet.track_event)

    @staticmethod
    def intern(sequence, data):
        for table, entries, text in (
            (sequence.names, data.event_names, "name"),
            (sequence.keys, data.debug_annotation_names, "name"),
            (sequence.strings, data.debug_annotation_string_values, "str"),
        ):
            for entry in entries:
                if not entry.iid or not getattr(entry, text) or entry.iid in table:
                    raise Wrong(f"interned number {entry.iid} is 0, empty, or there twice")
                table[entry.iid] = getattr(entry, text)

    def describe(self, track):
        if not track.uuid:
            raise Wrong("a track with number 0")
        if track.HasField("parent_uuid") and track.parent_uuid not in self.tracks:
            raise Wrong(f"track {track.uuid} is below track {track.parent_uuid}, which is not described")
        if not track.name and not track.process.process_name:
            raise Wrong(f"track {track.uuid} has no name")
        before = self.tracks.get(track.uuid)
        if before is not None and before != track:
            raise Wrong(f"track {track.uuid} is described in two ways")
        self.tracks[track.uuid] = track

    def event(self, sequence, time, event):
        track = self.tracks.get(event.track_uuid)
        if track is None:
            raise Wrong(f"an event on track {event.track_uuid}, which is not described")
        where = f"track {track.uuid} ({track.name})"
        name = event.name
        if event.HasField("name_iid"):
            if event.name_iid not in sequence.names:
                raise Wrong(f"{where}: interned name {event.name_iid} is used before it is defined")
            name = sequence.names[event.name_iid]
        for about in event.debug_annotations:
            if about.name_iid not in sequence.keys:
                raise Wrong(f"{where}: name {about.name_iid} of an annotation is used before it is defined")
            if about.HasField("string_value_iid") and about.string_value_iid not in sequence.strings:
                raise Wrong(f"{where}: interned string {about.string_value_iid} is used before it is defined")
        values = event.HasField("counter_value") + event.HasField("double_counter_value")
        counts = event.type == Event.TYPE_COUNTER
        if counts != track.HasField("counter") or values != counts:
            raise Wrong(f"{where}: only counters have counter tracks and values, and each has one")
        if event.type in (Event.TYPE_SLICE_BEGIN, Event.TYPE_INSTANT) and not name:
            raise Wrong(f"{where}: an event without a name")
        self.kinds[event.type] += 1
        self.events.append((time, where, event))

    def check(self):
        # Perfetto sorts by time, and keeps the order of the file for what has the same.
        order = sorted(range(len(self.events)), key=lambda number: self.events[number][0])
        if self.pairs(order) != self.pairs(range(len(self.events))):
            raise Wrong("slices that nest otherwise by their times than as they were written")
        self.flows(order)

    def pairs(self, order):
        """For the end of each slice its beginning."""
        open_slices = defaultdict(list)
        pairs = {}
        for number in order:
            time, where, event = self.events[number]
            if event.type == Event.TYPE_SLICE_BEGIN:
                open_slices[event.track_uuid].append(number)
            elif event.type == Event.TYPE_SLICE_END:
                if not open_slices[event.track_uuid]:
                    raise Wrong(f"{where}: at {time} ns a slice ends that has not begun")
                pairs[number] = open_slices[event.track_uuid].pop()
        for numbers in open_slices.values():
            for number in numbers:
                time, where, _ = self.events[number]
                raise Wrong(f"{where}: the slice that begins at {time} ns does not end")
        return pairs

    def flows(self, order):
        begun, ended = set(), set()
        for number in order:
            time, where, event = self.events[number]
            for flow in list(event.flow_ids) + list(event.terminating_flow_ids):
                if flow in ended:
                    raise Wrong(f"{where}: at {time} ns flow {flow} goes on, which has ended")
            begun.update(event.flow_ids)
            for flow in event.terminating_flow_ids:
                if flow not in begun:
                    raise Wrong(f"{where}: at {time} ns flow {flow} ends, which has not begun")
                ended.add(flow)
        self.ended = len(ended)


def main(arguments):
    if len(arguments) != 2:
        print("usage: check.py FILE.pftrace", file=sys.stderr)
        return 2
    trace = Trace()
    try:
        with open(arguments[1], "rb") as file:
            data = file.read()
        number = 0
        for number, packet in enumerate(unpacked(data)):
            try:
                trace.add(packet)
            except Wrong as wrong:
                raise Wrong(f"packet {number}: {wrong}") from wrong
        if not trace.events:
            raise Wrong("no event")
        trace.check()
    except (OSError, Wrong) as error:
        print(f"check.py: {arguments[1]}: {error}", file=sys.stderr)
        return 1
    kinds = trace.kinds
    print(
        f"{number + 1} packets, {len(trace.tracks)} tracks, {kinds[Event.TYPE_SLICE_BEGIN]} slices, "
        f"{kinds[Event.TYPE_INSTANT]} instants, {kinds[Event.TYPE_COUNTER]} counts, {trace.ended} flows that end"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
