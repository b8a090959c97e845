//! The doorbell page's words that only the card stores.
//!
//! Fed by the engine, when it has nothing else to do, with what each of them should be; feeds the [`Checker`].

use super::{Checker, Details, Place};
use crate::dma::DoorbellPage;
use crate::dma::owners::StoreRecord;
use dmus_interface::protocol::Page as _;
use dmus_interface::rule::{Check, Code};
use dmus_interface::time::RefTime;
use std::sync::atomic::Ordering;

impl Checker {
    /// Holds words (offset, value) against the page, which `load` loads from; those that a driver has stored are put
    /// right again, so that each is told of once, with its `culprit`.
    pub(crate) fn check_page(
        &self,
        page: &DoorbellPage,
        master: RefTime,
        words: &[(usize, Word)],
        load: impl Fn(usize, bool) -> u64,
        culprit: impl Fn(usize) -> Option<StoreRecord>,
    ) {
        for &(offset, word) in words {
            let (expected, wide) = match word {
                Word::Half(value) => (value.into(), false),
                Word::Whole(value) => (value, true),
            };
            let found = load(offset, wide);
            if expected == found {
                continue;
            }
            match word {
                Word::Half(value) => page.store_u32(offset, value, Ordering::Relaxed),
                Word::Whole(value) => page.store_u64(offset, value, Ordering::Relaxed),
            }
            self.found(Code::Check(Check::ForeignWord), || Details {
                culprit: culprit(offset),
                expected: Some(format!("{expected:#x}")),
                found: Some(format!("{found:#x}")),
                ..Details::at(Place { word: Some(offset), ..Place::default() }, master)
            });
        }
    }
}

/// What a word should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Word {
    /// 4 bytes.
    Half(u32),
    /// 8 bytes.
    Whole(u64),
}

impl Word {
    /// Whether the page has another one there.
    pub(crate) fn is_wrong(self, page: &DoorbellPage, offset: usize) -> bool {
        match self {
            Self::Half(value) => page.load(offset, false) != u64::from(value),
            Self::Whole(value) => page.load(offset, true) != value,
        }
    }
}
