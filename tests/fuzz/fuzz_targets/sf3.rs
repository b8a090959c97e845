//! Any bytes as an Ogg Vorbis sample of a SoundFont: as many samples as it says, within a bound, whatever can be
//! decoded of them.
#![no_main]

use dmus_card::collection::Collection;
use dmus_tests::soundfont::sf3;

libfuzzer_sys::fuzz_target!(|ogg: &[u8]| {
    if let Ok(read) = Collection::read(sf3(ogg), &mut Default::default()) {
        for wave in &read.waves {
            assert!(wave.samples.len() <= 64 * ogg.len());
            assert!(wave.samples.to_vec().len() == wave.samples.len());
        }
    }
});
