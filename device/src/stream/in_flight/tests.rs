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
