//! Pictures of results: of one moment, and of how they move in training. SVG for files and pages, pixels for
//! TensorBoard, from one drawing code.

mod axis;
mod color;
mod draw;
mod figure;
mod history;
mod layers;
mod patching;
mod reads;

use std::sync::OnceLock;

use plotters::prelude::*;
use plotters::style::register_font;
use thiserror::Error;

use super::measured_on;
use super::points::chart;
use crate::monitor::Image;
use crate::probe::{Probe, ProbeResult, Record, Skipped};
use figure::Figure;

/// A picture that can be drawn.
#[derive(Debug, Clone)]
pub struct Picture {
    probe: Probe,
    figure: Figure,
}

/// Why a picture could not be drawn.
#[derive(Debug, Error)]
#[error("cannot draw the picture `{picture}`: {reason}")]
pub struct PictureError {
    /// Its name.
    pub picture: String,
    /// What the plotting library says.
    pub reason: String,
}

/// The pictures of a probe: of the newest record, and, from the second record on, of the way there.
///
/// `history` holds records of one probe, the newest last; what is of another probe than the newest is passed over.
/// Undefined numbers are grey cells, gaps in lines and bars of a dash. When the probe was `skipped` stands below the way,
/// or below all where there is none.
pub fn pictures(history: &[Record], skipped: &[Skipped]) -> Vec<Picture> {
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
    let way = if same.len() > 1 { history::history(&same) } else { None };
    let note = |figure: &mut Figure| {
        let measured = measured_on(newest);
        figure.note =
            if figure.note.is_empty() { measured } else { format!("{measured}. {}", figure.note) };
    };
    let of_way = way.as_ref().map(|figure| figure.name.clone());
    let mut figures: Vec<Figure> = figures.into_iter().chain(way).collect();
    figures.retain(|figure| !figure.panels.is_empty());
    figures.iter_mut().for_each(note);
    let skipped = skipped.iter().filter(|line| line.probe == probe).cloned();
    if let Some(skipped) = super::skipped(&skipped.collect::<Vec<_>>()) {
        let about = |figure: &&mut Figure| of_way.as_ref().is_none_or(|way| *way == figure.name);
        for figure in figures.iter_mut().filter(about) {
            figure.note = format!("{}. The probe was {skipped}", figure.note);
        }
    }
    figures.into_iter().map(|figure| Picture { probe, figure }).collect()
}

impl Picture {
    /// What it is called as a file, without its ending: `logit_lens`, `logit_lens_history`.
    pub fn name(&self) -> &str {
        &self.figure.name
    }

    /// What it shows.
    pub fn title(&self) -> &str {
        &self.figure.title
    }

    /// As the text of an SVG file.
    pub fn svg(&self) -> Result<String, PictureError> {
        self.register_font()?;
        let mut svg = String::new();
        {
            let size = draw::size(&self.figure);
            let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            draw::draw(&self.figure, &root).map_err(|error| self.error(error))?;
        }
        Ok(svg)
    }

    /// As pixels, for TensorBoard: in the section of its probe.
    pub fn image(&self) -> Result<Image, PictureError> {
        self.register_font()?;
        let (width, height) = draw::size(&self.figure);
        let mut pixels = vec![0; 3 * width as usize * height as usize];
        {
            let backend = BitMapBackend::with_buffer(&mut pixels, (width, height));
            let root = backend.into_drawing_area();
            draw::draw(&self.figure, &root).map_err(|error| self.error(error))?;
        }
        let chart = chart(self.probe, [self.figure.name.as_str()]);
        Ok(Image { chart, width, height, pixels })
    }

    fn error(&self, reason: impl ToString) -> PictureError {
        PictureError { picture: self.figure.name.clone(), reason: reason.to_string() }
    }

    /// Gives the plotting library its font, once a process.
    fn register_font(&self) -> Result<(), PictureError> {
        static REGISTERED: OnceLock<bool> = OnceLock::new();
        let register =
            || register_font(draw::FONT, FontStyle::Normal, dejavu::sans::regular()).is_ok();
        let done = *REGISTERED.get_or_init(register);
        done.then_some(()).ok_or_else(|| self.error("the font cannot be read"))
    }
}
