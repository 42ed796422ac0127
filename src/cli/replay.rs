//! `genir replay`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::output;
use crate::monitor::Console;
use crate::terminal::Escaped;
use crate::train::{NonFinite, ReplayOptions, ReplayedStep, replay};

/// Repeat a training step, and compare its bits with what the run has recorded.
///
/// The steps from the newest checkpoint before it (or from the state that a failed step has left) are computed again,
/// without callbacks. Learning rate and gradient norm are compared with metrics.jsonl, and every weight and optimizer
/// moment with a checkpoint of the step. Nothing is written into the run. Exit code 0: all that could be compared is the
/// same; 1: something differs, for example because memory or a disk has changed a number.
#[derive(Debug, Args)]
pub struct Replay {
    /// The run directory.
    run: PathBuf,

    /// The step to repeat, counted from 1, as in metrics.jsonl.
    #[arg(long)]
    step: u64,

    /// Device: auto, cpu, cuda or cuda:N [default: as in the run's recipe]. Another device computes other bits.
    #[arg(long)]
    device: Option<String>,
}

impl Replay {
    pub fn run(self, console: &Console) -> Result<ExitCode> {
        let options = ReplayOptions { step: self.step, device: self.device };
        let mut progress = |done: &ReplayedStep| console.message(&format!("step {}", done.step));
        let replay = replay(&self.run, &options, &mut progress)?;
        for note in &replay.notes {
            tracing::warn!("{note}");
        }
        let from = match &replay.from {
            Some(directory) => directory.display().to_string(),
            None => "the model before the first step".to_owned(),
        };
        output::line(format_args!("from {}\n", Escaped(&from)))?;
        output::line(format_args!(
            "{:>8}  {:>22}  {:>22}  compared with",
            "step", "loss", "gradient norm"
        ))?;
        for step in &replay.steps {
            let shown = |value: f64, failed: bool| match step.failed.is_some() && !failed {
                // It was not computed, or belongs to an update that was not applied.
                true => "-".to_owned(),
                false => value.to_string(),
            };
            let loss = shown(step.loss, step.failed == Some(NonFinite::Loss));
            let norm = shown(step.gradient_norm, step.failed == Some(NonFinite::GradientNorm));
            let compared: Vec<String> = step
                .comparisons
                .iter()
                .map(|comparison| {
                    let result = if comparison.differences.is_empty() { "same" } else { "DIFFERS" };
                    format!("{}: {result}", Escaped(&comparison.with.display().to_string()))
                })
                .collect();
            let compared = if compared.is_empty() { "-".to_owned() } else { compared.join(", ") };
            output::line(format_args!("{:>8}  {loss:>22}  {norm:>22}  {compared}", step.step))?;
        }
        output::line("")?;
        for step in &replay.steps {
            for comparison in &step.comparisons {
                for difference in &comparison.differences {
                    output::line(format_args!(
                        "step {}, {}: {difference}",
                        step.step,
                        comparison.with.display()
                    ))?;
                }
            }
            if let Some(what) = step.failed {
                let value = match what {
                    NonFinite::Loss => step.loss,
                    NonFinite::GradientNorm => step.gradient_norm,
                };
                output::line(format_args!("step {}: the {what} is {value}", step.step))?;
            }
            if let Some((tensor, count)) = &step.damaged {
                output::line(format_args!(
                    "step {}: `{tensor}` has {count} values that are NaN or infinite after it",
                    step.step
                ))?;
            }
        }
        let (verdict, code) = match (replay.compared(), replay.is_same()) {
            (0, _) => {
                ("the run has recorded nothing of these steps to compare with", ExitCode::SUCCESS)
            }
            (_, true) => ("same: all bits that were compared", ExitCode::SUCCESS),
            (_, false) => ("differs", ExitCode::FAILURE),
        };
        output::line(verdict)?;
        Ok(code)
    }
}
