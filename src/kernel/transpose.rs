//! Transposes of small squares of values in registers, of which larger transposes are made.

/// Rows and columns of a square: one register, and one cache line.
pub(super) const TILE: usize = 16;

/// The first [`TILE`] columns of [`TILE`] rows that begin `stride` values after each other.
///
/// Inlined into functions that are compiled for wide registers.
#[inline(always)]
pub(super) fn transposed_tile(from: &[f32], stride: usize) -> [[f32; TILE]; TILE] {
    let mut rows = [[0.0_f32; TILE]; TILE];
    for (row, values) in rows.iter_mut().enumerate() {
        // A known length makes this one register, not a call of memcpy.
        let line = &from[row * stride..][..TILE];
        *values = std::array::from_fn(|at| line[at]);
    }
    std::array::from_fn(|column| std::array::from_fn(|row| rows[row][column]))
}
