//! SoundFont files made for tests.
//!
//! Fed with samples; feeds the tests of banks, and their fuzzing, with a file.

fn chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut bytes = [&name[..], &(content.len() as u32).to_le_bytes(), content].concat();
    bytes.resize(bytes.len() + content.len() % 2, 0);
    bytes
}

fn list(kind: &[u8; 4], name: &[u8; 4], chunks: &[Vec<u8>]) -> Vec<u8> {
    chunk(kind, &[name, &chunks.concat()[..]].concat())
}

fn words(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// SoundFont 3: an Ogg Vorbis file of 44,100 Hz as the only sample, which program 0 plays at key 60 as it is.
pub fn sf3(ogg: &[u8]) -> Vec<u8> {
    let name = |text: &[u8], rest: &[u16]| {
        let mut record = text.to_vec();
        record.resize(20, 0);
        record.extend(words(rest));
        record
    };
    let tables = [
        (
            b"phdr",
            [name(b"Program", &[0, 0, 0, 0, 0, 0, 0, 0, 0]), name(b"EOP", &[0, 0, 1, 0, 0, 0, 0, 0, 0])].concat(),
        ),
        (b"pbag", words(&[0, 0, 1, 0])),
        (b"pmod", vec![0; 10]),
        // The instrument.
        (b"pgen", words(&[41, 0, 0, 0])),
        (b"inst", [name(b"Instrument", &[0]), name(b"EOI", &[1])].concat()),
        (b"ibag", words(&[0, 0, 2, 0])),
        (b"imod", vec![0; 10]),
        // A loop, and the sample.
        (b"igen", words(&[54, 1, 53, 0, 0, 0])),
        (b"shdr", [sample(ogg.len()), vec![0; 46]].concat()),
    ];
    let tables = tables.map(|(name, content)| chunk(name, &content));
    let version = chunk(b"ifil", &words(&[3, 0]));
    let lists = [
        list(b"LIST", b"INFO", &[version]),
        list(b"LIST", b"sdta", &[chunk(b"smpl", ogg)]),
        list(b"LIST", b"pdta", &tables),
    ];
    list(b"RIFF", b"sfbk", &lists)
}

/// A compressed sample that begins the pool: its place in bytes, a loop in samples, rate, key, kind.
fn sample(bytes: usize) -> Vec<u8> {
    let mut record = b"Sample".to_vec();
    record.resize(20, 0);
    for number in [0, bytes as u32, 100, 900, 44_100] {
        record.extend(number.to_le_bytes());
    }
    record.extend([60, 0, 0, 0, 0x11, 0]);
    record
}
