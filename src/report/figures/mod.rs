//! Figures of probe results: of one step, and over training. The same code draws SVG for files and pixels for
//! TensorBoard.

pub(super) mod axis;
pub(super) mod color;
pub(super) mod combine;
mod draw;
mod format;
mod history;
pub(super) mod inspection;
pub(super) mod layers;
mod layout;
mod patching;
mod reads;
pub(super) mod spec;

use std::sync::OnceLock;

use plotters::prelude::*;
use plotters::style::register_font;
use thiserror::Error;

use super::measured_on;
use super::points::chart;
use crate::monitor::Image;
use crate::probe::{Probe, ProbeResult, Record, Skipped};
pub use format::FigureFormat;
pub use layout::FigureWidth;
use layout::Layout;
use spec::FigureSpec;

/// A figure of a probe, ready to be drawn.
#[derive(Debug, Clone)]
pub struct Figure {
    probe: Probe,
    spec: FigureSpec,
}

/// A figure cannot be drawn.
#[derive(Debug, Error)]
#[error("cannot draw the figure `{figure}`: {reason}")]
pub struct FigureError {
    /// The name of the figure.
    pub figure: String,
    /// The error of the plotting library, or why there is no PDF of it.
    pub reason: String,
}

/// Returns the figures of a probe: of the newest record and, if there are several records, of the history over
/// training.
///
/// `history` holds records of one probe, the newest last; records of other probes than the newest are ignored.
/// Undefined numbers are drawn as grey cells, gaps in lines and bars labelled `-`. The steps at which the probe was
/// `skipped` are noted on the history, or on all figures if there is no history.
pub fn figures(history: &[Record], skipped: &[Skipped]) -> Vec<Figure> {
    let Some(newest) = history.last() else { return Vec::new() };
    let probe = newest.result.probe();
    let with_note = |mut spec: FigureSpec| {
        spec.note = sentences(&[&measured_on(newest), &spec.note]);
        Figure { probe, spec }
    };
    specs(history, skipped).into_iter().map(with_note).collect()
}

/// Joins sentences that are not empty.
pub(super) fn sentences(all: &[&str]) -> String {
    all.iter().filter(|text| !text.is_empty()).copied().collect::<Vec<_>>().join(". ")
}

/// Returns the content of [`figures`], whose notes do not say what was measured.
pub(super) fn specs(history: &[Record], skipped: &[Skipped]) -> Vec<FigureSpec> {
    let Some(newest) = history.last() else { return Vec::new() };
    let stages = newest.measured_on.stages.as_ref();
    let figures = match &newest.result {
        ProbeResult::ResidualContribution(result) => layers::residual_contribution(result, stages),
        ProbeResult::LogitLens(result) => layers::logit_lens(result, stages),
        ProbeResult::DirectEffect(result) => patching::direct_effect(result),
        ProbeResult::StagePatching(result) => patching::stage_patching(result),
        ProbeResult::Circuit(result) => patching::circuit(result),
        ProbeResult::EncoderSwap(result) => patching::encoder_swap(result),
        ProbeResult::NeuronReads(result) => reads::reads(result, stages, &reads::NEURONS),
        ProbeResult::AttentionReads(result) => reads::reads(result, stages, &reads::HEADS),
        ProbeResult::AttentionWrites(result) => reads::attention_writes(result),
    };
    let probe = newest.result.probe();
    let same: Vec<&Record> = history.iter().filter(|r| r.result.probe() == probe).collect();
    let over_training = if same.len() > 1 { history::history_figure(&same) } else { None };
    let history_name = over_training.as_ref().map(|figure| figure.name.clone());
    let mut figures: Vec<FigureSpec> = figures.into_iter().chain(over_training).collect();
    figures.retain(|figure| !figure.panels.is_empty());
    let skipped = skipped.iter().filter(|line| line.probe == probe).cloned();
    if let Some(skipped) = super::skipped(&skipped.collect::<Vec<_>>()) {
        let about = |figure: &&mut FigureSpec| {
            history_name.as_ref().is_none_or(|name| *name == figure.name)
        };
        for figure in figures.iter_mut().filter(about) {
            figure.note = sentences(&[&figure.note, &format!("The probe was {skipped}")]);
        }
    }
    figures
}

impl Figure {
    /// Returns the file name without extension: `logit_lens`, `logit_lens_history`.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Returns the title.
    pub fn title(&self) -> &str {
        &self.spec.title
    }

    /// Draws the figure as SVG.
    ///
    /// # Errors
    /// The embedded font cannot be loaded, or the drawing library refuses an operation.
    pub fn svg(&self) -> Result<String, FigureError> {
        svg_of(&self.spec, None)
    }

    /// Draws the figure as an RGB image for TensorBoard, in the section of its probe.
    ///
    /// # Errors
    /// The embedded font cannot be loaded, or the drawing library refuses an operation.
    pub fn image(&self) -> Result<Image, FigureError> {
        register(&self.spec)?;
        let layout = Layout::of(&self.spec);
        let (width, height) = layout.size;
        let mut pixels = vec![0; 3 * width as usize * height as usize];
        {
            let backend = BitMapBackend::with_buffer(&mut pixels, (width, height));
            let root = backend.into_drawing_area();
            draw::draw(&self.spec, &layout, &root).map_err(|reason| error(&self.spec, reason))?;
        }
        let chart = chart(self.probe, [self.spec.name.as_str()]);
        Ok(Image { chart, width, height, pixels })
    }
}

/// Draws a figure as SVG, in pixels or with its panels arranged for a width in points.
///
/// # Errors
/// The embedded font cannot be loaded, or the drawing library refuses an operation.
pub(super) fn svg_of(spec: &FigureSpec, width: Option<FigureWidth>) -> Result<String, FigureError> {
    let Some(width) = width else { return drawn(spec) };
    Ok(sized(&drawn(&spec.clone().arranged(width))?, width.points()))
}

/// Returns the text of a drawing with its width in points, and its height in proportion.
fn sized(svg: &str, points: f64) -> String {
    let size = |name: &str| -> Option<f64> {
        let (_, rest) = svg.split_once(&format!(" {name}=\""))?;
        rest.split_once('"')?.0.parse().ok()
    };
    let (Some(width), Some(height)) = (size("width"), size("height")) else {
        return svg.to_owned();
    };
    let tall = points * height / width.max(1.0);
    svg.replacen(&format!(" width=\"{width}\""), &format!(" width=\"{points:.2}pt\""), 1).replacen(
        &format!(" height=\"{height}\""),
        &format!(" height=\"{tall:.2}pt\""),
        1,
    )
}

fn drawn(spec: &FigureSpec) -> Result<String, FigureError> {
    register(spec)?;
    let mut svg = String::new();
    {
        let layout = Layout::of(spec);
        let root = SVGBackend::with_string(&mut svg, layout.size).into_drawing_area();
        draw::draw(spec, &layout, &root).map_err(|reason| error(spec, reason))?;
    }
    // XML does not allow control characters, which labels may have; separators of lines would end a text.
    let is_allowed = |character: char| {
        character == '\n' || !(character.is_control() || "\u{2028}\u{2029}".contains(character))
    };
    Ok(svg.chars().map(|letter| if is_allowed(letter) { letter } else { ' ' }).collect())
}

fn error(spec: &FigureSpec, reason: impl ToString) -> FigureError {
    FigureError { figure: spec.name.clone(), reason: reason.to_string() }
}

/// Registers the font of the plotting library, once per process.
fn register(spec: &FigureSpec) -> Result<(), FigureError> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    let register = || register_font(draw::FONT, FontStyle::Normal, dejavu::sans::regular()).is_ok();
    let done = *REGISTERED.get_or_init(register);
    done.then_some(()).ok_or_else(|| error(spec, "the font cannot be read"))
}
