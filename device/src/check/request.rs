//! Whether a command's request stays as it was when the opcode was written.
//!
//! Fed with the beginning of the request as it was at the write to COMMAND, and as the card carries it out, which in
//! virtual time may be much later; feeds the [`Checker`]. The card judges the latter, as one that does not check does.

use super::describe::{Place, hex};
use super::{Checker, Details};
use dmus_interface::command::Opcode;
use dmus_interface::rule::{Check, Code};
use dmus_interface::time::RefTime;

/// Bytes of a request that are compared at most: the register's write waits for the copy.
pub(crate) const COMPARED: usize = 4096;

/// Bytes that a report shows from the first that differs on.
const SHOWN: usize = 32;

impl Checker {
    /// Compares a request with the beginning of what was there when it was made.
    pub(crate) fn check_request(&self, opcode: Opcode, then: &[u8], now: &[u8], master: RefTime) {
        let Some(from) = then.iter().zip(now).position(|(then, now)| then != now) else {
            return;
        };
        let show = |bytes: &[u8]| {
            let shown = bytes.iter().copied().skip(from).take(SHOWN).collect::<Vec<u8>>();
            Some(format!("from byte {from} of the request of {opcode:?} on: {}", hex(&shown)))
        };
        self.found(Code::Check(Check::RequestChanged), || Details {
            expected: show(then),
            found: show(now.get(..then.len()).unwrap_or(now)),
            ..Details::at(Place::default(), master)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_compared_as_far_as_it_was_copied() {
        let checker = Checker::new(&[], None);
        let check = |then: &[u8], now: &[u8]| {
            checker.check_request(Opcode::SetVolume, then, now, RefTime::ZERO);
            checker.counts().iter().map(|(rule, count)| (rule.name, *count)).collect::<Vec<_>>()
        };
        for (then, now) in [(&[][..], &[1, 2][..]), (&[1], &[1, 2]), (&[1, 2], &[1, 2]), (&[1, 2], &[1])] {
            assert_eq!(check(then, now), [], "{then:?}, {now:?}");
        }
        assert_eq!(check(&[1, 2], &[1, 3, 4]), [("request-changed", 1)]);
    }
}
