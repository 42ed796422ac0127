//! Reading files of a corpus: plain or gzip, checked for UTF-8, element by element.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, SeqAccess, Visitor};

use super::error::{CorpusError, Place, Problem};

const BUFFER: usize = 1 << 16;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const BYTE_ORDER_MARK: &[u8] = &[0xef, 0xbb, 0xbf];

/// `name` in `directory`, or else `name.gz`, when there is such a file.
pub(super) fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    [directory.join(name), directory.join(format!("{name}.gz"))]
        .into_iter()
        .find(|path| path.is_file())
}

/// Reads a file that is one JSON array, holding one element at a time.
///
/// `right` is an example of a right element, for the message when one is not.
pub(super) fn array<T: DeserializeOwned>(
    file: &Path,
    right: &'static str,
    each: impl FnMut(T) -> Result<(), Problem>,
) -> Result<(), CorpusError> {
    let element = Cell::new(0);
    let mut refused = None;
    let mut deserializer =
        serde_json::Deserializer::from_reader(BufReader::with_capacity(BUFFER, open(file)?));
    let read = deserializer
        .deserialize_seq(Elements {
            each,
            element: &element,
            refused: &mut refused,
            of: std::marker::PhantomData,
        })
        .and_then(|()| deserializer.end());
    let Err(error) = read else {
        return Ok(());
    };
    if error.is_io() {
        return Err(read_error(file, error.into()));
    }
    Err(CorpusError::At {
        place: Box::new(Place {
            file: file.to_path_buf(),
            element: Some(element.get()),
            line: Some(error.line()),
            column: Some(error.column()),
        }),
        problem: refused.unwrap_or_else(|| Problem::Malformed { found: message(&error), right }),
    })
}

/// Reads a file of one JSON object a line; blank lines are passed over. `each` gets the line's number.
pub(super) fn json_lines<T: DeserializeOwned>(
    file: &Path,
    right: &'static str,
    mut each: impl FnMut(usize, T) -> Result<(), Problem>,
) -> Result<(), CorpusError> {
    lines(file, |number, line| {
        let element = serde_json::from_str(line).map_err(|error| Problem::Malformed {
            found: format!(
                "{} at column {} of `{}`",
                message(&error),
                error.column(),
                beginning(line)
            ),
            right,
        })?;
        each(number, element)
    })
}

/// Reads a text file line by line, without line ends; blank lines are passed over.
pub(super) fn lines(
    file: &Path,
    mut each: impl FnMut(usize, &str) -> Result<(), Problem>,
) -> Result<(), CorpusError> {
    let mut reader = BufReader::with_capacity(BUFFER, open(file)?);
    let mut line = String::new();
    let mut number = 0;
    loop {
        line.clear();
        number += 1;
        let read = reader.read_line(&mut line).map_err(|error| read_error(file, error))?;
        if read == 0 {
            return Ok(());
        }
        let text = line.trim_end_matches(['\n', '\r']);
        if !text.trim().is_empty() {
            each(number, text).map_err(|problem| CorpusError::At {
                place: Box::new(Place::line(file, number)),
                problem,
            })?;
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

/// Hands each element of an array on; what `each` refuses is kept in `refused`, because serde's own
/// error can carry text only.
struct Elements<'a, T, F> {
    each: F,
    element: &'a Cell<usize>,
    refused: &'a mut Option<Problem>,
    of: std::marker::PhantomData<T>,
}

impl<'de, T: DeserializeOwned, F: FnMut(T) -> Result<(), Problem>> Visitor<'de>
    for Elements<'_, T, F>
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element()? {
            if let Err(problem) = (self.each)(element) {
                *self.refused = Some(problem);
                return Err(A::Error::custom("refused"));
            }
            self.element.set(self.element.get() + 1);
        }
        Ok(())
    }
}

/// serde's message without its position, which is told apart.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).unwrap_or(&text).to_owned()
}

fn open(file: &Path) -> Result<Utf8<Box<dyn BufRead>>, CorpusError> {
    let failed = |source| CorpusError::Read { file: file.to_path_buf(), source };
    let mut plain = BufReader::with_capacity(BUFFER, File::open(file).map_err(failed)?);
    let gzipped = plain.fill_buf().map_err(failed)?.starts_with(GZIP_MAGIC);
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
