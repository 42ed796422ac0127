//! Where the real collections are, when they are there.

use std::path::PathBuf;

/// The directory that holds `data/` and `tokenizer/`: `GENIR_TEST_COLLECTIONS`, or else `../shared`.
pub fn collections() -> Option<PathBuf> {
    let directory = std::env::var_os("GENIR_TEST_COLLECTIONS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    if directory.join("data").is_dir() && directory.join("tokenizer").is_dir() {
        return Some(directory);
    }
    eprintln!("skipped: the test collections are not here");
    None
}
