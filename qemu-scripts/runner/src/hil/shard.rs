//! Shards: which part of the cases one machine of several runs.
//!
//! Fed by the command line or by the environment of whatever distributes the work; feeds the command, which leaves the
//! other cases to others. A case is in the shard that a hash of its name says, so that none moves when another is
//! added.

use crate::exit::{Exit, Failure};
use sha2::{Digest, Sha256};
use std::str::FromStr;

/// Part `index` of `count`, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    pub(crate) index: u32,
    pub(crate) count: u32,
}

impl Shard {
    fn new(index: u32, count: u32) -> Result<Self, String> {
        match (1..=count).contains(&index) {
            true => Ok(Self { index, count }),
            false => Err(format!("there is no shard {index} of {count}: they are counted from 1")),
        }
    }

    /// Whether a case is in it.
    pub(crate) fn has(self, name: &str) -> bool {
        let digest = Sha256::digest(name.as_bytes());
        let number = digest.iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        number % u64::from(self.count) == u64::from(self.index - 1)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (index, count) = text.split_once('/').ok_or("a shard is INDEX/COUNT, as in 1/4, or env")?;
        let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is no number of a shard"));
        Self::new(number(index)?, number(count)?)
    }
}

/// What the command line says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sharding {
    Given(Shard),
    FromEnvironment,
}

impl FromStr for Sharding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "env" => Ok(Self::FromEnvironment),
            text => text.parse().map(Self::Given),
        }
    }
}

impl Sharding {
    pub(crate) fn shard(self) -> Result<Shard, Failure> {
        match self {
            Self::Given(shard) => Ok(shard),
            Self::FromEnvironment => from_environment(|name| std::env::var(name).ok())
                .map_err(|what| Failure::new(Exit::Usage, format!("--shard env: {what}"))),
        }
    }
}

/// Names of what distributes work: the variables of the index, of the first one (or what it is), and of the count.
const ENGINES: [(&str, &str, u32, &str); 3] = [
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", 0, "SLURM_ARRAY_TASK_COUNT"),
    ("CI_NODE_INDEX", "", 1, "CI_NODE_TOTAL"),
    ("JOB_COMPLETION_INDEX", "", 0, "JOB_COMPLETIONS"),
];

fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Shard, String> {
    let number = |name: &str, text: String| text.parse::<u32>().map_err(|_| format!("{name} is {text:?}, no number"));
    for (index, first, usual, count) in ENGINES {
        let Some(at) = variable(index) else {
            continue;
        };
        let all = variable(count).ok_or_else(|| format!("{index} is set, and {count} is not"))?;
        let first = variable(first).map_or(Ok(usual), |text| number(first, text))?;
        let (at, all) = (number(index, at)?, number(count, all)?);
        let at = at.checked_sub(first).ok_or_else(|| format!("{index} is {at}, less than {first}"))?;
        return Shard::new(at.saturating_add(1), all).map_err(|what| format!("{index} and {count}: {what}"));
    }
    let names = ENGINES.map(|(index, _, _, count)| format!("{index} with {count}")).join(", ");
    Err(format!("none of these is set: {names}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_a_thousand_cases_is_in_one_shard_of_eight() {
        let mut sizes = [0; 8];
        for case in 0..1000 {
            let name = format!("song,seed={case}");
            let of = (1..=8).filter(|index| Shard { index: *index, count: 8 }.has(&name)).collect::<Vec<_>>();
            assert_eq!(of.len(), 1, "{name} is in {of:?}");
            sizes[of[0] as usize - 1] += 1;
        }
        assert!(sizes.iter().all(|size| (80..=170).contains(size)), "{sizes:?}");
    }

    #[test]
    fn a_shard_is_read_from_the_command_line_and_from_the_environment() {
        assert_eq!("2/4".parse(), Ok(Shard { index: 2, count: 4 }));
        for (wrong, why) in [("5/4", "no shard 5 of 4"), ("0/4", "no shard 0"), ("1/0", "no shard 1 of 0")] {
            assert!(wrong.parse::<Shard>().is_err_and(|error| error.contains(why)), "{wrong}");
        }
        assert!("x/4".parse::<Shard>().is_err() && "3".parse::<Shard>().is_err());
        let of = |variables: &[(&str, &str)]| {
            from_environment(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).into()))
        };
        let second = Ok(Shard { index: 2, count: 3 });
        let slurm = [("SLURM_ARRAY_TASK_ID", "8"), ("SLURM_ARRAY_TASK_MIN", "7"), ("SLURM_ARRAY_TASK_COUNT", "3")];
        assert_eq!(of(&slurm), second);
        assert_eq!(of(&[("CI_NODE_INDEX", "2"), ("CI_NODE_TOTAL", "3")]), second);
        assert_eq!(of(&[("JOB_COMPLETION_INDEX", "1"), ("JOB_COMPLETIONS", "3")]), second);
        for variables in [
            &[][..],
            &[("CI_NODE_INDEX", "2")],
            &[("CI_NODE_INDEX", "4"), ("CI_NODE_TOTAL", "3")],
            &[("CI_NODE_INDEX", "0"), ("CI_NODE_TOTAL", "3")],
            &[("JOB_COMPLETION_INDEX", "x"), ("JOB_COMPLETIONS", "3")],
        ] {
            assert!(of(variables).is_err(), "{variables:?}");
        }
    }
}
