//! One file from the hub into the cache, made sure of where the hub's library is not.

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiError};
use hf_hub::{Cache, Repo};
use indicatif::ProgressBar;

/// How often a file is tried; each attempt goes on where the one before was cut.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// Why a file did not come.
pub(super) enum DownloadError {
    /// What the hub's library says.
    Api(ApiError),
    /// Not as many bytes came as were announced.
    Size { found: u64, expected: u64 },
}

impl From<ApiError> for DownloadError {
    fn from(error: ApiError) -> Self {
        DownloadError::Api(error)
    }
}

/// Fetches `file` of `repo` into the cache. A transfer that is cut is taken up again.
pub(super) fn download(
    api: &Api,
    repo: &Repo,
    cache: &Cache,
    file: &str,
) -> Result<(), DownloadError> {
    let remote = api.repo(repo.clone());
    let announced = Rc::new(Cell::new(0));
    let mut attempt = 1;
    let path = loop {
        let watch = Watch { bar: ProgressBar::new(0), announced: Rc::clone(&announced) };
        // The library can try again itself, but then adds to a part that it believes to be empty.
        match remote.download_with_progress(file, watch) {
            Ok(path) => break path,
            Err(error) if attempt < ATTEMPTS && cannot_go_on(&error) => {
                let etag = api.metadata(&remote.url(file))?.etag().to_owned();
                let part = cache.repo(repo.clone()).blob_path(&etag).with_extension("part");
                fs::remove_file(part).map_err(ApiError::from)?;
            }
            Err(error) if attempt < ATTEMPTS && may_pass(&error) => thread::sleep(PAUSE * attempt),
            Err(error) => return Err(error.into()),
        }
        attempt += 1;
    };
    let found = fs::metadata(&path).map_err(ApiError::from)?.len();
    let expected = announced.get();
    if found != expected {
        remove(&path).map_err(ApiError::from)?;
        return Err(DownloadError::Size { found, expected });
    }
    Ok(())
}

/// The part of the file that an earlier attempt left is whole (416: nothing can come after it) or too long.
fn cannot_go_on(error: &ApiError) -> bool {
    matches!(error, ApiError::InvalidResume) || status(error) == Some(416)
}

/// Whether trying again can help: the connection was cut, or the hub is busy.
fn may_pass(error: &ApiError) -> bool {
    match status(error) {
        Some(status) => status == 429 || status >= 500,
        None => matches!(error, ApiError::IoError(_) | ApiError::RequestError(_)),
    }
}

/// Removes a file of a snapshot and what it links to.
fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path.canonicalize()?)?;
    // Where there are no links, this was the file itself.
    if path.is_symlink() { fs::remove_file(path) } else { Ok(()) }
}

/// The HTTP status that a request failed with.
pub(super) fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        _ => None,
    }
}

/// Draws the progress (on a terminal) and keeps the size that the hub announces, in bytes.
struct Watch {
    bar: ProgressBar,
    announced: Rc<Cell<u64>>,
}

impl Progress for Watch {
    fn init(&mut self, size: usize, file: &str) {
        self.announced.set(size as u64);
        Progress::init(&mut self.bar, size, file);
    }

    fn update(&mut self, bytes: usize) {
        Progress::update(&mut self.bar, bytes);
    }

    fn finish(&mut self) {
        Progress::finish(&mut self.bar);
    }
}
