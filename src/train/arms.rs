//! What a trainable set costs, for the one of a recipe and for those that it is compared with.

use std::fmt;
use std::mem;

use comfy_table::{CellAlignment, Table, presets};

use super::arithmetic::Step;
use super::memory::MemoryEstimate;
use super::plan::Plan;
use super::plan_error::PlanError;
use crate::component::{Trainable, grouped};
use crate::prefix::{bytes_held, mebibytes};
use crate::t5::GenirModel;

/// The trainable sets that are usually compared, by name; each with docid rows where it does not hold them: rows of new
/// docids must be learnt.
const ARMS: [(&str, &[&str]); 7] = [
    ("full", &["full"]),
    ("decoder", &["decoder", "docids"]),
    ("restricted", &["restricted", "docids"]),
    ("lora", &["lora(restricted, rank=8, alpha=16)", "docids"]),
    ("matched", &["matched", "docids"]),
    ("norms", &["norms", "docids"]),
    ("docids", &["docids"]),
];

/// More sets that `genir sweep` knows by name, and that differ little from the others in their costs.
const OTHER_ARMS: [(&str, &[&str]); 3] = [
    ("random-matched", &["random-matched(seed=1)", "docids"]),
    ("lora-decoder", &["lora(decoder, rank=8, alpha=16)", "docids"]),
    ("lora-full", &["lora(full, rank=8, alpha=16)", "docids"]),
];

/// Returns the names of the trainable sets that are usually compared, with their selectors.
pub fn named_sets() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    ARMS.into_iter().chain(OTHER_ARMS)
}

/// The costs of training one set of parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct ArmCosts {
    /// Its selectors.
    pub select: Vec<String>,
    /// Number of trained parameters.
    pub trained: usize,
    /// Bytes of the optimizer's state.
    pub optimizer: usize,
    /// Bytes of the gradients of an update, which several processes would exchange.
    pub gradients: usize,
    /// What is frozen before the first trained parameter, `None` if nothing is, and the bytes of its stored outputs (0
    /// if they are computed for each batch).
    pub prefix: Option<(String, usize)>,
    /// Estimated peak of memory in bytes.
    pub memory: usize,
    /// Estimated floating-point operations of a step for each example; the same of full fine-tuning is the measure for
    /// [`ArmCosts::relative_time`].
    pub operations: f64,
    /// The same of a step that trains every parameter.
    pub full_operations: f64,
}

impl ArmCosts {
    /// Estimates the time of a step relative to that of full fine-tuning, from the count of floating-point operations
    /// alone.
    pub fn relative_time(&self) -> f64 {
        self.operations / self.full_operations
    }
}

/// As the line of a run's summary.
impl fmt::Display for ArmCosts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [optimizer, gradients] = [self.optimizer, self.gradients].map(|n| mebibytes(n as u64));
        write!(
            formatter,
            "{optimizer} of optimizer state, {gradients} of gradients (what several processes would exchange); a step \
             takes about {} of a full one's arithmetic",
            ratio(self.relative_time())
        )
    }
}

/// `0.043`, with two significant digits below 0.1.
fn ratio(value: f64) -> String {
    if value < 0.1 { format!("{value:.3}") } else { format!("{value:.2}") }
}

impl Plan {
    /// Returns the costs of the recipe's trainable set; `memory` is the estimate of this plan.
    pub fn costs(&self, memory: &MemoryEstimate) -> ArmCosts {
        let settings = self.recipe.cache.settings();
        let texts = self.training_texts();
        let stored = self.frozen_prefix().map(|prefix| {
            let bytes = bytes_held(prefix, &settings, &texts, self.config().d_model);
            (prefix, bytes as usize)
        });
        let lengths = texts.texts.iter().map(|tokens| tokens.len());
        let tokens = lengths.sum::<usize>() as f64 / texts.texts.len().max(1) as f64;
        let documents = self.docids.len();
        let sizes = GenirModel::parameter_sizes(self.config(), self.is_tied(), documents);
        let all: Vec<(&str, usize)> =
            sizes.iter().map(|(name, size)| (name.as_str(), *size)).collect();
        let trained: Vec<(&str, usize)> =
            all.iter().filter(|(name, _)| self.trained.contains(*name)).copied().collect();
        let held = stored.filter(|(_, bytes)| *bytes > 0).map(|(prefix, _)| prefix);
        let operations = |trained: &[_], stored| {
            Step { config: self.config(), documents, tokens, trained, stored }.operations()
        };
        ArmCosts {
            select: self.recipe.trainable.select.clone(),
            trained: self.table.total.trained,
            optimizer: memory.optimizer,
            gradients: self.recipe.train.gradient_dtype.size() * self.table.total.trained,
            prefix: stored.map(|(prefix, bytes)| (prefix.to_string(), bytes)),
            memory: memory.total(),
            operations: operations(&trained, held),
            full_operations: operations(&all, None),
        }
    }

    /// Returns the costs of the recipe with each of the trainable sets that are usually compared, or why a set cannot be
    /// trained on this model.
    pub fn arms(&mut self) -> Vec<Result<ArmCosts, PlanError>> {
        ARMS.iter().map(|(_, select)| self.costs_with(select)).collect()
    }

    fn costs_with(&mut self, select: &[&str]) -> Result<ArmCosts, PlanError> {
        let select = select.iter().map(|text| (*text).to_owned()).collect();
        let before = mem::replace(&mut self.recipe.trainable.select, select);
        let costs = self.select_trained().map(|selected| {
            let (Trainable { trained, lora }, table) = selected;
            let trained = mem::replace(&mut self.trained, trained);
            let lora = mem::replace(&mut self.lora, lora);
            let table = mem::replace(&mut self.table, table);
            let costs = self.costs(&MemoryEstimate::of(self));
            (self.trained, self.lora, self.table) = (trained, lora, table);
            costs
        });
        self.recipe.trainable.select = before;
        costs
    }
}

/// Returns a table of trainable sets with their costs, a row for each name.
pub fn costs_table<'a>(rows: impl IntoIterator<Item = (String, &'a ArmCosts)>) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "trainable set",
        "trained",
        "optimizer state",
        "gradients",
        "peak memory",
        "step time",
        "frozen prefix",
    ]);
    for (name, costs) in rows {
        let prefix = match &costs.prefix {
            None => "none".to_owned(),
            Some((prefix, 0)) => format!("{prefix}, not stored"),
            Some((prefix, bytes)) => format!("{prefix}, {} stored", mebibytes(*bytes as u64)),
        };
        table.add_row([
            name,
            grouped(costs.trained),
            mebibytes(costs.optimizer as u64),
            mebibytes(costs.gradients as u64),
            mebibytes(costs.memory as u64),
            ratio(costs.relative_time()),
            prefix,
        ]);
    }
    for column in table.column_iter_mut().skip(1).take(5) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!(
        "{table}\n\
         gradients: what several processes would exchange in an update.\n\
         peak memory: estimated. step time: relative to full fine-tuning, estimated from the floating-point\n\
         operations of an example; cheap steps are slower than that, since reading memory is not counted.\n"
    )
}

/// Returns a table of trainable sets with their costs: `recipe` first, then `arms`. Those that cannot be trained are
/// listed below it.
pub fn arms_table(recipe: &ArmCosts, arms: &[Result<ArmCosts, PlanError>]) -> String {
    let of_arms = arms.iter().flatten().map(|costs| (costs.select.join(", "), costs));
    let mut text = costs_table([("this recipe".to_owned(), recipe)].into_iter().chain(of_arms));
    for error in arms.iter().filter_map(|arm| arm.as_ref().err()) {
        // Without the key: the selector is not the recipe's.
        let shown = match error {
            PlanError::Selector(error) => error.to_string(),
            error => error.to_string(),
        };
        text += &format!("not on this model: {shown}\n");
    }
    text
}
