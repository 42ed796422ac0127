//! Small loops over floats that several operations share.

use super::wide::wide;

/// Independent partial sums: one sum would wait for itself at every step, and round worse.
const LANES: usize = 16;

wide! {
    /// Sum of the products of two slices of one length.
    pub(crate) fn dot(left: &[f32], right: &[f32]) -> f32 {
        let mut sums = [0.0_f32; LANES];
        let (left, right) = (left.chunks_exact(LANES), right.chunks_exact(LANES));
        let rest: f32 = left.remainder().iter().zip(right.remainder()).map(|(a, b)| a * b).sum();
        for (left, right) in left.zip(right) {
            for ((sum, a), b) in sums.iter_mut().zip(left).zip(right) {
                *sum += a * b;
            }
        }
        sums.iter().sum::<f32>() + rest
    }
}

wide! {
    /// Sum of squares, in f64 across the lanes.
    pub(crate) fn sum_of_squares(values: &[f32]) -> f64 {
        let mut sums = [0.0_f32; LANES];
        let chunks = values.chunks_exact(LANES);
        let rest: f64 = chunks.remainder().iter().map(|&a| f64::from(a * a)).sum();
        for chunk in chunks {
            for (sum, a) in sums.iter_mut().zip(chunk) {
                *sum += a * a;
            }
        }
        sums.iter().map(|&sum| f64::from(sum)).sum::<f64>() + rest
    }
}

wide! {
    /// Adds `values` to `sums`.
    pub(crate) fn add(sums: &mut [f32], values: &[f32]) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value;
        }
    }
}

wide! {
    /// Adds `factor * values` to `sums`.
    pub(crate) fn add_scaled(sums: &mut [f32], factor: f32, values: &[f32]) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += factor * value;
        }
    }
}

wide! {
    /// Multiplies `values` by the first `factors`, element by element.
    pub(crate) fn multiply_elements(values: &mut [f32], factors: &[f32]) {
        for (value, factor) in values.iter_mut().zip(factors) {
            *value *= factor;
        }
    }
}

wide! {
    /// The softmax of each row of `width` values, in place.
    pub(crate) fn softmax_rows(values: &mut [f32], width: usize) {
        for row in values.chunks_exact_mut(width) {
            let highest = fold(row, f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
            row.iter_mut().for_each(|value| *value = exp(*value - highest));
            let scale = 1.0 / fold(row, 0.0, |a, b| a + b);
            row.iter_mut().for_each(|value| *value *= scale);
        }
    }
}

wide! {
    /// Replaces the gradients of rows of softmaxes `p` by those of their inputs: `p (g - sum of p g)`.
    pub(crate) fn softmax_gradients(gradients: &mut [f32], softmax: &[f32], width: usize) {
        for (row, softmax) in gradients.chunks_exact_mut(width).zip(softmax.chunks_exact(width)) {
            row.iter_mut().zip(softmax).for_each(|(gradient, share)| *gradient *= share);
            let sum = fold(row, 0.0, |a, b| a + b);
            row.iter_mut().zip(softmax).for_each(|(gradient, share)| *gradient -= share * sum);
        }
    }
}

/// Reduces values lane by lane, then the lanes.
#[inline(always)]
fn fold(values: &[f32], start: f32, combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder().iter().fold(start, |sum, &value| combine(sum, value));
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = combine(*lane, value);
        }
    }
    lanes.iter().fold(rest, |sum, &lane| combine(sum, lane))
}

/// `exp(x)` for `x <= 0` within 2 units in the last place, in operations that vectorise at any width.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding and subtracting it rounds to an integer, which then is in the lowest bits.
    const ROUNDER: f32 = 12_582_912.0; // 1.5 * 2^23
    // ln 2 in two parts: a whole number times the first is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let shifted = x * std::f32::consts::LOG2_E + ROUNDER;
    let power = shifted - ROUNDER;
    let rest = x - power * LN_2[0] - power * LN_2[1]; // |rest| <= ln(2) / 2
    let mut series = 1.987_569_1e-4_f32;
    for factor in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        series = series * rest + factor;
    }
    let series = series * rest * rest + rest + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUNDER.to_bits()).wrapping_add(127) << 23;
    if x < -87.0 { 0.0 } else { series * f32::from_bits(exponent) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_those_of_the_library_to_two_units() {
        let mut worst = 0.0_f32;
        for at in 0..870_000 {
            let x = at as f32 * -1e-4;
            let (found, expected) = (exp(x), f64::from(x).exp());
            worst = worst.max(((f64::from(found) - expected) / expected).abs() as f32);
        }
        assert!(worst <= 2.0 * f32::EPSILON, "{worst:e}");
        assert_eq!([exp(0.0), exp(-88.0), exp(-1e9), exp(f32::NEG_INFINITY)], [1.0, 0.0, 0.0, 0.0]);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sums_take_the_values_behind_the_last_full_lanes() {
        for count in [0, 1, 15, 16, 17, 100] {
            let values: Vec<f32> = (0..count).map(|at| at as f32).collect();
            let expected: f32 = values.iter().map(|value| value * value).sum();
            assert_eq!(dot(&values, &values), expected);
            assert_eq!(sum_of_squares(&values), f64::from(expected));
        }
    }
}
