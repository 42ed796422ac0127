//! `genir cache`

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Result;
use clap::{Args, Subcommand};
use indicatif::{HumanBytes, HumanDuration};

use super::output;
use crate::prefix::{StoredFile, clear, default_directory, stored_files};

/// List or delete the cached outputs of frozen encoders.
#[derive(Debug, Args)]
pub struct Cache {
    #[command(subcommand)]
    action: Action,

    /// Cache directory [default: $GENIR_CACHE, else genir in $XDG_CACHE_HOME, else ~/.cache/genir].
    #[arg(long, global = true)]
    directory: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the files with their sizes and ages.
    List,
    /// Delete the files; later runs recompute what they need.
    Clear,
}

impl Cache {
    pub fn run(self) -> Result<()> {
        let directory =
            self.directory.unwrap_or_else(|| default_directory(|name| std::env::var(name).ok()));
        let shown = directory.display();
        match self.action {
            Action::List => {
                let files = stored_files(&directory)?;
                for StoredFile { path, bytes, written } in &files {
                    let age = SystemTime::now().duration_since(*written).unwrap_or_default();
                    let name = path.file_name().unwrap_or_default().display();
                    let (size, age) = (HumanBytes(*bytes), HumanDuration(age));
                    output::line(format_args!("{name}  {size}  written {age} ago"))?;
                }
                output::line(format_args!("{shown}: {}", total(&files)))?;
            }
            Action::Clear => {
                let removed = total(&clear(&directory)?);
                output::line(format_args!("{shown}: removed {removed}"))?;
            }
        }
        Ok(())
    }
}

fn total(files: &[StoredFile]) -> String {
    let bytes = files.iter().map(|file| file.bytes).sum();
    let plural = if files.len() == 1 { "" } else { "s" };
    format!("{} file{plural}, {}", files.len(), HumanBytes(bytes))
}
