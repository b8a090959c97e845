//! Runs that differ by what the host may do, and by what a driver did.

mod runs;

use super::{Comparison, Kind, Lane, Run, diff};
use crate::capsule::Observation;
use dmus_interface::event::{Data, Event};
use dmus_interface::regs::stream::{State, Type};
use dmus_interface::ring::{Completion, Status};
use dmus_interface::time::RefTime;
use proptest::prelude::*;
use runs::{Host, Liberty, Plan, STEP, play, replay};

fn compare(a: &runs::Run, b: &runs::Run) -> Comparison {
    compare_by(true, a, b)
}

fn compare_by(virtual_time: bool, a: &runs::Run, b: &runs::Run) -> Comparison {
    diff(virtual_time, replay(a), replay(b)).unwrap_or_else(|never| match never {})
}

fn plain(plan: &Plan) -> runs::Run {
    play(plan, &mut Host::new(1, &[]))
}

#[test]
fn a_run_is_the_same_as_itself() {
    for run in [plain(&Plan::new(12)), Vec::new()] {
        let comparison = compare(&run, &run);
        assert!(comparison.is_same() && comparison.timing.is_none(), "{comparison}");
        assert_eq!(comparison.to_string(), "the same\n");
    }
}

#[test]
fn each_liberty_of_the_host_is_no_difference() {
    let plan = Plan::new(12);
    let a = plain(&plan);
    for liberty in Liberty::ALL {
        let b = play(&plan, &mut Host::new(0x1234_5678_9ABC, &[liberty]));
        assert!(a != b, "{liberty:?} was not taken");
        let comparison = compare(&a, &b);
        assert!(comparison.is_same(), "{liberty:?}: {comparison}");
        let is_place = [Liberty::Slots, Liberty::Buffers].contains(&liberty);
        assert!(comparison.slots_differ || !is_place, "{liberty:?}: {comparison}");
        assert_eq!(comparison.timing.is_some(), !is_place, "{liberty:?}: {comparison}");
        assert!(comparison.to_string().contains("only host timing differs"), "{liberty:?}: {comparison}");
    }
}

proptest! {
    #[test]
    fn all_liberties_at_once_are_no_difference(a: u64, b: u64, batches in 0usize..20) {
        let plan = Plan::new(batches);
        let [a, b] = [a, b].map(|seed| play(&plan, &mut Host::new(seed, &Liberty::ALL)));
        for virtual_time in [true, false] {
            let comparison = compare_by(virtual_time, &a, &b);
            prop_assert!(comparison.is_same(), "{comparison}");
        }
    }

    #[test]
    fn of_two_changes_the_same_is_first_whatever_the_host_does(a: u64, b: u64, batch in 0usize..12) {
        let mut plan = Plan::new(12);
        // The first of them is fetched no later than the second, and perhaps at another time.
        plan.batches[batch].notes[1].group = 1;
        plan.batches[batch].notes[2].group = 1;
        let a = play(&Plan::new(12), &mut Host::new(a, &Liberty::ALL));
        let b = play(&plan, &mut Host::new(b, &Liberty::ALL));
        let lane = compare(&a, &b).difference.map(|difference| difference.lane);
        prop_assert_eq!(lane, Some(Lane::Submissions(0)));
    }

    #[test]
    fn a_change_is_found_whatever_the_host_does(a: u64, b: u64, batch in 0usize..11, change in 0usize..10) {
        let plan = Plan::new(12);
        let planted = &planted(batch)[change];
        // Who waits for grants asks for no other interrupt.
        let is_taken = |liberty: &Liberty| planted.name != "dropped interrupt wait" || *liberty != Liberty::Interrupts;
        let liberties: Vec<Liberty> = Liberty::ALL.into_iter().filter(is_taken).collect();
        let a = play(&plan, &mut Host::new(a, &liberties));
        let b = play(&planted.plan, &mut Host::new(b, &liberties));
        let comparison = compare(&a, &b);
        let Some(difference) = &comparison.difference else {
            return Err(TestCaseError::fail(format!("{} was not found", planted.name)));
        };
        // Of a batch, the host chooses which stream comes first.
        let lane = match (planted.name, difference.lane) {
            ("late tail" | "reordered batch", Lane::Submissions(_)) => Lane::Submissions(0),
            (_, lane) => lane,
        };
        prop_assert_eq!((lane, difference.kind), (planted.lane, planted.kind), "{}", comparison);
    }
}

/// A change of the driver, and what has to be said of it.
struct Planted {
    name: &'static str,
    plan: Plan,
    lane: Lane,
    kind: Kind,
    says: &'static [&'static str],
}

/// The ten changes, in a batch.
fn planted(batch: usize) -> [Planted; 10] {
    let changed = |change: &dyn Fn(&mut Plan)| {
        let mut plan = Plan::new(12);
        change(&mut plan);
        plan
    };
    let of_batch = |change: &dyn Fn(&mut runs::Batch)| changed(&|plan| change(&mut plan.batches[batch]));
    let submissions = Lane::Submissions(0);
    let planted = |name, plan, lane, kind, says| Planted { name, plan, lane, kind, says };
    [
        planted(
            "wrong time",
            of_batch(&|batch| batch.notes[0].time += 5000),
            submissions,
            Kind::Changed(1),
            &["submission 14 of stream 0 differs: due 0.700600 s instead of due 0.700100 s"],
        ),
        planted(
            "lost event",
            of_batch(&|batch| _ = batch.notes.remove(0)),
            submissions,
            Kind::Lost(1),
            &[
                "B lost the event that A sent as submission 14 of stream 0: note on, channel 3, key 48, velocity 100, \
                 due 0.700100 s",
                "> ",
                "submission 13: note on",
                "grant of 0.800000 s",
            ],
        ),
        planted(
            "doubled event",
            of_batch(&|batch| batch.notes.insert(0, batch.notes[0].clone())),
            submissions,
            Kind::Doubled(1),
            &["B sent the event of submission 14 of stream 0 once more, as submission 15 of stream 0: note on"],
        ),
        planted(
            "reordered batch",
            of_batch(&|batch| batch.notes.reverse()),
            submissions,
            Kind::Reordered(2),
            &["B sent the 2 events of submissions 14 to 15 of stream 0 in another order: A begins with note on"],
        ),
        planted(
            "missing grant",
            of_batch(&|batch| batch.no_grant = true),
            Lane::Grants,
            Kind::Lost(1),
            &["B lost the grant that A gave as grant 7: grant of 0.800000 s", "grant of 0.900000 s"],
        ),
        planted(
            "late tail",
            of_batch(&|batch| batch.late_tail = true),
            submissions,
            Kind::Changed(2),
            &[
                "submissions 14 to 15 of stream 0 differ, the first: ",
                "the tail of B came after the grant that covers it: it was due 0.700100 s",
            ],
        ),
        planted(
            "wrong buffer length",
            of_batch(&|batch| batch.notes[0].len = Some(2)),
            submissions,
            Kind::Changed(1),
            &["submission 14 of stream 0 differs: cbEvent 2 instead of 3"],
        ),
        planted(
            "other channel group",
            of_batch(&|batch| batch.notes[0].group = 1),
            submissions,
            Kind::Changed(1),
            &["channel group 1 instead of 0"],
        ),
        planted(
            "dropped interrupt wait",
            changed(&|plan| plan.batches[batch.max(1)].unwaited = true),
            Lane::Grants,
            Kind::NotWaited(Run::B),
            &["B did not wait: at 0.690000 s it granted 0.800000 s before its grant of 0.700000 s was reached"],
        ),
        planted(
            "another pool size",
            changed(&|plan| plan.slots = 32),
            Lane::Registers,
            Kind::Changed(1),
            &["A has SLOT_COUNT of stream 0 = 64 (slots of the pool), B has SLOT_COUNT of stream 0 = 32"],
        ),
    ]
}

#[test]
fn each_change_of_a_driver_is_named_with_what_came_before() {
    let a = plain(&Plan::new(12));
    for planted in planted(7) {
        let name = planted.name;
        let comparison = compare(&a, &plain(&planted.plan));
        let text = comparison.to_string();
        let difference = comparison.difference.expect(name);
        assert_eq!((difference.lane, difference.kind), (planted.lane, planted.kind), "{name}: {text}");
        for says in planted.says {
            assert!(text.contains(says), "{name}: {says} is missing in {text}");
        }
        for context in [&difference.a, &difference.b] {
            let marked = context.steps.iter().position(|line| line.is_first);
            let before = if name == "another pool size" { 1 } else { 3 };
            assert_eq!(marked, Some(before), "{name}: {text}");
            assert!(!context.around.is_empty(), "{name}: {text}");
        }
    }
}

#[test]
fn other_addresses_are_a_note() {
    let plan = Plan::new(12);
    let mut host = Host::new(1, &[]);
    host.memory = 0x8000_0000;
    let comparison = compare(&plain(&plan), &play(&plan, &mut host));
    assert_eq!(comparison.to_string(), "the same\nnote: addresses of memory differ\n");
}

#[test]
fn a_run_that_is_cut_off_ends_where_the_other_goes_on() {
    let whole = plain(&Plan::new(12));
    for len in 0..whole.len() {
        let cut = whole[..len].to_vec();
        for (a, b, run) in [(&whole, &cut, Run::B), (&cut, &whole, Run::A)] {
            let comparison = compare(a, b);
            let Some(difference) = &comparison.difference else {
                // What follows is up to the host.
                assert!(comparison.timing.is_some(), "{len}: {comparison}");
                continue;
            };
            let ends = difference.kind == Kind::Ended(run) || difference.lane == Lane::Audio;
            assert!(ends, "{len}: {comparison}");
        }
    }
    let comparison = compare(&whole, &whole[..whole.len() / 2].to_vec());
    assert!(comparison.to_string().contains("B ends where A goes on with"), "{comparison}");
}

#[test]
fn an_empty_run_ends_where_the_other_begins() {
    let comparison = compare(&plain(&Plan::new(1)), &Vec::new());
    let text = comparison.to_string();
    assert!(text.contains("B ends where A goes on with connection or reset 0: a client connected"), "{text}");
}

#[test]
fn a_completion_that_differs_is_first_if_it_comes_before_the_next_batch() {
    let a = plain(&Plan::new(12));
    let mut plan = Plan::new(12);
    plan.batches[5].notes.remove(0);
    let mut b = plain(&plan);
    let completions = b.iter_mut().filter_map(|(_, observation)| match observation {
        Observation::Completed { stream: 1, completion, .. } => Some(completion),
        _ => None,
    });
    let Some(completion) = completions.into_iter().nth(8) else {
        unreachable!("there are two a batch");
    };
    completion.status = (Status::Discarded as u16).into();
    let comparison = compare(&a, &b);
    let difference = comparison.difference.as_deref().expect("one");
    let says = "completion of submission 8 of stream 1 differs: A has presented at 0.420100 s of stream time, B has \
                discarded by STOP";
    assert!(difference.sentence.contains(says), "{comparison}");
    assert_eq!((difference.lane, difference.kind), (Lane::Completions(1), Kind::Changed(1)), "{comparison}");
}

#[test]
fn a_length_differs_though_its_data_is_not_read() {
    let long = |len: u16| {
        let mut run = plain(&Plan::new(3));
        for (_, observation) in &mut run {
            match observation {
                Observation::Event { event, .. } if matches!(event.data, Data::Buffer(_)) => event.event_bytes = len,
                Observation::Data { bytes, .. } => *bytes = Box::default(),
                _ => {}
            }
        }
        run
    };
    let comparison = compare(&long(300), &long(301));
    let difference = comparison.difference.as_deref().expect("one");
    assert!(difference.sentence.contains("cbEvent 301 instead of 300"), "{comparison}");
}

/// One submission of so many chained events, in a stream that runs, fetched at a time; then its completion.
fn chain(events: u8, last_key: u8, fetched: i64, time: i64, applied: i64) -> runs::Run {
    let (kind, slot) = (Type::Render, 3);
    let state = Observation::Changed { stream: 0, state: State::Run, time_base: RefTime::ZERO };
    let mut steps = vec![
        (0, Observation::Opened { stream: 0, kind, slots: 64, buffers: 0, buffer_size: 256 }),
        (0, state),
        (0, Observation::Granted { until: RefTime(STEP) }),
        (fetched, Observation::Fetched { stream: 0, index: 0, slot }),
    ];
    for number in 0..events {
        let is_last = number + 1 == events;
        let data = Data::Inline([0x90, if is_last { last_key } else { number }, 100, 0, 0, 0, 0, 0]);
        let next = if is_last { 0 } else { 64 };
        let (struct_size, event_bytes, channel_group, flags, byte_position) = (40, 3, 0, 0, 0);
        let event = Event { struct_size, event_bytes, channel_group, flags, time, byte_position, next, data };
        steps.push((fetched, Observation::Event { stream: 0, slot, event }));
    }
    let (slot, status, flags) = (slot.into(), (Status::Presented as u16).into(), 0.into());
    let completion = Completion { slot, status, flags, time: applied.into() };
    steps.push((STEP, Observation::Completed { stream: 0, index: 0, completion }));
    steps.into_iter().map(|(master, observation)| (RefTime(master), observation)).collect()
}

#[test]
fn each_event_of_a_long_chain_is_compared() {
    for events in 1..12 {
        let a = chain(events, 60, 0, 5000, 5000);
        for place in 0..usize::from(events) {
            let mut b = a.clone();
            // Behind what opens the stream, and the fetch.
            if let Observation::Event { event, .. } = &mut b[4 + place].1 {
                event.channel_group = 7;
            }
            assert!(!compare(&a, &b).is_same(), "event {place} of {events}");
        }
        assert!(compare(&a, &chain(events, 60, 0, 5000, 5000)).is_same());
        for b in [chain(events, 61, 0, 5000, 5000), chain(events + 1, 60, 0, 5000, 5000)] {
            let comparison = compare(&a, &b);
            let difference = comparison.difference.as_deref().expect("one");
            assert_eq!((difference.lane, difference.kind), (Lane::Submissions(0), Kind::Changed(1)), "{comparison}");
        }
    }
}

#[test]
fn when_the_card_came_to_an_event_that_is_due_at_once_is_no_difference() {
    let at_once = |fetched| chain(1, 60, fetched, i64::MIN, fetched);
    let comparison = compare(&at_once(1000), &at_once(2000));
    assert!(comparison.is_same() && comparison.timing.is_some(), "{comparison}");
    assert!(!compare(&chain(1, 60, 0, 5000, 5000), &chain(1, 60, 0, 5000, 6000)).is_same());
}

#[test]
fn bytes_of_an_input_are_compared_wherever_they_were_cut() {
    let received = |cuts: &[&[u8]]| -> runs::Run {
        let step = |(at, bytes): (usize, &&[u8])| {
            (RefTime(at as i64), Observation::Received { input: 1, bytes: (**bytes).into() })
        };
        cuts.iter().enumerate().map(step).collect()
    };
    let bytes: Vec<u8> = (0..40).collect();
    let whole = received(&[&bytes]);
    assert!(compare(&whole, &received(&[&bytes[..7], &bytes[7..30], &bytes[30..]])).is_same());
    let mut other = bytes.clone();
    other[20] = 99;
    let difference = compare(&whole, &received(&[&other])).difference.expect("one");
    assert_eq!((difference.lane, difference.kind, difference.ordinal), (Lane::Received(1), Kind::Changed(1), 1));
    for len in [0, 10, 16, 20, 39] {
        let difference = compare(&whole, &received(&[&bytes[..len]])).difference.expect("one");
        assert_eq!((difference.lane, difference.kind), (Lane::Received(1), Kind::Ended(Run::B)), "{len}");
    }
}

#[test]
fn several_lost_and_doubled_events_are_counted() {
    let a = plain(&Plan::new(12));
    let mut plan = Plan::new(12);
    for batch in &mut plan.batches[4..7] {
        batch.notes.retain(|note| note.stream == 1);
    }
    let difference = compare(&a, &plain(&plan)).difference.expect("one");
    assert_eq!((difference.lane, difference.kind), (Lane::Submissions(0), Kind::Lost(6)));
    assert!(difference.sentence.contains("the 6 events that A sent as submissions 8 to 13"), "{difference}");
    let mut plan = Plan::new(12);
    let again = plan.batches[4].notes.clone();
    plan.batches[4].notes.extend(again);
    let difference = compare(&a, &plain(&plan)).difference.expect("one");
    assert_eq!((difference.lane, difference.kind), (Lane::Submissions(0), Kind::Doubled(2)), "{difference}");
}

#[test]
fn grants_that_come_early_in_both_runs_are_no_difference() {
    let early = |at: usize, until: i64, interrupted: bool| {
        let mut run = plain(&Plan::new(12));
        let grants: Vec<usize> =
            (0..run.len()).filter(|at| matches!(run[*at].1, Observation::Granted { .. })).collect();
        // After something is completed, time is granted a bit further.
        let is_home = |(_, observation): &(RefTime, Observation)| matches!(observation, Observation::Completed { .. });
        let place = grants[at] + 1 + run[grants[at]..].iter().position(is_home).expect("a completion");
        let master = run[place].0;
        run.insert(place, (master, Observation::Granted { until: RefTime(until) }));
        if interrupted {
            run.insert(place, (master, Observation::Interrupt { vector: 0 }));
        }
        run
    };
    for interrupted in [true, false] {
        let comparison = compare(&early(5, 6 * STEP + 100, interrupted), &early(7, 8 * STEP + 200, interrupted));
        assert!(comparison.is_same() && comparison.early_grants == [true; 2], "{comparison}");
    }
    // An interrupt tells of completions, which may be what the driver waits for.
    let waits = plain(&Plan::new(12));
    let comparison = compare(&waits, &early(7, 8 * STEP + 200, true));
    assert!(comparison.is_same() && comparison.early_grants == [false, true], "{comparison}");
    assert!(comparison.to_string().contains("note: B granted before its last grant was reached"), "{comparison}");
    let difference = compare(&waits, &early(7, 8 * STEP + 200, false)).difference.expect("one");
    assert_eq!((difference.lane, difference.kind), (Lane::Grants, Kind::NotWaited(Run::B)));
}

#[test]
fn in_real_time_times_are_not_compared_and_contents_are() {
    let a = plain(&Plan::new(12));
    let shifted = |mut run: runs::Run| {
        for (master, observation) in &mut run {
            master.0 += 777;
            match observation {
                Observation::Event { event, .. } => event.time += 4321,
                Observation::Granted { until } => until.0 += 99,
                Observation::Changed { time_base, .. } => time_base.0 += 777,
                _ => {}
            }
        }
        run
    };
    let comparison = compare_by(false, &a, &shifted(a.clone()));
    assert!(comparison.is_same(), "{comparison}");
    assert!(comparison.to_string().contains("recorded in real time; times, grants and audio are not compared"));
    assert!(!compare(&a, &shifted(a.clone())).is_same());
    for planted in planted(7) {
        let is_of_time = ["wrong time", "missing grant", "late tail", "dropped interrupt wait"].contains(&planted.name);
        let comparison = compare_by(false, &a, &shifted(plain(&planted.plan)));
        assert_eq!(comparison.is_same(), is_of_time, "{}: {comparison}", planted.name);
    }
}

#[test]
fn audio_that_alone_differs_is_named_by_its_sample() {
    let a = plain(&Plan::new(12));
    let mut b = a.clone();
    let samples = b.iter_mut().filter_map(|(_, observation)| match observation {
        Observation::Audio { samples, .. } => Some(samples),
        _ => None,
    });
    let mut before = 0;
    for samples in samples {
        if before > 400 {
            samples[0] ^= 1;
            break;
        }
        before += samples.len() / 2;
    }
    let comparison = compare(&a, &b);
    let difference = comparison.difference.as_deref().expect("one");
    assert_eq!(difference.lane, Lane::Audio);
    assert!(difference.sentence.starts_with(&format!("the audio differs from sample {before} on")), "{comparison}");
}
