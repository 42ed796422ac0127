//! Processes that are killed at one of their changes of the file system.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::preloaded;

/// What kills: a library that is loaded into the process.
pub struct Killer {
    library: PathBuf,
}

impl Killer {
    /// Compiles it into `directory`; none where that cannot be done.
    pub fn build(directory: &Path) -> Option<Self> {
        Some(Self { library: preloaded::build("kill_at", directory)? })
    }

    /// Loads the library into `command`, which is killed before its `at`th change below `directory`.
    pub fn prepare(&self, command: &mut Command, directory: &Path, at: usize) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("KILL_BELOW", directory)
            .env("KILL_AT", at.min(i32::MAX as usize).to_string());
    }

    /// Runs `command`, killed before its `at`th change below `directory`; whether it was killed.
    pub fn kill(&self, command: &mut Command, directory: &Path, at: usize) -> bool {
        self.prepare(command, directory, at);
        let status = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        status.signal() == Some(9)
    }
}
