//! Figures of results over training: layers, stages or interventions by step.

use plotters::style::RGBColor;

use super::axis::Axis;
use super::color::{self, Scale, ScaleKind};
use super::layers::layer_labels;
use super::patching::{in_stack_order, replacement_label, shortened};
use super::reads::{TOPS, source_name, stage_share, stage_sources};
use super::spec::{
    Digits, FigureSpec, PERCENT, Panel, Series, extent, heat_map, lines, map_height, rank_lines,
};
use crate::component::{Component, Stage};
use crate::probe::{
    AttentionWrites, Circuit, DirectEffect, EncoderSwap, InputAttribution, LensSite, LogitLens,
    ProbeResult, RankShift, Record, Replacement, ResidualContribution, StagePatching,
};
use crate::report::tables::{circuit_label, component_label};

/// Height of a panel of lines.
const LINES: u32 = 320;

/// Returns the figure of the records of one probe over training, oldest first; `None` without records.
pub(super) fn history_figure(records: &[&Record]) -> Option<FigureSpec> {
    let newest = records.last()?;
    let history = History { records };
    let probe = newest.result.probe();
    let (subject, height, mut panels) = match &newest.result {
        ProbeResult::ResidualContribution(_) => (
            "Output norm ratio by component",
            history.layers_height(),
            residual_contribution(&history),
        ),
        ProbeResult::LogitLens(_) => (
            "Rank of the relevant docid after each layer",
            history.layers_height(),
            logit_lens(&history),
        ),
        ProbeResult::DirectEffect(_) => {
            ("Direct logit attribution by component type", LINES, direct_effect(&history))
        }
        ProbeResult::StagePatching(_) => (
            "Queries no longer ranked first under ablation and patching",
            map_height(9),
            stage_patching(&history),
        ),
        ProbeResult::Circuit(_) => ("Effectiveness of circuits", LINES, circuit(&history)),
        ProbeResult::EncoderSwap(_) => ("Encoder swap", LINES, encoder_swap(&history)),
        ProbeResult::NeuronReads(_) | ProbeResult::AttentionReads(_) => (
            "Input attribution by source component",
            map_height(stage_sources().len()),
            reads(&history),
        ),
        ProbeResult::AttentionWrites(_) => (
            "Docids among the top tokens of cross-attention",
            history.layers_height(),
            attention_writes(&history),
        ),
    };
    for panel in &mut panels {
        panel.counts = history.counts(&panel.x);
    }
    Some(FigureSpec {
        name: format!("{probe}_history"),
        title: format!("{subject}, over training"),
        note: String::new(),
        columns: 1,
        panel: (860, height),
        panels,
    })
}

/// The records of one probe, oldest first.
struct History<'a> {
    records: &'a [&'a Record],
}

impl History<'_> {
    /// Returns the steps of the records; if a record has no step, its index from 1.
    fn steps(&self) -> Vec<f64> {
        let records = self.records.iter().zip(1..);
        records.map(|(record, n)| record.measured_on.step.unwrap_or(n) as f64).collect()
    }

    /// Returns the steps as a categorical axis.
    fn categories(&self) -> Axis {
        let labels: Vec<String> = self.steps().iter().map(|step| format!("{step:.0}")).collect();
        Axis::categorical("step", &labels)
    }

    /// Returns the steps as a linear axis.
    fn axis(&self) -> Axis {
        let (low, high) = extent(self.steps());
        let room = (0.02 * (high - low)).max(0.5);
        let mut axis = Axis::linear("step", low, high);
        (axis.start, axis.end) = (low - room, high + room);
        axis.ticks.retain(|(step, _)| (axis.start..=axis.end).contains(step));
        axis
    }

    /// Returns a quantity as cells: rows by steps.
    fn rows(&self, rows: usize, value: impl Fn(&ProbeResult, usize) -> f64) -> Vec<Vec<f64>> {
        let row = |row| self.records.iter().map(|record| value(&record.result, row)).collect();
        (0..rows).map(row).collect()
    }

    /// Returns a quantity as a line over steps.
    fn line(&self, name: &str, color: RGBColor, value: impl Fn(&ProbeResult) -> f64) -> Series {
        let points = self.steps().into_iter().zip(self.records);
        let points = points.map(|(step, record)| (step, value(&record.result))).collect();
        Series::new(name, color, points)
    }

    /// Returns the number of queries at each place of the x axis.
    fn counts(&self, x: &Axis) -> Vec<(f64, String)> {
        let count = |(index, (step, record)): (usize, (f64, &&Record))| {
            let place = if x.is_categorical() { index as f64 + 0.5 } else { step };
            (place, queries(record).to_string())
        };
        self.steps().into_iter().zip(self.records).enumerate().map(count).collect()
    }

    fn newest(&self) -> Option<&ProbeResult> {
        self.records.last().map(|record| &record.result)
    }

    fn layers_height(&self) -> u32 {
        map_height(self.layers().ticks.len())
    }

    /// Returns the axis of decoder layers.
    fn layers(&self) -> Axis {
        let labels = match self.newest() {
            Some(ProbeResult::ResidualContribution(result)) => {
                layer_labels(result.contributions.iter().map(|found| found.layer))
            }
            Some(ProbeResult::LogitLens(result)) => {
                layer_labels(result.sites.iter().map(|found| found.layer))
            }
            Some(ProbeResult::AttentionWrites(result)) => {
                layer_labels(result.layers.iter().filter_map(|found| found.layer))
            }
            _ => Vec::new(),
        };
        Axis::categorical("decoder layer", &labels)
    }
}

/// Returns the number of queries that a result's values are means over.
fn queries(record: &Record) -> usize {
    match &record.result {
        ProbeResult::Circuit(Circuit { test_queries, .. }) => *test_queries as usize,
        _ => record.measured_on.measured,
    }
}

fn residual_contribution(history: &History) -> Vec<Panel> {
    let ratio = |result: &ProbeResult, component, layer| match result {
        ProbeResult::ResidualContribution(ResidualContribution { contributions, .. }) => {
            let found = contributions.iter().find(|c| (c.component, c.layer) == (component, layer));
            found.map_or(f64::NAN, |found| found.ratio)
        }
        _ => f64::NAN,
    };
    let layers = history.layers();
    let values = Component::ALL
        .map(|component| history.rows(layers.ticks.len(), |r, layer| ratio(r, component, layer)));
    let (_, high) = extent(values.iter().flatten().flatten().copied());
    let scale = Scale { low: 0.0, high, kind: ScaleKind::Magnitude };
    let panel = |(component, values): (Component, &Vec<Vec<f64>>)| {
        let axes = (history.categories(), layers.clone());
        let title = format!(
            "{}: ratio of the output's norm to the norm of the layer's residual update",
            component_label(component)
        );
        heat_map(&title, axes, values, scale, Digits::Decimals(2))
    };
    Component::ALL.into_iter().zip(&values).map(panel).collect()
}

fn logit_lens(history: &History) -> Vec<Panel> {
    let rank = |result: &ProbeResult, layer| match result {
        ProbeResult::LogitLens(LogitLens { sites, .. }) => {
            let of = (layer, LensSite::ResidualPost);
            let found = sites.iter().find(|site| (site.layer, site.site) == of);
            found.map_or(f64::NAN, |found| found.ranks.median_rank)
        }
        _ => f64::NAN,
    };
    let layers = history.layers();
    let values = history.rows(layers.ticks.len(), rank);
    let (_, high) = extent(values.iter().flatten().copied());
    let scale = Scale { low: 1.0, high: high.max(10.0), kind: ScaleKind::Rank };
    let axes = (history.categories(), layers);
    vec![heat_map("Median rank (logarithmic colours)", axes, &values, scale, Digits::Integer)]
}

fn direct_effect(history: &History) -> Vec<Panel> {
    let Some(ProbeResult::DirectEffect(newest)) = history.newest() else { return Vec::new() };
    let of = |result: &ProbeResult, component| match result {
        ProbeResult::DirectEffect(DirectEffect { effects }) => {
            effects.iter().find(|e| e.component == component).map(|e| e.ranks.clone())
        }
        _ => None,
    };
    let line = |value: fn(&RankShift) -> f64| {
        let lines = in_stack_order(newest).into_iter().map(|effect| {
            let color = color::component(effect.component);
            history.line(&format!("{} only", component_label(effect.component)), color, |result| {
                of(result, effect.component).map_or(f64::NAN, |ranks| value(&ranks))
            })
        });
        lines.collect::<Vec<_>>()
    };
    let percent = Axis::linear("% of queries", 0.0, 100.0);
    let median = line(|ranks| ranks.median_rank);
    vec![
        lines(
            "Relevant docid not ranked first",
            history.axis(),
            percent,
            line(|ranks| ranks.beyond_1),
        ),
        rank_lines("Median rank of the relevant docid", history.axis(), "rank (log)", median),
    ]
}

fn stage_patching(history: &History) -> Vec<Panel> {
    let of = |result: &ProbeResult, component, stage, replacement| match result {
        ProbeResult::StagePatching(StagePatching { cells }) => {
            let of = (Some(component), Some(stage), replacement);
            let found = cells.iter().find(|c| (c.component, c.stage, c.replacement) == of);
            found.map_or(f64::NAN, |found| found.ranks.beyond_1)
        }
        _ => f64::NAN,
    };
    let rows: Vec<(Component, Stage)> = Component::ALL
        .into_iter()
        .flat_map(|component| Stage::ALL.map(|stage| (component, stage)))
        .collect();
    let labels: Vec<String> = rows
        .iter()
        .map(|(component, stage)| format!("{} {stage}", component_label(*component)))
        .collect();
    let panels = Replacement::ALL.iter().filter_map(|replacement| {
        let values = history
            .rows(rows.len(), |result, row| of(result, rows[row].0, rows[row].1, *replacement));
        let any = values.iter().flatten().any(|value| value.is_finite());
        any.then(|| {
            let axes = (history.categories(), Axis::categorical_from_top("", &labels));
            let title = format!("{} (% no longer ranked first)", replacement_label(*replacement));
            heat_map(&title, axes, &values, PERCENT, Digits::Decimals(0))
        })
    });
    panels.collect()
}

fn circuit(history: &History) -> Vec<Panel> {
    let Some(ProbeResult::Circuit(newest)) = history.newest() else { return Vec::new() };
    let of = |result: &ProbeResult, name: Option<&str>| match (result, name) {
        (ProbeResult::Circuit(Circuit { unpatched, .. }), None) => 100.0 * unpatched.hits_1,
        (ProbeResult::Circuit(Circuit { circuits, .. }), Some(name)) => {
            let found = circuits.iter().find(|circuit| circuit.name == name);
            found.map_or(f64::NAN, |found| 100.0 * found.absolute.hits_1)
        }
        _ => f64::NAN,
    };
    let circuits = newest.circuits.iter().enumerate().map(|(index, circuit)| {
        let value = |result: &ProbeResult| of(result, Some(&circuit.name));
        history.line(&shortened(circuit_label(&circuit.name)), color::series(index), value)
    });
    let unpatched = history.line("unpatched", color::UNPATCHED, |result| of(result, None));
    let all = [unpatched].into_iter().chain(circuits).collect();
    vec![lines("Hits@1", history.axis(), Axis::linear("%", 0.0, 100.0), all)]
}

fn encoder_swap(history: &History) -> Vec<Panel> {
    let Some(ProbeResult::EncoderSwap(newest)) = history.newest() else { return Vec::new() };
    let of = |result: &ProbeResult, encoder: &str| match result {
        ProbeResult::EncoderSwap(EncoderSwap { swaps, .. }) => {
            let found = swaps.iter().find(|swap| swap.encoder == encoder);
            found.map_or(f64::NAN, |found| found.ranks.beyond_1)
        }
        _ => f64::NAN,
    };
    let all = newest.swaps.iter().enumerate().map(|(index, swap)| {
        history.line(&shortened(&swap.encoder), color::series(index), |result| {
            of(result, &swap.encoder)
        })
    });
    let percent = Axis::linear("% of queries", 0.0, 100.0);
    vec![lines("Relevant docid not ranked first", history.axis(), percent, all.collect())]
}

fn reads(history: &History) -> Vec<Panel> {
    // Without stages there are too many sources for one figure over steps.
    if history.records.iter().all(|record| record.measured_on.stages.is_none()) {
        return Vec::new();
    }
    let sources = stage_sources();
    let labels: Vec<String> = sources.iter().map(source_name).collect();
    let of = |result: &ProbeResult, stage, row: usize| match result {
        ProbeResult::NeuronReads(InputAttribution { stages, .. })
        | ProbeResult::AttentionReads(InputAttribution { stages, .. }) => {
            let found = stages.iter().find(|reads| reads.stage == stage);
            found.map_or(f64::NAN, |found| stage_share(found, sources[row]))
        }
        _ => f64::NAN,
    };
    let values =
        Stage::ALL.map(|stage| history.rows(sources.len(), |result, row| of(result, stage, row)));
    let (_, most) = extent(values.iter().flatten().flatten().copied());
    let scale = Scale { low: 0.0, high: most.max(1.0), kind: ScaleKind::Magnitude };
    let panel = |(stage, values): (Stage, &Vec<Vec<f64>>)| {
        let axes = (history.categories(), Axis::categorical_from_top("", &labels));
        let title = format!("Destination stage {stage}: share of positive attribution (%)");
        heat_map(&title, axes, values, scale, Digits::Decimals(0))
    };
    Stage::ALL.into_iter().zip(&values).map(panel).collect()
}

fn attention_writes(history: &History) -> Vec<Panel> {
    let layers = history.layers();
    let panels = TOPS.map(|(name, value)| {
        let of = |result: &ProbeResult, layer| match result {
            ProbeResult::AttentionWrites(AttentionWrites { layers, .. }) => {
                let found = layers.iter().find(|s| s.layer == Some(layer) && s.of == "output");
                found.map_or(f64::NAN, value)
            }
            _ => f64::NAN,
        };
        let values = history.rows(layers.ticks.len(), of);
        let axes = (history.categories(), layers.clone());
        let title = format!("% of docids among the {name} tokens of the whole output");
        heat_map(&title, axes, &values, PERCENT, Digits::Decimals(0))
    });
    panels.to_vec()
}
