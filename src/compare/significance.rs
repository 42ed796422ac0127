//! Differences between two systems on the same queries: effect size, bootstrap interval, and a paired randomisation test.
//!
//! The test is that of Fisher, which Smucker et al. (CIKM 2007) recommend for retrieval: under the null hypothesis the
//! two values of a query could be exchanged, so that each difference could have the other sign. The crates that were
//! compared have other tests: `elinor` 0.4 has Student's t-test, a bootstrap test and Tukey's HSD, `statrs` none for
//! paired samples.

use rand::{Rng, RngExt};
use rayon::prelude::*;
use serde::Serialize;

use crate::random;

/// From this corrected p-value on, a difference is not significant.
pub(crate) const SIGNIFICANT: f64 = 0.05;
/// The seed of resampling: the same values give the same interval and p-value.
const SEED: u64 = 0;
/// Number of bootstrap samples.
const BOOTSTRAP_SAMPLES: u64 = 10_000;
/// Number of random assignments of signs.
const ASSIGNMENTS: u64 = 100_000;
/// Up to this number of differences, all assignments are tried.
const FEW: u32 = 16;

/// How much a system is better than another one, over the same queries.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Mean difference.
    pub mean: f64,
    /// 95% bootstrap interval of the mean difference: the percentiles of 10,000 samples of the queries.
    pub interval: [f64; 2],
    /// Mean difference in standard deviations of the differences (Cohen's d for paired samples); `None` if all are equal.
    pub effect_size: Option<f64>,
    /// P-value of the two-sided paired randomisation test: exact for up to 16 queries that differ, else of 100,000
    /// random assignments.
    pub p: f64,
    /// Number of queries with a higher value.
    pub wins: usize,
    /// Number of queries with equal values.
    pub ties: usize,
    /// Number of queries with a lower value.
    pub losses: usize,
}

impl Difference {
    /// Compares the values of `first` with those of `second`, query by query: positive if `second` is better.
    ///
    /// # Panics
    /// Panics if the numbers of values differ or are 0.
    pub fn of(first: &[f64], second: &[f64]) -> Self {
        assert_eq!(first.len(), second.len(), "values of the same queries");
        assert!(!first.is_empty(), "no query");
        let differences: Vec<f64> =
            second.iter().zip(first).map(|(second, first)| second - first).collect();
        let mean = mean(&differences);
        let deviation = standard_deviation(&differences);
        let count = |is: fn(&f64) -> bool| differences.iter().filter(|value| is(value)).count();
        Self {
            mean,
            interval: bootstrap_interval(&differences),
            effect_size: deviation
                .filter(|&deviation| deviation > 0.0)
                .map(|deviation| mean / deviation),
            p: randomisation(&differences),
            wins: count(|&value| value > 0.0),
            ties: count(|&value| value == 0.0),
            losses: count(|&value| value < 0.0),
        }
    }
}

/// The mean; NaN without values.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The mean of a number over those of `items` that have one; `None` if none has.
pub(crate) fn mean_of<T>(
    items: impl IntoIterator<Item = T>,
    value: impl Fn(T) -> Option<f64>,
) -> Option<f64> {
    let values: Vec<f64> = items.into_iter().filter_map(value).collect();
    (!values.is_empty()).then(|| mean(&values))
}

/// Formats a p-value: `0.0123`, or `<0.0001`.
pub(crate) fn p_value(p: f64) -> String {
    if p < 0.0001 { "<0.0001".to_owned() } else { format!("{p:.4}") }
}

/// The standard deviation of a sample (n - 1); `None` for fewer than two values.
pub fn standard_deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

/// Returns p-values corrected for the number of tests by Holm's method, in the same order.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&one, &other| p_values[one].total_cmp(&p_values[other]));
    let mut corrected = vec![0.0; p_values.len()];
    let mut least: f64 = 0.0;
    for (done, &index) in order.iter().enumerate() {
        least = least.max((p_values[index] * (p_values.len() - done) as f64).min(1.0));
        corrected[index] = least;
    }
    corrected
}

/// The 95% bootstrap interval of the mean of `values`, one for each query.
pub(super) fn bootstrap_interval(values: &[f64]) -> [f64; 2] {
    let mean_of = |drawn: &[usize]| {
        drawn.iter().map(|&place| values[place]).sum::<f64>() / values.len() as f64
    };
    bootstrap_interval_of(values.len(), mean_of)
}

/// The 95% bootstrap interval of a statistic of `count` queries: the percentiles of its values for 10,000 samples of the
/// queries, each given as the places of the drawn queries. Samples for which it is not defined (NaN) are left out; NaN if
/// there are no others.
pub(crate) fn bootstrap_interval_of(
    count: usize,
    statistic: impl Fn(&[usize]) -> f64 + Sync,
) -> [f64; 2] {
    let sample = |number: u64| {
        let mut generator = random::generator(SEED, number, "bootstrap");
        let drawn: Vec<usize> = (0..count).map(|_| generator.random_range(0..count)).collect();
        statistic(&drawn)
    };
    let mut values: Vec<f64> = (0..BOOTSTRAP_SAMPLES).into_par_iter().map(sample).collect();
    values.retain(|value| !value.is_nan());
    values.sort_by(f64::total_cmp);
    match values.is_empty() {
        true => [f64::NAN; 2],
        false => [0.025, 0.975].map(|share| percentile(&values, share)),
    }
}

/// The value at a share of sorted values, interpolated linearly as `numpy.percentile` does.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64)
}

/// The share of the assignments of signs whose sum is at least as far from 0 as the sum of `differences`.
fn randomisation(differences: &[f64]) -> f64 {
    let differences: Vec<f64> = differences.iter().copied().filter(|&value| value != 0.0).collect();
    let found = differences.iter().sum::<f64>().abs();
    // Sums in another order differ in their last bits.
    let least = found - 1e-12 * differences.iter().map(|value| value.abs()).sum::<f64>();
    let count = differences.len() as u32;
    if count <= FEW {
        let is_extreme = |signs: &u32| {
            let signed = differences.iter().enumerate();
            let signed =
                signed.map(|(at, &value)| if signs >> at & 1 == 1 { -value } else { value });
            signed.sum::<f64>().abs() >= least
        };
        let extreme = (0..1_u32 << count).filter(is_extreme).count();
        return extreme as f64 / f64::from(1_u32 << count);
    }
    let is_extreme = |&number: &u64| {
        let mut generator = random::generator(SEED, number, "randomisation test");
        let mut sum = 0.0;
        for values in differences.chunks(64) {
            let mut signs = generator.next_u64();
            for value in values {
                // The sign bit is flipped: a branch on a random sign would be predicted wrongly every other time.
                sum += f64::from_bits(value.to_bits() ^ (signs & 1) << 63);
                signs >>= 1;
            }
        }
        sum.abs() >= least
    };
    let extreme = (0..ASSIGNMENTS).into_par_iter().filter(is_extreme).count();
    // The assignment that was found is one of them (Phipson and Smyth 2010): p is never 0.
    (extreme + 1) as f64 / (ASSIGNMENTS + 1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holm_is_that_of_statsmodels() {
        // statsmodels.stats.multitest.multipletests([0.01, 0.04, 0.03, 0.005, 0.5], method="holm")
        let corrected = holm(&[0.01, 0.04, 0.03, 0.005, 0.5]);
        let expected = [0.04, 0.09, 0.09, 0.025, 0.5];
        assert!(
            corrected.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12),
            "{corrected:?}"
        );
        assert!(holm(&[]).is_empty());
        assert_eq!(holm(&[0.7, 0.9]), [1.0, 1.0]);
    }

    #[test]
    fn an_interval_leaves_out_samples_for_which_the_statistic_is_not_defined() {
        // 0 / 0 if only the second query is drawn.
        let ratio = |drawn: &[usize]| {
            let first = drawn.iter().filter(|&&query| query == 0).count() as f64;
            first / first
        };
        assert_eq!(bootstrap_interval_of(2, ratio), [1.0, 1.0]);
        assert!(bootstrap_interval_of(2, |_| f64::NAN).iter().all(|end| end.is_nan()));
    }

    #[test]
    fn equal_systems_do_not_differ() {
        let values = [0.0, 1.0, 0.5];
        let found = Difference::of(&values, &values);
        assert_eq!(
            (found.mean, found.interval, found.effect_size, found.p),
            (0.0, [0.0; 2], None, 1.0)
        );
        assert_eq!([found.wins, found.ties, found.losses], [0, 3, 0]);
    }

    #[test]
    fn few_differences_are_tested_exactly() {
        // All eight assignments have sums 6, 4, 2, 0, 0, -2, -4, -6: 2 of 8 are as far from 0 as 6.
        let found = Difference::of(&[0.0; 5], &[1.0, 2.0, 3.0, 0.0, 0.0]);
        assert_eq!(found.p, 0.25);
        assert_eq!([found.wins, found.ties, found.losses], [3, 2, 0]);
        let opposite = Difference::of(&[1.0, 2.0, 3.0], &[0.0; 3]);
        assert_eq!((opposite.mean, opposite.p), (-2.0, 0.25));
    }
}
