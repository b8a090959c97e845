//! The General MIDI drum kit with its GM2 neighbours: keys 27 to 87.
//!
//! Fed by nothing; `gm` builds the rows with `drums`.

use super::drums::Drum;

const NONE: Drum = Drum {
    key: 0,
    length: 0.4,
    level: 0.0,
    pan: 0.0,
    group: 0,
    skin: (0.0, 0.0, 0.0, 0.0, 0.0),
    ring: (0.0, &[], 0.0, 0.0),
    noise: (0.0, 0.0, 0.0, 0.0),
    metal: (0.0, 0.0, 0.0),
    bursts: (1, 0.0),
    rise: 0.0,
};
/// Membrane modes of a snare or tom above the sliding one.
const DRUMHEAD: &[f32] = &[1.59, 2.14, 2.65];
const BAR: &[f32] = &[1.0, 2.76, 5.4];
const BELL: &[f32] = &[1.0, 1.48, 2.57, 4.1, 5.9];
const WOOD: &[f32] = &[1.0, 1.72, 2.6];
const TOM: Drum = Drum { length: 0.9, level: 1.5, noise: (200.0, 2500.0, 0.025, 0.5), ..NONE };
const HAT: Drum = Drum { level: -4.0, pan: 12.0, group: 1, metal: (3200.0, 0.03, 1.0), ..NONE };
const CRASH: Drum =
    Drum { length: 2.0, level: 0.0, metal: (600.0, 0.9, 1.0), noise: (2500.0, 12_000.0, 0.35, 1.2), ..NONE };
const RIDE: Drum = Drum {
    length: 1.4,
    level: -3.0,
    pan: -18.0,
    metal: (900.0, 0.7, 0.6),
    noise: (5000.0, 12_000.0, 0.02, 0.9),
    ..NONE
};
const BONGO: Drum = Drum { length: 0.5, pan: 16.0, noise: (400.0, 4000.0, 0.008, 0.7), ..NONE };

/// The kit, by key.
// One line a piece reads as the table that it is.
#[rustfmt::skip]
pub(crate) static KIT: [Drum; 61] = [
    // 27..34: high Q, slap, scratch push and pull, sticks, square click, metronome click and bell.
    Drum { key: 27, length: 0.25, level: -2.0, skin: (2800.0, 300.0, 0.02, 0.05, 1.0), ..NONE },
    Drum { key: 28, length: 0.3, noise: (700.0, 5000.0, 0.04, 1.0), bursts: (2, 0.012), ..NONE },
    Drum { key: 29, length: 0.2, level: -2.0, noise: (900.0, 6000.0, 0.06, 1.0), rise: 0.06, ..NONE },
    Drum { key: 30, length: 0.2, level: -2.0, noise: (500.0, 3500.0, 0.05, 1.0), rise: 0.03, ..NONE },
    Drum { key: 31, length: 0.15, level: 1.0, ring: (1900.0, WOOD, 0.012, 1.0), ..NONE },
    Drum { key: 32, length: 0.06, level: 1.0, ring: (2400.0, &[1.0, 3.0, 5.0], 0.006, 1.0), ..NONE },
    Drum { key: 33, length: 0.08, level: 1.0, ring: (1500.0, &[1.0, 2.1], 0.009, 1.0), ..NONE },
    Drum { key: 34, length: 0.7, level: -2.0, ring: (2350.0, BAR, 0.12, 1.0), ..NONE },
    // 35..40: kicks, side stick, snare, clap, electric snare.
    Drum { key: 35, length: 0.6, level: 4.0, skin: (130.0, 46.0, 0.035, 0.16, 1.0), noise: (100.0, 1800.0, 0.008, 0.7),
        ..NONE },
    Drum { key: 36, length: 0.5, level: 4.0, skin: (190.0, 54.0, 0.025, 0.12, 1.0), noise: (300.0, 4500.0, 0.006, 0.9),
        ..NONE },
    Drum { key: 37, length: 0.2, level: 2.0, pan: -6.0, ring: (520.0, &[1.0, 3.25, 4.7], 0.016, 1.0), noise: (1500.0,
        8000.0, 0.004, 0.8), ..NONE },
    Drum { key: 38, length: 0.5, level: 4.0, skin: (260.0, 185.0, 0.02, 0.07, 0.8), ring: (190.0, DRUMHEAD, 0.05,
        0.35), noise: (1100.0, 9000.0, 0.085, 1.5), ..NONE },
    Drum { key: 39, length: 0.5, level: 2.0, pan: -8.0, noise: (800.0, 4500.0, 0.09, 1.0), bursts: (4, 0.011), ..NONE },
    Drum { key: 40, length: 0.45, level: 4.0, skin: (340.0, 220.0, 0.012, 0.05, 0.8), noise: (700.0, 11_000.0, 0.11,
        1.6), ..NONE },
    // 41..53: toms, hats, crash 1, ride 1, china, ride bell.
    Drum { key: 41, pan: 22.0, skin: (125.0, 78.0, 0.06, 0.24, 1.0), ring: (80.0, DRUMHEAD, 0.08, 0.25), ..TOM },
    Drum { key: 42, length: 0.25, level: 0.0, metal: (3200.0, 0.045, 1.0), noise: (6500.0, 15_000.0, 0.035, 1.6),
        ..HAT },
    Drum { key: 43, pan: 14.0, skin: (150.0, 95.0, 0.06, 0.22, 1.0), ring: (97.0, DRUMHEAD, 0.08, 0.25), ..TOM },
    Drum { key: 44, length: 0.2, level: -1.0, noise: (4500.0, 11_000.0, 0.03, 1.4), rise: 0.004, ..HAT },
    Drum { key: 45, pan: 6.0, skin: (180.0, 115.0, 0.05, 0.2, 1.0), ring: (118.0, DRUMHEAD, 0.07, 0.25), ..TOM },
    Drum { key: 46, length: 1.1, metal: (3200.0, 0.3, 1.0), noise: (6000.0, 15_000.0, 0.22, 1.2), ..HAT },
    Drum { key: 47, pan: -4.0, skin: (215.0, 140.0, 0.05, 0.18, 1.0), ring: (143.0, DRUMHEAD, 0.07, 0.25), ..TOM },
    Drum { key: 48, pan: -12.0, skin: (255.0, 168.0, 0.045, 0.17, 1.0), ring: (172.0, DRUMHEAD, 0.06, 0.25), ..TOM },
    Drum { key: 49, pan: 18.0, ..CRASH },
    Drum { key: 50, pan: -20.0, skin: (300.0, 200.0, 0.04, 0.16, 1.0), ring: (205.0, DRUMHEAD, 0.06, 0.25), ..TOM },
    Drum { key: 51, ..RIDE },
    Drum { key: 52, length: 1.4, pan: 22.0, metal: (450.0, 0.5, 1.0), noise: (1200.0, 10_000.0, 0.28, 1.6), ..CRASH },
    Drum { key: 53, ring: (780.0, &[1.0, 1.5, 2.66, 4.07, 5.6], 0.5, 0.5), ..RIDE },
    // 54..59: tambourine, splash, cowbell, crash 2, vibraslap, ride 2.
    Drum { key: 54, length: 0.4, level: -3.0, pan: -14.0, metal: (5500.0, 0.09, 0.8), noise: (6000.0, 14_000.0, 0.05,
        1.0), bursts: (2, 0.025), ..NONE },
    Drum { key: 55, length: 0.9, pan: 8.0, metal: (1400.0, 0.28, 1.0), noise: (4000.0, 14_000.0, 0.16, 1.3), ..CRASH },
    Drum { key: 56, length: 0.4, pan: 12.0, ring: (560.0, &[1.0, 1.51, 2.6, 3.9], 0.07, 1.0), ..NONE },
    Drum { key: 57, length: 1.8, pan: -18.0, metal: (750.0, 0.8, 1.0), noise: (3000.0, 13_000.0, 0.3, 1.2), ..CRASH },
    Drum { key: 58, length: 0.9, level: -2.0, pan: -16.0, ring: (2100.0, WOOD, 0.05, 0.2), noise: (1500.0, 6000.0,
        0.12, 1.0), bursts: (18, 0.028), ..NONE },
    Drum { key: 59, metal: (1100.0, 0.6, 0.7), pan: -24.0, ..RIDE },
    // 60..71: bongos, congas, timbales, agogos, cabasa, maracas, short whistle.
    Drum { key: 60, skin: (440.0, 390.0, 0.02, 0.06, 1.0), ..BONGO },
    Drum { key: 61, skin: (310.0, 270.0, 0.02, 0.08, 1.0), ..BONGO },
    Drum { key: 62, length: 0.3, pan: -14.0, skin: (360.0, 330.0, 0.01, 0.035, 1.0), noise: (700.0, 5000.0, 0.01, 1.2),
        ..BONGO },
    Drum { key: 63, pan: -14.0, skin: (350.0, 300.0, 0.03, 0.15, 1.0), ..BONGO },
    Drum { key: 64, length: 0.7, pan: -14.0, skin: (240.0, 200.0, 0.03, 0.19, 1.0), ..BONGO },
    Drum { key: 65, length: 0.6, pan: 18.0, skin: (520.0, 460.0, 0.02, 0.1, 0.8), ring: (470.0, DRUMHEAD, 0.12, 0.6),
        ..BONGO },
    Drum { key: 66, length: 0.7, pan: 18.0, skin: (380.0, 330.0, 0.02, 0.12, 0.8), ring: (335.0, DRUMHEAD, 0.14, 0.6),
        ..BONGO },
    Drum { key: 67, length: 0.6, level: -2.0, pan: -22.0, ring: (1150.0, BELL, 0.11, 1.0), ..NONE },
    Drum { key: 68, length: 0.6, level: -2.0, pan: -22.0, ring: (790.0, BELL, 0.13, 1.0), ..NONE },
    Drum { key: 69, length: 0.25, level: -3.0, pan: -20.0, noise: (5000.0, 12_000.0, 0.05, 1.0), rise: 0.03, ..NONE },
    Drum { key: 70, length: 0.15, level: -3.0, pan: -10.0, noise: (4000.0, 10_000.0, 0.025, 1.0), rise: 0.008, ..NONE },
    Drum { key: 71, length: 0.3, level: -4.0, pan: 14.0, skin: (2350.0, 2300.0, 0.03, 0.12, 1.0), noise: (2000.0,
        4000.0, 0.1, 0.25), ..NONE },
    // 72..81: long whistle, guiros, claves, wood blocks, cuicas, triangles.
    Drum { key: 72, length: 0.9, level: -4.0, pan: 14.0, skin: (2250.0, 2300.0, 0.05, 0.6, 1.0), noise: (2000.0,
        4000.0, 0.5, 0.25), ..NONE },
    Drum { key: 73, length: 0.25, level: -2.0, pan: 20.0, noise: (1800.0, 7000.0, 0.03, 1.0), bursts: (8, 0.011),
        rise: 0.002, ..NONE },
    Drum { key: 74, length: 0.6, level: -2.0, pan: 20.0, noise: (1500.0, 6500.0, 0.05, 1.0), bursts: (24, 0.017),
        rise: 0.003, ..NONE },
    Drum { key: 75, length: 0.25, pan: 6.0, ring: (2480.0, &[1.0, 2.9], 0.03, 1.0), ..NONE },
    Drum { key: 76, length: 0.25, pan: 16.0, ring: (1050.0, WOOD, 0.025, 1.0), ..NONE },
    Drum { key: 77, length: 0.25, pan: 16.0, ring: (740.0, WOOD, 0.03, 1.0), ..NONE },
    Drum { key: 78, length: 0.3, pan: -16.0, skin: (620.0, 900.0, 0.05, 0.08, 1.0), ..NONE },
    Drum { key: 79, length: 0.5, pan: -16.0, skin: (780.0, 380.0, 0.09, 0.14, 1.0), ..NONE },
    Drum { key: 80, length: 0.3, level: -4.0, pan: -20.0, group: 2, ring: (2640.0, &[1.0, 1.98, 2.76, 3.9, 4.9], 0.04,
        1.0), ..NONE },
    Drum { key: 81, length: 1.5, level: -4.0, pan: -20.0, group: 2, ring: (2640.0, &[1.0, 1.98, 2.76, 3.9, 4.9], 0.6,
        1.0), ..NONE },
    // 82..87: shaker, jingle bell, bell tree, castanets, surdos.
    Drum { key: 82, length: 0.2, level: -3.0, pan: 10.0, noise: (5500.0, 13_000.0, 0.035, 1.0), rise: 0.02, ..NONE },
    Drum { key: 83, length: 0.8, level: -4.0, pan: 16.0, metal: (4200.0, 0.2, 1.0), noise: (7000.0, 14_000.0, 0.06,
        0.4), bursts: (3, 0.06), ..NONE },
    Drum { key: 84, length: 1.5, level: -5.0, pan: -10.0, metal: (2600.0, 0.7, 1.0), ..NONE },
    Drum { key: 85, length: 0.15, pan: 20.0, ring: (1500.0, WOOD, 0.014, 1.0), noise: (2000.0, 7000.0, 0.006, 0.8),
        bursts: (2, 0.02), ..NONE },
    Drum { key: 86, length: 0.3, level: 3.0, skin: (110.0, 88.0, 0.03, 0.06, 1.0), noise: (150.0, 1500.0, 0.02, 0.4),
        group: 3, ..NONE },
    Drum { key: 87, length: 1.0, level: 3.0, skin: (100.0, 80.0, 0.05, 0.3, 1.0), noise: (150.0, 1500.0, 0.02, 0.3),
        group: 3, ..NONE },
];
