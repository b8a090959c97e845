//! The doorbell page's words that only the card stores.
//!
//! Fed by the engine, when it has nothing else to do, with what each of them should be; feeds the [`Checker`].

use super::{Checker, Details, Place, culprit};
use crate::dma::DoorbellPage;
use crate::dma::owners::Owners;
use dmus_interface::protocol::Page as _;
use dmus_interface::rule::{Check, Code};
use dmus_interface::time::RefTime;
use std::sync::atomic::Ordering;

impl Checker {
    /// Holds words (offset, bytes, value) against the page; those that a driver has stored are put right again, so that
    /// each is told of once.
    pub(crate) fn check_page(
        &self,
        page: &DoorbellPage,
        owners: Option<&Owners>,
        master: RefTime,
        words: impl Iterator<Item = (usize, Word)>,
    ) {
        for (offset, word) in words {
            let (expected, found) = match word {
                Word::Half(value) => (value.into(), u64::from(page.load_u32(offset, Ordering::Relaxed))),
                Word::Whole(value) => (value, page.load_u64(offset, Ordering::Relaxed)),
            };
            if expected == found {
                continue;
            }
            match word {
                Word::Half(value) => page.store_u32(offset, value, Ordering::Relaxed),
                Word::Whole(value) => page.store_u64(offset, value, Ordering::Relaxed),
            }
            self.found(Code::Check(Check::ForeignWord), || Details {
                culprit: owners.and_then(|owners| culprit::of_word(owners, offset)),
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
