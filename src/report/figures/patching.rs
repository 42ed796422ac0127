//! Figures of interventions: direct effect (P2b), stage patching (P3), circuit (P4), encoder swap (P5).

use plotters::style::RGBColor;

use super::axis::{Axis, thousands};
use super::color;
use super::spec::{Bars, Digits, FigureSpec, PERCENT, Panel, extent, heat_map, map_height};
use crate::component::{Component, Stage};
use crate::probe::{
    Circuit, ComponentEffect, DirectEffect, EncoderSwap, HeldOutScore, PatchedCell, RankShift,
    Replacement, Scores, StagePatching,
};
use crate::report::tables::{circuit_label, component_label};

/// The thresholds of [`RankShift`], as categories of an axis.
const BEYOND: [&str; 4] = ["> 1", "> 5", "> 10", "> 100"];

fn beyond(ranks: &RankShift) -> [f64; 4] {
    [ranks.beyond_1, ranks.beyond_5, ranks.beyond_10, ranks.beyond_100]
}

/// The name of a replacement in titles.
pub(super) fn replacement_label(replacement: Replacement) -> &'static str {
    match replacement {
        Replacement::Zero => "zero ablation",
        Replacement::Mean => "mean ablation",
        Replacement::Base => "base-model patching",
    }
}

/// Builds grouped bars of % of queries by rank threshold, one bar per name.
fn beyond_bars(title: &str, named: &[(String, RGBColor, &RankShift)]) -> Panel {
    let values = (0..BEYOND.len())
        .map(|threshold| named.iter().map(|(.., ranks)| beyond(ranks)[threshold]).collect());
    let bars = Bars {
        categories: &BEYOND.map(str::to_owned),
        names: named.iter().map(|(name, color, _)| (name.clone(), *color)).collect(),
        values: values.collect(),
        digits: Digits::Decimals(1),
    };
    bars.grouped(title, "rank of the relevant docid", percent_axis("% of queries"))
}

/// Returns an axis from 0 to 100, with room for the numbers above bars.
fn percent_axis(name: &str) -> Axis {
    Axis { end: 110.0, ..Axis::linear(name, 0.0, 100.0) }
}

/// Returns the effects in the order in which a layer runs the components.
pub(super) fn in_stack_order(result: &DirectEffect) -> Vec<&ComponentEffect> {
    let of = |component| result.effects.iter().filter(move |e| e.component == component);
    Component::ALL.into_iter().flat_map(of).collect()
}

/// P2b: % beyond rank thresholds, and the distribution of ranks.
pub(super) fn direct_effect(result: &DirectEffect) -> Vec<FigureSpec> {
    let named = in_stack_order(result).into_iter().map(|effect| {
        let color = color::component(effect.component);
        (format!("{} only", component_label(effect.component)), color, &effect.ranks)
    });
    let named: Vec<(String, RGBColor, &RankShift)> = named.collect();
    let octaves = named.iter().map(|(.., ranks)| ranks.octaves.len()).max().unwrap_or(0);
    let places: Vec<String> =
        (0..octaves).map(|octave| thousands(2f64.powi(octave as i32))).collect();
    let count = |ranks: &RankShift, octave| {
        ranks.octaves.get(octave).map_or(0.0, |queries| *queries as f64)
    };
    let values = (0..octaves)
        .map(|octave| named.iter().map(|(.., ranks)| count(ranks, octave)).collect())
        .collect::<Vec<Vec<f64>>>();
    let (_, most) = extent(values.iter().flatten().copied());
    let names = named.iter().map(|(name, color, _)| (name.clone(), *color)).collect();
    let spread = Bars { categories: &places, names, values, digits: Digits::Integer };
    let y = Axis::linear("queries", 0.0, 1.05 * most);
    vec![FigureSpec {
        name: "direct_effect".to_owned(),
        title: "Direct logit attribution by component type".to_owned(),
        note: String::new(),
        columns: 1,
        panel: (860, 300),
        panels: vec![
            beyond_bars("Queries whose relevant docid is beyond a rank", &named),
            spread.grouped("Distribution of ranks of the relevant docid", "rank (log2 bins)", y),
        ],
    }]
}

/// P3: the paper's table as heat maps; user-defined patches as a second figure.
pub(super) fn stage_patching(result: &StagePatching) -> Vec<FigureSpec> {
    let panels = Replacement::ALL.iter().filter_map(|replacement| {
        let cell = |component, stage| {
            let of = (Some(component), Some(stage), *replacement);
            let found = result.cells.iter().find(|c| (c.component, c.stage, c.replacement) == of);
            found.map_or(f64::NAN, |cell| cell.ranks.beyond_1)
        };
        let any = |cell: &PatchedCell| cell.component.is_some() && cell.replacement == *replacement;
        result.cells.iter().any(any).then(|| {
            let row = |component| Stage::ALL.map(|stage| cell(component, stage)).to_vec();
            let values = Component::ALL.map(row);
            let axes = (
                Axis::categorical("stage", &Stage::ALL.map(|stage| stage.to_string())),
                Axis::categorical_from_top(
                    "",
                    &Component::ALL.map(|c| component_label(c).to_owned()),
                ),
            );
            heat_map(replacement_label(*replacement), axes, &values, PERCENT, Digits::Decimals(1))
        })
    });
    let paper = FigureSpec {
        name: "stage_patching".to_owned(),
        title: "Queries no longer ranked first when a component of a stage is patched".to_owned(),
        note: "% of queries whose relevant docid is no longer at rank 1".to_owned(),
        columns: 3,
        panel: (420, map_height(3)),
        panels: panels.collect(),
    };
    vec![paper, user_defined(result)]
}

/// User-defined patches, in addition to the paper's.
fn user_defined(result: &StagePatching) -> FigureSpec {
    let cells = result.cells.iter().filter(|c| c.component.is_none() || c.stage.is_none());
    let (labels, values): (Vec<String>, Vec<Vec<f64>>) = cells
        .map(|cell| {
            let name = format!("{}={}", cell.selector, cell.replacement);
            (shortened(&name), beyond(&cell.ranks).to_vec())
        })
        .unzip();
    let axes = (
        Axis::categorical("rank of the relevant docid", &BEYOND.map(str::to_owned)),
        Axis::categorical_from_top("", &labels),
    );
    let height = map_height(labels.len());
    let panel = heat_map("% of queries", axes, &values, PERCENT, Digits::Decimals(1));
    FigureSpec {
        name: "stage_patching_asked".to_owned(),
        title: "User-defined patches: rank of the relevant docid".to_owned(),
        note: String::new(),
        columns: 1,
        panel: (860, height),
        panels: if labels.is_empty() { Vec::new() } else { vec![panel] },
    }
}

/// P4: effectiveness of circuits and of the unpatched model.
pub(super) fn circuit(result: &Circuit) -> Vec<FigureSpec> {
    let places = ["Hits@1", "R@5", "Hits@10"].map(str::to_owned);
    let values = |all: &[&Scores]| {
        let of: [fn(&Scores) -> f64; 3] = [|s| s.hits_1, |s| s.recall_5, |s| s.hits_10];
        of.map(|value| all.iter().map(|scores| 100.0 * value(scores)).collect::<Vec<f64>>())
            .to_vec()
    };
    let circuits = result.circuits.iter();
    let named = circuits
        .clone()
        .enumerate()
        .map(|(i, c)| (shortened(circuit_label(&c.name)), color::series(i)));
    let named: Vec<(String, RGBColor)> = named.collect();
    let unpatched = [("unpatched".to_owned(), color::UNPATCHED)];
    let absolute: Vec<&Scores> =
        [&result.unpatched].into_iter().chain(circuits.clone().map(|c| &c.absolute)).collect();
    let relative: Vec<&Scores> = circuits.map(|circuit| &circuit.relative).collect();
    let (_, most) = extent(values(&relative).into_iter().flatten());
    let digits = Digits::Decimals(1);
    let names = unpatched.into_iter().chain(named.clone()).collect();
    let absolute = Bars { categories: &places, names, values: values(&absolute), digits };
    let relative = Bars { categories: &places, names: named, values: values(&relative), digits };
    vec![FigureSpec {
        name: "circuit".to_owned(),
        title: "Effectiveness of circuits".to_owned(),
        note: format!("Evaluated on {} {} queries", result.test_queries, result.test_set),
        columns: 1,
        panel: (860, 290),
        panels: vec![
            absolute.grouped("Absolute", "", percent_axis("%")),
            relative.grouped(
                "Relative to the unpatched model",
                "",
                Axis::linear("%", 0.0, (1.08 * most).max(110.0)),
            ),
        ],
    }]
}

/// P5: ranks with the states of other encoders.
pub(super) fn encoder_swap(result: &EncoderSwap) -> Vec<FigureSpec> {
    let swaps = result.swaps.iter().enumerate();
    let named = swaps.map(|(i, s)| (shortened(&s.encoder), color::series(i), &s.ranks));
    let named: Vec<(String, RGBColor, &RankShift)> = named.collect();
    let mut panels = vec![beyond_bars("Queries whose relevant docid is beyond a rank", &named)];
    let held_out = result.swaps.iter().filter_map(|s| Some((s, s.held_out.as_ref()?)));
    let (places, values): (Vec<String>, Vec<Vec<f64>>) = held_out
        .flat_map(|(swap, held)| {
            let of = |score: fn(&HeldOutScore) -> f64| vec![score(&held.swapped), score(&held.own)];
            let name = shortened(&swap.encoder);
            [
                (format!("{name}: MRR"), of(|score| score.mrr)),
                (format!("{name}: Hits@1"), of(|score| score.hits_1)),
            ]
        })
        .unzip();
    if !places.is_empty() {
        let names = ["other encoder", "own encoder"];
        let bars = Bars {
            categories: &places,
            names: names
                .iter()
                .zip(0..)
                .map(|(n, i)| ((*n).to_owned(), color::series(i)))
                .collect(),
            values,
            digits: Digits::Decimals(3),
        };
        let title = "Queries for documents excluded from the training of the other encoder's model";
        panels.push(bars.grouped(
            title,
            "",
            Axis { end: 1.1, ..Axis::linear("MRR, Hits@1", 0.0, 1.0) },
        ));
    }
    vec![FigureSpec {
        name: "encoder_swap".to_owned(),
        title: "Encoder swap: the decoder with another model's encoder".to_owned(),
        note: String::new(),
        columns: 1,
        panel: (860, 300),
        panels,
    }]
}

/// Shortens a long name to its end, where paths differ.
pub(super) fn shortened(name: &str) -> String {
    const MOST: usize = 36;
    let count = name.chars().count();
    if count <= MOST {
        return name.to_owned();
    }
    let end: String = name.chars().skip(count + 1 - MOST).collect();
    format!("\u{2026}{end}")
}
