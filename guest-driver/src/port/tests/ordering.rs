//! The sequencer.

use super::*;
use proptest::prelude::*;

const PREFETCH: RefTime = RefTime(10);

fn set_up<'g, 'm>(sequencer: &'g Sequencer<'g, 'm>, hardware: &'g Hardware<'m>, state: State) {
    sequencer.connect_output(hardware).expect("connect");
    sequencer.set_state(state).expect("state");
}

/// DDI: SchedulePreFetch is how far ahead the hardware wants events; the port driver itself holds everything later
#[test]
fn what_is_beyond_the_prefetch_is_held_until_it_comes_near() {
    let allocator = allocator(PointerWidth::Eight);
    let hardware = Hardware::default();
    let sequencer = Sequencer::new(&allocator, PREFETCH);
    set_up(&sequencer, &hardware, State::Run);
    sequencer.service(RefTime(0)).expect("service");
    for (time, key) in [(10, 1), (11, 2), (30, 3)] {
        sequencer.put_message(note(&allocator, time, key)).expect("put");
    }
    assert_eq!(hardware.complete(), [1]);
    assert_eq!((sequencer.held(), sequencer.next_time()), (2, Some(RefTime(11))));
    sequencer.service(RefTime(19)).expect("service");
    assert_eq!(hardware.complete(), [2]);
    sequencer.service(RefTime(20)).expect("service");
    assert_eq!(hardware.complete(), [3]);
    assert_eq!((sequencer.held(), sequencer.next_time()), (0, None));
}

/// DDI: the sequencer orders by time stamp only; events of one time keep the order in which they came
#[test]
fn held_messages_go_by_time_and_ties_by_arrival() {
    let allocator = allocator(PointerWidth::Eight);
    let hardware = Hardware::default();
    let sequencer = Sequencer::new(&allocator, PREFETCH);
    set_up(&sequencer, &hardware, State::Run);
    for (time, key) in [(50, 1), (70, 2), (60, 3), (50, 4), (70, 5), (60, 6), (50, 7)] {
        sequencer.put_message(note(&allocator, time, key)).expect("put");
    }
    assert_eq!(hardware.complete(), [0; 0]);
    sequencer.service(RefTime(100)).expect("service");
    assert_eq!(hardware.complete(), [1, 4, 7, 3, 6, 2, 5]);
}

/// DDI: an event whose time has bit 63 set (DONT_HOLD_FOR_SEQUENCING) is not held by the sequencer
#[test]
fn what_is_not_to_be_held_goes_on_at_once() {
    let allocator = allocator(PointerWidth::Eight);
    let hardware = Hardware::default();
    let sequencer = Sequencer::new(&allocator, PREFETCH);
    set_up(&sequencer, &hardware, State::Run);
    sequencer.put_message(note(&allocator, 1000, 1)).expect("put");
    let mut message = note(&allocator, 1000, 2);
    message.play_at_once();
    sequencer.put_message(message).expect("put");
    assert_eq!(hardware.complete(), [2]);
    assert_eq!(sequencer.held(), 1);
}

/// DDI: in any state but RUN, events are held and not passed to the hardware, those that are not to be held for
/// sequencing too
#[test]
fn acquire_and_pause_hold_everything() {
    for state in [State::Acquire, State::Pause] {
        let allocator = allocator(PointerWidth::Eight);
        let hardware = Hardware::default();
        let sequencer = Sequencer::new(&allocator, PREFETCH);
        set_up(&sequencer, &hardware, state);
        sequencer.put_message(note(&allocator, 5, 1)).expect("put");
        sequencer.put_message(note(&allocator, i64::MIN, 2)).expect("put");
        sequencer.put_message(note(&allocator, -7, 3)).expect("put");
        sequencer.service(RefTime(1000)).expect("service");
        assert_eq!((hardware.complete(), sequencer.held()), (vec![], 3));
        sequencer.set_state(State::Run).expect("run");
        // Nothing overtakes what is held.
        sequencer.put_message(note(&allocator, i64::MIN, 4)).expect("put");
        sequencer.service(RefTime(0)).expect("service");
        assert_eq!(hardware.complete(), [2, 3, 4, 1]);
    }
}

/// DDI: in STOP, what is held and what is given is discarded to the allocator
#[test]
fn stop_discards_what_is_held_and_what_comes() {
    let allocator = allocator(PointerWidth::Eight);
    let hardware = Hardware::default();
    let sequencer = Sequencer::new(&allocator, PREFETCH);
    set_up(&sequencer, &hardware, State::Pause);
    for key in 0..9 {
        let mut message = note(&allocator, i64::from(10 - key), 0);
        message.chain(note(&allocator, 0, 0)).ok();
        if allocator.free_slots() == 0 {
            break;
        }
        sequencer.put_message(message).expect("put");
    }
    assert!(sequencer.held() > 5);
    sequencer.set_state(State::Stop).expect("stop");
    assert_eq!((sequencer.held(), allocator.free_slots()), (0, SLOTS));
    sequencer.put_message(note(&allocator, 0, 0)).expect("put");
    sequencer.set_state(State::Run).expect("run");
    sequencer.service(RefTime(1000)).expect("service");
    assert_eq!((hardware.complete(), allocator.free_slots()), (vec![], SLOTS));
}

/// DDI: presentation time is reset in STOP: what is due is reckoned anew
#[test]
fn the_window_begins_anew_with_each_run() {
    let allocator = allocator(PointerWidth::Eight);
    let hardware = Hardware::default();
    let sequencer = Sequencer::new(&allocator, PREFETCH);
    set_up(&sequencer, &hardware, State::Run);
    sequencer.service(RefTime(1000)).expect("service");
    sequencer.set_state(State::Stop).expect("stop");
    sequencer.set_state(State::Run).expect("run");
    sequencer.service(RefTime(0)).expect("service");
    sequencer.put_message(note(&allocator, 500, 1)).expect("put");
    assert_eq!((hardware.complete(), sequencer.held()), (vec![], 1));
}

/// DDI: sequencing works on messages of the pool, which bounds what can be held; nothing is allocated for it
#[test]
fn the_whole_pool_can_be_held_and_anothers_messages_cannot() {
    let (allocator, other) = (allocator(PointerWidth::Eight), super::allocator(PointerWidth::Eight));
    let hardware = Hardware::default();
    let sequencer = Sequencer::new(&allocator, PREFETCH);
    set_up(&sequencer, &hardware, State::Run);
    for key in 0..SLOTS as u8 {
        sequencer.put_message(note(&allocator, 1000 - i64::from(key), key)).expect("put");
    }
    assert_eq!(allocator.get_message().err(), Some(DriverError::NoMessage));
    assert!(matches!(sequencer.put_message(note(&other, 2000, 0)), Err(DriverError::Misuse(_))));
    assert_eq!(other.free_slots(), SLOTS);
    sequencer.service(RefTime(1000)).expect("service");
    assert_eq!(hardware.complete(), (0..SLOTS as u8).rev().collect::<Vec<_>>());
}

#[test]
fn messages_in_order_or_out_of_order_allocate_nothing() {
    let allocator = allocator(PointerWidth::Eight);
    let hardware = Hardware::default();
    let sequencer = Sequencer::new(&allocator, PREFETCH);
    set_up(&sequencer, &hardware, State::Run);
    let room = sequencer.room();
    for round in 0..50 {
        let start = 1000 * round;
        sequencer.service(RefTime(start)).expect("service");
        hardware.complete();
        for time in 0..SLOTS as i64 {
            // In pairs of the same time.
            sequencer.put_message(note(&allocator, start + 500 + time / 2, 1)).expect("put");
        }
        assert_eq!(sequencer.room(), room);
    }
    sequencer.set_state(State::Stop).expect("stop");
    sequencer.set_state(State::Run).expect("run");
    for time in (0..SLOTS as i64).rev() {
        sequencer.put_message(note(&allocator, time, 1)).expect("put");
    }
    assert_eq!(sequencer.room(), room);
}

/// Fails for odd keys.
#[test]
fn one_message_that_fails_stops_no_other() {
    let allocator = allocator(PointerWidth::Eight);
    let hardware = Hardware::default();
    let sequencer = Sequencer::new(&allocator, PREFETCH);
    let filter = Filter::new(|mut message: Message<'_>, output: &Output<'_, '_>| {
        if keys(&mut message)[0] % 2 == 1 { Err(DriverError::CardGone) } else { output.put_message(message) }
    });
    filter.connect_output(&hardware).expect("connect");
    sequencer.connect_output(&filter).expect("connect");
    sequencer.set_state(State::Run).expect("run");
    for key in 1..7 {
        sequencer.put_message(note(&allocator, 100, key)).expect("held");
    }
    assert_eq!(sequencer.service(RefTime(100)), Err(DriverError::CardGone));
    assert_eq!(*hardware.serviced.borrow(), [RefTime(100)]);
    assert_eq!(hardware.complete(), [2, 4, 6]);
    assert_eq!(allocator.free_slots(), SLOTS);
}

#[derive(Clone, Debug)]
enum Step {
    Put(i64),
    Service(i64),
    State(State),
    Complete,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (-2i64..40).prop_map(Step::Put),
        4 => (0i64..6).prop_map(Step::Service),
        1 => prop_oneof![Just(State::Stop), Just(State::Acquire), Just(State::Pause), Just(State::Run)]
            .prop_map(Step::State),
        3 => Just(Step::Complete),
    ]
}

proptest! {
    /// Against a list that is sorted each time.
    #[test]
    fn the_sequencer_agrees_with_the_model(steps in proptest::collection::vec(step(), 0..200)) {
        let allocator = allocator(PointerWidth::Eight);
        let hardware = Hardware::default();
        let sequencer = Sequencer::new(&allocator, PREFETCH);
        set_up(&sequencer, &hardware, State::Run);
        let mut state = State::Run;
        // Held by the model: (time, arrival, key); and what it has given on since the last completion.
        let mut model: Vec<(i64, usize, u8)> = vec![];
        let mut passed: Vec<u8> = vec![];
        let (mut now, mut horizon) = (0, -1);
        for (arrival, step) in steps.into_iter().enumerate() {
            match step {
                Step::Put(time) => {
                    let Ok(message) = allocator.get_message() else { continue };
                    drop(message);
                    let key = (arrival % 128) as u8;
                    sequencer.put_message(note(&allocator, time, key)).expect("put");
                    let time = time.max(-1);
                    if state == State::Run && time <= horizon && model.iter().all(|(first, ..)| *first > horizon) {
                        passed.push(key);
                    } else if state != State::Stop {
                        model.push((time, arrival, key));
                        model.sort();
                    }
                }
                Step::Service(step) => {
                    now += step;
                    sequencer.service(RefTime(now)).expect("service");
                    if state == State::Run {
                        horizon = now + PREFETCH.0;
                        let due = model.iter().take_while(|(time, ..)| *time <= horizon).count();
                        passed.extend(model.drain(..due).map(|(.., key)| key));
                    }
                }
                Step::State(next) => {
                    sequencer.set_state(next).expect("state");
                    if next == State::Stop {
                        model.clear();
                    }
                    (state, horizon) = (next, -1);
                }
                Step::Complete => prop_assert_eq!(hardware.complete(), core::mem::take(&mut passed)),
            }
            prop_assert_eq!(sequencer.held(), model.len());
            prop_assert_eq!(sequencer.next_time().map(|time| time.0.max(-1)), model.first().map(|(time, ..)| *time));
            prop_assert_eq!(allocator.free_slots() + sequencer.held() + hardware.messages.borrow().len(), SLOTS);
        }
        prop_assert_eq!(hardware.complete(), passed);
    }
}
