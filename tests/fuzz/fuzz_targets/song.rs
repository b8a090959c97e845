//! Any bytes as a MIDI file: a song in order, or an error.
#![no_main]

use dmus_interface::event::is_message;
use dmus_interface::time::RefTime;
use dmus_song::Song;

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    if let Ok(song) = Song::parse(file) {
        let mut last = RefTime::ZERO;
        for message in song.messages() {
            assert!(message.time >= last && is_message(message.bytes));
            last = message.time;
        }
        assert!(last <= song.end());
    }
});
