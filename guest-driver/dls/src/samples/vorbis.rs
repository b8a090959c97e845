//! Ogg Vorbis, as SoundFont 3 has its samples: a whole Ogg file each.
//!
//! `lewton` decodes the packets. It takes the sizes of codebooks at their word, so that those are looked at here first.

use super::middle;
use alloc::vec::Vec;
use lewton::audio::{PreviousWindowRight, read_audio_packet};
use lewton::header::{read_header_ident, read_header_setup};

/// Samples that a file can have for each of its bytes. Speech at the lowest rate has twenty.
const MOST_PER_BYTE: usize = 64;
/// Entries, and numbers in the entries, of all codebooks of a file; encoders stay below a tenth of it.
const MOST_ENTRIES: u64 = 1 << 17;
const MOST_NUMBERS: u64 = 1 << 20;

/// A page of an Ogg file: what time it ends at, the lengths of its segments, and their bytes.
struct Page<'a> {
    granule: u64,
    segments: &'a [u8],
    body: &'a [u8],
}

/// The pages of an Ogg file, up to the first that is broken.
fn pages(mut data: &[u8]) -> impl Iterator<Item = Page<'_>> {
    core::iter::from_fn(move || {
        let (header, rest) = data.split_first_chunk::<27>()?;
        let granule = header.get(6..14)?.try_into().ok()?;
        let (segments, rest) = rest.split_at_checked(usize::from(header[26]))?;
        let length: usize = segments.iter().map(|segment| usize::from(*segment)).sum();
        let body = &rest[..length.min(rest.len())];
        data = &rest[body.len()..];
        header.starts_with(b"OggS").then_some(Page { granule: u64::from_le_bytes(granule), segments, body })
    })
}

/// Calls `each` with the packets of an Ogg file until it says that it has enough.
fn packets(data: &[u8], mut each: impl FnMut(&[u8]) -> bool) {
    let mut packet = Vec::new();
    for page in pages(data) {
        let mut body = page.body;
        for segment in page.segments {
            let (part, rest) = body.split_at(usize::from(*segment).min(body.len()));
            packet.extend_from_slice(part);
            body = rest;
            if *segment < 255 {
                if !each(&packet) {
                    return;
                }
                packet.clear();
            }
        }
    }
}

/// How many samples an Ogg file has, by the time at which its last page ends.
pub(super) fn samples(data: &[u8]) -> usize {
    // No packet ends on a page whose time is all ones.
    let last = pages(data).map(|page| page.granule).filter(|granule| *granule != u64::MAX).last();
    let most = data.len().saturating_mul(MOST_PER_BYTE);
    usize::try_from(last.unwrap_or(0)).map_or(most, |samples| samples.min(most))
}

/// Decodes until `out` has `end` samples, or the first packet that cannot be decoded.
pub(super) fn decode(data: &[u8], end: usize, out: &mut Vec<i16>) {
    let (mut ident, mut setup) = (None, None);
    let mut window = PreviousWindowRight::new();
    packets(data, |packet| {
        match (&ident, &setup, packet.first()) {
            (None, ..) => ident = read_header_ident(packet).ok(),
            // Comments.
            (Some(_), None, Some(3)) => {}
            (Some(first), None, _) => {
                let sizes = (first.blocksize_0, first.blocksize_1);
                setup =
                    is_modest(packet).then(|| read_header_setup(packet, first.audio_channels, sizes).ok()).flatten();
                return setup.is_some();
            }
            (Some(ident), Some(setup), _) => {
                let Ok(channels) = read_audio_packet(ident, setup, packet, &mut window) else {
                    return false;
                };
                let room = end.saturating_sub(out.len());
                match &channels[..] {
                    [left, right, ..] => {
                        out.extend(left.iter().zip(right).map(|(l, r)| middle(*l, *r)).take(room));
                    }
                    [one] => out.extend(one.iter().copied().take(room)),
                    [] => {}
                }
            }
        }
        ident.is_some() && out.len() < end
    });
}

/// Whether the codebooks of a setup header are of a size that an encoder makes.
fn is_modest(setup: &[u8]) -> bool {
    let Some((_, rest)) = setup.split_first_chunk::<7>() else {
        return false;
    };
    let mut bits = Bits { bytes: rest, at: 0 };
    let mut look = || {
        let (mut entries, mut numbers) = (0, 0);
        for _ in 0..=bits.take(8)? {
            let book = codebook(&mut bits)?;
            entries += book.0;
            numbers += book.1;
            if entries > MOST_ENTRIES || numbers > MOST_NUMBERS {
                return None;
            }
        }
        Some(())
    };
    look().is_some()
}

/// Passes over a codebook: its entries, and the numbers that they stand for. None if it is too large, or cut off.
fn codebook(bits: &mut Bits<'_>) -> Option<(u64, u64)> {
    bits.take(24)?;
    let (dimensions, entries) = (bits.take(16)?, bits.take(24)?);
    // Without a dimension, there is no largest number in `root`: lewton makes room for 2^32.
    if entries > MOST_ENTRIES || dimensions == 0 {
        return None;
    }
    if bits.take(1)? == 1 {
        bits.take(5)?;
        let mut known = 0;
        while known < entries {
            let number = bits.take(width(entries - known))?;
            known += number;
            if known > entries {
                return None;
            }
        }
    } else {
        let sparse = bits.take(1)? == 1;
        for _ in 0..entries {
            if !sparse || bits.take(1)? == 1 {
                bits.take(5)?;
            }
        }
    }
    let kind = bits.take(4)?;
    let numbers = entries.saturating_mul(dimensions);
    if kind == 0 {
        return Some((entries, 0));
    }
    bits.take(32)?;
    bits.take(32)?;
    let wide = bits.take(4)? + 1;
    bits.take(1)?;
    let values = match kind {
        1 => root(entries, dimensions),
        2 => numbers,
        _ => return None,
    };
    if numbers > MOST_NUMBERS {
        return None;
    }
    for _ in 0..values {
        bits.take(wide)?;
    }
    Some((entries, numbers))
}

/// The bits that a number takes.
fn width(number: u64) -> u64 {
    u64::from(u64::BITS - number.leading_zeros())
}

/// The largest number whose power is at most `entries`.
fn root(entries: u64, dimensions: u64) -> u64 {
    let fits = |root: u64| {
        let power =
            (0..dimensions).try_fold(1u64, |power, _| power.checked_mul(root).filter(|power| *power <= entries));
        power.is_some()
    };
    match dimensions {
        1 => entries,
        // The entries have 17 bits.
        18.. => u64::from(entries > 0),
        _ => (1..=entries).take_while(|root| fits(*root)).count() as u64,
    }
}

/// Bits, the lowest of each byte first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: u64) -> Option<u64> {
        let mut number = 0;
        for bit in 0..count {
            let byte = self.bytes.get(self.at / 8)?;
            number |= u64::from(byte >> (self.at % 8) & 1) << bit;
            self.at += 1;
        }
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A setup header's codebook of one entry, which stands for one number in each dimension.
    fn setup(dimensions: u64) -> Vec<u8> {
        let fields =
            [(0, 8), (0x56_4342, 24), (dimensions, 16), (1, 24), (0, 2), (0, 5), (1, 4), (0, 64), (0, 4), (0, 9)];
        let bits = fields.iter().flat_map(|(value, count)| (0..*count).map(move |bit| (value >> bit & 1) as u8));
        let bits: Vec<u8> = bits.collect();
        let bytes = bits.chunks(8).map(|bits| bits.iter().rev().fold(0, |byte, bit| byte << 1 | bit));
        [5, b'v', b'o', b'r', b'b', b'i', b's'].into_iter().chain(bytes).collect()
    }

    #[test]
    fn a_codebook_has_dimensions() {
        assert!(is_modest(&setup(1)) && is_modest(&setup(2)));
        assert!(!is_modest(&setup(0)));
    }
}
