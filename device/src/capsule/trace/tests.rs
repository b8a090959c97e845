#![allow(clippy::unwrap_used)]

use super::proto::{INSTANT, PACKET, SLICE_BEGIN, SLICE_END, TracePacket, TrackEvent};
use super::tracks::{CONNECTION, DOORBELL, INTERRUPTS, StreamTracks};
use super::*;
use crate::capsule::Observation as O;
use dmus_interface::event::{Data, Event};
use dmus_interface::regs::stream::{MAX_SLOTS, Type};
use dmus_interface::ring::{Completion, Status};
use flate2::read::ZlibDecoder;
use proptest::prelude::*;
use prost::Message;
use std::collections::{HashMap, HashSet};
use std::io::Read;

#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(message, repeated, tag = "1")]
    packet: Vec<TracePacket>,
}

const _: () = assert!(PACKET == 1);

fn packets(bytes: &[u8]) -> Vec<TracePacket> {
    let mut packets = vec![];
    for packet in File::decode(bytes).unwrap().packet {
        let mut raw = vec![];
        ZlibDecoder::new(&packet.compressed_packets.unwrap()[..]).read_to_end(&mut raw).unwrap();
        packets.extend(File::decode(&raw[..]).unwrap().packet);
    }
    packets
}

/// The events as they are written, with their times.
fn written(bytes: &[u8]) -> Vec<(u64, TrackEvent)> {
    let mut now = 0;
    let mut events = vec![];
    for packet in packets(bytes) {
        let Some(event) = packet.track_event else { continue };
        let time = packet.timestamp.unwrap();
        if packet.timestamp_clock_id.is_some() {
            events.push((time, event));
        } else {
            now += time;
            events.push((now, event));
        }
    }
    events
}

/// The events in the order of their times, with the times.
fn events(bytes: &[u8]) -> Vec<(u64, TrackEvent)> {
    let mut events = written(bytes);
    events.sort_by_key(|(time, _)| *time);
    events
}

/// The numbers of the events that begin and end each slice, if all are whole.
fn slices<'a>(events: impl IntoIterator<Item = (usize, &'a TrackEvent)>) -> Option<HashSet<(usize, usize)>> {
    let mut open: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut slices = HashSet::new();
    for (number, event) in events {
        let open = open.entry(event.track_uuid?).or_default();
        match event.r#type? {
            SLICE_BEGIN => open.push(number),
            SLICE_END => drop(slices.insert((open.pop()?, number))),
            _ => {}
        }
    }
    open.values().all(Vec::is_empty).then_some(slices)
}

/// What all events say in short: time, name or nothing, type.
fn on_track(bytes: &[u8], track: u64) -> Vec<(u64, String, i32)> {
    let names: HashMap<u64, String> =
        names::table().event_names.into_iter().map(|entry| (entry.iid.unwrap(), entry.text.unwrap())).collect();
    events(bytes)
        .into_iter()
        .filter(|(_, event)| event.track_uuid == Some(track))
        .map(|(time, event)| {
            let name = event.name.or_else(|| event.name_iid.map(|iid| names[&iid].clone()));
            (time, name.unwrap_or_default(), event.r#type.unwrap())
        })
        .collect()
}

fn note(time: i64, key: u8, velocity: u8) -> Event {
    Event {
        struct_size: 40,
        event_bytes: 3,
        channel_group: 0,
        flags: 0,
        time,
        byte_position: 0,
        next: 0,
        data: Data::Inline([0x90, key, velocity, 0, 0, 0, 0, 0]),
    }
}

fn completion(slot: u32, status: Status, time: i64) -> Completion {
    Completion { slot: slot.into(), status: (status as u16).into(), flags: 0.into(), time: time.into() }
}

fn opened(stream: usize, slots: u32) -> O {
    O::Opened { stream, kind: Type::Render, slots, buffers: 0, buffer_size: 0 }
}

fn traced(observations: impl IntoIterator<Item = (i64, O)>) -> Vec<u8> {
    let mut file = vec![];
    let mut trace = Trace::new(&mut file);
    for (time, observation) in observations {
        trace.observe(RefTime(time), &observation);
    }
    trace.finish().unwrap();
    file
}

fn slot(number: u32) -> u64 {
    StreamTracks::new(0, Type::Render).slot(number)
}

/// Events ahead of their times, in batches of 16 and an interrupt for each, out of a pool of 256 slots.
fn song(events: u32) -> impl Iterator<Item = (i64, O)> {
    const BATCH: u32 = 16;
    let mut seed = 1u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut time = 0;
    let open = [(0, opened(0, 256))];
    let batches = (0..events / BATCH).flat_map(move |batch| {
        let first = batch * BATCH;
        let mut all = vec![(time, O::Submitted { stream: 0, tail: first + BATCH })];
        let mut due = time;
        let mut completions = vec![];
        for index in first..first + BATCH {
            due += 1 + random(400_000) as i64;
            let slot = index * 7 % 256;
            let event = note(due, random(128) as u8, random(128) as u8);
            all.push((time, O::Fetched { stream: 0, index, slot }));
            all.push((time, O::Event { stream: 0, slot, event }));
            let completion = completion(slot, Status::Presented, due);
            completions.push((due, O::Completed { stream: 0, index, completion }));
        }
        all.push((time, O::Granted { until: RefTime(due) }));
        all.extend(completions);
        all.push((due, O::Interrupt { vector: 0 }));
        time = due;
        all
    });
    open.into_iter().chain(batches)
}

#[test]
fn an_event_takes_at_most_40_bytes() {
    const EVENTS: u32 = 100_000;
    let file = traced(song(EVENTS));
    let each = file.len() as f64 / f64::from(EVENTS);
    assert!(each <= 40.0, "{each} bytes an event");
    // It is all there.
    let ends = events(&file).iter().filter(|(_, event)| event.r#type == Some(SLICE_END)).count();
    assert_eq!(ends, 2 * EVENTS as usize);
}

/// A submission of a stream of 8 slots: its tail, its entry and its event, each at a time.
fn one(submitted: i64, fetched: i64, index: u32, slot: u32) -> [(i64, O); 3] {
    [
        (submitted, O::Submitted { stream: 0, tail: index + 1 }),
        (fetched, O::Fetched { stream: 0, index, slot }),
        (fetched, O::Event { stream: 0, slot, event: note(100, 60, 100) }),
    ]
}

fn completed(time: i64, index: u32, slot: u32, status: Status, of_event: i64) -> (i64, O) {
    (time, O::Completed { stream: 0, index, completion: completion(slot, status, of_event) })
}

fn begins(time: u64, name: &str) -> (u64, String, i32) {
    (time, name.to_owned(), SLICE_BEGIN)
}

fn ends(time: u64) -> (u64, String, i32) {
    (time, String::new(), SLICE_END)
}

fn happens(time: u64, name: &str) -> (u64, String, i32) {
    (time, name.to_owned(), INSTANT)
}

#[test]
fn a_submission_lasts_from_its_tail_to_its_completion_and_is_held_from_its_fetch() {
    let mut run = vec![(5, opened(0, 8))];
    run.extend(one(10, 25, 0, 3));
    // An access of something else, at a time of its own, between the fetch and the completion.
    run.push((30, O::Granted { until: RefTime(100) }));
    run.push(completed(100, 0, 3, Status::Presented, 100));
    // Again, and presented at once.
    run.extend(one(110, 110, 1, 3));
    run.push(completed(110, 1, 3, Status::Presented, 100));
    let file = traced(run);
    assert_eq!(
        on_track(&file, slot(3)),
        [begins(10, "note on"), begins(25, "held"), ends(100), ends(100), begins(110, "note on"), ends(110),]
    );
    let counter = StreamTracks::new(0, Type::Render).in_flight();
    let counts: Vec<_> = events(&file)
        .into_iter()
        .filter(|(_, event)| event.track_uuid == Some(counter))
        .map(|(time, event)| (time, event.counter_value))
        .collect();
    assert_eq!(counts, [(25, Some(1)), (100, Some(0))]);
}

#[test]
fn a_flow_goes_from_the_tail_to_the_completion_to_the_interrupt_that_follows() {
    let mut run = vec![(0, opened(0, 8)), (0, O::Submitted { stream: 0, tail: 2 })];
    for (index, slot) in [(0, 5), (1, 6)] {
        run.push((0, O::Fetched { stream: 0, index, slot }));
        run.push((0, O::Event { stream: 0, slot, event: note(10, 60, 100) }));
    }
    run.push(completed(10, 0, 5, Status::Presented, 10));
    run.push((11, O::Interrupt { vector: 0 }));
    run.push(completed(20, 1, 6, Status::Presented, 10));
    run.push((21, O::Interrupt { vector: 7 }));
    run.push((22, O::Interrupt { vector: 0 }));
    let flows: Vec<_> = events(&traced(run))
        .into_iter()
        .filter(|(_, event)| !event.flow_ids.is_empty() || !event.terminating_flow_ids.is_empty())
        .map(|(time, event)| (time, event.track_uuid.unwrap(), event.flow_ids, event.terminating_flow_ids))
        .collect();
    assert_eq!(
        flows,
        [
            (0, DOORBELL, vec![1, 2], vec![]),
            (10, slot(5), vec![1], vec![]),
            (11, INTERRUPTS, vec![], vec![1]),
            (20, slot(6), vec![2], vec![]),
            (22, INTERRUPTS, vec![], vec![2]),
        ]
    );
}

#[test]
fn the_slots_of_a_chain_go_home_with_its_head() {
    let mut run = vec![(0, opened(0, 8))];
    run.extend(one(0, 0, 0, 2));
    for slot in [4, 1] {
        run.push((0, O::Event { stream: 0, slot, event: note(50, 64, 100) }));
    }
    // The next submission is not of the chain, nor is a slot that a chain claims while it is another's.
    run.extend(one(0, 0, 1, 7));
    run.push((0, O::Event { stream: 0, slot: 4, event: note(50, 64, 100) }));
    run.push(completed(50, 0, 2, Status::Presented, 50));
    run.push(completed(60, 1, 7, Status::Presented, 50));
    let file = traced(run);
    for (member, end) in [(2, 50), (4, 50), (1, 50), (7, 60)] {
        let expected = [begins(0, "note on"), begins(0, "held"), ends(end), ends(end)];
        assert_eq!(on_track(&file, slot(member)), expected, "slot {member}");
    }
}

#[test]
fn a_slot_that_is_submitted_while_it_is_in_flight_has_one_slice_at_a_time() {
    let mut run = vec![(0, opened(0, 8)), (0, O::Submitted { stream: 0, tail: 3 })];
    // The first two entries name it while it is in flight, the third one after it has gone home.
    for (time, index) in [(10, 0), (20, 1), (60, 2)] {
        run.push((time, O::Fetched { stream: 0, index, slot: 3 }));
        run.push((time, O::Event { stream: 0, slot: 3, event: note(100, 60, 100) }));
        if index > 0 {
            run.push(completed(time + 10, index, 3, Status::Presented, 100));
        }
    }
    let file = traced(run);
    let first = [begins(0, "note on"), begins(10, "held"), ends(30), ends(30)];
    let second = [begins(30, "note on"), begins(60, "held"), ends(70), ends(70)];
    assert_eq!(on_track(&file, slot(3)), [first, second].concat());
    let stream = on_track(&file, StreamTracks::new(0, Type::Render).stream());
    assert_eq!(stream, [happens(0, "opened"), happens(20, "slot submitted twice")]);
}

#[test]
fn what_is_late_or_refused_is_marked_and_how_late_it_is_counted() {
    let mut run = vec![(0, opened(0, 8))];
    for (index, status, of_event) in [(0, Status::Late, 25_000), (1, Status::Discarded, 0), (2, Status::Presented, 0)] {
        run.extend(one(0, 0, index, index));
        run.push(completed(0, index, index, status, of_event));
    }
    run.extend(one(0, 0, 3, 3));
    let reject = Completion { flags: 7.into(), ..completion(3, Status::Rejected, 0) };
    run.push((0, O::Completed { stream: 0, index: 3, completion: reject }));
    let file = traced(run);
    for (number, mark) in [(0, Some("late")), (1, Some("discarded")), (2, None), (3, Some("rejected"))] {
        let mut expected = vec![begins(0, "note on")];
        expected.extend(mark.map(|mark| happens(0, mark)));
        expected.push(ends(0));
        assert_eq!(on_track(&file, slot(number)), expected);
    }
    let counter = StreamTracks::new(0, Type::Render).lateness();
    let events = events(&file);
    let late = events.iter().filter(|(_, event)| event.track_uuid == Some(counter));
    let late: Vec<_> = late.map(|(_, event)| event.double_counter_value).collect();
    assert_eq!(late, [Some(2.5), Some(0.0)]);
    let reason = events.iter().flat_map(|(_, event)| &event.debug_annotations).find_map(|a| a.string_value.clone());
    assert_eq!(reason.as_deref(), Some("buffer-shared"));
}

#[test]
fn time_goes_on_when_the_master_clock_starts_again() {
    let mut run = vec![(0, opened(0, 8))];
    run.extend(one(1000, 1000, 0, 0));
    run.push((1500, O::Reset));
    run.push((0, opened(0, 8)));
    run.extend(one(20, 20, 0, 0));
    run.push(completed(30, 0, 0, Status::Presented, 30));
    // Without a reset it never starts again.
    run.push((7, O::Granted { until: RefTime(100) }));
    let file = traced(run);
    assert_eq!(
        on_track(&file, slot(0)),
        [
            begins(1000, "note on"),
            begins(1000, "held"),
            ends(1500),
            happens(1500, "not completed"),
            ends(1500),
            begins(1520, "note on"),
            begins(1520, "held"),
            ends(1530),
            ends(1530),
        ]
    );
    assert_eq!(on_track(&file, CONNECTION), [happens(1500, "reset"), happens(1500, "clock starts again")]);
    assert_eq!(on_track(&file, DOORBELL).last(), Some(&happens(1530, "grant")));
}

#[test]
fn an_error_of_the_file_is_told_at_the_end() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for writes in [0, 2] {
        let mut trace = Trace::new(Full(writes));
        for (time, observation) in song(20_000) {
            trace.observe(RefTime(time), &observation);
        }
        let error = trace.finish().expect_err("there was no room");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "after {writes} writes");
    }
}

#[test]
fn levels_are_those_of_the_loudest_sample() {
    assert_eq!(level(&[0, 0]), SILENCE);
    assert_eq!(level(&[0, i16::MIN, 5]), 0.0);
    assert_eq!(level(&[0, -3277]), -20.0);
}

/// Numbers at which something might break, and others.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..6u32, 1 => Just(MAX_SLOTS), 1 => Just(u32::MAX), 1 => any::<u32>()]
}

fn observation() -> impl Strategy<Value = O> {
    let stream = || prop_oneof![4 => Just(0), 2 => Just(1usize), 1 => Just(8), 1 => any::<usize>()];
    let kind = prop_oneof![Just(Type::Render), Just(Type::WaveSink)];
    let next = any::<bool>();
    prop_oneof![
        1 => Just(O::Reset),
        1 => Just(O::Connected),
        1 => Just(O::Disconnected),
        2 => (stream(), kind, number()).prop_map(|(stream, kind, slots)| O::Opened {
            stream, kind, slots, buffers: slots, buffer_size: slots
        }),
        1 => stream().prop_map(|stream| O::Closed { stream }),
        6 => (stream(), number()).prop_map(|(stream, tail)| O::Submitted { stream, tail }),
        12 => (stream(), number(), number()).prop_map(|(stream, index, slot)| O::Fetched { stream, index, slot }),
        12 => (stream(), number(), next).prop_map(|(stream, slot, long)| {
            let event = note(if long { i64::MIN } else { 5 }, 1, 2);
            O::Event { stream, slot, event: Event { event_bytes: if long { u16::MAX } else { 3 }, ..event } }
        }),
        1 => stream().prop_map(|stream| O::Data { stream, offset: usize::MAX, bytes: vec![1; 100].into() }),
        12 => (stream(), number(), 0..7u16).prop_map(|(stream, slot, status)| {
            let completion = Completion { status: status.into(), ..completion(slot, Status::Late, i64::MIN) };
            O::Completed { stream, index: slot, completion }
        }),
        4 => prop_oneof![Just(0), Just(1), any::<u16>()].prop_map(|vector| O::Interrupt { vector }),
        1 => stream().prop_map(|stream| O::Refused { stream, fault: Fault::Halted }),
    ]
}

fn time() -> impl Strategy<Value = i64> {
    prop_oneof![20 => 0..40i64, 1 => any::<i64>()]
}

proptest! {
    /// Whatever is observed, memory is bounded, and what was begun is ended, in the order of nesting, where it began.
    #[test]
    fn a_trace_of_anything_is_bounded_and_whole(run in prop::collection::vec((time(), observation()), 0..200)) {
        let mut file = vec![];
        let mut trace = Trace::new(&mut file);
        for (time, observation) in &run {
            trace.observe(RefTime(*time), observation);
            for stream in trace.streams.iter().flatten() {
                let (slots, largest) = stream.sizes();
                prop_assert!(slots <= MAX_SLOTS as usize && largest <= slots, "{largest} for {slots} slots");
            }
        }
        trace.finish().unwrap();
        let described: HashSet<u64> =
            packets(&file).iter().filter_map(|packet| packet.track_descriptor.as_ref()?.uuid).collect();
        let mut events: Vec<_> = written(&file).into_iter().enumerate().collect();
        let as_written = slices(events.iter().map(|(number, (_, event))| (*number, event)));
        events.sort_by_key(|(_, (time, _))| *time);
        prop_assert!(as_written.is_some(), "a slice is not whole");
        prop_assert_eq!(slices(events.iter().map(|(number, (_, event))| (*number, event))), as_written);
        let mut flows = HashSet::new();
        for (_, (time, event)) in events {
            prop_assert!(described.contains(&event.track_uuid.unwrap()) && time <= i64::MAX as u64 / 100);
            flows.extend(event.flow_ids);
            for flow in event.terminating_flow_ids {
                prop_assert!(flows.remove(&flow), "flow {} ends that has not begun", flow);
            }
        }
    }
}
