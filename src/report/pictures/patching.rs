//! Pictures of interventions: direct effect (P2b), stage patching (P3), circuit (P4), encoder swap (P5).

use plotters::style::RGBColor;

use super::axis::{Axis, thousands};
use super::color;
use super::figure::{Bars, Digits, Figure, PERCENT, Panel, extent, heat_map, map_height};
use crate::component::{Component, Stage};
use crate::probe::{
    Circuit, DirectEffect, EncoderSwap, HeldOutScore, PatchedCell, RankShift, Replacement, Scores,
    StagePatching,
};

/// The thresholds of [`RankShift`], as places of an axis.
const BEYOND: [&str; 4] = ["> 1", "> 5", "> 10", "> 100"];

fn beyond(ranks: &RankShift) -> [f64; 4] {
    [ranks.beyond_1, ranks.beyond_5, ranks.beyond_10, ranks.beyond_100]
}

/// Bars of % of queries, by threshold; a bar each of the named.
fn beyond_bars(title: &str, named: &[(String, RGBColor, &RankShift)]) -> Panel {
    let values = (0..BEYOND.len())
        .map(|threshold| named.iter().map(|(.., ranks)| beyond(ranks)[threshold]).collect());
    let bars = Bars {
        places: &BEYOND.map(str::to_owned),
        names: named.iter().map(|(name, color, _)| (name.clone(), *color)).collect(),
        values: values.collect(),
        digits: Digits::Point(1),
    };
    bars.grouped(title, "rank of the relevant docid", percent_axis("% of queries"))
}

/// 0 to 100, with room for the numbers above bars.
fn percent_axis(name: &str) -> Axis {
    Axis { end: 110.0, ..Axis::linear(name, 0.0, 100.0) }
}

/// P2b: % beyond thresholds, and how ranks are spread.
pub(super) fn direct_effect(result: &DirectEffect) -> Vec<Figure> {
    let named = result.effects.iter().map(|effect| {
        let color = color::component(effect.component);
        (format!("{} alone", effect.component.name()), color, &effect.ranks)
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
    let spread = Bars { places: &places, names, values, digits: Digits::Whole };
    let y = Axis::linear("queries", 0.0, 1.05 * most);
    vec![Figure {
        name: "direct_effect".to_owned(),
        title: "How far one type of component leads by itself".to_owned(),
        note: String::new(),
        columns: 1,
        panel: (860, 300),
        panels: vec![
            beyond_bars("Queries whose relevant docid is not near the top", &named),
            spread.grouped("Ranks of the relevant docid", "first rank of the octave", y),
        ],
    }]
}

/// P3: the paper's table as heat maps; further cells as bars.
pub(super) fn stage_patching(result: &StagePatching) -> Vec<Figure> {
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
                Axis::places("stage", &Stage::ALL.map(|stage| stage.to_string())),
                Axis::places_from_top("", &Component::ALL.map(|c| c.name().to_owned())),
            );
            let title = format!("replaced by: {replacement}");
            heat_map(&title, axes, &values, PERCENT, Digits::Point(1))
        })
    });
    let paper = Figure {
        name: "stage_patching".to_owned(),
        title: "Queries lost when a component is replaced in a stage".to_owned(),
        note: "% of queries whose relevant docid leaves rank 1".to_owned(),
        columns: 3,
        panel: (420, map_height(3)),
        panels: panels.collect(),
    };
    vec![paper, asked(result)]
}

/// The replacements that were asked for beside the paper's.
fn asked(result: &StagePatching) -> Figure {
    let asked = result.cells.iter().filter(|c| c.component.is_none() || c.stage.is_none());
    let (labels, values): (Vec<String>, Vec<Vec<f64>>) = asked
        .map(|cell| {
            let name = format!("{}={}", cell.selector, cell.replacement);
            (shortened(&name), beyond(&cell.ranks).to_vec())
        })
        .unzip();
    let axes = (
        Axis::places("rank of the relevant docid", &BEYOND.map(str::to_owned)),
        Axis::places_from_top("", &labels),
    );
    let height = map_height(labels.len());
    let panel = heat_map("% of queries", axes, &values, PERCENT, Digits::Point(1));
    Figure {
        name: "stage_patching_asked".to_owned(),
        title: "Queries lost with the replacements asked for".to_owned(),
        note: String::new(),
        columns: 1,
        panel: (860, height),
        panels: if labels.is_empty() { Vec::new() } else { vec![panel] },
    }
}

/// P4: what circuits retrieve, and what the whole model does.
pub(super) fn circuit(result: &Circuit) -> Vec<Figure> {
    let places = ["Hits@1", "R@5", "Hits@10"].map(str::to_owned);
    let values = |all: &[&Scores]| {
        let of: [fn(&Scores) -> f64; 3] = [|s| s.hits_1, |s| s.recall_5, |s| s.hits_10];
        of.map(|value| all.iter().map(|scores| 100.0 * value(scores)).collect::<Vec<f64>>())
            .to_vec()
    };
    let circuits = result.circuits.iter();
    let named = circuits.clone().enumerate().map(|(i, c)| (shortened(&c.name), color::series(i)));
    let named: Vec<(String, RGBColor)> = named.collect();
    let whole = [("unpatched".to_owned(), color::UNPATCHED)];
    let absolute: Vec<&Scores> =
        [&result.unpatched].into_iter().chain(circuits.clone().map(|c| &c.absolute)).collect();
    let relative: Vec<&Scores> = circuits.map(|circuit| &circuit.relative).collect();
    let (_, most) = extent(values(&relative).into_iter().flatten());
    let digits = Digits::Point(1);
    let names = whole.into_iter().chain(named.clone()).collect();
    let absolute = Bars { places: &places, names, values: values(&absolute), digits };
    let relative = Bars { places: &places, names: named, values: values(&relative), digits };
    vec![Figure {
        name: "circuit".to_owned(),
        title: "What the circuit retrieves by itself".to_owned(),
        note: format!("{} {} queries ranked", result.test_queries, result.test_set),
        columns: 1,
        panel: (860, 290),
        panels: vec![
            absolute.grouped("Effectiveness", "", percent_axis("%")),
            relative.grouped(
                "Relative to the unpatched model",
                "",
                Axis::linear("%", 0.0, (1.08 * most).max(110.0)),
            ),
        ],
    }]
}

/// P5: the decoder on other encoders' states.
pub(super) fn encoder_swap(result: &EncoderSwap) -> Vec<Figure> {
    let swaps = result.swaps.iter().enumerate();
    let named = swaps.map(|(i, s)| (shortened(&s.encoder), color::series(i), &s.ranks));
    let named: Vec<(String, RGBColor, &RankShift)> = named.collect();
    let mut panels = vec![beyond_bars("Queries whose relevant docid is not near the top", &named)];
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
        let names = ["the other encoder", "its own encoder"];
        let bars = Bars {
            places: &places,
            names: names
                .iter()
                .zip(0..)
                .map(|(n, i)| ((*n).to_owned(), color::series(i)))
                .collect(),
            values,
            digits: Digits::Point(3),
        };
        let title = "Queries for documents that the other encoder's model was trained without";
        panels.push(bars.grouped(
            title,
            "",
            Axis { end: 1.1, ..Axis::linear("MRR, Hits@1", 0.0, 1.0) },
        ));
    }
    vec![Figure {
        name: "encoder_swap".to_owned(),
        title: "The decoder on another model's encoder".to_owned(),
        note: String::new(),
        columns: 1,
        panel: (860, 300),
        panels,
    }]
}

/// The end of a long name, where paths differ.
pub(super) fn shortened(name: &str) -> String {
    const MOST: usize = 36;
    let count = name.chars().count();
    if count <= MOST {
        return name.to_owned();
    }
    let end: String = name.chars().skip(count + 1 - MOST).collect();
    format!("\u{2026}{end}")
}
