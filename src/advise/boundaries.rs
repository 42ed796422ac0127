//! Boundaries of stages from P1, the residual contributions of components.
//!
//! Of the paper's stages, II is where cross-attention contributes more to the residual stream than the MLP does. Its
//! boundaries are therefore where cross-attention's ratio overtakes the MLP's and where it falls back. Noise makes single
//! layers cross more often, so the stages are those that fit all layers best (see [`stages_from_ratios`]).

use serde::Serialize;
use thiserror::Error;

use crate::compare::mean;
use crate::component::{ByComponent, Component, Stage, Stages, StagesError};

/// Boundaries that fit a smaller share of the differences are not clear.
const LEAST_FIT: f64 = 0.75;
/// Stages that were found, with what they were found from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FoundStages {
    /// The stages.
    pub stages: Stages,
    /// The ratio of cross-attention less that of the MLP, by layer: positive in stage II.
    pub differences: Vec<f64>,
    /// The share of the absolute differences that have the sign of their stage, from 0 to 1. It is 1 if there are two
    /// crossings only.
    pub fit: f64,
}

/// Reasons why no stages are found.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum UnclearStages {
    /// The decoder has too few layers.
    #[error(transparent)]
    Depth(#[from] StagesError),
    /// A ratio is NaN or infinite.
    #[error(
        "the residual contribution of layer {layer} is not finite: the layer changes nothing, or the model has diverged"
    )]
    NotFinite {
        /// The first such layer.
        layer: usize,
    },
    /// Cross-attention never contributes more than the MLP.
    #[error(
        "the ratio of cross-attention exceeds that of the MLP in no layer between the first and the last (it comes closest \
         in layer {layer}, with a difference of {difference:+.3}): there is no Stage II"
    )]
    NoOvertake {
        /// The layer in which it comes closest.
        layer: usize,
        /// The difference of the ratios there.
        difference: f64,
    },
    /// There is no Stage I, or no Stage III.
    #[error(
        "the ratio of cross-attention exceeds that of the MLP {} (by {difference:.3} on average in layers {layers:?}): there \
         is no Stage {stage}",
        match stage {
            Stage::First => "from the first layer on",
            _ => "up to the last layer",
        }
    )]
    NoStage {
        /// The stage.
        stage: Stage,
        /// The layers that it would have.
        layers: std::ops::Range<usize>,
        /// The mean difference of the ratios there.
        difference: f64,
    },
    /// The ratios cross several times.
    #[error(
        "cross-attention and MLP cross {} times (before layers {}), and the best boundaries ({stages}) agree with only \
         {:.0}% of the differences (less than {:.0}%)", crossings.len(), listed(crossings), 100.0 * fit, 100.0 * LEAST_FIT
    )]
    SeveralCrossings {
        /// The layers whose sign differs from that of the layer before.
        crossings: Vec<usize>,
        /// The stages that fit best.
        stages: Stages,
        /// How well they fit: see [`FoundStages::fit`].
        fit: f64,
    },
}

fn listed(layers: &[usize]) -> String {
    layers.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

/// Finds the stages from the ratios of [`crate::probe::Contribution`], one for each layer.
///
/// Let d be cross-attention's ratio less the MLP's. Of all ways to divide the layers into three stages of at least one
/// layer, the one is taken in which d sums up highest over Stage II and lowest over Stages I and III; of equal ones the
/// first. If d has two changes of sign, its stages begin there.
///
/// # Errors
/// Fewer than three layers, a ratio that is not finite, and boundaries that are not clear: see [`UnclearStages`].
pub fn stages_from_ratios(ratios: &[ByComponent<f64>]) -> Result<FoundStages, UnclearStages> {
    let depth = ratios.len();
    let difference =
        |ratio: &ByComponent<f64>| ratio[Component::CrossAttention] - ratio[Component::Mlp];
    let differences: Vec<f64> = ratios.iter().map(difference).collect();
    if depth < Stages::LEAST_DEPTH {
        return Err(StagesError::TooShallow { depth }.into());
    }
    if let Some(layer) = differences.iter().position(|difference| !difference.is_finite()) {
        return Err(UnclearStages::NotFinite { layer });
    }
    let sum = |first: usize, end: usize| differences[first..end].iter().sum::<f64>();
    // The sum over all layers is the same for all divisions: only that over Stage II counts.
    let mut best = (1, 2);
    for first in 1..depth - 1 {
        for end in first + 1..depth {
            if sum(first, end) > sum(best.0, best.1) {
                best = (first, end);
            }
        }
    }
    let stages = Stages { first: 0..best.0, second: best.0..best.1, third: best.1..depth };
    let mean_of = |stage: Stage| mean(&differences[stages.layers(stage).clone()]);
    if mean_of(Stage::Second) <= 0.0 {
        let inner = differences.iter().copied().enumerate().skip(1).take(depth - 2);
        let closest = inner.max_by(|(_, one), (_, other)| one.total_cmp(other));
        let (layer, difference) = closest.unwrap_or((0, f64::NAN));
        return Err(UnclearStages::NoOvertake { layer, difference });
    }
    for stage in [Stage::First, Stage::Third] {
        let difference = mean_of(stage);
        if difference >= 0.0 {
            let layers = stages.layers(stage).clone();
            return Err(UnclearStages::NoStage { stage, layers, difference });
        }
    }
    let agrees = |(layer, difference): &(usize, f64)| {
        (stages.of(*layer) == Stage::Second) == (*difference > 0.0)
    };
    let total = |values: &mut dyn Iterator<Item = (usize, f64)>| -> f64 {
        values.map(|(_, difference)| difference.abs()).sum()
    };
    let each = || differences.iter().copied().enumerate();
    let fit = total(&mut each().filter(agrees)) / total(&mut each());
    let found = FoundStages { stages, differences, fit };
    match fit < LEAST_FIT {
        true => Err(UnclearStages::SeveralCrossings {
            crossings: found.crossings(),
            stages: found.stages,
            fit,
        }),
        false => Ok(found),
    }
}

impl FoundStages {
    /// The layers whose difference has another sign than that of the layer before: two, if the stages fit all layers.
    pub fn crossings(&self) -> Vec<usize> {
        let is_above: Vec<bool> = self.differences.iter().map(|value| *value > 0.0).collect();
        (1..is_above.len()).filter(|&layer| is_above[layer] != is_above[layer - 1]).collect()
    }

    /// Describes how clear the boundaries are, in lines.
    pub fn describe(&self) -> String {
        let at = |layer: usize| format!("{:+.3} in layer {layer}", self.differences[layer]);
        let boundary = |from: Stage, to: Stage| {
            let start = self.stages.layers(to).start;
            format!("{from} to {to}: {}, {}", at(start - 1), at(start))
        };
        let crossings = self.crossings();
        let more = match crossings.len() {
            0..=2 => String::new(),
            count => format!("; {count} crossings, before layers {}", listed(&crossings)),
        };
        format!(
            "ratio of cross-attention less that of the MLP (P1): {}; {}\n\
             {:.0}% of the differences have the sign of their stage{more}",
            boundary(Stage::First, Stage::Second),
            boundary(Stage::Second, Stage::Third),
            100.0 * self.fit,
        )
    }

    /// The section of a recipe that gives these stages.
    pub fn recipe_section(&self) -> String {
        recipe_section(&self.stages)
    }
}

/// The section of a recipe that gives `stages`.
pub fn recipe_section(stages: &Stages) -> String {
    let lines = Stage::ALL.map(|stage| format!("{stage} = \"{:?}\"\n", stages.layers(stage)));
    format!("[stages]\n{}", lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ratios with these differences between cross-attention and MLP.
    fn ratios(differences: &[f64]) -> Vec<ByComponent<f64>> {
        let ratio = |difference: &f64| {
            ByComponent::new(|component| match component {
                Component::SelfAttention => 9.0, // does not matter
                Component::CrossAttention => 0.5 + difference / 2.0,
                Component::Mlp => 0.5 - difference / 2.0,
            })
        };
        differences.iter().map(ratio).collect()
    }

    fn found(differences: &[f64]) -> FoundStages {
        stages_from_ratios(&ratios(differences)).unwrap()
    }

    fn refused(differences: &[f64]) -> UnclearStages {
        stages_from_ratios(&ratios(differences)).unwrap_err()
    }

    /// The paper's course over 24 layers: the MLP dominates in 0-6, cross-attention in 7-17, the MLP again in 18-23.
    fn paper() -> Vec<f64> {
        (0..24_i32)
            .map(|layer| {
                let size = 0.05 + 0.01 * f64::from(layer % 5);
                if (7..18).contains(&layer) { size } else { -size }
            })
            .collect()
    }

    #[test]
    fn the_course_of_the_paper_gives_the_stages_of_the_paper() {
        let stages = found(&paper());
        assert_eq!(stages.stages, Stages::scaled(24).unwrap());
        assert_eq!((stages.fit, stages.crossings()), (1.0, vec![7, 18]));
    }

    #[test]
    fn stages_begin_where_cross_attention_overtakes_and_where_it_falls_back() {
        let stages = found(&[-0.14, 0.08, 0.14, 0.13, -0.06, -0.05, -0.12, -0.24]);
        assert_eq!(stages.stages.to_string(), "I 0, II 1-3, III 4-7");
        assert_eq!(stages.fit, 1.0);
        assert_eq!(found(&[-0.1, 0.2, -0.1]).stages.to_string(), "I 0, II 1, III 2");
        let described = stages.describe();
        assert!(described.contains("I to II: -0.140 in layer 0, +0.080 in layer 1"), "{described}");
        assert!(described.contains("II to III: +0.130 in layer 3, -0.060"), "{described}");
        assert_eq!(
            stages.recipe_section(),
            "[stages]\nI = \"0..1\"\nII = \"1..4\"\nIII = \"4..8\"\n"
        );
    }

    #[test]
    fn single_layers_that_cross_do_not_move_the_boundaries() {
        let mut course = paper();
        course[3] = 0.02;
        course[12] = -0.03;
        course[20] = 0.01;
        let stages = found(&course);
        assert_eq!(stages.stages, Stages::scaled(24).unwrap());
        assert!(stages.fit > 0.9 && stages.fit < 1.0, "{}", stages.fit);
        assert_eq!(stages.crossings(), [3, 4, 7, 12, 13, 18, 20, 21]);
        assert!(stages.describe().contains("8 crossings"), "{}", stages.describe());
    }

    #[test]
    fn boundaries_that_are_not_clear_are_refused_with_the_reason() {
        let UnclearStages::NoOvertake { layer, difference } = refused(&[-0.3, -0.2, -0.05, -0.4])
        else {
            panic!("Stage II is found")
        };
        assert!(layer == 2 && (difference + 0.05).abs() < 1e-12, "{layer} {difference}");
        let UnclearStages::NoStage { stage, layers, .. } = refused(&[0.1, 0.3, 0.2, -0.4]) else {
            panic!("Stage I is found")
        };
        assert_eq!((stage, layers), (Stage::First, 0..1));
        let UnclearStages::NoStage { stage, layers, .. } = refused(&[-0.1, 0.3, 0.2, 0.4]) else {
            panic!("Stage III is found")
        };
        assert_eq!((stage, layers), (Stage::Third, 3..4));
        // Up and down in every layer.
        let unclear = refused(&[-0.1, 0.11, -0.1, 0.12, -0.1, 0.1, -0.1]);
        let UnclearStages::SeveralCrossings { crossings, fit, .. } = &unclear else {
            panic!("{unclear}")
        };
        assert_eq!(crossings, &[1, 2, 3, 4, 5, 6]);
        assert!(*fit < LEAST_FIT);
        assert!(unclear.to_string().contains("cross 6 times (before layers 1, 2, 3, 4, 5, 6)"));
        assert!(matches!(refused(&[-0.1, 0.2]), UnclearStages::Depth(_)));
        assert_eq!(refused(&[-0.1, f64::NAN, -0.1]), UnclearStages::NotFinite { layer: 1 });
        // Only the last layer is above: no layer between the first and the last.
        assert!(matches!(refused(&[-0.1, -0.2, 0.3]), UnclearStages::NoOvertake { layer: 1, .. }));
    }
}
