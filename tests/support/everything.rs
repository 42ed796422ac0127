//! What lies below a directory, to see that nothing of it was changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Everything below a directory: files with their content, links with where they lead, directories.
pub fn everything(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if let Ok(to) = fs::read_link(&path) {
            found.insert(path, to.to_str().unwrap().as_bytes().to_vec());
        } else if path.is_dir() {
            found.extend(everything(&path));
            found.insert(path, Vec::new());
        } else {
            let content = fs::read(&path).unwrap();
            found.insert(path, content);
        }
    }
    found
}
