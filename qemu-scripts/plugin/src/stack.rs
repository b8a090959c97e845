//! The callers of an instruction, by the chain of frame pointers.
//!
//! Fed with a vCPU's frame pointer and its memory; feeds records with return addresses.

use dmus_interface::owners::MAX_CALLERS;

/// How far apart two frames of one stack can be.
const MAX_FRAME: u64 = 1 << 20;

/// Follows the chain from `frame_pointer`; `read` gives the 16 bytes at an address: the next frame pointer and a return
/// address. It ends at a frame that does not lie above the one before: code without frame pointers leaves such.
/// Gives the return addresses and their count.
pub(crate) fn callers(
    frame_pointer: u64,
    mut read: impl FnMut(u64) -> Option<(u64, u64)>,
) -> ([u64; MAX_CALLERS], usize) {
    let (mut found, mut count) = ([0; MAX_CALLERS], 0);
    let mut frame = frame_pointer;
    while count < MAX_CALLERS && frame != 0 && frame.is_multiple_of(8) {
        let Some((next, caller)) = read(frame).filter(|(_, caller)| *caller != 0) else {
            break;
        };
        found[count] = caller;
        count += 1;
        if next <= frame || next - frame > MAX_FRAME {
            break;
        }
        frame = next;
    }
    (found, count)
}

/// Words at the stack pointer that may be what a function pushed before it had a frame.
const PUSHED: u64 = 8;

/// The return address of a function that has no frame (yet), which compilers allow those that call nothing: a word at
/// the stack pointer that lies behind a call of just this function. `None` where the chain begins with its caller.
/// `call_target` says which address the direct call before a return address is of, `word` gives a word of memory.
pub(crate) fn frameless_caller(
    function: u64,
    stack_pointer: u64,
    first_caller: Option<u64>,
    call_target: impl Fn(u64) -> Option<u64>,
    word: impl Fn(u64) -> Option<u64>,
) -> Option<u64> {
    let calls_it = |caller: &u64| call_target(*caller) == Some(function);
    if first_caller.as_ref().is_some_and(calls_it) {
        return None;
    }
    (0..PUSHED).map_while(|i| word(stack_pointer.wrapping_add(i * 8))).find(calls_it)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn found(frames: &[(u64, (u64, u64))]) -> Vec<u64> {
        let memory: HashMap<_, _> = frames.iter().copied().collect();
        let (found, count) = callers(0x1000, |address| memory.get(&address).copied());
        found[..count].to_vec()
    }

    #[test]
    fn a_chain_is_followed_to_its_end_or_to_nonsense() {
        assert_eq!(found(&[(0x1000, (0x1040, 5)), (0x1040, (0, 6))]), [5, 6]);
        // Backwards, in a circle, odd, far away, unreadable, without a return address.
        assert_eq!(found(&[(0x1000, (0x0F00, 5)), (0x0F00, (0, 6))]), [5]);
        assert_eq!(found(&[(0x1000, (0x1000, 5))]), [5]);
        assert_eq!(found(&[(0x1000, (0x1041, 5)), (0x1041, (0, 6))]), [5]);
        assert_eq!(found(&[(0x1000, (0x90_0000, 5)), (0x90_0000, (0, 6))]), [5]);
        assert_eq!(found(&[]), [0; 0]);
        assert_eq!(found(&[(0x1000, (0x1040, 0))]), [0; 0]);
    }

    #[test]
    fn a_function_without_a_frame_is_called_from_where_a_call_of_it_is() {
        // At 0x20 and 0x30 are calls of 0x100, at 0x40 one of something else.
        let target = |caller| [(0x20, 0x100), (0x30, 0x100), (0x40, 0x200)].iter().find(|c| c.0 == caller).map(|c| c.1);
        let stack = |words: &'static [u64]| move |address: u64| words.get((address - 0x1000) as usize / 8).copied();
        let found = |first, words| frameless_caller(0x100, 0x1000, first, target, stack(words));
        assert_eq!(found(Some(0x40), &[7, 0x40, 0x30]), Some(0x30));
        assert_eq!(found(None, &[0x20]), Some(0x20));
        // It has a frame, or nothing fits.
        assert_eq!(found(Some(0x20), &[0x30]), None);
        assert_eq!(found(Some(0x40), &[7, 0x40]), None);
        assert_eq!(found(None, &[0, 0, 0, 0, 0, 0, 0, 0, 0x20]), None);
    }

    #[test]
    fn a_chain_without_an_end_is_cut() {
        let (_, count) = callers(8, |address| Some((address + 8, 1)));
        assert_eq!(count, MAX_CALLERS);
    }
}
