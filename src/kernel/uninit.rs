//! Memory that is written once, without being cleared first.
//!
//! A function that fills uninitialised memory returns that memory as `&mut [f32]`. Callers check that it is the memory
//! that they gave, and all of it: safe code cannot return memory that it has not written.

use std::mem::MaybeUninit;

use rayon::prelude::*;

/// `count` zeros, cleared by all threads: for activations, which are rewritten at every layer.
pub(crate) fn zeros(count: usize) -> Vec<f32> {
    /// Values that a thread clears at once, 64 KiB.
    const TASK: usize = 1 << 14;
    filled(count, |to| par_fill_chunks(to, TASK, |_, to| (fill_zeros(to), ())).0)
}

/// `count` values that `fill` writes and returns.
///
/// # Panics
/// If `fill` returns other memory than all that it was given.
pub(crate) fn filled(
    count: usize,
    fill: impl for<'a> FnOnce(&'a mut [MaybeUninit<f32>]) -> &'a mut [f32],
) -> Vec<f32> {
    let mut values = Vec::with_capacity(count);
    check_filled(&mut values.spare_capacity_mut()[..count], fill);
    // SAFETY: `check_filled` has seen all of these values initialised.
    unsafe { values.set_len(count) };
    values
}

/// Fills memory by chunks of `size` values (the last may be shorter), one after another; `fill` gets the number of
/// each.
///
/// # Panics
/// As [`filled`].
pub(crate) fn fill_chunks(
    to: &mut [MaybeUninit<f32>],
    size: usize,
    mut fill: impl for<'a> FnMut(usize, &'a mut [MaybeUninit<f32>]) -> &'a mut [f32],
) -> &mut [f32] {
    for (number, chunk) in to.chunks_mut(size).enumerate() {
        check_filled(chunk, |chunk| fill(number, chunk));
    }
    // SAFETY: the chunks are all of `to`, and each was seen initialised.
    unsafe { assume_written(to) }
}

/// [`fill_chunks`] by all threads; also returns what `fill` returns beside each chunk, in order.
///
/// # Panics
/// As [`filled`].
pub(crate) fn par_fill_chunks<T: Send>(
    to: &mut [MaybeUninit<f32>],
    size: usize,
    fill: impl for<'a> Fn(usize, &'a mut [MaybeUninit<f32>]) -> (&'a mut [f32], T) + Sync,
) -> (&mut [f32], Vec<T>) {
    let chunks = to.par_chunks_mut(size).enumerate();
    let found = chunks
        .map(|(number, chunk)| {
            let mut found = None;
            check_filled(chunk, |chunk| {
                let (written, value) = fill(number, chunk);
                found = Some(value);
                written
            });
            found
        })
        .collect::<Vec<_>>();
    // SAFETY: the chunks are all of `to`, and each was seen initialised.
    (unsafe { assume_written(to) }, found.into_iter().flatten().collect())
}

/// Panics unless `fill` returns all of `to`.
fn check_filled(
    to: &mut [MaybeUninit<f32>],
    fill: impl for<'a> FnOnce(&'a mut [MaybeUninit<f32>]) -> &'a mut [f32],
) {
    let given = (to.as_ptr().cast::<f32>(), to.len());
    let written = fill(to);
    assert_eq!((written.as_ptr(), written.len()), given, "other memory was filled than was given");
}

fn fill_zeros(to: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    to.fill(MaybeUninit::new(0.0));
    // SAFETY: just written.
    unsafe { assume_written(to) }
}

/// `values` as initialised.
///
/// # Safety
/// Every value was written.
pub(super) unsafe fn assume_written(values: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    // SAFETY: `MaybeUninit<f32>` has the layout of `f32`, and the caller guarantees the values.
    unsafe { &mut *(std::ptr::from_mut(values) as *mut [f32]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_any_size_fill_all_values() {
        for [count, size] in [[0, 4], [3, 4], [8, 4], [10, 4]] {
            let write = |number: usize, to: &mut [MaybeUninit<f32>]| {
                to.iter_mut().enumerate().for_each(|(at, to)| {
                    to.write((number * size + at) as f32);
                });
            };
            let expected: Vec<f32> = (0..count).map(|at| at as f32).collect();
            let one_by_one = filled(count, |to| {
                fill_chunks(to, size, |number, to| {
                    write(number, to);
                    // SAFETY: just written.
                    unsafe { assume_written(to) }
                })
            });
            let mut lengths = Vec::new();
            let in_parallel = filled(count, |to| {
                let (written, found) = par_fill_chunks(to, size, |number, to| {
                    write(number, to);
                    let length = to.len();
                    // SAFETY: just written.
                    (unsafe { assume_written(to) }, length)
                });
                lengths = found;
                written
            });
            assert_eq!([&one_by_one, &in_parallel], [&expected, &expected]);
            assert_eq!(lengths.iter().sum::<usize>(), count);
        }
        assert_eq!(zeros(40_000), vec![0.0; 40_000]);
    }

    #[test]
    #[should_panic(expected = "other memory was filled")]
    fn memory_that_is_filled_in_part_is_not_taken_as_filled() {
        filled(8, |to| fill_zeros(&mut to[..4]));
    }
}
