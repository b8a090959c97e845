//! Songs made for tests, as bytes of standard MIDI files.

/// A format 0 file of 96 ticks a quarter note (5.2 ms a tick) from (delta, message) pairs; SysEx gets its length.
pub fn file(messages: impl IntoIterator<Item = (u32, Vec<u8>)>) -> Vec<u8> {
    let mut track = Vec::new();
    for (delta, message) in messages {
        variable(&mut track, delta);
        if let [0xF0, rest @ ..] = &message[..] {
            track.push(0xF0);
            variable(&mut track, rest.len() as u32);
            track.extend(rest);
        } else {
            track.extend(message);
        }
    }
    track.extend([0, 0xFF, 0x2F, 0]);
    let mut out = Vec::from(*b"MThd\0\0\0\x06\0\0\0\x01\0\x60MTrk");
    out.extend((track.len() as u32).to_be_bytes());
    out.extend(track);
    out
}

fn variable(out: &mut Vec<u8>, value: u32) {
    for shift in [21, 14, 7] {
        if value >> shift > 0 {
            out.push((value >> shift) as u8 & 0x7F | 0x80);
        }
    }
    out.push(value as u8 & 0x7F);
}

/// A song of `notes` short notes, 48 a second, over a chord of 72 that is held: the card renders a minute of it in
/// about a second.
pub fn dense(notes: usize) -> Vec<u8> {
    let programs = [16, 19, 48, 50, 52, 89, 91, 18, 49].into_iter().zip(0..);
    let programs = programs.map(|(program, channel)| (0, vec![0xC0 | channel, program]));
    let chord = (0..72).map(|i| (0, vec![0x90 + i / 8, 36 + i % 8 * 7, 60]));
    let melody = (0..notes).flat_map(|i| {
        let (channel, key) = ((i % 9) as u8, 40 + (i % 40) as u8);
        [(2, vec![0x90 | channel, key, 90]), (2, vec![0x80 | channel, key, 0])]
    });
    file(programs.chain(chord).chain(melody))
}

/// A song of `count` events, varied but always the same: notes on many channels, controllers, bends, programs, SysEx of
/// all lengths.
pub fn busy(count: usize) -> Vec<u8> {
    let mut state = 0x2545_F491u32;
    let mut random = move |below: u32| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state % below
    };
    let message = |random: &mut dyn FnMut(u32) -> u32| {
        let channel = random(16) as u8;
        let (a, b) = (random(128) as u8, random(128) as u8);
        match random(20) {
            0 => vec![0xC0 | channel, a],
            1 => vec![0xE0 | channel, a, b],
            2..=4 => vec![0xB0 | channel, [1, 7, 10, 11, 64, 123][a as usize % 6], b],
            5 => {
                let length = [2, 5, 30, 200, 256, 257, 1000][random(7) as usize];
                let mut sysex = vec![0x7D; length];
                sysex[0] = 0xF0;
                sysex[length - 1] = 0xF7;
                sysex
            }
            6..=12 => vec![0x90 | channel, 36 + a % 60, 1 + b % 127],
            _ => vec![0x80 | channel, 36 + a % 60, b],
        }
    };
    file((0..count).map(|_| (random(2), message(&mut random))).collect::<Vec<_>>())
}

/// A format 1 file of three tracks, 480 ticks a quarter note: the first changes the tempo between the notes of the
/// others, which meet at many ticks.
pub fn tempos(notes: u32) -> Vec<u8> {
    let mut tracks = [vec![], vec![], vec![]];
    for i in 0..notes {
        let micros = 300_000 + i * 7919 % 400_000;
        variable(&mut tracks[0], 37);
        tracks[0].extend([0xFF, 0x51, 3, (micros >> 16) as u8, (micros >> 8) as u8, micros as u8]);
        for (channel, delta) in [(0, 60), (1, 45)] {
            let track = &mut tracks[1 + usize::from(channel)];
            variable(track, delta);
            track.extend([0x90 | channel, 40 + (i % 40) as u8, 1 + (i % 127) as u8]);
        }
    }
    let mut out = Vec::from(*b"MThd\0\0\0\x06\0\x01\0\x03\x01\xE0");
    for mut track in tracks {
        track.extend([10, 0xFF, 0x2F, 0]);
        out.extend(b"MTrk");
        out.extend((track.len() as u32).to_be_bytes());
        out.extend(track);
    }
    out
}
