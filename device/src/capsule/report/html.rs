//! Text as HTML. All that comes from a recording goes through [`Text`]: its maker may be an attacker.
//!
//! Fed by the sections of the page.

use std::fmt;

/// Of a text, how much is shown.
const MOST: usize = 20_000;

/// Shows a value as text that is nothing but text, in elements and in quoted attributes.
pub(super) struct Text<T>(pub(super) T);

impl<T: fmt::Display> fmt::Display for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Write::write_fmt(&mut Escape { into: f, left: MOST }, format_args!("{}", self.0))
    }
}

struct Escape<'a, 'b> {
    into: &'a mut fmt::Formatter<'b>,
    left: usize,
}

impl fmt::Write for Escape<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.left == 0 {
                return Ok(());
            }
            self.left -= 1;
            match character {
                _ if self.left == 0 => self.into.write_str(" [...]")?,
                '&' => self.into.write_str("&amp;")?,
                '<' => self.into.write_str("&lt;")?,
                '>' => self.into.write_str("&gt;")?,
                '"' => self.into.write_str("&quot;")?,
                '\'' => self.into.write_str("&#39;")?,
                '\n' | '\t' => self.into.write_char(character)?,
                _ if is_unseen(character) => self.into.write_char('\u{FFFD}')?,
                _ => self.into.write_char(character)?,
            }
        }
        Ok(())
    }
}

/// Control characters, and those that change the direction of what follows: a line could say something else than it
/// has.
fn is_unseen(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// A name as that of an anchor.
pub(super) fn anchor(name: &str) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    format!("rule-{}", name.chars().take(64).map(keep).collect::<String>())
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number and its noun, which takes an s.
pub(super) fn count(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// A duration or time for people to read, to 0.1 ms below a minute.
pub(super) fn duration(time: i64) -> String {
    let seconds = time as f64 / 1e7;
    if seconds < 60.0 {
        return format!("{seconds:.4} s");
    }
    let whole = seconds as u64;
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, seconds % 60.0);
    if hours == 0 { format!("{minutes} min {rest:.3} s") } else { format!("{hours} h {minutes} min {rest:.1} s") }
}

/// Milliseconds of a time, with as many digits as mean something.
pub(super) fn millis(time: i64) -> String {
    let millis = time as f64 / 1e4;
    if millis.abs() < 10.0 { format!("{millis:.3} ms") } else { format!("{millis:.1} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let shown = Text("<script>alert('1')</script> & \"x\"\0\u{202E}\n").to_string();
        assert_eq!(shown, "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;x&quot;\u{FFFD}\u{FFFD}\n");
        assert_eq!(Text(5).to_string(), "5");
    }

    #[test]
    fn a_long_text_is_cut() {
        let shown = Text("é".repeat(MOST + 10)).to_string();
        assert!(shown.ends_with("é [...]") && shown.chars().count() < MOST + 10);
        assert_eq!(Text("<".repeat(MOST - 1)).to_string().len(), (MOST - 1) * 4);
    }

    #[test]
    fn an_anchor_has_nothing_that_ends_an_attribute() {
        assert_eq!(anchor("slot-changed"), "rule-slot-changed");
        assert_eq!(anchor("\"><b>é"), "rule----b--");
        assert_eq!(anchor(&"x".repeat(100)).len(), 69);
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!([grouped(0), grouped(999), grouped(1000), grouped(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(duration(123_456_789), "12.3457 s");
        assert_eq!(duration(3_723 * 10_000_000), "1 h 2 min 3.0 s");
        assert_eq!([millis(12_345), millis(1_234_500)], ["1.234 ms", "123.5 ms"]);
        assert_eq!([count(1, "client"), count(2_000, "client")], ["1 client", "2,000 clients"]);
    }
}
