//! Sums in an order that does not depend on how they are divided.

/// Sums values along a fixed binary tree, as a binary counter carries: the first with the second, the third with the
/// fourth, then these two sums, and so on; what is left at the end is added from the right. Any run of 2^k values that
/// begins at a multiple of 2^k is summed by itself first, so that its sum may come from elsewhere.
pub(super) struct PairwiseSum<T> {
    /// Sums of 2^level values each, with their levels, which fall.
    sums: Vec<(u32, T)>,
}

impl<T> Default for PairwiseSum<T> {
    fn default() -> Self {
        Self { sums: Vec::new() }
    }
}

impl<T> PairwiseSum<T> {
    /// Adds the next value.
    pub fn push(&mut self, mut value: T, add: impl Fn(T, T) -> T) {
        let mut level = 0;
        while let Some((_, sum)) = self.sums.pop_if(|(found, _)| *found == level) {
            value = add(sum, value);
            level += 1;
        }
        self.sums.push((level, value));
    }

    /// Returns the sum; `None` of no values.
    pub fn total(mut self, add: impl Fn(T, T) -> T) -> Option<T> {
        let mut total = self.sums.pop()?.1;
        while let Some((_, sum)) = self.sums.pop() {
            total = add(sum, total);
        }
        Some(total)
    }
}

/// The most sums that [`PairwiseSum`] holds at once for `values` values, the next value not counted: as many as a number
/// below `values` has binary digits that are 1.
pub(super) fn most_held(values: usize) -> usize {
    values.checked_ilog2().unwrap_or(0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(values: impl IntoIterator<Item = String>) -> String {
        let add = |left: String, right: String| format!("({left}+{right})");
        let mut sums = PairwiseSum::default();
        values.into_iter().for_each(|value| sums.push(value, add));
        sums.total(add).unwrap_or_default()
    }

    fn names(range: std::ops::Range<usize>) -> impl Iterator<Item = String> {
        range.map(|value| value.to_string())
    }

    #[test]
    fn values_are_summed_along_a_binary_tree() {
        assert_eq!(sum(names(0..0)), "");
        assert_eq!(sum(names(0..1)), "0");
        assert_eq!(sum(names(0..4)), "((0+1)+(2+3))");
        assert_eq!(sum(names(0..7)), "(((0+1)+(2+3))+((4+5)+6))");
    }

    #[test]
    fn shares_of_a_power_of_two_have_the_sum_of_all() {
        for (share, shares) in [(1, 3), (2, 3), (4, 2), (8, 1), (4, 5)] {
            // The last update of an epoch may have fewer values, and shares without any.
            for values in 1..=share * shares {
                let of_share = |at: usize| sum(names(at * share..values.min((at + 1) * share)));
                let whole = shares.min(values.div_ceil(share));
                assert_eq!(
                    sum((0..whole).map(of_share)),
                    sum(names(0..values)),
                    "{values} in {share}s"
                );
            }
        }
    }

    #[test]
    fn the_sums_that_are_held_are_those_that_memory_is_estimated_for() {
        for values in 1..70 {
            let (mut sums, mut most) = (PairwiseSum::default(), 0);
            for value in 0..values {
                most = most.max(sums.sums.len());
                sums.push(value, |left: usize, right| left + right);
            }
            assert_eq!(most_held(values), most, "{values} values");
        }
    }
}
