//! The models that probes compare a checkpoint with: what it was before training, and another's encoder.

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

/// The models beside the one that is looked at.
#[derive(Debug, Args)]
pub struct Beside {
    /// The base model: a directory, a hub id or `none` [default: what the run's recipe says in probes.base, or what
    /// the run started from; where that is another run's checkpoint, what that one started from].
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,

    /// A checkpoint or run whose encoder takes the place of the model's own, for encoder_swap.
    #[arg(long, value_name = "CHECKPOINT")]
    pub encoder_from: Option<PathBuf>,

    /// Documents that this other model was trained without [default: those of its run].
    #[arg(
        long,
        value_name = "ID",
        value_delimiter = ',',
        requires = "encoder_from",
        allow_hyphen_values = true
    )]
    left_out_ids: Vec<String>,
}

impl Beside {
    /// Whether there is a base model, in a run with this recipe or in none.
    pub fn has_base(&self, recipe: Option<&Recipe>) -> bool {
        match self.named(recipe) {
            Some(name) => name != NO_BASE,
            None => recipe.is_some(),
        }
    }

    /// The base model that is named: here, or by the run's recipe.
    fn named<'a>(&'a self, recipe: Option<&'a Recipe>) -> Option<&'a str> {
        let of_run = || recipe?.probes.as_ref()?.base.as_deref();
        self.base.as_deref().or_else(of_run)
    }

    /// Loads the models that `probes` look at; says where the base model was found, if not where the run's recipe says.
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
                "the base model of the run (--base names another, --base none does without)",
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
                    "{directory} was trained without the document `{id}`, which is none of the {} \
                     docids of the checkpoint that is probed",
                    docids.len()
                )
            })
        };
        let left_out = left_out.iter().map(row).collect::<Result<_>>()?;
        Ok(ComparisonModel { name: directory.clone(), t5, has_same_encoder: false, left_out })
    }
}
