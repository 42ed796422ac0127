//! TensorBoard events.
//!
//! The records and summaries are those of `tensorboard-rs`; the file is ours. That crate's own
//! `SummaryWriter` writes on a thread that panics when the disk is full or the directory cannot
//! be written, and panics again when it is dropped; here both are errors. Nor does it take the
//! wall time, which must be that of `metrics.jsonl`.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind};
use std::path::{Path, PathBuf};
use std::process;

use protobuf::{Message, ProtobufError, RepeatedField};
use tensorboard_proto::event::Event;
use tensorboard_proto::summary::{
    Summary, Summary_Value, SummaryMetadata, SummaryMetadata_PluginData,
};
use tensorboard_proto::tensor::TensorProto;
use tensorboard_rs::record_writer::RecordWriter;
use tensorboard_rs::summary::scalar;

use crate::files::{FileError, create_new};

/// One file of events; TensorBoard reads all files of a directory in the order of their names,
/// which begin with the time.
pub(super) struct EventFile {
    writer: RecordWriter<BufWriter<File>>,
    /// The same open file, to flush it to disk: the record writer keeps its own to itself.
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// Starts a new file in `directory`, beside those that are there.
    pub fn create(directory: &Path, wall_time: f64) -> Result<EventFile, FileError> {
        let (file, path) = new_file(directory, wall_time)?;
        let same = file.try_clone().map_err(FileError::new("write", &path))?;
        let mut events = EventFile { writer: RecordWriter::new(BufWriter::new(same)), file, path };
        let mut version = Event::new();
        version.set_wall_time(wall_time);
        version.set_file_version("brain.Event:2".to_string());
        events.write_all([version])?;
        Ok(events)
    }

    /// Adds one event a scalar. TensorBoard's scalars are of 32 bits.
    pub fn write(
        &mut self,
        step: u64,
        wall_time: f64,
        values: &[(&str, f64)],
    ) -> Result<(), FileError> {
        let summaries = values.iter().map(|&(tag, value)| scalar(tag, value as f32));
        self.write_summaries(step, wall_time, summaries)
    }

    /// Adds one event a summary.
    pub fn write_summaries(
        &mut self,
        step: u64,
        wall_time: f64,
        summaries: impl IntoIterator<Item = Summary>,
    ) -> Result<(), FileError> {
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        self.write_all(summaries.into_iter().map(|summary| {
            let mut event = Event::new();
            event.set_wall_time(wall_time);
            event.set_step(step);
            event.set_summary(summary);
            event
        }))
    }

    /// The error of an event that cannot be encoded.
    pub fn failed(&self, error: ProtobufError) -> FileError {
        FileError::new("write", &self.path)(io::Error::other(error))
    }

    /// Flushes the file to disk.
    pub fn sync(&self) -> Result<(), FileError> {
        let synced = self.file.sync_all();
        synced.map_err(FileError::new("write", &self.path))
    }

    fn write_all(&mut self, events: impl IntoIterator<Item = Event>) -> Result<(), FileError> {
        let write = || {
            for event in events {
                let record = event.write_to_bytes().map_err(io::Error::other)?;
                self.writer.write(&record)?;
            }
            self.writer.flush()
        };
        write().map_err(FileError::new("write", &self.path))
    }
}

/// A summary for a plugin: its own `content` in the metadata, its values in a tensor.
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

/// A file of a name that no other process, and no earlier call, has taken.
fn new_file(directory: &Path, wall_time: f64) -> Result<(File, PathBuf), FileError> {
    let mut count = 0;
    loop {
        let (time, process) = (wall_time as u64, process::id());
        let name = format!("events.out.tfevents.{time:010}.genir.{process}.{count}");
        let path = directory.join(name);
        match create_new(&path) {
            Err(error) if error.source.kind() == ErrorKind::AlreadyExists => count += 1,
            Err(error) => return Err(error),
            Ok(file) => return Ok((file, path)),
        }
    }
}
