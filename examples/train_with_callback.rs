//! Trains the quickstart from Rust, with a callback that records how far the docid rows have moved since the first
//! step:
//!
//!     cargo run --release --example train_with_callback -- runs/from-rust
//!
//! The numbers are in TensorBoard and in metrics.jsonl of the run directory, as `docids/distance`.

use std::path::PathBuf;

use anyhow::Context;
use burn::module::Module;
use burn::tensor::Tensor;
use genir::monitor::{Console, Verbosity};
use genir::recipe::{Recipe, ShippedRecipe};
use genir::run::Overwrite;
use genir::train::{Cadence, Callback, Plan, TrainError, TrainerState, Training, Verdict};

// As the command genir does: training allocates and frees large tensors all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The mean Euclidean distance of each docid row from its initial value.
#[derive(Default)]
struct DocidDistance {
    /// `[documents, d_model]`
    initial: Option<Tensor<2>>,
}

impl Callback for DocidDistance {
    fn cadence(&self) -> Cadence {
        Cadence { every: Some(100), at_start: true, at_end: true }
    }

    fn call(&mut self, state: &mut TrainerState) -> Result<Verdict, TrainError> {
        let rows = state.model.valid().docids.weight.val(); // [documents, d_model]
        let initial = self.initial.get_or_insert_with(|| rows.clone()).clone();
        let distances = (rows - initial).square().sum_dim(1).sqrt(); // [documents, 1]
        let distance = f64::from(distances.mean().into_scalar::<f32>());
        state.monitor.scalars(state.step, state.epoch, &[("docids/distance", distance)]);
        Ok(Verdict::Continue)
    }

    fn reads_no_other_texts(&self) -> bool {
        true // no text is encoded here, so frozen encoder weights may be released
    }
}

fn main() -> anyhow::Result<()> {
    genir::retain_freed_memory();
    let directory: PathBuf =
        std::env::args_os().nth(1).context("usage: train_with_callback RUN_DIRECTORY")?.into();
    let overrides = [format!("run.directory={}", directory.display()), "train.epochs=4".to_owned()];
    let quickstart = ShippedRecipe::find("quickstart").context("it is inside the library")?;
    let recipe = Recipe::from_text("quickstart", quickstart.text, &overrides)?;
    let plan = Plan::to_start(recipe, Overwrite::Refuse)?;
    let console = Console::stderr(Verbosity::Normal);
    for warning in plan.warnings() {
        console.message(&warning);
    }
    let training = Training::claim(&plan, Overwrite::Refuse)?.callback(DocidDistance::default());
    let outcome = training.run(&console)?;
    console.message(&format!("{} updates; the run is in {}", outcome.steps, directory.display()));
    Ok(())
}
