//! Squares of values turned in registers: what transposes are made of.

/// Rows and columns that are turned at once: one register, and one line of the cache.
pub(super) const TILE: usize = 16;

/// The columns of [`TILE`] rows that begin `apart` values after each other, for as many columns.
///
/// To be inlined where wide registers may be used.
#[inline(always)]
pub(super) fn turned(from: &[f32], apart: usize) -> [[f32; TILE]; TILE] {
    let mut rows = [[0.0_f32; TILE]; TILE];
    for (row, values) in rows.iter_mut().enumerate() {
        // A length that is known makes this one register, not a call.
        let line = &from[row * apart..][..TILE];
        *values = std::array::from_fn(|at| line[at]);
    }
    std::array::from_fn(|column| std::array::from_fn(|row| rows[row][column]))
}
