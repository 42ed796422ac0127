//! Products of a large matrix with few vectors, with AVX-512 and on one thread.
//!
//! Such a product is bound by memory: each value of the large matrix is used a few dozen times and not again. `gemm`
//! reads it in an order that the hardware prefetcher does not follow, and does not prefetch; here the next part is
//! prefetched while the current one is multiplied. The output is computed tile by tile, each value in a register from
//! the first product of a part to the last.

use std::arch::x86_64::{
    __m512, __mmask16, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm512_add_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps,
    _mm512_setzero_ps,
};
use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};

use super::matrix::Matrix;
use super::transpose::{TILE, transposed_tile};

/// Rows of a tile: with two registers a row, 24 of the 32 hold sums.
const ROWS: usize = 12;
/// Columns of a tile.
const COLUMNS: usize = 32;
/// Numbers of vectors for which this is faster than `gemm` (`benches/README.md`), with a matrix that is [`LARGE`].
const FEW: RangeInclusive<usize> = 9..=48;
/// From this number of values a matrix no longer fits a core's private cache.
const LARGE: usize = 1 << 16;
/// Products of a sum that one part covers: the columns of a tile then take 32 KiB and stay in the L1 cache.
const DEPTH: usize = 256;
/// Columns of a large right factor that are copied at once: its rows lie in different pages, and a TLB miss takes as
/// long as reading some lines.
const WIDE: usize = 32 * COLUMNS;
/// Rows of it that are copied at once: with that many columns 256 KiB, which stay in the L2 cache.
const SHALLOW: usize = 64;
/// Values of a cache line.
const LINE: usize = 16;

/// One cache line.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line(#[expect(dead_code, reason = "read as floats")] [f32; LINE]);

thread_local! {
    /// A contiguous copy of a part of the right factor; the memory is reused by the next product.
    static COPY: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Which factor is large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Large {
    Left,
    Right,
}

/// The large factor of a product that [`product`] can compute on this machine: its rows are contiguous, and the other
/// factor has few vectors. None for other products.
pub(super) fn large_factor(left: Matrix, right: Matrix) -> Option<Large> {
    let by_rows = |matrix: Matrix| matrix.column_stride == 1;
    if !by_rows(left) || !is_x86_feature_detected!("avx512f") {
        return None;
    }
    let is_large = |matrix: Matrix| matrix.rows * matrix.columns >= LARGE;
    if FEW.contains(&left.rows) && by_rows(right) && is_large(right) {
        Some(Large::Right)
    } else if FEW.contains(&right.columns)
        && (by_rows(right) || right.row_stride == 1)
        && is_large(left)
    {
        Some(Large::Left)
    } else {
        None
    }
}

/// Writes `left x right` to `to`, whose rows are `stride` values apart, or adds it to what `to` holds.
///
/// # Safety
/// `large` is the [`large_factor`] of these factors, or of ones whose rows or columns they are; each lies in its slice,
/// and their inner sizes are equal and not 0. `to` is memory for the product that nothing else reads or writes during
/// the call; with `add` it holds values.
pub(super) unsafe fn product(
    large: Large,
    left: Matrix,
    right: Matrix,
    to: *mut f32,
    stride: isize,
    add: bool,
) {
    let factors = Factors { left, right, to, stride, add };
    // Nothing called here multiplies again: the copy is borrowed only once.
    COPY.with_borrow_mut(|copy| {
        // SAFETY: the caller's promises.
        unsafe {
            match large {
                Large::Left => factors.by_rows(copy),
                Large::Right => factors.by_columns(copy),
            }
        }
    });
}

struct Factors<'a> {
    left: Matrix<'a>,
    right: Matrix<'a>,
    to: *mut f32,
    stride: isize,
    add: bool,
}

/// The cache lines that a tile prefetches while it is computed: they begin at `from`, `step` values apart.
#[derive(Clone, Copy)]
struct Prefetch {
    from: *const f32,
    step: usize,
    first: usize,
    every: usize,
}

impl Factors<'_> {
    /// Copies all of the right factor, part by part, and reads the left one once.
    ///
    /// # Safety
    /// As for [`product`].
    #[target_feature(enable = "avx512f")]
    unsafe fn by_rows(&self, copy: &mut Vec<Line>) {
        let n = self.right.columns;
        for products in parts(0..self.left.columns, DEPTH) {
            let size = products.len() * COLUMNS;
            let copy = room(copy, n.div_ceil(COLUMNS) * size);
            if self.right.column_stride == 1 {
                copy_rows(self.right, &products, &(0..n), copy);
            } else {
                for (columns, to) in parts(0..n, COLUMNS).zip(copy.chunks_exact_mut(size)) {
                    transpose_columns(self.right, &products, &columns, to);
                }
            }
            for rows in parts(0..self.left.rows, ROWS) {
                for (columns, copy) in parts(0..n, COLUMNS).zip(copy.chunks_exact(size)) {
                    // The rows of the next tile, as far as they are read together.
                    let next = self.left.values.as_ptr().wrapping_add(
                        (rows.start + ROWS) * self.left.row_stride as usize + products.start,
                    );
                    let step = self.left.row_stride as usize;
                    let prefetch = (columns.start == 0).then_some(Prefetch {
                        from: next,
                        step,
                        first: 0,
                        every: 1,
                    });
                    // SAFETY: the caller's promises; the copy is of these columns.
                    unsafe { self.tile::<true>(&rows, &columns, &products, copy, prefetch) };
                }
            }
        }
    }

    /// Copies the right factor once, a few columns at a time, and multiplies each copy by all rows of the left one.
    ///
    /// # Safety
    /// As for [`product`].
    #[target_feature(enable = "avx512f")]
    unsafe fn by_columns(&self, copy: &mut Vec<Line>) {
        let (k, n) = (self.left.columns, self.right.columns);
        let step = self.right.row_stride as usize;
        for wide in parts(0..n, WIDE) {
            for products in parts(0..k, SHALLOW) {
                let size = products.len() * COLUMNS;
                let copy = room(copy, wide.len().div_ceil(COLUMNS) * size);
                let narrow = || parts(wide.clone(), COLUMNS);
                copy_rows(self.right, &products, &wide, copy);
                for (columns, copy) in narrow().zip(copy.chunks_exact(size)) {
                    // The part that is copied next: further down, or else of the next columns.
                    let next = match products.end < k {
                        true => products.end * step + columns.start,
                        false => columns.start + WIDE,
                    };
                    let from = self.right.values.as_ptr().wrapping_add(next);
                    // Spread over the tiles: the number of outstanding cache misses is limited.
                    let every = self.left.rows.div_ceil(ROWS);
                    for (first, rows) in parts(0..self.left.rows, ROWS).enumerate() {
                        let prefetch = Some(Prefetch { from, step, first, every });
                        // SAFETY: the caller's promises; the copy is of these columns.
                        unsafe { self.tile::<false>(&rows, &columns, &products, copy, prefetch) };
                    }
                }
            }
        }
    }

    /// # Safety
    /// As for [`product`]; `rows` and `columns` are those of one tile, and `right` is a copy of those columns.
    #[target_feature(enable = "avx512f")]
    unsafe fn tile<const BY_ROWS: bool>(
        &self,
        rows: &Range<usize>,
        columns: &Range<usize>,
        products: &Range<usize>,
        right: &[f32],
        prefetch: Option<Prefetch>,
    ) {
        let left = &self.left.values[rows.start * self.left.row_stride as usize + products.start..];
        let tile = Tile {
            left: left.as_ptr(),
            down: self.left.row_stride as usize,
            right: right.as_ptr(),
            // SAFETY: inside the output.
            to: unsafe { self.to.offset(rows.start as isize * self.stride).add(columns.start) },
            stride: self.stride,
            columns: columns.len(),
            depth: products.len(),
            add: self.add || products.start > 0,
        };
        macro_rules! of_rows {
            ($($count:literal)*) => {
                match (rows.len(), prefetch) {
                    // SAFETY: the caller's promises.
                    $(($count, None) => unsafe { tile.sum::<$count>(|_| ()) },
                    // SAFETY: the same; prefetching reads nothing, whatever the address.
                    ($count, Some(Prefetch { from, step, first, every })) => unsafe {
                        let mut next = first;
                        tile.sum::<$count>(|at| {
                            if !BY_ROWS {
                                if at == next {
                                    next += every;
                                    let line = from.wrapping_add(at * step);
                                    _mm_prefetch::<_MM_HINT_T1>(line.cast());
                                    _mm_prefetch::<_MM_HINT_T1>(line.wrapping_add(LINE).cast());
                                }
                            } else if at % LINE < $count {
                                // One line a product, not all at once: outstanding cache misses are limited.
                                let line = from.wrapping_add(at % LINE * step + at / LINE * LINE);
                                _mm_prefetch::<_MM_HINT_T0>(line.cast());
                            }
                        })
                    },)*
                    _ => unreachable!("a tile has 1 to {ROWS} rows"),
                }
            };
        }
        of_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
    }
}

/// Parts of `size` values of `all`, but for the last.
fn parts(all: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = all.end;
    all.step_by(size).map(move |start| start..end.min(start + size))
}

/// Copies columns of contiguous rows, [`COLUMNS`] at a time, row by row, because rows may lie in different pages. The
/// places of missing columns hold arbitrary values.
#[target_feature(enable = "avx512f")]
fn copy_rows(right: Matrix, products: &Range<usize>, columns: &Range<usize>, copy: &mut [f32]) {
    let down = right.row_stride as usize;
    for row in 0..products.len() {
        let from = &right.values[(products.start + row) * down..][columns.clone()];
        let to = copy.chunks_exact_mut(products.len() * COLUMNS);
        for (from, to) in from.chunks(COLUMNS).zip(to) {
            let to = &mut to[row * COLUMNS..][..COLUMNS];
            match <&[f32; COLUMNS]>::try_from(from) {
                // A known length makes this two registers, not a call of memcpy.
                Ok(from) => to.copy_from_slice(from),
                Err(_) => to[..from.len()].copy_from_slice(from),
            }
        }
    }
}

/// Copies up to [`COLUMNS`] contiguous columns as rows; the places of missing ones hold arbitrary values.
#[target_feature(enable = "avx512f")]
fn transpose_columns(
    right: Matrix,
    products: &Range<usize>,
    columns: &Range<usize>,
    to: &mut [f32],
) {
    let along = right.column_stride as usize;
    let from = &right.values[products.start + columns.start * along..];
    let count = columns.len();
    let whole = if count == COLUMNS { products.len() / TILE * TILE } else { 0 };
    for first in (0..whole).step_by(TILE) {
        for side in [0, TILE] {
            let tile = transposed_tile(&from[side * along + first..], along);
            for (row, values) in tile.iter().enumerate() {
                to[(first + row) * COLUMNS + side..][..TILE].copy_from_slice(values);
            }
        }
    }
    for (row, to) in to.chunks_exact_mut(COLUMNS).enumerate().skip(whole) {
        for (column, to) in to[..count].iter_mut().enumerate() {
            *to = from[column * along + row];
        }
    }
}

/// The first `count` values of a copy, grown if necessary.
fn room(copy: &mut Vec<Line>, count: usize) -> &mut [f32] {
    let lines = count.div_ceil(LINE);
    if copy.len() < lines {
        copy.resize(lines, Line([0.0; LINE]));
    }
    // SAFETY: lines are floats without padding.
    unsafe { std::slice::from_raw_parts_mut(copy.as_mut_ptr().cast(), count) }
}

/// A part of the output, with pointers to its factors.
struct Tile {
    /// Rows that begin `down` values apart.
    left: *const f32,
    down: usize,
    /// [`COLUMNS`] values a product.
    right: *const f32,
    to: *mut f32,
    stride: isize,
    columns: usize,
    depth: usize,
    add: bool,
}

impl Tile {
    /// Computes `COUNT` rows of the tile; `prefetch` is called before each product of a sum.
    ///
    /// # Safety
    /// The tile's pointers are valid for its sizes.
    #[target_feature(enable = "avx512f")]
    unsafe fn sum<const COUNT: usize>(&self, mut prefetch: impl FnMut(usize)) {
        let mut sums: [[__m512; 2]; COUNT] = [[_mm512_setzero_ps(); 2]; COUNT];
        for at in 0..self.depth {
            prefetch(at);
            // SAFETY: inside the factors.
            let [first, second] = [0, LINE]
                .map(|lane| unsafe { _mm512_loadu_ps(self.right.add(at * COLUMNS + lane)) });
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let value = _mm512_set1_ps(unsafe { *self.left.add(row * self.down + at) });
                sums[0] = _mm512_fmadd_ps(value, first, sums[0]);
                sums[1] = _mm512_fmadd_ps(value, second, sums[1]);
            }
        }
        let lanes = |first: usize| -> __mmask16 {
            ((1_u32 << self.columns.saturating_sub(first).min(LINE)) - 1) as __mmask16
        };
        let masks = [lanes(0), lanes(LINE)];
        for (row, sums) in sums.into_iter().enumerate() {
            for (half, (sum, mask)) in sums.into_iter().zip(masks).enumerate() {
                // SAFETY: lanes outside the output are masked.
                unsafe {
                    let to = self.to.offset(row as isize * self.stride).wrapping_add(half * LINE);
                    let sum = match self.add {
                        true => _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum),
                        false => sum,
                    };
                    _mm512_mask_storeu_ps(to, mask, sum);
                }
            }
        }
    }
}
