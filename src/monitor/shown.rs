//! What TensorBoard shows beside scalars of the whole run: lines of one chart, histograms, images.

use std::fmt;

use crate::component::Stage;

/// Which line of a chart. TensorBoard puts the same tag of several runs into one chart: the lines of layers and
/// stages are runs of their own, in directories below the run's, and can be picked there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Line {
    /// The whole model's: in the run's own directory, and in `metrics.jsonl`.
    Whole,
    /// A stage's: in `stage_I`.
    Stage(Stage),
    /// A layer's: in `layer_00`.
    Layer(usize),
}

impl Line {
    /// The directory below the run's; none for the whole model.
    pub(super) fn directory(self) -> Option<String> {
        match self {
            Line::Whole => None,
            Line::Stage(stage) => Some(format!("stage_{stage}")),
            Line::Layer(layer) => Some(format!("layer_{layer:02}")),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.directory().unwrap_or_else(|| "whole".to_owned()))
    }
}

/// One value on a line of a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The tag; what is before its first slash is the section that TensorBoard shows it in.
    pub chart: String,
    pub line: Line,
    pub value: f64,
}

/// Counts in buckets that lie beside each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// As [`Point::chart`].
    pub chart: String,
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
    pub width: u32,
    pub height: u32,
    /// Red, green and blue of each pixel, rows from the top: `3 * width * height` bytes.
    pub pixels: Vec<u8>,
}
