//! Scenes of one kind of voice each, for any engine: a SoundFont of one preset, and 64 notes that are held.
//!
//! Feeds `main`, beside the song. What the song has a bit of, a scene has only: so a row says which kind got slower.

use dmus_tests::songs;

/// Notes of a scene: as many channels as keys.
const CHANNELS: u8 = 8;
pub(crate) const VOICES: f64 = 64.0;
/// Of the wave, which is played as it is at key 60.
const SAMPLES: usize = 1 << 16;
const LOOP: [u32; 2] = [1_000, 65_000];

/// Generators of SoundFont 2.04.
const CHORUS_SEND: u16 = 15;
const REVERB_SEND: u16 = 16;
const CUTOFF: u16 = 8;
const RESONANCE: u16 = 9;
const INSTRUMENT: u16 = 41;
const SAMPLE: u16 = 53;
const LOOPED: u16 = 54;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    /// Of its only zone, besides the sample.
    generators: &'static [(u16, i16)],
    /// The lowest of its keys, and how far they are apart.
    keys: (u8, u8),
    /// Reverb and chorus are on.
    pub(crate) effects: bool,
}

pub(crate) const SCENES: [Scene; 5] = [
    Scene { name: "dry", generators: &[], keys: (45, 2), effects: false },
    Scene { name: "filtered", generators: &[(CUTOFF, 8_000), (RESONANCE, 60)], keys: (45, 2), effects: false },
    Scene { name: "sending", generators: &[(CHORUS_SEND, 200), (REVERB_SEND, 300)], keys: (45, 2), effects: true },
    // Steps of 0.25 to 2.5, and of 2.7 to 8.
    Scene { name: "steps-to-2.5", generators: &[], keys: (36, 5), effects: false },
    Scene { name: "steps-beyond", generators: &[], keys: (77, 2), effects: false },
];

impl Scene {
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        SCENES.into_iter().find(|scene| scene.name == name)
    }

    /// All notes at the beginning, and something at the end.
    pub(crate) fn song(&self, seconds: u64) -> Vec<u8> {
        let (lowest, apart) = self.keys;
        let notes =
            (0..CHANNELS).flat_map(|channel| (0..8).map(move |i| (0, vec![0x90 | channel, lowest + apart * i, 80])));
        let until_end = (0..192 * seconds).map(|_| (1, vec![0xBF, 3, 0]));
        songs::file(notes.chain(until_end))
    }

    /// Its SoundFont.
    pub(crate) fn bank(&self) -> Vec<u8> {
        let zone = [self.generators, &[(LOOPED, 1), (SAMPLE, 0)]].concat();
        let (preset_bags, preset_generators) = zones(&[(INSTRUMENT, 0)]);
        let (instrument_bags, instrument_generators) = zones(&zone);
        let preset = |first| [name("Scene"), words(&[0, 0, first]), vec![0; 12]].concat();
        let instrument = |first| [name("Scene"), words(&[first])].concat();
        let places = [0, SAMPLES as u32, LOOP[0], LOOP[1], 48_000].map(u32::to_le_bytes).concat();
        let sample = [name("Wave"), places, vec![60, 0], words(&[0, 1])].concat();
        let data = [
            chunk(b"phdr", &[preset(0), preset(1)].concat()),
            chunk(b"pbag", &preset_bags),
            chunk(b"pmod", &[0; 10]),
            chunk(b"pgen", &preset_generators),
            chunk(b"inst", &[instrument(0), instrument(1)].concat()),
            chunk(b"ibag", &instrument_bags),
            chunk(b"imod", &[0; 10]),
            chunk(b"igen", &instrument_generators),
            chunk(b"shdr", &[sample, vec![0; 46]].concat()),
        ];
        let info = [chunk(b"ifil", &words(&[2, 4])), chunk(b"isng", b"EMU8000\0"), chunk(b"INAM", b"Scene\0")];
        let parts = [list(b"INFO", &info), list(b"sdta", &[chunk(b"smpl", &wave())]), list(b"pdta", &data)];
        chunk(b"RIFF", &[&b"sfbk"[..], &parts.concat()].concat())
    }
}

/// A tone with overtones, and the silence behind it that the format wants.
fn wave() -> Vec<u8> {
    let sample = |at: usize| {
        let turn = at as f64 * (std::f64::consts::TAU / 200.0);
        let sum: f64 = (1..=9).map(|overtone| (turn * f64::from(overtone)).sin() / f64::from(overtone)).sum();
        (sum * 12_000.0) as i16
    };
    (0..SAMPLES).map(sample).chain([0; 46]).flat_map(i16::to_le_bytes).collect()
}

/// Bags and generators of one zone.
fn zones(generators: &[(u16, i16)]) -> (Vec<u8>, Vec<u8>) {
    let bags = words(&[0, 0, generators.len() as u16, 0]);
    let mut all: Vec<u8> = generators.iter().flat_map(|(number, amount)| words(&[*number, *amount as u16])).collect();
    all.extend([0; 4]);
    (bags, all)
}

fn words(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn name(text: &str) -> Vec<u8> {
    let mut name = text.as_bytes().to_vec();
    name.resize(20, 0);
    name
}

fn chunk(id: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let pad = vec![0; body.len() % 2];
    [&id[..], &(body.len() as u32).to_le_bytes(), body, &pad].concat()
}

fn list(kind: &[u8; 4], chunks: &[Vec<u8>]) -> Vec<u8> {
    chunk(b"LIST", &[&kind[..], &chunks.concat()].concat())
}
