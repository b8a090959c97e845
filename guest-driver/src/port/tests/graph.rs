//! The filter graph.

use super::*;
use proptest::prelude::*;

/// Passes everything on.
fn pass<'m>(message: Message<'m>, output: &Output<'_, 'm>) -> Result<(), DriverError> {
    output.put_message(message)
}

/// DDI: with no ConnectOutput, PutMessage goes straight to the allocator
#[test]
fn what_has_nowhere_to_go_is_recycled() {
    let allocator = allocator(PointerWidth::Eight);
    let filter = Filter::new(pass);
    filter.put_message(note(&allocator, 0, 1)).expect("put");
    assert_eq!(allocator.free_slots(), SLOTS);
    let last: &dyn Mxf<'_, '_> = &allocator;
    last.put_message(note(&allocator, 0, 1)).expect("put");
    assert_eq!(allocator.free_slots(), SLOTS);
}

/// DDI: ConnectOutput sets the next filter, and PutMessage passes the event to it
#[test]
fn messages_pass_along_the_connected_filters() {
    let allocator = allocator(PointerWidth::Eight);
    let hardware = Hardware::default();
    let up = |bytes: &mut [u8]| bytes[1] += 1;
    let (first, second) = (
        Filter::new(|mut message: Message<'_>, output: &Output<'_, '_>| {
            message.edit_short(up);
            output.put_message(message)
        }),
        Filter::new(pass),
    );
    second.connect_output(&hardware).expect("connect");
    first.connect_output(&second).expect("connect");
    first.put_message(note(&allocator, 0, 60)).expect("put");
    assert_eq!(hardware.complete(), [61]);
    assert_eq!(allocator.free_slots(), SLOTS);
}

/// DDI: after DisconnectOutput the output goes to the allocator, until ConnectOutput is called again
#[test]
fn a_disconnected_filter_recycles() {
    let allocator = allocator(PointerWidth::Eight);
    let hardware = Hardware::default();
    let filter = Filter::new(pass);
    filter.connect_output(&hardware).expect("connect");
    filter.put_message(note(&allocator, 0, 1)).expect("put");
    filter.disconnect_output(&hardware).expect("disconnect");
    filter.put_message(note(&allocator, 0, 2)).expect("put");
    // What had passed before is the hardware's still.
    assert_eq!(allocator.free_slots(), SLOTS - 1);
    filter.connect_output(&hardware).expect("connect");
    filter.put_message(note(&allocator, 0, 3)).expect("put");
    assert_eq!(hardware.complete(), [1, 3]);
    assert_eq!(allocator.free_slots(), SLOTS);
}

#[test]
fn wrong_connections_are_errors() {
    let allocator = allocator(PointerWidth::Eight);
    let (hardware, other) = (Hardware::default(), Hardware::default());
    let filter = Filter::new(pass);
    let misuse = |result| matches!(result, Err(DriverError::Misuse(_)));
    assert!(misuse(filter.disconnect_output(&hardware)));
    filter.connect_output(&hardware).expect("connect");
    assert!(misuse(filter.connect_output(&other)));
    assert!(misuse(filter.disconnect_output(&other)));
    assert!(misuse(hardware.connect_output(&other)), "an end has no output");
    assert!(misuse(hardware.disconnect_output(&other)));
    filter.put_message(note(&allocator, 0, 1)).expect("put");
    assert_eq!((hardware.complete(), other.complete()), (vec![1], vec![]));
}

/// DDI: a filter consumes an event by giving it to the allocator, and what fails on its way is not lost either
#[test]
fn what_a_filter_drops_or_fails_for_is_recycled() {
    let allocator = allocator(PointerWidth::Eight);
    let hardware = Hardware::default();
    let filter = Filter::new(|mut message: Message<'_>, output: &Output<'_, '_>| match keys(&mut message)[0] {
        0 => Ok(()),
        1 => Err(DriverError::CardGone),
        _ => output.put_message(message),
    });
    filter.connect_output(&hardware).expect("connect");
    assert_eq!(filter.put_message(note(&allocator, 0, 0)), Ok(()));
    assert_eq!(filter.put_message(note(&allocator, 0, 1)), Err(DriverError::CardGone));
    assert_eq!(allocator.free_slots(), SLOTS);
    assert_eq!(filter.put_message(note(&allocator, 0, 2)), Ok(()));
    assert_eq!(hardware.complete(), [2]);
}

/// DDI: GetMessage may fail; a filter that finds no message for what it adds still passes on what it was given
#[test]
fn a_filter_that_adds_messages_copes_with_an_empty_pool() {
    let allocator = allocator(PointerWidth::Eight);
    let hardware = Hardware::default();
    let double = Filter::new(|message: Message<'_>, output: &Output<'_, '_>| {
        let copy = allocator.get_message().and_then(|mut copy| copy.set_data(&[0x90, 99, 1]).map(|()| copy));
        output.put_message(message)?;
        copy.map_or(Ok(()), |copy| output.put_message(copy))
    });
    double.connect_output(&hardware).expect("connect");
    let messages: Vec<_> = (0..10).map(|key| note(&allocator, 0, key)).collect();
    for message in messages {
        double.put_message(message).expect("put");
    }
    let heard = hardware.complete();
    assert!((0..10).all(|key| heard.contains(&key)), "{heard:?}");
    assert_eq!(heard.iter().filter(|key| **key == 99).count(), SLOTS - 10);
    assert_eq!(allocator.free_slots(), SLOTS);
}

/// DDI: PutMessage(NULL) is the port driver's call to service now, at which filters work on what became due
#[test]
fn a_service_goes_through_the_graph() {
    let allocator = allocator(PointerWidth::Eight);
    let hardware = Hardware::default();
    let first = Sequencer::new(&allocator, RefTime(0));
    let (filter, second) = (Filter::new(pass), Sequencer::new(&allocator, RefTime(0)));
    second.connect_output(&hardware).expect("connect");
    filter.connect_output(&second).expect("connect");
    first.connect_output(&filter).expect("connect");
    first.set_state(State::Run).expect("run");
    first.put_message(note(&allocator, 20, 1)).expect("put");
    second.put_message(note(&allocator, 10, 2)).expect("put");
    assert_eq!(first.next_time(), Some(RefTime(10)));
    first.service(RefTime(10)).expect("service");
    assert_eq!(hardware.complete(), [2]);
    assert_eq!(first.next_time(), Some(RefTime(20)));
    // One service takes it through both.
    first.service(RefTime(20)).expect("service");
    assert_eq!(hardware.complete(), [1]);
    assert_eq!(*hardware.serviced.borrow(), [RefTime(10), RefTime(20)]);
}

/// DDI: SetState reaches every filter of the graph
#[test]
fn a_state_goes_through_the_graph() {
    let allocator = allocator(PointerWidth::Eight);
    let hardware = Hardware::default();
    let (filter, sequencer) = (Filter::new(pass), Sequencer::new(&allocator, RefTime(0)));
    sequencer.connect_output(&hardware).expect("connect");
    filter.connect_output(&sequencer).expect("connect");
    for state in [State::Acquire, State::Pause, State::Run, State::Stop] {
        filter.set_state(state).expect("state");
    }
    assert_eq!(*hardware.states.borrow(), [State::Acquire, State::Pause, State::Run, State::Stop]);
}

#[test]
fn a_loop_is_an_error_and_loses_nothing() {
    let allocator = allocator(PointerWidth::Eight);
    let (one, two, sequencer) = (Filter::new(pass), Filter::new(pass), Sequencer::new(&allocator, RefTime(0)));
    one.connect_output(&two).expect("connect");
    two.connect_output(&sequencer).expect("connect");
    sequencer.connect_output(&one).expect("connect");
    assert!(matches!(one.set_state(State::Run), Err(DriverError::Misuse(_))));
    assert!(matches!(one.service(RefTime(0)), Err(DriverError::Misuse(_))));
    assert_eq!(one.next_time(), None);
    sequencer.disconnect_output(&one).expect("disconnect");
    sequencer.set_state(State::Run).expect("run");
    sequencer.connect_output(&one).expect("connect");
    assert!(matches!(one.put_message(note(&allocator, -1, 0)), Err(DriverError::Misuse(_))));
    one.put_message(note(&allocator, 50, 0)).expect("held");
    sequencer.service(RefTime(100)).ok();
    sequencer.disconnect_output(&one).expect("disconnect");
    sequencer.service(RefTime(100)).expect("service");
    assert_eq!((sequencer.held(), allocator.free_slots()), (0, SLOTS));
}

/// DDI: chains and packages are handled as one; a filter sees each event of them
#[test]
fn edits_reach_every_short_event_in_the_order_of_playing() {
    for width in [PointerWidth::Eight, PointerWidth::Four] {
        let allocator = allocator(width);
        let mut head = note(&allocator, 7, 1);
        head.chain(note(&allocator, 7, 2)).expect("chain");
        let mut inner = note(&allocator, 7, 3);
        let mut nested = allocator.get_message().expect("a message");
        nested.package(note(&allocator, 7, 4)).expect("package");
        inner.chain(nested).expect("chain");
        inner.chain(note(&allocator, 7, 5)).expect("chain");
        let mut package = allocator.get_message().expect("a message");
        package.package(inner).expect("package");
        package.chain(note(&allocator, 7, 6)).expect("chain");
        head.chain(package).expect("chain");
        let mut long = allocator.get_message().expect("a message");
        long.set_data(&[0x7D; 40]).expect("data");
        head.chain(long).expect("chain");
        head.chain(note(&allocator, 7, 8)).expect("chain");
        assert_eq!(keys(&mut head), [1, 2, 3, 4, 5, 6, 8], "{width:?}");
        head.edit_short(|bytes| {
            assert_eq!((bytes.len(), bytes[0]), (3, 0x90));
            bytes[1] += 10;
        });
        assert_eq!(keys(&mut head), [11, 12, 13, 14, 15, 16, 18], "{width:?}");
        assert_eq!(head.time(), RefTime(7));
        drop(head);
        assert_eq!(allocator.free_slots(), SLOTS);
    }
}

#[test]
fn packages_nested_too_deep_for_any_card_are_left_alone() {
    let allocator = allocator(PointerWidth::Eight);
    let mut message = note(&allocator, 0, 1);
    for _ in 0..12 {
        let mut package = allocator.get_message().expect("a message");
        package.package(message).expect("package");
        message = package;
    }
    assert_eq!(keys(&mut message), [0; 0]);
    drop(message);
    assert_eq!(allocator.free_slots(), SLOTS);
}

/// A buffer is judged as a whole before any of it is played.
#[test]
fn a_buffer_with_one_bad_event_is_refused_whole() {
    let mut memory = [0; 96];
    let mut buffer = PortBuffer::new(&mut memory);
    for time in [5, 6, 7] {
        buffer.pack_structured(RefTime(time), 2, 0x0064_3C90).expect("room");
    }
    let unpacker = Unpacker::new(buffer.bytes(), buffer.get_start_time()).expect("a good buffer");
    assert_eq!(unpacker.next_time(), Some(RefTime(5)));
    assert_eq!(Unpacker::new(&[], RefTime(9)).map(|empty| empty.next_time()), Ok(None));
    let mut bytes = buffer.bytes().to_vec();
    bytes[48] = 0;
    assert_eq!(Unpacker::new(&bytes, RefTime(5)).err(), Some(BufferError::Empty { at: 48 }));
    let error = DriverError::from(BufferError::Empty { at: 48 });
    assert_eq!(error, DriverError::Buffer(BufferError::Empty { at: 48 }));
}

#[derive(Clone, Debug)]
enum Step {
    Put { time: i64, key: u8, chained: bool, long: bool },
    Connect(usize),
    Disconnect(usize),
    Service(i64),
    State(State),
    Complete,
}

fn step() -> impl Strategy<Value = Step> {
    let put = (-1i64..40, 0u8..128, any::<bool>(), any::<bool>());
    prop_oneof![
        8 => put.prop_map(|(time, key, chained, long)| Step::Put { time, key, chained, long }),
        2 => (0usize..3).prop_map(Step::Connect),
        1 => (0usize..3).prop_map(Step::Disconnect),
        3 => (0i64..50).prop_map(Step::Service),
        1 => prop_oneof![Just(State::Stop), Just(State::Pause), Just(State::Run)].prop_map(Step::State),
        2 => Just(Step::Complete),
    ]
}

proptest! {
    /// Through a filter that drops, one that fails and one that doubles, with connections that come and go: each slot
    /// and buffer is in one place.
    #[test]
    fn nothing_is_lost_or_given_out_twice(steps in proptest::collection::vec(step(), 0..150)) {
        let allocator = allocator(PointerWidth::Eight);
        let buffers = allocator.free_buffers();
        let hardware = Hardware::default();
        let sequencer = Sequencer::new(&allocator, RefTime(5));
        let fickle = Filter::new(|mut message: Message<'_>, output: &Output<'_, '_>| match keys(&mut message).first() {
            Some(key) if key % 5 == 0 => Ok(()),
            Some(key) if key % 7 == 0 => Err(DriverError::CardGone),
            _ => output.put_message(message),
        });
        let double = Filter::new(|message: Message<'_>, output: &Output<'_, '_>| {
            if let Ok(mut copy) = allocator.get_message() {
                copy.set_time(message.time());
                output.put_message(copy)?;
            }
            output.put_message(message)
        });
        let nodes: [(&dyn Mxf<'_, '_>, &dyn Mxf<'_, '_>); 3] =
            [(&fickle, &double), (&double, &sequencer), (&sequencer, &hardware)];
        let mut connected = [false; 3];
        for step in steps {
            match step {
                Step::Put { time, key, chained, long } => {
                    if let Ok(mut message) = allocator.get_message() {
                        message.set_time(RefTime(time));
                        if long {
                            message.set_data(&[key; 20]).ok();
                        } else {
                            message.set_data(&[0x90, key, 1]).expect("data");
                        }
                        if chained && let Ok(next) = allocator.get_message() {
                            message.chain(next).expect("chain");
                        }
                        fickle.put_message(message).ok();
                    }
                }
                Step::Connect(n) => {
                    prop_assert_eq!(nodes[n].0.connect_output(nodes[n].1).is_ok(), !connected[n]);
                    connected[n] = true;
                }
                Step::Disconnect(n) => {
                    prop_assert_eq!(nodes[n].0.disconnect_output(nodes[n].1).is_ok(), connected[n]);
                    connected[n] = false;
                }
                Step::Service(now) => {
                    fickle.service(RefTime(now)).ok();
                }
                Step::State(state) => fickle.set_state(state).expect("state"),
                Step::Complete => drop(hardware.complete()),
            }
            let (held, flying) = (sequencer.held(), hardware.messages.borrow().len());
            let out = SLOTS - allocator.free_slots();
            // A chained message is two slots.
            prop_assert!((held + flying..=2 * (held + flying)).contains(&out), "{out} out, {held} held, {flying} \
                flying");
            let slots: Vec<u32> = hardware.messages.borrow().iter().map(|message| message.slot().0).collect();
            let mut unique = slots.clone();
            unique.sort_unstable();
            unique.dedup();
            prop_assert_eq!(unique.len(), slots.len(), "a slot with two owners");
        }
        for (from, to) in nodes {
            from.disconnect_output(to).ok();
        }
        sequencer.set_state(State::Stop).expect("stop");
        drop(hardware.complete());
        prop_assert_eq!((allocator.free_slots(), allocator.free_buffers()), (SLOTS, buffers));
    }
}
