//! The pages of guest memory under a stream, which are mapped, unmapped and copied to other frames of a file.
//!
//! Fed by [`super::Remapping`] with what the driver writes; feeds the card's maps. A page that has moved leaves a decoy
//! in its old frame, which must stay as it was left.

use super::{COMPLETIONS, PAGE, PAGES};
use crate::loopback::Loopback;
use crate::soak::Random;
use anyhow::{Context, ensure};
use dmus_card::stats::Stats;
use dmus_driver::Platform;
use dmus_driver::dma::SharedMemory;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Where the card sees the first page.
const IOVA: u64 = 0x7F_0000_0000;
/// Pages of the file that may stand behind these.
pub(super) const FRAMES: usize = 4096;
/// Frames left behind that are watched at once.
const WATCHED: usize = 128;
/// What decoys of the completion ring are filled with.
const PATTERN: u8 = 0xC5;

/// See the module.
pub(super) struct Pages<'p> {
    platform: &'p Loopback,
    stats: Arc<Stats>,
    /// All frames.
    memory: SharedMemory,
    /// Frame of each page.
    frames: [usize; PAGES],
    /// What is mapped: first page to number of pages.
    maps: BTreeMap<usize, usize>,
    /// What the pages hold, as far as it is not the card's to write.
    real: Vec<u8>,
    /// What their places are filled with when they have moved away.
    decoy: Vec<u8>,
    used: Vec<bool>,
    left_behind: VecDeque<(usize, Vec<u8>)>,
    random: Random,
    /// Maps made.
    pub(super) made: usize,
}

impl<'p> Pages<'p> {
    /// Takes all memory of the platform. Nothing is mapped.
    pub(super) fn new(platform: &'p Loopback, stats: Arc<Stats>, seed: u64) -> anyhow::Result<Self> {
        platform.unmap();
        let memory = platform.dma_alloc(FRAMES * PAGE, PAGE)?.memory;
        Ok(Self {
            platform,
            stats,
            memory,
            frames: std::array::from_fn(|page| page),
            maps: BTreeMap::new(),
            real: vec![0; PAGES * PAGE],
            decoy: vec![PATTERN; PAGES * PAGE],
            used: (0..FRAMES).map(|frame| frame < PAGES).collect(),
            left_behind: VecDeque::new(),
            random: Random(seed | 1),
            made: 0,
        })
    }

    /// Reads where the pages are now, mapped or not; not across a page's end.
    pub(super) fn read(&self, at: usize, bytes: &mut [u8]) {
        self.memory.read(self.frames[at / PAGE] * PAGE + at % PAGE, bytes);
    }

    /// Looks at all that was left behind.
    pub(super) fn forget_all(&mut self) -> anyhow::Result<()> {
        while !self.left_behind.is_empty() {
            self.forget_one()?;
        }
        Ok(())
    }

    /// Writes where the pages are now, mapped or not.
    pub(super) fn put(&mut self, at: usize, real: &[u8], decoy: &[u8]) {
        self.decoy[at..at + decoy.len()].copy_from_slice(decoy);
        self.real[at..at + real.len()].copy_from_slice(real);
        let mut done = 0;
        while done < real.len() {
            let (page, offset) = ((at + done) / PAGE, (at + done) % PAGE);
            let piece = (real.len() - done).min(PAGE - offset);
            self.memory.write(self.frames[page] * PAGE + offset, &real[done..done + piece]);
            done += piece;
        }
    }

    /// Pages that are not mapped.
    pub(super) fn holes(&self) -> BTreeSet<usize> {
        let mapped = |page: &usize| self.maps.iter().any(|(first, len)| (*first..first + len).contains(page));
        (0..PAGES).filter(|page| !mapped(page)).collect()
    }

    /// Unmaps a map or all, or maps holes, or both. Gives the pages that were unmapped.
    pub(super) fn remap(&mut self) -> anyhow::Result<BTreeSet<usize>> {
        let what = self.below(8);
        let unmapped: BTreeSet<usize> = match what {
            // As a vIOMMU that is switched off says it.
            0 => {
                let mapped = self.maps.iter().flat_map(|(&first, &len)| first..first + len).collect();
                self.platform.unmap_range(0, 1 << 47);
                self.maps.clear();
                mapped
            }
            1..6 if !self.maps.is_empty() => {
                let which = self.below(self.maps.len());
                let (&first, &len) = self.maps.iter().nth(which).context("no map")?;
                self.platform.unmap_range(address(first * PAGE), (len * PAGE) as u64);
                self.maps.remove(&first);
                (first..first + len).collect()
            }
            _ => BTreeSet::new(),
        };
        // What the card has written so far is part of the page. From here on it writes no more.
        for page in &unmapped {
            let written = (page * PAGE).max(COMPLETIONS)..(page + 1) * PAGE;
            if !written.is_empty() {
                let place = self.frames[*page] * PAGE + written.start % PAGE;
                self.memory.read(place, &mut self.real[written]);
            }
        }
        let leave = 2 + self.below(8);
        match what {
            0 => self.map_holes(leave)?,
            3.. => self.map_holes(0)?,
            _ => {}
        }
        Ok(unmapped)
    }

    /// Maps what is not mapped, as much as possible at once or in small maps; one of `leave` stays out, if that is not
    /// 0.
    pub(super) fn map_holes(&mut self, leave: usize) -> anyhow::Result<()> {
        let most = [1, 4, PAGES][self.below(3)];
        let holes: Vec<usize> = self.holes().into_iter().collect();
        for row in holes.chunk_by(|page, next| page + 1 == *next) {
            let mut row = row;
            while let Some(&page) = row.first() {
                let len = if most == PAGES { row.len() } else { 1 + self.below(row.len().min(most)) };
                row = &row[len..];
                if leave == 0 || self.below(leave) != 0 {
                    self.map(page, len)?;
                }
            }
        }
        Ok(())
    }

    /// Maps pages: where they are, or where they are copied to.
    fn map(&mut self, first: usize, len: usize) -> anyhow::Result<()> {
        let in_row = (first..first + len).all(|page| self.frames[page] == self.frames[first] + page - first);
        if !in_row || self.below(4) != 0 {
            let place = loop {
                let place = self.below(FRAMES - len);
                match self.used[place..place + len].contains(&true) {
                    true if self.left_behind.is_empty() => {}
                    true => self.forget_one()?,
                    false => break place,
                }
            };
            for page in first..first + len {
                self.leave(page, place + page - first)?;
            }
        }
        let before = self.stats.maps.get();
        let offset = self.frames[first] * PAGE;
        self.platform.map_range(address(first * PAGE), (len * PAGE) as u64, offset as u64);
        ensure!(self.stats.maps.get() == before + 1, "the card refused a map of {len} pages at page {first}");
        self.made += 1;
        self.maps.insert(first, len);
        Ok(())
    }

    /// Moves a page that is not mapped, and leaves a decoy behind.
    fn leave(&mut self, page: usize, frame: usize) -> anyhow::Result<()> {
        let old = std::mem::replace(&mut self.frames[page], frame);
        let bytes = page * PAGE..(page + 1) * PAGE;
        self.expect(old, &self.real[bytes.clone()])?;
        self.memory.write(frame * PAGE, &self.real[bytes.clone()]);
        self.memory.write(old * PAGE, &self.decoy[bytes.clone()]);
        self.used[frame] = true;
        self.left_behind.push_back((old, self.decoy[bytes].to_vec()));
        if self.left_behind.len() > WATCHED {
            self.forget_one()?;
        }
        Ok(())
    }

    /// Frees the frame that was left first, which must be as it was left.
    fn forget_one(&mut self) -> anyhow::Result<()> {
        let (frame, decoy) = self.left_behind.pop_front().context("nothing was left behind")?;
        self.expect(frame, &decoy)?;
        self.used[frame] = false;
        Ok(())
    }

    /// The card has not written where it may not.
    fn expect(&self, frame: usize, bytes: &[u8]) -> anyhow::Result<()> {
        let mut found = vec![0; bytes.len()];
        self.memory.read(frame * PAGE, &mut found);
        let changed = found.iter().zip(bytes).position(|(a, b)| a != b);
        ensure!(changed.is_none(), "the card wrote to byte {changed:?} of memory that is not its own to write");
        Ok(())
    }

    /// Pages that are gone, and all but the completion ring, are as the driver wrote them.
    pub(super) fn expect_unwritten(&self) -> anyhow::Result<()> {
        let holes = self.holes();
        for page in 0..PAGES {
            let written = if holes.contains(&page) { PAGES * PAGE } else { COMPLETIONS };
            let end = written.clamp(page * PAGE, (page + 1) * PAGE);
            self.expect(self.frames[page], &self.real[page * PAGE..end]).with_context(|| format!("page {page}"))?;
        }
        Ok(())
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.random.below(limit as u64) as usize
    }
}

/// The address of a place, as the card sees it.
pub(super) fn address(at: usize) -> u64 {
    IOVA + at as u64
}
