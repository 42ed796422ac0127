//! Colour-blind safe colours and colour maps.

use plotters::style::RGBColor;

use crate::component::Component;
use crate::probe::Source;

/// The colour of undefined values.
pub const UNDEFINED: RGBColor = RGBColor(0xd9, 0xd9, 0xd9);
pub const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
/// The colour of the unpatched model.
pub const UNPATCHED: RGBColor = RGBColor(0x7a, 0x7a, 0x7a);
pub const FAINT: RGBColor = RGBColor(0xe6, 0xe6, 0xe6);
pub const SHADE: RGBColor = RGBColor(0xf2, 0xf2, 0xf2);

/// The palette of Okabe and Ito (jfly.uni-koeln.de/color) without yellow, which is too light for a line.
const SERIES: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x00, 0x00, 0x00),
];

/// Returns the colour of series `index`; they repeat after seven.
pub fn series(index: usize) -> RGBColor {
    SERIES[index % SERIES.len()]
}

/// Returns the colour of a component, the same in all figures.
pub fn component(component: Component) -> RGBColor {
    source(component.into())
}

/// Returns the colour of a source, the same in all figures.
pub fn source(source: Source) -> RGBColor {
    match source {
        Source::Start => RGBColor(0x55, 0x55, 0x55),
        Source::SelfAttention => series(2),
        Source::CrossAttention => series(0),
        Source::Mlp => series(1),
    }
}

/// Mixes `color` with white; a strength of 1 is the colour itself.
pub fn lighter(color: RGBColor, strength: f64) -> RGBColor {
    interpolate(RGBColor(255, 255, 255), color, strength)
}

/// Returns a readable text colour on `color`: dark or white.
pub fn text_on(color: RGBColor) -> RGBColor {
    let [red, green, blue] = [color.0, color.1, color.2].map(f64::from);
    let bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140.0;
    if bright { INK } else { RGBColor(255, 255, 255) }
}

/// A colour map with its value range.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    pub low: f64,
    pub high: f64,
    pub kind: ScaleKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleKind {
    /// viridis: dark for low values, bright for high ones.
    Magnitude,
    /// viridis reversed, logarithmic: bright for the first ranks.
    Rank,
    /// Diverging: blue below and red above the middle.
    Diverging,
}

/// matplotlib's viridis at nine equidistant positions.
const VIRIDIS: [RGBColor; 9] = [
    RGBColor(0x44, 0x01, 0x54),
    RGBColor(0x47, 0x2d, 0x7b),
    RGBColor(0x3b, 0x52, 0x8b),
    RGBColor(0x2c, 0x72, 0x8e),
    RGBColor(0x21, 0x91, 0x8c),
    RGBColor(0x28, 0xae, 0x80),
    RGBColor(0x5e, 0xc9, 0x62),
    RGBColor(0xad, 0xdc, 0x30),
    RGBColor(0xfd, 0xe7, 0x25),
];

/// ColorBrewer's RdBu with seven classes, from blue.
const BLUE_TO_RED: [RGBColor; 7] = [
    RGBColor(0x21, 0x66, 0xac),
    RGBColor(0x67, 0xa9, 0xcf),
    RGBColor(0xd1, 0xe5, 0xf0),
    RGBColor(0xf7, 0xf7, 0xf7),
    RGBColor(0xfd, 0xdb, 0xc7),
    RGBColor(0xef, 0x8a, 0x62),
    RGBColor(0xb2, 0x18, 0x2b),
];

impl Scale {
    /// Returns the position of a value on the scale, 0 to 1; NaN if it is undefined.
    pub fn position(&self, value: f64) -> f64 {
        let transform = |value: f64| match self.kind {
            ScaleKind::Rank => value.log10(),
            ScaleKind::Magnitude | ScaleKind::Diverging => value,
        };
        let (low, high) = (transform(self.low), transform(self.high));
        if high > low { ((transform(value) - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 }
    }

    pub fn color(&self, value: f64) -> RGBColor {
        if value.is_finite() { self.color_at(self.position(value)) } else { UNDEFINED }
    }

    /// Returns the colour at a position on the scale, 0 to 1.
    pub fn color_at(&self, position: f64) -> RGBColor {
        match self.kind {
            ScaleKind::Magnitude => sample(&VIRIDIS, position),
            ScaleKind::Rank => sample(&VIRIDIS, 1.0 - position),
            ScaleKind::Diverging => sample(&BLUE_TO_RED, position),
        }
    }
}

fn sample(colors: &[RGBColor], position: f64) -> RGBColor {
    let place = position.clamp(0.0, 1.0) * (colors.len() - 1) as f64;
    let first = (place as usize).min(colors.len() - 2);
    interpolate(colors[first], colors[first + 1], place - first as f64)
}

fn interpolate(from: RGBColor, to: RGBColor, share: f64) -> RGBColor {
    let mix = |from: u8, to: u8| {
        (f64::from(from) + (f64::from(to) - f64::from(from)) * share).round() as u8
    };
    RGBColor(mix(from.0, to.0), mix(from.1, to.1), mix(from.2, to.2))
}
