//! Reading files of a corpus: plain or gzip, checked for UTF-8, element by element.
//!
//! What is wrong goes to the builder, and reading goes on where that is possible.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::marker::PhantomData;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, SeqAccess, Visitor};

use super::builder::CorpusBuilder;
use super::error::{CorpusError, FileLocation};
use super::findings::Kind;
use crate::files::is_lfs_pointer;

const BUFFER: usize = 1 << 16;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const BYTE_ORDER_MARK: &[u8] = &[0xef, 0xbb, 0xbf];

/// Reads a file that is one JSON array, holding one element at a time. The first element that is malformed ends the
/// reading: a parser cannot tell where the next one begins.
///
/// `right` is an example of a right element, for the message when one is not.
pub(super) fn array<T: DeserializeOwned>(
    file: &Path,
    right: &'static str,
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
            let what = format_args!("the file is empty; right would be {right}");
            return builder.note(Kind::Malformed, &whole, what);
        }
        Ok(_) => {}
        Err(error) => return builder.error(read_error(file, error)),
    }
    let (element, line) = (Cell::new(0), Cell::new(1));
    let counted = CountedLines { bytes: BufReader::with_capacity(BUFFER, bytes), line: &line };
    let mut deserializer = serde_json::Deserializer::from_reader(counted);
    let read = deserializer
        .deserialize_seq(Elements {
            each,
            builder: &mut *builder,
            file: &whole,
            element: &element,
            line: &line,
            of: PhantomData,
        })
        .and_then(|()| deserializer.end());
    let Err(error) = read else {
        return;
    };
    if error.is_io() {
        return builder.error(read_error(file, error.into()));
    }
    let place = FileLocation {
        element: Some(element.get()),
        line: Some(error.line()),
        column: Some(error.column()),
        ..whole
    };
    let found = message(&error);
    let what = format_args!("{found}; right would be {right}; what follows was not read");
    builder.note(Kind::Malformed, &place, what);
}

/// Reads a file of one JSON object a line; blank lines are passed over. `each` gets the line's place.
pub(super) fn json_lines<T: DeserializeOwned>(
    file: &Path,
    right: &'static str,
    builder: &mut CorpusBuilder,
    mut each: impl FnMut(&mut CorpusBuilder, &FileLocation, T),
) {
    lines(file, builder, |builder, place, line| match serde_json::from_str(line) {
        Ok(element) => each(builder, place, element),
        Err(error) => {
            let (found, column) = (message(&error), error.column());
            let line = beginning(line);
            builder.note(
                Kind::Malformed,
                place,
                format_args!("{found} at column {column} of `{line}`; right would be {right}"),
            );
        }
    });
}

/// Reads a text file line by line, without line ends; blank lines are passed over.
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
    let mut line = String::new();
    let mut number = 0;
    loop {
        line.clear();
        number += 1;
        match reader.read_line(&mut line) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => return builder.error(read_error(file, error)),
        }
        let text = line.trim_end_matches(['\n', '\r']);
        if !text.trim().is_empty() {
            each(builder, &whole.line(number), text);
        }
    }
}

/// The first characters of a line, for a message.
pub(super) fn beginning(line: &str) -> String {
    const SHOWN: usize = 60;
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

/// An id: an integer or a string that is not empty.
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

/// A text of a JSON string. Lone surrogates, which no Rust text can hold, are replaced by U+FFFD.
#[derive(Debug, Default, Clone)]
pub(super) struct Text {
    pub text: String,
    /// The first of the lone surrogates that were replaced.
    pub surrogate: Option<u16>,
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl Visitor<'_> for TextVisitor {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Text, E> {
                Ok(Text::from_wtf8(bytes))
            }
        }

        // As bytes serde_json gives a lone surrogate in the place where it stands; as text it refuses it.
        deserializer.deserialize_bytes(TextVisitor)
    }
}

impl Text {
    /// Reads UTF-8 in which the three bytes of a surrogate may stand, as serde_json gives it.
    fn from_wtf8(mut bytes: &[u8]) -> Self {
        let mut read = Self::default();
        loop {
            match std::str::from_utf8(bytes) {
                Ok(rest) => {
                    read.text.push_str(rest);
                    return read;
                }
                Err(error) => {
                    let (valid, rest) = bytes.split_at(error.valid_up_to());
                    read.text.push_str(&String::from_utf8_lossy(valid));
                    read.text.push(char::REPLACEMENT_CHARACTER);
                    let &[_, second, third, ref after @ ..] = rest else {
                        return read;
                    };
                    let code = 0xd000 | u16::from(second & 0x3f) << 6 | u16::from(third & 0x3f);
                    read.surrogate.get_or_insert(code);
                    bytes = after;
                }
            }
        }
    }

    /// Title and text as one text, joined by `. `, or the one of the two that is not empty.
    pub fn titled(title: Self, text: Self) -> Self {
        Self {
            surrogate: title.surrogate.or(text.surrogate),
            text: match (title.text.is_empty(), text.text.is_empty()) {
                (false, false) => format!("{}. {}", title.text, text.text),
                (false, true) => title.text,
                (true, _) => text.text,
            },
        }
    }
}

/// Takes `null` for what is absent, where the key itself must be there.
pub(super) fn nullable<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + Default,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Hands each element of an array on.
struct Elements<'a, T, F> {
    each: F,
    builder: &'a mut CorpusBuilder,
    file: &'a FileLocation,
    element: &'a Cell<usize>,
    line: &'a Cell<usize>,
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
        while let Some((line, element)) =
            elements.next_element_seed(WithLine { line: self.line, of: PhantomData })?
        {
            let place = FileLocation { element: Some(self.element.get()), ..self.file.line(line) };
            (self.each)(self.builder, &place, element);
            self.element.set(self.element.get() + 1);
        }
        Ok(())
    }
}

/// Reads an element, with the line on which it begins: its first character has been read when the seed is used.
struct WithLine<'a, T> {
    line: &'a Cell<usize>,
    of: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for WithLine<'_, T> {
    type Value = (usize, T);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let line = self.line.get();
        Ok((line, T::deserialize(deserializer)?))
    }
}

/// Counts the lines that were read, from 1: serde_json tells its line only with an error, and takes bytes one by one.
struct CountedLines<'a, R> {
    bytes: BufReader<R>,
    line: &'a Cell<usize>,
}

impl<R: Read> Read for CountedLines<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // The way of nearly every byte.
        if let ([to], Some(&byte)) = (&mut *buffer, self.bytes.buffer().first()) {
            *to = byte;
            self.bytes.consume(1);
            self.line.set(self.line.get() + usize::from(byte == b'\n'));
            return Ok(1);
        }
        let count = self.bytes.read(buffer)?;
        self.line.set(self.line.get() + newlines(&buffer[..count]));
        Ok(count)
    }
}

/// serde's message without its position, which is told apart.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&position).unwrap_or(&text) {
        // Texts may have them (`Text`); an id that is repaired might be another's.
        "unexpected end of hex escape" | "lone leading surrogate in hex escape" => {
            "a lone surrogate (\\ud800 to \\udfff, half of a character) in an id".to_owned()
        }
        message => message.to_owned(),
    }
}

fn open(file: &Path, builder: &mut CorpusBuilder) -> Result<Utf8<Box<dyn BufRead>>, CorpusError> {
    builder.reads(file);
    let failed = |source| CorpusError::Read { file: file.to_path_buf(), source };
    let opened = File::open(file).map_err(failed)?;
    let kind = opened.metadata().map_err(failed)?.file_type();
    if kind.is_char_device() || kind.is_block_device() {
        // Some never end.
        return Err(failed(io::Error::other("it is a device")));
    }
    let mut plain = BufReader::with_capacity(BUFFER, opened);
    let beginning = plain.fill_buf().map_err(failed)?;
    if is_lfs_pointer(beginning) {
        return Err(CorpusError::LfsPointer { file: file.to_path_buf() });
    }
    let gzipped = beginning.starts_with(GZIP_MAGIC);
    let mut bytes: Box<dyn BufRead> = if gzipped {
        Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(plain)))
    } else {
        Box::new(plain)
    };
    if bytes.fill_buf().map_err(failed)?.starts_with(BYTE_ORDER_MARK) {
        bytes.consume(BYTE_ORDER_MARK.len());
    }
    Ok(Utf8 { bytes, line: 1, started: Vec::new() })
}

fn read_error(file: &Path, source: io::Error) -> CorpusError {
    let not_utf8 =
        source.get_ref().and_then(|inner| inner.downcast_ref::<NotUtf8>()).map(|inner| inner.line);
    match not_utf8 {
        Some(line) => CorpusError::NotUtf8 { file: file.to_path_buf(), line },
        None => CorpusError::Read { file: file.to_path_buf(), source },
    }
}

/// Passes bytes on and fails at the first that are not UTF-8, with their line: neither serde nor
/// `read_line` tells it.
struct Utf8<R> {
    bytes: R,
    /// Line of the next byte, from 1.
    line: usize,
    /// The first bytes of a character whose end has not been read yet.
    started: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
#[error("not UTF-8 in line {line}")]
struct NotUtf8 {
    line: usize,
}

impl<R: Read> Read for Utf8<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read(buffer)?;
        let wrong = |line| io::Error::new(io::ErrorKind::InvalidData, NotUtf8 { line });
        if count == 0 && !buffer.is_empty() && !self.started.is_empty() {
            return Err(wrong(self.line));
        }
        let mut rest = &buffer[..count];
        // A character cut by the end of the last buffer: complete it byte by byte.
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
