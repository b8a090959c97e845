//! Inverse Fourier transform and noise for the wave generators.
//!
//! Fed by `tone` and `drums` with spectra; twiddle factors and the fixed-seed generator make the result the same
//! everywhere.

/// The largest transform.
pub(crate) const MAX_LENGTH: usize = 32_768;

/// A reproducible stream of noise (xorshift).
pub(crate) struct Noise(u32);

impl Noise {
    pub(crate) fn new(seed: u32) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9) | 1)
    }

    pub(crate) fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    /// Uniform in -1..1.
    pub(crate) fn white(&mut self) -> f32 {
        self.bits() as i32 as f32 * (1.0 / (1u64 << 31) as f32)
    }
}

/// Twiddle factors for transforms of every power of two up to [`MAX_LENGTH`].
pub(crate) struct Fourier {
    /// At `half + j`: cos and sin of pi j / half.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Fourier {
    pub(crate) fn new() -> Self {
        let (mut cos, mut sin) = (vec![1.0; MAX_LENGTH], vec![0.0; MAX_LENGTH]);
        let top = MAX_LENGTH / 2;
        for j in 0..top {
            let angle = core::f64::consts::PI * j as f64 / top as f64;
            cos[top + j] = libm::cos(angle) as f32;
            sin[top + j] = libm::sin(angle) as f32;
        }
        for at in (1..top).rev() {
            // The shorter transforms use every second factor of the next longer one.
            let half = 1 << at.ilog2();
            let twin = 2 * half + 2 * (at - half);
            (cos[at], sin[at]) = (cos[twin], sin[twin]);
        }
        Self { cos, sin }
    }

    /// A unit vector at a random angle.
    pub(crate) fn random_phase(&self, noise: &mut Noise) -> (f32, f32) {
        let bits = noise.bits() >> 8;
        let at = MAX_LENGTH / 2 + (bits as usize & (MAX_LENGTH / 2 - 1));
        let sign = if bits & 0x80_0000 == 0 { 1.0 } else { -1.0 };
        (self.cos[at] * sign, self.sin[at] * sign)
    }

    /// Unscaled inverse transform in place; both slices have the same power-of-two length.
    pub(crate) fn inverse(&self, re: &mut [f32], im: &mut [f32]) {
        let length = re.len();
        let shift = usize::BITS - length.ilog2();
        for i in 0..length {
            let j = i.reverse_bits() >> shift;
            if i < j {
                re.swap(i, j);
                im.swap(i, j);
            }
        }
        let mut half = 1;
        while half < length {
            let (cos, sin) = (&self.cos[half..2 * half], &self.sin[half..2 * half]);
            for (re, im) in re.chunks_exact_mut(2 * half).zip(im.chunks_exact_mut(2 * half)) {
                let (re0, re1) = re.split_at_mut(half);
                let (im0, im1) = im.split_at_mut(half);
                let (re0, re1) = (&mut re0[..half], &mut re1[..half]);
                let (im0, im1) = (&mut im0[..half], &mut im1[..half]);
                for j in 0..half {
                    let r = re1[j] * cos[j] - im1[j] * sin[j];
                    let i = re1[j] * sin[j] + im1[j] * cos[j];
                    (re1[j], im1[j]) = (re0[j] - r, im0[j] - i);
                    re0[j] += r;
                    im0[j] += i;
                }
            }
            half *= 2;
        }
    }
}

/// Two real signals of one length, as a spectrum under construction: `first` comes out in the real part, `second` in
/// the other.
pub(crate) struct Pair {
    pub(crate) re: Vec<f32>,
    pub(crate) im: Vec<f32>,
}

impl Pair {
    pub(crate) fn new(length: usize) -> Self {
        Self { re: vec![0.0; length], im: vec![0.0; length] }
    }

    /// Adds a partial at a bin: amplitude `first` in the first signal and `second` in the second, at phase (cos, sin).
    pub(crate) fn add(&mut self, bin: usize, (cos, sin): (f32, f32), first: f32, second: f32) {
        let length = self.re.len();
        if bin == 0 || bin >= length / 2 {
            return;
        }
        // A real signal has conjugate bins; a second one, times i, shares the transform.
        let (first, second) = (first * 0.5, second * 0.5);
        self.re[bin] += first * cos - second * sin;
        self.im[bin] += first * sin + second * cos;
        self.re[length - bin] += first * cos + second * sin;
        self.im[length - bin] += second * cos - first * sin;
    }
}

/// How loud a sine of this frequency is heard, as a factor on its power: deaf to rumble, keen on 2 to 5 kHz.
pub(crate) fn hearing(hz: f32) -> f32 {
    let low = hz * hz / (hz * hz + 150.0 * 150.0);
    let presence = hz * hz / (hz * hz + 1800.0 * 1800.0);
    let high = 1.0 / (1.0 + (hz / 12_000.0) * (hz / 12_000.0));
    low * (1.0 + 1.5 * presence) * high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pair_comes_out_as_two_cosines() {
        let mut pair = Pair::new(64);
        pair.add(3, (1.0, 0.0), 0.5, 0.0);
        pair.add(5, (0.0, 1.0), 0.0, 0.25);
        Fourier::new().inverse(&mut pair.re, &mut pair.im);
        for t in 0..64 {
            let angle = |bin: f32| core::f32::consts::TAU * bin * t as f32 / 64.0;
            assert!((pair.re[t] - 0.5 * libm::cosf(angle(3.0))).abs() < 1e-5);
            assert!((pair.im[t] + 0.25 * libm::sinf(angle(5.0))).abs() < 1e-5);
        }
    }
}
