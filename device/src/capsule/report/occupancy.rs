//! Which slots of a pool were the card's, and when: a picture of rows of slots and columns of time, of bounded size.
//!
//! Fed by the slots of a stream as they come and go; feeds the charts.

use super::series::{Cell, Series};

/// Rows of the picture at most. A row has 1, 2, 4 or more slots.
pub(super) const ROWS: u32 = 256;

/// How long the slots of a row were the card's in a column, 100 ns.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Taken(f32);

impl Cell for Taken {
    fn fold(&mut self, later: &Self) {
        self.0 += later.0;
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Occupancy {
    /// Slots of a row: a power of two.
    merged: u32,
    rows: Vec<Series<Taken>>,
}

impl Default for Occupancy {
    fn default() -> Self {
        Self { merged: 1, rows: Vec::new() }
    }
}

impl Occupancy {
    /// A slot was the card's between two times.
    pub(super) fn add(&mut self, slot: u32, from: i64, to: i64) {
        self.make_room(slot);
        let row = (slot / self.merged) as usize;
        if self.rows.len() <= row {
            self.rows.resize_with(row + 1, Series::default);
        }
        let Some(series) = self.rows.get_mut(row) else {
            return;
        };
        // Once for the width, which no later cell of the same slot changes.
        series.at(to);
        let width = series.width();
        let mut time = from.max(0);
        loop {
            let end = (time / width + 1).saturating_mul(width).min(to);
            series.at(time).0 += end.saturating_sub(time).max(0) as f32;
            if end >= to {
                return;
            }
            time = end;
        }
    }

    /// The pool has so many slots.
    pub(super) fn make_room(&mut self, slot: u32) {
        while slot / self.merged >= ROWS {
            self.merged *= 2;
            self.fold_rows();
        }
    }

    fn fold_rows(&mut self) {
        for row in 0..self.rows.len().div_ceil(2) {
            let mut series = std::mem::take(&mut self.rows[2 * row]);
            if let Some(mut other) = self.rows.get_mut(2 * row + 1).map(std::mem::take) {
                let width = series.width().max(other.width());
                series.widen(width);
                other.widen(width);
                for (column, cell) in other.cells().iter().enumerate() {
                    series.at(column as i64 * width).fold(cell);
                }
            }
            self.rows[row] = series;
        }
        self.rows.truncate(self.rows.len().div_ceil(2));
    }

    /// Slots of a row.
    pub(super) fn merged(&self) -> u32 {
        self.merged
    }

    /// Rows that `slots` slots take.
    pub(super) fn rows(&self, slots: u32) -> usize {
        (slots.div_ceil(self.merged) as usize).max(self.rows.len()).min(ROWS as usize)
    }

    /// A level for each column of each of the rows of a pool: how much of its time the row's slots were the card's.
    /// What is more than nothing is at least level 2, so that it is seen.
    pub(super) fn levels(&mut self, slots: u32, width: i64, columns: usize, highest: u8) -> Vec<u8> {
        let rows = self.rows(slots);
        let mut levels = Vec::with_capacity(rows * columns);
        for row in 0..rows {
            let before = levels.len();
            if let Some(series) = self.rows.get_mut(row) {
                series.widen(width);
                let whole = series.width() as f32 * self.merged as f32;
                let level = |taken: &Taken| match taken.0 / whole {
                    share if share <= 0.0 => 0,
                    share => ((share * f32::from(highest)).round() as u8).clamp(2, highest),
                };
                levels.extend(series.cells().iter().take(columns).map(level));
            }
            levels.resize(before + columns, 0);
        }
        levels
    }
}

#[cfg(test)]
mod tests {
    use super::super::series::COLUMNS;
    use super::*;

    const MS: i64 = 10_000;

    #[test]
    fn a_slot_takes_the_columns_of_its_time() {
        let mut occupancy = Occupancy::default();
        occupancy.add(1, MS / 2, 3 * MS);
        occupancy.add(0, 4 * MS, 4 * MS + 1);
        let levels = occupancy.levels(3, MS, 5, 15);
        assert_eq!(levels, [0, 0, 0, 0, 2, 8, 15, 15, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_large_pool_is_merged_into_rows() {
        let mut occupancy = Occupancy::default();
        occupancy.add(0, 0, MS);
        occupancy.add(255, 0, MS);
        occupancy.add(256, 0, 2 * MS);
        assert_eq!((occupancy.merged(), occupancy.rows(300)), (2, 150));
        let levels = occupancy.levels(300, MS, 2, 15);
        assert_eq!((levels.len(), &levels[..2], &levels[254..258]), (300, &[8, 0][..], &[8, 0, 8, 8][..]));
    }

    #[test]
    fn a_picture_is_bounded_for_any_slots_and_times() {
        let mut occupancy = Occupancy::default();
        for slot in [0, u32::MAX, 4095, 77, u32::MAX - 1] {
            occupancy.add(slot, i64::MIN, i64::MAX);
            occupancy.add(slot, i64::MAX, 0);
        }
        assert!(occupancy.rows.len() <= ROWS as usize);
        assert!(occupancy.rows(u32::MAX) <= ROWS as usize);
        assert!(occupancy.levels(u32::MAX, i64::MAX / 1000, COLUMNS, 15).len() <= ROWS as usize * COLUMNS);
    }
}
