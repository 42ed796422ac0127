//! Figures of probe results: of one step, and over training. The same code draws SVG for files and pixels for
//! TensorBoard.

pub(super) mod axis;
pub(super) mod color;
mod draw;
mod history;
pub(super) mod inspection;
pub(super) mod layers;
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
    /// The error of the plotting library.
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
    let note = |figure: &mut FigureSpec| {
        let measured = measured_on(newest);
        figure.note =
            if figure.note.is_empty() { measured } else { format!("{measured}. {}", figure.note) };
    };
    let history_name = over_training.as_ref().map(|figure| figure.name.clone());
    let mut figures: Vec<FigureSpec> = figures.into_iter().chain(over_training).collect();
    figures.retain(|figure| !figure.panels.is_empty());
    figures.iter_mut().for_each(note);
    let skipped = skipped.iter().filter(|line| line.probe == probe).cloned();
    if let Some(skipped) = super::skipped(&skipped.collect::<Vec<_>>()) {
        let about = |figure: &&mut FigureSpec| {
            history_name.as_ref().is_none_or(|name| *name == figure.name)
        };
        for figure in figures.iter_mut().filter(about) {
            figure.note = format!("{}. The probe was {skipped}", figure.note);
        }
    }
    figures.into_iter().map(|spec| Figure { probe, spec }).collect()
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
        svg_of(&self.spec)
    }

    /// Returns the content.
    pub(super) fn into_spec(self) -> FigureSpec {
        self.spec
    }

    /// Draws the figure as an RGB image for TensorBoard, in the section of its probe.
    ///
    /// # Errors
    /// The embedded font cannot be loaded, or the drawing library refuses an operation.
    pub fn image(&self) -> Result<Image, FigureError> {
        register(&self.spec)?;
        let (width, height) = draw::size(&self.spec);
        let mut pixels = vec![0; 3 * width as usize * height as usize];
        {
            let backend = BitMapBackend::with_buffer(&mut pixels, (width, height));
            let root = backend.into_drawing_area();
            draw::draw(&self.spec, &root).map_err(|reason| error(&self.spec, reason))?;
        }
        let chart = chart(self.probe, [self.spec.name.as_str()]);
        Ok(Image { chart, width, height, pixels })
    }
}

/// Draws a figure as SVG.
///
/// # Errors
/// The embedded font cannot be loaded, or the drawing library refuses an operation.
pub(super) fn svg_of(spec: &FigureSpec) -> Result<String, FigureError> {
    register(spec)?;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, draw::size(spec)).into_drawing_area();
        draw::draw(spec, &root).map_err(|reason| error(spec, reason))?;
    }
    Ok(svg)
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
