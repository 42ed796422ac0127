//! What TensorBoard shows beside scalars of the whole run: lines of one chart, histograms, images.

use crate::component::Stage;

/// Which line of a chart. Each line has a tag of its own; those of one chart are shown together under *Custom Scalars*.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Line {
    /// The whole model's: its tag is the chart's.
    Whole,
    /// A stage's, with `/stage_I` behind the chart's tag.
    Stage(Stage),
    /// A layer's, with `/layer_00` behind the chart's tag.
    Layer(usize),
}

impl Line {
    /// The tag of this line of `chart`.
    pub(super) fn tag(self, chart: &str) -> String {
        match self {
            Line::Whole => chart.to_owned(),
            Line::Stage(stage) => format!("{chart}/stage_{stage}"),
            Line::Layer(layer) => format!("{chart}/layer_{layer:02}"),
        }
    }
}

/// One value on a line of a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The tag; what is before its first slash is the section that TensorBoard shows it in.
    pub chart: String,
    /// Its line in the chart.
    pub line: Line,
    /// Its value.
    pub value: f64,
}

/// Counts in buckets that lie beside each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// As [`Point::chart`].
    pub chart: String,
    /// Its line in the chart.
    pub line: Line,
    /// Where the first bucket begins.
    pub start: f64,
    /// Where each bucket ends, and what it counts.
    pub buckets: Vec<(f64, u64)>,
}

/// A picture of pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// As [`Point::chart`].
    pub chart: String,
    /// Pixels of a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Red, green and blue of each pixel, rows from the top: `3 * width * height` bytes.
    pub pixels: Vec<u8>,
}
