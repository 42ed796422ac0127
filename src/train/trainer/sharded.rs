//! An update whose docid rows are divided among processes: the losses of their batches are computed together, in rounds.

use burn::optim::GradientsParams;

use super::super::step::{StepInput, forward_backward_with};
use super::Trainer;
use super::shares::Shares;
use crate::ops::{Head, LogitGradients, Loss};
use crate::processes::ProcessesError;
use crate::t5::GenirModel;
use crate::task::{BatchPart, PartExamples};
use crate::train::shards::Targets;

/// The rounds of an update: in each, every process computes the loss of its next batch of docids, if it has one left, and its
/// rows' share of the losses of all others.
pub(super) struct Rounds {
    /// Of each round, for each process: the batch's number in the update, and its targets.
    rounds: Vec<Vec<Option<(usize, Targets)>>>,
    done: usize,
    /// For each batch of the update, the gradients of the logits of this process's rows.
    gradients: Vec<Option<LogitGradients>>,
}

impl Rounds {
    /// Those of the update with these `parts`; `None` if docid rows are not divided.
    pub fn of(trainer: &Trainer, parts: &[BatchPart], shares: &Shares) -> Option<Self> {
        let world = trainer.world.filter(|_| trainer.shards.is_some())?;
        let first = parts.first()?.batch;
        let mut of_ranks = vec![Vec::new(); world.count()];
        for (at, part) in parts.iter().enumerate() {
            let PartExamples::Docids(examples) = &part.examples else { continue };
            let target = |&example: &u32| trainer.plan.examples.target(example as usize) as usize;
            let targets = (examples.iter().map(target).collect(), shares.of_part(at));
            let number = (part.batch - first) as usize;
            of_ranks[trainer.owner(parts, part)].push((number, targets));
        }
        let count = of_ranks.iter().map(Vec::len).max().unwrap_or(0);
        let round = |at| of_ranks.iter().map(|own| own.get(at).cloned()).collect();
        let batches = parts.last().map_or(0, |part| (part.batch - first) as usize + 1);
        let gradients = (0..batches).map(|_| None).collect();
        Some(Self { rounds: (0..count).map(round).collect(), done: 0, gradients })
    }

    /// Takes part in the rounds that are left when this process has no batch any more, and returns the gradients of the logits
    /// of its rows for each batch of the update.
    ///
    /// # Errors
    /// MPI fails.
    pub fn finish(
        mut self,
        trainer: &Trainer,
        model: &GenirModel,
    ) -> Result<Vec<Option<LogitGradients>>, ProcessesError> {
        while self.done < self.rounds.len() {
            trainer.round(model, None, &mut self)?;
        }
        Ok(self.gradients)
    }
}

impl Trainer<'_> {
    /// As [`Trainer::forward_backward`], in the next round.
    ///
    /// # Errors
    /// MPI fails.
    pub(super) fn forward_backward_of_all(
        &self,
        model: &GenirModel,
        input: StepInput,
        position: u64,
        rounds: &mut Rounds,
    ) -> Result<(f64, GradientsParams), ProcessesError> {
        let dropout = self.options(position, "dropout", 1.0).dropout;
        forward_backward_with(model, input, dropout, |head| {
            let loss = self.round(model, Some(head), rounds)?;
            Ok(loss.unwrap_or_else(|| unreachable!("a batch with examples has a loss")))
        })
    }

    /// Computes the losses of one round; returns that of this process's batch, which has the output layer `head`.
    fn round(
        &self,
        model: &GenirModel,
        head: Option<Head>,
        rounds: &mut Rounds,
    ) -> Result<Option<Loss>, ProcessesError> {
        let (Some(shards), Some(round)) = (&self.shards, rounds.rounds.get_mut(rounds.done)) else {
            return Ok(None);
        };
        rounds.done += 1;
        let (numbers, batches): (Vec<Option<usize>>, Vec<Option<Targets>>) =
            round.drain(..).map(Option::unzip).unzip();
        let smoothing = self.plan.recipe.train.label_smoothing;
        let reaches_input = self.plan.trained.len() > 1;
        let (loss, gradients) =
            shards.cross_entropy(model, head, &batches, smoothing, reaches_input)?;
        for (number, found) in numbers.into_iter().zip(gradients) {
            if let Some(number) = number {
                rounds.gradients[number] = found;
            }
        }
        Ok(loss)
    }

    /// Adds the gradient of this process's docid rows to the others, from what [`Rounds::finish`] has found; returns with them
    /// the sum of the squares of the gradients of all rows, if they are divided.
    ///
    /// # Errors
    /// MPI fails.
    pub(super) fn with_own_rows(
        &self,
        model: &GenirModel,
        mut gradients: GradientsParams,
        divided: Option<Vec<Option<LogitGradients>>>,
    ) -> Result<(GradientsParams, Option<f64>), ProcessesError> {
        let squares = match (&self.shards, divided) {
            (Some(shards), Some(batches)) => {
                let dtype = self.plan.recipe.train.gradient_dtype;
                Some(shards.add_gradient(model, &batches, dtype, &mut gradients)?)
            }
            _ => None,
        };
        Ok((gradients, squares))
    }
}
