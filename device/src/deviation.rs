//! What a card does otherwise than it usually would: liberties that the data sheet leaves it, drawn from a seed, and
//! faults, which no card may have, by a plan.
//!
//! Fed by the command line or a capsule with a [`Plan`]; asked by the engine, the streams and the PCI function at each
//! occasion. What happens at an occasion depends on the plan, the kind and the number of the occasion alone, so that a
//! run is the same each time, a replay does what the recorded card did, and single occasions can be left out.

mod memory;
mod shrink;

pub(crate) use memory::FaultyMemory;
pub use shrink::shrink;

use dmus_interface::pci::VECTORS;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// One kind of fault or liberty, of those that a [`Plan`] names.
macro_rules! kinds {
    ($(#[$doc:meta])* $name:ident { $($(#[$kind_doc:meta])* $kind:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$kind_doc])* #[serde(rename = $text)] $kind),*
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The name in a plan.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $text),*
                }
            }
        }
    };
}

kinds! {
    /// A fault that the card has on purpose. What its occasions are, which are counted from 1, is said of each: a
    /// *fetch* is a section's worth of submissions of a stream, a *publication* a batch of completions of a stream.
    Fault {
        /// An interrupt is not raised. Each that is to be raised.
        InterruptLost = "interrupt-lost",
        /// An interrupt is raised only with the next one. Each that is to be raised.
        InterruptLate = "interrupt-late",
        /// An interrupt is raised twice. Each that is to be raised.
        InterruptDoubled = "interrupt-doubled",
        /// A completion is published after those of its batch, by itself. Each completion.
        CompletionLate = "completion-late",
        /// A completion is published twice. Each completion.
        CompletionDoubled = "completion-doubled",
        /// A completion names another slot. Each completion.
        CompletionSlot = "completion-slot",
        /// A completion says discarded, or presented if it was. Each completion.
        CompletionStatus = "completion-status",
        /// A submission that is right is refused. Each that is fetched.
        FetchRefused = "fetch-refused",
        /// The card is gone: from there on all of its registers read as all ones, and it does nothing. Each access to a
        /// register.
        Removed = "removed",
        /// The clocks stand still from there on. Each time that they are published.
        ClockStands = "clock-stands",
        /// The clocks are a minute ahead from there on. Each time that they are published.
        ClockJumps = "clock-jumps",
        /// The clocks run at half their speed from there on. Each time that they are published.
        ClockSlow = "clock-slow",
        /// The card resets itself. Each submission that is fetched.
        Reset = "reset",
        /// The rings cannot be reached. Each fetch and each publication.
        DmaError = "dma-error",
    }
}

kinds! {
    /// A liberty that the data sheet leaves a card, with its occasions.
    Liberty {
        /// The doorbell page is looked at later. Each time that it could be.
        FetchLater = "fetch-later",
        /// Fewer submissions are fetched at once than there are. Each fetch of more than one.
        FetchFewer = "fetch-fewer",
        /// Completions of a render stream are in another order. Each publication of more than one, if none is of a
        /// fragment or a refusal.
        CompletionOrder = "completion-order",
        /// What is completed as it is fetched is published later than it could be. Each publication.
        PublishLater = "publish-later",
        /// A vector is raised later than it could be, perhaps with others. Each that is to be raised.
        InterruptLater = "interrupt-later",
        /// Another vector is raised, too, without news. Each that is raised.
        InterruptSpurious = "interrupt-spurious",
        /// A slot of a render stream that goes home is overwritten, but for bReserved and cbStruct. Each completion.
        SlotPoisoned = "slot-poisoned",
        /// The card goes to sleep at once. Each time that it finds nothing to do.
        Sleep = "sleep",
        /// The card wakes without a reason. Each time that it sleeps until it is rung.
        Wake = "wake",
    }
}

/// What a card is to do otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The occasions of each kind at which the card has that fault.
    #[serde(default)]
    pub faults: Faults,
    /// The liberties that it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liberties: Option<Liberties>,
}

/// Numbers of occasions, from 1, by the kind of fault.
pub type Faults = BTreeMap<Fault, Occasions>;

/// One occasion or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Occasions {
    /// That one.
    One(u64),
    /// Those.
    Some(Vec<u64>),
}

impl Occasions {
    /// All of them.
    pub fn all(&self) -> &[u64] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Some(some) => some,
        }
    }

    /// Whether the occasion is among them.
    pub fn contains(&self, occasion: u64) -> bool {
        self.all().contains(&occasion)
    }
}

/// Liberties, drawn from a seed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Liberties {
    /// What all draws depend on.
    pub seed: u64,
    /// Only these of them are taken; without it, all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<BTreeMap<Liberty, Occasions>>,
}

/// One occasion of so many is taken.
const ONE_OF: u64 = 8;

impl Liberties {
    /// Those that are named, each at one occasion; none if all are drawn.
    pub fn taken(&self) -> Vec<(Liberty, u64)> {
        let named = self.only.iter().flatten();
        named.flat_map(|(liberty, occasions)| occasions.all().iter().map(|at| (*liberty, *at))).collect()
    }

    /// What is drawn at an occasion: nothing if the liberty is not taken there, and else a number that says how.
    pub fn draw(&self, liberty: Liberty, occasion: u64) -> Option<u64> {
        let drawn = mixed(mixed(self.seed ^ (liberty as u64) << 56) ^ occasion);
        let taken = match &self.only {
            None => drawn.is_multiple_of(ONE_OF),
            Some(only) => only.get(&liberty).is_some_and(|occasions| occasions.contains(occasion)),
        };
        taken.then_some(drawn / ONE_OF)
    }
}

/// A number whose bits all depend on all bits of another: the finalizer of SplitMix64.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ number >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ number >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ number >> 31
}

/// A plan that is carried out, and how far it is.
#[derive(Debug)]
pub struct Deviations {
    plan: Plan,
    faults: [AtomicU64; Fault::ALL.len()],
    liberties: [AtomicU64; Liberty::ALL.len()],
    /// The card is gone.
    removed: AtomicBool,
    /// Vectors that are raised with the next ones, and at the next turn.
    late: AtomicU32,
    deferred: AtomicU32,
    /// Of those, the ones that waited.
    waited: AtomicU32,
    /// What the driver is told next is none of its mistakes.
    pretends: AtomicBool,
    /// The streams that a fault has left otherwise than their driver knows.
    excused: AtomicU32,
    /// The card is to reset itself.
    resets: AtomicBool,
}

/// A stream in a mask.
fn bit(stream: usize) -> u32 {
    1u32.checked_shl(stream as u32).unwrap_or(0)
}

impl Deviations {
    /// One that begins.
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            faults: Default::default(),
            liberties: Default::default(),
            removed: AtomicBool::new(false),
            late: AtomicU32::new(0),
            deferred: AtomicU32::new(0),
            waited: AtomicU32::new(0),
            pretends: AtomicBool::new(false),
            excused: AtomicU32::new(0),
            resets: AtomicBool::new(false),
        }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The next occasion of a fault: whether the card has it.
    pub(crate) fn has(&self, fault: Fault) -> bool {
        let occasion = self.faults[fault as usize].fetch_add(1, Ordering::Relaxed) + 1;
        self.plan.faults.get(&fault).is_some_and(|occasions| occasions.contains(occasion))
    }

    /// The next occasion of a liberty: what is drawn if the card takes it.
    pub(crate) fn takes(&self, liberty: Liberty) -> Option<u64> {
        let liberties = self.plan.liberties.as_ref()?;
        let occasion = self.liberties[liberty as usize].fetch_add(1, Ordering::Relaxed) + 1;
        liberties.draw(liberty, occasion)
    }

    /// Whether the plan has faults.
    pub(crate) fn has_faults(&self) -> bool {
        !self.plan.faults.is_empty()
    }

    /// A register is accessed: whether the card is gone.
    pub(crate) fn removed_by_access(&self) -> bool {
        if self.has(Fault::Removed) {
            self.removed.store(true, Ordering::Relaxed);
        }
        self.is_removed()
    }

    /// Whether the card is gone.
    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    /// The client has gone: the next one finds a card.
    pub(crate) fn come_back(&self) {
        self.removed.store(false, Ordering::Relaxed);
    }

    /// What the driver is told next is none of its mistakes.
    pub(crate) fn pretend(&self) {
        self.pretends.store(true, Ordering::Relaxed);
    }

    /// Whether what the driver is told of a stream is none of its mistakes: what follows from a fault is not, until the
    /// driver creates the stream anew.
    pub(crate) fn excuses(&self, stream: usize) -> bool {
        let bit = bit(stream);
        if self.pretends.swap(false, Ordering::Relaxed) {
            self.excused.fetch_or(bit, Ordering::Relaxed);
        }
        self.excused.load(Ordering::Relaxed) & bit != 0
    }

    /// A stream is created.
    pub(crate) fn created(&self, stream: usize) {
        self.excused.fetch_and(!bit(stream), Ordering::Relaxed);
    }

    /// The card is to reset itself.
    fn reset_soon(&self) {
        self.resets.store(true, Ordering::Relaxed);
    }

    /// Whether the card is to reset itself now. Said once.
    pub(crate) fn takes_reset(&self) -> bool {
        let resets = self.resets.swap(false, Ordering::Relaxed);
        if resets {
            self.excused.store(u32::MAX, Ordering::Relaxed);
        }
        resets
    }

    /// The card is as after a reset; occasions are counted on.
    pub(crate) fn forget(&self) {
        for vectors in [&self.late, &self.deferred, &self.waited] {
            vectors.store(0, Ordering::Relaxed);
        }
        self.resets.store(false, Ordering::Relaxed);
    }

    /// Which of these vectors are raised now, and which of them twice.
    pub(crate) fn raised(&self, vectors: u32) -> (u32, u32) {
        let (mut now, mut twice, waited) = (0, 0, self.waited.swap(0, Ordering::Relaxed));
        for vector in (0..u32::BITS).map(|vector| 1 << vector).filter(|vector| vectors & vector != 0) {
            if self.has(Fault::InterruptLost) {
                continue;
            }
            if self.has(Fault::InterruptLate) {
                self.late.fetch_or(vector, Ordering::Relaxed);
                continue;
            }
            if self.takes(Liberty::InterruptLater).is_some() && waited & vector == 0 {
                self.defer(vector);
                continue;
            }
            now |= vector;
            if self.has(Fault::InterruptDoubled) {
                twice |= vector;
            }
            if let Some(drawn) = self.takes(Liberty::InterruptSpurious) {
                now |= 1 << (drawn % u64::from(VECTORS));
            }
        }
        if now != 0 {
            now |= self.late.swap(0, Ordering::Relaxed);
        }
        (now, twice)
    }

    /// Whether vectors are put off.
    pub(crate) fn has_deferred(&self) -> bool {
        self.deferred.load(Ordering::Relaxed) != 0
    }

    /// These vectors are raised at the next turn.
    pub(crate) fn defer(&self, vectors: u32) {
        self.deferred.fetch_or(vectors, Ordering::Relaxed);
    }

    /// The vectors that were put off until now.
    pub(crate) fn take_deferred(&self) -> u32 {
        let deferred = self.deferred.swap(0, Ordering::Relaxed);
        // Once is enough.
        self.waited.store(deferred, Ordering::Relaxed);
        deferred
    }

    /// How many occasions there were of each kind so far: two objects of numbers by names.
    pub fn occasions(&self) -> Value {
        let count = |counted: &AtomicU64| Value::from(counted.load(Ordering::Relaxed));
        let faults = Fault::ALL.iter().zip(&self.faults).map(|(kind, counted)| (kind.name().into(), count(counted)));
        let liberties =
            Liberty::ALL.iter().zip(&self.liberties).map(|(kind, counted)| (kind.name().into(), count(counted)));
        Value::Object(Map::from_iter([
            ("faults".to_owned(), Value::Object(faults.collect())),
            ("liberties".to_owned(), Value::Object(liberties.collect())),
        ]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_had_at_its_occasions_only_and_those_are_counted() -> anyhow::Result<()> {
        let plan: Plan = toml::from_str("[faults]\ninterrupt-lost = 2\ncompletion-late = [1, 3]")?;
        let deviations = Deviations::new(plan);
        let had = |fault| [(); 4].map(|()| deviations.has(fault));
        assert_eq!(had(Fault::InterruptLost), [false, true, false, false]);
        assert_eq!(had(Fault::CompletionLate), [true, false, true, false]);
        assert_eq!(had(Fault::Reset), [false; 4]);
        assert_eq!(deviations.occasions()["faults"]["reset"], 4);
        assert_eq!(deviations.occasions()["faults"]["removed"], 0);
        Ok(())
    }

    #[test]
    fn what_is_drawn_depends_on_seed_kind_and_occasion_and_can_be_left_out() {
        let of = |seed, only| Liberties { seed, only };
        let drawn = |seed, liberty| (1..=800).map(move |occasion| of(seed, None).draw(liberty, occasion));
        let taken = drawn(1, Liberty::Sleep).flatten().count();
        assert!((50..200).contains(&taken), "{taken} of 800");
        assert!(drawn(1, Liberty::Sleep).ne(drawn(2, Liberty::Sleep)));
        assert!(drawn(1, Liberty::Sleep).ne(drawn(1, Liberty::Wake)));
        let first = (1..).find(|occasion| of(1, None).draw(Liberty::Sleep, *occasion).is_some()).unwrap_or(0);
        let only = of(1, Some(BTreeMap::from([(Liberty::Sleep, Occasions::One(first))])));
        assert_eq!(only.draw(Liberty::Sleep, first), of(1, None).draw(Liberty::Sleep, first));
        assert_eq!((1..=800).filter_map(|occasion| only.draw(Liberty::Sleep, occasion)).count(), 1);
        assert_eq!((1..=800).filter_map(|occasion| only.draw(Liberty::Wake, occasion)).count(), 0);
    }
}
