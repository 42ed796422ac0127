//! Where the bytes of a safetensors file come from.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::os::unix::fs::FileExt;

use memmap2::{Mmap, MmapOptions};

/// A file on disk, or one that is compiled into the program.
#[derive(Debug)]
pub(super) enum Source {
    File(File),
    Bundled(&'static [u8]),
}

/// Some bytes of a source.
pub(super) enum Bytes {
    Mapped(Mmap),
    Bundled(&'static [u8]),
}

impl Source {
    /// Size in bytes.
    pub fn len(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => Ok(file.metadata()?.len()),
            Self::Bundled(bytes) => Ok(bytes.len() as u64),
        }
    }

    /// Copies the bytes from `start` on.
    pub fn read_at(&self, to: &mut [u8], start: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(to, start),
            Self::Bundled(_) => {
                to.copy_from_slice(&self.bytes(start as usize..start as usize + to.len())?);
                Ok(())
            }
        }
    }

    /// Returns some bytes; those of a file are mapped.
    pub fn bytes(&self, bytes: Range<usize>) -> io::Result<Bytes> {
        match self {
            Self::File(file) => {
                let mut options = MmapOptions::new();
                options.offset(bytes.start as u64).len(bytes.len());
                // SAFETY: the map is read-only and private. As for every reader of safetensors files, a file cut short
                // by another process while it is mapped ends this one; checkpoints are written whole and renamed into
                // place, never changed afterwards.
                unsafe { options.map(file) }.map(Bytes::Mapped)
            }
            Self::Bundled(all) => {
                all.get(bytes).map(Bytes::Bundled).ok_or(io::ErrorKind::UnexpectedEof.into())
            }
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Bundled(bytes) => bytes,
        }
    }
}
