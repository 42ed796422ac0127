//! The option `--stages` of `probe` and `advise`: stages as numbers, or detected.

use anyhow::{Context, Result};

use crate::advise::StageDetection;
use crate::component::{Stage, Stages, parse_layers};
use crate::probe::{Over, ProbeOptions, ProbeQueries, Subject};
use crate::recipe::Recipe;

/// The value of `--stages`.
#[derive(Debug, Clone)]
pub(super) enum StagesOption {
    /// These.
    Given(Stages),
    /// Those that P1 shows.
    Detect,
}

/// The stages of a measurement.
pub(super) struct ChosenStages {
    /// The stages; `None` if the decoder has too few layers.
    pub stages: Option<Stages>,
    /// How they were detected, if they were.
    pub detection: Option<StageDetection>,
}

/// Returns the stages that the option names or detects, or else those of the run, or else the paper's scaled to `depth`.
/// `options` say how the queries are ranked.
pub(super) fn choose(
    option: Option<&StagesOption>,
    recipe: Option<&Recipe>,
    subject: &Subject,
    queries: &mut ProbeQueries,
    options: &ProbeOptions,
) -> Result<ChosenStages> {
    let depth = subject.model.t5.config().num_decoder_layers;
    let given = match option {
        Some(StagesOption::Given(stages)) => Some(stages),
        Some(StagesOption::Detect) => {
            // Also if means are over all queries: P3 has to confirm what P1 shows.
            let options = ProbeOptions { over: Over::Correct, ..options.clone() };
            let found = StageDetection::measure(subject, queries, &options);
            let found = found.context("--stages detect")?;
            let stages = Some(found.found.stages.clone());
            return Ok(ChosenStages { stages, detection: Some(found) });
        }
        None => None,
    };
    Ok(ChosenStages { stages: given_or_scaled(given, recipe, depth)?, detection: None })
}

/// Returns the stages that are given, or else those of the run, or else the paper's scaled to `depth`; `None` if the
/// decoder has too few layers.
pub(super) fn given_or_scaled(
    given: Option<&Stages>,
    recipe: Option<&Recipe>,
    depth: usize,
) -> Result<Option<Stages>> {
    let of_run = || recipe?.stages.as_ref()?.given();
    Ok(match given.or_else(of_run) {
        None if depth < Stages::LEAST_DEPTH => None,
        None => Some(Stages::scaled(depth)?),
        given => given.cloned(),
    })
}

/// Describes detected stages, with the lines of a recipe that give them.
pub(super) fn describe(found: &StageDetection) -> String {
    format!("stages {}\n\n{}", found.describe(), found.found.recipe_section())
}

/// Parses `detect`, or stages as [`parse_given`] does.
pub(super) fn parse(text: &str) -> Result<StagesOption, String> {
    match text {
        "detect" => Ok(StagesOption::Detect),
        _ => parse_given(text)
            .map(StagesOption::Given)
            .map_err(|message| format!("{message}; or detect")),
    }
}

/// Parses stages from `0..2,2..4,4..6`, with optional names: `I=0..2,II=2..4,III=4..6`.
pub(super) fn parse_given(text: &str) -> Result<Stages, String> {
    let wrong = || {
        format!(
            "expected the layers of three stages, ends exclusive, such as 0..7,7..18,18..24 or \
             I=0..7,II=7..18,III=18..24; found `{text}`"
        )
    };
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let [first, second, third] = parts.as_slice() else { return Err(wrong()) };
    let layers = |stage: Stage, part: &str| {
        let layers = match part.split_once('=') {
            Some((name, layers)) if name.trim() == stage.name() => layers,
            Some(_) => return Err(wrong()),
            None => part,
        };
        parse_layers(layers.trim()).map_err(|error| error.to_string())
    };
    let (first, second) = (layers(Stage::First, first)?, layers(Stage::Second, second)?);
    Stages::consecutive(first, second, layers(Stage::Third, third)?)
        .map_err(|error| error.to_string())
}
