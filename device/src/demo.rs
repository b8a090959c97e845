//! The bundled song, composed here so that `play` needs no file: a minute of a small band.
//!
//! Fed by nothing; feeds `play` and `render` when they are given no song, as the bytes of a standard MIDI file.

use midly::num::{u4, u7, u15, u24, u28};
use midly::{Format, Header, MetaMessage, MidiMessage, Smf, Timing, TrackEvent, TrackEventKind};

/// Ticks in a quarter note.
const QUARTER: u32 = 480;
const BAR: u32 = 4 * QUARTER;
/// 112 quarter notes a minute.
const TEMPO: u32 = 60_000_000 / 112;

/// The harmony, a chord a bar: root and three tones above it.
const CHORDS: [(u8, [u8; 3]); 8] = [
    (45, [60, 64, 69]),
    (41, [60, 65, 69]),
    (48, [60, 64, 67]),
    (43, [59, 62, 67]),
    (45, [60, 64, 69]),
    (50, [57, 62, 65]),
    (40, [56, 59, 64]),
    (45, [57, 60, 64]),
];

/// The tune over eight bars: (start in eighths, length in eighths, key).
const TUNE: [(u32, u32, u8); 30] = [
    (0, 3, 76),
    (3, 1, 77),
    (4, 2, 76),
    (6, 2, 72),
    (8, 4, 69),
    (12, 2, 72),
    (14, 2, 74),
    (16, 3, 76),
    (19, 1, 79),
    (20, 2, 76),
    (22, 2, 72),
    (24, 6, 74),
    (30, 1, 72),
    (31, 1, 74),
    (32, 3, 76),
    (35, 1, 77),
    (36, 2, 81),
    (38, 2, 76),
    (40, 4, 77),
    (44, 2, 74),
    (46, 2, 69),
    (48, 2, 71),
    (50, 2, 68),
    (52, 2, 71),
    (54, 2, 76),
    (56, 2, 72),
    (58, 2, 71),
    (60, 4, 69),
    (60, 4, 64),
    (60, 4, 57),
];

/// A part of the band.
struct Part {
    channel: u8,
    program: u8,
    volume: u8,
    pan: u8,
    /// (tick, message) in any order.
    events: Vec<(u32, MidiMessage)>,
}

impl Part {
    fn new(channel: u8, program: u8, volume: u8, pan: u8) -> Self {
        Self { channel, program, volume, pan, events: Vec::new() }
    }

    fn note(&mut self, start: u32, length: u32, key: u8, velocity: u8) {
        let key = u7::new(key);
        self.events.push((start, MidiMessage::NoteOn { key, vel: u7::new(velocity) }));
        self.events.push((start + length, MidiMessage::NoteOff { key, vel: u7::new(64) }));
    }

    fn control(&mut self, tick: u32, controller: u8, value: u8) {
        let (controller, value) = (u7::new(controller), u7::new(value));
        self.events.push((tick, MidiMessage::Controller { controller, value }));
    }

    fn into_track(mut self) -> Vec<TrackEvent<'static>> {
        let setup = [
            MidiMessage::ProgramChange { program: u7::new(self.program) },
            MidiMessage::Controller { controller: u7::new(7), value: u7::new(self.volume) },
            MidiMessage::Controller { controller: u7::new(10), value: u7::new(self.pan) },
        ];
        self.events.splice(0..0, setup.map(|message| (0, message)));
        // A key that ends where it begins again must end first.
        self.events.sort_by_key(|(tick, message)| (*tick, matches!(message, MidiMessage::NoteOn { .. })));
        let channel = u4::new(self.channel);
        timed(self.events.into_iter().map(|(tick, message)| (tick, TrackEventKind::Midi { channel, message })))
    }
}

/// Absolute ticks to deltas, with an end of track.
fn timed(events: impl Iterator<Item = (u32, TrackEventKind<'static>)>) -> Vec<TrackEvent<'static>> {
    let mut last = 0;
    let mut track: Vec<_> = events
        .map(|(tick, kind)| {
            let delta = u28::new(tick - last);
            last = tick;
            TrackEvent { delta, kind }
        })
        .collect();
    track.push(TrackEvent { delta: u28::new(0), kind: TrackEventKind::Meta(MetaMessage::EndOfTrack) });
    track
}

/// Three times through the eight bars: the rhythm alone, then the tune on a flute, then on a trumpet with everybody.
pub fn song() -> Vec<u8> {
    let eighth = QUARTER / 2;
    let mut piano = Part::new(0, 0, 96, 52);
    let mut bass = Part::new(1, 33, 104, 64);
    let mut strings = Part::new(2, 48, 74, 76);
    let mut flute = Part::new(3, 73, 100, 70);
    let mut trumpet = Part::new(4, 56, 88, 58);
    let mut bells = Part::new(5, 9, 80, 90);
    let mut guitar = Part::new(6, 25, 84, 30);
    let mut drums = Part::new(9, 0, 104, 64);

    for round in 0..3u32 {
        for (bar, (root, chord)) in (0..).zip(CHORDS) {
            let start = (round * 8 + bar) * BAR;
            for (beat, length, velocity) in [(0, 5, 84), (3, 1, 66), (4, 3, 76), (6, 3, 62)] {
                for key in chord {
                    piano.note(start + beat * eighth, length * eighth / 2, key, velocity);
                }
            }
            for (beat, key) in [(0, root), (3, root), (4, root + 7), (6, root + 12)] {
                bass.note(start + beat * eighth, eighth * 3 / 4, key - 12, 96);
            }
            if round > 0 {
                for key in chord {
                    strings.note(start, BAR - 20, key, 58);
                }
                // A swell, so that expression is heard.
                for step in 0..8 {
                    strings.control(start + step * eighth, 11, 70 + 7 * step as u8);
                }
            }
            if round == 2 {
                for (i, step) in [0, 1, 2, 1, 0, 1, 2, 1].into_iter().enumerate() {
                    guitar.note(start + i as u32 * eighth, eighth, chord[step], 70);
                }
                bells.note(start, QUARTER, chord[2] + 24, 72);
            }
            for beat in 0..8 {
                let hat = if beat == 7 && bar % 4 == 3 { 46 } else { 42 };
                drums.note(start + beat * eighth, eighth / 2, hat, if beat % 2 == 0 { 72 } else { 50 });
            }
            for (beat, key) in [(0, 36), (2, 38), (3, 36), (4, 36), (6, 38)] {
                drums.note(start + beat * eighth, eighth, key, 100);
            }
        }
        if round > 0 {
            drums.note(round * 8 * BAR, QUARTER, 49, 96);
            let (part, transpose) = if round == 1 { (&mut flute, 0) } else { (&mut trumpet, 0) };
            for (start, length, key) in TUNE {
                part.note(round * 8 * BAR + start * eighth, length * eighth - 20, key + transpose, 92);
            }
        }
    }
    drums.note(24 * BAR, QUARTER, 49, 110);
    for key in [33, 45, 57, 64, 69, 72] {
        piano.note(24 * BAR, BAR, key, 90);
    }

    let tempo = TrackEventKind::Meta(MetaMessage::Tempo(u24::new(TEMPO)));
    let mut smf = Smf::new(Header::new(Format::Parallel, Timing::Metrical(u15::new(QUARTER as u16))));
    smf.tracks.push(timed([(0, tempo)].into_iter()));
    let band = [piano, bass, strings, flute, trumpet, bells, guitar, drums];
    smf.tracks.extend(band.map(Part::into_track));
    let mut bytes = Vec::new();
    // Writing to a Vec cannot fail, and eight short tracks are within every limit of the format.
    let written = smf.write(&mut bytes);
    debug_assert!(written.is_ok());
    bytes
}

#[cfg(test)]
mod tests {
    use dmus_song::Song;

    #[test]
    fn the_bundled_song_is_a_minute_of_music_and_ends_every_note() {
        let song = Song::parse(&super::song()).expect("a good file");
        assert_eq!(song.warned(), 0);
        let seconds = song.end().as_secs_f64();
        assert!((45.0..75.0).contains(&seconds), "{seconds} s");
        let mut sounding = std::collections::BTreeSet::new();
        for message in song.messages() {
            match *message.bytes {
                [status @ 0x90..=0x9F, key, _] => {
                    assert!(sounding.insert((status & 15, key)), "{message:?} twice")
                }
                [status @ 0x80..=0x8F, key, _] => {
                    assert!(sounding.remove(&(status & 15, key)), "{message:?}")
                }
                _ => {}
            }
        }
        assert!(sounding.is_empty());
    }
}
