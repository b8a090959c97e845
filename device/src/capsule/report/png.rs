//! A picture of 16 levels as a PNG file in base64: one colour that is more or less opaque, so that it suits any
//! background.
//!
//! Fed by the occupancy of slots; feeds the page.

/// Levels of a picture.
pub(super) const LEVELS: u8 = 16;

/// Longest and shortest match of deflate.
const MATCH: std::ops::RangeInclusive<usize> = 3..=258;

/// The file, of `pixels` row by row, each a level; `width` is not 0.
pub(super) fn file(width: usize, pixels: &[u8], colour: [u8; 3]) -> Vec<u8> {
    let height = pixels.len() / width.max(1);
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut head = Vec::new();
    head.extend((width as u32).to_be_bytes());
    head.extend((height as u32).to_be_bytes());
    // 4 bits a pixel, by palette.
    head.extend([4, 3, 0, 0, 0]);
    chunk(&mut file, b"IHDR", &head);
    chunk(&mut file, b"PLTE", &colour.repeat(LEVELS.into()));
    let opaque: Vec<u8> = (0..LEVELS).map(|level| level * (255 / (LEVELS - 1))).collect();
    chunk(&mut file, b"tRNS", &opaque);
    let mut lines = Vec::with_capacity((width / 2 + 2) * height);
    for row in pixels.chunks_exact(width.max(1)) {
        lines.push(0);
        lines.extend(row.chunks(2).map(|two| two[0] << 4 | two.get(1).copied().unwrap_or(0)));
    }
    chunk(&mut file, b"IDAT", &zlib(&lines, width.div_ceil(2) + 1));
    chunk(&mut file, b"IEND", &[]);
    file
}

fn chunk(file: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    file.extend((data.len() as u32).to_be_bytes());
    let from = file.len();
    file.extend(kind);
    file.extend(data);
    let mut crc = u32::MAX;
    for byte in &file[from..] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 };
        }
    }
    file.extend((!crc).to_be_bytes());
}

/// Bits of deflate, the lowest first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    waiting: u32,
    count: u32,
}

impl Bits {
    fn put(&mut self, value: u32, count: u32) {
        self.waiting |= value << self.count;
        self.count += count;
        while self.count >= 8 {
            self.bytes.push(self.waiting as u8);
            self.waiting >>= 8;
            self.count -= 8;
        }
    }

    /// A code of the fixed tables: its highest bit comes first.
    fn code(&mut self, code: u32, count: u32) {
        self.put(code.reverse_bits() >> (32 - count), count);
    }

    fn symbol(&mut self, symbol: u32) {
        match symbol {
            0..144 => self.code(0x30 + symbol, 8),
            144..256 => self.code(0x190 + symbol - 144, 9),
            256..280 => self.code(symbol - 256, 7),
            _ => self.code(0xC0 + symbol - 280, 8),
        }
    }

    fn length(&mut self, length: u32) {
        if length == 258 {
            return self.symbol(285);
        }
        // Four symbols share each number of extra bits, from the length of 11 on.
        let over = length - 3;
        let extra = if over < 8 { 0 } else { over.ilog2() - 2 };
        self.symbol(257 + 4 * extra + (over >> extra));
        self.put(over & ((1 << extra) - 1), extra);
    }

    fn distance(&mut self, distance: u32) {
        let over = distance - 1;
        let extra = if over < 4 { 0 } else { over.ilog2() - 1 };
        self.code(2 * extra + (over >> extra), 5);
        self.put(over & ((1 << extra) - 1), extra);
    }
}

/// Compressed by repetitions of the byte before and of the line above, which is most of such a picture.
fn zlib(data: &[u8], line: usize) -> Vec<u8> {
    let mut bits = Bits::default();
    // One block, the last one, with the fixed codes.
    bits.put(0b011, 3);
    let mut at = 0;
    while at < data.len() {
        let matching = |distance: usize| {
            let before = at.checked_sub(distance).map_or(&[][..], |from| &data[from..]);
            before.iter().zip(&data[at..]).take(*MATCH.end()).take_while(|(old, new)| old == new).count()
        };
        let (repeated, above) = (matching(1), matching(line));
        let (length, distance) = if above > repeated { (above, line) } else { (repeated, 1) };
        if MATCH.contains(&length) {
            bits.length(length as u32);
            bits.distance(distance as u32);
            at += length;
        } else {
            bits.symbol(data[at].into());
            at += 1;
        }
    }
    bits.symbol(256);
    bits.put(0, 7);
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in data {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    let mut stream = vec![0x78, 0x01];
    stream.extend(bits.bytes);
    stream.extend((b << 16 | a).to_be_bytes());
    stream
}

/// Bytes as text.
pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let at = |place: usize| u32::from(three.get(place).copied().unwrap_or(0));
        let value = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let digit = DIGITS[(value >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= three.len() { digit.into() } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_everybody() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    /// Bits as the compressor left them.
    struct Reader<'a>(&'a [u8], usize);

    impl Reader<'_> {
        fn bits(&mut self, count: u32) -> u32 {
            (0..count).fold(0, |value, place| {
                let bit = self.0[self.1 / 8] >> (self.1 % 8) & 1;
                self.1 += 1;
                value | u32::from(bit) << place
            })
        }

        fn code(&mut self, count: u32) -> u32 {
            (0..count).fold(0, |value, _| value << 1 | self.bits(1))
        }

        /// By the tables of RFC 1951, section 3.2.6.
        fn symbol(&mut self) -> u32 {
            let start = self.code(7);
            if start < 24 {
                return 256 + start;
            }
            let eight = start << 1 | self.bits(1);
            match eight {
                0x30..=0xBF => eight - 0x30,
                0xC0..=0xC7 => 280 + eight - 0xC0,
                _ => 144 + (eight << 1 | self.bits(1)) - 0x190,
            }
        }
    }

    fn inflate(stream: &[u8]) -> Vec<u8> {
        const LENGTHS: [(usize, u32); 29] = [
            (3, 0),
            (4, 0),
            (5, 0),
            (6, 0),
            (7, 0),
            (8, 0),
            (9, 0),
            (10, 0),
            (11, 1),
            (13, 1),
            (15, 1),
            (17, 1),
            (19, 2),
            (23, 2),
            (27, 2),
            (31, 2),
            (35, 3),
            (43, 3),
            (51, 3),
            (59, 3),
            (67, 4),
            (83, 4),
            (99, 4),
            (115, 4),
            (131, 5),
            (163, 5),
            (195, 5),
            (227, 5),
            (258, 0),
        ];
        const DISTANCES: [(usize, u32); 22] = [
            (1, 0),
            (2, 0),
            (3, 0),
            (4, 0),
            (5, 1),
            (7, 1),
            (9, 2),
            (13, 2),
            (17, 3),
            (25, 3),
            (33, 4),
            (49, 4),
            (65, 5),
            (97, 5),
            (129, 6),
            (193, 6),
            (257, 7),
            (385, 7),
            (513, 8),
            (769, 8),
            (1025, 9),
            (1537, 9),
        ];
        let mut reader = Reader(&stream[2..], 0);
        assert_eq!(reader.bits(3), 3);
        let mut data = Vec::new();
        loop {
            match reader.symbol() {
                256 => return data,
                symbol if symbol < 256 => data.push(symbol as u8),
                symbol => {
                    let (length, extra) = LENGTHS[symbol as usize - 257];
                    let length = length + reader.bits(extra) as usize;
                    let (distance, extra) = DISTANCES[reader.code(5) as usize];
                    let distance = distance + reader.bits(extra) as usize;
                    (0..length).for_each(|_| data.push(data[data.len() - distance]));
                }
            }
        }
    }

    #[test]
    fn what_was_compressed_comes_back() {
        for line in [1, 2, 3, 5, 100, 751] {
            let noisy = |at: usize| (at * at / 7 % 251) as u8;
            let pictures: [Vec<u8>; 4] = [
                Vec::new(),
                vec![7; 5000],
                (0..5000).map(noisy).collect(),
                (0..5000).map(|at| noisy(at % line + at / 300)).collect(),
            ];
            for picture in pictures {
                assert_eq!(inflate(&zlib(&picture, line)), picture, "{line}");
            }
        }
        for length in 0..600 {
            let run = vec![3; length];
            assert_eq!(inflate(&zlib(&run, 9)), run);
        }
    }

    #[test]
    fn a_picture_has_the_chunks_of_a_png() {
        let file = file(3, &[0, 15, 1, 2, 3, 4], [1, 2, 3]);
        // CRC-32 of IEND, as every PNG file ends.
        assert!(file.starts_with(b"\x89PNG\r\n\x1a\n\0\0\0\x0DIHDR\0\0\0\x03\0\0\0\x02\x04\x03"));
        assert!(file.ends_with(b"IEND\xAE\x42\x60\x82"));
    }
}
