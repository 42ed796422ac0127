//! The state before an update whose loss or gradient norm is not finite: `failed-step/` in the run directory, from which
//! `genir replay` repeats the update.
//!
//! It is a complete checkpoint, `failed-step/step-<updates before>`, but outside of `checkpoints/`: no run continues from
//! it, and it displaces no checkpoint. `report.json` beside it says what was found.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::callback::TrainerState;
use super::checkpoints::{Checkpoints, name_at};
use super::optimizer::Optimizer;
use super::training_state::TrainingState;
use super::{NonFinite, TrainError};
use crate::exact::Exact;
use crate::files::{FileError, create_directory, read_regular_to_string, write_atomically};
use crate::run::RunDirectory;

/// The file that says what was found.
const REPORT: &str = "report.json";

/// An update that failed, as `failed-step/report.json` has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailedStep {
    /// The update, counted from 1.
    pub step: u64,
    /// The value that was not finite.
    pub what: NonFinite,
    /// This value.
    pub(super) value: Exact,
    /// The learning rate of the update.
    pub(super) learning_rate: Exact,
    /// Ids of its documents and queries.
    pub examples: Vec<String>,
}

impl FailedStep {
    /// Reads the report of the run; `None` if no update failed.
    ///
    /// # Errors
    /// The file cannot be read, or is not such a report.
    pub(super) fn read(run: &RunDirectory) -> Result<Option<Self>, FileError> {
        let file = run.failed_step().join(REPORT);
        if !file.exists() {
            return Ok(None);
        }
        let text = read_regular_to_string(&file).map_err(FileError::new("read", &file))?;
        let wrong = |error: serde_json::Error| {
            FileError::new("read", &file)(io::Error::new(ErrorKind::InvalidData, error.to_string()))
        };
        serde_json::from_str(&text).map(Some).map_err(wrong)
    }

    fn write(&self, directory: &Path) -> Result<(), FileError> {
        write_atomically(&directory.join(REPORT), |file| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            file.write_all(b"\n")
        })
    }
}

impl Checkpoints<'_> {
    /// Writes the state before the update that `failed`, in place of an older one; returns its directory. `training`
    /// gets the state of this object.
    ///
    /// # Errors
    /// It cannot be written, for example because weights are not finite already.
    pub(super) fn write_failed(
        &self,
        failed: &FailedStep,
        state: &TrainerState,
        optimizer: &Optimizer,
        training: impl FnOnce(Value) -> TrainingState,
    ) -> Result<PathBuf, TrainError> {
        let parent = self.run().failed_step();
        // First: the disk may have space for one only.
        match fs::remove_dir_all(&parent) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(FileError::new("remove", &parent)(error).into());
            }
            _ => {}
        }
        // The report stays if the state cannot be written: a replay compares the value with it.
        create_directory(&parent)?;
        failed.write(&parent)?;
        let training = training(self.to_json());
        self.write_in(&parent, &name_at(state.step), state, optimizer, training)
    }
}
