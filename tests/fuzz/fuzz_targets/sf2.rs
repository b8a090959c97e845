//! Any bytes as a SoundFont bank: a valid collection, and warnings and errors that say where.
//!
//! Even inputs are the file behind its header. Odd ones are the nine tables in turn, each with the number of its
//! records before it, in chunks that are always well formed: what is tried then is what the tables say.
#![no_main]

use dmus_card::collection::{Collection, Warnings};

fn chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut bytes = [&name[..], &(content.len() as u32).to_le_bytes(), content].concat();
    bytes.resize(bytes.len() + content.len() % 2, 0);
    bytes
}

fn tables(mut input: &[u8]) -> Vec<u8> {
    let mut data = b"pdta".to_vec();
    let sizes = [38, 4, 10, 4, 22, 4, 10, 4, 46];
    let names = [b"phdr", b"pbag", b"pmod", b"pgen", b"inst", b"ibag", b"imod", b"igen", b"shdr"];
    for (name, size) in names.into_iter().zip(sizes) {
        let (&count, rest) = input.split_first().unwrap_or((&0, &[]));
        let mut table = vec![0; (usize::from(count % 32) + 1) * size];
        let length = table.len().min(rest.len());
        table[..length].copy_from_slice(&rest[..length]);
        input = &rest[length..];
        data.extend(chunk(name, &table));
    }
    let samples = [b"sdta".to_vec(), chunk(b"smpl", &[7; 600])].concat();
    [b"sfbk".to_vec(), chunk(b"LIST", &samples), chunk(b"LIST", &data)].concat()
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((mode, input)) = input.split_first() else {
        return;
    };
    let body = if mode % 2 == 0 { [b"sfbk", input].concat() } else { tables(input) };
    let file = chunk(b"RIFF", &body);
    let length = file.len();
    let mut warnings = Warnings::default();
    match Collection::read(file, &mut warnings) {
        Ok(read) => {
            assert!(warnings.first().iter().all(|w| w.error.offset <= length && !w.error.path.is_empty()));
            let regions = read.instruments.iter().flat_map(|i| &i.regions);
            let blocks = regions.map(|r| r.connections.as_ref().map_or(0, Vec::len) * 12 + 64);
            assert!(blocks.sum::<usize>() <= 8 * length + (4 << 20));
            // Waves may overlap here, and would be written out each.
            if read.waves.iter().map(|w| w.samples.len()).sum::<usize>() < 1 << 20 {
                let again = read.to_dls().expect("what is read can be written");
                let again = Collection::read(again, &mut warnings).expect("and read again");
                assert!(again.instruments == read.instruments && again.waves == read.waves);
            }
        }
        Err(error) => assert!(error.offset <= length && !error.path.is_empty()),
    }
});
