//! Views of matrices in memory.

/// A view of a matrix in memory, with strides.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    /// From the first value to the last one, or beyond.
    pub(super) values: &'a [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: isize,
    pub(super) column_stride: isize,
}

impl<'a> Matrix<'a> {
    /// A matrix of any layout: `values` from its first one on, and the strides of rows and columns, in values.
    pub fn strided(values: &'a [f32], [rows, columns]: [usize; 2], strides: [isize; 2]) -> Self {
        let [row_stride, column_stride] = strides;
        Self { values, rows, columns, row_stride, column_stride }.checked()
    }

    /// Contiguous rows.
    pub fn rows(values: &'a [f32], columns: usize) -> Self {
        let rows = values.len() / columns.max(1);
        Self::strided_rows(values, rows, columns, columns)
    }

    /// Rows of `columns` contiguous values; `stride` is the distance from one row to the next, in values.
    pub fn strided_rows(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        let row_stride = stride as isize;
        Self { values, rows, columns, row_stride, column_stride: 1 }.checked()
    }

    /// The transpose: a view of the same memory.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// `count` rows from row `first` on; panics where there are fewer.
    pub(super) fn some_rows(self, first: usize, count: usize) -> Self {
        let values = &self.values[first * self.row_stride as usize..];
        Self { values, rows: count, ..self }.checked()
    }

    /// Panics unless every value lies in the slice: the products' `unsafe` code relies on it.
    fn checked(self) -> Self {
        check(self.values.len(), [self.rows, self.columns], [self.row_stride, self.column_stride]);
        self
    }
}

/// A matrix in memory that a product is written to: contiguous rows, at a stride.
pub(crate) struct MatrixMut<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: isize,
}

impl<'a> MatrixMut<'a> {
    /// Contiguous rows.
    pub fn rows(values: &'a mut [f32], columns: usize) -> Self {
        let rows = values.len() / columns.max(1);
        Self::strided_rows(values, rows, columns, columns)
    }

    /// Rows of `columns` contiguous values; `stride` is the distance from one row to the next, in values.
    pub fn strided_rows(values: &'a mut [f32], rows: usize, columns: usize, stride: usize) -> Self {
        check(values.len(), [rows, columns], [stride as isize, 1]);
        assert!(rows < 2 || stride >= columns, "rows of an output overlap");
        Self { values, rows, columns, row_stride: stride as isize }
    }
}

fn check(values: usize, counts: [usize; 2], steps: [isize; 2]) {
    if counts.contains(&0) {
        return;
    }
    let last: isize =
        counts.iter().zip(steps).map(|(&count, step)| (count as isize - 1) * step).sum();
    let forward = steps.iter().all(|&step| step >= 0);
    assert!(forward && (last as usize) < values, "a matrix reaches out of its memory");
}
