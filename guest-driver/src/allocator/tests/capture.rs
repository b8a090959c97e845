//! The capture half: what is posted, what comes back, and what is said to a card that lies about it.

use super::*;
use dmus_interface::event::Data;

/// Posts all that there is, and gives the slots in the order in which they were submitted.
fn posted(allocator: &Allocator<'_>) -> Vec<u32> {
    let before = allocator.queue.tail();
    allocator.post_free_slots();
    (before..allocator.queue.tail()).map(|index| submitted(allocator, index)).collect()
}

/// What the card fills a slot with: an event that is as it should be, for a test to change.
fn filled(allocator: &Allocator<'_>, slot: u32, bytes: &[u8]) -> Event {
    let posted = Event::decode(&slot_bytes(allocator, Slot(slot)), allocator.width).expect("an event");
    let mut words = [0; 8];
    allocator.pool.read(slot, allocator.data_place.offset(), &mut words[..allocator.width.bytes()]);
    let buffer = u64::from_le_bytes(words);
    let data = if bytes.len() > allocator.width.bytes() {
        allocator.buffers.memory.write((buffer - BUFFER_IOVA) as usize, bytes);
        Data::Buffer(buffer)
    } else {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        Data::Inline(word)
    };
    Event { event_bytes: bytes.len() as u16, channel_group: 3, time: 77, byte_position: 1 << 40, data, ..posted }
}

impl FakeCard {
    fn capture(&mut self, allocator: &Allocator<'_>, slot: u32, event: &Event) {
        let (bytes, len) = event.encode(allocator.width);
        allocator.pool.write(slot, 0, &bytes[..len]);
        self.complete(allocator, slot, Status::Presented as u16);
    }
}

/// DDI: a captured event is a message out of the allocator; PutMessage recycles it and its buffer.
#[test]
fn what_is_captured_is_a_message_and_its_slot_is_free_once_it_is_dropped() {
    for width in [PointerWidth::Eight, PointerWidth::Four] {
        let allocator = allocator(width);
        let mut card = FakeCard { head: 0 };
        let slots = posted(&allocator);
        assert_eq!(slots, [0, 1, 2, 3, 4, 5], "as many as there are buffers");
        assert_eq!((allocator.free_slots(), allocator.free_buffers()), (10, 0));
        assert_eq!(allocator.receive().map(|event| event.is_none()), Ok(true));
        let contents = [1, 3, 4, 8, 9, BUFFER_SIZE].map(|len| (len as u8..).take(len).collect::<Vec<u8>>());
        for (slot, bytes) in slots.iter().zip(&contents) {
            let mut event = filled(&allocator, *slot, bytes);
            event.flags = if bytes.len() == 8 { INCOMPLETE } else { 0 };
            card.capture(&allocator, *slot, &event);
        }
        let mut events = vec![];
        for (slot, bytes) in slots.iter().zip(&contents) {
            let event = allocator.receive().expect("an honest card").expect("an event");
            assert_eq!((event.slot(), event.time(), event.channel_group()), (Slot(*slot), RefTime(77), 3));
            assert_eq!((event.byte_position(), usize::from(event.event_bytes())), (1 << 40, bytes.len()));
            assert_eq!(event.is_incomplete(), bytes.len() == 8);
            assert_eq!(event.to_vec(), *bytes);
            for offset in 0..bytes.len() + 2 {
                let mut part = [0; 3];
                let expected = &bytes[offset.min(bytes.len())..(offset + 3).min(bytes.len())];
                let len = event.read(offset, &mut part);
                assert_eq!(&part[..len], expected, "{} bytes from {offset}", bytes.len());
            }
            events.push(event);
        }
        assert_eq!((allocator.free_slots(), allocator.free_buffers()), (10, 0));
        assert!(posted(&allocator).is_empty(), "the application has them");
        events.truncate(4);
        // Also of those whose data was in the event itself: the buffer is the one that the slot was posted with.
        assert_eq!((allocator.free_slots(), allocator.free_buffers()), (12, 2));
        drop(events);
        assert_eq!((allocator.free_slots(), allocator.free_buffers()), (16, 6));
        assert_eq!(posted(&allocator).len(), 6);
        assert_eq!(allocator.counts().presented, 6);
    }
}

#[test]
fn each_lie_about_a_captured_event_is_an_error_and_frees_the_slot() {
    type Lie = fn(&mut Event);
    let lies: [Lie; 7] = [
        |event| event.event_bytes = 0,
        |event| event.event_bytes = BUFFER_SIZE as u16 + 1,
        |event| event.flags = PACKAGE,
        |event| event.flags = 4,
        |event| event.next = POOL_IOVA + 64,
        |event| event.data = Data::Buffer(BUFFER_IOVA + 5 * BUFFER_SIZE as u64),
        |event| event.data = Data::Buffer(BUFFER_IOVA + 1),
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let allocator = allocator(PointerWidth::Eight);
        let mut card = FakeCard { head: 0 };
        let slots = posted(&allocator);
        let mut event = filled(&allocator, slots[0], &[7; BUFFER_SIZE]);
        lie(&mut event);
        card.capture(&allocator, slots[0], &event);
        card.capture(&allocator, slots[1], &filled(&allocator, slots[1], &[9; 3]));
        let refused = allocator.receive().map(|_| ());
        assert!(matches!(refused, Err(DriverError::BadCapture { slot: 0, .. })), "lie {number}: {refused:?}");
        assert_eq!((allocator.free_slots(), allocator.free_buffers()), (11, 1), "lie {number}");
        let next = allocator.receive().expect("no lie").expect("an event");
        assert_eq!(next.to_vec(), [9; 3]);
    }
}

#[test]
fn a_posted_slot_that_ends_without_an_event_is_free_and_the_caller_hears_of_all_but_stop() {
    let allocator = allocator(PointerWidth::Eight);
    let mut card = FakeCard { head: 0 };
    let slots = posted(&allocator);
    card.complete(&allocator, slots[0], Status::Discarded as u16);
    card.complete(&allocator, slots[1], Status::Discarded as u16);
    card.capture(&allocator, slots[2], &filled(&allocator, slots[2], &[1; 9]));
    assert_eq!(allocator.receive().map(|event| event.map(|event| event.to_vec())), Ok(Some(vec![1; 9])));
    card.complete_with(&allocator, slots[3], Status::Rejected as u16, Reject::NotEmpty as u16);
    let refused = DriverError::PostRefused { slot: slots[3], reason: Some(Reject::NotEmpty) };
    assert_eq!(allocator.receive().map(|_| ()), Err(refused));
    for (slot, status) in [(slots[4], Status::Late as u16), (slots[5], Status::Copied as u16)] {
        card.complete(&allocator, slot, status);
        assert_eq!(allocator.receive().map(|_| ()), Err(DriverError::UnknownStatus { slot, status }));
    }
    assert_eq!((allocator.free_slots(), allocator.free_buffers()), (16, 6));
    assert_eq!(allocator.in_flight(), 0);
    let counts = allocator.counts();
    assert_eq!((counts.presented, counts.discarded, counts.rejected, counts.submitted), (1, 2, 1, 6));
    assert_eq!(allocator.last_rejection(), Some(Rejection { slot: Slot(slots[3]), reason: Some(Reject::NotEmpty) }));
}
