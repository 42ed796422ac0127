//! TensorBoard event files.
//!
//! Records and summaries come from `tensorboard-rs`, but not the writer: its `SummaryWriter` runs a thread that panics
//! if the disk is full or the directory cannot be written, and panics again on drop. Here both are errors. It also does
//! not accept a wall time, which must equal that of `metrics.jsonl`.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process;

use protobuf::{Message, RepeatedField};
use tensorboard_proto::event::{Event, SessionLog, SessionLog_SessionStatus};
use tensorboard_proto::summary::{
    Summary, Summary_Value, SummaryMetadata, SummaryMetadata_PluginData,
};
use tensorboard_proto::tensor::TensorProto;
use tensorboard_rs::record_writer::RecordWriter;
use tensorboard_rs::summary::scalar;

use super::journal::Journal;
use crate::files::{FileError, create_new};

/// An event file. TensorBoard reads all files of a directory in the order of their names, which start with the time.
pub(super) struct EventFile {
    path: PathBuf,
}

impl EventFile {
    /// Creates a new file in `directory`, in addition to existing ones. With `resumed`, the step that a run continues
    /// from, a TensorBoard that is open drops what it has read of later steps.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(
        directory: &Path,
        wall_time: f64,
        resumed: Option<u64>,
        journal: &mut Journal,
    ) -> Result<EventFile, FileError> {
        let events = EventFile { path: new_file(directory, wall_time)? };
        journal.open(&events.path)?;
        let mut version = Event::new();
        version.set_file_version("brain.Event:2".to_string());
        events.write_all(journal, wall_time, [(0, version)]);
        if let Some(step) = resumed {
            let mut log = SessionLog::new();
            log.set_status(SessionLog_SessionStatus::START);
            let mut start = Event::new();
            start.set_session_log(log);
            events.write_all(journal, wall_time, [(step + 1, start)]);
        }
        Ok(events)
    }

    /// Appends one event per scalar. Scalars of TensorBoard have 32 bits.
    pub fn write(&self, journal: &mut Journal, step: u64, wall_time: f64, values: &[(&str, f64)]) {
        let summaries = values.iter().map(|&(tag, value)| scalar(tag, value as f32));
        self.write_summaries(journal, step, wall_time, summaries);
    }

    /// Appends one event per summary.
    pub fn write_summaries(
        &self,
        journal: &mut Journal,
        step: u64,
        wall_time: f64,
        summaries: impl IntoIterator<Item = Summary>,
    ) {
        let events = summaries.into_iter().map(|summary| {
            let mut event = Event::new();
            event.set_summary(summary);
            (step, event)
        });
        self.write_all(journal, wall_time, events);
    }

    fn write_all(
        &self,
        journal: &mut Journal,
        wall_time: f64,
        events: impl IntoIterator<Item = (u64, Event)>,
    ) {
        let mut bytes = Vec::new();
        let encode = || {
            let mut records = RecordWriter::new(&mut bytes);
            for (step, mut event) in events {
                event.set_wall_time(wall_time);
                event.set_step(i64::try_from(step).unwrap_or(i64::MAX));
                records.write(&event.write_to_bytes().map_err(io::Error::other)?)?;
            }
            io::Result::Ok(())
        };
        match encode() {
            Ok(()) => journal.append(&self.path, &bytes),
            Err(error) => journal.report(FileError::new("write", &self.path)(error)),
        }
    }
}

/// Returns a summary of a plugin, with `content` in the metadata and the values in a tensor.
pub(super) fn plugin_summary(
    tag: &str,
    plugin: &str,
    content: Vec<u8>,
    values: TensorProto,
) -> Summary {
    let mut data = SummaryMetadata_PluginData::new();
    data.set_plugin_name(plugin.to_owned());
    data.set_content(content);
    let mut metadata = SummaryMetadata::new();
    metadata.set_plugin_data(data);
    let mut value = Summary_Value::new();
    value.set_tag(tag.to_owned());
    value.set_metadata(metadata);
    value.set_tensor(values);
    let mut summary = Summary::new();
    summary.set_value(RepeatedField::from_vec(vec![value]));
    summary
}

/// Creates a file with a name that no other process and no earlier call has used.
fn new_file(directory: &Path, wall_time: f64) -> Result<PathBuf, FileError> {
    let mut count = 0;
    loop {
        let (time, process) = (wall_time as u64, process::id());
        let name = format!("events.out.tfevents.{time:010}.genir.{process}.{count}");
        let path = directory.join(name);
        match create_new(&path) {
            Err(error) if error.source.kind() == ErrorKind::AlreadyExists => count += 1,
            Err(error) => return Err(error),
            Ok(_) => return Ok(path),
        }
    }
}
