//! Pictures of what is read (P6, P7) and written (P8).

use plotters::style::RGBColor;

use super::axis::Axis;
use super::color::{self, Scale, ScaleKind};
use super::figure::{Bars, Digits, Figure, PERCENT, Panel, extent, heat_map, map_height};
use super::layers::layer_labels;
use crate::component::{Component, Stage, Stages};
use crate::probe::{
    AttentionWrites, DocidShare, InputAttribution, LayerAttribution, Source, SourceShare,
    StageAttribution, StageSource,
};

/// Who reads: the name of the picture, and of the readers.
pub(super) struct Readers {
    name: &'static str,
    who: &'static str,
}

/// P6.
pub(super) const NEURONS: Readers = Readers { name: "neuron_reads", who: "MLP neurons" };
/// P7.
pub(super) const HEADS: Readers = Readers { name: "attention_reads", who: "cross-attention heads" };

/// All sources by stage: the start embedding, then each type in each stage.
pub(super) fn stage_sources() -> Vec<StageSource> {
    let start = StageSource { source: Source::Start, stage: None };
    let of = |stage| Component::ALL.map(|c| StageSource { source: c.into(), stage: Some(stage) });
    [start].into_iter().chain(Stage::ALL.into_iter().flat_map(of)).collect()
}

/// All sources where the decoder has no stages: by type alone.
fn typed_sources() -> Vec<StageSource> {
    Source::ALL.iter().map(|&source| StageSource { source, stage: None }).collect()
}

/// `mlp I`, and `start`.
pub(super) fn source_name(source: &StageSource) -> String {
    match source.stage {
        Some(stage) => format!("{} {stage}", source.source),
        None => source.source.to_string(),
    }
}

/// A type's colour, the lighter the earlier the stage.
fn source_color(source: &StageSource) -> RGBColor {
    let strength = match source.stage {
        Some(Stage::First) => 0.45,
        Some(Stage::Second) => 0.7,
        _ => 1.0,
    };
    color::lighter(color::source(source.source), strength)
}

/// The share of a source in what a stage reads, in %; NaN where it is none of its sources.
pub(super) fn stage_share(reads: &StageAttribution, source: StageSource) -> f64 {
    let found = reads.shares.iter().find(|share| share.source == source);
    found.map_or(f64::NAN, |found| 100.0 * found.share)
}

/// P6 and P7: by stage, where the decoder has stages, and by layer of the reader, and every source of every layer.
pub(super) fn reads(
    result: &InputAttribution,
    stages: Option<&Stages>,
    readers: &Readers,
) -> Vec<Figure> {
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
    let digits = Digits::Point(1);
    let by_stage = Bars {
        places: &stage_names,
        names: names.clone(),
        values: result.stages.iter().map(of_stage).collect(),
        digits,
    };
    let values = result.layers.iter().map(of_layer).collect();
    let by_layer = Bars { places: &layer_names, names, values, digits };
    let percent = || Axis::linear("% of what is read", 0.0, 100.0);
    let by_stage = stages.map(|_| {
        by_stage.stacked("Sources by stage of the reader", "stage of the reader", percent())
    });
    let by_layer =
        by_layer.stacked("Sources by layer of the reader", "layer of the reader", percent());
    let bars = Figure {
        name: readers.name.to_owned(),
        title: format!("What {} read", readers.who),
        note: format!("Variant: {}; averaged over {} first", result.variant, result.average_first),
        columns: 1,
        panel: (860, 340),
        panels: by_stage.into_iter().chain([by_layer]).collect(),
    };
    vec![bars, layer_maps(result, &layer_names, readers)]
}

/// Reading layers against the layers that they read from, a panel for each type of source.
fn layer_maps(result: &InputAttribution, layers: &[String], readers: &Readers) -> Figure {
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
            Axis::places("layer that is read", layers),
            Axis::places("layer of the reader", layers),
        );
        let title = format!("{} (%)", component.name());
        heat_map(&title, axes, &values, scale, Digits::Point(0))
    });
    Figure {
        name: format!("{}_layers", readers.name),
        title: format!("Which layers {} read from", readers.who),
        note: format!(
            "Variant: {}; averaged over {} first. Grey: later than the reader",
            result.variant, result.average_first
        ),
        columns: 3,
        panel: (440, map_height(layers.len())),
        panels: panels.to_vec(),
    }
}

/// Tokens at the top, and the % of docids among them.
type Top = (&'static str, fn(&DocidShare) -> f64);

/// The three depths that P8 looks at.
pub(super) const TOPS: [Top; 3] = [
    ("top 10", |share| share.top_10),
    ("top 100", |share| share.top_100),
    ("top 1,000", |share| share.top_1000),
];

/// P8: % of docids by layer, for the whole output and each head.
pub(super) fn attention_writes(result: &AttentionWrites) -> Vec<Figure> {
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
        let axes = (Axis::places("head", &labels), Axis::places("decoder layer", &layers));
        heat_map(&format!("{name} (%)"), axes, &values, PERCENT, Digits::Point(0))
    };
    let chance = Digits::Point(1).write(result.chance);
    vec![Figure {
        name: "attention_writes".to_owned(),
        title: "Docids among the top tokens of cross-attention's outputs".to_owned(),
        note: format!("\"all\" is the whole output. Chance: {chance}%"),
        columns: 3,
        panel: (440, map_height(layers.len())),
        panels: TOPS.map(panel).to_vec(),
    }]
}
