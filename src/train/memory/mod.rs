//! Estimates the peak memory of a run before it starts.
//!
//! Each phase of a run returns its memory to the system (`allocator::MemoryScope`), so that the peak of the run is that
//! of its largest phase. `tests/memory.rs` compares the total with the measured peaks of complete runs.

mod callbacks;
mod step;

use std::fmt;

use super::pairwise_sum::most_held;
use super::plan::Plan;
use crate::allocator::release_freed_memory;
use crate::component::{Component, ParameterPlace, Stack, Weight};
use crate::device::is_host;
use crate::docid::RowInit;
use crate::ops::largest_shard;
use crate::prefix::{BATCH_POSITIONS, TextSet, bytes_held};
use crate::processes::started_count;
use crate::recipe::OptimizerSettings;
use crate::run::{peak_memory, resident_memory};
use crate::t5::GenirModel;
use callbacks::ProbesNeed;
pub(super) use step::GradientReach;
use step::{StepSizes, prefix_temporaries};

/// Bytes that a run holds at its peak, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Measured peak of the process so far, since reading the corpus may need more than remains afterwards. 0 if the
    /// system does not report it.
    pub before: usize,
    /// Measured resident memory of the process with the corpus and its tokens (if the system reports it), and the
    /// overhead that is not itemised below.
    pub process: usize,
    /// True if all of it is host memory: the resident memory of the process. With a GPU, the sum covers both memories.
    pub on_host: bool,
    /// All parameters.
    pub parameters: usize,
    /// Parameters that are released before the first step because their outputs are stored.
    pub released: usize,
    /// Optimizer state of the trained parameters.
    pub optimizer: usize,
    /// The stored frozen prefixes of all texts.
    pub stored: usize,
    /// Tensors of the probes' base model that are not shared with the model; 0 if no probe uses one.
    pub base: usize,
    /// True if `base` is in memory during training, because probes are measured before the last step.
    pub base_while_training: bool,
    /// Matrices with the factors of LoRA merged, beside those that are trained: in evaluations, probes and checkpoints.
    pub merged: usize,
    /// Peak of storing the prefix, including its rows.
    pub storing: usize,
    /// Temporary values of computing docid rows with the encoder; 0 if they are made otherwise.
    pub docid_rows: usize,
    /// Gradients of the trained parameters, in a step.
    pub gradients: usize,
    /// Activations that a step saves for the backward pass.
    pub activations: usize,
    /// Temporaries of a step that exist at the same time: logits, and the parts of the largest gradient.
    pub temporaries: usize,
    /// Peak of an evaluation.
    pub evaluation: usize,
    /// Peak of writing a checkpoint.
    pub checkpoint: usize,
    /// Peak of measuring probes; 0 if there are none.
    pub probes: ProbesNeed,
}

/// A comparison of the memory that a run needs with the memory that its process can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Fits,
    /// The estimate exceeds the available memory, but may be too high.
    Perhaps,
    DoesNot,
}

impl Fit {
    /// Of `needed` bytes by the estimate into `available` ones.
    fn of(needed: u64, available: u64) -> Self {
        match needed {
            _ if needed <= available => Self::Fits,
            // The estimate may be too high by a quarter.
            _ if needed / 5 * 4 <= available => Self::Perhaps,
            _ => Self::DoesNot,
        }
    }
}

const F32: usize = size_of::<f32>();

/// Overhead not itemised below: pages of the executable that are read later, evaluation queries, open logs, and
/// fragmented memory that the allocator cannot reuse.
const OVERHEAD: usize = 7 << 20;

/// Overhead per thread: its stack and its allocator cache. Measured with 1 to 8 threads.
const OVERHEAD_PER_THREAD: usize = 3 << 20;

/// The largest buffer into which a thread's products pack their factors; it depends on the processor's caches. Smaller
/// factors need as much as their own size.
const PACKED: usize = 7 << 20;

impl MemoryEstimate {
    /// For the run of `plan` on as many processes as were started: of one of them.
    pub fn of(plan: &Plan) -> Self {
        Self::with_processes(plan, started_count())
    }

    /// The same for the run on `count` processes.
    pub(crate) fn with_processes(plan: &Plan, count: usize) -> Self {
        let (recipe, config, table) = (&plan.recipe, plan.config(), &plan.table);
        let divided = count > 1 && recipe.docids.shard;
        let all = plan.docids.len();
        let documents = if divided { largest_shard(all, count) } else { all };
        // Values of docid rows that this process does not have.
        let elsewhere = (all - documents) * config.d_model;
        let of_docids = 0..plan.examples.of_docids();
        let lengths = of_docids.map(|index| plan.examples.tokens(index).len());
        let longest = lengths.max().unwrap_or(0);
        let trained_count = table.total.trained.saturating_sub(elsewhere);
        let states = match recipe.optimizer.optimizer {
            OptimizerSettings::AdamW { .. } => 2 * trained_count,
            // A row and a column of second moments for each matrix: the square roots of its size, about.
            OptimizerSettings::Adafactor { .. } => trained_count / config.d_model.max(1) * 2,
        };
        // Sums of gradients exist at the same time as those of the latest batch.
        let copies = 1 + most_held(plan.epochs.max_batches() as usize);
        // Divided docid rows have one gradient: it is summed block by block from those of the logits of all batches. On a GPU
        // the blocks are copied into one tensor.
        let rows = documents * config.d_model;
        let copies_of_rows = if is_host(&plan.device) { 1 } else { 2 };
        let (gradients, of_logits) = match divided {
            true => (
                trained_count.saturating_sub(rows) * copies + rows * copies_of_rows,
                plan.epochs.max_update_size() as usize * documents,
            ),
            false => (trained_count * copies, 0),
        };
        let Stored { training, evaluated, probed, texts } = stored(plan);
        let asked = evaluated + probed;
        let made = F32 * prefix_temporaries(config, longest, texts);
        let step = StepSizes {
            config,
            examples: plan.epochs.max_batch_size() as usize,
            length: longest,
            target: 1,
            dropout: plan.dropout() > 0.0,
            stored: training > 0,
            fused_loss: is_host(&plan.device),
        };
        let denoising = denoising_lengths(plan);
        let denoising =
            denoising.map(|(length, target)| StepSizes { length, target, stored: false, ..step });
        let reach = GradientReach::of(plan.trained.iter().map(String::as_str), config);
        let lora = LoraSizes::of(plan);
        let (base, base_while_training) = callbacks::base(plan);
        // Returns memory that was only needed for planning.
        release_freed_memory();
        let tokens = match plan.frozen_prefix() {
            Some(_) => step.tokens().max(BATCH_POSITIONS),
            None => step.tokens(),
        };
        let tokens = tokens.max(denoising.as_ref().map_or(0, StepSizes::tokens));
        // Batches of docids and of denoising come one after another.
        let needs = |step: &StepSizes| {
            (step.saved_for_backward(&reach), step.temporaries(&reach, documents))
        };
        let of_docids = (longest > 0).then(|| needs(&step));
        let steps = of_docids.into_iter().chain(denoising.as_ref().map(needs));
        let (activations, temporaries) =
            steps.max_by_key(|(saved, temporary)| saved + temporary).unwrap_or_default();
        let packed = (F32 * tokens * config.d_ff.max(config.inner())).min(PACKED);
        let overhead = OVERHEAD + rayon::current_num_threads() * (OVERHEAD_PER_THREAD + packed);
        Self {
            before: peak_memory().unwrap_or(0) as usize,
            process: resident_memory().unwrap_or(0) as usize + overhead,
            on_host: is_host(&plan.device),
            parameters: F32 * table.total.parameters.saturating_sub(elsewhere),
            released: if training > 0 { F32 * released_parameters(plan) } else { 0 },
            optimizer: F32 * states,
            stored: training + asked,
            base,
            base_while_training,
            merged: F32 * lora.adapted,
            storing: match (training, asked) {
                (0, 0) => 0,
                (rows, 0) => rows.max(made),
                // The other texts are computed while the rows of the training texts are in memory.
                (rows, asked) => rows + asked.max(made),
            },
            docid_rows: match recipe.docids.rows {
                RowInit::Encoder => F32 * prefix_temporaries(config, longest, documents),
                RowInit::Random | RowInit::Text => 0,
            },
            gradients: F32 * gradients,
            activations: F32 * (activations + lora.merged_in_step + of_logits),
            temporaries: F32 * temporaries,
            evaluation: callbacks::evaluation(plan, longest, evaluated > 0, documents),
            // Divided rows are written in blocks.
            checkpoint: F32 * callbacks::saved(config, if divided { 0 } else { documents }),
            probes: recipe
                .probes
                .as_ref()
                .map(|section| callbacks::probes(plan, section, longest, asked > 0))
                .unwrap_or_default(),
        }
    }

    /// Peak of the run in bytes, if every query that probes may measure is measured.
    pub fn total(&self) -> usize {
        self.peak(self.probes.most).1
    }

    /// Compares the peak with the `available` bytes of memory that the process can have, for runs on the host.
    ///
    /// Files that are mapped are not counted, since the system reads them again where memory is short.
    pub(super) fn fits(&self, available: u64) -> Fit {
        match self.on_host {
            true => Fit::of(self.total().saturating_sub(self.stored) as u64, available),
            false => Fit::Fits,
        }
    }

    /// Peak of the run in bytes, if no query is correct, so that probes have nothing to measure.
    pub fn least(&self) -> usize {
        self.peak(self.probes.least).1
    }

    /// The phase that needs most, and its bytes, where probes need so many.
    fn peak(&self, probes: usize) -> (&'static str, usize) {
        let phases = self.phases(probes).into_iter();
        phases.max_by_key(|(_, bytes)| *bytes).unwrap_or_default()
    }

    /// The process's bytes in each phase of the run, where probes need so many.
    fn phases(&self, probes: usize) -> [(&'static str, usize); 7] {
        let start = self.process + self.parameters;
        let training = start - self.released + self.stored + self.optimizer;
        let beside = if self.base_while_training { self.base } else { 0 };
        let step = self.gradients + self.activations + self.temporaries;
        [
            ("while the corpus is read", self.before),
            ("while docid rows are initialised", start + self.docid_rows),
            ("while the frozen prefix is stored", start + self.storing),
            ("in a training step", training + beside + step),
            ("in an evaluation", training + beside + self.merged + self.evaluation),
            ("while a checkpoint is written", training + beside + self.merged + self.checkpoint),
            ("while probes are measured", training + self.base + self.merged + probes),
        ]
    }
}

/// The most tokens of a corrupted text and of its labels; `None` where denoising is not trained.
fn denoising_lengths(plan: &Plan) -> Option<(usize, usize)> {
    let pieces = plan.examples.of_docids()..plan.examples.len();
    let longest = pieces.map(|index| plan.examples.tokens(index).len()).max()?;
    let counts = plan.recipe.task.options().denoising.counts(longest);
    Some((counts.source(), counts.target()))
}

/// Numbers of parameters that LoRA is about.
#[derive(Debug, Clone, Copy, Default)]
struct LoraSizes {
    /// In the adapted matrices.
    adapted: usize,
    /// In their factors.
    factors: usize,
    /// In the matrices that a step merges with their factors: those of self-attention of several tokens, which reads them
    /// whole.
    merged_in_step: usize,
}

impl LoraSizes {
    fn of(plan: &Plan) -> Self {
        let mut sizes = Self::default();
        for (name, shape) in GenirModel::parameter_shapes(plan.config(), plan.is_tied(), 1) {
            let Some(low_rank) = plan.lora.get(&name) else { continue };
            let size = shape.iter().product::<usize>();
            sizes.adapted += size;
            sizes.factors += low_rank.rank * shape.iter().sum::<usize>();
            if let Some(ParameterPlace::Layer {
                stack,
                component: Component::SelfAttention,
                weight: Weight::Query | Weight::Key | Weight::Value,
                ..
            }) = ParameterPlace::of(&name)
                && (stack == Stack::Encoder || plan.recipe.task.denoising.is_some())
            {
                sizes.merged_in_step += size;
            }
        }
        sizes
    }
}

/// Bytes of the frozen prefix that are held while training, files that are mapped among them.
struct Stored {
    /// Of the training texts; 0 where each is read once.
    training: usize,
    /// Of queries that are evaluated more than once.
    evaluated: usize,
    /// Of queries that are probed more than once, and not evaluated.
    probed: usize,
    /// Texts of the largest set that is stored.
    texts: usize,
}

fn stored(plan: &Plan) -> Stored {
    let Some(prefix) = plan.frozen_prefix() else {
        return Stored { training: 0, evaluated: 0, probed: 0, texts: 0 };
    };
    let (recipe, settings) = (&plan.recipe, plan.recipe.cache.settings());
    let held = |set: &TextSet| bytes_held(prefix, &settings, set, plan.config().d_model) as usize;
    let set = plan.training_texts();
    let training = held(&set);
    // What is asked again and again is as long as training's texts, about.
    let texts = set.texts.len().max(1);
    let each = held(&TextSet { reads: u64::MAX, ..set }) / texts;
    let mut evaluated = 0;
    if plan.evaluations().times(plan.total_steps()) > 1 {
        let most = recipe.evaluate.queries.unwrap_or(usize::MAX);
        let queries = |&split| plan.corpus.split(split).len().min(most);
        evaluated = recipe.evaluate.splits.iter().map(queries).sum::<usize>();
    }
    let probed = callbacks::stored_queries(plan);
    let trained = if training > 0 { texts } else { 0 };
    Stored {
        training,
        evaluated: each * evaluated,
        probed: each * probed,
        texts: trained.max(evaluated).max(probed),
    }
}

/// Number of parameters that are released once the prefixes of all texts are stored; 0 if probes may need them, or if
/// queries are ranked only once, so that their prefix is not stored.
fn released_parameters(plan: &Plan) -> usize {
    let recipe = &plan.recipe;
    let probed = recipe.probes.as_ref().is_some_and(|section| !section.run.is_empty());
    let times = plan.evaluations().times(plan.total_steps());
    let read_once = !recipe.evaluate.splits.is_empty() && times < 2;
    match plan.frozen_prefix() {
        Some(prefix) if !probed && !read_once && !plan.is_denoising() => {
            let sizes = GenirModel::parameter_sizes(plan.config(), plan.is_tied(), 1);
            let goes = |name: &str| {
                ParameterPlace::of(name).is_some_and(|place| place.comes_before(prefix.layer()))
            };
            sizes.iter().filter(|(name, _)| goes(name)).map(|(_, size)| size).sum()
        }
        _ => 0,
    }
}

impl fmt::Display for MemoryEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        let (when, most) = self.peak(self.probes.most);
        let resident = if self.on_host { " resident" } else { "" };
        let most = mib(most);
        let least = mib(self.least());
        let (range, when) = match least < most {
            true => {
                let of_none = self.peak(self.probes.least).0;
                let when = format!(
                    "{most} {when} if all queries that they rank are correct, {least} {of_none} if none is"
                );
                (format!("{least} to {most}"), when)
            }
            false => (most.to_string(), when.to_owned()),
        };
        write!(
            f,
            "about {range} MiB{resident} at the peak, {when}: process and corpus {}, parameters {}, optimizer {}, \
             gradients {}, activations {}, temporaries {}",
            mib(self.process),
            mib(self.parameters),
            mib(self.optimizer),
            mib(self.gradients),
            mib(self.activations),
            mib(self.temporaries)
        )?;
        let others = [
            ("frozen prefix", self.stored),
            ("released before the first step", self.released),
            ("the base model for probes", self.base),
            ("docid rows from the encoder", self.docid_rows),
            ("matrices with merged factors", self.merged),
            ("storing the prefix", self.storing),
            ("an evaluation", self.evaluation),
            ("a checkpoint", self.checkpoint),
            ("probes", self.probes.most),
        ];
        let mut needed = others.iter().filter(|(_, bytes)| *bytes > 0);
        needed.try_for_each(|(what, bytes)| write!(f, ", {what} {}", mib(*bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_refused_for_memory_only_where_the_estimate_cannot_be_too_high() {
        assert_eq!(Fit::of(1000, 1000), Fit::Fits);
        assert_eq!(Fit::of(1200, 1000), Fit::Perhaps);
        assert_eq!(Fit::of(1300, 1000), Fit::DoesNot);
    }
}
