//! What TensorBoard draws of a probe's result: scalars and histograms.
//!
//! One chart a quantity (`probe/logit_lens/residual_post_median_rank`); layers and stages are the lines of a chart.
//! All are in one section, `probe`, and under *Custom Scalars* in one a probe. All numbers are in JSON; here are those
//! whose way is worth watching.

use super::tidy::{Entry, entries};
use crate::component::Component;
use crate::monitor::{Histogram, Line, Point};
use crate::probe::{LensSite, Probe, ProbeResult, RankShift, Record};

/// The scalars of one result. Undefined numbers are left out: nothing was measured.
pub fn points(record: &Record) -> Vec<Point> {
    let probe = record.result.probe();
    let measured = Point {
        chart: chart(probe, ["measured_queries"]),
        line: Line::Whole,
        value: record.measured_on.measured as f64,
    };
    let mut points = vec![measured];
    let entries = entries(&record.result);
    points.extend(entries.iter().filter_map(|entry| point(probe, entry)));
    points.extend(priming(record));
    points.retain(|point| point.value.is_finite());
    points
}

/// The point that shows a number, if it is worth a line.
fn point(probe: Probe, entry: &Entry) -> Option<Point> {
    let Entry { of, setting, metric, .. } = entry;
    let metric = metric.as_str();
    let shown = match probe {
        Probe::ResidualContribution => entry.source.is_empty(),
        Probe::LogitLens => matches!(metric, "beyond_1" | "median_rank"),
        Probe::DirectEffect => matches!(metric, "beyond_1" | "beyond_10" | "median_rank"),
        Probe::StagePatching => matches!(metric, "beyond_1" | "beyond_10"),
        Probe::Circuit => true,
        Probe::EncoderSwap => {
            matches!(metric, "beyond_1" | "mean_rank" | "median_rank")
                || metric.starts_with("held_out_swapped")
        }
        Probe::NeuronReads | Probe::AttentionReads => {
            // Of each layer only how much reads there; what it reads is shown by stage.
            entry.layer.is_none() || metric == "readers"
        }
        Probe::AttentionWrites => !of.starts_with("head ") && metric != "chance",
    };
    let line = match (entry.layer, entry.stage) {
        (Some(layer), _) => Line::Layer(layer),
        (None, Some(stage)) => Line::Stage(stage),
        (None, None) => Line::Whole,
    };
    let from_stage = entry.source_stage.map(|stage| stage.to_string()).unwrap_or_default();
    let parts = if entry.source.is_empty() {
        let setting = if metric == "readers" { "" } else { setting.as_str() };
        [of.as_str(), setting, metric]
    } else {
        ["from", entry.source.as_str(), from_stage.as_str()]
    };
    shown.then(|| Point { chart: chart(probe, parts), line, value: entry.value })
}

/// A late output against all of Stage I's MLP outputs: their mean cosine.
fn priming(record: &Record) -> Vec<Point> {
    let ProbeResult::ResidualContribution(result) = &record.result else { return Vec::new() };
    let mut points = Vec::new();
    for component in Component::ALL {
        let of = || result.priming.iter().filter(|cosine| cosine.component == component);
        let mut layers: Vec<usize> = of().map(|cosine| cosine.layer).collect();
        layers.dedup();
        for layer in layers {
            let cosines: Vec<f64> =
                of().filter(|cosine| cosine.layer == layer).map(|cosine| cosine.cosine).collect();
            points.push(Point {
                chart: chart(record.result.probe(), [component.name(), "cosine_priming"]),
                line: Line::Layer(layer),
                value: cosines.iter().sum::<f64>() / cosines.len() as f64,
            });
        }
    }
    points
}

/// The histograms of one result: binary logarithms of ranks, where a whole distribution moves.
pub fn histograms(record: &Record) -> Vec<Histogram> {
    let probe = record.result.probe();
    let histogram = |line, parts: &[&str], ranks: &RankShift| {
        let parts = parts.iter().copied().chain(["log2_rank"]);
        let counts = ranks.octaves.iter().enumerate();
        let buckets = counts.map(|(octave, count)| ((octave + 1) as f64, *count)).collect();
        Histogram { chart: chart(probe, parts), line, start: 0.0, buckets }
    };
    match &record.result {
        ProbeResult::LogitLens(result) => {
            let sites = result.sites.iter().filter(|site| site.site == LensSite::ResidualPost);
            sites
                .map(|s| histogram(Line::Layer(s.layer), &[&s.site.to_string()], &s.ranks))
                .collect()
        }
        ProbeResult::DirectEffect(result) => result
            .effects
            .iter()
            .map(|effect| histogram(Line::Whole, &[effect.component.name()], &effect.ranks))
            .collect(),
        ProbeResult::StagePatching(result) => {
            let of_paper = result.cells.iter().filter_map(|cell| {
                let (component, stage) = (cell.component?, cell.stage?);
                let replacement = cell.replacement.to_string();
                let parts = [component.name(), replacement.as_str()];
                Some(histogram(Line::Stage(stage), &parts, &cell.ranks))
            });
            of_paper.collect()
        }
        _ => Vec::new(),
    }
}

/// `probe/<probe>/<parts>`, of characters that TensorBoard leaves as they are.
pub(super) fn chart<'a>(probe: Probe, parts: impl IntoIterator<Item = &'a str>) -> String {
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let plain = |character: char| match character {
        '@' | '.' | '-' => character,
        _ if character.is_alphanumeric() => character,
        _ => '_',
    };
    let name: String = parts.join("_").chars().map(plain).collect();
    format!("probe/{probe}/{name}")
}
