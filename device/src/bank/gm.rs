//! The built-in General MIDI bank.
//!
//! Fed by the tables `programs` and `kit`; builds the waves, articulations and instruments of [`Bank::general_midi`].

use super::programs::{PROGRAMS, Patch};
use super::spectrum::Fourier;
use super::tone::{Tone, Zone};
use super::{Articulation, Bank, Envelope, Filter, Instrument, Lfo, Region, drums, kit};

/// How much shorter high notes ring, time cents per 128 keys: a factor of two every 22 keys.
const KEY_TO_DECAY: f32 = -7000.0;
/// Cents of cutoff per key: brightness follows the pitch less than half-way.
const KEY_TO_CUTOFF: f32 = 45.0;
/// Cents of cutoff between the softest and the hardest touch.
const VELOCITY_TO_CUTOFF: f32 = 2400.0;

pub(crate) fn build() -> Bank {
    let fourier = Fourier::new();
    let mut bank = Bank { samples: Vec::with_capacity(8 << 20), ..Bank::default() };
    let mut built: Vec<(Tone, Vec<Zone>)> = Vec::new();
    for (program, patch) in (0..).zip(&PROGRAMS) {
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
    let regions = kit::KIT.iter().map(|piece| drums::build(piece, &mut bank)).collect();
    bank.add_instrument(Instrument { bank: 0, program: 0, drum: true, regions });
    bank.samples.shrink_to_fit();
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
        let bank = Bank::general_midi();
        assert!(bank.bytes() < 16 << 20, "{} bytes", bank.bytes());
        for program in 0..128 {
            let instrument = bank.instrument(false, 0, program).expect("a program");
            for key in 0..128 {
                let hits = instrument.regions.iter().filter(|r| r.keys.0 <= key && key <= r.keys.1);
                assert_eq!(hits.count(), 1, "program {program} key {key}");
            }
        }
        let kit = bank.instrument(true, 0, 0).expect("a drum kit");
        let keys: Vec<u8> = kit.regions.iter().map(|r| r.keys.0).collect();
        assert_eq!(keys, (27..=87).collect::<Vec<u8>>());
    }

    #[test]
    fn neighbours_differ_and_the_bank_is_reproducible() {
        for pair in PROGRAMS.windows(2) {
            assert_ne!(format!("{:?}", pair[0]), format!("{:?}", pair[1]));
        }
        let (a, b) = (Bank::general_midi(), Bank::general_midi());
        assert!(a.samples() == b.samples());
    }

    #[test]
    fn waves_are_guarded_and_loops_close() {
        let bank = Bank::general_midi();
        for wave in bank.waves() {
            let s = bank.samples();
            let end = wave.start + wave.length;
            assert!(s[wave.start - super::super::GUARD..wave.start].iter().all(|&x| x == 0));
            if let Some(l) = wave.sampling.looped {
                let from = wave.start + l.start;
                assert_eq!(l.start + l.length, wave.length);
                assert_eq!(s[end..end + super::super::GUARD], s[from..from + super::super::GUARD]);
            }
        }
    }
}
