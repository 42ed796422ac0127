//! Trains the tiny recipe as `genir train` does, inside the test's process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use burn::module::Module;
use genir::monitor::{Console, Monitor, Verbosity};
use genir::recipe::Recipe;
use genir::run::{Environment, NewRun, Overwrite};
use genir::t5::GenirModel;
use genir::train::callbacks::Callbacks;
use genir::train::{Callback, Outcome, Plan, TrainError, Trainer};
use serde_json::{Map, Value};

use crate::tiny_corpus;

/// The tiny recipe with overrides, held against its corpus and base.
pub fn try_plan(home: &Path, overrides: &[&str]) -> Result<Plan, String> {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    let recipe = Recipe::from_text("tiny.toml", &tiny_corpus::recipe(home), &overrides);
    Plan::new(recipe.map_err(|errors| errors.to_string())?).map_err(|errors| errors.to_string())
}

#[track_caller]
pub fn plan(home: &Path, overrides: &[&str]) -> Plan {
    try_plan(home, overrides).unwrap_or_else(|errors| panic!("{errors}"))
}

/// What training gave.
pub struct Trained {
    /// Without autodiff.
    pub model: GenirModel,
    pub outcome: Outcome,
    /// Names of the parameters with an optimizer state.
    pub optimized: BTreeSet<String>,
}

/// Trains as `genir train` does; from the plan's model, or another.
pub fn train_from(plan: &Plan, model: Option<GenirModel>) -> Result<Trained, TrainError> {
    train_beside(plan, model, Vec::new())
}

/// The same with more callbacks.
pub fn train_beside(
    plan: &Plan,
    model: Option<GenirModel>,
    more: Vec<Box<dyn Callback>>,
) -> Result<Trained, TrainError> {
    let toml = plan.recipe.to_toml().unwrap();
    let environment = Environment::capture("cpu");
    let directory = &plan.recipe.run.directory;
    let mut new = NewRun::claim(directory, Overwrite::Refuse).unwrap();
    let run = new.directory().clone();
    let mut trainer = Trainer::new(plan)?;
    let model = match model {
        Some(model) => model,
        None => trainer.initial_model()?,
    };
    let mut callbacks = Callbacks::standard(plan, &run, more)?;
    new.begin(&toml, &environment).unwrap();
    let console = Console::stderr(Verbosity::Quiet);
    console.log_to(&run.log())?;
    let mut monitor = Monitor::open(&run, plan.total_steps(), &console)?;
    new.commit().unwrap();
    let (model, outcome) = trainer.run(model, &mut callbacks, &mut monitor)?;
    monitor.finish()?;
    let optimized = trainer.optimized().map(str::to_owned).collect();
    Ok(Trained { model: model.valid(), outcome, optimized })
}

#[track_caller]
pub fn train(plan: &Plan) -> Trained {
    train_from(plan, None).unwrap_or_else(|error| panic!("{error}"))
}

/// The values of one tag of `metrics.jsonl`, by step.
pub fn logged(home: &Path, tag: &str) -> BTreeMap<u64, f64> {
    let text = fs::read_to_string(home.join("run/metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Map<String, Value>>(line).unwrap());
    lines
        .filter_map(|line| Some((line["step"].as_u64().unwrap(), line.get(tag)?.as_f64().unwrap())))
        .collect()
}
