//! The adapter of a LoRA run, as `peft` reads it: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! It is in a directory of its own: where `adapter_config.json` lies beside `config.json`, transformers loads the base
//! model and the adapter in place of the merged weights. A run continues from the factors in it, since they cannot be
//! had again from the merged weights.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use super::CheckpointError;
use super::write::write_json;
use crate::component::{LowRank, ParameterPlace, factor_names};
use crate::files::create_directory;
use crate::t5::weights::{
    Origin, OtherRows, Parameter, StoredTensors, StoredType, TensorEntry, WeightsError, parameters,
    stored, transposed, write_tensors,
};
use crate::t5::{FeedForward, GenirModel};

/// The directory in a checkpoint.
const DIRECTORY: &str = "adapter";
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// The prefix of names in a `PeftModel`.
const PREFIX: &str = "base_model.model.";

/// The adapter of a model.
pub struct Adapter<'a> {
    /// The model, with its factors.
    pub model: &'a GenirModel,
    /// The adapted matrices by dotted name.
    pub lora: &'a BTreeMap<String, LowRank>,
    /// Dotted names of all trained parameters.
    pub trained: &'a BTreeSet<String>,
    /// Docid rows that other processes have; `None`: all are in `model`.
    pub other_rows: Option<OtherRows<'a>>,
    /// The name of the base model, or why `peft` cannot load the adapter: `adapter_config.json` is left out then.
    pub base: Result<&'a str, String>,
}

impl<'a> Adapter<'a> {
    /// Why `peft` cannot express a model in which these parameters (dotted names) are trained, if it cannot.
    pub fn inexpressible(trained: &BTreeSet<String>) -> Option<String> {
        let of_all_rows = |name: &&String| {
            let place = ParameterPlace::of(name);
            matches!(place, Some(ParameterPlace::SharedEmbedding | ParameterPlace::Head))
        };
        trained.iter().find(of_all_rows).map(|name| {
            format!(
                "`{name}` is trained in full, and peft cannot save it tied to the rows of the docids"
            )
        })
    }

    /// Writes the adapter into the directory of a checkpoint.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, checkpoint: &Path) -> Result<(), CheckpointError> {
        let directory = checkpoint.join(DIRECTORY);
        create_directory(&directory)?;
        write_tensors(&directory.join(WEIGHTS), self.tensors(), StoredType::Float32, &[])?;
        match &self.base {
            Ok(base) => write_json(&directory, CONFIG, &self.config(base)),
            Err(_) => Ok(()),
        }
    }

    fn gated(&self) -> bool {
        self.model.t5.config().feed_forward == FeedForward::GatedGelu
    }

    /// The module of a parameter in transformers' T5: its name without `.weight`.
    fn module(&self, name: &str) -> Option<String> {
        let place = stored(name, self.gated())?;
        Some(place.name.trim_end_matches(".weight").to_owned())
    }

    /// The module whose rows docids are.
    fn docid_module(&self) -> &'static str {
        if self.model.t5.is_tied() { "shared" } else { "lm_head" }
    }

    /// Trained parameters that are neither factors nor docid rows.
    fn trained_in_full(&self) -> impl Iterator<Item = &String> {
        let factors: BTreeSet<String> =
            self.lora.keys().flat_map(|name| factor_names(name)).collect();
        let in_full = move |name: &&String| {
            !factors.contains(*name) && ParameterPlace::of(name) != Some(ParameterPlace::Docids)
        };
        self.trained.iter().filter(in_full)
    }

    fn tensors(&self) -> Vec<TensorEntry<'a>> {
        let mut parameters: BTreeMap<String, Parameter> =
            parameters(self.model).into_iter().map(|each| (each.name.clone(), each)).collect();
        let mut entries = Vec::new();
        for matrix in self.lora.keys() {
            for (factor, peft) in factor_names(matrix).into_iter().zip(["lora_A", "lora_B"]) {
                let (Some(module), Some(found)) = (self.module(matrix), parameters.remove(&factor))
                else {
                    continue;
                };
                let name = format!("{PREFIX}{module}.{peft}.weight");
                let shape = found.shape.iter().rev().copied().collect();
                entries.push(TensorEntry::held(name, shape, vec![found.values.transpose()]));
            }
        }
        for name in self.trained_in_full() {
            let (Some(place), Some(found)) = (stored(name, self.gated()), parameters.remove(name))
            else {
                continue;
            };
            let name = format!("{PREFIX}{}", place.name);
            let entry = match place.transposed {
                true => {
                    let shape = found.shape.iter().rev().copied().collect();
                    TensorEntry::held(name, shape, vec![found.values.transpose()])
                }
                false => TensorEntry::held(name, found.shape, vec![found.values]),
            };
            entries.push(entry);
        }
        let rows = self.model.docids.weight.val().inner();
        let name = format!("{PREFIX}{}.token_adapter.trainable_tokens_delta", self.docid_module());
        let mut shape = rows.dims().to_vec();
        shape[0] = self.documents();
        let rows = TensorEntry::held(name, shape, vec![rows]);
        entries.push(match self.other_rows {
            Some(others) => rows.followed_by(others.values),
            None => rows,
        });
        entries
    }

    fn documents(&self) -> usize {
        self.model.documents() + self.other_rows.map_or(0, |others| others.count)
    }

    fn config(&self, base: &str) -> Value {
        let words = self.model.t5.config().vocab_size;
        let rows: Vec<usize> = (words..words + self.documents()).collect();
        let adapted: Vec<(String, LowRank)> = self
            .lora
            .iter()
            .filter_map(|(name, low_rank)| Some((self.module(name)?, *low_rank)))
            .collect();
        let all = adapted.first().map_or(LowRank { rank: 1, alpha: 1.0 }, |(_, first)| *first);
        let ranks: BTreeMap<&String, usize> = adapted
            .iter()
            .filter(|(_, own)| own.rank != all.rank)
            .map(|(module, own)| (module, own.rank))
            .collect();
        let alphas: BTreeMap<&String, Value> = adapted
            .iter()
            .filter(|(_, own)| own.alpha != all.alpha)
            .map(|(module, own)| (module, number(own.alpha)))
            .collect();
        let targets: Vec<&String> = adapted.iter().map(|(module, _)| module).collect();
        let in_full: Vec<String> =
            self.trained_in_full().filter_map(|name| self.module(name)).collect();
        json!({
            "peft_type": "LORA",
            "task_type": "SEQ_2_SEQ_LM",
            "base_model_name_or_path": base,
            "inference_mode": true,
            "r": all.rank,
            "lora_alpha": number(all.alpha),
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "target_modules": targets,
            "modules_to_save": if in_full.is_empty() { Value::Null } else { json!(in_full) },
            "trainable_token_indices": { self.docid_module(): rows },
        })
    }
}

/// A whole number as PEFT's configurations have it, another one as it is.
fn number(value: f64) -> Value {
    match value.fract() == 0.0 && value < f64::from(u32::MAX) {
        true => json!(value as u64),
        false => json!(value),
    }
}

/// The model of a checkpoint as it is trained, from the `merged` one in its files: the adapted matrices as `origin` has
/// them, with the factors of the adapter beside them.
///
/// # Errors
/// The adapter or the base model cannot be read, or they do not give the merged model.
pub(crate) fn unmerged(
    merged: GenirModel,
    lora: &BTreeMap<String, LowRank>,
    origin: &Origin,
    checkpoint: &Path,
) -> Result<GenirModel, WeightsError> {
    let tensors = StoredTensors::open_file(&checkpoint.join(DIRECTORY).join(WEIGHTS))?;
    let gated = merged.t5.config().feed_forward == FeedForward::GatedGelu;
    let mut names = BTreeMap::new();
    for matrix in lora.keys() {
        let Some(place) = stored(matrix, gated) else { continue };
        let module = place.name.trim_end_matches(".weight").to_owned();
        for (factor, peft) in factor_names(matrix).into_iter().zip(["lora_A", "lora_B"]) {
            names.insert(factor, format!("{PREFIX}{module}.{peft}.weight"));
        }
    }
    let adapted = |name: &str| lora.contains_key(&format!("t5.{name}"));
    let t5 = origin.t5_sharing_frozen(&merged.t5, adapted)?;
    let model = GenirModel { t5, docids: merged.docids.clone() };
    let model = model.with_lora(lora, |name, shape| {
        let (name, shape) = (names.get(name).map_or(name, String::as_str), shape.to_vec());
        let [rows, columns] = [shape[1], shape[0]];
        Ok(transposed(&tensors.values(name, &[rows, columns])?, rows, columns))
    })?;
    match model.first_unlike(&merged) {
        None => Ok(model),
        Some(tensor) => Err(WeightsError::OtherBase { directory: checkpoint.to_owned(), tensor }),
    }
}
