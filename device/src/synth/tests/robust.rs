//! Any cut of the stream gives the same bytes, nothing clicks, and nonsense does no harm.
//!
//! Fed by a test song and by random messages.

use super::*;
use proptest::prelude::*;

/// A few bars that use every kind of event: (sample, message).
fn song() -> Vec<(usize, Vec<u8>)> {
    let mut events = Vec::new();
    for (channel, program) in [(0u8, 0u8), (1, 48), (2, 33), (3, 61), (4, 95)] {
        events.push((0, vec![0xc0 | channel, program]));
    }
    for step in 0..24usize {
        let at = step * 777;
        let key = 40 + (step * 7 % 40) as u8;
        for channel in 0..5u8 {
            let key = key + channel * 3;
            events.push((at + usize::from(channel) * 13, vec![0x90 | channel, key, 60 + (step * 2) as u8]));
            events.push((at + 900, vec![0x80 | channel, key, 0]));
        }
        events.push((at, vec![0x99, 36 + (step * 5 % 24) as u8, 110]));
        events.push((at + 50, vec![0xe1, (step * 31 % 128) as u8, (step * 17 % 128) as u8]));
        let value = (step * 41 % 128) as u8;
        events.push((at + 70, vec![0xb0, [1, 7, 10, 11, 64, 123, 91, 93][step % 8], value]));
        events.push((
            at + 110,
            vec![0xb1, [101, 100, 6, 64, 66, 67, 121, 120][step % 8], [0, step as u8 % 3, value][step % 8 % 3]],
        ));
        events.push((at + 130, vec![0xd2, value]));
        events.push((at + 140, vec![0xa3, key + 9, value]));
        // Master volume, fine and coarse tuning, in turn.
        events.push((at + 170, vec![0xf0, 0x7f, 0x7f, 4, [1, 3, 4][step % 3], 0, 60 + value / 16, 0xf7]));
        let octave = [&[0xf0, 0x7e, 0x7f, 8, 8, 3, 127, 127][..], &[60 + value / 16; 12], &[0xf7]];
        events.push((at + 190, octave.concat()));
    }
    events.sort_by_key(|e| e.0);
    events
}

/// Renders the song in pieces of the lengths that `next` gives, on the last of some channel groups.
fn play_on(mut s: Synth, mut next: impl FnMut() -> usize) -> Vec<u32> {
    let group = s.groups() - 1;
    let events = song();
    let (mut left, mut right) = (vec![0.0; 24_000], vec![0.0; 24_000]);
    let (mut now, mut event) = (0, 0);
    while now < left.len() {
        while event < events.len() && events[event].0 == now {
            s.message(group, &events[event].1);
            event += 1;
        }
        let until = events.get(event).map_or(left.len(), |e| e.0);
        let end = (now + next()).min(until).min(left.len());
        s.render(&mut left[now..end], &mut right[now..end]);
        now = end;
    }
    left.iter().chain(&right).map(|x| x.to_bits()).collect()
}

fn play(next: impl FnMut() -> usize) -> Vec<u32> {
    play_on(Synth::new(Arc::clone(&GM), RATE, 1, 24), next)
}

#[test]
fn the_cut_into_calls_does_not_change_a_bit() {
    let whole = play(|| 24_000);
    for block in [1, 7, 64, 480, 4096] {
        assert!(play(|| block) == whole, "blocks of {block}");
    }
    let mut seed = 1u32;
    let random = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        1 + (seed >> 20) as usize
    };
    assert!(play(random) == whole);
}

#[test]
fn groups_and_vectors_do_not_change_a_bit() {
    for interpolation in [Interpolation::Linear, Interpolation::Cubic] {
        let synth = |groups| Synth::new(Arc::clone(&GM), RATE, groups, 24).with_interpolation(interpolation);
        let whole = play_on(synth(1), || 480);
        assert!(play_on(synth(1000), || 480) == whole, "{interpolation:?}, a thousand groups");
        let mut portable = synth(1);
        portable.code = Code::Portable;
        assert!(play_on(portable, || 480) == whole, "{interpolation:?}, portable code");
    }
}

/// The largest third difference: a click is all high frequencies, which this amplifies and a low sine has none of.
pub(super) fn roughness(samples: &[f32]) -> f32 {
    samples.windows(4).fold(0.0, |r, w| f32::max(r, (w[3] - 3.0 * w[2] + 3.0 * w[1] - w[0]).abs()))
}

#[test]
fn no_clicks_on_sustain_release_controllers_or_stealing() {
    let soft = Envelope { attack: 0.02, release: 1.0, ..Envelope::GATE };
    let articulation = Articulation { amplitude: soft, ..Articulation::DEFAULT };
    let voice = || Synth::new(sine_bank(articulation, |_| ()), RATE, 1, 8);
    // Low notes: their own third difference is near nothing, (2 pi f / rate)^3.
    let mut s = voice();
    send(&mut s, &[[0xb0, 7, 127], [0xb0, 10, 0], [0x90, 48, 127]]);
    let check = |s: &mut Synth, samples: usize, what: &str| {
        let r = roughness(&render(s, samples).0);
        assert!(r < if what.starts_with("sustain") { 1e-3 } else { 5e-3 }, "{what}: {r}");
    };
    check(&mut s, 48_000, "sustain over many loops");
    send(&mut s, &[[0xb0, 7, 60]]);
    check(&mut s, 4800, "volume");
    send(&mut s, &[[0xb0, 10, 100]]);
    check(&mut s, 4800, "pan");
    send(&mut s, &[[0xb0, 10, 0], [0x80, 48, 0]]);
    check(&mut s, 4800, "note-off");
    send(&mut s, &[[0xb0, 120, 0]]);
    check(&mut s, 4800, "all sound off");

    let mut s = voice();
    send(&mut s, &[[0xb0, 7, 127], [0xb0, 10, 0]]);
    let (mut left, mut right) = (vec![0.0; 48_000], vec![0.0; 48_000]);
    for (step, (l, r)) in left.chunks_mut(611).zip(right.chunks_mut(611)).enumerate() {
        // Eight voices, so from the ninth note on each note steals.
        send(&mut s, &[[0x90, 30 + (step % 24) as u8, 127]]);
        s.render(l, r);
        assert!(s.voices.iter().filter(|v| v.counts()).count() <= 8);
    }
    let stolen = roughness(&left);
    assert!(stolen < 1e-2, "stealing: {stolen}");
    // The detector does see a click: the same voices cut off.
    let cut = left.iter().enumerate().map(|(t, x)| if t < 30_000 { *x } else { 0.0 });
    assert!(roughness(&cut.collect::<Vec<f32>>()) > 2e-2);
}

#[test]
fn note_offs_and_the_wheel_act_at_their_exact_sample() {
    let release = 0.05;
    let amplitude = Envelope { release, ..Envelope::GATE };
    let bank = sine_bank(Articulation { amplitude, ..Articulation::DEFAULT }, |_| ());
    let play = |at: usize, message: Option<[u8; 3]>| {
        let mut s = Synth::new(Arc::clone(&bank), RATE, 1, 8);
        send(&mut s, &[[0xb0, 7, 127], [0xb0, 10, 0], [0x90, 69, 127]]);
        let mut left = render(&mut s, at).0;
        message.iter().for_each(|message| s.message(0, message));
        left.extend(render(&mut s, 2000).0);
        left
    };
    for at in 4800..4832 {
        let (held, off) = (play(at, None), play(at, Some([0x80, 69, 0])));
        for (sample, (held, off)) in held.iter().zip(&off).enumerate() {
            let passed = sample as f32 - at as f32;
            // The envelope of EG1 falls by 96 dB in its time.
            let should = -96.0 * passed.max(0.0) / (release * RATE as f32);
            if held.abs() > 0.2 && should > -40.0 {
                let is = 20.0 * libm::log10f(off / held);
                assert!((is - should).abs() < 0.1, "{is}, not {should} dB, {passed} samples after a release at {at}");
            }
        }
        let bent = play(at, Some([0xe0, 127, 127]));
        let first = held.iter().zip(&bent).position(|(a, b)| a != b).expect("a difference");
        // What a step makes different is heard one sample later.
        assert!((at..=at + 2).contains(&first), "the wheel at {at} is heard at {first}");
    }
    // A release of no time is still none of a click.
    let gate = Synth::new(
        sine_bank(
            Articulation { amplitude: Envelope { release: 0.0, ..Envelope::GATE }, ..Articulation::DEFAULT },
            |_| (),
        ),
        RATE,
        1,
        8,
    );
    let mut s = gate;
    send(&mut s, &[[0xb0, 7, 127], [0xb0, 10, 0], [0x90, 36, 127]]);
    let mut left = render(&mut s, 4800 + 31).0;
    send(&mut s, &[[0x80, 36, 0]]);
    left.extend(render(&mut s, 480).0);
    assert!(roughness(&left) < 2e-2, "{}", roughness(&left));
}

#[test]
fn stealing_takes_the_released_and_spares_the_newest() {
    let articulation =
        Articulation { amplitude: Envelope { release: 50.0, ..Envelope::GATE }, ..Articulation::DEFAULT };
    let mut s = Synth::new(sine_bank(articulation, |_| ()), RATE, 1, 3);
    send(&mut s, &[[0x90, 60, 10], [0x90, 61, 100], [0x90, 62, 127], [0x80, 62, 0]]);
    render(&mut s, 960);
    send(&mut s, &[[0x90, 63, 50]]);
    let keys = |s: &Synth| s.voices.iter().filter(|v| v.counts()).map(|v| v.key).collect::<Vec<u8>>();
    assert_eq!(keys(&s), [60, 61, 63], "the released one goes first, loud as it was");
    render(&mut s, 960);
    send(&mut s, &[[0x90, 64, 50]]);
    let mut left = keys(&s);
    left.sort();
    assert_eq!(left, [61, 63, 64], "then the quietest");
}

#[test]
fn more_notes_than_lanes_lose_notes_not_sense() {
    let mut s = Synth::new(Arc::clone(&GM), RATE, 1, 4);
    for key in 0..128 {
        send(&mut s, &[[0x90, key, 127]]);
    }
    assert_eq!(s.sounding(), 8);
    let (left, _) = render(&mut s, 4800);
    assert!(left.iter().all(|x| x.is_finite()));
    assert_eq!(s.sounding(), 4);
}

#[test]
fn waves_out_of_range_are_refused_and_extreme_ones_harmless() {
    let played = |looped, change: fn(&mut Collection)| {
        let mut draft = Draft::default();
        let wave =
            draft.add_wave(&[1000; 4800], 1_000_000, Sampling { unity_key: 60, fine_tune: 0, gain: 0.0, looped: None });
        let sampling = Some(Sampling { unity_key: 0, fine_tune: i16::MAX, gain: f32::NAN, looped });
        let articulation = draft.add_articulation(Articulation::DEFAULT);
        let region = Region {
            keys: (0, 127),
            velocities: (0, 127),
            wave,
            articulation,
            key_group: 0,
            self_exclusive: false,
            sampling,
        };
        draft.add_instrument(Instrument { bank: 0, program: 0, drum: false, regions: vec![region] });
        let mut collection = Collection::from(&draft);
        change(&mut collection);
        Bank::new(&[collection])
    };
    for (start, length, until_release) in [(u32::MAX as usize, 1, false), (0, 0, false), (4799, 2, true)] {
        let looped = Some(Loop { start, length, until_release });
        played(looped, |_| ()).expect_err("a loop outside its wave");
    }
    played(None, |c| c.instruments[0].regions[0].link.wave = 9).expect_err("no such wave");
    for (start, length, until_release) in [(4799, 1, false), (0, 4800, true), (4799, 1, true), (0, 4800, false)] {
        let looped = Some(Loop { start, length, until_release });
        for code in [Code::Portable, Code::best()] {
            let bank = Arc::new(played(looped, |_| ()).expect("a bank"));
            let mut s = Synth::new(bank, 1, 1, 4);
            s.code = code;
            send(&mut s, &[[0x90, 127, 127], [0xe0, 127, 127]]);
            assert!(render(&mut s, 4800).0.iter().all(|x| x.is_finite()));
            send(&mut s, &[[0x80, 127, 127]]);
            assert!(render(&mut s, 4800).0.iter().all(|x| x.is_finite()));
        }
    }
    let mut s = Synth::new(Arc::new(Bank::default()), RATE, 0, 0);
    send(&mut s, &[[0x90, 60, 127]]);
    assert_eq!((s.groups(), peak(&render(&mut s, 480).0)), (0, 0.0));
}

#[test]
fn articulations_of_nonsense_stay_finite() {
    for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30] {
        let envelope = Envelope { attack: x, decay: x, sustain: x, release: x, key_to_decay: x, ..Envelope::GATE };
        let lfo = Lfo { rate: x, delay: -x, pitch: x, wheel_pitch: x, gain: x };
        let filter = Filter { cutoff: x, resonance: x, velocity: x, key: x, envelope: x };
        let articulation = Articulation {
            amplitude: envelope,
            modulation: envelope,
            modulation_pitch: x,
            vibrato: lfo,
            tremolo: lfo,
            filter: Some(filter),
            key_pitch: x,
            pan: x,
            gain: x,
        };
        let mut s = Synth::new(sine_bank(articulation, |_| ()), RATE, 1, 4);
        send(&mut s, &[[0xb0, 1, 100], [0x90, 60, 127]]);
        assert!(render(&mut s, 9600).0.iter().all(|x| x.is_finite()));
        send(&mut s, &[[0x80, 60, 0]]);
        assert!(render(&mut s, 9600).0.iter().all(|x| x.is_finite()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn any_bytes_are_harmless(
        messages in prop::collection::vec((0u16..3, prop::collection::vec(any::<u8>(), 0..9), 0usize..70), 0..60)
    ) {
        let mut s = Synth::new(Arc::clone(&GM), RATE, 2, 6);
        for (group, message, wait) in messages {
            s.message(group, &message);
            let (left, right) = render(&mut s, wait);
            prop_assert!(left.iter().chain(&right).all(|x| x.is_finite()));
        }
    }

    #[test]
    fn any_playing_stays_finite(
        messages in prop::collection::vec((0x80u8..=0xef, 0u8..128, 0u8..128, 0usize..500), 0..200)
    ) {
        let mut s = Synth::new(Arc::clone(&GM), RATE, 1, 6);
        for (status, a, b, wait) in messages {
            s.message(0, &[status, a, b]);
            s.message(0, &[status, a]);
            let (left, right) = render(&mut s, wait);
            prop_assert!(left.iter().chain(&right).all(|x| x.abs() < 8.0));
        }
    }
}

#[test]
fn what_nobody_waits_for_is_broken_off() {
    let void = Arc::new(AtomicBool::new(false));
    let mut synth = Synth::new(Arc::new(Bank::general_midi()), 48_000, 1, 4096);
    synth.give_up_at(Arc::clone(&void));
    (0..2000).for_each(|n| synth.message(0, &[0x90 | (n % 16) as u8, 30 + (n % 60) as u8, 100]));
    let (mut left, mut right) = (vec![0.0; 4800], vec![0.0; 4800]);
    let mut cost = |synth: &mut Synth| {
        synth.allow(0);
        let before = synth.work;
        synth.message(0, &[0xB0, 123, 0]);
        left.fill(0.0);
        synth.render(&mut left, &mut right);
        (synth.work - before, left.iter().rposition(|sample| *sample != 0.0))
    };
    let (whole, last) = cost(&mut synth);
    assert!(last > Some(4000), "{last:?}");
    void.store(true, Ordering::Relaxed);
    synth.message(0, &[0xE0, 1, 1]);
    let (rest, last) = cost(&mut synth);
    assert!(rest < whole && last < Some(2 * PERIOD), "{rest} of {whole}, {last:?}");
    // As whoever sets the flag has to, before it counts again.
    synth.reset();
    assert_eq!(synth.sounding(), 0);
}
