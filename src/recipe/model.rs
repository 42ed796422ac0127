//! The run and its model: `[run]`, `[model]`, `[trainable]` and `[stages]`, or `stages = "detect"`.

use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::ranges::{FRACTION, fraction};
use super::reader::Section;
use crate::choice::choice;
use crate::component::{Stage, Stages, check_trainable, parse_layers};
use crate::device::is_valid_name;
use crate::t5::most_of;

/// `[run]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunSection {
    /// The run directory.
    pub directory: PathBuf,
    /// The random seed.
    pub seed: u64,
    /// The device: `auto`, `cpu`, `cuda` or `cuda:N`, the latter two optionally with `+f32`.
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
                    r#"one of "auto", "cpu", "cuda", "cuda:N" (N counts from 0; with "+f32": no bf16)"#,
                    device,
                )
                .or("auto".to_owned()),
        }
    }
}

fn device(text: &str) -> Option<String> {
    is_valid_name(text).then(|| text.to_owned())
}

choice! {
    /// Initialisation of the weights.
    Init {
        /// The weights of the base model.
        Pretrained = "pretrained",
        /// T5's random initialisation; only the configuration and the tokenizer of the base model are used.
        Scratch = "scratch",
    }
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelSection {
    /// A directory (of a run too), a Hugging Face hub id, or `bundled:atlas-base`.
    pub base: String,
    /// Branch, tag or commit on the hub; `None`: `main`.
    pub revision: Option<String>,
    /// Initialisation of the weights.
    pub init: Init,
    /// Overrides the `dropout_rate` of the base model.
    pub dropout: Option<f64>,
    /// Overrides sizes in the `config.json` of the base model.
    pub config: ConfigSection,
}

/// `[model.config]`: sizes that override those of the base model, for a model from scratch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ConfigSection {
    /// Width of the residual stream, `d_model`.
    pub d_model: Option<usize>,
    /// Width of the hidden layer of each MLP.
    pub d_ff: Option<usize>,
    /// Width of an attention head.
    pub d_kv: Option<usize>,
    /// Number of attention heads.
    pub num_heads: Option<usize>,
    /// Number of encoder layers.
    pub num_layers: Option<usize>,
    /// Number of decoder layers.
    pub num_decoder_layers: Option<usize>,
}

impl ConfigSection {
    /// Returns the sizes that are set, by their keys in `config.json`.
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

/// Reads a size of the model, within T5's limits.
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
            base: section.string("base").required(),
            revision: section.string("revision").optional(),
            init: section.choice("init").or(Init::Pretrained),
            dropout: section.float("dropout", FRACTION, fraction).optional(),
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
            let message = "pretrained weights have the sizes of the base model: remove [model.config] \
                           (`~model.config` on the command line), or set init = \"scratch\" to \
             train a model of these sizes from scratch";
            section.conflict("config", &["init"], message.to_owned());
        }
        model
    }
}

/// `[trainable]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrainableSection {
    /// Selectors; see [`crate::component::Trainable`].
    pub select: Vec<String>,
}

impl TrainableSection {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let select = section.strings("select").or(vec!["full".to_owned()]);
        if select.is_empty() {
            section.problem("select", "expected at least one selector".to_owned());
        }
        for text in &select {
            if let Err(error) = check_trainable(text) {
                section.problem("select", error.to_string());
            }
        }
        Self { select }
    }
}

/// The stages that a recipe asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StagesSetting {
    /// `[stages]`: these.
    Given(Stages),
    /// `stages = "detect"`: those that the base model shows. The recipe of a run has the numbers that were found.
    Detect,
}

/// The word for [`StagesSetting::Detect`].
const DETECT: &str = "detect";

impl StagesSetting {
    /// Returns the stages, unless they are to be detected.
    pub fn given(&self) -> Option<&Stages> {
        match self {
            Self::Given(stages) => Some(stages),
            Self::Detect => None,
        }
    }
}

/// As a recipe has it: a section, or a word.
impl Serialize for StagesSetting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Given(stages) => stages.serialize(serializer),
            Self::Detect => serializer.serialize_str(DETECT),
        }
    }
}

/// Reads `stages = "detect"`, or `[stages]` with the decoder layers of each stage.
pub(super) fn read_stages(file: &mut Section<'_, '_>) -> Option<StagesSetting> {
    if file.is_text("stages") {
        let expected = r#""detect", or a section [stages] with the layers of I, II and III"#;
        let detect = |text: &str| (text == DETECT).then_some(StagesSetting::Detect);
        return file.parsed("stages", expected, detect).optional();
    }
    file.optional_section("stages", read_layers).flatten().map(StagesSetting::Given)
}

/// Reads the decoder layers of each stage.
fn read_layers(section: &mut Section<'_, '_>) -> Option<Stages> {
    let mut layers = |stage: Stage| {
        section
            .parsed(
                stage.name(),
                r#"a range of layers, such as "7..18" (without layer 18) or "7-17""#,
                |text| parse_layers(text).ok(),
            )
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
