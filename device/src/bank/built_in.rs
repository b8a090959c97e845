//! The built-in instruments as a collection.
//!
//! Fed with a [`Draft`]; what that holds in dB, seconds and hertz becomes the fixed-point units of DLS. Levels that
//! belong to an articulation go into the wave sample of its regions, where every player looks for them.

use super::draft::{self, Articulation, Draft, Envelope};
use crate::collection::connection::{Connection, Destination, PITCH_OF_440_HZ, Source, Transform};
use crate::collection::{Collection, Info, Instrument, Loop, LoopKind, Region, Samples, Sampling, Wave};
use std::sync::Arc;

/// General MIDI's names of its programs.
const PROGRAMS: &str = "Acoustic Grand Piano,Bright Acoustic Piano,Electric Grand Piano,Honky-tonk Piano,\
    Electric Piano 1,Electric Piano 2,\
    Harpsichord,Clavi,Celesta,Glockenspiel,Music Box,Vibraphone,Marimba,Xylophone,Tubular Bells,Dulcimer,\
    Drawbar Organ,Percussive Organ,\
    Rock Organ,Church Organ,Reed Organ,Accordion,Harmonica,Tango Accordion,Acoustic Guitar (nylon),\
    Acoustic Guitar (steel),\
    Electric Guitar (jazz),Electric Guitar (clean),Electric Guitar (muted),Overdriven Guitar,Distortion Guitar,\
    Guitar Harmonics,\
    Acoustic Bass,Electric Bass (finger),Electric Bass (pick),Fretless Bass,Slap Bass 1,Slap Bass 2,Synth Bass 1,\
    Synth Bass 2,Violin,Viola,\
    Cello,Contrabass,Tremolo Strings,Pizzicato Strings,Orchestral Harp,Timpani,String Ensemble 1,String Ensemble 2,\
    SynthStrings 1,\
    SynthStrings 2,Choir Aahs,Voice Oohs,Synth Voice,Orchestra Hit,Trumpet,Trombone,Tuba,Muted Trumpet,French Horn,\
    Brass Section,\
    SynthBrass 1,SynthBrass 2,Soprano Sax,Alto Sax,Tenor Sax,Baritone Sax,Oboe,English Horn,Bassoon,Clarinet,Piccolo,\
    Flute,Recorder,\
    Pan Flute,Blown Bottle,Shakuhachi,Whistle,Ocarina,Lead 1 (square),Lead 2 (sawtooth),Lead 3 (calliope),\
    Lead 4 (chiff),\
    Lead 5 (charang),Lead 6 (voice),Lead 7 (fifths),Lead 8 (bass + lead),Pad 1 (new age),Pad 2 (warm),\
    Pad 3 (polysynth),Pad 4 (choir),\
    Pad 5 (bowed),Pad 6 (metallic),Pad 7 (halo),Pad 8 (sweep),FX 1 (rain),FX 2 (soundtrack),FX 3 (crystal),\
    FX 4 (atmosphere),\
    FX 5 (brightness),FX 6 (goblins),FX 7 (echoes),FX 8 (sci-fi),Sitar,Banjo,Shamisen,Koto,Kalimba,Bagpipe,Fiddle,\
    Shanai,Tinkle Bell,Agogo,\
    Steel Drums,Woodblock,Taiko Drum,Melodic Tom,Synth Drum,Reverse Cymbal,Guitar Fret Noise,Breath Noise,Seashore,\
    Bird Tweet,\
    Telephone Ring,Helicopter,Applause,Gunshot";

impl From<&Draft> for Collection {
    fn from(bank: &Draft) -> Self {
        let pool = Samples::new(Arc::from(bank.samples()));
        let wave = |(number, wave): (usize, &draft::Wave)| Wave {
            id: None,
            info: Info::named(&format!("Wave {number}")),
            rate: wave.rate,
            // A bank's waves lie in its samples.
            samples: pool.part(wave.start..wave.start + wave.length).unwrap_or(Samples::new([0])),
            sampling: Some(sampling(&wave.sampling, 0.0)),
        };
        let waves = bank.waves().iter().enumerate().map(wave).collect();
        let instruments = bank.instruments().iter().map(|i| instrument(i, bank)).collect();
        Self { id: None, version: Some((0x0001_0000, 0)), info: Info::named("General MIDI"), instruments, waves }
    }
}

fn instrument(from: &draft::Instrument, bank: &Draft) -> Instrument {
    let name = match from.drum {
        true => "Standard Kit",
        false => PROGRAMS.split(',').nth(from.program.into()).unwrap_or(""),
    };
    let (mut regions, mut shared) = (Vec::new(), None);
    for region in &from.regions {
        let articulation = bank.articulations().get(region.articulation).unwrap_or(&Articulation::DEFAULT);
        let blocks = connections(articulation);
        let shared = shared.get_or_insert_with(|| blocks.clone());
        // A tremolo only lowers the level here, and swings about it in DLS: its middle lies lower.
        let level = articulation.gain - articulation.tremolo.gain.abs();
        // Said in each region although most waves say the same: there are readers that never look at the wave's.
        let own = region.sampling.or_else(|| Some(bank.waves().get(region.wave)?.sampling));
        let sampling = own.map(|own| sampling(&own, level));
        regions.push(Region {
            keys: region.keys,
            velocities: region.velocities,
            self_exclusive: region.self_exclusive,
            key_group: region.key_group,
            sampling,
            connections: (*shared != blocks).then_some(blocks),
            ..Region::of(region.wave)
        });
    }
    Instrument {
        id: None,
        info: Info::named(name),
        bank: from.bank,
        program: from.program,
        drum: from.drum,
        regions,
        connections: shared.unwrap_or_default(),
    }
}

fn sampling(from: &draft::Sampling, level: f32) -> Sampling {
    let kind = |l: &draft::Loop| if l.until_release { LoopKind::Release } else { LoopKind::Forward };
    Sampling {
        unity_note: from.unity_key,
        fine_tune: from.fine_tune,
        gain: fixed(f64::from(from.gain + level) * 10.0),
        // A bank's waves are shorter than 2^32 samples.
        looped: from.looped.map(|l| Loop { kind: kind(&l), start: l.start as u32, length: l.length as u32 }),
        ..Sampling::DEFAULT
    }
}

/// In 1/65536.
fn fixed(value: f64) -> i32 {
    libm::round(value * 65_536.0) as i32
}

/// Seconds as time cents.
fn time(seconds: f32) -> i32 {
    fixed(1200.0 * libm::log2(f64::from(seconds)))
}

/// Hertz as absolute pitch cents.
fn pitch(hz: f32) -> i32 {
    PITCH_OF_440_HZ.saturating_add(fixed(1200.0 * libm::log2(f64::from(hz) / 440.0)))
}

fn connections(a: &Articulation) -> Vec<Connection> {
    use Destination as D;
    let mut blocks = Vec::new();
    let mut constant = |destination, scale| blocks.push(Connection::constant(destination, scale));
    for (eg, range, names) in [
        (&a.amplitude, 96.0, [D::EG1_DELAY, D::EG1_ATTACK, D::EG1_HOLD, D::EG1_DECAY, D::EG1_RELEASE, D::EG1_SUSTAIN]),
        (
            &a.modulation,
            100.0,
            [D::EG2_DELAY, D::EG2_ATTACK, D::EG2_HOLD, D::EG2_DECAY, D::EG2_RELEASE, D::EG2_SUSTAIN],
        ),
    ] {
        let Envelope { delay, attack, hold, decay, sustain, release, .. } = *eg;
        for (seconds, name) in [delay, attack, hold, decay, release].into_iter().zip(names) {
            // No time at all is the default.
            if seconds > 0.0 {
                constant(name, time(seconds));
            }
        }
        if sustain > 0.0 {
            constant(names[5], fixed(1000.0 * (1.0 - f64::from(sustain) / range)));
        }
    }
    for (lfo, frequency, delay) in
        [(&a.tremolo, D::LFO_FREQUENCY, D::LFO_DELAY), (&a.vibrato, D::VIBRATO_FREQUENCY, D::VIBRATO_DELAY)]
    {
        if lfo.pitch != 0.0 || lfo.wheel_pitch != 0.0 || lfo.gain != 0.0 {
            constant(frequency, pitch(lfo.rate));
            constant(delay, if lfo.delay > 0.0 { time(lfo.delay) } else { i32::MIN });
        }
    }
    if a.pan != 0.0 {
        constant(D::PAN, fixed(f64::from(a.pan) * 10.0));
    }
    if let Some(filter) = a.filter {
        // The bank counts keys from middle C.
        constant(D::CUTOFF, fixed(f64::from(filter.cutoff) - 60.0 * f64::from(filter.key)));
        constant(D::RESONANCE, fixed(f64::from(filter.resonance) * 10.0));
    }

    let mut from = |source, control, destination, transform, value: f32, range: f64| {
        if value != 0.0 {
            let scale = fixed(f64::from(value) * range);
            blocks.push(Connection::from(source, destination, transform, scale).controlled(control));
        }
    };
    let wheel = Source::controller(1);
    let (none, bipolar) = (Transform::NONE, Transform::BIPOLAR);
    from(Source::VELOCITY, Source::NONE, D::EG1_ATTACK, none, a.amplitude.velocity_to_attack, 1.0);
    from(Source::KEY, Source::NONE, D::EG1_DECAY, none, a.amplitude.key_to_decay, 1.0);
    from(Source::VELOCITY, Source::NONE, D::EG2_ATTACK, none, a.modulation.velocity_to_attack, 1.0);
    from(Source::KEY, Source::NONE, D::EG2_DECAY, none, a.modulation.key_to_decay, 1.0);
    for (source, lfo) in [(Source::LFO, &a.tremolo), (Source::VIBRATO, &a.vibrato)] {
        from(source, Source::NONE, D::PITCH, bipolar, lfo.pitch, 1.0);
        from(source, wheel, D::PITCH, bipolar, lfo.wheel_pitch, 1.0);
    }
    from(Source::LFO, Source::NONE, D::GAIN, bipolar, a.tremolo.gain, 10.0);
    from(Source::EG2, Source::NONE, D::PITCH, none, a.modulation_pitch, 1.0);
    if let Some(filter) = a.filter {
        from(Source::EG2, Source::NONE, D::CUTOFF, none, filter.envelope, 1.0);
        // Full velocity is 127 there and would be 128 here; keys are 128 of the whole.
        from(Source::VELOCITY, Source::NONE, D::CUTOFF, none, filter.velocity, 128.0 / 127.0);
        from(Source::KEY, Source::NONE, D::CUTOFF, none, filter.key, 128.0);
    }
    // Away from 100 cents a key the scale turns about the unity note, which the regions know; the bank has no such
    // instrument.
    if a.key_pitch != 100.0 {
        from(Source::KEY, Source::NONE, D::PITCH, none, a.key_pitch, 128.0);
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::super::Wanted;
    use super::*;

    #[test]
    fn the_built_in_bank_survives_a_file() {
        let bank = Draft::general_midi(&Wanted::ALL);
        let collection = Collection::from(&bank);
        let file = collection.to_dls().expect("a file");
        let read = Collection::read(file, &mut Default::default()).expect("a collection");
        assert!(read == collection);
        assert_eq!((read.instruments.len(), read.waves.len()), (129, bank.waves().len()));
        for (wave, original) in read.waves.iter().zip(bank.waves()) {
            assert!(wave.samples.to_vec()[..] == bank.samples()[original.start..original.start + original.length]);
        }
    }

    /// What all of an articulation's blocks with these ends add up to.
    fn sum(blocks: &[Connection], source: Source, destination: Destination) -> f64 {
        let found = blocks.iter().filter(|b| b.source == source && b.destination == destination);
        found.map(|b| f64::from(b.scale) / 65_536.0).sum()
    }

    #[test]
    fn built_in_sounds_keep_their_times_levels_and_pitches() {
        let bank = Draft::general_midi(&Wanted::ALL);
        let collection = Collection::from(&bank);
        for (instrument, original) in collection.instruments.iter().zip(bank.instruments()) {
            for (region, was) in instrument.regions.iter().zip(&original.regions) {
                let (blocks, a) = (instrument.articulation(region), bank.articulations()[was.articulation]);
                let seconds = |name| libm::exp2(sum(blocks, Source::NONE, name) / 1200.0);
                let near = |is: f64, should: f32| {
                    assert!((is - f64::from(should)).abs() < 1e-4 * f64::from(should).abs().max(1.0), "{is} {should}")
                };
                if a.amplitude.decay > 0.0 {
                    near(seconds(Destination::EG1_DECAY), a.amplitude.decay);
                }
                near(seconds(Destination::EG1_RELEASE), a.amplitude.release);
                if a.amplitude.sustain > 0.0 {
                    near(
                        96.0 * (1.0 - sum(blocks, Source::NONE, Destination::EG1_SUSTAIN) / 1000.0),
                        a.amplitude.sustain,
                    );
                }
                let wave = &collection.waves[region.link.wave];
                let played = region.sampling.or(wave.sampling).unwrap_or(Sampling::DEFAULT);
                let level = bank.waves()[was.wave].sampling.gain + a.gain - a.tremolo.gain.abs();
                near(f64::from(played.gain) / 655_360.0, level);
                if let Some(filter) = a.filter {
                    // At middle C and full velocity.
                    let cutoff = sum(blocks, Source::NONE, Destination::CUTOFF)
                        + sum(blocks, Source::KEY, Destination::CUTOFF) * 60.0 / 128.0
                        + sum(blocks, Source::VELOCITY, Destination::CUTOFF) * 127.0 / 128.0;
                    near(cutoff, filter.cutoff + filter.velocity);
                }
                near(sum(blocks, Source::NONE, Destination::PAN), a.pan * 10.0);
                let filter = a.filter.unwrap_or(draft::Filter {
                    cutoff: 0.0,
                    resonance: 0.0,
                    velocity: 0.0,
                    key: 0.0,
                    envelope: 0.0,
                });
                for (source, destination, should) in [
                    (Source::EG2, Destination::PITCH, a.modulation_pitch),
                    (Source::EG2, Destination::CUTOFF, filter.envelope),
                    (Source::NONE, Destination::RESONANCE, filter.resonance * 10.0),
                    (Source::LFO, Destination::GAIN, a.tremolo.gain * 10.0),
                    (Source::VIBRATO, Destination::PITCH, a.vibrato.pitch + a.vibrato.wheel_pitch),
                    (Source::KEY, Destination::EG1_DECAY, a.amplitude.key_to_decay),
                    (Source::KEY, Destination::CUTOFF, filter.key * 128.0),
                ] {
                    near(sum(blocks, source, destination), should);
                }
                for (times, names) in [
                    (a.amplitude.attack, Destination::EG1_ATTACK),
                    (a.modulation.attack, Destination::EG2_ATTACK),
                    (a.modulation.decay, Destination::EG2_DECAY),
                    (a.modulation.release, Destination::EG2_RELEASE),
                ] {
                    if times > 0.0 {
                        near(seconds(names), times);
                    }
                }
                let hertz = |name| 440.0 * libm::exp2((sum(blocks, Source::NONE, name) - 6900.0) / 1200.0);
                if a.vibrato.wheel_pitch != 0.0 {
                    near(hertz(Destination::VIBRATO_FREQUENCY), a.vibrato.rate);
                }
                if a.tremolo.gain != 0.0 {
                    near(hertz(Destination::LFO_FREQUENCY), a.tremolo.rate);
                }
            }
        }
    }
}
