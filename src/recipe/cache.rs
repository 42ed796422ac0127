//! What is stored of the frozen prefix, and where: `[cache]`.

use std::path::PathBuf;

use serde::Serialize;

use super::reader::Section;
use crate::prefix::{CacheSettings, Element, default_directory};

/// `[cache]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CacheSection {
    /// Whether the prefix of texts that are read more than once is stored.
    pub enabled: bool,
    /// `None`: see [`default_directory`].
    pub directory: Option<PathBuf>,
    /// The most MiB held in memory, or in the GPU's; files of more are read as they are needed.
    pub memory: u64,
    /// The most MiB of files that one run uses.
    pub disk: u64,
    /// What values are stored as.
    #[serde(rename = "type")]
    pub element: Element,
}

const MIB: u64 = 1 << 20;

impl CacheSection {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            enabled: section.flag("enabled").or(true),
            directory: section.path("directory").optional().map(PathBuf::from),
            memory: section.integer("memory", 0).or(2048),
            disk: section.integer("disk", 0).or(51_200),
            element: section.choice("type").or(Element::F32),
        }
    }

    /// The same with the directory found, in bytes.
    pub fn settings(&self) -> CacheSettings {
        let default = || default_directory(|name| std::env::var(name).ok());
        CacheSettings {
            enabled: self.enabled,
            directory: self.directory.clone().unwrap_or_else(default),
            memory: self.memory.saturating_mul(MIB),
            disk: self.disk.saturating_mul(MIB),
            element: self.element,
        }
    }
}
