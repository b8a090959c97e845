//! The built-in General MIDI bank.
//!
//! Fed by the tables `programs` and `kit`; builds the waves, articulations and instruments of [`Draft::general_midi`].

use super::draft::{Articulation, Draft, Envelope, Filter, Instrument, Lfo, Region};
use super::programs::{PROGRAMS, Patch};
use super::spectrum::Fourier;
use super::tone::{Tone, Zone};
use super::{Wanted, drums, kit};

/// How much shorter high notes ring, time cents per 128 keys: a factor of two every 22 keys.
const KEY_TO_DECAY: f32 = -7000.0;
/// Cents of cutoff per key: brightness follows the pitch less than half-way.
const KEY_TO_CUTOFF: f32 = 45.0;
/// Cents of cutoff between the softest and the hardest touch.
const VELOCITY_TO_CUTOFF: f32 = 2400.0;

pub(crate) fn build(wanted: &Wanted) -> Draft {
    let fourier = Fourier::new();
    let mut bank = Draft::default();
    let mut built: Vec<(Tone, Vec<Zone>)> = Vec::new();
    for (program, patch) in (0..).zip(&PROGRAMS).filter(|(program, _)| wanted.has_program(*program)) {
        let articulation = bank.add_articulation(articulation(patch));
        let zones = match built.iter().find(|(tone, _)| *tone == patch.tone) {
            Some((_, zones)) => zones.clone(),
            None => {
                let zones = patch.tone.build(&mut bank, &fourier);
                built.push((patch.tone, zones.clone()));
                zones
            }
        };
        let region = |zone: Zone| Region {
            keys: zone.keys,
            velocities: (0, 127),
            wave: zone.wave,
            articulation,
            key_group: 0,
            self_exclusive: false,
            sampling: None,
        };
        let regions = zones.into_iter().map(region).collect();
        bank.add_instrument(Instrument { bank: 0, program, drum: false, regions });
    }
    if !wanted.has_drums() {
        return bank;
    }
    let pieces = kit::KIT.iter().filter(|piece| wanted.has_keys((piece.key, piece.key)));
    let regions = pieces.map(|piece| drums::build(piece, &mut bank)).collect();
    bank.add_instrument(Instrument { bank: 0, program: 0, drum: true, regions });
    bank
}

/// Absolute pitch cents of a frequency.
fn pitch_cents(hz: f32) -> f32 {
    6900.0 + 1200.0 * libm::log2f(hz / 440.0)
}

fn articulation(patch: &Patch) -> Articulation {
    // The table gives the decay at middle C; DLS counts from key 0.
    let decay = patch.decay * libm::exp2f(-KEY_TO_DECAY * 60.0 / 128.0 / 1200.0);
    let filter = Filter {
        cutoff: pitch_cents(patch.cutoff.max(20.0)) - VELOCITY_TO_CUTOFF,
        resonance: patch.resonance,
        velocity: VELOCITY_TO_CUTOFF,
        key: KEY_TO_CUTOFF,
        envelope: patch.sweep.0,
    };
    let (rate, delay, pitch) = patch.vibrato;
    Articulation {
        amplitude: Envelope {
            attack: patch.attack,
            decay,
            sustain: patch.sustain,
            release: patch.release,
            key_to_decay: KEY_TO_DECAY,
            ..Envelope::GATE
        },
        modulation: Envelope {
            attack: patch.swell,
            decay: patch.sweep.1,
            sustain: 100.0,
            release: patch.sweep.1,
            ..Envelope::GATE
        },
        modulation_pitch: patch.bend,
        vibrato: Lfo { rate, delay, pitch, ..Lfo::WHEEL },
        tremolo: Lfo { rate: patch.tremolo.0, gain: patch.tremolo.1, ..Lfo::OFF },
        filter: (patch.cutoff > 0.0).then_some(filter),
        gain: patch.level,
        ..Articulation::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_every_program_has_one_wave_near_its_pitch() {
        let bank = Draft::general_midi(&Wanted::ALL);
        assert!(bank.samples().len() < 8 << 20, "{} samples", bank.samples().len());
        let find = |drum, program| bank.instruments().iter().find(|i| (i.drum, i.program) == (drum, program));
        for program in 0..128 {
            let instrument = find(false, program).expect("a program");
            for key in 0..128 {
                let hits = instrument.regions.iter().filter(|r| r.keys.0 <= key && key <= r.keys.1);
                assert_eq!(hits.count(), 1, "program {program} key {key}");
            }
        }
        let kit = find(true, 0).expect("a drum kit");
        let keys: Vec<u8> = kit.regions.iter().map(|r| r.keys.0).collect();
        assert_eq!(keys, (27..=87).collect::<Vec<u8>>());
    }

    #[test]
    fn neighbours_differ_and_the_bank_is_reproducible() {
        for pair in PROGRAMS.windows(2) {
            assert_ne!(format!("{:?}", pair[0]), format!("{:?}", pair[1]));
        }
        let (a, b) = (Draft::general_midi(&Wanted::ALL), Draft::general_midi(&Wanted::ALL));
        assert!(a.samples() == b.samples());
    }

    #[test]
    fn plain_loops_end_their_waves() {
        let bank = Draft::general_midi(&Wanted::ALL);
        for wave in bank.waves() {
            assert!(wave.start + wave.length <= bank.samples().len());
            if let Some(l) = wave.sampling.looped.filter(|l| !l.until_release) {
                assert_eq!(l.start + l.length, wave.length);
            }
        }
    }
}
