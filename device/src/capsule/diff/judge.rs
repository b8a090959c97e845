//! What became of the steps at a difference: lost, doubled, added, in another order, changed, or cut off.
//!
//! Fed with the steps of both runs from there on; feeds the words.

use super::Kind;
use super::passes::AHEAD;
use super::step::Placed;

/// Steps that have to be the same again for the runs to count as together.
const TOGETHER: usize = 3;

/// How the steps of two runs, of which the first differ, come together again.
pub(super) fn judge(before: &[&Placed], a: &[&Placed], b: &[&Placed]) -> Kind {
    let [before, a, b] = [before, a, b].map(|steps| steps.iter().map(|placed| placed.digest).collect::<Vec<u64>>());
    match (a.is_empty(), b.is_empty()) {
        (false, true) => return Kind::Lost(a.len()),
        (true, false) if doubles(&before, &b) => return Kind::Doubled(b.len()),
        (true, _) => return Kind::Added(b.len()),
        _ => {}
    }
    let is_cut = |steps: &[u64]| steps.len() as u64 == AHEAD;
    let to_end = !is_cut(&a) && !is_cut(&b);
    let together = |a: Option<&[u64]>, b: Option<&[u64]>| a.zip(b).is_some_and(|(a, b)| together(a, b, to_end));
    if let Some(count) = reordered(&a, &b, to_end) {
        return Kind::Reordered(count);
    }
    let longest = a.len().max(b.len());
    for count in 1..=longest {
        if together(a.get(count..), b.get(count..)) {
            return Kind::Changed(count);
        }
        if together(a.get(count..), Some(&b)) {
            return Kind::Lost(count);
        }
        if together(Some(&a), b.get(count..)) {
            return match doubles(&before, &b[..count]) {
                true => Kind::Doubled(count),
                false => Kind::Added(count),
            };
        }
    }
    Kind::Unlike
}

/// Whether what follows is the same: a few steps, or both up to their ends, if these are known.
fn together(a: &[u64], b: &[u64], to_end: bool) -> bool {
    let common = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    common >= TOGETHER || to_end && common == a.len() && common == b.len()
}

/// Whether these steps are once more those before them.
fn doubles(before: &[u64], steps: &[u64]) -> bool {
    before.ends_with(steps)
}

/// How many steps are the same in another order, if the runs are together behind them.
fn reordered(a: &[u64], b: &[u64], to_end: bool) -> Option<usize> {
    (2..=a.len().min(b.len())).find(|count| {
        let [mut of_a, mut of_b] = [a[..*count].to_vec(), b[..*count].to_vec()];
        of_a.sort_unstable();
        of_b.sort_unstable();
        of_a == of_b && together(&a[*count..], &b[*count..], to_end)
    })
}
