//! The run file of `eval`, with its metadata.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::files::Destination;
use crate::provenance::{IrMetadata, beside};
use crate::retrieval::run_files::RunWriter;

/// A TREC run file that is being written, and what is known about it.
pub(super) struct RunOutput {
    pub writer: RunWriter,
    metadata: IrMetadata,
    path: PathBuf,
}

impl RunOutput {
    /// Starts the file, with the metadata as comments at its beginning if `header` asks for them.
    pub fn create(path: &Path, tag: &str, metadata: IrMetadata, header: bool) -> Result<Self> {
        let mut writer = RunWriter::create(path, tag)?;
        if header {
            writer.write_header(&metadata.header()?)?;
        }
        Ok(Self { writer, metadata, path: path.to_path_buf() })
    }

    /// Returns the file with the metadata of the run file at `path`; nothing is beside a pipe or a device.
    pub fn beside(path: &Path) -> Option<PathBuf> {
        let is_file = matches!(Destination::of(path), Ok(Destination::File(_)));
        is_file.then(|| beside(path))
    }

    /// Moves the complete file to its path, and writes the metadata beside it.
    pub fn finish(self) -> Result<()> {
        self.writer.finish()?;
        if Self::beside(&self.path).is_some() {
            self.metadata.write_beside(&self.path)?;
        }
        Ok(())
    }
}
