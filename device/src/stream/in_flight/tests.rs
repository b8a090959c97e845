//! Owners of slots and buffers, past the last number that a publication can have.

use super::*;
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::stream::Type;

const BUFFERS: u64 = 0x8000;
const SIZE: u32 = 32;

fn in_flight(publication: u32) -> InFlight {
    let config = StreamConfig {
        kind: Type::Render,
        wave: None,
        width: PointerWidth::Eight,
        pool_base: 0x1000,
        slots: 4,
        stride: 64,
        buffer_base: BUFFERS,
        buffer_size: SIZE,
        buffers: 4,
        submission_base: 0x2000,
        submission_entries: 4,
        completion_base: 0x3000,
        completion_entries: 4,
    };
    InFlight { publication, ..InFlight::new(&config, true) }
}

/// The buffer with a slot's number, if it is free.
fn find(in_flight: &InFlight, number: u32) -> Result<Buffer, Reject> {
    in_flight.buffers.find(BUFFERS + u64::from(number * SIZE), 9, in_flight.publication())
}

/// Holds a slot with the buffer of the same number.
fn hold(in_flight: &mut InFlight, number: u32) {
    let buffer = find(in_flight, number).expect("a free buffer");
    in_flight.hold(number, Header(9 << 16), buffer.data(), Some(buffer));
}

/// Which slots are the driver's; their buffers are, too, and no others.
fn free(in_flight: &InFlight) -> Vec<u32> {
    let is_free = |number: &u32| {
        let free = in_flight.is_free(*number).expect("a slot");
        assert_eq!(find(in_flight, *number).is_ok(), free, "slot {number} and its buffer");
        free
    };
    (0..4).filter(is_free).collect()
}

/// A card comes there after some billions of them.
#[test]
fn nothing_changes_owners_when_publications_are_counted_anew() {
    for first in OWNED - 6..OWNED {
        let mut in_flight = in_flight(first);
        (0..3).for_each(|number| hold(&mut in_flight, number));
        in_flight.release(1);
        assert_eq!(free(&in_flight), [3], "from {first}");
        in_flight.published();
        in_flight.release(2);
        assert_eq!(free(&in_flight), [1, 3], "from {first}");
        for later in 1..8 {
            in_flight.published();
            assert_eq!(free(&in_flight), [1, 2, 3], "{later} after {first}");
            assert!(in_flight.is_owned(0));
            hold(&mut in_flight, 3);
            assert_eq!((free(&in_flight), in_flight.owned()), (vec![1, 2], 2), "{later} after {first}");
            in_flight.release(3);
            assert_eq!((free(&in_flight), in_flight.owned()), (vec![1, 2], 1), "{later} after {first}");
        }
    }
}

/// What `dmus-card ask` tells of a slot, and what is presented.
#[test]
fn what_an_owned_slot_carries_is_its_message_wherever_that_is() {
    let mut in_flight = in_flight(1);
    let long = [0xF0, 1, 2, 3, 4, 5, 6, 7, 0xF7];
    let assembled = [&[0xF0][..], &[9; 40], &[0xF7]].concat();
    let buffer = find(&in_flight, 3).expect("a free buffer");
    in_flight.buffers.copy_mut(buffer, long.len()).copy_from_slice(&long);
    in_flight.hold(0, Header(8 << 16), u64::from_le_bytes(*b"\xF0short\x01\xF7"), None);
    in_flight.hold(1, Header(9 << 16), buffer.data(), Some(buffer));
    in_flight.own(2, NONE);
    assert_eq!(in_flight.bytes(2), None, "a package");
    in_flight.own(3, 2);
    in_flight.carry_assembled(3, Header(1 << 16), assembled.clone().into());
    let expected = [&b"\xF0short\x01\xF7"[..], &long, &[], &assembled];
    for (slot, bytes) in (0..).zip(expected) {
        assert_eq!(in_flight.bytes(slot), (slot != 2).then_some(bytes), "slot {slot}");
    }
    for (head, bytes) in [(0, expected[0]), (1, &long), (2, &assembled)] {
        let (messages, next) = in_flight.messages(head, |_, message| {
            match message {
                Message::Short(word, len) => assert_eq!(word.to_le_bytes()[..len], *bytes),
                Message::Long(message) => assert_eq!(message, bytes),
            }
            true
        });
        assert_eq!((messages, next), (1, NONE), "from slot {head}");
        in_flight.release(head);
        assert_eq!(in_flight.bytes(head), None, "slot {head} is given back");
    }
    assert_eq!((in_flight.bytes(3), in_flight.bytes(4)), (None, None));
    assert_eq!((in_flight.owned(), in_flight.assembled_bytes()), (0, 0));
}

#[test]
fn an_address_is_that_of_a_free_buffer_with_room_or_the_reason_is_told() {
    let mut in_flight = in_flight(1);
    hold(&mut in_flight, 2);
    let size = u64::from(SIZE);
    let find = |iova: u64, len: u64| in_flight.buffers.find(iova, len as usize, in_flight.publication()).err();
    let cases = [
        (BUFFERS, size, None),
        (BUFFERS + 3 * size, 1, None),
        (BUFFERS, size + 1, Some(Reject::TooLong)),
        (BUFFERS + 2 * size, size, Some(Reject::BufferInFlight)),
        (BUFFERS + 2 * size, size + 1, Some(Reject::TooLong)),
        // Within a buffer, also one that is in flight; before the first, behind the last, and a turn of 32 bits on.
        (BUFFERS + 1, 1, Some(Reject::BadBuffer)),
        (BUFFERS + 3 * size - 1, size + 1, Some(Reject::BadBuffer)),
        (BUFFERS - size, 1, Some(Reject::BadBuffer)),
        (BUFFERS + 4 * size, 1, Some(Reject::BadBuffer)),
        (BUFFERS + (1 << 32), 1, Some(Reject::BadBuffer)),
        (0, 1, Some(Reject::BadBuffer)),
        (u64::MAX, 1, Some(Reject::BadBuffer)),
    ];
    for (iova, len, expected) in cases {
        assert_eq!(find(iova, len), expected, "{len} bytes at {iova:#x}");
    }
}
