//! Opens files for reading: regular files only. Reading a pipe or socket can wait forever, and some devices never end.
//! Files that are read as a whole have a largest size: one that is larger was put there by mistake, and could take all
//! memory.

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

/// Bytes of the largest file that is read as a whole: the tokenizer of a hundred million docids has fewer.
const LARGEST: u64 = 2 << 30;

/// Bytes of the largest recipe, and of the largest configuration of a model.
const LARGEST_SMALL: u64 = 64 << 20;

/// Reads all bytes of a regular file.
///
/// # Errors
/// Those of [`open_regular`], and those of reading; [`ErrorKind::FileTooLarge`] from [`LARGEST`] on.
pub(crate) fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_at_most(path, LARGEST)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads all text of a regular file.
///
/// # Errors
/// Those of [`read_regular`]; [`ErrorKind::InvalidData`] if the content is not valid UTF-8.
pub(crate) fn read_regular_to_string(path: &Path) -> io::Result<String> {
    read_text(path, LARGEST)
}

/// Reads all text of a regular file that is small, such as a recipe or `config.json`.
///
/// # Errors
/// Those of [`read_regular_to_string`]; the largest size is [`LARGEST_SMALL`].
pub(crate) fn read_small_to_string(path: &Path) -> io::Result<String> {
    read_text(path, LARGEST_SMALL)
}

fn read_text(path: &Path, largest: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    open_at_most(path, largest)?.read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count();
        let found = format!("line {line} is not valid UTF-8; convert the file to UTF-8");
        io::Error::new(ErrorKind::InvalidData, found)
    })
}

/// Opens a regular file of at most `largest` bytes. What is added to it afterwards is not read.
fn open_at_most(path: &Path, largest: u64) -> io::Result<impl Read> {
    let file = open_regular(path)?;
    let size = file.metadata()?.len();
    if size > largest {
        let (size, largest) = (size >> 20, largest >> 20);
        let found = format!("it has {size} MiB; expected at most {largest} MiB");
        return Err(io::Error::new(ErrorKind::FileTooLarge, found));
    }
    Ok(file.take(size))
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

    #[test]
    fn a_file_that_is_too_large_and_one_that_is_not_utf_8_are_told() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs::write(&file, b"one\ntwo \xff").unwrap();
        let error = read_regular_to_string(&file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().starts_with("line 2 is not valid UTF-8"), "{error}");
        File::options().write(true).open(&file).unwrap().set_len(100 << 20).unwrap();
        let error = read_small_to_string(&file).unwrap_err().to_string();
        assert_eq!(error, "it has 100 MiB; expected at most 64 MiB");
        assert_eq!(read_regular(&file).unwrap().len(), 100 << 20);
        File::options().write(true).open(&file).unwrap().set_len(1 << 40).unwrap();
        for error in [read_regular(&file).unwrap_err(), read_regular_to_string(&file).unwrap_err()]
        {
            assert_eq!(error.to_string(), "it has 1048576 MiB; expected at most 2048 MiB");
        }
    }
}
