//! Figures over layers: residual contribution (P1) and logit lens (P2).

use super::axis::Axis;
use super::color;
use super::spec::{
    Band, COSINE, Digits, FigureSpec, Panel, Series, extent, heat_map, lines, map_height,
    rank_lines,
};
use crate::component::{Component, Stage, Stages};
use crate::probe::{
    Contribution, LensSite, LogitLens, PopulationRanks, ResidualContribution, TokenGroup,
};
use crate::report::tables::{component_label, group_label};

/// Returns the labels of all layers up to the last of `layers`.
pub(super) fn layer_labels(layers: impl Iterator<Item = usize>) -> Vec<String> {
    let depth = layers.max().map_or(0, |last| last + 1);
    (0..depth).map(|layer| layer.to_string()).collect()
}

/// Returns the x axis of decoder layers, up to the last of `layers`.
pub(super) fn layer_axis(layers: impl Iterator<Item = usize>) -> Axis {
    Axis::categorical("decoder layer", &layer_labels(layers))
}

/// Returns the stages as bands of an axis of layers; none if the decoder has no stages.
pub(super) fn stage_bands(stages: Option<&Stages>) -> Vec<Band> {
    let Some(stages) = stages else { return Vec::new() };
    let band = |stage: Stage| {
        let layers = stages.layers(stage);
        Band {
            from: layers.start as f64,
            to: layers.end as f64,
            name: stage.to_string(),
            shaded: stage == Stage::Second,
        }
    };
    Stage::ALL.map(band).to_vec()
}

/// Returns the x coordinate of the centre of a layer.
pub(super) fn middle(layer: usize) -> f64 {
    layer as f64 + 0.5
}

/// P1: ratio and both cosines by layer; cosines of Stage III outputs with Stage I MLP outputs.
pub(super) fn residual_contribution(
    result: &ResidualContribution,
    stages: Option<&Stages>,
) -> Vec<FigureSpec> {
    type Value = fn(&Contribution) -> f64;
    let views: [(&str, &str, Value); 3] = [
        ("Ratio of the output's norm to the norm of the layer's residual update", "ratio", |c| {
            c.ratio
        }),
        ("Cosine with the residual stream after the layer", "cosine", |c| c.cosine_post),
        ("Cosine with the residual stream before the layer", "cosine", |c| c.cosine_pre),
    ];
    let panels = views.map(|(title, name, value)| {
        let series = Component::ALL.map(|component| {
            let of = result.contributions.iter().filter(|c| c.component == component);
            let points = of.map(|c| (middle(c.layer), value(c))).collect();
            Series::new(component_label(component), color::component(component), points)
        });
        let layers = result.contributions.iter().map(|c| c.layer);
        let y = if name == "cosine" {
            Axis::linear(name, -1.0, 1.0)
        } else {
            let (_, high) = extent(result.contributions.iter().map(value));
            Axis::linear(name, 0.0, high)
        };
        let mut panel = lines(title, layer_axis(layers), y, series.to_vec());
        panel.bands = stage_bands(stages);
        panel.reference_lines = if name == "cosine" { vec![0.0] } else { Vec::new() };
        panel
    });
    let contribution = FigureSpec {
        name: "residual_contribution".to_owned(),
        title: "Contribution of each component to the residual stream".to_owned(),
        note: String::new(),
        columns: 1,
        panel: (860, 290),
        panels: panels.to_vec(),
    };
    vec![contribution, priming(result)]
}

fn priming(result: &ResidualContribution) -> FigureSpec {
    let mut sources: Vec<usize> = result.priming.iter().map(|cosine| cosine.mlp_layer).collect();
    sources.sort_unstable();
    sources.dedup();
    let mut readers: Vec<usize> = result.priming.iter().map(|cosine| cosine.layer).collect();
    readers.sort_unstable();
    readers.dedup();
    let labels = |layers: &[usize]| layers.iter().map(usize::to_string).collect::<Vec<_>>();
    let panels = Component::ALL.map(|component| {
        let cell = |layer: &usize, source: &usize| {
            let of = (*layer, component, *source);
            let found = result.priming.iter().find(|c| (c.layer, c.component, c.mlp_layer) == of);
            found.map_or(f64::NAN, |cosine| cosine.cosine)
        };
        let values = readers.iter().map(|r| sources.iter().map(|s| cell(r, s)).collect());
        let values: Vec<Vec<f64>> = values.collect();
        let axes = (
            Axis::categorical("Stage I MLP layer", &labels(&sources)),
            Axis::categorical("Stage III layer", &labels(&readers)),
        );
        heat_map(component_label(component), axes, &values, COSINE, Digits::Decimals(2))
    });
    let any = !result.priming.is_empty();
    FigureSpec {
        name: "residual_contribution_priming".to_owned(),
        title: "Cosine of Stage III outputs with Stage I MLP outputs".to_owned(),
        note: String::new(),
        columns: 3,
        panel: (400, map_height(readers.len())),
        panels: if any { panels.to_vec() } else { Vec::new() },
    }
}

/// P2: ranks at the five sites; ranks of all docids and text tokens.
pub(super) fn logit_lens(result: &LogitLens, stages: Option<&Stages>) -> Vec<FigureSpec> {
    let sites = LensSite::ALL.iter().enumerate().map(|(index, site)| {
        let of = result.sites.iter().filter(|found| found.site == *site);
        let points = of.map(|s| (middle(s.layer), s.ranks.median_rank)).collect();
        Series::new(site_label(*site), color::series(index), points)
    });
    let title = "Median rank of the relevant docid";
    let x = layer_axis(result.sites.iter().map(|site| site.layer));
    let relevant = rank_lines(title, x.clone(), "rank (log)", sites.collect());

    type Value = fn(&PopulationRanks) -> f64;
    let figures: [(&str, Value, f64); 2] =
        [("median", |ranks| ranks.median, 1.0), ("best", |ranks| ranks.best, 0.45)];
    let populations = TokenGroup::ALL.iter().enumerate().flat_map(|(index, group)| {
        figures.map(|(name, value, strength)| {
            let of = result.populations.iter().filter(|found| found.group == *group);
            let points = of.map(|found| (middle(found.layer), value(found))).collect();
            let color = color::lighter(color::series(index), strength);
            Series::new(&format!("{}, {name}", group_label(*group)), color, points)
        })
    });
    let title =
        "Ranks of all docids and all text tokens after the layer, among text tokens and docids";
    let all = rank_lines(title, x, "rank (log)", populations.collect());
    let banded = |mut panel: Panel| {
        panel.bands = stage_bands(stages);
        panel
    };
    vec![FigureSpec {
        name: "logit_lens".to_owned(),
        title: "Logit lens".to_owned(),
        note: String::new(),
        columns: 1,
        panel: (860, 330),
        panels: [relevant, all].map(banded).to_vec(),
    }]
}

/// Returns the label of an activation that is projected to the vocabulary.
pub(in crate::report) fn site_label(site: LensSite) -> &'static str {
    match site {
        LensSite::ResidualMid => "after self-attention",
        LensSite::ResidualMidCross => "after cross-attention",
        LensSite::ResidualPost => "after the layer",
        LensSite::CrossAttentionOut => "cross-attention output",
        LensSite::MlpOut => "MLP output",
    }
}
