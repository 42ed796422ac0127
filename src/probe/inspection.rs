//! The result of [`inspect`](super::inspect()) for one query, which is stored as one JSON object.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::record::check_indices;
use super::{LensSite, Over, number};
use crate::component::{Component, Stage, Stages};
use crate::corpus::Split;
use crate::files::{FileError, read_regular_to_string};
use crate::retrieval::CandidateSet;

/// Version of the form of [`Inspection`].
pub const INSPECTION_SCHEMA: u32 = 1;

/// The computation of a model for one query, with its result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// Version of this form, [`INSPECTION_SCHEMA`].
    pub schema: u32,
    /// Version of genir that measured.
    pub genir: String,
    /// Checkpoint directory.
    pub checkpoint: String,
    /// Updates done; `None` if the checkpoint does not say.
    pub step: Option<u64>,
    /// The candidate set of ranks and probabilities, but for the ranks of [`Self::documents`], which are among docids.
    pub vocabulary: CandidateSet,
    /// Decoder layers of each stage; `None` if the decoder has too few layers for stages.
    pub stages: Option<Stages>,
    /// The query.
    pub query: InspectedQuery,
    /// The top documents, best first; then the relevant ones that are not among them.
    pub documents: Vec<RankedDocument>,
    /// The docid that ranks, logits and probabilities below are those of.
    pub docid: InspectedDocid,
    /// The logit lens, by layer and site.
    pub lens: Vec<LensReading>,
    /// Cross-attention's weights: by decoder layer, head, and token of the query. Those of a head sum to 1.
    pub attention: Vec<Vec<Vec<f32>>>,
    /// Mean ablation; `None` if the corpus has no queries to take means over.
    pub ablation: Option<InspectedAblation>,
}

/// The query that was inspected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InspectedQuery {
    /// The text, as it was given.
    pub text: String,
    /// Its id, if it is a query of the corpus.
    pub id: Option<String>,
    /// Its split, if it is a query of the corpus.
    pub split: Option<Split>,
    /// The ids of its relevant documents; empty if it is no query of the corpus.
    pub relevant: Vec<String>,
    /// The encoder's input tokens, with the recipe's prefix, ending in `</s>`.
    pub tokens: Vec<String>,
    /// The ids of the tokens.
    pub token_ids: Vec<u32>,
}

/// A document of the ranking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankedDocument {
    /// The rank among docids; equal logits are in the order of evaluations.
    pub rank: u32,
    /// The docid.
    pub docid: String,
    /// The logit.
    #[serde(with = "number")]
    pub logit: f64,
    /// The probability among the candidates.
    #[serde(with = "number")]
    pub probability: f64,
    /// True if the document is relevant to the query.
    pub is_relevant: bool,
    /// The document's first text; `None` if the corpus does not have the document.
    pub text: Option<String>,
}

/// The reason for which a docid was inspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChosenBecause {
    /// It is the best ranked relevant one.
    Relevant,
    /// No document is known to be relevant, and it is ranked first.
    Top,
    /// The user named it.
    Given,
}

/// The docid that was inspected, without intervention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InspectedDocid {
    /// The docid.
    pub docid: String,
    /// The reason for which it was inspected.
    pub because: ChosenBecause,
    /// The rank among the candidates, as in probes: 1 + the number of candidates with a strictly higher logit.
    pub rank: u32,
    /// The logit.
    #[serde(with = "number")]
    pub logit: f64,
    /// The probability among the candidates.
    #[serde(with = "number")]
    pub probability: f64,
}

/// The logit lens at one site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LensReading {
    /// The layer, from 0.
    pub layer: usize,
    /// The activation within the layer.
    pub site: LensSite,
    /// The rank of the docid among the candidates.
    pub rank: u32,
    /// The logit of the docid, with the final RMSNorm applied.
    #[serde(with = "number")]
    pub logit: f64,
    /// The probability of the docid among the candidates.
    #[serde(with = "number")]
    pub probability: f64,
    /// The 5 tokens with the highest logits, text tokens and docids.
    pub tokens: Vec<String>,
}

/// The effects of mean ablation on the docid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InspectedAblation {
    /// The set of queries that means are taken over, such as `validation`.
    pub queries: String,
    /// Queries of the set that were ranked.
    pub ranked: usize,
    /// The queries of these that means are over: the correct ones, or all.
    pub over: Over,
    /// Number of the queries that means are over.
    pub measured: usize,
    /// Each component in each stage (if the decoder has stages), then each component of each layer.
    pub cells: Vec<AblatedCell>,
}

/// The effect of replacing the output of one component by its mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AblatedCell {
    /// The selector of what is replaced, such as `decoder.mlp[II]` or `decoder.mlp[3]`.
    pub selector: String,
    /// The component.
    pub component: Component,
    /// The stage; `None` for a single layer.
    pub stage: Option<Stage>,
    /// The layer, from 0; `None` for a stage.
    pub layer: Option<usize>,
    /// The rank of the docid among the candidates.
    pub rank: u32,
    /// The logit of the docid.
    #[serde(with = "number")]
    pub logit: f64,
    /// The logit minus that without intervention: negative if the component raises the docid's logit.
    #[serde(with = "number")]
    pub change: f64,
}

/// A file is not what `genir inspect --json` writes.
#[derive(Debug, Error)]
pub enum InspectionError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its content is something else.
    #[error("{}: {found}; expected what `genir inspect --json` writes, of schema {INSPECTION_SCHEMA}", file.display())]
    Wrong {
        /// The file.
        file: PathBuf,
        /// The value found.
        found: String,
    },
}

impl Inspection {
    /// Reads what `genir inspect --json` has written.
    ///
    /// # Errors
    /// [`InspectionError`]: the file cannot be read, has another schema, lacks a field, or its attention weights do not
    /// fit its tokens.
    pub fn read(path: &Path) -> Result<Self, InspectionError> {
        let text = read_regular_to_string(path).map_err(FileError::new("read", path))?;
        Self::parse(&text).map_err(|found| InspectionError::Wrong { file: path.into(), found })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        match value.get("schema") {
            Some(schema) if *schema == INSPECTION_SCHEMA => {}
            Some(schema) => return Err(format!("schema {schema}")),
            None => return Err("no `schema`".to_owned()),
        }
        check_indices(&value)?;
        // From the text, for its line and column in the error.
        let found: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let tokens = found.query.tokens.len();
        for weights in found.attention.iter().flatten() {
            if weights.len() != tokens {
                let count = weights.len();
                return Err(format!("{count} attention weights of a head for {tokens} tokens"));
            }
            if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
                return Err(format!("an attention weight is {weight}"));
            }
        }
        Ok(found)
    }

    /// Returns the mean of cross-attention's weights over the heads of a layer, by token.
    pub fn mean_over_heads(&self, layer: usize) -> Vec<f64> {
        let heads = self.attention.get(layer).map_or(&[][..], Vec::as_slice);
        let mean = |token: usize| {
            heads.iter().map(|weights| f64::from(weights[token])).sum::<f64>() / heads.len() as f64
        };
        (0..self.query.tokens.len()).map(mean).collect()
    }

    /// Returns the logit lens at one site, by layer.
    pub fn lens_at(&self, site: LensSite) -> impl Iterator<Item = &LensReading> {
        self.lens.iter().filter(move |reading| reading.site == site)
    }

    /// Returns the number of decoder layers.
    pub fn depth(&self) -> usize {
        self.attention.len()
    }
}
