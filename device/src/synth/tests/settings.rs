//! Priorities, limits, levels and statistics, and that none of them clicks or depends on how the stream is cut.
//!
//! Fed by sines, whose own third difference is near nothing.

use super::robust::roughness;
use super::*;

fn lasting() -> Arc<Bank> {
    let soft = Envelope { attack: 0.02, release: 1.0, ..Envelope::GATE };
    sine_bank(Articulation { amplitude: soft, ..Articulation::DEFAULT }, |_| ())
}

fn keys(s: &Synth) -> Vec<u8> {
    let mut keys: Vec<u8> = s.voices.iter().filter(|v| v.counts()).map(|v| v.key).collect();
    keys.sort_unstable();
    keys
}

/// DDI: stealing takes the lowest priority first
#[test]
fn the_lowest_priority_is_stolen_first_however_loud_and_steals_from_none_above_it() {
    let mut s = Synth::new(lasting(), RATE, 2, 3);
    assert!(s.set_priority(1, 0, 0x4000_0000) && !s.set_priority(2, 0, 1) && !s.set_priority(0, 16, 1));
    s.message(1, &[0x90, 60, 127]);
    // Percussion has the highest offset, channel 16 the lowest.
    s.message(0, &[0x9f, 61, 127]);
    s.message(0, &[0x99, 62, 10]);
    render(&mut s, 960);
    s.message(0, &[0x90, 63, 10]);
    assert_eq!(keys(&s), [61, 62, 63], "low priority goes first");
    render(&mut s, 4800);
    s.message(0, &[0x91, 64, 10]);
    assert_eq!(keys(&s), [62, 63, 64], "then the last channel");
    render(&mut s, 4800);
    s.message(1, &[0x90, 65, 127]);
    assert_eq!(keys(&s), [62, 63, 64], "a note of low priority finds no voice");
    assert_eq!(s.statistics().lost, 3);
    s.forget_statistics();
    assert_eq!((s.statistics().lost, s.statistics().peak), (0, 0.0));
}

#[test]
fn a_thousand_voices_sound_and_a_lower_limit_is_kept_without_a_click() {
    let mut s = Synth::new(lasting(), RATE, 1000, 16);
    s.set_voice_limit(1024);
    for note in 0..1024u32 {
        // Low notes, so that a click would show.
        s.message((note / 16) as u16, &[0x90 | (note % 16) as u8, 24 + (note % 12) as u8, 20]);
    }
    let plain = roughness(&render(&mut s, 4800).0);
    assert_eq!((keys(&s).len(), s.statistics().lost), (1024, 0));
    assert!((s.statistics().voices - 1024.0).abs() < 11.0, "{:?}", s.statistics());
    s.set_voice_limit(1000);
    s.message(999, &[0x90, 30, 20]);
    s.message(999, &[0x90, 31, 20]);
    let stolen = roughness(&render(&mut s, 4800).0);
    assert!(keys(&s).len() <= 1010);
    assert!(stolen < plain.max(1e-2) * 1.5, "{stolen} beside {plain}");
    s.set_groups(10);
    assert!(s.sounding() <= 160);
    render(&mut s, 4800);
}

#[test]
fn volume_and_boost_glide_to_their_levels_on_absolute_samples() {
    let play = |block: usize| {
        let mut s = Synth::new(lasting(), RATE, 1, 8);
        send(&mut s, &[[0xb0, 7, 127], [0xb0, 10, 0], [0x90, 36, 127]]);
        let (mut left, mut right) = (vec![0.0; 24_000], vec![0.0; 24_000]);
        let mut now = 0;
        while now < left.len() {
            match now {
                6_000 => s.set_levels((-602, 0)),
                12_000 => s.set_levels((-602, 602)),
                18_000 => s.set_levels((-20_000, 602)),
                _ => {}
            }
            let end = (now + block).min(6_000 * (now / 6_000 + 1));
            s.render(&mut left[now..end], &mut right[now..end]);
            now = end;
        }
        left
    };
    let whole = play(6_000);
    for block in [1, 7, 100, 1024] {
        assert!(play(block) == whole, "blocks of {block}");
    }
    assert!(roughness(&whole) < 5e-3, "{}", roughness(&whole));
    let peak = |from: usize, to: usize| whole[from..to].iter().fold(0.0f32, |peak, x| peak.max(x.abs()));
    let (full, half, again) = (peak(3_000, 6_000), peak(8_000, 12_000), peak(14_000, 18_000));
    assert!((half / full - 0.5).abs() < 1e-3 && (again / full - 1.0).abs() < 1e-3, "{full} {half} {again}");
    assert_eq!(peak(22_000, 24_000), 0.0);
}
