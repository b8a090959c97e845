//! Any bytes as a port buffer: events that lie in it, or an error; and what is read can be packed again.
#![no_main]

use dmus_driver::port::{Events, HEADER_SIZE, PortBuffer, Unpacker, event_size};
use dmus_interface::event::is_message;
use dmus_interface::time::RefTime;

libfuzzer_sys::fuzz_target!(|input: (i64, &[u8])| {
    let (start, buffer) = (RefTime(input.0), input.1);
    let mut memory = vec![0; buffer.len()];
    let mut packed = PortBuffer::new(&mut memory);
    let mut good = Vec::new();
    let mut at = 0;
    let mut failed = false;
    for event in Events::new(buffer, start) {
        assert!(!failed, "something after an error");
        let Ok(event) = event else {
            failed = true;
            continue;
        };
        assert_eq!(event.bytes, &buffer[at + HEADER_SIZE..][..event.bytes.len()]);
        assert!(!event.structured || is_message(event.bytes));
        at += event_size(event.bytes.len());
        // Deltas count from the first event now, so that times at both ends of the range are too far apart.
        if event.time.0.checked_sub(good.first().map_or(event.time, |first: &(RefTime, _, _)| first.0).0).is_some() {
            packed.pack_unstructured(event.time, event.channel_group.into(), event.bytes).expect("it was there before");
            good.push((event.time, event.channel_group, event.bytes));
        }
    }
    assert!(failed || at == buffer.len());
    assert_eq!(Unpacker::new(buffer, start).is_err(), failed);
    let again = packed.events().map(|event| event.map(|event| (event.time, event.channel_group, event.bytes)));
    assert!(again.eq(good.into_iter().map(Ok)));
});
