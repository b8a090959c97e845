//! ADPCM: four bits a sample, each the step from what was foreseen. Microsoft's and IMA's, as WAVE files hold them: in
//! blocks, each of which begins with what a decoder has to know.

use super::middle;
use alloc::vec::Vec;

/// Bytes that a channel has at the beginning of a block.
const MICROSOFT_HEADER: usize = 7;
const IMA_HEADER: usize = 4;

/// How the step of Microsoft's grows by what it was used for, in 1/256.
const GROWTH: [i32; 16] = [230, 230, 230, 230, 307, 409, 512, 614, 768, 614, 512, 409, 307, 230, 230, 230];
/// What the two samples before count for in the next, in 1/256: the seven pairs that every file has.
const WEIGHTS: [(i32, i32); 7] = [(256, 0), (512, -256), (0, 0), (192, 64), (240, 0), (460, -208), (392, -232)];
/// The smallest step of Microsoft's.
const SMALLEST_STEP: i32 = 16;

/// The steps of IMA's.
const STEPS: [i32; 89] = [
    7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 19, 21, 23, 25, 28, 31, 34, 37, 41, 45, 50, 55, 60, 66, 73, 80, 88, 97, 107,
    118, 130, 143, 157, 173, 190, 209, 230, 253, 279, 307, 337, 371, 408, 449, 494, 544, 598, 658, 724, 796, 876, 963,
    1060, 1166, 1282, 1411, 1552, 1707, 1878, 2066, 2272, 2499, 2749, 3024, 3327, 3660, 4026, 4428, 4871, 5358, 5894,
    6484, 7132, 7845, 8630, 9493, 10442, 11487, 12635, 13899, 15289, 16818, 18500, 20350, 22385, 24623, 27086, 29794,
    32767,
];
/// And how far the next one lies from this, by the size of the sample.
const PLACES: [i32; 8] = [-1, -1, -1, -1, 2, 4, 6, 8];

fn saturated(sample: i32) -> i16 {
    sample.clamp(i16::MIN.into(), i16::MAX.into()) as i16
}

/// Four bits with a sign.
fn signed(nibble: u8) -> i32 {
    i32::from(nibble as i8) - if nibble > 7 { 16 } else { 0 }
}

/// Frames in blocks: `more` besides those that the bytes behind a header hold, eight bits for a pair of samples.
fn frames(bytes: usize, block: usize, header: usize, channels: usize, more: usize) -> usize {
    let of = |block: usize| block.checked_sub(header * channels).map_or(0, |data| more + data * 2 / channels);
    bytes.checked_div(block).map_or(0, |blocks| blocks * of(block) + of(bytes % block))
}

/// Samples that so many bytes of Microsoft's ADPCM hold.
pub(super) fn microsoft_samples(bytes: usize, block: usize, channels: usize) -> usize {
    frames(bytes, block, MICROSOFT_HEADER, channels, 2)
}

/// Samples that so many bytes of IMA's ADPCM hold: of two channels, four bytes of each take turns.
pub(super) fn ima_samples(bytes: usize, block: usize, channels: usize) -> usize {
    let whole = |block: usize| {
        block
            .checked_sub(IMA_HEADER * channels)
            .map_or(0, |data| 1 + if channels == 1 { data * 2 } else { data / 8 * 8 })
    };
    bytes.checked_div(block).map_or(0, |blocks| blocks * whole(block) + whole(bytes % block))
}

/// What Microsoft's decoder knows of a channel.
#[derive(Clone, Copy, Default)]
struct Predictor {
    weights: (i32, i32),
    step: i32,
    last: i16,
    before: i16,
}

impl Predictor {
    fn next(&mut self, nibble: u8) -> i16 {
        let foreseen = (i32::from(self.last) * self.weights.0 + i32::from(self.before) * self.weights.1) >> 8;
        let sample = saturated(foreseen + signed(nibble) * self.step);
        self.step = ((GROWTH[usize::from(nibble & 15)] * self.step) >> 8).clamp(SMALLEST_STEP, i32::MAX >> 12);
        (self.before, self.last) = (self.last, sample);
        sample
    }
}

/// Decodes Microsoft's ADPCM until `out` has `end` samples.
pub(super) fn microsoft(data: &[u8], block: usize, channels: usize, end: usize, out: &mut Vec<i16>) {
    for block in data.chunks(block.max(1)) {
        let Some((header, data)) = block.split_at_checked(MICROSOFT_HEADER * channels) else {
            return;
        };
        let mut predictors = [Predictor::default(); 2];
        let word = |at: usize| i16::from_le_bytes([header[at], header[at + 1]]);
        for (channel, predictor) in predictors.iter_mut().enumerate().take(channels) {
            let field = |number: usize| word(channels + 2 * (channels * number + channel));
            *predictor = Predictor {
                weights: WEIGHTS.get(usize::from(header[channel])).copied().unwrap_or(WEIGHTS[0]),
                step: i32::from(field(0)),
                last: field(1),
                before: field(2),
            };
        }
        let mut nibbles = data.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let [left, right] = &mut predictors;
        let both = |l: i16, r: i16| if channels == 1 { l } else { middle(l, r) };
        let begin = [both(left.before, right.before), both(left.last, right.last)];
        let rest = core::iter::from_fn(|| {
            let l = left.next(nibbles.next()?);
            Some(if channels == 1 { l } else { middle(l, right.next(nibbles.next()?)) })
        });
        out.extend(begin.into_iter().chain(rest).take(end - out.len()));
        if out.len() >= end {
            return;
        }
    }
}

/// What IMA's decoder knows of a channel.
#[derive(Clone, Copy, Default)]
struct Stepper {
    sample: i16,
    place: i32,
}

impl Stepper {
    fn of([low, high, place, _]: [u8; 4]) -> Self {
        Self { sample: i16::from_le_bytes([low, high]), place: i32::from(place).min(STEPS.len() as i32 - 1) }
    }

    fn next(&mut self, nibble: u8) -> i16 {
        let step = STEPS[self.place as usize];
        let mut by = step >> 3;
        for (bit, part) in [(4, step), (2, step >> 1), (1, step >> 2)] {
            by += if nibble & bit != 0 { part } else { 0 };
        }
        self.sample = saturated(i32::from(self.sample) + if nibble & 8 != 0 { -by } else { by });
        self.place = (self.place + PLACES[usize::from(nibble & 7)]).clamp(0, STEPS.len() as i32 - 1);
        self.sample
    }
}

/// Decodes IMA's ADPCM until `out` has `end` samples.
pub(super) fn ima(data: &[u8], block: usize, channels: usize, end: usize, out: &mut Vec<i16>) {
    for block in data.chunks(block.max(1)) {
        let Some((header, data)) = block.split_at_checked(IMA_HEADER * channels) else {
            return;
        };
        let (headers, _) = header.as_chunks();
        let first = headers.first().copied().map(Stepper::of).unwrap_or_default();
        let mut steppers = [first, headers.get(1).copied().map_or(first, Stepper::of)];
        let room = |out: &Vec<i16>| end - out.len();
        out.extend([middle(steppers[0].sample, steppers[1].sample)].into_iter().take(room(out)));
        let [left, right] = &mut steppers;
        let nibbles = |bytes: &[u8]| -> [u8; 8] {
            core::array::from_fn(|n| bytes.get(n / 2).map_or(0, |byte| byte >> (n % 2 * 4) & 15))
        };
        if channels == 1 {
            let samples = data.iter().flat_map(|byte| [byte & 15, byte >> 4]).map(|nibble| left.next(nibble));
            out.extend(samples.take(room(out)));
        } else {
            for pair in data.chunks_exact(8) {
                let (l, r) = pair.split_at(4);
                let both = nibbles(l).map(|nibble| left.next(nibble)).into_iter();
                let both = both.zip(nibbles(r).map(|nibble| right.next(nibble)));
                out.extend(both.map(|(l, r)| middle(l, r)).take(room(out)));
            }
        }
        if out.len() >= end {
            return;
        }
    }
}
