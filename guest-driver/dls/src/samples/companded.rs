//! G.711: eight bits that stand for thirteen or fourteen, finer near silence.

/// A-law: every second bit is inverted; a sign, three bits of exponent, four of mantissa.
pub(super) fn a_law(byte: u8) -> i16 {
    let byte = byte ^ 0x55;
    let (exponent, mantissa) = (byte >> 4 & 7, i16::from(byte & 15));
    let level = match exponent {
        0 => (mantissa << 4) + 8,
        _ => ((mantissa << 4) + 0x108) << (exponent - 1),
    };
    if byte & 0x80 != 0 { level } else { -level }
}

/// mu-law: all bits are inverted; a sign, three bits of exponent, four of mantissa, and a bias of 33 (132 of 16 bits).
pub(super) fn mu_law(byte: u8) -> i16 {
    let byte = !byte;
    let (exponent, mantissa) = (byte >> 4 & 7, i16::from(byte & 15));
    let level = (((mantissa << 3) + 0x84) << exponent) - 0x84;
    if byte & 0x80 != 0 { -level } else { level }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_laws_give_the_levels_of_g_711() {
        // The smallest and largest of each sign.
        assert_eq!([0xd5, 0x55, 0xaa, 0x2a].map(a_law), [8, -8, 32_256, -32_256]);
        assert_eq!([0xff, 0x7f, 0x80, 0x00].map(mu_law), [0, 0, 32_124, -32_124]);
        // Each code is larger than the one before it.
        assert!((1..128u8).all(|code| a_law(code ^ 0xd5) > a_law((code - 1) ^ 0xd5)));
        assert!((1..128u8).all(|code| mu_law(!code) > mu_law(!(code - 1))));
    }
}
