//! Figures of an inspected query: cross-attention over its tokens, logit lens, mean ablation.

use super::axis::Axis;
use super::color::{self, Scale, ScaleKind};
use super::layers::{layer_axis, layer_labels, middle, site_label, stage_bands};
use super::spec::{
    Band, Digits, FigureSpec, Legend, Panel, Series, extent, heat_map, lines, map_height,
    rank_lines,
};
use crate::component::{Component, Stage};
use crate::probe::{
    AblatedCell, InspectedAblation, Inspection, LensReading, LensSite, describe_candidates,
};
use crate::report::inspection::means_over;
use crate::report::tables::component_label;
use crate::report::word;

/// Returns the figures: attention by layer, attention by head, logit lens and, if it was measured, mean ablation.
pub fn figures(found: &Inspection) -> Vec<FigureSpec> {
    let mut all = vec![over_layers(found), over_heads(found), lens(found)];
    all.extend(found.ablation.as_ref().map(|ablation| ablated(found, ablation)));
    all
}

/// The query's tokens from the top, each with its position: a word may occur twice.
fn token_axis(found: &Inspection) -> Axis {
    let tokens = found.query.tokens.iter().enumerate();
    let labels: Vec<String> =
        tokens.map(|(place, token)| format!("{place} {}", word(token))).collect();
    Axis::categorical_from_top("", &labels)
}

/// From 0 to the highest weight: the same colours in all panels of a figure.
fn weights(values: impl IntoIterator<Item = f64>) -> Scale {
    let (_, high) = extent(values);
    Scale { low: 0.0, high: (10.0 * high).ceil().max(1.0) / 10.0, kind: ScaleKind::Magnitude }
}

/// Bands of stages that fit the layers.
fn bands(found: &Inspection) -> Vec<Band> {
    let stages = found.stages.as_ref().filter(|stages| stages.depth() == found.depth());
    let plain = |band: Band| Band { shaded: false, ..band };
    stage_bands(stages).into_iter().map(plain).collect()
}

/// Values by row of the y axis, then by column, from those by column.
fn transposed(columns: &[Vec<f64>], rows: usize) -> Vec<Vec<f64>> {
    let value = |row: usize, column: &Vec<f64>| column.get(row).copied().unwrap_or(f64::NAN);
    (0..rows).map(|row| columns.iter().map(|column| value(row, column)).collect()).collect()
}

fn over_layers(found: &Inspection) -> FigureSpec {
    let columns: Vec<Vec<f64>> =
        (0..found.depth()).map(|layer| found.mean_over_heads(layer)).collect();
    let tokens = found.query.tokens.len();
    let scale = weights(columns.iter().flatten().copied());
    let axes = (layer_axis(0..found.depth()), token_axis(found));
    let title = "Mean over heads";
    let panel = heat_map(title, axes, &transposed(&columns, tokens), scale, Digits::Decimals(2));
    FigureSpec {
        name: "attention_over_layers".to_owned(),
        title: "Cross-attention over the tokens of the query, by layer".to_owned(),
        note: "The weights of a layer sum to 1.".to_owned(),
        columns: 1,
        panel: (860, map_height(tokens)),
        panels: vec![Panel { bands: bands(found), ..panel }],
    }
}

fn over_heads(found: &Inspection) -> FigureSpec {
    let tokens = found.query.tokens.len();
    let all = found.attention.iter().flatten().flatten().map(|weight| f64::from(*weight));
    let scale = weights(all);
    let panel = |(layer, heads): (usize, &Vec<Vec<f32>>)| {
        let columns: Vec<Vec<f64>> = heads
            .iter()
            .map(|weights| weights.iter().map(|weight| f64::from(*weight)).collect())
            .collect();
        let stage = found.stages.as_ref().filter(|stages| layer < stages.depth());
        let stage =
            stage.map(|stages| format!(" (Stage {})", stages.of(layer))).unwrap_or_default();
        let heads: Vec<String> = (0..columns.len()).map(|head| head.to_string()).collect();
        let axes = (Axis::categorical("head", &heads), token_axis(found));
        let values = transposed(&columns, tokens);
        heat_map(
            &format!("Decoder layer {layer}{stage}"),
            axes,
            &values,
            scale,
            Digits::Decimals(2),
        )
    };
    FigureSpec {
        name: "attention_over_heads".to_owned(),
        title: "Cross-attention over the tokens of the query, by head".to_owned(),
        note: "The weights of a head sum to 1.".to_owned(),
        columns: 3,
        panel: (400, map_height(tokens)),
        panels: found.attention.iter().enumerate().map(panel).collect(),
    }
}

fn lens(found: &Inspection) -> FigureSpec {
    let series = |value: fn(&LensReading) -> f64| {
        let of_site = move |(index, site): (usize, &LensSite)| {
            let points = found.lens_at(*site).map(|at| (middle(at.layer), value(at))).collect();
            Series::new(site_label(*site), color::series(index), points)
        };
        LensSite::ALL.iter().enumerate().map(of_site).collect::<Vec<_>>()
    };
    let (docid, among) = (&found.docid.docid, describe_candidates(found.vocabulary));
    let x = || layer_axis(0..found.depth());
    let ranks = rank_lines("Rank", x(), "rank (log)", series(|at| f64::from(at.rank)));
    let probabilities = series(|at| 100.0 * at.probability);
    let (_, high) = extent(probabilities.iter().flat_map(|line| &line.points).map(|point| point.1));
    let y = Axis::linear("probability (%)", 0.0, high.max(1.0));
    let panels = [ranks, lines("Probability", x(), y, probabilities)];
    FigureSpec {
        name: "inspected_lens".to_owned(),
        title: format!("Logit lens: docid {docid} after each component"),
        note: format!("Rank and probability among {among}."),
        columns: 1,
        panel: (860, 330),
        panels: panels.map(|panel| Panel { bands: stage_bands_of(found), ..panel }).to_vec(),
    }
}

/// Bands of stages behind lines.
fn stage_bands_of(found: &Inspection) -> Vec<Band> {
    stage_bands(found.stages.as_ref().filter(|stages| stages.depth() == found.depth()))
}

fn ablated(found: &Inspection, ablation: &InspectedAblation) -> FigureSpec {
    let (_, high) = extent(ablation.cells.iter().map(|cell| cell.change.abs()));
    let high = high.max(0.01);
    let scale = Scale { low: -high, high, kind: ScaleKind::Diverging };
    let rows: Vec<String> =
        Component::ALL.map(|component| component_label(component).to_owned()).to_vec();
    let panel = |title: &str, x: Axis, of: &[(Option<Stage>, Option<usize>)]| {
        let value = |component: Component, (stage, layer): (Option<Stage>, Option<usize>)| {
            let is_of = |cell: &&AblatedCell| {
                (cell.component, cell.stage, cell.layer) == (component, stage, layer)
            };
            ablation.cells.iter().find(is_of).map_or(f64::NAN, |cell| cell.change)
        };
        let values: Vec<Vec<f64>> = Component::ALL
            .iter()
            .map(|component| of.iter().map(|place| value(*component, *place)).collect())
            .collect();
        let axes = (x, Axis::categorical_from_top("", &rows));
        let panel = heat_map(title, axes, &values, scale, Digits::Decimals(2));
        Panel { legend: Legend::Scale(scale), ..panel }
    };
    let layers: Vec<_> = (0..found.depth()).map(|layer| (None, Some(layer))).collect();
    let x = Axis::categorical("decoder layer", &layer_labels(0..found.depth()));
    let by_layer = panel("One component of one layer", x, &layers);
    let mut panels = vec![Panel { bands: bands(found), ..by_layer }];
    if found.stages.is_some() {
        let stages: Vec<_> = Stage::ALL.map(|stage| (Some(stage), None)).to_vec();
        let names = Stage::ALL.map(|stage| stage.to_string());
        let x = Axis::categorical("stage", &names);
        panels.push(panel("One component in all layers of a stage", x, &stages));
    }
    FigureSpec {
        name: "inspected_ablation".to_owned(),
        title: format!("Mean ablation: change of the logit of docid {}", found.docid.docid),
        note: format!(
            "Below 0: the component raises the docid's logit. Means over {}.",
            means_over(ablation)
        ),
        columns: 1,
        panel: (860, map_height(rows.len())),
        panels,
    }
}
