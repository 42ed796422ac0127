//! The event files of a run: one for the whole model, and one in a directory of its own for each line of a chart.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};

use protobuf::RepeatedField;
use tensorboard_proto::summary::{HistogramProto, Summary, Summary_Value};
use tensorboard_rs::summary::image as png_summary;

use super::events::EventFile;
use super::{Histogram, Image, Line};
use crate::files::{FileError, create_directory};

/// Event files, those of stages and layers made with the first event that they get.
pub(super) struct EventFiles {
    directory: PathBuf,
    whole: EventFile,
    lines: HashMap<Line, EventFile>,
}

impl EventFiles {
    /// Starts a new file in `directory` beside those of earlier processes.
    pub fn open(directory: &Path, wall_time: f64) -> Result<Self, FileError> {
        let whole = EventFile::create(directory, wall_time)?;
        Ok(Self { directory: directory.to_path_buf(), whole, lines: HashMap::new() })
    }

    /// Adds scalars by tag to one line.
    pub fn scalars(
        &mut self,
        step: u64,
        wall_time: f64,
        line: Line,
        values: &[(&str, f64)],
    ) -> Result<(), FileError> {
        self.line(line, wall_time)?.write(step, wall_time, values)
    }

    /// Adds a histogram to its line, if it counts anything.
    pub fn histogram(
        &mut self,
        step: u64,
        wall_time: f64,
        histogram: &Histogram,
    ) -> Result<(), FileError> {
        match histogram_summary(histogram) {
            Some(summary) => {
                self.line(histogram.line, wall_time)?.write_summaries(step, wall_time, [summary])
            }
            None => Ok(()),
        }
    }

    /// Adds an image to the file of the whole model.
    pub fn image(&mut self, step: u64, wall_time: f64, image: &Image) -> Result<(), FileError> {
        match image_summary(image) {
            Some(summary) => self.whole.write_summaries(step, wall_time, [summary]),
            None => Ok(()),
        }
    }

    /// Flushes all files to disk.
    pub fn sync(&self) -> Result<(), FileError> {
        self.lines.values().chain([&self.whole]).try_for_each(EventFile::sync)
    }

    fn line(&mut self, line: Line, wall_time: f64) -> Result<&mut EventFile, FileError> {
        let Some(name) = line.directory() else { return Ok(&mut self.whole) };
        match self.lines.entry(line) {
            Entry::Occupied(file) => Ok(file.into_mut()),
            Entry::Vacant(place) => {
                let directory = self.directory.join(name);
                create_directory(&directory)?;
                Ok(place.insert(EventFile::create(&directory, wall_time)?))
            }
        }
    }
}

/// None where nothing is counted. TensorBoard takes the least value for the left edge of the first bucket that counts
/// something, and the greatest for the right edge of the last one.
fn histogram_summary(histogram: &Histogram) -> Option<Summary> {
    let starts = [histogram.start].into_iter().chain(histogram.buckets.iter().map(|b| b.0));
    let buckets = starts.zip(&histogram.buckets).map(|(start, &(end, count))| (start, end, count));
    let counted: Vec<(f64, f64, u64)> = buckets.filter(|bucket| bucket.2 > 0).collect();
    // Of a value only the bucket is known: its middle stands for it.
    let sum = |of: fn(f64) -> f64| {
        let buckets = counted.iter();
        buckets.map(|(start, end, count)| of((start + end) / 2.0) * *count as f64).sum::<f64>()
    };
    let mut proto = HistogramProto::new();
    proto.set_min(counted.first()?.0);
    proto.set_max(counted.last()?.1);
    proto.set_num(sum(|_| 1.0));
    proto.set_sum(sum(|middle| middle));
    proto.set_sum_squares(sum(|middle| middle * middle));
    proto.set_bucket_limit(histogram.buckets.iter().map(|bucket| bucket.0).collect());
    proto.set_bucket(histogram.buckets.iter().map(|bucket| bucket.1 as f64).collect());
    let mut value = Summary_Value::new();
    value.set_tag(histogram.chart.clone());
    value.set_histo(proto);
    let mut summary = Summary::new();
    summary.set_value(RepeatedField::from_vec(vec![value]));
    Some(summary)
}

/// The image as PNG; none where its sizes are not those of its pixels, at which the encoder would panic.
fn image_summary(image: &Image) -> Option<Summary> {
    let (width, height) = (image.width as usize, image.height as usize);
    let size = width.checked_mul(height)?.checked_mul(3)?;
    if size == 0 || size != image.pixels.len() {
        return None;
    }
    let mut summary = png_summary(&image.chart, &image.pixels, &[3, width, height]);
    // It takes width and height in this order, but tells them in the other.
    let shown = summary.mut_value().first_mut()?.mut_image();
    shown.set_width(i32::try_from(image.width).ok()?);
    shown.set_height(i32::try_from(image.height).ok()?);
    Some(summary)
}
