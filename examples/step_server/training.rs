//! The training step that is timed: a model, its one batch, its optimizer.

use std::convert::Infallible;
use std::str::FromStr;
use std::sync::Arc;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use genir::component::{Stages, Trainable, freeze_all_but};
use genir::device::{ComputeDevice, device};
use genir::prefix::{FrozenPrefix, PrefixOutput};
use genir::recipe;
use genir::t5::weights::Origin;
use genir::t5::{Dropout, GenirModel, Tokens, initial_factor, weights};
use genir::train::{
    Optimizer, StepInput, StepOptions, TextBatch, forward_backward, forward_backward_text,
};
use rand::RngExt;

use super::Arguments;

const LEARNING_RATE: f64 = 1e-4;

/// The trained parameters, and whether the frozen prefix is computed once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// True if only cross-attention of Stages II and III and MLPs of Stage III are trained.
    pub restricted: bool,
    /// True if the frozen prefix is computed once, before the first step.
    pub cached: bool,
    /// True if docid rows are trained.
    pub docids: bool,
    /// True if the targets are texts.
    pub denoising: bool,
    /// True if LoRA adapts the matrices of the restricted set, with rank 8, in place of training them.
    pub lora: bool,
}

impl FromStr for Mode {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (word, docids) = match text.strip_suffix("+docids") {
            Some(word) => (word, true),
            None => (text, false),
        };
        let (restricted, cached, lora) = match word {
            "full" | "denoising" if !docids => {
                let denoising = word == "denoising";
                return Ok(Self {
                    restricted: false,
                    cached: false,
                    docids: true,
                    denoising,
                    lora: false,
                });
            }
            "restricted" => (true, false, false),
            "cached" => (true, true, false),
            "lora" => (true, false, true),
            "cached-lora" => (true, true, true),
            _ => anyhow::bail!(
                "expected full, denoising, restricted, cached, lora or cached-lora, the last four also with +docids"
            ),
        };
        Ok(Self { restricted, cached, docids, denoising: false, lora })
    }
}

impl Mode {
    fn selectors(self) -> Vec<String> {
        let set = match self {
            Self { restricted: false, .. } => "full",
            Self { lora: true, .. } => "lora(restricted, rank=8, alpha=16)",
            Self { lora: false, .. } => "restricted",
        };
        let docids = (self.restricted && self.docids).then_some("docids");
        [set].into_iter().chain(docids).map(str::to_owned).collect()
    }
}

/// A model in training on one batch.
pub struct Training {
    /// None while the optimizer has it.
    model: Option<GenirModel>,
    source: Tokens,
    /// The frozen prefix; `None` if everything is trained.
    prefix: Option<FrozenPrefix>,
    /// The output of the prefix for the batch, if it is computed once.
    stored: Option<PrefixOutput>,
    /// Docid rows, `[batch]`.
    targets: Tensor<1, Int>,
    /// The batch of denoising.
    texts: Option<TextBatch>,
    optimizer: Optimizer,
    device: Device,
    trained: usize,
}

impl Training {
    pub fn new(arguments: &Arguments) -> anyhow::Result<Self> {
        let Arguments { mode, shape, batch, length, documents, words, target, .. } = *arguments;
        let documents = if mode.denoising { 0 } else { documents };
        let ComputeDevice { device, precision } = device(&arguments.device)?;
        let device = device.autodiff();
        let on = ComputeDevice { device: device.clone(), precision };
        let config = shape.config(words)?;
        // Before the model, whose memory then is what this gave back.
        let mut parameters = GenirModel::parameter_shapes(&config, true, documents);
        let docids = weights::random_rows(&config, 0..documents, 1);
        let model = GenirModel {
            t5: weights::initialise(&config, 1, &on),
            docids: weights::docids_from(docids, config.d_model, &device),
        };
        let stages = Stages::scaled(shape.layers)?;
        let trainable = Trainable::of(&mode.selectors(), Some(&stages), &parameters)?;
        let Ok(model) = model.with_lora(&trainable.lora, |name, shape| {
            Ok::<_, Infallible>(initial_factor(1, name, shape))
        });
        parameters.extend(trainable.factors(&parameters));
        let trained = trainable.trained;
        let mut model = freeze_all_but(model, &trained);
        let is_trained = |(name, shape): &(String, Vec<usize>)| {
            trained.contains(name).then_some(shape.iter().product::<usize>())
        };

        let mut generator = genir::random::generator(1, 0, "tokens");
        let last = words.min(32_000) as i32;
        let ids: Vec<i32> = (0..batch * length).map(|_| generator.random_range(2..last)).collect();
        let targets: Vec<i32> =
            (0..batch).map(|_| generator.random_range(0..documents.max(1) as i32)).collect();
        let labels: Vec<i32> =
            (0..batch * target).map(|_| generator.random_range(2..last)).collect();
        let prefix = FrozenPrefix::of(trained.iter().map(String::as_str), shape.layers);
        // A frozen prefix takes its tokens off the graph.
        let on = if prefix.is_some() { device.clone().inner() } else { device.clone() };
        let source = Tokens::new(&ids, &vec![length as u32; batch], &on);
        let texts = mode
            .denoising
            .then(|| TextBatch::new(source.clone(), &labels, model.t5.config(), &device));
        let stored = prefix.filter(|_| mode.cached);
        let stored = stored.map(|prefix| prefix.compute(&model.t5.valid(), &source));
        if let Some(stored) = &stored {
            // As a run does it once everything is stored.
            let origin = Arc::new(Origin::seed(config, 1));
            (model.t5, _) = model.t5.release_before(stored.layer, &origin)?;
        }
        Ok(Self {
            source,
            texts,
            prefix,
            stored,
            targets: Tensor::from_data(TensorData::new(targets, [batch]), &device),
            model: Some(model),
            optimizer: Optimizer::new(&recipe::OptimizerSection {
                optimizer: recipe::OptimizerSettings::AdamW {
                    betas: [0.9, 0.999],
                    eps: 1e-8,
                    weight_decay: 0.01,
                },
                learning_rate: LEARNING_RATE,
                clip_norm: None,
            }),
            device,
            trained: parameters.iter().filter_map(is_trained).sum(),
        })
    }

    pub fn trained_parameters(&self) -> usize {
        self.trained
    }

    /// One update; the loss before it.
    pub fn step(&mut self) -> anyhow::Result<f64> {
        let model = self.model.take().ok_or_else(|| anyhow::anyhow!("an update failed before"))?;
        let (loss, gradients) = self.forward_backward(&model);
        let (model, updated) = self.optimizer.step(model, gradients, LEARNING_RATE);
        updated?;
        self.model = Some(model);
        // A GPU computes behind our back: without this, a step's end would be in the next one's time.
        self.device.sync()?;
        Ok(loss)
    }

    fn forward_backward(&self, model: &GenirModel) -> (f64, GradientsParams) {
        let options = StepOptions {
            dropout: Dropout { probability: 0.0, key: 0 },
            label_smoothing: 0.0,
            weight: 1.0,
        };
        if let Some(texts) = &self.texts {
            return forward_backward_text(model, texts, options);
        }
        let input = match (&self.stored, self.prefix) {
            (Some(stored), _) => StepInput::Prefix(stored.clone()),
            (None, Some(prefix)) => {
                StepInput::Prefix(prefix.compute(&model.t5.valid(), &self.source))
            }
            (None, None) => StepInput::Tokens(self.source.clone()),
        };
        forward_backward(model, input, self.targets.clone(), options)
    }
}
