//! Why the evidence for an advised set is weak.

use super::Advice;
use crate::component::grouped;

/// With fewer queries, a share of 0.9 is known to no better than 6 points up or down (95%).
const FEW_QUERIES: usize = 100;
/// A model that ranks fewer relevant docids first has hardly been trained to retrieve.
const LITTLE_RETRIEVED: f64 = 0.1;
/// The search ends close to the share, so that the interval of the coverage always begins below it. By more than this is
/// worth saying.
const SLACK: f64 = 0.05;
/// Single effects whose sum is outside of this range, divided by the joint effect, do not add up to it.
const ADDS_UP: std::ops::RangeInclusive<f64> = 0.5..=1.5;

/// Returns the reasons for which the evidence is weak, in sentences; none if it is not.
pub(super) fn weaknesses(advice: &Advice) -> Vec<String> {
    let mut found = Vec::new();
    let queries = advice.coverage.queries;
    if queries < FEW_QUERIES {
        found.push(format!(
            "Few queries: effects are means over {queries}; with fewer than {FEW_QUERIES}, one set can look better than \
             another by chance."
        ));
    }
    let retrieved = advice.correct as f64 / advice.ranked.max(1) as f64;
    if retrieved < LITTLE_RETRIEVED || advice.step == Some(0) {
        found.push(format!(
            "The model is hardly fine-tuned: {} of {} relevant docids are at rank 1. The advice is about what it does now, \
             not about what a trained model does.",
            grouped(advice.correct),
            grouped(advice.ranked)
        ));
    }
    let advised = || advice.components.iter().filter(|effect| effect.is_advised);
    let unclear = advised().filter(|effect| effect.hits.interval[0] <= 0.0).count();
    if unclear > 0 {
        found.push(format!(
            "{unclear} of the {} advised components have no certain effect alone: the interval of the fall of Hits@1 \
             includes 0. They are advised for what they do together with others.",
            advised().count()
        ));
    }
    if !ADDS_UP.contains(&advice.sum_of_effects) {
        let what = match advice.sum_of_effects < *ADDS_UP.start() {
            true => "components compensate for each other when one alone is ablated",
            false => "several components are each needed for the same queries",
        };
        found.push(format!(
            "Single effects do not add up: their sum is {:.0}% of the effect of ablating all components together, since \
             {what}. The set rests on joint ablations, not on the table.",
            100.0 * advice.sum_of_effects
        ));
    }
    let percent = |value: f64| format!("{:.1}%", 100.0 * value);
    let [low, _] = advice.coverage.share.interval;
    if low < advice.share - SLACK {
        found.push(format!(
            "The coverage may be well below {}: its interval begins at {}.",
            percent(advice.share),
            percent(low)
        ));
    }
    match &advice.checked {
        Some(checked) if checked.share.mean < advice.share => found.push(format!(
            "On the {} queries, which the search did not see, the set covers {} and not {}.",
            checked.set,
            percent(checked.share.mean),
            percent(advice.share)
        )),
        Some(_) => {}
        None => found.push(
            "The set was measured on the queries that it was searched with, and on no others: its coverage is \
             optimistic."
                .to_owned(),
        ),
    }
    found
}
