//! Storage of the frozen prefix: `[cache]`.

use std::path::PathBuf;

use serde::Serialize;

use super::reader::Section;
use crate::prefix::{CacheSettings, Element, default_directory};

/// `[cache]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CacheSection {
    /// True if the frozen prefix is stored for texts that are read more than once.
    pub enabled: bool,
    /// Directory of the stored files; `None`: see [`default_directory`].
    pub directory: Option<PathBuf>,
    /// Maximum MiB in host or GPU memory; larger files are read on demand.
    pub memory: u64,
    /// Maximum MiB of files of one run.
    pub disk: u64,
    /// Type of the stored values.
    #[serde(rename = "type")]
    pub element: Element,
}

const MIB: u64 = 1 << 20;

impl CacheSection {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            enabled: section.boolean("enabled").or(true),
            directory: section.path("directory").optional().map(PathBuf::from),
            memory: section.integer("memory", 0).or(2048),
            disk: section.integer("disk", 0).or(51_200),
            element: section.choice("type").or(Element::F32),
        }
    }

    /// Returns the settings in bytes, with the default directory filled in.
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
