//! How far one recording of a sound is above another in pitch, whatever the sound is: a tone, a beating chord, or
//! noise.
//!
//! Fed with two renderings by engines that play the same waves; used where such engines are compared. A wave that is
//! played faster runs ahead, and further so the longer it plays: the lag at which both renderings are most alike, as a
//! function of time, tells by how much.

/// Samples of a piece in which the lag counts as constant.
const PIECE: usize = 1200;
/// Largest lag, samples, in the middle of the recordings.
const OFFSET: f32 = 32.0;
/// Cents that are looked at, up and down, and how closely.
const REACH: i32 = 80;
const STEP: f64 = 0.05;
/// What is so much weaker than the strongest piece, as power, counts for less.
const FAINT: f32 = 1e-5;

/// The result of [`compare`].
#[derive(Clone, Copy, Debug)]
pub struct Pitch {
    /// How far the first is above the second.
    pub cents: f64,
    /// How alike they are then, up to 1: what is far below has nothing to do with the other.
    pub likeness: f64,
}

/// How alike a piece is to the other recording, by lag.
struct Piece {
    /// Samples from the middle of the recordings.
    time: f32,
    products: Vec<f32>,
}

impl Piece {
    fn at(&self, lag: f32) -> f32 {
        let place = lag + (self.products.len() / 2) as f32;
        let index = place as usize;
        let part = place - index as f32;
        match self.products.get(index..index + 2) {
            Some([low, high]) => low + (high - low) * part,
            _ => 0.0,
        }
    }
}

/// Compares the sides of two recordings, all of one length; within 4 cents, and if they start within 32 samples of each
/// other. `None` if one is silent or too short.
pub fn compare(one: [&[f32]; 2], other: [&[f32]; 2]) -> Option<Pitch> {
    let length = one.iter().chain(&other).map(|side| side.len()).min()?;
    let ratio = |cents: f64| (2f64.powf(cents / 1200.0) - 1.0) as f32;
    let margin = (OFFSET + ratio(f64::from(REACH) * STEP) * length as f32 / 2.0) as usize + 2;
    let starts = (margin..length.checked_sub(margin + PIECE)?).step_by(PIECE);
    let mut pieces: Vec<(Piece, f32)> = starts.map(|start| piece(one, other, start, length, margin)).collect();
    let most = pieces.iter().fold(0.0, |most: f32, (_, power)| most.max(*power));
    if most < 1e-9 {
        return None;
    }
    let mut weight = 0.0;
    for (piece, power) in &mut pieces {
        let part = *power / (*power + FAINT * most);
        weight += part;
        piece.products.iter_mut().for_each(|product| *product *= part);
    }
    let score = |step: i32, offset: f32| {
        let rate = ratio(f64::from(step) * STEP);
        pieces.iter().map(|(piece, _)| piece.at(offset - rate * piece.time)).sum::<f32>() / weight
    };
    let mut best = (f32::MIN, 0, 0.0);
    for step in -REACH..=REACH {
        for half in -2 * OFFSET as i32..=2 * OFFSET as i32 {
            let offset = half as f32 / 2.0;
            let found = score(step, offset);
            if found > best.0 {
                best = (found, step, offset);
            }
        }
    }
    let (likeness, step, _) = best;
    Some(Pitch { cents: f64::from(step) * STEP, likeness: likeness.into() })
}

/// How alike the piece at `start` of the second and each of its length of the first are that lies within `margin`,
/// -1..=1; and the mean power of both.
fn piece(one: [&[f32]; 2], other: [&[f32]; 2], start: usize, length: usize, margin: usize) -> (Piece, f32) {
    let mut products = vec![0.0; 2 * margin + 1];
    let mut powers = vec![0.0; 2 * margin + 1];
    let mut theirs = 0.0;
    for (one, other) in one.into_iter().zip(other) {
        for (at, x) in (start..).zip(&other[start..start + PIECE]) {
            for ((product, power), y) in products.iter_mut().zip(&mut powers).zip(&one[at - margin..]) {
                *product += x * y;
                *power += y * y;
            }
            theirs += x * x;
        }
    }
    let ours = powers[margin];
    for (product, power) in products.iter_mut().zip(&powers) {
        *product /= (power * theirs).sqrt().max(f32::MIN_POSITIVE);
    }
    let time = (start + PIECE / 2) as f32 - length as f32 / 2.0;
    (Piece { time, products }, (ours * theirs).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::TAU;

    const LENGTH: usize = 33_600;

    /// The value at a time, samples.
    type Sound = Box<dyn Fn(f64) -> f64>;

    /// Noise of the lower half of what can be heard, between whose samples one can draw curves; a tone; and two that
    /// beat.
    fn sounds() -> [(&'static str, Sound); 3] {
        let mut seed = 1u32;
        let mut random = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(seed) / f64::from(u32::MAX)
        };
        let partials: Vec<(f64, f64)> = (0..400).map(|_| (0.5 * random() * 0.5, TAU * random())).collect();
        let noise = move |t: f64| partials.iter().map(|(f, phase)| (TAU * f * t + phase).sin()).sum::<f64>() / 40.0;
        let tone = |t: f64| (TAU * 0.0014 * t).sin() + 0.3 * (TAU * 0.0028 * t).sin();
        let beating = move |t: f64| tone(t) + tone(1.004 * t);
        [("noise", Box::new(noise)), ("a tone", Box::new(tone)), ("two tones", Box::new(beating))]
    }

    #[test]
    fn a_stretch_is_found_in_any_sound_that_fades() {
        for (name, sound) in sounds() {
            let play = |cents: f64, from: f64| -> Vec<f32> {
                let rate = 2f64.powf(cents / 1200.0);
                let fade = |t: f64| (-t / 5000.0).exp();
                (0..LENGTH).map(|t| (sound(from + rate * t as f64) * fade(t as f64)) as f32).collect()
            };
            let silence = vec![0.0; LENGTH];
            let other = play(0.0, 0.0);
            for (cents, from) in [(0.0, 0.0), (0.5, 0.0), (-1.0, 9.5), (2.75, -7.0)] {
                let one = play(cents, from);
                let found = compare([&silence, &one], [&silence, &other]).expect("sounds");
                assert!((found.cents - cents).abs() < 0.15 && found.likeness > 0.8, "{name}, {cents}: {found:?}");
            }
            assert!(compare([&silence, &silence], [&silence, &other]).is_none());
        }
    }

    #[test]
    fn other_sounds_are_not_alike() {
        let [(_, noise), (_, tone), _] = sounds();
        let [noise, tone] = [noise, tone].map(|s| (0..LENGTH).map(|t| s(t as f64) as f32).collect::<Vec<f32>>());
        let found = compare([&noise, &noise], [&tone, &tone]).expect("sounds");
        assert!(found.likeness < 0.3, "{found:?}");
    }
}
