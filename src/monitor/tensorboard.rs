//! The TensorBoard events of a run: scalars, histograms, images, hyperparameters, and a layout of multi-line charts.
//!
//! TensorBoard draws several lines in one chart only for several runs; with that, a run with probes would appear as
//! seven or more runs. Here each line is a tag (`probe/logit_lens/mlp_median_rank/layer_03`), and a layout for the
//! *Custom Scalars* tab combines the lines of a chart.

use std::collections::BTreeSet;
use std::path::Path;

use protobuf::{Message, RepeatedField};
use tensorboard_proto::layout::{Category, Chart, Layout, MultilineChartContent};
use tensorboard_proto::summary::{HistogramProto, Summary, Summary_Value};
use tensorboard_proto::tensor::TensorProto;
use tensorboard_proto::types::DataType;
use tensorboard_rs::summary::image as png_summary;

use super::event_file::{EventFile, plugin_summary};
use super::hparams::{Hyperparameter, experiment, session_end, session_start};
use super::journal::Journal;
use super::{Histogram, Image, Line, Point};
use crate::files::FileError;

/// The charts of every run, the most important first: title and tag pattern.
const OVERVIEW: [(&str, &str); 5] = [
    ("loss", "loss/[^/]+$"),
    ("hits@1", "(train|validation|test)/hits@1$"),
    ("mrr@10", "(train|validation|test)/mrr@10$"),
    ("hits@1 on seen and unseen documents", "(train|validation|test)/(seen|unseen)/hits@1$"),
    ("hits@1 on training examples (memorisation)", "memorisation/[^/]+/hits@1$"),
];

/// An event file with the layout of its charts.
pub(super) struct TensorBoard {
    file: EventFile,
    /// Multi-line charts that have at least one point.
    charts: BTreeSet<String>,
}

impl TensorBoard {
    /// Creates a new file in `directory`, in addition to those of earlier processes. `resumed`: the step that a run
    /// continues from.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn open(
        directory: &Path,
        wall_time: f64,
        resumed: Option<u64>,
        journal: &mut Journal,
    ) -> Result<Self, FileError> {
        let file = EventFile::create(directory, wall_time, resumed, journal)?;
        let events = Self { file, charts: BTreeSet::new() };
        events.write_layout(journal, 0, wall_time);
        Ok(events)
    }

    /// Appends scalars by tag.
    pub fn scalars(
        &self,
        journal: &mut Journal,
        step: u64,
        wall_time: f64,
        values: &[(&str, f64)],
    ) {
        self.file.write(journal, step, wall_time, values);
    }

    /// Adds the charts of these points to the layout, so that the lines of a chart are drawn together.
    pub fn chart(&mut self, journal: &mut Journal, step: u64, wall_time: f64, points: &[Point]) {
        let known = self.charts.len();
        let of_lines = points.iter().filter(|point| point.line != Line::Model);
        self.charts.extend(of_lines.map(|point| point.chart.clone()));
        if self.charts.len() > known {
            self.write_layout(journal, step, wall_time);
        }
    }

    /// Appends a histogram, if its counts are not all zero.
    pub fn histogram(
        &self,
        journal: &mut Journal,
        step: u64,
        wall_time: f64,
        histogram: &Histogram,
    ) {
        self.file.write_summaries(journal, step, wall_time, histogram_summary(histogram));
    }

    /// Appends an image.
    pub fn image(&self, journal: &mut Journal, step: u64, wall_time: f64, image: &Image) {
        self.file.write_summaries(journal, step, wall_time, image_summary(image));
    }

    /// Appends the hyperparameters of the run, and the tags of the metrics in their table.
    pub fn hyperparameters(
        &self,
        journal: &mut Journal,
        wall_time: f64,
        values: &[(&str, Hyperparameter)],
        metrics: &[String],
    ) {
        let summaries = [experiment(values, metrics), session_start(values, wall_time)];
        self.write(journal, 0, wall_time, summaries);
    }

    /// Appends the end of the run.
    pub fn ended(&self, journal: &mut Journal, failed: bool, wall_time: f64) {
        self.write(journal, 0, wall_time, [session_end(failed, wall_time)]);
    }

    /// Appends the layout. TensorBoard uses the newest one.
    fn write_layout(&self, journal: &mut Journal, step: u64, wall_time: f64) {
        let layout = layout(&self.charts).write_to_bytes().map(|layout| {
            let mut content = TensorProto::new();
            content.set_dtype(DataType::DT_STRING);
            content.set_string_val(RepeatedField::from_vec(vec![layout]));
            plugin_summary("custom_scalars__config__", "custom_scalars", Vec::new(), content)
        });
        self.write(journal, step, wall_time, [layout]);
    }

    fn write<const N: usize>(
        &self,
        journal: &mut Journal,
        step: u64,
        wall_time: f64,
        summaries: [Result<Summary, protobuf::ProtobufError>; N],
    ) {
        // A message of ours that cannot be encoded does not exist; the plugin would miss it.
        let summaries = summaries.into_iter().flatten();
        self.file.write_summaries(journal, step, wall_time, summaries);
    }
}

/// Returns the layout: the overview, then a category for each section of `charts` (for each probe).
fn layout(charts: &BTreeSet<String>) -> Layout {
    let mut layout = Layout::new();
    let of_overview = OVERVIEW.map(|(title, pattern)| chart(title, pattern.to_owned()));
    let mut categories = vec![category("overview", of_overview.to_vec())];
    let mut sections: Vec<(&str, Vec<Chart>)> = Vec::new();
    for name in charts {
        let (section, title) = name.rsplit_once('/').unwrap_or(("", name));
        let lines = format!("{}/(stage|layer)_[^/]+$", escaped(name));
        let chart = chart(title, lines);
        match sections.last_mut() {
            Some((last, charts)) if *last == section => charts.push(chart),
            _ => sections.push((section, vec![chart])),
        }
    }
    categories.extend(sections.into_iter().map(|(section, charts)| category(section, charts)));
    layout.set_category(RepeatedField::from_vec(categories));
    layout
}

fn category(title: &str, charts: Vec<Chart>) -> Category {
    let mut category = Category::new();
    category.set_title(title.to_owned());
    category.set_chart(RepeatedField::from_vec(charts));
    category
}

/// Returns a chart of all tags that `pattern`, a Python regular expression, matches from their start.
fn chart(title: &str, pattern: String) -> Chart {
    let mut lines = MultilineChartContent::new();
    lines.set_tag(RepeatedField::from_vec(vec![pattern]));
    let mut chart = Chart::new();
    chart.set_title(title.to_owned());
    chart.set_multiline(lines);
    chart
}

/// Returns a regular expression that matches only this tag.
fn escaped(tag: &str) -> String {
    let escape = |character: char| match character {
        _ if character.is_alphanumeric() || matches!(character, '/' | '_' | '@') => {
            character.to_string()
        }
        _ => format!("\\{character}"),
    };
    tag.chars().map(escape).collect()
}

/// Returns the summary of a histogram; `None` if all counts are zero. TensorBoard takes the minimum as the left edge of
/// the first non-empty bucket, and the maximum as the right edge of the last one.
fn histogram_summary(histogram: &Histogram) -> Option<Summary> {
    let starts = [histogram.start].into_iter().chain(histogram.buckets.iter().map(|b| b.0));
    let buckets = starts.zip(&histogram.buckets).map(|(start, &(end, count))| (start, end, count));
    let non_empty: Vec<(f64, f64, u64)> = buckets.filter(|bucket| bucket.2 > 0).collect();
    // Only the bucket of a value is known: its centre is used for the sums.
    let sum = |of: fn(f64) -> f64| {
        let buckets = non_empty.iter();
        buckets.map(|(start, end, count)| of((start + end) / 2.0) * *count as f64).sum::<f64>()
    };
    let mut proto = HistogramProto::new();
    proto.set_min(non_empty.first()?.0);
    proto.set_max(non_empty.last()?.1);
    proto.set_num(sum(|_| 1.0));
    proto.set_sum(sum(|middle| middle));
    proto.set_sum_squares(sum(|middle| middle * middle));
    proto.set_bucket_limit(histogram.buckets.iter().map(|bucket| bucket.0).collect());
    proto.set_bucket(histogram.buckets.iter().map(|bucket| bucket.1 as f64).collect());
    let mut value = Summary_Value::new();
    value.set_tag(histogram.line.tag(&histogram.chart));
    value.set_histo(proto);
    let mut summary = Summary::new();
    summary.set_value(RepeatedField::from_vec(vec![value]));
    Some(summary)
}

/// Encodes the image as PNG; `None` if width and height do not match the pixels, in which case the encoder would panic.
fn image_summary(image: &Image) -> Option<Summary> {
    let (width, height) = (image.width as usize, image.height as usize);
    let size = width.checked_mul(height)?.checked_mul(3)?;
    if size == 0 || size != image.pixels.len() {
        return None;
    }
    let mut summary = png_summary(&image.chart, &image.pixels, &[3, width, height]);
    // The crate expects width and height in this order but reports them swapped.
    let shown = summary.mut_value().first_mut()?.mut_image();
    shown.set_width(i32::try_from(image.width).ok()?);
    shown.set_height(i32::try_from(image.height).ok()?);
    Some(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_of_one_section_are_one_category_and_their_patterns_match_only_their_lines() {
        let charts = ["probe/a/x.y", "probe/a/z", "probe/b/x"].map(str::to_owned);
        let layout = layout(&BTreeSet::from(charts));
        let found: Vec<(&str, Vec<(&str, &str)>)> = layout
            .get_category()
            .iter()
            .map(|category| {
                let charts = category.get_chart().iter();
                let charts = charts
                    .map(|chart| (chart.get_title(), chart.get_multiline().get_tag()[0].as_str()));
                (category.get_title(), charts.collect())
            })
            .collect();
        let expected = [
            ("overview", OVERVIEW.to_vec()),
            (
                "probe/a",
                vec![
                    ("x.y", r"probe/a/x\.y/(stage|layer)_[^/]+$"),
                    ("z", "probe/a/z/(stage|layer)_[^/]+$"),
                ],
            ),
            ("probe/b", vec![("x", "probe/b/x/(stage|layer)_[^/]+$")]),
        ];
        assert_eq!(found, expected);
    }
}
