use super::*;
use alloc::vec;
use proptest::prelude::*;

const END: &[u8] = &[0x00, 0xFF, 0x2F, 0x00];

fn file(format: u8, division: u16, tracks: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::from(*b"MThd\0\0\0\x06\0");
    out.push(format);
    out.extend((tracks.len() as u16).to_be_bytes());
    out.extend(division.to_be_bytes());
    for track in tracks {
        out.extend(b"MTrk");
        out.extend((track.len() as u32).to_be_bytes());
        out.extend(*track);
    }
    out
}

fn track(events: &[&[u8]]) -> Vec<u8> {
    [events.concat(), END.to_vec()].concat()
}

fn played(file: &[u8]) -> Vec<(i64, Vec<u8>)> {
    let song = Song::parse(file).expect("a good file");
    song.messages().map(|m| (m.time.0, m.bytes.to_vec())).collect()
}

#[test]
fn running_status_is_expanded() {
    let track = track(&[&[0, 0x90, 60, 100], &[0, 62, 100], &[96, 60, 0]]);
    assert_eq!(
        played(&file(0, 96, &[&track])),
        [(0, vec![0x90, 60, 100]), (0, vec![0x90, 62, 100]), (5_000_000, vec![0x90, 60, 0]),]
    );
}

#[test]
fn tracks_are_merged_by_tick_and_ties_stay_in_track_order() {
    let first = track(&[&[10, 0xC0, 1], &[10, 0xC0, 2]]);
    let second = track(&[&[10, 0xC1, 3], &[5, 0xC1, 4]]);
    let programs: Vec<u8> = played(&file(1, 96, &[&first, &second])).iter().map(|(_, bytes)| bytes[1]).collect();
    assert_eq!(programs, [1, 3, 4, 2]);
}

#[test]
fn tempo_changes_in_any_track_move_all_and_lose_no_unit() {
    // 1,000 ticks at 333,333 us a quarter of 7 ticks, one tempo event a tick: rounding each would drift by hundreds of
    // units.
    let tempo: Vec<u8> = (0..1000).flat_map(|_| [1, 0xFF, 0x51, 3, 0x05, 0x16, 0x15]).collect();
    let tempo = track(&[&[0, 0xFF, 0x51, 3, 0x05, 0x16, 0x15], &tempo]);
    let notes = track(&[&[0x87, 0x68, 0x90, 60, 1]]);
    assert_eq!(played(&file(1, 7, &[&tempo, &notes]))[0].0, 1000 * 3_333_330 / 7);
}

#[test]
fn smpte_time_ignores_tempo() {
    let track = track(&[&[0, 0xFF, 0x51, 3, 1, 0, 0], &[100, 0xC0, 1]]);
    // -25 frames a second, 40 subframes: a tick is a millisecond.
    assert_eq!(played(&file(0, 0xE728, &[&track]))[0].0, 1_000_000);
    // -29: 30,000/1001 frames a second, 100 subframes.
    assert_eq!(played(&file(0, 0xE364, &[&track]))[0].0, 333_666);
}

#[test]
fn sysex_in_pieces_becomes_one_message_at_its_last_piece() {
    let track = track(&[&[0, 0xF0, 2, 0x7E, 0x7F], &[96, 0xF7, 3, 0x09, 0x01, 0xF7], &[0, 0xF0, 3, 1, 2, 0xF7]]);
    assert_eq!(
        played(&file(0, 96, &[&track])),
        [(5_000_000, vec![0xF0, 0x7E, 0x7F, 0x09, 0x01, 0xF7]), (5_000_000, vec![0xF0, 1, 2, 0xF7]),]
    );
}

#[test]
fn messages_that_are_no_midi_are_left_out_and_counted() {
    let track = track(&[&[0, 0xF0, 3, 0x90, 1, 0xF7], &[0, 0xF0, 2, 1, 2], &[0, 0xC0, 1]]);
    let song = Song::parse(&file(0, 96, &[&track])).expect("a good file");
    assert_eq!((song.len(), song.skipped()), (1, 2));
}

#[test]
fn the_end_of_the_longest_track_counts() {
    let short = track(&[&[0, 0xC0, 1]]);
    let song = Song::parse(&file(1, 96, &[&short, &[96, 0xFF, 0x2F, 0]])).expect("a good file");
    assert_eq!(song.end(), RefTime(5_000_000));
    assert_eq!(song.duration(), RefTime(35_000_000));
}

#[test]
fn an_rmid_wrapper_is_looked_through() {
    let inner = file(0, 96, &[&track(&[&[96, 0xC0, 1]])]);
    let mut rmid = Vec::from(*b"RIFF\0\0\0\0RMIDdata");
    rmid.extend((inner.len() as u32).to_le_bytes());
    rmid.extend(&inner);
    rmid.extend(b"LIST\0\0\0\0");
    assert_eq!(played(&rmid), played(&inner));
}

/// Found by fuzzing: the reader panicked on the second header.
#[test]
fn an_impossible_frame_rate_is_refused_in_any_header() {
    let found = b"MThd\0\0\0\x0a\0\0\0\x3d\x21\0\0\0\x80\0MThd\0\0\0\x0a\0\0\0\0\x80\x80MT\0\0";
    assert_eq!(Song::parse(found).err(), Some(SongError::BadHeader));
    let first = file(0, 0x8028, &[&track(&[])]);
    assert_eq!(Song::parse(&first).err(), Some(SongError::BadHeader));
}

#[test]
fn bad_files_are_refused_with_their_reason() {
    let good = file(1, 96, &[&track(&[&[0, 0x90, 60, 100]]), &track(&[])]);
    let cases: [(&[u8], SongError); 9] = [
        (b"", SongError::Empty),
        (b"hello, world", SongError::NotMidi),
        (b"MThd", SongError::BadHeader),
        (&file(2, 96, &[&track(&[])]), SongError::Format2),
        (&file(0, 0, &[&track(&[])]), SongError::NoTimeBase),
        (&good[..good.len() - 2], SongError::Truncated { track: 2 }),
        (&good[..14 + 8 + 8], SongError::MissingTracks { promised: 2, found: 1 }),
        (&file(0, 96, &[&[0, 0x90, 60]]), SongError::BadEvent { track: 1, event: 0 }),
        (
            &file(0, 1, &[&track(&[&[0, 0xFF, 0x51, 3, 0xFF, 0xFF, 0xFF], &[0xFF, 0xFF, 0xFF, 0x7F, 0xC0, 1]])]),
            SongError::TooLong,
        ),
    ];
    for (bytes, error) in cases {
        let found = Song::parse(bytes).err();
        assert_eq!(found, Some(error), "{bytes:02x?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_give_a_song_or_an_error(body in proptest::collection::vec(any::<u8>(), 0..300), division: u16) {
        let _ = Song::parse(&body);
        if let Ok(song) = Song::parse(&file(1, division, &[&body])) {
            let mut last = RefTime::ZERO;
            for message in song.messages() {
                prop_assert!(message.time >= last && is_message(message.bytes));
                last = message.time;
            }
        }
    }
}

/// The messages of all tracks with their ticks, merged.
fn ticks(file: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let (_, tracks) = midly::parse(file).expect("a header");
    let mut all = Vec::new();
    for track in tracks {
        let mut tick = 0;
        for event in track.expect("a track") {
            let event = event.expect("an event");
            tick += u64::from(event.delta.as_int());
            let bytes = match event.kind {
                TrackEventKind::SysEx(data) => [&[0xF0], data].concat(),
                TrackEventKind::Escape(data) => data.to_vec(),
                TrackEventKind::Midi { channel, message } => {
                    let mut bytes = vec![];
                    LiveEvent::Midi { channel, message }.write(&mut bytes).expect("a Vec");
                    bytes
                }
                TrackEventKind::Meta(MetaMessage::Tempo(micros)) => vec![0xFF, 0x51, micros.as_int() as u8],
                TrackEventKind::Meta(_) => continue,
            };
            all.push((tick, bytes));
        }
    }
    all.sort_by_key(|(tick, bytes)| (*tick, bytes[0] != 0xFF));
    all
}

fn written_again(file: &[u8]) -> Vec<u8> {
    let song = Song::parse(file).expect("a good file");
    TimeBase::of(file).expect("a good file").write(song.messages()).expect("a good song")
}

#[test]
fn a_pause_longer_than_a_file_can_say_is_written_in_pieces() {
    let messages = [(0, &[0xC0, 1][..]), (6 * 3600, &[0xC0, 2])];
    let messages = messages.map(|(seconds, bytes)| TimedMessage { time: RefTime::from_secs(seconds), bytes });
    let file = TimeBase::default().write(messages.into_iter()).expect("a file");
    assert_eq!(played(&file), [(0, vec![0xC0, 1]), (6 * 36_000_000_000, vec![0xC0, 2])]);
}

#[test]
fn times_between_ticks_go_to_the_nearest_and_what_is_no_message_is_left_out() {
    let base = TimeBase::of(&file(0, 5, &[END])).expect("a time base");
    let messages = [(1_499_999, &[0xC0, 1][..]), (1_500_001, &[0xC0, 2]), (1_600_000, &[60, 1]), (0, &[0xC0, 3])];
    let messages = messages.map(|(time, bytes)| TimedMessage { time: RefTime(time), bytes });
    let file = base.write(messages.into_iter()).expect("a file");
    assert_eq!(ticks(&file), [(1, vec![0xC0, 1]), (2, vec![0xC0, 2]), (2, vec![0xC0, 3])]);
}

proptest! {
    #[test]
    fn what_is_read_is_written_again_tick_for_tick(
        division in prop_oneof![1u16..=0x7FFF, Just(0xE728), Just(0xE350), Just(0xE802)],
        first in prop::collection::vec((0u32..3000, 0u8..6, 0u8..128), 0..60),
        second in prop::collection::vec((0u32..3000, 0u8..6, 0u8..128), 0..60),
    ) {
        let track = |events: &[(u32, u8, u8)]| {
            let mut out = Vec::new();
            for &(delta, kind, value) in events {
                out.extend([(delta >> 7) as u8 | 0x80, delta as u8 & 0x7F]);
                out.extend(match kind {
                    0 => vec![0xFF, 0x51, 3, 1 + value / 16, value, value],
                    1 => vec![0xF0, 3, value, value, 0xF7],
                    2 => vec![0xC1, value],
                    _ => vec![0x90 | kind, value, 64],
                });
            }
            out.extend(END);
            out
        };
        let file = file(1, division, &[&track(&first), &track(&second)]);
        let again = written_again(&file);
        prop_assert_eq!(ticks(&again), ticks(&file));
        prop_assert_eq!(played(&again), played(&file));
        let end = |file: &[u8]| Song::parse(file).expect("a good file").end();
        prop_assert_eq!(end(&again), end(&file));
    }
}
