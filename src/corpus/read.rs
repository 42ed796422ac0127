//! Reads files of a corpus element by element: plain or gzip, with a check for UTF-8 and within limits of size.
//!
//! Problems are reported to the builder, and reading continues if possible.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::marker::PhantomData;
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, SeqAccess, Visitor};

use super::builder::CorpusBuilder;
use super::error::CorpusError;
use super::location::FileLocation;
use crate::files::{is_lfs_pointer, open_regular};

const BUFFER: usize = 1 << 16;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const BYTE_ORDER_MARK: &[u8] = &[0xef, 0xbb, 0xbf];

/// Reads a file that is a JSON array, one element at a time. The first malformed element ends the reading, since the
/// start of the next one is unknown.
///
/// `expected` is an example of a valid element, for messages.
pub(super) fn json_array<T: DeserializeOwned>(
    file: &Path,
    expected: &'static str,
    builder: &mut CorpusBuilder,
    each: impl FnMut(&mut CorpusBuilder, &FileLocation, T),
) {
    let mut bytes = match open(file, builder) {
        Ok(bytes) => bytes,
        Err(error) => return builder.error(error),
    };
    let whole = FileLocation::file(file);
    match bytes.bytes.fill_buf() {
        Ok([]) => {
            let what = format_args!("the file is empty; expected {expected}");
            return builder.malformed_line(&whole, None, what);
        }
        Ok(_) => {}
        Err(error) => return builder.error(read_error(whole, error)),
    }
    let (element, line, length) = (Cell::new(0), Cell::new(1), Cell::new(0));
    let counted = CountedLines {
        bytes: BufReader::with_capacity(BUFFER, bytes),
        line: &line,
        length: &length,
        limit: builder.limits.record,
    };
    let mut deserializer = serde_json::Deserializer::from_reader(counted);
    let read = deserializer
        .deserialize_seq(Elements {
            each,
            builder: &mut *builder,
            file: &whole,
            element: &element,
            line: &line,
            length: &length,
            of: PhantomData,
        })
        .and_then(|()| deserializer.end());
    let Err(error) = read else {
        return;
    };
    if builder.is_full() {
        return;
    }
    if error.is_io() {
        let location = FileLocation { element: Some(element.get()), ..whole.line(line.get()) };
        return builder.error(read_error(location, error.into()));
    }
    let location = FileLocation {
        element: Some(element.get()),
        line: Some(error.line()),
        column: Some(error.column()),
        ..whole
    };
    let found = message(&error);
    let what = format_args!("{found}; expected {expected}; the rest of the file was not read");
    builder.malformed_line(&location, None, what);
}

/// Reads a file with one JSON object per line; blank lines are skipped. `each` is called with the location of the
/// line. `id_key` is the key of an object's id.
pub(super) fn json_lines<T: DeserializeOwned>(
    file: &Path,
    id_key: &str,
    expected: &'static str,
    builder: &mut CorpusBuilder,
    mut each: impl FnMut(&mut CorpusBuilder, &FileLocation, T),
) {
    lines(file, builder, |builder, location, line| match serde_json::from_str(line) {
        Ok(element) => each(builder, location, element),
        Err(error) => {
            let (found, column, id) = (message(&error), error.column(), id_in(line, id_key));
            let line = beginning(line);
            let what = format_args!("{found} at column {column} of `{line}`; expected {expected}");
            builder.malformed_line(location, id, what);
        }
    });
}

/// Reads a text file line by line, without line endings; blank lines are skipped.
pub(super) fn lines(
    file: &Path,
    builder: &mut CorpusBuilder,
    mut each: impl FnMut(&mut CorpusBuilder, &FileLocation, &str),
) {
    let mut reader = match open(file, builder) {
        Ok(bytes) => BufReader::with_capacity(BUFFER, bytes),
        Err(error) => return builder.error(error),
    };
    let whole = FileLocation::file(file);
    let limit = builder.limits.record;
    let mut bytes = Vec::new();
    let mut number = 0;
    loop {
        bytes.clear();
        number += 1;
        // One byte more than the limit, to tell a longer line from one that ends there.
        let read = (&mut reader).take(limit.saturating_add(1)).read_until(b'\n', &mut bytes);
        match read {
            Ok(0) => return,
            Ok(_) if bytes.len() as u64 > limit && bytes.last() != Some(&b'\n') => {
                let location = whole.line(number);
                return builder.error(CorpusError::TooLong { location, limit });
            }
            Ok(_) => {}
            Err(error) => return builder.error(read_error(whole.line(number), error)),
        }
        let Ok(line) = std::str::from_utf8(&bytes) else {
            return builder.error(CorpusError::NotUtf8 { file: file.to_path_buf(), line: number });
        };
        let text = line.trim_end_matches(['\n', '\r']);
        if !text.trim().is_empty() {
            each(builder, &whole.line(number), text);
        }
        if builder.is_full() {
            return;
        }
    }
}

/// Returns whether the first line of a file of JSON lines, plain or gzip, has an id under `id_key`; false if it cannot be
/// read, which the reader of the file reports.
pub(super) fn first_line_has(file: &Path, id_key: &str) -> bool {
    let first_line = || -> io::Result<Vec<u8>> {
        let plain = BufReader::with_capacity(BUFFER, open_regular(file)?);
        // The buffer that the end of the line is in may be filled beyond what is taken.
        let bytes = unpacked(plain, 2 * BUFFER as u64)?;
        let mut line = Vec::new();
        bytes.take(BUFFER as u64).read_until(b'\n', &mut line)?;
        Ok(line)
    };
    first_line().is_ok_and(|line| id_in(&String::from_utf8_lossy(&line), id_key).is_some())
}

/// Returns the id in a line that is not a valid object, if it is legible.
fn id_in(line: &str, id_key: &str) -> Option<String> {
    let (_, after) = line.split_once(&format!("\"{id_key}\""))?;
    let value = after.trim_start().strip_prefix(':')?;
    let mut values = serde_json::Deserializer::from_str(value).into_iter::<Id>();
    values.next()?.ok().map(|id| id.0)
}

/// Returns the first characters of a line, for messages.
pub(super) fn beginning(line: &str) -> String {
    const MAX_LENGTH: usize = 60;
    match line.char_indices().nth(MAX_LENGTH) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

/// An id: an integer or a non-empty string.
pub(super) struct Id(pub String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdVisitor;

        impl Visitor<'_> for IdVisitor {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an id (an integer or a string)")
            }

            fn visit_u64<E>(self, id: u64) -> Result<Id, E> {
                Ok(Id(id.to_string()))
            }

            fn visit_i64<E>(self, id: i64) -> Result<Id, E> {
                Ok(Id(id.to_string()))
            }

            fn visit_str<E: serde::de::Error>(self, id: &str) -> Result<Id, E> {
                if id.is_empty() {
                    return Err(E::custom("an empty id"));
                }
                Ok(Id(id.to_owned()))
            }
        }

        deserializer.deserialize_any(IdVisitor)
    }
}

/// Deserialises `null` as the default value; the key itself is required.
pub(super) fn nullable<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + Default,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Calls `each` with every element of an array.
struct Elements<'a, T, F> {
    each: F,
    builder: &'a mut CorpusBuilder,
    file: &'a FileLocation,
    element: &'a Cell<usize>,
    line: &'a Cell<usize>,
    length: &'a Cell<u64>,
    of: PhantomData<T>,
}

impl<'de, T, F> Visitor<'de> for Elements<'_, T, F>
where
    T: DeserializeOwned,
    F: FnMut(&mut CorpusBuilder, &FileLocation, T),
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
        while let Some((line, element)) = elements.next_element_seed(WithLine {
            line: self.line,
            length: self.length,
            of: PhantomData,
        })? {
            let location =
                FileLocation { element: Some(self.element.get()), ..self.file.line(line) };
            (self.each)(self.builder, &location, element);
            self.element.set(self.element.get() + 1);
            if self.builder.is_full() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Reads an element together with its first line: its first character has been read when the seed is used.
struct WithLine<'a, T> {
    line: &'a Cell<usize>,
    length: &'a Cell<u64>,
    of: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for WithLine<'_, T> {
    type Value = (usize, T);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let line = self.line.get();
        self.length.set(0);
        Ok((line, T::deserialize(deserializer)?))
    }
}

/// Counts the lines that have been read, from 1: serde_json reports the line only with an error, and reads single
/// bytes. Fails in an element (with the white space before it) of more than `limit` bytes.
struct CountedLines<'a, R> {
    bytes: BufReader<R>,
    line: &'a Cell<usize>,
    /// Bytes since the start of the element.
    length: &'a Cell<u64>,
    limit: u64,
}

impl<R: Read> Read for CountedLines<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // The fast path for nearly every byte.
        let count = if let ([to], Some(&byte)) = (&mut *buffer, self.bytes.buffer().first()) {
            *to = byte;
            self.bytes.consume(1);
            self.line.set(self.line.get() + usize::from(byte == b'\n'));
            1
        } else {
            let count = self.bytes.read(buffer)?;
            self.line.set(self.line.get() + newlines(&buffer[..count]));
            count
        };
        let length = self.length.get() + count as u64;
        self.length.set(length);
        match length > self.limit {
            true => Err(io::Error::other(Unreadable::TooLong { limit: self.limit })),
            false => Ok(count),
        }
    }
}

/// Returns serde's message without its position, which is reported separately.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&position).unwrap_or(&text) {
        // Texts may contain them (`Text`), but a repaired id could equal another id.
        "unexpected end of hex escape" | "lone leading surrogate in hex escape" => {
            "a lone surrogate (\\ud800 to \\udfff, half of a character) in an id".to_owned()
        }
        message => message.to_owned(),
    }
}

fn open(file: &Path, builder: &mut CorpusBuilder) -> Result<Utf8<Box<dyn BufRead>>, CorpusError> {
    builder.mark_read(file);
    let whole = || FileLocation::file(file);
    let failed = |source| read_error(whole(), source);
    let opened = open_regular(file).map_err(failed)?;
    let size = opened.metadata().map_err(failed)?.len();
    let mut plain = BufReader::with_capacity(BUFFER, opened);
    let beginning = plain.fill_buf().map_err(failed)?;
    if is_lfs_pointer(beginning) {
        return Err(CorpusError::LfsPointer { file: file.to_path_buf() });
    }
    let mut bytes = unpacked(plain, builder.limits.unpacked_of(size)).map_err(failed)?;
    if bytes.fill_buf().map_err(failed)?.starts_with(BYTE_ORDER_MARK) {
        bytes.consume(BYTE_ORDER_MARK.len());
    }
    Ok(Utf8 { bytes, line: 1, started: Vec::new() })
}

/// The bytes of a file, of a gzip file up to `limit` unpacked ones.
fn unpacked(mut plain: BufReader<File>, limit: u64) -> io::Result<Box<dyn BufRead>> {
    if !plain.fill_buf()?.starts_with(GZIP_MAGIC) {
        return Ok(Box::new(plain));
    }
    let unpacked = Unpacked { bytes: MultiGzDecoder::new(plain), left: limit, limit };
    Ok(Box::new(BufReader::with_capacity(BUFFER, unpacked)))
}

fn read_error(location: FileLocation, source: io::Error) -> CorpusError {
    let file = location.file.to_path_buf();
    match source.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(&Unreadable::NotUtf8 { line }) => CorpusError::NotUtf8 { file, line },
        Some(&Unreadable::TooLong { limit }) => CorpusError::TooLong { location, limit },
        Some(&Unreadable::TooMuch { limit }) => CorpusError::Unpacked { file, limit },
        None => CorpusError::Read { file, source },
    }
}

/// Reasons to stop reading that are not those of the operating system.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("not UTF-8 in line {line}")]
    NotUtf8 { line: usize },
    #[error("an element of more than {limit} bytes")]
    TooLong { limit: u64 },
    #[error("more than {limit} bytes when unpacked")]
    TooMuch { limit: u64 },
}

/// Unpacked bytes, up to a limit: a few kilobytes of gzip may stand for gigabytes.
struct Unpacked<R> {
    bytes: R,
    left: u64,
    limit: u64,
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::other(Unreadable::TooMuch { limit: self.limit })),
        }
        Ok(count)
    }
}

/// Passes bytes on and fails at the first that are not UTF-8, with their line, which neither serde nor `read_line`
/// reports.
struct Utf8<R> {
    bytes: R,
    /// Line of the next byte, from 1.
    line: usize,
    /// The first bytes of an incomplete character.
    started: Vec<u8>,
}

impl<R: Read> Read for Utf8<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read(buffer)?;
        let wrong = |line| io::Error::new(io::ErrorKind::InvalidData, Unreadable::NotUtf8 { line });
        if count == 0 && !buffer.is_empty() && !self.started.is_empty() {
            return Err(wrong(self.line));
        }
        let mut rest = &buffer[..count];
        // A character that was split at the end of the last buffer is completed byte by byte.
        while let (false, Some((&byte, tail))) = (self.started.is_empty(), rest.split_first()) {
            self.started.push(byte);
            rest = tail;
            match std::str::from_utf8(&self.started) {
                Ok(_) => self.started.clear(),
                Err(error) if error.error_len().is_some() => return Err(wrong(self.line)),
                Err(_) => {}
            }
        }
        if self.started.is_empty()
            && let Err(error) = std::str::from_utf8(rest)
        {
            let (valid, invalid) = rest.split_at(error.valid_up_to());
            if error.error_len().is_some() {
                return Err(wrong(self.line + newlines(valid)));
            }
            self.started.extend_from_slice(invalid);
        }
        self.line += newlines(&buffer[..count]);
        Ok(count)
    }
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}
