//! Opens files for reading: regular files only. Reading a pipe or socket can wait forever, and some devices never end.

use std::fs::{self, File, FileType};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Opens a regular file for reading; symbolic links are followed.
///
/// # Errors
/// [`ErrorKind::NotFound`] if the file is missing or a dangling symbolic link, [`ErrorKind::IsADirectory`] for a
/// directory, [`ErrorKind::InvalidInput`] for a pipe, a socket or a device, whose message names the type found;
/// otherwise the error of the operating system, such as a missing permission.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let found = fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound if path.is_symlink() => io::Error::new(
            ErrorKind::NotFound,
            "it is a symbolic link to a file that does not exist",
        ),
        _ => error,
    })?;
    // Before the file is opened: opening a pipe waits for its writer.
    if !found.is_file() {
        let kind = match found.is_dir() {
            true => ErrorKind::IsADirectory,
            false => ErrorKind::InvalidInput,
        };
        let is = type_in_words(found.file_type());
        return Err(io::Error::new(kind, format!("it is {is}; expected a regular file")));
    }
    File::open(path)
}

/// Reads all bytes of a regular file.
///
/// # Errors
/// Those of [`open_regular`], and those of reading.
pub(crate) fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads all text of a regular file.
///
/// # Errors
/// Those of [`open_regular`], and those of reading; [`ErrorKind::InvalidData`] if the content is not valid UTF-8.
pub(crate) fn read_regular_to_string(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open_regular(path)?.read_to_string(&mut text)?;
    Ok(text)
}

fn type_in_words(found: FileType) -> &'static str {
    if found.is_dir() {
        "a directory"
    } else if found.is_fifo() {
        "a named pipe"
    } else if found.is_socket() {
        "a socket"
    } else if found.is_char_device() || found.is_block_device() {
        "a device"
    } else {
        "not a regular file"
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_regular_files_are_opened_and_others_named_by_type_without_waiting() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::write(at("file"), "text").unwrap();
        symlink("file", at("link")).unwrap();
        for name in ["file", "link"] {
            assert_eq!(read_regular_to_string(&at(name)).unwrap(), "text");
            assert_eq!(read_regular(&at(name)).unwrap(), b"text");
        }

        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::RUSR).unwrap();
        symlink("pipe", at("link to a pipe")).unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        symlink("gone", at("dangling")).unwrap();
        for (path, kind, words) in [
            (at("pipe"), ErrorKind::InvalidInput, "it is a named pipe; expected a regular file"),
            (at("link to a pipe"), ErrorKind::InvalidInput, "it is a named pipe"),
            (at("socket"), ErrorKind::InvalidInput, "it is a socket"),
            ("/dev/zero".into(), ErrorKind::InvalidInput, "it is a device"),
            (at("directory"), ErrorKind::IsADirectory, "it is a directory"),
            (at("dangling"), ErrorKind::NotFound, "a symbolic link to a file that does not exist"),
            (at("missing"), ErrorKind::NotFound, "No such file"),
        ] {
            let error = open_regular(&path).expect_err("not a regular file");
            assert_eq!(error.kind(), kind, "{}", path.display());
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
