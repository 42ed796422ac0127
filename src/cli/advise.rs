//! `genir advise`

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

use super::output;
use super::stages::{self, StagesOption};
use super::target::Target;
use crate::advise::{Advice, AdviceOptions};
use crate::component::{ParameterPlace, Stack, Trainable};
use crate::corpus::Split;
use crate::monitor::Console;
use crate::probe::{Over, PROBE_PRECISION, ProbeOptions, ProbeQueries};
use crate::recipe::Recipe;
use crate::retrieval::CandidateSet;
use crate::retriever::Retriever;
use crate::t5::GenirModel;

/// Advise a trainable set: the smallest set of decoder components that retrieval depends on, by ablation.
///
/// Measures mean ablation (P3) of each decoder component alone and of each kind of component in a stage, then removes
/// components until the rest keeps just the share of the effect, and prints it as `trainable.select` of a recipe.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Advise {
    #[command(flatten)]
    target: Target,

    /// Share of the causal effect that the set has to keep with all other components ablated, above 0 and at most 1.
    #[arg(long, default_value_t = 0.9, value_parser = share)]
    share: f64,

    /// Queries to measure: train, validation or test.
    #[arg(long, default_value = "validation")]
    split: Split,

    /// Queries on which the coverage of the set is measured again [default: test, if it has queries and is not --split].
    #[arg(long, value_name = "SPLIT")]
    check_split: Option<Split>,

    /// Sample size in queries of each split [default: all].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    queries: Option<u32>,

    /// Random seed of the sample.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Queries to average over: correct (those with the relevant docid at rank 1) or all.
    #[arg(long, default_value = "correct", value_parser = super::parse_choice::<Over>)]
    over: Over,

    /// Candidate set: all (text tokens and docids, as in the paper) or docids.
    #[arg(long, default_value = "all", value_parser = super::parse_choice::<CandidateSet>)]
    vocabulary: CandidateSet,

    /// Decoder layers of the three stages, ends exclusive: 0..7,7..18,18..24; or detect: those that the residual
    /// contributions show [default: those of the run, else the paper's scaled to the depth].
    #[arg(long, value_name = "LAYERS|detect", value_parser = stages::parse)]
    stages: Option<StagesOption>,

    /// Number of queries per batch.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,

    /// Print everything that was measured as JSON.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  genir advise runs/quickstart-full
  genir advise runs/quickstart-full --share 0.8
  genir advise runs/quickstart-full --stages detect
  genir advise CHECKPOINT --corpus DIRECTORY --queries 500 --json";

impl Advise {
    pub fn run(self, console: &Console) -> Result<()> {
        let recipe = self.target.run_recipe()?;
        let mut retriever = self.target.retriever()?;
        retriever.compute_in(PROBE_PRECISION);
        let mut queries = self.queries_of(&retriever, self.split)?;
        let mut others = match self.check_split(&retriever)? {
            Some(split) => Some(self.queries_of(&retriever, split)?),
            None => None,
        };
        let subject = retriever.subject(&self.target.directory()?.display().to_string());
        let mut probes = ProbeOptions {
            candidates: self.vocabulary,
            over: self.over,
            batch_size: self.batch_size as usize,
            ..ProbeOptions::new(None)
        };
        let option = self.stages.as_ref();
        let chosen = stages::choose(option, recipe.as_ref(), &subject, &mut queries, &probes)?;
        probes.stages = chosen.stages;
        let options = AdviceOptions { share: self.share, probes };
        let bar = console.bar(0).map(|bar| bar.with_message("ablations"));
        let mut progress = |done: usize| {
            if let Some(bar) = &bar {
                // The number of ablations is not known in advance.
                bar.set_length(done as u64);
                bar.set_position(done as u64);
            }
        };
        let found =
            Advice::measure(&subject, &mut queries, others.as_mut(), &options, &mut progress);
        if let Some(bar) = &bar {
            bar.finish_and_clear();
        }
        let mut advice = found?;
        if let Some(recipe) = recipe {
            advice.weaknesses.extend(trained_in_part(&recipe, subject.model)?);
        }
        if self.json {
            let found = json!({
                "advice": advice,
                "recipe": advice.recipe_lines(),
                "detected_stages": chosen.detection,
            });
            let text = serde_json::to_string_pretty(&found)?;
            return Ok(output::data(&format!("{}\n", output::escaped_json(&text)))?);
        }
        if let Some(found) = &chosen.detection {
            output::line(stages::describe(found))?;
        }
        Ok(output::line(advice)?)
    }

    /// Returns the split on which the coverage is measured again, if there is one.
    fn check_split(&self, retriever: &Retriever) -> Result<Option<Split>> {
        match self.check_split {
            Some(split) if split == self.split => {
                bail!(
                    "--check-split {split}: the set is searched with these queries; name another split"
                )
            }
            Some(split) => Ok(Some(split)),
            None => {
                let has_test = self.split != Split::Test && !retriever.corpus.test.is_empty();
                Ok(has_test.then_some(Split::Test))
            }
        }
    }

    fn queries_of(&self, retriever: &Retriever, split: Split) -> Result<ProbeQueries> {
        let set = retriever.queries(split, self.queries.map(|count| count as usize), self.seed);
        let set = set.with_context(|| format!("{split} queries"))?;
        retriever.check_batches(&set.queries, self.batch_size as usize)?;
        Ok(ProbeQueries::new(set))
    }
}

/// Returns a sentence if the run that is measured did not train all parameters of its decoder's layers. The factors of LoRA are
/// not the matrices that they adapt.
fn trained_in_part(recipe: &Recipe, model: &GenirModel) -> Result<Option<String>> {
    let select = &recipe.trainable.select;
    // Those of the run, which its selectors were read with, whatever the option says.
    let depth = model.t5.config().num_decoder_layers;
    let stages = stages::given_or_scaled(None, Some(recipe), depth)?;
    let is_tied = model.t5.lm_head.is_none();
    let shapes = GenirModel::parameter_shapes(model.t5.config(), is_tied, model.documents());
    let trained = Trainable::of(select, stages.as_ref(), &shapes)?.trained;
    let is_of_decoder = |name: &str| {
        matches!(
            ParameterPlace::of(name),
            Some(ParameterPlace::Layer { stack: Stack::Decoder, .. })
        )
    };
    let mut of_decoder = shapes.iter().filter(|(name, _)| is_of_decoder(name));
    let is_complete = of_decoder.all(|(name, _)| trained.contains(name));
    Ok((!is_complete).then(|| {
        format!(
            "The run trained {select:?} only: the effects say what its retrieval uses, including frozen components, and not \
             what training has to change. A run that trains \"full\" says more."
        )
    }))
}

/// Parses a share, above 0 and at most 1.
fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| format!("expected a number above 0 and at most 1, found `{text}`"))
}
