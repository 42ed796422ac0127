//! Figures of input attribution (P6, P7) and of cross-attention outputs (P8).

use plotters::style::RGBColor;

use super::axis::Axis;
use super::color::{self, Scale, ScaleKind};
use super::layers::layer_labels;
use super::spec::{Bars, Digits, FigureSpec, PERCENT, Panel, extent, heat_map, map_height};
use crate::component::{Component, Stage, Stages};
use crate::probe::{
    AttentionWrites, DocidShare, InputAttribution, LayerAttribution, Source, SourceShare,
    StageAttribution, StageSource,
};
use crate::report::tables::{component_label, source_label};

/// The destination units of an input attribution: the name of the figure, and of the units.
pub(super) struct Readers {
    name: &'static str,
    who: &'static str,
}

/// P6.
pub(super) const NEURONS: Readers = Readers { name: "neuron_reads", who: "MLP neurons" };
/// P7.
pub(super) const HEADS: Readers = Readers { name: "attention_reads", who: "cross-attention heads" };

/// Returns all sources by stage: the start embedding, then each component type in each stage.
pub(super) fn stage_sources() -> Vec<StageSource> {
    let start = StageSource { source: Source::Start, stage: None };
    let of = |stage| Component::ALL.map(|c| StageSource { source: c.into(), stage: Some(stage) });
    [start].into_iter().chain(Stage::ALL.into_iter().flat_map(of)).collect()
}

/// Returns all sources of a decoder without stages: by component type only.
fn typed_sources() -> Vec<StageSource> {
    Source::ALL.iter().map(|&source| StageSource { source, stage: None }).collect()
}

/// Returns the label of a source: `MLP I`, `start embedding`.
pub(super) fn source_name(source: &StageSource) -> String {
    match source.stage {
        Some(stage) => format!("{} {stage}", figure_label(source.source)),
        None => figure_label(source.source).to_owned(),
    }
}

fn figure_label(source: Source) -> &'static str {
    match source {
        Source::Start => source_label(source),
        Source::SelfAttention => component_label(Component::SelfAttention),
        Source::CrossAttention => component_label(Component::CrossAttention),
        Source::Mlp => component_label(Component::Mlp),
    }
}

/// Returns the colour of a component type, lighter for earlier stages.
fn source_color(source: &StageSource) -> RGBColor {
    let strength = match source.stage {
        Some(Stage::First) => 0.45,
        Some(Stage::Second) => 0.7,
        _ => 1.0,
    };
    color::lighter(color::source(source.source), strength)
}

/// Returns the share of a source in the attribution of a stage, in %; NaN if it is not one of its sources.
pub(super) fn stage_share(reads: &StageAttribution, source: StageSource) -> f64 {
    let found = reads.shares.iter().find(|share| share.source == source);
    found.map_or(f64::NAN, |found| 100.0 * found.share)
}

/// P6 and P7: shares by destination stage (if the decoder has stages) and by destination layer, and heat maps of source
/// layers by destination layers.
pub(super) fn reads(
    result: &InputAttribution,
    stages: Option<&Stages>,
    readers: &Readers,
) -> Vec<FigureSpec> {
    let sources = if stages.is_some() { stage_sources() } else { typed_sources() };
    let names: Vec<(String, RGBColor)> =
        sources.iter().map(|source| (source_name(source), source_color(source))).collect();
    let of_stage =
        |reads: &StageAttribution| sources.iter().map(|s| stage_share(reads, *s)).collect();
    let of_layer = |reads: &LayerAttribution| {
        let sum = |source: &StageSource| {
            let of = |share: &&SourceShare| {
                share.source == source.source
                    && share.layer.and_then(|layer| Some(stages?.of(layer))) == source.stage
            };
            let mut found = reads.shares.iter().filter(of).peekable();
            found.peek()?;
            Some(100.0 * found.map(|share| share.share).sum::<f64>())
        };
        sources.iter().map(|source| sum(source).unwrap_or(f64::NAN)).collect()
    };
    let stage_names: Vec<String> = result.stages.iter().map(|s| s.stage.to_string()).collect();
    let layer_names: Vec<String> = result.layers.iter().map(|l| l.layer.to_string()).collect();
    let digits = Digits::Decimals(1);
    let by_stage = Bars {
        categories: &stage_names,
        names: names.clone(),
        values: result.stages.iter().map(of_stage).collect(),
        digits,
    };
    let values = result.layers.iter().map(of_layer).collect();
    let by_layer = Bars { categories: &layer_names, names, values, digits };
    let percent = || Axis::linear("positive attribution (%)", 0.0, 100.0);
    let by_stage =
        stages.map(|_| by_stage.stacked("By destination stage", "destination stage", percent()));
    let by_layer = by_layer.stacked("By destination layer", "destination layer", percent());
    let bars = FigureSpec {
        name: readers.name.to_owned(),
        title: format!("Input attribution of {} by source component", readers.who),
        note: format!("Variant: {}; averaged over {} first", result.variant, result.average_first),
        columns: 1,
        panel: (860, 340),
        panels: by_stage.into_iter().chain([by_layer]).collect(),
    };
    vec![bars, layer_maps(result, &layer_names, readers)]
}

/// Heat maps of destination layers by source layers, one panel per source component type.
fn layer_maps(result: &InputAttribution, layers: &[String], readers: &Readers) -> FigureSpec {
    let share = |reads: &LayerAttribution, source: Source, layer: usize| {
        let of = |share: &&SourceShare| share.source == source && share.layer == Some(layer);
        reads.shares.iter().find(of).map_or(f64::NAN, |share| 100.0 * share.share)
    };
    let of_layers =
        result.layers.iter().flat_map(|reads| &reads.shares).filter(|share| share.layer.is_some());
    let (_, most) = extent(of_layers.map(|share| 100.0 * share.share));
    let scale = Scale { low: 0.0, high: most.max(1.0), kind: ScaleKind::Magnitude };
    let panels = Component::ALL.map(|component| {
        let row = |reads: &LayerAttribution| {
            let of = |layer| share(reads, component.into(), layer);
            (0..layers.len()).map(of).collect::<Vec<f64>>()
        };
        let values: Vec<Vec<f64>> = result.layers.iter().map(row).collect();
        let axes = (
            Axis::categorical("source layer", layers),
            Axis::categorical("destination layer", layers),
        );
        let title = format!("{} (%)", component_label(component));
        heat_map(&title, axes, &values, scale, Digits::Decimals(0))
    });
    FigureSpec {
        name: format!("{}_layers", readers.name),
        title: format!("Input attribution of {} by source layer", readers.who),
        note: format!(
            "Variant: {}; averaged over {} first. Grey: the source is later than the destination",
            result.variant, result.average_first
        ),
        columns: 3,
        panel: (440, map_height(layers.len())),
        panels: panels.to_vec(),
    }
}

/// Number of top tokens, and the % of docids among them.
type Top = (&'static str, fn(&DocidShare) -> f64);

/// The three numbers of top tokens of P8.
pub(super) const TOPS: [Top; 3] = [
    ("top 10", |share| share.top_10),
    ("top 100", |share| share.top_100),
    ("top 1,000", |share| share.top_1000),
];

/// P8: % of docids among the top tokens by layer, for the whole output and each head.
pub(super) fn attention_writes(result: &AttentionWrites) -> Vec<FigureSpec> {
    let mut columns: Vec<&str> = Vec::new();
    for share in &result.layers {
        if !columns.contains(&share.of.as_str()) {
            columns.push(&share.of);
        }
    }
    let labels: Vec<String> =
        columns.iter().map(|of| of.strip_prefix("head ").unwrap_or("all").to_owned()).collect();
    let layers = layer_labels(result.layers.iter().filter_map(|share| share.layer));
    let panel = |(name, value): Top| -> Panel {
        let cell = |layer, of: &str| {
            let of = |share: &&DocidShare| share.layer == Some(layer) && share.of == of;
            result.layers.iter().find(of).map_or(f64::NAN, value)
        };
        let row = |layer| columns.iter().map(|of| cell(layer, of)).collect::<Vec<f64>>();
        let values: Vec<Vec<f64>> = (0..layers.len()).map(row).collect();
        let axes =
            (Axis::categorical("head", &labels), Axis::categorical("decoder layer", &layers));
        heat_map(&format!("{name} (%)"), axes, &values, PERCENT, Digits::Decimals(0))
    };
    let chance = Digits::Decimals(1).write(result.chance);
    vec![FigureSpec {
        name: "attention_writes".to_owned(),
        title: "Docids among the top tokens of cross-attention outputs (logit lens)".to_owned(),
        note: format!("\"all\": the sum over heads. Chance: {chance}%"),
        columns: 3,
        panel: (440, map_height(layers.len())),
        panels: TOPS.map(panel).to_vec(),
    }]
}
