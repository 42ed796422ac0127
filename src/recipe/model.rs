//! What is trained: `[run]`, `[model]`, `[trainable]` and `[stages]`.

use std::path::PathBuf;

use serde::Serialize;

use super::ranges::{SHARE, share};
use super::reader::Section;
use crate::choice::choice;
use crate::component::{Selector, Stage, Stages, parse_layers};
use crate::device::is_name;
use crate::t5::most_of;

/// `[run]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunSection {
    /// The run directory.
    pub directory: PathBuf,
    /// Everything random in the run follows from it.
    pub seed: u64,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
}

impl RunSection {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            directory: section.path("directory").required().into(),
            seed: section.integer("seed", 0).or(1),
            device: section
                .parsed(
                    "device",
                    r#"one of "auto", "cpu", "cuda", "cuda:N" (N counts from 0; "+f32" behind it: no bf16)"#,
                    device,
                )
                .or("auto".to_owned()),
        }
    }
}

fn device(text: &str) -> Option<String> {
    is_name(text).then(|| text.to_owned())
}

choice! {
    /// Where a run's weights start.
    Init {
        /// From the base's weights.
        Pretrained = "pretrained",
        /// From T5's own initialisation; of the base only the configuration and the tokenizer are used.
        Scratch = "scratch",
    }
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelSection {
    /// A directory (of a run too), a Hugging Face hub id, or `bundled:atlas-base`.
    pub base: String,
    /// Branch, tag or commit on the hub, `main` when not given.
    pub revision: Option<String>,
    /// Where weights come from.
    pub init: Init,
    /// In place of the base's `dropout_rate`.
    pub dropout: Option<f64>,
    /// In place of sizes in the base's `config.json`.
    pub config: ConfigSection,
}

/// `[model.config]`: sizes in place of the base's, for a model from scratch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ConfigSection {
    /// Width of the residual stream.
    pub d_model: Option<usize>,
    /// Width of the hidden layer of MLPs.
    pub d_ff: Option<usize>,
    /// Width of a head.
    pub d_kv: Option<usize>,
    /// Heads of an attention.
    pub num_heads: Option<usize>,
    /// Encoder layers.
    pub num_layers: Option<usize>,
    /// Decoder layers.
    pub num_decoder_layers: Option<usize>,
}

impl ConfigSection {
    /// The sizes that are given, by their keys in `config.json`.
    pub fn sizes(&self) -> Vec<(&'static str, usize)> {
        let sizes = [
            ("d_model", self.d_model),
            ("d_ff", self.d_ff),
            ("d_kv", self.d_kv),
            ("num_heads", self.num_heads),
            ("num_layers", self.num_layers),
            ("num_decoder_layers", self.num_decoder_layers),
        ];
        sizes.into_iter().filter_map(|(key, size)| Some((key, size?))).collect()
    }
}

/// A size of the model, which a T5 can have.
fn size(section: &mut Section<'_, '_>, key: &'static str) -> Option<usize> {
    let size: Option<usize> = section.integer(key, 1).optional();
    if let (Some(size), Some((most, expected))) = (size, most_of(key))
        && size > most
    {
        section.problem(key, format!("expected {expected}"));
    }
    size
}

impl ModelSection {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let model = Self {
            base: section.text("base").required(),
            revision: section.text("revision").optional(),
            init: section.choice("init").or(Init::Pretrained),
            dropout: section.number("dropout", SHARE, share).optional(),
            config: section.section("config", |section| ConfigSection {
                d_model: size(section, "d_model"),
                d_ff: size(section, "d_ff"),
                d_kv: size(section, "d_kv"),
                num_heads: size(section, "num_heads"),
                num_layers: size(section, "num_layers"),
                num_decoder_layers: size(section, "num_decoder_layers"),
            }),
        };
        if model.init == Init::Pretrained && model.config != ConfigSection::default() {
            let message = "pretrained weights have the sizes of their base: remove [model.config] \
                           (`~model.config` on the command line), or set init = \"scratch\" to \
                           start from new weights of these sizes";
            section.conflict("config", &["init"], message.to_owned());
        }
        model
    }
}

/// `[trainable]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrainableSection {
    /// Selectors; see [`crate::component::trainable_set`].
    pub select: Vec<String>,
}

impl TrainableSection {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let select = section.texts("select").or(vec!["full".to_owned()]);
        if select.is_empty() {
            section.problem("select", "expected at least one selector".to_owned());
        }
        for text in &select {
            if let Err(error) = text.parse::<Selector>() {
                section.problem("select", error.to_string());
            }
        }
        Self { select }
    }
}

/// Reads `[stages]`, the decoder layers of each stage.
pub(super) fn read_stages(section: &mut Section<'_, '_>) -> Option<Stages> {
    let mut layers = |stage: Stage| {
        section
            .parsed(stage.name(), r#"layers, as "7..18" (without layer 18) or "7-17""#, |text| {
                parse_layers(text).ok()
            })
            .required()
    };
    let (first, second, third) =
        (layers(Stage::First), layers(Stage::Second), layers(Stage::Third));
    match Stages::consecutive(first, second, third) {
        Ok(stages) => Some(stages),
        Err(error) => {
            let names = Stage::ALL.map(Stage::name);
            let missing = names.iter().any(|name| !section.has(name));
            if !missing {
                let wrong = error.stage().map_or(names[0], Stage::name);
                section.conflict(wrong, &names, error.to_string());
            }
            None
        }
    }
}
