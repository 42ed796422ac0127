//! The memory, computing and network that a training by several processes needs.

use std::fmt;

use super::{ProcessesError, check_shards, share};
use crate::ops::task_rows;
use crate::prefix::mebibytes;
use crate::train::{ArmCosts, MemoryEstimate, Plan};

/// The needs of each of several processes that train one run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Needs {
    /// Number of processes.
    pub count: usize,
    /// Batches of an update that each of them computes, and of all.
    pub batches: (usize, usize),
    /// Bytes that leave each process in an update, and as many reach it.
    pub exchanged: f64,
    /// Bytes of a process at its peak, by the estimate of a run of one process and two buffers for the exchange.
    pub memory: usize,
    /// Floating-point operations of each process in an update.
    pub operations: f64,
}

/// The efficiency that [`Needs::network`] is for: the share of the time in which processes compute.
const EFFICIENCY: f64 = 0.9;

impl Needs {
    /// Of the run of `plan` on `count` processes; `costs` is its estimate for one.
    ///
    /// # Errors
    /// The batches of an update, or the docid rows, cannot be shared.
    pub fn of(plan: &Plan, count: usize, costs: &ArmCosts) -> Result<Self, ProcessesError> {
        let accumulate = plan.recipe.train.accumulate;
        let (documents, width) = (plan.docids.len(), plan.config().d_model);
        let others = count.saturating_sub(1) as f64 / count.max(1) as f64;
        let own_batches = share(accumulate, count)?;
        let examples = plan.epochs.max_update_size() as f64;
        let (mut gradients, mut of_outputs) = (costs.gradients, 0.0);
        if plan.recipe.docids.shard && count > 1 {
            check_shards(documents, count)?;
            // Docid rows stay. Instead, an output goes to all others, and each returns the parts of its gradient by tasks.
            gradients -= plan.recipe.train.gradient_dtype.size() * documents * width;
            let tasks = documents.div_ceil(task_rows(documents)) as f64;
            let floats = width as f64 * others * (1.0 + tasks / count as f64);
            of_outputs = size_of::<f32>() as f64 * examples * floats;
        }
        // They are summed in f32.
        let values = gradients / plan.recipe.train.gradient_dtype.size();
        let buffers = if count > 1 { 2 * size_of::<f32>() * values } else { 0 };
        Ok(Self {
            count,
            batches: (own_batches, accumulate),
            exchanged: 2.0 * others * gradients as f64 + of_outputs,
            memory: MemoryEstimate::with_processes(plan, count).total() + buffers,
            operations: costs.operations * examples / count as f64,
        })
    }

    /// Bytes a second that the network must carry to and from each process for 90% of the time to be spent on computing,
    /// where each computes `speed` floating-point operations a second and waits for the exchange.
    pub fn network(&self, speed: f64) -> f64 {
        let computing = self.operations / speed;
        self.exchanged / (computing * (1.0 / EFFICIENCY - 1.0))
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (own, all) = self.batches;
        writeln!(f, "processes {}: {own} of the {all} batches of an update each", self.count)?;
        let exchanged = mebibytes(self.exchanged as u64);
        writeln!(
            f,
            "exchange  {exchanged} leave each process in an update, and as much reaches it"
        )?;
        writeln!(f, "memory    {} in each process", mebibytes(self.memory as u64))?;
        let megabytes = self.network(1e11) / 1e6;
        write!(
            f,
            "network   for 90% efficiency {megabytes:.0} MB/s each way, for each 100 GFLOP/s that a process computes"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_carries_an_exchange_in_a_ninth_of_the_time_of_computing() {
        let needs =
            Needs { count: 4, batches: (1, 4), exchanged: 900.0, memory: 0, operations: 2e9 };
        let bytes_a_second = needs.network(1e9);
        let (computing, exchanging) = (2.0, 900.0 / bytes_a_second);
        assert!((computing / (computing + exchanging) - 0.9).abs() < 1e-12, "{bytes_a_second}");
    }
}
