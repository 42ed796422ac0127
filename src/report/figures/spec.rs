//! The content of a figure before it is drawn: panels of blocks and lines.

use plotters::style::RGBColor;

use super::axis::{Axis, log_rank, thousands};
use super::color::{self, Scale, ScaleKind};
use crate::report::tables::number;

/// A figure: panels in a grid.
#[derive(Debug, Clone)]
pub struct FigureSpec {
    /// File name without extension.
    pub name: String,
    pub title: String,
    /// Subtitle: the measured queries, and hints for reading.
    pub note: String,
    /// Number of panels per row.
    pub columns: usize,
    /// Width and height of a panel in pixels.
    pub panel: (u32, u32),
    pub panels: Vec<Panel>,
}

/// One chart of a figure. Blocks are drawn first, then lines.
#[derive(Debug, Clone)]
pub struct Panel {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    /// Labelled ranges of the x axis: stages.
    pub bands: Vec<Band>,
    /// The number of queries that the values at an x are means over: a row above the plot.
    pub counts: Vec<(f64, String)>,
    pub blocks: Vec<Block>,
    pub labels: Labels,
    /// The number format of the labels.
    pub digits: Digits,
    pub lines: Vec<Series>,
    /// The runs of [`Series::run`], for the legend.
    pub runs: Vec<String>,
    /// y values of horizontal reference lines.
    pub reference_lines: Vec<f64>,
    pub legend: Legend,
}

/// A labelled range of the x axis.
#[derive(Debug, Clone)]
pub struct Band {
    pub from: f64,
    pub to: f64,
    pub name: String,
    pub shaded: bool,
}

/// A rectangle: a bar or the cell of a heat map.
#[derive(Debug, Clone)]
pub struct Block {
    pub x: (f64, f64),
    pub y: (f64, f64),
    pub color: RGBColor,
    /// The value that the label and the colour or the length stand for.
    pub value: f64,
    /// The ends of an error bar on the y axis.
    pub spread: Option<(f64, f64)>,
    pub label: String,
}

/// Placement of the labels of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    /// Above each block in which it fits.
    Above,
    /// Inside each block in which it fits.
    InEach,
    /// Inside all blocks, if all labels fit.
    InAll,
}

/// A line with a marker at each point; values that are not finite are gaps.
#[derive(Debug, Clone)]
pub struct Series {
    pub name: String,
    pub color: RGBColor,
    pub points: Vec<(f64, f64)>,
    /// The ends of an error bar at each point; empty if there are none. If the x axis is not categorical, they are the
    /// edges of a band.
    pub spread: Vec<(f64, f64)>,
    /// The index in [`Panel::runs`] if lines of several runs are drawn in one panel: they differ by dashes, and lines of
    /// the same colour have the same marker.
    pub run: Option<usize>,
}

impl Series {
    /// Builds a line without error bars.
    pub fn new(name: &str, color: RGBColor, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.to_owned(), color, points, spread: Vec::new(), run: None }
    }

    /// Returns the points with their error bars, without those that are not finite.
    pub fn bars(&self) -> impl Iterator<Item = (f64, (f64, f64))> {
        let bars = self.points.iter().zip(&self.spread).map(|(point, ends)| (point.0, *ends));
        bars.filter(|(x, (low, high))| [x, low, high].into_iter().all(|end| end.is_finite()))
    }
}

impl Panel {
    /// Builds a panel without content.
    pub fn empty(title: &str, x: Axis, y: Axis) -> Self {
        Self {
            title: title.to_owned(),
            x,
            y,
            bands: Vec::new(),
            counts: Vec::new(),
            blocks: Vec::new(),
            labels: Labels::InEach,
            digits: Digits::Decimals(1),
            lines: Vec::new(),
            runs: Vec::new(),
            reference_lines: Vec::new(),
            legend: Legend::Names(Vec::new()),
        }
    }

    /// Returns the index of the dashes of a line.
    pub fn dashes_of(&self, line: &Series) -> usize {
        line.run.unwrap_or_else(|| self.style_of(line.color))
    }

    /// Returns the index of the style (marker and dashes) of lines of this colour: its place in the legend. Lines that
    /// share a colour, as seeds of an arm do, share a style.
    pub fn style_of(&self, color: RGBColor) -> usize {
        match &self.legend {
            Legend::Names(names) => names.iter().position(|(_, other)| *other == color),
            Legend::Scale(_) => None,
        }
        .unwrap_or(0)
    }
}

/// The legend, at the right of a panel.
#[derive(Debug, Clone)]
pub enum Legend {
    Names(Vec<(String, RGBColor)>),
    Scale(Scale),
}

/// Number format in cells and above bars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digits {
    /// Number of decimals.
    Decimals(usize),
    /// Integers with commas.
    Integer,
}

impl Digits {
    pub fn write(self, value: f64) -> String {
        match self {
            Digits::Decimals(digits) => number(value, digits),
            Digits::Integer if value.is_finite() => thousands(value),
            Digits::Integer => number(value, 0),
        }
    }
}

/// Builds a line chart.
pub fn lines(title: &str, x: Axis, y: Axis, lines: Vec<Series>) -> Panel {
    let names = lines.iter().map(|line| (line.name.clone(), line.color)).collect();
    Panel { lines, legend: Legend::Names(names), ..Panel::empty(title, x, y) }
}

/// The values of a bar chart: one value per category and series.
pub struct Bars<'a> {
    pub categories: &'a [String],
    pub names: Vec<(String, RGBColor)>,
    /// By category, then by series.
    pub values: Vec<Vec<f64>>,
    pub digits: Digits,
}

impl Bars<'_> {
    fn panel(
        &self,
        title: &str,
        (x, y): (&str, Axis),
        blocks: Vec<Block>,
        labels: Labels,
    ) -> Panel {
        Panel {
            blocks,
            labels,
            digits: self.digits,
            legend: Legend::Names(self.names.clone()),
            ..Panel::empty(title, Axis::categorical(x, self.categories), y)
        }
    }

    /// Builds grouped bars, each with its number above it.
    pub fn grouped(&self, title: &str, x: &str, y: Axis) -> Panel {
        let width = 0.8 / self.names.len().max(1) as f64;
        let mut blocks = Vec::new();
        for (place, values) in self.values.iter().enumerate() {
            for (index, (value, (_, color))) in values.iter().zip(&self.names).enumerate() {
                let left = place as f64 + 0.1 + index as f64 * width;
                let height = if value.is_finite() { *value } else { 0.0 };
                blocks.push(Block {
                    x: (left, left + width),
                    y: (0.0, height),
                    color: *color,
                    value: *value,
                    spread: None,
                    label: self.digits.write(*value),
                });
            }
        }
        self.panel(title, (x, y), blocks, Labels::Above)
    }

    /// Builds stacked bars. A category without defined values is grey.
    pub fn stacked(&self, title: &str, x: &str, y: Axis) -> Panel {
        let mut blocks = Vec::new();
        for (place, values) in self.values.iter().enumerate() {
            let x = (place as f64 + 0.1, place as f64 + 0.9);
            let mut height = 0.0;
            for (value, (_, color)) in values.iter().zip(&self.names) {
                if value.is_finite() {
                    blocks.push(Block {
                        x,
                        y: (height, height + value),
                        color: *color,
                        value: *value,
                        spread: None,
                        label: self.digits.write(*value),
                    });
                    height += value;
                }
            }
            if values.iter().all(|value| !value.is_finite()) {
                blocks.push(Block {
                    x,
                    y: (y.start, y.end),
                    color: color::UNDEFINED,
                    value: f64::NAN,
                    spread: None,
                    label: "-".to_owned(),
                });
            }
        }
        self.panel(title, (x, y), blocks, Labels::InEach)
    }
}

/// Builds a heat map; `values` by row of `y`, then by column of `x`.
pub fn heat_map(
    title: &str,
    (x, y): (Axis, Axis),
    values: &[Vec<f64>],
    scale: Scale,
    digits: Digits,
) -> Panel {
    let mut blocks = Vec::new();
    for (row, values) in values.iter().enumerate() {
        for (column, value) in values.iter().enumerate() {
            let (left, bottom) = (column as f64, row as f64);
            blocks.push(Block {
                x: (left, left + 1.0),
                y: (bottom, bottom + 1.0),
                color: scale.color(*value),
                value: *value,
                spread: None,
                label: if value.is_finite() { digits.write(*value) } else { String::new() },
            });
        }
    }
    Panel {
        blocks,
        labels: Labels::InAll,
        digits,
        legend: Legend::Scale(scale),
        ..Panel::empty(title, x, y)
    }
}

/// Returns the lowest and the highest finite number; 0 and 1 if there is none.
pub fn extent(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let finite = values.into_iter().filter(|value| value.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

/// % from 0 to 100: the same colours in every figure, so that steps can be compared.
pub const PERCENT: Scale = Scale { low: 0.0, high: 100.0, kind: ScaleKind::Magnitude };

/// Cosines from -1 to 1.
pub const COSINE: Scale = Scale { low: -1.0, high: 1.0, kind: ScaleKind::Diverging };

/// Builds a line chart with a logarithmic rank axis; the y values of `all` are ranks.
pub fn rank_lines(title: &str, x: Axis, y_name: &str, mut all: Vec<Series>) -> Panel {
    let points = all.iter().flat_map(|line| &line.points);
    let (_, highest) = extent(points.map(|point| point.1));
    for line in &mut all {
        for point in &mut line.points {
            point.1 = log_rank(point.1);
        }
    }
    lines(title, x, Axis::ranks(y_name, highest), all)
}

/// Returns the height of a heat map in pixels: rows are high enough for a number, and not more than 60 pixels.
pub fn map_height(rows: usize) -> u32 {
    100 + rows.clamp(1, 100) as u32 * (240 / rows.clamp(1, 100) as u32).clamp(18, 60)
}
