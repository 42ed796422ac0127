//! The models that probes compare a checkpoint with: its base model before training, and another model's encoder.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::target::Target;
use crate::corpus::{LeaveOut, LoadedCorpus};
use crate::device::ComputeDevice;
use crate::monitor::Console;
use crate::probe::{ComparisonModel, ComparisonModels, NO_BASE, Probe};
use crate::recipe::Recipe;
use crate::retriever::Retriever;
use crate::train::{Base, ProbeBase};

/// Options for the models that the probed model is compared with.
#[derive(Debug, Args)]
pub struct ReferenceModels {
    /// Base model: a directory, a Hugging Face Hub id or `none` [default: probes.base in the run's recipe, else the
    /// model that the run, or the first run of a chain, started from].
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,

    /// Checkpoint or run whose encoder replaces the model's own in encoder_swap.
    #[arg(long, value_name = "CHECKPOINT")]
    pub encoder_from: Option<PathBuf>,

    /// Documents that were excluded from the training of that model [default: corpus.leave_out of its run].
    #[arg(
        long,
        value_name = "ID",
        value_delimiter = ',',
        requires = "encoder_from",
        allow_hyphen_values = true
    )]
    left_out_ids: Vec<String>,
}

impl ReferenceModels {
    /// Returns whether a base model is available; `recipe` is that of the checkpoint's run, if it is in one.
    pub fn has_base(&self, recipe: Option<&Recipe>) -> bool {
        match self.named(recipe) {
            Some(name) => name != NO_BASE,
            None => recipe.is_some(),
        }
    }

    /// Returns the base model named by `--base` or by the run's recipe.
    fn named<'a>(&'a self, recipe: Option<&'a Recipe>) -> Option<&'a str> {
        let of_run = || recipe?.probes.as_ref()?.base.as_deref();
        self.base.as_deref().or_else(of_run)
    }

    /// Loads the models that `probes` need. If the base model is not the one that the run's recipe names, a message
    /// says which one is used.
    pub fn open(
        &self,
        probes: &[Probe],
        recipe: Option<&Recipe>,
        retriever: &Retriever,
        console: &Console,
    ) -> Result<ComparisonModels> {
        let mut others = ComparisonModels::default();
        if self.has_base(recipe) && probes.iter().any(|probe| probe.uses_base()) {
            others.base = self.open_base(recipe, &retriever.device, console)?;
        }
        if let (Some(path), true) = (&self.encoder_from, probes.contains(&Probe::EncoderSwap)) {
            others.encoder = Some(self.open_encoder(Target::at(path.clone()), retriever)?);
        }
        Ok(others)
    }

    fn open_base(
        &self,
        recipe: Option<&Recipe>,
        device: &ComputeDevice,
        console: &Console,
    ) -> Result<Option<ComparisonModel>> {
        let named = self.named(recipe);
        let base = match (named, recipe) {
            (named, Some(recipe)) => ProbeBase::find(recipe, named).context(
                "the base model of the run (use --base to name another one, or --base none for none)",
            )?,
            (Some(name), None) => Some(ProbeBase::named(name)?),
            (None, None) => None,
        };
        let Some(base) = base else { return Ok(None) };
        if let Some(note) = &base.note {
            console.message(note);
        }
        Ok(Some(base.open(device)?))
    }

    fn open_encoder(&self, other: Target, retriever: &Retriever) -> Result<ComparisonModel> {
        let directory = other.directory()?.display().to_string();
        let t5 = Base::pretrained(&directory)?.t5(0, &retriever.device)?;
        let mut left_out = self.left_out_ids.clone();
        if left_out.is_empty()
            && let Some(recipe) = other.run_recipe()?
            && recipe.corpus.leave_out != LeaveOut::None
        {
            let LoadedCorpus { corpus, left_out: rows, .. } = other.corpus()?;
            left_out = rows.iter().map(|&row| corpus.documents[row as usize].id.clone()).collect();
        }
        let docids = &retriever.checkpoint.docids;
        let row = |id: &String| {
            docids.row(id).with_context(|| {
                format!(
                    "{directory} was trained without the document `{id}`, which is not among the {} \
                     docids of the probed checkpoint",
                    docids.len()
                )
            })
        };
        let left_out = left_out.iter().map(row).collect::<Result<_>>()?;
        Ok(ComparisonModel { name: directory.clone(), t5, has_same_encoder: false, left_out })
    }
}
