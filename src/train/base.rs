//! The base model that a recipe names: what a run starts from, and what probes compare it with.

use std::fmt;
use std::path::PathBuf;

use burn::tensor::Device;

use super::plan_error::{OpenBaseError, PlanError};
use crate::checkpoint::{BaseError, BaseFiles, BundledBase, HubSettings, locate};
use crate::device::ComputeDevice;
use crate::docid::{DocidVocabulary, ImportedDocids, LoadedTokenizer, TextTokenizer};
use crate::recipe::{Init, ModelSection, Recipe};
use crate::t5::weights::{self, INDEX, Origin, SINGLE, StoredTensors, WeightsError};
use crate::t5::{T5, T5Config};

/// A base model, without its weights.
pub struct Base {
    /// Where it is.
    pub directory: PathBuf,
    /// Its configuration, with the sizes that were asked for and the words of its tokenizer.
    pub config: T5Config,
    /// True if the word embedding is the output matrix too.
    pub tied: bool,
    /// Docids that it has already.
    pub imported: Option<ImportedDocids>,
    /// The bundled model that it is, if it is one.
    bundled: Option<&'static BundledBase>,
    /// Embedding rows of its last words: see [`LoadedTokenizer::moved_rows`].
    moved_rows: Vec<u32>,
    init: Init,
}

impl Base {
    /// Finds the base of a recipe, fetched where needed, and reads its configuration and tokenizer.
    pub(crate) fn of(model: &ModelSection) -> Result<(TextTokenizer, Self), OpenBaseError> {
        Self::find(&model.base, model.revision.as_deref(), model.init, &model.config.sizes())
    }

    /// Finds a model with its weights: a directory (of a run too), or a model of the hub.
    pub(crate) fn pretrained(base: &str) -> Result<Self, OpenBaseError> {
        Ok(Self::find(base, None, Init::Pretrained, &[])?.1)
    }

    fn find(
        base: &str,
        revision: Option<&str>,
        init: Init,
        sizes: &[(&'static str, usize)],
    ) -> Result<(TextTokenizer, Self), OpenBaseError> {
        let pretrained = init == Init::Pretrained;
        let bundled = BundledBase::find(base)?;
        let (directory, config, loaded) = match (bundled, revision) {
            (Some(_), Some(revision)) => {
                let (base, revision) = (base.to_owned(), revision.to_owned());
                return Err(BaseError::RevisionOfBundled { base, revision }.into());
            }
            (Some(bundled), None) if pretrained && !bundled.has_weights() => {
                return Err(BaseError::BundledWeights { base: base.to_owned() }.into());
            }
            (Some(bundled), None) => {
                (PathBuf::from(bundled.name), bundled.config()?, bundled.tokenizer()?)
            }
            (None, _) => {
                let wanted =
                    if pretrained { BaseFiles::All } else { BaseFiles::ConfigAndTokenizer };
                let directory = locate(base, revision, wanted, &HubSettings::from_env())?;
                let config = T5Config::read(&directory)?;
                let loaded = TextTokenizer::load(&directory)?;
                (directory, config, loaded)
            }
        };
        // As the paper's code resizes the embedding to the tokenizer: rows that no token has are dropped.
        let config = config.resized(sizes).with_words(loaded.tokenizer.vocab_size());
        config.check_tokens(&directory)?;
        let LoadedTokenizer { tokenizer, docids: imported, moved_rows } = loaded;
        let mut found = Self {
            directory,
            tied: config.tie_word_embeddings,
            config,
            imported,
            bundled,
            moved_rows,
            init,
        };
        if pretrained {
            found.tied = weights::is_tied(&found.tensors()?)?;
        }
        Ok((tokenizer, found))
    }

    /// True if the base has weights, used or not.
    pub fn has_weights(&self) -> bool {
        self.bundled.is_some_and(BundledBase::has_weights)
            || [SINGLE, INDEX].iter().any(|name| self.directory.join(name).exists())
    }

    /// True if some words have embedding rows after those of docids.
    pub(crate) fn has_moved_rows(&self) -> bool {
        !self.moved_rows.is_empty()
    }

    /// The weights, opened but not read.
    fn tensors(&self) -> Result<StoredTensors, WeightsError> {
        let bundled = match self.bundled {
            Some(bundled) => bundled.tensors()?,
            None => None,
        };
        let tensors = match bundled {
            Some(tensors) => tensors,
            None => StoredTensors::open(&self.directory)?,
        };
        Ok(tensors.with_moved_rows(self.moved_rows.clone()))
    }

    /// All problems of the weights that the headers of their files show.
    pub fn problems(&self) -> Vec<PlanError> {
        if self.init == Init::Scratch {
            return Vec::new();
        }
        match self.tensors() {
            Ok(tensors) => {
                let (config, docids) = (&self.config, self.docid_tokens());
                weights::warn_of_unread(&tensors, config, self.tied, docids);
                let found = weights::problems(&tensors, config, self.tied, docids);
                let list = self.imported.as_ref().filter(|_| found.is_empty());
                let list = list.and_then(|docids| docids.check_list(&self.directory).err());
                let list = list.map(|problem| OpenBaseError::from(problem).into());
                found.into_iter().map(PlanError::from).chain(list).collect()
            }
            Err(problem) => vec![problem.into()],
        }
    }

    /// Rows of the output matrix of its docids.
    fn docid_tokens(&self) -> &[u32] {
        self.imported.as_ref().map_or(&[], |imported| &imported.rows)
    }

    /// Checks what the headers of its files show, as [`Self::problems`] does, as one error.
    pub(crate) fn check(&self) -> Result<(), WeightsError> {
        match self.init {
            Init::Scratch => Ok(()),
            Init::Pretrained => {
                weights::check(&self.tensors()?, &self.config, self.tied, self.docid_tokens())
            }
        }
    }

    /// The T5 before the first step: the base's weights, or those that `seed` draws for a run from scratch.
    ///
    /// # Errors
    /// The weights do not fit the configuration, or not into the memory of the host where they are computed on it.
    pub(crate) fn t5(
        &self,
        seed: u64,
        device: impl Into<ComputeDevice>,
    ) -> Result<T5, WeightsError> {
        let device = device.into();
        self.check()?;
        weights::check_memory(&self.directory, &self.config, self.tied, 0, &device)?;
        self.origin(seed)?.t5(self.tied, device)
    }

    /// Reads all weights once, and keeps none of them.
    ///
    /// # Errors
    /// A value is not finite, or a file cannot be read.
    pub(crate) fn check_values(&self) -> Result<(), PlanError> {
        if self.init == Init::Scratch {
            return Ok(());
        }
        self.origin(0)?.check_values(self.tied)?;
        let Some(imported) = &self.imported else { return Ok(()) };
        let tensors = self.tensors()?;
        let mut blocks = imported.rows.chunks(1 << 16);
        Ok(blocks.try_for_each(|rows| self.rows_of(&tensors, rows).map(drop))?)
    }

    /// The origin of its weights.
    pub(crate) fn origin(&self, seed: u64) -> Result<Origin, WeightsError> {
        let config = self.config.clone();
        Ok(match self.init {
            Init::Scratch => Origin::seed(config, seed),
            Init::Pretrained => Origin::files(config, self.tensors()?),
        })
    }

    /// The docids that the base knows with their rows of `[docids, d_model]`, where a run starts from its weights.
    pub(crate) fn known_docids(&self) -> Result<Option<(&DocidVocabulary, Vec<f32>)>, PlanError> {
        let imported = self.imported.as_ref().filter(|_| self.init == Init::Pretrained);
        let Some(imported) = imported else { return Ok(None) };
        Ok(Some((&imported.vocabulary, self.rows_of(&self.tensors()?, &imported.rows)?)))
    }

    /// The rows of those of `ids` that are docids of the base, `[found, d_model]`, where a run starts from its weights, and the
    /// places of these ids. No other rows are read.
    ///
    /// # Errors
    /// The weights cannot be read.
    pub(crate) fn known_rows<'i>(
        &self,
        ids: impl Iterator<Item = &'i str>,
    ) -> Result<(Vec<usize>, Vec<f32>), PlanError> {
        let Some(imported) = self.imported.as_ref().filter(|_| self.init == Init::Pretrained)
        else {
            return Ok(Default::default());
        };
        let row = |id| Some(imported.rows[imported.vocabulary.row(id)? as usize]);
        let known = ids.enumerate().filter_map(|(place, id)| Some((place, row(id)?)));
        let (places, rows): (Vec<usize>, Vec<u32>) = known.unzip();
        if rows.is_empty() {
            return Ok(Default::default());
        }
        let values = self.rows_of(&self.tensors()?, &rows)?;
        Ok((places, values))
    }

    /// Rows of the output matrix, `[rows, d_model]`.
    fn rows_of(&self, tensors: &StoredTensors, rows: &[u32]) -> Result<Vec<f32>, WeightsError> {
        let rows = weights::load_docids(tensors, &self.config, rows, &Device::flex())?;
        let rows = rows.weight.val().into_data();
        Ok(rows.as_slice().unwrap_or_default().to_vec())
    }

    /// Where the rows of `docids` will come from.
    pub fn docid_rows(&self, docids: &DocidVocabulary) -> DocidSources {
        let known = self.imported.as_ref().filter(|_| self.init == Init::Pretrained);
        let known = known.map(|imported| &imported.vocabulary);
        let is_known = |id: &&str| known.is_some_and(|known| known.row(id).is_some());
        let kept = docids.ids().filter(is_known).count();
        let of_base = known.map(DocidVocabulary::len);
        DocidSources { kept, new: docids.len() - kept, of_base }
    }
}

/// Where the docid rows of a new model come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocidSources {
    /// Rows of docids that the base has; they are initialised with its rows.
    pub kept: usize,
    /// All others, initialised as `docids.rows` says.
    pub new: usize,
    /// Docids of the base; none where it has no docids, or its weights are not used.
    pub of_base: Option<usize>,
}

/// `900 rows kept, 100 new, 0 of the base unused`.
impl fmt::Display for DocidSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kept, new, of_base } = *self;
        match of_base {
            Some(of_base) => {
                write!(f, "{kept} rows kept, {new} new, {} of the base unused", of_base - kept)
            }
            None => write!(f, "{new} rows, all new"),
        }
    }
}

/// The name of the weights before the first step: the base's name, or the seed of the initialisation.
pub fn name_of_base(recipe: &Recipe) -> String {
    match recipe.model.init {
        Init::Pretrained => recipe.model.base.clone(),
        Init::Scratch => format!("initialisation by seed {}", recipe.run.seed),
    }
}
