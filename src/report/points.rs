//! TensorBoard scalars and histograms of a probe's result.
//!
//! Each quantity is one chart (`probe/logit_lens/residual_post_median_rank`); layers and stages are the lines of a
//! chart. All charts are in the section `probe`; under *Custom Scalars* each probe has a section. Only quantities that
//! are useful as curves over training are included; JSON has all numbers.

use super::tidy::{Entry, entries};
use crate::component::Component;
use crate::monitor::{Histogram, Line, Point};
use crate::probe::{LensSite, Probe, ProbeResult, RankShift, Record};

/// Returns the scalars of one result. Undefined numbers are omitted.
pub fn points(record: &Record) -> Vec<Point> {
    let probe = record.result.probe();
    let measured = Point {
        chart: chart(probe, ["measured_queries"]),
        line: Line::Model,
        value: record.measured_on.measured as f64,
    };
    let mut points = vec![measured];
    let entries = entries(&record.result);
    points.extend(entries.iter().filter_map(|entry| point(probe, entry)));
    points.extend(priming(record));
    points.retain(|point| point.value.is_finite());
    points
}

/// Returns the point of a number, or `None` if the number has no curve.
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
            // By layer only the number of readers; attribution shares are shown by stage.
            entry.layer.is_none() || metric == "readers"
        }
        Probe::AttentionWrites => !of.starts_with("head ") && metric != "chance",
    };
    let line = match (entry.layer, entry.stage) {
        (Some(layer), _) => Line::Layer(layer),
        (None, Some(stage)) => Line::Stage(stage),
        (None, None) => Line::Model,
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

/// Returns for each Stage III output its mean cosine with the MLP outputs of Stage I.
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

/// Returns the histograms of one result: distributions of log2(rank).
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
            .map(|effect| histogram(Line::Model, &[effect.component.name()], &effect.ranks))
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

/// Returns the tag `probe/<probe>/<parts>`, with characters replaced that TensorBoard does not allow in tags.
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
