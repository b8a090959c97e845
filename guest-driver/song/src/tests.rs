use super::*;
use alloc::vec;
use dmus_interface::event::is_message;
use midly::live::LiveEvent;
use midly::{MetaMessage, TrackEventKind};
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
fn ports_become_channel_groups() {
    let groups = |tracks: &[&[u8]]| {
        let song = Song::parse(&file(1, 96, tracks)).expect("a good file");
        song.messages().map(|message| (message.bytes[1], message.group)).collect::<Vec<_>>()
    };
    let on_port = |port: u8, program: u8| track(&[&[0, 0xFF, 0x21, 1, port], &[0, 0xC0, program]]);
    let none = track(&[&[0, 0xC0, 1]]);
    // The lowest that is used is the first group; a track that says nothing is for port 0, and a port counts from where
    // it is said.
    assert_eq!(groups(&[&on_port(255, 9)]), [(9, 0)]);
    assert_eq!(groups(&[&none, &on_port(4, 2), &on_port(1, 3), &on_port(4, 4)]), [(1, 0), (2, 2), (3, 1), (4, 2)]);
    let both = track(&[&[0, 0xC0, 1], &[0, 0xFF, 0x21, 1, 1], &[0, 0xC0, 2], &[0, 0xF0, 2, 5, 0xF7]]);
    assert_eq!(groups(&[&both]), [(1, 0), (2, 1), (5, 1)]);
    let many: Vec<Vec<u8>> = (0..18).map(|port| on_port(port, port)).collect();
    let many: Vec<&[u8]> = many.iter().map(|track| &track[..]).collect();
    assert_eq!(groups(&many)[15..], [(15, 15), (16, 0), (17, 1)]);
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

/// What was said of a file that is played all the same.
fn oddities(file: &[u8]) -> Vec<(usize, Oddity)> {
    let song = Song::parse(file).expect("something to play");
    assert_eq!(song.warned(), song.warnings().len());
    song.warnings().iter().map(|warning| (warning.track, warning.oddity)).collect()
}

#[test]
fn messages_that_are_no_midi_are_left_out() {
    let track = track(&[&[0, 0xF0, 3, 0x90, 1, 0xF7], &[0, 0xF7, 2, 1, 2], &[0, 0xC0, 1]]);
    let file = file(0, 96, &[&track]);
    assert_eq!(played(&file), [(0, vec![0xC0, 1])]);
    assert_eq!(oddities(&file), [(1, Oddity::NoMessage); 3]);
}

#[test]
fn sysex_without_an_end_ends_where_the_next_begins_or_the_track_ends() {
    let track = track(&[&[0, 0xF0, 1, 1], &[96, 0xF0, 2, 2, 0xF7], &[0, 0xF0, 1, 3], &[0, 0xC0, 1]]);
    let file = file(0, 96, &[&track]);
    let expected = [(0, vec![0xF0, 1, 0xF7]), (1, vec![0xF0, 2, 0xF7]), (1, vec![0xC0, 1]), (1, vec![0xF0, 3, 0xF7])];
    assert_eq!(played(&file), expected.map(|(quarters, bytes)| (quarters * 5_000_000, bytes)));
    assert_eq!(oddities(&file), [(1, Oddity::NoSysExEnd); 2]);
}

#[test]
fn running_status_lasts_across_meta_and_sysex_events() {
    let track = track(&[&[0, 0x90, 60, 1], &[0, 0xFF, 1, 1, 65], &[0, 61, 1], &[0, 0xF0, 2, 1, 0xF7], &[0, 62, 1]]);
    let file = file(0, 96, &[&track]);
    let notes: Vec<u8> =
        played(&file).iter().filter(|(_, bytes)| bytes[0] == 0x90).map(|(_, bytes)| bytes[1]).collect();
    assert_eq!(notes, [60, 61, 62]);
    assert_eq!(oddities(&file), []);
}

#[test]
fn an_escape_holds_messages_as_a_wire_has_them() {
    let escape = [0x90, 60, 1, 61, 1, 0xFE, 0xF0, 1, 0xF7, 0xC1, 5];
    let track = track(&[&[&[0, 0xF7, escape.len() as u8], &escape[..]].concat()]);
    let file = file(0, 96, &[&track]);
    let expected = [vec![0x90, 60, 1], vec![0x90, 61, 1], vec![0xF0, 1, 0xF7], vec![0xC1, 5]];
    assert_eq!(played(&file), expected.map(|bytes| (0, bytes)));
    assert_eq!(oddities(&file), [(1, Oddity::System(0xFE))]);
}

#[test]
fn what_only_a_wire_has_and_high_data_bytes_do_not_stop_a_track() {
    let track = track(&[&[0, 0xF8], &[0, 0xF2, 1, 2], &[0, 0x90, 0xBC, 0xFF], &[0, 0xF6], &[0, 61, 1]]);
    let file = file(0, 96, &[&track]);
    assert_eq!(played(&file), [(0, vec![0x90, 60, 127]), (0, vec![0x90, 61, 1])]);
    let expected = [Oddity::System(0xF8), Oddity::System(0xF2), Oddity::HighData, Oddity::System(0xF6)];
    assert_eq!(oddities(&file), expected.map(|oddity| (1, oddity)));
}

#[test]
fn meta_events_of_odd_length_or_value_are_passed_over() {
    let metas: [&[u8]; 5] = [
        &[0, 0xFF, 0x59, 0],
        &[0, 0xFF, 0x21, 0],
        &[0, 0xFF, 0x51, 2, 1, 1],
        &[0, 0xFF, 0x51, 3, 0, 0, 0],
        &[0, 0xFF, 0x51, 4, 0x0F, 0x42, 0x40, 9],
    ];
    let file = file(0, 96, &[&track(&[&metas.concat(), &[96, 0xC0, 1]])]);
    assert_eq!(played(&file), [(10_000_000, vec![0xC0, 1])], "a quarter of a second, by the last tempo");
    assert_eq!(oddities(&file), [(1, Oddity::Tempo); 2]);
}

/// A program change in each of two tracks.
fn two_tracks() -> Vec<u8> {
    file(1, 96, &[&track(&[&[0, 0xC0, 1]]), &track(&[&[96, 0xC1, 2]])])
}

#[test]
fn chunks_and_lengths_that_are_wrong_lose_no_track() {
    let good = two_tracks();
    let expected = played(&good);
    assert_eq!(oddities(&good), []);
    // Where the second track's chunk begins.
    let second = 14 + 8 + 7;
    let with = |at: usize, bytes: &[u8]| [&good[..at], bytes, &good[at..]].concat();
    let patched = |at: usize, value: u8| {
        let mut file = good.clone();
        file[at] = value;
        file
    };
    let cases = [
        ("junk between", with(second, &[5, 0]), vec![(0, Oddity::NoChunk(2))]),
        ("junk behind", with(good.len(), b"\r\n"), vec![(0, Oddity::NoChunk(2))]),
        ("zeros behind", with(good.len(), &[0; 300]), vec![(0, Oddity::NoChunk(300))]),
        ("another chunk", with(second, b"XFIH\0\0\0\x02ab"), vec![]),
        ("something before", with(0, b"junk"), vec![(0, Oddity::Preamble)]),
        ("the first length short", patched(14 + 7, 2), vec![(1, Oddity::TrackLength)]),
        ("the first length into the second", patched(14 + 7, 20), vec![(1, Oddity::TrackLength)]),
        ("the last length past the end", patched(second + 7, 200), vec![(2, Oddity::TrackLength)]),
        ("too many promised", patched(11, 9), vec![(0, Oddity::TrackCount { promised: 9, found: 2 })]),
        ("too few promised", patched(11, 1), vec![(0, Oddity::TrackCount { promised: 1, found: 2 })]),
        ("an unknown format", patched(9, 7), vec![(0, Oddity::Format(7))]),
        ("a short header length", patched(7, 4), vec![(0, Oddity::HeaderLength)]),
    ];
    for (what, file, odd) in cases {
        assert_eq!(played(&file), expected, "{what}");
        assert_eq!(oddities(&file), odd, "{what}");
    }
}

#[test]
fn a_track_ends_where_it_says_or_with_its_last_whole_event() {
    let after = [track(&[&[0, 0xC0, 1]]), vec![0, 0xC0, 2]].concat();
    let after = file(0, 96, &[&after]);
    assert_eq!((played(&after).len(), oddities(&after)), (1, vec![(1, Oddity::AfterEnd(3))]));
    let without = file(0, 96, &[&[0, 0xC0, 1]]);
    assert_eq!((played(&without).len(), oddities(&without)), (1, vec![(1, Oddity::NoEnd)]));
    let cut = file(0, 96, &[&[0, 0xC0, 1, 0, 0x90, 60]]);
    assert_eq!((played(&cut).len(), oddities(&cut)), (1, vec![(1, Oddity::Cut), (1, Oddity::NoEnd)]));
    let lost = file(0, 96, &[&[0, 60, 1, 0, 0x90, 60, 1]]);
    assert_eq!((played(&lost).len(), oddities(&lost)), (0, vec![(1, Oddity::NoStatus), (1, Oddity::NoEnd)]));
    // However much of the file is there.
    let good = two_tracks();
    for end in 14 + 8..good.len() {
        let song = Song::parse(&good[..end]).expect("a track");
        assert!(song.warned() > 0 && song.len() <= 2, "{end}");
    }
}

#[test]
fn the_first_twenty_warnings_are_kept_and_all_are_counted() {
    let file = file(0, 96, &[&track(&[&[0, 0xF6].repeat(50)])]);
    let song = Song::parse(&file).expect("a track");
    assert_eq!((song.warnings().len(), song.warned()), (MOST_WARNINGS, 50));
    let complaints: Vec<String> = song.complaints().collect();
    assert_eq!((complaints.len(), complaints[MOST_WARNINGS].as_str()), (MOST_WARNINGS + 1, "and 30 more of the kind"));
    assert_eq!(
        complaints[0],
        "byte 23, track 1: a system message (status 0xf6) has no place in a file and is left out"
    );
}

#[test]
fn the_end_of_the_longest_track_counts() {
    let short = track(&[&[0, 0xC0, 1]]);
    let song = Song::parse(&file(1, 96, &[&short, &[96, 0xFF, 0x2F, 0]])).expect("a good file");
    assert_eq!(song.end(), RefTime(5_000_000));
    assert_eq!(song.duration(), RefTime(35_000_000));
}

#[test]
fn wrappers_are_looked_through() {
    let inner = file(0, 96, &[&track(&[&[96, 0xC0, 1]])]);
    let chunk = |id: &[u8], body: &[u8]| [id, &(body.len() as u32).to_le_bytes()[..], body].concat();
    let data = chunk(b"data", &inner);
    let info = chunk(b"LIST", b"INFOxx");
    let dls = chunk(b"RIFF", b"DLS nothing ");
    for chunks in [vec![&data], vec![&data, &info], vec![&info, &dls, &data], vec![&dls, &data]] {
        let body = chunks.iter().fold(b"RMID".to_vec(), |body, chunk| [&body[..], chunk].concat());
        let rmid = chunk(b"RIFF", &body);
        assert_eq!((played(&rmid), oddities(&rmid)), (played(&inner), vec![]));
        assert_eq!(collection_of(&rmid), chunks.contains(&&dls).then_some(&dls[..]));
    }
    let mac = [&[0, 4][..], b"song", &[0; 122], &inner].concat();
    assert_eq!((played(&mac), oddities(&mac)), (played(&inner), vec![]));
    assert_eq!(collection_of(&inner), None);
}

/// Found by fuzzing: the reader panicked on the second header.
#[test]
fn an_impossible_frame_rate_is_refused() {
    let found = b"MThd\0\0\0\x0a\0\0\0\x3d\x21\0\0\0\x80\0MThd\0\0\0\x0a\0\0\0\0\x80\x80MT\0\0";
    assert_eq!(Song::parse(found).err(), Some(SongError::NoTracks));
    let first = file(0, 0x8028, &[&track(&[])]);
    assert_eq!(Song::parse(&first).err(), Some(SongError::BadHeader));
}

#[test]
fn what_has_nothing_to_play_is_refused_with_its_reason() {
    let cases: [(&[u8], SongError); 7] = [
        (b"", SongError::Empty),
        (b"hello, world", SongError::NotMidi),
        (b"MThd", SongError::BadHeader),
        (&file(0, 96, &[]), SongError::NoTracks),
        (&file(2, 96, &[&track(&[]), &track(&[])]), SongError::Format2),
        (&file(0, 0, &[&track(&[])]), SongError::NoTimeBase),
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
    let messages = messages.map(|(seconds, bytes)| TimedMessage { time: RefTime::from_secs(seconds), group: 0, bytes });
    let file = TimeBase::default().write(messages.into_iter()).expect("a file");
    assert_eq!(played(&file), [(0, vec![0xC0, 1]), (6 * 36_000_000_000, vec![0xC0, 2])]);
}

#[test]
fn times_between_ticks_go_to_the_nearest_and_what_is_no_message_is_left_out() {
    let base = TimeBase::of(&file(0, 5, &[END])).expect("a time base");
    let messages = [(1_499_999, &[0xC0, 1][..]), (1_500_001, &[0xC0, 2]), (1_600_000, &[60, 1]), (0, &[0xC0, 3])];
    let messages = messages.map(|(time, bytes)| TimedMessage { time: RefTime(time), group: 0, bytes });
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
