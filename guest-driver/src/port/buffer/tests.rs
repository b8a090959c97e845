use super::*;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

const NOTE: u32 = 0x0064_3C90;

/// DDI: DMUS_EVENTHEADER is cbEvent, dwChannelGroup, rtDelta and dwFlags without gaps, and the data follows it at once
#[test]
fn fields_are_at_the_offsets_of_the_ddi() {
    let mut memory = [0xEE; 64];
    let mut buffer = PortBuffer::new(&mut memory);
    buffer.pack_structured(RefTime(100), 7, NOTE).expect("room");
    buffer.pack_unstructured(RefTime(0x0102_0304_0506), 0x0809, &[0xF0, 1, 2, 3, 0xF7]).expect("room");
    let bytes = buffer.bytes();
    assert_eq!(bytes[0..4], [3, 0, 0, 0]);
    assert_eq!(bytes[4..8], [7, 0, 0, 0]);
    assert_eq!(bytes[8..16], [0; 8]);
    assert_eq!(bytes[16..20], [1, 0, 0, 0]);
    assert_eq!(bytes[20..24], [0x90, 60, 100, 0]);
    let second = &bytes[24..];
    assert_eq!(second[0..8], [5, 0, 0, 0, 9, 8, 0, 0]);
    assert_eq!(second[8..16], (0x0102_0304_0506i64 - 100).to_le_bytes());
    assert_eq!(second[16..25], [0, 0, 0, 0, 0xF0, 1, 2, 3, 0xF7]);
}

/// DDI: header and data together are padded to a multiple of 8 bytes (DMUS_EVENT_SIZE)
#[test]
fn events_are_padded_to_eight_bytes() {
    for (len, size) in [(1, 24), (3, 24), (4, 24), (5, 32), (12, 32), (13, 40), (MAX_MESSAGE, 65_560)] {
        assert_eq!(event_size(len), size, "{len}");
    }
    let mut memory = [0xEE; 64];
    let mut buffer = PortBuffer::new(&mut memory);
    buffer.pack_unstructured(RefTime(0), 0, &[1]).expect("room");
    assert_eq!((buffer.bytes().len(), &buffer.bytes()[21..]), (24, &[0; 3][..]));
}

/// DDI: PackStructured takes a message of fixed length as one word and marks it as parsable; anything else is an
/// invalid event
#[test]
fn only_whole_messages_are_packed_structured() {
    let mut memory = [0; 24];
    for (message, len) in [(NOTE, 3), (0x05C0, 2), (0xFF7F_40E5, 3), (0xF8, 1)] {
        let mut buffer = PortBuffer::new(&mut memory);
        buffer.pack_structured(RefTime(0), 0, message).expect("a message");
        let event = buffer.events().next().expect("an event").expect("a good one");
        assert!(event.structured);
        assert_eq!(event.bytes, &message.to_le_bytes()[..len]);
    }
    for message in [0, 60, 0xF0, 0xF7F0, 0xF7, 0xF4, 0x00F0_3C90, 0x0080_3C90] {
        let mut buffer = PortBuffer::new(&mut memory);
        let packed = buffer.pack_structured(RefTime(0), 0, message);
        assert_eq!(packed, Err(BufferError::NotAMessage { at: 0 }), "{message:#x}");
        assert!(buffer.bytes().is_empty());
    }
}

/// DDI: PackUnstructured takes bytes of any kind and does not mark them
#[test]
fn any_bytes_are_packed_unstructured() {
    let mut memory = [0; 64];
    let mut buffer = PortBuffer::new(&mut memory);
    buffer.pack_unstructured(RefTime(1), 3, &[0x12, 0xFF, 0x90]).expect("room");
    let event = buffer.events().next().expect("an event").expect("a good one");
    let bytes = &[0x12, 0xFF, 0x90][..];
    assert_eq!(event, PortEvent { time: RefTime(1), channel_group: 3, structured: false, bytes });
}

/// DDI: times are packed as absolute; rtDelta is the time after the start time of the buffer, which is that of the
/// first event
#[test]
fn deltas_count_from_the_first_event() {
    let mut memory = [0; 128];
    let mut buffer = PortBuffer::new(&mut memory);
    assert_eq!(buffer.get_start_time(), RefTime::ZERO);
    for time in [500, 700, 400] {
        buffer.pack_structured(RefTime(time), 0, NOTE).expect("room");
    }
    assert_eq!(buffer.get_start_time(), RefTime(500));
    let times = |start| Events::new(buffer.bytes(), RefTime(start)).map(|event| event.map(|event| event.time.0));
    assert!(times(500).eq([Ok(500), Ok(700), Ok(400)]));
    assert!(times(0).eq([Ok(0), Ok(200), Ok(-100)]));
    buffer.flush();
    buffer.pack_structured(RefTime(900), 0, NOTE).expect("room");
    assert_eq!((buffer.get_start_time(), buffer.bytes().len()), (RefTime(900), 24));
}

/// DDI: an event that does not fit is refused for lack of memory, and the buffer stays as it was
#[test]
fn a_full_buffer_says_so_and_keeps_what_it_has() {
    let mut memory = [0; 47];
    let mut buffer = PortBuffer::new(&mut memory);
    buffer.pack_structured(RefTime(5), 0, NOTE).expect("room");
    let before = buffer.bytes().to_vec();
    assert_eq!(buffer.pack_structured(RefTime(6), 0, NOTE), Err(BufferError::Full { needed: 24, left: 23 }));
    assert_eq!(buffer.pack_unstructured(RefTime(6), 0, &[0; 60]), Err(BufferError::Full { needed: 80, left: 23 }));
    assert_eq!(buffer.bytes(), before);
    // One that failed does not set the start time.
    let mut memory = [0; 47];
    let mut buffer = PortBuffer::new(&mut memory);
    assert!(buffer.pack_unstructured(RefTime(6), 0, &[0; 60]).is_err());
    assert_eq!(buffer.get_start_time(), RefTime::ZERO);
}

fn raw(len: u32, group: u32, delta: i64, flags: u32, data: &[u8]) -> Vec<u8> {
    let header =
        Header { event_bytes: len.into(), channel_group: group.into(), delta: delta.into(), flags: flags.into() };
    let mut bytes = vec![0; 24];
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    // A good event before it, so that the offset shows.
    let good = Header { event_bytes: 1.into(), channel_group: 0.into(), delta: 0.into(), flags: 0.into() };
    bytes[..HEADER_SIZE].copy_from_slice(good.as_bytes());
    bytes
}

#[test]
fn every_lie_of_a_header_has_its_error() {
    let at = 24;
    let data = [0x90, 60, 100, 0];
    for (bytes, error) in [
        (raw(0, 0, 0, 0, &data), BufferError::Empty { at }),
        (raw(5, 0, 0, 0, &data), BufferError::Truncated { at, needed: 32, left: 24 }),
        (raw(3, 0, 0, 0, &data[..3]), BufferError::Truncated { at, needed: 24, left: 23 }),
        (raw(3, 0, 0, 0, &data)[..43].to_vec(), BufferError::Truncated { at, needed: 24, left: 19 }),
        (raw(u32::MAX, 0, 0, 0, &data), BufferError::TooLong { at, len: u32::MAX }),
        (raw(65_537, 0, 0, 0, &[0; 70_000]), BufferError::TooLong { at, len: 65_537 }),
        (raw(3, 65_536, 0, 0, &data), BufferError::ChannelGroup { at, group: 65_536 }),
        (raw(3, 0, 0, 2, &data), BufferError::UnknownFlags { at, flags: 2 }),
        (raw(2, 0, 0, 1, &data), BufferError::NotAMessage { at }),
        (raw(4, 0, 0, 1, &data), BufferError::NotAMessage { at }),
        (raw(3, 0, i64::MAX, 0, &data), BufferError::TimeOverflow { at }),
    ] {
        let mut events = Events::new(&bytes, RefTime(1));
        assert!(matches!(events.next(), Some(Ok(_))));
        assert_eq!(events.next(), Some(Err(error)));
        assert_eq!(events.next(), None);
    }
    let mut memory = vec![0; 70_000];
    let mut buffer = PortBuffer::new(&mut memory);
    assert_eq!(buffer.pack_unstructured(RefTime(0), 0, &[]), Err(BufferError::Empty { at: 0 }));
    let long = vec![0; MAX_MESSAGE + 1];
    let too_long = BufferError::TooLong { at: 0, len: long.len() as u32 };
    assert_eq!(buffer.pack_unstructured(RefTime(0), 0, &long), Err(too_long));
    assert_eq!(
        buffer.pack_unstructured(RefTime(0), 65_536, &[1]),
        Err(BufferError::ChannelGroup { at: 0, group: 65_536 })
    );
    buffer.pack_unstructured(RefTime(-2), 0, &[1]).expect("room");
    assert_eq!(buffer.pack_unstructured(RefTime(i64::MAX), 0, &[1]), Err(BufferError::TimeOverflow { at: 24 }));
}

proptest! {
    /// DDI: GetNextEvent gives back time, channel group and bytes of each event as they were packed, in that order
    #[test]
    fn what_is_packed_is_read_again(
        events in proptest::collection::vec(
            (any::<i32>(), any::<u16>(), proptest::collection::vec(any::<u8>(), 1..40)),
            0..30,
        ),
        room in 0usize..2000,
    ) {
        let mut memory = vec![0xEE; room];
        let mut buffer = PortBuffer::new(&mut memory);
        let mut packed = vec![];
        for (time, group, bytes) in &events {
            let time = RefTime(i64::from(*time));
            let before = buffer.bytes().len();
            match buffer.pack_unstructured(time, u32::from(*group), bytes) {
                Ok(()) => packed.push(PortEvent { time, channel_group: *group, structured: false, bytes }),
                Err(error) => {
                    let needed = event_size(bytes.len());
                    prop_assert_eq!(error, BufferError::Full { needed, left: room - before });
                    prop_assert!(needed > room - before);
                }
            }
        }
        let read: Result<Vec<_>, _> = buffer.events().collect();
        prop_assert_eq!(read, Ok(packed));
    }

    /// Any bytes: no panic, bounded, and what is read lies where it says.
    #[test]
    fn any_bytes_are_events_or_an_error(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
        headers in proptest::collection::vec((0usize..50, 0u32..40, 0u32..4), 0..6),
        start: i64,
    ) {
        // Plausible headers, or hardly anything would get beyond the first.
        for (at, len, flags) in headers {
            if let Some(place) = bytes.get_mut(at * 8..at * 8 + HEADER_SIZE) {
                let (channel_group, delta) = (1.into(), 5.into());
                let header = Header { event_bytes: len.into(), channel_group, delta, flags: flags.into() };
                place.copy_from_slice(header.as_bytes());
            }
        }
        let mut at = 0;
        let mut ended = false;
        for event in Events::new(&bytes, RefTime(start)) {
            prop_assert!(!ended, "something after an error");
            match event {
                Ok(event) => {
                    prop_assert_eq!(event.bytes, &bytes[at + HEADER_SIZE..][..event.bytes.len()]);
                    prop_assert!(!event.structured || is_message(event.bytes));
                    at += event_size(event.bytes.len());
                }
                Err(_) => ended = true,
            }
        }
        prop_assert!(ended || at == bytes.len());
    }
}
