//! The file of a stored prefix: written sequentially, verified completely when it is opened, then memory-mapped.
//!
//! ```text
//! magic 8 bytes | version u32 | type u32 | key 32 bytes | texts u64 | rows u64 | width u64
//! row offset of each text, u64; one more for the end
//! zeros up to a multiple of 64
//! rows of `width` values, text after text
//! BLAKE3 of each MiB of the rows, 32 bytes each
//! BLAKE3 of all but the rows, 32 bytes
//! ```
//!
//! All numbers are little-endian.

use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use rayon::prelude::*;

use super::key::{BLOCK, Key, VERSION, digests};
use super::{CacheError, Element};
use crate::files::{FileError, open_regular};

const MAGIC: &[u8; 8] = b"GENIRPFX";
const ALIGNED: usize = 64;
const DIGEST: usize = size_of::<Key>();
/// Bytes of rows that are checked or copied before their mapped pages are released, a multiple of a block.
const PART: usize = 16 * BLOCK;

/// The expected contents of a file.
pub(super) struct Contents<'a> {
    pub key: Key,
    pub element: Element,
    /// See [`super::texts::Texts::starts`].
    pub starts: &'a [u64],
    /// Values per row.
    pub width: usize,
}

/// A verified, memory-mapped file.
pub(super) struct Mapped {
    map: Mmap,
    rows: Range<usize>,
}

impl Mapped {
    /// The bytes of all rows.
    pub fn rows(&self) -> &[u8] {
        &self.map[self.rows.clone()]
    }

    /// Copies the bytes of all rows to memory; at most [`PART`] mapped bytes are resident at the same time.
    pub fn into_memory(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.rows.len());
        for start in self.rows.clone().step_by(PART) {
            let part = start..self.rows.end.min(start + PART);
            bytes.extend_from_slice(&self.map[part.clone()]);
            self.release_pages(part);
        }
        bytes
    }

    /// Releases the mapped pages of `range`. Reading them again reads the file, which the system may still have in its
    /// page cache.
    fn release_pages(&self, range: Range<usize>) {
        #[cfg(unix)]
        {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is that of a file, only read: what is read again is what was there. A system that
            // refuses keeps the pages, which costs memory and nothing else.
            let _ = unsafe { self.map.unchecked_advise_range(advice, range.start, range.len()) };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl Contents<'_> {
    /// Bytes of all rows.
    pub fn row_bytes(&self) -> u64 {
        self.rows() * (self.width * self.element.size()) as u64
    }

    fn rows(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Bytes of the whole file.
    fn bytes(&self) -> u64 {
        let checksums = (self.row_bytes() as usize).div_ceil(BLOCK) * DIGEST + DIGEST;
        (self.head().len() + checksums) as u64 + self.row_bytes()
    }

    /// The bytes before the rows.
    fn head(&self) -> Vec<u8> {
        let mut head = MAGIC.to_vec();
        head.extend(VERSION.to_le_bytes());
        head.extend(self.element.number().to_le_bytes());
        head.extend(self.key);
        let sizes = [self.starts.len() as u64 - 1, self.rows(), self.width as u64];
        head.extend(sizes.iter().chain(self.starts).flat_map(|number| number.to_le_bytes()));
        head.resize(head.len().next_multiple_of(ALIGNED), 0);
        head
    }

    /// Writes a file: `fill` passes the bytes of all rows, in order, to its argument.
    pub fn write(
        &self,
        file: &mut impl Write,
        fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), CacheError>,
        failed: impl Fn(io::Error) -> CacheError,
    ) -> Result<(), CacheError> {
        let mut rest = self.head();
        file.write_all(&rest).map_err(&failed)?;
        // What was written of the newest block.
        let (mut block, mut filled) = (blake3::Hasher::new(), 0);
        let mut written: u64 = 0;
        fill(&mut |mut bytes| {
            file.write_all(bytes)?;
            written += bytes.len() as u64;
            while !bytes.is_empty() {
                let (now, later) = bytes.split_at(bytes.len().min(BLOCK - filled));
                block.update(now);
                filled += now.len();
                bytes = later;
                if filled == BLOCK {
                    rest.extend(block.finalize().as_bytes());
                    block.reset();
                    filled = 0;
                }
            }
            Ok(())
        })?;
        if written != self.row_bytes() {
            let message = format!("{written} bytes of rows, expected {}", self.row_bytes());
            return Err(failed(io::Error::other(message)));
        }
        if filled > 0 {
            rest.extend(block.finalize().as_bytes());
        }
        let head = self.head().len();
        file.write_all(&rest[head..]).map_err(&failed)?;
        file.write_all(blake3::hash(&rest).as_bytes()).map_err(&failed)
    }

    /// Opens a file and checks all of it.
    ///
    /// # Errors
    /// It is not there, cannot be read, or is not exactly what it should be.
    pub fn open(&self, path: &Path) -> Result<Mapped, CacheError> {
        let read = |error| CacheError::File(FileError::new("read", path)(error));
        let file = open_regular(path).map_err(read)?;
        let length = file.metadata().map_err(read)?.len();
        // Before it is mapped: what is much too long could be more than a process can map.
        if length > self.bytes() {
            return Err(CacheError::Length {
                file: path.to_owned(),
                found: length,
                expected: self.bytes(),
            });
        }
        // SAFETY: genir never writes to a file of this name: it renames a whole one to it.
        let map = unsafe { Mmap::map(&file) }.map_err(read)?;
        self.check_head(path, &map)?;
        let head = self.head();
        let rows = head.len()..head.len() + self.row_bytes() as usize;
        let (stored, root) = map[rows.end..].split_at(map.len() - rows.end - DIGEST);
        let damaged = |part: String| CacheError::Checksum { file: path.to_owned(), part };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&map[..rows.start]).update(stored);
        if hasher.finalize().as_bytes() != root || map[..rows.start] != head {
            return Err(damaged("its index".to_owned()));
        }
        let stored = stored.to_vec();
        let mapped = Mapped { map, rows };
        for start in mapped.rows.clone().step_by(PART) {
            let part = start..mapped.rows.end.min(start + PART);
            let first = (start - mapped.rows.start) / BLOCK;
            let blocks = mapped.map[part.clone()].par_chunks(BLOCK);
            let blocks = blocks.zip(stored[first * DIGEST..].par_chunks(DIGEST));
            if let Some(at) = blocks.position_first(|(block, stored)| digests(block)[0] != stored) {
                let start = start + at * BLOCK;
                let end = part.end.min(start + BLOCK) - 1;
                return Err(damaged(format!("bytes {start} to {end}")));
            }
            mapped.release_pages(part);
        }
        Ok(mapped)
    }

    /// Checks that a file has the length and the header of these contents.
    fn check_head(&self, path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
        let file = || PathBuf::from(path);
        let start = &bytes[..bytes.len().min(MAGIC.len())];
        if start != MAGIC {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            return Err(CacheError::Magic {
                file: file(),
                found: text(start),
                expected: text(MAGIC),
            });
        }
        let expected = self.bytes();
        let field = |field, found: String, expected: String| {
            Err(CacheError::Header { file: file(), field, found, expected })
        };
        let number = |at: usize| {
            let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u32::from_le_bytes)
        };
        match (number(8), number(12)) {
            (Some(version), _) if version != VERSION => {
                return field("version", version.to_string(), VERSION.to_string());
            }
            (_, Some(element)) if element != self.element.number() => {
                return field("type", element.to_string(), self.element.number().to_string());
            }
            _ => {}
        }
        if bytes.get(16..16 + DIGEST).is_some_and(|key| key != self.key) {
            let hex = |key: &[u8]| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            return field("key", hex(&bytes[16..16 + DIGEST]), hex(&self.key));
        }
        if bytes.len() as u64 != expected {
            let found = bytes.len() as u64;
            return Err(CacheError::Length { file: file(), found, expected });
        }
        Ok(())
    }
}
