//! What messages hold and count for.

use super::*;

fn decode(allocator: &Allocator<'_>, slot: Slot) -> Event {
    Event::decode(&slot_bytes(allocator, slot), allocator.width).expect("an event")
}

fn message<'a>(allocator: &'a Allocator<'_>, bytes: &[u8]) -> Message<'a> {
    let mut message = allocator.get_message().expect("a message");
    message.set_data(bytes).expect("data");
    message
}

#[test]
fn a_field_that_is_set_twice_has_the_second_value_and_changes_no_other() {
    let allocator = allocator(PointerWidth::Eight);
    let mut message = message(&allocator, &[0xF0, 1, 2]);
    message.set_incomplete();
    message.set_channel_group(0xFFFF);
    message.set_channel_group(0x0102);
    message.set_time(RefTime(1));
    message.set_time(RefTime(2));
    message.set_byte_position(8);
    message.set_byte_position(9);
    assert_eq!((message.time(), message.byte_position()), (RefTime(2), 9));
    assert_eq!((message.channel_group(), message.event_bytes(), message.is_incomplete()), (0x0102, 3, true));
    let slot = message.slot();
    message.submit();
    let event = decode(&allocator, slot);
    assert_eq!((event.channel_group, event.event_bytes, event.flags), (0x0102, 3, INCOMPLETE));
    assert_eq!((event.time, event.byte_position), (2, 9));
}

#[test]
fn a_message_that_plays_at_once_has_the_bit_that_says_so() {
    let allocator = allocator(PointerWidth::Eight);
    let mut message = message(&allocator, &[0xF8]);
    message.play_at_once();
    assert!(message.time() < RefTime::ZERO);
    let slot = message.slot();
    message.submit();
    assert_eq!(decode(&allocator, slot).time, i64::MIN);
}

/// DDI: GetBufferSize bounds what an event can hold; a buffer that is attached holds the event's data.
#[test]
fn a_buffer_is_attached_up_to_its_size() {
    for width in [PointerWidth::Eight, PointerWidth::Four] {
        let allocator = allocator(width);
        for len in 0..=BUFFER_SIZE + 1 {
            let bytes: Vec<u8> = (1..).take(BUFFER_SIZE).collect();
            let buffer = allocator.get_buffer().expect("a buffer");
            buffer.write(0, &bytes).expect("bytes");
            let mut message = allocator.get_message().expect("a message");
            match message.attach(buffer, len) {
                Ok(()) => assert_eq!(message.to_vec(), bytes[..len]),
                Err(error) => assert_eq!((error, len), (DriverError::TooLong { len, size: BUFFER_SIZE }, 33)),
            }
            let attached = usize::from(len > width.bytes() && len <= BUFFER_SIZE);
            assert_eq!(allocator.free_buffers(), BUFFERS as usize - attached, "{len} bytes");
        }
        assert_eq!(allocator.free_buffers(), BUFFERS as usize);
    }
}

#[test]
fn a_buffer_is_written_within_its_bounds_and_no_other_is_touched() {
    let allocator = allocator(PointerWidth::Eight);
    let contents: Vec<Vec<u8>> = (1..=BUFFERS as u8).map(|number| vec![number; BUFFER_SIZE]).collect();
    let messages: Vec<_> = contents.iter().map(|bytes| message(&allocator, bytes)).collect();
    for (message, bytes) in messages.iter().zip(&contents) {
        assert_eq!(message.to_vec(), *bytes);
    }
    drop(messages);
    let buffers: Vec<_> = contents.iter().map(|_| allocator.get_buffer().expect("a buffer")).collect();
    for (buffer, bytes) in buffers.iter().zip(&contents) {
        assert_eq!(buffer.write(0, bytes), Ok(()));
    }
    for (buffer, number) in buffers.iter().zip(0xA0..) {
        assert_eq!(buffer.write(BUFFER_SIZE - 2, &[number, 0xFF]), Ok(()));
        for (offset, len) in [(BUFFER_SIZE - 1, 2), (BUFFER_SIZE + 1, 0), (usize::MAX, 2)] {
            assert!(matches!(buffer.write(offset, &[0; 2][..len]), Err(DriverError::TooLong { .. })), "{offset}");
        }
    }
    for ((buffer, mut bytes), number) in buffers.into_iter().zip(contents).zip(0xA0..) {
        bytes[BUFFER_SIZE - 2..].copy_from_slice(&[number, 0xFF]);
        let mut message = allocator.get_message().expect("a message");
        assert_eq!(message.attach(buffer, BUFFER_SIZE), Ok(()));
        assert_eq!(message.to_vec(), bytes);
    }
}

/// What a test puts into a message, and what that counts for once it is presented.
type Shape = (fn(&Allocator<'_>) -> u32, u64);

/// Members of chains and packages count one each, a fragmented message with its last fragment.
#[test]
fn counts_are_of_messages() {
    let shapes: [Shape; 6] = [
        (|allocator| submit(message(allocator, &[0xF8])), 1),
        (
            |allocator| {
                let mut head = message(allocator, &[0xF8]);
                for _ in 0..3 {
                    head.chain(message(allocator, &[0x55; 12])).expect("a chain");
                }
                submit(head)
            },
            4,
        ),
        (
            |allocator| {
                let mut package = allocator.get_message().expect("a message");
                let mut inner = message(allocator, &[0xF8]);
                inner.chain(message(allocator, &[0xFE])).expect("a chain");
                package.package(inner).expect("a package");
                submit(package)
            },
            2,
        ),
        (
            |allocator| {
                let mut package = allocator.get_message().expect("a message");
                package.chain(message(allocator, &[0xF8])).expect("a chain");
                package.chain(message(allocator, &[0xF8])).expect("a chain");
                package.package(message(allocator, &[0xFE])).expect("a package");
                submit(package)
            },
            3,
        ),
        (
            |allocator| {
                let mut fragment = message(allocator, &[0xF0, 1]);
                fragment.set_incomplete();
                fragment.set_incomplete();
                submit(fragment)
            },
            0,
        ),
        (
            |allocator| {
                allocator.send(RefTime::ZERO, 0, &[0x55; 12]).expect("room");
                last_submitted(allocator)
            },
            1,
        ),
    ];
    for (number, (put, messages)) in shapes.into_iter().enumerate() {
        let allocator = allocator(PointerWidth::Eight);
        let mut card = FakeCard { head: 0 };
        let first = put(&allocator);
        assert_eq!(allocator.counts(), Counts { submitted: messages, ..Counts::default() }, "{number}");
        card.complete(&allocator, first, Status::Late as u16);
        assert!(allocator.has_completions());
        allocator.reclaim().expect("an honest card");
        assert!(!allocator.has_completions());
        assert_eq!((allocator.free_slots(), allocator.free_buffers()), (16, 6), "{number}");
        let again = put(&allocator);
        put(&allocator);
        card.complete(&allocator, again, Status::Presented as u16);
        allocator.reclaim().expect("an honest card");
        let expected = Counts { submitted: 3 * messages, presented: messages, late: messages, ..Counts::default() };
        assert_eq!(allocator.counts(), expected, "{number}");
        // What is in flight at a reset counts as discarded.
        allocator.reclaim_after_reset();
        assert_eq!(allocator.counts(), Counts { discarded: messages, ..expected }, "{number}");
        assert_eq!((allocator.free_slots(), allocator.free_buffers(), allocator.in_flight()), (16, 6, 0), "{number}");
    }
}

/// Inline data of every length, as it is sent without a handle and with one.
#[test]
fn short_data_is_in_the_event_byte_for_byte() {
    for width in [PointerWidth::Eight, PointerWidth::Four] {
        let allocator = allocator(width);
        for len in 1..=width.bytes() {
            let bytes: Vec<u8> = (0xA1..).take(len).collect();
            assert_eq!(message(&allocator, &bytes).to_vec(), bytes);
            allocator.send(RefTime(-5), 7, &bytes).expect("room");
            let event = decode(&allocator, Slot(last_submitted(&allocator)));
            let mut word = [0; 8];
            word[..len].copy_from_slice(&bytes);
            assert_eq!(event.data, dmus_interface::event::Data::Inline(word), "{len} bytes");
            assert_eq!((event.time, event.channel_group, usize::from(event.event_bytes)), (-5, 7, len));
        }
    }
}

/// The tail is published once for all that was put before.
#[test]
fn a_batch_is_published_once() {
    let allocator = allocator(PointerWidth::Eight);
    let tail = || allocator.queue.page.load_u32(doorbell::at(0, doorbell::SUBMISSION_TAIL), Ordering::Acquire);
    assert!(!allocator.queue.publish());
    for _ in 0..3 {
        allocator.send(RefTime::ZERO, 0, &[0xF8]).expect("room");
    }
    assert_eq!((tail(), allocator.in_flight()), (0, 3));
    assert!(allocator.queue.publish() && !allocator.queue.publish());
    assert_eq!(tail(), 3);
}
