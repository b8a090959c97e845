//! Which few of the liberties that a seed draws it takes for a driver to fail.
//!
//! Fed by whoever runs the driver again and again; feeds it with fewer and fewer liberties. First whole kinds are left
//! out, then parts of what remains, smaller and smaller (delta debugging), until none can be spared.

use super::{Liberties, Liberty, Occasions};
use std::collections::BTreeMap;

/// Most runs of a driver: each takes a second.
const MAX_RUNS: u32 = 400;

/// One liberty, at one occasion.
type Taken = (Liberty, u64);

/// The failing liberties with as few of them as possible in `only`. `occasions` says how many there were of each kind
/// when the driver failed, and `fails` whether it does with these.
///
/// # Errors
/// Those of `fails`.
pub fn shrink<E>(
    failing: &Liberties,
    occasions: impl Fn(Liberty) -> u64,
    mut fails: impl FnMut(&Liberties) -> Result<bool, E>,
) -> Result<Liberties, E> {
    let drawn = |liberty: Liberty| (1..=occasions(liberty)).filter(move |at| failing.draw(liberty, *at).is_some());
    let mut taken: Vec<Taken> =
        Liberty::ALL.iter().flat_map(|liberty| drawn(*liberty).map(|at| (*liberty, at))).collect();
    let mut runs = 0;
    let mut still = |taken: &[Taken]| {
        runs += 1;
        if runs > MAX_RUNS { Ok(false) } else { fails(&only(failing.seed, taken)) }
    };
    if !still(&taken)? {
        // What it is that fails does not depend on these alone.
        return Ok(failing.clone());
    }
    for kind in Liberty::ALL {
        let without: Vec<Taken> = taken.iter().copied().filter(|(liberty, _)| liberty != kind).collect();
        if without.len() < taken.len() && still(&without)? {
            taken = without;
        }
    }
    let mut parts = 2;
    while taken.len() > 1 {
        let size = taken.len().div_ceil(parts);
        let chunks: Vec<Vec<Taken>> = taken.chunks(size).map(<[Taken]>::to_vec).collect();
        let mut smaller = None;
        for (number, chunk) in chunks.iter().enumerate() {
            if still(chunk)? {
                smaller = Some((chunk.clone(), 2));
                break;
            }
            let others = chunks.iter().enumerate().filter(|(other, _)| *other != number);
            let rest: Vec<Taken> = others.flat_map(|(_, chunk)| chunk.iter().copied()).collect();
            // Of two parts, the rest of one is the other.
            if chunks.len() > 2 && still(&rest)? {
                smaller = Some((rest, parts.saturating_sub(1).max(2)));
                break;
            }
        }
        match smaller {
            Some((fewer, next)) => (taken, parts) = (fewer, next),
            None if parts >= taken.len() => break,
            None => parts = (parts * 2).min(taken.len()),
        }
    }
    Ok(only(failing.seed, &taken))
}

fn only(seed: u64, taken: &[Taken]) -> Liberties {
    let mut only: BTreeMap<Liberty, Vec<u64>> = BTreeMap::new();
    for (liberty, at) in taken {
        only.entry(*liberty).or_default().push(*at);
    }
    let only = only.into_iter().map(|(liberty, some)| (liberty, Occasions::Some(some))).collect();
    Liberties { seed, only: Some(only) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn takes(liberties: &Liberties, needed: &[Taken]) -> bool {
        needed.iter().all(|(liberty, at)| liberties.draw(*liberty, *at).is_some())
    }

    #[test]
    fn the_few_that_matter_are_found_among_thousands() {
        let failing = Liberties { seed: 7, only: None };
        let of = |liberty| (1..=4000).filter(move |at| Liberties { seed: 7, only: None }.draw(liberty, *at).is_some());
        let needed: Vec<Taken> = [(Liberty::FetchFewer, 3), (Liberty::FetchFewer, 400), (Liberty::SlotPoisoned, 77)]
            .into_iter()
            .filter_map(|(liberty, number)| Some((liberty, of(liberty).nth(number)?)))
            .collect();
        assert_eq!(needed.len(), 3);
        let mut runs = 0;
        let shrunk = shrink(
            &failing,
            |_| 4000,
            |liberties| {
                runs += 1;
                Ok::<_, Infallible>(takes(liberties, &needed))
            },
        );
        let Ok(shrunk) = shrunk;
        assert_eq!(shrunk, only(7, &needed));
        assert!(runs < 250, "{runs} runs");
    }

    #[test]
    fn one_that_fails_only_now_and_then_stays_as_it_is() {
        let failing = Liberties { seed: 7, only: None };
        let Ok(shrunk) = shrink(&failing, |_| 100, |_| Ok::<_, Infallible>(false));
        assert_eq!(shrunk, failing);
    }

    #[test]
    fn the_number_of_runs_has_a_limit() {
        let mut runs = 0;
        let failing = Liberties { seed: 7, only: None };
        let many =
            |liberties: &Liberties| (1..=2_000).filter(|at| liberties.draw(Liberty::Wake, *at).is_some()).count();
        let all = many(&failing);
        let Ok(_) = shrink(
            &failing,
            |_| 2_000,
            |liberties| {
                runs += 1;
                Ok::<_, Infallible>(many(liberties) == all)
            },
        );
        assert!(runs <= MAX_RUNS, "{runs}");
    }
}
