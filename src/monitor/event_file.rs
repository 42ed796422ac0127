//! TensorBoard event files.
//!
//! Records and summaries come from `tensorboard-rs`, but not the writer: its `SummaryWriter` runs a thread that panics
//! if the disk is full or the directory cannot be written, and panics again on drop. Here both are errors. It also does
//! not accept a wall time, which must equal that of `metrics.jsonl`.

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

/// An event file. TensorBoard reads all files of a directory in the order of their names, which start with the time.
pub(super) struct EventFile {
    writer: RecordWriter<BufWriter<File>>,
    /// The same open file, to flush it to disk: the record writer does not expose its own.
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// Creates a new file in `directory`, in addition to existing ones.
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

    /// Appends one event per scalar. Scalars of TensorBoard have 32 bits.
    pub fn write(
        &mut self,
        step: u64,
        wall_time: f64,
        values: &[(&str, f64)],
    ) -> Result<(), FileError> {
        let summaries = values.iter().map(|&(tag, value)| scalar(tag, value as f32));
        self.write_summaries(step, wall_time, summaries)
    }

    /// Appends one event per summary.
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

    /// Returns the error for an event that cannot be encoded.
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
