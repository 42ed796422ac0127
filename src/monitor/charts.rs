//! Values for TensorBoard other than plain scalars: points of multi-line charts, histograms, images.

use crate::component::Stage;

/// A line of a chart. Each line has its own tag; *Custom Scalars* draws those of one chart together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Line {
    /// The value of the whole model; the tag is the chart's.
    Model,
    /// The value of a stage; `/stage_I` is appended to the chart's tag.
    Stage(Stage),
    /// The value of a layer; `/layer_00` is appended to the chart's tag.
    Layer(usize),
}

impl Line {
    /// Returns the tag of this line of `chart`.
    pub(super) fn tag(self, chart: &str) -> String {
        match self {
            Line::Model => chart.to_owned(),
            Line::Stage(stage) => format!("{chart}/stage_{stage}"),
            Line::Layer(layer) => format!("{chart}/layer_{layer:02}"),
        }
    }
}

/// One value on a line of a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The tag of the chart; TensorBoard groups charts by the part before the first slash.
    pub chart: String,
    /// The line of the chart.
    pub line: Line,
    /// The value.
    pub value: f64,
}

impl Point {
    /// Returns the tag of the value in TensorBoard and `metrics.jsonl`.
    pub fn tag(&self) -> String {
        self.line.tag(&self.chart)
    }
}

/// A histogram with adjacent buckets.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// The tag of the chart, as in [`Point::chart`].
    pub chart: String,
    /// The line of the chart.
    pub line: Line,
    /// The left edge of the first bucket.
    pub start: f64,
    /// The right edge and the count of each bucket.
    pub buckets: Vec<(f64, u64)>,
}

/// An RGB image.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// The tag of the chart, as in [`Point::chart`].
    pub chart: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Red, green and blue of each pixel, rows from the top: `3 * width * height` bytes.
    pub pixels: Vec<u8>,
}
