//! What is kept of a run over its time: cells of equal width, which double theirs when the run outgrows them.
//!
//! Fed by whoever gathers a figure; feeds the charts. A run of any length takes the same memory.

/// Cells of a series at most. Even, so that they fold in pairs.
pub(super) const COLUMNS: usize = 1500;

/// Width of a cell in the beginning, 100 ns.
const FIRST_WIDTH: i64 = 10_000;

/// What a cell has of its time.
pub(super) trait Cell: Clone + Default {
    /// Takes over what the next cell has: both become one.
    fn fold(&mut self, later: &Self);
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Series<T> {
    width: i64,
    cells: Vec<T>,
}

impl<T> Default for Series<T> {
    fn default() -> Self {
        Self { width: FIRST_WIDTH, cells: Vec::new() }
    }
}

impl<T: Cell> Series<T> {
    /// The cell of a time, which counts from the beginning of the run.
    pub(super) fn at(&mut self, time: i64) -> &mut T {
        let mut column = self.column(time);
        while column >= COLUMNS {
            self.double();
            column = self.column(time);
        }
        if self.cells.len() <= column {
            self.cells.resize(column + 1, T::default());
        }
        &mut self.cells[column]
    }

    /// Width of a cell, 100 ns.
    pub(super) fn width(&self) -> i64 {
        self.width
    }

    /// All cells up to the last that has something.
    pub(super) fn cells(&self) -> &[T] {
        &self.cells
    }

    /// Makes the cells as wide as those of an axis, if they are not wider.
    pub(super) fn widen(&mut self, width: i64) {
        while self.width < width {
            self.double();
        }
    }

    fn column(&self, time: i64) -> usize {
        usize::try_from(time.max(0) / self.width).unwrap_or(usize::MAX)
    }

    fn double(&mut self) {
        self.width *= 2;
        for column in 0..self.cells.len().div_ceil(2) {
            let mut cell = std::mem::take(&mut self.cells[2 * column]);
            if let Some(later) = self.cells.get(2 * column + 1) {
                cell.fold(later);
            }
            self.cells[column] = cell;
        }
        self.cells.truncate(self.cells.len().div_ceil(2));
    }
}

/// The time axis that all charts share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    /// Of a column, 100 ns.
    pub(super) width: i64,
    /// How many there are.
    pub(super) columns: usize,
}

impl Axis {
    /// Of a run that took so long.
    pub(super) fn new(length: i64) -> Self {
        let mut width = FIRST_WIDTH;
        while length / width >= COLUMNS as i64 {
            width *= 2;
        }
        Self { width, columns: (length.max(0) / width) as usize + 1 }
    }

    /// Time at its end, 100 ns.
    pub(super) fn end(&self) -> i64 {
        self.width.saturating_mul(self.columns as i64)
    }

    /// Where a time is, in per cent of the axis.
    pub(super) fn percent(&self, time: i64) -> f64 {
        (time as f64 / self.end() as f64 * 100.0).clamp(0.0, 100.0)
    }
}

/// Time from the beginning of the run: where the master clock begins anew, it goes on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RunTime {
    now: i64,
    /// Run time less master time.
    base: i64,
    /// The clock may begin anew.
    anew: bool,
}

impl RunTime {
    /// Moves to a master time, and gives the run time. It never goes back.
    pub(super) fn advance(&mut self, master: i64) -> i64 {
        let master = master.max(0);
        let time = self.base.saturating_add(master);
        if time < self.now && self.anew {
            self.base = self.now.saturating_sub(master);
            self.anew = false;
        }
        self.now = self.now.max(time);
        self.now
    }

    /// The card was reset, or has another client: what was observed under the lock may still have the old time.
    pub(super) fn begin_anew(&mut self) {
        self.anew = true;
    }

    pub(super) fn now(&self) -> i64 {
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, Default, PartialEq)]
    struct Count(u64);

    impl Cell for Count {
        fn fold(&mut self, later: &Self) {
            self.0 += later.0;
        }
    }

    #[test]
    fn a_series_keeps_what_it_was_given_however_long_the_run() {
        let mut series = Series::<Count>::default();
        for time in 0..100_000 {
            series.at(time * 77_777).0 += 1;
        }
        assert!(series.cells().len() <= COLUMNS && series.cells().len() > COLUMNS / 2);
        assert_eq!(series.cells().iter().map(|count| count.0).sum::<u64>(), 100_000);
        let first = (0..100_000).filter(|time| time * 77_777 < series.width()).count() as u64;
        assert_eq!(series.cells()[0], Count(first));
    }

    #[test]
    fn times_that_a_hostile_recording_claims_find_a_cell() {
        let mut series = Series::<Count>::default();
        for time in [i64::MIN, -1, 0, i64::MAX, 5, i64::MAX - 1] {
            series.at(time).0 += 1;
        }
        assert!(series.cells().len() <= COLUMNS);
        assert_eq!(series.cells().iter().map(|count| count.0).sum::<u64>(), 6);
        assert_eq!(series.cells()[0], Count(4));
    }

    #[test]
    fn an_odd_number_of_cells_folds_too() {
        let mut series = Series::<Count>::default();
        for column in 0..3 {
            series.at(column * FIRST_WIDTH).0 = 1 << column;
        }
        series.widen(2 * FIRST_WIDTH);
        assert_eq!(series.cells(), [Count(3), Count(4)]);
    }

    #[test]
    fn an_axis_holds_the_run_and_its_series_fit_it() {
        for length in [0, 1, FIRST_WIDTH, 1500 * FIRST_WIDTH - 1, 1500 * FIRST_WIDTH, 36_000_000_000, i64::MAX] {
            let axis = Axis::new(length);
            assert!(axis.columns >= 1 && axis.columns <= COLUMNS, "{length}: {axis:?}");
            assert!(axis.end() >= length && axis.percent(length) <= 100.0, "{length}: {axis:?}");
            let mut series = Series::<Count>::default();
            series.at(length).0 = 1;
            series.widen(axis.width);
            assert_eq!((series.width(), series.cells().len()), (axis.width, axis.columns), "{length}");
        }
    }

    #[test]
    fn the_run_goes_on_where_the_clock_begins_anew() {
        let mut time = RunTime::default();
        assert_eq!([time.advance(100), time.advance(90), time.advance(-5)], [100, 100, 100]);
        time.begin_anew();
        assert_eq!([time.advance(100), time.advance(10), time.advance(30), time.advance(20)], [100, 100, 120, 120]);
        assert_eq!(time.advance(i64::MAX), i64::MAX);
        time.begin_anew();
        assert_eq!(time.advance(0), i64::MAX);
    }
}
