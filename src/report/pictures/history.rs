//! Pictures of how a result moves in training: layers, stages or settings over the steps measured.

use plotters::style::RGBColor;

use super::axis::Axis;
use super::color::{self, Scale, ScaleKind};
use super::figure::{
    Digits, Figure, PERCENT, Panel, Series, extent, heat_map, lines, map_height, rank_lines,
};
use super::layers::layer_labels;
use super::patching::shortened;
use super::reads::{TOPS, source_name, stage_share, stage_sources};
use crate::component::{Component, Stage};
use crate::probe::{
    AttentionWrites, Circuit, DirectEffect, EncoderSwap, InputAttribution, LensSite, LogitLens,
    ProbeResult, RankShift, Record, Replacement, ResidualContribution, StagePatching,
};

/// Height of a panel of lines.
const LINES: u32 = 320;

/// The way that the records of one probe, oldest first, have gone; none where there is nothing to show.
pub(super) fn history(records: &[&Record]) -> Option<Figure> {
    let newest = records.last()?;
    let over = Over { records };
    let probe = newest.result.probe();
    let (subject, height, panels) = match &newest.result {
        ProbeResult::ResidualContribution(_) => {
            ("Ratio of each component", over.layers_height(), residual_contribution(&over))
        }
        ProbeResult::LogitLens(_) => {
            ("Rank of the relevant docid after each layer", over.layers_height(), logit_lens(&over))
        }
        ProbeResult::DirectEffect(_) => {
            ("What one type of component does alone", LINES, direct_effect(&over))
        }
        ProbeResult::StagePatching(_) => {
            ("Queries lost by replacement", map_height(9), stage_patching(&over))
        }
        ProbeResult::Circuit(_) => ("What circuits retrieve", LINES, circuit(&over)),
        ProbeResult::EncoderSwap(_) => ("Another model's encoder", LINES, encoder_swap(&over)),
        ProbeResult::NeuronReads(_) | ProbeResult::AttentionReads(_) => {
            ("Sources of what is read", map_height(stage_sources().len()), reads(&over))
        }
        ProbeResult::AttentionWrites(_) => {
            ("Docids that cross-attention writes", over.layers_height(), attention_writes(&over))
        }
    };
    Some(Figure {
        name: format!("{probe}_history"),
        title: format!("{subject}, over training"),
        note: String::new(),
        columns: 1,
        panel: (860, height),
        panels,
    })
}

/// Records over which quantities are drawn.
struct Over<'a> {
    records: &'a [&'a Record],
}

impl Over<'_> {
    /// The records' steps; of one that does not know its step, its number.
    fn steps(&self) -> Vec<f64> {
        let records = self.records.iter().zip(1..);
        records.map(|(record, n)| record.measured_on.step.unwrap_or(n) as f64).collect()
    }

    /// The steps as places beside each other.
    fn places(&self) -> Axis {
        let labels: Vec<String> = self.steps().iter().map(|step| format!("{step:.0}")).collect();
        Axis::places("step", &labels)
    }

    /// The steps on a line.
    fn axis(&self) -> Axis {
        let (low, high) = extent(self.steps());
        let room = (0.02 * (high - low)).max(0.5);
        let mut axis = Axis::linear("step", low, high);
        (axis.start, axis.end) = (low - room, high + room);
        axis.ticks.retain(|(step, _)| (axis.start..=axis.end).contains(step));
        axis
    }

    /// A quantity as cells: rows by columns of steps.
    fn rows(&self, rows: usize, value: impl Fn(&ProbeResult, usize) -> f64) -> Vec<Vec<f64>> {
        let row = |row| self.records.iter().map(|record| value(&record.result, row)).collect();
        (0..rows).map(row).collect()
    }

    /// A quantity as a line.
    fn line(&self, name: &str, color: RGBColor, value: impl Fn(&ProbeResult) -> f64) -> Series {
        let points = self.steps().into_iter().zip(self.records);
        Series {
            name: name.to_owned(),
            color,
            points: points.map(|(step, record)| (step, value(&record.result))).collect(),
        }
    }

    fn newest(&self) -> Option<&ProbeResult> {
        self.records.last().map(|record| &record.result)
    }

    fn layers_height(&self) -> u32 {
        map_height(self.layers().ticks.len())
    }

    /// Rows for the decoder's layers.
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
        Axis::places("decoder layer", &labels)
    }
}

fn residual_contribution(over: &Over) -> Vec<Panel> {
    let ratio = |result: &ProbeResult, component, layer| match result {
        ProbeResult::ResidualContribution(ResidualContribution { contributions, .. }) => {
            let found = contributions.iter().find(|c| (c.component, c.layer) == (component, layer));
            found.map_or(f64::NAN, |found| found.ratio)
        }
        _ => f64::NAN,
    };
    let layers = over.layers();
    let values = Component::ALL
        .map(|component| over.rows(layers.ticks.len(), |r, layer| ratio(r, component, layer)));
    let (_, high) = extent(values.iter().flatten().flatten().copied());
    let scale = Scale { low: 0.0, high, kind: ScaleKind::Magnitude };
    let panel = |(component, values): (Component, &Vec<Vec<f64>>)| {
        let axes = (over.places(), layers.clone());
        let title = format!("{}: norm over the norm of the layer's change", component.name());
        heat_map(&title, axes, values, scale, Digits::Point(2))
    };
    Component::ALL.into_iter().zip(&values).map(panel).collect()
}

fn logit_lens(over: &Over) -> Vec<Panel> {
    let rank = |result: &ProbeResult, layer| match result {
        ProbeResult::LogitLens(LogitLens { sites, .. }) => {
            let of = (layer, LensSite::ResidualPost);
            let found = sites.iter().find(|site| (site.layer, site.site) == of);
            found.map_or(f64::NAN, |found| found.ranks.median_rank)
        }
        _ => f64::NAN,
    };
    let layers = over.layers();
    let values = over.rows(layers.ticks.len(), rank);
    let (_, high) = extent(values.iter().flatten().copied());
    let scale = Scale { low: 1.0, high: high.max(10.0), kind: ScaleKind::Rank };
    let axes = (over.places(), layers);
    vec![heat_map("Median rank (colours by its logarithm)", axes, &values, scale, Digits::Whole)]
}

fn direct_effect(over: &Over) -> Vec<Panel> {
    let Some(ProbeResult::DirectEffect(newest)) = over.newest() else { return Vec::new() };
    let of = |result: &ProbeResult, component| match result {
        ProbeResult::DirectEffect(DirectEffect { effects }) => {
            effects.iter().find(|e| e.component == component).map(|e| e.ranks.clone())
        }
        _ => None,
    };
    let line = |value: fn(&RankShift) -> f64| {
        let lines = newest.effects.iter().map(|effect| {
            let color = color::component(effect.component);
            over.line(&format!("{} alone", effect.component.name()), color, |result| {
                of(result, effect.component).map_or(f64::NAN, |ranks| value(&ranks))
            })
        });
        lines.collect::<Vec<_>>()
    };
    let percent = Axis::linear("% of queries", 0.0, 100.0);
    let median = line(|ranks| ranks.median_rank);
    vec![
        lines("Relevant docid beyond rank 1", over.axis(), percent, line(|ranks| ranks.beyond_1)),
        rank_lines("Median rank of the relevant docid", over.axis(), "rank (log)", median),
    ]
}

fn stage_patching(over: &Over) -> Vec<Panel> {
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
    let labels: Vec<String> =
        rows.iter().map(|(component, stage)| format!("{} {stage}", component.name())).collect();
    let panels = Replacement::ALL.iter().filter_map(|replacement| {
        let values =
            over.rows(rows.len(), |result, row| of(result, rows[row].0, rows[row].1, *replacement));
        let any = values.iter().flatten().any(|value| value.is_finite());
        any.then(|| {
            let axes = (over.places(), Axis::places_from_top("", &labels));
            let title = format!("replaced by: {replacement} (% beyond rank 1)");
            heat_map(&title, axes, &values, PERCENT, Digits::Point(0))
        })
    });
    panels.collect()
}

fn circuit(over: &Over) -> Vec<Panel> {
    let Some(ProbeResult::Circuit(newest)) = over.newest() else { return Vec::new() };
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
        over.line(&shortened(&circuit.name), color::series(index), value)
    });
    let whole = over.line("unpatched", color::UNPATCHED, |result| of(result, None));
    let all = [whole].into_iter().chain(circuits).collect();
    vec![lines("Hits@1", over.axis(), Axis::linear("%", 0.0, 100.0), all)]
}

fn encoder_swap(over: &Over) -> Vec<Panel> {
    let Some(ProbeResult::EncoderSwap(newest)) = over.newest() else { return Vec::new() };
    let of = |result: &ProbeResult, encoder: &str| match result {
        ProbeResult::EncoderSwap(EncoderSwap { swaps, .. }) => {
            let found = swaps.iter().find(|swap| swap.encoder == encoder);
            found.map_or(f64::NAN, |found| found.ranks.beyond_1)
        }
        _ => f64::NAN,
    };
    let all = newest.swaps.iter().enumerate().map(|(index, swap)| {
        over.line(&shortened(&swap.encoder), color::series(index), |result| {
            of(result, &swap.encoder)
        })
    });
    let percent = Axis::linear("% of queries", 0.0, 100.0);
    vec![lines("Relevant docid beyond rank 1", over.axis(), percent, all.collect())]
}

fn reads(over: &Over) -> Vec<Panel> {
    // Without stages there are too many sources for one picture over steps.
    if over.records.iter().all(|record| record.measured_on.stages.is_none()) {
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
        Stage::ALL.map(|stage| over.rows(sources.len(), |result, row| of(result, stage, row)));
    let (_, most) = extent(values.iter().flatten().flatten().copied());
    let scale = Scale { low: 0.0, high: most.max(1.0), kind: ScaleKind::Magnitude };
    let panel = |(stage, values): (Stage, &Vec<Vec<f64>>)| {
        let axes = (over.places(), Axis::places_from_top("", &labels));
        let title = format!("readers of stage {stage} (% from each source)");
        heat_map(&title, axes, values, scale, Digits::Point(0))
    };
    Stage::ALL.into_iter().zip(&values).map(panel).collect()
}

fn attention_writes(over: &Over) -> Vec<Panel> {
    let layers = over.layers();
    let panels = TOPS.map(|(name, value)| {
        let of = |result: &ProbeResult, layer| match result {
            ProbeResult::AttentionWrites(AttentionWrites { layers, .. }) => {
                let found = layers.iter().find(|s| s.layer == Some(layer) && s.of == "output");
                found.map_or(f64::NAN, value)
            }
            _ => f64::NAN,
        };
        let values = over.rows(layers.ticks.len(), of);
        let axes = (over.places(), layers.clone());
        let title = format!("% of docids among the {name} of the whole output");
        heat_map(&title, axes, &values, PERCENT, Digits::Point(0))
    });
    panels.to_vec()
}
