//! `genir export`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::output;
use super::target::Target;
use crate::checkpoint::{Checkpoint, CheckpointContents, Manifest, write};
use crate::device::device;
use crate::t5::weights::StoredType;

/// Write a checkpoint to a directory of its own, without the state of its training.
///
/// The directory has the Hugging Face layout: transformers loads it, and so does `model.base` of a recipe. With
/// --without-docids it holds the T5 alone, as a base model for other corpora.
#[derive(Debug, Args)]
pub struct Export {
    /// Checkpoint directory, or run directory (its best checkpoint, else its latest).
    checkpoint: PathBuf,

    /// Directory to write; it must not exist.
    output: PathBuf,

    /// Type of the weights: float32, or bfloat16 (half the size, rounded).
    #[arg(long, default_value = "float32", value_parser = super::parse_choice::<StoredType>)]
    dtype: StoredType,

    /// Leave out the docids: their rows of the embedding, their tokens and docids.json.
    #[arg(long)]
    without_docids: bool,
}

impl Export {
    pub fn run(self) -> Result<()> {
        let target = Target::at(self.checkpoint);
        let checkpoint = Checkpoint::open_t5(&target.directory()?, &device("cpu")?)?;
        let Some(name) = self.output.file_name().and_then(|name| name.to_str()) else {
            bail!("{}: not the name of a directory to write", self.output.display());
        };
        let parent = match self.output.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let manifest = Manifest {
            genir: env!("CARGO_PKG_VERSION").to_owned(),
            ..checkpoint.manifest.clone().unwrap_or_else(|| Manifest::new(checkpoint.encoding()))
        };
        let contents = CheckpointContents {
            model: &checkpoint.model,
            tokenizer: &checkpoint.tokenizer,
            docids: Some(&checkpoint.docids)
                .filter(|docids| !self.without_docids && !docids.is_empty()),
            stored: self.dtype,
            manifest: &manifest,
            other_rows: None,
            training: None,
        };
        let written = write(parent, name, &contents)
            .with_context(|| format!("cannot export to {}", self.output.display()))?;
        output::line(format_args!("{}", written.display()))?;
        Ok(())
    }
}
